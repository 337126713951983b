"""Every quantity of a claim, worked out again from what claims.yaml names, on results in which no two numbers are equal: an arm
compared with itself, sides exchanged, another layer set, another kind, all would give something else."""

from functools import partial
from statistics import fmean, median, stdev

import pytest

from tests.golden import held, same
from tests.numerics import drawn

from .. import analytic, quantities, reported
from ..experiments import probes

SEEDS = (0, 1, 4)


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


# -- what is printed ---------------------------------------------------------------------------------------
def test_figures_of_the_paper():
    measured = quantities.exact({}, "analytic")
    rows = {"C4a": (56.95, 46.91, 262 / 8, 1200 / 20, 35.47, 23.9, 39.74, 55.00, 85.83),
            "C5a": (59.54, 51.46, 236 / 8, 1200 / 20, 38.01, 26.5, 44.78, 53.08, 86.40),
            "C7a": (58.41, 50.93, 218 / 8, 1182 / 20, 34.42, 26.1, 46.34, 51.08, 85.06),
            "C8a": (58.79, 47.02, 221 / 8, 1179 / 20, 37.28, 24.1, 42.64, 51.92, 85.57),
            "C9a": (58.37, 54.30, 258 / 8, 1181 / 20, 35.85, 24.4, 42.59, 54.92, 86.29)}
    by_hand = {name: fmean(row) for name, row in rows.items()}
    d, f, n = 2048, 5632, 576
    prefill = 24 * ((n + 64) * (4 * d * d + 3 * d * f) + 2 * (n + 64) ** 2 * d)
    parameters = 2 * 32000 * d + 24 * (4 * d * d + 3 * d * f + 2 * d) + d  # an input and an output row for every word
    inserted = n * (1024 * d + d * d) + 2 * 640 * d * d + 2 * n * d * d + 2 * 640 * n * d + 3 * 640 * d * f
    spread = {kind: stdev(values) for kind, values in {
        "external direct": (49.20, 49.52, 49.85, 49.88), "internal direct": (48.54, 48.21), "internal modular": (48.74, 46.91)}.items()}
    by_hand |= {"C2a": -0.03, "C3a": 49.85 - 48.54, "C3b": spread["internal direct"] - spread["external direct"],
                "C16a": 100 * 2 * 1024 * d / parameters, "C16b": 100 * n * 2 * 1024 * d / prefill, "C16c": 1 + 24 * inserted / prefill,
                "C18a": 59.3 - 51.2, "C18b": 58.7 - 58.4}
    assert {name: of["value"] for name, of in measured.items()} == pytest.approx(by_hand, rel=1e-9)
    assert measured["C3a"]["baselines"] == {"external direct": 49.85, "internal direct": 48.54, "internal modular": 46.91}
    assert measured["C3b"]["baselines"] == pytest.approx(spread)
    assert measured["C18a"]["baselines"] == pytest.approx({
        "layer 22 alone": 0.0, "layer 20 alone": 58.7 - 51.7, "layer 25 alone": 2.0, "layer 26 alone": 59.2 - 53.5,
        "their own internal concat 3-20-25": 59.3 - 51.2})
    assert {*measured["C16a"]["baselines"]} == {*measured["C16b"]["baselines"]} == {
        "external direct", "external modular", "internal direct", "internal modular"}
    assert measured["C16a"]["baselines"]["external direct"] == measured["C16a"]["value"]
    assert measured["C16b"]["baselines"]["external direct"] == measured["C16b"]["value"]
    assert analytic.MOBILELLAMA_1B4.parameters() == parameters


# -- probes ------------------------------------------------------------------------------------------------
LAYERS = tuple(map(str, range(1, 13)))
OTHERS = "{}, added layers of another picture"
CONTROLS = (*(OTHERS.format(name) for name in ("triple", "medoids", "all")), "triple of another picture")
EASY, HARD = (("digit", "shade", "color", "shape", "dy", "count"), ("tens", "digit", "shade", "color", "shape", "dy", "count"))


def probed(look, kinds, seeds):
    found = {}
    for seed in seeds:
        at = partial(drawn, look, seed)
        groups = {"layers": LAYERS, "sets": (*probes.SETS, *probes.MEANS), "controls": CONTROLS}
        row = {group: {name: {kind: at(group, name, kind) for kind in kinds} for name in names} for group, names in groups.items()}
        shifted = {name: {kind: at("shifted", name, kind) for kind in kinds} for names in groups.values() for name in names}
        found[f"probes/{look}/seed{seed}"] = row | {
            "shifted": shifted if look == "hard" else {}, "chance": {kind: at("chance", kind) for kind in kinds},
            "counts": [int(at("train", low=500, high=999)), int(at("test", low=200, high=400))]}
    return found


PROBES = probed("easy", EASY, (3, 10, 12)) | probed("hard", HARD, (10, 11))


def seen(look, group, name, *kinds):
    """Of every seed, in points."""
    rows = [PROBES[f"probes/{look}/seed{seed}"][group] for seed in ((3, 10, 12) if look == "easy" else (10, 11))]
    return [100 * fmean((row[name] if name else row)[kind] for kind in kinds) for row in rows]


def best(*columns):
    return [max(values) for values in zip(*columns)]


def test_probes():
    measured = quantities.probes(PROBES)
    easy, hard = (100 / PROBES[f"probes/{look}/seed{seed}"]["counts"][1] for look, seed in (("easy", 3), ("hard", 10)))
    of = {name: seen("easy", "sets", name, "digit") for name in (*probes.SETS, *probes.MEANS)}
    other = {name: seen("easy", "controls", name, "digit") for name in CONTROLS}
    strange, region = other[OTHERS.format("medoids")], best(of["late region"], of["last region"])
    same(measured["C1a"], minus(of["triple"], of["default"]), placebo=minus(other[OTHERS.format("triple")], of["default"]), shown=of,
         resolution=easy)
    same(measured["C1b"], minus(of["medoids"], region), placebo=minus(strange, region), resolution=easy)
    any_region = best(region, of["first region"], of["middle region"])
    same(measured["C1c"], minus(of["medoids"], any_region), placebo=minus(strange, any_region), resolution=easy)
    layers = {k: seen("easy", "layers", k, "digit") for k in LAYERS}
    single = best(*layers.values())
    same(measured["C1d"], minus(of["medoids"], single), placebo=minus(strange, single), resolution=easy,
         shown={f"layer {k}": values for k, values in layers.items()})
    chance = seen("easy", "chance", "", "digit")
    same(measured["C1e"], minus(other["triple of another picture"], chance), placebo=minus(of["triple"], chance), resolution=easy)
    same(measured["C2p"], minus(of["all"], of["medoids"]), sensitivity=minus(of["medoids"], of["default"]), resolution=easy)
    same(measured["C2q"], minus(of["late region"], of["default"]), placebo=minus(of["medoids"], of["default"]), resolution=easy)
    both = {name: seen("hard", "sets", name, "tens", "digit") for name in (*probes.SETS, *probes.MEANS)}
    same(measured["C1h"], minus(both["triple"], both["default"]), resolution=hard, shown=both,
         placebo=minus(seen("hard", "controls", OTHERS.format("triple"), "tens", "digit"), both["default"]))
    elsewhere = {name: seen("hard", "shifted", name, *HARD) for name in ("default", "triple", OTHERS.format("triple"))}
    same(measured["C1s"], minus(elsewhere["triple"], elsewhere["default"]), resolution=hard,
         placebo=minus(elsewhere[OTHERS.format("triple")], elsewhere["default"]))
    assert len(measured) == 10


def test_how_far_the_most_even_layer_is_behind():
    def behind(look, kinds):
        found = []
        for name, of in PROBES.items():
            if name.startswith(f"probes/{look}/"):
                gaps = [max(max(of["layers"][j][kind] for j in LAYERS) - of["layers"][k][kind] for kind in kinds) for k in LAYERS]
                found.append(100 * min(gaps))
        return found

    measured = quantities.probes(PROBES)["C17a"]
    assert measured["per_seed"] == pytest.approx(behind("hard", HARD))
    assert measured["placebo"]["per_seed"] == pytest.approx(behind("easy", EASY)) and {*measured["placebo"]} >= {"resolution"}


# -- pictures are the items --------------------------------------------------------------------------------
def staged(name, n=9):
    return {"score": drawn(name, "score"), "photographs": {"score": drawn(name, "photographs")},
            "cuts by picture": [[int(drawn(name, i, c, low=1, high=12)) for c in "ab"] for i in range(n)],
            **{which: [drawn(name, which, i) for i in range(n)] for which in ("scores", "permuted", "one order")}}


def test_stages():
    real, random, n = staged("real"), staged("random"), range(9)
    measured = quantities.stages({"stages/pretrained": real, "stages/random": random})
    above = {which: minus(real[which], real["permuted"]) for which in ("scores", "one order")}
    learnt = minus(random["scores"], random["permuted"])
    held(measured["C19a"], above["scores"], n, placebo=(above["one order"], n), shown={
        "pretrained, all pictures": real["score"], "photographs": real["photographs"]["score"], "random weights": random["score"]})
    away = [[max(abs(a - 6), abs(b - 10)) for a, b in of["cuts by picture"]] for of in (real, random)]
    held(measured["C19b"], away[0], n, placebo=(away[1], n))
    held(measured["C19c"], minus(above["scores"], learnt), n, placebo=(minus(above["one order"], learnt), n))


def test_where_all_items_are_equal_one_of_them_is_the_error():
    measured = quantities.clustered([1.0] * 8, [0.0] * 8, range(8))
    assert measured["stderr"] == 1 / 8 and measured["stderr_kind"] == "clustered"
    assert measured["ci95"] == pytest.approx([1 - 2.36462 / 8, 1 + 2.36462 / 8], abs=1e-4)  # seven degrees of freedom
    points = quantities.clustered([100.0] * 4, [0.0] * 4, [0, 0, 1, 1])
    assert points["stderr"] == 25.0 and quantities.clustered([0.5] * 4, [0.5] * 4, [0, 0, 1, 1])["stderr"] == 0.25
    assert quantities.clustered([3.0, 3.0], [0.0, 0.0], [0, 0])["stderr"] is None, "one cluster has no error"
    assert quantities.clustered([1.0, 0.0], [0.0, 0.0], [0, 1])["stderr"] == 0.5


def test_answers_of_the_committed_models():
    def answers(*path):
        return "".join("01"[drawn(*path, i) > 0.5] for i in range(12))

    pictures = {"test": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], "hard": [0, 1, 2, 3] * 3}
    found = {"llava/features": {which: {"pictures": of} for which, of in pictures.items()}} | {f"llava/seed{seed}": {
        "test": answers(seed, "test"), "hard": answers(seed, "hard"), **{way: {k: answers(seed, way, k) for k in ("2", "9", "11")}
                                                                         for way in ("another picture", "drawn again")}} for seed in SEEDS}

    def right(*path):
        rows = [found[f"llava/seed{seed}"] for seed in SEEDS]
        for name in path:
            rows = [row[name] for row in rows]
        return [100 * int(bit) for row in rows for bit in row]

    measured = quantities.llava(found)
    held(measured["C21a"], [100 - x for x in right("test")], pictures["test"] * 3,
         placebo=([100 - x for x in right("hard")], pictures["hard"] * 3))
    for claim, layer in (("C21b", "2"), ("C21c", "9"), ("C21d", "11")):
        held(measured[claim], minus(right("test"), right("another picture", layer)), pictures["test"] * 3,
             placebo=(minus(right("test"), right("drawn again", layer)), pictures["test"] * 3))
    assert len(measured) == 4


# -- times -------------------------------------------------------------------------------------------------
def test_times():
    ways = ("one layer again", "external direct", "internal modular")

    def process(i):
        at = partial(drawn, "process", i)
        return {"rounds": int(at("rounds", low=2, high=90)), "load_average": at("load"), "ratios": {way: {
            "median": at(way, "median"), "iqr": at(way, "iqr"), "bound": at(way, "bound"), "ratios": [at(way, r) for r in range(5)]}
            for way in ways}}

    found = {f"speed/process{i}": process(i) for i in range(3)}
    rounds = {way: [of["ratios"][way]["ratios"] for of in found.values()] for way in ways}
    measured = quantities.speed({"elsewhere": {}} | dict(reversed(found.items())))["C22a"]

    def error(way):
        return sum(stdev(of) ** 2 / 5 for of in rounds[way]) ** 0.5 / 3

    timing = {"rounds": sum(of["rounds"] for of in found.values()), "processes": 3, "estimator": "median of interleaved rounds",
              "iqr_relative": pytest.approx(max(of["ratios"]["external direct"]["iqr"] / of["ratios"]["external direct"]["median"]
                                                for of in found.values())),
              "load_average": max(of["load_average"] for of in found.values())}
    assert measured.pop("timing") == timing
    placebo = measured.pop("placebo")
    same(measured, [median(of) for of in rounds["external direct"]], resolution=error("external direct"), over="processes",
         shown={way: [of["ratios"][way]["median"] for of in found.values()] for way in ways}
         | {"bound": found["speed/process0"]["ratios"]["external direct"]["bound"]})
    same(placebo, [median(of) for of in rounds["internal modular"]], resolution=error("internal modular"), over="processes")

    def few(n):
        of = process(0)
        return quantities.speed({"speed/process0": of | {"ratios": {w: r | {"ratios": r["ratios"][:n]} for w, r in of["ratios"].items()}}})

    assert "resolution" not in few(1)["C22a"], "one round has no spread"
    assert few(2)["C22a"]["resolution"] == pytest.approx(stdev(rounds["external direct"][0][:2]) / 2**0.5)


def test_swaps_of_the_committed_pretrained_model():
    def answers(*path):
        return "".join("01"[drawn(*path, i) > 0.5] for i in range(12))

    pictures = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    found = {"committed/features": {"test": {"pictures": pictures}}} | {f"committed/seed{seed}": {
        "test": answers(seed, "test"), **{way: {k: answers(seed, way, k) for k in ("2", "9", "11")}
                                          for way in ("another picture", "drawn again")}} for seed in SEEDS}

    def right(*path):
        rows = [found[f"committed/seed{seed}"] for seed in SEEDS]
        for name in path:
            rows = [row[name] for row in rows]
        return [100 * int(bit) for row in rows for bit in row]

    measured = quantities.committed(found | {"llava/features": {}, "llava/seed0": {}})
    for claim, layer in (("C21e", "2"), ("C21f", "9"), ("C21g", "11")):
        held(measured[claim], minus(right("test"), right("another picture", layer)), pictures * 3,
             placebo=(minus(right("test"), right("drawn again", layer)), pictures * 3))
    assert len(measured) == 3


def test_the_four_models_of_this_paper():
    asked = {"pictures": [i // 4 for i in range(24)], "kinds": ["color", "digit", "tens", "shade"] * 6}
    names = ("default", "triple", "region", "cross-attention")

    def answers(*path):
        return "".join("01"[drawn(*path, i) > 0.5] for i in range(24))

    found = {"own/features": {"test": asked}} | {f"own/{name}": {"test": answers(name), "another picture": {
        k: answers(name, k) for k in ("2", "9", "11")}} for name in names}

    def right(name, layer=""):
        of = found[f"own/{name}"]
        return [100 * int(bit) for bit in (of["another picture"][layer] if layer else of["test"])]

    measured, triple, default = quantities.own(found), right("triple"), right("default")
    here = [i for i, kind in enumerate(asked["kinds"]) if kind != "color"]

    def fine(values):
        return [values[i] for i in here]

    held(measured["C24a"], fine(minus(triple, default)), fine(asked["pictures"]),
         placebo=(fine(minus(right("triple", "2"), default)), fine(asked["pictures"])))
    for claim, name in (("C24b", "region"), ("C24c", "cross-attention")):
        held(measured[claim], minus(right(name), triple), asked["pictures"], placebo=(minus(triple, default), asked["pictures"]))
    assert len(measured) == 3


# -- the paper's size --------------------------------------------------------------------------------------
SCALE = {"MME-C": 8, "MME-P": 20, "OCRBench": 10}
AVERAGED = {"C4": "external-direct_default", "C5": "external-direct_all", "C6": "external-direct_triple", "C7": "internal-modular_double",
            "C8": "internal-direct_triple", "C9": "external-modular_former", "C13": "siglip_27_external-direct_triple",
            "C14": "siglip_14_internal-modular_triple"}
OF_PAPER = ("external-direct", "external-modular", "internal-direct", "internal-modular")
SETS_OF_PAPER = ("single", "double", "triple", "former", "latter", "all")


def papers_runs():
    names = {*AVERAGED.values(), *(f"{kind}_{name}" for kind in OF_PAPER for name in SETS_OF_PAPER), "internal-modular_triple-post",
             "internal-modular_triple-parallel", *(f"{data}_{kind}_triple" for data in ("332k", "737k") for kind in OF_PAPER)}
    return {run: {str(seed): {name: drawn(run, seed, name) * SCALE.get(name, 1) for name in reported.BENCHMARKS} | {
        "TextVQA with OCR": 1.0, "training loss": drawn(run, seed, "loss")} for seed in SEEDS} for run in sorted(names)}


def test_averages_at_the_papers_size():
    runs = papers_runs()
    mean = {run: [fmean(drawn(run, seed, name) for name in reported.BENCHMARKS) for seed in SEEDS] for run in runs}
    measured = quantities.paper({"paper": runs})
    for claim, run in AVERAGED.items():
        same(measured[claim], mean[run], resolution=0.01)
    for claim, ours, theirs in (("C1", "external-direct_triple", "external-direct_default"),
                                ("C2", "internal-direct_triple", "internal-direct_latter")):
        same(measured[claim], minus(mean[ours], mean[theirs]), resolution=0.01)
    best = []
    for i in range(3):
        over = {kind: [mean[f"{kind}_{name}"][i] for name in SETS_OF_PAPER] for kind in OF_PAPER}
        own = over.pop("external-direct")
        best.append(min(fmean(own) - max(map(fmean, over.values())), min(map(stdev, over.values())) - stdev(own)))
    same(measured["C3"], best, resolution=0.01)
    same(measured["C10"], [drawn("internal-modular_all", seed, "loss") - drawn("internal-modular_double", seed, "loss") for seed in SEEDS],
         resolution=0.01)
    three = [*zip(*(mean[f"internal-modular_triple{variant}"] for variant in ("", "-post", "-parallel")))]
    same(measured["C11"], [max(of) - min(of) for of in three], resolution=0.01)
    gain = {kind: minus(mean[f"737k_{kind}_triple"], mean[f"332k_{kind}_triple"]) for kind in OF_PAPER}
    inside, outside = ([(a + b) / 2 for a, b in zip(gain[f"{where}-direct"], gain[f"{where}-modular"])]
                       for where in ("internal", "external"))
    same(measured["C12"], minus(inside, outside), resolution=0.01)
    assert {*measured} == {*AVERAGED, "C1", "C2", "C3", "C10", "C11", "C12"}


def test_what_is_missing_at_the_papers_size_is_not_run():
    runs = papers_runs()
    del runs["internal-direct_latter"]["1"]["POPE"], runs["siglip_27_external-direct_triple"]
    runs["external-direct_triple"] = {"0": runs["external-direct_triple"]["0"]}
    fewer = quantities.paper({"paper": runs})
    assert {*quantities.paper({"paper": papers_runs()})} - {*fewer} == {"C13"}
    assert (fewer["C2"]["n_runs"], fewer["C1"]["n_runs"], fewer["C3"]["n_runs"]) == (2, 1, 1)
    runs["internal-direct_latter"] = {"0": {"GQA": 1.0}}
    fewer = quantities.paper({"paper": runs})
    assert not {"C2", "C3", "C13"} & {*fewer} and quantities.paper({"paper": {}}) == {}
