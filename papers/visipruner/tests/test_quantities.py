"""What claims read, by hand; with made-up results every claim of the small run holds, and not one of its controls does."""

import json
from statistics import fmean

import pytest

from common.claims.records import load_claims
from common.claims.verdict import verdict

from .. import eval as harness
from .. import findings, further, quantities, reported
from ..experiments import llava, smollm2
from . import made_up
from .made_up import LOOKED, bits, results, staged, timed

CLAIMS = load_claims(harness.HERE / "claims.yaml")


@pytest.fixture(scope="module")
def measured():
    return findings.llava(results())


def asked() -> dict:
    """What the experiments that are asked for by name measure."""
    return (quantities.guideline(staged()) | further.qwen3(made_up.qwen3()) | further.smollm2(made_up.smollm2()) |
            further.equal(made_up.equal()) | further.precision(made_up.precision()) | further.oracle(made_up.oracle()) |
            further.budget(made_up.budget()))


def word(claim: str, measured: dict) -> str:
    of = CLAIMS.find(claim)
    measured = dict(measured)
    timing = measured.pop("timing", None)
    return verdict(of, measured, timing)[0]


# -- the whole -----------------------------------------------------------------------------------------------
def test_every_small_claim_is_measured_once_and_supported_by_results_that_bear_it_out(measured):
    found = measured | quantities.speed(timed()) | asked()
    small = {c["id"].partition("/")[2] for c in CLAIMS if c["rung"] == "cpu-small"}
    assert found.keys() == small
    words = {claim: word(claim, of) for claim, of in found.items()}
    assert {claim: w for claim, w in words.items() if w != "supports"} == {}


def test_no_control_would_pass_in_its_claims_place(measured):
    for claim, of in (measured | quantities.speed(timed()) | asked()).items():
        control = of.get("placebo") or of.get("sensitivity")
        assert control is not None, claim
        swapped = control | {"placebo": control, "sensitivity": control}
        assert word(claim, swapped) != "supports", claim


def test_arithmetic_adds_up_where_the_specification_says_so():
    found = quantities.exact({}, "analytic") | findings.totals({}, "analytic")
    assert found.keys() == {c["id"].partition("/")[2] for c in CLAIMS if c["rung"] == "analytic" and c.get("status") != "not-checkable"}
    words = {claim: word(claim, of) for claim, of in found.items()}
    wrong = {claim: w for claim, w in words.items() if w != "adds-up"}
    assert wrong == {"C1w": "opposes", "C5a": "does-not-add-up", "C7c": "does-not-add-up", "C7d": "does-not-add-up"}
    assert found["C5a"]["value"] == len(reported.QUALITY) - 6


def test_results_survive_a_file(measured):
    assert findings.llava(json.loads(json.dumps(results()))) == measured


def test_models_that_differ_carry_no_word_about_models(measured):
    """Two models lose 38 points without the first block and one loses one: certain over pictures, and of models it is not."""
    found = results()
    for seed in (0, 2):
        found[f"knocked/seed{seed}"]["after"]["0"] = bits(0.6, LOOKED * 4)
    of = quantities.llava(found)["C14f"]
    assert of["per_seed"] == pytest.approx([38.0, 1.0, 38.0]) and of["stderr_kind"] == "across-seeds"
    assert word("C14f", of) == "inconclusive" and of["baselines"]["over pictures of these models, from"] > 20
    one = further.qwen3(made_up.qwen3())["C24b"]
    assert one["stderr_kind"] == "clustered" and one["n_clusters"] == LOOKED, "of one model there are only pictures"


# -- what the last token speaks of -------------------------------------------------------------------------
ROW = {"words": {"a": ["red", "color"], "b": ["blue", "color"], "c": ["one", "number"], "d": ["two", "number"]},
       "said": {"0": "ccc", "1": "cac", "6": "bcd", "10": "bbd"}, "answer": "bbc", "kinds": ["color", "color", "number"],
       "pictures": [0, 1, 2]}


def test_a_layer_settles_what_it_does_not_give_up_again():
    """Layers 0, 1, 6, 10 are the first to the fourth: b is said from the third on, of its kind from there, too; the second question's
    kind is there, gone, and there again; the third's number is there at once, and its answer never."""
    assert further.settled(ROW, {w: w for w in ROW["words"]}) == [2, 3, 4]
    assert further.settled(ROW, {w: kind for w, (_, kind) in ROW["words"].items()}) == [2, 3, 0]
    assert further.ends_right(ROW) == [True, True, False]


def test_the_kind_is_counted_above_how_often_it_is_said_of_any_question():
    """Behind layer 6 color, number, number are said of color, color, number: 100, 0, 100, where a third and two thirds are base rates. A
    model that always says number has nothing above its base rate. The third question ends wrong, and is no question of when."""
    row = ROW | {"another picture": ROW["said"] | {"6": "ccc"}}
    kind, settles = further.recognised([row])
    assert kind["value"] == pytest.approx((100 - 100 / 3 + 0 - 100 / 3 + 100 - 200 / 3) / 3)
    assert kind["baselines"]["with another picture"] == pytest.approx(0)
    assert settles["baselines"]["ends right, %"] == pytest.approx(200 / 3) and settles["baselines"]["the answer"] == 2.5
    lots = [further.settled(row, further.drawn_kinds(row, number))[:2] for number in range(20)]
    assert settles["value"] == pytest.approx(fmean(layer for of in lots for layer in of) - 2.5) and settles["baselines"]["theirs"] == 2.5
    last = kind["placebo"]["value"]  # said of the next of another kind: number, number, color
    assert last == pytest.approx(-(100 / 3 + 100 / 3 + 200 / 3) / 3)
    lot = further.drawn_kinds(row)
    assert sorted(lot.values()) == ["color", "color", "number", "number"] and lot == further.drawn_kinds(row) and sorted(lot) == [*"abcd"]
    assert len({tuple(further.drawn_kinds(row, number).values()) for number in range(20)}) > 3


def test_wrong_answers_of_the_right_kind_do_not_make_the_kind_earlier():
    """Kind and answer settle in one layer, and a fifth of the answers are wrong, of the right kind: these are no questions of when."""
    found = made_up.recognised(10, 10)
    of_kind = {kind: [letter for letter, (_, other) in found["words"].items() if other == kind] for kind in found["kinds"]}
    for layer, said in found["said"].items():
        if int(layer) >= 10:
            found["said"][layer] = "".join(of_kind[kind][of_kind[kind].index(letter) - 1] if i % 5 == 0 else letter
                                           for i, (letter, kind) in enumerate(zip(said, found["kinds"])))
    _, settles = further.recognised([found])
    assert settles["value"] <= 0 and settles["baselines"]["ends right, %"] == pytest.approx(80)
    assert settles["baselines"]["theirs"] == settles["baselines"]["the answer"] == 10 and word("C28p", settles) == "opposes"


def test_a_boundary_by_lot_saves_what_its_threshold_allows():
    """Of four boundaries one agrees at .5 of the pairs, one at .9, one has only a threshold that does not agree, and one saves nothing."""
    tried = [(0, 0.98, 0.6), (0, 0.97, 0.5), (0, 0.9, 0.1), (1, 0.99, 0.9), (2, 0.96, 0.2), (3, 1.0, 1.0)]
    rows = [{"tried": {"VisiPruner": [{"boundary": b, "agreement": a, "pairs": p} for b, a, p in tried]}, "saved": [1.0] * 10}]
    assert further.boundary_by_lot(rows)["value"] == pytest.approx((50 + 10 + 0 + 0) / 4)


def test_a_claim_over_pictures_rests_on_enough_of_them():
    """Below so many the referee says nothing, whatever comes out."""
    from common.claims.intervals import MIN_ITEMS

    for size in (llava.SIZES["cpu"], smollm2.SIZES["cpu"]):
        assert min(size.test, size.looked) >= MIN_ITEMS


def test_what_a_filter_layer_can_save_is_printed_beside_what_is_saved(measured):
    """15 of 32 layers see all: 17 / 32. Behind boundary 3 of eight blocks the first filter is block 4, and three blocks are left."""
    of = measured["C16a"]["baselines"]
    assert of["bound, 15 of 32 layers see all"] == 53.125 and of["seed 0, bound behind its boundary"] == 37.5
    deep = made_up.smollm2()  # where only some of its thirty layers are knocked out alone: behind boundary 3 all but five of thirty
    of_deep = deep["smollm2/knocked/seed0"]
    of_deep["after"] = {b: of_deep["after"][b] for b in ("0", "1", "14", "15", "28", "29")}
    assert further.smollm2(deep)["C28f"]["baselines"]["seed 0, bound behind its boundary"] == pytest.approx(100 * 25 / 30)
    rule = CLAIMS.find("C16a")["protocol"]["rule"]
    assert rule["above"] == 0.8 * quantities.most_saved(15, 32)


def test_other_arithmetic_is_judged_where_something_was_filtered():
    found = made_up.precision()
    for of in found.values():
        of["filtered"] = "1" * 4 + "0" * (len(of["filtered"]) - 4)
        of["bfloat16"]["number"] = "0111" + "0" * (len(of["filtered"]) - 4)
    assert further.precision(found)["C25a"]["value"] == 75
    assert word("C25a", further.precision(made_up.precision(half=0.9))["C25a"]) == "opposes"
    assert word("C25a", further.precision(made_up.precision(coarse=1.0))["C25a"]) == "inconclusive", "then the measure tells nothing"


def test_an_oracle_that_is_far_from_value_or_a_rival_that_is_level_is_told():
    assert word("C27a", further.oracle(made_up.oracle(value=0.2))["C27a"]) == "opposes"
    assert word("C27b", further.oracle(made_up.oracle(right=0.85))["C27b"]) == "opposes"
    assert word("C26a", further.equal(made_up.equal(FastV=0.97))["C26a"]) == "inconclusive"
    of = further.equal(made_up.equal())["C26a"]
    assert of["value"] == pytest.approx(7.0) and of["baselines"]["pairs, FastV"] == pytest.approx(14.1)


# -- by hand -------------------------------------------------------------------------------------------------
def test_a_difference_is_clustered_by_picture():
    """Two pictures of two questions: differences 100, 100, 0, 0: clusters +100, -100 around the mean of 50."""
    of = quantities.apart([100.0, 100.0, 0.0, 100.0], [0.0, 0.0, 0.0, 100.0], [1, 1, 2, 2])
    assert of["value"] == 50 and of["n_clusters"] == 2 and of["stderr"] == pytest.approx((2 / 1 * (100**2 + 100**2)) ** 0.5 / 4)


def test_equal_answers_are_equal_to_within_a_question():
    of = quantities.apart([100.0] * 8, [100.0] * 8, [0, 0, 1, 1, 2, 2, 3, 3])
    assert of["value"] == 0 and of["stderr"] == 12.5 and of["ci95"][0] == -of["ci95"][1] == pytest.approx(-3.182 * 12.5, rel=1e-3)


def test_the_block_is_chosen_on_validation_pictures_and_judged_on_test_pictures():
    """Seed 1 says block 5 on validation pictures, where on test pictures it is block 3 that costs: block 5 is what counts."""
    found = results()
    found["knocked/seed1"]["validation"] |= {"3": 0.98, "5": 0.2, "0": 0.0, "7": 0.0}
    of = quantities.llava(found)["C14a"]
    n = LOOKED * 4
    lost = [98.0 - 100 * bits(share, n).count("1") / n for share in (0.7, 0.98, 0.7)]
    assert of["value"] == pytest.approx(sum(lost) / 3) and of["per_seed"] == pytest.approx(lost)
    assert {k: v for k, v in of["baselines"].items() if "block" in k} == {"seed 0, block": 3, "seed 1, block": 5, "seed 2, block": 3}


def test_half_of_what_the_first_block_costs(measured):
    """Before the softmax 98 - 80 = 18 points in block 0, 98 - 96 = 2 in block 1: 2 - 9; the placebo, behind it, 1 - .5."""
    of = measured["C10b"]
    assert of["value"] == pytest.approx(-7.0) and of["placebo"]["value"] == pytest.approx(0.5)


@pytest.mark.parametrize("claim, value, control", [
    ("C7f", 7.0, -10.0), ("C17l", 17.0, 0.0), ("C16b", 1.0, 18.0), ("C16c", 27.0, 0.0), ("C17v", 7.0, -15.0), ("C17s", -5.0, 15.0),
    ("C18a", 0.0, 48.0), ("C18b", 18.0, -0.5), ("C20a", 68.0, 0.0), ("C15a", 17.0, 1.0), ("C15b", 10.0, -37.5), ("C10a", 17.0, 0.0),
    ("C11b", 37.5, 0.0), ("C14u", 0.5, 88.0), ("C16a", 86.5, 30.0)])
def test_quantities_and_placebos_by_hand(claim, value, control, measured):
    of = measured[claim]
    assert of["value"] == pytest.approx(value, abs=0.01) and of["placebo"]["value"] == pytest.approx(control, abs=0.01)


@pytest.mark.parametrize("claim, value, control", [("C8a", 0.0, 38.0), ("C9a", 0.5, 38.0), ("C11a", 0.5, 38.0), ("C12a", 0.0, 17.0)])
def test_equivalences_and_what_must_be_told_apart(claim, value, control, measured):
    of = measured[claim]
    assert of["value"] == pytest.approx(value, abs=0.01) and of["sensitivity"]["value"] == pytest.approx(control, abs=0.01)


def test_a_run_in_which_a_lot_chooses_as_well_supports_nothing():
    level = quantities.llava(results(**dict.fromkeys(("lot at its K", "another lot at its K", "attention at its K"), 0.97)))
    assert word("C17l", level["C17l"]) == "opposes" and word("C16b", level["C16b"]) == "inconclusive"


def test_times_are_one_value_a_process():
    of = quantities.speed(timed())
    assert of["C22a"]["n_runs"] == 3 and of["C22a"]["value"] == pytest.approx(1.6016) and of["C22b"]["value"] == pytest.approx(1.6016 / 1.8)
    assert of["C22b"]["placebo"]["value"] == pytest.approx(0.8 * 1.001 / 1.8) and of["C22c"]["value"] == pytest.approx(0.9009)
    assert word("C22c", quantities.speed(timed(official=1.2))["C22c"]) == "opposes"


def test_trainings_are_one_value_a_seed():
    of = quantities.guideline(staged())
    assert of["C23a"]["per_seed"] == pytest.approx([0.5, 0.333333, 0.166667], abs=0.01)
    assert of["C23a"]["placebo"]["value"] == pytest.approx(38)
    assert of["C23b"]["value"] == pytest.approx(4 / 3, rel=0.01) and of["C23b"]["placebo"]["value"] == pytest.approx(1.0, abs=0.02)
    assert word("C23a", quantities.guideline(staged(middle=0.9))["C23a"]) == "opposes"
