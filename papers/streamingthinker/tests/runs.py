"""Small trainings that the tests compare, in double precision, in this process or in ones of their own."""

import contextlib

from common.data import stories
from common.models import load, tiny
from tests import trainings
from tests.numerics import float64
from tests.trainings import Diary, trained

from ..data import StoryTraces
from ..module import StreamingTraining


class DoubleTraining(StreamingTraining):
    """In float64, not by Lightning's "64-true": FSDP2 does not take that. `fit` puts it inside float64()."""

    def configure_model(self):
        if self.model is None:
            self.loaded = self.loaded or load(self.base)
            self.loaded.model.double()
        super().configure_model()


def training(seed=5, base=None, **options):
    """A training of a random Llama on stories."""
    options.setdefault("learning_rate", 1e-2)
    return DoubleTraining(base or tiny(vocab_size=len(stories.WORDS)), seed=seed, **options)


def traces(batch_size=4, **options):
    return StoryTraces(**(dict(train_samples=20, val_samples=3, batch_size=batch_size, seed=5) | options))


def fit(module, folder, *, data=None, steps=3, accumulate=1, **options):
    """Trains; returns (module, losses)."""
    diary = Diary()
    with float64() if isinstance(module, DoubleTraining) else contextlib.nullcontext():
        trainings.fit(module, data or traces(), folder, steps=steps, callbacks=[diary], accumulate_grad_batches=accumulate,
                      gradient_clip_val=1.0, **options)
    return module, diary.losses


def fit_in_processes(folder, world=1, strategy="auto", module=None, **options):
    """`fit` of training(**module) in `world` processes -> (exit codes, what each rank has saved)."""
    return trainings.fit_in_processes(_fit, folder, world, strategy, module or {}, options)


def _fit(folder, where, module, options):
    module, losses = fit(training(**module), folder, **where, **options)
    return {"parameters": trained(module), "losses": losses}
