"""The little statistics that a verdict needs: Student's t, the mean of a few runs, a paired
difference, and the sample size that would settle a question.

Every interval here is two-sided, 95 %, from the t distribution with n - 1 degrees of freedom: with
three seeds it is 4.3 standard errors wide on each side, not 1.96. No scipy: records are also
written on machines that have torch and little else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from ..errors import RecordError

MIN_RUNS = 3  # fewer seeds carry no verdict in the small
ITEM_KINDS = ("paired", "clustered", "bootstrap", "sample", "binomial")  # over items, not runs
LARGEST = 1e100  # squares of numbers below it stay finite


def t_quantile(p: float, df: int) -> float:
    """The x with P(T <= x) = p for Student's t with an integer df >= 1 and 0.5 <= p < 1.

    Up to 1,000 degrees of freedom by bisection on the closed form for integer df (Abramowitz and
    Stegun, 26.7.3-4); above, by the first term in 1/df of the expansion around the normal quantile,
    whose error is below 1e-5 there.
    """
    if df < 1 or not 0.5 <= p < 1:
        raise ValueError(f"t_quantile needs df >= 1 and 0.5 <= p < 1, got df={df}, p={p}")
    z = NormalDist().inv_cdf(p)
    if df > 1000:
        return z + (z**3 + z) / (4 * df)
    low, high = 0.0, 1.0
    while _within(high, df) < 2 * p - 1:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < 2 * p - 1 else (low, middle)
    return high


def _within(t: float, df: int) -> float:
    """P(-t < T < t) for integer df: a finite series in the cosine of atan(t / sqrt(df))."""
    angle, odd = math.atan2(t, math.sqrt(df)), df % 2
    cosine = math.cos(angle)
    term = cosine if odd else 1.0
    total = 0.0 if df == 1 else term
    for k in range(2 + odd, df, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def summarize(values: Sequence[float]) -> dict:
    """The mean over independent runs, one value a seed, as the `measured` part of a record.

    Returns value, n_runs, per_seed, stderr (s / sqrt(n), with n - 1 in s), stderr_kind
    "across-seeds" and ci95. One run has no interval: stderr is None and ci95 absent. For "ours
    against theirs, seed by seed", summarise the differences. Raises RecordError when there are no
    values or one is not finite.
    """
    values = [float(v) for v in values]
    if not values:
        raise RecordError("summarize: no values; it needs one finished run at least")
    refuse_unusable(values, "summarize: values")
    return {**_mean(values, "across-seeds"), "n_runs": len(values), "per_seed": values}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict:
    """The mean of ours - theirs, item by item over one and the same set of items.

    Far narrower than the difference of two separate means, because the difficulty of an item
    cancels (Miller 2024). Returns value, n_runs 1, n_items, stderr, stderr_kind "paired", ci95.
    Raises RecordError when the two sides differ in length or are empty.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise RecordError(
            f"paired: both sides need the same items, got {len(ours)} and {len(theirs)}"
        )
    values = [float(a) - float(b) for a, b in zip(ours, theirs)]
    refuse_unusable(values, "paired: differences")
    return {**_mean(values, "paired"), "n_runs": 1, "n_items": len(values)}


def _mean(values: list[float], kind: str) -> dict:
    mean, n = fmean(values), len(values)
    if n == 1:
        return {"value": mean, "stderr": None, "stderr_kind": None}
    stderr = stdev(values) / math.sqrt(n)
    half = t_quantile(0.975, n - 1) * stderr
    ci95 = [mean - half, mean + half]
    return {"value": mean, "stderr": stderr, "stderr_kind": kind, "ci95": ci95}


def refuse_unusable(values: Sequence[float], name: str) -> None:
    """Raises RecordError if a value is NaN, infinite, or too large to square."""
    for i, value in enumerate(values):
        if not abs(value) <= LARGEST:  # also false for NaN
            raise RecordError(f"{name}[{i}] is {value}: a run that diverged has no value to record")


def sample_size(measured: dict) -> int:
    """n behind the standard error: items when it was taken over items, runs otherwise."""
    return measured["n_items"] if over_items(measured) else measured["n_runs"]


def over_items(measured: dict) -> bool:
    return measured.get("stderr_kind") in ITEM_KINDS and bool(measured.get("n_items"))


def interval(measured: dict) -> tuple[float, float] | None:
    """The 95 % interval: ci95 when given, else the t interval of stderr, else None."""
    if measured.get("ci95"):
        return tuple(measured["ci95"])
    if measured.get("stderr") is None or sample_size(measured) < 2:
        return None
    half = t_quantile(0.975, sample_size(measured) - 1) * measured["stderr"]
    return measured["value"] - half, measured["value"] + half


def n_needed(distance: float, stderr: float, n: int) -> int | None:
    """The smallest sample whose half interval is below `distance`, at the spread seen in n values.

    None when no sample below about a million would do; a distance of zero is such a case.
    """
    spread = stderr * math.sqrt(n)
    if distance <= 0 or spread / distance > 500:
        return None
    size = max(MIN_RUNS, math.ceil((1.9599 * spread / distance) ** 2))  # t is larger: starts low
    while t_quantile(0.975, size - 1) * spread / math.sqrt(size) >= distance:
        size += 1
    return size
