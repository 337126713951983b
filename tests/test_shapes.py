"""Shapes: every parameter and cache byte of stock models, to the last one; known models as they are published."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from common import shapes
from common.models import ModelSpec, load
from common.shapes import KNOWN, Shape

# Sizes that tell dimensions apart: no two products of them are equal by chance.
SIZES = dict(hidden_size=42, intermediate_size=72, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
             vocab_size=97, pad_token_id=0)
FAMILIES = {
    "llama": ("llama", {}, {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}, {"tied": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}, {"qkv_bias": True, "o_bias": True, "mlp_bias": True}),
    "llama, one key head": ("llama", {"num_key_value_heads": 1}, {"KV": 1}),
    "mistral": ("mistral", {}, {}),
    "qwen2": ("qwen2", {"hidden_size": 48, "head_dim": None}, {"d": 48, "qkv_bias": True}),
    "qwen3": ("qwen3", {}, {"head_norm": True}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}, {"head_norm": True, "qkv_bias": True, "o_bias": True}),
    "phi3": ("phi3", {"hidden_size": 48, "head_dim": None}, {"d": 48}),
    "gemma": ("gemma", {}, {"tied": True}),
    "gemma2": ("gemma2", {}, {"tied": True, "norms": 4}),
    "gemma3": ("gemma3_text", {}, {"tied": True, "norms": 4, "head_norm": True}),
    "granite": ("granite", {"hidden_size": 48, "head_dim": None}, {"d": 48}),
    "smollm3": ("smollm3", {"hidden_size": 48, "head_dim": None}, {"d": 48}),
}


def stock(family):
    model_type, entries, facts = FAMILIES[family]
    sizes = {name: value for name, value in (SIZES | entries).items() if value is not None}
    config = AutoConfig.for_model(model_type, **sizes)
    if "tie_word_embeddings" not in entries and not facts.get("tied"):
        config.tie_word_embeddings = False
    return config


def built(config, device="meta"):
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_model(family):
    config = stock(family)
    shape = Shape.of(config)
    expected = dict(d=42, f=72, L=3, H=6, KV=2, dh=8, V=97) | FAMILIES[family][2]
    assert shape == Shape(**expected)
    assert shape.parameters() == sum(p.numel() for p in built(config).parameters())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cache_bytes_are_those_of_a_real_cache(family):
    config = stock(family)
    model, cache = built(config, "cpu"), DynamicCache(config=config)
    model(input_ids=torch.ones(3, 7, dtype=torch.long), past_key_values=cache)
    held = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == Shape.of(config).kv_bytes(3 * 7, bytes_each=4) == 21 * Shape.of(config).kv_bytes(bytes_each=4)


def test_linear_is_what_a_layer_multiplies():
    shape = Shape.of(stock("llama"))
    by_hand = {"q, o": 2 * 42 * 48, "k, v": 2 * 42 * 16, "gate, up, down": 3 * 42 * 72}
    assert (shape.dq, shape.dk, shape.linear) == (48, 16, sum(by_hand.values()))
    layer = built(stock("llama")).model.layers[0]
    assert shape.linear == sum(m.weight.numel() for m in layer.modules() if isinstance(m, torch.nn.Linear))


# -- what is no shape --------------------------------------------------------------------------------------
@pytest.mark.parametrize("model_type, sizes, message", [
    ("gpt2", {}, "GPT2Config has no intermediate_size: a shape is of a decoder whose layers are all alike"),
    ("gpt_neox", SIZES, r"GPTNeoXConfig has layers with input_layernorm.bias \(42,\), which a shape does not describe"),
    ("mixtral", SIZES | {"num_local_experts": 2}, r"MixtralConfig has layers with (block_sparse_moe|mlp)\.\S+ \(.*, which a shape"),
    ("starcoder2", SIZES, r"Starcoder2Config has layers with mlp.c_fc.weight \(72, 42\), which a shape does not describe"),
    ("olmo2", SIZES | {"hidden_size": 48, "head_dim": 8}, r"Olmo2Config has layers with self_attn.k_norm.weight \(16,\)"),
    ("falcon_h1", SIZES | {"mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8}, "FalconH1Config has layers with mamba"),
])  # fmt: skip
def test_what_a_shape_cannot_describe_is_refused_by_name(model_type, sizes, message):
    with pytest.raises(ValueError, match=message):
        Shape.of(AutoConfig.for_model(model_type, **sizes))


def test_layers_that_differ_are_refused():
    config = AutoConfig.for_model("qwen3_moe", **SIZES, mlp_only_layers=[0], decoder_sparse_step=1, num_experts=2, moe_intermediate_size=16)
    with pytest.raises(ValueError, match="Qwen3MoeConfig: layer 1 is not like layer 0"):
        Shape.of(config)


def test_reading_a_shape_draws_nothing():
    """A job that asks for a shape before it trains has the numbers of one that does not."""
    before = torch.get_rng_state()
    Shape.of(stock("llama"))
    assert torch.equal(torch.get_rng_state(), before) and torch.get_default_dtype() == torch.float32


# -- known models ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, count, token_bytes", [  # as published with the weights; a cached token in bfloat16, L x KV x dh x 4
    ("Llama-2-7B", 6_738_415_616, 524_288), ("Llama-2-13B", 13_015_864_320, 819_200), ("Llama-3.1-8B", 8_030_261_248, 131_072),
    ("SmolLM2-135M", 134_515_008, 23_040), ("Qwen2.5-3B", 3_085_938_688, 36_864), ("Qwen2.5-7B", 7_615_616_512, 57_344),
    ("DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000, 28_672), ("DeepSeek-R1-Distill-Qwen-7B", 7_615_616_512, 57_344),
    ("Qwen3-0.6B", 596_049_920, 114_688), ("Qwen3-1.7B", 1_720_574_976, 114_688), ("Qwen3-4B", 4_022_468_096, 147_456),
    ("Qwen3-8B", 8_190_735_360, 147_456), ("Gemma-2-2B", 2_614_341_888, 106_496), ("Phi-3-mini", 3_821_079_552, 393_216),
    ("LLaVA-1.5-3B", 2_701_560_320, 327_680), ("LLaVA-1.5-7B", 6_738_415_616, 524_288), ("LLaVA-1.5-13B", 13_015_864_320, 819_200),
])  # fmt: skip
def test_known_models(name, count, token_bytes):
    assert (KNOWN[name].name, KNOWN[name].parameters(), KNOWN[name].kv_bytes()) == (name, count, token_bytes)


def test_every_known_model_has_its_row_above():
    (rows,) = [mark.args[1] for mark in test_known_models.pytestmark if mark.name == "parametrize"]
    assert {row[0] for row in rows} == set(KNOWN) and len({id(shape) for shape in KNOWN.values()}) == len(KNOWN)


# -- visual tokens -----------------------------------------------------------------------------------------
def test_what_visual_tokens_cost_a_layer_by_hand():
    """d 4, f 6, two query heads and one key head of 3: linear 2*4*6 + 2*4*3 + 3*4*6 = 144 multiply-adds a token. Two visual tokens:
    2 * 2 * 144 = 576; attention, scores and values, 4 * 6 a pair: 4 pairs among them, 2 * 5 of five text tokens to them."""
    shape = Shape(d=4, f=6, L=3, H=2, KV=1, dh=3, V=10)
    assert (shape.visual_flops(2, 5), shape.visual_flops(0, 5)) == (576 + 24 * 14, 0)


def test_it_is_how_vica_counts():
    from papers.vica.analytic import visual_flops

    assert shapes.QWEN25_7B.L * shapes.QWEN25_7B.visual_flops(576, 62) == visual_flops(shapes.QWEN25_7B, 576, 62).total


# -- there and back ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [shapes.LLAMA31_8B, shapes.SMOLLM2_135M, shapes.QWEN25_3B, shapes.QWEN3_0_6B, shapes.R1_1P5B,
                                   Shape(32, 64, 2, 4, 2, 8, 96), Shape(24, 64, 2, 4, 2, 8, 96)], ids=lambda s: s.name or f"d = {s.d}")
def test_the_config_of_a_shape_has_that_shape(shape):
    config = AutoConfig.for_model(**shape.config(max_position_embeddings=8192))
    assert Shape.of(config) == shape and config.max_position_embeddings == 8192


def test_a_config_is_of_a_random_model_and_a_shape_without_one_is_refused():
    assert load(ModelSpec("random", config=Shape(32, 64, 2, 4, 2, 8, 96).config())).source["parameters"] == Shape(
        32, 64, 2, 4, 2, 8, 96).parameters()
    with pytest.raises(ValueError, match="norms=4.* is the shape of no Llama, Qwen2 or Qwen3"):
        shapes.GEMMA2_2B.config()


def test_a_papers_own_shape_is_read_as_its_own_class():
    class Mine(Shape):
        @property
        def half(self) -> int:
            return self.linear // 2

    mine = Mine.of(stock("llama"))
    assert type(mine) is Mine and mine.half == mine.linear // 2
