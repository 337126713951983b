"""Training a LLaVA with several layers of its tower, in LLaVA's two stages (3.7).

stage "pretrain" trains all that is new (projectors, MMFuser, cross-attention and its gates) with the decoder frozen, "finetune" that
and the decoder; the tower is frozen in both. A loss is the sum of cross-entropies over the scored tokens of the whole optimiser step,
divided by their number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.errors import ModelError, SetupError
from common.files import file_sha256, write_json
from common.seeds import seed_of
from common.training.module import StepTraining, gather_whole
from common.vision.heads import by_own_head
from common.vision.layout import IGNORED
from common.vision.parts import LlavaSpec, Parts, load_parts

from .internal import Internal
from .method import (
    Fusion,
    FusionConfig,
    LayerSet,
    Operation,
    Pattern,
    Position,
    Sizes,
    Variant,
    apart,
    code_compat,
    few,
    layer_set,
)
from .running import hidden

NEW = "fusion.safetensors"


class FusedTraining(StepTraining):
    """llava: the parts to start from; its projector and feature layers are not read. layers: a set's name, or layers one by one
    (0 is the embeddings), of a tower with tower_blocks blocks, of which sets leave out the last unused_blocks (SigLIP: 1). compat: the
    set as the official code feeds it. fusion: what an earlier stage wrote (fusion.safetensors), else new from the seed.

    Raises ValueError for sets and settings that are none, SetupError or ModelError, when the model is built, for parts that do not fit.
    """

    PAPER = "layerfusion"
    SETTINGS = ("llava", "stage", "layers", "tower_blocks", "unused_blocks", "compat", "position", "pattern", "op", "variant", "points",
                "learning_rate", "weight_decay", "beta2", "warmup_steps", "schedule")

    def __init__(self, llava: LlavaSpec, layers: str | list[int] = "triple", tower_blocks: int = 24, unused_blocks: int = 0,
                 compat: bool = False, position: Position = "external", pattern: Pattern = "direct", op: Operation = "parts",
                 variant: Variant = "pre", points: list[int] | None = None, fusion: str | None = None,
                 stage: Literal["pretrain", "finetune"] = "finetune", learning_rate: float = 2e-5, weight_decay: float = 0.0,
                 beta2: float = 0.999, warmup_steps: float = 0.03, schedule: Literal["constant", "cosine", "linear"] = "cosine",
                 gradient_checkpointing: bool = False, seed: int = 1):
        if not 0 <= beta2 < 1:
            raise ValueError(f"model.beta2 is {beta2!r}: a number from 0 to below 1")
        super().__init__(learning_rate, weight_decay, (0.9, beta2), warmup_steps, schedule, seed)
        self.llava, self.layers, self.compat, self.beta2, self.stage = llava, layers, compat, beta2, stage
        self.tower_blocks, self.unused_blocks = tower_blocks, unused_blocks
        self.position, self.pattern, self.op, self.variant, self.points = position, pattern, op, variant, points
        self.gradient_checkpointing, self.start_from = gradient_checkpointing, fusion
        of = set_of(layers, tower_blocks, unused_blocks, compat, position)
        self.config = FusionConfig(of, position, pattern, op, variant, points=None if points is None else tuple(points))
        self.given: Parts | None = None  # set it to train parts that are in memory already
        self.parts: Any = None
        self.decoder: Any = None
        self.fusion: Any = None
        self.internal: Any = None

    @property
    def tokenizer(self):
        return self.parts.tokenizer

    def configure_model(self) -> None:
        if self.decoder is not None:
            return
        parts = self.given or load_parts(self.llava, seed_of("projector", self.seed))
        self.source = parts.source
        self.warn_unpinned(self.llava.decoder.revision if self.llava.decoder else None)
        tower: Any = parts.tower
        if tower is not None and tower.config.num_hidden_layers != self.tower_blocks:
            raise SetupError(f"model.tower_blocks is {self.tower_blocks}, and the tower has {tower.config.num_hidden_layers} blocks")
        dv = parts.projector.linear_1.in_features // len(parts.feature_layers)
        try:
            self.fusion = built(self.config, dv, parts.decoder, self.seed)
        except ValueError as error:  # a set or points that this decoder has no blocks for, a width that its heads do not divide
            raise SetupError(f"model: {error}") from error
        if self.start_from is not None:
            load_new(self.fusion, Path(self.start_from))
        parts.feature_layers, parts.projector = self.fusion.layers, nn.Identity()
        self.parts, self.decoder = parts, parts.decoder
        self.internal = Internal(self.decoder, self.fusion).attach()
        self.decoder.requires_grad_(self.stage == "finetune")
        self.fusion.requires_grad_(True)
        self.decoder.train()
        if self.gradient_checkpointing:
            self.decoder.gradient_checkpointing_enable({"use_reentrant": False})
        if self.device_mesh is not None:
            from torch.distributed.fsdp import fully_shard

            for layer in self.decoder.get_decoder().layers:  # the rest stays whole on every rank
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    # -- one micro-batch -------------------------------------------------------------------------
    def loss_sum(self, batch: dict) -> tuple[Tensor, Tensor]:
        """(sum of cross-entropies, number of scored tokens) of a micro-batch."""
        layout, features = batch["layout"], batch.get("features")
        if features is None and batch.get("pixels") is not None:
            self.parts.tower.to(self.device)
            features = self.parts.features(batch["pixels"])
        states = None
        if features is not None:
            wide = len(self.fusion.layers) * self.fusion.sizes.dv
            if features.shape[-1] != wide:
                raise SetupError(f"features are {features.shape[-1]} wide; layers {list(self.fusion.layers)} need {wide}. Name these in "
                                 "data.layers")
            states = apart(features.to(next(self.fusion.parameters()).dtype), self.fusion.layers)
        found = hidden(self.decoder, self.internal, self.fusion, layout, states)
        scored = layout.targets != IGNORED  # logits there alone: the vocabulary is the largest of all widths
        logits = by_own_head(self.decoder, found[scored]).float()
        return nn.functional.cross_entropy(logits, layout.targets[scored], reduction="sum"), scored.sum()

    def transfer_batch_to_device(self, batch: dict, device, dataloader_idx: int) -> dict:
        return {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}

    def losses(self, batch: dict) -> dict[str, Tensor]:
        return {"loss": self.loss_sum(batch)[0] / batch["step_targets"]}

    def held_out(self, batch: dict) -> tuple[Tensor, Tensor]:
        return self.loss_sum(batch)

    # -- what the training made ------------------------------------------------------------------
    def on_train_end(self) -> None:
        """Writes the product to trainer.default_root_dir/model. Shards are gathered by all ranks, and one writes."""
        if not self.keeps_product():
            return
        gather_whole(self.decoder)
        if self.trainer.is_global_zero:
            save_product(Path(self.trainer.default_root_dir) / "model", self.parts, self.fusion, self.stage,
                         self.run_facts() | {"steps": self.global_step, "trained_from": self.source.get("name")})


def set_of(layers: str | Sequence[int], tower_blocks: int, unused_blocks: int = 0, compat: bool = False,
           position: Position = "external") -> LayerSet:
    """The set that a training names. unused_blocks: at the tower's end, which it has and sets do not count: the official code takes the
    last of SigLIP's 27 off, so that the paper's Triple is {3, 20, 25} and its main layer 25. Raises ValueError for a set that is none."""
    blocks = tower_blocks - unused_blocks
    if not 0 <= unused_blocks < tower_blocks:
        raise ValueError(f"unused_blocks is {unused_blocks}, of a tower with {tower_blocks}")
    if not isinstance(layers, str):
        return few("given", layers, blocks)
    return code_compat(layers, blocks, position) if compat else layer_set(layers, blocks)


def built(config: FusionConfig, dv: int, decoder: nn.Module, seed: int) -> Fusion:
    """A new fusion for a decoder, weights from the seed, where the decoder's weights are."""
    like = next(decoder.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("fusion", seed))
        fusion = Fusion(config, Sizes.of(dv, decoder.config))
    return fusion.to(like.device, like.dtype if like.dtype == torch.float64 else torch.float32)


def config_of(about: dict) -> FusionConfig:
    """The fusion that a training.json names."""
    layers = set_of(about["layers"], about["tower_blocks"], about.get("unused_blocks", 0), about["compat"], about["position"])
    points = about.get("points")
    return FusionConfig(layers, about["position"], about["pattern"], about["op"], about["variant"],
                        points=None if points is None else tuple(points))


def meant(config: FusionConfig, blocks: int) -> dict[str, Any]:
    """What a fusion's weights are for, beside their shapes. blocks: of the decoder."""
    of = config.layers
    if config.kind == "external direct":
        return {"kind": config.kind, "layers": of.parts, "op": config.op}
    if config.kind == "external modular":
        return {"kind": config.kind, "layers": (of.levels, of.main)}
    found: dict[str, Any] = {"kind": config.kind, "layers": (of.extras, of.main), "points": config.blocks(blocks)}
    return found | ({"variant": config.variant} if config.pattern == "modular" else {})


def load_new(fusion: Fusion, path: Path) -> None:
    """Raises ModelError if the file is missing, no safetensors, or of another fusion: by shapes, and by the training.json beside it, for
    the weights of other layers, or of post in place of pre, have the same shapes."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = path.expanduser()
    if not path.is_file():
        raise ModelError(f"model.fusion: there is no file {path.name}; stage 1 writes {NEW}")
    try:
        fusion.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"model.fusion: {path.name} does not fit ({str(error).splitlines()[-1].strip()})") from error
    beside = path.with_name("training.json")
    if beside.is_file():
        try:
            theirs = meant(config_of(json.loads(beside.read_text(encoding="utf-8"))), fusion.sizes.blocks)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"model.fusion: {beside.name} beside {path.name} names no fusion ({type(error).__name__}: {error})") from error
        ours = meant(fusion.config, fusion.sizes.blocks)
        if differ := [name for name in ours if ours[name] != theirs.get(name)]:
            raise ModelError(f"model.fusion: {path.name} was trained with another {differ[0]} ({theirs.get(differ[0])}) than the config's "
                             f"({ours[differ[0]]}): name the same, or train stage 1 anew")


@torch.no_grad()
def save_product(folder: Path, parts: Parts, fusion: Fusion, stage: str, run: dict) -> None:
    """fusion.safetensors and training.json, which names the set and the kind; after stage 2 decoder and tokenizer in the hub's format."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in fusion.state_dict().items()}, folder / NEW, {"format": "pt"})
    decoder: Any = parts.decoder
    if stage == "finetune":
        decoder.save_pretrained(folder / "decoder")
        if parts.tokenizer is not None:
            parts.tokenizer.save_pretrained(folder / "decoder")
    write_json(folder / "training.json", run | {"fusion_sha256": file_sha256(folder / NEW)})
