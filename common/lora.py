"""Low-rank adapters, by peft: put on a model, saved small enough to be committed, merged into the model again.

    add_lora(model, LoraSpec(rank=4))     W x becomes W x + (alpha / rank) B A x; A and B alone are trained, B starts at zero
    save(model, folder)                   A and B in bfloat16, in peft's format, refused over 4 MB before anything is written
    merged(base, folder)                  the base with W + (alpha / rank) B A in place of W: a plain model, no peft in it

LoRA: Hu et al. 2021, arXiv 2106.09685, equation 3. The adapter that a training leaves (its product, of any size, in the
precision that was trained) is saved with `dtype=None, most=None`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from .errors import FileError, ModelError, needed
from .files import advice, file_sha256, replacing, write_json
from .models import Loaded, ModelSpec, load

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of a Llama-like block
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names
MOST = 4_000_000  # bytes: what a file of weights in the repository may have
PREFIX = "base_model.model."  # peft's, before the name that a parameter has in the model


class TargetError(ModelError, TypeError):
    """A model without a layer that an adapter is to be put on."""


@dataclass(frozen=True)
class LoraSpec:
    """rank: of B A. alpha: B A counts alpha / rank times. dropout: on the input of A. targets: last names of the linear layers
    that are adapted, everywhere in the model. bias: which biases train beside them ("none", "lora_only", "all")."""

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.1
    targets: tuple[str, ...] = LINEAR
    bias: str = "none"

    def config(self):
        """peft's LoraConfig of a causal language model."""
        from peft import LoraConfig

        return LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, bias=self.bias,
                          target_modules=list(self.targets), task_type="CAUSAL_LM")


def linear_layers(model: nn.Module) -> tuple[str, ...]:
    """Last names of the linear layers in the model, sorted: what `targets` may name."""
    return tuple(sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)}))


def add_lora(model: nn.Module, spec: LoraSpec) -> nn.Module:
    """The model as a PeftModel; its other parameters are frozen. The model itself has the adapters, too: who needs the plain
    class goes on with it and ignores what is returned.

    A is drawn from torch's generator. Raises TargetError for a target that no module is called, naming the linear layers there are.
    """
    with needed("peft", "LoRA"):
        from peft import get_peft_model

    names = [name for name, _ in model.named_modules()]
    if absent := [t for t in spec.targets if not any(f".{name}".endswith(f".{t}") for name in names)]:
        raise TargetError(f"{type(model).__name__} has no {', '.join(absent)} for LoRA to adapt; its linear layers are "
                          f"{', '.join(linear_layers(model))}: name some of these as targets")
    return get_peft_model(model, spec.config())


def save(model: nn.Module, folder: str | Path, base: str | None = None, dtype: torch.dtype | None = torch.bfloat16,
         most: int | None = MOST) -> Path:
    """Writes the adapter into the folder, as `peft.PeftModel.from_pretrained` reads it; returns the folder.

    model: what `add_lora` returned, or the model that it was given. base: what the file says the adapter belongs to (a hub id,
    a package), never a place of this machine. dtype: of the file, None: as trained. most: bytes that it may have, None: any
    number. Raises FileError, and writes nothing, for a larger one. An adapter that was there gives up its config as the new weights
    take its weights' place: a kill between the two files leaves a folder that is refused, never one adapter's weights under the
    other one's alpha.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save as as_bytes

    folder, config = Path(folder), model.peft_config["default"].to_dict()
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)  # of the base, they stay with the base
    data = as_bytes({name if name.startswith(PREFIX) else PREFIX + name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
                     for name, tensor in tensors.items()}, {"format": "pt"})
    if most is not None and len(data) > most:
        raise FileError(f"{folder.name}/{WEIGHTS} would have {len(data):,} bytes, and may have {most:,}: use a smaller rank than "
                        f"{config['r']}, or fewer targets. Nothing was written.")
    try:
        with replacing(folder / WEIGHTS) as file:
            file.write(data)
            file.flush()  # a full disk shows here, while all of the adapter before is there
            (folder / CONFIG).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{folder.name}/{WEIGHTS}: cannot be written: {advice(error, folder / WEIGHTS)}.") from error
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    write_json(folder / CONFIG, settings | {"base_model_name_or_path": base, "inference_mode": True})
    return folder


def adapter_folder(folder: str | Path) -> Path:
    """The folder, which holds an adapter in safetensors. Raises ModelError otherwise."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder.name} is no adapter: it has no {CONFIG}")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder.name} has no {WEIGHTS}; pickled adapters are not opened")
    return folder


def merge(model: nn.Module, folder: str | Path) -> nn.Module:
    """The model, with the adapter in the folder added to its weights, in place; nothing of it trains.

    Raises ModelError for a folder without an adapter in safetensors, for another model's adapter, and for weights that are none.
    """
    with needed("peft", "LoRA"):
        from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    folder = adapter_folder(folder)
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            there = set(file.keys())
            wrong = next((name for name in sorted(there) if not file.get_tensor(name).isfinite().all()), None)
        adapted = PeftModel.from_pretrained(model, str(folder))
    except (SafetensorError, RuntimeError, ValueError, TypeError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder.name} is no adapter of {type(model).__name__}: {str(error).strip().splitlines()[0][:200]}") from error
    if wrong:
        raise ModelError(f"{folder.name}/{WEIGHTS}: {wrong} holds NaN or infinity: a training that diverged, or a damaged file")
    if wrong := there ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False)):
        raise ModelError(f"{folder.name} is an adapter of another model: {min(wrong)} is in one of the two alone")
    return adapted.merge_and_unload()


def merged(base: ModelSpec | str, folder: str | Path) -> Loaded:
    """The base with the adapter in it, in eval mode; `source` names the adapter's folder and its sha256. Raises ModelError."""
    folder = adapter_folder(folder)  # before minutes of loading
    loaded = load(base)
    model = merge(loaded.model, folder).eval()
    facts = {"adapter": folder.resolve().name, "adapter_sha256": file_sha256(folder / WEIGHTS)}
    return Loaded(model, loaded.tokenizer, loaded.source | facts)
