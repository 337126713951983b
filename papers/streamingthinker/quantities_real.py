"""Quantities of real questions: those that align, the adapters that answer them, and the clock beside them. As quantities.py, whose file
they would not fit: results of jobs -> {claim: measured}, and no number here judges.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import fmean

from common.claims.intervals import paired, summarize
from common.seeds import seeds_of

from .quantities import claim

WAYS = ("batch", "interleaved", "streaming")


def aligned(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Questions that can be aligned, clustered by template."""
    of = results["aligned"]
    none = [0.0] * len(of["survives"])

    def shared(name: str) -> dict:
        return paired([100.0 * one for one in of[name]], none, of["templates"])

    return {"C18a": shared("survives") | {"placebo": shared("swapped"), "baselines": of["reasons"] | {
        "units skipped, %": 100 * of["skipped"]}}}


class Adapters:
    """Results of the adapters by seed; "untuned" is one run for all seeds."""

    def __init__(self, results: dict):
        self.results, self.seeds = results, seeds_of(results, "symbolic/batch")

    def run(self, seed: int, way: str, told: str) -> dict:
        return self.results["symbolic/untuned" if way == "untuned" else f"symbolic/{way}/seed{seed}"][told]

    def right(self, seed: int, way: str, told: str) -> float:
        """Right answers, in %."""
        return 100 * fmean(self.run(seed, way, told)["correct"])

    def thoughts(self, seed: int, way: str, told: str) -> float:
        """Thoughts right word for word, in %; neither the question's nor those that skip."""
        right, of = self.run(seed, way, told)["thoughts"]
        return 100 * right / of

    def over(self, seed: int, way: str, quantity: Callable[[int, str, str], float], told: str) -> float:
        """Points over batch."""
        return quantity(seed, way, told) - quantity(seed, "batch", told)

    def sooner(self, seed: int, way_delay: tuple[str, str]) -> float:
        """By how much the answer of an arm comes sooner than that of batch, in %, each on its own traces and in its own way to work."""
        way, delay = way_delay
        return 100 * (1 - self.run(seed, way, "new")["delay"][delay] / self.run(seed, "batch", "new")["delay"]["batch"])

    def shown(self, quantity: Callable[[int, str, str], float], told: str) -> dict[str, float]:
        return {way: fmean(quantity(seed, way, told) for seed in self.seeds) for way in ("untuned", *WAYS)}


def symbolic(results: dict, size: str = "cpu") -> dict[str, dict]:
    of = Adapters(results)
    first = of.run(of.seeds[0], "batch", "new")
    item = {told: 100 / len(of.run(of.seeds[0], "batch", told)["correct"]) for told in ("new", "known")}

    def points(quantity: Callable, told: str, resolution: float) -> dict:
        return claim(of.seeds, partial(of.over, quantity=quantity, told=told), "streaming", "untuned", resolution, of.shown(quantity, told))

    asked = results["symbolic/asked"]["new"]

    def waited(name: str) -> dict:
        return paired(asked[name], [0.0] * len(asked[name]), asked["templates"])

    by_way = {"streaming": "streaming", "interleaved, blocking": "blocking", "interleaved, buffered": "buffered"}
    return {
        "C18s": points(of.right, "new", item["new"]), "C18n": points(of.right, "known", item["known"]),
        "C18u": points(of.thoughts, "new", 100 / first["thoughts"][1]),
        "C18d": claim(of.seeds, of.sooner, ("streaming", "streaming"), ("interleaved", "blocking"), 0.1, {
            name: fmean(of.sooner(seed, (name.partition(",")[0], way)) for seed in of.seeds) for name, way in by_way.items()}),
        "C18w": waited("waited") | {"placebo": waited("half")},
    }


def paced(results: dict, size: str = "cpu") -> dict[str, dict]:
    """By the clock, a value a process."""
    rows = [row for name, row in results.items() if name.startswith("paced/")]

    def over_rows(of: Callable[[dict], float]) -> dict:
        return summarize([of(row) for row in rows], 0.1, "processes")

    slowest = max(row["batch"] for row in rows)  # of batch itself: what processes and their questions alone differ by
    shown = {f"{name}, s": fmean(row[name] for row in rows) for name in ("streaming", "predicted", "batch")}
    return {
        "C18c": over_rows(lambda row: 100 * (1 - row["streaming"] / row["batch"])) | {
            "placebo": over_rows(lambda row: 100 * (1 - row["batch"] / slowest)), "baselines": shown},
        "C18e": over_rows(lambda row: 100 * (row["streaming"] / row["predicted"] - 1)) | {
            "sensitivity": over_rows(lambda row: 100 * (row["batch"] / row["predicted"] - 1)), "baselines": shown},
    }
