"""What the paper reports (spec 2): table 1 and text second-hand, figures 1 and 2 read off by eye from the README's copies.

Points of the figures are good to 0.05 k tokens and 0.3 points of accuracy.
"""

from __future__ import annotations

from typing import NamedTuple


class Point(NamedTuple):
    """tokens: mean response length. accuracy: %, mean of GSM8K, MATH-500, AMC23, AIME24, AIME25."""

    tokens: float
    accuracy: float


BASE, OURS = Point(10178, 59.0), Point(2186, 59.9)  # table 1, DeepSeek-R1-Distill-Qwen-1.5B
PASS_AT_N = {"base": 73.5, "On-Policy SFT": 73.6}  # %
EFF = {"1.5B": 2.74, "1.5B, best RL baseline": 2.55, "7B": 2.97}  # % per token
SHORTER = {"1.5B, abstract": 80.0, "7B": 70.0}  # %
MEMORY_SAVED, STEPS_SAVED = 50.0, 70.0  # %, against an RL recipe that the sources do not name
COLLAPSE = 0.7071  # the paper's 3.1: rewards (1, 0) and (2, 0) normalise to this and its negative

READING_ERROR = Point(50, 0.3)
FIGURE_1 = {  # 1.5B
    "On-Policy SFT": Point(2190, 59.9),
    "L1": Point(2270, 57.8),
    "ThinkPrune": Point(2800, 56.9),
    "O1-Pruner": Point(4800, 57.2),
    "LASER": Point(4900, 59.8),
    "ER-RL": Point(5800, 58.3),
    "DEER": Point(7500, 57.1),
    "CRST": Point(7900, 55.6),
    "CoD": Point(9500, 58.3),
    "base": Point(10180, 59.0),
}

_AIME, _MATH = (800, 1600, 2400, 3600, 5200, 9000), (400, 800, 1200, 1600, 2400, 3600, 4400)
FIGURE_2 = {  # accuracy in % of responses cut at so many tokens: {(model, benchmark): {budget: accuracy}}
    ("1.5B", "AIME24"): dict(zip(_AIME, (2, 12.7, 20.7, 24, 28, 30))),
    ("1.5B", "MATH-500"): dict(zip(_MATH, (25, 62, 75, 80.5, 84, 85, 86))),
    ("7B", "AIME24"): dict(zip(_AIME, (0, 16.7, 23.3, 33.3, 36.7, 46.7))),
    ("7B", "MATH-500"): dict(zip(_MATH, (20.5, 61, 76.5, 82.5, 87, 89, 90))),
}
FIGURE_2_BASE_AT_9000 = {("1.5B", "AIME24"): 22.5, ("7B", "AIME24"): 45.0}
