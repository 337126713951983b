"""From results on real captions (experiments/multi30k.py) to what claims measure: {claim: measured}.

Arms are compared at equal latency: BLEU as a line through the points of k = 1, 3, 5, 7 over LAAL, and the mean difference of two lines over
the band in which both have points. Questions about positions compare at equal k, as the paper's tables do, k = 1 left out.

A claim must hold in each pair of languages, and a training is the unit of evidence within one. So what is given is the pair whose
interval lies nearest to failing, or fails; of an arm that must fail, the pair in which it comes nearest to passing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np

from common.claims.intervals import interval, summarize
from common.errors import RecordError
from common.seeds import seeds_of

from .experiments.multi30k import LANGUAGES, PHIS, RATES, SWEPT
from .quantities import BATCH, LATE, ceiling, largest, less, mean_over

Curve = dict[str, dict]  # scores by k, of an arm and a seed
Measure = Callable[["Pair"], list[float]]  # of a pair of languages, one value a seed


def at_equal_latency(ours: Curve, theirs: Curve) -> float:
    """BLEU of ours minus that of theirs, mean over the LAAL at which both have points, straight lines between these.

    Raises RecordError where there is no such band.
    """
    lines = [sorted((scores["LAAL"], scores["bleu"]) for scores in curve.values()) for curve in (ours, theirs)]
    low, high = max(line[0][0] for line in lines), min(line[-1][0] for line in lines)
    if not low < high:
        raise RecordError(f"no latency at which both arms have points: LAAL {[[round(x, 2) for x, _ in line] for line in lines]}")
    knots = np.array(sorted({low, high, *(x for line in lines for x, _ in line if low < x < high)}))
    gaps = np.subtract(*(np.interp(knots, *zip(*line)) for line in lines))
    return float((np.diff(knots) * (gaps[1:] + gaps[:-1]) / 2).sum() / (high - low))


class Pair:
    """Scores of one pair of languages by arm and seed."""

    def __init__(self, results: dict, language: str):
        self.results, self.start = results, f"multi30k/en-{language}"
        self.seeds = seeds_of(results, f"{self.start}/untuned")

    def all(self, name: str, way: str = "stream") -> list[Curve]:
        """One a seed. name: of the job, or of the arm that is swept, which is then at its best rate."""
        name = f"{SWEPT}, {self.best_rate():g}" if name == SWEPT else name
        return [self.results[f"{self.start}/{name}/seed{seed}"][way] for seed in self.seeds]

    def best_rate(self) -> float:
        """That of the highest BLEU on validation captions, mean over seeds and k = 3, 5, 7."""
        def held(rate: float) -> float:
            return fmean(mean_over([{k: scores["bleu"] for k, scores in curve.items()} for curve in
                                    self.all(f"{SWEPT}, {rate:g}", "validation")], LATE))

        return max(RATES, key=held)

    def rows(self, name: str, way: str = "stream") -> list[dict[str, float]]:
        """BLEU by k, one a seed."""
        return [{k: scores["bleu"] for k, scores in curve.items()} for curve in self.all(name, way)]

    def late(self, name: str, way: str = "stream") -> list[float]:
        return mean_over(self.rows(name, way), LATE)

    def whole(self, name: str) -> list[float]:
        """Whole captions, in the arm's own way."""
        return [row[BATCH] for row in self.rows(name, BATCH)]

    def ahead(self, ours: str, theirs: str, ours_way: str = "stream", theirs_way: str = "stream") -> list[float]:
        return [at_equal_latency(a, b) for a, b in zip(self.all(ours, ours_way), self.all(theirs, theirs_way))]

    def summary(self, measure: Measure) -> dict:
        """BLEU cannot tell less apart than a word in all that was translated."""
        words = self.all("untuned", BATCH)[0][BATCH]["words"]
        return summarize(measure(self), resolution=100 / words)


# -- a claim of every pair of languages --------------------------------------------------------------------
def ends(measured: dict) -> tuple[float, float]:
    """The interval; of one run its value."""
    return interval(measured) or (measured["value"],) * 2


def low(measured: dict) -> float:
    return ends(measured)[0]


def high(measured: dict) -> float:
    return ends(measured)[1]


def away(measured: dict) -> float:
    return max(map(abs, ends(measured)))


def apart(measured: dict) -> float:
    """How far from 0 the whole interval lies."""
    start, end = ends(measured)
    return max(start, -end)


def of_one(pairs: Sequence[Pair], measure: Measure, choose: Callable, by: Callable[[dict], float]) -> dict:
    """What `choose` (min or max) takes of the pairs of languages."""
    return choose([pair.summary(measure) for pair in pairs], key=by)


def above(pairs: Sequence[Pair], measure: Measure, placebo: Measure, **shown: Measure) -> dict:
    found = {"placebo": of_one(pairs, placebo, max, low), "baselines": baselines(pairs, measure, shown)}
    return of_one(pairs, measure, min, low) | found


def below(pairs: Sequence[Pair], measure: Measure, placebo: Measure, **shown: Measure) -> dict:
    found = {"placebo": of_one(pairs, placebo, min, high), "baselines": baselines(pairs, measure, shown)}
    return of_one(pairs, measure, max, high) | found


def within(pairs: Sequence[Pair], measure: Measure, sensitivity: Measure, arms: Callable[[Pair], list], **shown: Measure) -> dict:
    found = {"sensitivity": of_one(pairs, sensitivity, min, apart), "ceiling": ceiling(*(rows for pair in pairs for rows in arms(pair)))}
    return of_one(pairs, measure, max, away) | found | {"baselines": baselines(pairs, measure, shown)}


def baselines(pairs: Sequence[Pair], measure: Measure, shown: dict[str, Measure]) -> dict[str, float]:
    """Means over seeds, of every pair of languages: the quantity itself, and what is shown beside it."""
    named = {"this": measure} | {name.replace("_", " "): of for name, of in shown.items()}
    return {f"{pair.start.partition('/')[2]}, {name}": fmean(of(pair)) for pair in pairs for name, of in named.items()}


# -- the claims --------------------------------------------------------------------------------------------
def multi30k(results: dict, size: str = "cpu") -> dict[str, dict]:
    pairs = [pair for pair in (Pair(results, language) for language in LANGUAGES) if pair.seeds]
    if len(pairs) < len(LANGUAGES):
        return {}  # a record of before 30 November 2026, one pair and one training, measures no claim
    return streams(pairs) | positions(pairs) | both_modes(pairs)


def streams(pairs: Sequence[Pair]) -> dict[str, dict]:
    """C1g, C1h, C1i, C4b, C8b: ways to stream, at equal latency."""
    def gap(arm: str, of: str = "group") -> Measure:
        return lambda pair: pair.ahead(of, arm)

    def bleu(arm: str, way: str = "stream") -> Measure:
        return lambda pair: pair.late(arm, way)

    def gained_over(arm: str) -> Measure:
        """By the better of two models that encode everything again at every word."""
        return lambda pair: [max(both) for both in zip(pair.ahead("batch_streaming", arm, "kv_reencoding"),
                                                       pair.ahead("untuned", arm, "kv_reencoding"))]

    def ahead_of_others(arm: str) -> Measure:
        others = [other for other in (SWEPT, "batch_streaming", "group") if other != arm]
        return lambda pair: [min(gaps) for gaps in zip(*(pair.ahead(arm, other) for other in others))]

    return {
        "C1g": above(pairs, gap(SWEPT), gap("batch_streaming"), group=bleu("group"), interleaved=bleu(SWEPT),
                     rate_of_interleaved=lambda pair: [pair.best_rate()]),
        "C1h": above(pairs, gap("finished_frozen", "batch_streaming"), gap("group", "batch_streaming"),
                     batch_streaming=bleu("batch_streaming"), finished_target_visible=bleu("finished_frozen")),
        "C1i": above(pairs, gap("interleaved_group"), gap("batch_streaming"), interleaved_with_group_ids=bleu("interleaved_group")),
        "C4b": below(pairs, gained_over("group"), gained_over(SWEPT), group=bleu("group"),
                     weights_of_batch_streaming=bleu("batch_streaming", "kv_reencoding"), untuned=bleu("untuned", "kv_reencoding")),
        "C8b": above(pairs, ahead_of_others("group"), ahead_of_others("batch_streaming"), group=bleu("group"),
                     batch_streaming=bleu("batch_streaming"), interleaved=bleu(SWEPT)),
    }


def positions(pairs: Sequence[Pair]) -> dict[str, dict]:
    """C5c, C6e to C6h: the offset, and which positions are needed; mean over k = 3, 5, 7."""
    moved = [f"group, phi {phi}" for phi in PHIS[1:]]

    def late(pair: Pair, name: str) -> list[dict[str, float]]:
        return [{"late": value} for value in pair.late(name)]

    def offset(names: Sequence[str]) -> Measure:
        """Of several offsets the one whose mean over the seeds differs most from that of phi = 0."""
        return lambda pair: largest([late(pair, name) for name in names], late(pair, "group"), ("late",))

    def lost(arm: str, against: str = "group") -> Measure:
        return lambda pair: less(pair.late(against), pair.late(arm))

    def bleu(arm: str) -> Measure:
        return lambda pair: pair.late(arm)

    def at_1(pair: Pair) -> list[float]:
        return largest([pair.rows(name) for name in moved], pair.rows("group"), ("1",))

    none, no_source, no_target = (f"no_{which}positions" for which in ("", "source_", "target_"))
    phi_moved = lost(moved[-1])
    return {
        "C5c": within(pairs, offset(moved), offset([none]), lambda pair: [pair.rows(name) for name in ("group", *moved)],
                      at_1=at_1, phi_0=bleu("group"), **{f"phi_{phi}": bleu(name) for phi, name in zip(PHIS[1:], moved)}),
        "C6e": above(pairs, lost(none), phi_moved, group=bleu("group"), no_positions=bleu(none)),
        "C6f": above(pairs, lost(no_source), phi_moved, group=bleu("group"), no_source_positions=bleu(no_source)),
        "C6g": above(pairs, lost(no_target), phi_moved, group=bleu("group"), no_target_positions=bleu(no_target)),
        "C6h": above(pairs, lost(no_source, no_target), lost(no_source, none), no_source_positions=bleu(no_source),
                     no_target_positions=bleu(no_target)),
    }


def both_modes(pairs: Sequence[Pair]) -> dict[str, dict]:
    """C9c, C9d: whole captions, and how near a stream comes to them."""
    def kept(arm: str) -> Measure:
        return lambda pair: [100 * a / b for a, b in zip(pair.whole(arm), pair.whole("batch"))]

    def short_of_whole(arm: str) -> Measure:
        return lambda pair: less(pair.whole("batch"), [row["7"] for row in pair.rows(arm)])

    def whole(arm: str) -> Measure:
        return lambda pair: pair.whole(arm)

    def at_7(pair: Pair) -> list[float]:
        return [row["7"] for row in pair.rows("group")]

    shown = {"batch_tuned": whole("batch"), "batch_trained": whole("untuned"), "group_in_batch_mode": whole("group")}
    return {"C9c": above(pairs, kept("group"), kept(SWEPT), interleaved_in_batch_mode=whole(SWEPT), **shown),
            "C9d": below(pairs, short_of_whole("group"), short_of_whole(SWEPT), group_at_7=at_7, **shown)}
