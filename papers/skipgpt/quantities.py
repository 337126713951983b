"""From results of jobs to the number that each claim's rule reads: {claim: measured}, a short function for a few claims.

Beside each effect stands the same quantity of the arm that must fail the claim (`placebo`) or that is known to differ
(`sensitivity`); what they are is said in claims.yaml, and so is everything that decides. The statistics are those of common:
`summarize` over trainings or processes, `paired` over windows, clustered by document.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

from common.benchmarks.language import retain as mean_ratio
from common.claims.intervals import interval, paired, point, summarize
from common.seeds import seeds_of

from . import analytic
from .experiments.scratch import BUDGET
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
    bound = analytic.prefill_speedup(eight, 1024, 0.5, 0.5)
    return {
        "C2b": recomputed("7B", "SkipGPT-RT", 25.5),
        "C3a": recomputed("8B", "SkipGPT-RT", 25.5),
        "C4a": recomputed("8B", "SkipGPT-RT", 40.2),
        "C6b": recomputed("8B", "SkipGPT-Joint", 25.3),
        "C9": point(math.floor(share * 1000) / 1000,
                    baselines={"untruncated": share, "bottleneck router of the released code": bottleneck}),
        "C10": point(100 * cost.share_of_peak),
        "C11a": point(100 * analytic.module_sparsity(0.3319, 0.2633)),
        "C15c": point(1.44 / bound, baselines={"reported speed-up": 1.44, "dense / executed FLOPs": bound}),
    }


# -- from scratch ------------------------------------------------------------------------------------------
Of = Callable[..., list]


def scratch(results: dict, size: str = "cpu") -> dict[str, dict]:
    """of(job, name, name, ...): what each training's result holds there, in the order of the seeds."""
    seeds = seeds_of(results, "tier_a/routers at 0.40")

    def of(job: str, *names: str) -> list:
        rows = [results[f"tier_a/{job}/seed{seed}"] for seed in seeds]
        for name in names:
            rows = [row[name] for row in rows]
        return rows

    return stages(of) | rivals(of) | tokens(of) | modules(of) | budget(of)


def less(ours: list[float], theirs: list[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs)]


def effect(values: list[float], placebo: list[float], **baselines: list[float]) -> dict:
    """Over trainings, with the same quantity of the arm that must fail."""
    shown = {"baselines": {name.replace("_", " "): fmean(v) for name, v in baselines.items()}} if baselines else {}
    return summarize(values) | {"placebo": summarize(placebo)} | shown


def stages(of: Of) -> dict[str, dict]:
    trained, lora = of("routers at 0.40", "trained", "ce"), ("routers at 0.40", "lora")
    dense, dense_lora, routed_lora = of("static", "dense", "ce"), of(*lora, "dense", "ce"), of(*lora, "routed", "ce")
    joint, two, q_and_v = of("joint", "held", "ce"), of(*lora, "routed held", "ce"), of(*lora, "q and v held", "ce")
    return {
        "C1a": effect(less(two, dense), less(trained, dense), both_stages=two, dense=dense, dense_with_LoRA=dense_lora, routers=trained),
        "C5a": effect(less(trained, routed_lora), less(dense, dense_lora), routed_with_LoRA=routed_lora, dense_with_LoRA=dense_lora,
                      dense=dense),
        "C6a": effect(less(joint, two), less(q_and_v, two), joint=joint, two_stages=two, two_stages_on_q_and_v=q_and_v,
                      joint_sparsity=of("joint", "held", "sparsity"), two_stages_sparsity=of(*lora, "routed held", "sparsity")),
    }


def rivals(of: Of) -> dict[str, dict]:
    """What else could be done at the same budget. Placebo: routing at random, at the router's rates, in the router's place."""
    ours, random = of("routers at 0.40", "held", "ce"), of("routers at 0.40", "held random", "matched", "ce")
    static, dynamic = of("static"), of("MoD-D", "ce")
    # Records have five places, and 5/12 of the modules is 0.41667 in them.
    fair = sorted(name for name in static[0] if name != "dense" and static[0][name]["sparsity"] <= BUDGET + 5e-6)
    best = [min(row[name]["ce"] for name in fair) for row in static]
    blind, coupled = of("token-blind", "held", "ce"), of("coupled", "held", "ce")
    return {
        "C7a": effect(less(best, ours), less(best, random), router=ours, **{name: of("static", name, "ce") for name in fair}),
        "C8a": effect(less(dynamic, ours), less(dynamic, random), router=ours, MoD_D=dynamic),
        "C16b": effect(less(blind, ours), less(blind, random), router=ours, token_blind=blind,
                       token_blind_sparsity=of("token-blind", "held", "sparsity")),
        "C17": effect(less(coupled, ours), less(coupled, random), coupled=coupled, decoupled=ours),
    }


def tokens(of: Of) -> dict[str, dict]:
    """Whether the router looks at tokens. Placebo: routers that have learned nothing."""
    def gain(state: str) -> list[float]:
        return less(of("routers at 0.40", f"{state} random", "matched", "ce"), of("routers at 0.40", state, "ce"))

    def attends(state: str, kind: str) -> list[float]:
        return of("routers at 0.40", state, "executed_by_kind", kind, "attn")

    recall, cycle = attends("trained", "recall"), attends("trained", "cycle")
    return {
        "C16": effect(gain("trained"), gain("untrained"), router=of("routers at 0.40", "trained", "ce"),
                      sampled=of("routers at 0.40", "sampled", "ce"),
                      matched_random=of("routers at 0.40", "trained random", "matched", "ce"),
                      uniform_random=of("routers at 0.40", "trained random", "uniform", "ce")),
        "C16a": effect(less(recall, cycle), less(attends("untrained", "recall"), attends("untrained", "cycle")), recall=recall,
                       cycle=cycle),
    }


def modules(of: Of) -> dict[str, dict]:
    attention, mlp = (of("routers at 0.40", "trained", f"{name}_skip") for name in ("attn", "mlp"))
    untrained = less(*(of("routers at 0.40", "untrained", f"{name}_skip") for name in ("attn", "mlp")))
    return {"C11b": effect(less(attention, mlp), untrained, attention_skip=attention, MLP_skip=mlp)}


def budget(of: Of) -> dict[str, dict]:
    """C13a: how much worse than dense at 60 %. C18: what is realised of the 40 % asked for; known to differ: the same at 50 %."""
    swept, dense = of("routers at 0.40", "sweep", "rows"), of("routers at 0.40", "sweep", "dense")

    def at(asked: float, name: str) -> list[float]:
        return [next(row[name] for row in rows if row["asked"] == asked) for rows in swept]

    rises = {f"{100 * row['asked']:.0f} %": {name: fmean(less(at(row["asked"], name), dense)) for name in ("ce", "matched", "uniform")}
             for row in swept[0]}
    realised = of("routers at 0.40", "trained", "sparsity")
    return {
        "C13a": effect(less(at(0.6, "ce"), dense), less(at(0.6, "matched"), dense)) | {"details": {"rise over dense": rises}},
        "C18": summarize([rate - 0.40 for rate in realised])
        | {"sensitivity": summarize([rate - 0.40 for rate in at(0.5, "sparsity")]), "details": {"realised": realised}},
    }


# -- the real small model ----------------------------------------------------------------------------------
def smollm2(results: dict, size: str = "cpu") -> dict[str, dict]:
    low, high = (_at_target(results, target) for target in TARGETS)
    return {"C2c": low["matched"], "C2d": low["static"], "C2e": low["uniform"], "C4c": high["matched"], "C4b": high["static"],
            **_of_the_first_routers(results)}


def _at_target(results: dict, target: float) -> dict[str, dict]:
    """{what the routers are compared with: measured}, a value for each training: the mean over the windows."""
    seeds = seeds_of(results, f"tier_b/routers at {target:.2f}")
    runs, static = [results[f"tier_b/routers at {target:.2f}/seed{seed}"] for seed in seeds], results[f"tier_b/static at {target:.2f}"]
    best = min(static, key=lambda name: static[name]["ce"])
    ours, first, second, uniform = ([run[name]["ce"] for run in runs] for name in ("skip", "matched", "matched again", "uniform"))
    random, plan = [(a + b) / 2 for a, b in zip(first, second)], [static[best]["ce"]] * len(runs)
    shown = {"router": ours, "matched_random": random, "uniform_random": uniform, "dense": [results["tier_b/dense"]["ce"]]}

    def over_documents(theirs: list[float]) -> dict:
        """Of the first training alone: how sure the windows make it, which is no evidence about trainings."""
        measured = paired(theirs, runs[0]["skip"]["windows"], clusters=results["tier_b/dense"]["documents"])
        return {"details": {"first training, over documents": measured.get("ci95"), "documents": measured["n_clusters"]}}

    drawn = [fmean(pair) for pair in zip(runs[0]["matched"]["windows"], runs[0]["matched again"]["windows"])]
    return {
        "matched": effect(less(random, ours), less(first, second), **shown) | over_documents(drawn),
        "uniform": effect(less(uniform, ours), less(uniform, random), **shown) | over_documents(runs[0]["uniform"]["windows"]),
        "static": effect(less(plan, ours), less(plan, random), **shown, **{name: [row["ce"]] for name, row in static.items()})
        | over_documents(static[best]["windows"]),
    }


def _of_the_first_routers(results: dict) -> dict[str, dict]:
    """About the committed routers as they are: windows are the items, each of a document of its own."""
    run, where = results[f"tier_b/routers at {TARGETS[0]:.2f}/seed0"], results[f"tier_b/positions at {TARGETS[0]:.2f}"]

    def skips(name: str) -> dict:
        return paired(run[name]["attn skip by window"], run[name]["mlp skip by window"], clusters=results["tier_b/dense"]["documents"])

    def rises(part: str, over: str, column: int) -> dict:
        return paired(where[part][column], where[over][column], clusters=where["documents"])

    def rates(column: int) -> dict:
        return {"baselines": {part: fmean(where[part][column]) for part in ("first quarter", "last quarter")}}

    return {
        "C11c": skips("skip") | {"placebo": skips("uniform"),
                                 "baselines": {"attention skip": run["skip"]["attn_skip"], "MLP skip": run["skip"]["mlp_skip"]}},
        "C12a": rises("last quarter", "first quarter", 0) | {"placebo": rises("even", "odd", 0)} | rates(0),
        "C12b": rises("first quarter", "last quarter", 1) | {"placebo": rises("odd", "even", 1)} | rates(1),
    }


# -- timings -----------------------------------------------------------------------------------------------
def _largest_prefill(document: dict) -> tuple[str, dict]:
    cases = {name: case for name, case in document["cases"].items() if case["phase"] == "prefill"}
    if not cases:
        raise RuntimeError("no prefill case was timed: the time limit is too short for this machine; see speed.py --time-limit")
    name = max(cases, key=lambda n: cases[n]["batch"] * cases[n]["length"])
    return name, cases[name]


def timing(case: dict, variant: str) -> dict:
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
    """A value for each process, the median of its rounds; what the rounds of one tell apart is the resolution. Placebo: mask mode,
    which computes everything."""
    cases = [_largest_prefill(results[f"speed/process{i}"])[1] for i in processes_of(results)]

    def over(variant: str, bound: bool) -> dict:
        entries = [case["speedups"][variant] for case in cases]
        limits = [case["speedups"]["skip 0.40"]["bound"] if bound else 1.0 for case in cases]
        # The standard error of a median of n rounds, from their quartiles.
        errors = [0.93 * entry["iqr"] / math.sqrt(case["rounds"]) / limit for entry, case, limit in zip(entries, cases, limits)]
        return summarize([entry["speedup"] / limit for entry, limit in zip(entries, limits)], resolution=fmean(errors), over="processes")

    noisiest = max(cases, key=lambda case: case["speedups"]["skip 0.40"]["iqr"])
    return {claim: over("skip 0.40", bound) | {"placebo": over("mask 0.40", bound), "timing": timing(noisiest, "skip 0.40")}
            for claim, bound in (("C15d", False), ("C15e", True))}


def processes_of(results: dict) -> list[int]:
    return sorted(int(name.removeprefix("speed/process")) for name in results if name.startswith("speed/process"))


def gpu(results: dict, size: str = "gpu") -> dict[str, dict]:
    """C15b from the Llama-3.1-8B shape: prefill with half of the modules skipped."""
    document = results["gpu"]["8B"]
    _, case = _largest_prefill(document)
    others = {f"{v}, {name}": s["speedup"] for name, row in document["cases"].items() for v, s in row["speedups"].items()}
    return {"C15b": point(case["speedups"]["skip 0.50"]["speedup"], baselines=others, timing=timing(case, "skip 0.50"))}


# -- paper scale -------------------------------------------------------------------------------------------
def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """{"7B" | "13B" | "8B": {"dense": {task: score}, "routers at 0.25": …}} -> measured; what is missing stays not-run."""
    scores = results["paper"]
    wanted = {
        "C2": ("7B", "routers at 0.25"),
        "C2a": ("13B", "routers at 0.25"),
        "C3": ("8B", "routers at 0.25"),
        "C4": ("8B", "routers at 0.40"),
        "C6": ("8B", "joint at 0.25"),
    }
    measured = {claim: retained(scores[model], scores[model].get("errors", {}), run) for claim, (model, run) in wanted.items()
                if {run, "dense"} <= scores.get(model, {}).keys()}
    if "routers + LoRA at 0.25" in scores.get("7B", {}):
        measured["C5"] = point(100 * fmean(scores["7B"]["routers + LoRA at 0.25"].values()))
    return measured


def retained(scores: dict, errors: dict, run: str) -> dict:
    """Mean ratio to dense in per cent; where the scores have standard errors over items, with its own, by first order.

    errors: {run: {task: [standard error, items]}}. Both models answer the same items, so that the error is rather too large.
    """
    ratio = mean_ratio(scores[run], scores["dense"])
    if not {run, "dense"} <= errors.keys():
        return point(ratio)
    squares = [(errors[run][task][0] / dense) ** 2 + (scores[run][task] * errors["dense"][task][0] / dense**2) ** 2
               for task, dense in scores["dense"].items()]
    items = sum(n for _, n in errors["dense"].values())
    measured = {"value": ratio, "n_runs": 1, "n_items": items, "stderr": 100 * math.sqrt(sum(squares)) / len(squares),
                "stderr_kind": "sample"}
    return measured | {"ci95": list(interval(measured) or ())}
