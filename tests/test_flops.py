"""Counts are exact, and equal to those of the counter in torch."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from common import flops

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2")


def tiny(model_type, attn="sdpa", device="meta", **overrides):
    sizes = dict(hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=32, vocab_size=97, pad_token_id=0)
    config = AutoConfig.for_model(model_type, **{**sizes, **overrides})
    if model_type == "qwen2":
        config.head_dim = 16  # this family derives it
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, attn_implementation=attn)


@pytest.mark.parametrize("attn", ("eager", "sdpa"))
@pytest.mark.parametrize("model_type", FAMILIES)
def test_closed_form_equals_the_counter(model_type, attn):
    if (model_type, attn) == ("gemma2", "sdpa"):
        pytest.skip("Gemma-2 caps its attention scores, which sdpa cannot")
    model = tiny(model_type, attn)
    sizes = ((1, 1, 0, 0), (2, 10, 0, 0), (3, 7, 0, 1), (2, 1, 9, 0), (2, 4, 5, 2))
    for batch, seq, past, keep in sizes:
        measured = flops.count_forward_flops(model, batch, seq, past, keep)
        assert measured.total == flops.dense_forward_flops(model.config, batch, seq, past, keep)
        assert measured.total == sum(measured.by_operator.values())


@pytest.mark.parametrize("attn", ("eager", "sdpa"))
def test_real_tensors_count_as_meta_tensors(attn):
    real, meta = tiny("llama", attn, device="cpu"), tiny("llama", attn)
    real, meta = (flops.count_forward_flops(model, 2, 6) for model in (real, meta))
    assert real.total == meta.total


@pytest.mark.parametrize("heads_kv", (4, 2))
@pytest.mark.parametrize("masked", (False, True))
def test_attention_counts_the_full_rectangle(heads_kv, masked):
    q, k, v = (torch.randn(2, heads, n, 8) for heads, n in ((4, 5), (heads_kv, 7), (heads_kv, 7)))
    mask = torch.ones(5, 7, dtype=torch.bool).tril() if masked else None
    fn = partial(scaled_dot_product_attention, q, k, v, attn_mask=mask, enable_gqa=True)
    assert flops.counted(fn).total == 4 * 2 * 4 * 5 * 7 * 8


def test_llama2_7b_at_512_tokens():
    config = AutoConfig.for_model("llama", hidden_size=4096, intermediate_size=11008,
                                  num_hidden_layers=32, num_attention_heads=32,
                                  num_key_value_heads=32, vocab_size=32000)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    assert flops.count_forward_flops(model, 1, 512).total == 6_903_086_186_496
    assert flops.dense_forward_flops(config, 1, 512) == 6_903_086_186_496


def test_count_leaves_the_model_as_it_was():
    model = tiny("llama").train()
    model.lm_head.eval()
    flops.count_forward_flops(model, 1, 4)
    assert model.training and model.model.training and not model.lm_head.training


def test_rotary_tables_are_left_out():
    class WithRotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.rotary_emb, self.linear = nn.Linear(3, 5, bias=False), nn.Linear(3, 4, bias=False)

        def forward(self, x):
            return self.rotary_emb(x), self.linear(x)

    model = WithRotary()
    count = flops.counted(lambda: model(torch.ones(2, 3)))
    assert count == flops.FlopCount(2 * 2 * 3 * 4, {"aten.mm": 48})


def test_counted_sees_only_what_ran():
    assert flops.counted(lambda: None) == flops.FlopCount(0, {})
    a = torch.ones(3, 4, requires_grad=True)
    forward = flops.counted(lambda: a @ torch.ones(4, 5))
    both = flops.counted(lambda: (a @ torch.ones(4, 5)).sum().backward())
    assert (forward.total, both.total) == (2 * 60, 2 * 120)


def test_what_the_closed_form_does_not_cover_is_refused_by_property():
    with pytest.raises(ValueError, match="experts is 8"):
        flops.dense_forward_flops(AutoConfig.for_model("mixtral"), 1, 1)
    with pytest.raises(ValueError, match="intermediate_size"):
        flops.dense_forward_flops(AutoConfig.for_model("gpt2"), 1, 1)
    config = AutoConfig.for_model("llama")
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        flops.dense_forward_flops(config, 1, 1)
    model = tiny("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="flash_attention_2"):
        flops.count_forward_flops(model, 1, 1)


def test_two_matrix_mlp():
    model = tiny("gpt_neox", num_key_value_heads=4, head_dim=16)
    closed = flops.dense_forward_flops(model.config, 2, 6, mlp_matrices=2)
    assert flops.count_forward_flops(model, 2, 6).total == closed


def test_unknown_devices_have_no_peak(monkeypatch):
    def peak_of(name):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        return flops.peak_of("cuda")

    assert peak_of("NVIDIA H100 80GB HBM3") == flops.Peak(989e12, 3.35e12)
    assert peak_of("NVIDIA A100-SXM4-80GB") == flops.Peak(312e12, 2.04e12)
    assert peak_of("NVIDIA H100 PCIe") is None
    assert peak_of("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None
    assert flops.peak_of("cpu") is None
    assert flops.utilisation(1e12, 1.0, None) is None
    assert flops.roofline_seconds(1, 1, None) is None


def test_roofline_is_the_tighter_limit():
    peak = flops.Peak(100.0, 10.0)
    assert flops.roofline_seconds(200, 1, peak) == 2.0
    assert flops.roofline_seconds(200, 50, peak) == 5.0
    assert flops.utilisation(50, 2.0, peak.bf16_flops_per_s) == 0.25


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_counts():
    for attn in ("eager", "sdpa"):
        model = tiny("llama", attn, device="cuda").to(torch.bfloat16)
        closed = flops.dense_forward_flops(model.config, 2, 6)
        assert flops.count_forward_flops(model, 2, 6).total == closed
        ids = torch.zeros(2, 8, dtype=torch.long, device="cuda")  # no mask: fused, grouped keys
        with torch.no_grad():
            count = flops.counted(partial(model, input_ids=ids, use_cache=False)).total
        assert count == flops.dense_forward_flops(model.config, 2, 8)
