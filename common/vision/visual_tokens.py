"""Which visual tokens stay: ranked by attention or by lot, dropped before the model or on a schedule over its layers.

    score = attention_to_pictures(decoder, layout, visual, layers=[2])[2]     # (B, N), a dense pass up to that layer
    fewer = without(layout, visual, kept_by(score, 64))                       # layout and embeddings of 64 tokens a row
    shares = schedule((8, 16, 24), 0.5)                                       # {layer: share it still sees}, PyramidDrop's kind

What is kept stays at its positions in the whole sequence: a token that is dropped leaves a gap. How a method drops tokens
inside the model is its own business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .layout import Layout, additive, joint


# -- ranking -----------------------------------------------------------------------------------------------
def last_slots(layout: Layout) -> Tensor:
    """(B,) index of each row's last real text slot: the one that answers."""
    return (layout.real.long() * torch.arange(1, layout.real.shape[1] + 1, device=layout.real.device)).argmax(1)


class _Enough(Exception):
    """The last layer that is asked for has run."""


@torch.no_grad()
def attention_to_pictures(decoder: nn.Module, layout: Layout, visual: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """{layer: (B, N)}: attention of the last text slot to each visual token in a dense pass, mean over heads, of these layers alone.

    decoder: a stock *ForCausalLM, run by its eager attention up to the last of the layers and left as it was. visual (B, N, d).
    Raises ValueError for a layer that it does not have.
    """
    inside = decoder.get_decoder()
    blocks, config, before = inside.layers, inside.config, inside.config._attn_implementation
    if any(not 0 <= k < len(blocks) for k in layers):
        raise ValueError(f"layers {sorted(layers)}: {type(decoder).__name__} has 0 to {len(blocks) - 1}")
    if not layers:
        return {}
    embeds, positions, mask, _ = joint(layout, decoder.get_input_embeddings()(layout.ids), visual)
    mask = additive(mask, embeds)
    rows, answers, found = torch.arange(len(embeds), device=embeds.device), visual.shape[1] + last_slots(layout), {}

    def keep(layer: int):
        def act(module, args, output):
            found[layer] = output[1].mean(1)[rows, answers, : visual.shape[1]]
            if len(found) == len(set(layers)):
                raise _Enough

        return act

    # Eager attention is the only one that gives its maps; only the decoder's is changed, for a vision tower has its own.
    config._attn_implementation_internal = "eager"
    hooks = [blocks[k].self_attn.register_forward_hook(keep(k)) for k in set(layers)]
    try:
        inside(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
        config._attn_implementation_internal = before
    return {k: found[k] for k in layers}


def random_scores(like: Tensor, seed: int) -> Tensor:
    """Scores of the shape of `like` and on its device, drawn evenly: the order of tokens by lot, the same on any machine."""
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.device)


# -- dropping ----------------------------------------------------------------------------------------------
def kept_by(score: Tensor, count: int | Tensor) -> Tensor:
    """(B, N) bool: the `count` highest scores of each row; of equal ones the first. count: of all rows, or (B,) of each."""
    order = score.argsort(dim=1, descending=True, stable=True)
    counts = torch.as_tensor(count, device=score.device).reshape(-1, 1)
    chosen = (torch.arange(score.shape[1], device=score.device) < counts).expand_as(order)
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, chosen)


def without(layout: Layout, visual: Tensor, keep: Tensor) -> tuple[Layout, Tensor]:
    """Layout and embeddings with the kept visual tokens only, at their own positions. keep (B, N) bool, visual (B, N, d).

    Raises ValueError unless equally many are kept in each row.
    """
    counts = keep.sum(1)
    if bool((counts != counts[0]).any()):
        raise ValueError(f"kept visual tokens by row: {counts.tolist()}; a batch needs equally many in each")
    index = keep.nonzero()[:, 1].view(len(keep), int(counts[0]))
    return (replace(layout, visual_positions=layout.visual_positions.gather(1, index), visual_real=layout.visual_real.gather(1, index)),
            visual.gather(1, index[..., None].expand(-1, -1, visual.shape[-1])))


def schedule(layers: tuple[int, ...], mean_keep: float) -> dict[int, float]:
    """{layer: share kept} with the given mean over the layers: all in the first, which ranks, then halving to a floor.

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
