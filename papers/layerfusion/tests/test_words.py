"""From results to words: what holds with made-up results, and that each claim turns with the quantity that it is about."""

from statistics import fmean

import pytest

from common.claims.records import load_claims
from common.claims.verdict import verdict

from .. import quantities, quantities_trained
from ..eval import COMMITTED, HERE, LONG, MORE, OWN, SMOLLM2, VARIANTS
from . import made_up

CLAIMS = load_claims(HERE / "claims.yaml")


def words(measured):
    return {name: verdict(CLAIMS.find(name), {k: v for k, v in of.items() if k != "timing"}, of.get("timing"))[0]
            for name, of in measured.items()}


def small(**changes):
    results = {"probes": made_up.probes, "stages": made_up.stages, "llava": made_up.llava, "speed": made_up.speed}
    of = {name: make(**changes.get(name, {})) for name, make in results.items()}
    return {claim: measured for name in of for claim, measured in getattr(quantities, name)(of[name]).items()}


def asked(**arms):
    of, results = quantities_trained, made_up.trained(**arms)
    return (of.long(results) | of.more(results) | of.variants(results) | of.smollm2(made_up.smollm2())
            | quantities.committed(made_up.committed()) | quantities.own(made_up.own()))


def test_with_these_results_every_claim_of_the_small_run_holds():
    found = words(small())
    assert set(found.values()) == {"supports"}, {k: v for k, v in found.items() if v != "supports"}
    asked_for = {*LONG, *MORE, *VARIANTS, *SMOLLM2, *COMMITTED, *OWN}
    assert set(found) == {c["id"].partition("/")[2] for c in CLAIMS if c["rung"] == "cpu-small"} - asked_for


def test_with_these_results_every_claim_of_the_long_run_holds():
    found = words(asked())
    assert set(found.values()) == {"supports"}, {k: v for k, v in found.items() if v != "supports"}
    assert set(found) == {*LONG, *MORE, *VARIANTS, *SMOLLM2, *COMMITTED, *OWN}


def test_no_control_would_pass_in_its_claims_place():
    for claim, of in (small() | asked()).items():
        control = of.get("placebo") or of.get("sensitivity")
        assert control is not None, claim
        assert words({claim: control | {"placebo": control, "sensitivity": control}})[claim] != "supports", claim


def test_arithmetic():
    found = words(quantities.exact({}, "analytic"))
    assert set(found) == {c["id"].partition("/")[2] for c in CLAIMS if c["rung"] == "analytic"}
    assert {k for k, v in found.items() if v == "does-not-add-up"} == {"C5a"}
    assert {k for k, v in found.items() if v == "opposes"} == {"C2a", "C3b", "C18b"}
    assert set(found.values()) == {"adds-up", "does-not-add-up", "supports", "opposes"}


@pytest.mark.parametrize("changes, claim", [
    ({"probes": {"triple": 0.70}}, "C1a"), ({"probes": {"late region": 0.85}}, "C1b"), ({"probes": {"first region": 0.9}}, "C1c"),
    ({"probes": {"all": 0.95}}, "C2p"), ({"probes": {"late region": 0.75}}, "C2q"), ({"probes": {"medoids": 0.80}}, "C1d"),
    ({"stages": {"score": 0.25}}, "C19a"), ({"stages": {"random": 0.40, "random_null": 0.30}}, "C19c"), ({"llava": {"test": 0.9}}, "C21a"),
    ({"llava": {"other": 0.98}}, "C21b"), ({"speed": {"direct": 1.05}}, "C22a")])
def test_a_claim_turns_with_its_quantity(changes, claim):
    assert words(small(**changes))[claim] != "supports"


@pytest.mark.parametrize("arms, claim", [
    ({"external direct, triple": 0.62}, "C1l"), ({"default three times": 0.7}, "C1m"), ({"late region": 0.9}, "C2l"),
    ({"external modular, triple": 0.55}, "C1k"), ({"internal direct, triple": 0.55}, "C1i"), ({"internal modular, triple": 0.55}, "C1j"),
    ({"external direct, latter": 0.95}, "C2e"), ({"external modular, latter": 0.95}, "C2k"), ({"internal direct, latter": 0.95}, "C2i"),
    ({"internal modular, latter": 0.95}, "C2j"), ({"external direct, all": 0.95}, "C2u"), ({"external modular, all": 0.95}, "C2v"),
    ({"internal direct, all": 0.95}, "C2w"), ({"internal modular, all": 0.95}, "C2x"),
    ({"internal direct, triple": 1.0, "internal direct, latter": 1.0}, "C3n"), ({"external direct, latter": 0.3}, "C3o"),
    ({"internal direct, all": 1.0, "internal direct, latter": 1.0, "internal direct, single": 1.0}, "C3l"),
    ({"external direct, all": 0.3}, "C3m"), ({"internal modular, post": 0.3}, "C11l"), ({"internal direct, 1000 pictures": 0.7}, "C12l"),
    ({"triple, Qwen3": 0.4}, "C13m"), ({"triple, random tower": 0.4}, "C13l")])
def test_a_trained_claim_turns_with_its_quantity(arms, claim):
    assert words(asked(**arms))[claim] != "supports"


def test_what_has_not_converged_decides_nothing():
    """Both kinds of claim: two arms, and means over sets; spread and early loss are about trainings as they are."""
    found = words(asked(stuck=("external direct, triple",)))
    for claim in ("C1l", "C1m", "C1g", "C1v", "C2l", "C2e", "C2u", "C3n", "C3l", "C11l", "C12l"):
        assert found[claim] == "inconclusive", claim
    for claim in ("C1k", "C1i", "C1j", "C2k", "C3o", "C3m", "C10l", "C13m"):
        assert found[claim] == "supports", claim
    every = tuple(f"{kind}, {name}" for kind in quantities_trained.KINDS for name in quantities_trained.SETS)
    found = words(asked(stuck=every))
    assert found["C3n"] == found["C3l"] == found["C1k"] == "inconclusive" and found["C3m"] == "supports"


def test_a_pretrained_decoder_turns_with_its_gain():
    found = words(quantities_trained.smollm2(made_up.smollm2(0.5)))
    assert found == {"C23r": "inconclusive", "C23d": "supports", "C23g": "inconclusive"}
    assert set(words(quantities.committed(made_up.committed(other=0.98))).values()) == {"opposes"}


@pytest.mark.parametrize("shares, claim", [({"triple": 0.52}, "C24a"), ({"region": 0.9}, "C24b"), ({"cross": 0.9}, "C24c")])
def test_a_claim_of_the_committed_models_turns_with_its_quantity(shares, claim):
    assert words(quantities.own(made_up.own(**shares)))[claim] == "opposes"


def test_quantities_by_hand():
    row = {"layers": {"1": {"a": 0.9, "b": 0.5}, "2": {"a": 0.7, "b": 0.8}}}
    assert quantities.behind(row) == pytest.approx(20)  # layer 2 is 20 behind on a, layer 1 is 30 behind on b
    of = quantities_trained.Runs(made_up.trained(), "long-more")
    assert of.seeds == (0, 1, 2) and fmean(of.right(0, "default")) == pytest.approx(60) and of.early(1, "internal modular, all") == 2.51
    assert fmean(of.right(0, "default", "easy-VQA")) == pytest.approx(55) and of.blind("easy-VQA") == pytest.approx(40)
    exact = quantities.exact({}, "analytic")
    assert exact["C2a"]["value"] == -0.03 and exact["C3a"]["value"] == 1.31 and round(exact["C3b"]["value"], 3) == -0.086


def test_scores_at_the_papers_size_become_averages():
    from ..reported import BENCHMARKS, TABLE

    of = dict(zip(BENCHMARKS, TABLE["layer 23 alone"]))
    better = dict(zip(BENCHMARKS, TABLE["external direct, all"]))
    scores = {"external-direct_default": {"seed1": of, "seed2": of, "seed3": {"GQA": 1.0}}, "external-direct_triple": {"seed1": better}}
    found = quantities.paper({"paper": scores})
    assert found["C4"]["value"] == pytest.approx(48.506, abs=1e-3) and found["C4"]["n_runs"] == 2
    assert found["C1"]["value"] == pytest.approx(49.919 - 48.506, abs=1e-3) and set(found) == {"C1", "C4", "C6"}
