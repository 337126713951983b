"""Tiny decoders of four families, written to and read from the hub's format once, and toy sentences for them.

`decoder(family, attention)` gives the shared model, in eval mode: not to be changed by a test. What could go wrong is in them:
grouped keys, a norm on each head (Qwen3), capped scores and sliding layers (Gemma-2), one matrix for q, k and v (Phi-3).
A test that has one computes in double precision throughout (double.py).
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.models import load, tiny
from common.streaming.units import Example
from common.streaming.words import Boundary

from ..data import toy_examples
from ..toy import TARGET_END, Language
from .double import Double

FAMILIES = ("llama", "qwen3", "gemma2", "phi3")


@pytest.fixture(scope="session")
def language():
    return Language.draw(0)


@pytest.fixture(scope="session")
def decoders(language, tmp_path_factory):
    """decoders(family, attention): a model in float64, made once."""
    folders, loaded = {}, {}

    def get(family="llama", attention="sdpa"):
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp("checkpoints") / family
            wide = {"sliding_window": 512} if family in ("gemma2", "phi3") else {}  # two layers: Gemma-2 has one of each kind
            load(tiny(family, vocab_size=len(language.pieces()), num_hidden_layers=2, **wide)).model.save_pretrained(folders[family])
        if (family, attention) not in loaded:
            model = AutoModelForCausalLM.from_pretrained(folders[family], attn_implementation=attention, dtype=torch.float32)
            loaded[family, attention] = model.double().eval()
        return loaded[family, attention]

    return get


@pytest.fixture
def decoder(decoders):
    """decoder(family="llama", attention="sdpa"), and the test inside Double."""
    with Double():
        yield decoders


@pytest.fixture(scope="session")
def sentences(language):
    """Toy sentences with words of one and two tokens, and one whose sides are a single word each, of unequal tokens."""
    ids = {piece: i for i, piece in enumerate(language.pieces())}
    word = next(w for w in language.source.values() if len(w) == 2), next(w for w in language.target.values() if len(w) == 1)
    one = Example.of_units([[1], [ids[p] for p in word[0]], [2]], [[3], [ids[p] for p in word[1]], [4]])
    return [*toy_examples(language, range(3)), one]


@pytest.fixture(scope="session")
def boundaries(language):
    """Both ways to see where a word ends, by the name of the way."""
    pieces = language.pieces()
    stop = pieces.index(TARGET_END)
    return {"ends": Boundary("ends", language.word_ends(), stop),
            "opens": Boundary("opens", torch.tensor([not piece.startswith("##") for piece in pieces]), stop)}
