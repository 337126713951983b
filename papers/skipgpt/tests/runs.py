"""Small trainings that the tests compare with each other, in this process or in ones of their own."""

import os
import sys
from types import SimpleNamespace

import lightning as L
import numpy as np
import torch

from common.models import tiny
from common.training.steps import StepData
from tests import trainings
from tests.numerics import float64
from tests.trainings import in_processes, trained

from ..data import RaggedRows, collate
from ..method import SkipGPTConfig
from ..module import RouterTuningModule

AFTER_ADAM = 1e-10  # of parameters: where a gradient is nearly 0, Adam divides its rounding by its size


class Uneven(StepData):
    """40 samples of 3 to 12 tokens: micro-batches of a step hold different numbers of targets."""

    def __init__(self, batch_size=8, seed=5):
        super().__init__(batch_size, seed)

    def sequences(self):
        draw = np.random.default_rng(0)
        offsets = np.concatenate([[0], draw.integers(3, 13, 40).cumsum()])
        ids = draw.integers(3, 96, offsets[-1]).astype(np.int32)
        rows = np.arange(40)
        return RaggedRows(ids, offsets, rows[4:]), RaggedRows(ids, offsets, rows[:4])


def uneven_batch(*lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 96, (n,), generator=draw) for n in lengths]
    return collate(rows, list(range(len(rows))), sum(lengths), sum(lengths) - len(lengths))


def router_tuning(alpha=8.0, target=0.4, gradient_checkpointing=False, seed=5, **options):
    options.setdefault("learning_rate", 1e-2)
    return RouterTuningModule(tiny(), SkipGPTConfig(target_sparsity=target, alpha=alpha), seed=seed,
                              gradient_checkpointing=gradient_checkpointing, **options)


class Diary(L.Callback):
    """What happened: losses and gradients per optimiser step, temperature per micro-batch."""

    def __init__(self):
        self.steps, self.gradients, self.temperatures = [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.steps_before = trainer.global_step

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append({n: p.grad.clone() for n, p in module.named_parameters()
                               if p.grad is not None})

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if module.state is not None:
            self.temperatures.append(module.state.temperature)
        if trainer.global_step > self.steps_before:
            self.steps.append({k.removeprefix("train/"): v.item()
                               for k, v in trainer.callback_metrics.items()})


def fit(module, folder, *, data=None, steps=3, accumulate=1, **options):
    """Trains and returns (module, diary)."""
    diary = Diary()
    trainings.fit(module, data or Uneven(), folder, steps=steps, callbacks=[diary], accumulate_grad_batches=accumulate,
                  gradient_clip_val=1.0, **options)
    return module, diary


def alone(module, steps=10):
    """A module that can be asked for losses without a Trainer."""
    module._trainer = SimpleNamespace(
        world_size=1, max_steps=steps, global_step=0,
        strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor))
    module.configure_model()
    return module


# -- in other processes ------------------------------------------------------------------------------------
def fit_in_processes(folder, world=1, strategy="auto", **options):
    """`fit` of router_tuning() in `world` processes, in float64 -> (exit codes, what each rank has saved)."""
    return trainings.fit_in_processes(_fit, folder, world, strategy, options, seconds=270)


def _fit(folder, where, options):
    with float64():
        module, diary = fit(router_tuning(), folder, **where, **options)
    return {"parameters": trained(module), "steps": diary.steps}


def cli_in_processes(folder, world, arguments):
    """The command line in `world` processes, in the working directory `folder` -> exit codes."""
    return in_processes(_cli, world, (folder, arguments))


def _cli(rank, folder, arguments):
    from ..train import cli

    os.chdir(folder)
    sys.argv = ["train"]
    cli(arguments)
