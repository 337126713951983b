"""The claims in the small, on speech: a recogniser of spoken words is taught to write while it hears.

Per seed: utterances of three to seven words in random order, spoken by espeak-ng in sixteen voices with pauses and noise
(common/data/speech.py), a causal encoder of log-mel frames (common/streaming/audio.py) in front of a Llama of 0.3 M parameters, trained
on whole utterances (`standins-speech/`, committed; `make standins-gpe` trains it again). Copies of it are tuned with group
ids at several offsets phi and recognise unseen utterances chunk by chunk at every k. k counts chunks of 480 ms.
With NINEFOLD_DATA the same is done with recorded digits (Free Spoken Digit Dataset), trained and tested on disjoint takes.
`tune` and `recorded` are one job each: arguments in, JSON out (common/runs/jobs.py); how much of everything, by SIZES.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.models import ModelSpec
from common.runs.jobs import Job
from common.training.fit import fit

from .. import method
from ..data import SpokenWords
from ..module import StreamingTraining
from ..recognisers import FEATURES, RECOGNISERS, recogniser, speech_scores, train_recogniser

KS, PHIS = (1, 3, 5), (0, 64, 512)
DIGITS = "speech/fsdd.zip"


@dataclass(frozen=True)
class Size:
    """short, long: steps of tuning. batch: utterances a step. test: unseen ones that are streamed. job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    short: int
    long: int
    batch: int
    test: int
    job_seconds: float


SIZES = {"smoke": Size((0,), short=1, long=2, batch=4, test=8, job_seconds=1),
         "cpu": Size((0, 1, 2), short=300, long=1000, batch=32, test=200, job_seconds=200)}


# -- the jobs ----------------------------------------------------------------------------------------------
def jobs(size: str = "cpu") -> list[Job]:
    """Group ids at every phi and seed; one longer tuning shows whether the farthest offset catches up."""
    s = SIZES[size]
    tuned = [(phi, seed, "short", "") for phi in PHIS for seed in s.seeds] + [(PHIS[-1], 0, "long", f", {s.long} steps")]
    words = Job("speech/words", f"{__name__}:words", {"bank": "espeak", "size": size}, seconds=min(20, s.job_seconds))
    return [words, *(Job(f"speech/phi {phi}{more}/seed{seed}", f"{__name__}:tune",
                         {"seed": seed, "phi": phi, "budget": budget, "size": size},
                         seconds=min(60 if budget == "short" else 170, s.job_seconds), after=(words.name,))
                     for phi, seed, budget, more in tuned)]


def digit_jobs(size: str = "cpu") -> list[Job]:
    """Recorded digits. Raises DataError where NINEFOLD_DATA lacks them."""
    from common.files import data_file

    data = (str(data_file(DIGITS)),)
    return [Job(f"digits/phi {PHIS[0]}/seed{seed}", f"{__name__}:recorded", {"seed": seed, "phi": PHIS[0], "size": size}, data,
                min(150, SIZES[size].job_seconds)) for seed in SIZES[size].seeds]


def words(bank: str, size: str = "cpu") -> dict:
    """Synthesises the words, the same at every size, which the other jobs then find in the cache; what the bank is."""
    return SpokenWords(bank=bank, seed=0).banks()[1].facts()


def data(seed: int, bank: str, ks, steps: int, batch: int, first: int = 0) -> SpokenWords:
    return SpokenWords(list(ks), bank, train_samples=steps * batch, first=first, batch_size=batch, seed=seed)


def tune(seed: int, phi: float, budget: str = "short", size: str = "cpu", bank: str = "espeak", folder: str | None = None) -> dict:
    """Group ids at phi: tuned from the batch recogniser, then streamed at every k and asked for whole utterances.

    budget: "short" or "long". folder: of another batch recogniser than the committed one.
    """
    s = SIZES[size]
    steps = getattr(s, budget)
    module = StreamingTraining(ModelSpec(str(RECOGNISERS / f"seed{seed}")), "group", phi, 1e-3, weight_decay=0.01, beta2=0.98,
                               warmup_steps=5, features=FEATURES, seed=seed)
    module.loaded, encoder = recogniser(seed, Path(folder) if folder else None)
    module.configure_model()
    module.projector.load_state_dict(encoder.state_dict())
    losses = fit(module, data(seed, bank, KS, steps, s.batch, first=10**6), steps)
    arm = method.arm("group", phi)
    return {"model": module.loaded.source, "data": SpokenWords(bank=bank, seed=seed).banks()[1].facts(),
            "loss": sum(losses[-10:]) / len(losses[-10:]),
            "stream": speech_scores(module.model, module.projector, arm, seed, bank, s.test, KS),
            "batch": speech_scores(module.model, module.projector, arm, seed, bank, s.test, (None,))}


def recorded(seed: int, phi: float, size: str = "cpu") -> dict:
    """The same on recorded digits (NINEFOLD_DATA): the batch recogniser is trained first, on other takes than it is tested on."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trained = train_recogniser(seed, "fsdd", Path(folder), size)
        return tune(seed, phi, "short", size, "fsdd", folder) | {"batch-trained": {"wer": trained["wer"]}}
