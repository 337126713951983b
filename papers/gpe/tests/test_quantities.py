"""Every quantity of a claim, worked out again from results in which no two numbers are equal: an arm compared with itself, sides
exchanged, another k, another budget, another decoding, all would give something else."""

from statistics import fmean

import pytest

from tests.numerics import drawn

from .. import analytic, quantities
from ..experiments import speech, text

S, L = text.SIZES["cpu"].short, text.SIZES["cpu"].long
SEEDS, KS, LATE = (0, 1, 4), ("1", "3", "5", "7"), ("3", "5", "7")
WORDS = 1471


def results():
    """As the jobs give them. Words differ from place to place: 1,471 are those of the first seed's whole sentences."""
    names = {job.name.removeprefix("text/").rpartition("/")[0] for job in text.jobs()} - {"standin"}
    found = {}
    for name in sorted(names):
        for seed in SEEDS:
            path = f"text/{name}/seed{seed}"
            found[path] = {way: {k: {"bleu": drawn(path, way, k, high=90.0), "words": int(drawn(path, way, high=900.0))}
                                 for k in (*KS, "batch")} for way in ("stream", "batch", "kv_reencoding", "contiguous ids", "wrong ids")}
            found[path]["diagonal"] = {which: {what: drawn(path, which, what) for what in ("share", "even")}
                                       for which in ("tuned", "batch-trained")}
    found["text/untuned/seed0"]["batch"]["batch"]["words"] = WORDS
    return found


@pytest.fixture(scope="module")
def found():
    return results()


@pytest.fixture(scope="module")
def measured(found):
    return quantities.text(found)


@pytest.fixture(scope="module")
def b(found):
    """b(arm, k, way, steps): BLEU of every seed; of several k their mean."""
    def of(arm, k, way="stream", steps=S):
        ks = k if isinstance(k, tuple) else (k,)
        names = [f"text/{arm}/seed{seed}" if arm == "untuned" else f"text/{arm}, {steps} steps/seed{seed}" for seed in SEEDS]
        return [fmean(found[name][way][each]["bleu"] for each in ks) for name in names]

    return of


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


def widest(pairs):
    """Of lists of differences that whose mean is largest in size."""
    best = None
    for values in pairs:
        if best is None or abs(sum(values) / len(values)) > abs(sum(best) / len(best)):
            best = values
    return best


def same(measured, expected, **others):
    """The values of the seeds in their order, those of a control, and figures that are shown beside."""
    assert measured["per_seed"] == pytest.approx(expected, rel=1e-12), "the quantity"
    assert measured["value"] == pytest.approx(fmean(expected), rel=1e-12) and measured["stderr_kind"].startswith("across-")
    for control in ("placebo", "sensitivity"):
        assert (control in measured) == (control in others), control
        if control in others:
            assert measured[control]["per_seed"] == pytest.approx(others[control], rel=1e-12), control
            assert measured[control].get("resolution") == measured.get("resolution")
    for name, values in others.get("shown", {}).items():
        assert measured["baselines"][name] == pytest.approx(fmean(values), rel=1e-12), name
    assert set(measured.get("baselines", {})) == set(others.get("shown", {}))
    assert ("ceiling" in measured) == ("ceiling" in others)
    if "ceiling" in others:
        assert sorted(measured["ceiling"]["values"]) == pytest.approx(sorted(others["ceiling"][0]))
        assert measured["ceiling"]["best"] == others["ceiling"][1]


# -- what is computed --------------------------------------------------------------------------------------
def test_figures_of_the_papers_tables():
    found = quantities.exact({}, "analytic")
    assert {name: of["value"] for name, of in found.items() if name != "C14"} == {
        "C1f": 2.2, "C3b": 0.28, "C4": pytest.approx(86.6), "C5b": 0.07}
    assert found["C4"]["baselines"] == {"untruncated": pytest.approx(100 * 2.20 / 2.54)}
    shape, sentence = analytic.QWEN25_3B, analytic.EXAMPLE
    ratios = {f"k = {k}": shape.flops(analytic.cost(sentence, k, "kv")) / shape.flops(analytic.cost(sentence, k, "group"))
              for k in (1, 3, 5, 7, 9)}
    assert found["C14"]["baselines"] == pytest.approx(ratios) and found["C14"]["value"] == min(ratios.values())


# -- text --------------------------------------------------------------------------------------------------
def test_the_ladder(measured, found, b):
    def gap(arm, steps):
        at = {k: minus(b("batch_streaming", k, steps=steps), b(arm, k, steps=steps)) for k in ("3", "5")}
        return [min(pair) for pair in zip(*at.values())]

    shown = {f"{arm} at {k}": b(arm, k) for arm in ("interleaved", "batch_streaming") for k in ("3", "5")}
    same(measured["C1a"], gap("interleaved", S), placebo=gap("position_reencoding", S),
         shown={name.replace("_", " "): values for name, values in shown.items()})
    same(measured["C1b"], gap("interleaved", L), placebo=gap("group", L), shown={
        name.replace("_", " "): b(name, "3", steps=L) for name in ("interleaved", "batch_streaming", "group")})
    assert {of["resolution"] for of in measured.values()} == {100 / WORDS, 1e-5}


def test_one_arm_against_the_best_of_the_others(measured, b):
    arms = ("interleaved", "batch_streaming", "position_reencoding", "group")
    means = {arm: b(arm, KS) for arm in arms}

    def ahead(arm):
        return [own - max(rest) for own, *rest in zip(means[arm], *(means[other] for other in arms if other != arm))]

    same(measured["C8a"], ahead("group"), placebo=ahead("batch_streaming"),
         shown={name.replace("_", " "): values for name, values in means.items()})


def test_one_thing_at_a_time(measured, b):
    def largest(ours, theirs):
        return widest([minus(b(ours, k), b(theirs, k)) for k in KS])

    same(measured["C1c"], largest("batch_streaming", "finished_frozen"), placebo=largest("batch_streaming", "position_reencoding"),
         shown={"batch streaming": b("batch_streaming", KS), "finished target visible": b("finished_frozen", KS)})
    same(measured["C1d"], largest("group", "finished_group"), placebo=largest("group", "batch_streaming"),
         shown={"group": b("group", KS), "finished target visible": b("finished_group", KS)})
    same(measured["C1e"], minus(b("finished_group", LATE), b("interleaved_group", LATE)),
         placebo=minus(b("group", LATE), b("finished_group", LATE)),
         shown={"finished": b("finished_group", LATE), "interleaved with group ids": b("interleaved_group", LATE)})


def test_equivalences(measured, b):
    def largest(ours, theirs, ks=KS):
        return widest([minus(b(*arm, way), b(theirs, arm[1])) for *arm, way in ((o, k, w) for o, w in ours for k in ks)])

    again, trained = ("batch_streaming", "kv_reencoding"), ("kv_reencoding", "stream")
    apart = largest([("interleaved", "stream")], "batch_streaming")

    def worst(*arms):
        return [min(values) for arm, way in arms for values in zip(*(b(arm, k, way) for k in KS))], 100.0

    frozen, moved = ("batch_streaming", "stream"), ("position_reencoding", "stream")
    same(measured["C2a"], largest([moved], "batch_streaming"), sensitivity=apart, ceiling=worst(moved, frozen),
         shown={"position reencoding": b("position_reencoding", KS), "batch streaming": b("batch_streaming", KS),
                "at 1": minus(b("position_reencoding", "1"), b("batch_streaming", "1"))})
    same(measured["C3a"], largest([again], "batch_streaming"), sensitivity=apart, ceiling=worst(again, frozen),
         shown={"kv reencoding": b(again[0], KS, again[1]), "batch streaming": b("batch_streaming", KS),
                "at 1": minus(b(again[0], "1", again[1]), b("batch_streaming", "1"))})
    better = [max(pair) for pair in zip(b(again[0], KS, again[1]), b("kv_reencoding", KS))]
    same(measured["C4a"], minus(better, b("group", KS)), placebo=minus(better, b("interleaved", KS)),
         shown={"group": b("group", KS), "trained for it": b(trained[0], KS), "weights of batch streaming": b(again[0], KS, again[1]),
                "untuned": b("untuned", KS, "kv_reencoding")})
    offsets = [(f"group, phi {phi}", "stream") for phi in text.PHIS[1:]]
    same(measured["C5a"], largest(offsets, "group"), sensitivity=largest([("no_positions", "stream")], "group"),
         ceiling=worst(("group", "stream"), *offsets),
         shown={"at 1": largest(offsets, "group", ("1",)), "phi 0": b("group", KS),
                **{f"phi {phi}": b(f"group, phi {phi}", KS) for phi in text.PHIS[1:]}})


def test_positions_that_are_needed(measured, b):
    moved = minus(b("group", "5"), b("group, phi 256", "5"))
    for claim, arm in (("C6a", "no_positions"), ("C6b", "no_source_positions"), ("C6c", "no_target_positions")):
        same(measured[claim], minus(b("group", "5"), b(arm, "5")), placebo=moved,
             shown={"group": b("group", "5"), arm.replace("_", " "): b(arm, "5")})
    source, target, both = (b(f"no_{which}positions", LATE) for which in ("source_", "target_", ""))
    same(measured["C6d"], minus(target, source), placebo=minus(both, source),
         shown={"no source positions": source, "no target positions": target})


def test_both_modes_and_where_it_looks(measured, found, b):
    tuned, group, mixed, interleaved = (b(arm, "batch", "batch", L) for arm in ("batch", "group", "group with batch", "interleaved"))
    unlearned = b("untuned", "batch", "wrong ids")

    def percent(values):
        return [100 * a / of for a, of in zip(values, tuned)]

    same(measured["C9a"], percent(group), placebo=percent(interleaved), shown={
        "batch tuned": tuned, "group in batch mode": group, "interleaved in batch mode": interleaved,
        "untuned with group ids": unlearned, "group weights with contiguous ids at 7": b("group", "7", "contiguous ids", L)})
    same(measured["C9b"], percent(mixed), placebo=percent(unlearned), shown={"batch tuned": tuned, "group in batch mode": mixed})

    def looks(arm, which, what="share"):
        return [found[f"text/{arm}, {L} steps/seed{seed}"]["diagonal"][which][what] for seed in SEEDS]

    same(measured["C12a"], minus(looks("group", "tuned"), looks("group", "batch-trained")),
         placebo=minus(looks("batch_streaming", "tuned"), looks("batch_streaming", "batch-trained")),
         shown={"group": looks("group", "tuned"), "batch trained": looks("group", "batch-trained"),
                "even": looks("group", "tuned", "even")})
    assert measured["C12a"]["resolution"] == measured["C12a"]["placebo"]["resolution"] == 1e-5


# -- speech ------------------------------------------------------------------------------------------------
def test_speech():
    ks, names = tuple(map(str, speech.KS)), (*(f"phi {phi}" for phi in speech.PHIS), "interleaved")
    found = {f"speech/{name}/seed{seed}": {way: {k: {"wer": drawn(name, seed, way, k, high=30.0), "words": int(drawn(
        name, seed, way, k, "words", low=500, high=2000))} for k in (*ks, "batch")} for way in ("stream", "batch")} | {
            "loss": drawn(name, seed, "loss")} for name in names for seed in SEEDS}
    found[f"speech/phi {speech.PHIS[1]}/seed1"]["stream"][ks[1]]["wer"] = 99.0  # the offset that differs most is neither first nor last
    measured = quantities.speech(found)

    def w(name, k, way="stream"):
        return [found[f"speech/{name}/seed{seed}"][way][k]["wer"] for seed in SEEDS]

    first, *others = (f"phi {phi}" for phi in speech.PHIS)
    same(measured["C7a"], widest([minus(w(name, k), w(first, k)) for name in others for k in ks]),
         sensitivity=widest([minus(w("interleaved", k), w(first, k)) for k in ks]),
         ceiling=([max(values) for name in (first, *others) for values in zip(*(w(name, k) for k in ks))], 0.0),
         shown={f"WER at {name}, k {k}": w(name, k) for name in (first, *others) for k in ks}
         | {f"last loss at {name}, worst seed": [max(found[f"speech/{name}/seed{seed}"]["loss"] for seed in SEEDS)]
            for name in (first, *others)})
    whole = w(first, "batch", "batch")
    same(measured["C7b"], minus(w(first, ks[0]), w(first, ks[-1])), placebo=minus(w(first, ks[-1]), whole),
         shown={f"WER at k {k}": w(first, k) for k in ks} | {"WER in batch mode": whole})
    words = found[f"speech/{first}/seed0"]["stream"][ks[0]]["words"]
    assert measured["C7a"]["resolution"] == measured["C7b"]["resolution"] == 100 / words


# -- times -------------------------------------------------------------------------------------------------
def timed():
    modes = ("group", "kv", "again", "interleaved")
    return {"shortest": "20 words", "longest": "60 words", "cases": {f"{words} words": {
        "words": words, "load_average": drawn(words, "load"), "flops_ratio": words / 10, "modes": {mode: {"seconds": [
            [drawn(words, mode, process, r) for r in range(2)] for process in range(9)]} for mode in modes}} for words in (20, 40, 60)}}


@pytest.mark.parametrize("claim, read", [("C15a", "speed"), ("C15", "gpu")])
def test_times_grow(claim, read):
    found, read = timed(), getattr(quantities, read)
    measured = read({"speed": found, "gpu": found})[claim]

    def ratio(words, mode):
        seconds = {m: of["seconds"] for m, of in found["cases"][f"{words} words"]["modes"].items()}
        return [sum(a) / sum(b) for a, b in zip(seconds[mode], seconds["group"])]

    same(measured, minus(ratio(60, "kv"), ratio(20, "kv")), placebo=minus(ratio(60, "again"), ratio(20, "again")),
         shown={f"{mode}, {words} words": ratio(words, mode) for words in (20, 60) for mode in ("group", "kv", "again", "interleaved")})
    ratios = sorted(ratio(60, "kv"))
    assert measured["timing"] == {
        "processes": 9, "rounds": 2, "estimator": measured["timing"]["estimator"], "words": 60,
        "load_average": found["cases"]["60 words"]["load_average"],
        "iqr_relative": pytest.approx((ratios[6] - ratios[2]) / ratios[4], rel=1e-12)}
    assert measured["stderr_kind"] == measured["placebo"]["stderr_kind"] == "across-processes"
    if claim == "C15a":
        share = [[(x - 1) / (6.0 - 1) for x in ratio(60, mode)] for mode in ("kv", "again")]
        other = read({"speed": found})["C15b"]
        same(other, share[0], placebo=share[1], shown={"FLOPs ratio": [6.0], "time ratio": ratio(60, "kv")})
        assert other["timing"] == measured["timing"]


# -- paper scale -------------------------------------------------------------------------------------------
def test_paper_scale_is_one_row_less_another_and_silent_where_one_is_missing():
    names = [f"gemma2-2b_en-fr_{arm}_k{k}" for arm in ("batch_streaming", "interleaved", "kv_reencoding", "position_reencoding", "group",
                                                       "no_positions") for k in (1, 3)]
    found = {name: {way: {"bleu": drawn(name, way, high=50.0)} for way in ("stream", "batch")} for name in names}
    measured = quantities.paper({"paper": found})
    pairs = {"C1": ("batch_streaming_k1", "interleaved_k1"), "C3": ("kv_reencoding_k1", "position_reencoding_k1"),
             "C6": ("group_k3", "no_positions_k3")}
    for claim, pair in pairs.items():
        ours, theirs = (found[f"gemma2-2b_en-fr_{name}"]["stream"]["bleu"] for name in pair)
        assert measured[claim]["value"] == ours - theirs
        assert measured[claim]["baselines"] == {f"gemma2-2b_en-fr_{name}": bleu for name, bleu in zip(pair, (ours, theirs))}
        for name in pair:
            fewer = {key: value for key, value in found.items() if key != f"gemma2-2b_en-fr_{name}"}
            assert set(quantities.paper({"paper": fewer})) == set(pairs) - {claim}
