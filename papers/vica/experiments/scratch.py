"""ViCA from nothing, both stages, by the very recipe of the dense stand-in (claim C1r): `make reproduce-vica ONLY=scratch`.

The default run turns a trained dense model into ViCA; the paper trains ViCA from the start. Here the stand-in's own training
(common/standins/llava.py: 400 steps of captions, 3,200 of questions) runs with two of eight layers looking, evenly spread, and
its answers stand beside those of the dense stand-in of the same seed. Beside it, by the same recipe: two layers drawn by lot, and
the text alone, which must not answer. At the recipe's end nearly every question is answered, and a share of that says little; so ViCA
and dense are trained for a quarter of its steps, too, where neither is at that ceiling (C1q). Two and a half hours of two cores for
three seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.runs.jobs import Job
from common.runs.sources import closure
from common.seeds import asked
from common.vision.layout import Layout
from common.vision.parts import parts_of

from .. import method
from ..baselines import random_layers, uniform_layers
from ..scoring import blind, dense, questions, tested, vica

LAYERS = uniform_layers(8, 2)  # the paper's share, a quarter
ARMS = {"scratch": 2000, "scratch/drawn": 2000, "scratch/text": 1000, "scratch/short": 500, "scratch/short dense": 700,
        "scratch/short text": 250}  # seconds that they take
SHORT = 4  # the short arms have so many times fewer steps


@dataclass(frozen=True)
class Size:
    """stages: steps of captions, then of questions. test, easy: pictures that are asked about. job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    stages: tuple[int, int]
    test: int
    easy: int
    job_seconds: float


SIZES = {"smoke": Size(seeds=(0,), stages=(1, 1), test=3, easy=1, job_seconds=2.0),
         "cpu": Size(seeds=asked(), stages=(400, 3200), test=250, easy=120, job_seconds=1e4)}


def jobs(size: str = "cpu") -> list[Job]:
    s = SIZES[size]
    return [Job(f"{arm}/seed{seed}", f"{__name__}:scratch",
                {"seed": seed, "layers": layers(arm, seed), "short": "short" in arm, "size": size},
                seconds=min(seconds, s.job_seconds)) for seed in s.seeds for arm, seconds in ARMS.items()]


def layers(arm: str, seed: int) -> list[int] | None:
    """None: dense."""
    if arm.endswith("dense"):
        return None
    return [] if arm.endswith("text") else list(random_layers(8, len(LAYERS), seed) if arm.endswith("drawn") else LAYERS)


def scratch(seed: int, layers: list[int] | None, short: bool = False, size: str = "cpu") -> dict:
    """Losses and scores of the trained model, beside the dense stand-in's. layers: None is dense. short: for a quarter of the steps."""
    from common.standins.llava import LlavaTraining, stand_in, train

    class Training(LlavaTraining):
        def hidden(self, layout: Layout, visual: Tensor) -> Tensor:
            if layers is None:
                return super().hidden(layout, visual)
            embeds = self.decoder.get_input_embeddings()(layout.ids)
            return method.hidden_states(self.decoder, method.ViCAConfig(tuple(layers)), embeds, layout, visual)

    s, code = SIZES[size], tuple(map(str, closure(method.__name__)))
    name = "vica-" + ("dense" if layers is None else "-".join(map(str, layers)) or "text") + "-short" * short
    stages = [max(1, steps // SHORT) if short else steps for steps in s.stages]
    model, losses = train(seed, name, Training, *stages, progress=False, sources=code)
    parts, stand = parts_of(model), stand_in(seed)
    parts.decoder.set_attn_implementation("sdpa")
    way = dense(parts) if layers is None else vica(parts, tuple(layers))
    return {"layers": layers, "curve": [losses[i] for i in range(0, len(losses), 50)], "blind": blind(s.test, s.easy),
            "items": sum(map(len, questions("test", s.test, 0))),
            "test": tested(parts, way, s.test, s.easy), "dense": tested(stand, dense(stand), s.test, s.easy)}
