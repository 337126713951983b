"""A training by Lightning, less what a paper is about: sums over whole optimiser steps, shards, clipping, checkpoints.

    OneRun          a checkpoint holds what is trained and what the run is; another run's is refused
    StepTraining    and: losses as sums over the *global* step (`steps.py` knows it ahead), so accumulation and processes change
                    nothing; AdamW with a schedule; FSDP2 beside whole parameters; validation as one mean over all ranks

A paper's module builds its model in `configure_model`, gives its loss in `losses` and its validation in `held_out`, and names
in `SETTINGS` the arguments that a resumed run must share with the first. Nothing here decides what is trained: whatever
requires a gradient is.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from ..errors import SetupError
from ..seeds import seed_of

SIMPLE = (str, int, float, bool, list, tuple, type(None))


def sharded(tensor: Tensor) -> bool:
    """Whether FSDP2 keeps it in shards."""
    return hasattr(tensor, "full_tensor")


def in_order(groups: dict[float, list[nn.Parameter]]) -> list[dict]:
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


class OneRun(L.LightningModule):
    """What a checkpoint holds and whose it is. PAPER: the name under which it says so. SETTINGS: see `run_facts`."""

    PAPER = ""
    SETTINGS: tuple[str, ...] = ()
    seed: int
    source: dict[str, Any]  # of the weights that the run starts from, as `models.load` gives it

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """Trained parameters only: with adapters a checkpoint of an 8B model has megabytes."""
        trained = {name for name, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """Counterpart of `state_dict`. Raises SetupError naming the first tensor that differs."""
        own = self.state_dict()
        for name in sorted(own.keys() | state_dict.keys()):
            there, here = (str(tuple(d[name].shape)) if name in d else "absent" for d in (state_dict, own))
            if there != here:
                raise SetupError(f"This checkpoint is of another training: {name} is {there} in the file and {here} here. "
                                 "Use the config that it was made with.")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def run_facts(self) -> dict[str, Any]:
        """What makes this run this run: a checkpoint of another one is not taken up. Steps, batch, seed, the weights it starts
        from, SETTINGS of the module (dataclasses entry by entry), and every simple argument of the data module."""
        data = self.trainer.datamodule
        facts = {"module": type(self).__name__, "seed": self.seed, "max_steps": self.trainer.max_steps,
                 "samples per step": getattr(data, "batch_size", None),
                 "accumulate_grad_batches": self.trainer.accumulate_grad_batches,
                 "base": self.source.get("weights_sha256") or self.source.get("recipe_sha256")}
        for name in self.SETTINGS:
            if hasattr(self, name):
                value = getattr(self, name)
                facts[name] = type(value).__name__ if is_dataclass(value) else value  # and not None, where there is one
                if is_dataclass(value) and not isinstance(value, type):
                    facts |= {f"{name}.{entry}": part for entry, part in asdict(value).items()}
        ours = set(inspect.signature(type(data).__init__).parameters) - {"self", "num_workers"}
        return facts | {f"data.{name}": value for name, value in vars(data).items() if name in ours and isinstance(value, SIMPLE)}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint[self.PAPER] = self.run_facts()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Refuses to go on with another run's checkpoint: it would not be the unbroken run. Raises SetupError."""
        stored = checkpoint.get(self.PAPER)
        if stored is None:
            raise SetupError(f"This checkpoint was not written by a training of papers/{self.PAPER}.")
        for key, value in self.run_facts().items() if self.trainer.state.fn == "fit" else ():
            if stored.get(key) != value:
                raise SetupError(f"This checkpoint was made with {key} = {stored.get(key)}; the config says {value}. "
                                 "Resume with the old value, or start anew without --ckpt_path.")

    def warn_unpinned(self, revision: str | None) -> None:
        if self.source.get("kind") == "hub" and revision is None:
            warnings.warn(f"{self.source['name']}: no revision in the config. This run uses commit {self.source['revision']}, which "
                          "is recorded; pin it.", stacklevel=2)

    def keeps_product(self) -> bool:
        """Whether the Trainer has a folder for what the training made: one without checkpoints is a trial."""
        return bool(self.trainer.default_root_dir and self.trainer.checkpoint_callbacks)


class StepTraining(OneRun):
    """Losses of an optimiser step, whatever the micro-batches and processes that it is cut into.

    A step of which no token is scored (every answer was cut away, say) moves nothing and is counted in `skipped_steps`, and logged.
    One whose loss or gradient is NaN or infinite ends the training with a SetupError before any weight moves.
    warmup_steps: a number of steps, or a share of all if below 1. schedule: constant, cosine or linear, after the warm-up.
    one_group: whether the optimiser keeps one group of parameters; a paper with several rates overrides `rate_of`.
    """

    def __init__(self, learning_rate: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999),
                 warmup_steps: float = 0, schedule: str = "linear", seed: int = 1):
        super().__init__()
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, tuple(betas)
        self.warmup_steps, self.schedule, self.seed = warmup_steps, schedule, seed
        self.source = {}
        self._sums: dict[str, Tensor] = {}
        self._nothing, self.skipped_steps = True, 0  # of this step: no token is scored so far; steps of which none was
        self._finite: Tensor | bool = True  # of this step: its loss so far

    # -- what a paper says -----------------------------------------------------------------------
    def losses(self, batch: dict) -> dict[str, Tensor]:
        """Parts of the loss that this rank adds to the optimiser step, by name; those with a gradient are minimised, all are
        logged. Each is a sum divided by the count of the whole step, e.g. batch["step_targets"]."""
        raise NotImplementedError

    def held_out(self, batch: dict) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of scored tokens) of a validation batch; zeros for one that counts nowhere."""
        raise NotImplementedError

    def rate_of(self, name: str) -> float:
        """Learning rate of the parameter `name`."""
        return self.learning_rate

    # -- a step ----------------------------------------------------------------------------------
    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        # Dropout, the same after a resume. (It depends on the micro-batch.)
        torch.manual_seed(seed_of("dropout", self.seed, self.global_step, batch["sample_index"][0]))
        # Where nothing of the whole step is scored, 0 / 0 would be its loss: divided by 1 it is 0, and the step is none (below).
        data = self.trainer.datamodule
        nothing = {name: 1 for name in (data.rows(0).counts if hasattr(data, "rows") else ()) if batch.get(name) == 0}
        parts = self.losses(batch | nothing)
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        self._nothing = self._nothing and bool(nothing) and not any(v.detach().any() for v in parts.values() if v.requires_grad)
        loss = sum(v for v in parts.values() if v.requires_grad)
        self._finite = self._finite & torch.as_tensor(loss).detach().isfinite().all()
        # Lightning divides by the accumulation, DDP by the world; the parts are shares of a sum.
        return loss * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def on_before_optimizer_step(self, optimizer) -> None:
        for grad in self.whole_gradients():
            torch.distributed.all_reduce(grad)
            grad /= self.trainer.world_size  # as DDP does
        names = sorted(self._sums)
        if self._no_rank(self._nothing):  # no gradient: neither weights nor what the optimiser remembers of them may move
            self.skipped_steps += 1
            for parameter in self.parameters():
                parameter.grad = None
            self.log("train/skipped_steps", float(self.skipped_steps), batch_size=1)
        self._nothing = True
        own = [*(self._sums[name] for name in names), self.not_finite()]
        sums = torch.stack([torch.as_tensor(value, device=self.device).double() for value in own])
        *losses, broken = self.trainer.strategy.reduce(sums, reduce_op="sum")
        self.log_dict({f"train/{n}": v for n, v in zip(names, losses)}, batch_size=1)
        self._sums, self._finite = {}, True
        if broken:  # on every rank, which all leave together
            shown = ", ".join(f"{name} {float(value):.4g}" for name, value in zip(names, losses))
            raise SetupError(f"Optimiser step {self.global_step + 1}: its loss or a gradient is NaN or infinite ({shown}); the weights are "
                             "still those of the step before. Lower the learning rate or clip gradients (trainer.gradient_clip_val), "
                             "look at the step's rows, or use another precision; --ckpt_path last goes on from the last checkpoint.")

    def not_finite(self) -> Tensor:
        """Whether this rank's loss or gradients of the step hold NaN or infinity, as a number; with fp16's loss scaling gradients
        may, and its scaler skips the step."""
        scaled = self.trainer.precision == "16-mixed"
        grads = [] if scaled else [p.grad.to_local() if sharded(p.grad) else p.grad for p in self.parameters() if p.grad is not None]
        wide = [torch.promote_types(grad.dtype, torch.float32) for grad in grads]
        fine = [grad.sum(dtype=dtype).isfinite() for grad, dtype in zip(grads, wide)] + [torch.as_tensor(self._finite, device=self.device)]
        return ~torch.stack([each.to(self.device) for each in fine]).all()

    def _no_rank(self, nothing: bool) -> bool:
        """Whether `nothing` holds on every rank."""
        scored = torch.tensor([float(not nothing)], device=self.device)
        return not bool(self.trainer.strategy.reduce(scored, reduce_op="sum").item())

    def whole_gradients(self) -> Iterator[Tensor]:
        """Under FSDP2, gradients of parameters that every rank keeps whole: FSDP reduces its shards alone."""
        for parameter in self.parameters() if self.device_mesh is not None else ():
            if parameter.grad is not None and not sharded(parameter):
                yield parameter.grad

    # -- optimiser -------------------------------------------------------------------------------
    def configure_optimizers(self):
        from transformers import get_scheduler

        steps = self.trainer.max_steps
        if steps < 1:
            raise SetupError("trainer.max_steps is not set: the learning rate follows the number of optimiser steps")
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(self.rate_of(name), []).append(parameter)
        # The same groups on any number of processes, or a checkpoint of two could not be resumed on one; AdamW must not take
        # shards and whole parameters of a group in one go.
        one_by_one = False if self.device_mesh is not None else None
        optimizer = torch.optim.AdamW(in_order(groups), weight_decay=self.weight_decay, betas=self.betas, foreach=one_by_one)
        warmup = round(self.warmup_steps * steps) if self.warmup_steps < 1 else int(self.warmup_steps)
        kind = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        return {"optimizer": optimizer,
                "lr_scheduler": {"scheduler": get_scheduler(kind, optimizer, warmup, steps), "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """The norm is that of all gradients; torch's own clipping does not take shards and whole ones together."""
        if self.device_mesh is None or not gradient_clip_val:
            return self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        squares = torch.zeros(2, dtype=torch.float64, device=self.device)  # of shards, of whole ones; either may be none
        for grad in grads:
            squares[int(not sharded(grad))] += (grad.to_local() if sharded(grad) else grad).double().pow(2).sum()
        norm = (self.trainer.strategy.reduce(squares[:1].clone(), reduce_op="sum") + squares[1:]).sqrt()
        factor = (gradient_clip_val / (norm + 1e-6)).clamp(max=1.0)
        for grad in grads:
            local = grad.to_local() if sharded(grad) else grad
            local.mul_(factor.to(local.dtype).squeeze())  # of no dimension, as a scalar's gradient is
        return None

    # -- validation ------------------------------------------------------------------------------
    def on_validation_start(self) -> None:
        self._held_out = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        loss, count = self.held_out(batch)
        self._held_out += torch.stack([loss.double(), count.double()])

    def on_validation_epoch_end(self) -> None:
        loss, count = self.trainer.strategy.reduce(self._held_out.clone(), reduce_op="sum")
        if not count:  # 0 / 0 is no loss of 0, which would be the best one
            warnings.warn("val/loss: no token of the validation rows is scored, so that it is nan: look at data's held-out rows and cuts",
                          stacklevel=2)
        self.log("val/loss", (loss / count).float(), prog_bar=True, batch_size=1)


def gather_whole(model: nn.Module) -> None:
    """Puts every sharded parameter of `model` back whole, on the CPU, tied ones as one; all ranks call it together, at the end
    of a training."""
    whole: dict[nn.Parameter, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if sharded(parameter):
            if parameter not in whole:
                whole[parameter] = nn.Parameter(parameter.detach().full_tensor().cpu(), parameter.requires_grad)
            owner, _, short = name.rpartition(".")
            setattr(model.get_submodule(owner), short, whole[parameter])
