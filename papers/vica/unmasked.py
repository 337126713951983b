"""Attention without masks, where all rows have one shape: the prefix on itself, the rest on everything, aligned bottom right.

Flash kernels take no mask. A batch whose rows hold the picture at one place needs none (spec 3.5): text before the picture is
causal by itself, and text behind it sees prefix and picture whole and the rest causally. Equal to the masked definition (claim C10).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right


def text_before_picture(positions: Tensor, visual_positions: Tensor, visual_real: Tensor) -> int | None:
    """How many text slots stand before the picture, if that is the same in all rows and the picture is one whole run."""
    same = (positions == positions[:1]).all() & (visual_positions == visual_positions[:1]).all() & visual_real.all()
    if not bool(same):
        return None
    first, last = int(visual_positions[0, 0]), int(visual_positions[0, -1])
    rising = bool((positions[0].diff() > 0).all()) and last - first + 1 == visual_positions.shape[1]
    p = int((positions[0] < first).sum())
    return p if rising and (p == positions.shape[1] or int(positions[0, p]) > last) and p < positions.shape[1] else None


def attention(query: Tensor, key: Tensor, value: Tensor, visual: tuple[Tensor, Tensor] | None, p: int,
              idle: Tensor | None, scaling: float | None, dropout: float = 0.0) -> Tensor:
    """Attention without a mask for rows of equal shape: prefix on itself, suffix on all, aligned bottom right.

    Causal attention of SDPA is aligned top left and would be wrong for fewer queries than keys (spec 3.5).
    """
    options = dict(scale=scaling, dropout_p=dropout, enable_gqa=query.shape[1] != key.shape[1])
    if visual is None and idle is None:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, **options)
        return out.transpose(1, 2).contiguous()
    if idle is None and p:
        before = F.scaled_dot_product_attention(query[:, :, :p], key[:, :, :p], value[:, :, :p], is_causal=True, **options)
    else:
        before = torch.zeros_like(query[:, :, :p])
    if visual is not None:
        key, value = (torch.cat([t[:, :, :p], v.to(t.dtype), t[:, :, p:]], 2) for v, t in zip(visual, (key, value)))
    behind = query[:, :, p:]
    n, m = behind.shape[2], key.shape[2]
    if key.device.type == "cuda":  # lets flash kernels align it themselves; on CPUs the object only makes a mask
        bias = causal_lower_right(n, m)
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        options["enable_gqa"] = False
    else:
        bias = torch.ones(n, m, dtype=torch.bool, device=key.device).tril(m - n)
    after = F.scaled_dot_product_attention(behind, key, value, attn_mask=bias, **options)
    return torch.cat([before, after], 2).transpose(1, 2).contiguous()
