"""Small trainings that the tests compare, in this process or in ones of their own.

They are in double precision: what is equal by theory then differs by 1e-14 instead of 1e-7, which Adam makes 1e-4.
Processes come from a fork server that has imported the libraries once; a child costs a fork, and has run no threads before.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
import types
from importlib.machinery import ModuleSpec

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from common.models import load, tiny
from tests.preload import PRELOAD
from tests.small_tokenizers import ENGLISH, FRENCH

from ..data import ToyPairs
from ..module import StreamingTraining
from .double import Double


class DoubleTraining(StreamingTraining):
    """In float64, not by Lightning's "64-true": FSDP2 does not take that. `fit` puts it inside Double."""

    def configure_model(self):
        if self.model is None:
            self.loaded = self.loaded or load(self.base)
            self.loaded.model.double()
        super().configure_model()


def streaming(arm="group", seed=5, base=None, **options):
    """A training of a random Llama of 30,000 parameters on a toy language."""
    options.setdefault("learning_rate", 1e-2)
    return DoubleTraining(base or tiny(vocab_size=163), arm, seed=seed, **options)


def pairs(batch_size=8, ks=(1, 3, 5, 7), **options):
    return ToyPairs(list(ks), **(dict(train_samples=40, val_samples=6, language=0, batch_size=batch_size, seed=5) | options))


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
        callbacks.append(ModelCheckpoint(folder / "checkpoints", filename="{step}", save_top_k=-1,
                                         every_n_train_steps=checkpoint_every))
    options = dict(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0,
                   accumulate_grad_batches=accumulate, logger=False, enable_progress_bar=False, limit_val_batches=0,
                   enable_model_summary=False, enable_checkpointing=bool(checkpoint_every), default_root_dir=folder,
                   callbacks=callbacks)
    with Double() if isinstance(module, DoubleTraining) else contextlib.nullcontext():
        L.Trainer(**(options | trainer)).fit(module, data or pairs(), ckpt_path=resume)
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
    """`fit` of streaming(**module) in `world` processes -> (exit codes, what each rank has saved)."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = in_processes(_fit, world, (world, folder, strategy, module or {}, options))
    return codes, [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]


def _fit(rank, world, folder, strategy, module, options):
    if strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    module, diary = fit(streaming(**module), folder, devices=world, strategy=strategy, **options)
    torch.save({"parameters": trained(module), "losses": diary.losses, "gradient": diary.gradients[0]}, folder / f"rank{rank}.pt")


def cli_in_processes(folder, world, arguments):
    """The command line in `world` processes, in the working directory `folder`, with a stub for the hub's data."""
    return in_processes(_cli, world, (folder, arguments))


def _cli(rank, folder, arguments):
    from ..train import cli

    os.chdir(folder)
    sys.argv, sys.modules["datasets"] = ["train"], stub_of_datasets()
    cli(arguments)


# -- the hub in small --------------------------------------------------------------------------------------
def stub_of_datasets(calls=None):
    """A module `datasets` whose load_dataset gives rows as IWSLT-17 has them, one of them empty; calls: what was asked for."""
    def load_dataset(path, name, split, revision):
        if calls is not None:
            calls.append((path, name, split, revision))
        languages = name.split("-")[1:]
        english = ENGLISH if split == "train" else [f"{line} now" for line in ENGLISH]  # what validates asks something else
        rows = [dict(zip(languages, pair)) for pair in zip(english, FRENCH)] + [dict.fromkeys(languages, " ")]
        return {"translation": rows}

    module = types.ModuleType("datasets")
    module.__spec__, module.load_dataset = ModuleSpec("datasets", None), load_dataset
    return module
