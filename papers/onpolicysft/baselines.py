"""What On-Policy SFT is compared with: another reward, and other choices of what to keep. GRPO itself is policy_gradient.py's.

What a response's loss is divided by has other names in trl than `length_norm` of method.py (TRL_LOSS_TYPES); a test holds
the two implementations of GRPO to one gradient under each.

The choices of what to keep all take a step's rewards and give indices, as `keep` does, so that a training loop differs
from On-Policy SFT by this one function:

    keep               all right and finished ones, on-policy                   the method
    keep_shortest      of each prompt only the shortest right one               best of n
    keep_random        as many as `keep` would, drawn without looking           is it the filter, or any training?
    keep_all           everything: on-policy the expected gradient is zero      the authors' code with its logging off
    keep_none          nothing: the base model                                  no-op
    off_policy_steps   what `keep` takes from one fixed pool, over and over     is it the filter, or being on-policy?
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from torch import Tensor

from .method import LengthNorm, keep

# trl's "bnpo" is "token" of each micro-batch by itself; "dapo" counts the whole optimiser step.
TRL_LOSS_TYPES: dict[LengthNorm, str] = {"seq": "grpo", "token": "dapo", "const": "dr_grpo"}


# -- another reward --------------------------------------------------------------------------------------
def accuracy_and_length_reward(correct: bool, length: int, cap: int, weight: float = 1.0) -> float:
    """Two rewards in one: 1 if right, plus weight x (1 - n / cap) whether right or not; n in tokens, at most cap."""
    if not 0 <= length <= cap:
        raise ValueError(f"accuracy_and_length_reward: a response of {length} tokens under a cap of {cap}")
    return float(bool(correct)) + weight * (1 - length / cap)


# -- what to keep ------------------------------------------------------------------------------------------
def keep_shortest(rewards: Sequence[float] | Tensor, lengths: Sequence[int], group: int) -> list[int]:
    """Of each `group` responses in a row the shortest right one, of equal ones the first; prompts without any vanish."""
    if len(rewards) != len(lengths) or len(rewards) % group:
        raise ValueError(f"keep_shortest: {len(rewards)} rewards and {len(lengths)} lengths in groups of {group}")
    best: dict[int, int] = {}
    for i in keep(rewards):
        if i // group not in best or lengths[i] < lengths[best[i // group]]:
            best[i // group] = i
    return list(best.values())


def keep_random(rewards: Sequence[float] | Tensor, seed: int) -> list[int]:
    """As many indices as `keep` takes, each response equally likely, in order."""
    return sorted(random.Random(seed).sample(range(len(rewards)), len(keep(rewards))))


def keep_all(rewards: Sequence[float] | Tensor) -> list[int]:
    return list(range(len(rewards)))


def keep_none(rewards: Sequence[float] | Tensor) -> list[int]:
    return []


def off_policy_steps(rewards: Sequence[float] | Tensor, size: int, steps: int, seed: int) -> list[list[int]]:
    """For each step, `size` indices of a pool that was sampled and filtered once, before training (the paper's 5.2).

    Every kept response is used once before any is used again; each pass has its own order. Raises ValueError if the pool
    is smaller than a step, which would hold a response twice.
    """
    pool, draw = keep(rewards), random.Random(seed)
    if not 0 < size <= len(pool):
        raise ValueError(f"off_policy_steps: {size} responses a step, but {len(pool)} passed the filter; sample more")
    passes = []
    while len(passes) < steps * size:
        usable = len(pool) - len(pool) % size  # no step straddles two passes
        passes += draw.sample(pool, len(pool))[:usable]
    return [passes[i * size : (i + 1) * size] for i in range(steps)]
