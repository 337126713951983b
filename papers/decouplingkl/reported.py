"""What the paper reports, second-hand: one detailed reading note of it (spec 2), and its sibling's FLOPs (arXiv 2606.17199, app. B).

Accuracies are in %, lengths in tokens. Student Qwen3-0.6B. Figures marked "curve" were read off by the note's author.
"""

from __future__ import annotations

from typing import NamedTuple


class Cell(NamedTuple):
    """avg, passed: Avg@k and Pass@k in %. tokens: mean length."""

    avg: float
    passed: float
    tokens: float


# Table 1, as far as it is known: 128 training tokens, student's prefixes, 4B teacher.
TABLE_1 = {
    "forward": {"GSM8K": Cell(62.83, 77.26, 1396), "MATH-500": Cell(34.31, 55.60, 3876),
                "AMC23": Cell(19.00, 45.00, 6173), "AIME24": Cell(0.00, 0.00, 7838)},
    "reverse": {"GSM8K": Cell(66.06, 79.08, 521), "MATH-500": Cell(42.65, 55.34, 2482),
                "AMC23": Cell(26.50, 47.50, 4464), "AIME24": Cell(2.67, 6.67, 7101)},
}
# Table 3: student's prefixes, reverse KL, by teacher; means over the four benchmarks.
FIXED = {"4B": Cell(36.4, 48.3, 8185), "8B": Cell(36.6, 49.2, 8190)}
CURRICULUM = {"4B": Cell(40.0, 54.1, 2688), "8B": Cell(40.2, 51.8, 2793)}
GAINED = {"4B": (3.6, 5.8, 3.0), "8B": (3.6, 2.6, 2.9)}  # points of Avg@k and Pass@k, and how many times shorter, as the paper has them
STUDENT_PREFIXES = {"all": (1.80, 2.11), "4096": (3.55, 2.95)}  # points of Avg@k and Pass@k over teacher's prefixes
LONGER = {"all": (2.56, 1.88), "forward": (3.80, None), "reverse": (1.32, None)}  # 4,096 over 128 tokens of training
RL_MATH500 = {"reverse": (45, 36), "forward": (40, 45)}  # curve: before and after GRPO, student's prefixes, 4,096 tokens, 4B
CAP = 8192

PROBLEMS = {"GSM8K": 1319, "MATH-500": 500, "AMC23": 40, "AIME24": 30}
MATH_TEST = 5000  # problems of MATH's whole test set

# The sibling paper, in TFLOP: 32 responses of 128 + 1,024 tokens, Qwen3-0.6B from Qwen3-4B.
SIBLING = {"teacher": 254.8, "student": 30.6, "sampled": 346.6, "teacher's head": 25.5, "student's head": 30.6, "full": 402.7,
           "saved %": 13.9}
