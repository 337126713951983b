"""Small trainings that the tests compare, in double precision, in this process or in ones of their own.

Processes come from a fork server that has imported the libraries once; a child costs a fork, and has run no threads before.
"""

import multiprocessing
import os
import socket
import time

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import LlamaConfig, LlamaForCausalLM

from common.training.steps import StepData
from common.vision.layout import packed
from common.vision.parts import LlavaSpec, Parts
from common.vision.scene_rows import SceneRows
from tests.preload import PRELOAD

from ..module import FusedTraining

D, DV, N, BLOCKS, LAYERS = 16, 16, 4, 4, (1, 6, 7)  # widths, patches, blocks of the decoder; Triple of a tower of eight


def parts():
    """A decoder of four blocks and pictures that come as features."""
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=D, intermediate_size=48, num_hidden_layers=BLOCKS, num_attention_heads=2, vocab_size=40,
                         initializer_range=0.2)
    decoder = LlamaForCausalLM(config).double()
    projector = torch.nn.Module()
    projector.linear_1 = torch.nn.Linear(DV, D)
    return Parts(decoder, projector, None, None, {"weights_sha256": "0" * 64, "name": "tiny"}, (-2,), 40, N, 8, (0.5,) * 3, (0.5,) * 3,
                 [1, 2])


class Double(FusedTraining):
    """All in double precision. Not by Lightning's "64-true", which FSDP2 does not take."""

    def configure_model(self):
        if self.given is None:
            self.given = parts()
        super().configure_model()


def training(**options):
    spec = LlavaSpec(stand_in="nowhere")
    return Double(spec, **(dict(layers="triple", tower_blocks=8, position="internal", pattern="modular", points=[0, 1, 3],
                                learning_rate=1e-2, warmup_steps=0, seed=5) | options))


class Rows(StepData):
    """Rows of two questions about a picture of random features each."""

    def __init__(self, batch_size=4, seed=5):
        super().__init__(batch_size, seed)

    def sequences(self):
        draw = torch.Generator().manual_seed(2)
        entries = []
        for i in range(16):
            features = torch.randn(N, len(LAYERS) * DV, generator=draw, dtype=torch.float64)
            texts = [([5 + i % 7, 6, 7], [-100, -100, 8 + i % 5]), ([9, 10 + i % 3], [-100, 11 + i % 4])]
            entries.append((features, texts))
        return SceneRows(entries, [1, 2]), SceneRows(entries[:2], [1, 2])


def text_batch():
    return {"layout": packed([1, 2], [[([5, 6, 7], [-100, 8, 9])]], 0)}


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


def fit(module, folder, *, steps=3, accumulate=1, checkpoint_every=0, resume=None, **trainer):
    """Trains; returns (module, diary)."""
    diary = Diary()
    callbacks = [diary]
    if checkpoint_every:
        callbacks.append(ModelCheckpoint(folder / "checkpoints", filename="{step}", save_top_k=-1, every_n_train_steps=checkpoint_every))
    options = dict(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, accumulate_grad_batches=accumulate,
                   logger=False, enable_progress_bar=False, limit_val_batches=0, enable_model_summary=False,
                   enable_checkpointing=bool(checkpoint_every), default_root_dir=folder, callbacks=callbacks)
    L.Trainer(**(options | trainer)).fit(module, Rows(), ckpt_path=resume)
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
def fit_in_processes(folder, world=2, strategy="ddp", module=None, seconds=200, **options):
    """`fit` of training(**module) in `world` processes -> (exit codes, what each rank has saved)."""
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
    os.environ.update(TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank),
                      WORLD_SIZE=str(world), GROUP_RANK="0", LOCAL_WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME="lo")
    if strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    module, diary = fit(training(**module), folder, devices=world, strategy=strategy, **options)
    torch.save({"parameters": trained(module), "losses": diary.losses, "gradient": diary.gradients[0]}, folder / f"rank{rank}.pt")
