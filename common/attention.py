"""Looking into a stock decoder's attention while it runs: the last row's weights beside SDPA, and edits of what is seen.

    with watched(model.get_decoder(), watcher):       # any decoder that goes through transformers' attention interface
        model(...)

In every layer the watcher is asked twice: `look(layer, rows)` gets `Rows`, the weights of one query a row and the values they
weigh, computed beside the stock kernel at the price of one query, O(H K d); then `edit(layer, query, key)` may hand back an
`Edit`: some keys are hidden from some queries. Where the watcher wants neither, the stock function runs on the stock mask,
so that the results are the same bits.

An edit says which (query, key) pairs are touched and what becomes of their weight:

    before   hidden before the softmax: the weight goes to the other keys in proportion. Any kernel can skip such pairs.
    after    set to zero behind the softmax: the weight is lost, and rows sum to less than one. No kernel skips it.
    merge    behind the softmax, moved to one key: rows sum to one (VisiPruner, paper section 3.4).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .errors import ModelError

PREFIX = "watched_"
BASES = ("sdpa", "eager")


@dataclass(frozen=True)
class Edit:
    """pairs (B, Q, K) bool: the (query, key) pairs that are touched. onto (B, Q): the key that gets their weight, for "merge"."""

    pairs: Tensor
    mode: Literal["before", "after", "merge"]
    onto: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """weights (B, H, K) in fp32 of the chosen query of each row, zero where it does not see; values (B, G, K, d) of G key-value heads."""

    weights: Tensor
    values: Tensor


class Watcher(Protocol):
    def edit(self, layer: int, query: Tensor, key: Tensor) -> Edit | None: ...

    def chosen(self, layer: int) -> Tensor | None:
        """(B,) the query of each row whose weights are wanted in this layer, as a slot of this layer; None for none."""

    def look(self, layer: int, rows: Rows) -> None: ...


_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(decoder: nn.Module, watcher: Watcher) -> Iterator[None]:
    """The decoder stack runs under the watcher, and as before afterwards.

    Raises ModelError for a kernel that takes no mask in one of the two known forms, or inside another watcher.
    """
    before = decoder.config._attn_implementation
    if before.startswith(PREFIX):
        raise ModelError("this decoder is watched already: leave the other session before this one begins")
    if before not in BASES:
        raise ModelError(f"attn_implementation {before!r} cannot be looked into; load the model with {' or '.join(BASES)}")
    decoder.set_attn_implementation(PREFIX + before)
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)
        decoder.set_attn_implementation(before)


# -- the attention function --------------------------------------------------------------------------------
def _attend(base: str):
    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None,
               dropout: float = 0.0, **others) -> tuple[Tensor, Tensor | None]:
        stock = ALL_ATTENTION_FUNCTIONS["sdpa"] if base == "sdpa" else sys.modules[type(module).__module__].eager_attention_forward
        watcher = _WATCHER.get()
        if watcher is None:
            return stock(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others)
        for name in ("softcap", "s_aux", "position_bias"):
            if others.get(name) is not None:
                raise ModelError(f"{type(module).__name__} changes its attention weights by {name}: their last row is not known here")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if (chosen := watcher.chosen(module.layer_idx)) is not None:  # first: an edit may follow from what is seen
            watcher.look(module.layer_idx, last_rows(query, key, value, attention_mask, scale, chosen))
        edit = watcher.edit(module.layer_idx, query, key)
        if edit is None:
            return stock(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others)
        mask = additive(attention_mask, query, key)
        if edit.mode == "before":
            hidden = mask.masked_fill(edit.pairs[:, None], torch.finfo(query.dtype).min)
            return stock(module, query, key, value, hidden, scaling=scaling, dropout=dropout, **others)
        return explicit(query, key, value, mask, scale, edit).transpose(1, 2).contiguous(), None

    return attend


for _base in BASES:
    AttentionInterface.register(PREFIX + _base, _attend(_base))
    # Without this transformers hands on no mask at all, and padding is seen.
    AttentionMaskInterface.register(PREFIX + _base, ALL_MASK_ATTENTION_FUNCTIONS[_base])


def additive(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    """The mask (B or 1, 1, Q, K) as a sum: 0 or the lowest number. None is a causal one whose last query sees all keys."""
    lowest = torch.finfo(query.dtype).min
    if mask is None:
        q, k = query.shape[2], key.shape[2]
        seen = torch.ones(q, k, dtype=torch.bool, device=query.device).tril(k - q)
        return torch.zeros(1, 1, q, k, dtype=query.dtype, device=query.device).masked_fill_(~seen, lowest)
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, lowest)
    return mask[..., : key.shape[2]]


def _grouped(query: Tensor, groups: int) -> Tensor:
    """(B, H, Q, d) -> (B, G, H / G, Q, d): query heads beside the key-value head that they share."""
    b, h, q, d = query.shape
    return query.view(b, groups, h // groups, q, d)


def last_rows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, chosen: Tensor) -> Rows:
    """The weights of one query a row, in fp32 whatever the model's dtype (spec 3.6: fp16 near .999 is as coarse as the decision).

    query (B, H, Q, d), key and value (B, G, K, d), chosen (B,): a query of each row.
    """
    groups, rows = key.shape[1], torch.arange(len(query), device=query.device)
    wide = torch.promote_types(query.dtype, torch.float32)
    one = _grouped(query[rows, :, chosen][:, :, None], groups).to(wide)  # (B, G, H/G, 1, d)
    scores = (one @ key.to(wide)[:, :, None].transpose(-1, -2) * scale)[..., 0, :]  # (B, G, H/G, K)
    if mask is None:
        seen = torch.arange(key.shape[2], device=query.device) <= (chosen + key.shape[2] - query.shape[2])[:, None]
    else:
        row = mask.expand(len(query), -1, -1, -1)[rows, 0, chosen][:, : key.shape[2]]
        seen = row if row.dtype == torch.bool else row > torch.finfo(row.dtype).min / 2
    scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
    return Rows(scores.softmax(-1).flatten(1, 2), value)


def explicit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, edit: Edit) -> Tensor:
    """(B, H, Q, d): attention written out, with weights of edit.pairs lost or moved behind the softmax."""
    grouped = _grouped(query, key.shape[1])
    scores = grouped @ key[:, :, None].transpose(-1, -2) * scale + mask[:, :, None]
    weights = scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32))
    weights = moved(weights, edit).to(query.dtype)
    return (weights @ value[:, :, None]).flatten(1, 2)


def moved(weights: Tensor, edit: Edit) -> Tensor:
    """Weights (B, ..., Q, K) behind an edit: zero at its pairs, and under "merge" their sum on the key edit.onto of each query.

    A query whose row of `pairs` is empty keeps its weights. The key that receives keeps what it had.
    """
    pairs = edit.pairs.view(edit.pairs.shape[0], *[1] * (weights.dim() - 3), *edit.pairs.shape[1:])
    lost = (weights * pairs).sum(-1, keepdim=True)
    weights = weights.masked_fill(pairs, 0)
    if edit.onto is None or edit.mode != "merge":
        return weights
    onto = edit.onto.view(edit.onto.shape[0], *[1] * (weights.dim() - 3), edit.onto.shape[1], 1).expand(*weights.shape[:-1], 1)
    return weights.scatter_add(-1, onto, lost)
