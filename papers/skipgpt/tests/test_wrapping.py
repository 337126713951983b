"""A model that is routed: variants of its routers, what stays the stock model's own, what is given back, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.numerics import float64

from .. import method
from ..gating import RoutedLayerMixin
from ..layers import UnfitModel, find_stack
from ..method import SkipGPTConfig, apply_skipgpt, remove_skipgpt, routing_of
from . import invariants as holds
from .invariants import batch, decide, gates_of, logits, route

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


def test_router_shapes_and_norm(fresh):
    """The bottleneck of the released code; routing on the normed state does not see its scale."""
    count = lambda s: sum(p.numel() for p in s.parameters())  # noqa: E731
    assert count(route(fresh())) == 3 * 2 * (32 * 2 + 2)
    assert count(route(fresh(), router_hidden=8)) == 3 * 2 * (32 * 8 + 8 + 8 * 2 + 2)
    assert count(route(fresh(), coupled=True)) == 3 * (32 * 2 + 2)
    normed = method.TokenRouter(32, norm=True)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    holds.assert_close(normed(1000 * x), normed(x), "normed router", 2e-6)  # the norm adds 1e-6 to the mean square


def test_coupled_layers_have_one_gate(fresh):
    model = fresh()
    state = route(model, coupled=True)
    logits(model, **batch())
    gates = gates_of(state)
    assert torch.equal(gates[:, 0], gates[:, 1]) and 0 < gates.mean() < 1


def test_initial_bias_sets_the_first_rate(fresh):
    rates = []
    for bias in (0.0, 3.0):
        model = fresh()
        state = route(model, init_execute_bias=bias)
        logits(model, **batch())
        rates.append(state.executed_fraction().item())
    assert 0.3 < rates[0] < 0.7 and rates[1] > rates[0] + 0.05


@pytest.mark.usefixtures("float32")
def test_routers_stay_in_fp32(fresh):
    """Under autocast, after model.to(bfloat16) and after half(): not rounded even once."""
    model = fresh()
    state = route(model)
    before = [p.clone() for p in state.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        answers = state.layers[0].router_attn(torch.randn(1, 2, 32))
    assert answers.dtype == torch.float32
    model.to(torch.bfloat16)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(before, state.parameters()))
    assert logits(model, **batch()).dtype == torch.bfloat16


def test_policy_may_leave_the_choice_to_the_router(fresh):
    model = fresh()
    state = route(model)
    logits(model, **batch())
    free = gates_of(state)
    state.policy = lambda layer, name, x, valid: (
        torch.ones_like(valid, dtype=torch.float32) if layer == 0 and name == "attn" else None
    )
    logits(model, **batch())
    assert (gates_of(state)[0, 0] == 1).all()
    assert not torch.equal(gates_of(state)[0, 1], torch.ones(3, 20)) and (free[0, 0] == 0).any()


def test_dense_mode_is_the_model_as_it_was(model):
    stock = copy.deepcopy(model)
    state = route(model, mode="dense")
    assert torch.equal(logits(model, **batch()), logits(stock, **batch()))
    with pytest.raises(RuntimeError, match="dense"):
        state.start_recording()
        logits(model, **batch())
        state.stats()


def test_removing_gives_the_stock_model_back(model):
    stock = copy.deepcopy(model)
    route(model)
    remove_skipgpt(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in stock.modules()]
    assert model.state_dict().keys() == stock.state_dict().keys()
    assert not model.model._forward_pre_hooks
    assert torch.equal(logits(model, **batch()), logits(stock, **batch()))
    route(model)  # and it can be routed again


def test_a_copy_has_its_own_routing(fresh):
    model = fresh()
    state = route(model)
    twin = copy.deepcopy(model)
    decide(routing_of(twin), -2e4)
    logits(twin, **batch())
    assert routing_of(twin) is not state and not state.gates
    logits(model, **batch())
    assert 0 < gates_of(state).mean() < 1 and gates_of(routing_of(twin)).sum() == 0


def test_stock_tools_see_the_stock_model(fresh, tmp_path):
    """Parameter names, saving in hub format, hidden states of every layer."""
    model, stock = fresh(), fresh()
    route(model)
    names = [n for n, _ in model.named_parameters() if "router_" not in n]
    assert names == [n for n, _ in stock.named_parameters()]
    out = model(**batch(), output_hidden_states=True)
    assert len(out.hidden_states) == 4
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()  # routers have files of their own
    assert not isinstance(again.model.layers[0], RoutedLayerMixin)
    assert torch.equal(logits(again, **batch()), logits(stock, **batch()))


def test_inputs_embeds_and_no_mask_are_the_same_forward(model):
    state = route(model)
    ids = batch(padded=False)["input_ids"]
    wanted = logits(model, input_ids=ids, attention_mask=torch.ones_like(ids))
    gates = gates_of(state)
    embeds = model.get_input_embeddings()(ids).detach()
    for inputs in ({"input_ids": ids}, {"inputs_embeds": embeds}):
        holds.assert_close(logits(model, **inputs), wanted, "other inputs")
        assert torch.equal(gates_of(state), gates) and state.valid.all()


@pytest.mark.parametrize("wrong, word", [
    ({"target_sparsity": 1.0}, "target_sparsity"), ({"target_sparsity": 25}, "target_sparsity"),
    ({"kv_policy": "sparse"}, "dense, evict"), ({"mlp_router_input": "x"}, "layer_input"),
    ({"sparsity_unit": "flops"}, "params"), ({"tau_end": 0.0}, "tau_end"),
])
def test_config_refuses(wrong, word):
    with pytest.raises(ValueError, match=word):
        SkipGPTConfig(**wrong)


def test_config_survives_a_dict():
    config = SkipGPTConfig(target_sparsity=0.4, coupled=True)
    assert SkipGPTConfig(**config.to_dict()) == config


def test_refusals_name_what_is_missing(fresh):
    with pytest.raises(UnfitModel, match="no list of decoder layers"):
        apply_skipgpt(nn.Linear(2, 2))
    model = fresh()
    with pytest.raises(RuntimeError, match="apply_skipgpt"):
        routing_of(model)
    state = route(model)
    with pytest.raises(RuntimeError, match="routed already"):
        apply_skipgpt(model)
    with pytest.raises(ValueError, match="'mask'"):
        state.set_mode("fast")
    assert find_stack(model) is model.model


def test_a_layer_that_lacks_a_module_leaves_the_model_as_it_was(fresh):
    model = fresh("llama")
    del model.model.layers[1].self_attn.q_proj
    with pytest.raises(TypeError, match="does not run on token ids alone.*q_proj"):
        apply_skipgpt(model)
    assert not any("router" in name for name, _ in model.named_modules())


def test_applying_leaves_the_mode_of_training_alone(fresh):
    model = fresh().train()
    state = route(model)
    assert model.training and state.routers()["layers.0.router_attn"].training
    assert state.mode == "mask" and state.policy is None and not state.gates
    with pytest.raises(RuntimeError, match="no forward pass"):
        state.stats()
