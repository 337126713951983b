"""The pictures of a run: how similar layers are, and what each layer and set knows."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from common.pictures import draw_all

from .quantities import Probes

BLUE, RED, GREY, GREEN, PURPLE, GOLD = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#d9a441"
COLOURS = {"digit": RED, "tens": GOLD, "shade": BLUE, "color": GREEN, "shape": PURPLE, "dy": GREY, "count": "#222222"}
SHOWN = ("default", "single", "double", "triple", "medoids", "first region", "middle region", "late region", "last region", "former",
         "latter", "all")


def probes(results: dict, size: str, folder: Path) -> list[Path]:
    return draw_all((layers, sets), results, folder)


def stages(results: dict, size: str, folder: Path) -> list[Path]:
    return draw_all((similarity,), results, folder)


def layers(plt, results):
    """What a single layer knows, by kind of question, on easy and on hard scenes."""
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.4), sharey=True)
    for axis, look in zip(axes, ("easy", "hard")):
        rows = Probes(results, look).rows
        for kind in rows[0]["chance"]:
            numbers = sorted(map(int, rows[0]["layers"]))
            values = [100 * fmean(r["layers"][str(k)][kind] for r in rows) for k in numbers]
            axis.plot(numbers, values, color=COLOURS[kind], marker="o", ms=3, label=kind)
        axis.set(title=f"{look} scenes", xlabel="layer of DINOv2-S", ylim=(0, 103))
        axis.legend(frameon=False, fontsize=7, loc="lower left")
        axis.grid(lw=0.3)
    axes[0].set_ylabel("probe right, %")
    return figure


def sets(plt, results):
    """Digits by layer sets, seed by seed."""
    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    for shift, (look, colour) in enumerate((("easy", BLUE), ("hard", RED))):
        rows = Probes(results, look).rows
        for place, name in enumerate(SHOWN):
            values = [100 * r["sets"][name]["digit"] for r in rows]
            axis.plot(values, [place + 0.2 * shift] * len(values), "|", color=colour, ms=8)
            axis.plot([fmean(values)], [place + 0.2 * shift], "o", color=colour, ms=4, label=f"{look} scenes" if not place else None)
    axis.set_yticks(range(len(SHOWN)), SHOWN)
    axis.invert_yaxis()
    axis.set(xlabel="digits read by a probe, %")
    axis.legend(frameon=False, fontsize=7)
    axis.grid(lw=0.3, axis="x")
    return figure


def similarity(plt, results):
    """Mean cosine between layers, with the stages' edges, of the pretrained and of a random tower."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.4))
    for axis, weights in zip(axes, ("pretrained", "random")):
        of = results[f"stages/{weights}"]
        n = len(of["similarity"])
        axis.imshow(of["similarity"], vmin=0, vmax=1, cmap="viridis", extent=(0.5, n + 0.5, n + 0.5, 0.5))
        for cut in of["cuts"]:
            axis.axvline(cut + 0.5, color="white", lw=1)
            axis.axhline(cut + 0.5, color="white", lw=1)
        axis.set(title=f"{weights} weights", xlabel="layer", ylabel="layer")
    return figure
