"""The little statistics, against textbooks, against scipy, and by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.claims import intervals
from common.claims.intervals import p_above, paired, share, summarize
from common.errors import RecordError


@pytest.mark.parametrize(
    "df, expected",  # the table in every textbook, P = 0.975
    [(1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (5, 2.570582), (10, 2.228139),
     (29, 2.045230), (30, 2.042272), (120, 1.979930), (1000, 1.962339), (10**6, 1.959966)],
)  # fmt: skip
def test_t_quantile_is_the_textbooks(df, expected):
    assert intervals.t_quantile(0.975, df) == pytest.approx(expected, abs=2e-6)


def test_t_quantile_does_not_jump_where_the_formula_changes():
    assert intervals.t_quantile(0.975, 1000) == pytest.approx(
        intervals.t_quantile(0.975, 1001), abs=1e-5
    )


def test_t_quantile_at_other_levels():
    for p, df, expected in [(0.95, 7, 1.894579), (0.995, 4, 4.604095), (0.9, 1, 3.077684)]:
        assert intervals.t_quantile(p, df) == pytest.approx(expected, abs=2e-6)
    assert intervals.t_quantile(0.5, 3) == pytest.approx(0)


def test_summarize_by_hand():
    got = summarize([1, 2, 3])  # s = 1, so SE = 1/sqrt(3), and t(2 df) = 4.302653
    assert got["value"] == 2 and got["n_runs"] == 3 and got["per_seed"] == [1, 2, 3]
    assert got["stderr"] == pytest.approx(1 / math.sqrt(3))
    assert got["stderr_kind"] == "across-seeds"
    assert got["ci95"] == pytest.approx([2 - 2.484138, 2 + 2.484138], abs=1e-6)


def test_one_run_has_no_interval():
    got = summarize([4.0])
    assert got["stderr"] is None and "ci95" not in got
    assert intervals.interval(got) is None


def test_paired_by_hand():
    got = paired(
        [3.0, 5.0, 4.0, 7.0], [2.0, 3.0, 3.0, 3.0]
    )  # differences 1 2 1 4: mean 2, s = sqrt 2
    assert got["value"] == 2 and got["n_items"] == 4 and got["n_runs"] == 1
    assert got["stderr"] == pytest.approx(math.sqrt(2) / 2)
    half = 3.182446 * math.sqrt(2) / 2
    assert got["ci95"] == pytest.approx([2 - half, 2 + half], abs=1e-6)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_summarize_refuses(bad):
    with pytest.raises(RecordError, match="summarize"):
        summarize(bad)


def test_paired_refuses_unequal_lengths():
    with pytest.raises(RecordError, match="got 2 and 1"):
        paired([1, 2], [1])


@settings(deadline=None)
@given(st.floats(0.01, 3), st.floats(0.01, 3), st.integers(2, 40))
def test_n_needed_is_the_smallest(distance, stderr, n):
    size = intervals.n_needed(distance, stderr, n)
    spread = stderr * math.sqrt(n)

    def half(m):
        return intervals.t_quantile(0.975, m - 1) * spread / math.sqrt(m)

    if size is None:
        assert spread / distance > 500
    else:
        assert half(size) < distance
        assert size == intervals.MIN_RUNS or half(size - 1) >= distance


# ------------------------------------------------------------------------------ no width of zero


def test_equal_values_have_the_resolution_of_their_measure_or_no_interval():
    assert "ci95" not in summarize([5.0, 5.0, 5.0])
    got = summarize([5.0, 5.0, 5.0], resolution=0.5)  # one item in two hundred, in per cent
    assert got["stderr"] == 0.5 and got["resolution"] == 0.5
    assert got["ci95"] == pytest.approx([5 - 4.302653 / 2, 5 + 4.302653 / 2], abs=1e-6)
    assert summarize([4.0, 5.0, 6.0], resolution=0.5)["stderr"] == pytest.approx(1 / math.sqrt(3))  # the spread is larger


def test_processes_are_no_trainings():
    assert summarize([1.0, 2.0, 3.0], over="processes")["stderr_kind"] == "across-processes"
    with pytest.raises(ValueError, match="rounds"):
        summarize([1.0, 2.0], over="rounds")


@pytest.mark.parametrize(("hits", "n", "low", "high"), [
    (8, 10, 0.4901625, 0.9433178),  # Wilson's interval as the textbooks have it
    (0, 10, 0.0, 0.2775328), (10, 10, 0.7224672, 1.0), (1, 100, 0.0017674, 0.0544862),
])  # fmt: skip
def test_a_share_has_wilsons_interval_even_at_its_ends(hits, n, low, high):
    got = share(hits, n)
    assert got["ci95"] == pytest.approx([low, high], abs=1e-6) and got["value"] == hits / n
    assert share(hits, n, 100)["ci95"] == pytest.approx([100 * low, 100 * high], abs=1e-4)
    assert got["stderr"] > 0 and got["n_items"] == n


@pytest.mark.parametrize("n", range(1, 60))
def test_a_share_of_none_and_of_all_ends_at_the_end_itself(n):
    """Rounding left 0.9999999999999999 and 2e-17 there, and a bound inside 0 and 100 %."""
    assert (share(0, n)["ci95"][0], share(n, n)["ci95"][1], share(n, n, 100)["ci95"][1]) == (0.0, 1.0, 100.0)
    assert 0 < share(0, n)["ci95"][1] < 1 and 0 < share(n, n)["ci95"][0] < 1


@pytest.mark.parametrize(("hits", "n"), [(11, 10), (-1, 10), (0, 0)])
def test_what_is_no_share_is_refused(hits, n):
    with pytest.raises(RecordError, match="items"):
        share(hits, n)


# ------------------------------------------------------------------------------------- clusters


def test_a_clustered_standard_error_by_hand():
    # mean 2.6; sums of deviations -3.2, 0.8, 2.4; 3/2 x (10.24 + 0.64 + 5.76) = 24.96, its root over 5
    got = paired([1, 1, 3, 3, 5], [0] * 5, clusters=["a", "a", "b", "b", "c"])
    assert got["value"] == pytest.approx(2.6) and (got["n_items"], got["n_clusters"]) == (5, 3)
    assert got["stderr"] == pytest.approx(math.sqrt(24.96) / 5) and got["stderr_kind"] == "clustered"
    half = 4.302653 * math.sqrt(24.96) / 5
    assert got["ci95"] == pytest.approx([2.6 - half, 2.6 + half], abs=1e-6)


def test_clusters_of_one_are_items_and_copies_add_nothing():
    ours = [1.0, 2.0, 4.0, 8.0]
    alone, clustered = paired(ours, [0] * 4), paired(ours, [0] * 4, clusters=range(4))
    assert alone["stderr"] == pytest.approx(clustered["stderr"]) and alone["ci95"] == pytest.approx(clustered["ci95"])
    copied = paired(ours * 50, [0] * 200, clusters=list(range(4)) * 50)
    assert copied["stderr"] == pytest.approx(clustered["stderr"]) and copied["ci95"] == pytest.approx(clustered["ci95"])
    with pytest.raises(RecordError, match="4 items, and clusters for 3"):
        paired(ours, [0] * 4, clusters=[1, 2, 3])
    assert "ci95" not in paired(ours, [0] * 4, clusters=["one"] * 4)


# ------------------------------------------------------------------------------------- p-values


@pytest.mark.parametrize(("t", "df", "p"), [(2.776445, 4, 0.025), (4.302653, 2, 0.025), (1.644854, 10**6, 0.05), (0.0, 3, 0.5)])
def test_p_above_is_the_tables(t, df, p):
    assert p_above(t, 1.0, 0.0, df + 1) == pytest.approx(p, abs=1e-6)
    assert p_above(-t, 1.0, 0.0, df + 1) == pytest.approx(1 - p, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.floats(-30, 30), st.integers(2, 200))
def test_p_above_is_scipys(t, n):
    from scipy import stats

    assert p_above(7 + 2 * t, 2.0, 7.0, n) == pytest.approx(stats.t.sf(t, n - 1), abs=1e-9)


def test_no_p_value_without_a_standard_error():
    for stderr, n in ((0.0, 3), (1.0, 1)):
        with pytest.raises(ValueError, match="p_above"):
            p_above(1.0, stderr, 0.0, n)
