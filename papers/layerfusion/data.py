"""What a fused LLaVA is trained on.

    ScenePictures   generated scenes and easy-VQA with cached features of the named layers (common/vision/scene_rows.py)
    Conversations   LLaVA-1.5's files: template "plain" is stage 1, "v1" stage 2 (common/vision/conversations.py)
    HardRows        optimiser steps over hard scenes, for the models that experiments train
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data import hard_scenes
from common.training.steps import StepData
from common.vision.conversations import Conversations
from common.vision.layout import Layout, packed
from common.vision.llava import caption_slots, question_slots
from common.vision.scene_rows import ScenePictures

__all__ = ["Conversations", "HardRows", "ScenePictures", "StepData"]  # data modules that a config may name, what they are, and HardRows


class Step(NamedTuple):
    """An optimiser step. features (B, N, layers dv), a picture a row. kinds (B, T): of the question in whose text a slot stands, its place
    in hard_scenes.KINDS, -1 elsewhere (captions, prefix, padding). asked (kinds,): questions of each kind."""

    features: Tensor
    layout: Layout
    kinds: Tensor
    asked: Tensor


class HardRows(Dataset):
    """Optimiser steps of `rows` rows, drawn from (seed, step) alone: a resumed run sees what the unbroken one would.

    features: of the scenes, a row each. The first stage_1 steps are captions alone, then a tenth of the rows still are.
    """

    def __init__(self, scenes: Sequence[hard_scenes.HardScene], features: Any, words: Any, prefix: list[int], stage_1: int, steps: int,
                 seed: int, rows: int, asked: int = 12, captions: float = 0.1):
        self.scenes, self.features, self.words, self.prefix = scenes, features, words, prefix
        self.stage_1, self.steps, self.seed, self.rows, self.asked, self.captions = stage_1, steps, seed, rows, asked, captions

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Step:
        draw = np.random.default_rng([self.seed, 7, step])
        rows, shown, kinds = [], [], []
        for _ in range(self.rows):
            i = int(draw.integers(len(self.scenes)))
            of = self.scenes[i]
            if step < self.stage_1 or draw.random() < self.captions:
                rows.append([caption_slots(self.words, of.caption(draw)) for _ in range(3)])
                kinds.append([-1] * 4)
            else:
                questions = hard_scenes.some(of, draw, self.asked)
                rows.append([question_slots(self.words, q) for q in questions])
                kinds.append([-1, *(hard_scenes.KINDS.index(q.kind) for q in questions)])  # segment 0 is the prefix
            shown.append(torch.as_tensor(self.features[i]))
        layout = packed(self.prefix, rows, shown[0].shape[0])
        of_slots = torch.stack([torch.tensor(row)[segments] for row, segments in zip(kinds, layout.segments)])
        every = torch.tensor([kind for row in kinds for kind in row if kind >= 0], dtype=torch.long)
        return Step(torch.stack(shown), layout, of_slots, torch.bincount(every, minlength=len(hard_scenes.KINDS)))
