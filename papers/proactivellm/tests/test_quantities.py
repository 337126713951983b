"""Every quantity of a claim, worked out again from what claims.yaml names, on results in which no two numbers are equal: an arm
compared with itself, sides exchanged, another head, another point of a sweep, all would give something else."""

from functools import partial
from math import sqrt
from statistics import median

import pytest

from common.errors import RecordError
from tests.golden import same
from tests.numerics import drawn

from .. import analytic, quantities
from ..experiments import text
from ..scoring import earliest

SEEDS, HEADS = (0, 1, 4), ("max-prob", "margin", "attention", "linear")


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


# -- what is printed ---------------------------------------------------------------------------------------
def test_figures_of_the_papers_tables():
    measured = quantities.exact({}, "analytic")
    kept = {"en-de, entropy": 100 * 23.62 / 27.34, "short qa, attention": 100 * 71.69 / 74.79, "choice qa, attention": 100 * 83.15 / 88.33,
            "spoken-squad, entropy": 100 * 71.12 / 72.15}
    ends = [analytic.lag_and_context([min(9 + t, m) for t in range(m)], m) for m in (16, 17)]
    lag, context = (float(a) + 0.42 * float(b - a) for a, b in zip(*ends))
    pairs = {"choice qa": (205, [152], 60), "short qa": (116, [103] * 3, 40), "en-de": (16, [min(9 + t, 16) for t in range(16)], 20)}

    def cost(P, path):  # what was read, and of each unit all before it, with a header of three tokens
        n = P + path[-1]
        return n * (n + 1) / 2 + sum(P + phi + 3 + t for t, phi in enumerate(path, 1))

    def saved(name, P, probes=0.0):
        M, path, _ = pairs[name]
        return 100 * (1 - (cost(P, path) + probes) / cost(P, [M] * len(path)))

    probed = {}
    for name, (_, path, P) in pairs.items():
        steps = [(t, read) for t, phi in enumerate(path, 1) for read in range(path[t - 2] if t > 1 else 1, phi)]
        probed[name] = saved(name, P, sum(P + read + 3 + t for t, read in steps))
    best = {name: min((saved(name, P) for P in range(1, 201)), key=lambda value: abs(value - printed))
            for name, printed in (("choice qa", 34.82), ("en-de", 2.27), ("short qa", 21.67))}
    naive = 116**2 / 3 + 116 / 6 - 58**2  # of a uniform draw of 0 .. 116
    values = {"C4a": kept["short qa, attention"], "C5d": analytic.implied_lag(), "C5e": lag, "C5f": context, "C7a": 151.62 / 204.87,
              "C7b": 1 / 3, "C9a": 48.74 - 38.12, "C9b": 58.36 - 50.21, "C10a": (31.02 - 21.26) / .2, "C13": best["choice qa"],
              "C13a": best["en-de"], "C13b": best["short qa"], "C13c": max(probed.values()), "C15": sqrt(naive / (116 / 4)),
              "C15a": analytic.spread_ratio("sorted", 16, 16)}
    assert {name: of["value"] for name, of in measured.items()} == pytest.approx(values, rel=1e-9)
    assert {name: of["baselines"] for name, of in measured.items() if "baselines" in of} == {
        "C4a": pytest.approx(kept), "C13c": pytest.approx(probed), "C7b": {"multinomial": 0.0, "slack": pytest.approx(1 / 3)}}


# -- results -----------------------------------------------------------------------------------------------
def row(*path, **more):
    at = partial(drawn, *path)
    names = ("RCO", "exact", "CW", "premature", "excess", "bleu")
    return {name: at(name) for name in names} | {name: at(name, low=1.0, high=30.0) for name in ("AIL", "AIL s", "AL")} | {
        "quality": at("quality", low=5.0, high=95.0), "pairs": at("pairs", low=1e4, high=9e4), "wasted": at("wasted", low=1e3, high=9e3),
        "n": int(at("n", low=50, high=300)), "truncated": int(at("truncated", low=0, high=40))} | more


def swept(*path):
    return {"calibration": [row(*path, "calibration", i) for i in range(6)], "test": [row(*path, "test", i) for i in range(6)],
            "chosen": int(drawn(*path, "chosen", low=1, high=5)), "early": int(drawn(*path, "early", low=1, high=5)), "keeps": True}


def result(*path, ks=(1, 2, 3, 5, 7)):
    return {"batch": row(*path, "batch"), "auroc": drawn(*path, "auroc"), "entropy": swept(*path, "entropy"),
            "wait": {str(k): row(*path, "wait", k) for k in ks}, "heads": {head: swept(*path, head) for head in HEADS},
            "random": row(*path, "random"), "lots": {name: row(*path, "lots", name) for name in (*HEADS, "early")},
            "labelled": swept(*path, "labelled"), "own": row(*path, "own"),
            "revisions": {kind: {way: row(*path, kind, way) for way in ("loose", "strict")} for kind in ("overturned", "plain")}}


QA, MT = ("start", *text.QA), ("start", *text.MT)
FOUND = {f"{task}/{arm}/seed{seed}": result(task, arm, seed) for task, arms in (("qa", QA), ("mt", MT), ("revised", ("full",)))
         for arm in arms for seed in SEEDS}


def each(get, arm, task="qa", of=FOUND):
    """get(result) of every seed."""
    return [get(of[f"{task}/{arm}/seed{seed}"]) for seed in SEEDS]


def at(head="entropy", what="quality"):
    def get(result):
        sweep = result["heads"][head] if head in HEADS else result[head]
        return sweep["test"][sweep["chosen"]][what]
    return get


def whole(result):
    return result["batch"]["quality"]


def lots(result, point="entropy"):
    return (result["random"] if point == "entropy" else result["lots"][point])["quality"]


def kept(head="entropy"):
    return lambda result: 100 * at(head)(result) / whole(result)


# -- questions ---------------------------------------------------------------------------------------------
def test_questions():
    measured, one = quantities.text(FOUND), 100 / (3 * FOUND["qa/full/seed0"]["batch"]["n"])
    by_arm = {arm: each(lambda r: r["auroc"], arm) for arm in ("start", "full", "batch only")}
    same(measured["C1s"], minus(by_arm["full"], by_arm["batch only"]), placebo=minus(by_arm["start"], by_arm["batch only"]),
         resolution=0.002, shown=by_arm)
    same(measured["C1t"], *(each(lambda r: whole(r) - at()(r), arm) for arm in ("batch only",)), resolution=one,
         placebo=each(lambda r: whole(r) - at()(r), "full"))
    same(measured["C4s"], each(kept(), "full"), placebo=each(kept(), "batch only"), resolution=one, shown={
        "RCO": each(at(what="RCO"), "full"), "batch quality": each(whole, "full")})
    same(measured["C4r"], each(at(what="RCO"), "full"), placebo=each(lambda r: r["batch"]["RCO"], "full"), resolution=0.005)
    own = {head: each(kept(head), "full") for head in ("entropy", *HEADS)}
    same(measured["C3s"], [min(values) for values in zip(*own.values())], resolution=one, shown=own,
         placebo=each(lambda r: 100 * min(lots(r, head) for head in ("entropy", *HEADS)) / whole(r), "full"))
    labelled = each(at("labelled"), "labelled")
    same(measured["C9s"], minus(each(at(), "full"), labelled), placebo=minus(each(at(), "batch only"), labelled), resolution=one,
         shown={"labelled": labelled})
    for claim, other, placebo in (("C14t", "no distillation", "start"), ("C14u", "MSLM only", "start")):
        same(measured[claim], minus(each(at(), "full"), each(at(), other)), placebo=minus(each(at(), placebo), each(at(), other)),
             resolution=one)
    same(measured["C14s"], minus(each(at(), "full"), each(at(), "no MSLM")), resolution=one,
         placebo=minus(each(at(), "full"), each(at(), "no distillation")))
    entropy = each(at(), "full")
    same(measured["C16s"], minus(each(at("attention"), "full"), entropy), resolution=one,
         placebo=minus(each(partial(lots, point="attention"), "full"), entropy))
    same(measured["C20a"], minus(entropy, each(lots, "full")), placebo=minus(each(at(), "batch only"), each(lots, "full")), resolution=one)

    def unended(arm):
        return each(lambda r: 100 * at(what="truncated")(r) / at(what="n")(r), arm)

    same(measured["C7s"], minus(unended("plain law"), unended("full")), placebo=minus(unended("no distillation"), unended("full")),
         resolution=3 * one, shown={"plain law": unended("plain law"), "full": unended("full")})
    assert len(measured) == 22


def test_pairs_that_are_saved():
    def saved(probes):
        return lambda r: 100 * (1 - (at(what="pairs")(r) - (0 if probes else at(what="wasted")(r))) / r["batch"]["pairs"])

    measured = quantities.text(FOUND)
    same(measured["C13s"], each(saved(False), "full"), resolution=0.1,
         placebo=each(lambda r: 100 * (1 - (r["batch"]["pairs"] - r["batch"]["wasted"]) / r["batch"]["pairs"]), "full"))
    same(measured["C13t"], each(saved(True), "full"), placebo=each(saved(False), "full"), resolution=0.1)


def over_wait(point, result):
    rows = sorted(result["wait"].values(), key=lambda r: r["RCO"])
    able = [r["quality"] for r in rows if r["RCO"] <= point["RCO"]]
    return point["quality"] - (max(able) if able else rows[0]["quality"])


def test_over_waits_that_read_no_more():
    def over(result):
        return over_wait(result["entropy"]["test"][result["entropy"]["chosen"]], result)

    same(quantities.text(FOUND)["C6s"], each(over, "full"), placebo=each(lambda r: over_wait(r["random"], r), "full"),
         resolution=100 / (3 * FOUND["qa/full/seed0"]["batch"]["n"]))
    waits = {"1": {"quality": 3.0, "RCO": 0.5}, "2": {"quality": 9.0, "RCO": 0.6}}
    of = {"qa/full/seed0": {"wait": waits, "random": {"quality": 10.0, "RCO": 0.5}}}
    assert quantities.Runs(of, "qa").over_wait(0, "lots") == 7.0, "as much is no more"
    of["qa/full/seed0"]["random"]["RCO"] = 0.4
    assert quantities.Runs(of, "qa").over_wait(0, "lots") == 7.0, "none reads so little: the one that reads least"


def test_revised_streams():
    measured, one = quantities.text(FOUND), 100 / (3 * FOUND["qa/full/seed0"]["batch"]["n"])

    def of(kind, way, what):
        return each(lambda r: r["revisions"][kind][way][what], "full", "revised")

    same(measured["C17s"], minus(of("overturned", "strict", "quality"), of("overturned", "loose", "quality")), resolution=one,
         placebo=minus(of("plain", "strict", "quality"), of("plain", "loose", "quality")))
    same(measured["C17t"], minus(of("overturned", "strict", "AIL"), of("overturned", "loose", "AIL")), resolution=0.05,
         placebo=minus(of("overturned", "loose", "AIL"), of("plain", "loose", "AIL")))


# -- translation -------------------------------------------------------------------------------------------
def early(result):
    return result["entropy"]["test"][result["entropy"]["early"]]


def test_translation():
    found = dict(FOUND)
    full = found["mt/full/seed4"]
    found["mt/full/seed4"] = full | {"entropy": full["entropy"] | {"keeps": False}}
    measured, one = quantities.text(found), 100 / (3 * FOUND["qa/full/seed0"]["batch"]["n"])
    mt = partial(each, task="mt", of=found)
    same(measured["C2s"], mt(lambda r: 100 * early(r)["quality"] / whole(r), "full"), resolution=one,
         placebo=mt(lambda r: 100 * lots(r, "early") / whole(r), "full"), shown={"RCO": mt(lambda r: early(r)["RCO"], "full")})

    def soonest(result):
        return min([r["AIL"] for r in result["wait"].values() if r["quality"] >= 0.99 * whole(result)] + [result["batch"]["AIL"]])

    def late(result):  # where no threshold keeps it, all has to be read
        return (early(result) if result["entropy"]["keeps"] else result["batch"])["AIL"]

    same(measured["C2r"], mt(lambda r: late(r) / soonest(r), "full"), resolution=0.01,
         placebo=mt(lambda r: r["batch"]["AIL"] / soonest(r), "full"), shown={"AIL": mt(lambda r: early(r)["AIL"], "full")})
    own = {k: mt(lambda r: r["own"]["quality"], f"wait-{k}") for k in (1, 3, 5)}

    def streamed(arm, k):
        return mt(lambda r: r["wait"][str(k)]["quality"], arm)

    behind = {arm: [max(values) for values in zip(*(minus(own[k], streamed(arm, k)) for k in own))] for arm in ("full", "batch only")}
    same(measured["C12s"], behind["full"], placebo=behind["batch only"], resolution=one)
    same(measured["C12t"], minus(streamed("full", 1), own[1]), placebo=minus(streamed("batch only", 1), own[1]), resolution=one)
    attention = mt(at("attention"), "full")
    same(measured["C16t"], minus(mt(at(), "full"), attention), placebo=minus(mt(lots, "full"), attention), resolution=one)


def test_points_that_keep_just_so_much_count():
    result = {"batch": {"quality": 100.0, "AIL": 9.0}, "wait": {"1": {"quality": 99.0, "AIL": 4.0}}, "entropy": {
        "test": [{"AIL": 1.0}, {"AIL": 2.0}], "early": 0, "keeps": True}}
    assert quantities.Translation({"mt/full/seed0": result}, "mt").lag_ratio(0, "full") == 0.25


# -- speech ------------------------------------------------------------------------------------------------
def test_speech():
    found = {f"speech/{task}/{arm}/seed{seed}": result(task, arm, seed, ks=(2, 3, 4, 6)) for task in ("words", "spoken")
             for arm in ("start", "full", "batch only") for seed in SEEDS}
    measured = quantities.spoken(found) | quantities.words(found)
    spoken = partial(each, task="speech/spoken", of=found)
    one = {task: 100 / (3 * found[f"speech/{task}/full/seed0"]["batch"]["n"]) for task in ("words", "spoken")}
    same(measured["C10s"], spoken(kept(), "full"), placebo=spoken(kept(), "batch only"), resolution=one["spoken"], shown={
        "RCO": spoken(at(what="RCO"), "full"), "batch quality": spoken(whole, "full")})
    same(measured["C10t"], spoken(lambda r: over_wait(r["entropy"]["test"][r["entropy"]["chosen"]], r), "full"), resolution=one["spoken"],
         placebo=spoken(lambda r: over_wait(r["random"], r), "full"))

    def second(arm):
        values = []
        for ours, full in zip(each(lambda r: r, arm, "speech/words", found), each(lambda r: r, "full", "speech/words", found)):
            margins = []
            for wait in full["wait"].values():
                no_later = [p["quality"] for p in ours["entropy"]["test"] if p["AIL s"] <= wait["AIL s"]]
                margins.append((max(no_later) if no_later else 0.0) - wait["quality"])
            values.append(sorted(margins, reverse=True)[1])
        return values

    same(measured["C11s"], second("full"), placebo=second("batch only"), resolution=one["words"])


def test_recognition_by_hand():
    def of(points, waits):
        rows = [{"quality": q, "AIL s": s, "RCO": s} for q, s in points]
        full = {"batch": {"n": 10, "quality": 60.0, "AIL s": 9.0, "RCO": 1.0},
                "entropy": {"test": rows, "early": earliest(rows, 60.0)[0], "keeps": True},
                "wait": {str(i): {"quality": q, "AIL s": s} for i, (q, s) in enumerate(waits)}}
        measured = quantities.words({f"speech/words/{arm}/seed0": full for arm in ("full", "batch only")})
        late.append(measured["C11t"]["value"])
        return measured["C11s"]["value"]

    late = []
    assert of([(60.0, 2.0), (80.0, 3.0)], [(50.0, 1.0), (55.0, 2.0), (70.0, 5.0)]) == 5.0  # margins -50, 5, 10
    assert of([(60.0, 2.0)], [(55.0, 2.0)]) == 5.0, "a single point"
    assert of([(60.0, 2.0)], [(55.0, 2.0), (50.0, 1.0)]) == -50.0, "before the first threshold all is lost"
    assert late == pytest.approx([2 / 5, 2 / 9, 2 / 9]), "wait-k at 70 after 5 s is as right; else reading all after 9 s"


# -- time --------------------------------------------------------------------------------------------------
def test_times():
    ways = ("probe", "decode", "encode again", "encode early", "read late", "read early")
    found = {f"speed/process{i}": {way: [drawn(way, i, r) for r in range(3)] for way in ways} for i in range(3)}

    def ratio(of, under):
        return [median(a / b for a, b in zip(row[of], row[under])) for row in found.values()]

    measured = quantities.speed({"other": {}} | dict(reversed(found.items())))
    same(measured["C19a"], ratio("probe", "decode"), placebo=ratio("encode again", "decode"), resolution=0.005, over="processes")
    same(measured["C19b"], ratio("read late", "read early"), placebo=ratio("encode again", "encode early"), resolution=0.005,
         over="processes")


# -- the paper's size --------------------------------------------------------------------------------------
def test_rows_at_the_papers_size():
    wanted = {"C5": ("en-de", "entropy", "bleu"), "C5b": ("en-de", "batch", "bleu"), "C6": ("short qa", "attention", "f1"),
              "C6b": ("short qa", "wait-9", "f1"), "C7": ("choice qa", "attention", "accuracy"), "C8": ("en-fr", "entropy", "bleu"),
              "C8b": ("en-fr", "wait-9", "bleu"), "C9": ("short qa, qwen3", "entropy", "f1"), "C10": ("spoken-squad", "entropy", "f1")}
    runs = {run: {way: {metric: drawn(run, way, metric) for metric in ("bleu", "f1", "accuracy")}
                  for way in ("batch", "entropy", "attention", "wait-9")} for run, _, _ in wanted.values()}
    ours = runs["short qa, qwen3"]
    values = {name: runs[run][way][metric] for name, (run, way, metric) in wanted.items()} | {
        "C4": 100 * ours["entropy"]["f1"] / ours["batch"]["f1"]}
    assert {name: of["value"] for name, of in quantities.paper({"paper": runs}).items()} == pytest.approx(values)
    assert quantities.paper({"paper": {}}) == {}
    assert {*quantities.paper({"paper": {"short qa, qwen3": {way: ours[way] for way in ("entropy", "batch")}}})} == {"C4", "C9"}
    del ours["batch"]
    assert {*values} - {*quantities.paper({"paper": runs})} == {"C4"}
    del runs["short qa, qwen3"], runs["en-fr"]["wait-9"]
    assert {*values} - {*quantities.paper({"paper": runs})} == {"C4", "C8b", "C9"}


def test_a_claim_without_a_number_is_named():
    with pytest.raises(RecordError, match="C1: "):
        quantities.claim((0,), "C1", lambda seed, arm: 1 / 0, "a", "b")
    with pytest.raises(RecordError, match="C2: "):
        quantities.claim((), "C2", lambda seed, arm: 1.0, "a", "b")


def test_every_claim_is_called_by_its_own_name_where_it_has_no_number(monkeypatch):
    monkeypatch.setattr(quantities, "claim", lambda seeds, name, *rest: name)
    speech = {f"speech/{task}/full/seed0": result(task) for task in ("words", "spoken")}
    named = quantities.text(FOUND) | quantities.words(speech) | quantities.spoken(speech)
    assert len(named) == 26 and all(name == called for name, called in named.items())
