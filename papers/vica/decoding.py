"""Answers by ViCA: greedy decoding of a batch, every new token looking at the picture in the layers of C."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .method import Places, ViCACache, ViCAConfig, hidden_states


@torch.no_grad()
def generate(language_model: nn.Module, config: ViCAConfig, layout: Any, visual: Tensor | None, max_new_tokens: int,
             eos_token_id: int | None = None) -> list[list[int]]:
    """Greedy continuation of each row. layout: `Places` with all fields and the text's ids (B, T) (common/vision/layout.py).

    Every new token sees the picture in the layers of C; padding may stand left or right.
    """
    embed, cache = language_model.get_input_embeddings(), ViCACache()
    slots = torch.arange(layout.real.shape[1], device=layout.real.device)
    last = (layout.real.long() * (slots + 1)).argmax(1)
    out = hidden_states(language_model, config, embed(layout.ids), layout, visual, cache)
    rows = torch.arange(len(last), device=last.device)
    ends = torch.where(layout.visual_real, layout.visual_positions, -1).amax(1) if layout.visual_positions.shape[1] else -1
    position = torch.maximum(layout.positions[rows, last], torch.as_tensor(ends, device=last.device))
    token = language_model.lm_head(out[rows, last]).argmax(-1)
    written, done = [[] for _ in rows], torch.zeros_like(last, dtype=torch.bool)
    for _ in range(max_new_tokens):
        for row in (~done).nonzero()[:, 0].tolist():
            written[row].append(int(token[row]))
        if eos_token_id is not None:
            done |= token == eos_token_id
        if bool(done.all()) or max(map(len, written)) >= max_new_tokens:
            break
        position = position + 1
        out = hidden_states(language_model, config, embed(token[:, None]), Places(position[:, None]), past_key_values=cache)
        token = language_model.lm_head(out[:, -1]).argmax(-1)
    return written
