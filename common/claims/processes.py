"""Timings as evidence: a process is one value, its rounds say how finely that was read, and of several cases the worst counts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import median, stdev

from .intervals import summarize


def over_processes(rounds: Sequence[Sequence[float]]) -> dict:
    """The median of each process; their mean is no more exact than the rounds within each let one read it. rounds: one list a process.
    Raises RecordError as `summarize`."""
    read = [stdev(of) / len(of) ** 0.5 if len(of) > 1 else 0.0 for of in rounds]
    return summarize([median(of) for of in rounds], sum(error**2 for error in read) ** 0.5 / max(len(rounds), 1), over="processes")


def extreme(cases: Mapping[Hashable, Sequence[Sequence[float]]], pick: Callable = max) -> dict:
    """`over_processes` of the case, of several, whose median is the largest (pick=max) or the smallest in each process: what holds of
    it holds of all. cases {name: one list of rounds a process}, the same processes in each."""
    return over_processes([pick(of, key=median) for of in zip(*cases.values(), strict=True)])
