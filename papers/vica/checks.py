"""Which decoders ViCA fits: what it uses of one, looked at once by its config and once by numbers.

A config cannot say everything, so the numbers decide: four tokens go through the stock model, and what ViCA assumes of it must
come out. Keys and values of a layer are what that layer puts into a cache; every layer asks for attention where ours is heard; text
is the stock model's text; and a picture that all layers look at gives the logits of the masked definition. Milliseconds, once a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError

SEEN = {"full_attention", "sliding_attention", "attention"}  # kinds of layers in which each token sees those before it


class Unfit(ModelError, TypeError):
    """A model that lacks what ViCA needs; the first sentence names it."""


class NoSuchLayer(ModelError, ValueError):
    """Layers of C that the decoder does not have."""


@dataclass(frozen=True)
class Fits:
    """What the probe of a decoder showed. returns: length of a layer's tuple, 0 where it
    returns a tensor. longest: from this position on rotary frequencies depend on the length of the text. handed: layers hand keyword
    arguments on to attention."""

    returns: int
    longest: int | None
    handed: bool


def refuse(language_model: nn.Module, method: Any, config: Any = None) -> None:
    """Raises Unfit naming the property for which a decoder cannot run ViCA, NoSuchLayer for layers it does not have.

    method: the module method.py, whose `forward` and `definition` are compared. config: a ViCAConfig, if its layers are to be looked
    at as well.
    """
    from .layers import runs_again

    kind, decoder = type(language_model).__name__, language_model.get_decoder()
    probed, base = decoder.__dict__.setdefault("_vica_fits", {}), decoder.config._attn_implementation
    if base not in probed:
        probed[base] = _probed(language_model, kind, method)
    found = probed[base]
    count = decoder.config.num_hidden_layers
    if config is not None and any(k >= count for k in config.cross_layers):
        raise NoSuchLayer(f"cross layer {max(config.cross_layers)}: {kind} has layers 0 to {count - 1}")
    if not found.handed and runs_again(decoder):
        raise Unfit(f"{kind}: layers hand no keyword arguments on to attention, so that a layer which gradient checkpointing runs again "
                    "does not find the picture. Train it without gradient checkpointing.")


def fits(decoder: nn.Module) -> Fits:
    """What the probe showed, by the attention that the decoder has now."""
    return decoder.__dict__["_vica_fits"][decoder.config._attn_implementation]


def within_length(decoder: nn.Module, positions: Tensor) -> None:
    """Raises Unfit for positions from which on all rotary frequencies change: a picture's keys are rotated once."""
    longest = fits(decoder).longest
    if longest is not None and positions.numel() and int(positions.max()) >= longest:
        raise Unfit(f"position {int(positions.max())}: from {longest} on the rotary frequencies of this decoder depend on the length of "
                    "the text (rope_type dynamic or longrope), and keys of a picture are rotated once. Shorten the prompt.")


# -- by its config -----------------------------------------------------------------------------------------
def _looked_at(decoder: nn.Module, kind: str, bases: Sequence[str]) -> None:
    from .layers import attentions, stack

    config = decoder.config
    if config._attn_implementation not in bases:
        raise Unfit(f"{kind} uses attention {config._attn_implementation!r}. ViCA joins keys in {', '.join(bases)}: load it with one of "
                    "them (attn_implementation).")
    try:
        blocks = attentions(decoder)
    except LookupError as error:
        raise Unfit(f"{kind}: its decoder has no one list of layers ({error}).") from error
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - SEEN):
        raise Unfit(f"{kind} has layers in which a token does not see all text before it ({', '.join(others)}): a picture would be lost "
                    "there.")
    for i, block in enumerate(blocks):
        if block is None:
            raise Unfit(f"{kind}: layer {i} ({type(stack(decoder)[1][i]).__name__}) has no attention that knows "
                        "its layer (layer_idx), and so none by the attention functions of transformers: nothing can be joined there.")
    if "mrope_section" in str(getattr(config, "rope_parameters", None)):
        raise Unfit(f"{kind} has positions of three dimensions (mrope_section). ViCA counts one.")


def _longest(decoder: nn.Module) -> int | None:
    """The first position at which rotary frequencies change for all tokens; None where they never do."""
    limits = []
    every = getattr(decoder.config, "rope_parameters", None) or {}
    for of in ([every] if "rope_type" in every else [v for v in every.values() if isinstance(v, dict)]):
        if of.get("rope_type") == "dynamic":
            limits.append(decoder.config.max_position_embeddings)
        elif of.get("rope_type") == "longrope":
            limits.append(of.get("original_max_position_embeddings") or decoder.config.max_position_embeddings)
    return min(limits, default=None)


# -- by numbers --------------------------------------------------------------------------------------------
def _apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, of the largest value; infinite where shapes or finiteness differ."""
    if ours.shape != theirs.shape or not bool(torch.isfinite(theirs).all()):
        return float("inf")
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max().clamp(min=1e-30))


@torch.no_grad()
def _probed(language_model: nn.Module, kind: str, method: Any) -> Fits:
    decoder = language_model.get_decoder()
    _looked_at(decoder, kind, method.BASES)
    if decoder.device.type == "meta":
        raise Unfit(f"{kind} is on the meta device, where no number says what its layers do. Load its weights first.")
    trained = [m for m in language_model.modules() if m.training]
    probed, base = decoder.__dict__["_vica_fits"], decoder.config._attn_implementation
    language_model.eval()
    try:
        return _compared(language_model, decoder, kind, method)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, LookupError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise Unfit(f"{kind}: its decoder does not take what ViCA hands it ({what}).") from error
    finally:
        probed.pop(base, None)
        for module in trained:
            module.training = True


def _compared(language_model: nn.Module, decoder: nn.Module, kind: str, method: Any) -> Fits:
    """Four words by the stock model, then by ViCA: without a picture, as a picture's keys, and around one that all layers look at."""
    from .layers import RECORD, Entry, attentions, keys_values, lead_in, stack

    config, base = decoder.config, decoder.config._attn_implementation
    layers, blocks, n = stack(decoder)[1], attentions(decoder), config.num_hidden_layers
    table = language_model.get_input_embeddings()
    words = table(torch.arange(3, 9, device=decoder.device)[None] % table.weight.shape[0])
    embeds, visual = words[:, :4], words[:, 4:] * 0.7 + words[:, :2] * 0.7
    where = torch.arange(4, device=decoder.device)[None]
    near = 2e-3 if embeds.dtype in (torch.float32, torch.float64) else 0.1

    # The stock model, and what enters each of its layers.
    entered: dict[int, Tensor] = {}
    returned: dict[int, int] = {}
    handed: set[int] = set()

    def note(i: int):
        def act(module, args, kwargs, output):
            entered[i] = args[0] if args else kwargs["hidden_states"]
            returned[i] = len(output) if isinstance(output, tuple) else 0
        return act

    hooks = [layer.register_forward_hook(note(i), with_kwargs=True) for i, layer in enumerate(layers)]
    cache = method.DynamicCache()
    try:
        stock = language_model(inputs_embeds=embeds, attention_mask=torch.ones_like(where), position_ids=where, past_key_values=cache,
                               use_cache=True)
    finally:
        for hook in hooks:
            hook.remove()
    if len(entered) != n or len(set(returned.values())) != 1:
        raise Unfit(f"{kind}: {len(entered)} of {n} layers run, or they return different things.")
    known = decoder.__dict__["_vica_fits"][base] = Fits(returned[0], _longest(decoder), True)

    # Every layer's attention hears of the call, once: by an argument, or else because nothing else calls it meanwhile.
    def listen(module, args, kwargs):
        if "vica" in kwargs:
            handed.add(module.layer_idx)

    heard: dict[int, list] = {}
    hooks, token = [b.register_forward_pre_hook(listen, with_kwargs=True) for b in blocks if b is not None], RECORD.set(heard)
    try:
        text = method.forward(language_model, method.ViCAConfig(()), embeds, method.Places(where)).logits
    finally:
        RECORD.reset(token)
        for hook in hooks:
            hook.remove()
    for i, block in enumerate(blocks):
        if len(heard.get(i, ())) != 1:
            times = len(heard.get(i, ()))
            raise Unfit(f"{kind}: layer {i} ({type(block).__name__}) asks the attention functions of transformers {times} times for "
                        "attention, not once: its code is its own, and nothing can be joined there.")
    if _apart(text, stock.logits) > near:
        raise Unfit(f"{kind}: text without a picture does not give the stock model's logits ({_apart(text, stock.logits):.2g} of the "
                    "largest apart): positions, masks or states reach its layers in another way than by the arguments.")
    known = decoder.__dict__["_vica_fits"][base] = replace(known, handed=len(handed) == n)

    # Keys and values that a layer makes alone are those that it attends to in a text, and those of its cache, where that keeps them.
    entries = lead_in(decoder, embeds[:, 1:3], where[:, 1:3], known.returns)
    if len(entries) != n or any(_apart(e.hidden, entries[0].hidden) > 1e-6 for e in entries):
        raise Unfit(f"{kind}: the decoder changes states between its layers, where ViCA keeps those of a picture as they are.")
    for i, (layer, block) in enumerate(zip(layers, blocks)):
        made, kept = keys_values(layer, block, Entry(entered[i][:, 1:3], entries[i].args, entries[i].kwargs)), cache.layers[i]
        for what, ours, attended in zip(("keys", "values"), made, heard[i][0]):
            cached = getattr(kept, what)
            compressed = cached.shape != attended.shape  # e.g. latent keys, which are not what is attended to
            if any(_apart(ours, theirs[:, :, 1:3]) > near for theirs in ([attended] if compressed else [attended, cached])):
                raise Unfit(f"{kind}: {what} of layer {i} do not follow from a token's state and position alone, and a visual token has "
                            "nothing else.")

    # Around a picture that all layers look at: the masked definition.
    every, full = method.ViCAConfig(tuple(range(n))), torch.ones_like(where, dtype=torch.bool)
    places = method.Places(where + 2 * (where > 0), where[:, :2] + 1, full, full[:, :2], torch.zeros_like(where))
    ours = method.forward(language_model, every, embeds, places, visual).logits
    theirs = method.definition(language_model, every, embeds, places, visual)
    if _apart(ours, theirs) > near:
        raise Unfit(f"{kind}: with a picture the logits are not those of the masked definition ({_apart(ours, theirs):.2g} of the "
                    "largest apart): its attention reads more than queries, keys, values and a mask.")
    return known
