"""What ViCA is compared with: fewer visual tokens for a dense model, and other choices of layers.

Pruning here is training-free and generous: the ranking sees a whole dense pass that is not charged for, and the tokens
that are dropped never enter the model. So `count` visual tokens cost what the paper's "equivalent tokens" cost, and no
pruning method that ranks by this attention can keep the same number and pay less.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from common.vision.layout import Layout, joint


def last_slots(layout: Layout) -> Tensor:
    """(B,) index of each row's last real text slot: the one that answers."""
    return (layout.real.long() * torch.arange(1, layout.real.shape[1] + 1, device=layout.real.device)).argmax(1)


@torch.no_grad()
def attention_to_pictures(decoder: nn.Module, layout: Layout, visual: Tensor, layers: Iterable[int]) -> dict[int, Tensor]:
    """{layer: (B, N)}: attention of the last text slot to each visual token in a dense pass, mean over heads."""
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")  # the only one that gives its maps
    try:
        embeds, positions, mask, _ = joint(layout, decoder.get_input_embeddings()(layout.ids), visual)
        mask = torch.zeros(mask.shape, dtype=embeds.dtype, device=embeds.device).masked_fill_(~mask, torch.finfo(embeds.dtype).min)
        maps = decoder.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False,
                             output_attentions=True).attentions
    finally:
        decoder.set_attn_implementation(before)
    rows = torch.arange(len(embeds), device=embeds.device)
    at = visual.shape[1] + last_slots(layout)
    return {layer: maps[layer].mean(1)[rows, at, : visual.shape[1]] for layer in layers}


def kept_by(score: Tensor, count: int) -> Tensor:
    """(B, N) bool: the `count` highest scores of each row; of equal ones the first."""
    order = score.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)


def random_scores(like: Tensor, seed: int) -> Tensor:
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed))


def without(layout: Layout, visual: Tensor, keep: Tensor) -> tuple[Layout, Tensor]:
    """Layout and embeddings with the kept visual tokens only (equally many in each row), at their own positions."""
    count = int(keep[0].sum())
    index = keep.nonzero()[:, 1].view(len(keep), count)
    return (replace(layout, visual_positions=layout.visual_positions.gather(1, index), visual_real=layout.visual_real.gather(1, index)),
            visual.gather(1, index[..., None].expand(-1, -1, visual.shape[-1])))


# -- sets of layers ----------------------------------------------------------------------------------------
def last_layers(n_layers: int, count: int) -> tuple[int, ...]:
    return tuple(range(n_layers - count, n_layers))


def uniform_layers(n_layers: int, count: int) -> tuple[int, ...]:
    """Evenly spread, the first one included."""
    return tuple(round(i * n_layers / count) for i in range(count))


def random_layers(n_layers: int, count: int, seed: int) -> tuple[int, ...]:
    return tuple(sorted(random.Random(seed).sample(range(n_layers), count)))
