"""Does a model keep a source and a target apart, and can each count anew? Read off its config and measured, once for each model."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from common.errors import ModelError


class NotThisModel(ModelError, TypeError):
    """A model that cannot be used with this method, and the property for which."""


_PROBED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model: what its probe said
_LIVE: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # the same of the probe with two caches
NOT_FINITE = "its logits are not finite on a few plain tokens: look at its weights (NaN) and at its precision (overflow in float16)"


def check_positions(model: nn.Module, last: int) -> None:
    """Raises NotThisModel where the model has no position `last` (from 0): a table of them ends, and rotary ones go on where nothing was
    learnt, without a word."""
    room = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if isinstance(room, int) and 0 < room <= last:
        raise NotThisModel(f"a token stands at position {last} and the model has {room} (config.max_position_embeddings): shorten the "
                           "input, or the thoughts (unit_cap, rest_cap), or begin the target earlier (start)")


def check(model: nn.Module, columns: int, for_attention: Callable[..., Tensor]) -> None:
    """Raises NotThisModel for attention that takes no dense mask, layers that do not attend fully within `columns`, or a model that,
    probed once on four tokens, sees what the mask hides or does not care where its tokens stand. for_attention: method.py's."""
    config = model.config.get_text_config(decoder=True)
    if config._attn_implementation not in ("sdpa", "eager"):
        raise NotThisModel(f"attention {config._attn_implementation!r} takes no dense mask of source and target: load the model with "
                           "attn_implementation sdpa or eager")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if odd := kinds - {"full_attention", "sliding_attention"}:
        raise NotThisModel(f"layers of {', '.join(sorted(odd))} (config.layer_types) cannot keep a source and a target apart: use a model "
                           "whose layers attend fully")
    window = getattr(config, "sliding_window", None) if "sliding_attention" in kinds or not getattr(config, "layer_types", None) else None
    if window and getattr(config, "use_sliding_window", True) and columns > window:
        raise NotThisModel(f"source and target have {columns} tokens and some layers slide over {window} (config.sliding_window): "
                           "shorten the input")
    if model not in _PROBED:
        _PROBED[model] = _probe(model, config, for_attention)
    if _PROBED[model]:
        raise NotThisModel(_PROBED[model])


@torch.no_grad()
def _probe(model: nn.Module, config, for_attention: Callable[..., Tensor]) -> str:
    """What is wrong with a model for this method, measured on four tokens; "" if nothing is. Training mode is put back."""
    training, device = model.training, next(model.parameters()).device
    model.eval()

    def last(ids: list[int], positions: list[int]) -> Tensor:
        mask = torch.ones(1, 1, 4, 4, dtype=torch.bool, device=device).tril()
        mask[..., 3, 1] = mask[..., 2, 1] = False  # nobody behind it sees the second token
        mask = for_attention(mask, config._attn_implementation, next(model.parameters()).dtype)
        ids, positions = (torch.tensor([x], device=device) for x in (ids, positions))
        return model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[0, -1].float()

    try:
        base = last([1, 2, 3, 1], [0, 1, 0, 1])
        own = [model(input_ids=torch.tensor([[1, 2, 3, end]], device=device), use_cache=False).logits[0, 0].float() for end in (1, 4)]
        hidden, moved = last([1, 3, 3, 1], [0, 1, 0, 1]), last([1, 2, 3, 1], [0, 1, 2, 3])
    except Exception as error:  # whatever a model raises that does not take these inputs
        return f"it does not take a 4-D mask and position ids ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    finally:
        model.train(training)
    if not all(bool(each.isfinite().all()) for each in (base, *own, hidden, moved)):
        return NOT_FINITE
    size = float(base.abs().max())
    if float((own[0] - own[1]).abs().max()) > 1e-3 * size:
        return ("its own pass is not causal: a first token's logits depend on the last one, so it has not learnt to go on from what it "
                "has read")
    if float((hidden - base).abs().max()) > 1e-3 * size:
        return "it sees tokens that a 4-D mask hides, so that a unit would see sentences that have not come"
    if float((moved - base).abs().max()) < 1e-6 * size:
        return "its logits do not depend on position ids, so that two streams cannot count anew"
    return ""


def check_live(model: nn.Module, method: Any) -> None:
    """Raises NotThisModel where a source and a target fed through two caches give other logits than one pass under the mask: some models
    look at the order of the cached columns. Measured once, on eighteen tokens; call `check` before.
    method: the module, whose pass it is held against."""
    if model not in _LIVE:
        training = model.training
        model.eval()
        try:
            _LIVE[model] = _live(model, method)
        finally:
            model.train(training)
    if _LIVE[model]:
        raise NotThisModel(_LIVE[model])


@torch.no_grad()
def _live(model: nn.Module, method: Any) -> str:
    from common.streaming.caches import attention_window
    from common.streaming.two_streams import TwoStreams

    window = attention_window(model.config)
    if window is not None and window < 18:
        return f"some layers slide over {window} tokens (config.sliding_window), which no source with its thoughts fits into"
    ids = _apart(model)
    sample = method.Segments.of([ids(1, 2), ids(3, 4, 5, 6, 7), ids(2, 3, 4)], [ids(5), ids(6, 7), ids(1, 3), ids(2, 5, 4)])
    batch, two = method.collate([sample]).to(next(model.parameters()).device), TwoStreams(model)
    expected = method.forward(model, batch)[0, batch.n_source :]
    rows, reads, at = [], [2, 7, 10], 0
    for segment in sample.source:
        two.read(segment)
    for unit, told in enumerate(sample.target):
        for token in told:
            at += 1
            last = at == sum(sample.target_lengths[: unit + 1])  # what it predicts belongs to the next unit
            rows.append(two.feed([token], reads[min(unit + last, 2)])[-1])
    off = _off(torch.stack(rows), expected)
    own = _own_rounding(model, [token for segment in (*sample.source, *sample.target) for token in segment])
    if max(off, own) == float("inf"):
        return NOT_FINITE
    if off <= 0.005 + 3 * own:
        return ""
    return (f"fed through two caches it gives other logits than in one pass, off by {off:.2g} of their size (its own rounding: {own:.2g}): "
            "its attention looks at the order of cached columns")


def _apart(model: nn.Module) -> Callable[..., tuple[int, ...]]:
    """Tokens 1 .. 7 from all over the vocabulary: the first ids are often marks without meaning, behind which rounding grows large."""
    size = model.get_input_embeddings().num_embeddings
    step = max(1, (size - 1) // 8)
    return lambda *which: tuple((1 + (i - 1) * step) % size for i in which)


def _off(ours: Tensor, theirs: Tensor) -> float:
    """||ours - theirs|| of ||theirs||; infinite where either is not finite."""
    ours, theirs = ours.double(), theirs.double()
    found = ((ours - theirs).norm() / theirs.norm().clamp(min=1e-300)).item()
    return found if found == found else float("inf")


def _own_rounding(model: nn.Module, ids: list[int]) -> float:
    """How far the stock model is from itself, a text in one pass and token by token out of its own cache; 0 in single precision, where it
    does not show. Thirty layers in bfloat16 make 1.5 % of it."""
    if model.dtype not in (torch.bfloat16, torch.float16):
        return 0.0
    tokens, cache = torch.tensor([ids], device=next(model.parameters()).device), DynamicCache(config=model.config)
    whole = model(input_ids=tokens, use_cache=False).logits[0]
    steps = [model(input_ids=tokens[:, i : i + 1], past_key_values=cache, use_cache=True).logits[0, -1] for i in range(len(ids))]
    return _off(torch.stack(steps), whole)
