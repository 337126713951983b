"""The reference (mode "mask"), the gate, the loss, the counting, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from common.families import build
from tests.numerics import float64

from .. import method
from ..eviction import EvictionError
from ..gating import RoutedLayerMixin
from ..layers import UnfitModel, find_stack
from ..method import (
    SkipGPTConfig,
    apply_skipgpt,
    executed_fraction,
    gumbel_noise,
    remove_skipgpt,
    routing_of,
    sparsity_loss,
    straight_through_gate,
)
from . import invariants as holds
from .invariants import batch, decide, forced, gates_of, logits, route

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


def test_a_layer_that_lacks_a_module_leaves_the_model_as_it_was(fresh):
    model = fresh("llama")
    del model.model.layers[1].self_attn.q_proj
    with pytest.raises(TypeError, match="does not run on token ids alone.*q_proj"):
        apply_skipgpt(model)
    assert not any("router" in name for name, _ in model.named_modules())


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


# -- statistics ------------------------------------------------------------------------------------
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


# -- variants, wrapping and refusals ---------------------------------------------------------------
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
    for family, property_ in (("mamba", "no MLP beside"), ("falcon_h1", "2 submodules of the layer look at other tokens")):
        model = build(family)
        before = {name: type(m) for name, m in model.named_modules()}
        with pytest.raises(UnfitModel, match=property_):
            apply_skipgpt(model)
        assert {name: type(m) for name, m in model.named_modules()} == before
    model = fresh()
    with pytest.raises(RuntimeError, match="apply_skipgpt"):
        routing_of(model)
    state = route(model)
    with pytest.raises(RuntimeError, match="routed already"):
        apply_skipgpt(model)
    with pytest.raises(ValueError, match="'mask'"):
        state.set_mode("fast")
    assert find_stack(model) is model.model


def test_applying_leaves_the_mode_of_training_alone(fresh):
    model = fresh().train()
    state = route(model)
    assert model.training and state.routers()["layers.0.router_attn"].training
    assert state.mode == "mask" and state.policy is None and not state.gates
    with pytest.raises(RuntimeError, match="no forward pass"):
        state.stats()
