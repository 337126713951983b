"""Small trainings that the tests compare, in this process or in ones of their own.

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

from common.data import chains
from common.models import ModelSpec, load, tiny
from common.reasoning.rollouts import full
from tests.preload import PRELOAD

from .. import module
from ..data import Chains
from ..method import OnPolicySFTConfig
from .exact import truly_double

SMALL = dict(prompts_per_step=4, rollouts_per_prompt=4, max_new_tokens=6, micro_batch_size=3, lr=1e-2, warmup_steps=0)


class Coin(Chains):
    """Chains' prompts; right is a response that begins with an even token. A random model is right about half of the time."""

    right = staticmethod(lambda rollout: rollout.ids[0] % 2 == 0)

    def grade(self, problems, rollouts):
        return [bool(self.right(r)) for r in rollouts]


def model(dtype="float64"):
    """In double precision, for AdamW magnifies roundings: a gradient that is nearly zero decides a step's sign."""
    found = load(tiny("llama", vocab_size=len(chains.WORDS), hidden_size=16, intermediate_size=32, initializer_range=0.3)).model
    return truly_double(found) if dtype == "float64" else found


def training(kind="OnPolicySFT", config=None, seed=3, dtype="float64", **options):
    found = getattr(module, kind)(ModelSpec("in memory"), OnPolicySFTConfig(**(SMALL | {"require_eos": False} | (config or {}))),
                                  weight_decay=0.0, cap=8, seed=seed, **options)
    found.given = model(dtype), chains.tokenizer(), {"name": "random", "weights_sha256": "x"}
    return found


class KillAt(L.Callback):
    """No farewell: what is on disk is all that is left."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if module.done == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(found, folder, *, steps=2, data=None, checkpoint_every=0, resume=None, kill_at=None, callbacks=(), **trainer):
    """Trains for `steps` steps in all, resumed ones counted; returns found."""
    callbacks = [*callbacks, *([KillAt(kill_at)] if kill_at is not None else [])]
    if checkpoint_every:
        callbacks.append(ModelCheckpoint(folder / "checkpoints", filename="{step}", save_top_k=-1, every_n_train_steps=checkpoint_every))
    options = dict(accelerator="cpu", devices=1, max_epochs=-1, max_steps=steps, logger=False, enable_progress_bar=False,
                   limit_val_batches=0, enable_model_summary=False, enable_checkpointing=bool(checkpoint_every),
                   default_root_dir=folder, callbacks=callbacks)
    L.Trainer(**(options | trainer)).fit(found, data or Coin(count=16, seed=5), ckpt_path=resume)
    return found


def weights(found):
    """Whole, of shards too: all ranks call it."""
    return {n: full(p.detach()).clone() for n, p in found.model.named_parameters()}


def difference(a, b):
    """Largest difference of two {name: tensor}, in units of the largest value of the second."""
    assert a.keys() == b.keys()
    return max((a[n] - b[n]).abs().max().item() for n in a) / max(t.abs().max().item() for t in b.values())


def fit_in_processes(folder, world=1, strategy="auto", kind="OnPolicySFT", config=None, seconds=200, sample_dtype=None, **options):
    """(exit codes, what each rank has saved) of `fit` in `world` processes as torchrun starts them."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [context.Process(target=_child, args=(rank, world, port, folder, strategy, kind, config, sample_dtype, options))
                for rank in range(world)]
    for child in children:
        child.start()
    end = time.monotonic() + seconds
    for child in children:
        child.join(max(end - time.monotonic(), 0))
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return codes, [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]


def _child(rank, world, port, folder, strategy, kind, config, sample_dtype, options):
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank),
                          LOCAL_RANK=str(rank), WORLD_SIZE=str(world), GROUP_RANK="0", LOCAL_WORLD_SIZE=str(world),
                          GLOO_SOCKET_IFNAME="lo")
    if strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    found = fit(training(kind, config, sample_dtype=sample_dtype), folder, devices=world, strategy=strategy, **options)
    torch.save({"weights": weights(found), "history": found.history, "skipped": found.skipped}, folder / f"rank{rank}.pt")
