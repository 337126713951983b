"""Small trainings that the tests compare with each other, in this process or in ones of their own.

Processes come from a fork server that has imported the libraries once: a child costs a fork, not
the fifteen seconds of starting Python with torch and lightning, and has run no threads before.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from types import SimpleNamespace

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from common.models import tiny
from common.training.steps import StepData
from tests.numerics import float64
from tests.preload import PRELOAD

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


class KillAt(L.Callback):
    """No farewell: what is on disk is all that is left."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(module, folder, *, steps=3, accumulate=1, data=None, checkpoint_every=0, resume=None,
        kill_at=None, **trainer):
    """Trains and returns (module, diary)."""
    diary = Diary()
    callbacks = [diary] + ([KillAt(kill_at)] if kill_at is not None else [])
    if checkpoint_every:
        callbacks.append(ModelCheckpoint(folder / "checkpoints", filename="{step}", save_top_k=-1,
                                         every_n_train_steps=checkpoint_every))
    trainer = L.Trainer(**(dict(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0,
        accumulate_grad_batches=accumulate, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=bool(checkpoint_every),
        limit_val_batches=0, default_root_dir=folder, callbacks=callbacks) | trainer))
    trainer.fit(module, data or Uneven(), ckpt_path=resume)
    return module, diary


def alone(module, steps=10):
    """A module that can be asked for losses without a Trainer."""
    module._trainer = SimpleNamespace(
        world_size=1, max_steps=steps, global_step=0,
        strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor))
    module.configure_model()
    return module


# -- in other processes ----------------------------------------------------------------------------
def in_processes(job, world, arguments, seconds=270):
    """Runs job(rank, *arguments) in `world` processes that torchrun might have started.

    Returns their exit codes; None for one that had to be ended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [context.Process(target=_child, args=(job, rank, world, port, arguments))
                for rank in range(world)]
    for child in children:
        child.start()
    end = time.monotonic() + seconds
    for child in children:
        child.join(max(end - time.monotonic(), 0))
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return codes


def _child(job, rank, world, port, arguments):
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(
            TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), GROUP_RANK="0",
            LOCAL_WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME="lo")
    job(rank, *arguments)


def fit_in_processes(folder, world=1, strategy="auto", **options):
    """`fit` of router_tuning() in `world` processes, in float64 -> (exit codes, what each rank has saved)."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = in_processes(_fit, world, (world, folder, strategy, options))
    saved = [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]
    return codes, saved


def _fit(rank, world, folder, strategy, options):
    if strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    with float64():
        module, diary = fit(router_tuning(), folder, devices=world, strategy=strategy, **options)
    trained = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
    torch.save({"parameters": trained, "steps": diary.steps}, folder / f"rank{rank}.pt")


def cli_in_processes(folder, world, arguments):
    """The command line in `world` processes, in the working directory `folder` -> exit codes."""
    return in_processes(_cli, world, (folder, arguments))


def _cli(rank, folder, arguments):
    from ..train import cli

    os.chdir(folder)
    sys.argv = ["train"]
    cli(arguments)
