"""What is counted: realised rates over valid tokens, by hand, and what a module weighs in the budget."""

import pytest
import torch

from tests.numerics import float64

from . import invariants as holds
from .invariants import batch, forced, logits, route

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


def test_padding_does_not_count(model):
    holds.padding_does_not_count(model, route(model), **batch())


def test_statistics_by_hand(fresh):
    """Two passes of different lengths over 2 rows; every number is small enough to count."""
    model = fresh()
    state = route(model).start_recording()
    with pytest.raises(RuntimeError, match="start_recording"):
        state.stats()
    first = torch.ones(3, 2, 2, 2)  # both rows real, 2 tokens: 4 tokens
    first[0, 0] = torch.tensor([[0, 1], [0, 0]])  # attention of layer 0: 3 of 4 skipped
    second = torch.ones(3, 2, 2, 3)  # row 1 starts with padding: 5 tokens
    second[0, 0] = torch.tensor([[1, 1, 0], [0, 1, 1]])  # 1 of 5, its padding does not count
    second[2, 1] = torch.tensor([[1, 0, 0], [0, 0, 1]])  # MLP of layer 2: 3 of 5
    for gates, mask in ((first, [[1, 1], [1, 1]]), (second, [[1, 1, 1], [0, 1, 1]])):
        state.policy = forced(gates)
        mask = torch.tensor(mask)
        logits(model, input_ids=mask + 5, attention_mask=mask)
    stats = state.stats()
    assert stats.n_tokens == 9
    holds.assert_close([stats.attn_skip, stats.mlp_skip, stats.sparsity], [4 / 27, 3 / 27, 7 / 54], "rates")
    holds.assert_close(stats.per_layer, [[4 / 9, 0], [0, 0], [0, 3 / 9]], "by layer")
    # Position 0: 3 real tokens x 3 layers; 1: 4 x 3; 2: 2 x 3.
    holds.assert_close(stats.by_position, [[2 / 9, 0], [1 / 12, 2 / 12], [1 / 6, 1 / 6]], "by position")
    state.start_recording()
    state.policy = forced(first)
    logits(model, input_ids=torch.full((2, 2), 5))
    assert state.stats().n_tokens == 4  # recording starts anew


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("family, attention", [("llama", "sdpa"), ("gemma2", "eager")])
def test_statistics_of_generation_leave_out_padding(fresh, family, attention, cache):
    """Static caches come with a 4-D mask, from which padding has to be read."""
    model = fresh(family, attention)
    state = route(model).start_recording()
    model.generate(**batch(), max_new_tokens=4, do_sample=False, cache_implementation=cache,
                   eos_token_id=None, pad_token_id=0)
    assert state.stats().n_tokens == 3 * 20 - 13 + 3 * 3  # the last new token is not fed back


def test_a_4d_mask_means_the_same_as_the_2d_mask_it_was_made_of(fresh):
    for attention in ("sdpa", "eager"):
        model = fresh("llama", attention)
        state, inputs = route(model), batch()
        position = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        wanted = logits(model, **inputs, position_ids=position)
        real, valid = inputs["attention_mask"].bool(), state.valid
        mask = real[:, None, None, :] & torch.ones(20, 20, dtype=torch.bool).tril()
        if attention == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.get_default_dtype()).min)
        got = logits(model, input_ids=inputs["input_ids"], attention_mask=mask,
                     position_ids=position)
        assert torch.equal(state.valid, valid)
        holds.assert_close(got[real], wanted[real], "4-D mask")


def test_budget_weights_by_parameters(fresh):
    """SmolLM2's shape in the small: attention is P_a / (P_a + P_m) of a layer's projections."""
    state = route(fresh(), sparsity_unit="params")
    attn, mlp = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 64
    assert state.weights() == (attn / (attn + mlp), mlp / (attn + mlp))
    assert route(fresh()).weights() == (0.5, 0.5)


def test_budget_by_parameters_counts_the_backbone_alone(fresh):
    from peft import LoraConfig, get_peft_model

    model = fresh("llama")
    state = route(model, sparsity_unit="params")
    weights = state.weights()
    get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert state.weights() == weights
    model.model.layers[1].mlp = torch.nn.Linear(32, 32)
    with pytest.raises(ValueError, match="layers differ in size"):
        state.weights()
