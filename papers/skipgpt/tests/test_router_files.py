"""Routers come back from disk as they were, or loading names what is wrong and changes nothing."""

import copy
import json

import pytest
import safetensors.torch
import torch

from common.models import load, tiny

from .. import router_files
from ..gating import RoutedLayerMixin
from ..method import SkipGPTConfig, apply_skipgpt, remove_skipgpt
from ..router_files import RouterFileError, fingerprint, load_routers, save_routers
from . import invariants as holds
from .invariants import batch, gates_of, logits, route

BASE = {"name": "tiny", "revision": None, "weights_sha256": None}
CONFIG = dict(mlp_router_input="layer_input", target_sparsity=0.4, router_norm=True)


def result(model, state):
    return logits(model, **batch()), gates_of(state)


@pytest.fixture
def saved(fresh, tmp_path):
    """(folder, logits and gates of the model that its routers were saved from)."""
    model = fresh()
    state = route(model, seed=3, **CONFIG)
    folder = save_routers(model, tmp_path / "run" / "routers", base=BASE,
                          extra={"seed": 3, "command": "train"})
    return folder, result(model, state)


def card_of(folder):
    return json.loads((folder / "skipgpt.json").read_text())


def change_card(folder, **changes):
    """changes: new values; None takes the key away."""
    card = card_of(folder) | changes
    text = json.dumps({key: value for key, value in card.items() if value is not None})
    (folder / "skipgpt.json").write_text(text)


def refused(fresh, folder, match, **kwargs):
    """Loading onto a stock model raises, and leaves it a stock model."""
    model = fresh()
    with pytest.raises(RouterFileError, match=match):
        load_routers(model, folder, **kwargs)
    assert not isinstance(model.model.layers[0], RoutedLayerMixin)
    assert not any("router" in name for name, _ in model.named_parameters())


# -- 14: round trip --------------------------------------------------------------------------------
@pytest.mark.parametrize("config", [
    {}, CONFIG, {"router_hidden": 8}, {"coupled": True}, {"kv_policy": "evict"},
], ids=str)
def test_pitfall_14_round_trip_gives_identical_gates(fresh, tmp_path, config):
    model, other = fresh(), fresh()
    state = route(model, seed=7, **config)
    save_routers(model, tmp_path, base=BASE)
    again = load_routers(other, tmp_path)
    assert again.config == state.config
    assert torch.equal(result(other, again)[1], result(model, state)[1])
    assert torch.equal(result(other, again)[0], result(model, state)[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["routers.safetensors", "skipgpt.json"]


def test_pitfall_14_onto_a_routed_model(fresh, saved):
    """It keeps its own training settings, and must decide by the file's rules."""
    folder, (_, gates) = saved
    model = fresh()
    config = SkipGPTConfig(**CONFIG | {"target_sparsity": 0.1, "eval_sampling": True})
    state = apply_skipgpt(model, config)
    assert load_routers(model, folder) is state and state.config == config
    for name, value in (("router_norm", False), ("mlp_router_input", "module_input"),
                        ("kv_policy", "evict")):
        model = fresh()
        state = apply_skipgpt(model, SkipGPTConfig(**CONFIG | {name: value}))
        before = [p.clone() for p in state.parameters()]
        with pytest.raises(RouterFileError, match=name):
            load_routers(model, folder)
        assert all(torch.equal(a, b) for a, b in zip(before, state.parameters()))


def test_the_card_says_what_the_routers_are(saved):
    folder, _ = saved
    card = card_of(folder)
    assert card["config"] == SkipGPTConfig(**CONFIG).to_dict()
    assert card["base"] == BASE and card["extra"] == {"seed": 3, "command": "train"}
    assert (card["layers"], card["hidden_size"], card["format"]) == (3, 32, 1)
    tensors = safetensors.torch.load_file(folder / "routers.safetensors")
    assert len(tensors) == 12 and {t.dtype for t in tensors.values()} == {torch.float32}


def test_routers_belong_to_a_backbone_in_any_dtype_and_under_adapters(fresh, saved):
    from peft import LoraConfig, get_peft_model

    folder, (_, gates) = saved
    small = fresh("llama", "sdpa", torch.bfloat16)
    load_routers(small, folder)
    adapted = get_peft_model(fresh(), LoraConfig(r=2, target_modules=["q_proj", "gate_proj"]))
    assert fingerprint(adapted) == fingerprint(fresh()) == card_of(folder)["fingerprint"]
    state = load_routers(adapted, folder)
    assert torch.equal(result(adapted, state)[1], gates)
    with torch.device("meta"):
        assert fingerprint(type(small)(small.config)) is None


@pytest.mark.numerics
@pytest.mark.usefixtures("float64")
def test_pitfall_14_merged_adapter_equals_unmerged(fresh, saved):
    """Stage 2's adapter on a routed model, before and after W += (alpha / r) B A."""
    from peft import LoraConfig, get_peft_model

    folder, _ = saved
    model = fresh()
    load_routers(model, folder)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "gate_proj"])
    adapted = get_peft_model(model, lora)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=draw)
    state = router_files.routing_of(adapted)
    for mode in ("mask", "skip"):
        state.set_mode(mode)
        unmerged, gates = logits(adapted, **batch())[state.valid], gates_of(state)
        adapted.merge_adapter()
        holds.assert_close(logits(adapted, **batch())[state.valid], unmerged, "merged")
        assert torch.equal(gates_of(state)[..., state.valid], gates[..., state.valid])
        adapted.unmerge_adapter()
    merged = adapted.merge_and_unload()
    assert fingerprint(merged) != card_of(folder)["fingerprint"]  # another backbone from here on


# -- the fork's names ------------------------------------------------------------------------------
def fork_file(path, model, prefix, hidden=None, drop=()):
    """A router file as the released code names its tensors, and our names for the same."""
    remove_skipgpt(model)
    state = route(model, seed=5, mlp_router_input="layer_input", router_hidden=hidden)
    tensors = {}
    for l, layer in enumerate(state.layers):
        for theirs, router in (("attention", layer.router_attn), ("mlp", layer.router_mlp)):
            bottleneck = ["hidden_layer", None, "weight_predictor"]
            parts = ["weight_predictor"] if hidden is None else bottleneck
            for part, module in zip(parts, router.layers):
                for kind, tensor in module.named_parameters():
                    name = f"{prefix}model.layers.{l}.router_{theirs}.{part}.{kind}"
                    tensors[name] = tensor.detach().clone()
    for name in drop:
        del tensors[prefix + name]
    safetensors.torch.save_file(tensors, path)
    return path, result(model, state)


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
@pytest.mark.parametrize("hidden", [None, 8])
def test_pitfall_14_names_of_the_published_fork(fresh, tmp_path, prefix, hidden):
    path, wanted = fork_file(tmp_path / "router.safetensors", fresh(), prefix, hidden)
    model = fresh()
    state = load_routers(model, path)
    assert state.config.mlp_router_input == "layer_input" and state.config.router_hidden == hidden
    for a, b in zip(result(model, state), wanted):
        assert torch.equal(a, b)
    routed = fresh()
    route(routed, router_hidden=hidden)  # the paper's MLP router reads what these do not
    with pytest.raises(RouterFileError, match="mlp_router_input"):
        load_routers(routed, path)


def test_fork_files_that_do_not_fit(fresh, tmp_path):
    path = tmp_path / "router.safetensors"
    gone = "model.layers.1.router_mlp.weight_predictor.bias"
    fork_file(path, fresh(), "", drop=[gone])
    refused(fresh, path, "layers.1.router_mlp.layers.0.bias is absent")
    fork_file(path, load(tiny(num_hidden_layers=2)).model, "")
    refused(fresh, path, "2 layers of width")
    fork_file(path, load(tiny(hidden_size=48)).model, "")
    refused(fresh, path, r"width \[48\]")
    safetensors.torch.save_file({"model.layers.0.mlp.up_proj.weight": torch.ones(2)}, path)
    refused(fresh, path, "up_proj.weight is no router")


# -- refusals --------------------------------------------------------------------------------------
def test_missing_and_damaged_files(fresh, saved):
    folder, _ = saved
    refused(fresh, folder.parent, "no skipgpt.json")
    refused(fresh, folder / "nowhere", "no skipgpt.json")
    refused(fresh, folder / "nowhere.safetensors", "no such file")
    weights = folder / "routers.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-4])
    refused(fresh, folder, "cut short")
    weights.write_bytes(data[:-4] + bytes([data[-4] ^ 1]) + data[-3:])  # one bit
    refused(fresh, folder, "not the file that skipgpt.json")
    weights.unlink()
    refused(fresh, folder, "no routers.safetensors")
    weights.write_bytes(data)
    text = (folder / "skipgpt.json").read_text()
    for cut in (text[: len(text) // 2], ""):
        (folder / "skipgpt.json").write_text(cut)
        refused(fresh, folder, "not JSON")
    for other in ("[]", "{}", "3"):
        (folder / "skipgpt.json").write_text(other)
        refused(fresh, folder, "missing base")
    (weights.parent / "cut.safetensors").write_bytes(data[:100])
    refused(fresh, weights.parent / "cut.safetensors", "no safetensors, or cut short")


def test_cards_of_other_versions(fresh, saved):
    folder, _ = saved
    card = card_of(folder)
    change_card(folder, format=2)
    refused(fresh, folder, "format 2; this version reads 1")
    change_card(folder, format=1, threshold=0.5)
    refused(fresh, folder, "unknown threshold")
    (folder / "skipgpt.json").write_text(json.dumps(card))
    change_card(folder, base=None)
    refused(fresh, folder, "missing base")
    (folder / "skipgpt.json").write_text(json.dumps(card))
    change_card(folder, config=card["config"] | {"top_k": 3})
    refused(fresh, folder, "unknown in config: top_k")
    change_card(folder, config={"alpha": 8.0})
    refused(fresh, folder, "missing in config:.*kv_policy")
    change_card(folder, config=card["config"] | {"kv_policy": "none"})
    refused(fresh, folder, "kv_policy is 'none'")
    change_card(folder, config=card["config"] | {"router_hidden": 8})  # not what the tensors are
    refused(fresh, folder, "do not belong together")


def test_other_shapes_and_other_backbones(saved):
    folder, (_, gates) = saved
    for other, words in ((dict(num_hidden_layers=4), "4 layers of width 32"),
                         (dict(hidden_size=48), "3 layers of width 48")):
        model = load(tiny(**other)).model
        with pytest.raises(RouterFileError, match=words):
            load_routers(model, folder, allow_other_base=True)
    model = load(tiny(seed=1)).model
    with pytest.raises(RouterFileError, match="allow_other_base"):
        load_routers(model, folder)
    assert not isinstance(model.model.layers[0], RoutedLayerMixin)
    with pytest.warns(UserWarning, match="other weights"):
        state = load_routers(model, folder, allow_other_base=True)
    logits(model, **batch())
    assert state.config.target_sparsity == 0.4


def test_pickles_are_not_opened(fresh, tmp_path):
    """Neither by name nor by content: opening one can run code."""
    torch.save({"a": torch.ones(1)}, tmp_path / "router.pth")
    refused(fresh, tmp_path, "a pickle.*weights_only=True")
    refused(fresh, tmp_path / "router.pth", "a pickle")
    disguised = tmp_path / "router.safetensors"
    (tmp_path / "router.pth").rename(disguised)
    refused(fresh, disguised, "a pickle")


def test_numbers_that_are_not_finite(fresh, tmp_path, saved):
    model = fresh()
    state = route(model)
    state.parameters()[0].data[0, 0] = torch.nan
    with pytest.raises(RouterFileError, match="layers.0.router_attn.layers.0.weight is not finite"):
        save_routers(model, tmp_path / "new", base=BASE)
    assert not (tmp_path / "new").exists()
    path, _ = fork_file(tmp_path / "router.safetensors", model, "")
    tensors = safetensors.torch.load_file(path)
    tensors["model.layers.2.router_mlp.weight_predictor.bias"][0] = torch.inf
    safetensors.torch.save_file(tensors, path)
    refused(fresh, path, "layers.2.router_mlp.layers.0.bias holds numbers")


def test_saving_needs_routers_and_a_base(fresh, tmp_path):
    model = fresh()
    with pytest.raises(RuntimeError, match="no routers"):
        save_routers(model, tmp_path, base=BASE)
    route(model)
    with pytest.raises(RouterFileError, match="weights_sha256 missing"):
        save_routers(model, tmp_path, base={"name": "tiny", "revision": None})
    with pytest.raises(TypeError, match="JSON"):
        save_routers(model, tmp_path, base=BASE, extra={"model": model})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_save_that_breaks_off_leaves_no_wrong_pair(fresh, saved, monkeypatch, fails_at):
    """Killed before the first rename, the old pair stands; between the two, loading refuses it."""
    folder, _ = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = fresh()
    route(model, seed=8, **CONFIG)
    replace, calls = router_files.os.replace, []

    def dies(*args):
        calls.append(args)
        if len(calls) > fails_at:
            raise KeyboardInterrupt
        replace(*args)

    monkeypatch.setattr(router_files.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        save_routers(model, folder, base=BASE)
    monkeypatch.undo()
    assert {path.name for path in folder.iterdir()} == before.keys(), "litter"
    if fails_at == 0:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    else:
        refused(fresh, folder, "another save")
    save_routers(model, folder, base=BASE)
    load_routers(copy.deepcopy(fresh()), folder)
