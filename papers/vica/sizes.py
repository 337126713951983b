"""How large the experiments on the small LLaVA are: what the claims are about, and what walks the same code in seconds.

Apart from the experiments, so that what only shows or judges their results (tables, pictures, verdicts) loads no training code.
"""

from __future__ import annotations

from dataclasses import dataclass

K, WIDER = 2, 4  # layers that look, of the stand-in's eight
KEEPS = (0.5, 0.35)  # mean share of visual tokens over WIDER layers under PyramidDrop; the first layer sees all


@dataclass(frozen=True)
class Size:
    """trained_on, test, validation, easy: pictures; easy is of easy-VQA's test split, and of its training split a quarter of
    `trained_on` is used. counts: visual tokens of pruned dense models, beside the equivalent count. patch_...: of the
    encoder without layers. scratch_stages: steps of captions, then of questions. job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    steps: int
    rows: int
    trained_on: int
    test: int
    validation: int
    easy: int
    counts: tuple[int, ...]
    patch_steps: int
    patch_rows: int
    scratch_stages: tuple[int, int]
    job_seconds: float


SIZES = {
    "smoke": Size(seeds=(0,), steps=2, rows=2, trained_on=4, test=3, validation=2, easy=1, counts=(16,), patch_steps=2, patch_rows=2,
                  scratch_stages=(1, 1), job_seconds=2.0),
    "cpu": Size(seeds=(0, 1, 2), steps=160, rows=16, trained_on=1200, test=250, validation=100, easy=120, counts=(8, 16, 32),
                patch_steps=1000, patch_rows=24, scratch_stages=(400, 3200), job_seconds=1000.0),
}
