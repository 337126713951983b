"""The three committed LLaVAs, external direct fusion of DINOv2-S's layers 2, 9 and 11: what room they leave, and which layer they read.

Nothing is trained. One question of every kind about test pictures that no training saw: as they are; with one layer's features from
another picture, the other layers' from the right one; with that layer from the same scene drawn once more, other noise; and about
hard scenes. Answers are kept bit by bit, so that intervals can be clustered by picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data import hard_scenes, scenes
from common.runs.jobs import Job
from common.seeds import asked as seeds_asked
from common.seeds import seed_of
from common.standins import llava as standins
from common.vision import tower
from common.vision.llava import LAYERS

from ..baselines import swapped


@dataclass(frozen=True)
class Size:
    seeds: tuple[int, ...]
    pictures: int


SIZES = {"smoke": Size((0,), 6), "cpu": Size(seeds_asked(), 150)}


def jobs(size: str = "cpu") -> list[Job]:
    made = [Job("llava/features", f"{__name__}:features", {"size": size}, seconds=20)]
    for seed in SIZES[size].seeds:
        if seed not in standins.SEEDS:
            made.append(Job(f"stand-in/seed{seed}", "common.standins.llava:made", {"seed": seed}, seconds=3600))
        made.append(Job(f"llava/seed{seed}", f"{__name__}:looked", {"seed": seed, "size": size}, seconds=20,
                        after=("llava/features", f"stand-in/seed{seed}")))
    return made


def drawn(count: int) -> dict[str, list[Any]]:
    """{"test", "again": the same with other noise, "hard"}: scenes."""
    test = [scenes.scene(i, "test") for i in range(count)]
    return {"test": test, "again": [replace(s, noise=seed_of("again", i)) for i, s in enumerate(test)],
            "hard": [hard_scenes.scene(i, "test") for i in range(count)]}


def shown(count: int) -> dict[str, Tensor]:
    """{name: (pictures, N, layers dv)} of `drawn`."""
    return {name: tower.features(f"layerfusion-{name}", [s.image() for s in some], LAYERS) for name, some in drawn(count).items()}


def asked(count: int) -> dict[str, list[list[scenes.Question]]]:
    """A question of every kind for each picture, of the test and of the hard scenes."""
    of, draw = drawn(count), np.random.default_rng(21)
    return {"test": [scenes.one_of_each_kind(s, draw) for s in of["test"]],
            "hard": [hard_scenes.one_of_each_kind(s, draw) for s in of["hard"]]}


def features(size: str = "cpu") -> dict:
    """Features into the cache; {"test", "hard": {"pictures", "kinds"}} of each question."""
    count = SIZES[size].pictures
    shown(count)
    return {name: {"pictures": [i for i, row in enumerate(rows) for _ in row], "kinds": [q.kind for row in rows for q in row]}
            for name, rows in asked(count).items()}


@torch.no_grad()
def looked(seed: int, size: str = "cpu") -> dict:
    """{"model", "test", "hard": bits, "another picture", "drawn again": {layer: bits}}."""
    count = SIZES[size].pictures
    of, questions = shown(count), asked(count)
    model = standins.load_llava(standins.folder_of(seed), tower=False)

    def right(pictures: Tensor, which: str = "test") -> str:
        return bits(hit for row in standins.accuracy(model, pictures, questions[which]) for hit in row)

    found: dict = {"model": model.source, "test": right(of["test"]), "hard": right(of["hard"], "hard")}
    for name, other in (("another picture", of["test"].roll(1, 0)), ("drawn again", of["again"])):
        found[name] = {str(k): right(swapped(of["test"], other, k, LAYERS)) for k in LAYERS}
    return found


def bits(right) -> str:
    return "".join("01"[hit] for hit in right)
