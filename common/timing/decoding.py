"""What a decoding step is timed upon: a cache with room for what comes, and what a cache holds."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class Room(DynamicLayer):
    """A stock cache layer, but new keys are written into room kept for them: the stock one copies all of itself at each step,
    which would cost a model with a larger cache more than it needs to.

    keys, values (B, KV, length + room, dh), of which the first `length` count as cached.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int):
        super().__init__()
        self.room, self.length = (keys, values), length
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.rewind()

    @classmethod
    def behind(cls, layer: DynamicLayer, more: int) -> Self:
        """What a stock layer holds, with room for `more` tokens."""
        keys, values = (torch.cat([a, a.new_empty(*a.shape[:2], more, a.shape[3])], 2) for a in (layer.keys, layer.values))
        return cls(keys, values, layer.keys.shape[2])

    def rewind(self) -> None:
        """Forgets what was added."""
        self.keys, self.values = (a[:, :, : self.length] for a in self.room)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self.room[0][:, :, start:end], self.room[1][:, :, start:end] = key_states, value_states
        self.keys, self.values = (a[:, :, :end] for a in self.room)
        return self.keys, self.values


def cache_bytes(cache: Cache) -> int:
    """Bytes of the keys and values that a stock cache holds; room does not count."""
    return sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
