"""What the quality gate is worth in training: a pool of traces of which a share is faulty, tuned on with and without it. Asked for by name.

From one base and for as many steps, the streaming arm learns from all of the pool, from what the gate keeps, from as many by lot (the
placebo: fewer traces, as faulty), and from the pool without its faults, which is what a perfect gate could reach. All of them answer
the same unseen stories.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.data import stories
from common.runs.jobs import Job
from common.seeds import asked
from common.standins import stories as base_of

from .. import noisy, standins
from . import arms


@dataclass(frozen=True)
class Size:
    """seeds; traces of the pool and the share of faulty ones; clean traces that the gate's bars are set on; unseen stories; tuning;
    caps and untrained as of arms.Size."""

    seeds: tuple[int, ...]
    pool: int
    share: float
    calibration: int
    stories: int
    tuning: standins.Tuning
    caps: tuple[int, int] = (base_of.UNIT_CAP, base_of.REST_CAP)
    untrained: bool = False


SIZES = {"smoke": Size((0,), 8, 0.5, 20, 2, standins.Tuning(1, 2), (2, 2), True),
         "cpu": Size(asked(), 1500, 0.3, 300, 300, standins.Tuning(60, 32))}


def jobs(size: str = "cpu") -> list[Job]:
    how = SIZES[size]
    return [Job(f"gated/{arm}/seed{seed}", f"{__name__}:run", {"arm": arm, "seed": seed, "size": size}, arms.weights(seed), 30)
            for seed in (how.seeds if how.untrained else arms.seeds("cpu")) for arm in noisy.ARMS]


def run(arm: str, seed: int, size: str = "cpu") -> dict:
    """{"D2", "unit", "kinds", "items", "answers", "trained on": traces, "faulty": of them, "losses": every 10th}."""
    how = SIZES[size]
    model = base_of.build(seed) if how.untrained else standins.base(seed)[0]
    of = noisy.pool(seed, how.pool, how.share)
    told = noisy.kept(of, arm, lambda: noisy.gate(how.calibration), seed)
    faulty = {id(one.written) for one in of if one.fault}
    losses = standins.tune(model, standins.ARMS["streaming"], seed, how.tuning,
                           lambda step, seed, tuning: noisy.rows_at(step, told, seed, tuning.rows))
    asked_of = [stories.totals(i, "test", seed) for i in range(how.stories)]
    found = base_of.graded(asked_of, base_of.written(model.eval(), asked_of, 2, "streaming", 0, caps=how.caps))
    return {"D2": found["answer"], "unit": found["unit"], "kinds": found["kinds"], "items": len(asked_of), "answers": found["answers"],
            "trained on": len(told), "faulty": sum(id(story) in faulty for story in told), "losses": losses[::10]}
