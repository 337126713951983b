"""What one call prepares for its layers, and how it gets at them: masks made when a layer asks, and hooks on an unchanged decoder.

    Call          the picture, the text that comes and that is cached, and which keys a layer sees of both
    attending     for the time of a call, the decoder's attention modules run by ours, and a hook stands before the layers of C
    silenced      slots whose states stay what they are, for a dense model with parts of its work left out
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError

from .layers import PREFIX, Entry, attentions, checkpoints, reentrant, runs_again, stack
from .masks import as_read, before_picture, visible, windows
from .unmasked import text_before_picture


@dataclass
class Call:
    """What the layers of one call need. It travels through the decoder's keyword arguments, so that layers which are run
    again in the backward pass (gradient checkpointing) find it again."""

    base: str  # the stock attention: sdpa or eager
    layers: frozenset[int] = frozenset()  # those of C, where there is a picture
    positions: Tensor | None = None  # (B, N) of the picture
    real: Tensor | None = None
    kv: Any = None  # a VisualKV that is at hand; else each layer makes its own from `entries` before it runs
    entries: list[Entry] | None = None  # by layer, what it is called with for the picture
    made: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    keep: dict[int, Tensor] = field(default_factory=dict)  # (B, N): visual keys that a layer of C still sees
    idle: Tensor | None = None  # (B, T): slots that get no attention output
    split: int | None = None  # text slots before the picture, where no mask is needed (unmasked.py)
    windows: list[int | None] = field(default_factory=list)  # by layer
    queries: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))  # positions, segments (B, T) of the text that comes
    keys: tuple[Tensor, Tensor, Tensor] = (torch.empty(0),) * 3  # positions, real, segments (B, S) of all text
    masks: dict[tuple, Tensor] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)  # layers whose attention has asked for this

    def mask(self, layer: int, like: Tensor) -> Tensor:
        """(B, 1, T, S) of a layer that sees text alone, (B, 1, T, N + S) of one that looks, as its attention reads it."""
        looks, window = layer in self.layers, self.windows[layer]
        name = (looks, window, layer if layer in self.keep else None)
        if name not in self.masks:
            positions, segments = self.queries
            key_positions, key_real, key_segments = self.keys
            width = positions.shape[1]
            seen = visible(positions, segments, key_positions, key_real, key_segments, window)
            own = torch.arange(width, device=seen.device)
            seen[:, own, own + key_positions.shape[1] - width] = True  # padding sees itself: its softmax stays finite
            if looks:
                look = visible(positions, segments, self.positions, self.real, torch.zeros_like(self.positions), window)
                if layer in self.keep:
                    look = look & self.keep[layer][:, None]
                seen = torch.cat([look, seen], 2)
            self.masks[name] = as_read(seen[:, None], self.base, like)
        return self.masks[name]


def plan(call: Call, decoder: nn.Module, places: Any, cache: Any = None, keep: dict[int, Tensor] | None = None,
         frozen: bool = False) -> None:
    """The call learns what its layers see, and the cache where the new text stands.

    places, cache: `method.Places`, `method.ViCACache`. keep {layer: (B, N)}: visual keys that a layer of C still sees. frozen: text
    before the picture gets no attention output.
    """
    positions, picture = places.positions, call.positions is not None
    real = torch.ones_like(positions, dtype=torch.bool) if places.real is None else places.real
    segments = torch.zeros_like(positions) if places.segments is None else places.segments
    first = cache is None or cache.positions is None
    call.queries, call.windows, call.keep = (positions, segments), windows(decoder.config), keep or {}
    call.keys = (positions, real, segments) if cache is None else cache.extend(positions, real, segments)
    if frozen and picture:
        call.idle = before_picture(positions, call.positions, call.real)
    if first and call.layers and not keep and positions.shape[1] > 1 and call.base == "sdpa" and not any(call.windows):
        known = getattr(places, "before", None)  # a GPU need not be waited for, as where one looks
        if known is None and bool(real.all()) and not bool(segments.any()):
            known = text_before_picture(positions, call.positions, call.real)
        call.split = known


# -- hooks -------------------------------------------------------------------------------------------------
@contextmanager
def attending(decoder: nn.Module, call: Call, first: Callable) -> Iterator[None]:
    """The decoder's attention modules run by ours where a `Call` is among their arguments, and by the stock one for whoever else calls.

    first: a forward pre-hook of the layers of C. With gradient checkpointing the backward pass runs layers again, and other calls, an
    answer among them, may come before it: the hooks stay until a call finds it turned off. A pass that is not ours they leave as it is.
    Raises ModelError for reentrant checkpointing, to which the picture would be a constant.
    """
    layers, blocks = stack(decoder)[1], {i: block for i, block in enumerate(attentions(decoder)) if block is not None}
    kept: dict = decoder.__dict__.setdefault("_vica_hooks", {})
    if not checkpoints(decoder):
        _remove(kept)
    elif torch.is_grad_enabled() and reentrant(decoder):
        raise ModelError("ViCA: gradient checkpointing is reentrant, which gives the picture no gradient: turn it on by "
                         'gradient_checkpointing_enable({"use_reentrant": False})')
    hooks = kept if runs_again(decoder) else {}
    for k in call.layers if call.entries else ():
        if ("picture", k) not in kept:
            hooks["picture", k] = [layers[k].register_forward_pre_hook(first, with_kwargs=True)]
    for i, block in blocks.items():
        if ("attention", i) not in kept:
            hooks["attention", i] = [block.register_forward_pre_hook(_begin, with_kwargs=True),
                                     block.register_forward_hook(_end, with_kwargs=True, always_call=True)]
        _own_again(block)
        block.__dict__["_vica_call"] = call  # for layers that hand no keyword arguments on
    try:
        yield
    finally:
        for block in blocks.values():
            block.__dict__.pop("_vica_call", None)
            _own_again(block)
        if hooks is not kept:
            _remove(hooks)


def _remove(hooks: dict) -> None:
    for several in hooks.values():
        for hook in several:
            hook.remove()
    hooks.clear()


def _own_again(block: nn.Module) -> None:
    """After an interrupt within its attention, behind which torch runs no hook: the block has its own attention back."""
    if (call := block.__dict__.pop("_vica_now", None)) is not None:
        block.config._attn_implementation_internal = call.base


def _begin(module: nn.Module, args: tuple, kwargs: dict):
    call = kwargs.get("vica") or module.__dict__.get("_vica_call")
    if call is not None:
        module.config._attn_implementation_internal = PREFIX + call.base
        module.__dict__["_vica_now"] = call


def _end(module: nn.Module, args: tuple, kwargs: dict, output):
    call = module.__dict__.pop("_vica_now", None)
    if call is None:
        return output
    module.config._attn_implementation_internal = call.base
    if call.idle is None or output is None:
        return output
    return _without(output, call.idle)


def _without(output, slots: Tensor):
    """An output (B, S, d), or a tuple that begins with one, zero in these slots (B, S)."""
    if isinstance(output, tuple):
        return (output[0].masked_fill(slots[..., None], 0), *output[1:])
    return output.masked_fill(slots[..., None], 0)


@contextmanager
def silenced(decoder: nn.Module, attention: Tensor | None, ffn: Tensor | None) -> Iterator[None]:
    """In every layer the attention (FFN) output of slots where the mask (B, S) is True is zero: their state stays what it is."""
    def hook(slots: Tensor):
        return lambda module, args, output: _without(output, slots)

    layers = stack(decoder)[1] if ffn is not None else ()
    modules = [(block, attention) for block in attentions(decoder)] + [(layer.mlp, ffn) for layer in layers]
    hooks = [module.register_forward_hook(hook(slots)) for module, slots in modules if slots is not None and module is not None]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@contextmanager
def unmoved(decoder: nn.Module, slots: Tensor, mask_of: Callable[[int], Tensor]) -> Iterator[None]:
    """States of these slots (B, S) pass every layer unchanged, and layer i has the mask that mask_of(i) gives."""
    import inspect

    hooks, states = [], {}

    def enter(i: int, place: int):
        def act(module, args, kwargs):
            states[i] = args[0] if args else kwargs["hidden_states"]
            if "attention_mask" in kwargs or place >= len(args):
                kwargs["attention_mask"] = mask_of(i)
            else:
                args = (*args[:place], mask_of(i), *args[place + 1 :])
            return args, kwargs

        return act

    def leave(i: int):
        def act(module, args, output):
            whole, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            whole = torch.where(slots[..., None], states.pop(i), whole)
            return whole if rest is None else (whole, *rest)

        return act

    for i, layer in enumerate(stack(decoder)[1]):
        place = list(inspect.signature(type(layer).forward).parameters).index("attention_mask") - 1
        hooks += [layer.register_forward_pre_hook(enter(i, place), with_kwargs=True), layer.register_forward_hook(leave(i))]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
