"""An encoder that has not mixed its patches, where ViCA should fail (claim C8c): `make reproduce-vica ONLY=patches`.

A picture's tokens come from a tower of which not one layer has run: raw patches with their positions. A dense decoder can mix
them itself, in the layers where visual tokens see each other; ViCA, which computes nothing on them, cannot. Both are trained from
nothing on the same rows, ViCA with all of its layers looking. The control is the same pair on a tower that has run: there nothing is
left to mix, and ViCA must not fall behind. Forty minutes of two cores for three seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.runs.jobs import Job
from common.seeds import asked
from common.vision.llava import LAYERS, build
from common.vision.parts import parts_of

from ..scoring import dense, questions, tested, vica
from .llava import train

RATE = 2e-3
RAW = (0,)  # the tower's states before its first layer
ARMS = {"dense": 500, "vica": 400, "mixed dense": 500, "mixed vica": 400}  # seconds that they take


@dataclass(frozen=True)
class Size:
    """steps, rows: of training. trained_on, test: pictures. job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    steps: int
    rows: int
    trained_on: int
    test: int
    job_seconds: float


SIZES = {"smoke": Size(seeds=(0,), steps=2, rows=2, trained_on=4, test=3, job_seconds=2.0),
         "cpu": Size(seeds=asked(), steps=1000, rows=24, trained_on=1200, test=250, job_seconds=1000.0)}


def jobs(size: str = "cpu") -> list[Job]:
    s = SIZES[size]
    return [Job(f"patches/{arm}/seed{seed}", f"{__name__}:patches", {"seed": seed, "arm": arm, "size": size},
                seconds=min(seconds, s.job_seconds)) for seed in s.seeds for arm, seconds in ARMS.items()]


def patches(seed: int, arm: str, size: str = "cpu") -> dict:
    """One arm of ARMS: its losses and its scores."""
    from common.vision.features import Pictures

    s, of = SIZES[size], LAYERS if arm.startswith("mixed") else RAW
    parts = parts_of(build(seed, Pictures(s.trained_on, layers=of, easy=0).scene_features[:300], layers=of))
    every = tuple(range(parts.decoder.config.num_hidden_layers)) if arm.endswith("vica") else None
    losses = train(parts, every, seed, s.steps, s.rows, RATE, scenes=s.trained_on, easy=0, captions=0.2, layers=list(of))
    way = dense(parts) if every is None else vica(parts, every)
    return {"arm": arm, "loss": sum(losses[-10:]) / len(losses[-10:]), "curve": [round(loss, 3) for loss in losses[::25]],
            "items": sum(map(len, questions("test", s.test, 0))), "test": tested(parts, way, s.test, 0, layers=of)}
