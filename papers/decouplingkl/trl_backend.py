"""The four cells on trl's trainers, for GPUs: their sampling, vLLM, sharding and accelerate, and our linear mix where trl has none.

    student's prefixes   DistillationTrainer(beta=lam): its chunked loss, generations anew for every optimiser step
    teacher's, data's    GKDTrainer(lmbda=0, seq_kd=True or False, beta=lam): whole logits

trl's beta between 0 and 1 is the generalised JSD (mix "jsd"); for a linear mix two subclasses put `mixed_kl` in its place. A
test holds loss and gradient of all four cells to ours: the alarm for the day on which trl changes what is overridden.
`GatedLength` is the curriculum for these trainers, without roll-back. trl is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from . import method
from .curriculum import Gate
from .heads import Head
from .method import DistillConfig

CPU = dict(use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none")  # trl's defaults assume a GPU


def shared_arguments(config: DistillConfig, processes: int = 1) -> dict[str, Any]:
    """Of both trainers' configs. Raises ValueError for a config that trl cannot do."""
    step = config.prompts_per_step * config.rollouts_per_prompt
    wrong = {"estimator": config.estimator != "full", "mix": config.mix == "by_entropy",
             "rollouts_per_prompt": config.rollouts_per_prompt > 1,
             "loss_temperature": config.prefix == "student" and config.loss_temperature != config.temperature,
             "stop_token_ids": config.stop_token_ids is not None}
    if config.prefix != "student":
        wrong |= {"loss_temperature": config.loss_temperature != 1, "top_p": config.top_p < 1, "top_k": config.top_k > 0}
    if names := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise ValueError(f"trl: {', '.join(f'{n} is {getattr(config, n)!r}' for n in names)}, which its trainers cannot do on "
                         f"prefixes of the {config.prefix}; use train.py, or another value")
    if step % (config.micro_batch_size * processes):
        raise ValueError(f"trl: {step} responses a step do not split into micro-batches of {config.micro_batch_size} on {processes} "
                         "processes; change micro_batch_size")
    return dict(per_device_train_batch_size=config.micro_batch_size,
                gradient_accumulation_steps=step // (config.micro_batch_size * processes), learning_rate=config.lr,
                lr_scheduler_type="constant_with_warmup", warmup_steps=config.warmup_steps, max_grad_norm=config.grad_clip,
                beta=float(config.lam), disable_dropout=True, weight_decay=0.01)


def distillation_arguments(config: DistillConfig, processes: int = 1) -> dict[str, Any]:
    """DistillationConfig's, for student's prefixes. ValueError for others."""
    if config.prefix != "student":
        raise ValueError(f"trl: DistillationTrainer reads the student's own responses, and prefix is {config.prefix}; take GKDTrainer")
    return shared_arguments(config, processes) | dict(max_completion_length=config.max_new_tokens, temperature=config.temperature,
                                                      top_p=config.top_p, top_k=config.top_k)


def gkd_arguments(config: DistillConfig, processes: int = 1) -> dict[str, Any]:
    """GKDConfig's, for any cell: lmbda is the probability of the student's own text, seq_kd takes the teacher's otherwise."""
    return shared_arguments(config, processes) | dict(
        lmbda=1.0 if config.prefix == "student" else 0.0, seq_kd=config.prefix == "teacher", max_new_tokens=config.max_new_tokens,
        temperature=config.temperature)


@cache
def distillation_class(linear: bool = False) -> type:
    """DistillationTrainer; `linear`: with our linear mix. Raises RuntimeError if trl has lost what is overridden."""
    import trl

    parent = trl.DistillationTrainer
    if not linear:
        return parent
    if missing := [n for n in ("_compute_loss", "_get_last_hidden_state") if not hasattr(parent, n)]:
        raise RuntimeError(f"trl {trl.__version__}: DistillationTrainer has no {' and no '.join(missing)}, which trl_backend.py "
                           "overrides; it was written for 1.16")

    class LinearDistillation(parent):
        """The same hidden states, read by our chunked loss."""

        def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
            seen, keep = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1), inputs["completion_ids"].shape[1]
            teacher = self.accelerator.unwrap_model(self.teacher_model).eval()
            if not hasattr(self, "_heads"):
                self._heads = Head(unwrapped_student), Head(teacher)
            ours = self._get_last_hidden_state(unwrapped_student, ids, seen, keep).flatten(0, 1)
            with torch.no_grad():
                theirs = self._get_last_hidden_state(teacher, ids, seen, keep).flatten(0, 1)
            mask = inputs["completion_mask"].flatten()
            total = method.chunked_mixed_kl(ours, self._heads[0], theirs, self._heads[1], self.beta, mask, temperature=self.temperature)
            count = mask.sum() if num_items_in_batch is None else num_items_in_batch
            return total / count, torch.zeros((), device=ids.device), mask.sum()

    return LinearDistillation


@cache
def gkd_class(linear: bool = False) -> type:
    """GKDTrainer; `linear`: with our linear mix. Raises RuntimeError if trl has lost what is overridden."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        from trl.experimental.gkd import GKDTrainer as parent
    if not linear:
        return parent
    if not hasattr(parent, "generalized_jsd_loss"):
        raise RuntimeError("trl: GKDTrainer has no generalized_jsd_loss, which trl_backend.py overrides; it was written for 1.16")

    class LinearGKD(parent):
        @staticmethod
        def generalized_jsd_loss(student_logits, teacher_logits, labels=None, beta=0.5, temperature=1.0, reduction="batchmean",
                                 num_items_in_batch=None):
            where = torch.ones(student_logits.shape[:-1], dtype=torch.bool) if labels is None else labels != -100
            total = method.mixed_kl(student_logits[where], teacher_logits[where], beta, "linear", temperature).sum()
            return total / (where.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)

    return LinearGKD


def collate(pad: int) -> Callable[[Sequence[dict]], dict[str, Tensor]]:
    """For GKDTrainer, of rows {"prompt_ids", "completion_ids"}: prompts padded on the left for sampling, prompt and completion
    padded on the right for reading; labels are the completion's tokens."""

    def batch(rows: Sequence[dict]) -> dict[str, Tensor]:
        width, whole = max(len(r["prompt_ids"]) for r in rows), max(len(r["prompt_ids"]) + len(r["completion_ids"]) for r in rows)
        prompts, ids = torch.full((len(rows), width), pad), torch.full((len(rows), whole), pad)
        seen, mask, labels = torch.zeros_like(prompts), torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, row in enumerate(rows):
            prompt, answer = torch.tensor(row["prompt_ids"]), torch.tensor(row["completion_ids"], dtype=torch.long)
            prompts[i, width - len(prompt) :], seen[i, width - len(prompt) :] = prompt, 1
            end = len(prompt) + len(answer)
            ids[i, :end], mask[i, :end], labels[i, len(prompt) : end] = torch.cat([prompt, answer]), 1, answer
        return {"prompts": prompts, "prompt_attention_mask": seen, "input_ids": ids, "attention_mask": mask, "labels": labels}

    return batch


class GatedLength(TrainerCallback):
    """The entropy-gated curriculum for trl's trainers. measure(model) -> {"entropy", "at_cap"} on held-out problems.

    trainer: set by whoever makes both. A roll-back would need weights of the stage before, which trl's checkpoints have and this
    callback has not: ValueError for on_fail "rollback" (train.py has it). `gate.decisions` has a dict a stage's end.
    """

    def __init__(self, gate: Gate, stage_steps: int, measure: Callable[[Any], dict[str, float]]):
        if gate.on_fail == "rollback":
            raise ValueError("trl: on_fail is rollback, which only train.py can do; set hold or stop")
        self.gate, self.stage_steps, self.measure, self.trainer = gate, stage_steps, measure, None

    def on_train_begin(self, args, state, control, model=None, **_):
        if self.gate.relative and self.gate.start is None:
            self.gate.start = self.measure(model)["entropy"]
        self.set_length()

    def on_step_end(self, args, state, control, model=None, **_):
        if self.gate.open and state.global_step % self.stage_steps == 0:
            now = self.measure(model)
            if self.gate.decide(now["entropy"], state.global_step, now.get("at_cap"))["action"] == "stop":
                control.should_training_stop = True
            self.set_length()
        return control

    def set_length(self) -> None:
        """In all places where the trainers keep it."""
        length, trainer = self.gate.length, self.trainer
        trainer.generation_config.max_new_tokens = trainer.generation_kwargs["max_new_tokens"] = length
        for owner in (trainer, getattr(trainer, "vllm_generation", None)):
            if hasattr(owner, "max_completion_length"):
                owner.max_completion_length = length
