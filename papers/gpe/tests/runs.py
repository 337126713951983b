"""Small trainings that the tests compare, in double precision, in this process or in ones of their own; and a stub of the hub."""

import contextlib
import os
import sys
import types
from importlib.machinery import ModuleSpec

from common.models import load, tiny
from tests import trainings
from tests.small_tokenizers import ENGLISH, FRENCH
from tests.trainings import Diary, in_processes, trained

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


def fit(module, folder, *, data=None, steps=3, accumulate=1, **options):
    """Trains; returns (module, diary)."""
    diary = Diary()
    with Double() if isinstance(module, DoubleTraining) else contextlib.nullcontext():
        trainings.fit(module, data or pairs(), folder, steps=steps, callbacks=[diary], accumulate_grad_batches=accumulate,
                      gradient_clip_val=1.0, **options)
    return module, diary


def fit_in_processes(folder, world=1, strategy="auto", module=None, **options):
    """`fit` of streaming(**module) in `world` processes -> (exit codes, what each rank has saved)."""
    return trainings.fit_in_processes(_fit, folder, world, strategy, module or {}, options)


def _fit(folder, where, module, options):
    module, diary = fit(streaming(**module), folder, **where, **options)
    return {"parameters": trained(module), "losses": diary.losses, "gradient": diary.gradients[0]}


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
