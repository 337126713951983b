"""Committed models that were not there when the default run was made: which layers they read, by the swaps of llava.py. Minutes.

    make reproduce-layerfusion ONLY=committed

The SmolLM2 LLaVA (common/standins/llava_smollm2.py), whose thirty blocks had read before they saw, external direct on layers 2, 9 and
11 as the others: asked about the very pictures that these are asked about, with one layer from another picture, and with that layer from
the same scene drawn again. And the small LLaVAs of this paper (standins.py), one an arm, on the hard scenes that they were trained for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.runs.jobs import Job
from common.standins import llava as standins
from common.standins import llava_smollm2
from common.vision.llava import LAYERS

from ..baselines import swapped
from . import llava


@dataclass(frozen=True)
class Size:
    seeds: tuple[int, ...]
    pictures: int


SIZES = {"cpu": Size(llava_smollm2.SEEDS, 150)}
SIZES["smoke"] = SIZES["cpu"]  # never walked


def jobs(size: str = "cpu") -> list[Job]:
    made = [Job("committed/features", f"{__name__}:features", {"size": size}, seconds=20)]
    return made + [Job(f"committed/seed{seed}", f"{__name__}:looked", {"seed": seed, "size": size}, seconds=400,
                       after=("committed/features",)) for seed in SIZES[size].seeds]


def features(size: str = "cpu") -> dict:
    """Features into the cache; {"test": {"pictures", "kinds"} of each question}."""
    count = SIZES[size].pictures
    llava.shown(count)
    rows = llava.asked(count)["test"]
    return {"test": {"pictures": [i for i, row in enumerate(rows) for _ in row], "kinds": [q.kind for row in rows for q in row]}}


@torch.no_grad()
def looked(seed: int, size: str = "cpu") -> dict:
    """{"model", "test": bits, "another picture", "drawn again": {layer: bits}}."""
    count = SIZES[size].pictures
    of, questions = llava.shown(count), llava.asked(count)["test"]
    model = llava_smollm2.opened(llava_smollm2.FOLDER / f"seed{seed}")

    def right(pictures: Tensor) -> str:
        return llava.bits(hit for row in standins.accuracy(model, pictures, questions, batch=16) for hit in row)

    found: dict = {"model": model.source, "test": right(of["test"])}
    for name, other in (("another picture", of["test"].roll(1, 0)), ("drawn again", of["again"])):
        found[name] = {str(k): right(swapped(of["test"], other, k, LAYERS)) for k in LAYERS}
    return found
