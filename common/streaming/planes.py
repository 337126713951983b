"""The plane that streaming methods are compared in: quality against latency, drawn by one function for all papers of the family.

A method is a curve, a point for each of its own settings (a wait-k, a threshold): `curve(rows)` reads it from the scores of a run, or the
mean over runs. Up and to the left is better: more of the answer right, less of the source waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

Point = tuple[float, float]  # latency, quality


def curve(runs: Sequence[Sequence[Mapping[str, Any]]], latency: str, quality: str) -> list[Point]:
    """The means over runs of each setting's scores: runs[i][j] are those of run i at setting j. In order of latency.

    Raises ValueError for no run, or runs of different settings.
    """
    if not runs or len({len(run) for run in runs}) > 1:
        raise ValueError(f"plane: runs of {sorted({len(run) for run in runs})} settings; equally many of the same are needed")
    def mean(j: int, of: str) -> float:
        return fmean(float(run[j][of]) for run in runs)

    return sorted((mean(j, latency), mean(j, quality)) for j in range(len(runs[0])))


def draw(axis, curves: Mapping[str, Sequence[Point]], marks: Mapping[str, tuple[str, str]], latency: str, quality: str,
         labels: Mapping[str, str] | None = None) -> None:
    """On a matplotlib axis. marks: {method: (colour, marker)}; labels: {method: its name in the legend}, None: no legend's entries.

    A method of one point is a large mark, one of several a line with a mark each. Raises ValueError for a method without a point.
    """
    for method, found in curves.items():
        if not found:
            raise ValueError(f"plane: {method} has no point")
        colour, mark = marks[method]
        axis.plot(*zip(*found), color=colour, marker=mark, ms=8 if len(found) == 1 else 4, lw=1.2, label=labels[method] if labels else None)
    axis.set(xlabel=latency, ylabel=quality)
    axis.grid(lw=0.3)
