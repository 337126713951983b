"""Small models for all tests of the paper, in double precision where two computations are compared."""

import pytest
import torch

from common.models import load, tiny
from tests.numerics import float64

KINDS = ("llama", "qwen2", "qwen3")


@pytest.fixture(scope="session")
def models():
    """{kind: model in double precision, with weights that matter}, loaded inside `float64`."""
    with float64():
        return {kind: load(tiny(kind, vocab_size=40, initializer_range=0.4, pad_token_id=None, bos_token_id=None,
                                eos_token_id=None)).model for kind in KINDS}


@pytest.fixture
def double():
    with float64():
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """The same order of additions everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
