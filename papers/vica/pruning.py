"""PyramidDrop on top of ViCA, at inference (paper: ViCA + PDrop; spec 3.7).

Visual tokens that are not looked at any more need no keys in later layers of C. At each drop the tokens are ranked by the
attention of the last prompt token, mean over heads, in the last layer of C before it; the rest is gone for good and what is
kept stays at its positions. The paper's schedule is not known; its 0.16 TFLOPs ask for a mean keep of about a half.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.vision.visual_tokens import kept_by, last_slots, random_scores

from . import method
from .layers import attending_by, attentions

# 7B, a mean of exactly 0.5 over the eight layers (spec 3.7): one schedule that gives the paper's figures.
PAPER_SCHEDULE = {0: 1.0, 1: 1.0, 7: 0.5, 8: 0.5, 9: 0.25, 10: 0.25, 11: 0.25, 14: 0.25}


def mean_keep(of: dict[int, float]) -> float:
    return sum(of.values()) / len(of)


def ranked(decoder: nn.Module, config: method.ViCAConfig, layout, visual: Tensor, of: dict[int, float]) -> dict[int, Tensor]:
    """{layer: (B, N) bool} for `method.forward(keep=...)`: by attention, falling with the schedule.

    of {layer of C: share of the visual tokens that it sees}. Raises ValueError for other layers than those of C (one left out would see
    what is gone), for a share that is none or rises, and for a first layer that drops.
    """
    check_schedule(of, config)
    real, keep, before = layout.visual_real, {}, None
    alive = real
    for layer, share in sorted(of.items()):
        counts = kept_counts(real, share)
        if bool((counts < alive.sum(1)).any()):
            if before is None:
                raise ValueError(f"the first layer of C, {layer}, keeps {share}: nothing has ranked the tokens yet")
            score = last_attention(decoder, config, layout, visual, keep, before)
            alive = kept_by(score.masked_fill(~alive, -1.0), counts) & alive
        keep[layer], before = alive, layer
    return keep


def check_schedule(of: dict[int, float], config: method.ViCAConfig) -> None:
    if sorted(of) != list(config.cross_layers):
        raise ValueError(f"a schedule for layers {sorted(of)}: it needs a share for each that looks, {list(config.cross_layers)}")
    shares = [of[layer] for layer in sorted(of)]
    if any(not 0 < share <= 1 for share in shares) or any(later > share for share, later in pairwise(shares)):
        raise ValueError(f"a schedule of shares {shares}: each above 0, at most 1 and none above the one before")


def kept_counts(real: Tensor, share: float) -> Tensor:
    """(B,): how many visual tokens of each row a share is, rounded up; a row's padding has none."""
    return torch.tensor([math.ceil(share * n) for n in real.sum(1).tolist()], device=real.device)


def by_lot(real: Tensor, of: dict[int, float], seed: int = 0) -> dict[int, Tensor]:
    """The same numbers, drawn evenly."""
    score = random_scores(real, seed).masked_fill(~real, -1.0)
    return {layer: kept_by(score, kept_counts(real, share)) & real for layer, share in sorted(of.items())}


@torch.no_grad()
def last_attention(decoder: nn.Module, config: method.ViCAConfig, layout, visual: Tensor, keep: dict[int, Tensor], layer: int) -> Tensor:
    """(B, N): attention of the last real text slot to the visual keys in a layer of C, mean over heads, in fp32."""
    caught: dict[str, Tensor] = {}

    def catch(module, args, output):
        caught["maps"] = output[1]

    method.check_model(decoder, config)
    block = attentions(decoder.get_decoder())[layer]
    hook = block.register_forward_hook(catch)
    try:
        with attending_by(decoder.get_decoder(), "eager"):  # the only one that gives its maps
            method.hidden_states(decoder, config, decoder.get_input_embeddings()(layout.ids), layout, visual, keep=keep)
    finally:
        hook.remove()
    last = last_slots(layout)
    return caught["maps"].float().mean(1)[torch.arange(len(last)), last, : visual.shape[1]]
