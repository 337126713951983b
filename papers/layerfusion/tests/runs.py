"""Small trainings that the tests compare, in double precision, in this process or in ones of their own."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common.training.steps import StepData
from common.vision.layout import packed
from common.vision.parts import LlavaSpec, Parts
from common.vision.scene_rows import SceneRows
from tests import trainings
from tests.trainings import Diary, trained

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


def fit(module, folder, *, data=None, steps=3, accumulate=1, **options):
    """Trains; returns (module, diary)."""
    diary = Diary()
    trainings.fit(module, data or Rows(), folder, steps=steps, callbacks=[diary], accumulate_grad_batches=accumulate,
                  gradient_clip_val=1.0, **options)
    return module, diary


def fit_in_processes(folder, world=2, strategy="ddp", module=None, **options):
    """`fit` of training(**module) in `world` processes -> (exit codes, what each rank has saved)."""
    return trainings.fit_in_processes(_fit, folder, world, strategy, module or {}, options)


def _fit(folder, where, module, options):
    module, diary = fit(training(**module), folder, **where, **options)
    return {"parameters": trained(module), "losses": diary.losses, "gradient": diary.gradients[0]}
