"""ViCA by its definition (spec 3.4), on the whole sequence with masks: slow, and what the fast path is tested against.

The stock decoder runs over text and visual slots together. Hooks put every layer's own mask in, and take away what visual
slots would become: their states are the embeddings again at the input of each layer because neither attention nor FFN adds
to them. `frozen_dense` keeps the dense model's attention edges and only freezes (the paper's section 3 finding).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from common.vision.layout import Layout, joint

from .method import ViCAConfig

Freeze = Literal["none", "ffn", "attention", "all"]


@contextmanager
def silenced(decoder: nn.Module, attention: Tensor | None, ffn: Tensor | None) -> Iterator[None]:
    """The attention (FFN) output of slots where the mask (B, S) is True is zero in every layer."""

    def hook(mask: Tensor):
        def act(module, args, output):
            if isinstance(output, tuple):
                return (output[0].masked_fill(mask[..., None], 0), *output[1:])
            return output.masked_fill(mask[..., None], 0)

        return act

    hooks = []
    for layer in decoder.get_decoder().layers:
        if attention is not None:
            hooks.append(layer.self_attn.register_forward_hook(hook(attention)))
        if ffn is not None:
            hooks.append(layer.mlp.register_forward_hook(hook(ffn)))
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _as_added(mask: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill_(~mask, torch.finfo(like.dtype).min)


def masked_reference(decoder: nn.Module, config: ViCAConfig, layout: Layout, visual: Tensor,
                     keep: dict[int, Tensor] | None = None) -> Tensor:
    """Logits (B, T, V) at text slots. keep {layer: (B, N)}: visual keys that a layer of C still sees."""
    embeds, positions, mask, is_visual = joint(layout, decoder.get_input_embeddings()(layout.ids), visual)
    n = visual.shape[1]
    own = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    idle = is_visual
    if config.prefix_update == "frozen" and n:
        far = torch.iinfo(positions.dtype).max
        first = layout.visual_positions.masked_fill(~layout.visual_real, far).amin(1, keepdim=True)
        idle = is_visual | (layout.visual_real.any(1, keepdim=True) & (positions < first))

    def put_mask(index: int):
        def act(module, args, kwargs):
            here = mask.clone()
            if index not in config.cross_layers:
                here[..., :n] = False
            elif keep is not None and index in keep:
                here[..., :n] &= keep[index][:, None, None]
            here |= own
            kwargs["attention_mask"] = _as_added(here, embeds) if decoder.config._attn_implementation == "eager" else here
            return args, kwargs

        return act

    hooks = [layer.register_forward_pre_hook(put_mask(i), with_kwargs=True) for i, layer in enumerate(decoder.get_decoder().layers)]
    try:
        with silenced(decoder, idle, is_visual):
            out = decoder.get_decoder()(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
    finally:
        for each in hooks:
            each.remove()
    return decoder.lm_head(out.last_hidden_state[:, n:])


def frozen_dense(decoder: nn.Module, layout: Layout, visual: Tensor, freeze: Freeze = "all") -> Tensor:
    """Last hidden states (B, T, d) at text slots of the dense model, with parts of the work on visual slots left out.

    freeze: "none"; "ffn": no FFN on visual slots; "attention": they read nothing; "all": neither, which is ViCA with all layers.
    """
    embeds, positions, mask, is_visual = joint(layout, decoder.get_input_embeddings()(layout.ids), visual)
    if decoder.config._attn_implementation == "eager":
        mask = _as_added(mask, embeds)
    with silenced(decoder, is_visual if freeze in ("attention", "all") else None, is_visual if freeze in ("ffn", "all") else None):
        out = decoder.get_decoder()(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
    return out.last_hidden_state[:, visual.shape[1] :]
