"""On-Policy SFT: reinforcement learning for short reasoning, taken apart until supervised fine-tuning is left.

To make a model reason in fewer tokens one usually runs GRPO with a reward for right answers and one for short ones:
    advantage   (R - mean of the prompt's G responses) / their standard deviation
    loss        - min(ratio x advantage, clipped ratio x advantage) + beta KL(policy to reference)

The paper removes three things (its 3.1). The KL guards against a learned reward model that fails far from its data; here
a rule checks the answer and length is counted, so nothing fails: beta = 0, no second model. The normalisation blows tiny
differences up to the size of large ones, and gives rewards (1, 0) and (2, 0) the same advantages: use the raw reward.
The length reward becomes a limit: a response counts 1 if it is right and finished within L tokens, and 0 otherwise.

What is left (its 3.2, Eq. 7-9): at the weights that sampled, the ratio is 1 and no clipping is active, so the gradient is
that of reward x log-likelihood. A reward of 0 or 1 makes it the gradient of cross-entropy on the responses that passed:
sample, filter, take one step of SFT, sample again. The identity is one of gradients, for these rewards, before the
first update; the values of the two losses differ, and so do the gradients as soon as the rollouts are stale.

One change remains. Dividing each response by its own length weighs tokens of short responses more, and lucky guesses are
short: so all are divided by one length, that of the longest (Eq. 9).

    rewards = [truncation_reward(...) for each rollout];  kept = keep(rewards)        nothing kept: no update
    ids, mask = right_padded(prompts and responses that were kept)
    total = denominator(lengths of all that were kept, on all ranks)
    for each micro-batch: sft_loss(token_log_probs(model(ids).logits, ids, mask), mask, total).backward()

Symbols: G rollouts of a prompt, K kept ones of B = prompts x G, n tokens of a response with its end, L the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

LengthNorm = Literal["max", "token", "const", "seq"]
Count = Literal["kept", "all"]


@dataclass(frozen=True)
class OnPolicySFTConfig:
    """One run; defaults as in the authors' script where that names a value (spec 4).

    prompts_per_step, rollouts_per_prompt: P and G; their product is sampled, and what passes is one optimiser step.
    max_new_tokens: L, of the sampler and of the filter.
    temperature: of sampling. Any other than 1 draws from another distribution than the policy: off-policy (spec 3.7).
    length_norm: what a response's summed loss is divided by, see `denominator`.
    count: the mean is over the responses that were kept, or over all that were sampled.
    require_eos: a response cut at L is refused even if its answer is there (the authors' code keeps it).
    updates_per_rollout: optimiser steps on one batch of rollouts; all but the first are on stale ones.
    """

    prompts_per_step: int = 32
    rollouts_per_prompt: int = 32
    max_new_tokens: int = 3500
    temperature: float = 1.0
    length_norm: LengthNorm = "max"
    count: Count = "kept"
    require_eos: bool = True
    updates_per_rollout: int = 1
    micro_batch_size: int = 4
    lr: float = 1e-6
    grad_clip: float = 1.0
    warmup_steps: int = 5

    def __post_init__(self) -> None:
        for name, allowed in (("length_norm", LengthNorm), ("count", Count)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"on-policy SFT: {name} is {getattr(self, name)!r}, not one of {', '.join(get_args(allowed))}")
        for name in ("prompts_per_step", "rollouts_per_prompt", "max_new_tokens", "updates_per_rollout", "micro_batch_size"):
            if not isinstance(value := getattr(self, name), int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"on-policy SFT: {name} is {value!r}; it is a whole number, 1 or more")
        for name in ("temperature", "lr", "grad_clip"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"on-policy SFT: {name} is {value}; it must be above 0 and finite")
        if self.warmup_steps < 0:
            raise ValueError(f"on-policy SFT: warmup_steps is {self.warmup_steps}; it must be 0 or more")

    @property
    def on_policy(self) -> bool:
        """Whether every gradient is taken on samples of the very policy that is updated."""
        return self.temperature == 1 and self.updates_per_rollout == 1


# -- reward and filter -------------------------------------------------------------------------------------
def truncation_reward(correct: bool, finished: bool, length: int, limit: int, require_eos: bool = True) -> float:
    """1.0 for a right answer within the limit, else 0.0 (Eq. 8).

    correct: the verifier's word. finished: the response ends with an end-of-sequence token. length: n, that token counted.
    A response cut by the sampler has exactly `limit` tokens and passes a test of length alone; require_eos refuses it.
    """
    return float(bool(correct) and length <= limit and (bool(finished) or not require_eos))


def keep(rewards: Sequence[float] | Tensor) -> list[int]:
    """Indices of rewards that are 1, in order: all right ones of every prompt, not the best or the shortest.

    Raises ValueError for a reward other than 0 and 1: only for these is the filter the policy gradient (Eq. 8).
    """
    values = rewards.tolist() if isinstance(rewards, Tensor) else list(rewards)
    if odd := [(i, r) for i, r in enumerate(values) if r not in (0, 1)]:
        raise ValueError(f"keep: reward {odd[0][0]} is {odd[0][1]}; a filter takes rewards of 0 and 1 (truncation_reward)")
    return [i for i, r in enumerate(values) if r == 1]


# -- loss --------------------------------------------------------------------------------------------------
def right_padded(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """ids (K, T) int64 and mask (K, T) bool, True on the response, its end included.

    Padding is behind every token that is scored, so a causal model needs no attention mask and no position ids.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"right_padded: {len(prompts)} prompts, but {len(responses)} responses")
    width = max((len(p) + len(r) for p, r in zip(prompts, responses)), default=0)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (prompt, response) in enumerate(zip(prompts, responses)):
        ids[i, : len(prompt) + len(response)] = torch.tensor([*prompt, *response], dtype=torch.long)
        mask[i, len(prompt) : len(prompt) + len(response)] = True
    return ids, mask


def token_log_probs(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """(K, T) log p(ids[t] | before t) where mask, 0 elsewhere; in single precision at least.

    logits (K, S, V): of the last S of the T positions, as `logits_to_keep` gives them; ids, mask (K, T). Only rows that
    predict a response token are turned into probabilities: prompts and padding cost no memory of the vocabulary's size.
    Raises ValueError if mask marks a token that no position predicts.
    """
    first = ids.shape[1] - logits.shape[1] + 1  # the first token with a predictor
    if mask[:, :first].any():
        raise ValueError(f"token_log_probs: mask marks one of the first {first} tokens, which no logits predict; a "
                         "response begins behind its prompt (and logits_to_keep is one more than the response)")
    rows = logits[:, :-1][mask[:, first:]]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    scored = -F.cross_entropy(rows, ids[mask], reduction="none")
    return scored.new_zeros(ids.shape).masked_scatter(mask, scored)


def denominator(lengths: Sequence[int], length_norm: LengthNorm = "max", limit: int | None = None, count: Count = "kept",
                n_all: int | None = None, longest: int | None = None) -> float:
    """What an optimiser step's summed loss is divided by: responses x a length. One for all micro-batches and ranks.

    lengths: n of every kept response of the step. With K of them the length is
        max      the longest                                  1 / (K max n)   Eq. 9
        token    their mean                                   1 / sum n       as the authors' code means it
        const    limit, L                                     1 / (K L)       as Dr. GRPO
        seq      1, for `sft_loss_sum` divides by n itself    1 / (K n_i)     Eq. 8, the ablation
    The first three weigh all tokens alike: their gradients are parallel. count "all" divides by n_all, the number of
    sampled responses, in place of K, which keeps the pass rate c_L of Eq. 9 as a factor. longest: for "max", of other
    responses than the kept ones (the paper does not say which it means). Raises ValueError if nothing was kept.
    """
    kept = len(lengths)
    if not kept:
        raise ValueError("denominator: no response was kept, so there is no loss; skip this update and count it")
    if length_norm not in get_args(LengthNorm) or count not in get_args(Count):
        raise ValueError(f"denominator: length_norm {length_norm!r}, count {count!r}; there is "
                         f"{', '.join(get_args(LengthNorm))} and {', '.join(get_args(Count))}")
    if length_norm == "const" and not limit:
        raise ValueError("denominator: length_norm const divides by the limit; give limit")
    responses = kept
    if count == "all":
        if n_all is None or n_all < kept:
            raise ValueError(f"denominator: count all divides by the sampled responses; n_all is {n_all}, and {kept} were kept")
        responses = n_all
    if length_norm == "max" and longest is not None and longest < max(lengths):
        raise ValueError(f"denominator: longest is {longest}, but a kept response has {max(lengths)} tokens")
    total = sum(lengths)
    if length_norm == "token":
        return float(total) if count == "kept" else total * responses / kept
    unit = {"max": longest or max(lengths), "const": limit or 0, "seq": 1}[length_norm]  # const without a limit was refused
    return float(responses * unit)


def sft_loss_sum(logp: Tensor, mask: Tensor, length_norm: LengthNorm = "max") -> Tensor:
    """Sum of -log p over kept responses, each divided by its own length for "seq". logp, mask (K, R).

    No row at all, or rows with an empty mask, give 0 that still has a gradient (of zeros): a rank that kept nothing.
    """
    return (-logp.masked_fill(~mask.bool(), 0) * _row_weight(mask, length_norm, logp.dtype)).sum()


def sft_loss(logp: Tensor, mask: Tensor, denominator: float, length_norm: LengthNorm = "max") -> Tensor:
    """Cross-entropy on kept responses (Eq. 9): `sft_loss_sum` / `denominator(...)`. Micro-batches' losses add up."""
    return sft_loss_sum(logp, mask, length_norm) / denominator


def _row_weight(mask: Tensor, length_norm: LengthNorm, dtype: torch.dtype) -> Tensor:
    """(K, 1): 1 / n_i for "seq", else 1."""
    lengths = mask.sum(1, keepdim=True).to(dtype)
    return 1 / lengths.clamp(min=1) if length_norm == "seq" else torch.ones_like(lengths)


# -- what it was derived from ------------------------------------------------------------------------------
def surrogate_loss(logp: Tensor, old_logp: Tensor, rewards: Tensor, mask: Tensor, denominator: float,
                   length_norm: LengthNorm = "max") -> Tensor:
    """- sum of reward x ratio over all sampled responses, wrong ones too: Eq. 2 without KL, clipping and normalisation.

    logp, old_logp, mask (B, R); rewards (B,). Where logp == old_logp its gradient is that of `sft_loss` with the same
    denominator on the rows of reward 1 (Eq. 7, 8); its value is another, and elsewhere its gradient is.
    """
    real = mask.bool()
    ratio = (logp.masked_fill(~real, 0) - old_logp.detach().masked_fill(~real, 0)).exp().masked_fill(~real, 0)
    return -(ratio * rewards.to(logp.dtype)[:, None] * _row_weight(mask, length_norm, logp.dtype)).sum() / denominator


# -- where the two models differ ---------------------------------------------------------------------------
@torch.no_grad()
def divergence_by_token(base_logits: Tensor, efficient_logits: Tensor, chunk: int = 512) -> Tensor:
    """(B, T) D_t = KL(base || efficient) of the next token's distribution, over the whole vocabulary (Eq. 44).

    Both logits (B, T, V) on the same text, which the base model sampled. Column t speaks of token t + 1. A token that the base gives
    probability 0 (a logit of -inf) counts 0, whatever the other gives it; one that only the other gives 0 makes D_t infinite.
    """
    if base_logits.shape != efficient_logits.shape:
        raise ValueError(f"divergence: logits {tuple(base_logits.shape)} and {tuple(efficient_logits.shape)}; both models "
                         "read the same ids and share a vocabulary")
    least = torch.promote_types(base_logits.dtype, torch.float32)
    parts = []
    for base, efficient in zip(base_logits.flatten(0, 1).split(chunk), efficient_logits.flatten(0, 1).split(chunk)):
        p, q = base.to(least).log_softmax(-1), efficient.to(least).log_softmax(-1)
        parts.append((p.exp() * (p - q)).masked_fill(p == -torch.inf, 0).sum(-1))
    return torch.cat(parts).view(base_logits.shape[:2])


def mean_by_type(divergence: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(types, means, counts): mean D_t before tokens of each type, highest first. All (number of types,).

    divergence, ids, mask (B, T), mask as `right_padded` gives it: the tokens that count. D_t goes to token t + 1.
    """
    types, where, counts = ids[:, 1:][mask[:, 1:]].unique(return_inverse=True, return_counts=True)
    values = divergence[:, :-1][mask[:, 1:]]
    means = values.new_zeros(len(types)).index_add_(0, where, values) / counts
    order = means.argsort(descending=True, stable=True)
    return types[order], means[order], counts[order]
