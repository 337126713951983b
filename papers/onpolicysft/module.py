"""Training on the policy's own right answers, by Lightning, and the methods that it is compared with.

A step samples from the very weights that will be updated, grades, keeps what is right and finished, and takes one
optimiser step of cross-entropy on that (sampled.py has all that is not the method):

    OnPolicySFT     the paper
    BestOfN, ByLot  the same on other selections: the shortest right response of each problem; as many at random
    FixedData       the same filter on responses that the starting model gave once: off-policy filtered SFT
    GRPO            group-normalised advantages, clipping, KL to the starting model
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from common.models import DTYPES, ModelSpec
from common.reasoning.policy_gradient import ClippedLoss, group_advantage, grpo_loss
from common.reasoning.rollouts import Rollout, forward_names
from common.reasoning.sampled import SampledTraining
from common.seeds import seed_of

from . import baselines, method
from .method import OnPolicySFTConfig
from .scoring import evaluate


class OnPolicySFT(SampledTraining):
    """config: what the method leaves open; other options: of SampledTraining.

    The cap of a scored response is the starting model's and not the training's limit, or truncation would pass for brevity.
    """

    PAPER = "onpolicysft"

    def __init__(self, model: ModelSpec, config: OnPolicySFTConfig | None = None, **options):
        super().__init__(model, config or OnPolicySFTConfig(), **options)

    def update(self, problems: list, rollouts: list[Rollout], correct: list[bool]) -> dict[str, float]:
        """Learns from the selected responses, in as many updates as the config says; the facts are the first one's."""
        rewards = self.rewards(rollouts, correct)
        chosen, count = self.selected(rollouts, rewards), self.config.updates_per_rollout
        kept = self.gathered([len(rollouts[i].ids) for i in chosen])
        facts = {"kept": len(kept) / len(self.gathered(rewards)), "kept length": sum(kept) / max(len(kept), 1)}
        updates = [self.learn(problems, [rollouts[i] for i in chosen[k::count]], rewards) for k in range(count)]
        return facts | updates[0]

    def rewards(self, rollouts: list[Rollout], correct: list[bool]) -> list[float]:
        return [method.truncation_reward(c, r.finished, len(r.ids), self.config.max_new_tokens, self.config.require_eos)
                for c, r in zip(correct, rollouts)]

    def selected(self, rollouts: list[Rollout], rewards: list[float]) -> list[int]:
        """Indices of the responses to train on."""
        return method.keep(rewards)

    def learn(self, problems: list, kept: list[Rollout], rewards: list[float]) -> dict[str, float]:
        """One optimiser step of cross-entropy on `kept`; rewards: of all that was sampled. {} where all ranks kept nothing."""
        config, lengths = self.config, self.gathered([len(r.ids) for r in kept])
        if not lengths:
            return self.skip()
        sampled = -(-len(self.gathered(rewards)) // config.updates_per_rollout)  # this update's part of them
        total = method.denominator(lengths, config.length_norm, config.max_new_tokens, config.count, sampled)
        nll = torch.zeros((), dtype=torch.float64)
        with self.gradients():
            for rows in self.micro_batches(kept):
                logp, mask = self.log_probs(self.model, problems, rows)
                loss = method.sft_loss(logp, mask, total, config.length_norm)
                self.manual_backward(loss * self.scale())
                nll -= logp.detach()[mask].double().sum().cpu()
        return {"loss per token": self.summed(float(nll)) / sum(lengths), "norm": self.step()}

    def log_probs(self, model: nn.Module, problems: list, rows: list[Rollout]) -> tuple[Tensor, Tensor]:
        """(log-probabilities, mask) (K, T); no rows: of a blank one, which counts nowhere."""
        ids, mask = method.right_padded([problems[r.prompt].prompt for r in rows], [r.ids for r in rows]) if rows else (
            torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.bool))
        ids, mask = ids.to(self.device), mask.to(self.device)
        behind = ids.shape[1] - min((len(problems[r.prompt].prompt) for r in rows), default=1)  # the shortest prompt: no logits of it
        keep = {"logits_to_keep": behind + 1} if "logits_to_keep" in forward_names(model) else {}
        return method.token_log_probs(model(input_ids=ids, use_cache=False, **keep).logits, ids, mask), mask

    def score(self, model: nn.Module, problems: list) -> list[dict]:
        return evaluate(model, self.trainer.datamodule, problems, self.samples, self.cap, seed_of("validation", self.seed))


# -- the same on other selections --------------------------------------------------------------------------
class BestOfN(OnPolicySFT):
    """Only the shortest right response of each problem: best-of-n distillation, which is not the paper."""

    def selected(self, rollouts, rewards):
        return baselines.keep_shortest(rewards, [len(r.ids) for r in rollouts], self.config.rollouts_per_prompt)


class ByLot(OnPolicySFT):
    """As many responses as passed, drawn from all: what the filter is worth."""

    def selected(self, rollouts, rewards):
        return baselines.keep_random(rewards, seed_of("lot", self.seed, self.done, self.global_rank))


class FixedData(OnPolicySFT):
    """The filter on responses of the starting weights, sampled anew for each step's problems but never from what was learnt."""

    def keep_start(self) -> None:
        self.start = [copy.deepcopy(self.model).to(DTYPES[self.sample_dtype or self.spec.dtype]).eval().requires_grad_(False)]

    def rollout_model(self) -> nn.Module:
        return self.start[0].to(self.device)


class GRPO(OnPolicySFT):
    """Group-normalised advantages, clipped ratios, KL to the starting weights. reward: "truncation" or "accuracy + length"."""

    SETTINGS = (*OnPolicySFT.SETTINGS, "beta", "reward")

    def __init__(self, model: ModelSpec, config: OnPolicySFTConfig | None = None, beta: float = 0.04,
                 reward: Literal["truncation", "accuracy + length"] = "truncation", **options):
        super().__init__(model, config, **options)
        self.beta, self.reward = beta, reward
        if self.config.updates_per_rollout != 1:
            raise ValueError("model.config.updates_per_rollout must be 1 for GRPO: groups are whole, and old log-probabilities are "
                             "those of the weights that are updated")

    def keep_start(self) -> None:
        if self.beta:
            self.reference = [copy.deepcopy(self.model).eval().requires_grad_(False)]

    def rewards(self, rollouts, correct):
        if self.reward == "truncation":
            return super().rewards(rollouts, correct)
        return [baselines.accuracy_and_length_reward(c, len(r.ids), self.config.max_new_tokens) for c, r in zip(correct, rollouts)]

    def selected(self, rollouts, rewards):
        return list(range(len(rollouts)))

    def learn(self, problems, kept, rewards):
        """One step on all responses; nothing where no group has a better and a worse one."""
        advantage = group_advantage(torch.tensor(rewards), self.config.rollouts_per_prompt, eps=1e-4)
        if not self.summed(float(advantage.abs().sum())):
            return self.skip()
        advantage_of = {id(r): a for r, a in zip(kept, advantage.tolist())}
        lengths, nll, how = self.gathered([len(r.ids) for r in kept]), 0.0, ClippedLoss(beta=self.beta)
        with self.gradients():
            for rows in self.micro_batches(kept):
                logp, mask = self.log_probs(self.model, problems, rows)  # one update a batch: its own old log-probabilities
                with torch.no_grad():
                    ref = self.log_probs(self.reference[0], problems, rows)[0] if self.beta else None
                gains = torch.tensor([advantage_of[id(r)] for r in rows] or [0.0], device=logp.device)
                loss = grpo_loss(logp, logp.detach(), gains, mask, float(len(lengths)), how, ref)
                self.manual_backward(loss * self.scale())
                nll -= float(logp.detach()[mask].double().sum())
        return {"loss per token": self.summed(nll) / sum(lengths), "norm": self.step()}
