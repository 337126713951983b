"""Training rows with generated pictures: scenes and easy-VQA, features of the frozen tower computed once, several questions a row.

A micro-batch, as steps (training/steps.py): layout (layout.py), features of the rows' pictures (B, N, dv), and step_targets, the
scored tokens of the whole optimiser step. A training module brings the model's words and prefix: `tokenizer`, `parts.prefix`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data import easyvqa, scenes
from ..training.steps import StepData
from .features import Pictures
from .layout import IGNORED, packed
from .llava import caption_slots, question_slots


class SceneRows:
    """Rows with one picture each. entries: (features (N, dv), [(ids, targets), ...])."""

    def __init__(self, entries: list[tuple[Tensor, list]], prefix: list[int]):
        self.entries, self.prefix = entries, prefix
        scored = [sum(t != IGNORED for _, targets in texts for t in targets) for _, texts in entries]
        self.counts = {"step_targets": np.array(scored)}

    def __getitem__(self, i: int):
        return self.entries[i]

    def collate(self, samples: list, sample_index: list[int], totals: dict[str, int]) -> dict:
        features = torch.stack([f for f, _ in samples])
        layout = packed(self.prefix, [texts for _, texts in samples], features.shape[1])
        return {"layout": layout, "features": features, "sample_index": sample_index, **totals}

    def blank(self, batch: dict) -> dict:
        batch["layout"].targets.fill_(IGNORED)
        return batch


class ScenePictures(StepData):
    """train_samples rows over `scenes` generated pictures and `easy` pictures of easy-VQA (share easy_share of the rows).

    asked: questions about a picture in one row, each a segment of its own. captions: share of rows with captions instead.
    layers: hidden states of DINOv2 that make a feature; the stand-in's are 2, 9, 11. Validation: pictures of
    their own split, so that none is trained on. Raises ValueError for counts below 1 and shares outside 0 to 1.
    """

    def __init__(self, train_samples: int = 4800, val_samples: int = 96, scenes: int = 1500, easy: int = 0,
                 easy_share: float = 0.0, asked: int = 12, captions: float = 0.0, layers: tuple[int, ...] = (2, 9, 11),
                 batch_size: int = 48, seed: int = 1, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)
        self.train_samples, self.val_samples, self.scenes, self.easy = train_samples, val_samples, scenes, easy
        self.easy_share, self.asked, self.captions, self.layers = easy_share, asked, captions, list(layers)
        if min(train_samples, val_samples, asked) < 1 or min(scenes, easy) < 0 or scenes + easy < 1:
            raise ValueError("data: train_samples, val_samples, asked and scenes + easy must be 1 or more")
        if not (0 <= easy_share <= 1 and 0 <= captions <= 1):
            raise ValueError(f"data: easy_share {easy_share} and captions {captions} are shares, from 0 to 1")

    def rows(self, which: int) -> SceneRows:
        """Each when it is asked for: a run without validation does not encode its pictures."""
        self._made = getattr(self, "_made", {})
        if which not in self._made:
            size = ("train", self.train_samples, self.scenes, self.easy) if which == 0 else (
                "val", self.val_samples, min(self.scenes, self.val_samples), min(self.easy, self.val_samples))
            self._made[which] = self._rows(*size)
        return self._made[which]

    def _rows(self, split: str, count: int, n_scenes: int, n_easy: int) -> SceneRows:
        words, of = self.tokenizer(), Pictures(n_scenes, layers=self.layers, split=split, easy=n_easy)
        draw, entries = np.random.default_rng([self.seed, 3, split == "train"]), []
        for _ in range(count):
            if n_easy and (not n_scenes or draw.random() < self.easy_share):
                i = int(draw.integers(n_easy))
                pool = easyvqa.questions(split, of.easy[i])
                texts = [question_slots(words, pool[k]) for k in draw.permutation(len(pool))[: self.asked]]
                entries.append((of.easy_features[i], texts))
                continue
            i = int(draw.integers(n_scenes))
            scene = of.scenes[i]
            if draw.random() < self.captions:
                texts = [caption_slots(words, scene.caption(draw)) for _ in range(3)]
            else:
                texts = [question_slots(words, q) for q in scenes.some(scene, draw, self.asked)]
            entries.append((of.scene_features[i], texts))
        return SceneRows(entries, self.trainer.lightning_module.parts.prefix)
