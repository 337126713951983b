"""The table of docs/reliability.md is what the lists of the tests give."""

import re

from tests import reliability
from tests.test_faults import FAULTS, Fault


def test_the_page_says_these_counts():
    assert reliability.shown() == reliability.table(), "python -m tests.reliability writes it"


def test_the_sum_is_of_the_rows_and_a_lost_case_shows(monkeypatch):
    cells = [[int(n) for n in re.findall(r"\| \**(\d+)\**", line)] for line in reliability.table().splitlines()[2:]]
    assert [sum(column) for column in zip(*cells[:-1])] == cells[-1] and cells[-1][2] == 0
    monkeypatch.setattr(reliability, "FAULTS", [*FAULTS, Fault("sunspots", "a big one", "result", print, "nobody knows")])
    assert "| sunspots | 1 | 0 | 1 | the right result |" in reliability.table()


def test_names_of_cases_are_told_apart():
    for cases in (FAULTS, reliability.ATTEMPTS):
        assert len({(c.group, c.name) for c in cases}) == len(cases) and {c.ends for c in cases} <= set(reliability.ENDS)
