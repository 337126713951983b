"""Quantities at the paper's own size, of the runs of configs/cuda that are there, called as their configs: {claim: measured}.

A claim without one of its runs, or without one of the six tasks, stays not-run. As in quantities.py no number here judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from statistics import fmean

from common.claims.intervals import point

from . import reported

FOUR, SMALL = "qwen3-4b", "qwen3-1.7b"


def better(ours: dict, theirs: dict) -> float:
    """Right answers, in points."""
    return 100 * (ours["right"] - theirs["right"])


def moved(ours: dict, theirs: dict) -> float:
    return abs(better(ours, theirs))


def sooner(ours: dict, theirs: dict, way: str = "batch") -> float:
    """By how much streaming answers sooner than the other does under a way to work, in %."""
    return 100 * (1 - ours["delay"]["streaming"] / theirs["delay"][way])


def begun(ours: dict, _: dict) -> float:
    """Input tokens that need not be waited for, in %."""
    return 100 * (1 - ours["waited"] / ours["heard"])


def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    runs = results["paper"]

    def over(name: str, quantity: Callable[[dict, dict], float], than: str = f"{FOUR}_original",
             join: Callable[[Iterable[float]], float] = fmean) -> dict | None:
        """The quantity of a run and another, a mean over tasks."""
        ours, theirs = (runs.get(run, {}).get("by", {}) for run in (name, than))
        if not all(task in by for task in reported.KEYS for by in (ours, theirs)):
            return None
        by_task = {task: quantity(ours[task], theirs[task]) for task in reported.KEYS}
        return point(join(by_task.values()), baselines=by_task)

    def positions(depth: int) -> dict | None:
        """Points that restarting positions change in batch mode, on the task where they change most."""
        return over(f"{FOUR}_batch-spe_d{depth}", moved, f"{FOUR}_batch_d{depth}", max)

    def largest(*found: dict | None) -> dict | None:
        known = [one for one in found if one]
        return max(known, key=lambda one: one["value"]) if len(known) == len(found) else None

    def on_hotpot(name: str, than: str) -> dict | None:
        """Tokens of a run on HotpotQA against another's, in %."""
        ours, theirs = (runs.get(run, {}).get("by", {}).get("hotpotqa") for run in (name, than))
        return point(100 * ours["tokens"] / theirs["tokens"]) if ours and theirs else None

    first, last = f"{FOUR}_streaming_d3", f"{FOUR}_streaming-context_d3"
    clocked = runs.get(first, {}).get("clock") or {}
    found = {"C1": over(first, better), "C1q": over(first, better, f"{FOUR}_batch_d3"),
             "C1t": over(first, better, f"{FOUR}_batch-sft"), "C2": over(first, begun), "C3": over(first, sooner),
             "C4p": over(f"{FOUR}_batch_d2", better, f"{FOUR}_batch_d1"), "C4q": over(f"{SMALL}_batch_d2", better, f"{SMALL}_batch_d1"),
             "C5p": positions(2), "C5q": largest(positions(1), positions(3)),
             "C7p": over(first, partial(sooner, way="blocking"), f"{FOUR}_interleaved_d3"),
             "C7q": over(first, better, f"{FOUR}_interleaved_d3"), "C8": over(last, better, f"{FOUR}_original-context"),
             "C9": point(clocked["first"], baselines={"delay, s": clocked["delay"]}) if clocked else None,
             "C10p": point(1000 * clocked["join"]) if "join" in clocked else None,
             "C10m": point(clocked["peak"]) if clocked.get("peak") else None,
             "C11p": on_hotpot(f"{FOUR}_streaming_d1", f"{FOUR}_streaming-context_d1")}
    return {name: measured for name, measured in found.items() if measured is not None}
