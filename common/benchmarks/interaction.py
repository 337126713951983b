"""How a model that chooses when to write interacts: AIL, RCO and consecutive wait, and LAAL of a long stream, re-segmented.

Delays as in translation.py: d_i says how much of the source had been read when target unit i was written, in words or in
seconds; X is the length of the source in the same unit, and Y here always that of the *hypothesis*, |d|:

    AIL = (1 / Y) sum_i d_i - (i - 1) X / Y      average interaction lag: lag behind a writer that spreads its Y units evenly.
                                                 AL without its cut-off: units behind the source's end count as well
    RCO = (1 / Y) sum_i d_i / X                  relative context observed: the share of the source read, mean over units

Both are ProactiveLLM's (arXiv 2606.00523, section 2, second-hand). They are tied together, AIL = X RCO - X (Y - 1) / (2 Y)
(`lag_of`), so that two runs on one source with equally long outputs differ by exactly X (RCO_a - RCO_b) (`lag_saved`).

Numbers may be Fractions, and then every score is exact. The same inputs are refused as in translation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any

from .translation import average_proportion, length_adaptive_average_lagging


def relative_context_observed(delays: Sequence, source_length):
    """RCO; with the hypothesis' length it is AP (Cho & Esipova 2016). Raises ValueError as `average_proportion` does."""
    return average_proportion(delays, source_length)


def average_interaction_lag(delays: Sequence, source_length):
    """AIL. Reading everything first gives X (Y + 1) / (2 Y). Below 0 for a hypothesis that is much longer than what was read for it.

    Raises ValueError as `average_proportion` does.
    """
    return lag_of(relative_context_observed(delays, source_length), source_length, len(delays))


def lag_of(rco, source_length, units: int):
    """AIL of a hypothesis of so many units that observed `rco` of the source: X RCO - X (Y - 1) / (2 Y)."""
    return source_length * rco - source_length * Fraction(units - 1, 2 * units)


def lag_saved(rco, source_length):
    """AIL less than after reading everything first, at the same source and as many units: X (1 - RCO), whatever the units are.

    Means over sentences obey it, too: no saving of .12 of the context is one of .35 units, if sentences have 16 (`impossible_lag`).
    """
    return source_length * (1 - rco)


def impossible_lag(batch_lag: float, lag: float, rco: float, mean_source: float, rounding: float = 0.005) -> bool:
    """Whether a reported (AIL, RCO) contradicts the batch row of its own table, where both have the same sources and as many
    units: batch_lag - lag must be mean X (1 - RCO), give or take the rounding of RCO and of two lags.

    Sentences whose saving and length go together could bend this; by how much is theirs to show.
    """
    return abs(batch_lag - lag - lag_saved(rco, mean_source)) > rounding * mean_source + 2 * rounding


def consecutive_wait(delays: Sequence, source_length=None):
    """CW: source read for every run of reads that a write follows, mean over runs. What is read after the last write counts not.

    Raises ValueError as `average_proportion` does; source_length: only checked.
    """
    average_proportion(delays, source_length if source_length is not None else 1)
    runs = [b - a for a, b in zip([0, *delays], delays) if b > a]
    return sum(runs) / len(runs) if runs else 0


def interaction(delays: Sequence[Sequence], source_lengths: Sequence) -> dict[str, Any]:
    """Means over streams of AIL, RCO and CW, and each stream's own: {"AIL", "RCO", "CW", "n", "skipped", "streams": {...}}.

    Streams without output have none of them: None in "streams", counted in "skipped". Raises ValueError if nothing was written at
    all, for sides of different length, and for what the functions above refuse, with the stream's index.
    """
    if len(delays) != len(source_lengths):
        raise ValueError(f"interaction: {len(delays)} hypotheses, {len(source_lengths)} sources")
    functions = {"AIL": average_interaction_lag, "RCO": relative_context_observed, "CW": consecutive_wait}
    streams: dict[str, list] = {name: [] for name in functions}
    for i, (d, x) in enumerate(zip(delays, source_lengths)):
        for name, function in functions.items():
            try:
                streams[name].append(function(d, x) if len(d) else None)
            except ValueError as error:
                raise ValueError(f"interaction: stream {i}: {error}") from error
    written = [i for i, d in enumerate(delays) if len(d)]
    if not written:
        raise ValueError(f"interaction: none of {len(delays)} streams has any output")
    means = {name: fmean(float(values[i]) for i in written) for name, values in streams.items()}
    return means | {"n": len(written), "skipped": len(delays) - len(written), "streams": streams}


# -- long streams ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Segment:
    """A reference of a long stream. start, end: what of the source it is about, in the unit of the delays."""

    words: Sequence[str]
    start: float
    end: float


def resegmented(words: Sequence[str], references: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """[(first, last)) of the hypothesis' words for each reference, so that the sum of word edit distances is least.

    The whole hypothesis is aligned with all references in one go, as mwerSegmenter does (Matusov et al. 2005); of equally good
    alignments the one that ends segments early. O(words x reference words) time and memory. Raises ValueError for no reference.
    """
    if not references:
        raise ValueError("resegmented: no references")
    flat = [word for reference in references for word in reference]
    n, m = len(words), len(flat)
    # cost[j][i]: the least distance of words[:i] and flat[:j]
    cost = [list(range(n + 1))]
    for j in range(1, m + 1):
        row = [j]
        for i in range(1, n + 1):
            row.append(min(cost[j - 1][i - 1] + (words[i - 1] != flat[j - 1]), cost[j - 1][i] + 1, row[i - 1] + 1))
        cost.append(row)
    i, j = n, m
    borders = {sum(map(len, references[:k])) for k in range(1, len(references))}
    lengths = [sum(map(len, references[:k])) for k in range(1, len(references))]
    at: dict[int, int] = {}
    while i or j:
        if j in borders:
            at[j] = i  # the last seen is the earliest end
        if i and cost[j][i] == cost[j][i - 1] + 1:
            i -= 1
        elif i and j and cost[j][i] == cost[j - 1][i - 1] + (words[i - 1] != flat[j - 1]):
            i, j = i - 1, j - 1
        else:
            j -= 1
    at[0] = 0  # references without words before the first one with some are given none
    ends = [at[length] for length in lengths] + [n]
    return list(zip([0, *ends], ends))


def stream_laal(words: Sequence[str], delays: Sequence[float], references: Sequence[Segment]) -> dict[str, Any]:
    """StreamLAAL (Papi et al. 2024): words of a long stream are given to its references, LAAL is that of each one with delays
    counted from its start, and the score their mean: {"StreamLAAL", "segments": [...], "skipped"}.

    A reference that no word was given to has no latency (None). A word that was written before its reference began has no delay
    below 0: it waited for nothing. Raises ValueError for words and delays that are not equally many, falling delays, no output.
    """
    if len(words) != len(delays):
        raise ValueError(f"stream_laal: {len(words)} words and {len(delays)} delays")
    if not words:
        raise ValueError("stream_laal: no output")
    average_proportion(delays, 1)
    found: list[float | None] = []
    for (first, last), reference in zip(resegmented(words, [r.words for r in references]), references):
        if first == last or not len(reference.words):
            found.append(None)
            continue
        own = [max(delay - reference.start, 0) for delay in delays[first:last]]
        found.append(length_adaptive_average_lagging(own, reference.end - reference.start, len(reference.words)))
    scored = [value for value in found if value is not None]
    if not scored:
        raise ValueError("stream_laal: no reference was given any word")
    return {"StreamLAAL": fmean(float(value) for value in scored), "segments": found, "skipped": len(found) - len(scored)}
