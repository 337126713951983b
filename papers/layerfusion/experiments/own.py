"""The four small LLaVAs that are committed here (standins.py), on the hard scenes that they were trained for: minutes, nothing is trained.

    make reproduce-layerfusion ONLY=own

One question of every kind about test scenes that no training saw: as they are, and with one layer's features from the next picture. Each
of the four models was trained once, so the spread is over pictures: the results describe these four models, not how such models turn out
in general.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError
from common.runs.jobs import Job
from common.standins import llava as standins

from .. import standins as own
from ..baselines import swapped
from .trained import asked, bits, shown


@dataclass(frozen=True)
class Size:
    """pictures: as many as trained.SIZES has to test on. features: of which of its sizes."""

    pictures: int
    features: str = "cpu"


SIZES = {"cpu": Size(500)}
SIZES["smoke"] = SIZES["cpu"]  # never walked


def ready() -> None:
    """Raises UserError where the models are not there."""
    if lack := own.missing():
        raise UserError(f"ONLY=own asks the models of papers/layerfusion/standins, and {', '.join(lack)} are not there yet: "
                        "`make standins-layerfusion` trains them (two hours of a core; minutes after ONLY=long)")


def jobs(size: str = "cpu") -> list[Job]:
    made = [Job("own/features", f"{__name__}:features", {"size": size}, seconds=60)]
    return made + [Job(f"own/{name}", f"{__name__}:looked", {"name": name, "size": size}, seconds=60, after=("own/features",))
                   for name in own.ARMS]


def features(size: str = "cpu") -> dict:
    """Features into the cache; {"test": {"pictures", "kinds"} of each question}."""
    s = SIZES[size]
    shown("test", "dinov2", s.features, (1,))
    rows = asked(s.pictures)["test"]
    return {"test": {"pictures": [i for i, row in enumerate(rows) for _ in row], "kinds": [q.kind for row in rows for q in row]}}


@torch.no_grad()
def looked(name: str, size: str = "cpu") -> dict:
    """{"model", "test": bits, "another picture": {layer: bits}}."""
    s, (model, facts) = SIZES[size], own.stand_in(name)
    questions, pictures = asked(s.pictures)["test"], shown("test", "dinov2", s.features, model.layers)[: s.pictures]

    def right(of: Tensor) -> str:
        return bits(hit for row in standins.accuracy(model, of, questions, model.hidden) for hit in row)

    return {"model": facts, "test": right(pictures), "another picture": {
        str(k): right(swapped(pictures, pictures.roll(1, 0), k, model.layers)) for k in model.layers}}
