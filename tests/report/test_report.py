"""What people read equals what the records say: README blocks, the page, the end of a run.

Pages are read back with an HTML parser, never with a regular expression over the text.
"""

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.claims import records
from common.claims.intervals import summarize
from common.claims.records import load_claims, make_record, write_record
from common.claims.rules import COMPARING, EFFECT, KINDS, WORDS, rule_text
from common.errors import RecordError
from common.report import __main__ as command
from common.report import tables as report
from common.report.charts import forest, strip
from common.report.page import page
from common.report.rows import COMING, PLANNED, RUNGS, anchors, read_paper, read_papers, rows_of
from common.report.timings import timed_cases
from common.report.words import MEANING, RULES, SIZES
from tests.sample_records import RUN, claim, headline, held, one, write

EVIL = "<script>alert('x')</script> | \"><img src=x onerror=alert(1)> & `*_\\"
UP = held([0.3, 0.31, 0.32])
LAST = [*WORDS, "not-run"]


@pytest.fixture
def root(tmp_path):
    """One paper with every word once, in their order, and one claim that nobody ran."""
    small = {"paper": None}
    return write(
        tmp_path,
        (claim("equals", paper=524416), one(524416)),
        (claim("above", "cpu-small", **small), {**UP, "baselines": {"random": 0.0}}),
        (claim("equals", "analytic", paper=524416), one(524416)),
        (claim(), one(50.0)),
        (claim("above", "cpu-small", **small), held([-3.0, -3.1, -3.2])),
        (claim("equals", "analytic", paper=524416), one(524417)),
        (claim("above", "cpu-small", **small), held([-1.0, 0.5, 1.0])),
        (claim(blocked_by=["weights"]), None),
        (claim(status="not-checkable", paper=None), None),
        (claim("above", "gpu-random-weights", **small), None),
        headlines=[headline("C2", "C8"), headline("C1", number=2)],
    )  # fmt: skip


def one_paper(root, key="demo"):
    return next(paper for paper in read_papers(root) if paper.key == key)


class Parsed(HTMLParser):
    """Every element as (tag, attributes), the text of each <td>, and all text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag=None, css=None):
        return [
            a
            for t, a in self.elements
            if tag in (None, t) and (css is None or css in (a.get("class") or "").split())
        ]


# --------------------------------------------------------------------------------------- tables


def test_the_table_has_a_row_per_claim_with_its_word(root):
    table = report.markdown_table(one_paper(root).rows).splitlines()
    assert table[0] == "| claim | kind | paper | ours | rule | controls | rung | verdict | n, SE | command |"
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[2:]]
    assert all(len(row) == 10 for row in cells)
    assert [row[7].strip("*") for row in cells] == LAST
    assert cells[0][2] == "524,416 points" and cells[0][3] == "524,416 points" and cells[0][1] == "measured"
    assert cells[1][3] == "0.31 [0.2852, 0.3348] points"  # SE .01/sqrt 3, t 4.3027
    assert cells[1][8] == "3 trainings, SE 0.00577" and cells[1][4] == "above 0.1" and cells[1][5] == "placebo: the no-op"
    assert cells[7][9] == "`make reproduce-demo RUNG=paper`"
    assert cells[9][9] == "`make reproduce-demo RUNG=gpu`"


def test_a_changed_rule_is_shown_with_the_one_before(tmp_path):
    was = [{"rule": "above 0.005", "until": "2026-11-28", "why": "one item is 0.01"}]
    root = write(tmp_path, (claim("above", "cpu-small", paper=None, protocol={"was": was}, required=True), UP))
    rows = one_paper(root).rows
    assert "| above 0.1; until 2026-11-28: above 0.005 |" in report.markdown_table(rows)
    assert "| small (required) |" in report.markdown_table(rows)
    assert "until 2026-11-28: above 0.005 (one item is 0.01)" in Parsed(page([one_paper(root)])).text


def test_the_root_table_has_a_line_a_paper_with_its_first_headline(root):
    papers = read_papers(root)
    table = report.root_table(papers).splitlines()
    assert table[0] == "| paper | its headline | shown here, in the small | at the paper's size |" and len(table) == 2 + 9 + 1
    (line,) = [line for line in table if "A demo" in line]
    assert line == ("| [A demo](papers/demo/README.md) | it works (2 points) | **supports**: C2: 0.31 [0.2852, 0.3348] points | "
                    "not run: needs four GPUs |")
    assert sum("| planned | planned |" in line for line in table) == len(PLANNED) == 9
    assert all(COMING[key] in line for key, line in zip(PLANNED, table[2:]) if key in COMING)


def test_kinds_are_counted_apart(root):
    table = report.counts_table(read_papers(root)).splitlines()
    assert table[0] == "| paper | measured | small | ours | arithmetic | read in full | command |" and len(table) == 3
    cells = [cell.strip() for cell in table[2].split("|")[1:-1]]
    assert cells[1] == "1 matches, 1 contradicts, 1 not-run, 1 not-checkable" and cells[3] == "·"
    assert cells[2] == "1 supports, 1 opposes, 1 inconclusive, 1 not-run" and cells[4] == "1 adds-up, 1 does-not-add-up"
    assert cells[5] == "yes" and cells[6] == "`make reproduce-demo`"


def test_a_paper_whose_text_could_not_be_read_says_so(tmp_path):
    second_hand = claim(blocked_by=["gpu"], paper_more={"source": "secondary"})
    root = write(tmp_path, (second_hand, None), (claim(blocked_by=["gpu"]), None))
    assert "none of these 1 papers could be read in full" in report.read_sentence(read_papers(root))
    assert "| no: 1 value second-hand |" in report.counts_table(read_papers(root))
    assert "100 points (secondary)" in report.markdown_table(one_paper(root).rows)


def test_headlines_of_a_paper_stand_with_what_they_rest_on(root):
    lines = report.headline_table(one_paper(root)).splitlines()
    assert lines[2] == ("| It works, they say. | 2 points | **supports** (cpu-small) | C2 supports, C8 not-run | "
                        "C2: 0.31 [0.2852, 0.3348] points | four GPUs |")
    assert "**matches** (paper-scale) | C1 matches | C1: 524,416 points" in lines[3]


def test_stale_records_count_as_nothing(root):
    path = root / "papers/demo/claims.yaml"
    path.write_text(path.read_text().replace("statement: It works.", "statement: It works twice."))
    paper = one_paper(root)
    assert [row.flag for row in paper.rows].count("stale") == 7
    assert paper.counts()["matches"] == 0 and paper.counts()["stale"] == 7 and paper.kinds()["arithmetic"] == {"stale": 2}
    assert "**matches** (stale)" in report.markdown_table(paper.rows)
    assert paper.headlines[0].word == "not-run" and "not run" in report.root_table([paper])
    assert "2 stale" in report.counts_table([paper]) and paper.rows[0].problem.startswith("claims.yaml has another statement")


def test_older_records_count_as_nothing(root):
    folder = root / "papers/demo"
    path = folder / "results/C2.cpu-small.json"
    made = json.loads(path.read_text())
    made["run"]["sources"] = {"experiment": "small", "sha256": "0" * 64}
    path.write_text(json.dumps(made))
    paper = one_paper(root)
    assert paper.rows[1].flag == "older" and paper.counts()["supports"] == 0 and paper.headlines[0].word == "not-run"
    assert "**supports** (older)" in report.markdown_table(paper.rows)
    tile = Parsed(page([paper])).all("a", "tile")[1]
    assert tile["data-verdict"] == "older" and "v-supports" not in tile["class"]


def test_records_of_a_tree_with_changes_are_marked_and_count_as_nothing(root):
    folder = root / "papers/demo"
    claims = load_claims(folder / "claims.yaml")
    made = make_record(claims.find("C1"), claims.sha256, one(524417), {**RUN, "dirty": True}, seeds=[0])
    write_record(made, folder / "results/.scratch")
    assert report.check(root) == report.check(root, read_papers(root)) and len(one_paper(root).rows) == 10
    paper = next(p for p in read_papers(root, scratch=True) if p.key == "demo")
    assert [(r.id, r.flag, r.word) for r in paper.rows[:2]] == [
        ("demo/C1", "", "matches"),
        ("demo/C1", "scratch", "contradicts"),
    ]
    assert anchors(paper.rows)[:3] == ["demo/C1", "demo/C1/paper-scale", "demo/C2"]
    assert paper.counts()["contradicts"] == 1 and paper.counts()["scratch"] == 1
    tile = Parsed(page([paper])).all("a", "tile")[1]
    assert tile["data-verdict"] == "scratch" and "v-contradicts" not in tile["class"]
    (folder / "results/.scratch/C1.paper-scale.json").replace(folder / "results/C1.paper-scale.json")
    assert one_paper(root).rows[0].flag == "scratch"  # in results/ by hand: still not believed


def test_a_record_at_another_rung_has_its_own_row(tmp_path):
    root = write(tmp_path, (claim("above", "cpu-small", paper=None), UP))
    folder = root / "papers/demo"
    claims = load_claims(folder / "claims.yaml")
    larger = {**claims.find("C1"), "rung": "gpu-random-weights"}
    made = make_record(larger, claims.sha256, UP, RUN, seeds=[0])
    write_record(made, folder / "results")
    rows = one_paper(root).rows
    assert [(r.short, r.rung, r.flag) for r in rows] == [
        ("C1", "cpu-small", ""),
        ("C1", "gpu-random-weights", ""),
    ]


def test_a_record_of_no_claim_is_shown_and_not_believed(root):
    made = make_record(claim(id="demo/C99"), "x", one(100.0), RUN, seeds=[0])
    write_record(made, root / "papers/demo/results")
    last = one_paper(root).rows[-1]
    assert last.flag == "unlisted" and one_paper(root).counts()["matches"] == 1


def test_what_is_broken_is_shown_and_stops_nothing(root):
    broken = root / "papers/demo/results/C1.paper-scale.json"
    broken.write_text(broken.read_text().replace('"n_runs": 1', '"n_runs": "one"'))
    paper = one_paper(root)
    assert paper.rows[0].flag == "invalid" and "$.measured.n_runs" in paper.rows[0].problem
    assert paper.problems and str(root) not in paper.problems[0]
    text = Parsed(page([paper])).text
    assert "papers/demo/results/C1.paper-scale.json" in text and "$.measured.n_runs" in text
    (root / "papers/demo/claims.yaml").write_text("claims: [")
    paper = one_paper(root)
    assert {row.flag for row in paper.rows} == {"unlisted", "invalid"}
    assert "not valid YAML" in Parsed(page([paper])).text


# --------------------------------------------------------------------------------------- blocks


def test_blocks_round_trip_and_leave_the_rest(root):
    readmes = [root / "README.md", root / "papers/demo/README.md", root / "papers/demo/results/README.md"]
    assert report.check(root) == readmes
    assert command.main(["--readme"], root) == 0
    assert report.check(root) == []
    text = (root / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    before = {p: p.read_bytes() for p in root.rglob("README.md")}
    assert command.main(["--readme"], root) == 0
    assert before == {p: p.read_bytes() for p in root.rglob("README.md")}
    (root / "README.md").write_text(text.replace("1 adds-up", "2 adds-up", 1))
    assert report.check(root) == [root / "README.md"]


def test_check_sees_a_changed_record(root, capsys):
    command.main(["--readme"], root)
    assert command.main(["--check"], root) == 0
    (root / "papers/demo/results/C1.paper-scale.json").unlink()
    assert command.main(["--check"], root) == 1
    assert "papers/demo/results/README.md: its table is not" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, said",
    [
        ("nothing", "has 0 blocks called papers"),
        ("<!-- ninefold:papers -->\nno end", "has 0 blocks"),
        ("<!-- ninefold:papers -->\n<!-- /ninefold:papers -->\n" * 2, "has 2 blocks"),
        (None, "cannot be read"),
    ],
)
def test_a_missing_block_is_named(tmp_path, text, said):
    path = tmp_path / "README.md"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecordError, match=said) as caught:
        report.update_block(path, "papers", "x")
    assert str(path) in str(caught.value)


def test_a_block_cannot_hold_a_marker(root):
    with pytest.raises(RecordError, match="marker"):
        report.update_block(root / "README.md", "papers", "<!-- /ninefold:papers -->")


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(max_size=40).filter(str.strip), st.text(max_size=20))
def test_any_statement_survives_the_round_trip(tmp_path, statement, where):
    a_claim = {**claim(blocked_by=["gpu"]), "statement": statement, "where": where}
    rows = rows_of(records.Claims({"key": "demo"}, [a_claim], "0"), [])
    table = report.markdown_table(rows)
    assert len(table.splitlines()) == 3
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", table.splitlines()[2])) == 11
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- ninefold:claims -->\nold\n<!-- /ninefold:claims -->\nz\n")
    try:
        report.update_block(path, "claims", table)
    except UnicodeEncodeError:
        assert any("\ud800" <= c <= "\udfff" for c in statement)
        return
    assert report.read_block(path, "claims") == table + "\n"
    assert path.read_text().startswith("a\n") and path.read_text().endswith("\nz\n")


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
    from common.report.rows import Paper

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


# ---------------------------------------------------------------------------------- forest plot


def drawn(row):
    return Parsed(forest(row))


def row_of(a_claim, measured):
    made = make_record(a_claim, "0", measured, RUN, seeds=[0])
    return rows_of(records.Claims({"key": "demo"}, [a_claim], "0"), [made])[0]


def percent(attributes, name):
    return float(attributes[name].rstrip("%"))


def test_forest_positions_by_hand():
    rule = {"absolute": 10.0}  # band 90..110, ours 105 in [95, 115], pad 8 %
    measured = one(105.0, stderr=5.0, stderr_kind="bootstrap", n_items=9, ci95=[95.0, 115.0])
    got = drawn(row_of(claim(rule), {**measured, "baselines": {"random": 65.0}}))
    # the first axis from 90 - 2 to 115 + 2, 29 wide; the second from 65 - 3.2 to 105 + 3.2, 46.4
    ours, paper, random = (got.all("svg", name) for name in ("ours", "paper", "baseline"))
    assert [percent(a, "x") for a in ours] == pytest.approx([1700 / 29, 4320 / 46.4], abs=0.01)
    assert [percent(a, "x") for a in paper] == pytest.approx([1200 / 29, 3820 / 46.4], abs=0.01)
    assert [percent(a, "x") for a in random] == pytest.approx([320 / 46.4], abs=0.01)
    band = got.all("rect", "holds")[0]
    assert percent(band, "x") == pytest.approx(200 / 29, abs=0.01)
    assert percent(band, "width") == pytest.approx(2000 / 29, abs=0.02)
    line = got.all("line", "interval")[0]
    assert percent(line, "x1") == pytest.approx(700 / 29, abs=0.01)
    assert percent(line, "x2") == pytest.approx(2700 / 29, abs=0.01)
    assert "random 65" in got.text


def test_the_papers_own_baseline_is_drawn_beside_ours():
    measured = {**one(99.0), "baselines": {"random": 20.0}}
    got = drawn(row_of(claim(paper_more={"baseline": 60.0}), measured))  # second axis 20 - 6.4 to 100 + 6.4
    theirs = got.all("svg", "paper-baseline")
    assert [percent(a, "x") for a in theirs] == pytest.approx([4640 / 92.8], abs=0.01)
    assert len(got.all("svg", "paper")) == len(got.all("svg", "ours")) == 2
    assert "random 20 · the paper's own baseline 60" in got.text


def test_an_effect_has_a_threshold_seeds_and_no_diamond():
    got = drawn(row_of(claim("above", "cpu-small"), {**UP, "baselines": {"CE": 4.0}}))
    assert len(got.all("svg", "ours")) == 1 and len(got.all("svg", "baseline")) == 1
    assert len(got.all("circle", "seed")) == 3 and not got.all("svg", "paper")
    assert len(got.all("line", "edge")) == 1
    band = got.all("rect", "holds")[0]
    assert percent(band, "x") + percent(band, "width") == pytest.approx(100, abs=0.02)


def test_a_claim_that_was_not_run_shows_the_papers_value():
    row = rows_of(records.Claims({}, [claim(blocked_by=["gpu"])], "0"), [])[0]
    assert drawn(row).all("svg", "paper") and not drawn(row).all("svg", "ours")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["equals", "relative", "absolute", "above", "below", "within"]),
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=4),
    st.floats(-1e9, 1e9).filter(bool),
)
def test_marks_stay_on_the_axis(rule, values, paper):
    text = forest(row_of(claim(rule, "paper-scale", paper=paper), summarize(values)))
    places = [float(x) for x in re.findall(r'"(-?[\d.]+)%"', text)]
    assert places and all(0 <= x <= 100 for x in places) and "nan" not in text


# --------------------------------------------------------------------------- how verdicts are made


def test_every_rule_rung_and_word_is_explained():
    def form(text):
        return re.sub(r"[\d.]+", "#", text)

    explained = {form(part) for name in RULES for part in name.split(", ")}
    assert explained == {form(rule_text({name: 0.5})) for name in (*COMPARING, *EFFECT)}
    assert tuple(SIZES) == RUNGS
    assert set(MEANING) == {*WORDS, "stale", "older", "scratch", "invalid", "unlisted"}


# ------------------------------------------------------------------------------------- timings


def measurements(folder, name="cpu-small", **document):
    (folder / f"measurements.{name}.json").write_text(json.dumps({"run": {}, "results": {"speed": document}}))


def test_a_strip_has_rounds_their_median_and_what_the_arithmetic_takes(tmp_path):
    rows = {
        "dense": {"times": [2.0, 4.0, 8.0], "flops": 400},  # two steps a round: a median of 2 s, 200 FLOPs in each
        "half": {"times": [2.0, 3.0, 2.0], "flops": 100},  # a median of 1 s, 50 FLOPs: 0.5 s at the rate of dense
        "uncounted": {"seconds": [1.0, 1.0]},
        "broken": {"times": [1.0, -1.0]},
    }
    measurements(tmp_path, settings={"device": "cpu", "dtype": "float32"}, cases={"B=1": {"variants": rows, "steps": 2}})
    [case], problems = timed_cases(tmp_path)
    assert problems == [] and [v.name for v in case.variants] == ["dense", "half", "uncounted"]
    assert [v.median for v in case.variants] == [2.0, 1.0, 0.5]
    assert [case.limit(v) for v in case.variants] == [2.0, 0.5, None]
    got = Parsed(strip(case))
    assert [percent(a, "cx") for a in got.all("circle", "median")] == pytest.approx([50 / 1.04, 25 / 1.04, 12.5 / 1.04], abs=0.01)
    assert [percent(a, "x1") for a in got.all("line", "limit")] == pytest.approx([50 / 1.04, 12.5 / 1.04], abs=0.01)
    assert len(got.all("circle", "seed")) == 8 and "1 s, median of 3; 50 % of its limit, 500 ms" in got.text
    assert "any of these reached" in got.text


def test_a_known_gpu_is_held_against_its_data_sheet(tmp_path):
    rows = {"dense": {"times": [0.5, 0.5], "flops": 98.9e12}}
    for dtype in ("bfloat16", "float32"):  # the peak that we know is that of bf16
        measurements(tmp_path, f"gpu-{dtype}", device="NVIDIA H200", dtype=dtype, cases={"a": {"modes": rows}})
    (tmp_path / "measurements.torn.json").write_text("{")
    (tmp_path / "measurements.other.json").write_text('{"cases": {"a": 1, "b": {"variants": [1]}}, "device": "cpu"}')
    cases, problems = timed_cases(tmp_path)
    assert [case.limit(case.variants[0]) for case in cases] == pytest.approx([0.1, 0.5])
    assert "data-sheet peak of NVIDIA H200" in strip(cases[0])
    assert len(problems) == 1 and problems[0].startswith("measurements.torn.json: not valid JSON")


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


# -------------------------------------------------------------------------------- end of a run


def test_terminal_table_fits_120_columns(root):
    folder = root / "papers/demo"
    claims, made = load_claims(folder / "claims.yaml"), records.read_records(folder / "results")
    table = report.terminal_table(claims, made)
    lines = table.splitlines()
    assert max(map(len, lines)) <= 120 and len(lines) == 12
    assert [line[25:].split()[0] for line in lines[2:]] == LAST
    line = report.json_line(claims, made, rung="cpu-small", seconds=12.34, commit="abc")
    assert "\n" not in line
    assert json.loads(line) == {
        "paper": "demo", "rung": "cpu-small", "seconds": 12.3, "commit": "abc", "dirty": False, "stale": 0, "older": 0,
        "counts": {word: LAST.count(word) for word in WORDS},
    }  # fmt: skip


def test_a_run_in_a_changed_tree_counts_the_words_that_it_prints(root):
    """A comment appended to a file turned every count to 0, and a row measured a second ago was called stale."""
    claims = load_claims(root / "papers/demo/claims.yaml")
    made = [{**r, "run": {**r["run"], "dirty": True}} for r in records.read_records(root / "papers/demo/results")]
    table = report.terminal_table(claims, made)
    assert "*" not in table and "stale" not in table
    line = json.loads(report.json_line(claims, made, rung="cpu-small", seconds=1, commit="abc", dirty=True))
    assert line["counts"] == {word: LAST.count(word) for word in WORDS} and line["dirty"] and line["stale"] == 0
    stale = [{**r, "protocol": {**r["protocol"], "metric": "another"}} for r in made[:2]] + made[2:]
    assert "* stale: claims.yaml says otherwise" not in report.terminal_table(claims, stale)  # it is of a changed tree
    clean = [{**r, "run": {**r["run"], "dirty": False}} for r in stale]
    table = report.terminal_table(claims, clean)
    assert table.count(" *") == 2 and "* stale: claims.yaml says otherwise" in table
    assert json.loads(report.json_line(claims, clean, rung="cpu-small", seconds=1, commit="abc"))["stale"] == 2


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
    assert command.main(["--out", str(root / "file" / "report.html")], root) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_folder_without_claims_is_planned(tmp_path):
    (tmp_path / "papers" / "gpe").mkdir(parents=True)
    assert not read_paper(tmp_path / "papers" / "gpe").here
