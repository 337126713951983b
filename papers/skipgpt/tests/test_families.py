"""Families that users have, and properties that are refused: what a layer does is measured, and every accepted model is right.

`make families` runs all uses over all families; here stand those that were once refused, and one of each kind of layer.
"""

import copy

import pytest
import torch
from torch import nn

from common.errors import SetupError
from common.families import FAMILIES, build, text_ids
from common.models import tiny
from tests.numerics import close

from .. import eviction, layers, probe
from ..families import METHODS
from ..layers import Passed, UnfitModel, anatomies, anatomy, find_stack, layer_list
from ..method import SkipGPTConfig, apply_skipgpt, remove_skipgpt
from ..module import RouterTuningModule

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize("family", ["phi3", "granite", "olmo2", "smollm3", "stablelm-qk-norm", "gemma3_text", "olmoe", "phi", "llava"])
def test_a_family_trains_skips_and_decodes_as_its_stock_layers_say(family):
    for use in ("training", "attention and MLP apart", "real skipping"):
        METHODS[use](build(family), text_ids())


@pytest.mark.parametrize("family, property_", [
    ("persimmon", "projections that can be told apart"), ("diffllama", "more with queries and keys"),
    ("bloom", "apart from what they add it to"), ("llama4_text", "a projection, a norm and a rotation"),
])
def test_what_only_skip_mode_cannot_do_is_named(family, property_):
    state = apply_skipgpt(build(family))
    with pytest.raises(UnfitModel, match=property_):
        state.set_mode("skip")
    METHODS["training"](build(family), text_ids())


class Block(nn.Module):
    """A layer whose parts are known: attention is a cumulative mean, the MLP a matrix."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.half = kind, 0.5
        self.first, self.second, self.behind = nn.LayerNorm(4), nn.LayerNorm(4), nn.LayerNorm(4)
        self.mixer, self.mlp = Mean(kind == "carries"), nn.Linear(4, 4)

    def forward(self, x):
        if self.kind == "side by side":
            h = self.first(x)
            return x + self.mixer(h) + self.mlp(h)
        if self.kind == "carries":
            y = self.mixer(self.first(x), x)
        elif self.kind == "scaled":
            y = x + self.half * self.mixer(self.first(x))
        elif self.kind == "not added":
            y = x * self.mixer(self.first(x))
        else:
            y = x + self.behind(self.mixer(self.first(x)))
        return y + self.mlp(self.second(y))


class Mean(nn.Module):
    def __init__(self, carries):
        super().__init__()
        self.matrix = nn.Linear(4, 4)

    def forward(self, x, residual=0.0):
        return residual + self.matrix(x).cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


@pytest.mark.parametrize("kind, attn, series", [
    ("behind", (("first",), ("mixer",), ("behind",), 1.0), True), ("scaled", (("first",), ("mixer",), (), 0.5), True),
    ("carries", (("first",), ("mixer",), (), None), True), ("side by side", (("first",), ("mixer",), (), 1.0), False),
])
def test_a_layer_is_read_from_what_it_does(kind, attn, series):
    torch.manual_seed(0)
    block, x = Block(kind).double(), torch.randn(1, 8, 4, dtype=torch.float64)
    found = anatomy(Passed(block, x, (), {}, block(x).detach()), "Layer 0")
    assert (found.attn.before, found.attn.modules, found.attn.after, found.attn.scale) == attn and found.series == series
    assert found.mlp.modules == ("mlp",) and found.mlp.before == (("second",) if series else ("first",)) and found.mlp.scale == 1.0


def test_a_mixers_change_may_be_small_beside_the_residual_streams_largest():
    """One channel of 1e11, as trained models have some; norms that bring the others up. The MLP's norm is no second mixer."""
    torch.manual_seed(0)
    block, x = Block("scaled").double(), torch.randn(1, 8, 4, dtype=torch.float64)
    block.first, block.second = (nn.RMSNorm(4).double() for _ in range(2))
    for norm in (block.first, block.second):
        norm.weight.data = torch.tensor([0, 1e11, 1e11, 1e11], dtype=torch.float64)
    x[..., 0] = 1e11
    found = anatomy(Passed(block, x, (), {}, block(x).detach()), "Layer 0")
    assert found.attn.modules == ("mixer",) and found.mlp.before == ("second",) and found.mlp.modules == ("mlp",)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_weights_in_half_precision_whose_tokens_are_alike_are_no_obstacle(dtype):
    """What all tokens of a trained model share dwarfs what tells them apart: a first token moves what layer 0 writes for those behind it
    by 3 % of its size, and by less of the largest value. SmolLM2 in bfloat16 was refused for that."""
    model = build("llama").float()
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table.copy_(torch.ones_like(table) + 0.02 * torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
    state = apply_skipgpt(model.to(dtype), SkipGPTConfig())
    assert [layer._anatomy.attn.modules for layer in state.layers] == [("self_attn",)] * 3
    assert [layer._anatomy.mlp.modules for layer in state.layers] == [("mlp",)] * 3


def test_a_mixer_that_is_not_added_is_refused():
    torch.manual_seed(0)
    block, x = Block("not added").double(), torch.randn(1, 8, 4, dtype=torch.float64)
    with pytest.raises(UnfitModel, match="not added to the residual stream as it is. Layer 7"):
        anatomy(Passed(block, x, (), {}, block(x).detach()), "Layer 7")


def test_the_probe_leaves_every_submodules_mode_alone():
    model = build("llama").train()
    layer = layer_list(find_stack(model))[1][1]
    layer.eval()
    layer.mlp.train()
    modes = {name: module.training for name, module in model.named_modules()}
    apply_skipgpt(model)
    after = {name: module.training for name, module in model.named_modules() if "router_" not in name}
    assert after == modes and not layer.router_attn.training and layer_list(find_stack(model))[1][0].router_attn.training
    remove_skipgpt(model)
    anatomies(find_stack(model))
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_a_probe_that_fails_leaves_the_model_as_it_was(monkeypatch):
    model = build("llama")
    before = {name: type(module) for name, module in model.named_modules()}
    monkeypatch.setattr(probe, "_reference", lambda *args: (_ for _ in ()).throw(UnfitModel("planned")))
    with pytest.raises(UnfitModel, match="planned"):
        apply_skipgpt(model)
    assert {name: type(module) for name, module in model.named_modules()} == before


# -- kv_policy "evict" -------------------------------------------------------------------------------------
def test_evicting_refuses_beams():
    model, ids = build("llama"), text_ids()
    apply_skipgpt(model, SkipGPTConfig(kv_policy="evict"))
    options = dict(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, pad_token_id=0, do_sample=False)
    greedy = model.generate(**options)
    close(greedy, model.generate(**options, use_cache=False), 0)
    with pytest.raises(eviction.EvictionError, match="as beam search does"):
        model.generate(**options, num_beams=2)
    assert torch.equal(model.generate(**options), greedy)


def test_a_cut_cache_is_not_taken_for_the_one_that_was_filled():
    model, ids = build("llama"), text_ids()
    apply_skipgpt(model, SkipGPTConfig(kv_policy="evict"))
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
        one = copy.deepcopy(ids[:, :1])
        cache = model(input_ids=one, past_key_values=cache, use_cache=True).past_key_values
        cache.crop(6 - cache.get_seq_length())
        assert cache.get_seq_length() == 6
        with pytest.raises(eviction.EvictionError, match="rows were moved"):
            model(input_ids=one, past_key_values=cache, use_cache=True)


def test_embeddings_are_found_in_wrappers_and_beside_towers():
    for family in ("llava", "gpt2", "opt"):
        model = build(family)
        stack = find_stack(nn.Sequential(model))
        assert layers.embeddings_of(stack) is model.get_input_embeddings().weight


@pytest.mark.parametrize("family, property_", [
    ("mamba", "no MLP beside"), ("falcon_h1", "2 submodules of the layer look at other tokens")])
def test_what_is_refused_is_as_it_was(family, property_):
    model = build(family)
    before = {name: type(m) for name, m in model.named_modules()}
    with pytest.raises(UnfitModel, match=property_):
        apply_skipgpt(model)
    assert {name: type(m) for name, m in model.named_modules()} == before


def test_a_training_names_the_model_that_does_not_fit():
    config = FAMILIES["falcon_h1"].settings | {"model_type": "falcon_h1"}
    module = RouterTuningModule(tiny().__class__("random", config=config), SkipGPTConfig())
    with pytest.raises(SetupError, match=r"random:falcon_h1: 2 submodules of the layer look at other tokens .* Layer 0"):
        module.configure_model()
