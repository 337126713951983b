"""The paper's trainings as LightningModules: what is trained, losses, temperature and noise, what is saved.

    RouterTuningModule   stage 1: backbone frozen, routers trained     LM + alpha |T - (1 - r)|
    LoraRecoveryModule   stage 2: routers loaded and frozen, LoRA      LM
                         (and, without routers, the dense + LoRA control)
    JointModule          ablation: routers and LoRA together           LM + alpha |T - (1 - r)|

Equal by theory is equal by number here. Every loss is a sum divided by the token count of the whole
optimiser step (`data.py` knows it ahead), so accumulation and DDP change nothing. Gumbel noise is a
function of (seed, step, sample) and the temperature one of the step, so a run that was killed goes
on as if it had not been. One term is not additive: |T - (1 - r)| is taken over one micro-batch of
all ranks together (the official code: of each rank alone). While r is on the same side of the
target in all micro-batches of a step this equals the term of the step; else it is larger. Optimiser,
schedule, shards and checkpoints are those of `common/training/module.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.errors import SetupError
from common.lora import LoraSpec, add_lora, save
from common.models import Loaded, ModelSpec, load
from common.seeds import seed_of
from common.training.module import StepTraining

from .baselines import JOINT_TARGETS, LORA_TARGETS
from .layers import find_stack, layer_list
from .losses import distillation_loss, lm_loss, sample_noise, targets_of
from .method import (
    RoutingState,
    SkipGPTConfig,
    apply_skipgpt,
    sparsity_loss,
    straight_through_gate,
)
from .router_files import load_routers, save_routers

Schedule = Literal["constant", "cosine", "linear"]


class SkipGPTTraining(StepTraining):
    """What the three have in common: loading, the budget, validation, the product.

    base: the backbone. seed: of router and LoRA initialisation, noise and dropout. Checkpoints hold
    the trained parameters only; a resumed run loads the backbone that `base` names.
    """

    PAPER = "skipgpt"
    SETTINGS = ("learning_rate", "weight_decay", "warmup_steps", "schedule", "bias_learning_rate", "distill_weight",
                "lora_learning_rate", "routers", "sample_gates", "rank", "lora_alpha", "lora_dropout")  # of any of the three
    trains_routers = False  # else routers, if there are any, decide by argmax and stay as they are

    def __init__(self, base: ModelSpec, learning_rate: float, weight_decay: float = 0.01, warmup_steps: int = 0,
                 schedule: Schedule = "constant", gradient_checkpointing: bool = False, seed: int = 43):
        super().__init__(learning_rate, weight_decay, warmup_steps=warmup_steps, schedule=schedule, seed=seed)
        self.base, self.gradient_checkpointing = base, gradient_checkpointing
        self.model: nn.Module | None = None
        self.state: RoutingState | None = None
        self.loaded: Loaded | None = None  # set it to train a model that is in memory already
        self.tokenizer = None

    # -- building --------------------------------------------------------------------------------
    def build(self, model: nn.Module) -> nn.Module:
        """Adds what this stage trains to the frozen `model`; sets self.state if it is routed."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Loads and builds, once. ModelError or SetupError: what is wrong, and the way out."""
        if self.model is not None:
            return
        loaded = self.loaded or load(self.base)
        self.source, self.tokenizer = loaded.source, loaded.tokenizer
        self.warn_unpinned(self.base.revision)
        model = loaded.model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("init", self.seed))
            try:
                self.model = self.build(model)
            except TypeError as error:  # method.py on models that it does not fit
                raise SetupError(f"model.base {self.source['name']}: {error}") from error
        self.model.train()  # Lightning keeps the mode; routers learn only in train mode
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.device_mesh is not None:
            self._shard()

    def _shard(self) -> None:
        """FSDP2: the frozen backbone is sharded layer by layer.

        Routers and LoRA stay whole on every rank (25 M numbers at most): fp32 beside a bfloat16
        backbone, they would not share its shards, and a checkpoint need not gather anything.
        """
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        whole = {p for p in self.model.parameters() if p.requires_grad}
        whole |= set(self.state.parameters()) if self.state else set()
        for layer in layer_list(find_stack(self.model))[1]:
            fully_shard(layer, mesh=mesh, ignored_params=whole)
        fully_shard(self.model, mesh=mesh, ignored_params=whole)

    # -- one micro-batch -------------------------------------------------------------------------
    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        if self.state is not None:
            self.route(batch, self.global_step)
        return super().training_step(batch, batch_idx)

    def route(self, batch: dict, step: int) -> None:
        """Sets temperature and noise. tau follows the optimiser step, not a count of forwards."""
        if self.trains_routers:
            self.state.temperature = self.state.config.tau(step, self.trainer.max_steps)
            self.state.noise = self.noise(batch, step)

    def noise(self, batch: dict, step: int) -> Tensor:
        noise = sample_noise(2 * len(self.state.layers), batch, self.seed, step)
        return noise.to(batch["input_ids"].device, non_blocking=True)

    def logits(self, batch: dict) -> Tensor:
        return self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                          use_cache=False).logits

    def losses(self, batch: dict) -> dict[str, Tensor]:
        return {"lm": lm_loss(self.logits(batch), batch) / batch["step_targets"]}

    def budget(self, batch: dict) -> tuple[Tensor, Tensor]:
        """(this rank's part of alpha |T - (1 - r)|, its part of r) for the last forward pass.

        r is that of all ranks: their counts are summed without gradient, and each rank puts its own
        differentiable share in. The term is weighted by the micro-batch's share of the step.
        """
        state = self.state
        here = state.valid.sum()
        executed = state.executed_fraction() * here
        total = torch.stack([executed.detach(), here.float()])
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        r = (executed + (total[0] - executed.detach())) / total[1]
        term = sparsity_loss(r, state.config.target_sparsity, state.config.alpha)
        # Every rank has the same value and its own gradient; values are summed over ranks later.
        value = term * (total[1] / batch["step_tokens"])
        value = value - value.detach() * (1 - 1 / self.trainer.world_size)
        return value, executed.detach() / batch["step_tokens"]

    def on_before_optimizer_step(self, optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        if self.trains_routers:
            self.log("train/tau", self.state.temperature, batch_size=1)

    # -- validation ------------------------------------------------------------------------------
    def held_out(self, batch: dict) -> tuple[Tensor, Tensor]:
        return lm_loss(self.logits(batch), batch), (targets_of(batch) != -100).sum()

    def on_validation_start(self) -> None:
        super().on_validation_start()
        if self.state is not None:
            self.state.noise, self.state.policy = None, None
            if self.state.config.eval_sampling:
                self.state.generator = torch.Generator(self.device).manual_seed(self.seed)
            self.state.start_recording()

    def on_validation_epoch_end(self) -> None:
        """Beside the loss, what was skipped."""
        super().on_validation_epoch_end()
        if self.state is None:
            return
        self.state.generator = None
        skipped = torch.zeros(3, dtype=torch.float64)
        if self._held_out[1] > 0:  # this rank had a batch
            stats = self.state.stats()
            skipped += torch.tensor([stats.attn_skip, stats.mlp_skip, 1.0]) * stats.n_tokens
        skipped = self.trainer.strategy.reduce(skipped.to(self.device), reduce_op="sum")
        attn, mlp, _ = (skipped / skipped[2]).float()
        self.log_dict({"val/attn_skip": attn, "val/mlp_skip": mlp, "val/sparsity": (attn + mlp) / 2}, prog_bar=True, batch_size=1)

    # -- files -----------------------------------------------------------------------------------
    def run_facts(self) -> dict[str, Any]:
        routing = self.state.config.to_dict() if self.state is not None else {}
        return super().run_facts() | {f"routing.{name}": value for name, value in routing.items()}

    def on_train_end(self) -> None:
        """Writes the product to trainer.default_root_dir: routers/ and, with LoRA, lora/."""
        if self.state is not None:  # whoever uses the model next wants its own decisions
            self.state.noise = self.state.policy = None
            self.state.temperature = 1.0
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir)
        if self.state is not None:
            model = self.model
            if self.device_mesh is not None:  # save_routers reads the backbone: not from shards, nor gathered by every rank
                model = load(self.base).model
                fresh = apply_skipgpt(model, self.state.config)
                for new, trained in zip(fresh.parameters(), self.state.parameters()):
                    new.data.copy_(trained.data)
            save_routers(model, folder / "routers", base=self.source,
                         extra=self.run_facts() | {"steps": self.global_step})
        if hasattr(self.model, "peft_config"):
            save(self.model, folder / "lora", base=self.source.get("name"), dtype=None, most=None)


class RouterTuningModule(SkipGPTTraining):
    """Stage 1: backbone frozen, norms and embeddings too; routers trained.

    routing: the method's settings. bias_learning_rate: of the routers' biases (default: the same).
    distill_weight: adds this times KL to the dense model's predictions (0 = the paper); the teacher
    is the same model with every module executed, one more forward pass.
    """

    trains_routers = True

    def __init__(self, base: ModelSpec, routing: SkipGPTConfig, learning_rate: float = 2e-3,
                 bias_learning_rate: float | None = None, weight_decay: float = 0.01, warmup_steps: int = 0,
                 schedule: Schedule = "constant", distill_weight: float = 0.0, gradient_checkpointing: bool = False,
                 seed: int = 43):
        super().__init__(base, learning_rate, weight_decay, warmup_steps, schedule, gradient_checkpointing, seed)
        self.routing, self.distill_weight = routing, distill_weight
        self.bias_learning_rate = bias_learning_rate

    def build(self, model: nn.Module) -> nn.Module:
        self.state = apply_skipgpt(model, self.routing)
        return model

    def rate_of(self, name: str) -> float:
        if self.bias_learning_rate is not None and name.endswith(".bias"):
            return self.bias_learning_rate
        return self.learning_rate

    def losses(self, batch: dict) -> dict[str, Tensor]:
        teacher = None
        if self.distill_weight:
            self.state.set_mode("dense")
            with torch.no_grad():
                teacher = self.logits(batch)
            self.state.set_mode("mask")
        logits = self.logits(batch)
        parts = {"lm": lm_loss(logits, batch) / batch["step_targets"]}
        parts["budget"], parts["executed"] = self.budget(batch)
        if teacher is not None:
            divergence = distillation_loss(logits, teacher, batch) / batch["step_targets"]
            parts["distill"] = self.distill_weight * divergence
        return parts


class LoraRecoveryModule(SkipGPTTraining):
    """Stage 2: LoRA on the backbone, routers as stage 1 left them; loss = LM alone.

    routers: folder of trained routers; null trains the dense model, the paper's dense + LoRA row.
    sample_gates: draw the gates in training (tau = 1), as the official code does. The default is
    argmax, our choice: the adapters then see the gates that inference uses.
    """

    def __init__(self, base: ModelSpec, routers: str | None, rank: int = 16, lora_alpha: int = 32,
                 lora_dropout: float = 0.1, sample_gates: bool = False, learning_rate: float = 2e-4,
                 weight_decay: float = 0.01, warmup_steps: int = 0, schedule: Schedule = "cosine",
                 gradient_checkpointing: bool = False, seed: int = 43):
        super().__init__(base, learning_rate, weight_decay, warmup_steps, schedule, gradient_checkpointing, seed)
        self.routers, self.sample_gates = routers, sample_gates
        self.rank, self.lora_alpha, self.lora_dropout = rank, lora_alpha, lora_dropout

    def build(self, model: nn.Module) -> nn.Module:
        if self.routers is not None:
            self.state = load_routers(model, self.routers)
        wrapped = add_lora(model, LoraSpec(self.rank, self.lora_alpha, self.lora_dropout, LORA_TARGETS))
        return wrapped  # PEFT has frozen everything but the adapters, the routers included

    def route(self, batch: dict, step: int) -> None:
        self.state.noise = self.state.policy = None
        if self.sample_gates:
            noise = self.noise(batch, step)

            def sampled(layer: int, name: str, x: Tensor, valid: Tensor) -> Tensor:
                router = getattr(self.state.layers[layer], f"router_{name}")
                return straight_through_gate(router(x), 1.0, noise[2 * layer + (name == "mlp")])

            self.state.policy = sampled


class JointModule(SkipGPTTraining):
    """The ablation "SkipGPT-Joint": random routers and LoRA on q, v, one full loss.

    lora_learning_rate: of the adapters; default the same as the routers'.
    """

    trains_routers = True

    def __init__(self, base: ModelSpec, routing: SkipGPTConfig, rank: int = 16,
                 lora_alpha: int = 32, lora_dropout: float = 0.1, learning_rate: float = 2e-3,
                 lora_learning_rate: float | None = None, weight_decay: float = 0.01, warmup_steps: int = 0,
                 schedule: Schedule = "constant", gradient_checkpointing: bool = False, seed: int = 43):
        super().__init__(base, learning_rate, weight_decay, warmup_steps, schedule, gradient_checkpointing, seed)
        self.routing, self.lora_learning_rate = routing, lora_learning_rate
        self.rank, self.lora_alpha, self.lora_dropout = rank, lora_alpha, lora_dropout

    def build(self, model: nn.Module) -> nn.Module:
        self.state = apply_skipgpt(model, self.routing)
        wrapped = add_lora(model, LoraSpec(self.rank, self.lora_alpha, self.lora_dropout, JOINT_TARGETS))
        for parameter in self.state.parameters():
            parameter.requires_grad_(True)  # PEFT froze them
        return wrapped

    def rate_of(self, name: str) -> float:
        if self.lora_learning_rate is not None and "lora_" in name:
            return self.lora_learning_rate
        return self.learning_rate

    def losses(self, batch: dict) -> dict[str, Tensor]:
        parts = super().losses(batch)
        parts["budget"], parts["executed"] = self.budget(batch)
        return parts
