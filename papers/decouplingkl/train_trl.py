"""Train by trl from the same config: python -m papers.decouplingkl.train_trl --config FILE [--key value ...].

The second back-end (trl_backend.py): models, data, objective and steps are read from a config of train.py, and trl's trainer does
the work, with its own vLLM (`--trl '{"use_vllm": true}'`), accelerate and checkpoints (`--resume` goes on from the last).
model.class_path Distilling trains any cell, GRPO the stock GRPOTrainer on an accuracy reward. A curriculum in the config is taken
over, with on_fail hold or stop. The product goes to trainer.default_root_dir/model, as train.py's.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from common.errors import ModelError, SetupError
from common.files import write_json
from common.reasoning.rollouts import Rollout
from common.seeds import seed_of
from common.training.cli import settings_in_json

from .curriculum import EntropyGatedLength
from .module import GRPO, Distilling, Sampling
from .scoring import measure
from .train import cli
from .trl_backend import CPU, GatedLength, collate, distillation_arguments, distillation_class, gkd_arguments, gkd_class


def build(training: Sampling, data, steps: int, out: Path, options: dict, curriculum: EntropyGatedLength | None = None):
    """The trainer. Raises SetupError or ValueError for what trl cannot do."""
    if steps < 1:
        raise SetupError(f"trainer.max_steps is {steps}; trl needs a number of updates")
    training.configure_model()
    words = training.tokenizer
    if words is None:
        raise SetupError("the model has no tokenizer, which trl needs to read prompts")
    data.trainer = SimpleNamespace(lightning_module=training, datamodule=data, world_size=1, global_rank=0)
    data.setup()
    problems = data.rows(0).problems
    if words.pad_token is None:
        words.pad_token = words.eos_token
    teacher = training.teacher if isinstance(training, Distilling) else None
    training.model.generation_config.eos_token_id = sorted({*data.end, *training.generation_ends(training.model, teacher)})
    for name in ("temperature", "top_p", "top_k", "do_sample"):  # a checkpoint's own law is another policy
        setattr(training.model.generation_config, name, {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "do_sample": True}[name])
    usual: dict[str, Any] = dict(output_dir=str(out / "trl"), max_steps=steps, logging_steps=1, seed=training.seed, save_strategy="steps",
                                 adam_beta1=training.betas[0], adam_beta2=training.betas[1], save_steps=50, save_total_limit=2)
    usual |= {} if torch.cuda.is_available() else CPU
    if isinstance(training, Distilling):
        trainer = distiller(training, data, problems, usual, options)
        if curriculum is not None:
            follow(trainer, training, data, steps, curriculum)
        return trainer
    return follow_up(training, data, problems, usual, options)


def distiller(training: Distilling, data, problems: list, usual: dict, options: dict):
    from datasets import Dataset

    config = training.config
    linear = config.mix == "linear" and 0 < config.lam < 1
    decay = {"weight_decay": training.weight_decay}
    if config.prefix == "student":
        import trl

        args = trl.DistillationConfig(**(distillation_arguments(config) | usual | decay
                                         | {"chat_template_kwargs": {"enable_thinking": getattr(data, "thinking", False)}} | options))
        rows = Dataset.from_list([{"prompt": data.question(p)} for p in problems])
        return distillation_class(linear)(model=training.model, teacher_model=training.teacher, args=args, train_dataset=rows,
                                          processing_class=training.tokenizer)
    kind = gkd_class(linear)
    from trl.experimental.gkd import GKDConfig

    args = GKDConfig(**(gkd_arguments(config) | usual | decay | options))
    answers = [data.solution(p)[: config.max_new_tokens] if config.prefix == "dataset" else () for p in problems]
    rows = Dataset.from_list([{"prompt_ids": list(p.prompt), "completion_ids": list(a)} for p, a in zip(problems, answers)])
    return kind(model=training.model, teacher_model=training.teacher, args=args, train_dataset=rows, processing_class=training.tokenizer,
                data_collator=collate(training.tokenizer.pad_token_id))


def follow(trainer, training: Distilling, data, steps: int, curriculum: EntropyGatedLength) -> None:
    """Gives the trainer the config's curriculum."""
    held_out, ends = data.rows(1).problems[: curriculum.prompts], training.model.generation_config.eos_token_id

    def measured(model) -> dict[str, float]:
        cap = curriculum.cap or training.cap
        rows = measure(model, held_out, curriculum.samples, cap, ends, seed_of("measure", training.seed))
        return {"entropy": sum(r["entropy"] for r in rows) / sum(r["length"] for r in rows),
                "at_cap": sum(r["length"] >= cap and not r["finished"] for r in rows) / len(rows)}

    callback = GatedLength(curriculum.gate, curriculum.stage_steps or max(1, steps // len(curriculum.gate.ladder)), measured)
    callback.trainer = trainer
    trainer.add_callback(callback)


def follow_up(training: GRPO, data, problems: list, usual: dict, options: dict):
    """GRPO on an accuracy reward, without a reference."""
    import trl
    from datasets import Dataset

    config = training.config

    def right(completion_ids, number, **_) -> list[float]:
        rollouts = [Rollout(i, tuple(ids), bool(ids) and ids[-1] in training.model.generation_config.eos_token_id)
                    for i, ids in enumerate(completion_ids)]
        return [float(ok and r.finished) for ok, r in zip(data.grade([problems[n] for n in number], rollouts), rollouts)]

    step = config.prompts_per_step * config.rollouts_per_prompt
    args = trl.GRPOConfig(**(dict(
        num_generations=config.rollouts_per_prompt, per_device_train_batch_size=config.micro_batch_size, beta=0.0,
        gradient_accumulation_steps=step // config.micro_batch_size, max_completion_length=config.max_new_tokens,
        temperature=config.temperature, top_p=config.top_p, top_k=config.top_k, learning_rate=config.lr, loss_type="grpo",
        lr_scheduler_type="constant_with_warmup", warmup_steps=config.warmup_steps, max_grad_norm=config.grad_clip,
        disable_dropout=True, weight_decay=training.weight_decay,
        chat_template_kwargs={"enable_thinking": getattr(data, "thinking", False)}) | usual | options))
    rows = Dataset.from_list([{"prompt": data.question(p), "number": i} for i, p in enumerate(problems)])
    return trl.GRPOTrainer(model=training.model, reward_funcs=right, args=args, train_dataset=rows, processing_class=training.tokenizer)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--trl", type=settings_in_json, default={}, help="more of the trainer's config, as JSON")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    options, others = parser.parse_known_args(argv)
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")  # ours, with two more options
    read = cli(["--config", options.config, *others], run=False)
    training, out = read.model, Path(read.trainer.default_root_dir)
    training.trainer, read.trainer.datamodule = read.trainer, read.datamodule  # whose settings are facts of the run
    curriculum = next((c for c in read.trainer.callbacks if isinstance(c, EntropyGatedLength)), None)
    try:
        trainer = build(training, read.datamodule, read.trainer.max_steps, out, options.trl, curriculum)
    except (SetupError, ModelError, ValueError, TypeError, ImportError, OSError) as error:
        print(f"decouplingkl: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    trainer.train(resume_from_checkpoint=options.resume and any((out / "trl").glob("checkpoint-*")))
    trainer.save_model(str(out / "model"))
    if trainer.is_world_process_zero():
        training.done = trainer.state.global_step
        training.length = curriculum.gate.length if curriculum is not None else training.length
        write_json(out / "model" / "training.json", training.run_facts() | training.product_facts() | {
            "back-end": "trl", "decisions": curriculum.decisions if curriculum is not None else []})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
