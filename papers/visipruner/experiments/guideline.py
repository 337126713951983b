"""The guideline tried: a small LLaVA trained from nothing with the picture in blocks 2 to 6 of eight alone, by the dense one's recipe.

Layers 9 to 26 of 32 are where the paper sees fusion; blocks 2 to 6 are these by depth. Beside it the picture in the last block
alone, by the same recipe: what must not be enough. The dense models are the committed ones. A step of each is timed in turn on the
same rows. Half an hour of one core a training; killed, it goes on from its checkpoints.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from common.runs.jobs import Job
from common.runs.sources import closure
from common.seeds import asked as seeds_asked
from common.standins import llava as standins
from common.vision.features import Pictures
from common.vision.llava import dense_hidden, load_llava, scored_loss

from ..stages import Stages, hidden

ARMS = {"middle": Stages(2, 6), "last": Stages(7, 7)}
ROUNDS = 5


@dataclass(frozen=True)
class Size:
    """stage_1, stage_2: steps of the recipe. test: pictures."""

    seeds: tuple[int, ...]
    stage_1: int
    stage_2: int
    test: int


SIZES = {"cpu": Size(seeds_asked(), standins.STAGE_1, standins.STAGE_2, 250)}
SIZES["smoke"] = SIZES["cpu"]  # never walked: its features alone take minutes


def jobs(size: str = "cpu") -> list[Job]:
    s = SIZES[size]
    return [Job(f"guideline/{arm}/seed{seed}", f"{__name__}:trained", {"arm": arm, "seed": seed, "size": size}, seconds=1800)
            for arm in ARMS for seed in s.seeds] + [
        Job(f"guideline/dense/seed{seed}", f"{__name__}:dense", {"seed": seed, "size": size}, seconds=60) for seed in s.seeds]


def training(stages: Stages) -> type[standins.LlavaTraining]:
    """The recipe with the picture in some layers alone."""

    class Staged(standins.LlavaTraining):
        def hidden(self, layout, visual):
            return hidden(self.decoder, layout, visual, stages)

    return Staged


def trained(arm: str, seed: int, size: str = "cpu") -> dict:
    """{"right": of each open question, "pictures", "loss": of the last steps, "seconds": of steps {"dense", "staged"}, in turn}."""
    s, stages = SIZES[size], ARMS[arm]
    model, losses = standins.train(seed, f"stages-{stages.first}-{stages.last}", training(stages), s.stage_1, s.stage_2, progress=False,
                                   sources=tuple(str(path) for path in closure("papers.visipruner.stages")))
    decoder = model.language_model()
    return tested(model, s.test, lambda layout, visual: hidden(decoder, layout, visual, stages)) | {
        "loss": sum(losses[-50:]) / len(losses[-50:]), "seconds": step_seconds(model, stages)}


def dense(seed: int, size: str = "cpu") -> dict:
    return tested(load_llava(standins.folder_of(seed), tower=False), SIZES[size].test, None)


def tested(model, count: int, way) -> dict:
    """{"right": 1 or 0 of each open question, as a text, "pictures"}."""
    asked = [[q for q in row if q.kind not in ("exists", "relation")] for row in standins.test_questions(count)]
    right = standins.accuracy(model, Pictures(count, split="test", easy=0).scene_features, asked, way)
    return {"right": "".join("01"[hit] for row in right for hit in row), "pictures": [i for i, row in enumerate(asked) for _ in row]}


def step_seconds(model, stages: Stages, rows: int = standins.ROWS) -> dict[str, list[float]]:
    """Seconds of forward and backward on the same rows of questions, dense and staged in turn; the first round warms up."""
    decoder = model.language_model()
    pictures = Pictures(rows, split="val", easy=0)
    features, layout = standins.Rows(pictures, model.tokenizer, model.prefix, 0, 1, 0, rows=rows)[0]
    ways = {"dense": lambda visual: dense_hidden(decoder, layout, visual), "staged": lambda visual: hidden(decoder, layout, visual, stages)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            with torch.enable_grad():
                loss, count = scored_loss(decoder, way(model.projector(features.float())), layout)
                (loss / count).backward()
            decoder.zero_grad()
            model.projector.zero_grad()
            if number:
                found[name].append(time.perf_counter() - began)
    return found
