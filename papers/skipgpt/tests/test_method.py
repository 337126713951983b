"""The reference (mode "mask"), its caches, the gate, the loss and their gradients."""

import copy

import pytest
import torch
from torch import nn

from tests.numerics import float64

from ..eviction import EvictionError
from ..method import (
    SkipGPTConfig,
    executed_fraction,
    gumbel_noise,
    routing_of,
    sparsity_loss,
    straight_through_gate,
)
from . import invariants as holds
from .invariants import batch, forced, gates_of, logits, route

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


# -- 1, 6, 10: what a forward pass is --------------------------------------------------------------
def test_pitfall_01_all_execute_equals_stock(model):
    stock = copy.deepcopy(model)
    holds.all_execute_is_the_stock_model(model, route(model), stock, **batch())


def test_pitfall_01_all_skip_equals_no_layers(model):
    stock = copy.deepcopy(model)
    holds.all_skip_is_no_layer_at_all(model, route(model), stock, **batch())


@pytest.mark.parametrize("reads", ["module_input", "layer_input"])
def test_the_router_decides_on_the_right_state(model, reads):
    holds.router_decides(model, route(model, mlp_router_input=reads), **batch())


def test_mask_mode_is_the_papers_equations(fresh):
    """Section 3.2 written out once more, on the stock layers' own modules."""
    stock, model = fresh(), fresh()
    state = route(model)
    inputs = batch(padded=False)
    ours = model(**inputs, output_hidden_states=True).hidden_states
    position = torch.arange(20)[None]
    x = stock.model.embed_tokens(inputs["input_ids"])
    rope = stock.model.rotary_emb(x, position)
    for layer, (g_attn, g_mlp), after in zip(stock.model.layers, state.gates, ours[1:]):
        attention, _ = layer.self_attn(layer.input_layernorm(x), position_embeddings=rope,
                                       attention_mask=None)
        y = x + g_attn[..., None] * attention
        x = y + g_mlp[..., None] * layer.mlp(layer.post_attention_layernorm(y))
        if layer is not stock.model.layers[-1]:  # the last of hidden_states is normed
            holds.assert_close(after, x, "a layer's output")


def test_gemma_gates_after_the_second_norm(fresh):
    """Before it, a gate of 0 would send the gradient through an RMSNorm at the zero vector."""
    model = fresh("gemma2", "eager")
    state = route(model)
    state.policy = forced(torch.zeros(3, 2, 3, 20))
    model.train()
    model(**batch(), labels=batch()["input_ids"]).loss.backward()
    largest = max(p.grad.abs().max() for p in model.parameters() if p.grad is not None)
    assert 0 < largest < 1e3


def test_pitfall_06_past_ignores_future(model):
    holds.past_ignores_future(model, route(model), **batch())


def test_pitfall_06_rows_and_padding_are_independent(model):
    holds.rows_ignore_each_other(model, route(model), **batch())


def test_pitfall_06_top_k_over_the_sequence_is_found_out(fresh):
    """Routing by rank within the sequence (mixture of depths) looks ahead; the check sees it."""
    model = fresh()
    state = route(model)
    weight = torch.randn(32, generator=torch.Generator().manual_seed(0))

    def top_half(layer, name, x, valid):
        score = (x @ weight).masked_fill(~valid, -torch.inf)
        return (score >= score.median(-1, keepdim=True).values).float()

    state.policy = top_half
    with pytest.raises(AssertionError, match="depends on later tokens"):
        holds.past_ignores_future(model, state, **batch())


def test_pitfall_10_evaluation_is_deterministic(model):
    state = route(model)  # after model.eval(): the new routers must not be in training mode
    assert not any(router.training for router in state.routers().values())
    holds.evaluation_is_deterministic(model, state, **batch())
    holds.gates_are_hard(model, state, **batch())
    routed_first = copy.deepcopy(model).train().eval()
    assert torch.equal(logits(routed_first, **batch()), logits(model, **batch()))


def test_pitfall_10_sampling_in_evaluation_is_a_choice(fresh):
    """The released code samples in evaluation; here it must be asked for, and is then seeded."""
    model = fresh()
    state = route(model, eval_sampling=True)
    with pytest.raises(AssertionError, match="two passes"):
        holds.evaluation_is_deterministic(model, state, **batch())
    seeded = []
    for seed in (1, 1, 2):
        state.generator = torch.Generator().manual_seed(seed)
        seeded.append(logits(model, **batch()))
    assert torch.equal(seeded[0], seeded[1]) and not torch.equal(seeded[0], seeded[2])
    state.generator, state.noise = None, gumbel_noise((6, 3, 20, 2))
    holds.evaluation_is_deterministic(model, state, **batch())
    holds.gates_are_hard(model, state, **batch())


# -- 3, 4: caches ----------------------------------------------------------------------------------
def test_pitfall_03_cached_decoding_equals_full_forward(model):
    holds.cached_decoding_is_the_full_forward(model, route(model), **batch())


def test_pitfall_04_later_tokens_see_skipped_ones(model):
    holds.later_tokens_see_skipped_ones(model, route(model))


def test_pitfall_04_evicted_keys_are_not_seen(model):
    state = route(model, kv_policy="evict")
    holds.later_tokens_see_skipped_ones(model, state, sees=False)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_pitfall_04_eviction_hides_a_key_from_others_only(fresh, attention):
    """Nothing is hidden where everything is executed; a skipped token still sees itself."""
    model, dense = fresh("llama", attention), fresh("llama", attention)
    state = route(model, kv_policy="evict")
    every = torch.ones(3, 2, 3, 20)
    state.policy = forced(every)
    holds.assert_close(logits(model, **batch())[batch()["attention_mask"].bool()],
                       logits(dense, **batch())[batch()["attention_mask"].bool()],
                       "nothing evicted")
    state.policy = None
    holds.cached_decoding_is_the_full_forward(model, state, **batch())
    with pytest.raises(EvictionError, match="did not fill"):  # as long as the last one, and another's
        cache = dense(**batch()).past_key_values
        logits(model, input_ids=batch()["input_ids"][:, :1], past_key_values=cache)


# -- 7, 9, 12: gate, loss, schedule ----------------------------------------------------------------
def test_pitfall_07_gumbel_sample_ignores_temperature_and_gradient_does_not():
    holds.sample_ignores_temperature()


def test_pitfall_07_gumbel_samples_follow_the_router():
    holds.samples_follow_the_router()


def test_pitfall_07_gumbel_gate_is_torchs_own():
    """`torch.nn.functional.gumbel_softmax(hard=True)[..., 0]`: value and gradient."""
    answers = torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(3))
    for tau in (5.0, 1.0):
        ours, theirs = answers.clone().requires_grad_(), answers.clone().requires_grad_()
        torch.manual_seed(9)
        gate = straight_through_gate(ours, tau, gumbel_noise(answers.shape))
        torch.manual_seed(9)
        other = nn.functional.gumbel_softmax(theirs, tau, hard=True)[..., 0]
        assert torch.equal(gate, other.round())
        weight = torch.arange(14.0).view(2, 7)
        (gate * weight).sum().backward()
        (other * weight).sum().backward()
        holds.assert_close(ours.grad, theirs.grad, "gradient")


def test_argmax_ties_execute():
    answers = torch.tensor([[[1.0, 1.0], [0.0, 1e-6], [1e-6, 0.0]]])
    assert straight_through_gate(answers, 1.0).tolist() == [[1.0, 0.0, 1.0]]


@pytest.mark.parametrize("T, alpha", [(0.25, 8.0), (0.4, 20.0)])
def test_pitfall_09_budget_loss_and_its_direction(T, alpha):
    holds.budget_pulls_towards_the_target(SkipGPTConfig(target_sparsity=T, alpha=alpha))


def test_pitfall_09_budget_ignores_padding():
    """Two of three tokens are real: the mean is over two."""
    valid = torch.tensor([[False, True, True]])
    pair = (torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    assert executed_fraction([pair], valid).item() == 0.25
    holds.assert_close(executed_fraction([pair], valid, weights=(0.8, 0.2)), 0.4, "weighted")
    holds.assert_close(sparsity_loss(executed_fraction([pair], valid), 0.25, 8.0), 4.0, "the loss")


def router_gradient(model, called, inputs):
    """Gradient of LM + budget after one step; `called` is the model as wrapped."""
    state = routing_of(called)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("router_" in name)
    model.train()
    torch.manual_seed(4)
    loss = called(**inputs, labels=inputs["input_ids"], use_cache=False).loss
    cost = sparsity_loss(state.executed_fraction(), 0.25, 8.0)
    assert cost.requires_grad, "the budget is a constant"
    (loss + cost).backward()
    return torch.cat([p.grad.flatten() for p in state.parameters()])


def test_pitfall_09_budget_reaches_routers_under_ddp_and_peft(fresh, tmp_path):
    """The released code finds its layers by class name: wrapped, its budget is a constant."""
    from peft import LoraConfig, get_peft_model

    plain = fresh()
    route(plain)
    expected = router_gradient(plain, plain, batch())
    assert expected.abs().max() > 1e-3

    inner = fresh()
    route(inner)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])  # starts as no change
    wrapped = get_peft_model(inner, lora)
    assert routing_of(wrapped) is routing_of(inner)
    holds.assert_close(router_gradient(inner, wrapped, batch()), expected, "under PEFT")

    inner = fresh()
    route(inner).parameters()
    inner.requires_grad_(False)
    for parameter in routing_of(inner).parameters():
        parameter.requires_grad_(True)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(inner)
        holds.assert_close(router_gradient(inner, wrapped, batch()), expected, "under DDP")
    finally:
        torch.distributed.destroy_process_group()


def test_pitfall_12_temperature_falls_linearly():
    holds.temperature_falls_linearly()


# -- 8, 11: training -------------------------------------------------------------------------------
def test_pitfall_08_router_learns_from_skipped_tokens_and_nothing_else_learns(model):
    holds.router_learns_from_skipped_tokens(model, route(model), **batch())


def test_pitfall_08_frozen_routers_take_no_gradient_and_do_not_sample(fresh):
    """Stage 2: routers decide by argmax, also in training mode, and pass nothing back."""
    model = fresh()
    state = route(model)
    gates = []
    for training in (False, True, True):
        model.train(training)
        for parameter in state.parameters():
            parameter.requires_grad_(False)
        model(**batch(), labels=batch()["input_ids"]).loss.backward()
        gates.append(gates_of(state))
    assert torch.equal(gates[0], gates[1]) and torch.equal(gates[1], gates[2])
    assert all(p.grad is None for p in state.parameters())
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().max() > 0


def step_with(model, state, checkpointing):
    """One training step: loss, router gradients, calls of each MLP, and what was recorded."""
    calls = [0] * len(state.layers)

    def count(i):
        def hook(*_):
            calls[i] += 1
        return hook

    for i, layer in enumerate(state.layers):
        layer.mlp.register_forward_hook(count(i))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    state.temperature = 2.0
    state.start_recording()
    torch.manual_seed(11)
    out = model(**batch(), labels=batch()["input_ids"], use_cache=False, output_hidden_states=True)
    fraction = state.executed_fraction()
    (out.loss + fraction).backward()
    assert torch.equal(fraction, state.executed_fraction()), "recomputing changed the rates"
    with pytest.raises(RuntimeError, match="no forward pass"):
        state.stats()  # rates of training steps are sampled rates: they are not recorded
    gradient = torch.cat([p.grad.flatten() for p in state.parameters()])
    return out.loss.detach(), gradient, calls, len(out.hidden_states)


def test_pitfall_11_gradient_checkpointing_changes_nothing(model):
    other = copy.deepcopy(model)
    plain = step_with(model, route(model), False)
    saving = step_with(other, route(other), True)
    assert plain[2] == [1, 1, 1] and saving[2] == [2, 2, 2], "checkpointing was not active"
    assert plain[3] == saving[3] == 4  # embeddings and three layers
    assert torch.equal(plain[0], saving[0])
    holds.assert_close(saving[1], plain[1], "router gradients")


def test_pitfall_11_checkpointing_refuses_noise_that_it_cannot_draw_again(fresh):
    model = fresh()
    state = route(model)
    state.generator = torch.Generator().manual_seed(0)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(RuntimeError, match="manual_seed"):
        model.train()(**batch(), use_cache=False)
