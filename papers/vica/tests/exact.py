"""What is true by construction, looked at on a small random model: what is counted runs, and two forms of one attention agree."""

from __future__ import annotations

import torch

from common.flops import counted
from common.models import load, tiny
from common.vision.layout import split

from .. import method
from ..analytic import Shape, head_flops, prefill_flops
from ..reference import masked_reference

PREFIX, VISUAL, SUFFIX, IMAGE = 5, 24, 7, 3


def _case(dtype: torch.dtype = torch.float32):
    """(Llama with grouped keys, layout of one prompt with a picture in it, visual embeddings)."""
    model = load(tiny("llama")).model.to(dtype)
    draw = torch.Generator().manual_seed(0)
    before, after = (torch.randint(4, 90, (1, n), generator=draw) for n in (PREFIX, SUFFIX))
    layout = split(torch.cat([before, torch.full((1, VISUAL), IMAGE), after], 1), IMAGE)
    return model, layout, torch.randn(1, VISUAL, model.config.hidden_size, generator=draw).to(dtype)


@torch.no_grad()
def uncounted_flops(layers: tuple[int, ...] = (0, 2)) -> int:
    """Sum over ways to run a prompt of |FLOPs that ran - FLOPs by formula|; the head reads one position."""
    model, layout, visual = _case()
    method.check_model(model)  # what is probed once is not counted
    shape, text = Shape.of(model.config), PREFIX + SUFFIX
    embeds, places = model.get_input_embeddings()(layout.ids), method.Places(layout.positions, layout.visual_positions)
    whole = torch.cat([embeds[:, :PREFIX], visual, embeds[:, PREFIX:]], 1)

    def vica(update: str, cache: bool, keep: dict | None = None):
        return lambda: method.forward(model, method.ViCAConfig(layers, update), embeds, places, visual,
                                      method.ViCACache() if cache else None, logits_to_keep=1, keep=keep)

    all_kept = {layers[0]: torch.ones(1, VISUAL, dtype=torch.bool)}

    k, split_form = len(layers), dict(prefix=PREFIX, split=True)
    ways = {
        "dense": (lambda: model(inputs_embeds=whole, logits_to_keep=1), prefill_flops(shape, VISUAL, text)),
        "text": (lambda: model(inputs_embeds=embeds, logits_to_keep=1), prefill_flops(shape, 0, text)),
        "vica, one mask": (vica("full", True, all_kept), prefill_flops(shape, VISUAL, text, k)),
        "vica, two calls, cached": (vica("full", True), prefill_flops(shape, VISUAL, text, k, **split_form)),
        "vica, two calls": (vica("full", False), prefill_flops(shape, VISUAL, text, k, **split_form)),
        "vica, frozen prefix": (vica("frozen", False), prefill_flops(shape, VISUAL, text, k, frozen=True, **split_form)),
    }
    return sum(abs(counted(run).total - wanted - head_flops(shape)) for run, wanted in ways.values())


@torch.no_grad()
def differing_logits(layers: tuple[int, ...] = (0, 2), tolerance: float = 1e-10) -> int:
    """Logits of the form without masks (bottom-right causal) that are not those of the masked definition, fp64, both prefixes."""
    model, layout, visual = _case(torch.float64)
    embeds, wrong = model.get_input_embeddings()(layout.ids), 0
    for update in ("full", "frozen"):
        config = method.ViCAConfig(layers, update)
        ours = method.forward(model, config, embeds, method.Places(layout.positions, layout.visual_positions), visual).logits
        wrong += int(((ours - masked_reference(model, config, layout, visual)).abs() > tolerance).sum())
    return wrong
