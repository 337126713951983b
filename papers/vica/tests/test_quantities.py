"""Every quantity of a claim, worked out again from results in which no two numbers are equal: an arm compared with itself, sides
exchanged, another column, all would give something else. test_words.py has what the words make of them."""

import itertools
import random
from statistics import fmean, median, stdev

import pytest

from common.seeds import seed_of
from tests.numerics import drawn

from .. import analytic, quantities, reported
from ..analytic import LLAVA_3B, LLAVA_7B, LLAVA_13B, visual_ratio

SEEDS = (0, 1, 4)
ITEMS = {"all": 1999, "open": 1601, "pairs, all": 701, "pairs, open": 557, "dropped, all": 997, "dropped, open": 809}
NAMES = ("all", "open", "yes/no", "easy all")


def scores(*path):
    return {name: drawn(*path, name) for name in NAMES}


@pytest.fixture(scope="module")
def found():
    made = {}
    for seed in SEEDS:
        layers = [str(k) for k in range(12)]  # "10" sorts before "2" as text
        worth = {k: drawn(seed, "worth", k) for k in layers}
        worth["2"] = max(worth.values()) + 0.2 + drawn(seed, "most")
        worth["10"] = worth["2"] + drawn(seed, "first")
        made[f"all layers/seed{seed}"] = {
            "items": ITEMS if seed == 0 else dict.fromkeys(ITEMS, 5),
            "leave-one-out": worth, "pairs": {"-".join(p): scores(seed, "pair", p) for p in itertools.combinations(layers, 2)},
            "all layers": scores(seed, "all layers"),
            "PyramidDrop 0.5": {way: scores(seed, "drop", way) for way in ("ranked", "random", "random again", "whole")}}
        for arm in ("dense", "top", "greedy", "drawn", "few", "text"):
            made[f"{arm}/seed{seed}"] = {"test": scores(seed, arm)}
        made[f"untuned/seed{seed}"] = {
            "whole": scores(seed, "whole"), "attention": scores(seed, "attention"), "random": scores(seed, "lot"),
            "frozen": {what: scores(seed, "frozen", what) for what in ("ffn", "all")}}
    return made | {"again/seed1": {"test": scores("again")}, "blind": {name: drawn("blind", name, low=0.0, high=0.1) for name in NAMES}}


@pytest.fixture(scope="module")
def measured(found):
    return quantities.llava(found)


def at(found, job, *names, seeds=SEEDS):
    rows = [found[f"{job}/seed{seed}"] for seed in seeds]
    for name in names:
        rows = [row[name] for row in rows]
    return rows


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


def share(ours, whole, blind):
    return [(a - b) / (w - b) for a, w, b in zip(ours, whole, blind)]


def same(measured, expected, placebo=None, resolution=None, shown=None, control="placebo", rel=1e-12):
    """The values of the seeds, those of the control, and the least that each can tell apart (of both, where it is one number)."""
    assert measured["per_seed"] == pytest.approx(expected, rel=rel), "the quantity"
    assert {"placebo", "sensitivity"} & set(measured) == {control}
    assert measured[control]["per_seed"] == pytest.approx(placebo, rel=rel), control
    least = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    assert (measured["resolution"], measured[control]["resolution"]) == pytest.approx(least, rel=1e-12)
    means = None if shown is None else pytest.approx({name: fmean(values) for name, values in shown.items()}, rel=1e-12)
    assert measured.get("baselines") == means


# -- what is computed --------------------------------------------------------------------------------------
def test_figures_of_the_paper():
    """Beside those of test_analytic.py; 7B: 313.92 of 7653.03 GFLOPs at 8 of 32 layers."""
    found = quantities.exact({}, "analytic")
    value = {name: of["value"] for name, of in found.items()}
    ratio = 313_918_488_576 / 7_653_027_741_696
    assert value == pytest.approx({
        "C2": 0.313918488576, "C2a": 100 * ratio, "C2b": 24, "C2c": 100 * (ratio + 489_034_874_880 / 14_917_356_748_800
                                                                          + 139_186_667_520 / 3_043_680_583_680) / 3,
        "C2d": 100 * analytic.with_tower(LLAVA_7B, 8), "C3c": 124.5 / 36, "C4a": 7.5803, "C6c": 4 * 0.313918488576 / 8,
        "C6d": 12, "C7c": 27, "C7d": 97.8}, rel=1e-3)
    sizes = {LLAVA_3B.name: 4.5730, LLAVA_7B.name: 4.1019, LLAVA_13B.name: 3.2783}
    assert found["C2"]["baselines"] == pytest.approx({"dense": 7.653027741696})
    assert found["C2a"]["baselines"] == pytest.approx({"causal edges only": 4.114, "as FastV counts": 5.18, "whole prefill": 100 / 7.5803},
                                                      rel=1e-3)
    causal = [analytic.causal_flops(LLAVA_7B, 576, 35, 27, layers) for layers in (8, None)]
    assert found["C2a"]["baselines"]["causal edges only"] == 100 * causal[0] / causal[1]
    assert found["C2b"]["baselines"] == {LLAVA_3B.name: 27, LLAVA_13B.name: 19}
    assert found["C2c"]["baselines"] == pytest.approx(sizes, rel=1e-4)
    assert found["C2d"]["baselines"] == {"decoder alone": pytest.approx(4.1019, rel=1e-4)}
    whole = analytic.prefill_flops(LLAVA_7B, 576, 62)
    assert found["C4a"]["baselines"] == pytest.approx({
        "frozen prefix": whole / analytic.prefill_flops(LLAVA_7B, 576, 62, 8, prefix=35, frozen=True),
        "no picture at all": whole / analytic.prefill_flops(LLAVA_7B, 0, 62),
        "longest text for 10x": analytic.longest_text_for(10)})
    wrong = reported.recomputed()
    assert found["C7c"]["baselines"] == {name: computed for name, (_, computed) in wrong.items()} and len(wrong) == 2
    rows = {row.name: row for row in reported.TABLE}
    better = {f"better, at {rows[name].share} % of FLOPs: {name}": rows[name].average for name in rows if rows[name].average > 97.8}
    assert found["C7d"]["baselines"] == pytest.approx({"ViCA+PDrop": 96.3} | better, abs=0.05) and len(better) == 2
    assert found["C6d"]["value"] == analytic.equivalent_tokens(visual_ratio(LLAVA_7B, 4))


# -- the small LLaVA ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def rounding(found):
    """Between one arm and itself; 'again' is of seed 1."""
    return max(abs(found["greedy/seed1"]["test"]["all"] - found["again/seed1"]["test"]["all"]), 1 / ITEMS["all"])


def test_two_layers_tuned(found, measured, rounding):
    whole, blind = at(found, "dense", "test", "all"), [found["blind"]["all"]] * 3
    of = {arm: at(found, arm, "test", "all") for arm in ("top", "greedy", "drawn", "text")}
    step = rounding / (fmean(whole) - fmean(blind))
    for claim, arm in (("C1s", "top"), ("C1g", "greedy")):
        same(measured[claim], share(of[arm], whole, blind), share(of["drawn"], whole, blind), step,
             {"ours": of[arm], "whole": whole, "blind": blind})
        assert measured[claim]["placebo"]["baselines"]["ours"] == pytest.approx(fmean(of["drawn"]))
    same(measured["C1u"], minus(of["text"], blind), minus(of["drawn"], blind), 1 / ITEMS["all"], {"ours": of["text"], "theirs": blind})


def test_no_less_than_one_question_decides(found):
    """The same arm twice with the same score: the width is an item's."""
    equal = {**found, "again/seed1": {"test": dict(found["greedy/seed1"]["test"])}}
    assert quantities.llava(equal)["C9e"]["resolution"] == pytest.approx(1 / ITEMS["all"])


def test_against_fewer_tokens(found, measured, rounding):
    of = {arm: at(found, arm, "test", "all") for arm in ("top", "few", "text")}
    attention, lot = at(found, "untuned", "attention", "all"), at(found, "untuned", "random", "all")
    for claim, rival, placebo in (("C7a", attention, "few"), ("C7b", lot, "few"), ("C7e", of["few"], "text")):
        same(measured[claim], minus(of["top"], rival), minus(of[placebo], rival), rounding, {"ours": of["top"], "theirs": rival})


def test_tokens_dropped_on_top(found, measured):
    of = {way: at(found, "all layers", "PyramidDrop 0.5", way, "all") for way in ("ranked", "random", "random again", "whole")}
    blind, item = [found["blind"]["all"]] * 3, 1 / ITEMS["dropped, all"]
    same(measured["C6a"], share(of["ranked"], of["whole"], blind), share(of["random"], of["whole"], blind),
         item / (fmean(of["whole"]) - fmean(blind)), {"ours": of["ranked"], "whole": of["whole"], "blind": blind})
    same(measured["C6b"], minus(of["ranked"], of["random"]), minus(of["random again"], of["random"]), item,
         {"ours": of["ranked"], "theirs": of["random"]})


def test_frozen_tokens(found, measured):
    blind, item = [found["blind"]["all"]] * 3, 1 / ITEMS["all"]
    dense, every = at(found, "dense", "test", "all"), at(found, "all layers", "all layers", "all")
    whole = at(found, "untuned", "whole", "all")
    without, still = (at(found, "untuned", "frozen", what, "all") for what in ("ffn", "all"))
    tuned, as_it_is = (item / (fmean(w) - fmean(blind)) for w in (dense, whole))
    same(measured["C8a"], share(every, dense, blind), share(still, whole, blind), (tuned, as_it_is),
         {"ours": every, "whole": dense, "blind": blind})
    same(measured["C8b"], share(without, whole, blind), share(every, dense, blind), (as_it_is, tuned),
         {"ours": without, "whole": whole, "blind": blind})


def ranks(values):
    return [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]


def spearman(a, b):
    a, b = ranks(a), ranks(b)
    mean_a, mean_b = fmean(a), fmean(b)
    over = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b))
    return over / (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5


def test_what_scores_of_layers_foretell(found, measured, rounding):
    own = at(found, "all layers", "leave-one-out")
    lot = []
    for scores, seed in zip(own, SEEDS):
        values = list(scores.values())
        random.Random(seed_of("dealt", seed)).shuffle(values)
        lot.append(dict(zip(scores, values)))
    pairs = at(found, "all layers", "pairs")

    def apart(scores, which):
        def of(single, by_pair, best):
            layers = sorted(single, key=single.get, reverse=best)[:2]
            return by_pair["-".join(sorted(layers, key=int))][which]

        return [of(single, by_pair, True) - of(single, by_pair, False) for single, by_pair in zip(scores, pairs)]

    for claim, which in (("C9a", "all"), ("C9b", "open")):
        same(measured[claim] | {"baselines": None}, apart(own, which), apart(lot, which), 1 / ITEMS[f"pairs, {which}"])
        assert measured[claim]["baselines"]["ours"] - measured[claim]["baselines"]["theirs"] == pytest.approx(fmean(apart(own, which)))

    def foretold(scores):
        return [spearman([sum(single[k] for k in name.split("-")) for name in by_pair], [of["all"] for of in by_pair.values()])
                for single, by_pair in zip(scores, pairs)]

    same(measured["C9c"], foretold(own), foretold(lot), 12 / (66**3 - 66), rel=1e-9)
    top, greedy, others = (at(found, arm, "test", "all") for arm in ("top", "greedy", "drawn"))
    same(measured["C9e"], minus(greedy, top), minus(others, top), rounding, {"ours": greedy, "theirs": top})


def test_of_equal_scores_the_lower_layer_is_the_better():
    pairs = {"0-1": {"all": 1}, "0-2": {"all": 2}, "1-2": {"all": 3}}
    level = dict.fromkeys("012", 0.5)
    assert quantities.pair(pairs, level, "top") == {"all": 1} and quantities.pair(pairs, level, "bottom") == {"all": 3}


# -- the longer runs ---------------------------------------------------------------------------------------
def test_from_nothing():
    found = {f"{arm}/seed{seed}": {"items": 1999 if (arm, seed) == ("scratch", 0) else 7, "test": scores(arm, seed),
                                   "dense": scores(arm, seed, "dense"), "blind": {"all": drawn(arm, seed, high=0.3) - 0.2}}
             for arm in ("scratch", "scratch/drawn", "scratch/text", "scratch/short", "scratch/short text", "scratch/short dense")
             for seed in SEEDS}
    measured = quantities.scratch(found)
    ours, others, text = (at(found, arm, "test", "all") for arm in ("scratch", "scratch/drawn", "scratch/text"))
    dense, blind = at(found, "scratch", "dense", "all"), at(found, "scratch", "blind", "all")
    same(measured["C1r"], share(ours, dense, blind), share(text, dense, blind), 1 / 1999 / (fmean(dense) - fmean(blind)),
         {"ours": ours, "whole": dense, "blind": blind})
    same(measured["C9f"], minus(ours, others), minus(ours, text), 1 / 1999, {"ours": ours, "theirs": others}, control="sensitivity")
    short, whole, nothing = (at(found, f"scratch/{arm}", "test", "all") for arm in ("short", "short dense", "short text"))
    same(measured["C1q"], share(short, whole, blind), share(nothing, whole, blind), 1 / 1999 / (fmean(whole) - fmean(blind)),
         {"ours": short, "whole": whole, "blind": blind})
    assert measured["C9f"]["ceiling"] == {"values": [*ours, *others], "best": 1.0}


def test_draws():
    """The chosen pair, and one drawn in its place, against the mean of the drawn."""
    found = {f"draws/seed{seed}": {"items": 1999 if seed == 0 else 7, "arms": {
        arm: {"test": scores(arm, seed)} for arm in ("top", "greedy", "drawn 0", "drawn 1", "drawn 2")}} for seed in SEEDS}
    of = {arm: at(found, "draws", "arms", arm, "test", "all") for arm in ("top", "drawn 0", "drawn 1", "drawn 2")}
    lot = [fmean(values) for values in zip(of["drawn 0"], of["drawn 1"], of["drawn 2"])]
    same(quantities.draws(found)["C9g"], minus(of["top"], lot), minus(of["drawn 0"], lot), 1 / 1999, {"ours": of["top"], "theirs": lot})


def test_an_arm_that_was_trained_under_another_name_is_read_there(found):
    """Greedy elimination that ends at the highest scores is no second training."""
    fewer = {name: result for name, result in found.items() if name not in ("greedy/seed0", "greedy/seed1")}
    measured, of = quantities.llava(fewer), at(found, "top", "test", "all")
    assert measured["C9e"]["per_seed"][:2] == [0.0, 0.0] and measured["C9e"]["per_seed"][2] != 0
    assert measured["C9e"]["resolution"] == pytest.approx(abs(of[1] - found["again/seed1"]["test"]["all"]))


def test_patches():
    found = {f"patches/{arm}/seed{seed}": {"items": 1999 if (arm, seed) == ("dense", 0) else 7, "test": scores(arm, seed)}
             for arm in ("dense", "vica", "mixed dense", "mixed vica") for seed in SEEDS}
    dense, vica, *mixed = (at(found, f"patches/{arm}", "test", "all") for arm in ("dense", "vica", "mixed dense", "mixed vica"))
    same(quantities.patches(found)["C8c"], minus(dense, vica), minus(*mixed), 1 / 1999, {"ours": dense, "theirs": vica})


# -- time --------------------------------------------------------------------------------------------------
def case(process, names=("dense / vica", "masked / vica")):
    ratios = {name: {"ratios": [drawn(process, name, i, low=1.0, high=9.0) for i in range(5)], "bound": drawn(name, high=20.0),
                     "median": drawn(process, name, low=1.0, high=9.0), "iqr": drawn(process, name, "iqr")} for name in names}
    return {"rounds": 5 + process, "load_average": drawn(process, "load"), "text": 62 + process, "ratios": ratios,
            "variants": {"dense": {"times": [drawn(process, "time", i) for i in range(6)]}}}


def same_times(measured, rounds, **more):
    """A median a process; the rounds' own spread is the least that they tell apart."""
    assert measured["per_seed"] == pytest.approx([median(of) for of in rounds], rel=1e-12) and measured["stderr_kind"] == "across-processes"
    read = sum((stdev(of) / len(of) ** 0.5) ** 2 for of in rounds) ** 0.5 / len(rounds)
    assert measured["resolution"] == pytest.approx(read, rel=1e-12)


def timing(cases, pair):
    return {"rounds": sum(c["rounds"] for c in cases), "processes": len(cases), "estimator": "median of interleaved rounds",
            "iqr_relative": max(c["ratios"][pair]["iqr"] / c["ratios"][pair]["median"] for c in cases),
            "load_average": max(c["load_average"] for c in cases), "text": cases[0]["text"]}


def test_speed():
    cases = [case(i) for i in range(3)]
    measured = quantities.speed({f"speed/process{i}": {"cases": {"one": of, "two": case(9)}} for i, of in enumerate(cases)} | {"other": {}})
    bound = cases[0]["ratios"]["dense / vica"]["bound"]
    fast, masked = ([of["ratios"][pair]["ratios"] for of in cases] for pair in ("dense / vica", "masked / vica"))
    same_times(measured["C3a"], [[x / bound for x in of] for of in fast])
    same_times(measured["C3a"]["placebo"], [[x / y / bound for x, y in zip(a, b)] for a, b in zip(fast, masked)])
    same_times(measured["C3b"], masked)
    same_times(measured["C3b"]["placebo"], [[of["variants"]["dense"]["times"][i] / of["variants"]["dense"]["times"][i + 1]
                                             for i in (0, 2, 4)] for of in cases])
    assert measured["C3a"]["timing"] == timing(cases, "dense / vica") and measured["C3b"]["timing"] == timing(cases, "masked / vica")
    pairs = ("dense / vica", "masked / vica")
    assert measured["C3a"]["baselines"] == pytest.approx(
        {pair: fmean(of["ratios"][pair]["median"] for of in cases) for pair in pairs}
        | {f"bound of {pair}": cases[0]["ratios"][pair]["bound"] for pair in pairs})


def test_speed_on_a_gpu_takes_graphs_where_there_are_any_and_the_better_way():
    names = ["dense / vica", "dense / vica frozen", "vica / text only", "dense / text only"]
    graphs = [f"{name}, graph" for name in names]
    for listed in (names, [*names, *graphs]):
        cases = [{"B=1 P=35 Q=27": case(i, listed), "B=8 P=35 Q=27": case(10 + i, listed)} for i in range(3)]
        measured, end = quantities.gpu({"gpu": {"processes": [{"cases": of} for of in cases]}}), ", graph" if listed != names else ""
        one, eight = ([of[f"B={batch} P=35 Q=27"] for of in cases] for batch in (1, 8))
        best = max(("dense / vica", "dense / vica frozen"), key=lambda name: eight[0]["ratios"][name + end]["median"]) + end
        for claim, of, pair in (("C3g", one, "dense / vica" + end), ("C4g", eight, best), ("C5g", one, "vica / text only" + end)):
            same_times(measured[claim], [each["ratios"][pair]["ratios"] for each in of])
            assert measured[claim]["timing"] == timing(of, pair), claim
            assert ("placebo" in measured[claim]) == (claim == "C5g")
        same_times(measured["C5g"]["placebo"], [each["ratios"]["dense / text only" + end]["ratios"] for each in one])
    fewer = quantities.gpu({"gpu": {"processes": [{"cases": {"B=8 P=35 Q=27": case(i, names)}} for i in range(3)]}})
    assert set(fewer) == {"C4g"}


# -- paper scale -------------------------------------------------------------------------------------------
def trained(*names):
    """Rows as experiments/paper.py gives them: runs by name, so that 13B comes before 3B."""
    return {name: {"relative": drawn(name, high=100.0)} for name in sorted(names)} | {"e-7b_uniform": {"relative": None}, "f": {}}


FINISHED = ("llava-1.5-7b_vica_finetune", "llava-1.5-7b_vica_finetune + PyramidDrop", "llava-1.5-13b_vica_finetune",
            "llava-1.5-7b_frozen_finetune", "llava-1.5-7b_dense_finetune", "llava-1.5-13b_vica_finetune + PyramidDrop")


def test_paper_scale():
    rows = trained(*FINISHED)
    relative = {name: rows[name]["relative"] for name in FINISHED}
    measured = quantities.paper({"paper": rows})
    assert {claim: of["value"] for claim, of in measured.items() if claim != "C1"} == {
        "C1a": relative[FINISHED[0]], "C6": relative[FINISHED[1]], "C8": relative[FINISHED[3]]}
    assert all(of["baselines"] == relative for of in measured.values())
    del rows[FINISHED[1]]
    assert "C6" not in quantities.paper({"paper": rows})


def test_the_three_sizes_are_three_models():
    """13B is no 3B: without a 3B there is no mean of three."""
    rows = trained("llava-1.5-3b_vica_finetune", *FINISHED)
    wanted = fmean(rows[f"llava-1.5-{size}_vica_finetune"]["relative"] for size in ("3b", "7b", "13b"))
    assert quantities.paper({"paper": rows})["C1"]["value"] == pytest.approx(wanted)
    assert "C1" not in quantities.paper({"paper": trained(*FINISHED)})
