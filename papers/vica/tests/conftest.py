"""Tiny decoders, written to and read from the hub's format once, and prompts of every kind for them.

`decoder(family, attention, dtype)` gives a shared model in eval mode. Llama has grouped keys, Qwen3 a norm on each head,
Qwen2 biases on the projections.
"""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.models import load, tiny
from common.vision.layout import split
from tests.numerics import truly_double

from .. import method

IMAGE = 95  # the id that stands for a visual token
# Text alone; a short and a long prompt with a picture; two pictures; a picture first.
PROMPTS = ([1, 5, 8, 7, 2], [1, 6] + [IMAGE] * 4 + [9, 4], [1, 5, 6, 7, 8, 9] + [IMAGE] * 4 + [7, 8, 9, 10, 11, 12],
           [1, 4] + [IMAGE] * 4 + [5, 6] + [IMAGE] * 4 + [7, 3], [IMAGE] * 4 + [5, 6, 7])


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """decoder(family="llama", attention="sdpa", dtype=torch.float64)."""
    folders, loaded = {}, {}

    def get(family="llama", attention="sdpa", dtype=torch.float64):
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp("vica") / family
            load(tiny(family)).model.save_pretrained(folders[family])
        key = family, attention, dtype
        if key not in loaded:
            model = AutoModelForCausalLM.from_pretrained(folders[family], attn_implementation=attention, dtype=dtype).eval()
            loaded[key] = truly_double(model) if dtype == torch.float64 else model
        return loaded[key]

    return get


@pytest.fixture(autouse=True)
def double_softmax(monkeypatch):
    """Stock eager attention asks for a softmax in single precision; of doubles it gets one in double precision."""
    stock = torch.nn.functional.softmax

    def softmax(input, dim=None, dtype=None, **more):
        return stock(input, dim=dim, dtype=None if input.dtype == torch.float64 else dtype, **more)

    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)


def batch(prompts, side="right"):
    """(layout, ids, real) of prompts padded to one length."""
    width = max(map(len, prompts))
    ids, real = torch.zeros(len(prompts), width, dtype=torch.long), torch.zeros(len(prompts), width, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        where = slice(0, len(prompt)) if side == "right" else slice(width - len(prompt), width)
        ids[i, where], real[i, where] = torch.tensor(prompt), 1
    return split(ids, IMAGE, real), ids, real


def pictures(layout, width=32, dtype=torch.float64, seed=0):
    """(B, N, d): the k-th visual token of a row is the same wherever the row stands in a batch."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, 16, width, generator=draw).to(dtype)[:, : layout.visual_real.shape[1]].expand(len(layout.ids), -1, -1)


def run(model, config, layout, visual, **more):
    """Logits (B, T, V) by the fast path, without gradients."""
    embeds = model.get_input_embeddings()(layout.ids)
    with torch.no_grad():
        return method.forward(model, config, embeds, layout, visual.to(embeds.dtype), **more).logits


@pytest.fixture
def prompts():
    layout, ids, real = batch(PROMPTS)
    return SimpleNamespace(layout=layout, ids=ids, real=real, visual=pictures(layout))
