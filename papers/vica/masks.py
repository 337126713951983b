"""Who sees whom, as masks: query i sees key j iff j is real, position[j] <= position[i], and the segment of j is 0 or that of i.

The one rule of `method.definition` and of the fast path; where a batch needs no mask at all, see unmasked.py. A layer with a
window sees, of these, the keys that are less than a window behind.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.vision.layout import additive


def visible(positions: Tensor, segments: Tensor, key_positions: Tensor, key_real: Tensor, key_segments: Tensor,
            window: int | None = None) -> Tensor:
    """(B, T, S) bool, [query, key], by the rule above: positions, segments (B, T) of the queries, the rest (B, S) of the keys."""
    seen = key_real[:, None, :] & (key_positions[:, None, :] <= positions[:, :, None])
    if window is not None:
        seen &= positions[:, :, None] - key_positions[:, None, :] < window
    return seen & ((key_segments[:, None, :] == 0) | (key_segments[:, None, :] == segments[:, :, None]))


def before_picture(positions: Tensor, visual_positions: Tensor, visual_real: Tensor) -> Tensor:
    """(B, T) bool: text before the first visual token of its row; nowhere in a row without a picture."""
    far = torch.iinfo(positions.dtype).max
    first = visual_positions.masked_fill(~visual_real, far).amin(1, keepdim=True)
    return visual_real.any(1, keepdim=True) & (positions < first)


def as_read(mask: Tensor, base: str, like: Tensor) -> Tensor:
    """The mask in the form that an attention reads: sdpa as it is, eager 0 and the lowest number of `like`, to be added."""
    return additive(mask, like) if base == "eager" else mask


def windows(config) -> list[int | None]:
    """By layer, how many positions a text token sees, its own included; None: all before it. config: of the decoder."""
    n, window, kinds = config.num_hidden_layers, getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if kinds is None:  # one window for all layers, unless it is switched off
        return [window if getattr(config, "use_sliding_window", True) else None] * n
    return [window if kind == "sliding_attention" else None for kind in kinds]
