"""What the paper prints, as data: tables 5 and 6, and the findings of its analysis that the small run has a counterpart of (spec 2).

Read in a conversion of the paper's text (README, D1): a cell that arithmetic disagrees with may be the conversion's. Scores are
in per cent, MME-P of 2,000; an average is over seven columns, with MME-P divided by twenty.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

TABLE_5 = ("GQA", "SQA-I", "TextVQA", "POPE", "MME-P", "MMB", "MMStar")
TABLE_6 = ("MMB", "SQA-I", "GQA", "MME-P", "TextVQA", "POPE", "MM-Vet")
HALF = 0.05 + 1e-9  # of the last digit that is printed


@dataclass(frozen=True)
class Row:
    """A row of a table. tera: visual multiply-adds in 10^12 (table 5). average: as printed."""

    model: str
    pruned: bool
    scores: tuple[float, ...]
    average: float
    tera: float | None = None

    @property
    def computed(self) -> float:
        """The average that its cells give: MME-P, the only score above 100, divided by twenty."""
        return fmean(score / 20 if score > 100 else score for score in self.scores)

    @property
    def adds_up(self) -> bool:
        return abs(self.computed - self.average) <= HALF


MODELS = ("LLaVA-1.5-7B", "LLaVA-1.5-13B", "InternVL2.5-8B", "Qwen2-VL-7B", "MobileVLM-V2-3B")
QUALITY = (
    Row("LLaVA-1.5-7B", False, (62.0, 66.8, 58.2, 85.9, 1507.6, 64.3, 33.7), 63.8, 3.82),
    Row("LLaVA-1.5-7B", True, (60.3, 66.7, 55.2, 84.4, 1428.3, 62.0, 33.3), 61.9, 1.76),
    Row("LLaVA-1.5-13B", False, (63.3, 71.6, 61.3, 85.9, 1531.3, 67.7, 36.2), 66.1, 7.44),
    Row("LLaVA-1.5-13B", True, (61.3, 72.0, 59.1, 84.7, 1485.3, 66.9, 36.0), 64.9, 3.31),
    Row("InternVL2.5-8B", False, (63.6, 98.0, 79.1, 90.6, 1680.8, 84.6, 60.4), 80.1, 11.00),
    Row("InternVL2.5-8B", True, (58.8, 97.8, 77.7, 88.2, 1643.5, 79.6, 59.9), 77.0, 5.34),
    Row("Qwen2-VL-7B", False, (62.4, 85.4, 76.9, 87.9, 1687.7, 79.4, 56.3), 64.6, 9.62),
    Row("Qwen2-VL-7B", True, (62.2, 84.1, 74.4, 87.8, 1615.8, 78.0, 77.9), 63.5, 4.69),
    Row("MobileVLM-V2-3B", False, (61.0, 70.0, 57.5, 84.7, 1440.5, 63.2, 35.1), 63.5, 0.37),
    Row("MobileVLM-V2-3B", True, (57.6, 69.4, 53.5, 81.7, 1402.3, 57.4, 36.7), 63.3, 0.25),
)  # fmt: skip
# Of table 6 the cells of two rows could be read; of the others the averages alone.
RIVALS = (Row("LLaVA-1.5-7B", False, (64.3, 66.8, 62.0, 1507.6, 58.2, 85.9, 31.2), 63.4),
          Row("LLaVA-1.5-7B", True, (62.0, 66.7, 60.3, 1428.3, 55.2, 84.4, 29.1), 61.3))
AVERAGES_6 = {"full": (0.0, 63.4), "PyramidDrop, 192": (86.4, 61.5), "SparseVLM, 192": (86.4, 62.7), "FastV, K = 3, r = .75": (87.3, 61.1),
              "PyramidDrop, 64": (97.6, 46.6), "SparseVLM, 64": (97.6, 58.2), "FitPrune, .9": (98.0, 53.3),
              "VisiPruner": (98.3, 61.3)}  # {row: (visual attention saved in %, average)}


def wrong(rows: tuple[Row, ...] = QUALITY) -> dict[str, tuple[float, float]]:
    """{row: (printed, computed)} of the rows whose average does not follow from their cells."""
    return {f"{r.model}, {'pruned' if r.pruned else 'dense'}": (r.average, round(r.computed, 2)) for r in rows if not r.adds_up}


def better_than_visipruner() -> list[str]:
    """Rows of table 6 with a higher average, all tokens apart."""
    return [name for name, (saved, average) in AVERAGES_6.items() if saved and average > AVERAGES_6["VisiPruner"][1]]


def kept_average(model: str) -> float:
    """Points that the average of a model loses by pruning, from its cells."""
    dense, pruned = (next(r for r in QUALITY if r.model == model and r.pruned == which) for which in (False, True))
    return dense.computed - pruned.computed
