"""Scores that others reported, as data: never ours, and never mixed with ours.

The rows are those that HeRo (Lin et al., "Do Dynamic Routers Need Memory?", Table 1) prints for the
SkipGPT set-up, since the paper's own table could not be read; names of the two Llama versions are
shortened to 7B, 13B (Llama-2) and 8B (Llama-3.1). `retain` is the table's last column: the mean
over tasks of score / dense score, not the ratio of the means, which can differ by 0.5 points.

Read with care. (1) The 8B router-tuning row at 25.5 % has the OBQA and PIQA of the *7B dense* row,
perhaps a slip in copying. (2) The dense 8B row seems to be the Instruct model, while SkipGPT used
the base model, so the paper's "> 95 %" and the 94.14 here may both be right. (3) The mean of 7B
dense + LoRA is 68.73 here and 69.98 in a summary of the paper. (4) MoD-D scores higher at 40 % than
at 25 % on 8B: both are near chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

SOURCE = "reprinted by HeRo (Lin et al.), Table 1"
# Metric per task: acc_norm for OpenBookQA and HellaSwag, acc for the others.
TASKS = ("openbookqa", "piqa", "boolq", "arc_easy", "arc_challenge", "winogrande", "hellaswag")


@dataclass(frozen=True)
class Row:
    """Skipped percentage, scores in the order of TASKS (or none), average and retain, in percent.

    The average is None where only retain is known; skipped is 25 where the source has just "25 %".
    """

    model: str
    method: str
    skipped: float
    scores: tuple[float, ...]
    average: float | None
    retain: float


REPORTED = (
    Row("7B", "dense", 0, (44.20, 78.07, 71.62, 81.36, 52.47, 74.19, 78.93), 68.69, 100),
    Row("7B", "dense + LoRA", 0, (44.00, 76.62, 77.61, 80.27, 52.12, 72.94, 77.55), 68.73, 100.09),
    Row("7B", "SkipGPT-RT", 25.5, (39.60, 72.20, 68.81, 76.52, 44.37, 63.54, 70.96), 62.29, 90.33),
    Row("7B", "LaCo", 25.0, (), 57.69, 83.74),
    Row("7B", "LLM-Pruner", 25.3, (), 54.59, 79.61),
    Row("7B", "MoD-D", 25.0, (), 55.05, 79.17),
    Row("7B", "Shortened-PPL", 25.0, (), 51.08, 73.76),
    Row("13B", "dense", 0, (45.20, 79.11, 80.52, 84.68, 59.47, 76.16, 82.23), 72.48, 100),
    Row("13B", "SkipGPT-RT", 25.4, (46.00, 76.88, 74.37, 77.69, 47.08, 71.90, 74.33), 66.89, 92.43),
    Row("13B", "MoD-D", 25.0, (), None, 81.18),
    Row("8B", "dense", 0, (45.20, 79.82, 83.79, 84.74, 67.56, 75.37, 78.26), 73.53, 100),
    Row("8B", "SkipGPT-RT", 25.5, (44.20, 78.07, 74.06, 82.44, 53.41, 75.69, 76.87), 69.25, 94.14),
    Row("8B", "SkipGPT-RT", 40.2, (38.00, 73.34, 60.37, 77.53, 45.65, 59.35, 64.36), 59.80, 81.15),
    Row("8B", "SkipGPT-Joint", 25.3, (31.50, 60.13, 50.74, 37.21, 28.66, 52.34, 50.87), 44.49,
        60.91),
    Row("8B", "MoD-D", 25.0, (), 44.98, 61.52),
    Row("8B", "MoD-D", 40.0, (), 46.07, 63.14),
    Row("8B", "D-LLM", 25.0, (), 41.91, 57.44),
    Row("8B", "ShortGPT", 25.0, (), 39.95, 54.87),
    Row("8B", "LaCo", 24.5, (), 53.58, 72.38),
    Row("8B", "Shortened-Taylor", 25.0, (), None, 54.93),
    Row("8B", "Shortened-PPL", 25.0, (), None, 67.72),
    Row("8B", "LLM-Pruner", 25.0, (), None, 70.38),
    Row("8B", "SliceGPT", 25.0, (), None, 55.82),
)


def dense_row(model: str) -> Row:
    return next(row for row in REPORTED if (row.model, row.method) == (model, "dense"))


def retain(scores: tuple[float, ...], dense: tuple[float, ...]) -> float:
    """Percent kept: the mean over tasks of score / dense score (HeRo's definition)."""
    return 100 * fmean(s / d for s, d in zip(scores, dense, strict=True))


def ratio_of_means(scores: tuple[float, ...], dense: tuple[float, ...]) -> float:
    """The other definition, for comparison: 90.67 instead of 90.33 for 7B SkipGPT-RT."""
    return 100 * fmean(scores) / fmean(dense)
