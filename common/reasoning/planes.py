"""The plane that methods of reasoning are compared in: accuracy against tokens of a response, drawn by one function for all papers.

A method is a list of points, one a training: `points({"SFT": runs, ...})` reads them from results, `draw` puts a small mark for
each training and a large one for their mean, `panels` draws a plane a benchmark side by side. Up and to the left is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

Point = tuple[float, float]  # tokens of a response, Avg@N in %
TICKS = (12, 16, 20, 30, 40, 60, 80, 120, 160, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000)


def points(tests: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, list[Point]]:
    """{method: [(tokens, accuracy in %)]} of {method: scores of each training, with "tokens" and "avg" (a share)}."""
    return {method: [(float(test["tokens"]), 100 * float(test["avg"])) for test in found] for method, found in tests.items()}


def draw(axis, methods: Mapping[str, Sequence[Point]], marks: Mapping[str, tuple[str, str]], labels: Mapping[str, str] | None = None,
         samples: int | None = None) -> None:
    """On a matplotlib axis. marks: {method: (colour, marker)}; labels: {method: its name in the legend}, None: no legend's entries.

    Tokens are on a logarithmic scale, whose ticks are those of TICKS that lie among the points. Raises ValueError for a method
    without a point, KeyError for one without a mark.
    """
    for method, found in methods.items():
        if not found:
            raise ValueError(f"plane: {method} has no point")
        colour, mark = marks[method]
        axis.scatter(*zip(*found), color=colour, marker=mark, s=12, alpha=0.45)
        axis.scatter([fmean(x for x, _ in found)], [fmean(y for _, y in found)], color=colour, marker=mark, s=60,
                     label=labels[method] if labels else None)
    lengths = [x for found in methods.values() for x, _ in found]
    ticks = [t for t in TICKS if 0.8 * min(lengths) <= t <= 1.25 * max(lengths)]
    axis.set(xlabel="tokens of a response", ylabel=f"Avg@{samples}, %" if samples else "accuracy, %", xscale="log")
    axis.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axis.minorticks_off()
    axis.grid(lw=0.3)


def panels(plt, benchmarks: Mapping[str, Mapping[str, Sequence[Point]]], marks: Mapping[str, tuple[str, str]], labels: Mapping[str, str],
           samples: int | None = None, columns: int = 3):
    """A figure with a plane for each {title: methods}, `columns` in a row, and one legend below. Raises ValueError without a benchmark;
    other errors are those of `draw`."""
    if not benchmarks:
        raise ValueError("panels: no benchmark to draw")
    lines = -(-len(benchmarks) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.2 * columns, 2.9 * lines), squeeze=False)
    for place, (axis, (title, methods)) in enumerate(zip(axes.flat, benchmarks.items())):
        draw(axis, methods, marks, labels if place == 0 else None, samples)
        axis.set_title(title, fontsize=9)
        if place % columns:
            axis.set_ylabel("")
    for axis in list(axes.flat)[len(benchmarks) :]:
        axis.set_visible(False)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), frameon=False, fontsize=7, ncols=4, loc="outside lower center")
    return figure
