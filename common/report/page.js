// The report page: filters and search, links into drawers and back, Escape, copying, printing. Reading needs none of it.
'use strict';
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const form = document.querySelector('.filters'), spoken = document.querySelector('.status');
const claims = all('details.claim'), groups = ['paper', 'verdict', 'kind', 'rung'];
const drawerOf = (claim) => claim.querySelector('.drawer');
const tileOf = new Map(all('.tile').map((tile) => [decodeURIComponent(tile.hash.slice(1)), tile]));
const searched = new Map(claims.map((claim) => {  // all that a claim says, less the record as JSON
  const facts = all('.reason, .facts td, dd', claim), words = [claim.querySelector('summary'), ...facts];
  return [claim, [drawerOf(claim).id, ...words.map((part) => part.textContent)].join(' ').toLowerCase()];
}));

// ---- filters: within a group any of the checked, all groups together; a count is what its box would narrow to
function filter() {
  const boxes = all('input[type=checkbox]', form), counts = new Map(boxes.map((box) => [box, 0]));
  const chosen = (name) => boxes.filter((box) => box.name === name && box.checked).map((box) => box.value);
  const wanted = Object.fromEntries(groups.map((name) => [name, chosen(name)]));
  const words = form.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const claim of claims) {
    const found = words.every((word) => searched.get(claim).includes(word));
    const fails = groups.filter((name) => wanted[name].length && !wanted[name].includes(claim.dataset[name]));
    claim.hidden = !found || fails.length > 0;
    tileOf.get(drawerOf(claim).id).hidden = claim.hidden;
    shown += !claim.hidden;
    for (const box of boxes)
      if (found && claim.dataset[box.name] === box.value && fails.every((name) => name === box.name))
        counts.set(box, counts.get(box) + 1);
  }
  for (const [box, count] of counts) {
    box.parentElement.querySelector('.count').textContent = count;
    box.parentElement.classList.toggle('nothing', count === 0);
  }
  const filtered = shown < claims.length;
  for (const part of all('.one-paper'))
    part.hidden = filtered && !claims.some((claim) => !claim.hidden && claim.dataset.paper === part.dataset.of);
  for (const none of all('.none')) none.hidden = all('.tile:not([hidden])', none.parentElement).length > 0;
  form.querySelector('.empty').hidden = shown > 0 || claims.length === 0;
  form.querySelector('output').textContent = `${shown} of ${claims.length} claims`;
}
form.addEventListener('input', filter);
form.addEventListener('submit', (event) => event.preventDefault());
form.addEventListener('reset', () => setTimeout(filter));

// ---- links: the claim that a link opened closes again when one goes back, and focus returns to the link
let linked = null, opener = null, last = null;
function named() {
  try { return document.getElementById(decodeURIComponent(location.hash.slice(1))); } catch { return null; }
}
function arrive() {
  const claim = named()?.closest('details.claim') ?? null, before = linked;
  if (linked && linked !== claim) linked.open = false;
  linked = claim;
  if (claim) {
    if (claim.hidden) { form.reset(); filter(); }
    claim.open = true;
    const line = claim.querySelector('summary');
    line.focus({preventScroll: true});
    line.scrollIntoView();
  } else if (before && opener) opener.focus({preventScroll: true});
}
addEventListener('hashchange', arrive);
addEventListener('click', (event) => {
  const link = event.target.closest?.('a[href^="#"]');
  if (!link) return;
  if (!link.closest('.drawer')) opener = link;
  if (link.hash === location.hash) arrive();
});

// ---- Escape closes the innermost that is open where one reads, and gives focus back
document.addEventListener('toggle', (event) => { if (event.target.open) last = event.target; }, true);
addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  const active = document.activeElement;
  const open = active === document.body ? last : active.closest('details[open]');
  if (!open?.open) return;
  open.open = false;
  const back = open === linked && opener?.isConnected && !opener.hidden ? opener : open.querySelector('summary');
  if (open === linked) {
    linked = null;
    history.replaceState(null, '', location.pathname + location.search);
  }
  back.focus();
});

// ---- copying: the clipboard where the browser allows it, else the old command
async function copy(button) {
  const text = button.dataset.copy;
  let done = true;
  try { await navigator.clipboard.writeText(text); }
  catch {
    const area = document.body.appendChild(document.createElement('textarea'));
    area.value = text;
    area.select();
    done = document.execCommand('copy');
    area.remove();
    button.focus();
  }
  button.textContent = done ? 'copied' : 'not allowed here';
  spoken.textContent = done ? `copied: ${text}` : 'the browser does not allow copying here';
  setTimeout(() => { button.textContent = 'copy'; }, 1500);
}
for (const button of all('.copy')) button.addEventListener('click', () => copy(button));

// ---- a printer gets every drawer, without the raw records
let closed = [];
addEventListener('beforeprint', () => {
  closed = all('details.claim:not([open]), details.all:not([open])');
  for (const part of closed) part.open = true;
});
addEventListener('afterprint', () => { for (const part of closed) part.open = false; });

form.hidden = false;
filter();
arrive();
