"""Real translations: Multi30k en-de and en-fr (NINEFOLD_DATA), where BLEU is far from its ceiling.

Per pair of languages and seed: a Llama of 1.2 M parameters that translates whole captions (captions.py; committed of seed 0, of further
seeds trained in the cache), and a copy of it for every arm, tuned for the same steps on the same captions with k drawn from 1, 3, 5, 7.
All copies then stream the same 500 captions of the 2016 test set, word by word, at every k; none of them is trained on
(`captions.pairs`). Word ends show only when the next word begins here, so the roll-back of decoding.py is at work. Interleaved
streaming, the rival, is tuned at three rates, and the one that is best on validation captions counts (quantities.py). One job is one arm
of a seed: a run that is killed loses a minute or two. `make reproduce-gpe ONLY=multi30k`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from common.files import data_file
from common.models import Loaded, ModelSpec
from common.runs.jobs import Job
from common.seeds import asked
from common.streaming.units import Example
from common.training.fit import fit

from .. import method
from ..captioners import COMMITTED, captioner, folder_of
from ..captions import LANGUAGES, Captions, caption_streams, examples, names
from ..module import StreamingTraining
from ..scoring import scores

KS = (1, 3, 5, 7)
PHIS = (0, 0.5, 64, 256)  # the first is that of the plain group arm
RATE, RATES = 1e-3, (3e-4, 1e-3, 3e-3)  # of every arm, as on the toy languages; those that interleaved streaming may choose from
SWEPT = "interleaved"
ARMS = ("interleaved_group", "batch_streaming", "finished_frozen", "group", "no_source_positions", "no_target_positions", "no_positions")


@dataclass(frozen=True)
class Size:
    """steps, batch: of an arm's tuning. test: captions that are streamed; held: validation captions, for the choice of a rate.

    seeds: what a run takes; what reads results takes the seeds that it finds in them."""

    seeds: tuple[int, ...]
    steps: int
    batch: int
    test: int
    held: int
    job_seconds: float


SIZES = {"smoke": Size((0,), steps=2, batch=4, test=4, held=4, job_seconds=2),
         "cpu": Size(asked(), steps=200, batch=32, test=500, held=250, job_seconds=1500)}


def data_files() -> tuple[str, ...]:
    """All that the experiment reads, relative to NINEFOLD_DATA."""
    return names(*LANGUAGES)


# -- the jobs ----------------------------------------------------------------------------------------------
def jobs(size: str = "cpu") -> list[Job]:
    """Raises DataError where NINEFOLD_DATA lacks a file."""
    return [job for language in LANGUAGES for seed in SIZES[size].seeds for job in jobs_of(language, seed, size)]


def jobs_of(language: str, seed: int, size: str) -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu."""
    most, found = SIZES[size].job_seconds, []
    data = tuple(str(data_file(name)) for name in names(language))
    first = () if seed in COMMITTED else (f"multi30k/en-{language}/base/seed{seed}",)

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = first, **arguments) -> None:
        found.append(Job(f"multi30k/en-{language}/{name}/seed{seed}", f"{__name__}:{function}",
                         {"language": language, "seed": seed, "size": size, **arguments}, data, min(seconds, most), after))

    if first:
        job("base", "base", 1200, after=())
    job("untuned", "untuned", 30)
    for rate in RATES:
        job(f"{SWEPT}, {rate:g}", "tune", 65, arm=SWEPT, rate=rate, held=True)
    for arm in ARMS:
        job(arm, "tune", 80 if arm == "batch_streaming" else 60, arm=arm)
    for phi in PHIS[1:]:
        job(f"group, phi {phi}", "tune", 60, arm="group", phi=phi)
    job("batch", "tune_batch", 50)
    return found


def base(language: str, seed: int, size: str = "cpu") -> dict:
    """The batch-trained model of a seed beyond the committed ones: trained where the cache lacks it; what it can do."""
    captioner(language, seed)
    return card(language, seed)


def card(language: str, seed: int) -> dict:
    """What the base's training says of it."""
    found = json.loads((folder_of(language, seed) / "training.json").read_text(encoding="utf-8"))
    return {name: found[name] for name in ("seed", "steps", "parameters", "bleu", "validation captions", "training pairs")}


def untuned(language: str, seed: int, size: str = "cpu") -> dict:
    """The batch-trained model as it is: whole captions, and a stream that encodes everything again at every word."""
    loaded, some = captioner(language, seed), test(language, seed, size)
    return {"model": loaded.source, "base": card(language, seed), "test sentences": len(some),
            "batch": measure(loaded, method.arm("contiguous"), some, (None,)),
            "kv_reencoding": measure(loaded, method.arm("kv_reencoding"), some)}


def tune(language: str, seed: int, arm: str, phi: float = 0.0, rate: float = RATE, held: bool = False, size: str = "cpu") -> dict:
    """One arm: its loss, its streaming scores, whole captions in its own way; of batch_streaming also with KV re-encoding.

    held: also streamed are validation captions, for the choice of a rate.
    """
    loaded, losses = tuned(language, seed, arm, phi, rate, KS, size)
    own, some = method.arm(arm, phi), test(language, seed, size)
    result = {"loss": sum(losses[-10:]) / len(losses[-10:]), "stream": measure(loaded, own, some),
              "batch": measure(loaded, own, some, (None,))}
    if held:
        result["validation"] = measure(loaded, own, examples(loaded.tokenizer, language, "val", SIZES[size].held))
    if arm == "batch_streaming":
        result["kv_reencoding"] = measure(loaded, method.arm("kv_reencoding"), some)
    return result


def tune_batch(language: str, seed: int, size: str = "cpu") -> dict:
    """The same steps spent on whole captions: what batch mode could reach."""
    loaded, losses = tuned(language, seed, "contiguous", 0.0, RATE, (None,), size)
    return {"loss": sum(losses[-10:]) / len(losses[-10:]),
            "batch": measure(loaded, method.arm("contiguous"), test(language, seed, size), (None,))}


# -- their parts -------------------------------------------------------------------------------------------
def tuned(language: str, seed: int, arm: str, phi: float, rate: float, ks, size: str) -> tuple[Loaded, list[float]]:
    """A copy of the seed's base, tuned as `arm`: the same captions in the same order for every arm of the seed."""
    s = SIZES[size]
    module = StreamingTraining(ModelSpec("captions"), arm, phi, rate, weight_decay=0.01, beta2=0.98, warmup_steps=10, seed=seed)
    module.loaded = start = captioner(language, seed)
    losses = fit(module, Captions(ks, language, s.batch, 1000 + seed), s.steps)
    return start._replace(model=module.model), losses


def test(language: str, seed: int, size: str) -> list[Example]:
    return examples(captioner(language, seed).tokenizer, language, "test_2016_flickr", SIZES[size].test)


def measure(loaded: Loaded, arm: method.Arm, some: list[Example], ks=KS) -> dict[str, dict]:
    """{"1": {...}, ..., "batch": {...}}: quality and latency of these captions, streamed at each k."""
    rows, words = {}, loaded.tokenizer
    for k in ks:
        streams = caption_streams(loaded.model, words, arm, some, k)
        rows[str(k or "batch")] = scores([s.text(words) for s in streams], [s.delays for s in streams], some,
                                         truncated=sum(s.truncated for s in streams))
    return rows
