"""The report in a real browser: Debian's Chromium, driven by clicking and typing, without a network.

Two pages: the one that the committed records give, from its file, as a reader opens it; and a made-up paper with every
word and every flag, and text that tries to be markup, from a server on this machine that counts what is asked of it.
One browser for all tests; after each its console must be empty. Without Chromium the tests are skipped, but not where
the environment variable CI is set.
"""

import base64
import functools
import http.server
import json
import os
import shutil
import threading
import urllib.parse

import pytest

from common.claims.records import load_claims, make_record, write_record
from common.claims.rules import WORDS
from common.report.page import page
from common.report.papers import read_papers
from common.report.rows import anchors
from common.report.words import MEANING
from tests.sample_records import RUN, claim, headline, held, one, write

EVIL = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>\"'><b>& `*_\\"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,900"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    lost = [name for name, path in paths.items() if path is None]
    if lost:
        said = f"{' and '.join(lost)} not on the PATH (Debian: apt-get install chromium chromium-driver)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(said)
    from selenium import webdriver  # both paths are given, so Selenium Manager never looks for one

    options = webdriver.ChromeOptions()
    options.binary_location = paths["chromium"]
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_argument("--no-proxy-server")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):  # a proxy that the machine names is not for talking to this machine
            patch.setenv(name, "localhost,127.0.0.1")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(paths["chromedriver"]))
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The address of the page of the committed records, as a file."""
    path = tmp_path_factory.mktemp("committed") / "report.html"
    path.write_text(page(read_papers()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The made-up paper's folder: C1 to C9 are the words in their order, then what counts as nothing."""
    small = {"paper": None}
    up = {**held([0.3, 0.31, 0.32]), "baselines": {"random": 0.125}}
    root = write(
        tmp_path_factory.mktemp("demo"),
        ({**claim("equals", paper=524416), "statement": EVIL, "where": EVIL}, one(524416)),
        (claim("above", "cpu-small", **small), {**up, "details": {EVIL: EVIL}}),
        (claim("equals", "analytic", paper=524416), one(524416)),
        (claim(), one(50.0)),
        (claim("above", "cpu-small", **small), held([-3.0, -3.1, -3.2])),
        (claim("equals", "analytic", paper=524416), one(524417)),
        (claim("above", "cpu-small", kind="ours", **small), held([-1.0, 0.5, 1.0])),
        (claim(blocked_by=["weights"]), None),
        (claim(status="not-checkable", paper=None), None),
        (claim(), one(101.0)), (claim(), one(101.0)), (claim(), one(101.0)),
        headlines=[headline("C2", "C8", short=EVIL, needs=EVIL), headline("C1", number=2, statement=EVIL)],
    )  # fmt: skip
    folder = root / "papers/demo"
    claims, results = load_claims(folder / "claims.yaml"), folder / "results"
    stale = {**claims.find("C10"), "statement": "It worked."}
    write_record(make_record(stale, claims.sha256, one(101.0), RUN, seeds=[0]), results)
    (results / "C11.paper-scale.json").write_text("{")  # invalid
    older = RUN | {"sources": {"experiment": "lost", "sha256": "0" * 64}}
    write_record(make_record(claims.find("C12"), claims.sha256, one(101.0), older, seeds=[0]), results)
    write_record(make_record(claim(id="demo/C13"), claims.sha256, one(101.0), RUN, seeds=[0]), results)  # unlisted
    dirty = {**RUN, "dirty": True}
    write_record(make_record(claims.find("C1"), claims.sha256, one(524416), dirty, seeds=[0]), results / ".scratch")
    (results / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><script>parent.pwned = 1</script></svg>'
    )
    rows = {"dense": {"times": [0.2, 0.3], "flops": 4}, EVIL: {"times": [0.1, 0.1], "flops": 1}}
    document = {"device": "cpu", "dtype": "float32", "cases": {EVIL: {"variants": rows}}}
    (results / "measurements.cpu-small.json").write_text(json.dumps(document))
    (root / "report.html").write_text(page(read_papers(root, scratch=True)), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def server(demo):
    """(address of the made-up page, list of the paths asked for)."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            asked.append(self.path)

        def end_headers(self):
            self.send_header("Cache-Control", "no-store")
            super().end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=demo)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/report.html", asked
        running.shutdown()


@pytest.fixture
def browser(driver):
    """The driver, at a desktop's width; afterwards its console must be empty."""
    driver.get_log("browser"), driver.get_log("performance")
    yield driver
    for command in ("Emulation.clearDeviceMetricsOverride", "Emulation.setEmulatedMedia"):
        driver.execute_cdp_cmd(command, {})
    assert driver.get_log("browser") == []


def opened(browser, address):
    """The page anew: a change of the fragment alone would not load it again."""
    browser.get("about:blank")
    browser.get(address)
    return browser


def find(browser, css):
    return browser.find_element("css selector", css)


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def drawer(browser, anchor):
    """The <details> of the claim that a link names."""
    script = "return document.getElementById(arguments[0]).closest('details')"
    return browser.execute_script(script, anchor)


def shown(browser, css="details.claim"):
    return browser.execute_script("return [...document.querySelectorAll(arguments[0])].filter(e => !e.hidden).length", css)


def wait(browser, script, *arguments):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 30, poll_frequency=0.02).until(lambda b: b.execute_script(script, *arguments))


def focused(browser, element):
    return browser.execute_script("return document.activeElement === arguments[0]", element)


# ------------------------------------------------------------------------------------------ links


def test_every_link_leads_to_what_it_names(browser, committed, server):
    follow = """
        const done = arguments[0], wrong = [];
        const arrived = () => new Promise((then) => addEventListener('hashchange', then, {once: true}));
        (async () => {
          const links = [...document.querySelectorAll('a[href^="#"]')];
          for (const [i, link] of links.entries()) {
            if (links.length > 200 && i % 50) continue;  // every link of the small page, one in fifty of the whole tree's
            if (link.className === 'here') {  // a drawer's link to itself
              if (link.closest('.drawer').id !== decodeURIComponent(link.hash.slice(1))) wrong.push(link.hash);
              continue;
            }
            const there = link.hash === location.hash ? null : arrived();
            link.click();
            await there;
            const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
            const claim = target?.closest('details.claim'), part = claim?.querySelector('summary') ?? target;
            const top = part?.getBoundingClientRect().top ?? -1e9;
            const atEnd = scrollY + innerHeight > document.documentElement.scrollHeight - 2;
            const right = claim ? claim.open && document.activeElement === part : target;
            const only = document.querySelectorAll('details.claim[open]').length === (claim ? 1 : 0);
            if (!right || !only || top < -2 || (top > innerHeight / 2 && !atEnd)) wrong.push(link.hash);
          }
          done([document.querySelectorAll('.tile').length, wrong]);
        })();"""
    small = {"width": 600, "height": 300, "deviceScaleFactor": 1, "mobile": False}  # less to paint, hundreds of times
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", small)
    browser.set_script_timeout(400)  # five papers have hundreds of links, and every one opens and closes a drawer of the whole page
    papers = read_papers()
    assert opened(browser, committed).execute_async_script(follow) == [sum(len(p.rows) for p in papers), []]
    assert opened(browser, server[0]).execute_async_script(follow) == [14, []]
    anchor = anchors(papers[0].rows)[3]
    assert opened(browser, f"{committed}#{anchor}") and drawer(browser, anchor).get_attribute("open")
    assert not opened(browser, f"{committed}#%E0%A4%A").find_elements("css selector", "details.claim[open]")
    assert shown(browser) == sum(len(p.rows) for p in papers)  # a broken link stops nothing


def test_back_and_forward_close_and_open(browser, server):
    opened(browser, server[0])
    first, second = (find(browser, f".tile[href='#demo/C{i}']") for i in (2, 3))
    first.click()
    wait(browser, "return arguments[0].open", drawer(browser, "demo/C2"))
    second.click()
    wait(browser, "return arguments[0].open && !arguments[1].open", drawer(browser, "demo/C3"), drawer(browser, "demo/C2"))
    browser.back()
    wait(browser, "return arguments[0].open && !arguments[1].open", drawer(browser, "demo/C2"), drawer(browser, "demo/C3"))
    browser.back()
    wait(browser, "return !location.hash && !document.querySelector('details.claim[open]')")
    browser.forward()
    wait(browser, "return arguments[0].open", drawer(browser, "demo/C2"))


# ---------------------------------------------------------------------------------------- filters


def count_of(browser, box):
    return int(browser.execute_script("return arguments[0].parentElement.querySelector('.count').textContent", box))


def test_every_filter_narrows_to_the_count_that_it_announces(browser, committed, server):
    seen = """
        const shown = (css) => [...document.querySelectorAll(css)].filter((e) => !e.hidden), box = arguments[0];
        return [shown('details.claim').length, shown('.tile').length, document.querySelector('output').textContent,
                shown('details.claim').every((claim) => claim.dataset[box.name] === box.value)];"""
    small = {"width": 1280, "height": 200, "deviceScaleFactor": 1, "mobile": False}  # less to paint
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", small)
    for address in (committed, server[0]):
        total = shown(opened(browser, address))
        boxes = browser.find_elements("css selector", ".filters input[type=checkbox]")
        labels = "return arguments[0].map((b) => [b.name, b.value, +b.parentElement.querySelector('.count').textContent])"
        announced = browser.execute_script(labels, boxes)
        firsts = [[name for name, _, _ in announced].index(name) for name in dict.fromkeys(name for name, _, _ in announced)]
        for number, (box, (_, _, count)) in enumerate(zip(boxes, announced)):
            # The page of the whole tree takes long to paint: there script clicks the first box of each group, on the small page the
            # mouse clicks all of them.
            if address == committed and number not in firsts:
                continue
            click = functools.partial(browser.execute_script, "arguments[0].click()", box) if address == committed else box.click
            click()
            assert browser.execute_script(seen, box) == [count, count, f"{count} of {total} claims", True]
            click()
        assert announced == browser.execute_script(labels, boxes) and shown(browser) == total
        groups = {group: sum(count for name, _, count in announced if name == group) for group, _, _ in announced}
        assert groups == dict.fromkeys(("paper", "verdict", "kind", "rung"), total)
    assert {value for name, value, _ in announced if name == "verdict"} == set(MEANING)  # the made-up paper has each


@pytest.fixture(scope="module")
def two_papers(tmp_path_factory):
    """The address of a page of two made-up papers, whose words do not change with what was last run here: as a file."""
    root = tmp_path_factory.mktemp("two")
    exact, small = claim("equals", "analytic", paper=524416), claim("above", "cpu-small", paper=None)
    router, plain = {"statement": "The Router learns."}, {"statement": "It works."}
    up, down = held([0.3, 0.31, 0.32]), held([-3.0, -3.1, -3.2])
    write(root, (exact | router, one(524416)), (small | router, up), (small | plain, up), (small | router, down), key="first")
    write(root, (exact | router, one(524416)), (exact | plain, one(524416)), (small | router, up), key="second")
    (root / "report.html").write_text(page(read_papers(root)), encoding="utf-8")
    return (root / "report.html").as_uri()


def test_filters_and_search_combine_and_nothing_left_is_said(browser, two_papers):
    assert shown(opened(browser, two_papers)) == 7
    papers = browser.find_elements("css selector", "input[name=paper]")
    assert [box.get_attribute("value") for box in papers] == ["first", "second"]
    supports, adds_up = (find(browser, f"input[value={word}]") for word in ("supports", "adds-up"))
    assert (count_of(browser, supports), count_of(browser, adds_up)) == (3, 3)
    papers[0].click()
    assert (count_of(browser, supports), count_of(browser, adds_up), shown(browser)) == (2, 1, 4)
    supports.click()
    assert shown(browser) == 2
    adds_up.click()
    assert (shown(browser), shown(browser, ".one-paper")) == (3, 1)
    find(browser, "input[type=search]").send_keys("router")  # whatever its case
    assert shown(browser) == 2
    text = "return [...document.querySelectorAll('details.claim:not([hidden])')].every(c => /Router/.test(c.textContent))"
    assert browser.execute_script(text)
    assert not find(browser, ".empty").is_displayed()
    find(browser, "input[type=search]").send_keys(" zzzz")
    assert shown(browser) == shown(browser, ".one-paper") == 0 and find(browser, ".empty").is_displayed()
    assert find(browser, ".none").is_displayed()
    find(browser, "button[type=reset]").click()
    wait(browser, "return document.querySelectorAll('details.claim[hidden]').length === 0")
    find(browser, "input[name=verdict]").click()
    hidden = find(browser, "details.claim[hidden] .drawer").get_attribute("id")
    browser.execute_script("location.hash = arguments[0]", hidden)  # a link to what is filtered away shows it
    wait(browser, "return arguments[0].open && !arguments[0].hidden", drawer(browser, hidden))


# ---------------------------------------------------------------------------- drawers and keyboard


def test_a_click_opens_the_whole_record_and_copies_its_command(browser, committed):
    from selenium.webdriver import Keys

    opened(browser, committed)
    paper = next(p for p in read_papers() if p.here)
    place = next(i for i, r in enumerate(paper.rows) if r.word == "supports" and r.record["protocol"]["deviations"])
    row = paper.rows[place]
    claim = drawer(browser, anchors(paper.rows)[place])
    claim.find_element("tag name", "summary").click()
    raw = claim.find_element("css selector", ".raw")
    raw.find_element("tag name", "summary").click()
    assert json.loads(raw.find_element("tag name", "pre").text) == row.record
    run = row.record["run"]
    said = [row.reason, run["commit"], run["environment"]["cpu"], run["environment"]["versions"]["torch"], run["command"]]
    said += [f"{row.record['measured']['value']:.4g}"]
    said += [paper.deviations[name] for name in row.record["protocol"]["deviations"]]
    text = " ".join(claim.text.split())
    assert [words for words in said if words not in text] == []
    claim.find_element("css selector", ".copy").click()
    wait(browser, "return document.querySelector('.status').textContent === arguments[0]", f"copied: {run['command']}")
    search = find(browser, "input[type=search]")
    search.send_keys(Keys.CONTROL, "v")
    assert search.get_attribute("value") == run["command"]


def test_all_of_it_with_the_keyboard(browser, server):
    from selenium.webdriver import Keys

    opened(browser, server[0])
    order, tile = [], find(browser, ".tile[href='#demo/C1']")
    while not focused(browser, tile):
        press(browser, Keys.TAB)
        active = browser.switch_to.active_element
        order.append((active.tag_name, active.get_attribute("type") or active.get_attribute("name")))
        outline = "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        assert browser.execute_script(outline) == ["solid", 3], order
        assert active.is_displayed() and len(order) < 40
    names = [kind for tag, kind in order if tag in ("input", "button")]
    assert names[0] == "search" and names[-1] == "reset" and set(names[1:-1]) == {"checkbox"}
    press(browser, Keys.ENTER)
    claim = drawer(browser, "demo/C1")
    line = claim.find_element("tag name", "summary")
    wait(browser, "return arguments[0].open && document.activeElement === arguments[1]", claim, line)
    press(browser, Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("data-copy") == RUN["command"]
    press(browser, Keys.ESCAPE)  # opened by a tile: back to it
    assert not claim.get_attribute("open") and focused(browser, tile) and "#" not in browser.current_url
    browser.execute_script("arguments[0].focus()", line)
    press(browser, Keys.ENTER, Keys.TAB, Keys.TAB, Keys.TAB, Keys.ENTER)  # copy, link, the raw record: open it
    raw = claim.find_element("css selector", ".raw")
    assert raw.get_attribute("open")
    press(browser, Keys.ESCAPE)  # the inner one first
    assert not raw.get_attribute("open") and claim.get_attribute("open")
    press(browser, Keys.ESCAPE)
    assert not claim.get_attribute("open") and focused(browser, line)


# ------------------------------------------------------------------------------------------ looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_two_words_look_alike_and_all_can_be_read(browser, server, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    looks = opened(browser, server[0]).execute_script("""
        const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = (c) => c.slice(0, 3).map((x) => x / 255)
          .map((x) => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
          .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
        const page = rgb(getComputedStyle(document.body).backgroundColor);
        return [...document.querySelectorAll('.claim .chip')].map((chip) => {
          const s = getComputedStyle(chip), own = rgb(s.backgroundColor);
          const [a, b] = [light(rgb(s.color)), light(own[3] === 0 ? page : own)];
          const shape = [s.borderTopStyle, s.borderTopWidth, s.borderLeftWidth, s.borderRadius, s.fontWeight].join();
          return [chip.closest('.claim').dataset.verdict, chip.textContent, shape,
                  (Math.max(a, b) + .05) / (Math.min(a, b) + .05), light(page)];
        });""")
    assert (looks[0][4] < 0.1) == (scheme == "dark")
    shapes, texts = ({row[0]: row[i] for row in looks if row[0] in WORDS} for i in (2, 1))
    assert len(shapes) == len(set(shapes.values())) == len(set(texts.values())) == len(WORDS)
    assert all(word in texts[word] for word in WORDS)
    assert [row for row in looks if row[3] < 4.5] == []
    fills = browser.execute_script("""
        return ['paper', 'ours', 'baseline', 'control'].map((name) => {
          const s = getComputedStyle(document.querySelector(`.plot .${name} path`));
          return s.fill + s.stroke + s.fillOpacity; });""")
    assert len(set(fills)) == 4


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_never_scrolls_sideways(browser, committed, server, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    for address in (committed, server[0]):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        opened(browser, address)
        browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        wide = browser.execute_script("""
            const sticksOut = (e) => e.getBoundingClientRect().right > innerWidth + 1
              || (e.clientWidth && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'visible');
            return [document.documentElement.scrollWidth, innerWidth,
              [...document.querySelectorAll('body *:not(svg, svg *)')].filter(sticksOut).map((e) => e.outerHTML.slice(0, 80))]""")
        assert wide == [width, width, []]


def test_paper_gets_every_drawer(browser, server):
    opened(browser, server[0])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    reasons = browser.find_elements("css selector", ".reason")
    assert len(reasons) == 14 and all(reason.is_displayed() for reason in reasons)
    assert not any(part.is_displayed() for css in (".filters", ".raw", ".copy", "nav")
                   for part in browser.find_elements("css selector", css))  # fmt: skip
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {})
    count = "window.opened = document.querySelectorAll('details.claim[open]').length"
    browser.execute_script(f"addEventListener('beforeprint', () => {{ {count}; }})")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF") and browser.execute_script("return window.opened") == 14
    assert not browser.find_elements("css selector", "details[open]")


def test_it_reads_without_a_script(browser, server):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, f"{server[0]}#demo/C2")
        assert not find(browser, ".filters").is_displayed()
        assert find(browser, "[id='demo/C2']").is_displayed()  # the browser opens what a link leads into
        closed = find(browser, "[id='demo/C4']")
        assert not closed.is_displayed()
        find(browser, "details.claim:has([id='demo/C4']) summary").click()
        assert closed.is_displayed() and "better" not in closed.text and "50" in closed.text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# ---------------------------------------------------------------------------------------- network


def test_nothing_is_asked_of_any_network(browser, committed, server):
    address, asked = server
    asked.clear()
    for where in (address, committed):
        opened(browser, where)
        loaded = "return [...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
        wait(browser, f"return document.readyState === 'complete' && ({loaded.removeprefix('return ')}) === 0")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    schemes = [urllib.parse.urlsplit(url).scheme for url in urls]
    assert schemes.count("http") == schemes.count("file") == 1 and set(schemes) <= {"http", "file", "data", "about"}
    assert asked == ["/report.html"]


def test_text_of_records_stays_text_and_the_policy_holds(browser, server):
    address, asked = server
    opened(browser, address)
    assert browser.execute_script("return window.pwned ?? null") is None
    assert EVIL in find(browser, "details.claim .what").text
    assert EVIL in find(browser, ".strip").text and EVIL in find(browser, ".headlines").text
    brought = "return [document.scripts.length, document.querySelectorAll('img:not(figure > img), [onerror]').length]"
    assert browser.execute_script(brought) == [1, 0]
    asked.clear()
    added = browser.execute_async_script("""
        const done = arguments[0], broken = [];
        addEventListener('securitypolicyviolation', (event) => {
          broken.push(event.effectiveDirective);
          if (broken.length === 5) done([window.pwned ?? null, broken.sort()]);
        });
        const tag = (name, properties) => document.body.append(Object.assign(document.createElement(name), properties));
        tag('script', {textContent: 'window.pwned = 1'});
        tag('style', {textContent: 'body { color: red }'});
        tag('img', {src: 'other.png'});
        tag('iframe', {src: 'other.html'});
        fetch('other.json').catch(() => null);""")
    assert added == [None, ["connect-src", "frame-src", "img-src", "script-src-elem", "style-src-elem"]]
    assert asked == []
    log = browser.get_log("browser")
    assert log and all("Content Security Policy" in entry["message"] for entry in log)
