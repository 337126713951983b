"""What tests of a paper's training share: a diary of its steps, a kill, a short Trainer, and processes as torchrun starts them.

Processes come from a fork server that has imported the libraries once: a child costs a fork, not the seconds of starting Python with
torch and lightning, and has run no threads before. Trainings that are compared are in double precision: what is equal by theory
then differs by 1e-14 instead of 1e-7, which Adam makes 1e-4.
"""

import multiprocessing
import os
import signal
import socket
import time

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.preload import PRELOAD


class Diary(L.Callback):
    """The loss and the gradients of each optimiser step."""

    def __init__(self):
        self.losses, self.gradients, self.before = [], [], 0

    def on_train_start(self, trainer, module):
        self.before = trainer.global_step

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append({n: whole(p.grad) for n, p in module.named_parameters() if p.grad is not None})

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.losses) + self.before:
            self.note(trainer.callback_metrics)

    def note(self, metrics):
        self.losses.append(metrics["train/loss"].item())


class KillAt(L.Callback):
    """No farewell: what is on disk is all that is left. of(module, batch number): the count that is killed at."""

    def __init__(self, batch, of=lambda module, number: number):
        self.batch, self.of = batch, of

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.of(module, batch_idx) == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(module, data, folder, *, steps, callbacks=(), checkpoint_every=0, resume=None, kill_at=None, **trainer):
    """Trains for `steps` steps in all, resumed ones counted."""
    callbacks = [*callbacks, *([KillAt(kill_at)] if kill_at is not None else [])]
    if checkpoint_every:
        callbacks.append(ModelCheckpoint(folder / "checkpoints", filename="{step}", save_top_k=-1, every_n_train_steps=checkpoint_every))
    options = dict(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False, enable_progress_bar=False,
                   limit_val_batches=0, enable_model_summary=False, enable_checkpointing=bool(checkpoint_every),
                   default_root_dir=folder, callbacks=callbacks)
    L.Trainer(**(options | trainer)).fit(module, data, ckpt_path=resume)


# -- what it made ------------------------------------------------------------------------------------------
def trained(module):
    return {n: whole(p.detach()) for n, p in module.named_parameters() if p.requires_grad}


def whole(tensor):
    """A copy, put together from its shards where it has any: all ranks must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def difference(a, b):
    """Largest difference of two {name: tensor}, in units of the largest value of the second."""
    assert a.keys() == b.keys()
    return max((a[n] - b[n]).abs().max().item() for n in a) / max(t.abs().max().item() for t in b.values())


# -- in other processes ------------------------------------------------------------------------------------
def fit_in_processes(job, folder, world, strategy, *arguments, seconds=200):
    """(exit codes, what each rank's job(folder, {"devices", "strategy"}, *arguments) returned); strategy: Lightning's, or "fsdp2"."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = in_processes(_kept, world, (job, folder, world, strategy, arguments), seconds)
    return codes, [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]


def _kept(rank, job, folder, world, strategy, arguments):
    if strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    torch.save(job(folder, {"devices": world, "strategy": strategy}, *arguments), folder / f"rank{rank}.pt")


def in_processes(job, world, arguments, seconds=200):
    """Exit codes of job(rank, *arguments) in `world` processes as torchrun starts them; None for one that had to be ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [context.Process(target=_rank, args=(job, rank, world, port, arguments)) for rank in range(world)]
    for child in children:
        child.start()
    end = time.monotonic() + seconds
    for child in children:
        child.join(max(end - time.monotonic(), 0))
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return codes


def _rank(job, rank, world, port, arguments):
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank),
                          WORLD_SIZE=str(world), GROUP_RANK="0", LOCAL_WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME="lo")
    job(rank, *arguments)
