"""Small trainings that the tests compare, in double precision, in this process or in ones of their own."""

import functools
from pathlib import Path
from unittest import mock

import torch
from transformers import Dinov2Config, Dinov2Model

import common
from common.vision import tower
from common.vision.parts import LlavaSpec, load_parts
from tests import trainings
from tests.numerics import truly_double
from tests.trainings import Diary, trained

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


def fit(module, folder, *, data=None, steps=2, accumulate=1, **options):
    """Trains; returns (module, diary)."""
    diary = Diary()
    trainings.fit(module, data or scenes(), folder, steps=steps, callbacks=[diary], accumulate_grad_batches=accumulate,
                  gradient_clip_val=1.0, **options)
    return module, diary


def fit_in_processes(folder, world=1, strategy="auto", module=None, **options):
    """`fit` of training(**module) in `world` processes -> (exit codes, what each rank has saved)."""
    return trainings.fit_in_processes(_fit, folder, world, strategy, module or {}, options)


def _fit(folder, where, module, options):
    module, diary = fit(training(**module), folder, **where, **options)
    return {"parameters": trained(module), "losses": diary.losses, "gradient": diary.gradients[0]}
