"""Caches for timing: a layer with room is the stock layer without its copies."""

import pytest
import torch
from transformers import DynamicCache

from common.models import load, tiny
from common.timing.decoding import Room, cache_bytes
from tests.numerics import close, float64

IDS = torch.randint(5, 96, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.numerics
@torch.no_grad()
def test_room_is_the_stock_cache_without_the_copies():
    with float64():
        model = load(tiny()).model
        plain, roomy = (model(IDS[:, :6], use_cache=True).past_key_values for _ in range(2))
        roomy.layers[:] = [Room.behind(layer, 3) for layer in roomy.layers]
        expected = [model(IDS[:, i : i + 1], past_key_values=plain).logits for i in range(6, 9)]
        for _ in range(2):  # a second run starts where the first one did
            for layer in roomy.layers:
                layer.rewind()
            assert roomy.get_seq_length() == 6
            for i, wanted in zip(range(6, 9), expected):
                close(model(IDS[:, i : i + 1], past_key_values=roomy).logits, wanted, 1e-12)
    assert roomy.get_seq_length() == 9
    assert roomy.layers[0].keys.data_ptr() == roomy.layers[0].room[0].data_ptr(), "nothing was moved"


@torch.no_grad()
def test_bytes_are_those_of_what_is_cached_not_of_the_room():
    model = load(tiny()).model
    cache = DynamicCache(config=model.config)
    model(IDS, past_key_values=cache)
    assert cache_bytes(cache) == 2 * 9 * 3 * 2 * 2 * 8 * 4  # rows, tokens, layers, keys and values, heads, size, fp32
    cache.layers[:] = [Room.behind(layer, 5) for layer in cache.layers]
    assert cache_bytes(cache) == 2 * 9 * 3 * 2 * 2 * 8 * 4
