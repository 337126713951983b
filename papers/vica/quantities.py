"""From results of jobs to what claims measure: {claim: measured}. The rules and verdicts are in claims.yaml and common/."""

from __future__ import annotations

from statistics import fmean

from common.claims.intervals import summarize
from common.runs.reproduce import point

from . import analytic, reported
from .analytic import LLAVA_3B, LLAVA_7B, LLAVA_13B, PAPER, visual_flops, visual_ratio
from .experiments import exact as checks
from .selection import rank_correlation


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    dropped = 8 * 0.5  # the mean share of the schedule that fits, over eight layers
    pdrop = dropped * visual_flops(LLAVA_7B, cross_layers=1).total
    sizes = {shape.name: 100 * visual_ratio(shape, k) for shape, k in PAPER.items()}
    wrong, rows = reported.recomputed(), {row.name: row for row in reported.TABLE}
    return {
        "C2": point(visual_flops(LLAVA_7B, cross_layers=8).total / 1e12, baselines={"dense": visual_flops(LLAVA_7B).total / 1e12}),
        "C2a": point(100 * visual_ratio(LLAVA_7B, 8), baselines={
            "causal edges only": 100 * analytic.causal_flops(LLAVA_7B, 576, 35, 27, 8) / analytic.causal_flops(LLAVA_7B, 576, 35, 27),
            "as FastV counts": 100 * analytic.mac_flops_vica(LLAVA_7B, 8) / analytic.mac_flops(LLAVA_7B),
            "whole prefill": 100 / analytic.bound(LLAVA_7B, 8)}),
        "C2b": point(analytic.equivalent_tokens(visual_ratio(LLAVA_7B, 8)),
                     baselines={s.name: analytic.equivalent_tokens(visual_ratio(s, PAPER[s])) for s in (LLAVA_3B, LLAVA_13B)}),
        "C2c": point(100 * analytic.mean_ratio(), baselines=sizes),
        "C2d": point(100 * analytic.with_tower(LLAVA_7B, 8), baselines={"decoder alone": sizes[LLAVA_7B.name]}),
        "C2m": point(checks.uncounted_flops()),
        "C3c": point(124.5 / 36),
        "C4a": point(analytic.bound(LLAVA_7B, 8), baselines={
            "frozen prefix": analytic.prefill_flops(LLAVA_7B, 576, 62) / analytic.prefill_flops(
                LLAVA_7B, 576, 62, 8, prefix=35, frozen=True),
            "no picture at all": analytic.text_bound(LLAVA_7B), "longest text for 10x": analytic.longest_text_for(10)}),
        "C6c": point(pdrop / 1e12),
        "C6d": point(analytic.equivalent_tokens(visual_ratio(LLAVA_7B, dropped))),
        "C7c": point(len(reported.TABLE) - len(wrong), baselines={name: computed for name, (_, computed) in wrong.items()}),
        "C7d": point(reported.relative_average(rows["ViCA"].scores), baselines={
            "ViCA+PDrop": reported.relative_average(rows["ViCA+PDrop"].scores),
            **{f"better, at {r.share} % of FLOPs: {r.name}": r.average for r in reported.better_than_vica()}}),
        "C10": point(checks.differing_logits()),
    }


# -- the small LLaVA ---------------------------------------------------------------------------------------
def llava(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Effects are positive in the claim's direction, one value a seed."""
    from .experiments.llava import FREEZES, SIZES

    seeds = SIZES[size].seeds
    first = [results[f"all layers/seed{seed}"] for seed in seeds]

    def effect(ours: list[float], theirs: list[float], share: float = 1.0, plus: float = 0.0) -> dict:
        sides = {"ours": fmean(ours), "theirs": fmean(theirs)}
        return summarize([a - share * b + plus for a, b in zip(ours, theirs)]) | {"baselines": sides}

    def arm(name: str, which: str = "all") -> list[float]:
        return [score(results, name, seed, which) for seed in seeds]

    def untrained(order: str, which: str = "all") -> list[float]:
        return [pair(of, order)[which] for of in first]

    def pruned(way: str) -> list[float]:
        by_count = [results[f"pruned/seed{seed}"] for seed in seeds]
        return [of[str(of["equivalent tokens"])][way]["all"] for of in by_count]

    def dropped(way: str) -> list[float]:
        return [results[f"wide/seed{seed}"]["PyramidDrop 0.5"][way]["all"] for seed in seeds]

    def kept(what: str) -> list[float]:
        """Share of the tuned dense model's accuracy when visual tokens go without that."""
        return [results[f"dense/seed{seed}"]["frozen"][what]["all"] / score(results, "dense", seed) for seed in seeds]

    top_beats_bottom = effect(arm("top"), arm("bottom"))
    top_beats_bottom["baselines"] |= {name: fmean(arm(name)) for name in ("last", "drawn")}
    return {
        "C1s": effect(arm("top"), arm("dense"), 0.97),
        "C1t": effect(arm("top", "open"), arm("dense", "open"), 0.95),
        "C1u": effect([of["blind"]["all"] for of in first], arm("text"), plus=0.02),
        "C6a": effect(dropped("ranked"), arm("wide"), 0.95),
        "C6b": effect(dropped("ranked"), dropped("random")),
        "C1g": effect(arm("greedy"), arm("dense"), 0.97),
        "C7a": effect(arm("top"), pruned("attention")),
        "C7b": effect(arm("top"), pruned("random")),
        "C8a": effect(arm("all layers"), arm("dense"), 0.97),
        "C8b": summarize([0.9 - share for share in kept("ffn")])
        | {"baselines": {f"share kept, frozen: {what}": fmean(kept(what)) for what in FREEZES}},
        "C9a": effect(untrained("top"), untrained("bottom")),
        "C9b": effect(untrained("top", "open"), untrained("bottom", "open")),
        "C9c": summarize([foretold(of) for of in first]),
        "C9d": top_beats_bottom,
        "C9e": effect(arm("greedy"), arm("top")),
    }


def score(results: dict, arm: str, seed: int, which: str = "all") -> float:
    """Accuracy of an arm after tuning. "all": of questions about scenes; "open": not answered by yes or no."""
    of = results[f"{arm}/seed{seed}"]
    return (of["all layers"] if arm == "all layers" else of["test"])[which]


def pair(of: dict, order: str) -> dict[str, float]:
    """Accuracies without training of the two layers of the highest ("top") or the lowest score. of: a result of `all_layers`."""
    layers = sorted(of["leave-one-out"], key=lambda k: (-of["leave-one-out"][k], int(k)))
    return of["pairs"]["-".join(sorted(layers[:2] if order == "top" else layers[-2:], key=int))]


def foretold(of: dict) -> float:
    """Spearman's correlation over all pairs: leave-one-out nats of the two layers, and accuracy without training."""
    nats = [sum(of["leave-one-out"][k] for k in name.split("-")) for name in of["pairs"]]
    return rank_correlation(nats, [accuracies["all"] for accuracies in of["pairs"].values()])


def scratch(results: dict, size: str = "cpu") -> dict[str, dict]:
    """From nothing, by the dense model's recipe."""
    from .experiments.scratch import SIZES

    dense, ours = ([results[f"scratch/seed{seed}"][which]["all"] for seed in SIZES[size].seeds] for which in ("dense", "test"))
    return {"C1r": summarize([v - 0.97 * d for d, v in zip(dense, ours)]) | {"baselines": {"dense": fmean(dense), "ours": fmean(ours)}}}


def patches(results: dict, size: str = "cpu") -> dict[str, dict]:
    """How far ViCA with all layers stays below dense where the encoder has not mixed its patches."""
    from .experiments.patches import SIZES

    dense, vica = ([results[f"patches/{arm}/seed{seed}"]["test"]["all"] for seed in SIZES[size].seeds] for arm in ("dense", "vica"))
    return {"C8c": summarize([d - v for d, v in zip(dense, vica)]) | {"baselines": {"dense": fmean(dense), "vica": fmean(vica)}}}


# -- time --------------------------------------------------------------------------------------------------
def speed(results: dict, size: str = "cpu") -> dict[str, dict]:
    """One value a round."""
    case = next(iter(results["speed"]["cases"].values()))
    fast, masked = case["ratios"]["dense / vica"], case["ratios"]["masked / vica"]
    return {"C3a": summarize([r - 0.6 * fast["bound"] for r in fast["ratios"]])
            | {"baselines": _others(case), "timing": _timing(case, "dense / vica")},
            "C3b": summarize([r - 1 for r in masked["ratios"]]) | {"timing": _timing(case, "masked / vica")}}


def gpu(results: dict, size: str = "gpu") -> dict[str, dict]:
    """Of cases that were run; graphs where there are any, because a loop of launches hides what a GPU can do."""
    measured = {}
    for claim, batch, pairs, threshold in (("C3g", 1, ("dense / vica",), 3.5), ("C4g", 8, ("dense / vica", "dense / vica frozen"), 10.0),
                                           ("C5g", 1, ("vica / text only",), None)):
        case = results["gpu"]["cases"].get(f"B={batch} P=35 Q=27")
        if case is None:
            continue
        timed = [p + ", graph" for p in pairs if p + ", graph" in case["ratios"]] or list(pairs)
        best = max(timed, key=lambda p: case["ratios"][p]["median"])
        values = [1.2 - r if threshold is None else r - threshold for r in case["ratios"][best]["ratios"]]
        measured[claim] = summarize(values) | {"baselines": _others(case), "timing": _timing(case, best)}
    return measured


def _timing(case: dict, pair: str) -> dict:
    ratio = case["ratios"][pair]
    return {"rounds": case["rounds"], "estimator": "ratio of interleaved rounds", "iqr_relative": ratio["iqr"] / ratio["median"],
            "load_average": case["load_average"], "text": case["text"]}


def _others(case: dict) -> dict[str, float]:
    return {pair: ratio["median"] for pair, ratio in case["ratios"].items()} | {
        f"bound of {pair}": ratio["bound"] for pair, ratio in case["ratios"].items()}


# -- paper scale -------------------------------------------------------------------------------------------
def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """{run: {"decoder", "cross_layers", "relative"}} of finished trainings -> measured; what is missing stays not-run."""
    relative = {name: row["relative"] for name, row in results["paper"].items() if row.get("relative") is not None}

    def of(*parts: str) -> float | None:
        return next((value for name, value in relative.items() if all(p in name for p in parts) and
                     ("PyramidDrop" in name) == ("PyramidDrop" in parts)), None)

    sizes = [of(f"{size}_vica") for size in ("3b", "7b", "13b")]
    values = {"C1": fmean(sizes) if None not in sizes else None, "C1a": of("7b_vica"), "C6": of("7b_vica", "PyramidDrop"),
              "C8": of("7b_frozen")}
    return {claim: point(value, baselines=relative) for claim, value in values.items() if value is not None}
