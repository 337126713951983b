"""probe.py and reencoding.py: what fits runs and equals the stock model fed a token at a time, what does not is refused by property.

A probe that lets everything pass, or nothing, is worth nothing: here each property is taken away from a model that had it.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from common.errors import ModelError
from common.families import build, text_ids
from common.lora import LoraSpec, add_lora
from tests.numerics import close

from .. import method, probe, reencoding
from ..families import METHODS, examples_of, expected
from ..method import arm
from ..segments import Batch

POSITION, LIVE = "position re-encoding", "streaming session"


@pytest.fixture(scope="module")
def llama():
    return build("llama", dtype=torch.float32)


def copied(model):
    return copy.deepcopy(model)


# -- families ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["smollm3", "glm", "granite", "olmo2", "phi3", "gemma3_text", "llava"])
def test_position_reencoding_is_right_in_every_layer(family):
    """Layers without rotary positions, interleaved pairs, part of a head, two sets of frequencies."""
    METHODS[POSITION](build(family), text_ids())


@pytest.mark.parametrize("family, name, property", [
    ("stablelm", POSITION, "hands no keyword arguments on to its attention"),
    ("deepseek_v3", POSITION, "caches its rotary part among the values of layer 0"),
    ("gptj", POSITION, "keys of layer 0 are not turned by their ids alone"),
    ("gptj", "φ = 0.5", "takes no fractions of a position .*set phi to a whole number"),
    ("gpt2", "φ = 0.5", "positions are absolute"), ("gpt2", LIVE, "positions are absolute"),
    ("hunyuan_v1_dense", LIVE, "positions are absolute: .*weights between the rotation and the scores"),
    ("lfm2", LIVE, "source and target do not stay apart"), ("qwen3_next", LIVE, "source and target do not stay apart"),
    ("mamba2", LIVE, "source and target do not stay apart"), ("llama4_text", LIVE, "chunked_attention"),
    ("paligemma", LIVE, "not the causal one .a prefix that is read in both directions"),
    ("mpt", LIVE, "position ids change nothing"), ("bloom", LIVE, "a mask of four dimensions, position ids and a cache"),
])  # fmt: skip
def test_what_a_model_lacks_is_named(family, name, property):
    with pytest.raises(ModelError, match=property):
        METHODS[name](build(family), text_ids())


@pytest.mark.parametrize("family", ["deepseek_v3", "stablelm", "gptj"])
def test_a_model_that_cannot_be_reencoded_still_streams(family):
    METHODS["training pass"](build(family), text_ids())


def test_a_training_in_mixed_precision_is_measured_without_it():
    """Under autocast logits are rounded to bfloat16 while the weights are single precision: no property of the model."""
    model = build("qwen2", seed=1, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        method.check_model(model, arm("group"))


def test_the_reference_is_the_stock_model_where_everything_is_visible(llama):
    """With phi = S and all source visible the reference is one plain pass."""
    example = examples_of(llama, text_ids())[0]
    tokens = torch.cat([example.source, example.target])[None]
    own = arm("group", len(example.source))
    from ..families import reference

    found = reference(llama, example.source, example.target, [len(example.source)] * len(example.target), lambda seen: 0, own.phi)
    close(found, llama(input_ids=tokens).logits[0, len(example.source) :], rel=1e-5)
    assert (expected(llama, own, example, 1) - found[:-1]).abs().max() > 1e-2  # wait-1 hides some of it


# -- how far -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family, reach", [("llama", (None, None)), ("llama-yarn", (None, None)), ("llama-dynamic", (None, 256)),
                                           ("llama-longrope", (None, 64)), ("phi3-longrope", (None, 64)), ("gptj", (None, 256)),
                                           ("gemma2", (5, None)), ("smollm3", (None, None))])
def test_reach(family, reach):
    model = build(family)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    assert probe.reach(model) == reach
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())


def test_ids_beyond_the_reach_are_refused_before_they_turn_wrong():
    model, ids = build("phi3-longrope"), text_ids()
    batch = Batch.of(examples_of(model, ids), (1, 2))
    method.forward(model, arm("group", 58), batch.source, batch.target, batch.layout)  # 58 .. 63
    with pytest.raises(ModelError, match="a position id of 64; from 64 on"):
        method.forward(model, arm("group", 59), batch.source, batch.target, batch.layout)


# -- a property taken away ---------------------------------------------------------------------------------
def test_a_mask_that_is_not_read_is_noticed(llama, monkeypatch):
    def blind(module, query, key, value, attention_mask, **more):
        return sdpa_attention_forward(module, query, key, value, None, **more)

    AttentionInterface.register("blind", blind)
    model = copied(llama)
    monkeypatch.setattr(probe, "TWO_FRAMES", "blind")  # passes as an implementation that takes masks
    model.config._attn_implementation = "blind"
    with pytest.raises(ModelError, match="do not stay apart"):
        method.check_model(model, arm("group"))


def test_ids_that_are_not_read_are_noticed(llama):
    model = copied(llama)
    own = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda x, position_ids: own(x, torch.zeros_like(position_ids))
    with pytest.raises(ModelError, match="position ids change nothing"):
        method.check_model(model, arm("group"))


def test_layers_whose_keys_turn_another_way_are_noticed(llama):
    model = copied(llama)
    layer = model.model.layers[1].self_attn
    own = layer.forward

    def faster(hidden_states, position_embeddings, **more):
        cos, sin = position_embeddings
        return own(hidden_states, position_embeddings=(cos * cos - sin * sin, 2 * sin * cos), **more)

    layer.forward = faster  # twice as fast as its frequencies say
    method.check_model(model, arm("group"))
    with pytest.raises(ModelError, match="keys of layer 1 are not turned by their ids alone"):
        method.check_model(model, arm("position_reencoding"))


def test_a_wrong_turn_of_one_layer_is_caught_by_the_table(llama, monkeypatch):
    """The check of families.py is one: a layer without rotary positions that is turned all the same fails it."""
    model = build("smollm3")
    turns = reencoding.turns(model)
    assert [len(turn.frequencies) for turn in turns] == [4, 0, 4]
    monkeypatch.setattr(reencoding, "turns_of", lambda model: [turns[0]] * 3)
    with pytest.raises((AssertionError, ModelError)):
        METHODS[POSITION](model, text_ids())


# -- once, and without a trace -----------------------------------------------------------------------------
def test_the_probe_leaves_no_trace_and_is_remembered(llama, monkeypatch):
    model, passes = copied(llama).train(), []
    model.model.layers[0].eval()
    own = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **more: passes.append(0) or own(*a, **more))
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    for name in ("position_reencoding", "group"):
        method.check_model(model, arm(name))
    assert torch.equal(torch.get_rng_state(), state) and [module.training for module in model.modules()] == modes
    assert model.config._attn_implementation == "sdpa" and all(p.grad is None for p in model.parameters())
    first = len(passes)
    for name in ("position_reencoding", "group"):
        method.check_model(model, arm(name))
    method.check_model(model, arm("group", 3.0))
    assert len(passes) == first > 0
    wrapped = add_lora(model, LoraSpec(rank=2))
    method.check_model(wrapped, arm("group"))
    assert len(passes) == first
    with torch.no_grad():
        next(model.parameters()).add_(0.0)
    method.check_model(model, arm("group"))  # still training: what it is has not changed
    assert len(passes) == first
    method.check_model(model.eval(), arm("group"))
    assert len(passes) > first


def test_a_refusal_is_remembered(monkeypatch):
    model = build("gpt2")
    with pytest.raises(ModelError) as first:
        method.check_model(model, arm("group"))
    monkeypatch.setattr(model, "forward", lambda *a, **more: pytest.fail("measured again"))
    with pytest.raises(ModelError) as second:
        method.check_model(model, arm("group"))
    assert str(first.value) == str(second.value)
    monkeypatch.undo()
    method.check_model(model, arm("interleaved"))  # needs ids, and no differences of ids


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family, property_", [("llama", None), ("qwen3", None), ("phi3", None), ("gpt_neo", "positions are absolute"),
                                               ("mpt", "position ids change nothing"), ("lfm2", "do not stay apart")])
def test_a_large_model_in_half_precision_is_held_against_its_own_rounding(family, property_, dtype, monkeypatch):
    """Measured as it is, for a copy in single precision would be too large: what fits is let in, and what lacks a property is not."""
    monkeypatch.setattr(probe, "measurable", lambda model: model)
    model = build(family).to(dtype)
    if property_ is None:
        method.check_model(model, arm("group"))
    else:
        with pytest.raises(ModelError, match=property_):
            method.check_model(model, arm("group"))


def test_half_precision_is_measured_in_single(llama):
    """Its own rounding would hide what is measured; a small model is copied."""
    for dtype in (torch.bfloat16, torch.float16):
        method.check_model(copied(llama).to(dtype), arm("position_reencoding"))
        with pytest.raises(ModelError, match="positions are absolute"):
            method.check_model(build("gpt2", dtype=dtype), arm("group"))


def test_parts_with_another_attention_keep_it():
    """A picture encoder's attention is nobody's business here."""
    model = build("llava", dtype=torch.float32)
    model.config.vision_config._attn_implementation = "eager"
    ids = text_ids()
    batch = Batch.of(examples_of(model, ids), (1, 2))
    method.forward(model, arm("position_reencoding"), batch.source, batch.target, batch.layout)
    assert (model.config.vision_config._attn_implementation, model.config.text_config._attn_implementation) == ("eager", "sdpa")


def test_other_errors_of_a_pass_are_not_remembered_as_refusals(llama, monkeypatch):
    model = copied(llama)
    own = model.forward

    def full(*args, **more):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        method.check_model(model, arm("group"))
    monkeypatch.setattr(model, "forward", own)
    method.check_model(model, arm("group"))


def test_turns_of_pairs_that_are_neighbours():
    """By hand: a quarter turn of the pairs (0, 1), (2, 3), and of (0, 2), (1, 3); entries before and behind stay."""
    quarter = torch.pi / 2
    x = torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0, 9.0]])
    one = SimpleNamespace(shift=torch.tensor([1.0]))
    for interleaved, expected_entries in ((True, [9, -2, 1, -4, 3, 9]), (False, [9, -3, -4, 1, 2, 9])):
        turn = reencoding.Turn(torch.tensor([quarter, quarter]), 1, interleaved)
        turned = reencoding.rotate(x, *reencoding.rotation(one.shift, turn), turn)
        close(turned, torch.tensor([expected_entries], dtype=torch.float32), rel=1e-6)
