"""The pictures of a run: accuracy against tokens, how they change over updates, budgets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

from common.pictures import draw_all
from common.reasoning import planes
from common.seeds import seeds_of

from .experiments import chains as small
from .experiments import five as tasks
from .experiments import sums as real
from .tables import ARMS, FIVE, SUMS

BLUE, RED, GREY, GREEN, PURPLE, GOLD = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#d9a441"
MARKS = {"base": (GREY, "*"), "opsft": (BLUE, "o"), "by lot": (GREY, "x"), "best of n": (GREEN, "v"), "fixed data": (RED, "s"),
         "grpo": (GOLD, "o"), "grpo, length": (GOLD, "^"), "T 0.6": (PURPLE, "v"), "T 1.5": (PURPLE, "^"), "seq": (PURPLE, "D"),
         "G 4": (BLUE, "v"), "L 24": (BLUE, "^"), "again": (BLUE, "+"), "G 4, as many": (BLUE, "<")}


def chains(results: dict, size: str, folder: Path) -> list[Path]:
    """Writes the pictures of the experiment; returns the files."""
    return _draw({"plane": plane, "updates": updates, "budgets": budgets}, results, small.SIZES[size], folder)


def sums(results: dict, size: str, folder: Path) -> list[Path]:
    return _draw({"sums": before_and_after}, results, real.SIZES[size], folder)


def five(results: dict, size: str, folder: Path) -> list[Path]:
    return _draw({"five": five_planes}, results, tasks.SIZES[size], folder)


def _draw(pictures: dict[str, Callable], results: dict, how, folder: Path) -> list[Path]:
    """pictures {name of the file: picture}. how: the size of the runs. Which seeds there are, the results say."""
    ready = []
    for name, picture in pictures.items():
        ready.append(partial(picture, how=how))
        ready[-1].__name__ = name
    return draw_all(ready, results, folder)


def before_and_after(plt, results, how):
    """The real model: tokens over updates, and accuracy against tokens before and after."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.2))
    seeds = seeds_of(results, "sums/opsft")
    for arm in real.WATCHED:
        curves = [results[f"sums/{arm}/seed{s}"]["curve"] for s in seeds]
        means = [fmean(c[i][2] for c in curves) for i in range(len(curves[0]))]
        dash = "--" if arm == "grpo" else "-"
        axes[0].plot([point[0] for point in curves[0]], means, color=MARKS[arm][0], lw=1, ls=dash, label=SUMS[arm])
    for arm in SUMS:
        tests = [results[f"sums/{arm}/seed{s}"]["test"] for s in seeds]
        axes[1].scatter([t["tokens"] for t in tests], [100 * t["avg"] for t in tests], color=MARKS[arm][0], marker=MARKS[arm][1], s=30,
                        label=SUMS[arm])
    axes[1].axvline(results[f"sums/base/seed{seeds[0]}"]["test"]["needed"], color=GREY, lw=0.8, ls=":")
    axes[0].set(xlabel="updates", ylabel="tokens of a response, validation", ylim=(0, None))
    axes[1].set(xlabel="tokens of a response (dotted: what the steps need)", ylabel=f"Avg@{how.samples}, %", xlim=(0, None))
    for axis in axes:
        axis.grid(lw=0.3)
    axes[1].legend(frameon=False, fontsize=7)
    return figure


def five_planes(plt, results, how):
    """A plane a task, and their mean: every task counts once."""
    tests = {arm: [results[f"five/{arm}/seed{s}"]["test"]["by_kind"] for s in seeds_of(results, f"five/{arm}")] for arm in FIVE}
    names = sorted(tests["base"][0])
    benchmarks = {name.replace("_", " "): planes.points({arm: [by_task[name] for by_task in found] for arm, found in tests.items()})
                  for name in names}
    means = {arm: [{key: fmean(by_task[name][key] for name in names) for key in ("tokens", "avg")} for by_task in found]
             for arm, found in tests.items()}
    return planes.panels(plt, benchmarks | {"mean of the five": planes.points(means)}, MARKS, FIVE, how.samples)


def plane(plt, results, how):
    """Accuracy against tokens: a small mark a seed, a large one their mean. On the right the crowded corner, larger."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 4.2))
    methods = planes.points({arm: [results[f"{arm}/seed{s}"]["test"] for s in seeds_of(results, arm)] for arm in ARMS})
    planes.draw(axes[0], methods, MARKS, ARMS, how.samples)
    planes.draw(axes[1], methods, MARKS)
    corner = (16, 20, 24, 28)
    axes[1].set_xticks(corner, [str(tokens) for tokens in corner])
    axes[1].set(ylabel="", xlim=(15.5, 28), ylim=(75, 100))
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
