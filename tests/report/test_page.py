"""The page says what the records say, loads nothing, and takes no word of a record for markup; drawers have the READMEs' words."""

import base64
import hashlib
import importlib
import os
import re
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.claims import records
from common.claims.machine import ROOT
from common.claims.records import make_record
from common.claims.rules import COMPARING, EFFECT, KINDS, WORDS, rule_text
from common.errors import RecordError
from common.report import __main__ as command
from common.report import tables as report
from common.report.page import page
from common.report.papers import asked_for, read_papers
from common.report.rows import RUNGS, Row, rows_of
from common.report.words import MEANING, RULES, SIZES
from tests.report.read_back import Parsed, one_paper
from tests.sample_records import RUN, UP, claim, every_word, headline, held, write

EVIL = "<script>alert('x')</script> | \"><img src=x onerror=alert(1)> & `*_\\"


@pytest.fixture
def root(tmp_path):
    """One paper with every word once, in their order, and one claim that nobody ran."""
    return every_word(tmp_path)


# ----------------------------------------------------------------------------------------- page


def test_the_page_loads_nothing_and_forbids_it(root):
    (root / "papers/demo/results/plot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    text = page(read_papers(root))
    parsed = Parsed(text)
    assert parsed.all("link") == [{"rel": "icon", "href": "data:,"}]  # or a browser asks for /favicon.ico
    assert not parsed.all("iframe") and not parsed.all("base")
    assert [a["src"][:11] for _, a in parsed.elements if "src" in a] == ["data:image/"]
    for tag, attributes in parsed.elements:
        target = attributes.get("href", "#")
        assert target.startswith("#") or (tag == "a" and target.startswith("https://")) or tag == "link"
        assert not [name for name in attributes if name.startswith("on")]
    policy = [a["content"] for a in parsed.all("meta") if "http-equiv" in a]
    assert policy[0].startswith("default-src 'none'") and "unsafe" not in policy[0]
    for tag in ("style", "script"):  # what the policy allows is this text and no other
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        allowed = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{allowed}'" in policy[0]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", text)


def test_nothing_in_a_record_becomes_markup(tmp_path):
    was = [{"rule": EVIL, "until": EVIL, "why": EVIL}]
    protocol = {"placebo": EVIL, "unit": EVIL, "was": was}
    evil = {**claim("above", "cpu-small", paper=None, protocol=protocol), "statement": EVIL, "where": EVIL}
    words = {"statement": EVIL, "short": EVIL, "paper": EVIL, "needs": EVIL}
    root = write(tmp_path, (evil, {**UP, "baselines": {EVIL: 1.0}}), headlines=[headline("C1", **words)])
    paper = one_paper(root)
    paper.title, paper.problems, paper.about = EVIL, [EVIL], {"authors": EVIL, "code": EVIL}
    parsed = Parsed(page([paper]))
    assert len(parsed.all("script")) == 1 and not parsed.all("img")
    assert EVIL in parsed.text
    tables = [make([paper]) for make in (report.root_table, report.counts_table)]
    for table in (*tables, report.markdown_table(paper.rows), report.headline_table(paper)):
        assert "<script>" not in table and "<img" not in table
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}) == 1


def test_supports_never_looks_like_matches(root):
    parsed = Parsed(page(read_papers(root)))
    marks = [a for a in parsed.all() if re.search(r"\bv-", a.get("class") or "")]
    assert len(marks) > 2 * len(WORDS)
    for attributes in marks:
        classes = attributes["class"].split()
        assert not {"v-matches", "v-supports"} <= set(classes)
        if verdict := attributes.get("data-verdict"):
            assert [c for c in classes if c.startswith("v-")] == [f"v-{verdict}"]
    tiles = {a["data-verdict"]: a["class"].split() for a in parsed.all("a", "tile")}
    assert "small" in tiles["supports"] and "small" not in tiles["matches"]  # the hatching
    style = re.search(r"<style>(.*?)</style>", page([]), re.DOTALL)[1]
    rules = {name: re.search(rf"\.v-{name} {{(.*?)}}", style, re.DOTALL)[1] for name in WORDS}
    assert "border-radius" in rules["supports"] and "border-radius" not in rules["matches"]
    assert ("border-radius" in rules["opposes"]) and "border-radius" not in rules["contradicts"]
    shapes = [frozenset(part.strip() for part in rule.split(";") if re.search("width|style|radius|weight", part))
              for rule in rules.values()]
    assert len(set(shapes)) == len(WORDS)  # told apart without colour
    assert "var(--supports)" in rules["supports"] and "var(--matches)" not in rules["supports"]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["equals", "relative", "above", "within"]),
    st.sampled_from(["analytic", "cpu-small", "gpu-random-weights", "paper-scale"]),
    st.sampled_from(KINDS),
    st.lists(st.floats(-2, 2), min_size=1, max_size=4),
)
def test_supports_never_has_matches_class_whatever_was_measured(rule, rung, kind, values):
    try:
        made = make_record(claim(rule, rung, kind, 1.0), "0", held(values), RUN, seeds=[0])
    except RecordError:
        return  # this rule cannot decide at this rung
    paper = read_paper_of(made)
    text = page([paper])
    word = made["verdict"]["word"]
    for attributes in Parsed(text).all():
        if attributes.get("data-verdict") and "class" in attributes:
            shown = {c for c in attributes["class"].split() if c.startswith("v-")}
            assert shown <= {f"v-{word}"}


def read_paper_of(made):
    from common.report.papers import Paper

    entry = {**made["claim"], "paper": made["paper"], "protocol": made["protocol"]}
    claims = records.Claims({"key": "demo"}, [entry], "0")
    return Paper("demo", "A demo", True, {}, rows_of(claims, [made]))


def test_every_tile_leads_to_a_claim_and_every_claim_shows_its_record(root):
    parsed = Parsed(page(read_papers(root)))
    ids = [a["id"] for a in parsed.all() if "id" in a]
    assert len(ids) == len(set(ids))
    tiles = parsed.all("a", "tile")
    assert len(tiles) == 10 and all(a["href"][1:] in ids for a in tiles)
    for path in (root / "papers/demo/results").glob("C*.json"):
        assert path.read_text().strip() in parsed.text
    assert {a["data-copy"] for a in parsed.all("button", "copy")} >= {RUN["command"]}
    assert "planned" in parsed.text


def test_equal_records_give_equal_bytes_and_no_path_of_this_machine(root):
    text = page(read_papers(root))
    assert text == page(read_papers(root)) and str(root) not in text


def test_what_is_no_picture_of_its_own_is_named_and_never_shown(root, tmp_path, capsys):
    """A link would show what it leads to, wherever that is; a pipe would be read for ever."""
    results = root / "papers/demo/results"
    (tmp_path / "secret.svg").write_text("<svg>secret words</svg>")
    (results / "a.svg").symlink_to(tmp_path / "secret.svg")
    (results / "b.png").mkdir()
    os.mkfifo(results / "c.svg")
    assert command.main(["--out", str(tmp_path / "page.html")], root) == 1
    errors = capsys.readouterr().err
    for name, kind in (("a.svg", "a symbolic link"), ("b.png", "a folder"), ("c.svg", "no ordinary file")):
        assert f"papers/demo/results/{name}: is {kind}" in errors
    assert "secret words" not in (tmp_path / "page.html").read_text()


def test_pictures_are_inlined_the_svg_of_two(root):
    results = root / "papers/demo/results"
    for name in ("a.png", "a.svg", "b.png"):
        (results / name).write_bytes(b"picture")
    svg = """<svg viewBox="0 0 300 100" id='a&amp;b'>\n<path fill="#123" width="5%"/>é</svg>"""
    (results / "a.svg").write_text(svg, encoding="utf-8")
    (root / "papers/demo/README.md").write_text("![what <it> shows](results/a.svg)")
    paper = one_paper(root)
    assert [p.name for p in paper.pictures] == ["a.svg", "b.png"]
    images, figures = (Parsed(page([paper])).all(tag) for tag in ("img", "figure"))
    sources = [a["src"] for a in images]
    kind, _, text = sources[0].partition(",")
    assert kind == "data:image/svg+xml;charset=utf-8" and unquote(text) == svg.replace("\n", " ")
    assert sources[1] == "data:image/png;base64,cGljdHVyZQ=="
    assert [a["alt"] for a in images] == ["what <it> shows (a.svg)", "b.png"]
    assert [a.get("class") for a in figures] == ["wide", None]


# --------------------------------------------------------------------------- how verdicts are made


def test_every_rule_rung_and_word_is_explained():
    def form(text):
        return re.sub(r"[\d.]+", "#", text)

    explained = {form(part) for name in RULES for part in name.split(", ")}
    assert explained == {form(rule_text({name: 0.5})) for name in (*COMPARING, *EFFECT)}
    assert tuple(SIZES) == RUNGS
    assert set(MEANING) == {*WORDS, "stale", "older", "scratch", "invalid", "unlisted"}


# ---------------------------------------------------------------------------------- deviations


README = """# A demo
## Deviations
| id | what | why |
|---|---|---|
| D1 | Tables, `code` and **bold** | a [link](x.md) |

- **D2 A list.** It runs
  on, and has a <script>.
- **D3 Another.**

## Later
| D4 | of another section |
"""


def test_a_drawer_has_the_readmes_words_for_its_deviations(root):
    (root / "papers/demo/README.md").write_text(README)
    paper = one_paper(root)
    assert paper.deviations == {
        "D1": "Tables, code and bold · a link",
        "D2": "A list. It runs on, and has a <script>.",
        "D3": "Another.",
    }
    paper.rows[0].record["protocol"]["deviations"] = ["D2", "D9", "A whole sentence."]
    parsed = Parsed(page([paper]))
    for said in (paper.deviations["D2"], "not in the paper's README", "A whole sentence."):
        assert said in parsed.text
    assert len(parsed.all("script")) == 1


def test_every_deviation_that_a_claim_names_is_in_its_readme():
    for paper in read_papers():
        for row in paper.rows:
            for name in row.shown["protocol"].get("deviations", ()):
                assert paper.deviations.get(name) or len(name) > 4, f"{row.id}: {name} is not in papers/{paper.key}/README.md"


def test_a_claim_that_an_asked_experiment_measures_names_it_and_no_other_does():
    """ViCA from nothing takes hours and runs when it is asked for; a claim of the default run, or of the paper's size, needs no name."""
    papers = {paper.key: {row.short: row for row in paper.rows} for paper in read_papers()}
    assert Row("vica/C1r", "cpu-small", asked=papers["vica"]["C1r"].asked).command == "make reproduce-vica ONLY=scratch"
    assert papers["vica"]["C1s"].asked == "" == papers["vica"]["C1"].asked
    assert papers["vica"]["C1"].command == "make reproduce-vica RUNG=paper"
    assert {row.asked for row in papers["layerfusion"].values()} == {"", "committed", "long", "long-more", "own", "smollm2", "variants"}


@pytest.mark.parametrize("paper", sorted(path.parent.name for path in (ROOT / "papers").glob("*/eval.py")))
def test_what_is_read_of_an_eval_is_what_it_says_when_it_runs(paper):
    experiments = importlib.import_module(f"papers.{paper}.eval").EXPERIMENTS
    assert asked_for(ROOT / "papers" / paper) == {claim: each.name for each in experiments if each.asked for claim in each.claims}


def test_an_eval_that_is_missing_or_says_nothing_plain_asks_for_nothing(root):
    folder = root / "papers/demo"
    assert asked_for(folder) == {}
    for text in ("def", "Experiment('a', 'cpu', asked=True, claims=open('/etc/passwd'))", "Experiment(x, asked=True)"):
        (folder / "eval.py").write_text(text)
        assert asked_for(folder) == {}


# ------------------------------------------------------------------------------------ the command


def test_the_command_writes_the_page_and_names_what_is_invalid(root, tmp_path, capsys):
    out = tmp_path / "elsewhere" / "page.html"
    assert command.main(["--out", str(out)], root) == 0
    assert (
        out.read_text().startswith("<!doctype html>")
        and "wrote page.html" in capsys.readouterr().out
    )
    assert command.main([], root) == 0 and (root / "report.html").exists()
    (root / "papers/demo/results/C1.paper-scale.json").write_text("{")
    assert command.main([], root) == 1
    assert "invalid: papers/demo/results/C1.paper-scale.json" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_one_line(root, capsys):
    (root / "file").write_text("")
    assert command.main(["--out", str(root / "file" / "report.html")], root) == 2
    assert "cannot be written" in capsys.readouterr().err
