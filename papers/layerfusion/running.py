"""A fused LLaVA on a batch of layouts: pictures to tokens, tokens to their slots, the decoder with what goes into its blocks.

Slots of a batch stand as [visual ; text] and their positions carry the order (common/vision/layout.py), so that several questions
share a picture in one row. `Internal` is attached already where fusion is internal; here it is told what the next pass shows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.vision.layout import Layout
from common.vision.llava import dense_hidden

from .internal import Internal, Pictures
from .method import Fusion


def hidden(decoder: nn.Module, internal: Internal, fusion: Fusion, layout: Layout, states: Mapping[int, Tensor] | None) -> Tensor:
    """Last hidden states (B, T, d) at text slots. states {layer: (M, N, dv)} of the rows' pictures, one after the other; None for text
    alone. Raises ValueError for more or fewer pictures than the slots hold."""
    where = layout.visual_real
    text = decoder.get_input_embeddings()(layout.ids)
    if states is None:
        visual = text.new_zeros(*where.shape, text.shape[-1])
        internal.pictures = None
        if torch.is_grad_enabled():  # other processes wait for the gradients of all that is new
            text = text + sum((p.sum() * 0 for p in fusion.parameters()), text.new_zeros(())).to(text.dtype)
        return dense_hidden(decoder, layout, visual, text)
    tokens, extras = fusion(states)
    if int(where.sum()) != tokens.shape[0] * tokens.shape[1]:
        raise ValueError(f"{int(where.sum())} visual slots for {tokens.shape[0]} pictures of {tokens.shape[1]} tokens")
    visual = tokens.new_zeros(*where.shape, tokens.shape[-1]).masked_scatter(where[..., None], tokens).to(text.dtype)
    if fusion.points:
        slots = torch.cat([where, torch.zeros_like(layout.real)], 1)
        internal.pictures = Pictures.of(extras, slots, torch.cat([layout.visual_positions, layout.positions], 1))
    return dense_hidden(decoder, layout, visual, text)
