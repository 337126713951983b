"""PyramidDrop on top of ViCA, at inference (paper: ViCA + PDrop; spec 3.7).

Visual tokens that are not looked at any more need no keys in later layers of C. At each drop the tokens are ranked by the
attention of the last prompt token, mean over heads, in the last layer of C before it; the rest is gone for good and what is
kept stays at its positions. The paper's schedule is not known; its 0.16 TFLOPs ask for a mean keep of about a half.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from . import method

# 7B, a mean of exactly 0.5 over the eight layers (spec 3.7): one schedule that gives the paper's figures.
PAPER_SCHEDULE = {0: 1.0, 1: 1.0, 7: 0.5, 8: 0.5, 9: 0.25, 10: 0.25, 11: 0.25, 14: 0.25}


def schedule(layers: tuple[int, ...], mean_keep: float) -> dict[int, float]:
    """{layer of C: share kept} with the given mean over the layers: all in the first, which ranks, then halving to a floor.

    Where halving alone is above the mean, the layers behind the first share what is left evenly.
    Raises ValueError for a mean of 1/K or less over K layers: nothing would be left behind the first.
    """
    k = len(layers)
    if not 1 / max(k, 1) < mean_keep <= 1:
        raise ValueError(f"mean keep {mean_keep} over {k} layers: above {1 / max(k, 1):.2f}, as the first layer sees all, and up to 1")
    rest = mean_keep * k - 1
    shares = [rest / (k - 1)] * (k - 1) if k > 1 else []
    for halved in range(1, k):  # the first `halved` of them halve, the others lie at the floor
        floor = (rest - sum(0.5**i for i in range(1, halved))) / (k - halved)
        if 0.5**halved <= floor <= 0.5 ** (halved - 1):
            shares = [0.5**i for i in range(1, halved)] + [floor] * (k - halved)
    return dict(zip(sorted(layers), [1.0, *shares]))


def mean_keep(of: dict[int, float]) -> float:
    return sum(of.values()) / len(of)


def ranked(decoder: nn.Module, config: method.ViCAConfig, layout, visual: Tensor, of: dict[int, float]) -> dict[int, Tensor]:
    """{layer: (B, N) bool} for `method.forward(keep=...)`: by attention, falling with the schedule."""
    alive, keep, before = layout.visual_real, {}, None
    for layer, share in sorted(of.items()):
        count = math.ceil(share * visual.shape[1])
        if count < int(alive.sum(1).max()):
            if before is None:
                raise ValueError(f"the first layer of C, {layer}, keeps {share}: nothing has ranked the tokens yet")
            score = last_attention(decoder, config, layout, visual, keep, before)
            alive = _highest(score.masked_fill(~alive, -1.0), count) & alive
        keep[layer], before = alive, layer
    return keep


def by_lot(real: Tensor, of: dict[int, float], seed: int = 0) -> dict[int, Tensor]:
    """The same numbers, drawn evenly."""
    score = torch.rand(real.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(~real, -1.0)
    return {layer: _highest(score, math.ceil(share * real.shape[1])) & real for layer, share in sorted(of.items())}


def _highest(score: Tensor, count: int) -> Tensor:
    order = score.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)


@torch.no_grad()
def last_attention(decoder: nn.Module, config: method.ViCAConfig, layout, visual: Tensor, keep: dict[int, Tensor], layer: int) -> Tensor:
    """(B, N): attention of the last real text slot to the visual keys in a layer of C, mean over heads, in fp32."""
    caught: dict[str, Tensor] = {}

    def catch(module, args, output):
        caught["maps"] = output[1]

    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")  # the only one that gives its maps
    hook = decoder.get_decoder().layers[layer].self_attn.register_forward_hook(catch)
    try:
        method.hidden_states(decoder, config, decoder.get_input_embeddings()(layout.ids), layout, visual, keep=keep)
    finally:
        hook.remove()
        decoder.set_attn_implementation(before)
    slots = torch.arange(1, layout.real.shape[1] + 1, device=layout.real.device)
    last = (layout.real.long() * slots).argmax(1)
    return caught["maps"].float().mean(1)[torch.arange(len(last)), last, : visual.shape[1]]
