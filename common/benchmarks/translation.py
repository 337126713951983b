"""How late and how good a streamed text is: AP, AL, LAAL, DAL from delays; BLEU and chrF by sacrebleu.

A *delay* d_i says how much of the source had been read when target word i was written: a number of words, or
milliseconds of speech. X is the length of the source in the same unit, Y that of the reference in words, n = |d| that
of the hypothesis. The definitions and their corner cases are SimulEval's (its latency_scorer.py; scores of its release
1.1.4 are a fixture of the tests):

    AP    (1 / X Y) sum d_i                                                    Cho & Esipova 2016
    AL    (1 / tau) sum_{i <= tau} d_i - (i - 1) X / Y,                        Ma et al. 2019 (STACL)
          tau the first i with d_i >= X, else n
    LAAL  the same with max(Y, n) for Y                                        Papi et al. 2022
    DAL   (1 / n) sum d'_i - (i - 1) X / n,                                    Cherry & Foster 2019
          d'_1 = d_1, d'_i = max(d_i, d'_{i-1} + X / n)
    and every one of AL, LAAL, DAL is d_1 if d_1 > X: nothing was written before the source had ended.

AL with the hypothesis' length for Y is what papers report that have no reference at hand; it never punishes writing too
much, and where Y is the hypothesis' length LAAL is the same number. Both are offered; records name which.
Numbers may be Fractions, and then stay exact.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

METRICS = ("AL", "LAAL", "AP", "DAL")


# -- one sentence ------------------------------------------------------------------------------------------
def average_proportion(delays: Sequence, source_length, target_length):
    """AP = sum d_i / (X Y). target_length: of the reference, or of the hypothesis if that is the convention."""
    _check(delays, source_length, target_length)
    return sum(delays) / (source_length * target_length)


def average_lagging(delays: Sequence, source_length, target_length):
    """AL with Y = target_length: the reference's (SimulEval's convention) or the hypothesis'. See the head of this file."""
    _check(delays, source_length, target_length)
    if delays[0] > source_length:
        return delays[0]
    total, tau = 0 * source_length, 0
    for i, delay in enumerate(delays):
        total += delay - i * source_length / target_length
        tau = i + 1
        if delay >= source_length:
            break
    return total / tau


def length_adaptive_average_lagging(delays: Sequence, source_length, target_length):
    """LAAL: AL with the longer of reference and hypothesis, so that writing too much is no way to look fast."""
    return average_lagging(delays, source_length, max(target_length, len(delays)))


def differentiable_average_lagging(delays: Sequence, source_length, target_length=None):
    """DAL: every word costs X / n at least, so that words written in a burst are not free. Needs no reference."""
    _check(delays, source_length, 1 if target_length is None else target_length)
    if delays[0] > source_length:
        return delays[0]
    step, total, before = source_length / len(delays), 0 * source_length, None
    for i, delay in enumerate(delays):
        before = delay if before is None else max(delay, before + step)
        total += before - i * step
    return total / len(delays)


def _check(delays: Sequence, source_length, target_length) -> None:
    if not len(delays):
        raise ValueError("no delays: a sentence without output has no latency; leave it out and say so")
    if source_length <= 0 or target_length <= 0:
        raise ValueError(f"lengths must be positive, got source {source_length} and target {target_length}")
    if delays[0] < 0 or any(b < a for a, b in zip(delays, delays[1:])):
        raise ValueError(f"delays must not be negative or fall (what was read stays read): {list(delays)[:20]}")


# -- a set of sentences ------------------------------------------------------------------------------------
def latency(delays: Sequence[Sequence], source_lengths: Sequence, reference_lengths: Sequence | None = None) -> dict[str, Any]:
    """Unweighted means over sentences, and each sentence's own: {"AL": ..., "sentences": {"AL": [...], ...}, ...}.

    reference_lengths None: the hypotheses' lengths are used, and "length" says so. Sentences without output have no
    latency: they are None in "sentences", counted in "skipped", and a warning says how many. Raises ValueError if
    nothing was written at all.
    """
    known = reference_lengths is not None
    lengths = reference_lengths if known else [max(len(d), 1) for d in delays]
    if not len(delays) == len(source_lengths) == len(lengths):
        raise ValueError(f"latency: {len(delays)} hypotheses, {len(source_lengths)} sources, {len(lengths)} references")
    functions = (average_lagging, length_adaptive_average_lagging, average_proportion, differentiable_average_lagging)
    sentences: dict[str, list] = {name: [] for name in METRICS}
    for d, x, y in zip(delays, source_lengths, lengths):
        for name, function in zip(METRICS, functions):
            sentences[name].append(function(d, x, y) if len(d) else None)
    written = [i for i, d in enumerate(delays) if len(d)]
    if not written:
        raise ValueError("latency: no sentence has any output")
    skipped = len(delays) - len(written)
    if skipped:
        warnings.warn(f"latency: {skipped} of {len(delays)} sentences have no output and no latency", stacklevel=2)
    means = {name: fmean(float(values[i]) for i in written) for name, values in sentences.items()}
    return means | {"length": "reference" if known else "hypothesis", "n": len(written), "skipped": skipped,
                    "sentences": sentences}


# -- quality -----------------------------------------------------------------------------------------------
def _bleu_metric(tokenize: str):
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokenize)


def bleu(hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> dict[str, Any]:
    """Corpus BLEU by sacrebleu: {"score", "signature", "n"}. tokenize "none" for text that is words already."""
    metric = _bleu_metric(tokenize)
    score = metric.corpus_score(_same(hypotheses, references), [list(references)])
    return {"score": score.score, "signature": str(metric.get_signature()), "n": len(references)}


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Corpus chrF by sacrebleu: {"score", "signature", "n"}."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    score = metric.corpus_score(_same(hypotheses, references), [list(references)])
    return {"score": score.score, "signature": str(metric.get_signature()), "n": len(references)}


def _same(hypotheses: Sequence[str], references: Sequence[str]) -> list[str]:
    if len(hypotheses) != len(references) or not len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    return list(hypotheses)


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> np.ndarray:
    """What BLEU sums over sentences, int64 (n, 10): lengths of hypothesis and reference, 4 matches, 4 totals."""
    metric = _bleu_metric(tokenize)
    rows = metric._extract_corpus_statistics(_same(hypotheses, references), [list(references)])
    return np.array(rows, dtype=np.int64)


def bleu_from_statistics(total) -> float:
    """Corpus BLEU of summed statistics, equal to sacrebleu's of the same sentences."""
    return float(_bleu_metric("none")._compute_score_from_stats([int(x) for x in total]).score)


def paired_bootstrap(ours, theirs, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """BLEU(ours) - BLEU(theirs) with its 95 % percentile interval over resampled sentences, the same for both.

    ours, theirs: `sentence_statistics` of the same sentences. Koehn 2004.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise ValueError(f"paired bootstrap: {ours.shape} and {theirs.shape} are not of the same sentences")
    difference = bleu_from_statistics(ours.sum(0)) - bleu_from_statistics(theirs.sum(0))
    draws = np.random.default_rng(seed).integers(0, len(ours), (resamples, len(ours)))
    sample = [_bleu(side[draws].sum(1)) for side in (ours, theirs)]
    low, high = np.percentile(sample[0] - sample[1], [2.5, 97.5])
    return {"difference": difference, "low": float(low), "high": float(high)}


def _bleu(statistics: np.ndarray) -> np.ndarray:
    """BLEU of many summed statistics (R, 10) at once; a test holds it equal to sacrebleu's, exp smoothing included."""
    hypothesis, reference = statistics[:, 0].astype(float), statistics[:, 1].astype(float)
    matches, possible = statistics[:, 2:6].astype(float), statistics[:, 6:].astype(float)
    scores = np.zeros(len(statistics))
    usable = (matches[:, 0] > 0) & (possible > 0).all(1)  # sacrebleu stops at an order without n-grams: rare, done below
    smooth = 2.0 ** -np.cumsum(matches == 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(matches > 0, matches, smooth) / possible
        brevity = np.where(hypothesis < reference, np.exp(1 - reference / hypothesis), 1.0)
        scores[usable] = (100 * brevity * np.exp(np.log(precision).mean(1)))[usable]
    for i in np.flatnonzero(~usable & (matches[:, 0] > 0)):
        scores[i] = bleu_from_statistics(statistics[i])
    return scores
