"""Figures that were reported about the paper, second-hand: its text could not be read (README, D1).

2nd-A is a public reading note whose tables are consistent with themselves; 2nd-B a review of which the beginning could
be read; 2nd-C an engineering note. BLEU is SacreBLEU, WER in per cent; models in brackets.
"""

from __future__ import annotations

# Table 1 (Gemma2-2B-Instruct): the ladder, {direction: {k: BLEU}} a row. 2nd-A.
LADDER = {
    "interleaved": {"en-fr": {1: 30.93, 7: 39.65}, "en-de": {1: 20.44, 7: 29.90}},
    "batch_streaming": {"en-fr": {1: 33.13, 7: 40.82}, "en-de": {1: 21.97, 7: 31.36}},
    "position_reencoding": {"en-fr": {1: 33.19, 7: 40.89}, "en-de": {1: 22.06, 7: 31.45}},
    "kv_reencoding": {"en-fr": {1: 33.47, 7: 41.01}, "en-de": {1: 22.25, 7: 31.56}},
}
# Table 2 (Gemma2-2B, En-Fr): which positions are needed. 2nd-A.
POSITIONS = {
    "no_positions": {1: 27.11, 3: 34.98, 5: 37.54, 7: 38.02},
    "no_source_positions": {1: 28.35, 3: 36.12, 5: 38.42, 7: 39.03},
    "no_target_positions": {1: 29.14, 3: 36.83, 5: 39.01, 7: 39.62},
    "group": {1: 33.23, 3: 39.39, 5: 40.76, 7: 40.92},
}
# Table 3 (Gemma2-2B, En-Fr, k = 7): BLEU at phi. 2nd-A.
PHI_BLEU = {0: 40.92, 0.5: 40.92, 128: 40.85, 256: 40.91, 512: 40.92}
# Table 4 (Phi3-Mini, LibriSpeech): WER at phi, {k: {phi: WER}}. 2nd-A.
PHI_WER = {
    1: {0: 6.02, 256: 6.05, 512: 6.04, 1024: 6.07, 2048: 6.17},
    3: {0: 4.12, 256: 4.10, 512: 4.09, 1024: 4.08, 2048: 4.19},
    7: {0: 3.33, 256: 3.33, 512: 3.38, 1024: 3.41, 2048: 3.45},
}
# Largest gains that the text states: of removing input attention, position id, output attention. 2nd-A, 2nd-B, 2nd-C.
STATED = {"input attention": 2.20, "position id": 0.14, "output attention": 0.28}


def gain(above: str, below: str, direction: str, k: int) -> float:
    """BLEU that a row of the ladder gains over the one below it."""
    return round(LADDER[above][direction][k] - LADDER[below][direction][k], 2)


def spread(row: dict) -> float:
    """Largest minus smallest."""
    return round(max(row.values()) - min(row.values()), 2)


def share_of_gap(direction: str = "en-fr", k: int = 1) -> float:
    """The first step's share of the whole ladder, per cent."""
    first = gain("batch_streaming", "interleaved", direction, k)
    return 100 * first / gain("kv_reencoding", "interleaved", direction, k)
