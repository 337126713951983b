"""From results of jobs to what claims measure: {claim: measured}. The rules and verdicts are in claims.yaml and common/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from common.intervals import summarize
from common.records import load_claims
from common.reproduce import point

from . import analytic, checks, reported
from .analytic import LLAVA_3B, LLAVA_7B, LLAVA_13B, PAPER, visual_flops, visual_ratio
from .selection import rank_correlation


def names(rung: str) -> set[str]:
    """The claims of a rung, without the paper's name."""
    claims = load_claims(Path(__file__).with_name("claims.yaml"))
    return {claim["id"].partition("/")[2] for claim in claims if claim["rung"] == rung}


# -- analytic ----------------------------------------------------------------------------------------------
def analytic_claims() -> dict[str, dict]:
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
def score(results: dict, arm: str, seed: int, name: str = "all") -> float:
    """Accuracy of an arm after tuning. "all": of questions about scenes; "open": not answered by yes or no."""
    found = results[f"{arm}/seed{seed}"]
    return (found["all layers"] if arm == "all layers" else found["test"])[name]


def pair(results: dict, seed: int, which: str, name: str) -> float:
    """Accuracy without training of the two layers of the highest or the lowest score."""
    found = results[f"all layers/seed{seed}"]
    order = sorted(found["leave-one-out"], key=lambda k: (-found["leave-one-out"][k], int(k)))
    chosen = order[:2] if which == "top" else order[-2:]
    return found["pairs"]["-".join(sorted(chosen, key=int))][name]


def kept_worth(results: dict, seed: int) -> float:
    """Spearman's correlation over all pairs: leave-one-out nats of the two layers, and accuracy without training."""
    found = results[f"all layers/seed{seed}"]
    worth = found["leave-one-out"]
    return rank_correlation([sum(worth[k] for k in name.split("-")) for name in found["pairs"]],
                            [p["all"] for p in found["pairs"].values()])


def small_claims(results: dict, seeds: Sequence[int]) -> dict[str, dict]:
    """Effects are positive in the claim's direction, one value a seed."""
    def effect(ours, theirs, share: float = 1.0, name: str = "all", plus: float = 0.0) -> dict:
        values = [ours(seed, name) - share * theirs(seed, name) + plus for seed in seeds]
        sides = {"ours": fmean(ours(s, name) for s in seeds), "theirs": fmean(theirs(s, name) for s in seeds)}
        return summarize(values) | {"baselines": sides}

    def of(arm: str):
        return lambda seed, name: score(results, arm, seed, name)

    def blind(seed: int, name: str) -> float:
        return results[f"all layers/seed{seed}"]["blind"][name]

    def pruned(way: str):
        def get(seed: int, name: str) -> float:
            found = results[f"pruned/seed{seed}"]
            return found[str(found["equivalent tokens"])][way][name]
        return get

    def dropped(way: str):
        return lambda seed, name: results[f"wide/seed{seed}"]["PyramidDrop 0.5"][way][name]

    untrained = {which: (lambda seed, name, which=which: pair(results, seed, which, name)) for which in ("top", "bottom")}
    frozen = {what: fmean(results[f"dense/seed{s}"]["frozen"][what]["all"] / score(results, "dense", s) for s in seeds)
              for what in ("ffn", "attention", "all")}
    found = {
        "C1s": effect(of("top"), of("dense"), 0.97),
        "C1t": effect(of("top"), of("dense"), 0.95, "open"),
        "C1u": effect(blind, of("text"), plus=0.02),
        "C6a": effect(dropped("ranked"), of("wide"), 0.95),
        "C6b": effect(dropped("ranked"), dropped("random")),
        "C1g": effect(of("greedy"), of("dense"), 0.97),
        "C7a": effect(of("top"), pruned("attention")),
        "C7b": effect(of("top"), pruned("random")),
        "C8a": effect(of("all layers"), of("dense"), 0.97),
        "C8b": summarize([0.9 - results[f"dense/seed{s}"]["frozen"]["ffn"]["all"] / score(results, "dense", s) for s in seeds])
        | {"baselines": {f"share kept, frozen: {what}": share for what, share in frozen.items()}},
        "C9a": effect(untrained["top"], untrained["bottom"]),
        "C9b": effect(untrained["top"], untrained["bottom"], name="open"),
        "C9c": summarize([kept_worth(results, seed) for seed in seeds]),
        "C9d": effect(of("top"), of("bottom")),
        "C9e": effect(of("greedy"), of("top")),
    }
    for arm in ("last", "drawn"):
        found["C9d"]["baselines"][arm] = fmean(score(results, arm, s) for s in seeds)
    return found


def scratch_claims(results: dict, seeds: Sequence[int]) -> dict[str, dict]:
    """From nothing, by the dense model's recipe."""
    both = {arm: [results[f"scratch/seed{s}"][arm]["all"] for s in seeds] for arm in ("dense", "test")}
    return {"C1r": summarize([v - 0.97 * d for d, v in zip(both["dense"], both["test"])]) |
            {"baselines": {"dense": fmean(both["dense"]), "ours": fmean(both["test"])}}}


def patch_claims(results: dict, seeds: Sequence[int]) -> dict[str, dict]:
    """How far ViCA with all layers stays below dense where the encoder has not mixed its patches."""
    both = {arm: [results[f"patches/{arm}/seed{s}"]["test"]["all"] for s in seeds] for arm in ("dense", "vica")}
    return {"C8c": summarize([d - v for d, v in zip(both["dense"], both["vica"])]) |
            {"baselines": {arm: fmean(values) for arm, values in both.items()}}}


# -- time --------------------------------------------------------------------------------------------------
def _timing(case: dict, pair: str) -> dict:
    ratio = case["ratios"][pair]
    return {"rounds": case["rounds"], "estimator": "ratio of interleaved rounds", "iqr_relative": ratio["iqr"] / ratio["median"],
            "load_average": case["load_average"], "text": case["text"]}


def _others(case: dict) -> dict[str, float]:
    return {pair: ratio["median"] for pair, ratio in case["ratios"].items()} | {
        f"bound of {pair}": ratio["bound"] for pair, ratio in case["ratios"].items()}


def speed_claims(document: dict) -> tuple[dict, dict]:
    """({claim: measured}, {claim: timing}), one value a round."""
    case = next(iter(document["cases"].values()))
    fast, masked = case["ratios"]["dense / vica"], case["ratios"]["masked / vica"]
    return ({"C3a": summarize([r - 0.6 * fast["bound"] for r in fast["ratios"]]) | {"baselines": _others(case)},
             "C3b": summarize([r - 1 for r in masked["ratios"]])},
            {"C3a": _timing(case, "dense / vica"), "C3b": _timing(case, "masked / vica")})


def gpu_claims(document: dict) -> tuple[dict, dict]:
    """Of cases that were run; graphs where there are any, because a loop of launches hides what a GPU can do."""
    measured, timings = {}, {}
    for claim, batch, pairs, threshold in (("C3g", 1, ("dense / vica",), 3.5), ("C4g", 8, ("dense / vica", "dense / vica frozen"), 10.0),
                                           ("C5g", 1, ("vica / text only",), None)):
        case = document["cases"].get(f"B={batch} P=35 Q=27")
        if case is None:
            continue
        found = [p + ", graph" for p in pairs if p + ", graph" in case["ratios"]] or list(pairs)
        pair = max(found, key=lambda p: case["ratios"][p]["median"])
        values = [1.2 - r if threshold is None else r - threshold for r in case["ratios"][pair]["ratios"]]
        measured[claim], timings[claim] = summarize(values) | {"baselines": _others(case)}, _timing(case, pair)
    return measured, timings


# -- paper scale -------------------------------------------------------------------------------------------
def paper_claims(scores: dict[str, dict]) -> dict[str, dict]:
    """{run: {"decoder", "cross_layers", "relative"}} of finished trainings -> measured; what is missing stays not-run."""
    relative = {name: row["relative"] for name, row in scores.items() if row.get("relative") is not None}

    def of(*parts: str) -> float | None:
        return next((value for name, value in relative.items() if all(p in name for p in parts) and
                     ("PyramidDrop" in name) == ("PyramidDrop" in parts)), None)

    sizes = [of(f"{size}_vica") for size in ("3b", "7b", "13b")]
    found = {"C1": fmean(sizes) if None not in sizes else None, "C1a": of("7b_vica"), "C6": of("7b_vica", "PyramidDrop"),
             "C8": of("7b_frozen")}
    return {claim: point(value, baselines=relative) for claim, value in found.items() if value is not None}
