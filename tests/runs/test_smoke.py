"""RUNG=smoke walks a paper to its last picture, refuses what is missing on the way, and records nothing."""

import math
import multiprocessing
import time

import pytest

from common.claims.intervals import point
from common.pictures import draw_all
from common.runs import reproduce
from common.runs.jobs import work_folder
from common.runs.reproduce import Outcome, main
from tests.sample_records import claim, claims_yaml, held

CLAIMS = [
    claim("equals", "analytic", paper=3.0),
    claim("above", "cpu-small"),
    claim("above", "cpu-small"),  # measured by a command of its own
    claim("relative", "paper-scale", blocked_by=["weights"]),
    {**claim(rung="cpu-small", status="not-checkable"), "protocol": {"metric": "score", "higher_is_better": True}},
]


def plane(plt, results):
    figure, axis = plt.subplots()
    axis.plot(results["points"])
    return figure


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "papers" / "demo"
    folder.mkdir(parents=True)
    claims_yaml(folder, *(dict(c, id=f"demo/C{i + 1}") for i, c in enumerate(CLAIMS)))
    (folder / "eval.py").write_text("")
    (folder / "README.md").write_text("![A plane](results/plane.svg) ![Another command's](results/speech.svg)\n")
    return folder


def outcome(**changes):
    whole = {
        "measured": {"C1": point(3.0), "C2": held(point(0.2))}, "elsewhere": {"C3": "make reproduce-demo ONLY=speech"},
        "lines": ["a table"], "documents": {"cpu-small": {"loss": 1.0}}, "left_out": ("speech.svg",),
        "pictures": lambda folder: draw_all((plane,), {"points": [1, 2]}, folder),
    }  # fmt: skip
    return Outcome(**whole | changes)


def walked(here, capsys, **changes):
    """(exit status, what was printed) of the smoke rung, whose measure gives `outcome` with changes."""
    rungs = []

    def measure(rung, log):
        rungs.append(rung)
        return outcome(**changes)

    status = main(here, measure, ["--rung", "smoke"])
    assert rungs == ["smoke"] and not (here / "results").exists()
    out, err = capsys.readouterr()
    return status, out + err


def test_a_whole_walk_ends_with_status_0_and_records_nothing(here, capsys):
    status, text = walked(here, capsys)
    assert status == 0 and "a table" in text
    assert "smoke: demo: 2 claims have a value, 1 lines of tables, 1 pictures" in text
    assert "supports" not in text and "matches" not in text  # words of this size mean nothing


@pytest.mark.parametrize(("changes", "named"), [
    ({"measured": {"C1": point(3.0)}}, "demo/C2: the run gave it no value"),
    ({"measured": {"C1": point(3.0), "C2": {"value": None, "n_runs": 0}}}, "demo/C2: the run gave it no value"),
    ({"measured": {"C1": point(3.0), "C2": held(point(math.nan))}}, "C2"),
    ({"measured": {"C1": point(3.0), "C2": held(point(math.inf))}}, "C2"),
    ({"measured": {"C1": point(3.0), "C2": held(point(0.2)), "C7": point(1.0)}}, "in no claim of claims.yaml: C7"),
    ({"measured": {"C1": point(3.0), "C2": point(0.2)}}, "demo/C2: protocol.placebo names 'the no-op', and measured.placebo is missing"),
    ({"elsewhere": {}}, "demo/C3: the run gave it no value"),
    ({"pictures": None}, "not drawn, though README.md shows it: plane.svg"),
    ({"left_out": ()}, "not drawn, though README.md shows it: speech.svg"),
])  # fmt: skip
def test_what_is_missing_is_named(here, capsys, changes, named):
    status, text = walked(here, capsys, **changes)
    assert status == 2 and named in text and "smoke: demo:" not in text


@pytest.mark.parametrize("changes", [
    {"pictures": lambda folder: draw_all((plane,), {}, folder)},  # a misspelt key in a picture
    {"documents": {"cpu-small": {"loss": math.nan}}},
])  # fmt: skip
def test_what_breaks_breaks_the_walk(here, capsys, changes):
    with pytest.raises((KeyError, ValueError)):
        walked(here, capsys, **changes)


@pytest.mark.parametrize(("error", "status", "said"), [
    (SystemExit(0), 2, "reproduce-demo: a job ended by sys.exit(0), which is no result; nothing is recorded"),
    (KeyboardInterrupt(), 130, "reproduce-demo: stopped. Finished jobs are kept: run it again to go on from here."),
])
def test_a_run_that_is_stopped_or_left_says_so_in_a_line_and_ends_at_once(here, capsys, error, status, said):
    """sys.exit(0) in a job made a run that recorded nothing end with status 0; one that was told to stop waited for its workers' jobs."""
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))

    def measure(rung, log):
        worker.start()
        raise error

    assert main(here, measure, ["--rung", "cpu"]) == status
    if status == 130:
        worker.join(30)
        assert not worker.is_alive()
    worker.kill()
    assert capsys.readouterr().err.strip() == said
    assert [path.name for path in (here / "results").rglob("C*.json")] == []


def test_what_smoke_leaves_is_no_other_rungs(monkeypatch, tmp_path):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    assert work_folder("demo", "cpu") == work_folder("demo", "gpu") == tmp_path / "demo"
    assert work_folder("demo", "smoke") == tmp_path / "demo" / "smoke"


def test_a_changed_tree_then_a_clean_one_with_the_same_result(here, monkeypatch, capsys):
    """The clean run's record takes the place of the other, and neither is called stale."""
    for dirty, kept in ((True, True), (False, False), (True, False)):  # a clean run's record stays before a changed tree's
        monkeypatch.setattr(reproduce, "start_run", lambda command, dirty=dirty: {
            "started_at": "2026-11-28T10:00:00+00:00", "commit": "a" * 40, "dirty": dirty, "command": command, "environment": {}})
        monkeypatch.setattr(reproduce, "git_state", lambda dirty=dirty: ("a" * 40, dirty))
        assert main(here, lambda rung, log: outcome(pictures=None), ["--rung", "cpu"]) == 0
        text = capsys.readouterr().out
        assert "stale:" not in text and " *" not in text and f'"dirty": {str(dirty).lower()}' in text
        assert '"adds-up": 1' in text and ("has changes that no commit holds" in text) == dirty
        assert reproduce.read_record(here / "results" / ".scratch" / "C1.analytic.json")["run"]["dirty"] == kept


def test_a_record_has_the_timing_of_the_measurements_beside_it(here, monkeypatch):
    """The same value again, e.g. of a memory, with another clock: the measurements are the second run's, and so is the record."""
    for second, spread in ((1, 0.01), (2, 0.02), (3, 0.02)):
        monkeypatch.setattr(reproduce, "start_run", lambda command, second=second: {
            "started_at": f"2026-11-28T10:00:0{second}+00:00", "commit": "a" * 40, "dirty": False, "command": command, "environment": {}})
        monkeypatch.setattr(reproduce, "git_state", lambda: ("a" * 40, False))
        timings = {"C2": {"iqr_relative": spread}}
        assert main(here, lambda rung, log, timings=timings: outcome(pictures=None, timings=timings), ["--rung", "cpu"]) == 0
        run = reproduce.read_record(here / "results" / ".scratch" / "C2.cpu-small.json")["run"]
        assert run["timing"]["iqr_relative"] == spread and run["started_at"].endswith(f"0{min(second, 2)}+00:00")


@pytest.mark.parametrize("text", ["<<<<<<< ours\n{}\n", "[]", '{"speech": 1}', '{"a": {}, "a": {}}'])
def test_a_damaged_table_of_sources_is_named_before_any_work(here, capsys, text):
    """At the end it would have been written anew without the other experiments' entries, or ended the run by a TypeError."""
    path = here / "results" / ".scratch" / "sources.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert main(here, lambda rung, log: pytest.fail("work was begun"), ["--rung", "cpu"]) == 2
    assert "sources.json: is no table of files and hashes" in capsys.readouterr().err and path.read_text() == text
