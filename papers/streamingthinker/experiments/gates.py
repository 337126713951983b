"""What the gate keeps and drops: clean traces, and as many with a planted fault of each kind. Its bars are set on other clean traces."""

from __future__ import annotations

import random
from dataclasses import dataclass

from common.runs.jobs import Job

from .. import faults
from ..curation import Gate, tf_idf


@dataclass(frozen=True)
class Size:
    """clean traces to set the bars on, and to ask; traces with each fault."""

    calibration: int
    clean: int
    faulty: int


SIZES = {"smoke": Size(20, 20, 5), "cpu": Size(300, 500, 100)}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job("gate", f"{__name__}:gate", {"size": size}, seconds=5)]


def gate(size: str = "cpu") -> dict:
    """{"kept": {encoder: [kept, of] clean}, "dropped": {encoder: {fault: [dropped, of]}}, "reasons", "bars", "count faults", ...}."""
    how = SIZES[size]
    known = [faults.english(i, "val") for i in range(how.calibration)]
    encode = tf_idf([text for trace in known for text in (*trace.sentences, *trace.units)])
    found = Gate.calibrated(known, encode)
    clean = [faults.english(i) for i in range(how.clean)]
    dropped, reasons = {}, {}
    for name, plant in faults.FAULTS.items():
        draw = random.Random(name)
        why = [found.reason(plant(faults.english(10_000 + i), draw)) for i in range(how.faulty)]
        dropped[name] = [sum(w is not None for w in why), len(why)]
        reasons[name] = {str(w): why.count(w) for w in sorted(set(why), key=str)}
    kept = [sum(map(found.accepts, clean)), len(clean)]
    return {"kept": {"tf-idf": kept}, "dropped": {"tf-idf": dropped}, "reasons": {"tf-idf": reasons},
            "bars": {"tf-idf": {"diagonal": round(found.diagonal, 4), "first": round(found.first, 4)}},
            "count faults": list(faults.COUNT), "order faults": list(faults.ORDER)}
