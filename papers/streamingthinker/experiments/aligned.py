"""Without any model: how many real worked questions (gsm_symbolic) align to their sentences by rule, and as the placebo, how many do with
the next question's worked lines. Asked for by name; symbolic.py's rule, and nothing learnt.
"""

from __future__ import annotations

from statistics import fmean

from common.runs.jobs import Job

from .. import symbolic
from ..symbolic import Aligned

DRAWN = {"smoke": 60, "cpu": 1500}  # questions
SEED = 0


def ready() -> None:
    """Raises the error of `symbolic.ready`."""
    symbolic.ready()


def jobs(size: str = "cpu") -> list[Job]:
    return [Job("aligned", f"{__name__}:aligned", {"size": size}, seconds=10)]


def aligned(size: str = "cpu") -> dict:
    """{"survives", "swapped": 0 or 1 by question, the second with the next question's lines; "templates": of each; "reasons": {why: how
    many}, "skipped": share of units}."""
    count = DRAWN[size]
    found = symbolic.surveyed(count, SEED)
    rows = [row for _, row in symbolic.rows(count, SEED)]
    swapped = [symbolic.align(a["question"], b["metadata"]["answer_cot"], b["answer"]) for a, b in zip(rows, [*rows[1:], rows[0]])]
    kept = [one for _, one in found if isinstance(one, Aligned)]
    return {"survives": [int(isinstance(one, Aligned)) for _, one in found], "swapped": [int(isinstance(one, Aligned)) for one in swapped],
            "templates": [template for template, _ in found],
            "reasons": {why: sum(one == why for _, one in found) for why in symbolic.REASONS},
            "skipped": fmean(unit == symbolic.SKIP for one in kept for unit in one.units)}
