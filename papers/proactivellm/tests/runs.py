"""Small trainings that the tests compare, in this process or in ones of their own.

They are in double precision: what is equal by theory then differs by 1e-14 instead of 1e-7, which Adam makes 1e-4.
Processes come from a fork server that has imported the libraries once; a child costs a fork, and has run no threads before.
"""

import multiprocessing
import os
import signal
import socket
import time

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from common.models import load, tiny
from tests.numerics import float64
from tests.preload import PRELOAD

from ..data import Generated
from ..module import ProactiveTraining

BASE = tiny(vocab_size=71, initializer_range=0.2, num_hidden_layers=2)


class DoubleTraining(ProactiveTraining):
    """In float64, not by Lightning's "64-true": FSDP2 does not take that. `fit` puts it inside float64."""

    def configure_model(self):
        if self.model is None:
            self.loaded = self.loaded or load(self.base)
            self.loaded.model.double()
        super().configure_model()


def training(seed=5, **options):
    """A training of a random Llama of 20,000 parameters on streamed questions."""
    return DoubleTraining(BASE, **(dict(learning_rate=1e-2, seed=seed) | options))


def streams(batch_size=8, **options):
    return Generated(**(dict(task="qa", train_samples=40, val_samples=6, language=0, batch_size=batch_size, seed=5) | options))


class Diary(L.Callback):
    """The losses of each optimiser step."""

    def __init__(self):
        self.losses, self.parts = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.losses) + self.before:
            self.losses.append(trainer.callback_metrics["train/loss"].item())
            self.parts.append([trainer.callback_metrics[f"train/{name}"].item() for name in ("batch", "stream", "kl")])

    def on_train_start(self, trainer, module):
        self.before = trainer.global_step


class KillAt(L.Callback):
    """No farewell: what is on disk is all that is left."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(module, folder, *, steps=3, accumulate=1, data=None, checkpoint_every=0, resume=None, kill_at=None, **trainer):
    """Trains; returns (module, diary)."""
    diary = Diary()
    callbacks = [diary] + ([KillAt(kill_at)] if kill_at is not None else [])
    if checkpoint_every:
        callbacks.append(ModelCheckpoint(folder / "checkpoints", filename="{step}", save_top_k=-1, every_n_train_steps=checkpoint_every))
    options = dict(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, accumulate_grad_batches=accumulate,
                   logger=False, enable_progress_bar=False, limit_val_batches=0, enable_model_summary=False,
                   enable_checkpointing=bool(checkpoint_every), default_root_dir=folder, callbacks=callbacks)
    with float64():
        L.Trainer(**(options | trainer)).fit(module, data or streams(), ckpt_path=resume)
    return module, diary


def trained(module):
    return {n: whole(p.detach()) for n, p in module.named_parameters() if p.requires_grad}


def whole(tensor):
    """A copy, put together from its shards where it has any: all ranks must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def difference(a, b):
    """Largest difference of two {name: tensor}, in units of the largest value of the second."""
    assert a.keys() == b.keys()
    return max((a[n] - b[n]).abs().max().item() for n in a) / max(t.abs().max().item() for t in b.values())


def fit_in_processes(folder, world=1, strategy="auto", module=None, seconds=200, **options):
    """`fit` of training(**module) in `world` processes as torchrun starts them -> (exit codes, what each rank has saved)."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [context.Process(target=_child, args=(rank, world, port, folder, strategy, module or {}, options)) for rank in range(world)]
    for child in children:
        child.start()
    end = time.monotonic() + seconds
    for child in children:
        child.join(max(end - time.monotonic(), 0))
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return codes, [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]


def _child(rank, world, port, folder, strategy, module, options):
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank),
                          WORLD_SIZE=str(world), GROUP_RANK="0", LOCAL_WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME="lo")
    if strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    module, diary = fit(training(**module), folder, devices=world, strategy=strategy, **options)
    torch.save({"parameters": trained(module), "losses": diary.losses}, folder / f"rank{rank}.pt")
