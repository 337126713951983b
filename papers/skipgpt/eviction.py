"""The ablation kv_policy="evict": key and value of a token that skips attention are hidden from later tokens, not from itself.

Nothing is taken out of the cache; the attention mask hides it. Whom to hide is remembered by row and position, beside the cache
that the rows belong to. A cache that anyone else has changed in between (beam search puts its rows into another order, assisted
decoding cuts it) is refused: its rows are no longer those of the memory.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError

WAY_OUT = "kv_policy 'evict' needs sdpa or eager attention over everything before, a dynamic cache and greedy or sampled decoding"


class EvictionError(UserError, ValueError):
    """Where hiding keys cannot be done or would hide the wrong ones."""


@dataclass(eq=False)
class Eviction:
    """By layer: the cache, the keys (B, KV, K, dh) that it held when this layer had run, and who was kept, (B, K) bool."""

    kept: dict[int, tuple[Any, Tensor | None, Tensor]] = field(default_factory=dict)

    def hide(self, layer: nn.Module, index: int, gate: Tensor, x: Tensor, kwargs: dict) -> dict:
        """The layer's arguments with a mask in which skipped tokens are visible to themselves only. gate (B, S).

        Raises EvictionError for masks of another form, and for a cache that this model did not fill last.
        """
        mask, cache = kwargs.get("attention_mask"), _cache(kwargs)
        held = None if cache is None else _keys(layer, index, cache)
        past = 0 if cache is None else int(cache.get_seq_length(_place(layer, index)))
        kept, seq = gate.detach().bool(), x.shape[1]
        if past:
            of, keys, before = self.kept.get(index, (lambda: None, None, kept[:, :0]))
            if of() is not cache or keys is not held or before.shape[1] != past:
                raise EvictionError("A cache that this model did not fill last, or whose rows were moved since, as beam search does: whom "
                                    f"to hide in it is not known. {WAY_OUT}.")
            kept = torch.cat([before, kept], 1)
        places = torch.arange(kept.shape[1], device=x.device)
        query = torch.arange(seq, device=x.device)[:, None] + past
        if mask is None:
            mask = (query >= places)[None, None]
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[-1] != kept.shape[1]:
            raise EvictionError(f"The layers' mask is not 4-D and as long as the cache. {WAY_OUT}.")
        visible = kept[:, None, None, :] | (query == places)
        if mask.dtype == torch.bool:
            mask = mask & visible
        else:
            mask = mask.masked_fill(~visible, torch.finfo(mask.dtype).min)
        self.kept[index] = (lambda: None) if cache is None else weakref.ref(cache), None, kept
        return kwargs | {"attention_mask": mask}

    def remember(self, layer: nn.Module, index: int, kwargs: dict) -> None:
        """After the layer has run: the keys as they are now."""
        if (cache := _cache(kwargs)) is not None:
            of, _, kept = self.kept[index]
            self.kept[index] = of, _keys(layer, index, cache), kept


def _cache(kwargs: dict):
    return kwargs.get("past_key_values", kwargs.get("layer_past"))


def _keys(layer: nn.Module, index: int, cache) -> Tensor | None:
    """What the cache holds for this layer; None if nothing."""
    layers, at = getattr(cache, "layers", None), _place(layer, index)
    if layers is None:
        raise EvictionError(f"A cache of a kind that cannot be looked into ({type(cache).__name__}). {WAY_OUT}.")
    keys = getattr(layers[at], "keys", None) if at < len(layers) else None
    return keys if isinstance(keys, Tensor) and keys.numel() else None


def _place(layer: nn.Module, index: int) -> int:
    """The layer's number in the cache."""
    return getattr(layer.get_submodule(layer._anatomy.attn.modules[0]), "layer_idx", index)
