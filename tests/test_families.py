"""The tiny families: they are what their names promise, and the table of methods says what the code does."""

import pytest
import torch

from common.families import FAMILIES, build, text_ids, with_pictures
from common.families.pictures import IMAGE, PICTURES


def test_there_are_enough_of_both_kinds():
    assert len(FAMILIES) - len(PICTURES) >= 45 and len(PICTURES) >= 6


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_family_computes_and_every_earlier_id_matters(name):
    model, ids = build(name), text_ids()
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float64}
    other = ids.clone()
    other[:, 8] = ids[:, 8] % 90 + 3
    logits, after = model(input_ids=torch.cat([ids, other])).logits.chunk(2)
    assert logits.shape == (2, 12, 128) and logits.isfinite().all()
    moved = (after - logits).abs().amax((0, 2)) / logits.std()
    if name != "paligemma":  # which reads a prompt both ways
        assert moved[:8].max() < 1e-5  # the future is not seen (two state-space families compute in fp32)
    assert moved[8:].min() > 1e-2  # and what stands before makes a difference that nobody overlooks
    if name in PICTURES:
        inputs = with_pictures(model, ids)
        assert (inputs["input_ids"] == IMAGE).sum(1).min() >= 4
        seen = model(**inputs).logits[:, -1]
        blind = model(**{**inputs, "pixel_values": -inputs["pixel_values"]}).logits[:, -1]
        assert ((seen - blind).abs().amax() / seen.std()) > 1e-2


@torch.no_grad()
def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    one, two, other = build("qwen3"), build("qwen3"), build("qwen3", seed=1)
    assert torch.equal(torch.rand(2), first)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize(("name", "holds"), [
    ("granite", lambda c: 1 not in (c.embedding_multiplier, c.attention_multiplier, c.residual_multiplier, c.logits_scaling)),
    ("cohere", lambda c: c.logit_scale != 1), ("gemma3_text", lambda c: len(set(c.layer_types)) == 2),
    ("smollm3", lambda c: c.no_rope_layers == [1, 0, 1]), ("falcon-alibi", lambda c: c.alibi), ("falcon", lambda c: not c.alibi),
    ("stablelm-qk-norm", lambda c: c.qk_layernorm), ("llama-longrope", lambda c: c.rope_parameters["rope_type"] == "longrope"),
    ("phi3-longrope", lambda c: c.rope_parameters["rope_type"] == "longrope"),
    ("llama-dynamic", lambda c: c.rope_parameters["rope_type"] == "dynamic"),
    ("llama", lambda c: c.num_key_value_heads < c.num_attention_heads),
])  # fmt: skip
def test_what_sets_a_family_apart_is_switched_on(name, holds):
    assert holds(build(name).config)
