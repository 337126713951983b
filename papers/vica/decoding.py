"""Answers by ViCA: greedy decoding of a batch, every new token looking at the picture in the layers of C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.modes import eval_mode
from common.vision.visual_tokens import last_slots

from .method import Places, ViCACache, ViCAConfig, VisualKV, hidden_states, logits


@torch.no_grad()
def generate(language_model: nn.Module, config: ViCAConfig, layout: Any, visual: Tensor | VisualKV | None, max_new_tokens: int,
             eos_token_id: int | Sequence[int] | Tensor | None = None, embeds: Tensor | None = None) -> list[list[int]]:
    """Greedy continuation of each row, up to and with the first of its end tokens. Errors as `method.forward`.

    layout: `Places` with all fields and the text's ids (B, T) (common/vision/layout.py). visual (B, N, d), or what was kept of a
    picture that was seen before. eos_token_id: one end token, several, or none. embeds (B, T, d): of the text, if not the model's own
    of its ids. Every new token sees the picture in the layers of C, and goes on with the segment of its row's last slot; padding may
    stand left or right. A model in training mode answers without dropout, and is in training mode again behind it.
    """
    with eval_mode(language_model):
        return _greedy(language_model, config, layout, visual, max_new_tokens, eos_token_id, embeds)


def _greedy(language_model: nn.Module, config: ViCAConfig, layout: Any, visual: Tensor | VisualKV | None, max_new_tokens: int,
            eos_token_id: int | Sequence[int] | Tensor | None, embeds: Tensor | None) -> list[list[int]]:
    ends = [] if eos_token_id is None else torch.as_tensor(eos_token_id).flatten().tolist()
    embed, cache, last = language_model.get_input_embeddings(), ViCACache(), last_slots(layout)
    out = hidden_states(language_model, config, embed(layout.ids) if embeds is None else embeds, layout, visual, cache)
    rows = torch.arange(len(last), device=last.device)
    where, real = (visual.positions, visual.real) if isinstance(visual, VisualKV) else (layout.visual_positions, layout.visual_real)
    position = layout.positions[rows, last]
    segments = None if layout.segments is None else layout.segments[rows, last][:, None]  # one of segment 0 would not see its question
    if where is not None and where.shape[1]:  # a picture that is last: the answer stands behind it
        position = torch.maximum(position, (where if real is None else torch.where(real, where, -1)).amax(1))
    token = logits(language_model, out[rows, last]).argmax(-1)
    written, done = [[] for _ in rows], torch.zeros_like(last, dtype=torch.bool)
    for _ in range(max_new_tokens):
        for row in (~done).nonzero()[:, 0].tolist():
            written[row].append(int(token[row]))
        done |= torch.isin(token, token.new_tensor(ends))
        if bool(done.all()) or max(map(len, written)) >= max_new_tokens:
            break
        position = position + 1
        out = hidden_states(language_model, config, embed(token[:, None]), Places(position[:, None], segments=segments),
                            past_key_values=cache)
        token = logits(language_model, out[:, -1]).argmax(-1)
    return written
