"""Tiny decoders of three families, with what could go wrong: grouped keys, several layers, a
sliding window (Gemma-2), a norm on each head (Qwen3); written to and read from hub format once.

`fresh(family, attention)` gives an unrouted copy in eval mode; `model` runs a test on all of them. `float64` and `float32`
are the contexts of tests/numerics.py as fixtures; a file whose tests are all in float64 enters it for itself.
Baselines have decoders of LAYERS layers: `llama` (sdpa) is one, `stock` runs a test on that and on Qwen3 (eager).
"""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.models import load, tiny
from tests.numerics import float32 as in_float32
from tests.numerics import float64 as in_float64

FAMILIES = ("llama", "qwen3", "gemma2")
# Gemma-2 caps its attention scores, which sdpa cannot; transformers refuses that pair itself.
PAIRS = [("llama", "sdpa"), ("llama", "eager"), ("qwen3", "sdpa"), ("qwen3", "eager"),
         ("gemma2", "eager")]
LAYERS = 4
FOUR_LAYERS = {"llama": "sdpa", "qwen3": "eager"}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """family -> folder in hub format, weights in float64: the same draws, whichever test asks first."""
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp("checkpoints") / family
        with in_float64():
            load(tiny(family)).model.save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="session")
def fresh(checkpoints):
    """fresh(family="llama", attention="sdpa", dtype=fp32, or what stands for it): an unrouted model to use up."""
    loaded = {}

    def make(family="llama", attention="sdpa", dtype=None):
        dtype = dtype or torch.get_default_dtype()
        key = family, attention, dtype
        if key not in loaded:
            loaded[key] = AutoModelForCausalLM.from_pretrained(
                checkpoints[family], attn_implementation=attention, dtype=dtype
            ).eval()
        return copy.deepcopy(loaded[key])

    return make


@pytest.fixture(params=PAIRS, ids="-".join)
def model(request, fresh):
    """Each family with each attention that it can have, unrouted."""
    return fresh(*request.param)


@pytest.fixture(scope="module")
def originals():
    models = {}
    for family, attention in FOUR_LAYERS.items():
        spec = tiny(family, num_hidden_layers=LAYERS, attn_implementation=attention)
        models[family] = load(spec).model.eval()
    return models


@pytest.fixture(params=FOUR_LAYERS)
def stock(request, originals):
    """Four layers, unrouted, to use up."""
    return copy.deepcopy(originals[request.param])


@pytest.fixture
def llama(originals):
    return copy.deepcopy(originals["llama"])


@pytest.fixture
def float64():
    with in_float64():
        yield


@pytest.fixture
def float32():
    with in_float32():
        yield


@pytest.fixture
def one_thread():
    """The same order of additions here as in the child processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
