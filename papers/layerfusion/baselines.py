"""What fusion is compared with: the one layer that a LLaVA reads, and sets that hold as much of something else.

    default        f_main alone: LLaVA
    three_times    f_main side by side with itself: as wide a projector, nothing new to read
    region         neighbours of the main layer: as many layers, one stage
    swapped        another picture's features in the place of one layer's

The four kinds have predecessors, and are these on the same sets: external direct is Dense Connector's SCI and DCI (arXiv 2405.13800),
external modular MMFuser (2410.11829), internal direct DeepStack's addition, internal modular Flamingo's gated cross-attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .method import LayerSet, apart, few


def default(blocks: int) -> LayerSet:
    return few("default", (blocks - 1,), blocks)


def three_times(blocks: int) -> LayerSet:
    return few("default three times", (blocks - 1,) * 3, blocks)


def region(blocks: int) -> LayerSet:
    """The main layer and the two before it."""
    return few("late region", (blocks - 3, blocks - 2, blocks - 1), blocks)


def swapped(own: Tensor, other: Tensor, layer: int, layers: Sequence[int]) -> Tensor:
    """Features of `layers` side by side (M, N, len(layers) dv), one layer's from `other`."""
    ours, theirs = apart(own, layers), apart(other, layers)
    return torch.cat([theirs[k] if k == layer else ours[k] for k in layers], -1)
