"""The tables behind the claims, as text: every method's numbers beside every definition of "25 %" (spec 7.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

from common.seeds import seeds_of

from . import analytic
from .experiments import rates as rates_experiment
from .experiments import smollm2 as smollm2_experiment
from .experiments.smollm2 import TARGETS


def scratch(results: dict, size: str = "cpu") -> Iterator[str]:
    """Every method of Tier A. size: of the run that gave the results; the same for those below."""
    rows = scratch_rows(results)
    yield ""
    yield (f"Tier A: from-scratch Llama, 6 layers, mean of {len(rows['dense'])} seeds (cross-entropy in nats; random baselines carry the "
           "router's rates)")
    yield from _methods(rows)


def extras(results: dict, size: str = "cpu") -> Iterator[str]:
    """What no claim reads, on the first seed."""
    def of(name: str) -> dict:
        return results[f"tier_a/{name}/seed0"]

    yield ""
    yield "Tier A, one seed each, read by no claim"
    yield from _methods({
        "MoD-D + LoRA, T = 0.40": [of("MoD-D with LoRA")],
        "D-LLM (one gate a layer, joint with LoRA), T = 0.40": [of("D-LLM")["trained"]],
        "  held at 0.40": [of("D-LLM")["held"]],
        "routers, T = 0.25": [of("routers at 0.25")["trained"]],
        "  the same, sampled gates": [of("routers at 0.25")["sampled"]],
        "routers, T = 0.25, the paper's rate 2e-3, as many steps": [of("paper's learning rate")["trained"]],
    })


def sampled(results: dict, size: str = "cpu") -> Iterator[str]:
    """What no claim reads either, of the real model."""
    yield ""
    yield "Tier B, the first training, gates drawn in evaluation, too (official code); the table of tier B decides by argmax"
    for target in TARGETS:
        row = results[f"tier_b/sampled at {target:.2f}"]
        yield f"T = {target:.2f}: CE {row['ce']:.3f}, ppl {_ppl(row['ce']).strip()}, {row['sparsity']:.1%} of the modules skipped"


def rates(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "Learning rates, from scratch: cross-entropy on validation sequences, held at the budget; * the best, which is used"
    chosen = rates_experiment.best(results)
    for method, grid in rates_experiment.GRIDS.items():
        of = {rate: results[f"rates/{method} at {rate:g}/seed0"]["ce"] for rate in grid}
        cells = (f"{rate:g}: {ce:.3f}{'*' if rate == chosen[method] else ''}" for rate, ce in of.items())
        yield f"{method:<14s}" + "  ".join(f"{cell:>14s}" for cell in cells)


def blind(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "Token-blind routers of SmolLM2: one learned decision per module, on the windows of tier B"
    for name, row in results.items():
        if name.startswith("blind/"):
            yield (f"{name.removeprefix('blind/'):<34s} CE {row['ce']:.3f}  attention skip {row['attn_skip']:.3f}  MLP skip "
                   f"{row['mlp_skip']:.3f}  whole modules dropped {len(row['dropped'])}")


def gemma(results: dict, size: str = "cpu") -> Iterator[str]:
    """The second real decoder: short windows, long ones, what was skipped."""
    def line(name: str, rows: list[dict]) -> str:
        cells = [fmean(row[key] for row in rows) if key in rows[0] else math.nan for key in ("attn_skip", "mlp_skip", "sparsity")]
        long = fmean(row["long"]["ce"] for row in rows) if "ce" in rows[0].get("long", {}) else math.nan
        return f"{name:<46s}{fmean(row['ce'] for row in rows):8.3f}{long:8.3f}" + "".join(f"{cell:9.3f}" for cell in cells)

    yield ""
    yield "Gemma-3-270M (4-bit weights, fp32), held-out prose, T = 0.25; cross-entropy in nats, then on long windows"
    yield f"{'method':<46s}{'CE':>8s}{'long':>8s}{'attn':>9s}{'MLP':>9s}{'modules':>9s}"
    yield line("dense", [results["gemma/dense"]])
    seeds = seeds_of(results, "gemma/routers")
    runs = [results[f"gemma/routers/seed{seed}"] for seed in seeds]
    for kind, title in (("skip", f"routers [trained {len(seeds)} x]"), ("matched", "  their rates at random"),
                        ("matched again", "  another draw"), ("uniform", "  their mean rate at random")):
        if runs:
            yield line(title, [run[kind] | ({"long": run["long"][kind]} if kind in run["long"] else {}) for run in runs])
    for name, row in results["gemma/static"].items():
        yield line(f"  {name} [training-free]", [row])
    if seeds:
        yield line("token-blind routers [trained]", [results[f"gemma/token-blind/seed{seed}"] for seed in seeds])
        stages = [results[f"gemma/recovery/seed{seed}"] for seed in seeds]
        for name in ("dense + LoRA", "routers", "routers + LoRA", "routers + dense's LoRA"):
            yield line(f"stage 2: {name}", [stage[name] for stage in stages])


def _methods(rows: dict[str, list[dict]]) -> Iterator[str]:
    yield f"{'method':<56s}{'CE':>8s}{'recall acc':>12s}{'attn skip':>11s}{'MLP skip':>10s}{'sparsity':>10s}"
    for name, seeds in rows.items():
        ce, attn, mlp, both = (fmean(row.get(key, 0.0) for row in seeds) for key in ("ce", "attn_skip", "mlp_skip", "sparsity"))
        recall = fmean(row["accuracy"]["recall"] for row in seeds)
        yield f"{name:<56s}{ce:8.3f}{recall:12.3f}{attn:11.3f}{mlp:10.3f}{both:10.3f}"


def scratch_rows(results: dict) -> dict[str, list[dict]]:
    """{method: one measurement a seed}, the static plans and everything trained."""
    rows: dict[str, list[dict]] = {}
    for seed in seeds_of(results, "tier_a/routers at 0.40"):
        for name, row in _rows_of(results, seed).items():
            rows.setdefault(name, []).append(row)
    return rows


def _rows_of(results: dict, seed: int) -> dict[str, dict]:
    def of(name: str) -> dict:
        return results[f"tier_a/{name}/seed{seed}"]

    tuned, coupled = of("routers at 0.40"), of("coupled")
    rows = {f"{name} [training-free]" if name != "dense" else name: row for name, row in of("static").items()}
    return rows | {
        "routers, T = 0.40, untrained": tuned["untrained"],
        "routers, T = 0.40 [trained]": tuned["trained"],
        "  the same, sampled gates": tuned["sampled"],
        "  its rates at random, per module": tuned["trained random"]["matched"],
        "  its mean rate at random": tuned["trained random"]["uniform"],
        "  held at 5/12": tuned["held"],
        "  held at 5/12, its rates at random": tuned["held random"]["matched"],
        "  then LoRA [trained]": tuned["lora"]["routed"],
        "  then LoRA, held at 0.40": tuned["lora"]["routed held"],
        "  then LoRA on q and v alone, held at 0.40": tuned["lora"]["q and v held"],
        "dense + the same LoRA [trained]": tuned["lora"]["dense"],
        "one gate a layer, T = 0.40 [trained]": coupled["trained"],
        "  held at 5/12 ": coupled["held"],
        "token-blind routers, T = 0.40 [trained]": of("token-blind")["trained"],
        "  held at 5/12  ": of("token-blind")["held"],
        "joint with LoRA, T = 0.40 [trained]": of("joint")["trained"],
        "  held at 0.40": of("joint")["held"],
        "MoD-D, T = 0.40 [trained]": of("MoD-D"),
    }


def _ppl(ce: float) -> str:
    value = math.exp(ce)
    return f"{value:8.1f}" if value < 10_000 else f"{value:8.1e}"


def definitions(s_a: float, s_m: float) -> str:
    """Module sparsity, and what it is in block parameters, all parameters, idle parameters and executed FLOPs."""
    m = analytic.SMOLLM2_135M
    skips = (analytic.block_param_skip(m, s_a, s_m), analytic.total_param_skip(m, s_a, s_m), analytic.idle_param_skip(m, s_a, s_m))
    flops = 1 / analytic.prefill_speedup(m, 128, s_a, s_m)
    return f"{analytic.module_sparsity(s_a, s_m):9.3f}" + "".join(f"{share:8.3f}" for share in (*skips, flops))


def smollm2(results: dict, size: str = "cpu") -> Iterator[str]:
    dense = results["tier_b/dense"]
    yield ""
    yield (f"Tier B: SmolLM2-135M-Instruct (4-bit weights, fp32), held-out prose, {len(dense['documents'])} windows, each of another "
           "document")
    yield (f"{'method':<46s}{'CE':>7s}{'ppl':>8s}{'attn':>7s}{'MLP':>7s}{'modules':>9s}{'block p':>8s}{'all p':>8s}{'idle p':>8s}"
           f"{'FLOPs':>8s}")

    def line(name: str, row: dict) -> str:
        s_a, s_m = row.get("attn_skip", 0.0), row.get("mlp_skip", 0.0)
        shares = definitions(s_a, s_m) if "attn_skip" in row else ""
        return f"{name:<46s}{row['ce']:7.3f}{_ppl(row['ce'])}{s_a:7.3f}{s_m:7.3f}{shares}"

    yield line("dense", dense)
    for target in TARGETS:
        seeds = seeds_of(results, f"tier_b/routers at {target:.2f}")
        runs = [results[f"tier_b/routers at {target:.2f}/seed{seed}"] for seed in seeds]
        for kind, title in (("skip", f"routers, T = {target:.2f} [trained {len(seeds)} x]"), ("matched", "  their rates at random"),
                            ("matched again", "  another draw"), ("uniform", "  their mean rate at random")):
            yield line(title, {key: fmean(run[kind][key] for run in runs) for key in ("ce", "attn_skip", "mlp_skip")})
        for name, row in results[f"tier_b/static at {target:.2f}"].items():
            yield line(f"  {name} [training-free]", row)
    tokens = results["tier_b/positions at 0.25"]["tokens"]
    yield f"tokens that run attention least: {', '.join(repr(row[0]) for row in tokens['least attention'][:8])}"
    yield f"tokens that run attention most:  {', '.join(repr(row[0]) for row in tokens['most attention'][-8:])}"


def real(results: dict, size: str = "cpu") -> Iterator[str]:
    n, tasks = smollm2_experiment.SIZES[size], ("piqa_local", "arc_easy_local", "winogrande_local", "lambada_openai_local")
    yield ""
    yield f"Real benchmarks from NINEFOLD_DATA (0-shot; perplexity per token, windows of {n.text}; first items only where n < all)"
    yield f"{'method':<34s}{'wikitext2':>10s}{'ptb':>10s}" + "".join(f"{t.removesuffix('_local'):>17s}" for t in tasks) + f"{'modules':>9s}"
    for name, row in results.items():
        if name.startswith("real/"):
            ppl, scores = row["perplexity"], [row["tasks"]["tasks"][task] for task in tasks]
            cells = "".join(f"{score['value']:8.3f} +-{score['stderr']:.3f} " for score in scores)
            yield (f"{name.removeprefix('real/'):<34s}{ppl['wikitext2']['ppl']:10.2f}{ppl['ptb']['ppl']:10.2f}{cells}"
                   f"{row.get('sparsity', 0.0):9.3f}")


def ratios(results: dict, size: str = "cpu") -> Iterator[str]:
    """A line a case and process: times dense, beside the bound."""
    yield ""
    yield "Skipping over dense at SmolLM2-135M's dimensions, times as fast, and at most"
    for name in sorted(name for name in results if name.startswith("ratios/process")):
        for case, of in results[name]["cases"].items():
            cells = (f"{variant} {row['speedup']:.2f}" + (f" of {row['bound']:.2f}" if "bound" in row else "")
                     for variant, row in of["speedups"].items())
            yield f"{name.removeprefix('ratios/'):<10s}{case:<20s} " + "   ".join(cells)
