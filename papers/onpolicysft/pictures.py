"""The pictures of a run: accuracy against tokens, how they change over updates, budgets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

from common.pictures import draw_all
from common.seeds import seeds_of

from .experiments import chains as small
from .experiments import sums as real
from .tables import ARMS, SUMS

BLUE, RED, GREY, GREEN, PURPLE, GOLD = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#d9a441"
MARKS = {"base": (GREY, "*"), "opsft": (BLUE, "o"), "by lot": (GREY, "x"), "best of n": (GREEN, "v"), "fixed data": (RED, "s"),
         "grpo": (GOLD, "o"), "grpo, length": (GOLD, "^"), "T 0.6": (PURPLE, "v"), "T 1.5": (PURPLE, "^"), "seq": (PURPLE, "D"),
         "G 4": (BLUE, "v"), "L 24": (BLUE, "^"), "again": (BLUE, "+"), "G 4, as many": (BLUE, "<"), "opsft, 1e-5": (GREEN, "o"),
         "fixed data, 1e-5": (RED, "D"), "grpo, 1e-5": (GOLD, "D")}


def chains(results: dict, size: str, folder: Path) -> list[Path]:
    """Writes the pictures of the experiment; returns the files."""
    return _draw({"plane": plane, "updates": updates, "budgets": budgets}, results, small.SIZES[size], folder)


def sums(results: dict, size: str, folder: Path) -> list[Path]:
    return _draw({"sums": before_and_after}, results, real.SIZES[size], folder)


def _draw(pictures: dict[str, Callable], results: dict, how, folder: Path) -> list[Path]:
    """pictures {name of the file: picture}. how: the size of the runs. Which seeds there are, the results say."""
    ready = []
    for name, picture in pictures.items():
        ready.append(partial(picture, how=how))
        ready[-1].__name__ = name
    return draw_all(ready, results, folder)


def before_and_after(plt, results, how):
    """The real model: what is sampled in each update, and accuracy against tokens before and after."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.2))
    seeds = seeds_of(results, "sums/opsft")
    arms = [arm for arm in SUMS if f"sums/{arm}/seed{seeds[0]}" in results]  # older runs have fewer
    for arm in (a for a in arms if a != "base"):
        histories = [results[f"sums/{arm}/seed{s}"]["history"] for s in seeds]
        axes[0].plot([fmean(h[i]["length"] for h in histories) for i in range(len(histories[0]))], color=MARKS[arm][0], lw=1,
                     label=SUMS[arm])
    for arm in arms:
        tests = [results[f"sums/{arm}/seed{s}"]["test"] for s in seeds]
        axes[1].scatter([t["tokens"] for t in tests], [100 * t["avg"] for t in tests], color=MARKS[arm][0], marker=MARKS[arm][1], s=30,
                        label=SUMS[arm])
    axes[1].axvline(results["sums/base/seed0"]["test"]["needed"], color=GREY, lw=0.8, ls=":")
    axes[0].set(xlabel="updates", ylabel="tokens of a rollout (cut at 40)")
    axes[1].set(xlabel="tokens of a response (dotted: what the steps need)", ylabel=f"Avg@{how.samples}, %", xlim=(0, None))
    for axis in axes:
        axis.grid(lw=0.3)
    axes[1].legend(frameon=False, fontsize=7)
    return figure


def plane(plt, results, how):
    """Accuracy against tokens: a small mark a seed, a large one their mean. On the right the crowded corner, larger."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 4.2))
    for arm in ARMS:
        color, mark = MARKS[arm]
        points = [(results[f"{arm}/seed{s}"]["test"]["tokens"], 100 * results[f"{arm}/seed{s}"]["test"]["avg"])
                  for s in seeds_of(results, arm)]
        for axis in axes:
            axis.scatter(*zip(*points), color=color, marker=mark, s=12, alpha=0.45)
            axis.scatter([fmean(x for x, _ in points)], [fmean(y for _, y in points)], color=color, marker=mark, s=60,
                         label=ARMS[arm] if axis is axes[0] else None)
    axes[0].set(xlabel="tokens of a response", ylabel=f"Avg@{how.samples}, %", xscale="log")
    axes[0].set_xticks([16, 20, 30, 40, 60, 80], ["16", "20", "30", "40", "60", "80"])
    axes[0].minorticks_off()
    axes[1].set(xlabel="tokens of a response", xlim=(15.5, 28), ylim=(75, 100))
    for axis in axes:
        axis.grid(lw=0.3)
    figure.legend(frameon=False, fontsize=7, ncols=3, loc="outside lower center")
    return figure


def updates(plt, results, how):
    """Tokens and accuracy over updates."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.2))
    for arm in small.WATCHED:
        curves = [results[f"{arm}/seed{s}"]["curve"] for s in seeds_of(results, arm)]
        steps = [p[0] for p in curves[0]]
        for axis, column, scale in zip(axes, (2, 1), (1, 100)):
            axis.plot(steps, [scale * fmean(c[i][column] for c in curves) for i in range(len(steps))], color=MARKS[arm][0],
                      marker=MARKS[arm][1], ms=3, lw=1, label=ARMS[arm])
    axes[0].set(xlabel="updates", ylabel="tokens of a response", yscale="log")
    axes[0].set_yticks([16, 20, 30, 40, 60], ["16", "20", "30", "40", "60"])
    axes[0].minorticks_off()
    axes[1].set(xlabel="updates", ylabel=f"Avg@{how.samples}, %")
    for axis in axes:
        axis.grid(lw=0.3)
    axes[0].legend(frameon=False, fontsize=6.5)
    return figure


def budgets(plt, results, how):
    """Accuracy of responses that are cut."""
    figure, axis = plt.subplots(figsize=(5.2, 3.2))
    for arm in ("base", "opsft"):
        cuts = [results[f"{arm}/seed{s}"]["budgets"] for s in seeds_of(results, arm)]
        axis.plot([b for b, _ in cuts[0]], [100 * fmean(c[i][1] for c in cuts) for i in range(len(cuts[0]))], color=MARKS[arm][0],
                  marker=MARKS[arm][1], label=ARMS[arm])
    axis.set(xlabel="tokens after which a response is cut", ylabel=f"Avg@{how.samples}, %", xscale="log")
    axis.grid(lw=0.3)
    axis.legend(frameon=False, fontsize=7)
    return figure
