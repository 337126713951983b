"""Every quantity of a claim, worked out again from what claims.yaml names, on results in which no two answers are the same row: an
arm compared with itself, sides exchanged, another block, another score, all would give something else."""

from functools import partial
from statistics import fmean, median, stdev

import pytest

from tests.golden import held, same
from tests.numerics import drawn

from .. import quantities, reported

SEEDS, BLOCKS = (0, 1, 4), tuple(map(str, range(8)))
LOOKED, TEST = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]  # pictures of questions
WAYS = {"after": BLOCKS, "before": BLOCKS, "merge": BLOCKS, "up to": BLOCKS, "onto": ("0", "31", "63"),
        "shallow": ("before", "merge", "highest", "lowest", "random", "all but highest"),
        "middle": ("before", "merge", "highest", "lowest", "random", "all but highest")}
ARMS = ("dense", "VisiPruner", "no exit", "attention at its K", "lot at its K", "another lot at its K", "FastV", "PyramidDrop",
        "no boundary", "paper's shallow stage", "code's shallow stage")


def made():
    found = {"features/test": {"looked": {"pictures": LOOKED}, "test": {"pictures": TEST}}}
    for seed in SEEDS:
        def bits(*path, n=14, seed=seed):
            share = drawn("share", *path, seed)
            return "".join("01"[drawn(*path, seed, i, low=0.0, high=1.0) < share] for i in range(n))

        share = {b: drawn("validation", seed, b) for b in (*BLOCKS, "dense")}
        found[f"knocked/seed{seed}"] = {"dense": bits("dense"), "validation": share} | {
            way: {name: bits(way, name) for name in names} for way, names in WAYS.items()}
        found[f"looked/seed{seed}"] = {
            "kept": {score: {b: bits("kept", score, b) for b in BLOCKS} for score in ("attention", "value", "lot", "another lot")},
            "exit": {b: bits("exit", b) for b in BLOCKS},
            "lens": {which: {b: bits("lens", which, b) for b in BLOCKS} for which in ("right", "another")},
            "sinks": {which: [drawn(which, seed, i) for i in range(len(LOOKED))] for which in ("items", "by lot")}}
        found[f"pruned/seed{seed}"] = {"test": {arm: bits("pruned", arm, n=len(TEST)) for arm in ARMS},
                                       "saved": [drawn("saved", seed, i, high=99.0) for i in range(len(TEST))],
                                       **{name: drawn(name, seed) for name in ("kept", "filter", "exit")}}
    return found


FOUND = made()
MEASURED = quantities.llava(FOUND)


def answers(job, *path, found=FOUND):
    """Of all models, one after the other, in points."""
    out = []
    for seed in SEEDS:
        of = found[f"{job}/seed{seed}"]
        for name in path:
            of = of[name]
        out += [100.0 * int(bit) for bit in of] if isinstance(of, str) else of
    return out


knocked, looked, pruned = (partial(answers, job) for job in ("knocked", "looked", "pruned"))
DENSE = knocked("dense")


def seen(claim, ours, theirs, other=None, **more):
    """The claim is ours - theirs, its control the first less the second of `other`."""
    pictures, one = (TEST, 100 / len(TEST) / 3) if more.pop("test", False) else (LOOKED, 100 / len(LOOKED) / 3)
    control, (a, b), how = more.pop("control", "placebo"), other, more.pop("control_on", None)
    p, least = (pictures, one) if how is None else how
    held(MEASURED[claim], [x - y for x, y in zip(ours, theirs)], pictures * 3, one, {"ours": fmean(ours), "theirs": fmean(theirs)},
         **{control: ([x - y for x, y in zip(a, b)], p * 3, least, {"ours": fmean(a), "theirs": fmean(b)})})


def test_what_shallow_blocks_do():
    before = knocked("shallow", "before")
    for claim, way in (("C8a", "highest"), ("C9a", "all but highest"), ("C11a", "merge")):
        seen(claim, DENSE, knocked("shallow", way), (DENSE, before), control="sensitivity")
    seen("C10a", knocked("after", "0"), knocked("before", "0"), (knocked("after", "7"), knocked("before", "7")))
    seen("C11b", knocked("shallow", "merge"), before, (knocked("merge", "7"), knocked("before", "7")))
    seen("C12a", knocked("onto", "0"), knocked("onto", "63"), (knocked("onto", "0"), knocked("before", "0")), control="sensitivity")
    half = [(d - b) / 2 for d, b in zip(DENSE, knocked("before", "0"))]
    lost = [[d - b for d, b in zip(DENSE, knocked("before", block))] for block in ("1", "0")]
    seen("C10b", lost[0], half, (lost[1], half))
    ratio, lot = looked("sinks", "items"), looked("sinks", "by lot")
    held(MEASURED["C19a"], ratio, LOOKED * 3, max(ratio) / len(ratio), placebo=(lot, LOOKED * 3, max(lot) / len(lot)))


def test_where_the_picture_is_needed():
    ordered = {seed: sorted("123456", key=FOUND[f"knocked/seed{seed}"]["validation"].get) for seed in SEEDS}

    def at(place):
        out = []
        for seed in SEEDS:
            out += [100.0 * int(bit) for bit in FOUND[f"knocked/seed{seed}"]["after"][ordered[seed][place]]]
        return out

    def shown(place):
        return {f"seed {seed}, block": float(ordered[seed][place]) for seed in SEEDS}

    one = 100 / len(LOOKED) / 3
    assert len({ordered[seed][0] for seed in SEEDS}) > 1
    held(MEASURED["C14a"], [d - x for d, x in zip(DENSE, at(0))], LOOKED * 3, one, shown(0),
         placebo=([d - x for d, x in zip(DENSE, at(-1))], LOOKED * 3, one, shown(-1)))
    gone = looked("exit", "0")
    seen("C14f", DENSE, knocked("after", "0"), (DENSE, gone))
    seen("C14l", DENSE, knocked("after", "7"), (DENSE, gone))
    seen("C14u", DENSE, knocked("up to", "1"), (DENSE, knocked("up to", "7")))
    lowest = knocked("middle", "lowest")
    seen("C15a", lowest, knocked("middle", "highest"), (lowest, knocked("middle", "random")))
    seen("C15b", knocked("middle", "before"), knocked("middle", "merge"), (knocked("shallow", "before"), knocked("shallow", "merge")))
    seen("C18a", DENSE, looked("exit", "5"), (DENSE, looked("exit", "2")))
    seen("C18b", knocked("after", "4"), looked("exit", "3"), (knocked("after", "7"), looked("exit", "6")))
    seen("C20a", looked("lens", "right", "7"), looked("lens", "right", "3"),
         (looked("lens", "another", "7"), looked("lens", "another", "3")))


def test_pruned():
    arm = {name: pruned("test", name) for name in ARMS}
    ours, lot = arm["VisiPruner"], arm["lot at its K"]
    for claim, rival in (("C7f", "FastV"), ("C7p", "PyramidDrop")):
        seen(claim, ours, arm[rival], (lot, arm[rival]), test=True)
    seen("C16b", arm["dense"], ours, (arm["dense"], lot), test=True)
    seen("C16c", ours, arm["no boundary"], (ours, arm["no exit"]), test=True)
    seen("C16s", ours, arm["paper's shallow stage"], (DENSE, looked("exit", "0")), test=True, control_on=(LOOKED, 100 / 14 / 3))
    seen("C17a", arm["no exit"], arm["attention at its K"], (lot, arm["attention at its K"]), test=True)
    seen("C17l", arm["no exit"], lot, (arm["another lot at its K"], lot), test=True)
    scores = ("attention", "value", "lot", "another lot")
    kept = {(score, block): looked("kept", score, block) for score in scores for block in ("0", "3")}
    attention, by_lot = kept["attention", "3"], kept["lot", "3"]
    seen("C17v", kept["value", "3"], attention, (by_lot, attention))
    seen("C17s", kept["attention", "0"], kept["lot", "0"], (attention, by_lot))
    seen("C17m", attention, by_lot, (kept["another lot", "3"], by_lot))
    assert len(MEASURED) == 28


def test_pairs_that_are_saved():
    saved, measured = pruned("saved"), MEASURED["C16a"]
    rows = [FOUND[f"pruned/seed{seed}"] for seed in SEEDS]
    assert measured["placebo"]["value"] == 0
    held({name: of for name, of in measured.items() if name != "placebo"}, saved, TEST * 3, max(saved) / len(saved),
         {name: fmean(row[name] for row in rows) for name in ("kept", "filter", "exit")})
    some = FOUND | {"pruned/seed1": FOUND["pruned/seed1"] | {"exit": None}}
    assert quantities.llava(some)["C16a"]["baselines"]["exit"] == fmean((rows[0]["exit"], rows[2]["exit"]))
    none = FOUND | {f"pruned/seed{seed}": row | {"exit": None} for seed, row in zip(SEEDS, rows)}
    assert {*quantities.llava(none)["C16a"]["baselines"]} == {"kept", "filter"}, "what no model did is not shown"


def test_least_errors_by_hand():
    one = quantities.apart([1.0, -4.0, 1.0], [1.0, -4.0, 1.0], [0, 0, 0])
    assert one["stderr"] == 4 / 3 and one["ci95"] == [0.0, 0.0], "a single picture has no interval"
    wide = quantities.apart([100.0, 0.0], [0.0, 0.0], [0, 1])
    assert wide["stderr"] == 50.0 and "baselines" not in wide
    more = quantities.apart([3.0] * 4, [2.0] * 4, [0, 0, 1, 1], a=1.0)
    assert more["stderr"] == 0.75 and more["stderr_kind"] == "clustered" and more["baselines"] == {"a": 1.0}
    assert more["ci95"] == pytest.approx([1 - 12.7062 * 0.75, 1 + 12.7062 * 0.75], rel=1e-4)
    assert sum(more["ci95"]) == pytest.approx(2.0)


# -- time --------------------------------------------------------------------------------------------------
def error(rounds):
    return sum(stdev(of) ** 2 / len(of) for of in rounds) ** 0.5 / len(rounds)


def test_times():
    pairs = ("dense / pruned", "dense / masked", "dense / official")

    def process(i):
        at = partial(drawn, "process", i)
        return {"rounds": int(at("rounds", low=2, high=90)), "load_average": at("load"), "ratios": {pair: {
            "median": at(pair, "median"), "iqr": at(pair, "iqr"), "bound": at(pair, "bound"), "ratios": [at(pair, r) for r in range(5)]}
            for pair in pairs}}

    found = {f"speed/process{i}": process(i) for i in range(3)}
    measured, rows = quantities.speed({"elsewhere": {}} | dict(reversed(found.items()))), list(found.values())
    bound = rows[0]["ratios"]["dense / pruned"]["bound"]
    for claim, ours, control, timed, by in (("C22a", pairs[0], pairs[1], pairs[0], 1.0), ("C22b", pairs[0], pairs[1], pairs[0], bound),
                                            ("C22c", pairs[2], pairs[0], pairs[2], 1.0)):
        of = dict(measured[claim])
        assert of.pop("timing") == {
            "rounds": sum(row["rounds"] for row in rows), "processes": 3, "estimator": "median of interleaved rounds",
            "iqr_relative": max(row["ratios"][timed]["iqr"] / row["ratios"][timed]["median"] for row in rows),
            "load_average": max(row["load_average"] for row in rows)}
        for one, pair, shown in ((of.pop("placebo"), control, {}), (of, ours, {
                pair: [row["ratios"][pair]["median"] for row in rows] for pair in pairs} | {"bound": bound} if claim == "C22a" else {})):
            rounds = [[r / by for r in row["ratios"][pair]["ratios"]] for row in rows]
            same(one, [median(r) for r in rounds], shown=shown, resolution=error(rounds), over="processes")
    assert "resolution" not in quantities.over_processes([[1.0], [2.0]]), "one round has no spread"
    assert quantities.over_processes([[1.0, 2.0]])["resolution"] == pytest.approx(0.5)


def test_trainings():
    def run(arm, seed):
        return {"right": "".join("01"[drawn(arm, seed, i, low=0.0, high=1.0) < drawn(arm)] for i in range(30 + seed)),
                "seconds": {way: [drawn(arm, seed, way, i) for i in range(8)] for way in ("dense", "staged")}}

    found = {f"guideline/{arm}/seed{seed}": run(arm, seed) for arm in ("dense", "middle", "last") for seed in SEEDS}
    right = {arm: [100 * sum(map(int, bits)) / len(bits) for bits in (found[f"guideline/{arm}/seed{s}"]["right"] for s in SEEDS)]
             for arm in ("dense", "middle", "last")}
    measured = quantities.guideline(found)
    claim, control = dict(measured["C23a"]), measured["C23a"]["placebo"]
    del claim["placebo"]
    for of, arm in ((claim, "middle"), (control, "last")):
        same(of, [a - b for a, b in zip(right["dense"], right[arm])], shown={"dense": right["dense"], arm: right[arm]}, resolution=100 / 30)
    steps = [found[f"guideline/middle/seed{s}"]["seconds"] for s in SEEDS]
    faster = [[a / b for a, b in zip(of["dense"], of["staged"])] for of in steps]
    itself = [[a / b for a, b in zip(of["dense"][0::2], of["dense"][1::2])] for of in steps]
    of = dict(measured["C23b"])
    spread = max((sorted(f)[5] - sorted(f)[2]) / median(f) for f in faster)  # of eight the third from either end
    assert of.pop("timing") == {"rounds": 24, "processes": 3, "estimator": "median of interleaved steps",
                                "iqr_relative": pytest.approx(spread)}
    same(of.pop("placebo"), [median(f) for f in itself], resolution=error(itself), over="processes")
    same(of, [median(f) for f in faster], resolution=error(faster), over="processes")


# -- what is printed, and the paper's size -------------------------------------------------------------------
def test_figures_of_the_paper():
    measured, d, m, L, n = quantities.exact({}, "analytic"), 4096, 11008, 32, 576

    def block(k, d=d, m=m):
        return 4 * k * d * d + 2 * k * k * d + 3 * k * d * m

    def pairs(k):
        return k * k + 74 * k

    def saved(layer, kept):
        shallow = 4 * n * d * d + 3 * n * d * m  # their attention is not counted
        return 100 * (1 - (layer * shallow + kept * block(10)) / (L * block(n)))

    values = {"C1": saved(15, 6), "C1a": L * block(n) / 1e12, "C1b": saved(12, 10), "C1c": 100 * (1 - 9 * pairs(10) / (32 * pairs(n))),
              "C2a": 40 * block(n, 5120, 13824) / 1e12, "C5a": 4, "C7a": 100 * (1 - pairs(192) / pairs(n)),
              "C7b": 100 * (1 - pairs(64) / pairs(n)), "C7c": 100 * (1 - (3 * pairs(n) + 29 * pairs(144)) / (32 * pairs(n))),
              "C7d": 100 * (1 - (9 * pairs(10) + 10 * n * 74) / (32 * pairs(n))), "C7e": 2}
    whole, text, seen = block(n + 74), block(74), block(10 + 74)
    values["C1w"] = 100 * (1 - (15 * (4 * n * d * d + 3 * n * d * m) + 9 * block(10) + L * text) / (L * whole))
    assert {name: of["value"] for name, of in measured.items()} == pytest.approx(values, rel=1e-9)
    assert measured["C1w"]["baselines"] == pytest.approx({
        "attention of the picture counted": 100 * (1 - (15 * whole + 9 * seen + 8 * text) / (L * whole)),
        "visual tokens, their attention counted up to the filter layer": 100 * (1 - (15 * block(n) + 9 * block(10)) / (L * block(n)))})
    one = 4 * n * d * d + 3 * n * d * m
    f = (1.76e12 - 23.9 * block(10)) / (one - block(10))  # f layers of all and 23.9 - f of ten tokens are 1.76 T
    cached = {"dense": 32 * 650, "paper": 32 * 74 + 9 * 10, "code": 15 * 650 + 9 * 84 + 8 * 74}
    assert measured["C1"]["baselines"] == pytest.approx({"9 layers with 10 tokens": saved(15, 9), "filter layer for 1.76 T": f} | {
        f"cache of the prompt, MB, {name}": tokens * 2 * 4096 * 2 / 1e6 for name, tokens in cached.items()})
    assert measured["C1c"]["baselines"] == {"the released code": pytest.approx(
        100 * (1 - (n * 74 + 5 * n * n + 9 * pairs(n) + 9 * pairs(10)) / (32 * pairs(n))))}
    small = 144
    mobile = 32 * (4 * small * 2560**2 + 2 * small**2 * 2560 + 3 * small * 2560 * 6912)
    assert measured["C2a"]["baselines"] == {"MobileVLM-V2-3B": pytest.approx(mobile / 1e12)}
    assert len(measured["C5a"]["baselines"]) == 6
    for name, value in measured["C5a"]["baselines"].items():
        model, _, way = name.partition(", ")
        row = next(r for r in reported.QUALITY if r.model == model and r.pruned == (way == "pruned"))
        computed = sum(s / 20 if s > 100 else s for s in row.scores) / 7
        assert value == round(computed, 2) and abs(computed - row.average) > 0.05
    assert measured["C7c"]["baselines"] == {"K = 2": pytest.approx(100 * (1 - (2 * pairs(n) + 30 * pairs(144)) / (32 * pairs(n))))}


def test_points_lost_at_the_papers_size():
    scores = {model: {way: {name: drawn(model, way, name) * (20 if name == "MME-P" else 1) for name in reported.TABLE_5} | {"VQAv2": 9.0}
                      for way in ("dense", "pruned")} for model in ("LLaVA-1.5-7B", "LLaVA-1.5-13B")}
    mean = {model: {way: fmean(drawn(model, way, name) for name in reported.TABLE_5) for way in of} for model, of in scores.items()}
    measured = quantities.paper({"paper": scores})
    for claim, model in (("C2", "LLaVA-1.5-7B"), ("C3", "LLaVA-1.5-13B")):
        assert measured[claim]["value"] == pytest.approx(mean[model]["dense"] - mean[model]["pruned"])
        assert measured[claim]["baselines"] == pytest.approx(mean[model])
    del scores["LLaVA-1.5-7B"]["pruned"]["POPE"]
    assert {*quantities.paper({"paper": scores})} == {"C3"}
    del scores["LLaVA-1.5-13B"]["dense"]
    assert quantities.paper({"paper": scores}) == quantities.paper({"paper": {}}) == {}
