"""Which layers the committed small LLaVA on SmolLM2 reads; it was made after the default run. Minutes; nothing is trained.

    make reproduce-layerfusion ONLY=committed

The decoder of common/standins/llava_smollm2.py has thirty blocks and was pretrained on text; like the small LLaVAs of llava.py it gets
layers 2, 9 and 11 of DINOv2-S by external direct fusion. It is asked what those are asked, about the same pictures: as they are, with
one layer of another picture, and with that layer of the same scene drawn again.
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
