"""Baselines that draw their gates, or learn them, do what their papers describe, and count what they claim to count.

Those that drop the same modules of every text have a file of their own, test_static_baselines.py.
"""

import copy

import pytest
import torch
from torch import nn

from tests.numerics import far, float64

from .. import baselines, method
from ..mixture_of_depths import MixtureOfDepths
from . import invariants as holds
from .conftest import LAYERS
from .invariants import REL, batch, gates_of, logits, route

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


# -- nothing is learned ----------------------------------------------------------------------------
@pytest.mark.parametrize("mode, tolerance", [("mask", 0.0), ("skip", REL)])
def test_no_op_is_the_stock_model(stock, mode, tolerance):
    inputs, expected = batch(), logits(stock, **batch())
    state = route(stock, mode=mode)
    state.policy = baselines.no_op()
    real = inputs["attention_mask"].bool()
    holds.assert_close(logits(stock, **inputs)[real], expected[real], "no-op", tolerance)


@pytest.mark.parametrize("mode", ["mask", "skip"])
def test_matched_random_has_the_rate_of_every_module(llama, mode):
    rates = torch.tensor([[0.0, 1.0], [0.1, 0.9], [0.5, 0.25], [0.4, 0.75]])
    state = route(llama, mode=mode).start_recording()
    state.policy = baselines.random_matched(rates, seed=3)
    for seed in range(12):
        logits(llama, **batch(seed=seed))
    stats = state.stats()
    allowed = 4 * (rates * (1 - rates) / stats.n_tokens).sqrt()
    assert stats.n_tokens == 12 * 47
    assert ((stats.per_layer - rates).abs() <= allowed).all(), f"{stats.per_layer} for {rates}"


def test_uniform_random_is_one_rate_and_independent_draws():
    policy, n = baselines.random_uniform(0.3, seed=0), 200 * 200
    valid = torch.ones(200, 200, dtype=torch.bool)
    draws = [policy(layer, name, torch.zeros(1), valid) for _ in range(2) for layer in range(2)
             for name in ("attn", "mlp")]
    draws += [draws[0].roll(1, 0), draws[0].roll(1, 1)]  # the row above, the token before
    for draw in draws:
        assert abs((1 - draw).mean() - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5
    centred = torch.stack([d.flatten() - 0.7 for d in draws])
    correlation = centred @ centred.T / (n * 0.3 * 0.7)
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 4.5 / n**0.5, correlation


def test_random_draws_depend_on_the_seed_the_row_and_the_place_only():
    def draw(padding=0, side="left", rows=3, seed=5, calls=1):
        valid = torch.ones(rows, 40, dtype=torch.bool)
        pad = torch.zeros(rows, padding, dtype=torch.bool)
        valid = torch.cat([pad, valid] if side == "left" else [valid, pad], 1)
        policy = baselines.random_uniform(0.5, seed)
        for _ in range(calls):
            gate = policy(1, "mlp", torch.zeros(rows, 40 + padding, 8), valid)
        return gate[valid].view(rows, 40)

    first = draw()
    assert torch.equal(first, draw()), "the same seed, other gates"
    assert torch.equal(first, draw(padding=7)) and torch.equal(first, draw(padding=7, side="right"))
    assert torch.equal(first, draw(rows=5)[:3]), "a row's gates depend on the batch"
    assert not torch.equal(first, draw(seed=6)) and not torch.equal(first, draw(calls=2))
    assert not torch.equal(first[0], first[1])


def test_random_routing_decodes_and_skips_alike(llama):
    state = route(llama)
    inputs, found = {k: v[:, 9:] for k, v in batch().items()}, {}
    for mode in ("mask", "skip"):
        state.set_mode(mode).policy = baselines.random_uniform(0.5, seed=1)
        state.start_recording()
        found[mode] = llama.generate(**inputs, max_new_tokens=12, do_sample=False, min_new_tokens=12)
        stats = state.stats()
        n = 8 * stats.n_tokens  # module decisions
        assert abs(stats.sparsity - 0.5) < 4 * (0.25 / n) ** 0.5, "decoding draws at another rate"
    assert torch.equal(found["mask"], found["skip"])


@pytest.mark.parametrize("make, match", [
    (lambda: baselines.random_uniform(1.2, 0), r"outside \[0, 1\]"),
    (lambda: baselines.random_uniform(float("nan"), 0), r"outside \[0, 1\]"),
    (lambda: baselines.random_matched(torch.zeros(2, 4), 0), r"must be \(L, 2\)"),
    (lambda: baselines.random_matched(torch.full((4, 2), -0.1), 0), r"outside \[0, 1\]"),
])
def test_rates_that_make_no_sense_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
    with pytest.raises(TypeError, match="integer seed"):
        baselines.random_uniform(0.5, None)


def test_matched_rates_of_a_shallower_model_are_refused(llama):
    route(llama).policy = baselines.random_matched(torch.zeros(2, 2), 0)
    with pytest.raises(ValueError, match="rates for 2 layers"):
        logits(llama, **batch())


# -- trained: token-blind, joint, D-LLM ------------------------------------------------------------
def one_step(prepared, with_budget=True, learning_rate=0.1):
    """A training step of the paper's loss; which parameters moved, by name."""
    model, state = prepared.model.train(), prepared.state
    torch.manual_seed(0)
    inputs = batch()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimiser = torch.optim.SGD(prepared.parameters, lr=learning_rate)
    out = model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100))
    loss = out.loss
    if with_budget:
        loss = loss + method.sparsity_loss(state.executed_fraction(), 0.9, 8.0)
    loss.backward()
    optimiser.step()
    return {n for n, p in model.named_parameters() if not torch.equal(before[n], p.detach())}


@pytest.mark.parametrize("hidden", [None, 6])
def test_bias_only_is_blind_to_the_token(llama, hidden):
    state = route(llama, router_hidden=hidden)
    llama.requires_grad_(False)
    biases = baselines.bias_only(state)
    assert [p for p in llama.parameters() if p.requires_grad] == biases and len(biases) == 2 * LAYERS
    moved = one_step(baselines.Prepared(llama, state, biases))
    last = 0 if hidden is None else 2
    assert moved == {f"model.layers.{i}.router_{n}.layers.{last}.bias" for i in range(LAYERS) for n in ("attn", "mlp")}
    for bias in biases:
        bias.data.normal_()
    llama.eval()
    logits(llama, **batch())
    gates = gates_of(state)
    assert (gates == gates[..., :1, :1]).all() and 0 < gates.mean() < 1
    assert not any(layer.weight.any() for r in state.routers().values() for layer in r.layers if hasattr(layer, "weight"))


@pytest.mark.parametrize("make", [baselines.joint, baselines.d_llm], ids=["joint", "d_llm"])
def test_joint_and_d_llm_train_routers_and_adapters_only(stock, make):
    prepared = make(stock, method.SkipGPTConfig(target_sparsity=0.4), rank=2)
    trains = {n: p for n, p in prepared.model.named_parameters() if p.requires_grad}
    assert {id(p) for p in trains.values()} == {id(p) for p in prepared.parameters}
    kinds = {n.split(".")[-3 if "lora" in n else -4] for n in trains}
    routers = {"router_attn"} if make is baselines.d_llm else {"router_attn", "router_mlp"}
    assert {k for k in kinds if k.startswith("router")} == routers
    assert {n.split(".")[-4] for n in trains if "lora_" in n} == {"q_proj", "v_proj"}
    assert prepared.state.config.target_sparsity == 0.4
    moved = one_step(prepared)
    assert moved <= set(trains) and any("lora_B" in n for n in moved) and any("router" in n for n in moved)


def test_d_llm_gates_the_whole_block(llama):
    """x + g (block(x) - x), by hand over the stock layers, with the gates that it took."""
    stock, inputs = copy.deepcopy(llama), batch(padded=False)
    state = baselines.d_llm(llama, method.SkipGPTConfig(), rank=2).state
    llama.eval()
    expected_gates, found = [], logits(llama, **inputs)
    for g_attn, g_mlp in state.gates:
        assert torch.equal(g_attn, g_mlp)
        expected_gates.append(g_attn[..., None])
    assert 0 < torch.stack(expected_gates).mean() < 1
    for gate, layer in zip(expected_gates, stock.model.layers):
        layer.register_forward_hook(lambda m, args, out, gate=gate: args[0] + gate * (out - args[0]))
    holds.assert_close(found, logits(stock, **inputs), "D-LLM")


# -- trained: mixture of depths --------------------------------------------------------------------
def mixture(model, skip=0.25, mode="mask", **options):
    state = route(model, mode=mode)
    torch.manual_seed(1)
    mod = MixtureOfDepths(LAYERS, 32, skip, **options)
    state.policy = mod.policy(state)
    return state, mod


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("spread", [True, False])
def test_mod_selects_exactly_k_of_each_sequence(stock, decoupled, strict, spread):
    state, mod = mixture(stock, 0.3, decoupled=decoupled, official_strict=strict, spread=spread)
    inputs = batch()
    logits(stock, **inputs)
    gates, real = gates_of(state), inputs["attention_mask"].bool()
    assert (gates[[0, -1]] == 1).all(), "first and last layer must be dense"
    k = torch.tensor([max(1, int((0.4 if spread else 0.7) * n + 1e-9)) for n in (20, 16, 11)])
    selected = (gates[1:-1] != 0) & real
    assert (selected.sum(-1) == k - int(strict)).all(), "not k tokens, or k - 1"
    assert not (gates[1:-1] != 0)[..., ~real].any(), "padding was selected"
    if not decoupled:
        assert torch.equal(gates[1:-1, 0], gates[1:-1, 1]), "the layer decided twice"
    if spread and not strict and decoupled:  # all of one length: the budget is the model's
        state.start_recording()
        logits(stock, **batch(padded=False))
        assert state.stats().sparsity == pytest.approx(0.3)


def test_mod_counts_ties_and_single_tokens_exactly():
    mod = MixtureOfDepths(4, 8, 0.5, spread=False)
    strict = MixtureOfDepths(4, 8, 0.5, official_strict=True, spread=False)
    valid = torch.ones(1, 6, dtype=torch.bool)
    assert mod.gate(torch.ones(1, 6), valid).tolist() == [[1, 1, 1, 0, 0, 0]]  # earlier first
    one = torch.tensor([[-2.0]])
    for each in (mod, strict):  # decoding: whatever the score, the token runs
        assert each.gate(one, valid[:, :1]).item() == -2
    two_of_four = torch.tensor([[0.1, -3.0, 2.0, 1.0]])
    assert strict.gate(two_of_four, valid[:, :4]).tolist() == [[0, 0, 2, 0]]
    rounding = MixtureOfDepths(4, 8, 0.55, spread=False)  # (1 - 0.55) 20 is 8.99… in floating point
    assert (rounding.gate(torch.randn(1, 20), torch.ones(1, 20, dtype=torch.bool)) != 0).sum() == 9


def test_mod_looks_ahead_and_skipgpt_does_not(stock):
    """Changed later tokens change earlier gates and logits; decided by routers, they do not."""
    inputs = batch(padded=False)
    state, mod = mixture(stock)
    changed = inputs["input_ids"].clone()
    changed[:, 14:] = 3 + (changed[:, 14:] + 7) % 90
    ahead = [logits(stock, input_ids=ids)[:, :14] for ids in (inputs["input_ids"], changed)]
    far(ahead[0], ahead[1])
    with pytest.raises(AssertionError, match="depends on later tokens"):
        holds.past_ignores_future(stock, state, **inputs)
    mod.remove(state)
    holds.past_ignores_future(stock, state, **inputs)


def test_mod_executes_everything_when_it_decodes(llama):
    state, _ = mixture(llama, 0.45)
    state.start_recording()
    llama.generate(input_ids=torch.full((2, 1), 5), attention_mask=torch.ones(2, 1, dtype=torch.long),
                   max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert state.stats().sparsity == 0


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("rank", [0, 2])
def test_mod_learns_through_its_scores(stock, decoupled, rank):
    before = {n for n, _ in stock.named_parameters()}
    prepared = baselines.mod_d(stock, 0.3, decoupled, rank=rank)
    names = {n.removeprefix("base_model.model.") for n, p in prepared.model.named_parameters() if p.requires_grad}
    scores = {f"model.layers.{i}.router_mod_{m}.{p}" for i in (1, 2) for p in ("weight", "bias")
              for m in (("attn", "mlp") if decoupled else ("attn",))}
    assert {n for n in names if "lora_" not in n} == scores and not scores & before
    assert any("lora_" in n for n in names) == bool(rank)
    moved = {n.removeprefix("base_model.model.") for n in one_step(prepared, with_budget=False)}
    assert scores <= moved <= names, "a router got no gradient, or the base moved"
    trained, state = stock.state_dict(), prepared.state
    assert scores <= {n.replace(".base_layer", "") for n in trained}, "a checkpoint would lose the routers"
    assert state.policy is not None


def test_mod_multiplies_by_the_score(llama):
    """With every score at 1 and nothing skipped it is the stock model; at 0.5 it is not."""
    expected, found = logits(llama, **batch(padded=False)), []
    state, mod = mixture(llama, 0.0)
    for value in (1.0, 0.5):
        for router in mod.scores.values():
            nn.init.zeros_(router.weight)
            nn.init.constant_(router.bias, value)
        found.append(logits(llama, **batch(padded=False)))
    holds.assert_close(found[0], expected, "all scores 1")
    far(found[1], expected)


@pytest.mark.usefixtures("float32")
def test_mod_routes_a_half_precision_model(llama):
    state, mod = mixture(llama.bfloat16())
    llama.to(torch.bfloat16)
    assert logits(llama, **batch()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        logits(llama, **batch())
    assert all(g.dtype == torch.float32 for pair in state.gates for g in pair)


def test_a_copied_mod_model_has_its_own_routers(llama):
    mixture(llama)
    twin, expected = copy.deepcopy(llama), logits(llama, **batch())
    for layer in llama.model.layers[1:-1]:
        nn.init.zeros_(layer.router_mod_attn.weight)
    assert torch.equal(logits(twin, **batch()), expected)


@pytest.mark.parametrize("make, match", [
    (lambda: MixtureOfDepths(2, 8, 0.1), "none would be routed"),
    (lambda: MixtureOfDepths(4, 8, 0.5), "would have to skip 1.000"),
    (lambda: MixtureOfDepths(4, 8, -0.1), r"in \[0, 1\)"),
])
def test_mod_refuses_rates_that_it_cannot_reach(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_mod_refuses_skip_mode_and_models_that_do_not_fit(llama):
    state, _ = mixture(llama, mode="skip")
    with pytest.raises(RuntimeError, match="use mode 'mask'"):
        logits(llama, **batch())
    with pytest.raises(ValueError, match="already"):
        MixtureOfDepths(LAYERS, 32, 0.2).policy(state)
    with pytest.raises(ValueError, match="3 layers on a model of 4"):
        MixtureOfDepths(3, 32, 0.2).policy(state)


# -- as data ---------------------------------------------------------------------------------------
def test_the_table_names_functions_that_exist():
    names = [b.name for b in baselines.BASELINES]
    assert len(set(names)) == len(names)
    for entry in baselines.BASELINES:
        assert entry.function is None or callable(getattr(baselines, entry.function)), entry
        assert entry.needs and entry.source
