"""From results of jobs to the number that each claim's rule reads: {claim: measured}, one function an experiment.

The statistics are those of common: `summarize` over seeds, `paired` over windows. Nothing here decides anything: thresholds
and falsifiers stand in claims.yaml.
"""

from __future__ import annotations

import math
from statistics import fmean

from common.claims.intervals import paired, summarize
from common.runs.reproduce import point

from . import analytic
from .experiments.scratch import BUDGET
from .experiments.scratch import SIZES as SCRATCH_SIZES
from .experiments.smollm2 import TARGETS
from .reported import REPORTED, dense_row, retain


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str = "analytic") -> dict[str, dict]:
    rows = {(r.model, r.method, r.skipped): r for r in REPORTED if r.scores}

    def recomputed(model: str, method: str, skipped: float) -> dict:
        row = rows[model, method, skipped]
        return point(round(retain(row.scores, dense_row(model).scores), 2))

    seven, eight = analytic.LLAMA2_7B, analytic.LLAMA31_8B
    share = 100 * analytic.router_params(seven) / seven.P_total
    bottleneck = 100 * analytic.router_params(seven, "bottleneck") / seven.P_total
    cost = analytic.training_cost(seven, steps=10_000, batch=16)
    return {
        "C2b": recomputed("7B", "SkipGPT-RT", 25.5),
        "C3a": recomputed("8B", "SkipGPT-RT", 25.5),
        "C4a": recomputed("8B", "SkipGPT-RT", 40.2),
        "C6b": recomputed("8B", "SkipGPT-Joint", 25.3),
        "C9": point(math.floor(share * 1000) / 1000,
                    baselines={"untruncated": share, "bottleneck router of the released code": bottleneck}),
        "C10": point(1 - cost.share_of_peak, baselines={"share of the four-hour peak": cost.share_of_peak}),
        "C11a": point(100 * analytic.module_sparsity(0.3319, 0.2633)),
        "C15c": point(round(analytic.prefill_speedup(eight, 1024, 0.5, 0.5), 4)),
    }


# -- from scratch ------------------------------------------------------------------------------------------
def scratch(results: dict, size: str = "cpu") -> dict[str, dict]:
    trained = SCRATCH_SIZES[size].seeds

    def of(name: str) -> list[dict]:
        return [results[f"tier_a/{name}/seed{seed}"] for seed in trained]

    def ce(rows: list[dict], *where: str) -> list[float]:
        """Cross-entropy of each row, or of what it holds under these names."""
        for name in where:
            rows = [row[name] for row in rows]
        return [row["ce"] for row in rows]

    def less(ours: list[float], theirs: list[float]) -> list[float]:
        return [a - b for a, b in zip(ours, theirs)]

    def seeds(values: list[float], **baselines: list[float]) -> dict:
        measured = summarize(values)
        return measured | ({"baselines": {name.replace("_", " "): fmean(v) for name, v in baselines.items()}} if baselines else {})

    static, tuned, joint = of("static"), of("routers at 0.40"), of("joint")
    ours, dense, recovered = ce(tuned, "held"), ce(static, "dense"), ce(tuned, "lora", "routed")
    fair = {name for name in static[0] if name != "dense" and static[0][name]["sparsity"] <= BUDGET + 1e-6}
    best = [min(row[name]["ce"] for name in fair) for row in static]
    at_sixty = [next(row["ce"] for row in r["sweep"] if abs(row["sparsity"] - 0.6) < 0.05) for r in tuned]
    skipped = {name: [r["trained"][f"{name}_skip"] for r in tuned] for name in ("attn", "mlp")}
    attends = {kind: [r["trained"]["executed_by_kind"][kind]["attn"] for r in tuned] for kind in ("recall", "cycle")}
    realised = [r["trained"]["sparsity"] for r in tuned]
    first = [results[f"tier_a/MoD-D with LoRA/seed{trained[0]}"]["ce"]]
    return {
        "C5a": seeds(less(ce(tuned, "trained"), recovered), routed_with_LoRA=recovered,
                     dense_with_LoRA=ce(tuned, "lora", "dense"), dense=dense),
        "C6a": seeds(less(ce(joint, "held"), recovered), joint=ce(joint, "held"),
                     joint_sparsity=[r["held"]["sparsity"] for r in joint],
                     two_stages_sparsity=[r["lora"]["routed"]["sparsity"] for r in tuned]),
        "C7a": seeds(less(best, ours), router=ours, dense=dense, **{name: ce(static, name) for name in sorted(fair)}),
        "C8a": seeds(less(ce(of("MoD-D")), ours), router=ours, MoD_D=ce(of("MoD-D")), MoD_D_with_LoRA_seed_0=first,
                     router_with_LoRA_seed_0=recovered[:1]),
        "C11b": seeds(less(skipped["attn"], skipped["mlp"]), attention_skip=skipped["attn"], MLP_skip=skipped["mlp"]),
        "C13a": seeds([math.log(2) - rise for rise in less(at_sixty, dense)], router_at_60=at_sixty, dense=dense),
        "C16": seeds(less(ce(tuned, "trained random", "matched"), ce(tuned, "trained")), router=ce(tuned, "trained"),
                     matched_random=ce(tuned, "trained random", "matched"),
                     uniform_random=ce(tuned, "trained random", "uniform"), sampled=ce(tuned, "sampled"), dense=dense),
        "C16a": seeds(less(attends["recall"], attends["cycle"]), **attends),
        "C16b": seeds(less(ce(of("token-blind"), "held"), ours), token_blind=ce(of("token-blind"), "held"),
                      token_blind_sparsity=[r["held"]["sparsity"] for r in of("token-blind")], router=ours),
        "C17": seeds(less(ce(of("coupled"), "held"), ours), coupled=ce(of("coupled"), "held"), decoupled=ours),
        "C18": seeds([0.05 - abs(rate - 0.40) for rate in realised], realised=realised),
    }


# -- the real small model ----------------------------------------------------------------------------------
def smollm2(results: dict, size: str = "cpu") -> dict[str, dict]:
    low, high = (_at_target(results, target) for target in TARGETS)
    routed = results[f"tier_b/routers at {TARGETS[0]:.2f}"]
    (attn_first, mlp_first), (attn_last, mlp_last) = routed["first quarter"], routed["last quarter"]
    return {
        "C2c": low["matched"], "C2d": low["static"], "C2e": low["uniform"],
        "C4c": high["matched"], "C4b": high["static"],
        "C11c": paired(routed["attn skip by window"], routed["mlp skip by window"])
        | {"baselines": {"attention skip": routed["skip"]["attn_skip"], "MLP skip": routed["skip"]["mlp_skip"]}},
        "C12a": paired(attn_last, attn_first)
        | {"baselines": {"first quarter": fmean(attn_first), "last quarter": fmean(attn_last)}},
        "C12b": paired(mlp_first, mlp_last)
        | {"baselines": {"first quarter": fmean(mlp_first), "last quarter": fmean(mlp_last)}},
    }


def _at_target(results: dict, target: float) -> dict[str, dict]:
    """{what the routers are compared with: measured}. Windows are the items; a window's random loss is its mean over draws."""
    ours, random, static = (results[f"tier_b/{name} at {target:.2f}"] for name in ("routers", "random", "static"))
    ours, best = ours["skip"], min(static, key=lambda name: static[name]["ce"])
    shown = {"router": ours["ce"], "dense": results["tier_b/dense"]["ce"]}
    compared = {"static": paired(static[best]["windows"], ours["windows"])
                | {"baselines": shown | {name: row["ce"] for name, row in static.items()}}}
    for kind in ("matched", "uniform"):
        drawn = [fmean(losses) for losses in zip(*(row["windows"] for row in random[kind]))]
        compared[kind] = paired(drawn, ours["windows"]) | {
            "baselines": shown | {f"{kind} random": fmean(drawn)},
            "details": {"effect of each draw": [row["ce"] - ours["ce"] for row in random[kind]]}}
    return compared


# -- timings -----------------------------------------------------------------------------------------------
def _largest_prefill(document: dict) -> tuple[str, dict]:
    cases = {name: case for name, case in document["cases"].items() if case["phase"] == "prefill"}
    if not cases:
        raise RuntimeError("no prefill case was timed: the time limit is too short for this machine; see speed.py --time-limit")
    name = max(cases, key=lambda n: cases[n]["batch"] * cases[n]["length"])
    return name, cases[name]


def _timing(case: dict, variant: str) -> dict:
    """How a speed-up was taken, for its record; iqr_relative can make a verdict inconclusive."""
    entry = case["speedups"][variant]
    return {
        "rounds": case["rounds"],
        "estimator": "median of interleaved per-round ratios",
        "iqr_relative": entry["iqr"] / entry["speedup"],
        "dense_seconds": case["variants"]["dense"]["median"],
        "load_average": case["load_average"],
        "flops_dense": case["variants"]["dense"]["flops"],
        "flops_executed": case["variants"][variant]["flops"],
        "bound": entry["bound"],
    }


def speed(results: dict, size: str = "cpu") -> dict[str, dict]:
    """The runs of a timing are its interleaved rounds."""
    document = results["speed"]
    name, case = _largest_prefill(document)
    entry, timing = case["speedups"]["skip 0.40"], _timing(case, "skip 0.40")
    others = {f"{v}, {name}": s["speedup"] for v, s in case["speedups"].items()}
    for decode, row in document["cases"].items():
        if row["phase"] == "decode":
            others |= {f"{v}, {decode}": s["speedup"] for v, s in row["speedups"].items() if v.startswith("skip")}
    ratios, bound = entry["ratios"], entry["bound"]
    return {
        "C15d": summarize([r - 1 for r in ratios]) | {"baselines": others, "timing": timing},
        "C15e": summarize([r / bound - 0.6 for r in ratios])
        | {"baselines": {"bound": bound, "ratio": entry["speedup"]}, "timing": timing},
    }


def gpu(results: dict, size: str = "gpu") -> dict[str, dict]:
    """C15b from the Llama-3.1-8B shape: prefill with half of the modules skipped."""
    document = results["gpu"]["8B"]
    _, case = _largest_prefill(document)
    others = {f"{v}, {name}": s["speedup"] for name, row in document["cases"].items() for v, s in row["speedups"].items()}
    return {"C15b": point(case["speedups"]["skip 0.50"]["speedup"], baselines=others, timing=_timing(case, "skip 0.50"))}


# -- paper scale -------------------------------------------------------------------------------------------
def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """{"7B" | "13B" | "8B": {"dense": {task: score}, "routers at 0.25": …}} -> measured; what is missing stays not-run."""
    from common.benchmarks.language import retain as mean_ratio

    scores = results["paper"]
    wanted = {
        "C2": ("7B", "routers at 0.25"),
        "C2a": ("13B", "routers at 0.25"),
        "C3": ("8B", "routers at 0.25"),
        "C4": ("8B", "routers at 0.40"),
        "C6": ("8B", "joint at 0.25"),
    }
    measured = {claim: point(mean_ratio(scores[model][run], scores[model]["dense"])) for claim, (model, run) in wanted.items()
                if {run, "dense"} <= scores.get(model, {}).keys()}
    if "routers + LoRA at 0.25" in scores.get("7B", {}):
        measured["C5"] = point(100 * fmean(scores["7B"]["routers + LoRA at 0.25"].values()))
    return measured
