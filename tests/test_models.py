"""common/models.py: a folder is as good as a hub id, and what must not be opened is refused."""

import copy
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from common import files, models
from common.errors import ModelError
from common.models import ModelSpec, load, tiny
from tests.numerics import close, far, float64

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2"]


@pytest.fixture
def folder(tmp_path):
    """A tiny Qwen3 in hub format, without tokenizer."""
    load(tiny("qwen3")).model.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def ids():
    return torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(0))


def logits(model, ids):
    """In float64, for `close`: weights of a mapped file may lie otherwise in memory than drawn ones, and be added in another order."""
    with torch.no_grad(), float64():
        return copy.deepcopy(model).double()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_tiny_models_have_grouped_queries_and_say_something(model_type, tied, ids):
    model, tokenizer, source = load(tiny(model_type, tie_word_embeddings=tied))
    assert tokenizer is None and not model.training
    assert model.config.model_type == source["model_type"] == model_type
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert logits(model, ids).std() > 0.5
    assert source["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("text", ["None", "null", ""])
def test_no_revision_is_no_revision_however_the_command_line_spells_it(folder, text):
    assert load(ModelSpec(str(folder), revision=text)).source["revision"] is None


@pytest.mark.numerics
def test_random_weights_come_from_the_seed_and_leave_the_generator_alone(ids):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = load(tiny()), load(tiny(seed=1))
    assert torch.equal(torch.rand(3), expected)
    close(logits(first.model, ids), logits(load(tiny()).model, ids))
    far(logits(first.model, ids), logits(second.model, ids))
    assert first.source["recipe_sha256"] != second.source["recipe_sha256"]
    assert first.source["config_sha256"] == second.source["config_sha256"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_are_held_in_the_dtype_asked_for(dtype):
    model = load(tiny(dtype=dtype)).model
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    # rotary frequencies stay float32 whatever the weights are
    assert {b.dtype for b in model.buffers()} == {torch.float32}


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_round_trip_gives_the_same_model(folder, ids, dtype):
    original = load(tiny("qwen3"))
    again = load(ModelSpec(str(folder), dtype=dtype))
    weights = original.model.state_dict()
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, weights[name].to(getattr(torch, dtype)))
    if dtype == "float32":
        close(logits(again.model, ids), logits(original.model, ids))
    assert again.source["config_sha256"] == original.source["config_sha256"]
    assert again.source["dtype"] == dtype
    assert again.source["weights_sha256"] == files.file_sha256(folder / "model.safetensors")


def test_the_dtype_is_the_one_named_not_the_checkpoints(tmp_path):
    load(tiny(dtype="bfloat16")).model.save_pretrained(tmp_path)
    assert load(str(tmp_path)).model.dtype == torch.float32


@pytest.mark.numerics
def test_shards_are_one_model(folder, ids, tmp_path):
    whole = load(str(folder))
    whole.model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    parts = load(str(tmp_path / "shards"))
    close(logits(parts.model, ids), logits(whole.model, ids))
    assert len(parts.source["weights_sha256"]) == 64


@pytest.mark.numerics
def test_a_hub_id_is_opened_as_the_folder_it_is_downloaded_to(folder, ids, monkeypatch):
    import huggingface_hub

    asked = []
    snapshot = folder.rename(folder.parent / ("c" * 40))

    def download(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub = load(ModelSpec("someone/something", revision="main"))
    local = load(str(snapshot))
    assert asked == [("someone/something", "main", models.HUB_FILES)]
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in models.HUB_FILES)
    assert hub.source["name"] == "someone/something" and hub.source["revision"] == "c" * 40
    close(logits(hub.model, ids), logits(local.model, ids))
    same = ("weights_sha256", "config_sha256", "parameters", "dtype", "attn_implementation")
    assert all(hub.source[key] == local.source[key] for key in same)


def test_offline_hub_error_names_the_model_and_the_way_out():
    with pytest.raises(ModelError, match="someone/not-here.*folder in hub format"):
        load("someone/not-here")


def test_a_source_holds_no_path(folder):
    source = load(str(folder)).source
    assert source["name"] == "mine"
    assert str(folder.parent) not in json.dumps(source)


# --- refusals


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle.*safetensors"):
        load(str(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(folder, file):
    path = folder / file
    entries = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(entries | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('remote code was run')")
    with pytest.raises(ModelError, match="auto_map"):
        load(str(folder))


def test_adapters_are_refused(folder):
    entry = {"base_model_name_or_path": "someone/base", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(entry))
    with pytest.raises(ModelError, match="adapter"):
        load(str(folder))


def test_missing_weights_are_refused_not_drawn_at_random(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="layers.1.mlp.up_proj"):
        load(str(folder))


def test_missing_shards_and_truncated_weights_are_refused(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="damaged"):
        load(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="1 of 1 weight files missing"):
        load(str(folder))


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (ModelSpec("./no/such/folder"), "No folder"),
        (ModelSpec("no hub id!"), "no hub id"),
        (ModelSpec("random"), "'config' belongs"),
        (ModelSpec("someone/something", config={"model_type": "llama"}), "'config' belongs"),
        (ModelSpec("random", config={"model_type": "no-such-type"}), "no-such-type"),
        (ModelSpec("random", config={"hidden_size": 8}), "model_type"),
        (ModelSpec("someone/something", dtype="auto"), "dtype 'auto'"),
        (ModelSpec("package:no_such_package/a.gguf"), "not installed"),
        (ModelSpec("package:common/a.gguf"), "no file 'a.gguf'"),
    ],
)
def test_errors_say_what_is_wrong(spec, why):
    with pytest.raises(ModelError, match=why):
        load(spec)


def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(ModelError, match="revision"):
        load(ModelSpec(str(folder), revision="main"))


# --- the cache of dequantised packages, filled by a stand-in; test_benchmarks.py opens the real one


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a "GGUF", whose dequantisation is a tiny model; notes when it is asked for."""
    (tmp_path / "tiny_gguf").mkdir()
    (tmp_path / "tiny_gguf" / "__init__.py").write_text("raise SystemExit('was imported')")
    (tmp_path / "tiny_gguf" / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    calls = []

    def dequantise(gguf: Path, out: Path):
        calls.append(gguf.name)
        load(tiny()).model.save_pretrained(out)

    monkeypatch.setattr(models, "_dequantise", dequantise)
    return calls


def cached(suffix=""):
    (found,) = files.cache_dir().glob(f"gguf-*{suffix}")
    return found


@pytest.mark.numerics
def test_a_package_is_dequantised_once_and_not_imported(package, ids):
    first = load("package:tiny_gguf/tiny.gguf")
    second = load("package:tiny_gguf/tiny.gguf")
    assert package == ["tiny.gguf"] and "tiny_gguf" not in sys.modules
    close(logits(first.model, ids), logits(second.model, ids))
    assert first.source == second.source
    assert len(list(files.cache_dir().iterdir())) == 1  # no working folder is left


@pytest.mark.numerics
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "no sums"])
def test_a_damaged_cache_is_built_again_and_one_line_says_so(package, damage, capsys, ids):
    before = load("package:tiny_gguf/tiny.gguf")
    weights = cached() / "model.safetensors"
    data = bytearray(weights.read_bytes())
    expected = logits(before.model, ids)
    if damage != "no sums":
        weights.unlink()  # not written in place: the first model's weights are this file, mapped
    if damage == "truncate":
        weights.write_bytes(data[:-100])
    elif damage == "flip":  # one bit of one weight: loads without complaint
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "no sums":
        (cached() / "SHA256.json").write_text("{")
    capsys.readouterr()
    after = load("package:tiny_gguf/tiny.gguf")
    said = [line for line in capsys.readouterr().err.splitlines() if "ninefold" in line]
    assert len(said) == 1 and "damaged" in said[0]
    assert len(package) == 2
    assert after.source == before.source
    close(logits(after.model, ids), expected)
    assert len(list(files.cache_dir().iterdir())) == 1


def test_an_interrupted_build_leaves_nothing(package, monkeypatch):
    def fail(gguf, out):
        (out / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_dequantise", fail)
    with pytest.raises(KeyboardInterrupt):
        load("package:tiny_gguf/tiny.gguf")
    assert list(files.cache_dir().iterdir()) == []


def test_another_version_of_the_file_is_another_cache_entry(package, tmp_path):
    first = load("package:tiny_gguf/tiny.gguf")
    (tmp_path / "tiny_gguf" / "tiny.gguf").write_bytes(b"GGUF 2")
    second = load("package:tiny_gguf/tiny.gguf")
    assert len(package) == 2
    assert first.source["gguf_sha256"] != second.source["gguf_sha256"]


# --- weights that are none ------------------------------------------------------------------------


def changed_folder(tmp_path, change=None, **config):
    """A tiny model's folder, its tensor T changed, or entries of its config."""
    from safetensors.torch import load_file, save_file

    load(tiny()).model.save_pretrained(tmp_path)
    if change:
        tensors = load_file(tmp_path / "model.safetensors")
        tensors[T] = change(tensors[T]).contiguous()
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    told = json.loads((tmp_path / "config.json").read_text()) | config
    (tmp_path / "config.json").write_text(json.dumps(told))
    return str(tmp_path)


T = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(("change", "says"), [
    (lambda t: t[:, :8], r"up_proj.weight in model.safetensors is \(64, 8\), and its config says \(64, 32\)"),
    (lambda t: t.index_fill(0, torch.tensor([3]), float("nan")), "up_proj.weight in model.safetensors holds NaN or infinity"),
    (lambda t: t.index_fill(0, torch.tensor([3]), float("inf")), "holds NaN or infinity"),
    (lambda t: t.to(torch.int8), "up_proj.weight in model.safetensors is I8, none of"),
    (lambda t: t.to(torch.float8_e4m3fn), "is F8_E4M3, none of"),
])  # fmt: skip
def test_wrong_weights_are_named_with_their_file(tmp_path, change, says):
    with pytest.raises(ModelError, match=says):
        load(changed_folder(tmp_path, change))


@pytest.mark.parametrize(("config", "says"), [
    ({"_attn_implementation": "org/kernel"}, "_attn_implementation 'org/kernel' in config.json is a kernel of the hub"),
    ({"attn_implementation": "org/kernel@main"}, "is a kernel of the hub"),
    ({"text_config": {"_attn_implementation_internal": "org/kernel"}}, "is a kernel of the hub"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config: its weights are quantised"),
    ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "its weights are quantised"),
])  # fmt: skip
def test_a_config_that_fetches_code_or_is_quantised_is_refused_by_the_property(tmp_path, config, says):
    with pytest.raises(ModelError, match=says):
        load(changed_folder(tmp_path, **config))


def test_a_kernel_of_the_hub_is_refused_where_a_run_asks_for_it():
    with pytest.raises(ModelError, match="attn_implementation 'org/kernel' is a kernel of the hub"):
        load(tiny(attn_implementation="org/kernel"))


# --- folders that are broken in other ways ----------------------------------------------------------


def entries(file="config.json", **changes):
    """A change of a JSON file of the folder; ... removes an entry."""
    def act(folder):
        told = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(json.dumps({name: value for name, value in told.items() if value is not ...}))
    return act


def content(file, text):
    return lambda folder: (folder / file).write_text(text)


BROKEN = {
    "no model type": (entries(model_type=...), "config.json is not one that transformers .* reads"),
    "unknown model type": (entries(model_type="nosuch"), "config.json is not one that transformers .* reads .*nosuch"),
    "an encoder beside the decoder": (entries(model_type="t5"), "its config makes no decoder .t5"),
    "reads pictures": (entries(model_type="llava"), "its config makes no decoder .llava"),
    "a number as text": (entries(hidden_size="32"), "field 'hidden_size'.*expected int, got str"),
    "no heads": (entries(num_key_value_heads=0), "its config makes no decoder .*ZeroDivisionError"),
    "unknown activation": (entries(hidden_act="nosuch"), "its config makes no decoder .*KeyError: 'nosuch'"),
    "unknown rotary positions": (entries(rope_parameters={"rope_type": "nosuch", "rope_theta": 1e4}), "its config makes no decoder"),
    "a number that is none": (entries(rms_norm_eps=float("nan")), "config.json is not JSON .an entry is NaN"),
    "padding outside of the vocabulary": (entries(pad_token_id=5000), "its config makes no decoder .*Padding_idx"),
    "unknown dtype": (entries(dtype="nosuch"), "config.json is not one that transformers .* reads .*nosuch"),
    "a pointer of Git LFS": (content("model.safetensors", "version https://git-lfs example\noid sha256:0\nsize 9\n"),
                             "model.safetensors is a pointer of Git LFS.*git lfs pull"),
    "an index of nothing": (content("model.safetensors.index.json", '{"weight_map": {}}'), "index.json must name a "),
    "an index beside one file": (content("model.safetensors.index.json", '{"weight_map": {"a": "model-1.safetensors"}}'),
                                 "both model.safetensors and an index of 1 other files"),
    "generation settings cut short": (content("generation_config.json", "{"), "generation_config.json is not JSON"),
    "generation settings of another type": (content("generation_config.json", '{"max_new_tokens": "many"}'), "a file beside its weights"),
    "tokenizer empty": (content("tokenizer.json", ""), "its tokenizer cannot be opened .JSONDecodeError"),
    "tokenizer of nothing": (content("tokenizer.json", "{}"), "its tokenizer cannot be opened"),
    "special tokens cut short": (content("special_tokens_map.json", "{"), "special_tokens_map.json is not JSON"),
    "chat template cut short": (content("chat_template.jinja", "{% for"), "its tokenizer cannot be opened .TemplateSyntaxError"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    from common.data.chains import tokenizer

    folder = tmp_path_factory.mktemp("whole")
    load(tiny("qwen3")).model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_and_told_what_is_broken(name, whole, tmp_path):
    (change, says), folder = BROKEN[name], tmp_path / "mine"
    shutil.copytree(whole, folder)
    assert name != "a pointer of Git LFS" or load(str(folder)).tokenizer is not None  # whole it is opened
    change(folder)
    with pytest.raises(ModelError, match=says):
        load(str(folder))


def test_weights_of_more_layers_than_the_config_are_no_smaller_model(tmp_path):
    """transformers opens the first layers and leaves out the others without a word."""
    with pytest.raises(ModelError, match=r"9 tensors that its config has no place for \(model.layers.2.*fewer layers"):
        load(changed_folder(tmp_path, num_hidden_layers=2))


def test_masks_that_old_checkpoints_carry_are_no_quantised_weights(tmp_path):
    """Pythia's files hold a boolean mask and an infinitely low number for each layer."""
    from safetensors.torch import load_file, save_file

    spec = ModelSpec("random", config=dict(model_type="gpt_neox", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                           intermediate_size=64, vocab_size=96))
    load(spec).model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    layer = "gpt_neox.layers.0.attention."
    more = {layer + "bias": torch.ones(1, 1, 8, 8).bool(), layer + "masked_bias": torch.tensor(-1e9),
            layer + "rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors | more, tmp_path / "model.safetensors", {"format": "pt"})
    assert load(str(tmp_path)).source["parameters"] == load(spec).source["parameters"]


@pytest.mark.parametrize("where", ["random", "folder"])
def test_a_model_without_the_attention_asked_for_is_refused_with_what_it_has(where, tmp_path):
    config = dict(model_type="mamba", hidden_size=32, num_hidden_layers=2, vocab_size=96, state_size=4)
    eager = ModelSpec("random", config=config, attn_implementation="eager")
    load(eager).model.save_pretrained(tmp_path)
    spec = dataclasses.replace(eager, attn_implementation="sdpa") if where == "random" else ModelSpec(str(tmp_path))
    with pytest.raises(ModelError, match="a mamba of transformers .* has no attention 'sdpa' .*set attn_implementation to eager"):
        load(spec)
    assert load(ModelSpec(str(tmp_path), attn_implementation="eager")).source["model_type"] == "mamba"


@pytest.mark.parametrize(("changes", "says"), [
    ({"attn_implementation": "sdpax"}, "a llama of transformers .* has no attention 'sdpax'.* set attn_implementation to sdpa or eager"),
    ({"device": "gpu"}, "device 'gpu' cannot be used here"),
    ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ({"hidden_size": "32"}, "field 'hidden_size'"),
    ({"num_attention_heads": 0, "head_dim": None}, "random"),
])  # fmt: skip
def test_a_spec_that_makes_no_model_here_is_refused(changes, says):
    with pytest.raises(ModelError, match=says):
        load(tiny(**changes))
