"""Training a LLaVA with the paper's guideline built in: the picture is there between two layers alone (stages.py).

first and last null is the dense sibling by the same recipe. stage "pretrain" trains the projector, "finetune" projector and
decoder; the tower is frozen in both. A loss is the sum of cross-entropies over the scored tokens of the whole optimiser step,
divided by their number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import SetupError
from common.files import write_json
from common.seeds import seed_of
from common.training.module import StepTraining, gather_whole
from common.vision.heads import by_own_head
from common.vision.layout import IGNORED
from common.vision.llava import dense_hidden
from common.vision.parts import LlavaSpec, Parts, load_parts, save_projector

from .stages import Stages, hidden


class StagedTraining(StepTraining):
    """llava: the parts to start from. first, last: layers between which the picture is there, counted from 0; both null: dense.

    Raises SetupError, when the model is built, for layers that it does not have.
    """

    PAPER = "visipruner"
    SETTINGS = ("stage", "first", "last", "learning_rate", "weight_decay", "beta2", "warmup_steps", "schedule")

    def __init__(self, llava: LlavaSpec, first: int | None = None, last: int | None = None,
                 stage: Literal["pretrain", "finetune"] = "finetune", learning_rate: float = 2e-5, weight_decay: float = 0.0,
                 beta2: float = 0.999, warmup_steps: float = 0.03, schedule: Literal["constant", "cosine", "linear"] = "cosine",
                 gradient_checkpointing: bool = False, seed: int = 1):
        if not 0 <= beta2 < 1:
            raise ValueError(f"model.beta2 is {beta2!r}: a number from 0 to below 1")
        super().__init__(learning_rate, weight_decay, (0.9, beta2), warmup_steps, schedule, seed)
        if (first is None) != (last is None):
            raise ValueError("model.first, model.last: give both, or neither for the dense model")
        self.llava, self.first, self.last, self.stage, self.beta2 = llava, first, last, stage, beta2
        self.stages = None if first is None or last is None else Stages(first, last)
        self.gradient_checkpointing = gradient_checkpointing
        self.given: Parts | None = None  # set it to train parts that are in memory already
        self.parts: Parts | None = None
        self.decoder: nn.Module | None = None
        self.projector: nn.Module | None = None

    @property
    def tokenizer(self):
        return self.parts.tokenizer

    def configure_model(self) -> None:
        if self.decoder is not None:
            return
        parts = self.given or load_parts(self.llava, seed_of("projector", self.seed))
        self.source = parts.source
        self.warn_unpinned(self.llava.decoder.revision if self.llava.decoder else None)
        if self.stages is not None:
            self.stages.check(parts.decoder.config.num_hidden_layers)
        self.parts, self.decoder, self.projector = parts, parts.decoder, parts.projector
        self.decoder.requires_grad_(self.stage == "finetune")
        self.projector.requires_grad_(True)
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
        if features is not None and features.shape[-1] != (wide := self.projector.linear_1.in_features):
            raise SetupError(f"features are {features.shape[-1]} wide, and the projector reads {wide}: name the layers that it was trained "
                             "on in data.layers")
        visual = self.parts.visual(layout, features)
        embeds = self.decoder.get_input_embeddings()(layout.ids)
        if features is None and self.training:  # text alone: other processes wait for the projector's gradients all the same
            width = self.projector.linear_1.in_features
            nothing = self.projector(embeds.new_zeros(1, 1, width, dtype=self.projector.linear_1.weight.dtype)).sum() * 0
            embeds = embeds + nothing.to(embeds.dtype)
        if self.stages is None:
            states = dense_hidden(self.decoder, layout, visual, embeds)
        else:
            states = hidden(self.decoder, layout, visual, self.stages, embeds)
        scored = layout.targets != IGNORED  # logits there alone: the vocabulary is the largest of all widths
        logits = by_own_head(self.decoder, states[scored]).float()
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
            save_product(Path(self.trainer.default_root_dir) / "model", self.parts, self.stage,
                         self.run_facts() | {"steps": self.global_step, "trained_from": self.source.get("name")})


@torch.no_grad()
def save_product(folder: Path, parts: Parts, stage: str, run: dict) -> None:
    """projector.safetensors and training.json, which names first and last; after stage 2 decoder and tokenizer in the hub's format."""
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = save_projector(parts.projector, folder / "projector.safetensors")
    if stage == "finetune":
        parts.decoder.save_pretrained(folder / "decoder")
        if parts.tokenizer is not None:
            parts.tokenizer.save_pretrained(folder / "decoder")
    write_json(folder / "training.json", run | {"projector_sha256": sha256})
