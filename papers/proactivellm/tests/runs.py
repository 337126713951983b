"""Small trainings that the tests compare, in double precision, in this process or in ones of their own."""

from common.models import load, tiny
from tests import trainings
from tests.numerics import float64
from tests.trainings import Diary, trained

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


class Parts(Diary):
    """The three losses of each optimiser step beside their sum."""

    def __init__(self):
        super().__init__()
        self.parts = []

    def note(self, metrics):
        super().note(metrics)
        self.parts.append([metrics[f"train/{name}"].item() for name in ("batch", "stream", "kl")])


def fit(module, folder, *, data=None, steps=3, accumulate=1, **options):
    """Trains; returns (module, diary)."""
    diary = Parts()
    with float64():
        trainings.fit(module, data or streams(), folder, steps=steps, callbacks=[diary], accumulate_grad_batches=accumulate,
                      gradient_clip_val=1.0, **options)
    return module, diary


def fit_in_processes(folder, world=1, strategy="auto", module=None, **options):
    """`fit` of training(**module) in `world` processes -> (exit codes, what each rank has saved)."""
    return trainings.fit_in_processes(_fit, folder, world, strategy, module or {}, options)


def _fit(folder, where, module, options):
    module, diary = fit(training(**module), folder, **where, **options)
    return {"parameters": trained(module), "losses": diary.losses}
