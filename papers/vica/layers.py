"""Inside a stock decoder: its layers, what each of them is called with, and what it would put into a cache.

No layer is imitated. Which norm stands before the keys, how they are projected, normed, rotated or not rotated at all is
known to the layer alone, so it is run on the visual tokens until it asks for attention, and what it asks with is taken:

    lead_in        the decoder over some embeddings, with stand-ins for its layers: what each layer is called with
    keys_values    a layer of the decoder, called so, up to its attention: keys and values
    logits         the stock model's own way from last hidden states to logits, scales and caps included
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MoeModelOutputWithPast

PREFIX = "vica_"  # of the names under which transformers knows our attention: vica_sdpa, vica_eager
# Where keys and values go: into a list, instead of into attention; or, by layer, into a dict as well.
RECORD: ContextVar[list | dict[int, list] | None] = ContextVar("vica_record", default=None)


class Enough(Exception):
    """All that was asked for is known."""


@dataclass
class Held(MoeModelOutputWithPast):
    """What a decoder returns that has its last states already; some heads ask for more, and get none."""

    cross_attentions: None = None


@dataclass
class Entry:
    """What a layer is called with: hidden states (B, S, d), other positional and named arguments."""

    hidden: Tensor
    args: tuple
    kwargs: dict[str, Any]


def stack(decoder: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, the list of decoder layers). Raises LookupError where there is no one list of as many modules as the config has layers."""
    count = getattr(getattr(decoder, "config", None), "num_hidden_layers", None)
    found = [(name, m) for name, m in decoder.named_children() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(found) != 1:
        raise LookupError(f"{len(found)} lists of {count} layers")
    return found[0]


def attentions(decoder: nn.Module) -> list[nn.Module | None]:
    """The attention module of each layer: the part of it that knows the layer's number; None where there is none."""
    layers = stack(decoder)[1]
    return [next((m for m in layer.modules() if m is not layer and getattr(m, "layer_idx", None) == i and hasattr(m, "config")), None)
            for i, layer in enumerate(layers)]


def checkpoints(decoder: nn.Module) -> bool:
    """Whether gradient checkpointing is turned on."""
    return any(getattr(layer, "gradient_checkpointing", False) for layer in stack(decoder)[1])


def runs_again(decoder: nn.Module) -> bool:
    """Whether a backward pass will run the layers again."""
    return decoder.training and checkpoints(decoder)


def reentrant(decoder: nn.Module) -> bool:
    """Whether it would by reentrant checkpointing, which knows of gradients of a layer's first argument alone."""
    functions = [getattr(layer, "_gradient_checkpointing_func", None) for layer in stack(decoder)[1]]
    return runs_again(decoder) and any(getattr(f, "keywords", {}).get("use_reentrant", False) for f in functions)


@contextmanager
def attending_by(decoder: nn.Module, name: str) -> Iterator[None]:
    """The decoder's attention has another name for a while; other parts of the model, a vision tower, keep theirs."""
    config = decoder.config
    before = config._attn_implementation
    config._attn_implementation_internal = name
    try:
        yield
    finally:
        config._attn_implementation_internal = before


# -- what a layer is called with ---------------------------------------------------------------------------
class _StandIn(nn.Module):
    """In a layer's place: notes what it is called with and hands the states on. returns: length of the layer's tuple, 0 for a tensor."""

    def __init__(self, layer: nn.Module, entries: list[Entry], returns: int, last: bool):
        super().__init__()
        self.__dict__["layer"] = layer  # not a part of this module: its weights stay where they are
        self.entries, self.returns, self.last = entries, returns, last

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)

    def forward(self, *args, **kwargs):
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        self.entries.append(Entry(hidden, args, kwargs))
        if self.last:
            raise Enough
        return (hidden, *[None] * (self.returns - 1)) if self.returns else hidden


def lead_in(decoder: nn.Module, embeds: Tensor, positions: Tensor, returns: int = 0) -> list[Entry]:
    """What each layer would be called with if none changed the states: embeds (B, S, d) as the decoder scales them, positions (B, S)."""
    name, layers = stack(decoder)
    entries: list[Entry] = []
    stand_ins = nn.ModuleList(_StandIn(layer, entries, returns, i == len(layers) - 1) for i, layer in enumerate(layers))
    setattr(decoder, name, stand_ins)
    try:
        decoder(inputs_embeds=embeds, attention_mask=no_mask(embeds), position_ids=positions, use_cache=False)
    except Enough:
        pass
    finally:
        setattr(decoder, name, layers)
    return entries


def no_mask(like: Tensor) -> Tensor:
    """In place of a mask where attention has its own: without any, transformers reads a gap in the positions as a new text."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=like.device)


# -- what it would put into a cache ------------------------------------------------------------------------
class _NoQueries(nn.Module):
    """In the place of a projection of queries: visual tokens ask nothing."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.width)


def keys_values(layer: nn.Module, attention: nn.Module, entry: Entry) -> tuple[Tensor, Tensor]:
    """(keys, values), each (B, Hk, S, hd), with which the layer would ask for attention; it runs no further.

    Where queries have a projection of their own (`q_proj`) it is left out; where one makes queries, keys and values, it runs whole.
    Raises LookupError where the layer finishes without asking.
    """
    recorded: list[Tensor] = []
    width = getattr(getattr(attention, "q_proj", None), "out_features", None)
    queries, checkpointed = attention._modules.get("q_proj"), layer.__dict__.get("gradient_checkpointing")
    token = RECORD.set(recorded)
    try:
        if isinstance(width, int):
            attention._modules["q_proj"] = _NoQueries(width)
        if checkpointed is not None:
            layer.gradient_checkpointing = False  # a layer that is run in part cannot be run again
        with attending_by(attention, PREFIX + attention.config._attn_implementation.removeprefix(PREFIX)):
            layer.forward(entry.hidden, *entry.args, **entry.kwargs)
    except Enough:
        pass
    finally:
        RECORD.reset(token)
        if isinstance(width, int):
            attention._modules["q_proj"] = queries
        if checkpointed is not None:
            layer.gradient_checkpointing = checkpointed
    if not recorded:
        raise LookupError("the layer never asked for attention")
    keys, values = recorded
    return keys, values


# -- from states to logits ---------------------------------------------------------------------------------
def logits(language_model: nn.Module, hidden: Tensor) -> Tensor:
    """(..., V) of last hidden states (..., d): the model's own forward, with a decoder that has these already."""
    decoder = language_model.get_decoder()
    states = hidden if hidden.dim() == 3 else hidden.reshape(1, -1, hidden.shape[-1])
    before = decoder.__dict__.get("forward")
    decoder.forward = lambda *args, **kwargs: Held(last_hidden_state=states)
    try:
        out = language_model(inputs_embeds=states, use_cache=False).logits
    finally:
        del decoder.forward
        if before is not None:
            decoder.forward = before
    return out if hidden.dim() == 3 else out.reshape(*hidden.shape[:-1], out.shape[-1])
