"""The generated pictures and easy-VQA's as features of the frozen tower, computed once and kept in the cache."""

from __future__ import annotations

from typing import Any

from ..data import easyvqa, scenes
from . import tower
from .llava import LAYERS

SCENES = 4000


class Pictures:
    """Features of the training pictures, computed once: scenes 0 .. count - 1, then easy-VQA's training split."""

    def __init__(self, count: int = SCENES, seed: int = 0, layers=LAYERS, split: str = "train", easy: int | None = None):
        self.split, self.seed = split, seed
        self.scenes = [scenes.scene(i, split, seed) for i in range(count)]
        self.easy = easyvqa.numbers(split)[:easy]
        self.scene_features: Any = tower.features(f"scenes-{split}", [s.image() for s in self.scenes], layers) if count else None
        shown = [easyvqa.image(split, n) for n in self.easy]
        self.easy_features: Any = tower.features(f"easyvqa-{split}", shown, layers) if shown else None
