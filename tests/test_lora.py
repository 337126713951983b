"""Adapters: W + (alpha / rank) B A by hand, files in peft's format that are whole or not there, and what is refused."""

import contextlib
import errno
import io
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from common import lora
from common.errors import FileError, ModelError
from common.lora import LoraSpec, add_lora, linear_layers, merge, merged, save
from common.models import load, tiny
from tests.numerics import close, far, float64

SPEC = LoraSpec(rank=2, alpha=6, dropout=0.0)
IDS = torch.tensor([[5, 9, 33, 7, 60, 2]])


def adapted(spec=SPEC, family="llama", seed=0):
    """A tiny model whose adapters are not zero, in eval mode."""
    model = add_lora(load(tiny(family)).model, spec)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_((torch.randn(p.shape, generator=draw) * 0.1).to(torch.bfloat16))  # what a file in bfloat16 can hold
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


# -- on ------------------------------------------------------------------------------------------------------
def test_adapters_start_as_nothing_and_are_all_that_trains():
    model = load(tiny()).model
    before = logits(model)
    wrapped = add_lora(model, LoraSpec(rank=2, dropout=0.1)).eval()
    assert torch.equal(logits(wrapped), before) and torch.equal(logits(model), before), "the model itself has them, too"
    names = [n for n, p in wrapped.named_parameters() if p.requires_grad]
    assert len(names) == 3 * 7 * 2 and all("lora_" in n for n in names)  # layers, projections, A and B
    # r (fan in + fan out): q and o 32 + 32, k and v 32 + 16, three of 32 + 64.
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == 3 * 2 * (2 * 64 + 2 * 48 + 3 * 96)


def test_an_adapted_layer_is_w_plus_alpha_over_rank_b_a():
    wrapped = adapted(LoraSpec(rank=2, alpha=6, dropout=0.0, targets=("up_proj",)))
    layer = wrapped.base_model.model.model.layers[1].mlp.up_proj
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    by_hand = layer.base_layer.weight + 3 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    close(layer(x), x @ by_hand.T, 1e-6)
    far(layer(x), layer.base_layer(x))


def test_a_target_that_is_nowhere_is_an_error_that_names_the_layers_there_are():
    model = load(tiny()).model
    with pytest.raises(TypeError, match="LlamaForCausalLM has no query, key for LoRA to adapt; its linear layers are down_proj, gate_proj, "
                                        "k_proj, lm_head, o_proj, q_proj, up_proj, v_proj: name some of these"):
        add_lora(model, LoraSpec(targets=("q_proj", "query", "key")))
    assert not hasattr(model, "peft_config"), "and nothing was adapted"
    with pytest.raises(TypeError, match="has no q_proj, k_proj, v_proj, gate_proj, up_proj .* gate_up_proj, lm_head, o_proj, qkv_proj"):
        add_lora(load(tiny("phi3")).model, LoraSpec())
    assert linear_layers(load(tiny("phi3")).model) == ("down_proj", "gate_up_proj", "lm_head", "o_proj", "qkv_proj")
    with pytest.raises(TypeError, match="has no proj "):  # the end of a name is no name
        add_lora(model, LoraSpec(targets=("proj",)))


# -- to a file and back --------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_a_saved_adapter_gives_the_same_logits(family, tmp_path):
    wrapped = adapted(family=family)
    save(wrapped, tmp_path / "adapter", base="someone/model")
    loaded = merged(tiny(family), tmp_path / "adapter")
    close(logits(loaded.model), logits(wrapped), 1e-5)  # in single precision W + B A is rounded once more
    far(logits(loaded.model), logits(load(tiny(family)).model))
    assert type(loaded.model).__name__ == type(load(tiny(family)).model).__name__ and not loaded.model.training
    assert not any("lora" in n for n, _ in loaded.model.named_parameters())
    assert loaded.source["adapter"] == "adapter" and len(loaded.source["adapter_sha256"]) == 64
    assert loaded.source.items() > load(tiny(family)).source.items()


@pytest.mark.numerics
def test_merged_equals_unmerged_in_double_precision(tmp_path):
    with float64():
        wrapped = adapted()
        expected = logits(wrapped)
        save(wrapped, tmp_path)
        model = load(tiny()).model
        far(logits(model), expected)
        found = logits(merge(model, tmp_path))
    assert found.dtype == expected.dtype == torch.float64
    close(found, expected, 1e-12)


def test_the_files_are_pefts_small_and_name_no_place(tmp_path):
    from peft import PeftModel

    wrapped = adapted()
    folder = save(wrapped, tmp_path / "here", base="someone/model")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    tensors = load_file(folder / lora.WEIGHTS)
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16} and len(tensors) == 3 * 7 * 2
    assert all(name.startswith("base_model.model.model.layers.") for name in tensors)
    config = json.loads((folder / lora.CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"], config["peft_type"]) == (2, 6, "someone/model", "LORA")
    assert config["target_modules"] == sorted(SPEC.targets) and config["inference_mode"] is True
    theirs = PeftModel.from_pretrained(load(tiny()).model, str(folder))
    assert torch.equal(logits(theirs), logits(wrapped))
    again = save(wrapped.base_model.model, tmp_path / "plain", base="someone/model")  # the model that was given, not the wrapper
    for name in (lora.WEIGHTS, lora.CONFIG):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_as_trained_a_value_keeps_its_precision(tmp_path):
    wrapped = adapted()
    name, parameter = next((n, p) for n, p in wrapped.named_parameters() if "lora_A" in n)
    with torch.no_grad():
        parameter.fill_(1 + 2**-20)
    short = name.replace(".default", "")
    assert load_file(save(wrapped, tmp_path / "a", dtype=None) / lora.WEIGHTS)[short].unique().tolist() == [1 + 2**-20]
    assert load_file(save(wrapped, tmp_path / "b") / lora.WEIGHTS)[short].unique().tolist() == [1.0]


# -- what is refused -----------------------------------------------------------------------------------------
def test_over_4_mb_is_refused_and_nothing_is_written(tmp_path):
    """Rank 750 on every projection: 3 x 750 x 512 numbers of two bytes are 2.3 MB, of rank 1,500 4.6 MB."""
    small, large = (add_lora(load(tiny()).model, LoraSpec(rank=rank)) for rank in (750, 1500))
    folder = save(small, tmp_path / "small")
    assert 2_304_000 < (folder / lora.WEIGHTS).stat().st_size < 2_320_000
    with pytest.raises(FileError, match="large/adapter_model.safetensors would have 4,6.*may have 4,000,000: use a smaller rank than 1500"):
        save(large, tmp_path / "large")
    assert not (tmp_path / "large").exists()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileError, match="Nothing was written"):
        save(large, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "what was there is intact"
    assert (save(large, tmp_path / "large", most=None) / lora.WEIGHTS).stat().st_size > 4_600_000  # a training's own product
    edge = (folder / lora.WEIGHTS).stat().st_size
    save(small, tmp_path / "edge", most=edge)
    with pytest.raises(FileError):
        save(small, tmp_path / "edge", most=edge - 1)


def break_config(folder):
    (folder / lora.CONFIG).unlink()


def pickled(folder):
    (folder / lora.WEIGHTS).rename(folder / "adapter_model.bin")


def truncated(folder):
    (folder / lora.WEIGHTS).write_bytes((folder / lora.WEIGHTS).read_bytes()[:-100])


def without_a_layer(folder):
    tensors = load_file(folder / lora.WEIGHTS)
    save_file({n: t for n, t in tensors.items() if ".layers.2." not in n}, folder / lora.WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize("harm, message", [
    (break_config, "is no adapter: it has no adapter_config.json"), (pickled, "pickled adapters are not opened"),
    (truncated, "is no adapter of LlamaForCausalLM"),
    (without_a_layer, r"is an adapter of another model: base_model.model.model.layers.2.\S+ is in one of the two alone"),
])  # fmt: skip
def test_a_damaged_adapter_is_refused_by_name(harm, message, tmp_path):
    save(adapted(), tmp_path / "mine")
    harm(tmp_path / "mine")
    with pytest.raises(ModelError, match=f"^mine .*{message}" if "pickled" in message else f"^mine {message}"):
        merged(tiny(), tmp_path / "mine")


@pytest.mark.parametrize("base", [tiny(hidden_size=64), tiny("phi3"), tiny(num_hidden_layers=2)], ids=["wider", "phi3", "shallower"])
def test_another_models_adapter_is_refused(base, tmp_path):
    save(adapted(), tmp_path / "mine")
    with pytest.raises(ModelError, match="^mine is (no adapter of|an adapter of another model)"):
        merged(base, tmp_path / "mine")


# -- a write that is cut, and weights that are none ------------------------------------------------------------
def test_a_kill_between_the_two_files_leaves_no_mixture(tmp_path, monkeypatch):
    """Weights of the new adapter under the old one's alpha would merge without an error, three times too strong."""
    folder = save(adapted(), tmp_path / "adapter")

    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lora, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            save(adapted(LoraSpec(rank=2, alpha=2, dropout=0.0), seed=1), folder)
    with pytest.raises(ModelError, match="adapter is no adapter: it has no adapter_config.json"):
        merge(load(tiny()).model, folder)
    save(adapted(), folder)
    merge(load(tiny()).model, folder)


def test_a_full_disk_leaves_the_adapter_that_was_there(tmp_path, monkeypatch):
    folder = save(adapted(), tmp_path / "adapter")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    class Full(io.BytesIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "full")

    @contextlib.contextmanager
    def full(path):
        yield Full()

    monkeypatch.setattr(lora, "replacing", full)
    with pytest.raises(FileError, match="adapter_model.safetensors: cannot be written: the disk is full"):
        save(adapted(seed=1), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_adapter_of_a_training_that_diverged_is_not_merged(tmp_path):
    folder = save(adapted(), tmp_path)
    tensors = load_file(folder / lora.WEIGHTS)
    name = sorted(tensors)[5]
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / lora.WEIGHTS, {"format": "pt"})
    with pytest.raises(ModelError, match=f"{name} holds NaN or infinity"):
        merge(load(tiny()).model, folder)


def test_a_target_that_is_nowhere_is_what_a_user_can_mend():
    with pytest.raises(ModelError, match="has no query for LoRA"):
        add_lora(load(tiny()).model, LoraSpec(targets=("query",)))
