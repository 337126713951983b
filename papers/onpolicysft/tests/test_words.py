"""From made-up results to words: each claim from both sides, with its arms exchanged, and with a placebo that passes, too."""

import pytest

from .. import quantities
from . import made_up
from .made_up import chains, copied, sums, swapped, verdict

IN_CHAINS = [name for claim in made_up.CLAIMS if (name := claim["id"].partition("/")[2]) in quantities.chains(chains())]
IN_SUMS = ["C1n", "C1m", "C4m", "C4n", "C6n", "C8n", "C14n"]


def word(name, results):
    return verdict(name, (quantities.sums if name in IN_SUMS else quantities.chains)(results))[0]


@pytest.mark.parametrize("claim", IN_CHAINS + IN_SUMS)
def test_what_the_claim_says_supports_and_one_training_never_does(claim):
    found = sums() if claim in IN_SUMS else chains()
    assert word(claim, found) == "supports"
    assert word(claim, {name: result for name, result in found.items() if name.endswith("/seed0")}) == "inconclusive"


# The method and what it is held against, or for a variant the method
ARMS = {"C1s": ("opsft", "base"), "C1t": ("opsft", "base"), "C1v": ("opsft", "by lot"), "C1w": ("opsft", "best of n"),
        "C1u": ("opsft", "best of n"), "C4a": ("opsft", "grpo, length"), "C4b": ("opsft", "grpo, length"), "C6a": ("opsft", "grpo"),
        "C7a": ("opsft", "grpo"), "C8a": ("opsft", "fixed data"), "C8b": ("opsft", "fixed data"),
        "C9a": ("T 1.5", "opsft"), "C9b": ("T 1.5", "opsft"),
        "C9c": ("T 0.6", "opsft"), "C10": ("opsft", "G 4"), "C11": ("L 24", "opsft"), "C12": ("seq", "opsft"), "C14a": ("opsft", "by lot")}
IN_THE_PLACE = {"C1n": ("opsft", "base"), "C1m": ("opsft", "base"), "C4m": ("opsft", "grpo, length"), "C4n": ("opsft", "grpo, length"),
                "C6n": ("opsft", "grpo"), "C8n": ("opsft", "fixed data")}


@pytest.mark.parametrize("claim", ARMS)
def test_arms_that_change_places_turn_the_word(claim):
    assert word(claim, swapped(chains(), *ARMS[claim])) == "opposes"


@pytest.mark.parametrize("claim", IN_THE_PLACE)
def test_arms_of_the_real_model_that_change_places_turn_the_word(claim):
    assert word(claim, swapped(sums(), *IN_THE_PLACE[claim], "sums/")) == "opposes"


def kept(seed):
    return {"history": {"loss per token": [0.1], "kept": [1.0, 0.95 + 0.01 * seed], "kept length": [20.0] * 2, "length": [20.0] * 2}}


def falling(seed):
    return {"history": {"loss per token": [0.2 - (0.01 + 0.001 * seed) * i for i in range(10)]}}


def blind(seed):
    return {"divergence": {"AUC, wait or restart against the rest": 0.7 + 0.001 * seed, "AUC, separator against the rest": 0.99}}


def skipping(seed):
    return {"skips a step": 0.05}


def late(seed):
    return {"curve": [[0, 0.8, 60.0], [5, 0.7, 20.0], [40, 0.7, 20.0]]}


def soon(seed):
    return {"curve": [[0, 0.8, 60.0], [5, 0.9, 20.0], [40, 0.9, 20.0]]}


@pytest.mark.parametrize("claim, changes", [
    ("C1s", {"opsft": (0.95, 30.0)}), ("C1t", {"opsft": (0.83, 18.0)}), ("C1u", {"opsft": skipping}), ("C1v", {"by lot": (0.3, 12.0)}),
    ("C1w", {"best of n": (0.97, 17.0)}), ("C4a", {"fixed data": (0.97, 17.0)}), ("C4b", {"grpo, length": (0.97, 30.0)}),
    ("C5c", {"opsft": kept}), ("C6a", {"grpo": soon, "opsft": late}), ("C8a", {"fixed data": (0.78, 17.0)}),
    ("C8b", {"fixed data": (0.97, 28.0)}), ("C9a", {"T 1.5": falling}), ("C9b", {"T 1.5": (0.93, 40.0)}), ("C9c", {"T 0.6": (0.97, 17.0)}),
    ("C10", {"G 4": (0.97, 25.0)}), ("C11", {"L 24": (0.97, 17.0)}), ("C12", {"seq": (0.95, 17.0)}), ("C14a", {"opsft": blind})])
def test_the_contrary_opposes(claim, changes):
    assert word(claim, chains(changes)) == "opposes"


PLACEBOS = {  # (arm, its placebo): the placebo comes out as the arm did
    "C1s": ("opsft", "best of n"), "C1t": ("opsft", "grpo, length"), "C1u": ("opsft", "best of n"), "C1v": ("opsft", "base"),
    "C1w": ("opsft", "fixed data"), "C4b": ("opsft", "best of n"), "C6a": ("opsft", "best of n"), "C7a": ("opsft", "grpo, length"),
    "C8a": ("opsft", "T 1.5"), "C8b": ("opsft", "best of n"), "C9a": ("T 1.5", "opsft"), "C9c": ("T 0.6", "again"),
    "C10": ("opsft", "G 4, as many"), "C11": ("L 24", "again"), "C12": ("seq", "again"), "C14a": ("opsft", "by lot")}


@pytest.mark.parametrize("claim", PLACEBOS)
def test_a_placebo_that_passes_takes_the_word_away(claim):
    said = verdict(claim, quantities.chains(copied(chains(), *PLACEBOS[claim])))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


@pytest.mark.parametrize("claim, changes", [("C9b", {"T 0.6": (0.2, 17.0)}), ("C4a", {"grpo, length": (0.97, 19.0)})])
def test_so_does_one_that_passes_in_its_own_way(claim, changes):
    """0.6 as bad as 1.5; a rival that nothing is ahead of in both, either."""
    said = verdict(claim, quantities.chains(chains(changes)))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


@pytest.mark.parametrize("claim, changes", [
    ("C1n", {"opsft": (0.5, 40.0)}), ("C1m", {"opsft": (0.4, 20.0)}), ("C4m", {"fixed data": (0.6, 15.0)}),
    ("C4n", {"grpo, length": (0.6, 40.0)}), ("C8n", {"fixed data": (0.4, 15.0)})])
def test_the_contrary_of_the_real_model_opposes(claim, changes):
    assert word(claim, sums(changes)) == "opposes"


@pytest.mark.parametrize("claim, changes", [
    ("C1n", {"fixed data": (0.4, 20.0)}), ("C4m", {"grpo, length": (0.6, 30.0)}), ("C4n", {"best of n": (0.6, 25.0)})])
def test_a_placebo_of_the_real_model_that_passes_takes_the_word_away(claim, changes):
    """A rival that nothing is ahead of in both leaves the method ahead where it is shorter."""
    said = verdict(claim, quantities.sums(sums(changes)))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


def test_so_does_brevity_that_costs_nothing_and_a_rival_that_is_as_soon():
    found = sums()
    for seed in range(3):
        found[f"sums/base/seed{seed}"]["test"]["within"] = [[24, 0.45 + 0.002 * seed], [160, 0.45]]
        found[f"sums/best of n/seed{seed}"]["curve"] = found[f"sums/opsft/seed{seed}"]["curve"]
    for claim in ("C1m", "C6n"):
        said = verdict(claim, quantities.sums(found))
        assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


def test_sentences_that_change_places_turn_the_word():
    found, names = sums(), [f"AUC, {kind} sentence against the rest" for kind in ("redundant", "needed")]
    for result in found.values():
        result["divergence"] |= {one: result["divergence"][other] for one, other in zip(names, reversed(names))}
    assert word("C14n", found) == "opposes"


def test_any_beginning_of_a_sentence_takes_the_word_away():
    found = sums()
    for result in found.values():
        result["divergence"] |= {"AUC, needed sentence against the rest": result["divergence"]["AUC, redundant sentence against the rest"]}
    assert "does not discriminate" in verdict("C14n", quantities.sums(found))[1]


# -- quantities by hand ------------------------------------------------------------------------------------
def test_updates_are_counted_to_the_first_probe_that_is_short_and_no_worse():
    assert quantities.updates_needed([[0, 0.8, 60.0], [5, 0.7, 20.0], [10, 0.8, 20.0], [15, 0.9, 10.0]]) == 10
    assert quantities.updates_needed([[0, 0.8, 60.0], [5, 0.9, 50.0], [40, 0.7, 10.0]]) == 40
    english = [[0, 0.8, 60.0], [4, 0.79, 37.0], [8, 0.77, 36.0], [12, 0.78, 36.0], [16, 0.9, 20.0]]
    assert quantities.updates_needed(english, 0.6, 0.02) == 12 and quantities.updates_needed(english, 0.6) == 16


def test_the_base_is_cut_at_the_methods_length_rounded_up():
    """45 % right; a fifth of these are over after 24 tokens, where the method takes 20; beyond all budgets all count."""
    arms = quantities.Arms(sums(), "sums/")
    assert arms.cut(0) == pytest.approx(100 * 0.2 * 0.45 - 45)
    arms.test(1, "opsft")["tokens"] = 24.0
    assert arms.cut(1) == pytest.approx(100 * (0.2 * 0.45 + 0.001) - 45.1)
    arms.test(2, "opsft")["tokens"] = 200.0
    assert arms.cut(2) == pytest.approx(45.0 - 45.2)


def test_compute_is_that_of_the_tokens_that_were_kept():
    """25 of 40 tokens trained on, 6 each, against 40 trained on and read by a reference, 8 each."""
    assert quantities.update_compute({"kept": [0.5, 1.0], "kept length": [10, 20], "length": [20, 20]}) == pytest.approx(150 / 320)


def test_the_method_is_among_the_rivals_of_the_arm_in_its_place():
    """GRPO with a length reward is ahead of every baseline here, and .15 points behind the method alone: its margin is what that leaves."""
    far = dict.fromkeys(("grpo", "fixed data", "best of n"), (0.5, 50.0))
    found = chains({"grpo, length": (0.9485, 18.0), "T 1.5": (0.1, 90.0)} | far)
    control = quantities.chains(found)["C4a"]["placebo"]
    assert control["per_seed"] == [pytest.approx(max(100 * (0.9485 - 0.95), quantities.Arms(found).saved(seed, "grpo, length", "opsft")))
                                   for seed in range(3)]


def test_the_real_model_may_lose_two_points_on_the_way():
    """GRPO loses a point and a half and is brief after 8 updates; without what may be lost it would be after 20."""
    found = sums()
    for seed in range(3):
        found[f"sums/grpo/seed{seed}"]["curve"] = [[0, 0.4, 60.0], [4, 0.4, 50.0], [8, 0.385, 20.0], [20, 0.385, 20.0]]
        found[f"sums/opsft/seed{seed}"]["curve"] = [[0, 0.4, 60.0], [4, 0.4, 20.0], [8, 0.4, 20.0], [20, 0.4, 20.0]]
    measured = quantities.sums(found)["C6n"]
    assert measured["per_seed"] == [4.0] * 3 and measured["resolution"] == 4
    for seed in range(3):  # probes that do not begin at the untrained model
        found[f"sums/opsft/seed{seed}"]["curve"][0][0] = 1
    assert quantities.sums(found)["C6n"]["resolution"] == 3


def test_quantities_by_hand():
    arms = quantities.Arms(chains({"opsft": (0.9, 15.0), "grpo": (0.8, 20.0), "fixed data": (0.95, 30.0)}))
    assert arms.saved(0, "opsft") == pytest.approx(75) and arms.saved(0, "opsft", "fixed data") == pytest.approx(25)
    assert arms.gained(2, "opsft") == pytest.approx(5) and arms.lost(0, "grpo") == pytest.approx(10)
    assert arms.margin(0, "opsft", ("opsft", "grpo", "fixed data")) == pytest.approx(10)  # 10 points, 8.3 %; -5 points, 25 %
    assert arms.margin(0, "opsft", ("grpo",)) == pytest.approx(10) and arms.margin(0, "grpo", ("opsft",)) == pytest.approx(-100 / 12)
    assert arms.sooner(0, "opsft") == 35 and arms.steadier(0, "opsft") == pytest.approx(0.25)
    assert arms.step(0) == pytest.approx(0.125)


def test_seeds_are_those_that_the_results_hold():
    """A document made with SEEDS=8 is read as one of eight, whatever a run would do now."""
    found = quantities.chains(chains(seeds=8))
    assert all(m["n_runs"] == 8 == m["placebo"]["n_runs"] for m in found.values())
    assert quantities.chains(chains(seeds=3))["C9b"]["n_runs"] == 3
