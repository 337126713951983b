"""The referee: every word from both sides, and no word too many. Effects have a file of their own, test_effects.py."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.claims import intervals
from common.claims.intervals import summarize
from common.claims.rules import COMPARING, EFFECT, KINDS, WORDS, WORDS_OF
from common.claims.verdict import verdict
from common.errors import RecordError
from tests.sample_records import claim, held, one, record


def word(a_claim, measured, *more):
    return verdict(a_claim, measured, *more)[0]


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
    assert word(claim({"relative": 0.1}, paper=0.3), one(0.33)) == "matches"


def test_relative_to_a_negative_value():
    assert word(claim("relative", paper=-100.0), one(-104)) == "matches"
    assert word(claim("relative", paper=-100.0), one(-106)) == "contradicts"


@pytest.mark.parametrize("value, expected", [(524416, "adds-up"), (524417, "does-not-add-up")])
def test_equals(value, expected):
    got, reason, _ = verdict(claim("equals", "analytic", paper=524416), one(value))
    assert got == expected and "524,416" in reason and reason.startswith("Recomputed")
    assert word(claim("equals", paper=524416), one(value)) == {"adds-up": "matches", "does-not-add-up": "contradicts"}[expected]


def test_the_papers_own_arithmetic_need_not_add_up():
    got, reason, _ = verdict(claim({"absolute": 0.0005}, "analytic", paper=0.007), one(0.00778202))
    assert got == "does-not-add-up" and "the paper's own arithmetic" in reason
    assert "0.00778202" in reason and "0.0005" in reason


def test_an_interval_across_the_edge_is_inconclusive_from_inside_and_outside():
    rule = {"absolute": 2.0}
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
    wide = claim({"z": 0.01}, paper=70.0, **about)  # 2.576 * .5 = 1.288
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


def test_equal_runs_predict_no_number_to_the_last_digit():
    """No interval of width zero: three runs at 100.2 do not refute 100."""
    rule, equal = claim("prediction-interval", paper=100.0), [100.2] * 3
    found, sentence, _ = verdict(rule, summarize(equal))
    assert found == "inconclusive" and "3 equal runs predict nothing" in sentence
    # 4.302653 * 0.1 * sqrt(4/3) = .4968: what the measure cannot tell apart is its least spread
    assert word(rule, summarize(equal, resolution=0.1)) == "matches"
    assert word(claim("prediction-interval", paper=99.7), summarize(equal, resolution=0.1)) == "contradicts"


# ------------------------------------------------------------------------------ all rules


def test_a_kind_gets_its_own_words_and_no_other():
    assert set(WORDS_OF) == set(KINDS) and {word for words in WORDS_OF.values() for word in words} < set(WORDS)
    rules = {"measured": ("absolute", "paper-scale"), "arithmetic": ("absolute", "analytic")}
    for kind, (holds, fails) in WORDS_OF.items():
        rule, rung = rules.get(kind, ("below", "cpu-small"))
        a_claim = claim({rule: 0.5}, rung, kind, paper=0.0)
        controls = {} if kind in rules else {"placebo": summarize([2.0, 2.1, 2.2])}
        for values, expected in (([0.1, 0.11, 0.12], holds), ([3.0, 3.1, 3.2], fails)):
            assert word(a_claim, summarize(values) | controls) == expected


@pytest.mark.parametrize(("changes", "field"), [
    (dict(kind="arithmetic", rung="cpu-small"), "kind is arithmetic"),
    (dict(kind="measured", rung="cpu-small"), "kind is measured"),
    (dict(kind="measured", rung="analytic"), "kind is measured"),
    (dict(kind="small", rung="paper-scale"), "kind is small"),
    (dict(kind="small", rung="analytic"), "kind is small"),
    (dict(kind="small", rung="cpu-small", rule="relative"), "protocol.rule is relative, which compares with the paper's number"),
    (dict(kind="ours", rung="analytic", rule="equals"), "protocol.rule is equals, which compares"),
    (dict(rung="cpu-small", rule={"above": 1, "below": 2}), "this one has above, below"),
    (dict(rung="cpu-small", rule="above", protocol={"placebo": ""}), "protocol.placebo is missing: the arm that must fail"),
    (dict(rung="cpu-small", rule="within", protocol={"sensitivity": ""}), "protocol.sensitivity is missing"),
    (dict(rung="cpu-small", rule="above", evidence="exact"), "protocol.evidence is missing"),
    (dict(rule={"within": -1}, rung="cpu-small"), "within must be given, not negative"),
    (dict(rule="relative", paper=0), "use absolute"),
    (dict(rule="absolute", paper=None), "paper.value is missing"),
])  # fmt: skip
def test_a_rule_that_could_never_decide_is_refused(changes, field):
    with pytest.raises(RecordError, match=field):
        verdict(claim(**changes), held([0.3, 0.31, 0.32]))


def test_noisy_timings_decide_nothing():
    timed = claim("relative", "gpu-random-weights", paper=1.44, topic="efficiency-measured")
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
    st.sampled_from(sorted([*COMPARING, *EFFECT])),
    st.sampled_from(["analytic", "cpu-small", "gpu-random-weights", "paper-scale"]),
    st.sampled_from(KINDS),
    st.lists(finite, min_size=1, max_size=6),
    finite,
    st.booleans(),
)
def test_any_finite_measurement_gets_a_word_and_a_sentence(rule, rung, kind, values, paper, up):
    about = {"stderr": 1.0} if rule == "z" else {}
    try:
        got, reason, _ = verdict(claim(rule, rung, kind, paper, up, paper_more=about), held(values))
    except RecordError as error:
        assert "protocol.rule" in str(error) or "kind" in str(error)  # refused: could not decide at this rung
        return
    assert got in (*WORDS_OF[kind], "inconclusive")
    assert reason.endswith(".") and "\n" not in reason
    assert not (rung == "cpu-small" and got in ("matches", "contradicts"))
