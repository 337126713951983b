"""Small trainings that the tests compare, in this process or in ones of their own.

Processes come from a fork server that has imported the libraries once; a child costs a fork, and has run no threads before.
"""

import multiprocessing
import os
import signal
import socket
import time
from types import SimpleNamespace

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from common.data import chains
from common.models import ModelSpec, load, tiny
from common.reasoning.rollouts import Rollout, full
from tests.preload import PRELOAD

from .. import module
from ..curriculum import EntropyGatedLength
from ..data import SolvedChains
from ..method import DistillConfig
from .exact import truly_double

SMALL = dict(prompts_per_step=4, rollouts_per_prompt=2, max_new_tokens=6, micro_batch_size=3, lr=1e-2, warmup_steps=0, token_chunk=0)
ROWS = [Rollout(0, (9, 4, 2), True), Rollout(1, (5, 6, 7, 8, 12), False), Rollout(2, (11,), False)]


class Coin(SolvedChains):
    """Chains' prompts; right is a response that begins with an even token. A random model is right about half of the time."""

    def grade(self, problems, rollouts):
        return [r.ids[0] % 2 == 0 for r in rollouts]


def model(dtype="float64", seed=0, width=16):
    """In double precision, for AdamW magnifies roundings: a gradient that is nearly zero decides a step's sign."""
    found = load(tiny("llama", vocab_size=len(chains.WORDS), hidden_size=width, intermediate_size=2 * width, initializer_range=0.3,
                      num_hidden_layers=2, seed=seed)).model
    return truly_double(found) if dtype == "float64" else found


def training(kind="Distilling", config=None, seed=3, dtype="float64", student=0, teacher=7, teacher_dtype=None, **options):
    """A training of the random model `student`; the teacher is wider."""
    two = {"teacher": ModelSpec("in memory")} if kind == "Distilling" else {}
    found = getattr(module, kind)(ModelSpec("in memory"), config=DistillConfig(**(SMALL | (config or {}))), weight_decay=0.0, cap=8,
                                  seed=seed, **two, **options)
    found.given = model(dtype, student), chains.tokenizer(), {"name": "random", "weights_sha256": "x"}
    if two:
        given = teacher if not isinstance(teacher, int) else model(teacher_dtype or dtype, teacher, 24)
        found.given_teacher = given, chains.tokenizer(), {"name": "teacher", "weights_sha256": "y"}
    return found


def ready(found):
    """The training as it is when it begins, without one: loss_sum and rollouts can be asked for."""
    found.configure_model()
    data = Coin(count=16, held_out=4, seed=5)
    data.trainer = SimpleNamespace(lightning_module=found)
    found._trainer = SimpleNamespace(datamodule=data, world_size=1, global_rank=0, is_global_zero=True)
    found.ends = tuple(data.end)
    return found, data.rows(0).problems


class KillAt(L.Callback):
    """No farewell: what is on disk is all that is left."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if module.done == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(found, folder, *, steps=2, data=None, checkpoint_every=0, resume=None, kill_at=None, callbacks=(), curriculum=None, **trainer):
    """Trains for `steps` steps in all, resumed ones counted; returns found."""
    callbacks = [*callbacks, *([EntropyGatedLength(**curriculum)] if curriculum else []),
                 *([KillAt(kill_at)] if kill_at is not None else [])]
    if checkpoint_every:
        callbacks.append(ModelCheckpoint(folder / "checkpoints", filename="{step}", save_top_k=-1, every_n_train_steps=checkpoint_every))
    options = dict(accelerator="cpu", devices=1, max_epochs=-1, max_steps=steps, logger=False, enable_progress_bar=False,
                   limit_val_batches=0, enable_model_summary=False, enable_checkpointing=bool(checkpoint_every),
                   default_root_dir=folder, callbacks=callbacks)
    L.Trainer(**(options | trainer)).fit(found, data or Coin(count=16, held_out=4, seed=5), ckpt_path=resume)
    return found


def weights(found):
    """Whole, of shards too: all ranks call it."""
    return {n: full(p.detach()).clone() for n, p in found.model.named_parameters()}


def difference(a, b):
    """Largest difference of two {name: tensor}, in units of the largest value of the second."""
    assert a.keys() == b.keys()
    return max((a[n] - b[n]).abs().max().item() for n in a) / max(t.abs().max().item() for t in b.values())


def fit_in_processes(folder, world=1, strategy="auto", kind="Distilling", config=None, seconds=200, sample_dtype=None, trajectories=None,
                     **options):
    """(exit codes, what each rank has saved) of `fit` in `world` processes as torchrun starts them."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = {"sample_dtype": sample_dtype} | ({"trajectories": trajectories} if trajectories else {})
    children = [context.Process(target=_child, args=(rank, world, port, folder, strategy, kind, config, made, options))
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


def _child(rank, world, port, folder, strategy, kind, config, made, options):
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank),
                          LOCAL_RANK=str(rank), WORLD_SIZE=str(world), GROUP_RANK="0", LOCAL_WORLD_SIZE=str(world),
                          GLOO_SOCKET_IFNAME="lo")
    if strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    found = fit(training(kind, config, **made), folder, devices=world, strategy=strategy, **options)
    decisions = [row for c in found.trainer.callbacks if isinstance(c, EntropyGatedLength) for row in c.decisions]
    torch.save({"weights": weights(found), "history": found.history, "decisions": decisions}, folder / f"rank{rank}.pt")
