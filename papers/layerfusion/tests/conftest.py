"""Decoders that fusions are put into."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from .fused import CONFIG


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request):
    torch.manual_seed(0)
    kind, config = (Qwen3ForCausalLM, Qwen3Config) if request.param == "qwen3" else (LlamaForCausalLM, LlamaConfig)
    return kind(config(**CONFIG)).double().eval()
