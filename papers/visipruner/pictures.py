"""The pictures of a run: where the picture is needed, what is kept of a scene behind each block, accuracy against visual pairs, time."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from common.pictures import draw_all
from common.seeds import seeds_of

from .quantities import Small

BLUE, RED, GREY, GREEN, PURPLE, GOLD = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#d9a441"
MARKS = {"VisiPruner": (BLUE, "o"), "FastV": (RED, "s"), "PyramidDrop": (GOLD, "^")}
TESTED = {"VisiPruner": (BLUE, "o"), "FastV": (RED, "s"), "PyramidDrop": (GOLD, "^"), "attention at its K": (PURPLE, "D"),
          "lot at its K": (GREY, "x")}
ALONE = {"after": ("zero behind the softmax", BLUE, "o"), "before": ("hidden before it", RED, "s"),
         "merge": ("merged into one token", GREEN, "^")}


def llava(results: dict, size: str, folder: Path) -> list[Path]:
    return draw_all((blocks, kept, trade_off), results, folder)


def speed(results: dict, size: str, folder: Path) -> list[Path]:
    return draw_all((time,), results, folder)


def blocks(plt, results):
    """What is left of the answers without the picture's attention: in one block, in a growing range, or the picture gone."""
    of = Small(results)
    numbers = sorted(results[f"knocked/seed{of.seeds[0]}"]["after"], key=int)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.4), sharey=True)

    def line(axis, job: str, way: tuple[str, ...], label: str, colour: str, mark: str = "o") -> None:
        there = numbers if job == "knocked" else numbers[:-1]
        axis.plot([int(b) for b in there], [fmean(of.at(job, *way, b)) for b in there], color=colour, marker=mark, ms=4, label=label)

    for way, (label, colour, mark) in ALONE.items():
        line(axes[0], "knocked", (way,), label, colour, mark)
    line(axes[1], "knocked", ("up to",), "this block and all before", PURPLE)
    line(axes[1], "knocked", ("from",), "this block and all behind", GOLD)
    line(axes[2], "looked", ("exit",), "picture gone behind the block", GREY, "v")
    for score, colour in (("value", BLUE), ("attention", PURPLE), ("lot", GOLD)):
        line(axes[2], "looked", ("kept", score), f"16 of 64 kept behind it, by {score}", colour)
    dense = fmean(of.at("knocked", "dense"))
    for axis, title in zip(axes, ("one block without the picture", "a range without the picture", "tokens leave")):
        axis.axhline(dense, color="#222222", lw=0.8, ls=":")
        axis.set(title=title, xlabel="block", ylim=(0, 102))
        axis.legend(frameon=False, fontsize=7, loc="lower right")
        axis.grid(lw=0.3)
    axes[0].set_ylabel("open questions right, %")
    return figure


def kept(plt, results):
    """The first question of each model whose tokens were filtered, on its picture: what stays, block by block."""
    seeds = [seed for seed in seeds_of(results, "pruned") if results[f"pruned/seed{seed}"].get("shown")]
    if not seeds:
        return None
    from .look import draw

    shown = results[f"pruned/seed{seeds[0]}"]["shown"]
    return draw(plt, _scene(shown["picture"]), shown["stages"], 8, f"{shown['text']}   answer: {shown['answer']}")


def _scene(number: int):
    from common.data import scenes

    return scenes.scene(number, "test").image()


def trade_off(plt, results):
    """Accuracy against visual pairs: curves by setting on the pictures that were looked at, and the test's own arms."""
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.6), sharey=True)
    of = Small(results)
    rows = [results[f"pruned/seed{seed}"] for seed in of.seeds]
    for name, (colour, mark) in MARKS.items():
        curves = [row["curve"][name] for row in rows]
        for curve in curves:
            axes[0].plot(*zip(*[(100 * p, 100 * a) for p, a in curve]), color=colour, marker=mark, ms=2, lw=0, alpha=0.5)
        mean = [(100 * fmean(c[i][0] for c in curves), 100 * fmean(c[i][1] for c in curves)) for i in range(len(curves[0]))]
        axes[0].plot(*zip(*sorted(mean)), color=colour, marker=mark, ms=5, label=name)
    for name, (colour, mark) in TESTED.items():
        pairs = [100 * row["pairs"][name] for row in rows]
        right = [100 * row["test"][name].count("1") / len(row["test"][name]) for row in rows]
        axes[1].plot(pairs, right, color=colour, marker=mark, ms=3, lw=0, alpha=0.6)
        axes[1].plot(fmean(pairs), fmean(right), color=colour, marker=mark, ms=7, lw=0, label=name)
    for axis, title in zip(axes, ("by setting", "settings chosen on validation pictures")):
        axis.axhline(fmean(of.at("pruned", "test", "dense")), color="#222222", lw=0.8, ls=":")
        axis.set(title=title, xlabel="visual pairs left, %", xlim=(0, 100))
        axis.legend(frameon=False, fontsize=7, loc="lower right")
        axis.grid(lw=0.3)
    axes[0].set_ylabel("open questions right, %")
    return figure


def time(plt, results):
    """Milliseconds of a prefill, every round of every process."""
    found = [results[name] for name in sorted(results) if name.startswith("speed/process")]
    figure, axis = plt.subplots(figsize=(5.6, 2.8))
    for i, name in enumerate(found[0]["times"]):
        times = [1000 * t for of in found for t in of["times"][name]]
        axis.plot(times, [i] * len(times), "|", color=BLUE, ms=9)
        axis.plot([fmean(times)], [i], "o", color=RED, ms=4)
    axis.set_yticks(range(len(found[0]["times"])), list(found[0]["times"]))
    axis.set(xlabel="milliseconds", xlim=(0, None))
    axis.invert_yaxis()
    return figure
