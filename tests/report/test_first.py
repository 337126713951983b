"""The first view of a paper: what stands beside its headline's word."""

from common.claims.headlines import Headline
from common.report.first import first_lines
from common.report.papers import Paper
from common.report.rows import Row


def line(rung: str, word: str, rows: list[Row]) -> tuple[str, str]:
    paper = Paper("demo", "Demo: a paper", here=True)
    paper.headlines = [Headline("h", "All is kept.", "all is kept", "98 %", "a GPU", word, rung, {"C1": word, "C2": "not-run"}, "C1", None)]
    paper.rows = rows
    return first_lines([paper])[0].small


def row(flag: str, word: str = "opposes", name: str = "C2", rung: str = "cpu-small") -> Row:
    return Row(f"demo/{name}", rung, record={"verdict": {"word": word, "reason": ""}}, flag=flag)


def test_a_row_that_older_code_ran_is_named_and_not_called_unrun():
    assert line("analytic", "adds-up", [row("older")]) == (
        "adds-up", "exact arithmetic; in the small by older code: C2 opposes")
    assert line("analytic", "adds-up", []) == ("adds-up", "exact arithmetic; not run in the small")
    for other in (row(""), row("stale"), row("older", name="C3"), row("older", rung="paper-scale")):
        assert line("analytic", "adds-up", [other]) == ("adds-up", "exact arithmetic; not run in the small")


def test_beside_rows_of_today_and_where_nothing_else_is_there():
    assert line("cpu-small", "supports", [row("older")]) == ("supports", "in the small by older code: C2 opposes")
    assert line("", "not-run", [row("older")]) == ("", "in the small by older code: C2 opposes")


def test_one_of_several_is_named_and_it_is_one_that_opposes():
    """A line is read at a glance: ten rows of older code make it no longer than two."""
    both = [row("older", "supports", "C1"), row("older")]
    assert line("analytic", "adds-up", both) == ("adds-up", "exact arithmetic; in the small by older code: C2 opposes and 1 more")
