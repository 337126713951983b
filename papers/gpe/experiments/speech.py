"""The claims in the small, on speech: a recogniser of spoken words is taught to write while it hears.

Per seed: utterances of three to seven words in random order, spoken by espeak-ng in sixteen voices with pauses and noise
(common/data/speech.py), a causal encoder of log-mel frames (common/streaming/audio.py) in front of a Llama of 0.3 M parameters, trained
on whole utterances (`standins-speech/`, three committed; `make standins-gpe` trains them again). Copies of it are tuned with
group ids at several offsets phi, and in order of arrival, and recognise unseen utterances chunk by chunk at every k. k counts
chunks of 480 ms.
With NINEFOLD_DATA the same is done with recorded digits (Free Spoken Digit Dataset), trained and tested on disjoint takes.
`tune` and `recorded` are one job each: arguments in, JSON out (common/runs/jobs.py); how much of everything, by SIZES.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from common.models import ModelSpec
from common.runs.jobs import Job
from common.seeds import asked
from common.training.fit import fit

from .. import method
from ..data import TUNE_FROM, SpokenWords
from ..module import StreamingTraining
from ..recognisers import COMMITTED, FEATURES, recogniser, recogniser_folder, speech_scores, train_recogniser

KS, PHIS = (1, 3, 5), (0, 64, 512)
DIGITS = "speech/fsdd.zip"


@dataclass(frozen=True)
class Size:
    """steps: of tuning. batch: utterances a step. test: unseen ones that are streamed. job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    steps: int
    batch: int
    test: int
    job_seconds: float


SIZES = {"smoke": Size((0,), steps=1, batch=4, test=8, job_seconds=1),
         "cpu": Size(asked(), steps=600, batch=32, test=200, job_seconds=200)}


# -- the jobs ----------------------------------------------------------------------------------------------
def jobs(size: str = "cpu") -> list[Job]:
    """Group ids at every phi and seed, and interleaved streaming, which is known to differ; before them what they all need."""
    s = SIZES[size]
    words = Job("speech/words", f"{__name__}:words", {"bank": "espeak", "size": size}, seconds=min(20, s.job_seconds))
    trained = {seed: Job(f"speech/standin/seed{seed}", f"{__name__}:standin", {"seed": seed, "size": size}, after=(words.name,),
                         seconds=min(100, s.job_seconds)) for seed in s.seeds if seed not in COMMITTED}
    tuned = [(f"phi {phi}", {"phi": phi}) for phi in PHIS] + [("interleaved", {"phi": 0, "arm": "interleaved"})]
    return [words, *trained.values(),
            *(Job(f"speech/{name}/seed{seed}", f"{__name__}:tune", {"seed": seed, "size": size, **arguments},
                  seconds=min(110, s.job_seconds), after=(trained[seed].name if seed in trained else words.name,))
              for name, arguments in tuned for seed in s.seeds)]


def digit_jobs(size: str = "cpu") -> list[Job]:
    """Recorded digits. Raises DataError where NINEFOLD_DATA lacks them."""
    from common.files import data_file

    data = (str(data_file(DIGITS)),)
    return [Job(f"digits/phi {PHIS[0]}/seed{seed}", f"{__name__}:recorded", {"seed": seed, "phi": PHIS[0], "size": size}, data,
                min(150, SIZES[size].job_seconds)) for seed in SIZES[size].seeds]


def words(bank: str, size: str = "cpu") -> dict:
    """Synthesises the words, the same at every size, which the other jobs then find in the cache; what the bank is."""
    return SpokenWords(bank=bank, seed=0).banks()[1].facts()


def standin(seed: int, size: str = "cpu") -> dict:
    """The batch recogniser of a seed beyond the committed ones: trained where the cache lacks it; what it can do."""
    recogniser(seed)
    card = json.loads((recogniser_folder(seed) / "training.json").read_text(encoding="utf-8"))
    return {name: card[name] for name in ("seed", "steps", "wer")}


def data(seed: int, bank: str, ks, steps: int, batch: int, first: int = 0) -> SpokenWords:
    return SpokenWords(list(ks), bank, train_samples=steps * batch, first=first, batch_size=batch, seed=seed)


def tune(seed: int, phi: float, arm: str = "group", size: str = "cpu", bank: str = "espeak", folder: str | None = None) -> dict:
    """One arm at phi: tuned from the batch recogniser, then streamed at every k and asked for whole utterances.

    folder: of another batch recogniser than the seed's own.
    """
    s = SIZES[size]
    steps, own = s.steps, method.arm(arm, phi)
    module = StreamingTraining(ModelSpec(str(folder or recogniser_folder(seed))), arm, phi, 1e-3, weight_decay=0.01, beta2=0.98,
                               warmup_steps=5, features=FEATURES, seed=seed)
    module.loaded, encoder = recogniser(seed, Path(folder) if folder else None)
    module.configure_model()
    module.projector.load_state_dict(encoder.state_dict())
    losses = fit(module, data(seed, bank, KS, steps, s.batch, first=TUNE_FROM), steps)
    return {"model": module.loaded.source, "data": SpokenWords(bank=bank, seed=seed).banks()[1].facts(),
            "loss": sum(losses[-10:]) / len(losses[-10:]),
            "stream": speech_scores(module.model, module.projector, own, seed, bank, s.test, KS),
            "batch": speech_scores(module.model, module.projector, own, seed, bank, s.test, (None,))}


def recorded(seed: int, phi: float, size: str = "cpu") -> dict:
    """The same on recorded digits (NINEFOLD_DATA): the batch recogniser is trained first, on other takes than it is tested on."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trained = train_recogniser(seed, "fsdd", Path(folder), size)
        return tune(seed, phi, "group", size, "fsdd", folder) | {"batch-trained": {"wer": trained["wer"]}}
