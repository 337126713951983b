"""Effects: where the interval lies, and what a word about it must rest on. Each of the rules has a measurement to which a
referee without it gave a word (what it said then stands beside)."""

import math

import pytest

from common.claims import effects, intervals
from common.claims.effects import ahead, p_values, placed
from common.claims.intervals import paired, share, summarize
from common.claims.verdict import verdict
from common.errors import RecordError
from tests.sample_records import CONTROLS, claim, held, one


def word(a_claim, measured):
    return verdict(a_claim, measured)[0]


def seeds(low, high, n=3):
    """n runs whose t interval is [low, high]: two away from the mean, the others on it."""
    mean, half = (low + high) / 2, (high - low) / 2
    spread = half * math.sqrt(n) / intervals.t_quantile(0.975, n - 1) * math.sqrt((n - 1) / 2)
    return held([mean - spread, *[mean] * (n - 2), mean + spread])


ABOVE, BELOW, WITHIN = (claim(rule, "cpu-small") for rule in ("above", "below", "within"))

# ---------------------------------------------------------------------------- where it lies


@pytest.mark.parametrize(("span", "expected"), [
    ((0.11, 0.3), "supports"), ((0.09, 0.3), "inconclusive"), ((-0.2, 0.09), "opposes"), ((-0.3, -0.1), "opposes"),
    ((-1.0, 1.0), "inconclusive")])  # fmt: skip
def test_above(span, expected):
    measured = seeds(*span)
    assert measured["ci95"] == pytest.approx(list(span))
    assert word(ABOVE, measured) == word(claim("above", "gpu-random-weights"), measured) == expected


@pytest.mark.parametrize(("span", "expected"), [
    ((-0.3, 0.09), "supports"), ((0.0, 0.11), "inconclusive"), ((0.11, 0.3), "opposes")])  # fmt: skip
def test_below(span, expected):
    assert word(BELOW, {**seeds(*span), "placebo": summarize([1.0, 1.1, 1.2])}) == expected


@pytest.mark.parametrize(("span", "expected"), [
    ((-0.04, 0.04), "supports"), ((-0.01, 0.06), "inconclusive"), ((-0.06, 0.01), "inconclusive"), ((0.06, 0.1), "opposes"),
    ((-0.1, -0.06), "opposes"), ((-1, 1), "inconclusive")])  # fmt: skip
def test_within(span, expected):
    assert word(WITHIN, seeds(*span)) == expected


def test_an_effect_where_the_papers_quantity_is_at_hand():
    assert word(claim("above", "paper-scale"), seeds(0.2, 0.3)) == "matches"
    for rule, value, expected in (("above", 0.2, "adds-up"), ("above", 0.1, "does-not-add-up"), ("below", 0.1, "does-not-add-up"),
                                  ("within", 0.05, "adds-up"), ("within", -0.0501, "does-not-add-up")):
        assert word(claim(rule, "analytic"), one(value)) == expected  # exact figures are decided, on the edge, too


def test_inconclusive_names_the_n_that_would_decide():
    measured = seeds(0.0, 0.4)  # value .2, threshold .1
    reason = verdict(ABOVE, measured)[1]
    size = intervals.n_needed(0.1, measured["stderr"], 3)
    assert f"about {size} runs would decide (n = 3)" in reason and size == 5
    assert "no number of runs below a million" in verdict(ABOVE, seeds(0.05, 0.15))[1]
    assert "run 3 seeds" in verdict(ABOVE, held([5.0]))[1]


def test_the_unit_is_the_quantitys_own():
    assert verdict(ABOVE, seeds(0.2, 0.3))[1].startswith("0.25 points, 95 % interval [0.2, 0.3], wanted above 0.1")
    assert verdict(claim("above", "cpu-small", protocol={"unit": "nats"}), seeds(0.2, 0.3))[1].startswith("0.25 nats, ")


# ----------------------------------------------------------------- 1: the unit of evidence


def test_rounds_of_one_process_are_no_processes():
    """Was: supports, as if five rounds were five runs."""
    timed = claim("above", "cpu-small", evidence="processes", topic="efficiency-measured")
    rounds = [1.30, 1.31, 1.32, 1.31, 1.30]
    assert word(timed, held(rounds)) == "inconclusive"
    assert "the claim is about processes, and the standard error is across-seeds" in verdict(timed, held(rounds))[1]
    assert word(timed, held(summarize([sum(rounds) / 5], 0.01, "processes"))) == "inconclusive"
    assert word(timed, held(summarize([1.30, 1.31, 1.32], over="processes"))) == "supports"
    assert word(timed, held(summarize([1.30, 1.31], over="processes"))) == "inconclusive"


def test_windows_of_two_documents_are_two():
    """Was: supports, on 32 windows as if each were an item of its own."""
    ours, theirs = [0.3 + 0.01 * (i % 5) for i in range(32)], [0.0] * 32
    about = claim("above", "cpu-small", evidence="items")
    assert word(about, held(paired(ours, theirs))) == "supports"  # what it would say of 32 documents
    measured = held(paired(ours, theirs, clusters=[i // 16 for i in range(32)]))
    assert word(about, measured) == "inconclusive"
    assert "it rests on 2 clusters of items; 30 are needed" in verdict(about, {**measured, "ci95": [0.2, 0.4]})[1]


def test_one_training_is_no_three_however_many_items_it_was_tested_on():
    """Was: supports, on thirty items of one trained model."""
    measured = held(paired([0.3 + 0.01 * (i % 5) for i in range(500)], [0.0] * 500))
    assert word(ABOVE, measured) == "inconclusive"
    assert "the claim is about trainings, and the standard error is paired (n_runs = 1)" in verdict(ABOVE, measured)[1]
    assert word(claim("above", "cpu-small", evidence="items"), seeds(0.2, 0.3)) == "inconclusive"  # nor the other way round


@pytest.mark.parametrize(("n", "expected"), [(29, "inconclusive"), (30, "supports")])
def test_thirty_clusters_carry_a_word(n, expected):
    about = claim("above", "cpu-small", evidence="items")
    values, clusters = [0.3 + 0.01 * (i % 5) for i in range(2 * n)], [i // 2 for i in range(2 * n)]
    assert word(about, held(paired(values, [0.0] * 2 * n, clusters))) == expected
    assert word(about, held(share(n - 1, n))) == expected


def test_where_nothing_says_what_is_counted_three_runs_or_thirty_items_are_needed():
    about = claim("above", "gpu-random-weights")
    assert [word(about, seeds(0.2, 0.3, n)) for n in (2, 3)] == ["inconclusive", "supports"]
    pairs = {"value": 0.2, "n_runs": 1, "stderr": 0.01, "stderr_kind": "paired"}
    assert [word(about, {**pairs, "n_items": n}) for n in (29, 30)] == ["inconclusive", "supports"]


# ------------------------------------------------------------------------------ 2: a placebo


def test_a_measure_that_its_placebo_passes_supports_nothing():
    """Was: supports; the model without the method is as diagonal."""
    dull = {**seeds(0.2, 0.3), "placebo": summarize([0.5, 0.51, 0.52])}
    got, reason, _ = verdict(ABOVE, dull)
    assert got == "inconclusive" and "the placebo, the no-op, passes, too (0.51): the measure does not discriminate" in reason
    assert word(ABOVE, {**dull, "placebo": summarize([-1.0, -1.1, -1.2])}) == "supports"


def test_a_placebo_that_spreads_too_much_to_pass_has_not_failed():
    """Was: supports; one poor training widened the rival's interval until it reached over the bar."""
    ours = held([0.19, 0.25, 0.31])
    got, reason, _ = verdict(ABOVE, {**ours, "placebo": summarize([0.0, 0.11, 0.4])})
    assert got == "inconclusive" and "the placebo, the no-op, neither fails (0.17, 95 % interval" in reason
    assert "nor is shown to be behind: about 16 runs would decide (n = 3)" in reason
    behind = summarize([0.05, 0.11, 0.18])  # its interval holds .1, and run by run it is .14 behind
    assert placed(ABOVE["protocol"]["rule"], behind)[0] is None and word(ABOVE, {**ours, "placebo": behind}) == "supports"
    assert "it leads, or cannot" in verdict(ABOVE, {**ours, "placebo": summarize([0.1, 0.2, 0.6])})[1]


def test_which_side_is_ahead_depends_on_the_rule():
    above, below = (a_claim["protocol"]["rule"] for a_claim in (ABOVE, BELOW))
    more, less = summarize([1.0, 1.2, 1.4]), summarize([0.0, 0.2, 0.41])
    assert ahead(above, more, less) and not ahead(above, less, more) and not ahead(above, more, more)
    assert ahead(below, less, more) and not ahead(below, more, less)
    assert not ahead(above, summarize([1.0, 1.2, 1.4], resolution=0.5), less), "less apart than the measure can tell"


def test_runs_of_unequal_number_are_ahead_where_intervals_do_not_meet():
    rule = ABOVE["protocol"]["rule"]
    items = {"value": 0.5, "n_runs": 1, "n_items": 100, "stderr": 0.05, "stderr_kind": "paired", "ci95": [0.4, 0.6]}
    assert ahead(rule, items, summarize([0.1, 0.2, 0.3])) is False  # up to .45
    assert ahead(rule, items, summarize([0.1, 0.11, 0.12])) is True and not ahead(rule, items, one(0.1))


def test_a_claim_at_its_bar_whose_placebo_passes_is_not_promised_that_runs_would_decide():
    """Was: about so many runs would decide; they would end in a measure that does not discriminate."""
    at_the_bar = seeds(0.09, 0.3)
    reason = verdict(ABOVE, {**at_the_bar, "placebo": summarize([0.5, 0.51, 0.52])})[1]
    assert "contains 0.1; and the placebo, the no-op, passes, too" in reason and "would decide" not in reason
    assert "would decide" in verdict(ABOVE, {**at_the_bar, "placebo": summarize([0.0, 0.11, 0.4])})[1]
    other_side = seeds(-0.3, 0.12)  # more runs would oppose, whatever the placebo does
    assert "would decide" in verdict(ABOVE, {**other_side, "placebo": summarize([0.5, 0.51, 0.52])})[1]


def test_a_placebo_without_an_interval_is_judged_by_its_point():
    """Else an arm of one run, or of equal runs, could never pass, and every measure would discriminate."""
    assert word(ABOVE, {**seeds(0.2, 0.3), "placebo": one(0.4)}) == "inconclusive"
    assert word(ABOVE, {**seeds(0.2, 0.3), "placebo": summarize([0.4, 0.4, 0.4])}) == "inconclusive"
    assert word(ABOVE, {**seeds(0.2, 0.3), "placebo": summarize([0.0, 0.0, 0.0])}) == "supports"


@pytest.mark.parametrize("measured", [summarize([0.3, 0.31, 0.32]), summarize([-3.0, -3.1, -3.2]), one(3.0)])
def test_a_control_that_is_not_there_is_an_error_whatever_the_word(measured):
    with pytest.raises(RecordError, match="demo/C1: protocol.placebo names 'the no-op', and measured.placebo is missing"):
        verdict(ABOVE, measured)
    with pytest.raises(RecordError, match="measured.sensitivity is missing"):
        verdict(WITHIN, {**measured, "placebo": CONTROLS["placebo"]})


# ------------------------------------------------------------------------------ 3: sensitivity


def test_an_equivalence_that_cannot_tell_what_differs_supports_nothing():
    """Was: supports, by a measure in which nothing differs."""
    blind = {**seeds(-0.04, 0.04), "sensitivity": summarize([0.01, 0.02, 0.03])}
    got, reason, _ = verdict(WITHIN, blind)
    assert got == "inconclusive" and "insensitive: a worse arm differ by 0.02" in reason and "are not told apart" in reason
    assert word(WITHIN, {**blind, "sensitivity": summarize([0.0, 0.1, 0.2])}) == "inconclusive"  # the edge is inside
    assert word(WITHIN, {**blind, "sensitivity": one(5.0)}) == "inconclusive"  # no interval, nothing told apart
    assert word(WITHIN, {**blind, "sensitivity": summarize([-5.0, -5.1, -5.2])}) == "supports"


@pytest.mark.parametrize(("values", "best", "expected"), [
    ([99.0, 100.0], 100, "inconclusive"),  # 99.5, SE 0.5
    ([99.2, 100.0, 100.0, 99.4], 100, "inconclusive"),  # 99.65, SE 0.21
    ([99.97, 99.98, 99.99], 100, "inconclusive"),  # further than two of its own errors, but by less than the rule allows
    ([100.0, 100.0, 100.0], 100, "inconclusive"),
    ([0.0, 0.0, 1.0], 0, "inconclusive"),  # a floor
    ([61.0, 62.0, 63.0], 100, "supports"),
])  # fmt: skip
def test_at_a_ceiling_nothing_can_differ(values, best, expected):
    """Was: supports, for 99 against 100 BLEU."""
    measured = {**seeds(-0.04, 0.04), "ceiling": {"values": values, "best": best}}
    got, reason, _ = verdict(WITHIN, measured)
    assert got == expected and ("is all that is possible" in reason) == (expected == "inconclusive")


# ------------------------------------------------------------- 4: no width of zero; 5: symmetry


def test_equal_values_decide_nothing_without_a_resolution():
    """Was: supports, by the interval [5, 5]."""
    assert word(ABOVE, held([5.0, 5.0, 5.0])) == "inconclusive"
    assert word(ABOVE, held(summarize([5.0, 5.0, 5.0], resolution=0.5))) == "supports"
    assert word(ABOVE, held(summarize([5.0, 5.0, 5.0], resolution=2.0))) == "inconclusive"  # 4.3 x 2 reaches below 0.1


@pytest.mark.parametrize("measured", [held([-5.0]), held([-5.0, -5.01]), held(paired([-5.0, -5.1] * 14, [0.0] * 28))])
def test_what_would_not_support_does_not_oppose(measured):
    """Was: contradicts, on one run, or two."""
    assert word(ABOVE, measured) == word(claim("above", "cpu-small", evidence="items"), measured) == "inconclusive"
    assert word(ABOVE, held([-5.0, -5.01, -5.02])) == "opposes"


# ------------------------------------------------------------------------------------ p-values


def test_p_values_by_hand():
    measured = summarize([0.2, 0.3, 0.4])  # .3, SE .1/sqrt 3: t = (.3 - .1) / .0577 = 3.4641 with 2 df, P = .0371
    holds, fails = p_values(ABOVE, measured)
    assert holds == pytest.approx(0.037090, abs=1e-5) and holds + fails == pytest.approx(1)
    assert p_values(BELOW, measured) == pytest.approx((fails, holds))
    # within ±.05: both sides must be refused, and the farther edge decides
    inside = summarize([-0.01, 0.0, 0.01])  # SE .00577: t = 8.660 on both sides, P = .00654
    assert p_values(WITHIN, inside) == pytest.approx((0.006536, 1 - 0.006536), abs=1e-5)
    assert p_values(ABOVE, one(3.0)) is None and p_values(ABOVE, summarize([1.0, 1.0, 1.0])) is None


def test_the_interval_and_the_p_value_say_the_same():
    for span in ((0.1001, 0.3), (0.0999, 0.3), (-0.2, 0.0999), (-0.2, 0.1001)):
        measured = seeds(*span)
        holds, fails = p_values(ABOVE, measured)
        assert placed(ABOVE["protocol"]["rule"], measured)[0] == (True if holds < 0.025 else False if fails < 0.025 else None)


def test_the_p_value_of_a_share_is_that_of_its_interval():
    """Wilson's interval is the score test turned round: its spread is that of the edge, not of the share."""
    items = claim({"above": 0.9}, "cpu-small", evidence="items")
    assert p_values(items, share(98, 100))[0] == pytest.approx(0.003830, abs=1e-6)  # z = .08 / sqrt(.9 * .1 / 100) = 2.6667
    assert p_values(claim({"above": 90.0}, "cpu-small", evidence="items"), share(98, 100, 100.0))[0] == pytest.approx(0.003830, abs=1e-6)
    assert p_values(claim({"above": 0.0}, "cpu-small", evidence="items"), share(1, 30)) == (0.0, 1.0)
    assert p_values(claim({"above": 0.0}, "cpu-small", evidence="items"), share(0, 30)) == (0.5, 0.5)
    for hits in range(41):
        for edge in (0.004, 0.1, 0.5, 0.9, 0.996):
            rule, measured = {"above": edge}, share(hits, 40)
            holds, fails = p_values(claim(rule, "cpu-small", evidence="items"), measured)
            assert placed(rule, measured)[0] == (True if holds < 0.025 else False if fails < 0.025 else None), (hits, edge)


def test_an_interval_without_a_standard_error_is_a_question_all_the_same():
    """A bootstrap gives an interval and no standard error: its claim is one of its paper's family."""
    measured = {"value": 0.3, "n_runs": 1, "n_items": 100, "stderr_kind": "bootstrap", "ci95": [0.1001, 0.4999]}
    holds, fails = p_values(claim("above", "cpu-small", evidence="items"), measured)
    assert 0.024 < holds < 0.025 and holds + fails == pytest.approx(1)


def test_the_numbers_of_the_referee():
    assert (intervals.MIN_RUNS, intervals.MIN_ITEMS, effects.DULL) == (3, 30, "does not discriminate")
