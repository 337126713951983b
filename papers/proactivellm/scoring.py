"""How streams are scored, once for experiments and stand-ins: quality, latency, timing against the oracle, computation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from common.benchmarks.interaction import interaction
from common.benchmarks.speech import wer
from common.benchmarks.translation import average_lagging, bleu, length_adaptive_average_lagging

from .decoding import Streamed
from .tasks import Item, Task

KEPT = 0.99  # of the quality with everything read: where latency is compared (spec 8, G2)


def quality(task: Task, streams: Sequence[Streamed], items: Sequence[Item]) -> dict[str, Any]:
    """{"quality": 100 - token error rate in %, 0 at least (of answers as long as the reference: the share of right tokens), "error rate":
    in %, "exact": answers that are right as a whole, in %, "right": of each stream}.

    An error rate has no upper bound: every token beyond the reference is an insertion, so an answer that never ends has several hundred
    per cent. It is given as the field gives it (WER, and HTK's accuracy, which falls below 0). A share of quality that is kept, and points
    between two qualities, need one that ends somewhere: what is wrong altogether has 0, and how far its answer runs on adds nothing to
    the margin of what is compared with it.
    """
    hypotheses, references = ([task.text([int(t) for t in text.split()]) for text in texts] if task.spoken else list(texts) for texts in (
        [" ".join(map(str, s.tokens)) for s in streams], [" ".join(map(str, _tokens(i))) for i in items]))
    found = wer(hypotheses, references)
    right = [int(h == r) for h, r in zip(hypotheses, references)]
    return {"quality": max(100 - found["wer"], 0.0), "error rate": found["wer"], "exact": 100 * fmean(right), "right": right}


def _tokens(item: Item) -> list[int]:
    example = item.example
    return example.target[example.target_units[0] : -1].tolist()


def scores(task: Task, streams: Sequence[Streamed], items: Sequence[Item]) -> dict[str, Any]:
    """Of one policy on one set of streams: quality; AIL, RCO, CW in units (and in seconds, for speech), AL and LAAL; premature: units in %
    that were begun before their evidence had been read; excess: units read beyond it, mean; pairs: attended in all, of them `wasted` in
    probes that were taken back, and `whole`, what reading everything first takes; tokens fed likewise."""
    sizes = [item.example.n_units for item in items]
    late = interaction([s.delays for s in streams], sizes) if any(s.delays for s in streams) else None
    timed = [(d, o) for s, i in zip(streams, items) for d, o in zip(s.delays, i.oracle[:-1])] or [(0, 0)]
    found = quality(task, streams, items) | {
        "AIL": late["AIL"] if late else 0.0, "RCO": late["RCO"] if late else 0.0, "CW": late["CW"] if late else 0.0,
        "no output": late["skipped"] if late else len(streams), "n": len(streams), "truncated": sum(s.truncated for s in streams),
        "premature": 100 * fmean(d < o for d, o in timed), "excess": fmean(d - o for d, o in timed),
        "probes": sum(s.probes for s in streams), "failed": sum(s.failed for s in streams),
        "pairs": sum(s.pairs for s in streams), "wasted": sum(s.wasted for s in streams),
        "fed": sum(s.fed for s in streams), "fed again": sum(s.fed_again for s in streams)}
    written = [(s, i) for s, i in zip(streams, items) if s.delays]
    for name, of in (("AL", average_lagging), ("LAAL", length_adaptive_average_lagging)):
        found[name] = fmean(of(s.delays, i.example.n_units, len(i.oracle) - 1) for s, i in written) if written else 0.0
    if task.name == "mt":
        found["bleu"] = bleu([" ".join(map(str, s.tokens)) for s in streams], [i.example.reference for i in items], "none")["score"]
    if task.spoken and written:
        heard = [[i.example.unit_ends[max(d, 1) - 1] / 1000 for d in s.delays] for s, i in written]
        found["AIL s"] = interaction(heard, [i.example.unit_ends[-1] / 1000 for _, i in written])["AIL"]
    return found


def operating(rows: Sequence[dict[str, Any]], most: float) -> int:
    """Of rows over thresholds, from calibration streams: the place of the best quality among those whose RCO is at most `most`; of equal
    ones the lowest RCO. Where none is so early, the earliest."""
    able = [i for i, row in enumerate(rows) if row["RCO"] <= most]
    if not able:
        return min(range(len(rows)), key=lambda i: rows[i]["RCO"])
    return max(able, key=lambda i: (rows[i]["quality"], -rows[i]["RCO"]))


def earliest(rows: Sequence[dict[str, Any]], whole: float) -> tuple[int, bool]:
    """Of rows over thresholds: the place of the lowest RCO among those that keep KEPT of `whole`, the quality of the same streams with
    everything read, and True; where none does the place of the best quality, and False."""
    able = [i for i, row in enumerate(rows) if row["quality"] >= KEPT * whole]
    place = min(able, key=lambda i: rows[i]["RCO"]) if able else max(range(len(rows)), key=lambda i: rows[i]["quality"])
    return place, bool(able)


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Area under the ROC curve: the chance that a random positive scores above a random negative, ties half.

    Raises ValueError where all are of one kind.
    """
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    positives = sum(map(bool, labels))
    if not 0 < positives < len(labels):
        raise ValueError(f"auroc: {positives} of {len(labels)} are positive; both kinds are needed")
    ranks, at = 0.0, 0
    while at < len(order):
        same = at
        while same < len(order) and scores[order[same]] == scores[order[at]]:
            same += 1
        ranks += (at + same + 1) / 2 * sum(bool(labels[i]) for i in order[at:same])
        at = same
    return (ranks - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))
