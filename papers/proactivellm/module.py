"""Training as a LightningModule: two views of a batch in one pass, and the losses of an arm.

    L = batch L_batch + stream L_MSLM + lam KL(P_batch || P_stream)

Weights of the terms make the arms: (1, 1, lam) is the paper's; lam 0 is without distillation; stream 0 without MSLM; (1, 0, 0) batch
processing alone; (0, 1, 0) with a wait-k law a model trained for that k. Views that no term needs are not computed. Losses are
sums over tokens divided by the number of scored tokens of the whole optimiser step, so accumulation and processes change nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import ModelError, SetupError
from common.files import write_json
from common.lora import LoraSpec, add_lora, save
from common.models import Loaded, ModelSpec, load
from common.seeds import seed_of
from common.streaming.audio import CausalEncoder
from common.training.module import StepTraining, gather_whole

from . import method


class ProactiveTraining(StepTraining):
    """base: the model to start from. batch, stream, lam: weights of the three losses; k: tokens of the truncated KL; direction,
    tail, teacher_grad: see method.spsd. lora: train adapters instead of all weights. features: size of an audio frame; gives the model a
    causal encoder for them."""

    PAPER = "proactivellm"
    SETTINGS = ("learning_rate", "weight_decay", "warmup_steps", "schedule", "beta2", "lora", "batch", "stream", "lam", "k", "direction",
                "tail", "teacher_grad")

    def __init__(self, base: ModelSpec, batch: float = 1.0, stream: float = 1.0, lam: float = 0.1, k: int = 100,
                 direction: Literal["forward", "reverse"] = "forward", tail: Literal["renormalise", "bucket"] = "renormalise",
                 teacher_grad: bool = False, learning_rate: float = 5e-5, weight_decay: float = 0.0, beta2: float = 0.999,
                 warmup_steps: float = 0, schedule: Literal["constant", "cosine", "linear"] = "linear", lora: LoraSpec | None = None,
                 features: int | None = None, gradient_checkpointing: bool = False, seed: int = 1):
        super().__init__(learning_rate, weight_decay, (0.9, beta2), warmup_steps, schedule, seed)
        if min(batch, stream, lam) < 0 or batch + stream + lam == 0 or k < 1:
            raise ValueError(f"batch {batch}, stream {stream}, lam {lam}, k {k}: no weight below 0, one above, and a token for the KL")
        self.base, self.batch, self.stream, self.lam, self.k = base, batch, stream, lam, k
        self.direction, self.tail, self.teacher_grad, self.beta2 = direction, tail, teacher_grad, beta2
        self.lora, self.features, self.gradient_checkpointing = lora, features, gradient_checkpointing
        self.model: nn.Module | None = None
        self.encoder: CausalEncoder | None = None
        self.loaded: Loaded | None = None  # set it to train a model that is in memory already
        self.tokenizer = None

    # -- building --------------------------------------------------------------------------------
    def configure_model(self) -> None:
        """Loads, once. Raises ModelError or SetupError: what is wrong, and the way out."""
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
            if self.features is not None:
                self.encoder = CausalEncoder(self.features, model.config.hidden_size)
        self.model.train()
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()  # adapters alone would leave the first layer without a graph
        if self.device_mesh is not None:
            self._shard(model)

    def _shard(self, model: nn.Module) -> None:
        """FSDP2: the decoder's blocks in shards; embeddings, head, encoder and adapters stay whole on every rank."""
        from torch.distributed.fsdp import fully_shard

        whole = {p for p in self.parameters() if p.requires_grad} if self.lora else set()
        for layer in model.get_decoder().layers:
            fully_shard(layer, mesh=self.device_mesh["data_parallel"], ignored_params=whole)

    # -- one micro-batch -------------------------------------------------------------------------
    def inputs(self, micro: dict) -> method.Batch:
        """The batch, with embeddings for its source where that has frames of audio."""
        batch, features = micro["batch"], micro["features"]
        if features is None:
            return batch
        if self.encoder is None:
            raise SetupError("the data has audio frames; set model.features to their size")
        return batch._replace(source=self.encoder.join(batch.source, features, self.model.get_input_embeddings()))

    def losses(self, micro: dict) -> dict[str, Tensor]:
        found, tokens = self.sums(self.inputs(micro)), micro["step_targets"]
        parts = {name: value.detach() / tokens for name, value in found._asdict().items()}
        return {"loss": (self.batch * found.batch + self.stream * found.stream + self.lam * found.kl) / tokens} | parts

    def sums(self, batch: method.Batch) -> method.Losses:
        """The three sums; 0 for one that has no weight and would need a view of its own."""
        if (self.batch and self.stream) or self.lam:
            return method.spsd(method.two_views(self.model, batch), batch, self.k, self.direction, self.tail, self.teacher_grad)
        if self.batch:
            batch = batch._replace(visible=batch.source_lengths[:, None].expand_as(batch.visible))
        value = method.cross_entropies(method.forward(self.model, batch), batch)
        nothing = torch.zeros((), device=value.device)
        return method.Losses(value, nothing, nothing) if self.batch else method.Losses(nothing, value, nothing)

    def held_out(self, micro: dict) -> tuple[Tensor, Tensor]:
        """-log P along the paths."""
        batch = self.inputs(micro)
        return method.cross_entropies(method.forward(self.model, batch), batch), batch.scored.sum()

    # -- files -----------------------------------------------------------------------------------
    def on_train_end(self) -> None:
        """Writes the product to trainer.default_root_dir/model: weights or adapter, tokenizer, encoder, and how it was trained."""
        if not self.keeps_product():
            return
        if not self.lora:  # adapters are whole already
            gather_whole(self.model)
        if self.trainer.is_global_zero:
            facts = self.run_facts() | {"steps": self.global_step, "trained_from": self.source.get("name"),
                                        "revision": self.source.get("revision"), "attn_implementation": self.base.attn_implementation}
            save_product(Path(self.trainer.default_root_dir) / "model", self.model, self.tokenizer, self.encoder, facts)


def save_product(folder: Path, model: nn.Module, tokenizer, encoder: CausalEncoder | None, facts: dict) -> None:
    """Weights (or adapter, as trained) and tokenizer in the hub's format, proactivellm.json, and the encoder where there is one."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        save(model, folder, base=facts.get("trained_from"), dtype=None, most=None)
    else:
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if encoder is not None:
        save_file({name: t.contiguous() for name, t in encoder.state_dict().items()}, folder / "encoder.safetensors")
    write_json(folder / "proactivellm.json", facts)
