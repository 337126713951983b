"""Mode "skip" gives the same as mode "mask", logits, caches and generations, and computes less."""

import copy

import pytest
import torch
from transformers import StaticCache

from common.families import build
from common.flops import counted
from common.models import load, tiny
from tests.numerics import float64

from ..analytic import Shape, executed_flops
from ..eviction import EvictionError
from ..skipping import skipping_attention, skipping_mlp
from . import invariants as holds
from .invariants import REL, batch, forced, gates_of, logits, random_gates, route

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


def awkward_gates(model, case, tokens=20):
    """(L, 2, 3, tokens) for the cases that a gathering implementation gets wrong first."""
    gates = random_gates(model, tokens=tokens, seed=5, share=0.1 if case == "sparse" else 0.5)
    if case == "a row executes nothing":
        gates[:, :, 1] = 0
    if case == "a layer is skipped by all":
        gates[1] = 0
    if case == "equal counts":  # no ragged edge: another branch of the code
        gates[:] = torch.arange(tokens) % 2
    if case == "all executed":
        gates[:] = 1
    return gates


CASES = ("random", "sparse", "a row executes nothing", "a layer is skipped by all", "equal counts",
         "all executed")


# -- 1, 2: the same numbers ------------------------------------------------------------------------
def test_pitfall_01_all_execute_equals_stock_in_skip_mode(model):
    stock = copy.deepcopy(model)
    state = route(model, mode="skip")
    holds.all_execute_is_the_stock_model(model, state, stock, tolerance=REL, **batch())


def test_pitfall_01_all_skip_equals_no_layers_in_skip_mode(model):
    stock = copy.deepcopy(model)
    holds.all_skip_is_no_layer_at_all(model, route(model, mode="skip"), stock, **batch())


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_pitfall_02_mask_equals_skip_for_any_gates(model, case, padded):
    state = route(model)
    state.policy = forced(awkward_gates(model, case))
    inputs = batch(padded)
    holds.mask_equals_skip(model, state, **inputs)
    if not padded:
        holds.mask_equals_skip(model, state, input_ids=inputs["input_ids"])  # attention_mask None


@pytest.mark.parametrize("config", [
    {}, {"mlp_router_input": "layer_input"}, {"coupled": True}, {"router_norm": True},
    {"kv_policy": "evict"}, {"router_hidden": 8},
], ids=str)
def test_pitfall_02_mask_equals_skip_for_routers_of_every_kind(model, config):
    if config.get("kv_policy") == "evict" and model.config.model_type == "gemma2":
        pytest.skip("evicting from a sliding window is refused")
    holds.mask_equals_skip(model, route(model, **config), **batch())


def test_pitfall_02_mask_equals_skip_for_a_single_token(model):
    state = route(model)
    for value in (0.0, 1.0):
        gates = torch.full((3, 2, 3, 1), value)
        gates[1:, :, 0] = 1 - value
        state.policy = forced(gates)
        holds.mask_equals_skip(model, state, input_ids=batch()["input_ids"][:, -1:])


def test_pitfall_02_mask_equals_skip_for_other_inputs(model):
    """inputs_embeds; packed sequences by position; a 4-D mask; hidden states of every layer."""
    state = route(model)
    ids = batch(padded=False)["input_ids"]
    embeds = model.get_input_embeddings()(ids).detach()
    kept = embeds.clone()
    holds.mask_equals_skip(model, state, inputs_embeds=embeds)
    assert torch.equal(embeds, kept), "skip mode writes into its input"
    packed = torch.cat([torch.arange(12), torch.arange(8)]).expand(3, -1)
    holds.mask_equals_skip(model, state, input_ids=ids, position_ids=packed, use_cache=False)
    if model.config._attn_implementation == "sdpa":
        mask = torch.ones(20, 20, dtype=torch.bool).tril().expand(3, 1, -1, -1).clone()
        mask[..., 2] = False
        mask[:, :, 2, 2] = True
        holds.mask_equals_skip(model, state, input_ids=ids, attention_mask=mask)
    states = {}
    for mode in ("mask", "skip"):
        state.set_mode(mode)
        with torch.no_grad():
            states[mode] = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(states["mask"]) == len(states["skip"]) == 4
    for a, b in zip(states["mask"], states["skip"]):
        holds.assert_close(b, a, "a hidden state")


@pytest.mark.usefixtures("float32")
def test_pitfall_02_mask_equals_skip_in_bf16(fresh):
    """bf16 has 8 bits: matrix products over other row counts round differently, by up to 2^-8 of a
    value in each of 6 modules, and so may a near-tie of a router; hence forced gates, and 3 %."""
    for family, attention in (("llama", "sdpa"), ("qwen3", "eager"), ("gemma2", "eager")):
        model = fresh(family, attention, torch.bfloat16)
        state = route(model)
        assert not state.no_skip
        state.policy = forced(random_gates(model))
        holds.mask_equals_skip(model, state, tolerance=0.03, **batch())
        state.policy = None
        state.set_mode("mask")
        logits(model, **batch())
        slow = gates_of(state)[..., state.valid]
        state.set_mode("skip")
        logits(model, **batch())
        same = (slow == gates_of(state)[..., state.valid]).float().mean()
        assert same > 0.95, f"{1 - same:.1%} of all routers' decisions differ"


def test_skip_mode_keeps_the_rest_of_the_method(model):
    state = route(model, mode="skip")
    holds.router_decides(model, state, **batch())
    holds.gates_are_hard(model, state, **batch())
    holds.evaluation_is_deterministic(model, state, **batch())
    holds.past_ignores_future(model, state, **batch())
    holds.rows_ignore_each_other(model, state, **batch())
    holds.padding_does_not_count(model, state, **batch())


# -- 3, 4: caches and generation -------------------------------------------------------------------
def test_pitfall_03_cached_decoding_equals_full_forward_in_skip_mode(model):
    holds.cached_decoding_is_the_full_forward(model, route(model, mode="skip"), **batch())


def test_pitfall_03_cached_decoding_with_a_static_cache(model):
    """Also with a used one: its length is a tensor, which the cache then changes in place."""
    state = route(model, mode="skip")
    cache = StaticCache(config=model.config, max_cache_len=32)
    ids = batch(padded=False)["input_ids"]
    results = []
    for _ in range(2):
        results.append(logits(model, input_ids=ids, past_key_values=cache, use_cache=True))
        cache.reset()
    state.set_mode("mask")
    wanted = logits(model, input_ids=ids)
    for result in results:
        holds.assert_close(result, wanted, "prompt into a static cache")
    if model.config.model_type != "gemma2":  # a static window takes a prompt, then single tokens
        state.set_mode("skip")
        cache = StaticCache(config=model.config, max_cache_len=32)
        holds.cached_decoding_is_the_full_forward(model, state, cache=cache, **batch())


def test_pitfall_03_cache_is_as_long_when_all_tokens_skip(model):
    state = route(model)
    holds.decide(state, -2e4)
    for mode in ("mask", "skip"):
        state.set_mode(mode)
        holds.cached_decoding_is_the_full_forward(model, state, **batch())


@pytest.mark.parametrize("search", [
    {}, {"cache_implementation": "static"}, {"num_beams": 3},
], ids=str)
def test_pitfall_03_generations_are_equal(model, search):
    """Greedy, with a static cache, and with beams: rows may be reordered, as all keys are there."""
    state = route(model)
    found = {}
    for mode in ("mask", "skip"):
        state.set_mode(mode)
        found[mode] = model.generate(**batch(), max_new_tokens=6, do_sample=False, pad_token_id=0,
                                     eos_token_id=None, **search)
    assert torch.equal(found["mask"], found["skip"])


@pytest.mark.parametrize("beams", [1, 4])
def test_pitfall_03_generations_with_and_without_cache_are_equal(model, beams):
    route(model, mode="skip")
    search = dict(num_beams=beams, max_new_tokens=6, do_sample=False, pad_token_id=0)
    with_cache, without = (model.generate(**batch(), **search, eos_token_id=None, use_cache=cache)
                           for cache in (True, False))
    assert torch.equal(with_cache, without)


def test_pitfall_04_later_tokens_see_skipped_ones_in_skip_mode(model):
    holds.later_tokens_see_skipped_ones(model, route(model, mode="skip"))


def test_pitfall_04_evicted_keys_are_not_seen_in_skip_mode(fresh):
    model = fresh()
    state = route(model, mode="skip", kv_policy="evict")
    holds.later_tokens_see_skipped_ones(model, state, sees=False)
    holds.cached_decoding_is_the_full_forward(model, state, **batch())
    with pytest.raises(EvictionError, match="as long as the cache"):
        model.generate(**batch(), max_new_tokens=2, cache_implementation="static")


# -- 5: the work that is done ----------------------------------------------------------------------
def test_pitfall_05_only_executed_rows_are_computed(model):
    state = route(model, mode="skip")
    holds.only_executed_rows_are_computed(model, state, **batch())
    for case in CASES:
        state.policy = forced(awkward_gates(model, case))
        holds.only_executed_rows_are_computed(model, state, **batch())


def test_pitfall_05_mask_mode_computes_everything(fresh):
    """The same count catches the mask-and-multiply that passes for skipping elsewhere."""
    model = fresh()
    state = route(model, mode="mask")
    with pytest.raises(AssertionError, match="rows, not"):
        holds.only_executed_rows_are_computed(model, state, **batch())


@pytest.mark.parametrize("tokens", [20, 1])
@pytest.mark.parametrize("family, attention", [("llama", "sdpa"), ("qwen3", "eager")])
def test_flops_are_the_closed_form(fresh, family, attention, tokens):
    """Counted by torch's dispatcher = `analytic.executed_flops`, to the last one, in both modes."""
    model = fresh(family, attention)
    state = route(model)
    shape = Shape.of(model.config)
    ids = batch()["input_ids"][:, :tokens].clamp(min=3)
    for case in CASES:
        gates = awkward_gates(model, case, tokens)
        for mode in ("mask", "skip"):
            state.set_mode(mode)
            for router in (None, "linear"):
                # The routers' own cost: they are asked, and then overruled.
                def policy(layer, name, x, valid, router=router, gates=gates):
                    if router:
                        getattr(state.layers[layer], f"router_{name}")(x)
                    return gates[layer, int(name == "mlp")]

                state.policy = policy
                count = counted(lambda: logits(model, input_ids=ids, use_cache=False)).total
                rows = gates.sum((-1, -2)).int()
                padded = 3 * gates[:, 0].sum(-1).amax(-1).int()
                full = [3 * tokens] * 3
                attn, mlp, read = ((full,) * 3 if mode == "mask" else
                                   (rows[:, 0].tolist(), rows[:, 1].tolist(), padded.tolist()))
                wanted = executed_flops(shape, 3, tokens, tokens, attn, mlp, read, 3 * tokens,
                                        router)
                assert count == wanted, (case, mode, router)


# -- what it does not do ---------------------------------------------------------------------------
def test_skip_mode_refuses_to_train(fresh):
    """It has no gradients: routers, adapters or anything else would be trained on nothing."""
    for policy in (None, forced(torch.ones(3, 2, 3, 20))):
        model = fresh()
        state = route(model, mode="skip")
        state.policy = policy
        with pytest.raises(RuntimeError, match="cannot train"):
            model.train()(**batch())


@pytest.mark.parametrize("family", ["diffllama", "gpt_neox", "granitemoehybrid"])
def test_skip_mode_refuses_attention_that_it_would_get_wrong(family):
    """Two softmaxes, projections that cannot be told apart, two MLPs side by side."""
    model = build(family)
    stock = copy.deepcopy(model)
    state = route(model)  # the reference runs the stock module and needs no knowledge of it
    holds.all_execute_is_the_stock_model(model, state, stock, **batch())
    with pytest.raises(TypeError, match="use mode 'mask'"):
        state.set_mode("skip")
    assert state.mode == "mask"


def test_mixtures_of_experts_skip_as_one_module():
    for family in ("mixtral", "qwen3_moe"):
        model = load(tiny(family)).model
        model.config._experts_implementation = "eager"  # the default's grouped products know no float64
        holds.mask_equals_skip(model, route(model), **batch())


def test_skip_mode_leaves_its_inputs_alone(fresh):
    """A layer gives a new tensor back; only the MLP may write, and into what attention has made."""
    model = fresh()
    route(model)
    logits(model, **batch(padded=False))  # sets state.valid
    layer, x = model.model.layers[0], torch.randn(3, 20, 32)
    rope = model.model.rotary_emb(x, torch.arange(20)[None])
    for gate in (torch.zeros(3, 20), torch.ones(3, 20), random_gates(model)[0, 0]):
        kept = x.clone()
        y = skipping_attention(layer, x, gate, attention_mask=None, past_key_values=None,
                               position_embeddings=rope)
        assert torch.equal(x, kept) and y.data_ptr() != x.data_ptr()
        assert torch.equal(y[gate == 0], x[gate == 0])
        kept = y.clone()
        assert torch.equal(skipping_mlp(layer, y, gate)[gate == 0], kept[gate == 0])
