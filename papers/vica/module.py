"""Training ViCA, and the models it is compared with, by Lightning: what of it is this project's and not the paper's.

    cross_layers [0, 1, 7, ...]    ViCA: text reads visual keys in these layers, visual tokens never change
    cross_layers []                the text alone
    cross_layers null              dense: a stock LLaVA

stage "pretrain" trains the projector, "finetune" projector and decoder; the vision tower is frozen in both. A loss is the
sum of cross-entropies over the scored tokens of the whole optimiser step, divided by their number: batch 1 x accumulate 8
= batch 8, two processes = one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import SetupError
from common.files import write_json
from common.lora import LoraSpec, add_lora, linear_layers, save
from common.seeds import seed_of
from common.training.module import StepTraining, gather_whole
from common.vision.layout import IGNORED
from common.vision.llava import dense_hidden
from common.vision.parts import LlavaSpec, Parts, load_parts, save_projector

from . import checkpoint, method


class ViCATraining(StepTraining):
    """llava: the parts to start from. warmup_steps: a number, or a share of all steps if below 1. lora_rank: above 0,
    stage 2 trains adapters (peft) on all linear layers of a decoder that stays as it is. Other names as in torch.

    Raises SetupError, when the model is built, for layers that it does not have or an attention that the method refuses; ValueError at
    once for a lora_rank or beta2 that means nothing.
    """

    PAPER = "vica"
    SETTINGS = ("stage", "cross_layers", "prefix_update", "learning_rate", "weight_decay", "beta2", "warmup_steps", "schedule",
                "lora_rank")

    def __init__(self, llava: LlavaSpec, cross_layers: list[int] | None, stage: Literal["pretrain", "finetune"] = "finetune",
                 prefix_update: Literal["full", "frozen"] = "full", learning_rate: float = 2e-5, weight_decay: float = 0.0,
                 beta2: float = 0.999, warmup_steps: float = 0.03, schedule: Literal["constant", "cosine", "linear"] = "cosine",
                 gradient_checkpointing: bool = False, lora_rank: int = 0, seed: int = 1):
        if not 0 <= beta2 < 1:
            raise ValueError(f"model.beta2 is {beta2!r}: a number from 0 to below 1")
        if lora_rank < 0:
            raise ValueError(f"model.lora_rank is {lora_rank!r}: 0 for a decoder that is trained itself, or the adapters' rank")
        super().__init__(learning_rate, weight_decay, (0.9, beta2), warmup_steps, schedule, seed)
        self.llava, self.stage, self.beta2 = llava, stage, beta2
        self.config = None if cross_layers is None else method.ViCAConfig(tuple(cross_layers), prefix_update)
        self.cross_layers = None if self.config is None else list(self.config.cross_layers)
        self.prefix_update = None if self.config is None else self.config.prefix_update
        self.gradient_checkpointing, self.lora_rank = gradient_checkpointing, lora_rank
        self.given: Parts | None = None  # set it to train parts that are in memory already
        self.parts: Parts | None = None
        self.decoder: nn.Module | None = None
        self.projector: nn.Module | None = None

    # -- building --------------------------------------------------------------------------------
    @property
    def tokenizer(self):
        return self.parts.tokenizer

    def configure_model(self) -> None:
        if self.decoder is not None:
            return
        parts = self.given or load_parts(self.llava, seed_of("projector", self.seed))
        self.source = parts.source
        self.warn_unpinned(self.llava.decoder.revision if self.llava.decoder else None)
        try:
            if self.config is not None:
                method.check_model(parts.decoder, self.config)
        except (TypeError, ValueError) as error:
            raise SetupError(f"model.cross_layers {list(self.config.cross_layers)}: {error}") from error
        self.parts, self.decoder, self.projector = parts, parts.decoder, parts.projector
        self.decoder.requires_grad_(self.stage == "finetune" and not self.lora_rank)
        if self.stage == "finetune" and self.lora_rank:
            adapt(self.decoder, self.lora_rank, seed_of("lora", self.seed))
        self.projector.requires_grad_(True)
        self.decoder.train()
        if self.gradient_checkpointing:
            self.decoder.gradient_checkpointing_enable({"use_reentrant": False})
        if self.device_mesh is not None:
            self._shard()

    def _shard(self) -> None:
        """FSDP2: the decoder's blocks in shards. Embeddings, head, last norm and projector stay whole on every rank: their
        gradients are averaged in `on_before_optimizer_step`."""
        from torch.distributed.fsdp import fully_shard

        for layer in self.decoder.get_decoder().layers:
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    # -- one micro-batch -------------------------------------------------------------------------
    def loss_sum(self, batch: dict) -> tuple[Tensor, Tensor]:
        """(sum of cross-entropies, number of scored tokens) of a micro-batch."""
        layout = batch["layout"]
        features = batch.get("features")
        if features is None and batch.get("pixels") is not None:
            self.parts.tower.to(self.device)
            features = self.parts.features(batch["pixels"])
        if features is not None and features.shape[-1] != (reads := self.projector.linear_1.in_features):
            raise SetupError(f"data.layers: the data's features are {features.shape[-1]} wide, and this projector reads {reads}: name the "
                             "tower's layers that it was made for")
        visual = self.parts.visual(layout, features)
        embeds = self.decoder.get_input_embeddings()(layout.ids)
        if features is None and self.training:  # text alone: other processes wait for the projector's gradients all the same
            width = self.projector.linear_1.in_features
            nothing = self.projector(embeds.new_zeros(1, 1, width, dtype=self.projector.linear_1.weight.dtype)).sum() * 0
            embeds = embeds + nothing.to(embeds.dtype)
        if self.config is None:
            hidden = dense_hidden(self.decoder, layout, visual, embeds)
        else:
            hidden = method.hidden_states(self.decoder, self.config, embeds, layout, visual)
        scored = layout.targets != IGNORED  # logits there alone: the vocabulary is the largest of all widths
        return method.loss_sum(method.logits(self.decoder, hidden[scored]), layout.targets[scored])

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
            save_product(Path(self.trainer.default_root_dir) / "model", self.parts, self.config, self.stage,
                         self.run_facts() | {"steps": self.global_step, "trained_from": self.source.get("name")})


def adapt(decoder: nn.Module, rank: int, seed: int) -> None:
    """Puts LoRA (alpha = 2 rank) into every linear layer of the decoder's blocks, in place; only they are trained."""
    spec = LoraSpec(rank, alpha=2 * rank, dropout=0.0, targets=linear_layers(decoder.get_decoder().layers))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_lora(decoder, spec)


def save_product(folder: Path, parts: Parts, config: method.ViCAConfig | None, stage: str, run: dict) -> None:
    """projector.safetensors and training.json; vica.json unless dense; after stage 2 decoder and tokenizer in the hub's format,
    or the adapter alone, as trained."""
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = save_projector(parts.projector, folder / "projector.safetensors")
    if config is not None:
        checkpoint.save(config, folder)
    if stage == "finetune" and run.get("lora_rank"):
        save(parts.decoder, folder, base=run.get("trained_from"), dtype=None, most=None)
    elif stage == "finetune":
        parts.decoder.save_pretrained(folder / "decoder")
        if parts.tokenizer is not None:
            parts.tokenizer.save_pretrained(folder / "decoder")
    write_json(folder / "training.json", run | {"projector_sha256": sha256})
