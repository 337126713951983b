"""What one call prepares for its layers, and how it gets at them: masks, and hooks on an unchanged decoder.

    Call, plan    what the layers of C see of the picture in a call of the fast path, and all others of the text
    attending     the decoder runs by another attention function, with a hook before some layers, for the time of a call
    silenced      slots whose states stay what they are, for the definition
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .masks import as_read, before_picture, visible
from .unmasked import text_before_picture


@dataclass
class Call:
    """What the layers of one call need. It travels through the decoder's keyword arguments, so that layers which are run
    again in the backward pass (gradient checkpointing) find it again."""

    layers: frozenset[int] = frozenset()  # those of C, where there is a picture
    positions: Tensor | None = None  # (B, N) of the picture
    real: Tensor | None = None
    kv: Any = None  # a VisualKV that is at hand; else each layer makes its own by `rotary` before it runs
    rotary: tuple[Tensor, Tensor] | None = None
    made: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    joint_masks: dict[int, Tensor] = field(default_factory=dict)  # of the layers of C: (B, 1, T, N + keys of text)
    idle: Tensor | None = None  # (B, T): rows without attention output
    split: int | None = None  # text slots before the picture, where no mask is needed (unmasked.py)


def plan(call: Call, places: Any, embeds: Tensor, base: str, cache: Any = None, keep: dict[int, Tensor] | None = None,
         frozen: bool = False) -> Tensor:
    """The mask of the layers that see text alone; `call` learns what those of C see, and the cache where the new text stands.

    places, cache: `method.Places`, `method.ViCACache`. base: sdpa or eager. keep {layer: (B, N)}: visual keys that a layer of C
    still sees. frozen: text before the picture gets no attention output.
    """
    positions, width, picture = places.positions, places.positions.shape[1], call.positions is not None
    real = torch.ones_like(positions, dtype=torch.bool) if places.real is None else places.real
    segments = torch.zeros_like(positions) if places.segments is None else places.segments
    keys = (positions, real, segments) if cache is None else cache.extend(positions, real, segments)

    if frozen and picture:
        call.idle = before_picture(positions, call.positions, call.real)
    plain = places.segments is None and places.visual_real is None and keep is None and cache is None and bool(real.all())
    if plain and base == "sdpa" and call.layers and width > 1:
        call.split = text_before_picture(positions, call.positions, call.real)
    if call.split is not None:  # a mask must be given all the same: without one transformers reads the gap in the positions as a new text
        return embeds.new_zeros(1, 1, 1, 1, dtype=torch.bool)

    mask = visible(positions, segments, *keys)
    own = torch.arange(width, device=mask.device)
    mask[:, own, own + keys[0].shape[1] - width] = True  # padding sees itself: its softmax stays finite
    if call.layers and call.positions is not None and call.real is not None:
        look = call.real[:, None, :] & (call.positions[:, None, :] <= positions[:, :, None])
        whole = as_read(torch.cat([look, mask], 2)[:, None], base, embeds)
        call.joint_masks = dict.fromkeys(call.layers, whole)
        for layer, kept in (keep or {}).items():  # the others see all of the picture
            call.joint_masks[layer] = as_read(torch.cat([look & kept[:, None], mask], 2)[:, None], base, embeds)
    return as_read(mask[:, None], base, embeds)


@contextmanager
def attending(language_model: nn.Module, prefix: str, layers: Iterable[int], first: Callable) -> Iterator[None]:
    """The decoder runs by the attention registered as prefix + its own; `first`, a forward pre-hook, before each of the layers."""
    decoder, before = language_model.get_decoder(), language_model.config._attn_implementation
    if not before.startswith(prefix):
        language_model.set_attn_implementation(prefix + before)
    runs_again = decoder.training and getattr(decoder, "is_gradient_checkpointing", False)
    kept: dict[int, Any] = decoder.__dict__.setdefault("_vica_hooks", {})  # of calls whose layers the backward pass runs again
    hooks = {k: decoder.layers[k].register_forward_pre_hook(first, with_kwargs=True) for k in layers if k not in kept}
    try:
        yield
    finally:
        if runs_again:  # the backward pass needs both; one hook a layer serves every call, for a call brings its own data
            kept.update(hooks)
        else:
            for hook in (*hooks.values(), *kept.values()):
                hook.remove()
            kept.clear()
            if not before.startswith(prefix):
                language_model.set_attn_implementation(before)


@contextmanager
def silenced(decoder: nn.Module, attention: Tensor | None, ffn: Tensor | None) -> Iterator[None]:
    """In every layer the attention (FFN) output of slots where the mask (B, S) is True is zero: their state stays what it is."""

    def hook(mask: Tensor):
        def act(module, args, output):
            if isinstance(output, tuple):
                return (output[0].masked_fill(mask[..., None], 0), *output[1:])
            return output.masked_fill(mask[..., None], 0)

        return act

    modules = [(layer.self_attn, attention) for layer in decoder.layers] + [(layer.mlp, ffn) for layer in decoder.layers]
    hooks = [module.register_forward_hook(hook(mask)) for module, mask in modules if mask is not None]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
