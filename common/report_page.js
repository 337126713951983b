// The report page: filter by verdict and rung, open what a link points at, copy a command.
const all = (selector) => [...document.querySelectorAll(selector)];
const form = document.querySelector('.filters');
function filter() {
  const on = (name) => new Set(all(`input[name=${name}]:checked`).map((box) => box.value));
  const verdicts = on('verdict'), rungs = on('rung');
  for (const item of all('[data-verdict]'))
    item.hidden = !(verdicts.has(item.dataset.verdict) && rungs.has(item.dataset.rung));
  const claims = all('details.claim'), shown = claims.filter((claim) => !claim.hidden);
  form.querySelector('output').textContent = `${shown.length} of ${claims.length} claims`;
}
form.addEventListener('change', filter);
form.addEventListener('submit', (event) => event.preventDefault());
form.addEventListener('reset', () => setTimeout(filter));
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target || target.tagName !== 'DETAILS') return;
  target.open = true;
  target.scrollIntoView();
  target.querySelector('summary').focus({preventScroll: true});
}
addEventListener('hashchange', open);
for (const tile of all('.tile'))
  tile.addEventListener('click', () => { if (tile.hash === location.hash) open(); });
async function copy(button) {
  const text = button.dataset.copy;
  try { await navigator.clipboard.writeText(text); }
  catch {
    const area = document.body.appendChild(document.createElement('textarea'));
    area.value = text;
    area.select();
    document.execCommand('copy');
    area.remove();
    button.focus();
  }
  button.textContent = 'copied';
  setTimeout(() => { button.textContent = 'copy'; }, 1500);
}
for (const button of all('.copy')) button.addEventListener('click', () => copy(button));
filter();
open();
