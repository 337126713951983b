"""A tiny Whisper, and the three files that a package would carry it in, written byte by byte as CTranslate2 writes them."""

import json
import struct

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import WhisperConfig, WhisperForConditionalGeneration

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
WORDS = (*SPECIAL, "one", "two", "three")
KINDS = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4}


def tiny_whisper(layers=(2, 1), positions=16, seed=0, mels=8):
    """A random stock Whisper of 30,000 parameters whose every weight is a number of half precision; its norms do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(WhisperConfig(
            vocab_size=len(WORDS), d_model=16, num_mel_bins=mels, encoder_layers=layers[0], decoder_layers=layers[1],
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
            decoder_ffn_dim=20, max_source_positions=positions, max_target_positions=12,
            dropout=0.0, init_std=0.3, bos_token_id=0, eos_token_id=0, pad_token_id=0, decoder_start_token_id=1))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter += 0.3 * torch.randn(parameter.shape)
                parameter.copy_(parameter.half().float())
    return model.eval()


def variables_of(model, dtype=torch.float16):
    """{CTranslate2's name: tensor} of a stock Whisper, by hand."""
    state, found = model.state_dict(), {}

    def put(name, *parts):
        rows = [torch.zeros(state[parts[0].replace("k_proj", "q_proj")].shape) if part not in state else state[part] for part in parts]
        found[name] = torch.cat(rows).to(dtype)

    for side, count in (("encoder", model.config.encoder_layers), ("decoder", model.config.decoder_layers)):
        put(f"{side}/position_encodings/encodings", f"model.{side}.embed_positions.weight")
        found[f"{side}/num_heads"] = torch.tensor(getattr(model.config, f"{side}_attention_heads"), dtype=torch.int16)
        put(f"{side}/layer_norm/gamma", f"model.{side}.layer_norm.weight")
        put(f"{side}/layer_norm/beta", f"model.{side}.layer_norm.bias")
        for i in range(count):
            ours, theirs = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            norms = [("self_attention", "self_attn_layer_norm"), ("ffn", "final_layer_norm")]
            norms += [("attention", "encoder_attn_layer_norm")] if side == "decoder" else []
            for name, own in norms:
                put(f"{theirs}/{name}/layer_norm/gamma", f"{ours}.{own}.weight")
                put(f"{theirs}/{name}/layer_norm/beta", f"{ours}.{own}.bias")
            for last in ("weight", "bias"):
                put(f"{theirs}/self_attention/linear_0/{last}", *(f"{ours}.self_attn.{p}_proj.{last}" for p in "qkv"))
                put(f"{theirs}/self_attention/linear_1/{last}", f"{ours}.self_attn.out_proj.{last}")
                put(f"{theirs}/ffn/linear_0/{last}", f"{ours}.fc1.{last}")
                put(f"{theirs}/ffn/linear_1/{last}", f"{ours}.fc2.{last}")
                if side == "decoder":
                    put(f"{theirs}/attention/linear_0/{last}", f"{ours}.encoder_attn.q_proj.{last}")
                    keys = [f"{ours}.encoder_attn.{p}_proj.{last}" for p in "kv"]
                    found[f"{theirs}/attention/linear_1/{last}"] = torch.cat(
                        [state.get(keys[0], torch.zeros_like(state[keys[1]])), state[keys[1]]]).to(dtype)
                    put(f"{theirs}/attention/linear_2/{last}", f"{ours}.encoder_attn.out_proj.{last}")
    for conv in ("conv1", "conv2"):
        for last in ("weight", "bias"):
            put(f"encoder/{conv}/{last}", f"model.encoder.{conv}.{last}")
    put("decoder/embeddings/weight", "model.decoder.embed_tokens.weight")
    scalars = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}
    return found | {f"decoder/{name}": torch.tensor(value, dtype=torch.int8) for name, value in scalars.items()}


ALIASES = {"decoder/projection/weight": "decoder/embeddings/weight"}


def string(text):
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def as_bytes(variables, aliases=ALIASES, version=6, specification="WhisperSpec", revision=3):
    out = [struct.pack("<I", version), string(specification), struct.pack("<II", revision, len(variables))]
    for name, value in variables.items():
        data = value.contiguous().numpy().tobytes()
        out += [string(name), struct.pack("<B", value.dim()), struct.pack(f"<{value.dim()}I", *value.shape),
                struct.pack("<BI", KINDS[value.dtype], len(data)), data]
    return b"".join([*out, struct.pack("<I", len(aliases)), *(string(a) + string(b) for a, b in aliases.items())])


def write_files(folder, model, data=None):
    """model.bin (data: other bytes), tokenizer.json and config.json; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(as_bytes(variables_of(model)) if data is None else data)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"suppress_ids": [2], "suppress_ids_begin": [0]}))
    return folder
