"""Tiny models in fp64 that the streaming kit's tests read and write with."""

import pytest

from common.models import load, tiny
from tests.numerics import float64

MODELS = [("llama", "sdpa"), ("llama", "eager"), ("qwen3", "sdpa"), ("qwen3", "eager"), ("gemma2", "eager")]


@pytest.fixture(params=MODELS, ids="-".join)
def model(request):
    family, attention = request.param
    more = {"sliding_window": 64} if family == "gemma2" else {}
    with float64():
        yield load(tiny(family, attn_implementation=attention, **more)).model.double()


@pytest.fixture
def llama():
    with float64():
        yield load(tiny("llama")).model.double()
