"""The claims in the small, on speech: words that are written down while they are spoken, and questions about what is being said.

Synthesised words of sixteen voices (common/data/speech.py) behind a causal encoder, a decision every 240 ms. Recognition is monotone, and
its fair rival is a fixed rule that knows how many units a word takes: wait-k with a stride, which is measured on training items. A
question ("which word came after apple?") is text and stands before the recording; the answer may come early or late in it.
With NINEFOLD_DATA the same is done with recorded digits (Free Spoken Digit Dataset), trained and tested on disjoint takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

from common.files import data_file
from common.runs.jobs import Job
from common.seeds import asked

from ..baselines import WaitK
from ..standins import COMMITTED, FROM, standin
from ..tasks import Task, bank_of
from . import arms
from .arms import How

NAMES = ("full", "batch only")
DIGITS = "speech/fsdd.zip"


@dataclass(frozen=True)
class Size:
    seeds: tuple[int, ...]
    words: How
    spoken: How
    job_seconds: float


SIZES = {
    "smoke": Size((0,), How(1, 2, 3, 3, (0.9,), (2,), 0.78), How(1, 2, 3, 3, (0.9,), (2,), 0.85, law="slack"), job_seconds=1),
    "cpu": Size(asked(), How(250, 32, 64, 128, (0.3, 0.5, 0.7, 0.8, 0.9, 0.97), (1, 1.5, 2, 3, 4, 6), 0.75),
                How(250, 32, 96, 192, (0.3, 0.5, 0.7, 0.8, 0.9, 0.97), (2, 4, 6, 8, 10, 12), 0.85, law="slack"), job_seconds=120)}


def how_of(task: str, size: str, stride: float = 1.0) -> How:
    how = SIZES[size].words if task == "words" else SIZES[size].spoken
    return replace(how, stride=stride)


def jobs(size: str = "cpu") -> list[Job]:
    """Recognition."""
    return _jobs("words", size)


def question_jobs(size: str = "cpu") -> list[Job]:
    """Spoken questions."""
    return _jobs("spoken", size)


def _jobs(task: str, size: str) -> list[Job]:
    of, found = SIZES[size], []

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = (), **arguments) -> None:
        found.append(Job(name, f"{__name__}:{function}", arguments, seconds=min(seconds, of.job_seconds), after=after))

    job(f"speech/{task}/bank", "bank", 20, size=size, task=task)
    for seed in of.seeds:
        after: tuple[str, ...] = (f"speech/{task}/bank",)
        if seed not in COMMITTED[task]:
            job(f"speech/{task}/made/seed{seed}", "made", 600 if task in FROM else 240, after, task=task, seed=seed)
            after = (f"speech/{task}/made/seed{seed}",)
        for name in ("start", *NAMES):
            job(f"speech/{task}/{name}/seed{seed}", "run", 60, after, task=task, seed=seed, arm=name, size=size)
    return found


made = arms.made


def bank(task: str, size: str = "cpu") -> dict:
    """Synthesises the words, the same at every size, which the other jobs then find in the cache; what the bank is."""
    return bank_of("espeak", "train").facts()


def units_of_a_word(task: Task, count: int = 64) -> float:
    """Units of the source that a word of the answer takes, mean over training items: what a stride-aware rule may know."""
    items = task.items(count, "train")
    return fmean(item.example.n_units / (len(item.oracle) - 1) for item in items) if task.name == "words" else 1.0


def run(task: str, seed: int, arm: str, size: str = "cpu") -> dict:
    """One arm of a task, or the stand-in as it is; wait-k with the task's stride, and plain beside it."""
    of = Task(task, seed)
    how = how_of(task, size, units_of_a_word(of))
    if arm == "start":
        (loaded, encoder), loss = standin(task, seed), None
        model = loaded.model
    else:
        model, encoder, loss = arms.trained(task, seed, arm, how)

    def plain(streamer: arms.Streamer) -> dict:
        return {"plain wait": {f"{k:g}": streamer.row(streamer.test, WaitK(2 * k)) for k in how.ks}}

    return {"loss": loss, "stride": how.stride} | arms.measured(model, encoder, of, how, seed, arm == "full", plain)


# -- recorded digits (NINEFOLD_DATA) -----------------------------------------------------------------------
def digit_jobs(size: str = "cpu") -> list[Job]:
    """Raises DataError where NINEFOLD_DATA lacks them."""
    data = (str(data_file(DIGITS)),)
    of = SIZES[size]
    return [Job(f"digits/seed{seed}", f"{__name__}:digits", {"seed": seed, "size": size}, data, min(400, of.job_seconds))
            for seed in of.seeds]


def digits(seed: int, size: str = "cpu") -> dict:
    """Recorded digits: a stand-in is trained first, on other takes than it is tested on, then the full arm from it."""
    from common.models import ModelSpec
    from common.training.fit import fit

    from ..data import Generated
    from ..module import ProactiveTraining
    from ..standins import CONFIG, STEPS
    from ..tasks import FEATURES

    of = Task("words", seed, "fsdd")
    how = how_of("words", size, units_of_a_word(of))
    steps = STEPS["words"] if size == "cpu" else how.steps
    module = ProactiveTraining(ModelSpec("random", config=CONFIG | {"vocab_size": of.vocabulary}, seed=seed), 1, 0, 0, learning_rate=2e-3,
                               weight_decay=0.01, beta2=0.98, warmup_steps=100, schedule="cosine", features=FEATURES, seed=seed)
    fit(module, Generated("words", "fsdd", train_samples=32 * steps, law="batch", batch_size=how.batch, seed=seed), steps)
    found = {"batch-trained": arms.measured(module.model, module.encoder, of, how, seed, False)}
    arm = arms.FULL
    tuned = ProactiveTraining(ModelSpec("in memory"), arm.batch, arm.stream, arm.lam, learning_rate=arms.RATE, weight_decay=0.01,
                              beta2=0.98, warmup_steps=10, features=FEATURES, seed=seed)
    tuned.model, tuned.encoder = module.model.train(), module.encoder.train()
    tuned.source = {"name": "digits", "recipe_sha256": str(seed)}
    fit(tuned, Generated("words", "fsdd", train_samples=how.steps * how.batch, first=10**6, batch_size=how.batch, seed=seed), how.steps)
    return found | {"full": arms.measured(tuned.model, tuned.encoder, of, how, seed, False)}
