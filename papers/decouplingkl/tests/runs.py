"""Small trainings that the tests compare, in this process or in ones of their own."""

from types import SimpleNamespace

from common.data import chains
from common.models import ModelSpec, load, tiny
from common.reasoning.rollouts import Rollout, full
from tests import trainings
from tests.trainings import KillAt

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


def fit(found, folder, *, data=None, steps=2, kill_at=None, callbacks=(), curriculum=None, **options):
    """Trains for `steps` steps in all, resumed ones counted; returns found."""
    gate = [EntropyGatedLength(**curriculum)] if curriculum else []
    killed = [] if kill_at is None else [KillAt(kill_at, lambda module, _: module.done)]
    trainings.fit(found, data or Coin(count=16, held_out=4, seed=5), folder, steps=steps, callbacks=[*callbacks, *gate, *killed], **options)
    return found


def weights(found):
    """Whole, of shards too: all ranks call it."""
    return {n: full(p.detach()).clone() for n, p in found.model.named_parameters()}


def fit_in_processes(folder, world=1, strategy="auto", kind="Distilling", config=None, sample_dtype=None, trajectories=None, **options):
    """(exit codes, what each rank has saved) of `fit` in `world` processes as torchrun starts them."""
    made = {"sample_dtype": sample_dtype} | ({"trajectories": trajectories} if trajectories else {})
    return trainings.fit_in_processes(_fit, folder, world, strategy, kind, config, made, options)


def _fit(folder, where, kind, config, made, options):
    found = fit(training(kind, config, **made), folder, **where, **options)
    decisions = [row for c in found.trainer.callbacks if isinstance(c, EntropyGatedLength) for row in c.decisions]
    return {"weights": weights(found), "history": found.history, "decisions": decisions}
