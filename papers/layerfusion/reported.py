"""What the paper reports, second-hand: a public reading note (sec-A) and a machine-made reading of the PDF (sec-B, spec 2), and what
a third party measured with the authors' code (papers-next 3).

A row holds the nine columns of the main table in their own units: MME cognition of 800, MME perception of 2,000, OCRBench of 1,000,
the others in %. Average: their mean after division by 8, 20 and 10.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A row of the main table: columns in BENCHMARKS' order, and the average as it is printed."""

    gqa: float
    mmb: float
    mme_c: float
    mme_p: float
    textvqa: float
    ocrbench: float
    cv_2d: float
    cv_3d: float
    pope: float
    printed: float


BENCHMARKS = ("GQA", "MMB", "MME-C", "MME-P", "TextVQA", "OCRBench", "CV-Bench-2D", "CV-Bench-3D", "POPE")  # as in benchmarks/vqa.py
PARTS = {"MME-C": 8, "MME-P": 20, "OCRBench": 10}  # what a column is divided by

# Whole rows, all by sec-B: CLIP-L/14-336 and MobileLLaMA-1.4B, 558k + 665k.
TABLE = {
    "layer 23 alone": Row(56.95, 46.91, 262, 1200, 35.47, 239, 39.74, 55.00, 85.83, 48.51),
    "external direct, all": Row(59.54, 51.46, 236, 1200, 38.01, 265, 44.78, 53.08, 86.40, 49.88),
    "internal modular, double": Row(58.41, 50.93, 218, 1182, 34.42, 261, 46.34, 51.08, 85.06, 48.74),
    "internal direct, latter": Row(58.79, 47.02, 221, 1179, 37.28, 241, 42.64, 51.92, 85.57, 48.21),
    "external modular, former": Row(58.37, 54.30, 258, 1181, 35.85, 244, 42.59, 54.92, 86.29, 49.78),
}
# Averages whose rows are not known: sec-A, but for the whole rows above.
AVERAGES = {
    "external direct": {"single": 49.20, "double": 49.52, "triple": 49.85, "all": 49.88},
    "external modular": {"former": 49.78},
    "internal direct": {"triple": 48.54, "latter": 48.21},
    "internal modular": {"double": 48.74, "triple": 46.91},
}
BASE = 48.51
SWAPS = (49.18, 51.76, 52.63)  # external direct: base, with SigLIP, with the 2.7B decoder as well (presumably)
SIGLIP_INTERNAL_MODULAR = 43.27
SEVEN_B = {"layer 23 alone": (62.0, 64.3, 58.2), "external direct, triple": (63.1, 65.7, 59.4)}  # sec-A alone, unverified


class Run(NamedTuple):
    """A third party's run with the authors' code: TextVQA val, POPE accuracy, GQA. batch: pretraining/finetuning, ? where unknown."""

    setting: str
    batch: str
    textvqa: float
    pope: float
    gqa: float


THIRD_PARTY = (  # SigLIP-so400m and MobileLLaMA-1.4B unless it says CLIP
    Run("layer 22 alone", "64/128", 42.0, 87.2, 59.2), Run("layer 22 alone", "64/128", 41.5, 86.1, 59.2),
    Run("layer 20 alone", "64/128", 39.6, 87.3, 58.7), Run("layer 20 alone", "64/128", 39.0, 86.6, 58.4),
    Run("layer 20 alone", "?/128", 25.1, 82.4, 51.7),
    Run("layer 25 alone", "64/128", 35.2, 83.7, 53.9), Run("layer 25 alone", "?/128", 36.5, 85.4, 55.9),
    Run("layer 26 alone", "?", 34.8, 82.9, 53.5), Run("layer 26 alone", "?", 43.7, 86.5, 59.2),
    Run("external direct 3-20-25", "32/64", 42.3, 85.7, 53.3),
    Run("their own internal concat 3-20-25", "?", 43.6, 86.0, 58.4), Run("their own internal concat 3-20-25", "?", 44.1, 85.8, 59.3),
    Run("their own internal concat 3-20-25", "?", 37.1, 82.2, 51.2),
    Run("CLIP, layer 23 alone", "?/64", 36.5, 85.5, 53.8),
)
