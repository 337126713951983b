"""Baselines do what their papers describe, and count what they claim to count.

The static ones are asked to find what cannot be missed: a block that does nothing. For those that
measure cross-entropy the calibration text is drawn from the model itself, so that nothing beats the
model as it is, and every removal costs something (Gibbs). Tiny Llama (sdpa) and Qwen3 (eager).
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.models import load, tiny
from tests.numerics import far, float64

from .. import analytic, baselines, gating, layers, method
from ..baselines import StaticPlan
from ..mixture_of_depths import MixtureOfDepths
from . import invariants as holds
from .invariants import REL, batch, gates_of, logits, route

pytestmark = pytest.mark.numerics
LAYERS, SILENT = 4, 2
FAMILIES = {"llama": "sdpa", "qwen3": "eager"}


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


@pytest.fixture(scope="module")
def originals():
    models = {}
    for family, attention in FAMILIES.items():
        spec = tiny(family, num_hidden_layers=LAYERS, attn_implementation=attention)
        models[family] = load(spec).model.eval()
    return models


@pytest.fixture(params=FAMILIES)
def stock(request, originals):
    """Four layers, unrouted, to use up."""
    return copy.deepcopy(originals[request.param])


@pytest.fixture
def llama(originals):
    return copy.deepcopy(originals["llama"])


def silence(model, *units):
    """Makes modules compute zero."""
    for index, name in units:
        layer = model.model.layers[index]
        part = layer.self_attn.o_proj if name == "attn" else layer.mlp.down_proj
        nn.init.zeros_(part.weight)
    return model


@torch.no_grad()
def own_text(model, windows=24, length=24):
    """Windows (N, S) drawn from the model's own distribution."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 96, (windows, 1), generator=draw)
    for _ in range(length - 1):
        p = model(input_ids=ids, use_cache=False).logits[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(p, 1, generator=draw)], 1)
    return ids


def snapshot(model):
    return [(n, p.detach().clone(), p.requires_grad) for n, p in model.named_parameters()]


def same(before, model):
    after = snapshot(model)
    return all(n == m and torch.equal(p, q) and r == s for (n, p, r), (m, q, s) in zip(before, after))


SCORED = {  # name -> call with the number of units to drop that silence one block
    "ShortGPT": lambda m, ids, **k: baselines.block_influence(m, ids, 1, **k),
    "joint": lambda m, ids, **k: baselines.joint_layer_drop(m, ids, 2, **k),
    "attention": lambda m, ids, **k: baselines.attention_drop(m, ids, 1, **k),
    "mlp": lambda m, ids, **k: baselines.mlp_drop(m, ids, 1, **k),
    "ppl blocks": lambda m, ids, **k: baselines.shortened_ppl(m, ids, 1, **k),
    "ppl modules": lambda m, ids, **k: baselines.shortened_ppl(m, ids, 2, "modules", **k),
    "taylor": lambda m, ids, **k: baselines.shortened_taylor(m, ids, 1, **k),
    "greedy": lambda m, ids, **k: baselines.greedy_drop(m, ids, 2, **k),
}


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


# -- static: the scores ----------------------------------------------------------------------------
def test_block_influence_is_the_mean_turn_of_the_residual(stock):
    """By hand, from output_hidden_states; the last one is normed there, so the last layer by hook."""
    inputs, last = batch(), {}
    hook = stock.model.layers[-1].register_forward_hook(lambda m, a, out: last.update(x=out))
    with torch.no_grad():
        states = stock(**inputs, output_hidden_states=True).hidden_states
    hook.remove()
    states = [*states[:-1], last["x"]]
    real = inputs["attention_mask"].bool()
    by_hand = []
    for before, after in zip(states, states[1:]):
        a, b = before[real], after[real]
        by_hand.append((1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean().item())
    plan = baselines.block_influence(stock, inputs["input_ids"], 2, attention_mask=inputs["attention_mask"])
    holds.assert_close([plan.scores[str(i)] for i in range(LAYERS)], by_hand, "block influence")
    lowest = sorted(sorted(range(LAYERS), key=by_hand.__getitem__)[:2])
    assert plan.dropped == tuple((i, name) for i in lowest for name in ("attn", "mlp"))
    assert (plan.calibration_tokens, plan.trained, plan.label) == (47, False, "ShortGPT")


def test_joint_layer_drop_is_the_turn_of_each_module(stock):
    """By hand: the modules called one after the other, as mask mode does."""
    ids, expected = batch(padded=False)["input_ids"], {}
    state = route(stock)

    def watch(layer, name, x, valid):
        expected[layer, name] = x
        return torch.ones(valid.shape)

    state.policy = watch
    stock.model.layers[-1].register_forward_hook(lambda m, a, out: expected.update(end=out))
    logits(stock, input_ids=ids)
    method.remove_skipgpt(stock)
    chain = [*(expected[i, n] for i in range(LAYERS) for n in ("attn", "mlp")), expected["end"]]
    by_hand = [(1 - F.cosine_similarity(a, b, dim=-1)).mean().item() for a, b in zip(chain, chain[1:])]
    plan = baselines.joint_layer_drop(stock, ids, 3)
    assert list(plan.scores) == [f"{i} attn" for i in range(LAYERS)] + [f"{i} mlp" for i in range(LAYERS)]
    found = [plan.scores[f"{i} {n}"] for i in range(LAYERS) for n in ("attn", "mlp")]
    holds.assert_close(found, by_hand, "turns")


def test_taylor_is_weight_times_gradient(llama):
    ids = batch(padded=False)["input_ids"]
    other = copy.deepcopy(llama)
    other(input_ids=ids, labels=ids).loss.backward()
    by_hand = [sum((p * p.grad).abs().sum().item() for p in layer.parameters()) for layer in other.model.layers]
    plan = baselines.shortened_taylor(llama, ids, 1, keep=(0, 0))
    holds.assert_close([plan.scores[str(i)] for i in range(LAYERS)], by_hand, "weight times gradient")
    assert set(baselines.shortened_taylor(llama, ids, 2).scores) == {"1", "2"}, "the ends are candidates"
    with pytest.raises(ValueError, match="cannot drop 3 of 2 blocks"):
        baselines.shortened_taylor(llama, ids, 3)


def test_ppl_scores_are_the_losses_of_the_removed_models(stock):
    ids = batch(padded=False)["input_ids"]
    plan = baselines.shortened_ppl(stock, ids, 1)
    for i in range(LAYERS):
        with torch.no_grad():
            loss = without_blocks(stock, [i])(input_ids=ids, labels=ids, use_cache=False).loss.item()
        holds.assert_close(plan.scores[str(i)], loss, f"without block {i}")


@pytest.mark.parametrize("name", SCORED)
def test_a_silent_block_is_dropped_first_and_the_model_left_alone(stock, name):
    silence(stock, (SILENT, "attn"), (SILENT, "mlp"))
    ids, before = own_text(stock), snapshot(stock)
    stock.train().model.layers[0].eval()
    modes = [m.training for m in stock.modules()]
    plan = SCORED[name](stock, ids)
    assert set(plan.dropped) <= {(SILENT, "attn"), (SILENT, "mlp")} and plan.dropped, plan
    if name != "greedy":
        lowest = [key for key in plan.scores if int(key.split()[0]) == SILENT]
        rest = min(v for key, v in plan.scores.items() if key not in lowest)
        assert max(plan.scores[key] for key in lowest) < rest
    assert plan.calibration_tokens == ids.numel() and plan.trained is False
    assert same(before, stock) and all(p.grad is None for p in stock.parameters())
    assert modes == [m.training for m in stock.modules()], "modes changed"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in stock.modules()), "hooks left"
    assert not any(isinstance(m, gating.RoutedLayerMixin) for m in stock.modules()), "routers left"


def same_scores(plan, other):
    assert list(plan.scores) == list(other.scores)
    holds.assert_close(list(plan.scores.values()), list(other.scores.values()), "scores")


@pytest.mark.parametrize("name", SCORED)
def test_padding_is_never_counted(llama, name):
    """Other ids at padding change nothing at all; and no score changes when padding is added."""
    inputs = batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    plan = SCORED[name](llama, ids, attention_mask=mask)
    other = torch.where(mask.bool(), ids, 50)
    same_scores(SCORED[name](llama, other, attention_mask=mask), plan)
    assert plan.calibration_tokens == 47
    wider = [F.pad(t, (5, 3), value=v) for t, v in ((ids, 7), (mask, 0))]
    again = SCORED[name](llama, wider[0], attention_mask=wider[1])
    same_scores(again, plan)
    ignored = SCORED[name](llama, ids)
    far(list(ignored.scores.values()), list(plan.scores.values()), 1e-2)  # padding has a weight to lose


def test_scores_by_cosine_read_every_window_once(llama):
    ids, seen = own_text(llama, windows=20, length=8), []
    llama.model.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    baselines.joint_layer_drop(llama, ids, 1)
    probe, *read = seen  # what finds the layers' branches has tokens of its own
    assert probe.shape == (1, layers.TOKENS) and torch.equal(torch.cat(read), ids)


@pytest.mark.parametrize("name", [*SCORED, "laco"])
@pytest.mark.parametrize("ids, mask, match", [
    (torch.zeros(0, 8, dtype=torch.long), None, "none to predict"),
    (torch.zeros(4, 1, dtype=torch.long), None, "none to predict"),
    (torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8), "none to predict"),
    (torch.zeros(2, 8, dtype=torch.long), torch.eye(8)[:2], "none to predict"),
    (torch.zeros(8, dtype=torch.long), None, r"token ids \(N, S\)"),
    (torch.zeros(2, 8), None, "integers"),
    (torch.zeros(2, 8, dtype=torch.long), torch.ones(2, 7), "must agree"),
])
def test_calibration_without_text_is_refused(originals, name, ids, mask, match):
    call = SCORED.get(name, lambda m, x, **k: baselines.laco(m, x, 0.9, **k))
    with pytest.raises(ValueError, match=match):
        call(originals["llama"], ids, attention_mask=mask)


@pytest.mark.parametrize("name", SCORED)
def test_a_routed_model_is_refused(llama, name):
    state = route(llama)
    with pytest.raises(RuntimeError, match="remove_skipgpt"):
        SCORED[name](llama, batch(padded=False)["input_ids"])
    assert method.routing_of(llama) is state, "its routers are gone"


@pytest.mark.parametrize("call, match", [
    (lambda m, x: baselines.block_influence(m, x, 5), "5 of 4 blocks"),
    (lambda m, x: baselines.attention_drop(m, x, 5), "5 of 4 modules"),
    (lambda m, x: baselines.joint_layer_drop(m, x, -1), "-1 of 8 modules"),
    (lambda m, x: baselines.greedy_drop(m, x, 9), "9 of 8 modules"),
    (lambda m, x: baselines.greedy_drop(m, x, 2, shortlist=0), "at least one candidate"),
    (lambda m, x: baselines.shortened_ppl(m, x, 1, "layers"), "'blocks' or 'modules'"),
    (lambda m, x: baselines.laco(m, x, 0.9, group=1), "at least 2 layers"),
])
def test_more_than_there_is_cannot_be_dropped(originals, call, match):
    with pytest.raises(ValueError, match=match):
        call(originals["llama"], batch(padded=False)["input_ids"])


# -- static: greedy --------------------------------------------------------------------------------
@pytest.mark.parametrize("shortlist", [None, 3])
def test_greedy_finds_the_two_silent_modules(stock, shortlist):
    silence(stock, (0, "mlp"), (3, "attn"))
    ids, logged = own_text(stock), []
    plan = baselines.greedy_drop(stock, ids, 2, shortlist, logged.append)
    assert set(plan.dropped) == {(0, "mlp"), (3, "attn")} and len(logged) == 2
    with torch.no_grad():
        dense = stock(input_ids=ids, labels=ids).loss.item()
    holds.assert_close(list(plan.scores.values()), [dense, dense], "losses without what is silent")


def test_greedy_stops_before_it_costs_too_much(llama):
    silence(llama, (0, "mlp"), (3, "attn"))
    ids = own_text(llama)
    plan = baselines.greedy_drop(llama, ids, 8, max_rise=1e-3)
    assert set(plan.dropped) == {(0, "mlp"), (3, "attn")}
    assert len(baselines.greedy_drop(llama, ids, 8).dropped) == 8


def test_greedy_measures_again_after_each_removal(stock):
    """Each score is the loss with everything that is gone by then, and no other choice was cheaper."""
    ids = own_text(stock, 8, 16)
    plan, state = baselines.greedy_drop(stock, ids, 4), route(stock)
    units = {(i, n) for i in range(LAYERS) for n in ("attn", "mlp")}

    def loss(gone):
        state.policy = StaticPlan("trial", tuple(gone)).policy()
        with torch.no_grad():
            return stock(input_ids=ids, labels=ids).loss.item()

    for n, (layer, name) in enumerate(plan.dropped):
        gone = plan.dropped[:n]
        found = plan.scores[f"{layer} {name}"]
        holds.assert_close(found, loss([*gone, (layer, name)]), f"without {gone}, {layer} {name}")
        assert found <= min(loss([*gone, unit]) for unit in units - set(gone)) * (1 + REL)


# -- static: the plan ------------------------------------------------------------------------------
def without_blocks(model, gone):
    """The model with these layers taken out of its ModuleList."""
    bare = copy.deepcopy(model)
    bare.model.layers = nn.ModuleList(layer for i, layer in enumerate(bare.model.layers) if i not in gone)
    bare.config.num_hidden_layers = len(bare.model.layers)
    return bare


@pytest.mark.parametrize("mode", ["mask", "skip"])
@pytest.mark.parametrize("gone", [(1,), (0, 3), (0, 1, 2, 3)])
def test_a_dropped_block_is_a_block_taken_out(stock, gone, mode):
    inputs = batch()
    expected = logits(without_blocks(stock, gone), use_cache=False, **inputs)
    plan = StaticPlan("by hand", tuple((i, n) for i in gone for n in ("attn", "mlp")))
    state = route(stock, mode=mode).start_recording()
    state.policy = plan.policy()
    real = inputs["attention_mask"].bool()
    found = logits(stock, use_cache=False, **inputs)
    holds.assert_close(found[real], expected[real], "blocks taken out")
    assert state.stats().sparsity == plan.module_sparsity(LAYERS) == len(gone) / LAYERS


def test_a_plan_counts_modules_and_weights():
    eight = analytic.LLAMA31_8B
    plan = StaticPlan("x", tuple((i, "attn") for i in range(16)))
    assert plan.module_sparsity(32) == 0.25
    assert plan.block_parameter_skip(eight) == pytest.approx(0.5 * 0.192308, abs=1e-6)
    blocks = StaticPlan("y", tuple((i, n) for i in range(8) for n in ("attn", "mlp")))
    assert blocks.block_parameter_skip(eight) == pytest.approx(0.25) == blocks.module_sparsity(32)


def test_a_plan_survives_its_file(tmp_path):
    plan = StaticPlan("greedy drop", ((3, "attn"), (0, "mlp")), {"3 attn": 1.5, "0 mlp": 2.0}, 77)
    baselines.write_plan(plan, tmp_path / "plan.json", seed=0)
    assert baselines.read_plan(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text('{"label": "x", "dropped": [[0, "ffn"]]}')
    with pytest.raises(ValueError, match="plan.json is no static plan"):
        baselines.read_plan(tmp_path / "plan.json")


# -- static: LaCo ----------------------------------------------------------------------------------
def test_laco_takes_in_a_layer_that_does_nothing(stock):
    """An identity below layer l + 1 merges to exactly layer l + 1, so nothing changes but the depth."""
    silence(stock, (1, "attn"), (1, "mlp"))
    inputs, before = batch(), snapshot(stock)
    merged = baselines.laco(stock, inputs["input_ids"], 0.99999, group=2, attention_mask=inputs["attention_mask"])
    assert merged.groups == ((0,), (1, 2), (3,)) and merged.similarity == pytest.approx(1, abs=REL)
    assert merged.module_sparsity(LAYERS) == 0.25 == merged.block_parameter_skip(analytic.Shape(1, 1, 4, 1, 1, 1, 1))
    assert len(merged.model.model.layers) == merged.model.config.num_hidden_layers == 3
    assert same(before, stock) and stock.config.num_hidden_layers == LAYERS == len(stock.model.layers)
    real = inputs["attention_mask"].bool()
    holds.assert_close(logits(merged.model, **inputs)[real], logits(stock, **inputs)[real], "merged")
    generated = [m.generate(**inputs, max_new_tokens=4, do_sample=False) for m in (merged.model, stock)]
    assert torch.equal(*generated), "the merged model's cache is wrong"


def test_laco_adds_the_differences(stock):
    """theta_0 + (theta_1 - theta_0) + (theta_2 - theta_0): not the telescoped sum, which is theta_2."""
    ids = batch(padded=False)["input_ids"]
    merged = baselines.laco(stock, ids, -2.0, group=3, blocks=2)
    assert merged.groups == ((0, 1, 2), (3,)) and merged.calibration_tokens == ids.numel()
    ours, *theirs = (dict(layer.named_parameters()) for layer in (merged.model.model.layers[0], *stock.model.layers))
    for name, weight in ours.items():
        a, b, c = (layer[name] for layer in theirs[:3])
        expected = a if name.endswith("layernorm.weight") else b + c - a
        holds.assert_close(weight, expected, name)
    assert torch.equal(merged.model.model.layers[1].mlp.up_proj.weight, stock.model.layers[3].mlp.up_proj.weight)


def test_laco_keeps_what_differs_and_stays_in_its_budget(llama):
    ids = own_text(llama, 8, 16)
    assert baselines.laco(llama, ids, 0.99999, group=2).groups == tuple((i,) for i in range(LAYERS))
    for blocks in range(3):
        assert len(baselines.laco(llama, ids, -2.0, group=2, blocks=blocks).groups) == LAYERS - blocks


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
