"""The verdict rule: hand-computed intervals, every word from both sides, and no word too many."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.claims import intervals
from common.claims.records import paired, summarize, verdict
from common.claims.verdict import READS
from common.errors import RecordError
from tests.sample_records import claim, one, record


def word(a_claim, measured, *more):
    return verdict(a_claim, measured, *more)[0]


# ------------------------------------------------------------------------------------- statistics


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


# ------------------------------------------------------------------ the words: comparing rules


@pytest.mark.parametrize(
    "value, expected",
    [(100, "matches"), (105, "matches"), (95, "matches"), (105.1, "contradicts"),
     (94.9, "contradicts"), (200, "contradicts")],
)  # fmt: skip
def test_relative_has_two_sides(value, expected):
    assert word(claim("relative"), one(value)) == expected


def test_better_than_the_paper_is_no_match_and_says_so():
    got, reason, _ = verdict(claim("relative"), one(120))
    assert got == "contradicts" and "better than the paper" in reason and "20 %" in reason
    got, reason, _ = verdict(claim("relative", up=False), one(120))
    assert got == "contradicts" and "better" not in reason


def test_tolerance_is_not_spoilt_by_binary():
    assert word(claim({"type": "relative", "tolerance": 0.1}, paper=0.3), one(0.33)) == "matches"


def test_relative_to_a_negative_value():
    assert word(claim("relative", paper=-100.0), one(-104)) == "matches"
    assert word(claim("relative", paper=-100.0), one(-106)) == "contradicts"


@pytest.mark.parametrize("value, expected", [(524416, "matches"), (524417, "contradicts")])
def test_exact(value, expected):
    got, reason, _ = verdict(claim("exact", "analytic", paper=524416), one(value))
    assert got == expected and "524,416" in reason and reason.startswith("Recomputed")


def test_the_papers_own_arithmetic_can_contradict_it():
    rule = {"type": "absolute", "tolerance": 0.0005}
    got, reason, _ = verdict(claim(rule, "analytic", paper=0.007), one(0.00778202))
    assert got == "contradicts" and "the paper's own arithmetic" in reason
    assert "0.00778202" in reason and "0.0005" in reason


def test_an_interval_across_the_edge_is_inconclusive_from_inside_and_outside():
    rule = {"type": "absolute", "tolerance": 2.0}
    inside = {"value": 101.0, "n_runs": 3, "stderr": 1.0, "stderr_kind": "across-seeds"}
    got, reason, _ = verdict(claim(rule), inside)
    assert got == "inconclusive"
    assert f"about {intervals.n_needed(1.0, 1.0, 3)} runs" in reason
    assert word(claim(rule), {**inside, "value": 103.0}) == "inconclusive"
    assert word(claim(rule), {**inside, "value": 110.0}) == "contradicts"
    assert word(claim(rule), {**inside, "stderr": 0.1}) == "matches"


def test_z_by_hand():
    about = {"paper_more": {"stderr": 0.3}}  # allowed: 1.96 * hypot(.4, .3) = .98
    z = claim("z", paper=70.0, **about)
    for value, expected in [(70.97, "matches"), (69.03, "matches"), (70.99, "contradicts")]:
        assert word(z, one(value, stderr=0.4)) == expected
    wide = claim({"type": "z", "alpha": 0.01}, paper=70.0, **about)  # 2.576 * .5 = 1.288
    assert word(wide, one(71.2, stderr=0.4)) == "matches"
    assert word(z, one(70.0)) == "inconclusive"


def test_z_with_binomial_errors():
    about = {"paper_more": {"unit": "%", "n_items": 1319}}  # GSM8K at 80 %: SE 1.10 points
    z = claim("z", paper=80.0, **about)
    assert word(z, one(77.0, n_items=1319)) == "matches"
    assert word(z, one(76.5, n_items=1319)) == "contradicts"
    assert "3.1" in verdict(z, one(77.0, n_items=1319))[1]
    no_proportion = claim("z", paper=80.0, paper_more={"n_items": 1319})
    with pytest.raises(RecordError, match="paper.stderr"):
        verdict(no_proportion, one(77.0, stderr=1.0))


def test_prediction_interval_by_hand():
    # mean 2, s = 1, n = 3: half = 4.302653 * sqrt(4/3) = 4.968276
    for paper, expected in [(6.96, "matches"), (-2.96, "matches"), (6.98, "contradicts")]:
        assert word(claim("prediction-interval", paper=paper), summarize([1, 2, 3])) == expected
    assert word(claim("prediction-interval", paper=2.0), summarize([1, 2])) == "inconclusive"


# --------------------------------------------------------------------- the words: effect rules


def seeds(low, high, n=3):
    """n runs whose t interval is [low, high]: two away from the mean, the others on it."""
    mean, half = (low + high) / 2, (high - low) / 2
    spread = half * math.sqrt(n) / intervals.t_quantile(0.975, n - 1) * math.sqrt((n - 1) / 2)
    return summarize([mean - spread, *[mean] * (n - 2), mean + spread])


@pytest.mark.parametrize(
    "span, expected",
    [((0.11, 0.3), "supports"), ((0.09, 0.3), "inconclusive"), ((-0.2, 0.09), "contradicts"),
     ((-0.3, -0.1), "contradicts"), ((-1.0, 1.0), "inconclusive")],
)  # fmt: skip
@pytest.mark.parametrize("rung", ["cpu-small", "gpu-random-weights"])
def test_direction(span, expected, rung):
    measured = seeds(*span)
    assert measured["ci95"] == pytest.approx(list(span))
    assert word(claim("direction", rung), measured) == expected


@pytest.mark.parametrize(
    "span, expected",
    [((-0.04, 0.04), "supports"), ((-0.01, 0.06), "inconclusive"), ((-0.06, 0.01), "inconclusive"),
     ((0.06, 0.1), "contradicts"), ((-0.1, -0.06), "contradicts"), ((-1, 1), "inconclusive")],
)  # fmt: skip
def test_equivalence(span, expected):
    assert word(claim("equivalence", "cpu-small"), seeds(*span)) == expected


def test_small_rungs_never_match_whatever_the_rule():
    for kind in ("quality", "efficiency-analytic", "finding", "training-cost"):
        for rung in ("cpu-small", "gpu-random-weights"):
            for rule in ("exact", "relative", "absolute", "z", "prediction-interval"):
                with pytest.raises(RecordError, match="protocol.rule.type"):
                    verdict(claim(rule, rung, kind), one(100.0))
            for rule in ("direction", "equivalence"):
                assert word(claim(rule, rung, kind), seeds(0.01, 0.02)) != "matches"


def test_a_device_quantity_at_real_size_may_match():
    timed = claim("relative", "gpu-random-weights", "efficiency-measured", paper=1.44)
    assert word(timed, one(1.45)) == "matches" and word(timed, one(1.60)) == "contradicts"


def test_direction_where_the_papers_quantity_is_at_hand():
    assert word(claim("direction", "paper-scale"), seeds(0.2, 0.3)) == "matches"
    assert word(claim("direction", "analytic"), one(0.2)) == "matches"
    assert word(claim("direction", "analytic"), one(0.05)) == "contradicts"


def test_supports_needs_three_seeds_or_thirty_pairs():
    for n, expected in [(2, "inconclusive"), (3, "supports")]:
        assert word(claim("direction", "cpu-small"), seeds(0.2, 0.3, n)) == expected
    pairs = {"value": 0.2, "n_runs": 1, "stderr": 0.01, "stderr_kind": "paired"}
    assert word(claim("direction", "cpu-small"), {**pairs, "n_items": 30}) == "supports"
    assert word(claim("direction", "cpu-small"), {**pairs, "n_items": 29}) == "inconclusive"
    sampled = {**pairs, "n_items": 300, "stderr_kind": "sample"}
    assert word(claim("direction", "cpu-small"), sampled) == "inconclusive"
    assert "run 3 seeds" in verdict(claim("direction", "cpu-small"), one(5.0))[1]


def test_inconclusive_names_the_n_that_would_decide():
    measured = seeds(0.0, 0.4)  # value .2, threshold .1
    reason = verdict(claim("direction", "cpu-small"), measured)[1]
    size = intervals.n_needed(0.1, measured["stderr"], 3)
    assert f"about {size} runs would decide (n = 3)" in reason and size == 5
    reason = verdict(claim("direction", "cpu-small"), seeds(0.05, 0.15))[1]
    assert "no number of runs below a million" in reason


def test_noisy_timings_decide_nothing():
    timed = claim("relative", "gpu-random-weights", "efficiency-measured", paper=1.44)
    got, reason, _ = verdict(timed, one(1.44), {"iqr_relative": 0.21})
    assert got == "inconclusive" and "21 %" in reason
    assert word(timed, one(1.44), {"iqr_relative": 0.20}) == "matches"
    assert word(claim("relative"), one(100), {"iqr_relative": 0.9}) == "matches"  # not about time


def test_not_run_and_not_checkable_need_no_measurement():
    blocked = claim(blocked_by=["weights", "gpu"])
    assert verdict(blocked, None)[::2] == ("not-run", ["weights", "gpu"])
    assert "weights, gpu" in verdict(blocked, None)[1]
    assert word(blocked, one(100)) == "matches"  # once it was measured after all
    assert verdict(claim(), None, None, ["time"])[::2] == ("not-run", ["time"])
    undefined = claim(status="not-checkable", note="No window is given.", paper=None)
    assert verdict(undefined, None) == ("not-checkable", "No window is given.", [])
    assert word(undefined, one(3.0)) == "not-checkable"
    with pytest.raises(RecordError, match="measured.value is missing"):
        verdict(claim(), None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_numbers_that_are_none_are_errors(bad):
    for measured in (one(bad), one(1.0, stderr=bad), one(1.0, ci95=[0.0, bad])):
        with pytest.raises(RecordError, match="diverged"):
            verdict(claim(), measured)
    with pytest.raises(RecordError, match=r"measured.details.ppl"):
        record(measured=one(100.0, details={"ppl": bad}))


finite = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(READS)),
    st.sampled_from(["analytic", "cpu-small", "gpu-random-weights", "paper-scale"]),
    st.sampled_from(["quality", "efficiency-measured", "invariant"]),
    st.lists(finite, min_size=1, max_size=6),
    finite,
    st.booleans(),
)
def test_any_finite_measurement_gets_a_word_and_a_sentence(rule, rung, kind, values, paper, up):
    about = {"stderr": 1.0} if rule == "z" else {}
    try:
        got, reason, _ = verdict(
            claim(rule, rung, kind, paper, up, paper_more=about), summarize(values)
        )
    except RecordError as error:
        assert "protocol.rule" in str(error)  # refused: could not decide at this rung
        return
    assert got in ("matches", "supports", "contradicts", "inconclusive")
    assert reason.endswith(".") and "\n" not in reason
    small = rung == "cpu-small" or (rung == "gpu-random-weights" and kind != "efficiency-measured")
    assert not (small and got == "matches")
    assert not (rung in ("analytic", "paper-scale") and got == "supports")
