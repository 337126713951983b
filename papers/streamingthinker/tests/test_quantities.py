"""Every quantity of a claim, worked out again from what claims.yaml names, on results in which no two numbers are equal: an arm
compared with itself, sides exchanged, another depth, another way to work, all would give something else."""

from functools import partial
from statistics import fmean, stdev

import pytest

from tests.golden import same
from tests.numerics import drawn

from .. import quantities
from ..experiments import arms

SEEDS = (0, 1, 4)
TASKS = ("GSM-Symbolic", "MetaMath", "ProofWriter", "LogicNLI", "HotpotQA", "PubMedQA")


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


# -- what is printed ---------------------------------------------------------------------------------------
BATCH_DELAY, DELAY = (47.70, 53.81, 61.99, 46.92, 20.37, 15.29), (9.768, 15.18, 11.05, 18.45, 6.50, 6.76)
ACCURACY, BATCH_ACCURACY = (.856, .780, .813, .634, .603, .653), (.855, .774, .620, .492, .575, .609)


def test_figures_of_the_papers_tables():
    measured = quantities.exact({}, "analytic")
    gaps = {"C1a": BATCH_ACCURACY, "C1b": (.890, .833, .863, .647, .608, .675), "C1c": (.874, .825, .861, .651, .621, .669)}
    expected = {name: dict(zip(TASKS, (100 * x for x in minus(ACCURACY, other)))) for name, other in gaps.items()}
    waited = [100 * (1 - a / b) for a, b in zip((20.77, 16.89, 20.51, 42.06, 24.32, 21.74),
                                                (94.74, 100.51, 232.11, 350.08, 1485.547, 357.468))]
    delays = [100 * (1 - a / b) for a, b in zip(DELAY, BATCH_DELAY)]
    own = [0.033 * n for n in (493.26, 668.19, 715.26, 1176.65, 466.14, 571.22)]
    shorter, overlap = ([100 * (1 - a / b) for a, b in zip(*pair)] for pair in ((own, BATCH_DELAY), (DELAY, own)))
    interleaved = (15.46, 20.49, 22.35, 38.50, 14.45, 17.45)
    apart = minus(ACCURACY, (.843, .783, .801, .627, .598, .646))
    excess = [[(a - b) / 0.033 for a, b in rows] for rows in (
        ((6.30, .66), (11.90, 5.973), (15.46, 9.768)), ((6.23, .68), (16.55, 10.98), (20.49, 15.18)),
        ((11.96, .71), (18.07, 6.50), (22.35, 11.05)), ((21.17, .72), (30.47, 9.9), (38.50, 18.45)),
        ((8.33, .69), (12.02, 3.92), (14.45, 6.50)), ((11.09, .74), (15.71, 4.92), (17.45, 6.76)))]
    depth = {"D1": fmean((.437, .668, .596, .623, .561, .592)), "D2": fmean((.871, .806, .795, .642, .601, .651)),
             "D3": fmean((.874, .825, .861, .651, .621, .669))}
    small = {"D1": fmean((.401, .183, .476, .519, .463, .601)), "D2": fmean((.692, .706, .544, .546, .497, .628)),
             "D3": fmean((.727, .738, .810, .568, .552, .663))}
    expected |= {"C2a": dict(zip(TASKS, waited)), "C2b": dict(zip(TASKS, waited)), "C3a": dict(zip(TASKS, delays)),
                 "C3b": dict(zip(TASKS, delays)), "C3d": {f"{task}, shorter trace": x for task, x in zip(TASKS, shorter)}, "C4": depth,
                 "C4r": depth, "C4a": small,
                 "C7a": dict(zip(TASKS, (100 * x for x in apart))), "C7c": dict(zip(TASKS, map(fmean, excess)))}
    assert {name: of["baselines"] for name, of in measured.items() if "baselines" in of} == {
        name: pytest.approx(shown, rel=1e-9) for name, shown in expected.items()}
    tau = [a / b for a, b in zip(BATCH_DELAY, (1445.61, 1630.67, 1878.57, 1421.92, 617.40, 463.37))]
    values = {name: fmean(expected[name].values()) for name in gaps} | {
        "C2a": fmean(waited[:2]), "C2b": fmean(waited), "C3a": fmean(delays), "C3b": min(delays), "C3c": max(abs(x - 0.033) for x in tau),
        "C3d": fmean(overlap), "C3e": 0.041 + 0.033 * (199.64 / 4.65 + 20) - .66, "C4": 100 * (2 * depth["D2"] - depth["D1"] - depth["D3"]),
        "C4r": 100 * min(depth["D2"] - depth["D1"], depth["D3"] - depth["D2"]),
        "C4a": 100 * (2 * small["D2"] - small["D1"] - small["D3"]), "C5a": 1.5, "C5b": 0.8, "C5c": 0.8,
        "C7a": min(100 * (1 - a / b) for a, b in zip(DELAY, interleaved)),
        "C7c": max(max(row) - min(row) for row in excess), "C7d": 0.0, "C9a": 28.003 / 6.231, "C10a": 3.65 * 7993.0,
        "C11a": 100 * 257.11 / 1172.36, "C14d": fmean((.80, .64, .66, .80, .69, .75, .80, .82))}
    assert {name: of["value"] for name, of in measured.items()} == pytest.approx(values, rel=1e-6, abs=1e-9)


def test_ways_that_differ_are_seen(monkeypatch):
    monkeypatch.setattr(quantities.analytic, "events", lambda m: {"buffered": m, "streaming": 300.0, "batch": 0.0, "blocking": 1.0})
    monkeypatch.setattr(quantities.analytic, "largest_position_gap", lambda rows, *table: {
        ("D1", "D2", "D3"): 0.75 if table else 0.25, ("SFT",): 0.5}[rows])
    measured = quantities.exact({}, "analytic")
    assert measured["C7d"]["value"] == 280.0, "of tails of 20, 181 and 296 tokens"
    assert [measured[name]["value"] for name in ("C5a", "C5b", "C5c")] == [25.0, 50.0, 75.0]


# -- arms --------------------------------------------------------------------------------------------------
def run(*path, **more):
    at, counted = partial(drawn, *path), partial(drawn, *path, low=10, high=99)
    return {"D1": at("D1"), "D2": at("D2"), "D3": at("D3"), "unit": at("unit"), "items": int(counted("items")),
            "places": [[int(counted("right", i)), int(counted("of", i, high=300))] for i in range(8)], "other units": at("other"),
            "reduction": {way: [at(way, d) for d in range(3)] for way in ("blocking", "buffered", "streaming")},
            "kinds": {kind: [int(counted(kind)), int(counted(kind, "of", high=300))] for kind in ("ahead", "init")}} | more


def trained():
    found = {f"{arm}/seed{seed}": run(arm, seed) for arm in arms.ARMS for seed in SEEDS}
    for seed in SEEDS:
        found[f"start/seed{seed}"] = {"model": {"name": f"base {seed}"}} | {name: run(name, seed) for name in arms.UNTUNED}
        found[f"schedules/seed{seed}"] = {"equal": 150 + seed, "placebo": 30 + 5 * seed, "of": 200 + 20 * seed}
    return found


FOUND = trained()


def entry(arm, what):
    """Of every seed; in %."""
    rows = [FOUND[f"start/seed{s}"][arm] if arm in arms.UNTUNED else FOUND[f"{arm}/seed{s}"] for s in SEEDS]
    return [100 * row[what] for row in rows]


def test_arms():
    measured, one = quantities.arms(FOUND), 100 / FOUND["start/seed0"]["start"]["items"]
    right = {arm: entry(arm, "D2") for arm in ("start", "untuned", "batch", "batch spe", "streaming", "streaming far", "interleaved",
                                             "batch own")}
    untuned = minus(right["untuned"], right["batch"])
    same(measured["C1s"], minus(right["streaming"], right["batch"]), placebo=untuned, resolution=one, shown=right)
    same(measured["C1r"], minus(right["streaming"], right["batch own"]), placebo=minus(right["untuned"], right["batch own"]),
         resolution=one, shown=right)
    same(measured["C1d"], minus(right["streaming far"], right["batch"]), placebo=untuned, resolution=one, shown=right)
    same(measured["C5s"], minus(right["batch spe"], right["batch"]), sensitivity=untuned, resolution=one)
    same(measured["C7s"], minus(right["streaming"], right["interleaved"]), placebo=minus(right["untuned"], right["interleaved"]),
         resolution=one, shown=right)

    def saved(way, depth):
        return [FOUND[f"streaming/seed{s}"]["reduction"][way][depth - 1] for s in SEEDS]

    same(measured["C3s"], saved("streaming", 3), placebo=saved("blocking", 3), resolution=0.1, shown={
        f"D{d}, {way}": saved(way, d) for d in (1, 2, 3) for way in ("blocking", "buffered", "streaming")})
    same(measured["C3t"], saved("streaming", 1), placebo=saved("blocking", 1), resolution=0.1)

    def between(arm, high, low):
        return minus(entry(arm, high), entry(arm, low))

    same(measured["C4s"], between("streaming", "D2", "D1"), placebo=between("untuned", "D2", "D1"), resolution=one, shown={
        f"{arm}, {d}": entry(arm, d) for arm in ("batch", "streaming") for d in ("D1", "D2", "D3")})
    same(measured["C4t"], between("streaming", "D3", "D2"), placebo=between("streaming", "D1", "D2"), resolution=one)
    same(measured["C12s"], minus(right["start"], right["untuned"]), placebo=minus(right["start"], right["streaming"]), resolution=one,
         shown={arm: entry(arm, "D2") for arm in ("start", "untuned", "untuned rope", "streaming")})
    same(measured["C16s"], [x - 10 for x in entry("streaming", "other units")], placebo=[x - 10 for x in right["streaming"]],
         resolution=one)
    assert len(measured) == 13 and quantities.Arms(FOUND).units(4, "batch") == 100 * FOUND["batch/seed4"]["unit"]


def test_early_and_late_sentences():
    """The first place is the question's; of the other seven the first three are early."""
    def early(arm):
        found = []
        for seed in SEEDS:
            places = FOUND[f"{arm}/seed{seed}"]["places"]
            found.append(100 * (sum(r for r, _ in places[1:4]) / sum(n for _, n in places[1:4])
                                - sum(r for r, _ in places[4:]) / sum(n for _, n in places[4:])))
        return found

    same(quantities.arms(FOUND)["C15s"], minus(early("streaming"), early("batch")), placebo=minus(early("batch"), early("interleaved")),
         resolution=100 / FOUND["start/seed0"]["start"]["items"], shown={arm: early(arm) for arm in ("batch", "streaming", "interleaved")})
    few = {"start/seed0": {"start": {"places": [[5, 5], [0, 0], [1, 2], [1, 1]]}}}
    assert quantities.Arms(few).early(0, "start") == pytest.approx(100 * (0 - 2 / 3)), "where nothing was asked nothing is right"


def test_schedules_are_counted_over_seeds():
    measured = quantities.arms(FOUND)["C10e"]
    assert (measured["value"], measured["n_items"]) == (pytest.approx(100 * (150 + 151 + 154) / 700), 200 + 220 + 280)
    assert (measured["placebo"]["value"], measured["placebo"]["n_items"]) == (pytest.approx(100 * (30 + 35 + 50) / 700), 700)
    for hits in (0, 7):
        found = quantities.percent(hits, 7)
        assert found["ci95"][0] <= found["value"] <= found["ci95"][1] and found["value"] == 100 * hits / 7
    assert quantities.percent(0, 7)["ci95"][1] > 30 and quantities.percent(7, 7)["ci95"][0] < 70


# -- gold traces, real text --------------------------------------------------------------------------------
def held(measured, values, control):
    assert measured["value"] == pytest.approx(fmean(values)) and measured["n_items"] == len(values)
    assert measured["stderr"] == pytest.approx(stdev(values) / len(values) ** 0.5)
    assert measured["placebo"]["value"] == control and {*measured} - {*measured["placebo"]} == {"placebo", "ci95"} - {*measured["placebo"]}


def test_items_of_gold_traces_and_of_real_text():
    lists = {name: [drawn(name, i, high=99.0) for i in range(7 + n)] for n, name in enumerate(("waited", "places", "GSM8K", "PubMedQA"))}
    measured = quantities.gold({"gold": lists}) | quantities.realtext({"realtext": lists})
    for claim, name, control in (("C2s", "waited", 0.0), ("C11s", "places", 100.0), ("C2r", "GSM8K", 0.0), ("C2p", "PubMedQA", 0.0)):
        held(measured[claim], lists[name], control)
        assert measured[claim]["placebo"]["n_items"] == len(lists[name])


# -- variants ----------------------------------------------------------------------------------------------
def test_variants():
    names = ("untuned", "batch", "streaming", "batch spe")
    found = {f"{variant}/{arm}/seed{s}": run(variant, arm, s) for variant in ("context", "rules", "places", "ahead") for arm in names
             for s in SEEDS}
    found["rules/streaming/seed1"]["D2"], found["places/untuned/seed4"]["D2"] = 0.01, 0.02  # either of two may be the smaller

    def d2(variant, arm):
        return [100 * found[f"{variant}/{arm}/seed{s}"]["D2"] for s in SEEDS]

    def gap(variant, arm):
        return minus(d2(variant, arm), d2(variant, "batch"))

    def looked(arm):
        return [100 * right / of for right, of in (found[f"ahead/{arm}/seed{s}"]["kinds"]["ahead"] for s in SEEDS)]

    measured, one = quantities.variants(found), 100 / found["context/batch/seed0"]["items"]
    both = ("untuned", "batch", "streaming")
    same(measured["C8s"], gap("context", "streaming"), placebo=gap("context", "untuned"), resolution=one, shown={
        f"context, {arm}": d2("context", arm) for arm in both})
    smaller = {arm: [min(pair) for pair in zip(gap("rules", arm), gap("places", arm))] for arm in ("streaming", "untuned")}
    same(measured["C17s"], smaller["streaming"], placebo=smaller["untuned"], resolution=one, shown={
        f"{variant}, {arm}": d2(variant, arm) for variant in ("rules", "places") for arm in both})
    same(measured["C13s"], minus(looked("streaming"), looked("batch spe")), placebo=[0.0] * 3, shown={
        f"ahead, {arm}": d2("ahead", arm) for arm in ("batch spe", "streaming")},
         resolution=100 / found["ahead/streaming/seed0"]["kinds"]["ahead"][1])
    for result in found.values():
        result["kinds"] = {}
    none = quantities.variants(found)["C13s"]
    assert none["per_seed"] == [0, 0, 0] and none["resolution"] == 100, "no look-ahead sentence: none is right, of one"


# -- the gate ----------------------------------------------------------------------------------------------
def test_the_gate():
    faults = {"merged": [91, 100], "summary": [70, 90], "delayed": [60, 80], "ahead": [33, 70], "quoted": [11, 60]}
    found = {"gate": {"kept": {"tf-idf": [440, 500], "other": [1, 2]}, "dropped": {"tf-idf": faults, "other": {}},
                      "count faults": ["merged", "summary"], "order faults": ["delayed", "ahead"]}}
    measured, shown = quantities.gate(found), {kind: 100 * hit / of for kind, (hit, of) in faults.items()}
    for claim, hits, of in (("C14c", 161, 190), ("C14o", 93, 150), ("C14q", 11, 60)):
        assert (measured[claim]["value"], measured[claim]["n_items"]) == (pytest.approx(100 * hits / of), of)
        assert measured[claim]["baselines"] == pytest.approx(shown)
        assert (measured[claim]["placebo"]["value"], measured[claim]["placebo"]["n_items"]) == (pytest.approx(12.0), 500)
    assert (measured["C14k"]["value"], measured["C14k"]["n_items"]) == (88.0, 500) and "baselines" not in measured["C14k"]
    assert (measured["C14k"]["placebo"]["value"], measured["C14k"]["placebo"]["n_items"]) == (pytest.approx(100 * 135 / 400), 400)


# -- time --------------------------------------------------------------------------------------------------
def test_times():
    found = {f"clock/process{i}": {"streaming": drawn("s", i), "batch": drawn("b", i), "delay": {
        name: drawn(name, i) for name in ("streaming", "predicted", "batch")}} for i in range(3)} | {"step/process9": {}}
    rows = [row for name, row in found.items() if name.startswith("clock")]
    same(quantities.clock(found)["C3w"], [100 * (row["streaming"] - 1) for row in rows], resolution=0.1, over="processes",
         sensitivity=[100 * (row["batch"] - 1) for row in rows],
         shown={f"{name}, ms": [1000 * row["delay"][name] for row in rows] for name in ("streaming", "predicted", "batch")})
    same(quantities.clock(found)["C3k"], [100 * (1 - row["delay"]["streaming"] / row["delay"]["batch"]) for row in rows], resolution=0.1,
         over="processes", placebo=[100 * (1 - row["delay"]["batch"] / max(other["delay"]["batch"] for other in rows)) for row in rows],
         shown={f"{name}, ms": [1000 * row["delay"][name] for row in rows] for name in ("streaming", "predicted", "batch")})
    steps = {f"step/process{i}": {"ratio": {way: drawn(way, i) for way in ("views", "concatenation")},
                                  "ms": {way: drawn(way, i, "ms") for way in ("stock", "views", "concatenation")}} for i in range(3)}
    ratio = {way: [row["ratio"][way] for row in steps.values()] for way in ("views", "concatenation")}
    same(quantities.speed(steps | {"clock/process0": {}})["C10s"], ratio["views"], placebo=ratio["concatenation"], resolution=0.001,
         over="processes", shown={f"{way}, ms": [row["ms"][way] for row in steps.values()] for way in ("stock", "views", "concatenation")})


def test_what_a_record_names():
    models, data = quantities.facts(FOUND)
    assert models == [{"name": "base 0"}]
    assert data == [{"name": "generated stories with running totals", "split": "test", "n": FOUND["start/seed0"]["start"]["items"]}]
