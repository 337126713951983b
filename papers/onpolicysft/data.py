"""The problems that a config may name: Chains, Sums and Maths, with their graders (common/reasoning/problems.py and sums.py).

    data: {class_path: Maths, init_args: {train: FILE}}       python -m papers.onpolicysft.train
"""

from __future__ import annotations

from common.reasoning.problems import Chains, Maths, Problem, Problems, Rows
from common.reasoning.sums import Sums

__all__ = ["Chains", "Maths", "Problem", "Problems", "Rows", "Sums"]
