"""What of On-Policy SFT's figures is arithmetic: efficiency, the collapse of normalised rewards, sizes, memory, compute (spec 7).

Memory counts what a step must hold: model states (weights, gradient, AdamW's two moments, all in single precision: 16
bytes a parameter) and the logits of a micro-batch. Compute counts the update phase only, in units of N FLOPs a token: 2
for a forward pass, 6 for forward and backward. Sampling costs both methods alike at equal length and is left out.
Nothing here needs weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from common.reasoning.policy_gradient import group_advantage
from common.shapes import R1_1P5B, R1_7B  # noqa: F401  (the paper's models)

from .reported import Point

FORWARD, TRAIN = 2, 6  # x N FLOPs a token
STATE_BYTES = 16  # a parameter: fp32 weight, gradient, and two moments
REFERENCE_BYTES = {"bfloat16": 2, "float32": 4}
EXACT = Point(0, 0)


# -- efficiency --------------------------------------------------------------------------------------------
def eff(accuracy: float, tokens: float) -> float:
    """Accuracy per token in %: 100 x accuracy (in %) / mean tokens (derived: it gives the paper's 2.74 and 2.55)."""
    return 100 * accuracy / tokens


def reduction(before: float, after: float) -> float:
    """The share of tokens that is saved."""
    return 1 - after / before


def dominated(points: Mapping[str, Point], name: str, error: Point = EXACT) -> list[str]:
    """The other points that are no longer and no less accurate than `name`, and one of the two truly.

    error: how far two points must lie apart for a difference to count as one (of figures read by eye).
    """
    own = points[name]
    return [other for other, p in points.items() if other != name
            and p.tokens <= own.tokens + error.tokens and p.accuracy >= own.accuracy - error.accuracy
            and (p.tokens < own.tokens - error.tokens or p.accuracy > own.accuracy + error.accuracy)]


# -- normalised rewards ------------------------------------------------------------------------------------
def advantages(rewards: list[float], ddof: int = 1, eps: float = 0.0) -> list[float]:
    """Normalised within one group, in double precision. trl adds eps = 1e-4 to the standard deviation."""
    return group_advantage(torch.tensor(rewards, dtype=torch.float64), len(rewards), ddof, eps).tolist()


def shortened_reward(length: int, limit: int = 3500, weight: float = 0.5) -> float:
    """Of a right answer, 1 + weight x (1 - n / limit): two lengths that differ by one token differ by weight / limit."""
    return 1 + weight * (1 - length / limit)


# -- memory ------------------------------------------------------------------------------------------------
def state_bytes(n: int, reference_bytes: int = 0) -> int:
    """Model states of n trained parameters, and of a frozen reference at so many bytes a parameter; over all GPUs."""
    return n * (STATE_BYTES + reference_bytes)


def saved_by_no_reference(reference_bytes: int) -> float:
    """The share of states that beta = 0 saves; independent of the model's size."""
    return reference_bytes / (STATE_BYTES + reference_bytes)


def logits_bytes(tokens: int, vocabulary: int, rows: int = 4, bytes_each: int = 4) -> int:
    return rows * tokens * vocabulary * bytes_each


# -- compute -----------------------------------------------------------------------------------------------
def grpo_flops(old: bool = True, reference: bool = True) -> int:
    """x N FLOPs a rollout token: log-probabilities at sampling, of the reference, and the training pass."""
    return FORWARD * old + FORWARD * reference + TRAIN


def opsft_flops(kept: float) -> float:
    """x N FLOPs a rollout token: the training pass on the share `kept` of tokens, no other pass."""
    return TRAIN * kept


def compute_ratio(kept: float, old: bool = True, reference: bool = True) -> float:
    """Update compute of On-Policy SFT over GRPO's at equal rollouts: 0.6 x kept for the full recipe."""
    return opsft_flops(kept) / grpo_flops(old, reference)


def kept_for(ratio: float, old: bool = True, reference: bool = True) -> float:
    """The share kept at which the update phase costs `ratio` of GRPO's."""
    return ratio * grpo_flops(old, reference) / TRAIN


def compute_table(shares=(0.3, 0.5, 0.7, 1.0)) -> list[dict]:
    """For each share kept, the ratio to GRPO with both extra passes, without the reference, and without either."""
    return [{"kept": p, "grpo": compute_ratio(p), "no_reference": compute_ratio(p, reference=False),
             "no_extra_pass": compute_ratio(p, False, False)} for p in shares]
