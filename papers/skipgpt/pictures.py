"""The run's pictures, as SVG: drawn from the job results alone, one function a picture."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from statistics import fmean

from common.pictures import draw_all

from . import tier_a, tier_b
from .tier_b import ROUTERS, TARGETS

ATTENTION, MLP, GREY = "#1f6f8b", "#c8553d", "#777777"


def draw(results: dict, folder: Path, size: str = "cpu") -> list[Path]:
    """Writes every picture; returns the files. size: of the run that gave the results."""
    seeds, long = tier_a.SIZES[size].seeds, tier_b.SIZES[size].long

    def of(picture, **sizes):
        return functools.update_wrapper(functools.partial(picture, **sizes), picture)

    pictures = (of(tier_a_methods, seeds=seeds), of(sparsity_sweep, seeds=seeds), router_map, of(position, width=min(100, long // 3)),
                learning_curves)
    return draw_all(pictures, results, folder)


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
    edge = 2.4  # two baselines lie far to the right; an arrow says where
    for row, (name, values) in enumerate(ranked):
        color = ATTENTION if name in ("SkipGPT routers", "routers + LoRA") else GREY
        inside = [ce for _, ce in values if ce < edge]
        axis.scatter(inside, [row] * len(inside), color=color, s=22, zorder=3)
        if len(inside) < len(values):
            axis.text(edge, row, f"\u2192 {max(ce for _, ce in values):.2f}", va="center", color=color, fontsize=8)
    axis.set_yticks(
        range(len(ranked)),
        [f"{name}, {fmean(s for s, _ in v):.0%} skipped: {fmean(ce for _, ce in v):.3f}" for name, v in ranked],
        fontsize=7.5,
    )
    axis.axvline(fmean(ce for _, ce in points["dense"]), color="black", lw=0.6, ls=":")
    axis.grid(axis="y", lw=0.3)
    axis.set(
        xlim=(1.42, edge),
        xlabel="test cross-entropy, nats; one dot a seed, the mean in the label",
        title="From scratch, known token difficulty",
    )
    return figure


def sparsity_sweep(plt, results, seeds):
    """Cross-entropy as one threshold moves, against random routing at the same rates (claim C13)."""
    figure, axis = plt.subplots(figsize=(5.4, 3.4))
    for key, label, color in (
        ("ce", "routers", ATTENTION),
        ("matched", "matched random", MLP),
        ("uniform", "uniform random", GREY),
    ):
        for seed in seeds:
            rows = results[f"tier_a/routers at 0.40/seed{seed}"]["sweep"]
            axis.plot(
                [r["sparsity"] for r in rows],
                [r[key] for r in rows],
                color=color,
                lw=1,
                marker=".",
                label=label if seed == seeds[0] else None,
            )
    axis.axhline(
        fmean(results[f"tier_a/static/seed{s}"]["dense"]["ce"] for s in seeds),
        color="black",
        lw=0.6,
        ls=":",
        label="dense",
    )
    axis.set(
        xlabel="realised module sparsity",
        ylabel="test cross-entropy, nats",
        title="From scratch: sweep of the threshold, no retraining",
    )
    axis.legend(frameon=False)
    return figure


def router_map(plt, results):
    """Which modules of SmolLM2 are skipped, by layer (claim C11)."""
    figure, axes = plt.subplots(len(TARGETS), 1, figsize=(6.4, 3.6), sharex=True)
    for axis, target in zip(axes, TARGETS):
        rates = results[f"tier_b/routers at {target:.2f}"]["skip"]["per_layer"]
        layers = range(len(rates))
        axis.bar(
            [i - 0.2 for i in layers],
            [r[0] for r in rates],
            0.4,
            color=ATTENTION,
            label="attention",
        )
        axis.bar([i + 0.2 for i in layers], [r[1] for r in rates], 0.4, color=MLP, label="MLP")
        axis.set(
            ylabel="skipped",
            ylim=(0, 1),
            title=f"SmolLM2-135M-Instruct, T = {target:.0%}: share of tokens that skip each module",
        )
    axes[0].legend(frameon=False, ncols=2)
    axes[-1].set_xlabel("layer")
    return figure


def position(plt, results, width: int = 100):
    """Execution rate along the sequence, moving average of 100 tokens as in the paper, less in short windows (claim C12)."""
    figure, axes = plt.subplots(1, len(TARGETS), figsize=(7.2, 3.0), sharey=True)
    for axis, target in zip(axes, TARGETS):
        curve = results[f"tier_b/routers at {target:.2f}"]["position"]
        for name, color in (("attn", ATTENTION), ("mlp", MLP)):
            values = curve[name][1:]
            smooth = [fmean(values[i : i + width]) for i in range(len(values) - width + 1)]
            axis.plot(
                [i + width / 2 for i in range(len(smooth))],
                smooth,
                color=color,
                label={"attn": "attention", "mlp": "MLP"}[name],
            )
        axis.set(xlabel="position", title=f"SmolLM2, T = {target:.0%}")
    axes[0].set_ylabel("execution rate")
    axes[0].legend(frameon=False)
    return figure


def learning_curves(plt, results):
    """What the committed routers learned with how many tokens."""
    figure, axis = plt.subplots(figsize=(5.4, 3.2))
    curves = results["tier_b/curves"]
    for target, color in zip(TARGETS, (ATTENTION, MLP)):
        rows = curves[f"{target:.2f}"]
        axis.plot(
            [r["tokens"] / 1e3 for r in rows],
            [r["train_ce"] for r in rows],
            color=color,
            label=f"T = {target:.0%}, sampled, training text",
        )
        axis.plot(
            [r["tokens"] / 1e3 for r in rows],
            [r["validation_ce"] for r in rows],
            color=color,
            ls="--",
            label=f"T = {target:.0%}, argmax as it stands, validation",
        )
    axis.set(
        xlabel="thousand tokens",
        ylabel="cross-entropy, nats",
        title="Router tuning of SmolLM2-135M-Instruct",
    )
    found = ROUTERS / "crossing-t25.json"
    if found.exists():
        rows = json.loads(found.read_text())
        curve = rows["curve"]
        tokens = [r["tokens"] / 1e3 for r in curve]
        axis.plot(tokens, [r["held"] for r in curve], color="black", marker=".", lw=1, label="another run, held at 25 %, validation")
        axis.plot(tokens, [r["matched"] for r in curve], color=GREY, marker=".", lw=1, label="  its rates at random")
        axis.axhline(min(rows["static"].values()), color=GREY, lw=0.6, ls=":", label="  best static plan")
    axis.legend(frameon=False, fontsize=7)
    return figure
