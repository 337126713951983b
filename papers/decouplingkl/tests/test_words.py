"""From made-up results to words: each claim from both sides, with its arms exchanged, and with a placebo that passes, too."""

import pytest

from .. import quantities
from . import made_up
from .made_up import STRONG, WEAK, copied, strong, swapped, verdict, weak

IN_WEAK = list(quantities.weak(weak()))
IN_STRONG = list(quantities.strong(strong()))


def measured(name, found):
    return (quantities.strong if name in IN_STRONG else quantities.weak)(found)


def word(name, found):
    return verdict(name, measured(name, found))[0]


@pytest.mark.parametrize("claim", IN_WEAK + IN_STRONG)
def test_what_the_claim_says_supports_and_one_training_never_does(claim):
    found = strong() if claim in IN_STRONG else weak()
    assert verdict(claim, measured(claim, found))[0] == "supports", verdict(claim, measured(claim, found))
    assert word(claim, {name: result for name, result in found.items() if name.endswith("/seed0")}) == "inconclusive"


def but(made, arm, **values):
    """The arm's five numbers with some of them other ones."""
    names = ("avg", "passed", "tokens", "at_cap", "entropy")
    return {arm: tuple(values.get(name, value) for name, value in zip(names, made[arm]))}


@pytest.mark.parametrize("claim, changes", [
    ("C3e", but(WEAK, "SR", entropy=0.9)), ("C3f", but(WEAK, "TR", entropy=0.6)), ("C8s", but(WEAK, "SR", entropy=0.5)),
    ("C8t", but(WEAK, "SR", tokens=60.0, at_cap=0.1)), ("C8u", but(WEAK, "SF", entropy=0.5)), ("C8v", but(WEAK, "SF", at_cap=0.2)),
    ("C8w", but(WEAK, "short SR", at_cap=0.2)), ("C9a", but(WEAK, "mix 0.25", avg=0.04)), ("C9b", but(WEAK, "mix 0.25", at_cap=0.3)),
    ("C9c", but(WEAK, "mix 0.5", tokens=60.0, at_cap=0.1)), ("C10s", but(WEAK, "curriculum", tokens=120.0)),
    ("C10e", but(WEAK, "curriculum", entropy=0.2)), ("C10q", but(WEAK, "curriculum", avg=0.06)),
    ("C10r", but(WEAK, "curriculum", passed=0.2)),
    ("C15a", but(WEAK, "by entropy", entropy=0.3)), ("C16a", but(WEAK, "SF", avg=0.05))])
def test_the_contrary_opposes(claim, changes):
    assert word(claim, weak(changes)) == "opposes"


@pytest.mark.parametrize("claim, how", [
    ("C3g", {"changes": but(STRONG, "SR", entropy=0.6)}), ("C3h", {"changes": but(STRONG, "short SR", avg=0.2)}),
    ("C3p", {"changes": but(STRONG, "SR", passed=0.95)}), ("C4e", {"changes": but(STRONG, "TR", entropy=0.5)}),
    ("C4r", {"after": {"SF": 0.36}}), ("C4s", {"after": {"SF": 0.36}}), ("C5s", {"changes": but(STRONG, "SF", avg=0.2)}),
    ("C6s", {"curves": {"TF": [0.27, 0.27, 0.27, 0.25]}}), ("C7s", {"changes": but(STRONG, "SF", avg=0.2)}),
    ("C7t", {"changes": but(STRONG, "SR", avg=0.2)}), ("C7u", {"changes": but(STRONG, "SF", avg=0.29)}),
    ("C8x", {"changes": but(STRONG, "SR", tokens=60.0, at_cap=0.03)}), ("C8y", {"changes": but(STRONG, "one end", at_cap=0.3)})])
def test_the_contrary_of_the_better_student_opposes(claim, how):
    assert word(claim, strong(**how)) == "opposes"


@pytest.mark.parametrize("claim, one, other", [("C9s", "SF", "SR"), ("C9t", "SF", "SR"), ("C3e", "SF", "SR"), ("C3f", "TF", "TR"),
                                              ("C10s", "curriculum", "SR"), ("C10e", "curriculum", "SR"), ("C16a", "SF", "start")])
def test_arms_that_change_places_never_support(claim, one, other):
    found = swapped(weak(), one, other)
    for seed in range(3):  # what describes the start stays where it is
        found[f"start/seed{seed}"] = found[f"start/seed{seed}"] | {"model": {}, "teacher": {}}
    assert word(claim, found) in ("opposes", "inconclusive")
    if claim not in ("C9s", "C9t"):  # ranks: two of five places exchanged leave a correlation that nothing decides
        assert word(claim, found) == "opposes"


PLACEBOS = {  # (arm, its placebo): the placebo comes out as the arm did
    "C3e": ("SR", "SF again"), "C3f": ("SR", "SF again"), "C8s": ("SR", "SF"), "C8t": ("SR", "short SR"), "C8u": ("SF", "SR"),
    "C8v": ("SF", "SR"), "C8w": ("short SR", "SR"), "C9a": ("mix 0.25", "shuffled"), "C9b": ("mix 0.25", "SR"), "C9c": ("mix 0.5", "SF"),
    "C10s": ("curriculum", "ladder"), "C10e": ("curriculum", "ladder"), "C10q": ("curriculum", "ladder"),
    "C10r": ("curriculum", "ladder"), "C15a": ("by entropy", "SR"), "C16a": ("SF", "shuffled")}


@pytest.mark.parametrize("claim", PLACEBOS)
def test_a_placebo_that_passes_takes_the_word_away(claim):
    said = verdict(claim, quantities.weak(copied(weak(), *PLACEBOS[claim])))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


@pytest.mark.parametrize("claim, placebo", [("C3g", "SF again"), ("C3p", "SF again")])
def test_a_placebo_of_the_better_student_takes_the_word_away(claim, placebo):
    said = verdict(claim, quantities.strong(copied(strong(), "SR", placebo, "strong/")))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


@pytest.mark.parametrize("claim, how", [("C4r", {"after": {"start": 0.45}}), ("C4s", {"after": {"start": 0.45}}),
                                       ("C8y", {"changes": but(STRONG, "SR", at_cap=0.7)})])
def test_what_would_have_come_anyway_takes_the_word_away(claim, how):
    said = verdict(claim, quantities.strong(strong(**how)))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


# -- quantities by hand ------------------------------------------------------------------------------------
def test_ranks_by_hand():
    assert quantities.spearman((0, 1, 2), (5, 7, 9)) == pytest.approx(1) and quantities.spearman((0, 1, 2), (9, 7, 5)) == pytest.approx(-1)
    assert quantities.spearman((1, 2, 3, 4, 5), (1, 2, 3, 5, 4)) == pytest.approx(0.9)  # 1 - 6 x 2 / (5 x 24)
    assert quantities.spearman((0, 1, 2), (3, 3, 4)) == pytest.approx(3**0.5 / 2)  # ties: ranks .5, .5, 2
    assert quantities.spearman((0, 1, 2), (4, 4, 4)) == 0
    assert quantities.spearman(quantities.ANOTHER_ORDER, quantities.SHARES) == pytest.approx(0)
    assert quantities.SHARES == (0, 0.25, 0.5, 0.75, 1)


def test_quantities_by_hand():
    arms = quantities.Arms(weak({"SR": (0.1, 0.4, 94.0, 0.1, 0.315), "TR": (0.1, 0.4, 47.0, 0.5, 0.4)}))
    assert arms.kept(0, "SR") == pytest.approx(0.5) and arms.sharper(0, "SR", "start") == pytest.approx(0.315)
    assert arms.inflation(0, "SR") == pytest.approx(2 / 1.5) and arms.inflation(0, "TR") == pytest.approx(2.5)
    assert arms.gained(0, "SR") == pytest.approx(4) and arms.passed(0, "SR") == pytest.approx(40)
    assert arms.shorter(0, "start", "SR") == pytest.approx(100) and arms.item() == pytest.approx(100 / 512)


def test_both_sources_and_both_directions_count():
    arms = quantities.Strong(strong())
    assert arms.sources(0, "student") == pytest.approx((38 + 36) / 2 - (32 + 31) / 2)
    assert arms.improved(0, "SF", 60) == pytest.approx(12) and arms.improved(0, "start", 20) == pytest.approx(1)


def test_matched_compute_takes_the_last_probe_that_costs_no_more():
    """An update on student prefixes costs 2.7 times one on cached logits: 60 of these pay for 22; the probe at 20 counts."""
    found = strong(curves={"SF": [0.2, 0.3, 0.9, 0.9], "TF": [0.2, 0.2, 0.2, 0.35]})
    ours, start = (quantities.Strong(found).per_flop(0, arm) for arm in ("TF", "start"))
    assert ours == pytest.approx(5) and start == pytest.approx(-10)


def test_seeds_are_those_that_the_results_hold():
    """A document made with SEEDS=8 is read as one of eight, whatever a run would do now."""
    for found in (quantities.weak(made_up.weak(seeds=8)), quantities.strong(made_up.strong(seeds=8))):
        assert all(m["n_runs"] == 8 == m["placebo"]["n_runs"] for m in found.values())
