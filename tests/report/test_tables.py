"""Tables in READMEs and at the end of a run equal what the records say, and what is stale, older or broken counts as nothing."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.claims import records
from common.claims.records import load_claims, make_record, write_record
from common.claims.rules import WORDS
from common.errors import RecordError
from common.report import __main__ as command
from common.report import ending
from common.report import tables as report
from common.report.page import page
from common.report.papers import COMING, PLANNED, read_paper, read_papers
from common.report.rows import anchors, rows_of
from tests.report.read_back import Parsed, one_paper
from tests.sample_records import RUN, UP, claim, every_word, one, write

LAST = [*WORDS, "not-run"]


@pytest.fixture
def root(tmp_path):
    """One paper with every word once, in their order, and one claim that nobody ran."""
    return every_word(tmp_path)


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
    assert line == ("| [A demo](papers/demo/README.md) | it works (2 points) | **supports**: C2: 0.31 [0.2852, 0.3348] points; "
                    "rule: above 0.1 | not run: needs four GPUs |")
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
                        "C2: 0.31 [0.2852, 0.3348] points; rule: above 0.1 | four GPUs |")
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


# -------------------------------------------------------------------------------- end of a run


def test_terminal_table_fits_120_columns(root):
    folder = root / "papers/demo"
    claims, made = load_claims(folder / "claims.yaml"), records.read_records(folder / "results")
    table = ending.terminal_table(claims, made)
    lines = table.splitlines()
    assert max(map(len, lines)) <= 120 and len(lines) == 12
    assert [line[25:].split()[0] for line in lines[2:]] == LAST
    line = ending.json_line(claims, made, rung="cpu-small", seconds=12.34, commit="abc")
    assert "\n" not in line
    assert json.loads(line) == {
        "paper": "demo", "rung": "cpu-small", "seconds": 12.3, "commit": "abc", "dirty": False, "stale": 0, "older": 0,
        "counts": {word: LAST.count(word) for word in WORDS},
    }  # fmt: skip


def test_a_run_in_a_changed_tree_counts_the_words_that_it_prints(root):
    """A comment appended to a file turned every count to 0, and a row measured a second ago was called stale."""
    claims = load_claims(root / "papers/demo/claims.yaml")
    made = [{**r, "run": {**r["run"], "dirty": True}} for r in records.read_records(root / "papers/demo/results")]
    table = ending.terminal_table(claims, made)
    assert "*" not in table and "stale" not in table
    line = json.loads(ending.json_line(claims, made, rung="cpu-small", seconds=1, commit="abc", dirty=True))
    assert line["counts"] == {word: LAST.count(word) for word in WORDS} and line["dirty"] and line["stale"] == 0
    stale = [{**r, "protocol": {**r["protocol"], "metric": "another"}} for r in made[:2]] + made[2:]
    assert "* stale: claims.yaml says otherwise" not in ending.terminal_table(claims, stale)  # it is of a changed tree
    clean = [{**r, "run": {**r["run"], "dirty": False}} for r in stale]
    table = ending.terminal_table(claims, clean)
    assert table.count(" *") == 2 and "* stale: claims.yaml says otherwise" in table
    assert json.loads(ending.json_line(claims, clean, rung="cpu-small", seconds=1, commit="abc"))["stale"] == 2


def test_a_folder_without_claims_is_planned(tmp_path):
    (tmp_path / "papers" / "gpe").mkdir(parents=True)
    assert not read_paper(tmp_path / "papers" / "gpe").here
