"""The exact claims: figures of analytic.py, gathered. Nothing here samples, trains or needs weights."""

from __future__ import annotations

from .. import analytic
from ..method import Law

CONTROLS = ("naive", "sorted", "dirichlet", "multipath")


def figures() -> dict:
    """{"lags": what table 1's translation row implies, "kept": % of batch quality by row, "saved": {row: with and without probes},
    "spreads": {(M, L) as text: {law: SD of phi(1) over the multinomial's}}, "unseen": by law for one unit}."""
    return {"lags": {"implied": analytic.implied_lag(), "wait-9": analytic.wait_9(analytic.words_of(8.71))},
            "kept": analytic.kept(),
            "saved": {name: {"paper-style": analytic.saving(name), "with probes": analytic.saving(name, probes=1),
                             "a probe every 8": analytic.saving(name, probes=8)} for name in analytic.PAIRS},
            "spreads": {f"{m}, {length}": {law: analytic.spread_ratio(law, m, length) for law in CONTROLS}
                        for m, length in ((16, 16), (116, 3))},
            "unseen": {law: float(analytic.unseen(Law(law), 1)) for law in ("multinomial", "slack")}}
