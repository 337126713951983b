"""The little statistics that a verdict needs: Student's t, the mean of a few runs, a paired difference, with or without
clusters, a share, and the sample size that would settle a question.

Every interval here is two-sided, 95 %, from the t distribution with n - 1 degrees of freedom: with
three seeds it is 4.3 standard errors wide on each side, not 1.96. No interval has width zero: equal
values get the resolution of their measure, or no interval. No scipy: records are also written on
machines that have torch and little else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from ..errors import RecordError

MIN_RUNS = 3  # fewer independent trainings, or processes of a timing, carry no verdict
MIN_ITEMS = 30  # nor do fewer clusters of items
RUN_KINDS = ("seeds", "processes")
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


def p_above(value: float, stderr: float, threshold: float, n: int) -> float:
    """The one-sided p-value of "the mean lies above threshold", by Student's t with n - 1 degrees of freedom."""
    if stderr <= 0 or n < 2:
        raise ValueError(f"p_above needs a standard error above 0 and n >= 2, got {stderr} and {n}")
    t, df = (value - threshold) / stderr, n - 1
    within = _within(abs(t), df) if df <= 1000 else 2 * NormalDist().cdf(abs(t)) - 1
    return (1 - within) / 2 if t > 0 else (1 + within) / 2


def point(value: float, **details) -> dict:
    """The `measured` of a single figure, e.g. a computed one."""
    return {"value": value, "n_runs": 1} | details


def summarize(values: Sequence[float], resolution: float = 0.0, over: str = "seeds") -> dict:
    """The mean over independent runs, one value a run, as the `measured` part of a record.

    over: "seeds" (trainings) or "processes" (of a timing; the rounds within one are its resolution, not its sample).
    resolution: the least that the measure can tell apart, e.g. 1 / items. It is the least standard error: three equal values
    are three measurements to within it. Where it is 0, equal values have no interval.

    Returns value, n_runs, per_seed, stderr (s / sqrt(n), with n - 1 in s), stderr_kind, ci95, and resolution where it was
    given. One run has no interval: stderr is None and ci95 absent. For "ours against theirs, seed by seed", summarise the
    differences. Raises RecordError when there are no values or one is not finite.
    """
    if over not in RUN_KINDS:
        raise ValueError(f"summarize: over {over!r} is neither seeds nor processes")
    values = [float(v) for v in values]
    if not values:
        raise RecordError("summarize: no values; it needs one finished run at least")
    refuse_unusable(values, "summarize: values")
    spread = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    more = {"resolution": resolution} if resolution else {}
    return {**_around(fmean(values), max(spread, resolution), len(values), f"across-{over}"), "n_runs": len(values),
            "per_seed": values, **more}


def paired(ours: Sequence[float], theirs: Sequence[float], clusters: Sequence | None = None) -> dict:
    """The mean of ours - theirs, item by item over one and the same set of items.

    Far narrower than the difference of two separate means, because the difficulty of an item cancels (Miller 2024).
    clusters: of each item a label of what it shares with others (document, picture, problem). The standard error is then
    that of the mean under clustering, sqrt(G / (G - 1) sum_g (sum_i of g (d_i - mean))^2) / n, with G - 1 degrees of freedom.

    Returns value, n_runs 1, n_items, stderr, stderr_kind "paired" or "clustered" (with n_clusters), ci95.
    Raises RecordError when the sides differ in length or are empty.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise RecordError(
            f"paired: both sides need the same items, got {len(ours)} and {len(theirs)}"
        )
    values = [float(a) - float(b) for a, b in zip(ours, theirs)]
    refuse_unusable(values, "paired: differences")
    n, mean = len(values), fmean(values)
    if clusters is None:
        stderr = stdev(values) / math.sqrt(n) if n > 1 else 0.0
        return {**_around(mean, stderr, n, "paired"), "n_runs": 1, "n_items": n}
    if len(clusters) != n:
        raise RecordError(f"paired: {n} items, and clusters for {len(clusters)}")
    sums: dict = {}
    for value, cluster in zip(values, clusters):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    g = len(sums)
    stderr = math.sqrt(g / (g - 1) * sum(s * s for s in sums.values())) / n if g > 1 else 0.0
    return {**_around(mean, stderr, g, "clustered"), "n_runs": 1, "n_items": n, "n_clusters": g}


def share(hits: int, n: int, scale: float = 1.0) -> dict:
    """A share of n items with Wilson's interval, which has a width even at 0 and n. scale: 100 for per cent."""
    if not 0 <= hits <= n or n < 1:
        raise RecordError(f"share: {hits} of {n} items")
    z, p = 1.959964, hits / n
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)  # exactly; rounding leaves a hair
    return {"value": scale * p, "stderr": scale * (high - low) / (2 * z), "stderr_kind": "binomial", "n_runs": 1, "n_items": n,
            "ci95": [scale * low, scale * high]}


def binomial(value: float | None, of: dict) -> float | None:
    """Standard error of a proportion, or of a percentage if the unit says so, over n_items."""
    scale = 100 if of.get("unit") == "%" else 1
    if value is None or not of.get("n_items") or not 0 <= value <= scale:
        return None
    p = value / scale
    return scale * math.sqrt(p * (1 - p) / of["n_items"])


def _around(mean: float, stderr: float, n: int, kind: str) -> dict:
    if n == 1 or stderr <= 1e-12 * abs(mean):  # rounding is no spread
        return {"value": mean, "stderr": None, "stderr_kind": None}
    half = t_quantile(0.975, n - 1) * stderr
    return {"value": mean, "stderr": stderr, "stderr_kind": kind, "ci95": [mean - half, mean + half]}


def refuse_unusable(values: Sequence[float], name: str) -> None:
    """Raises RecordError if a value is NaN, infinite, or too large to square."""
    for i, value in enumerate(values):
        if not abs(value) <= LARGEST:  # also false for NaN
            raise RecordError(f"{name}[{i}] is {value}: a run that diverged has no value to record")


def sample_size(measured: dict) -> int:
    """n behind the standard error: clusters or items when it was taken over these, runs otherwise."""
    return (measured.get("n_clusters") or measured["n_items"]) if over_items(measured) else measured["n_runs"]


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
