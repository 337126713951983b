"""What On-Policy SFT is compared with: GRPO with its clipping and KL, other rewards, and other choices of what to keep.

GRPO is written with the vocabulary of method.py: `length_norm` says what a response's loss is divided by, and one explicit
denominator serves all micro-batches and ranks. trl calls these loss types by other names (TRL_LOSS_TYPES); a test holds
the two implementations to one gradient.

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

from .method import LengthNorm, denominator, keep, truncation_reward

__all__ = ["TRL_LOSS_TYPES", "accuracy_and_length_reward", "grpo_loss", "keep_all", "keep_none", "keep_random", "keep_shortest",
           "kl_to_reference", "off_policy_steps", "truncation_reward"]

# trl's "bnpo" is "token" of each micro-batch by itself; "dapo" counts the whole optimiser step.
TRL_LOSS_TYPES: dict[LengthNorm, str] = {"seq": "grpo", "token": "dapo", "const": "dr_grpo"}


# -- GRPO --------------------------------------------------------------------------------------------------
def kl_to_reference(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Per token, the estimate e^d - d - 1 of KL(policy || reference), d = ref_logp - logp: unbiased on-policy, never negative."""
    gap = ref_logp - logp
    return gap.exp() - gap - 1


def grpo_loss(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, total: float | None = None,
              length_norm: LengthNorm = "seq", eps_low: float = 0.2, eps_high: float = 0.2, ref_logp: Tensor | None = None,
              beta: float = 0.0, limit: int | None = None, kl_by_ratio: bool = False) -> Tensor:
    """- min(r A, clip(r, 1 - eps_low, 1 + eps_high) A) + beta KL, summed and divided by `total` (Eq. 2).

    logp, old_logp, ref_logp, mask (B, R) on all responses, right or wrong; advantage (B,), as `group_advantage` gives it.
    total: `denominator` of the lengths of the whole step's responses; None: of these B (`limit` for "const"). On-policy
    old_logp is logp.detach(). Raises ValueError if beta has no reference.
    """
    if beta and ref_logp is None:
        raise ValueError(f"grpo_loss: beta is {beta}, but there are no log-probabilities of a reference (ref_logp)")
    real = mask.bool()
    logp, old_logp = logp.masked_fill(~real, 0), old_logp.detach().masked_fill(~real, 0)  # whatever padding holds
    lengths = real.sum(1)
    if total is None:
        total = denominator(lengths.tolist(), length_norm, limit)
    ratio = (logp - old_logp).exp()
    gain = advantage.to(logp.dtype)[:, None]
    loss = -(ratio * gain).minimum(ratio.clamp(1 - eps_low, 1 + eps_high) * gain)
    if beta:
        kl = kl_to_reference(logp, ref_logp.detach().masked_fill(~real, 0))
        loss = loss + beta * (kl * ratio if kl_by_ratio else kl)
    loss = loss.masked_fill(~real, 0).sum(1)
    if length_norm == "seq":
        loss = loss / lengths.clamp(min=1)
    return loss.sum() / total


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
