"""Word error rate, by jiwer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def normalise(text: str) -> str:
    """LibriSpeech's form of a transcript: upper case, letters, digits and apostrophes, single blanks."""
    return " ".join(re.sub(r"[^\w']|_", " ", text.upper()).split())


def wer(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """{"wer" (per cent), "errors", "words", "sentences": {"errors": [...], "words": [...]}, "version"}.

    Errors are substitutions, deletions and insertions against the normalised reference. Raises ValueError for a
    reference without words.
    """
    import jiwer

    if len(hypotheses) != len(references) or not len(references):
        raise ValueError(f"wer: {len(hypotheses)} hypotheses for {len(references)} references")
    errors, words = [], []
    for i, (hypothesis, reference) in enumerate(zip(map(normalise, hypotheses), map(normalise, references))):
        if not reference:
            raise ValueError(f"wer: reference {i} has no words")
        found = jiwer.process_words(reference, hypothesis)
        errors.append(found.substitutions + found.deletions + found.insertions)
        words.append(found.hits + found.substitutions + found.deletions)
    from importlib.metadata import version

    return {"wer": 100 * sum(errors) / sum(words), "errors": sum(errors), "words": sum(words),
            "sentences": {"errors": errors, "words": words}, "version": f"jiwer {version('jiwer')}"}
