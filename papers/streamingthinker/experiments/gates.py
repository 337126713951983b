"""What the gate keeps and drops: clean traces, and as many with a planted fault of each kind. Its bars are set on other clean traces.

    gate        similarity by TF-IDF, which needs nothing
    encoders    the same traces by a sentence encoder of the paper's kind (the group `sentences` of pyproject.toml), by TF-IDF, and by
                random vectors, whose gate can see counts and quotations and nothing else. Asked for by name
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.runs.jobs import Job

from .. import faults
from ..curation import Encoder, Gate, Trace, minilm, tf_idf


@dataclass(frozen=True)
class Size:
    """clean traces to set the bars on, and to ask; traces with each fault."""

    calibration: int
    clean: int
    faulty: int


SIZES = {"smoke": Size(20, 20, 5), "cpu": Size(300, 500, 100)}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job("gate", f"{__name__}:gate", {"size": size}, seconds=5)]


def encoder_jobs(size: str = "cpu") -> list[Job]:
    return [Job("encoders", f"{__name__}:encoders", {"size": size}, seconds=90)]


def gate(size: str = "cpu") -> dict:
    """{"kept": {encoder: [kept, of] clean}, "dropped": {encoder: {fault: [dropped, of]}}, "reasons", "bars", "count faults", ...}."""
    known = calibration(size)
    return judged({"tf-idf": of_words(known)}, known, size)


def encoders(size: str = "cpu") -> dict:
    """As `gate`. Raises ModelError where the sentence encoder is not installed."""
    known = calibration(size)
    return judged({"minilm": minilm(), "tf-idf": of_words(known), "random": by_lot}, known, size)


def calibration(size: str) -> list[Trace]:
    return [faults.english(i, "val") for i in range(SIZES[size].calibration)]


def of_words(known: Sequence[Trace]) -> Encoder:
    return tf_idf([text for trace in known for text in (*trace.sentences, *trace.units)])


def by_lot(texts: Sequence[str]) -> np.ndarray:
    """A vector for each text that knows nothing but which text it is."""
    rows = np.stack([np.random.default_rng(zlib.crc32(text.encode())).standard_normal(64) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def judged(by: dict[str, Encoder], known: Sequence[Trace], size: str) -> dict:
    how = SIZES[size]
    clean = [faults.english(i) for i in range(how.clean)]
    found: dict = {"kept": {}, "dropped": {}, "reasons": {}, "bars": {}}
    for encoder, encode in by.items():
        of = Gate.calibrated(known, encode)
        dropped, reasons = {}, {}
        for name, plant in faults.FAULTS.items():
            draw = random.Random(name)
            why = [of.reason(plant(faults.english(10_000 + i), draw)) for i in range(how.faulty)]
            dropped[name] = [sum(w is not None for w in why), len(why)]
            reasons[name] = {str(w): why.count(w) for w in sorted(set(why), key=str)}
        found["kept"][encoder] = [sum(map(of.accepts, clean)), len(clean)]
        found["dropped"][encoder], found["reasons"][encoder] = dropped, reasons
        found["bars"][encoder] = {"diagonal": round(of.diagonal, 4), "first": round(of.first, 4)}
    return found | {"count faults": list(faults.COUNT), "order faults": list(faults.ORDER)}
