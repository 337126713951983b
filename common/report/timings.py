"""Timings of a paper, from its committed results/measurements.*.json, with the least time that the arithmetic takes.

A document of timings is, anywhere in the file, {"device", "dtype", "cases": {case: {"variants": {variant: {"times"}}}}}:
seconds of every round, all variants of a case taken in turns in one process; "device" and "dtype" may stand under
"settings". "flops" (or "expected_flops") of a variant and "steps" of a case, by which both are divided, may be given;
"modes" and "seconds" are read like "variants" and "times".

What a variant is held against is the time that its arithmetic alone would take: at the data-sheet peak of a device that
is known, else at the highest rate that any variant of the same case reached. Memory traffic is not in the documents, so
this is a limit from below, and a decoding step of a large model cannot come near it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Variant:
    """Seconds of every round, and the floating-point operations of one."""

    name: str
    seconds: tuple[float, ...]
    flops: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float | None:
        return self.flops / self.median if self.flops else None


@dataclass(frozen=True)
class Case:
    """What was timed in turns: variants that do the same work."""

    name: str
    source: str
    device: str
    dtype: str
    load_average: float | None
    variants: tuple[Variant, ...]

    def limit(self, variant: Variant) -> float | None:
        """Seconds that the arithmetic of a variant takes at best; None if it was not counted."""
        if not variant.flops:
            return None
        if peak := _peak(self.device, self.dtype):
            from ..flops import roofline_seconds

            return roofline_seconds(variant.flops, 0.0, peak)
        return variant.flops / max(v.rate for v in self.variants if v.rate)

    @property
    def limit_text(self) -> str:
        if _peak(self.device, self.dtype):
            return f"the data-sheet peak of {self.device}"
        return "the highest rate that any of these reached"


def _peak(device: str, dtype: str):
    """The data-sheet limits, of bf16, or None. Asks common.flops, which imports torch, for a GPU only."""
    if device.startswith("cpu") or dtype != "bfloat16":
        return None
    from ..flops import PEAKS

    return PEAKS.get(device)


def timed_cases(results: Path) -> tuple[list[Case], list[str]]:
    """(all cases of a results folder, what is wrong with files that could not be read)."""
    cases: list[Case] = []
    problems: list[str] = []
    for path in sorted(results.glob("measurements.*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{path.name}: not valid JSON: {error}")
            continue
        for document in _documents(content):
            cases += _cases(document, path.name)
    return cases, problems


def _documents(value) -> Iterator[dict]:
    if isinstance(value, dict):
        if isinstance(value.get("cases"), dict):
            yield value
        else:
            for inner in value.values():
                yield from _documents(inner)


def _cases(document: dict, source: str) -> Iterator[Case]:
    settings = document.get("settings")
    about = {**(settings if isinstance(settings, dict) else {}), **document}
    for name, case in document["cases"].items():
        if not isinstance(case, dict):
            continue
        rows = case.get("variants", case.get("modes"))
        steps = case["steps"] if _positive(case.get("steps")) else 1
        variants = tuple(_variants(rows if isinstance(rows, dict) else {}, steps))
        if variants:
            load = case.get("load_average")
            shape = about.get("shape")
            label = f"{shape}, {name}" if isinstance(shape, str) else str(name)
            device, dtype = str(about.get("device", "")), str(about.get("dtype", ""))
            yield Case(label, source, device, dtype, load if _positive(load) else None, variants)


def _variants(rows: dict, steps: float) -> Iterator[Variant]:
    for name, row in rows.items():
        times = row.get("times", row.get("seconds")) if isinstance(row, dict) else None
        if isinstance(times, list) and times and all(map(_positive, times)):
            flops = row.get("flops", row.get("expected_flops"))
            yield Variant(name, tuple(t / steps for t in times), flops / steps if _positive(flops) else None)


def _positive(x) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and x > 0
