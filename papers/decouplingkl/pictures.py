"""The pictures of a run: entropy and length over updates by lambda, accuracy against tokens, and what GRPO makes of the cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

from common.pictures import draw_all
from common.reasoning import planes

from .experiments import chains as small
from .experiments import real as pair
from .experiments import strong as better
from .quantities import Arms, Strong, update_of
from .tables import ARMS

BLUE, RED, GREY, GREEN, PURPLE, GOLD = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#d9a441"
BETWEEN = ("#4f7a80", "#7d6b66", "#a3604f")  # from forward's blue to reverse's red
MARKS = {"start": (GREY, "*"), "SF": (BLUE, "o"), "mix 0.25": (BETWEEN[0], "o"), "mix 0.5": (BETWEEN[1], "o"),
         "mix 0.75": (BETWEEN[2], "o"), "SR": (RED, "o"), "TF": (BLUE, "s"), "TR": (RED, "s"), "short SF": (BLUE, "v"),
         "short SR": (RED, "v"), "short TF": (BLUE, "<"), "short TR": (RED, "<"), "curriculum": (GREEN, "D"), "ladder": (GREEN, "x"),
         "by entropy": (PURPLE, "P"), "SF again": (BLUE, "+"), "shuffled": (GREY, "X")}


def weak(results: dict, size: str, folder: Path) -> list[Path]:
    """Writes the pictures of the experiment; returns the files."""
    return _draw({"mixtures": mixtures, "plane": plane, "compute": compute}, results, small.SIZES[size], folder)


def strong(results: dict, size: str, folder: Path) -> list[Path]:
    return _draw({"strong": cells_and_rl}, results, better.SIZES[size], folder)


def real(results: dict, size: str, folder: Path) -> list[Path]:
    return _draw({"real": cells_of_the_pair}, results, pair.SIZES[size], folder)


def _draw(pictures: dict[str, Callable], results: dict, how, folder: Path) -> list[Path]:
    """pictures {name of the file: picture}. how: the size of the runs. Which seeds there are, the results say."""
    ready = []
    for name, picture in pictures.items():
        ready.append(partial(picture, how=how))
        ready[-1].__name__ = name
    return draw_all(ready, results, folder)


def mixtures(plt, results, how):
    """Entropy, tokens and share at the cap over updates, from forward to reverse KL, and of the short horizon and the curriculum."""
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.4))
    _over_updates(axes, Arms(results), (*small.MIXED, "short SR", "curriculum"), (4, 2, 3))
    axes[0].set(xlabel="updates", ylabel="entropy of a token, nats", ylim=(0, None))
    axes[1].set(xlabel="updates", ylabel="tokens of a response", ylim=(0, small.CAP))
    axes[2].set(xlabel="updates", ylabel=f"responses at the cap of {small.CAP}, %", ylim=(0, 100))
    figure.legend(frameon=False, fontsize=7, ncols=4, loc="outside lower center")
    return figure


def cells_of_the_pair(plt, results, how):
    """The same of the real pair, by cells and lengths, and accuracy over updates."""
    figure, axes = plt.subplots(1, 4, figsize=(12.0, 3.4))
    _over_updates(axes, Arms(results, "real/"), ("SF", "SR", "TF", "TR", "mix 0.25", "short SR", "curriculum"), (4, 2, 3, 1))
    axes[0].set(xlabel="updates", ylabel="entropy of a token, nats", ylim=(0, None))
    axes[1].set(xlabel="updates", ylabel="tokens of a response", ylim=(0, how.cap))
    axes[2].set(xlabel="updates", ylabel=f"responses at the cap of {how.cap}, %", ylim=(0, 100))
    axes[3].set(xlabel="updates", ylabel="right answers, %", ylim=(0, 100))
    figure.legend(frameon=False, fontsize=7, ncols=4, loc="outside lower center")
    return figure


def _over_updates(axes, arms: Arms, names, columns) -> None:
    """A curve an arm, mean over seeds, of each column of the probes, its shares in %."""
    for name in names:
        curves = [arms.run(seed, name)["curve"] for seed in arms.seeds]
        steps, (colour, mark) = [row[0] for row in curves[0]], MARKS[name]
        for axis, column in zip(axes, columns):
            scale = 100 if column in (1, 3) else 1
            axis.plot(steps, [scale * fmean(curve[i][column] for curve in curves) for i in range(len(steps))], color=colour, marker=mark,
                      ms=3, lw=1, ls="--" if name in ("short SR", "curriculum") else "-", label=ARMS[name] if axis is axes[0] else None)
    for axis in axes:
        axis.grid(lw=0.3)


def plane(plt, results, how):
    """Accuracy against tokens of every arm: a small mark a seed, a large one their mean."""
    figure, axis = plt.subplots(figsize=(6.4, 4.6))
    _plane(axis, Arms(results), ("start", *small.ARMS), how.samples)
    figure.legend(frameon=False, fontsize=7, ncols=3, loc="outside lower center")
    return figure


def compute(plt, results, how):
    """Right answers against the FLOPs that were spent until then, cell by cell: where both sources are sampled, and where the teacher's
    trajectories and logits are cached."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6), sharey=True)
    arms = Arms(results)
    for axis, cached in zip(axes, (None, "logits")):
        for name in ("SF", "SR", "TF", "TR"):
            xs, ys = _spent(arms, name, how.prompts, cached if name in ("TF", "TR") else None)
            colour, mark = MARKS[name]
            axis.plot(xs, ys, color=colour, marker=mark, ms=4, lw=1, ls="-" if name in ("SF", "SR") else "--",
                      label=ARMS[name] if axis is axes[0] else None)
        axis.set(xlabel="GFLOP spent", xlim=(0, None), ylim=(0, None))
        axis.set_title("every response is sampled" if cached is None else "the teacher's text and logits are cached", fontsize=9)
        axis.grid(lw=0.3)
    axes[0].set_ylabel(f"Avg@{how.probed} on validation problems, %")
    figure.legend(frameon=False, fontsize=7, ncols=4, loc="outside lower center")
    return figure


def _spent(arms: Arms, name: str, prompts: int, cached: str | None) -> tuple[list[float], list[float]]:
    """(GFLOP until each probe, Avg in % there), means over seeds: every update's at its own responses' mean length."""
    xs, ys = [], []
    for seed in arms.seeds:
        run = arms.run(seed, name)
        updates = [prompts * update_of(name, length, cached) / 1e9 for length in run["history"]["length"]]
        xs.append([sum(updates[: int(row[0])]) for row in run["curve"]])
        ys.append([100 * row[1] for row in run["curve"]])
    return [fmean(column) for column in zip(*xs)], [fmean(column) for column in zip(*ys)]


def _plane(axis, arms: Arms, names, samples: int) -> None:
    planes.draw(axis, planes.points({name: [arms.test(seed, name) for seed in arms.seeds] for name in names}), MARKS, ARMS, samples)


def cells_and_rl(plt, results, how):
    """The better student: the plane, and accuracy and entropy before and after GRPO, by the updates of distillation before it."""
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.8))
    arms = Strong(results)
    _plane(axes[0], arms, ("start", *better.ARMS), how.distilled.samples)
    switches = sorted(arms.run(arms.seeds[0], "SF")["rl"], key=int)
    for name in ("start", *better.CELLS):
        for place, switch in enumerate(["0"] if name == "start" else switches):
            runs = [arms.run(seed, name)["rl"] for seed in arms.seeds]
            runs = [run[sorted(run, key=int)[place]] for run in runs]
            at, (colour, mark) = int(switch), MARKS[name]
            for axis, key, scale in zip(axes[1:], ("avg", "entropy"), (100, 1)):
                values = [scale * fmean(run[when][key] for run in runs) for when in ("before", "after")]
                axis.plot([at, at + how.updates], values, color=colour, marker=mark, ms=4, lw=1, ls="-" if place == 0 else "--")
    axes[1].set(xlabel="updates: distillation, then GRPO", ylabel=f"Avg@{how.distilled.samples}, %")
    axes[2].set(xlabel="updates: distillation, then GRPO", ylabel="entropy of a token, nats", ylim=(0, None))
    for axis in axes[1:]:
        axis.grid(lw=0.3)
    figure.legend(frameon=False, fontsize=7, ncols=4, loc="outside lower center")
    return figure
