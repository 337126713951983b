"""What quantities measured, held against numbers that a test worked out: all of it, so that nothing else may stand there."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import pytest

SUMMARY = {"value", "n_runs", "per_seed", "stderr", "stderr_kind", "ci95", "resolution"}  # common/claims/intervals.summarize
CLOSE = 1e-9


def same(measured: dict, values: Sequence[float], shown: dict | None = None, resolution: float = 0.0, over: str = "seeds",
         **others) -> None:
    """`values`: one a run. shown: {baseline: number, or a number a run, whose mean it is}. others: of a control (placebo,
    sensitivity) its values; anything else as it must be. AssertionError where anything differs, lacks or is too much."""
    shown = {name: fmean(value) if isinstance(value, list | tuple) else value for name, value in (shown or {}).items()}
    of_runs(measured, values, resolution, over)
    assert measured.get("baselines", {}) == pytest.approx(shown, rel=CLOSE), "baselines"
    assert {*measured} - SUMMARY - {"baselines"} == {*others}, "what stands beside"
    for name, value in others.items():
        if name in ("placebo", "sensitivity"):
            of_runs(measured[name], value, resolution, over)
            assert {*measured[name]} <= SUMMARY, name
        else:
            assert measured[name] == pytest.approx(value, rel=CLOSE), name


def of_runs(measured: dict, values: Sequence[float], resolution: float, over: str) -> None:
    assert measured["per_seed"] == pytest.approx(list(values), rel=CLOSE, abs=1e-12)
    assert measured["value"] == pytest.approx(fmean(values), rel=CLOSE, abs=1e-12) and measured["n_runs"] == len(values)
    assert measured["stderr_kind"] == f"across-{over}"
    assert measured.get("resolution", 0.0) == pytest.approx(resolution, rel=CLOSE)


def held(measured: dict, differences: Sequence[float], clusters: Sequence, least: float = 0.0, shown: dict | None = None,
         **controls) -> None:
    """The same of items that share something: their mean, and its error by the sums over clusters, `least` where that is more.
    controls: of each its differences, over the same clusters, or (differences, clusters, least, shown)."""
    n, groups = len(differences), sorted(set(clusters))
    mean = fmean(differences)
    sums = [sum(d - mean for d, c in zip(differences, clusters) if c == group) for group in groups]
    error = max((len(groups) / (len(groups) - 1) * sum(s * s for s in sums)) ** 0.5 / n, least)
    assert measured["value"] == pytest.approx(mean, rel=CLOSE, abs=1e-12)
    assert (measured["n_items"], measured["n_clusters"]) == (n, len(groups))
    assert measured["stderr"] == pytest.approx(error, rel=CLOSE) and measured["stderr_kind"] == "clustered"
    assert measured.get("baselines", {}) == pytest.approx(shown or {}, rel=CLOSE), "baselines"
    assert {*measured} & {"placebo", "sensitivity"} == {*controls}, "controls"
    for name, of in controls.items():
        held(measured[name], *(of if isinstance(of, tuple) else (of, clusters, least)))
