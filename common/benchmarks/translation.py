"""How late and how good a streamed text is: AP, AL, LAAL, DAL from delays; BLEU and chrF by sacrebleu.

A *delay* d_i says how much of the source had been read when target word i was written: a number of words, or
milliseconds of speech. X is the length of the source in the same unit, Y that of the reference in words, n = |d| that
of the hypothesis. The definitions and their corner cases are those of SimulEval's text and speech scorers (scores that
its release 1.1.4 gave are a fixture of the tests, to 1e-12):

- Y is the reference's length; the hypothesis' where there is no reference. Papers report both, and with the
  hypothesis' length AL and LAAL are one number, which never punishes writing too much. Results name which was used.
- AL and LAAL are d_1 if d_1 >= X, for tau is 1 then: nothing was written before the source had ended. AP and DAL have
  no such rule.
- Words written at once share a delay. The scores of a set are means over its sentences, whatever their lengths.

What SimulEval lets pass is refused here: falling or negative delays, and lengths that are not positive.
Numbers may be Fractions, and then every score is exact.
"""

from __future__ import annotations

import importlib.util
import math
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from statistics import fmean
from typing import Any

import numpy as np

from ..errors import needed

METRICS = ("AL", "LAAL", "AP", "DAL")
LENGTHS = ("reference", "hypothesis")


# -- latency of one sentence ---------------------------------------------------------------------------------
def average_proportion(delays: Sequence, source_length, target_length=None):
    """AP = sum_i d_i / (X Y), the share of the source read, averaged over target words (Cho & Esipova 2016).

    target_length: Y of the reference; None takes the hypothesis'. Above 1 if the hypothesis is long enough for it.
    Raises ValueError, as the three functions below do, for no delays, delays that fall, are negative or not finite, and
    lengths that are not positive.
    """
    length = _target_length(delays, source_length, target_length)
    return sum(delays) / (source_length * length)


def average_lagging(delays: Sequence, source_length, target_length=None):
    """AL = (1 / tau) sum_{i <= tau} d_i - (i - 1) X / Y, words behind an ideal writer (Ma et al. 2019, STACL).

    tau is the first i with d_i >= X, or n if none is: words written after the source has ended wait for nothing more.
    target_length: Y of the reference; None takes the hypothesis'. Below 0 if the hypothesis runs ahead of the ideal.
    """
    length = _target_length(delays, source_length, target_length)
    return _lagging(delays, source_length, length)


def length_adaptive_average_lagging(delays: Sequence, source_length, target_length=None):
    """LAAL: AL with max(Y, n) for Y, so that writing too much is no way to look fast (Papi et al. 2022)."""
    length = _target_length(delays, source_length, target_length)
    return _lagging(delays, source_length, max(length, len(delays)))


def differentiable_average_lagging(delays: Sequence, source_length, target_length=None):
    """DAL = (1 / n) sum_i d'_i - (i - 1) X / n, d'_1 = d_1, d'_i = max(d_i, d'_{i-1} + X / n) (Cherry & Foster 2019).

    Every word costs X / n at least, so that words written in a burst are not free. n is always the hypothesis'
    length; target_length is only checked. d_1 > X is no special case, as in SimulEval.
    """
    _target_length(delays, source_length, target_length)
    step, total, written = _per_word(delays, source_length, len(delays)), 0, None
    for i, delay in enumerate(delays):
        written = delay if written is None else max(delay, written + step)
        total += written - i * step
    return total / len(delays)


def _lagging(delays: Sequence, source_length, target_length):
    step, total, tau = _per_word(delays, source_length, target_length), 0, 0
    for i, delay in enumerate(delays):
        total += delay - i * step
        tau = i + 1
        if delay >= source_length:
            break
    return total / tau


def _per_word(delays: Sequence, source_length, length):
    """Source per target word: a Fraction if any input is one, so that whole numbers beside it leave it exact."""
    if any(isinstance(value, Fraction) for value in (*delays, source_length, length)):
        return Fraction(source_length) / Fraction(length)
    return source_length / length


def _target_length(delays: Sequence, source_length, target_length):
    """Y, after all inputs were checked."""
    if not len(delays):
        raise ValueError("no delays: a sentence without output has no latency; leave it out and say so")
    length = len(delays) if target_length is None else target_length
    for name, value in (("source_length", source_length), ("target_length", length)):
        if not value > 0 or not math.isfinite(value):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    for i, delay in enumerate(delays):
        if not math.isfinite(delay) or delay < 0:
            raise ValueError(f"delay {i} is {delay}: delays are finite and not negative")
        if i and delay < delays[i - 1]:
            raise ValueError(f"delay {i} is {delay} after {delays[i - 1]}: what was read stays read, delays never fall")
    return length


# -- latency of a set of sentences ---------------------------------------------------------------------------
def latency(delays: Sequence[Sequence], source_lengths: Sequence, reference_lengths: Sequence | None = None,
            length: str | None = None) -> dict[str, Any]:
    """Unweighted means over sentences, and each sentence's own: {"AL": ..., "sentences": {"AL": [...], ...}, ...}.

    length: "reference" or "hypothesis", whose length is Y; None takes the references where they are given. The result
    says which under "length". SimulEval counts a reference's words as len(reference.split(" ")).
    Sentences without output have no latency: they are None in "sentences", counted in "skipped", and a warning says how
    many; "n" are the others. Raises ValueError if nothing was written at all, and for inputs that the functions above
    refuse, with the sentence's index.
    """
    if length is None:
        length = LENGTHS[reference_lengths is None]
    if length not in LENGTHS:
        raise ValueError(f'latency: length is "reference" or "hypothesis", got {length!r}')
    lengths: Sequence = [None] * len(delays)  # each sentence's own
    if length == "reference":
        if reference_lengths is None:
            raise ValueError('latency: length="reference" needs reference_lengths')
        lengths = reference_lengths
    if not len(delays) == len(source_lengths) == len(lengths):
        raise ValueError(f"latency: {len(delays)} hypotheses, {len(source_lengths)} sources, {len(lengths)} references")
    functions = (average_lagging, length_adaptive_average_lagging, average_proportion, differentiable_average_lagging)
    sentences: dict[str, list] = {name: [] for name in METRICS}
    for i, (d, x, y) in enumerate(zip(delays, source_lengths, lengths)):
        for name, function in zip(METRICS, functions):
            try:
                sentences[name].append(function(d, x, y) if len(d) else None)
            except ValueError as error:
                raise ValueError(f"latency: sentence {i}: {error}") from error
    written = [i for i, d in enumerate(delays) if len(d)]
    if not written:
        raise ValueError(f"latency: none of {len(delays)} sentences has any output")
    skipped = len(delays) - len(written)
    if skipped:
        warnings.warn(f"latency: {skipped} of {len(delays)} sentences have no output and no latency", stacklevel=2)
    means = {name: fmean(float(values[i]) for i in written) for name, values in sentences.items()}
    return means | {"length": length, "n": len(written), "skipped": skipped, "sentences": sentences}


# -- quality -------------------------------------------------------------------------------------------------
def bleu(hypotheses: Sequence[str], references: Sequence[str], tokenize: str | None = None) -> dict[str, Any]:
    """Corpus BLEU by sacrebleu, one reference a sentence: {"score", "signature", "n"}.

    tokenize: sacrebleu's name of a tokenizer; "none" for text that is words already; None: the one for the references' language, by
    their script (`tokenizer_of`), which the signature names. Raises ValueError for an unknown one, and for sides that are not
    equally many strings.
    """
    refuse_unpaired(hypotheses, references)
    return _corpus_score(_bleu_metric(tokenize or tokenizer_of(references)), hypotheses, references)


def tokenizer_of(references: Sequence[str] | str) -> str:
    """sacrebleu's tokenizer for a language, by its code ("zh", "de-AT"), or for texts, by the script that most letters are of.

    Chinese "zh", Japanese "ja-mecab" and Korean "ko-mecab" (where MeCab is installed, else "char"), Thai, Lao, Khmer, Burmese and
    Tibetan "char", and "13a" for all that put blanks between words. With "13a" a Chinese sentence is one word.
    """
    if isinstance(references, str):
        language = references.lower().replace("_", "-").partition("-")[0]
    else:
        letters = Counter(_script(letter) for text in references for letter in text if letter.isalpha())
        language = "ja" if letters["ja"] and letters["ja"] + letters["zh"] > letters["ko"] + letters[""] else max(
            letters, key=lambda name: letters[name], default="")
    if language in ("ja", "ko"):
        module = {"ja": "MeCab", "ko": "mecab_ko"}[language]
        return f"{language}-mecab" if importlib.util.find_spec(module) else "char"
    if language in ("zh", "zho", "yue", "cmn"):
        return "zh"
    return "char" if language in ("th", "lo", "km", "my", "bo") else "13a"


SCRIPTS = {"CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "THAI": "th", "LAO": "lo", "KHMER": "km", "MYANMAR": "my",
           "TIBETAN": "bo"}


def _script(letter: str) -> str:
    """The language that a letter's script stands for where words are not told apart by blanks, or ""."""
    return SCRIPTS.get(unicodedata.name(letter, "").partition(" ")[0], "")


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Corpus chrF (chrF2: 6-grams of characters, no words) by sacrebleu: {"score", "signature", "n"}."""
    with needed("sacrebleu", "benchmarks.translation"):
        from sacrebleu.metrics import CHRF

    return _corpus_score(CHRF(), hypotheses, references)


def _bleu_metric(tokenize: str):
    with needed("sacrebleu", "benchmarks.translation"):
        from sacrebleu.metrics import BLEU

    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"no tokenizer {tokenize!r}; sacrebleu has {', '.join(BLEU.TOKENIZERS)}")
    return BLEU(tokenize=tokenize)


def _corpus_score(metric, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    refuse_unpaired(hypotheses, references)
    score = metric.corpus_score(list(hypotheses), [list(references)])
    return {"score": score.score, "signature": str(metric.get_signature()), "n": len(references)}


def refuse_unpaired(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Raises ValueError unless both sides are lists of strings, equally many and at least one."""
    for name, side in (("hypotheses", hypotheses), ("references", references)):
        if isinstance(side, str) or not all(isinstance(text, str) for text in side):
            raise ValueError(f"{name}: a list of strings is needed, one a sentence")
    if len(hypotheses) != len(references) or not len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references: one each, at least one")


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str], tokenize: str | None = None) -> np.ndarray:
    """What BLEU sums over sentences, int64 (n, 10): lengths of hypothesis and reference, 4 matches, 4 totals. tokenize: as `bleu`."""
    refuse_unpaired(hypotheses, references)
    rows = _bleu_metric(tokenize or tokenizer_of(references))._extract_corpus_statistics(list(hypotheses), [list(references)])
    return np.array(rows, dtype=np.int64)


def bleu_from_statistics(total) -> float:
    """Corpus BLEU of summed statistics (10,), equal to sacrebleu's of the same sentences."""
    from sacrebleu.metrics import BLEU

    if len(total) != 10:
        raise ValueError(f"BLEU is decided by 10 sums (see sentence_statistics), got {len(total)}")
    hypothesis, reference, *counts = (int(x) for x in total)
    return float(BLEU.compute_bleu(counts[:4], counts[4:], hypothesis, reference, smooth_method="exp").score)


# -- resampling sentences ------------------------------------------------------------------------------------
def paired_bootstrap(ours, theirs, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """BLEU(ours) - BLEU(theirs) with its 95 % percentile interval over resampled sentences (Koehn 2004).

    ours, theirs: `sentence_statistics` of the same sentences, (n, 10), or (runs, n, 10) for the mean BLEU of several
    runs. Both sides get the same resampled sentences. Returns {"difference", "low", "high"}. Raises ValueError if
    the lengths of the references show that the sentences are not the same.
    """
    return difference(resampled({"ours": ours, "theirs": theirs}, bleu_from_statistics, 1, resamples, seed), "ours", "theirs")


def bootstrap(systems: Mapping[str, Any], resamples: int = 1000, seed: int = 0) -> dict[str, dict[str, Any]]:
    """{name: {"score", "low", "high", "resamples" (R,)}}: BLEU of several systems on the same resampled sentences.

    "resamples" are comparable between systems draw by draw: `max - min` of them gives the interval of a spread.
    """
    found = resampled(systems, bleu_from_statistics, 1, resamples, seed)
    return {name: {"score": score, **_interval(scores), "resamples": scores} for name, (score, scores) in found.items()}


def resampled(systems: Mapping[str, Any], score: Callable[[np.ndarray], float], given: int, resamples: int = 1000,
              seed: int = 0) -> dict[str, tuple[float, np.ndarray]]:
    """{name: (score, scores of the resamples (R,))}; sentences are drawn with replacement, the same ones for every system.

    systems: name -> integer statistics that sum over sentences, (n, columns) or (runs, n, columns); of several runs
    the scores are averaged, each draw being the same rows of every run. score: summed statistics (columns,) -> number.
    given: the column that the references alone decide, equal in all systems. Works on anything that a sum decides, WER too.
    """
    if not systems:
        raise ValueError("bootstrap: no systems")
    try:
        arrays = {name: np.asarray(statistics) for name, statistics in systems.items()}
    except ValueError as error:
        raise ValueError("bootstrap: the runs of a system are not of equally many sentences") from error
    (first, expected), *others = arrays.items()
    if expected.ndim not in (2, 3) or expected.shape[-2] < 2:
        raise ValueError(f"bootstrap: statistics of two sentences at least are needed, {first} has shape {expected.shape}")
    for name, array in others:
        if array.shape != expected.shape or (array[..., given] != expected[..., given]).any():
            raise ValueError(f"bootstrap: {first} {expected.shape} and {name} {array.shape} are not of the same sentences")
    if resamples < 1:
        raise ValueError(f"bootstrap: at least one resample is needed, got {resamples}")
    rng, n = np.random.default_rng(seed), expected.shape[-2]
    # How often each sentence counts; row 0 is the set as it is.
    times = np.stack([np.ones(n, int), *(np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(resamples))])
    found = {}
    for name, array in arrays.items():
        runs = times @ array.reshape(-1, *array.shape[-2:])
        scores = np.mean([[score(total) for total in totals] for totals in runs], axis=0)
        found[name] = float(scores[0]), scores[1:]
    return found


def difference(found: dict[str, tuple[float, np.ndarray]], ours: str, theirs: str) -> dict[str, float]:
    """{"difference", "low", "high"} of two systems of `resampled`."""
    (score, scores), (their_score, their_scores) = found[ours], found[theirs]
    return {"difference": score - their_score, **_interval(scores - their_scores)}


def _interval(scores: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(scores, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}
