"""Small trainings that the tests compare, in double precision, in this process or in ones of their own.

Processes come from a fork server that has imported the libraries once; a child costs a fork, and has run no threads before.
"""

import functools
import multiprocessing
import os
import socket
import time
from pathlib import Path
from unittest import mock

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import Dinov2Config, Dinov2Model

import common
from common.vision import tower
from common.vision.parts import LlavaSpec, load_parts
from tests.numerics import truly_double
from tests.preload import PRELOAD

from ..data import ScenePictures
from ..module import StagedTraining

FOLDER = Path(common.__file__).parent / "standins" / "llava-weights"  # as data, which configs name, too


@functools.cache
def one_tower():
    """The frozen tower without weights, which take half of a small training's time to read: nothing here moves or runs it."""
    with torch.device("meta"):
        return Dinov2Model(Dinov2Config(**tower.CONFIG)).eval().requires_grad_(False)


class TrulyDouble(StagedTraining):
    """All in double precision. Not by Lightning's "64-true", which FSDP2 does not take, and which norms would not keep."""

    def configure_model(self):
        if self.given is None:
            with mock.patch.object(tower, "dinov2", one_tower):
                self.given = load_parts(self.llava)
            truly_double(self.given.decoder.double())
            self.given.projector.double()
        super().configure_model()


def training(**options):
    """A training of the committed small LLaVA, with the picture in blocks 2 to 6."""
    spec = LlavaSpec(stand_in=str(FOLDER / "seed0"))
    return TrulyDouble(spec, **(dict(first=2, last=6, learning_rate=1e-3, warmup_steps=0, seed=5) | options))


def scenes(**options):
    return ScenePictures(**(dict(train_samples=12, val_samples=4, scenes=4, asked=3, batch_size=4, seed=5) | options))


class Diary(L.Callback):
    """The loss and the gradients of each optimiser step."""

    def __init__(self):
        self.losses, self.gradients = [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append({n: whole(p.grad) for n, p in module.named_parameters() if p.grad is not None})

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.losses) + getattr(self, "before", 0):
            self.losses.append(trainer.callback_metrics["train/loss"].item())

    def on_train_start(self, trainer, module):
        self.before = trainer.global_step


def fit(module, folder, *, steps=2, checkpoint_every=0, resume=None, **trainer):
    """Trains; returns (module, diary)."""
    diary = Diary()
    callbacks = [diary]
    if checkpoint_every:
        callbacks.append(ModelCheckpoint(folder / "checkpoints", filename="{step}", save_top_k=-1,
                                         every_n_train_steps=checkpoint_every))
    options = dict(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0,
                   logger=False, enable_progress_bar=False, limit_val_batches=0,
                   enable_model_summary=False, enable_checkpointing=bool(checkpoint_every), default_root_dir=folder,
                   callbacks=callbacks)
    L.Trainer(**(options | trainer)).fit(module, scenes(), ckpt_path=resume)
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


# -- in other processes ------------------------------------------------------------------------------------
def in_processes(job, world, arguments, seconds=200):
    """Exit codes of job(rank, *arguments) in `world` processes as torchrun starts them; None for one that had to be ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [context.Process(target=_child, args=(job, rank, world, port, arguments)) for rank in range(world)]
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
        os.environ.update(TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank),
                          LOCAL_RANK=str(rank), WORLD_SIZE=str(world), GROUP_RANK="0", LOCAL_WORLD_SIZE=str(world),
                          GLOO_SOCKET_IFNAME="lo")
    job(rank, *arguments)


def fit_in_processes(folder, world=1, strategy="auto", module=None, **options):
    """`fit` of training(**module) in `world` processes -> (exit codes, what each rank has saved)."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = in_processes(_fit, world, (world, folder, strategy, module or {}, options))
    return codes, [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]


def _fit(rank, world, folder, strategy, module, options):
    if strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    module, diary = fit(training(**module), folder, devices=world, strategy=strategy, **options)
    torch.save({"parameters": trained(module), "losses": diary.losses, "gradient": diary.gradients[0]}, folder / f"rank{rank}.pt")
