"""How streamed text is scored, once for experiments and stand-ins: quality and latency of unseen sentences."""

from __future__ import annotations

import functools
import itertools

from torch import nn

from common.benchmarks.translation import bleu_from_statistics, latency, sentence_statistics
from common.streaming.units import Example
from common.streaming.words import Boundary

from . import method
from .data import LEARNT, TEST_FROM, toy_examples
from .decoding import stream
from .toy import TARGET_END, Language


def scores(hypotheses: list[str], delays: list[list[int]], examples: list[Example], truncated: int = 0,
           tokenize: str = "13a") -> dict:
    """BLEU, exact matches and latency of one decoded set. statistics: per sentence, for paired bootstrap. words: of the references."""
    references = [e.reference for e in examples]
    statistics = sentence_statistics(hypotheses, references, tokenize)
    found = latency(delays, [e.n_units for e in examples], [len(r.split()) for r in references])
    return {
        "bleu": bleu_from_statistics(statistics.sum(0)),
        "exact": sum(h == r for h, r in zip(hypotheses, references)) / len(references),
        "truncated": truncated,
        "words": sum(len(r.split()) for r in references),
        **{name: found[name] for name in ("AL", "LAAL", "AP", "DAL")},
        "statistics": statistics.tolist(),
    }


@functools.cache
def test_numbers(seed: int, count: int) -> tuple[int, ...]:
    """Numbers of the test sentences: each is another sentence, and none of those that a model of this seed learns from. A second."""
    return tuple(Language.draw(seed).unseen(count, TEST_FROM, itertools.chain(*LEARNT)))


@functools.lru_cache(maxsize=4)
def test_sentences(seed: int, count: int) -> tuple[list[Example], Boundary]:
    language = Language.draw(seed)
    return toy_examples(language, test_numbers(seed, count)), Boundary("ends", language.word_ends(), language.pieces().index(TARGET_END))


def text_scores(model: nn.Module, arm: method.Arm, seed: int, count: int, ks) -> dict[str, dict]:
    """{"1": {...}, ..., "batch": {...}}: quality and latency of streaming `count` test sentences of the seed at each k."""
    examples, boundary = test_sentences(seed, count)
    tokenizer, rows = Language.draw(seed).tokenizer(), {}
    for k in ks:
        streams = stream(model, arm, examples, boundary, k, max_target=40)
        rows[str(k or "batch")] = scores([s.text(tokenizer) for s in streams], [s.delays for s in streams], examples,
                                         truncated=sum(s.truncated for s in streams), tokenize="none")
    return rows
