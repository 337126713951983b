"""Distillation by Lightning: one module, two switches, the paper's four cells and what lies between them.

    prefix    who wrote the responses: the student now, the teacher (now, or from a cache), the data       trajectories.py
    lam       0 forward KL, 1 reverse KL, a linear mix between                                              method.py

A step takes P problems, gets a response or more to each, and reads them with both models; the loss is summed over the whole
optimiser step and divided by its number of supervised tokens, whatever the micro-batches and processes. Student's prefixes are
sampled anew after every update, from the weights that the update made. `length` is the training length, which the
curriculum moves. The teacher is in no optimiser, in no checkpoint and in no state dict.

`GRPO` is the reinforcement learning that follows: group-normalised advantages of a reward of 0 or 1.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError, SetupError
from common.models import ModelSpec, load
from common.reasoning.policy_gradient import ClippedLoss, group_advantage, grpo_loss
from common.reasoning.rollouts import Rollout, response_log_probs, response_logits, sample, uniforms
from common.reasoning.sampled import SampledTraining
from common.seeds import seed_of

from . import method
from .heads import Head, check_pair, response_hidden
from .method import DistillConfig
from .scoring import evaluate, measure
from .trajectories import TrajectoryCache, explained, shortened

BLANK = ((0,),), [Rollout(0, (0,), False)]  # a row that counts nowhere


class Sampling(SampledTraining):
    """What distillation and the reinforcement learning behind it share: lengths, ends, the law that is sampled from."""

    PAPER = "decouplingkl"
    config: DistillConfig

    def __init__(self, model: ModelSpec, config: DistillConfig | None = None, **options):
        super().__init__(model, config or DistillConfig(), **options)
        self.length = self.config.max_new_tokens  # the curriculum's
        self.ends: tuple[int, ...] | None = None  # known when a training begins

    def generation_ends(self, *models) -> set[int]:
        ends = [getattr(getattr(m, "generation_config", None), "eos_token_id", None) for m in models]
        return {int(e) for end in ends for e in (end if isinstance(end, list | tuple) else [end]) if e is not None}

    def find_ends(self, *models) -> None:
        """All tokens that end a response, for a student and a teacher that end otherwise (spec 6.7); or what the config says."""
        own = self.config.stop_token_ids
        self.trainer.datamodule.rows(0)  # which reads the tokenizer's
        ends = {*self.trainer.datamodule.end, *self.generation_ends(*models)} if own is None else set(own)
        V = self.model.get_output_embeddings().weight.shape[0]
        if odd := [e for e in ends if not 0 <= e < V]:
            raise SetupError(f"model.config.stop_token_ids: {odd[0]} is no token of the {V} that the student has")
        self.ends = tuple(sorted(ends))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.find_ends(self.model)

    def drawn(self, model: nn.Module, problems: list, first: int, length: int, purpose: str) -> list[Rollout]:
        """Responses that `model` samples; two processes draw what one would."""
        config, generator = self.config, torch.Generator().manual_seed(seed_of(purpose, self.seed, self.done))
        if first:  # the random numbers of the problems before, which are other ranks'
            torch.randint(-(2**63), 2**63 - 1, (first * config.rollouts_per_prompt,), generator=generator)
        how: dict[str, Any] = dict(end=self.ends or (), temperature=config.temperature, top_p=config.top_p, top_k=config.top_k,
                                   generator=generator)
        prompts = [p.prompt for p in problems]
        if self.sampler is not None and model is self.model:
            self.sampler.load(model)
            return self.sampler.sample(prompts, config.rollouts_per_prompt, length, **how)
        with explained():
            return sample(model, prompts, config.rollouts_per_prompt, length, **how)

    def rollouts(self, problems: list, first: int) -> list[Rollout]:
        return self.drawn(self.rollout_model(), problems, first, self.length, "rollouts")

    # -- held out --------------------------------------------------------------------------------
    def score(self, model: nn.Module, problems: list) -> list[dict]:
        return evaluate(model, self.trainer.datamodule, problems, self.samples, self.cap, seed_of("validation", self.seed), self.ends)

    def measure(self, problems: list, samples: int = 1, cap: int | None = None) -> dict[str, float]:
        """{"entropy", "length", "at_cap"} of responses to these problems at temperature 1, nothing truncated, `cap` tokens at most: each
        rank answers its share, and all get the same numbers."""
        world, rank, model = self.trainer.world_size, self.trainer.global_rank, self.sampling_model()
        share = -(-len(problems) // world)
        mine = problems[rank * share : (rank + 1) * share]
        rows = measure(model, mine, samples, cap or self.cap, self.ends or (), seed_of("measure", self.seed), rank * share,
                       self.config.micro_batch_size) if mine else []
        rows = self.gathered(rows)
        tokens, count = sum(r["length"] for r in rows), len(rows)
        return {"entropy": math.fsum(r["entropy"] for r in rows) / tokens, "length": tokens / count,
                "at_cap": sum(r["length"] >= (cap or self.cap) and not r["finished"] for r in rows) / count}

    # -- files -----------------------------------------------------------------------------------
    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[self.PAPER]["length"] = self.length

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.length = checkpoint[self.PAPER]["length"]


class Distilling(Sampling):
    """model: the student. teacher: any causal LM of the same vocabulary, in a precision of its own. trajectories: a file of the
    teacher's responses, read and added to; None samples them anew in every step. Other options: of SampledTraining.

    given_teacher: (model, tokenizer, source) in memory, in place of `teacher`.
    """

    def __init__(self, model: ModelSpec, teacher: ModelSpec, config: DistillConfig | None = None,
                 trajectories: str | None = None, **options):
        super().__init__(model, config, **options)
        self.teacher_spec, self.trajectories = teacher, trajectories
        self.given_teacher: tuple[nn.Module, Any, dict] | None = None
        self._teacher: list[nn.Module] = []  # in a list: neither trained nor saved
        self._heads: list[Head] = []  # of student and teacher, where logits are made in chunks
        self.teacher_source: dict[str, Any] = {}
        self.cache: TrajectoryCache | None = None
        c = self.config
        if c.truncated and c.prefix != "dataset":
            warnings.warn(f"off-policy: temperature {c.temperature}, top_p {c.top_p}, top_k {c.top_k} sample from another law than the "
                          f"{c.prefix}'s own, and the objective's expectation is over that law", stacklevel=2)
        if self.trajectories is not None and self.config.prefix != "teacher":
            raise ValueError(f"model.trajectories is a file of the teacher's responses, and model.config.prefix is {self.config.prefix}")

    # -- two models ------------------------------------------------------------------------------
    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    def configure_model(self) -> None:
        if self._teacher:
            return
        if self.given_teacher is None:
            loaded = load(self.teacher_spec)
            self.given_teacher = loaded.model, loaded.tokenizer, loaded.source
        teacher, words, self.teacher_source = self.given_teacher
        super().configure_model()
        check_pair(self.model, self.tokenizer, teacher, words)
        self._teacher.append(teacher.eval().requires_grad_(False))
        if self.config.token_chunk and self.config.estimator == "full":
            self._heads += [Head(self.model), Head(teacher)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.teacher.to(self.device)
        self.check_lengths(self.teacher)
        self.find_ends(self.model, self.teacher)
        if self.trajectories is not None:
            self.cache = TrajectoryCache(self.trajectories, self.trajectory_facts())

    def trajectory_facts(self) -> dict[str, Any]:
        """Of a cache: who sampled, and how."""
        config, source = self.config, self.teacher_source
        return {"teacher": source.get("weights_sha256") or source.get("recipe_sha256"), "max_new_tokens": config.max_new_tokens,
                "temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k, "ends": list(self.ends or ())}

    # -- prefixes --------------------------------------------------------------------------------
    def rollouts(self, problems: list, first: int) -> list[Rollout]:
        """Responses to this rank's problems, none longer than `length`."""
        if self.config.prefix == "student":
            return super().rollouts(problems, first)
        if self.config.prefix == "dataset":
            return shortened(self.solutions(problems), self.length)
        if self.cache is None:
            return self.drawn(self.teacher, problems, first, self.length, "teacher")
        return shortened(self.cached(problems, first), self.length)

    def cached(self, problems: list, first: int) -> list[Rollout]:
        """Of full length, from the cache; what it lacks is sampled by the teacher and added, by all ranks for all."""
        assert self.cache is not None
        count, new = self.config.rollouts_per_prompt, []
        if any(self.cache.get(p.prompt, count) is None for p in problems):
            drawn = self.drawn(self.teacher, problems, first, self.config.max_new_tokens, "teacher")
            seen = {tuple(p.prompt) for p in problems if self.cache.get(p.prompt, count)}
            for i, prompt in enumerate(tuple(p.prompt) for p in problems):
                if prompt not in seen:
                    new += [(prompt, r.ids, r.finished) for r in drawn[i * count : (i + 1) * count]]
                    seen.add(prompt)
        self.cache.add(self.gathered(new), write=self.trainer.is_global_zero)
        found = [self.cache.get(p.prompt, count) or [] for p in problems]
        return [Rollout(i, ids, finished) for i, rows in enumerate(found) for ids, finished in rows]

    def solutions(self, problems: list) -> list[Rollout]:
        """The data's own responses, each with an end."""
        solution = getattr(self.trainer.datamodule, "solution", None)
        if solution is None:
            raise SetupError(f"model.config.prefix is dataset, and {type(self.trainer.datamodule).__name__} has no solutions; take data "
                             "that have, or the prefix student or teacher")
        return [Rollout(i, tuple(solution(p)), True) for i, p in enumerate(problems) for _ in range(self.config.rollouts_per_prompt)]

    # -- an update -------------------------------------------------------------------------------
    def update(self, problems: list, rollouts: list[Rollout], correct: list[bool]) -> dict[str, float]:
        """One optimiser step on all responses: the mean over all supervised tokens of the step, on all ranks."""
        tokens, total = sum(self.gathered([len(r.ids) for r in rollouts])), 0.0
        with self.gradients():
            for rows in self.micro_batches(rollouts):
                loss = self.loss_sum(problems, rows)
                self.manual_backward(loss / tokens * self.scale())
                total += float(loss.detach())
        mean = self.summed(total) / tokens
        if not math.isfinite(mean):
            raise ModelError(f"distillation: the loss of step {self.done} is {mean}: one model gives probability to a token to which the "
                             "other gives none, or the student has diverged; take the other KL, or a lower learning rate")
        return {"loss per token": mean, "norm": self.step(), "training length": float(self.length)}

    def loss_sum(self, problems: list, rows: list[Rollout]) -> Tensor:
        """The objective summed over the tokens of these responses; 0 with a gradient of zeros for no rows."""
        c, (prompts, read) = self.config, ([p.prompt for p in problems], rows) if rows else BLANK
        if self._heads:
            ours = response_hidden(self._heads[0], prompts, read)
            with torch.no_grad():
                theirs = response_hidden(self._heads[1], prompts, read)
            weight = torch.full(ours.shape[:1], bool(rows), device=ours.device)
            return method.chunked_mixed_kl(ours, self._heads[0], theirs, self._heads[1], c.lam, weight, c.token_chunk, c.mix,
                                           c.loss_temperature, c.switch_entropy)
        zq, ids, response = response_logits(self.model, prompts, read)
        with torch.no_grad():
            zp, _, _ = response_logits(self.teacher, prompts, read)
        where = response if rows else torch.zeros_like(response)
        if c.estimator == "sampled":
            return self.sampled_sum(zq, zp, ids, where, [(tuple(prompts[r.prompt]), r.ids) for r in read])
        zq, zp = zq[where], zp[where]
        if c.estimator == "topk":
            return method.top_k_kl(zq, method.top_k(zp, c.top_tokens, c.loss_temperature), c.lam, c.loss_temperature).sum()
        return method.mixed_kl(zq, zp, c.lam, c.mix, c.loss_temperature, c.switch_entropy).sum()

    def sampled_sum(self, zq: Tensor, zp: Tensor, ids: Tensor, where: Tensor, names: list) -> Tensor:
        """One token for each prefix: the one that follows in the text if the model whose law the direction averages over wrote the text,
        else a fresh one. zq, zp (K, C, V), ids, where (K, C); names: prompt and response of each row, from which its chance follows."""
        c, total = self.config, zq.new_zeros((), dtype=torch.float32) + 0 * zq[where].sum()
        zq, zp = zq / c.loss_temperature, zp / c.loss_temperature
        as_sampled = c.loss_temperature == 1 and not c.truncated
        for share, averaged, name in ((1 - c.lam, zp, "teacher"), (c.lam, zq, "student")):
            if not share:
                continue
            labels = ids
            if c.prefix != name or not as_sampled:
                seeds = torch.tensor([seed_of("labels", name, self.seed, self.done, of) for of in names], device=ids.device)
                place = where.long().cumsum(1) - 1  # within the response, wherever the batch has put it
                u = torch.stack([uniforms(seeds, t) for t in range(ids.shape[1])], 1).gather(1, place.clamp(min=0))
                labels = ids.masked_scatter(where, method.fresh_labels(averaged[where], u[where]))
            log_q = method.log_probs(zq, labels)
            if name == "teacher":
                part = method.sampled_forward(log_q)
            else:
                part = method.sampled_reverse(log_q, method.log_probs(zp, labels), where, c.returns)
            total = total + share * part.masked_fill(~where, 0).sum()
        return total

    # -- files -----------------------------------------------------------------------------------
    def run_facts(self) -> dict[str, Any]:
        source = self.teacher_source
        return super().run_facts() | {"teacher": source.get("weights_sha256") or source.get("recipe_sha256")}

    def product_facts(self) -> dict[str, Any]:
        return super().product_facts() | {"distilled_from": self.teacher_source.get("name"),
                                          "teacher_revision": self.teacher_source.get("revision")}


class GRPO(Sampling):
    """The reinforcement learning that starts from a distilled student: group-normalised advantages, clipped ratios, no reference. The
    reward is 1 for a right answer that ended within `length` tokens, 0 otherwise."""

    def update(self, problems: list, rollouts: list[Rollout], correct: list[bool]) -> dict[str, float]:
        """One step on all responses; nothing where no group has a better and a worse one."""
        rewards = torch.tensor([float(c and r.finished) for c, r in zip(correct, rollouts)])
        advantage = group_advantage(rewards, self.config.rollouts_per_prompt, eps=1e-4)
        if not self.summed(float(advantage.abs().sum())):
            return self.skip()
        of, count, nll = {id(r): a for r, a in zip(rollouts, advantage.tolist())}, len(self.gathered(rollouts)), 0.0
        with self.gradients():
            for rows in self.micro_batches(rollouts):
                prompts, read = ([p.prompt for p in problems], rows) if rows else BLANK
                logp, mask = response_log_probs(self.model, prompts, read)
                mask = mask if rows else torch.zeros_like(mask)
                gains = torch.tensor([of[id(r)] for r in rows] or [0.0], device=logp.device)
                loss = grpo_loss(logp, logp.detach(), gains, mask, float(count), ClippedLoss())
                self.manual_backward(loss * self.scale())
                nll -= float(logp.detach()[mask].double().sum())
        return {"loss per token": self.summed(nll) / sum(self.gathered([len(r.ids) for r in rollouts])), "norm": self.step()}
