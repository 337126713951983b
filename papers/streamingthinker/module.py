"""The training: one layout of method.py, cross-entropy of units, deep part and answer (section 3.2; spec 3.5).

Losses are sums over tokens divided by the number of learnt tokens of the whole optimiser step (`common/training/steps.py` knows it
ahead), so accumulation and DDP change nothing; a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.errors import ModelError, SetupError
from common.files import write_json
from common.lora import LoraSpec, add_lora, save
from common.models import Loaded, ModelSpec, load
from common.seeds import seed_of
from common.training.module import StepTraining, gather_whole

from . import method


class StreamingTraining(StepTraining):
    """base: the model to start from. layout: batch, streaming or interleaved; positions: spe or rope; start: the target's first position.
    lora: train adapters instead of all weights; rows of added tokens are then trained by none, so they must be known already."""

    PAPER = "streamingthinker"
    SETTINGS = ("learning_rate", "weight_decay", "warmup_steps", "schedule", "layout_name", "positions", "start", "lora", "beta2")

    def __init__(self, base: ModelSpec, layout: Literal["batch", "streaming", "interleaved"] = "streaming",
                 positions: Literal["spe", "rope"] = "spe", start: int = 0, learning_rate: float = 1e-5, weight_decay: float = 0.0,
                 beta2: float = 0.999, warmup_steps: int = 0, schedule: Literal["constant", "cosine", "linear"] = "linear",
                 lora: LoraSpec | None = None, gradient_checkpointing: bool = False, seed: int = 1):
        super().__init__(learning_rate, weight_decay, (0.9, beta2), warmup_steps, schedule, seed)
        if layout == "streaming" and positions == "rope":
            raise ValueError("layout streaming with positions rope: where the target begins is not known while the source still comes; "
                             "use spe, with model.start for an offset")
        self.base, self.lora, self.beta2, self.gradient_checkpointing = base, lora, beta2, gradient_checkpointing
        self.layout_name, self.positions, self.start = layout, positions, start
        self.layout: dict[str, Any] = dict(layout=layout, positions=positions, start=start)
        self.model: nn.Module | None = None
        self.loaded: Loaded | None = None  # set it to train a model that is in memory already
        self.tokenizer = None

    def configure_model(self) -> None:
        """Loads, once. Raises SetupError: what is wrong, and the way out."""
        if self.model is not None:
            return
        loaded = self.loaded or load(self.base)
        self.source, self.tokenizer, model = loaded.source, loaded.tokenizer, loaded.model
        self.warn_unpinned(self.base.revision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("init", self.seed))
            try:
                method.check_model(model)
                self.model = add_lora(model, self.lora) if self.lora else model
            except (ModelError, TypeError, ValueError) as error:
                raise SetupError(f"model.base {self.source.get('name')}: {error}") from error
        self.model.train()
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()  # adapters alone would leave the first layer without a graph
        if self.device_mesh is not None:
            self._shard(model)

    def _shard(self, model: nn.Module) -> None:
        """FSDP2: the decoder's blocks in shards; what is whole is averaged in `on_before_optimizer_step`."""
        from torch.distributed.fsdp import fully_shard

        whole = {p for p in self.parameters() if p.requires_grad} if self.lora else set()
        for layer in model.get_decoder().layers:
            fully_shard(layer, mesh=self.device_mesh["data_parallel"], ignored_params=whole)

    # -- one micro-batch -------------------------------------------------------------------------
    def loss_sum(self, batch: method.Batch) -> tuple[Tensor, Tensor]:
        """(sum of cross-entropies, number of tokens in it)."""
        return method.loss_sum(method.forward(self.model, batch), batch)

    def losses(self, micro: dict) -> dict[str, Tensor]:
        return {"loss": self.loss_sum(micro["batch"])[0] / micro["step_targets"]}

    def held_out(self, micro: dict) -> tuple[Tensor, Tensor]:
        return self.loss_sum(micro["batch"])

    # -- files -----------------------------------------------------------------------------------
    def on_train_end(self) -> None:
        """Writes the product to trainer.default_root_dir/model: weights or adapter, tokenizer, and how it was trained."""
        if not self.keeps_product():
            return
        if not self.lora:  # adapters are whole already
            gather_whole(self.model)
        if self.trainer.is_global_zero:
            data = self.trainer.datamodule
            about = self.run_facts() | {"steps": self.global_step, "trained_from": self.source.get("name"),
                                        "revision": self.source.get("revision"), "layout": self.layout_name, "start": self.start,
                                        "attn_implementation": self.base.attn_implementation}
            about |= {name: getattr(data, name) for name in ("instruction", "cues", "depths", "context_first", "whole")
                      if getattr(data, name, None)}
            save_product(Path(self.trainer.default_root_dir) / "model", self.model, self.tokenizer, about)


def save_product(folder: Path, model: nn.Module, tokenizer, run: dict[str, Any]) -> None:
    """Weights (or adapter, as trained) and tokenizer in the hub's format, and streamingthinker.json."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        save(model, folder, base=run.get("trained_from"), dtype=None, most=None)
    else:
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    write_json(folder / "streamingthinker.json", run)
