"""The run's pictures, as SVG: drawn from the job results alone, one function a picture."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from statistics import fmean

from common.pictures import draw_all
from common.seeds import seeds_of

from .experiments import smollm2 as smollm2_experiment
from .experiments.smollm2 import CLAIMED, TARGETS
from .router_files import ROUTERS, committed

ATTENTION, MLP, GREY = "#1f6f8b", "#c8553d", "#777777"


def scratch(results: dict, size: str, folder: Path) -> list[Path]:
    """Writes the pictures of the experiment; returns the files. size: of the run that gave the results. The same below."""
    seeds = seeds_of(results, "tier_a/routers at 0.40")
    return draw_all([_of(tier_a_methods, seeds=seeds), _of(sparsity_sweep, seeds=seeds)], results, folder)


def smollm2(results: dict, size: str, folder: Path) -> list[Path]:
    width = min(100, smollm2_experiment.SIZES[size].long // 3)
    return draw_all([router_map, _of(position, width=width), learning_curves], results, folder)


def _of(picture, **sizes):
    return functools.wraps(picture)(functools.partial(picture, **sizes))


def tier_a_methods(plt, results, seeds):
    """Cross-entropy and realised sparsity of every method and baseline, best on top, one dot a seed."""
    points: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        static = results[f"tier_a/static/seed{seed}"]
        tuned = results[f"tier_a/routers at 0.40/seed{seed}"]
        rows = {name: static[name] for name in static}
        rows |= {
            "SkipGPT routers": tuned["held"],
            "routers + LoRA": tuned["lora"]["routed"],
            "matched random": tuned["held random"]["matched"],
            "uniform random": tuned["held random"]["uniform"],
            "one gate a layer": results[f"tier_a/coupled/seed{seed}"]["held"],
            "token-blind routers": results[f"tier_a/token-blind/seed{seed}"]["held"],
            "joint with LoRA": results[f"tier_a/joint/seed{seed}"]["held"],
            "MoD-D": results[f"tier_a/MoD-D/seed{seed}"],
        }
        for name, row in rows.items():
            points.setdefault(name, []).append((row.get("sparsity", 0.0), row["ce"]))
    ranked = sorted(points.items(), key=lambda item: -fmean(ce for _, ce in item[1]))
    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    edge = 2.4  # two baselines lie far to the right; an arrow and a number show where
    for row, (name, values) in enumerate(ranked):
        color = ATTENTION if name in ("SkipGPT routers", "routers + LoRA") else GREY
        inside = [ce for _, ce in values if ce < edge]
        axis.scatter(inside, [row] * len(inside), color=color, s=22, zorder=3)
        if len(inside) < len(values):
            axis.text(edge, row, f"\u2192 {max(ce for _, ce in values):.2f}", va="center", color=color, fontsize=8)
    labels = [f"{name}, {fmean(s for s, _ in values):.0%} skipped: {fmean(ce for _, ce in values):.3f}" for name, values in ranked]
    axis.set_yticks(range(len(ranked)), labels, fontsize=7.5)
    axis.axvline(fmean(ce for _, ce in points["dense"]), color="black", lw=0.6, ls=":")
    axis.grid(axis="y", lw=0.3)
    axis.set(xlim=(1.42, edge), xlabel="test cross-entropy, nats; one dot a seed, the mean in the label",
             title="From scratch, known token difficulty")
    return figure


def sparsity_sweep(plt, results, seeds):
    """Cross-entropy as one threshold moves, against random routing at the same rates (claim C13)."""
    figure, axis = plt.subplots(figsize=(5.4, 3.4))
    for key, label, color in (("ce", "routers", ATTENTION), ("matched", "matched random", MLP), ("uniform", "uniform random", GREY)):
        for seed in seeds:
            rows = results[f"tier_a/routers at 0.40/seed{seed}"]["sweep"]["rows"]
            axis.plot([r["sparsity"] for r in rows], [r[key] for r in rows], color=color, lw=1, marker=".",
                      label=label if seed == seeds[0] else None)
    dense = fmean(results[f"tier_a/static/seed{seed}"]["dense"]["ce"] for seed in seeds)
    axis.axhline(dense, color="black", lw=0.6, ls=":", label="dense")
    axis.set(xlabel="realised module sparsity", ylabel="test cross-entropy, nats",
             title="From scratch: sweep of the threshold, no retraining")
    axis.legend(frameon=False)
    return figure


def router_map(plt, results):
    """Which modules of SmolLM2 are skipped, by layer (claim C11)."""
    figure, axes = plt.subplots(len(TARGETS), 1, figsize=(6.4, 3.6), sharex=True)
    for axis, target in zip(axes, TARGETS):
        rates = results[f"tier_b/routers at {target:.2f}/seed0"]["skip"]["per_layer"]
        layers = range(len(rates))
        axis.bar([i - 0.2 for i in layers], [r[0] for r in rates], 0.4, color=ATTENTION, label="attention")
        axis.bar([i + 0.2 for i in layers], [r[1] for r in rates], 0.4, color=MLP, label="MLP")
        axis.set(ylabel="skipped", ylim=(0, 1), title=f"SmolLM2-135M-Instruct, T = {target:.0%}: share of tokens that skip each module")
    axes[0].legend(frameon=False, ncols=2)
    axes[-1].set_xlabel("layer")
    return figure


def position(plt, results, width: int = 100):
    """Execution rate along the sequence, moving average of 100 tokens as in the paper, less in short windows (claim C12)."""
    figure, axis = plt.subplots(figsize=(5.4, 3.0))
    curve = results[f"tier_b/positions at {CLAIMED:.2f}"]["position"]
    for name, color in (("attn", ATTENTION), ("mlp", MLP)):
        values = curve[name][1:]
        smooth = [fmean(values[i : i + width]) for i in range(len(values) - width + 1)]
        axis.plot([i + width / 2 for i in range(len(smooth))], smooth, color=color, label={"attn": "attention", "mlp": "MLP"}[name])
    axis.set(xlabel="position", ylabel="execution rate", title=f"SmolLM2, T = {CLAIMED:.0%}")
    axis.legend(frameon=False)
    return figure


def learning_curves(plt, results):
    """What the committed routers learned with how many tokens: their own curves, beside the weights."""
    figure, axis = plt.subplots(figsize=(5.4, 3.2))
    for target, color in zip(TARGETS, (ATTENTION, MLP)):
        rows = json.loads((committed(target) / "curve.json").read_text(encoding="utf-8"))
        tokens = [r["tokens"] / 1e3 for r in rows]
        axis.plot(tokens, [r["train_ce"] for r in rows], color=color, label=f"T = {target:.0%}, sampled, training text")
        axis.plot(tokens, [r["validation_ce"] for r in rows], color=color, ls="--",
                  label=f"T = {target:.0%}, argmax as it stands, validation")
    axis.set(xlabel="thousand tokens", ylabel="cross-entropy, nats", title="Router tuning of SmolLM2-135M-Instruct")
    other = ROUTERS / "crossing-t25.json"
    if other.exists():
        rows = json.loads(other.read_text(encoding="utf-8"))
        curve = rows["curve"]
        tokens = [r["tokens"] / 1e3 for r in curve]
        axis.plot(tokens, [r["held"] for r in curve], color="black", marker=".", lw=1, label="another run, held at 25 %, validation")
        axis.plot(tokens, [r["matched"] for r in curve], color=GREY, marker=".", lw=1, label="  its rates at random")
        axis.axhline(min(rows["static"].values()), color=GREY, lw=0.6, ls=":", label="  best static plan")
    axis.legend(frameon=False, fontsize=7)
    return figure
