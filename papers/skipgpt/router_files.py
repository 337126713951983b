"""Trained routers as a folder of two files, apart from the backbone that they belong to.

    routers.safetensors   fp32, layers.<l>.router_attn.layers.0.weight and so on
    skipgpt.json          how they decide (SkipGPTConfig), on which backbone, where they come from

Routers read one backbone's residual stream; on another of the same shape they decide nonsense
without an error. So the folder carries a fingerprint of the backbone, and loading onto a different
one is refused unless asked for. Both files are written whole or not at all, skipgpt.json last and
with the hash of the other: whatever happens in between, a load gives what was saved or raises.

Router files of the published fork (names `…router_attention.weight_predictor.weight`) load as well,
once they are safetensors; pickles are not opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from common.errors import UserError
from common.files import replacing

from .gating import is_routed
from .layers import find_stack, layer_list, width_of
from .method import RoutingState, SkipGPTConfig, apply_skipgpt, remove_skipgpt, routing_of

ROUTERS = Path(__file__).parent / "routers"  # of SmolLM2-135M-Instruct, with static plans at the same budgets: routers_smollm2.py
WEIGHTS, CARD = "routers.safetensors", "skipgpt.json"
FORMAT = 1
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
BASE_KEYS = ("name", "revision", "weights_sha256")
CARD_KEYS = {"format", "config", "base", "fingerprint", "hidden_size", "layers", "sha256", "extra"}
# What must be as in the file. The rest is about training, or (eval_sampling) a choice of who evaluates.
DECIDING = ("router_hidden", "router_norm", "mlp_router_input", "kv_policy", "coupled")

# Names of the released code and of the fork, with or without the wrapper that PEFT adds.
FORK_NAME = re.compile(
    r"(?:base_model\.model\.)?model\.layers\.(\d+)\.router_(attention|mlp)"
    r"\.(hidden_layer|weight_predictor)\.(weight|bias)"
)


class RouterFileError(UserError, ValueError):
    """Routers that cannot or must not be loaded: which file, what is wrong, what to do."""


def committed(target: float, seed: int = 0) -> Path:
    """Folder of the committed routers of SmolLM2-135M-Instruct that skip this share of the modules, of one training."""
    return (ROUTERS / f"seed{seed}" if seed else ROUTERS) / f"smollm2-135m-instruct-t{round(100 * target)}"


def committed_seeds(target: float) -> tuple[int, ...]:
    """The trainings of which routers are committed; the first is 0."""
    others = (int(folder.name.removeprefix("seed")) for folder in ROUTERS.glob("seed*"))
    return (0, *sorted(seed for seed in others if (committed(target, seed) / CARD).is_file()))


def save_routers(model: nn.Module, folder: str | os.PathLike, *, base: dict[str, Any],
                 extra: dict[str, Any] | None = None) -> Path:
    """Writes the routers of a routed model, unsharded, to `folder` (made if need be); returns it.

    base: which backbone, with at least "name", "revision" and "weights_sha256" (None where there is
    none, e.g. random weights). extra: what else one will want to know: command, seed, commit; JSON.
    Raises RuntimeError if the model has no routers, RouterFileError for an incomplete base or for
    routers that are not finite.
    """
    state, folder = routing_of(model), Path(folder)
    if absent := [key for key in BASE_KEYS if key not in base]:
        raise RouterFileError(f"base = {base}: {', '.join(absent)} missing (None is a value)")
    tensors = {name: t.detach().to("cpu", torch.float32).contiguous()
               for name, t in _parameters(state).items()}
    if bad := [name for name, t in tensors.items() if not t.isfinite().all()]:
        raise RouterFileError(f"{bad[0]} is not finite: training diverged, nothing was written")
    data = safetensors.torch.save(tensors)
    card = dict(format=FORMAT, config=state.config.to_dict(), base=base,
                fingerprint=fingerprint(model), hidden_size=_width(state), layers=len(state.layers),
                sha256=hashlib.sha256(data).hexdigest(), extra=extra or {})
    text = json.dumps(card, indent=1, sort_keys=True) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((WEIGHTS, data), (CARD, text.encode())):
        with replacing(folder / name) as file:
            file.write(content)
    return folder


def load_routers(model: nn.Module, folder: str | os.PathLike, *,
                 allow_other_base: bool = False) -> RoutingState:
    """Puts saved routers onto a model, routed or not; gives its RoutingState.

    folder: what `save_routers` wrote, or a .safetensors file with the fork's names. A stock model
    is routed with the stored config; a routed one must decide by the same rules (DECIDING) and
    keeps its config. Raises RouterFileError for files that are missing, damaged, pickled or of
    another format, for another shape and, unless allow_other_base, for another backbone; the model
    is then as it was before.
    """
    folder, stack = Path(folder), find_stack(model)
    shape = len(layer_list(stack)[1]), width_of(stack)
    if folder.suffix == ".safetensors":
        config, tensors = _read_fork(folder, shape)
    else:
        card = _read_card(folder)
        if (card["layers"], card["hidden_size"]) != shape:
            raise RouterFileError(
                f"{folder / CARD}: routers for {card['layers']} layers of width "
                f"{card['hidden_size']} ({card['base']['name']}); this model has {shape[0]} layers "
                f"of width {shape[1]}")
        config, tensors = card["config"], _read_tensors(folder / WEIGHTS, card["sha256"])
        here = fingerprint(model)
        if None not in (here, card["fingerprint"]) and here != card["fingerprint"]:
            text = (f"{folder}: routers trained on {card['base']['name']} (revision "
                    f"{card['base']['revision']}), and this model has other weights")
            if not allow_other_base:
                raise RouterFileError(
                    f"{text}. Load that model, and routers before merging an adapter; "
                    "allow_other_base=True if you know that these weights are meant")
            warnings.warn(text, stacklevel=2)
    routed = is_routed(model)
    state = routing_of(model) if routed else apply_skipgpt(model, config)
    try:
        if differ := [k for k in DECIDING if getattr(state.config, k) != getattr(config, k)]:
            k = differ[0]
            raise RouterFileError(f"{folder}: routers with {k} = {getattr(config, k)!r}; this "
                                  f"model was routed with {getattr(state.config, k)!r}. Use that "
                                  "config, or load onto the stock model, which takes the file's")
        own = _parameters(state)
        for name in sorted(own.keys() | tensors.keys()):
            here, there = (t[name].shape if name in t else None for t in (own, tensors))
            if here != there:
                raise RouterFileError(f"{folder}: {name} is {_words(there)}, and should be "
                                      f"{_words(here)}: config and tensors do not belong together")
            if not tensors[name].isfinite().all():
                raise RouterFileError(f"{folder}: {name} holds numbers that are not finite")
    except RouterFileError:
        if not routed:
            remove_skipgpt(model)
        raise
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
    return state


def fingerprint(model: nn.Module) -> str | None:
    """sha256 over names, shapes and 64 evenly spaced values of each backbone tensor; None on meta.

    Values count as bfloat16, so that a backbone is itself in float32 and in bfloat16; float16 rounds
    otherwise, and may be taken for another one. Routers and unmerged LoRA
    adapters do not count; a merged adapter is another backbone. It tells models apart and proves
    nothing: the full hash is under "base" in skipgpt.json.
    """
    digest = hashlib.sha256()
    named = find_stack(model).named_parameters()
    tensors = {name.replace("base_layer.", ""): t for name, t in named
               if "router_" not in name and "lora_" not in name}
    for name, tensor in sorted(tensors.items()):
        if tensor.is_meta:
            return None
        pick = torch.linspace(0, tensor.numel() - 1, min(64, tensor.numel()), dtype=torch.float64)
        values = tensor.detach().flatten()[pick.long().to(tensor.device)].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


# -- reading ---------------------------------------------------------------------------------------
def _read_card(folder: Path) -> dict[str, Any]:
    """skipgpt.json, checked, with "config" as a SkipGPTConfig."""
    path = folder / CARD
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        absent = CARD if not path.is_file() else WEIGHTS
        _refuse_pickles(sorted(folder.iterdir()) if folder.is_dir() else [folder])
        raise RouterFileError(f"{folder}: no {absent}. A folder of routers holds {WEIGHTS} and "
                              f"{CARD}, as save_routers writes them")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RouterFileError(f"{path}: not JSON ({error}): cut short or damaged") from error
    keys = set(card) if isinstance(card, dict) else set()
    if keys and card.get("format") != FORMAT:
        raise RouterFileError(f"{path}: format {card.get('format')!r}; this version reads {FORMAT}")
    known = {f.name for f in fields(SkipGPTConfig)}
    inner = card.get("config") if keys else None
    inner = inner if isinstance(inner, dict) else {}
    for what, wrong in (("unknown", keys - CARD_KEYS), ("missing", CARD_KEYS - keys),
                        ("unknown in config:", set(inner) - known),
                        ("missing in config:", known - set(inner))):
        if wrong:
            raise RouterFileError(f"{path}: {what} {', '.join(sorted(wrong))}: written by another "
                                  "version of this code, or by hand")
    try:
        card["config"] = SkipGPTConfig(**inner)
    except (TypeError, ValueError) as error:
        raise RouterFileError(f"{path}: config: {error}") from error
    return card


def _read_tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise RouterFileError(f"{path}: no such file")
    data = path.read_bytes()
    _refuse_pickles([path], data[:4])
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise RouterFileError(f"{path}: not the file that {CARD} beside it describes: cut short, "
                              "changed or from another save. Copy both files again")
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise RouterFileError(f"{path}: no safetensors, or cut short ({error})") from error


def _read_fork(path: Path, shape: tuple[int, int]) -> tuple[SkipGPTConfig, dict[str, Tensor]]:
    """Routers under the names of the released code. There the MLP router reads the layer input."""
    tensors, hidden = {}, None
    for name, tensor in _read_tensors(path, None).items():
        match = FORK_NAME.fullmatch(name)
        if match is None:
            raise RouterFileError(f"{path}: {name} is no router of the released code; give what "
                                  "save_routers wrote as the folder, not the file")
        layer, module, part, kind = match.groups()
        if part == "hidden_layer":
            hidden = tensor.shape[0]
        tensors[int(layer), module, part, kind] = tensor.float()
    depth = 1 + max((key[0] for key in tensors), default=-1)
    first = "weight_predictor" if hidden is None else "hidden_layer"
    widths = {t.shape[-1] for key, t in tensors.items() if key[2:] == (first, "weight")}
    if (depth, widths) != (shape[0], {shape[1]}):
        raise RouterFileError(f"{path}: routers for {depth} layers of width {sorted(widths)}; this "
                              f"model has {shape[0]} layers of width {shape[1]}")
    place = {"hidden_layer": 0, "weight_predictor": 0 if hidden is None else 2}
    short = {"attention": "attn", "mlp": "mlp"}
    config = SkipGPTConfig(mlp_router_input="layer_input", router_hidden=hidden)
    return config, {f"layers.{layer}.router_{short[module]}.layers.{place[part]}.{kind}": tensor
                    for (layer, module, part, kind), tensor in tensors.items()}


def _refuse_pickles(paths: list[Path], head: bytes = b"") -> None:
    for path in paths:
        if path.suffix in PICKLES or _is_pickle(head):
            raise RouterFileError(
                f"{path}: a pickle, which can run code when opened. Convert it where you trust it: "
                "safetensors.torch.save_file(torch.load(path, weights_only=True), 'x.safetensors')")


def _is_pickle(head: bytes) -> bool:
    """By the first four bytes: a zip archive, or a pickle that is not a safetensors header of 640 bytes."""
    return head[:4] == b"PK\x03\x04" or (head[:2] == b"\x80\x02" and head[2:4] != b"\0\0")


# -- small things ----------------------------------------------------------------------------------
def _parameters(state: RoutingState) -> dict[str, nn.Parameter]:
    return {f"{router}.{name}": p for router, module in state.routers().items()
            for name, p in module.named_parameters()}


def _width(state: RoutingState) -> int:
    return width_of(state.stack)


def _words(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))
