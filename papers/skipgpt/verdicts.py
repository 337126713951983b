"""From what the jobs measured to the number that each claim's rule reads.

One function per kind of job; each returns {claim id: (measured, extras)}. The statistics are those of common: `summarize` over
seeds, `paired` over windows. Nothing here decides anything: thresholds and falsifiers stand in claims.yaml.
"""

from __future__ import annotations

import math
from statistics import fmean

from common.records import paired, summarize

from . import analytic, tier_a
from .reported import REPORTED, dense_row, retain
from .tier_b import TARGETS


def point(value: float, **details) -> dict:
    return {"value": value, "n_runs": 1} | details


# -- analytic ----------------------------------------------------------------------------------------------
def analytic_claims() -> dict[str, dict]:
    rows = {(r.model, r.method, r.skipped): r for r in REPORTED if r.scores}

    def recomputed(model: str, method: str, skipped: float) -> dict:
        row = rows[model, method, skipped]
        return point(round(retain(row.scores, dense_row(model).scores), 2))

    seven, eight = analytic.LLAMA2_7B, analytic.LLAMA31_8B
    share = 100 * analytic.router_params(seven) / seven.P_total
    cost = analytic.training_cost(seven, steps=10_000, batch=16)
    return {
        "C2b": recomputed("7B", "SkipGPT-RT", 25.5),
        "C3a": recomputed("8B", "SkipGPT-RT", 25.5),
        "C4a": recomputed("8B", "SkipGPT-RT", 40.2),
        "C6b": recomputed("8B", "SkipGPT-Joint", 25.3),
        "C9": point(
            math.floor(share * 1000) / 1000,
            baselines={
                "untruncated": share,
                "bottleneck router of the released code": 100
                * analytic.router_params(seven, "bottleneck")
                / seven.P_total,
            },
        ),
        "C10": point(1 - cost.share_of_peak, baselines={"share of the four-hour peak": cost.share_of_peak}),
        "C11a": point(100 * analytic.module_sparsity(0.3319, 0.2633)),
        "C15c": point(round(analytic.prefill_speedup(eight, 1024, 0.5, 0.5), 4)),
    }


# -- cpu-small ---------------------------------------------------------------------------------------------
def tier_a_claims(results: dict, trained: tuple[int, ...] = tier_a.SIZES["cpu"].seeds) -> dict[str, dict]:
    """trained: the seeds of the from-scratch models that were measured."""

    def of(kind: str) -> list[dict]:
        return [results[f"tier_a/{kind}/seed{seed}"] for seed in trained]

    static, tuned, coupled, blind = (
        of("static"),
        of("routers at 0.40"),
        of("coupled"),
        of("token-blind"),
    )
    joint, mod = of("joint"), of("MoD-D")

    def seeds(values: list[float], **baselines: list[float]) -> dict:
        measured = summarize(values)
        return measured | (
            {"baselines": {name.replace("_", " "): fmean(v) for name, v in baselines.items()}} if baselines else {}
        )

    ours = [r["held"]["ce"] for r in tuned]
    fair = {name for name in static[0] if name != "dense" and static[0][name]["sparsity"] <= tier_a.BUDGET + 1e-6}
    best = [min(s[name]["ce"] for name in fair) for s in static]
    dense = [s["dense"]["ce"] for s in static]
    at_sixty = [next(row["ce"] for row in r["sweep"] if abs(row["sparsity"] - 0.6) < 0.05) for r in tuned]
    executed = [r["trained"]["executed_by_kind"] for r in tuned]
    return {
        "C5a": seeds(
            [r["trained"]["ce"] - r["lora"]["routed"]["ce"] for r in tuned],
            routed_with_LoRA=[r["lora"]["routed"]["ce"] for r in tuned],
            dense_with_LoRA=[r["lora"]["dense"]["ce"] for r in tuned],
            dense=dense,
        ),
        "C6a": seeds(
            [j["held"]["ce"] - r["lora"]["routed"]["ce"] for j, r in zip(joint, tuned)],
            joint=[j["held"]["ce"] for j in joint],
            joint_sparsity=[j["held"]["sparsity"] for j in joint],
            two_stages_sparsity=[r["lora"]["routed"]["sparsity"] for r in tuned],
        ),
        "C7a": seeds(
            [b - o for b, o in zip(best, ours)],
            router=ours,
            dense=dense,
            **{name: [s[name]["ce"] for s in static] for name in sorted(fair)},
        ),
        "C8a": seeds(
            [m["ce"] - o for m, o in zip(mod, ours)],
            router=ours,
            MoD_D=[m["ce"] for m in mod],
            MoD_D_with_LoRA_seed_0=[results[f"tier_a/MoD-D with LoRA/seed{trained[0]}"]["ce"]],
            router_with_LoRA_seed_0=[tuned[0]["lora"]["routed"]["ce"]],
        ),
        "C11b": seeds(
            [r["trained"]["attn_skip"] - r["trained"]["mlp_skip"] for r in tuned],
            attention_skip=[r["trained"]["attn_skip"] for r in tuned],
            MLP_skip=[r["trained"]["mlp_skip"] for r in tuned],
        ),
        "C13a": seeds(
            [math.log(2) - (ce - d) for ce, d in zip(at_sixty, dense)],
            router_at_60=at_sixty,
            dense=dense,
        ),
        "C16": seeds(
            [r["trained random"]["matched"]["ce"] - r["trained"]["ce"] for r in tuned],
            router=[r["trained"]["ce"] for r in tuned],
            matched_random=[r["trained random"]["matched"]["ce"] for r in tuned],
            uniform_random=[r["trained random"]["uniform"]["ce"] for r in tuned],
            sampled=[r["sampled"]["ce"] for r in tuned],
            dense=dense,
        ),
        "C16a": seeds(
            [e["recall"]["attn"] - e["cycle"]["attn"] for e in executed],
            recall=[e["recall"]["attn"] for e in executed],
            cycle=[e["cycle"]["attn"] for e in executed],
        ),
        "C16b": seeds(
            [b["held"]["ce"] - o for b, o in zip(blind, ours)],
            token_blind=[b["held"]["ce"] for b in blind],
            token_blind_sparsity=[b["held"]["sparsity"] for b in blind],
            router=ours,
        ),
        "C17": seeds(
            [c["held"]["ce"] - o for c, o in zip(coupled, ours)],
            coupled=[c["held"]["ce"] for c in coupled],
            decoupled=ours,
        ),
        "C18": seeds(
            [0.05 - abs(r["trained"]["sparsity"] - 0.40) for r in tuned],
            realised=[r["trained"]["sparsity"] for r in tuned],
        ),
    }


def tier_b_claims(results: dict) -> dict[str, dict]:
    claims, dense = {}, results["tier_b/dense"]
    for target in TARGETS:
        ours = results[f"tier_b/routers at {target:.2f}"]["skip"]
        random = results[f"tier_b/random at {target:.2f}"]
        static = results[f"tier_b/static at {target:.2f}"]
        best = min(static, key=lambda name: static[name]["ce"])
        shown = {"router": ours["ce"], "dense": dense["ce"]}

        def against_random(kind: str) -> dict:
            """Windows are the items; a window's random loss is its mean over three draws."""
            drawn = [fmean(losses) for losses in zip(*(row["windows"] for row in random[kind]))]
            return paired(drawn, ours["windows"]) | {
                "baselines": shown | {f"{kind} random": fmean(drawn)},
                "details": {"effect of each draw": [row["ce"] - ours["ce"] for row in random[kind]]},
            }

        claims["C2c" if target == 0.25 else "C4c"] = against_random("matched")
        claims["C2d" if target == 0.25 else "C4b"] = paired(static[best]["windows"], ours["windows"]) | {
            "baselines": shown | {name: static[name]["ce"] for name in static}
        }
        if target == 0.25:
            claims["C2e"] = against_random("uniform")
    routed = results["tier_b/routers at 0.25"]
    first, last = routed["first quarter"], routed["last quarter"]
    claims["C12a"] = paired(last[0], first[0]) | {
        "baselines": {"first quarter": fmean(first[0]), "last quarter": fmean(last[0])}
    }
    claims["C12b"] = paired(first[1], last[1]) | {
        "baselines": {"first quarter": fmean(first[1]), "last quarter": fmean(last[1])}
    }
    claims["C11c"] = paired(routed["attn skip by window"], routed["mlp skip by window"]) | {
        "baselines": {
            "attention skip": routed["skip"]["attn_skip"],
            "MLP skip": routed["skip"]["mlp_skip"],
        }
    }
    return claims


# -- timings -----------------------------------------------------------------------------------------------
def _largest_prefill(document: dict) -> tuple[str, dict]:
    cases = {name: case for name, case in document["cases"].items() if case["phase"] == "prefill"}
    if not cases:
        raise RuntimeError(
            "no prefill case was timed: the time limit is too short for this machine; see speed.py --time-limit"
        )
    name = max(cases, key=lambda n: cases[n]["batch"] * cases[n]["length"])
    return name, cases[name]


def _timing(case: dict, variant: str) -> dict:
    """What a record says about how a speed-up was taken; iqr_relative can make a verdict inconclusive."""
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


def speed_claims(document: dict) -> tuple[dict, dict]:
    """({claim: measured}, {claim: timing}) of the CPU rung; the runs of a timing are its interleaved rounds."""
    name, case = _largest_prefill(document)
    entry = case["speedups"]["skip 0.40"]
    others = {f"{v}, {name}": s["speedup"] for v, s in case["speedups"].items()}
    for decode, row in document["cases"].items():
        if row["phase"] == "decode":
            others |= {f"{v}, {decode}": s["speedup"] for v, s in row["speedups"].items() if v.startswith("skip")}
    timing = _timing(case, "skip 0.40")
    ratios, bound = entry["ratios"], entry["bound"]
    return (
        {
            "C15d": summarize([r - 1 for r in ratios]) | {"baselines": others},
            "C15e": summarize([r / bound - 0.6 for r in ratios])
            | {"baselines": {"bound": bound, "ratio": entry["speedup"]}},
        },
        {"C15d": timing, "C15e": timing},
    )


def gpu_claims(documents: dict) -> tuple[dict, dict]:
    """C15b from the Llama-3.1-8B shape: prefill with half of the modules skipped."""
    name, case = _largest_prefill(documents["8B"])
    entry = case["speedups"]["skip 0.50"]
    others = {
        f"{v}, {n}": s["speedup"] for n, row in documents["8B"]["cases"].items() for v, s in row["speedups"].items()
    }
    return {"C15b": point(entry["speedup"], baselines=others)}, {"C15b": _timing(case, "skip 0.50")}


# -- paper scale -------------------------------------------------------------------------------------------
def paper_claims(scores: dict) -> dict[str, dict]:
    """{"7B" | "13B" | "8B": {"dense": {task: score}, "routers at 0.25": …}} -> measured; what is missing stays not-run."""
    from common.benchmarks.language import retain as keep

    wanted = {
        "C2": ("7B", "routers at 0.25"),
        "C2a": ("13B", "routers at 0.25"),
        "C3": ("8B", "routers at 0.25"),
        "C4": ("8B", "routers at 0.40"),
        "C6": ("8B", "joint at 0.25"),
    }
    found = {
        claim: point(keep(scores[model][run], scores[model]["dense"]))
        for claim, (model, run) in wanted.items()
        if run in scores.get(model, {}) and "dense" in scores.get(model, {})
    }
    if "routers + LoRA at 0.25" in scores.get("7B", {}):
        found["C5"] = point(100 * fmean(scores["7B"]["routers + LoRA at 0.25"].values()))
    return found
