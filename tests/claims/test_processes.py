"""Timings as evidence, by hand: processes are the sample, rounds their resolution, and the worst case counts."""

import pytest

from common.claims.processes import extreme, over_processes
from common.errors import RecordError


def test_processes_are_the_sample_and_rounds_their_resolution():
    measured = over_processes([[90, 100, 110], [99, 100, 101]])
    assert measured["value"] == 100 and measured["n_runs"] == 2 and measured["stderr_kind"] == "across-processes"
    assert measured["stderr"] == pytest.approx((10**2 / 3 + 1 / 3) ** 0.5 / 2)


def test_one_round_tells_nothing_of_itself():
    measured = over_processes([[2.0], [3.0]])
    assert measured["value"] == 2.5 and "resolution" not in measured
    assert over_processes([[1.0, 2.0]])["resolution"] == pytest.approx(0.5)


def test_the_worst_case_is_chosen_in_each_process_by_its_median():
    """Medians 2 and 3 of the first process, 5 and 4 of the second: by the means (9 and 3 at first) it would be another."""
    cases = {"short": [[1, 2, 24], [5, 5, 5]], "long": [[3, 3, 3], [4, 4, 4]]}
    assert extreme(cases)["per_seed"] == [3, 5]
    assert extreme(cases, min)["per_seed"] == [2, 4]


def test_cases_of_different_processes_are_refused():
    with pytest.raises(ValueError, match="zip"):
        extreme({"short": [[1.0], [2.0]], "long": [[1.0]]})
    with pytest.raises(RecordError, match="no values"):
        extreme({})
