"""What ViCA is held against, by a `Layout`: its definition (spec 3.4), and a dense model of which visual tokens are frozen.

`masked_reference` is `method.definition` for whoever has a layout. `frozen_dense` keeps the dense model's attention edges and
only freezes: the finding that led to ViCA (the paper's section 3).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from common.vision.layout import Layout, joint

from . import method
from .calls import silenced
from .masks import as_read

Freeze = Literal["none", "ffn", "attention", "all"]


def masked_reference(decoder: nn.Module, config: method.ViCAConfig, layout: Layout, visual: Tensor,
                     keep: dict[int, Tensor] | None = None) -> Tensor:
    """Logits (B, T, V) at text slots. keep {layer: (B, N)}: visual keys that a layer of C still sees."""
    return method.definition(decoder, config, decoder.get_input_embeddings()(layout.ids), layout, visual, keep)


def frozen_dense(decoder: nn.Module, layout: Layout, visual: Tensor, freeze: Freeze = "all") -> Tensor:
    """Last hidden states (B, T, d) at text slots of the dense model, with parts of the work on visual slots left out.

    freeze: "none"; "ffn": no FFN on visual slots; "attention": they read nothing; "all": neither, which is ViCA with all layers.
    """
    embeds, positions, mask, is_visual = joint(layout, decoder.get_input_embeddings()(layout.ids), visual)
    mask = as_read(mask, decoder.config._attn_implementation, embeds)
    unread, unfed = (is_visual if freeze in (part, "all") else None for part in ("attention", "ffn"))
    with silenced(decoder.get_decoder(), unread, unfed):
        out = decoder.get_decoder()(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
    return out.last_hidden_state[:, visual.shape[1] :]
