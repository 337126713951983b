"""Policy gradients of sampled responses: advantages in groups, the clipped ratio, and the KL to a reference.

    advantage = group_advantage(rewards, G)                    (R - mean of the prompt's G responses) / their spread
    grpo_loss(logp, old_logp, advantage, mask, total).backward()

logp (B, R) are log-probabilities of the responses' tokens, mask (B, R) where there are any; `total` divides the summed loss of
a whole optimiser step and is one number for all its micro-batches and ranks, so that their losses add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


def group_advantage(rewards: Tensor, group: int, ddof: int = 1, eps: float = 0.0, center: bool = True,
                    scale: bool = True) -> Tensor:
    """(B,) GRPO's advantages: (R - mean) / (std + eps) among each `group` rewards in a row.

    ddof: 1, the sample's standard deviation, or 0. center, scale: whether to subtract and to divide; neither is the raw
    reward. A group without spread has advantage 0 (raw if not centred). Raises ValueError for groups that do not fit.
    """
    if len(rewards) % group or (scale and group <= ddof):
        raise ValueError(f"group_advantage: {len(rewards)} rewards in groups of {group}, ddof {ddof}: every group must be "
                         "full and have more than ddof members")
    rows = rewards.view(-1, group)
    flat = rows.amax(1, keepdim=True) == rows.amin(1, keepdim=True)  # rounding of the mean must not count as spread
    out = (rows - rows.mean(1, keepdim=True)).masked_fill(flat, 0) if center else rows
    if scale:
        out = out / (rows.std(1, keepdim=True, correction=ddof) + eps).masked_fill(flat, 1)
    return out.reshape(-1)


def kl_to_reference(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Per token, the estimate e^d - d - 1 of KL(policy || reference), d = ref_logp - logp: unbiased on-policy, never negative.

    A token to which the policy gives probability 0 counts 0, whatever the reference gives it; one that only the reference gives 0, inf.
    """
    gap = (ref_logp - logp).masked_fill(logp == -math.inf, 0)
    return gap.exp() - gap - 1


@dataclass(frozen=True)
class ClippedLoss:
    """What `grpo_loss` leaves open. eps_low, eps_high: how far a ratio may be from 1 and still count. beta: of the KL.

    own_length: each response's sum is divided by its own number of tokens, as in GRPO; else `total` alone divides.
    kl_by_ratio: whether the KL of a token is multiplied by its ratio, as trl has it.
    """

    eps_low: float = 0.2
    eps_high: float = 0.2
    beta: float = 0.0
    own_length: bool = True
    kl_by_ratio: bool = False


def grpo_loss(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, total: float,
              how: ClippedLoss = ClippedLoss(), ref_logp: Tensor | None = None) -> Tensor:
    """- min(r A, clip(r, 1 - eps_low, 1 + eps_high) A) + beta KL, summed and divided by `total`.

    logp, old_logp, ref_logp, mask (B, R) on all responses, right or wrong, padding holding anything; advantage (B,).
    total: of the whole optimiser step; with own_length the number of its responses. On-policy old_logp is logp.detach().
    Raises ValueError if beta has no reference.
    """
    if how.beta and ref_logp is None:
        raise ValueError(f"grpo_loss: beta is {how.beta}, but there are no log-probabilities of a reference (ref_logp)")
    real = mask.bool()
    logp, old_logp = logp.masked_fill(~real, 0), old_logp.detach().masked_fill(~real, 0)  # whatever padding holds
    ratio = (logp - old_logp).masked_fill(logp == -math.inf, 0).exp()  # -inf - -inf is no number
    gain = advantage.to(logp.dtype)[:, None]
    loss = -(ratio * gain).minimum(ratio.clamp(1 - how.eps_low, 1 + how.eps_high) * gain)
    if how.beta and ref_logp is not None:
        kl = kl_to_reference(logp, ref_logp.detach().masked_fill(~real, 0))
        loss = loss + how.beta * (kl * ratio if how.kl_by_ratio else kl)
    loss = loss.masked_fill(~real, 0).sum(1)
    if how.own_length:
        loss = loss / real.sum(1).clamp(min=1)
    return loss.sum() / total
