"""The claims in the small, on speech: a recogniser of spoken words is taught to write while it hears.

Per seed: utterances of three to seven words in random order, spoken by espeak-ng in sixteen voices with pauses and noise
(common/data/speech.py), a causal encoder of log-mel frames (speech.py) in front of a Llama of 0.3 M parameters, trained
on whole utterances (`standins-speech/`, committed; `make standin-gpe` trains it again). Copies of it are tuned with group
ids at several offsets phi and recognise unseen utterances chunk by chunk at every k. k counts chunks of 480 ms.
With NINEFOLD_DATA the same is done with recorded digits (Free Spoken Digit Dataset), trained and tested on disjoint takes.
`tune` and `recorded` are one job each: arguments in, JSON out (common/jobs.py); how much of everything, by SIZES.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.benchmarks.speech import wer
from common.benchmarks.translation import latency
from common.jobs import write_json
from common.models import ModelSpec, load

from . import method
from .data import SPECIAL, SpokenWords
from .decoding import Boundary, stream
from .module import StreamingTraining
from .segments import Example
from .small import BASE_CONFIG, fit
from .speech import AudioEncoder
from .toy import TARGET_END

STANDINS = Path(__file__).parent / "standins-speech"
KS, PHIS, FEATURES = (1, 3, 5), (0, 64, 512), 160


@dataclass(frozen=True)
class Size:
    """base: steps of the batch training; short, long: of tuning. batch: utterances a step. test: unseen ones that are streamed."""

    seeds: tuple[int, ...]
    base: int
    short: int
    long: int
    batch: int
    test: int


SIZES = {"smoke": Size((0,), base=2, short=1, long=2, batch=4, test=8),
         "cpu": Size((0, 1, 2), base=600, short=300, long=1000, batch=32, test=200)}


def data(seed: int, bank: str, ks, steps: int, batch: int, first: int = 0) -> SpokenWords:
    return SpokenWords(list(ks), bank, train_samples=steps * batch, first=first, batch_size=batch, seed=seed)


@functools.lru_cache(maxsize=2)
def test_set(seed: int, bank: str, count: int) -> tuple[list[Example], list[str]]:
    """Unseen utterances, and the words in the order of their ids."""
    source = SpokenWords(bank=bank, seed=seed)
    recordings = source.banks()[1]
    return source.cut(recordings, count, 10**9), recordings.words


def measure(model: nn.Module, encoder: AudioEncoder, arm: method.Arm, seed: int, bank: str, count: int, ks=KS) -> dict[str, dict]:
    """{"1": {...}, ..., "batch": {...}}: WER, and latency in ms of the audio heard when each word was written."""
    examples, words = test_set(seed, bank, count)
    boundary = Boundary("ends", torch.ones(len(SPECIAL) + len(words), dtype=torch.bool), SPECIAL.index(TARGET_END),
                        tuple(i for i, token in enumerate(SPECIAL) if token != TARGET_END))
    rows = {}
    for k in ks:
        streams = stream(model, arm, examples, boundary, k, max_target=16, project=encoder.eval())
        texts = [" ".join(words[token - len(SPECIAL)] for word in s.words for token in word) for s in streams]
        heard = [[e.unit_ends[read - 1] for read in s.delays] for s, e in zip(streams, examples)]
        found = wer(texts, [e.reference for e in examples])
        late = latency(heard, [e.unit_ends[-1] for e in examples], [len(e.reference.split()) for e in examples])
        rows[str(k or "batch")] = {"wer": found["wer"], "scorer": found["version"], "sentences": found["sentences"],
                                   "no output": late["skipped"], **{name: late[name] for name in ("AL", "LAAL", "AP", "DAL")}}
    return rows


def train_base(seed: int, bank: str = "espeak", folder: Path | None = None, size: str = "cpu") -> dict:
    """The batch recogniser of a seed: whole utterances, contiguous ids, loss on the words."""
    from safetensors.torch import save_file

    s = SIZES[size]
    words = len(test_set(seed, bank, s.test)[1])
    module = StreamingTraining(ModelSpec("random", config=BASE_CONFIG | {"vocab_size": len(SPECIAL) + words}, seed=seed),
                               "contiguous", learning_rate=2e-3, weight_decay=0.01, beta2=0.98, warmup_steps=20,
                               features=FEATURES, seed=seed)
    losses = fit(module, data(seed, bank, (None,), s.base, s.batch), s.base, bar=True)
    score = measure(module.model, module.projector, method.arm("contiguous"), seed, bank, s.test, (None,))["batch"]
    result = {"seed": seed, "steps": s.base, "bank": bank, "wer": score["wer"],
              "curve": [[step, round(losses[step], 4)] for step in range(0, s.base, 25)]}
    folder = folder or STANDINS / f"seed{seed}"
    module.model.half().save_pretrained(folder)
    save_file({name: t.half().contiguous() for name, t in module.projector.state_dict().items()}, folder / "encoder.safetensors")
    write_json(folder / "training.json", result)
    return result


def base(seed: int, folder: Path | None = None):
    """(Loaded, encoder) of the committed recogniser."""
    from safetensors.torch import load_file

    folder = folder or STANDINS / f"seed{seed}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.name} of standins-speech/ is missing: restore it or run `make standin-gpe`")
    loaded = load(ModelSpec(str(folder)))
    encoder = AudioEncoder(FEATURES, loaded.model.config.hidden_size)
    encoder.load_state_dict({name: t.float() for name, t in load_file(folder / "encoder.safetensors").items()})
    return loaded, encoder


def tune(seed: int, phi: float, budget: str = "short", size: str = "cpu", bank: str = "espeak", folder: str | None = None) -> dict:
    """Group ids at phi: tuned from the batch recogniser, then streamed at every k and asked for whole utterances.

    budget: "short" or "long". folder: of another batch recogniser than the committed one.
    """
    s = SIZES[size]
    steps = getattr(s, budget)
    module = StreamingTraining(ModelSpec(str(STANDINS / f"seed{seed}")), "group", phi, 1e-3, weight_decay=0.01, beta2=0.98,
                               warmup_steps=5, features=FEATURES, seed=seed)
    module.loaded, encoder = base(seed, Path(folder) if folder else None)
    module.configure_model()
    module.projector.load_state_dict(encoder.state_dict())
    losses = fit(module, data(seed, bank, KS, steps, s.batch, first=10**6), steps)
    arm = method.arm("group", phi)
    return {"model": module.loaded.source, "data": SpokenWords(bank=bank, seed=seed).banks()[1].facts(),
            "loss": sum(losses[-10:]) / len(losses[-10:]),
            "stream": measure(module.model, module.projector, arm, seed, bank, s.test),
            "batch": measure(module.model, module.projector, arm, seed, bank, s.test, (None,))}


def recorded(seed: int, phi: float, size: str = "cpu") -> dict:
    """The same on recorded digits (NINEFOLD_DATA): the batch recogniser is trained first, on other takes than it is tested on."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trained = train_base(seed, "fsdd", Path(folder), size)
        return tune(seed, phi, "short", size, "fsdd", folder) | {"batch-trained": {"wer": trained["wer"]}}
