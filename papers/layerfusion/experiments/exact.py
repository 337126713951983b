"""The exact claims: figures of analytic.py and of what others measured, gathered. Nothing here samples, trains or needs weights."""

from __future__ import annotations

from .. import analytic, reported


def figures() -> dict:
    """{"means": {row: mean of its nine columns}, "known": {kind: {set: average}}, "spread": {kind: over its known sets}, "parameters",
    "work": {kind: per cent that Triple adds}, "all inside": times the prefill, "ranges": {setting: of GQA}, "equal batches": of GQA}."""
    of = {f"{position} {pattern}": analytic.triple(position, pattern) for position, pattern in analytic.KINDS}
    return {"means": {row: mean for row, (mean, _) in analytic.averages().items()}, "known": reported.AVERAGES,
            "spread": analytic.steadiness(),
            "parameters": {kind: 100 * analytic.added(config) / analytic.MOBILELLAMA_1B4.parameters() for kind, config in of.items()},
            "work": {kind: analytic.share_of_prefill(config) for kind, config in of.items()},
            "all inside": 1 + analytic.share_of_prefill(analytic.triple("internal", "modular", "all")) / 100,
            "ranges": {setting: gqa for setting, (_, gqa) in analytic.ranges().items()}, "equal batches": analytic.equal_batch_range()}
