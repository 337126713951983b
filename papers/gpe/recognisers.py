"""Recognisers of spoken words (batch training, a minute and a half of CPU each), and how their streams are scored.

Three are committed; that of any other seed is trained where the cache lacks it, by the same recipe.

Apart from common/streaming/audio.py, which trainings on text import, too: they do not depend on these weights.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import torch
from torch import nn

from common.benchmarks.speech import wer
from common.benchmarks.translation import latency
from common.files import building, cache_dir, write_json
from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.streaming.audio import CausalEncoder
from common.streaming.units import Example
from common.streaming.words import Boundary
from common.training.fit import fit

from . import method
from .data import LEARNT, SPECIAL, TEST_FROM, SpokenWords
from .decoding import stream
from .module import StreamingTraining
from .toy import CONFIG, TARGET_END, Recipe

RECOGNISERS = Path(__file__).parent / "standins-speech"
COMMITTED = (0, 1, 2)
FEATURES = 160  # of a source token: stacked log-mel frames


SIZES = {"smoke": Recipe(steps=2, batch=4, test=8), "cpu": Recipe(steps=600, batch=32, test=200)}


def recogniser_folder(seed: int) -> Path:
    """Where the recogniser of a seed is: committed, or in the cache, named by all that its training depends on."""
    if seed in COMMITTED:
        return RECOGNISERS / f"seed{seed}"
    key = Job("standin", f"{__name__}:train_recogniser", {"seed": seed}).key()
    return cache_dir() / "standins-gpe" / f"recogniser-seed{seed}-{key}"


def recogniser(seed: int, folder: Path | None = None):
    """(Loaded, encoder) of a seed's recogniser, or of the one in `folder`."""
    from safetensors.torch import load_file

    own, folder = folder is None, folder or recogniser_folder(seed)
    if not folder.is_dir():
        if not own or seed in COMMITTED:
            raise FileNotFoundError(f"{folder.name} of standins-speech/ is missing: restore it or run `make standins-gpe`")
        with building(folder) as made:
            train_recogniser(seed, folder=made, bar=False)
    loaded = load(ModelSpec(str(folder)))
    encoder = CausalEncoder(FEATURES, loaded.model.config.hidden_size)
    encoder.load_state_dict({name: t.float() for name, t in load_file(folder / "encoder.safetensors").items()})
    return loaded, encoder


@functools.lru_cache(maxsize=2)
def test_utterances(seed: int, bank: str, count: int) -> tuple[list[Example], list[str]]:
    """Unseen utterances, and the words in the order of their ids. Of synthesised words no string of them was trained on."""
    source = SpokenWords(bank=bank, seed=seed)
    banks = source.banks()
    return source.cut(banks[1], source.unseen(banks, count, TEST_FROM, itertools.chain(*LEARNT))), banks[1].words


def speech_scores(model: nn.Module, encoder: CausalEncoder, arm: method.Arm, seed: int, bank: str, count: int, ks) -> dict[str, dict]:
    """{"1": {...}, ..., "batch": {...}}: WER, and latency in ms of the audio heard when each word was written."""
    examples, words = test_utterances(seed, bank, count)
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
                                   "words": sum(len(e.reference.split()) for e in examples),
                                   "no output": late["skipped"], **{name: late[name] for name in ("AL", "LAAL", "AP", "DAL")}}
    return rows


def train_recogniser(seed: int, bank: str = "espeak", folder: Path | None = None, size: str = "cpu",
                     bar: bool = True) -> dict:
    """The batch recogniser of a seed: whole utterances, contiguous ids, loss on the words."""
    from safetensors.torch import save_file

    s = SIZES[size]
    words = len(test_utterances(seed, bank, s.test)[1])
    module = StreamingTraining(ModelSpec("random", config=CONFIG | {"vocab_size": len(SPECIAL) + words}, seed=seed),
                               "contiguous", learning_rate=2e-3, weight_decay=0.01, beta2=0.98, warmup_steps=20,
                               features=FEATURES, seed=seed)
    losses = fit(module, SpokenWords([None], bank, train_samples=s.steps * s.batch, batch_size=s.batch, seed=seed), s.steps, bar=bar)
    score = speech_scores(module.model, module.projector, method.arm("contiguous"), seed, bank, s.test, (None,))["batch"]
    result = {"seed": seed, "steps": s.steps, "bank": bank, "wer": score["wer"],
              "curve": [[step, round(losses[step], 4)] for step in range(0, s.steps, 25)]}
    folder = folder or RECOGNISERS / f"seed{seed}"
    module.model.half().save_pretrained(folder)
    save_file({name: t.half().contiguous() for name, t in module.projector.state_dict().items()}, folder / "encoder.safetensors")
    write_json(folder / "training.json", result)
    return result
