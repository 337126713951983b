"""The same question on other stories: context first, facts and rules, much to read, and sentences that look ahead. Asked for by name.

Each variant tunes two arms from the base for as many steps on its own stories, and asks both on unseen ones. In "ahead" the second
arm has learnt without the mask (batch, positions from 0) and is run in streaming: what the mask is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from common.data import stories
from common.data.stories import Level, Story
from common.runs.jobs import Job
from common.seeds import asked
from common.standins import stories as base_of

from .. import standins
from . import arms

Tell = Callable[[int, str, int], Story]
AHEAD = Level((3, 7), (2, 3), ahead=0.3)


@dataclass(frozen=True)
class Variant:
    """tell: (number, split, seed) -> a story. against: the arm that streaming is held against, and how that is run."""

    tell: Tell
    against: str = "batch"
    mode: str = "batch"


VARIANTS = {"context": Variant(partial(stories.totals, level=Level((3, 7), (2, 3)), order="context")),
            "rules": Variant(stories.rules), "places": Variant(stories.places),
            "ahead": Variant(partial(stories.totals, level=AHEAD), "batch spe", "streaming")}


@dataclass(frozen=True)
class Size:
    """seeds; unseen stories; tuning of each arm; caps and untrained as of arms.Size."""

    seeds: tuple[int, ...]
    stories: int
    tuning: standins.Tuning
    caps: tuple[int, int] = (base_of.UNIT_CAP, base_of.REST_CAP)
    untrained: bool = False


SIZES = {"smoke": Size((0,), 2, standins.Tuning(1, 2), (2, 2), True), "cpu": Size(asked(), 300, standins.Tuning(400))}


def jobs(size: str = "cpu") -> list[Job]:
    how, found = SIZES[size], []
    for seed in how.seeds if how.untrained else arms.seeds("cpu"):
        for name, variant in VARIANTS.items():
            for arm in ("untuned", variant.against, "streaming"):
                found.append(Job(f"{name}/{arm}/seed{seed}", f"{__name__}:run", {"variant": name, "arm": arm, "seed": seed, "size": size},
                                 arms.weights(seed), 20 if arm == "untuned" else 220))
    return found


def run(variant: str, arm: str, seed: int, size: str = "cpu") -> dict:
    """{"D2", "unit", "kinds", "items", "losses": every 20th} of the untuned base in streaming, or of an arm after tuning."""
    how, of = SIZES[size], VARIANTS[variant]
    model = base_of.build(seed) if how.untrained else standins.base(seed)[0]
    losses: list[float] = []
    if arm != "untuned":
        losses = standins.tune(model, standins.ARMS[arm], seed, how.tuning, partial(standins.rows_at, tell=of.tell))
    told = [of.tell(i, "test", seed) for i in range(how.stories)]
    mode = of.mode if arm == of.against else "streaming"
    start = standins.ARMS[arm].runs_from if arm in standins.ARMS else 0
    found = base_of.graded(told, base_of.written(model.eval(), told, 2, mode, start, caps=how.caps))
    return {"D2": found["answer"], "unit": found["unit"], "kinds": found["kinds"], "items": len(told), "losses": losses[::20]}
