"""The pictures of a run: what each arm gets right by depth, and where its delay comes from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean

from common.pictures import draw_all

from .quantities import Arms
from .tables import NAMES

COLOURS = {"start": "#888888", "batch": "#1f6f8b", "batch own": "#0b3c4d", "batch spe": "#5b9bb5", "streaming": "#c8553d",
           "streaming far": "#d9a441", "interleaved": "#5b8c5a"}


def arms(results: dict, size: str, folder: Path) -> list[Path]:
    """Writes the pictures of the experiment; returns the files."""
    ready = [partial(depths)]
    ready[0].__name__ = "depths"
    return draw_all(ready, results, folder)


def depths(plt, results):
    """Answers right at D1, D2, D3, and units right by the sentence's place."""
    of = Arms(results)
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6))
    for name, colour in COLOURS.items():
        if not of.has(name):
            continue
        axes[0].plot((1, 2, 3), [fmean(of.right(seed, name, f"D{d}") for seed in of.seeds) for d in (1, 2, 3)], color=colour, marker="o",
                     ms=4, lw=1, label=NAMES[name])
        places = [of.run(seed, name)["places"] for seed in of.seeds]
        n = min(map(len, places))
        axes[1].plot(range(n), [100 * fmean(p[i][0] / max(p[i][1], 1) for p in places) for i in range(n)], color=colour, marker="o", ms=3,
                     lw=1)
    axes[0].set(xlabel="depth", ylabel="answers right, %", xticks=(1, 2, 3), ylim=(0, 100))
    axes[1].set(xlabel="sentence (0: the question)", ylabel="units right, %", ylim=(0, 100))
    for axis in axes:
        axis.grid(lw=0.3)
    figure.legend(frameon=False, fontsize=7, ncols=3, loc="outside lower center")
    return figure
