"""Small trainings that the tests compare, in this process or in ones of their own."""

from common.data import chains
from common.models import ModelSpec, load, tiny
from common.reasoning.rollouts import full
from tests import trainings
from tests.trainings import KillAt

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


def fit(found, folder, *, data=None, steps=2, kill_at=None, callbacks=(), **options):
    """Trains for `steps` steps in all, resumed ones counted; returns found."""
    killed = [] if kill_at is None else [KillAt(kill_at, lambda module, _: module.done)]
    trainings.fit(found, data or Coin(count=16, seed=5), folder, steps=steps, callbacks=[*callbacks, *killed], **options)
    return found


def weights(found):
    """Whole, of shards too: all ranks call it."""
    return {n: full(p.detach()).clone() for n, p in found.model.named_parameters()}


def fit_in_processes(folder, world=1, strategy="auto", kind="OnPolicySFT", config=None, sample_dtype=None, **options):
    """(exit codes, what each rank has saved) of `fit` in `world` processes as torchrun starts them."""
    return trainings.fit_in_processes(_fit, folder, world, strategy, kind, config, sample_dtype, options)


def _fit(folder, where, kind, config, sample_dtype, options):
    found = fit(training(kind, config, sample_dtype=sample_dtype), folder, **where, **options)
    return {"weights": weights(found), "history": found.history, "skipped": found.skipped}
