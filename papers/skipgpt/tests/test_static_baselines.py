"""Baselines that drop the same modules of every text find what cannot be missed, a block that does nothing, and do as their plan says.

For baselines that measure cross-entropy the calibration text is drawn from the model itself, so that nothing beats the model as it
is, and every removal costs something (Gibbs).
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.numerics import far, float64

from .. import analytic, baselines, gating, layers, method
from ..baselines import StaticPlan
from . import invariants as holds
from .conftest import LAYERS
from .invariants import REL, batch, logits, route

pytestmark = pytest.mark.numerics
SILENT = 2


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


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
