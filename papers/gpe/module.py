"""Training as LightningModules: a batch model, and the copy of it that learns to stream.

    TextPretraining     next-token loss on [source][target], all tokens, plain causal: plays the batch-trained LLM
    StreamingTraining   one arm of method.py: its mask and ids, loss on the target's words and end

Losses are sums over tokens divided by the number of scored tokens of the whole optimiser step (`common/training/steps.py` knows it
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
from common.streaming.audio import CausalEncoder
from common.training.module import StepTraining, gather_whole

from . import method
from .reencoding import TWO_FRAMES
from .segments import Batch


class GPETraining(StepTraining):
    """What both have in common: loading, sharding, the product.

    base: the model to start from. lora: train adapters instead of all weights (the official
    code: r 32, alpha 64, dropout 0.1). schedule: after warmup_steps.
    features: size of an audio frame; gives the model a projector for them (speech).
    """

    PAPER = "gpe"
    SETTINGS = ("learning_rate", "weight_decay", "warmup_steps", "schedule", "arm_name", "phi", "lora", "beta2")

    def __init__(self, base: ModelSpec, learning_rate: float, weight_decay: float = 0.0, beta2: float = 0.999,
                 warmup_steps: int = 0, schedule: Literal["constant", "cosine", "linear"] = "linear",
                 lora: LoraSpec | None = None, features: int | None = None, gradient_checkpointing: bool = False,
                 seed: int = 1):
        super().__init__(learning_rate, weight_decay, (0.9, beta2), warmup_steps, schedule, seed)
        self.base, self.lora, self.beta2 = base, lora, beta2
        self.features, self.gradient_checkpointing = features, gradient_checkpointing
        self.model: nn.Module | None = None
        self.projector: nn.Module | None = None
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
                self.check(model)
                self.model = add_lora(model, self.lora) if self.lora else model
            except (ModelError, TypeError, ValueError) as error:
                raise SetupError(f"model.base {self.source.get('name')}: {error}") from error
            if self.features is not None:
                self.projector = CausalEncoder(self.features, model.config.hidden_size)
        self.model.train()
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()  # adapters alone would leave the first layer without a graph
        if self.device_mesh is not None:
            self._shard(model)

    def _shard(self, model: nn.Module) -> None:
        """FSDP2: the decoder's blocks in shards. Embeddings, head, projector and adapters (fp32 beside a bfloat16 block, they
        would not share its shards) stay whole on every rank: their gradients are averaged in `on_before_optimizer_step`."""
        from torch.distributed.fsdp import fully_shard

        whole = {p for p in self.parameters() if p.requires_grad} if self.lora else set()
        for layer in model.get_decoder().layers:
            fully_shard(layer, mesh=self.device_mesh["data_parallel"], ignored_params=whole)

    def check(self, model: nn.Module) -> None:
        """Raises ModelError for a model that this training does not fit."""

    # -- one micro-batch -------------------------------------------------------------------------
    def loss_sum(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(sum of cross-entropies, number of tokens in it) of a micro-batch."""
        raise NotImplementedError

    def step_tokens(self, micro: dict) -> int:
        """Tokens that the loss of the whole optimiser step is a mean over."""
        return micro["step_targets"]

    def source_inputs(self, batch: Batch) -> Tensor:
        """Ids, or embeddings where the source has frames of audio."""
        if batch.features is None:
            return batch.source
        if self.projector is None:
            raise SetupError("the data has audio frames; set model.features to their size")
        return self.projector.join(batch.source, batch.features, self.model.get_input_embeddings())

    def losses(self, micro: dict) -> dict[str, Tensor]:
        return {"loss": self.loss_sum(micro["batch"])[0] / self.step_tokens(micro)}

    def held_out(self, micro: dict) -> tuple[Tensor, Tensor]:
        return self.loss_sum(micro["batch"])

    # -- files -----------------------------------------------------------------------------------
    def on_train_end(self) -> None:
        """Writes the product to trainer.default_root_dir/model: weights or adapter, tokenizer, and how it was trained.

        Shards are gathered by all ranks, and one writes.
        """
        if not self.keeps_product():
            return
        if not self.lora:  # adapters are whole already
            gather_whole(self.model)
        if self.trainer.is_global_zero:
            save_product(Path(self.trainer.default_root_dir) / "model", self.model, self.tokenizer, self.projector,
                         self.run_facts() | {"steps": self.global_step, "trained_from": self.source.get("name"),
                                        "revision": self.source.get("revision"),
                                        "attn_implementation": self.base.attn_implementation})


class TextPretraining(GPETraining):
    """A batch model: source and target as one text, ids 0 .. S + T - 1, plain causal attention.

    all_tokens: also learn to predict the source, as language models do (spec 8.2); False: the target alone.
    """

    def __init__(self, base: ModelSpec, learning_rate: float = 2e-3, all_tokens: bool = True, weight_decay: float = 0.01,
                 beta2: float = 0.98, warmup_steps: int = 20,
                 schedule: Literal["constant", "cosine", "linear"] = "linear", lora: LoraSpec | None = None,
                 gradient_checkpointing: bool = False, seed: int = 1):
        super().__init__(base, learning_rate, weight_decay, beta2, warmup_steps, schedule, lora, None,
                         gradient_checkpointing, seed)
        self.all_tokens = all_tokens

    def step_tokens(self, micro: dict) -> int:  # every token but the first of a text is predicted
        return micro["step_tokens"] - self.trainer.datamodule.batch_size if self.all_tokens else micro["step_targets"]

    def loss_sum(self, batch: Batch) -> tuple[Tensor, Tensor]:
        ids, real, scored = whole_text(batch)
        logits = self.model(input_ids=ids, attention_mask=real.long(), use_cache=False).logits
        scored = (real if self.all_tokens else scored)[:, 1:]
        return method.loss_sum(logits[:, :-1], ids[:, 1:], scored), scored.sum()


class StreamingTraining(GPETraining):
    """One arm. arm: its name in `method.ARMS`; phi: the target's first position; the data module draws k."""

    def __init__(self, base: ModelSpec, arm: str = "group", phi: float = 0.0, learning_rate: float = 5e-5,
                 weight_decay: float = 0.0, beta2: float = 0.999, warmup_steps: int = 0,
                 schedule: Literal["constant", "cosine", "linear"] = "linear", lora: LoraSpec | None = None,
                 features: int | None = None, gradient_checkpointing: bool = False, seed: int = 1):
        super().__init__(base, learning_rate, weight_decay, beta2, warmup_steps, schedule, lora, features,
                         gradient_checkpointing, seed)
        self.arm_name, self.phi = arm, phi
        self.arm = method.arm(arm, phi)

    def check(self, model: nn.Module) -> None:
        method.check_model(model, self.arm)
        if self.arm.two_frames and self.gradient_checkpointing:
            # `forward` puts the model's own attention back, and layers are computed again after that, in the backward pass.
            model.config.get_text_config(decoder=True)._attn_implementation = TWO_FRAMES

    def on_train_end(self) -> None:
        if self.arm.two_frames and self.gradient_checkpointing:
            self.model.config.get_text_config(decoder=True)._attn_implementation = self.base.attn_implementation
        super().on_train_end()

    def loss_sum(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = method.forward(self.model, self.arm, self.source_inputs(batch), batch.target, batch.layout)
        return method.loss_sum(logits, batch.target, batch.scored), batch.scored.sum()


def whole_text(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, real, scored), each (B, N): source and target of each row joined without padding in between."""
    layout, (source, target) = batch.layout, batch.layout.real()
    real = torch.cat([source, target], 1)
    order = real.int().argsort(dim=1, descending=True, stable=True)
    scored = torch.cat([torch.zeros_like(source), batch.scored], 1)
    width = int((layout.source_lengths + layout.target_lengths).max())
    return tuple(x.gather(1, order)[:, :width] for x in (torch.cat([batch.source, batch.target], 1), real, scored))


def save_product(folder: Path, model: nn.Module, tokenizer, projector, run: dict[str, Any]) -> None:
    """Weights (or adapter, as trained) and tokenizer in the hub's format, gpe.json, and the projector where there is one."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        save(model, folder, base=run.get("trained_from"), dtype=None, most=None)
    else:
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if projector is not None:
        save_file({k: v.contiguous() for k, v in projector.state_dict().items()}, folder / "projector.safetensors")
    write_json(folder / "gpe.json", run)
