"""Word error rate, by jiwer, on transcripts in LibriSpeech's form."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from ..errors import needed
from .translation import difference, refuse_unpaired, resampled


def normalise(text: str) -> str:
    """LibriSpeech's form of a transcript: upper case, letters with their marks, digits and apostrophes, single spaces.

    A combining mark belongs to its letter (the vowels of Hindi are marks), and what only joins letters (U+200D and the like) is
    dropped. Every other character ends a word, hyphens too ("well-known" is two words). A curly apostrophe is an apostrophe; one
    that belongs to no word is dropped. Accents stay, on one code point (NFC). Numbers are not spelled out: LibriSpeech's
    references have none, so a recogniser that writes digits must be trained or post-processed not to.
    """
    text = unicodedata.normalize("NFC", text).replace("\u2019", "'").upper()
    signs = (sign if sign == "'" or unicodedata.category(sign)[0] in "LMN" else "" if unicodedata.category(sign) == "Cf" else " "
             for sign in text)
    return " ".join(word for word in "".join(signs).split() if word.strip("'"))


def wer(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """{"wer" (per cent), "errors", "words", "sentences": {"errors": [...], "words": [...]}, "version"}.

    Errors are substitutions, deletions and insertions against the normalised reference, summed over sentences before
    they are divided by the references' words. An empty hypothesis deletes every word. Raises ValueError for sides
    that are not equally many strings and for a reference without words.
    """
    with needed("jiwer", "benchmarks.speech"):
        import jiwer

    refuse_unpaired(hypotheses, references)
    errors, words = [], []
    for i, (hypothesis, reference) in enumerate(zip(map(normalise, hypotheses), map(normalise, references))):
        if not reference:
            raise ValueError(f"reference {i} has no words: {references[i]!r}; leave the utterance out and say so")
        found = jiwer.process_words(reference, hypothesis)
        errors.append(found.substitutions + found.deletions + found.insertions)
        words.append(found.hits + found.substitutions + found.deletions)
    return {"wer": 100 * sum(errors) / sum(words), "errors": sum(errors), "words": sum(words),
            "sentences": {"errors": errors, "words": words}, "version": f"jiwer {version('jiwer')}"}


def paired_bootstrap_wer(ours, theirs, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """WER(ours) - WER(theirs) in points with its 95 % percentile interval over resampled utterances.

    ours, theirs: results of `wer` for the same references, or a list of such results, one a run, for the mean of runs.
    Both sides get the same resampled utterances. Returns {"difference", "low", "high"}. Raises ValueError if the
    references' numbers of words show that the utterances are not the same.
    """
    systems = {"ours": _statistics(ours), "theirs": _statistics(theirs)}
    return difference(resampled(systems, lambda total: 100 * total[0] / total[1], 1, resamples, seed), "ours", "theirs")


def _statistics(results: Mapping | Sequence[Mapping]) -> list[np.ndarray]:
    """A run each, int64 (n, 2): errors and words of each utterance."""
    runs = [results] if isinstance(results, Mapping) else results
    return [np.column_stack([run["sentences"]["errors"], run["sentences"]["words"]]) for run in runs]
