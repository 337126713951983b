"""Train by trl from the same config: python -m papers.onpolicysft.train_trl --config FILE [--key value ...].

The second back-end (trl_backend.py): model, data, method and steps are read from a config of train.py, and trl's trainer
does the work, with its own vLLM (`--trl '{"use_vllm": true}'`), accelerate and checkpoints (`--resume` goes on from the last).
model.class_path OnPolicySFT trains the method, GRPO the stock GRPOTrainer. trl's loss is the method's for length_norm
const and count all: set these in the options; others are refused. The product goes to trainer.default_root_dir/model, as train.py's.

    python -m papers.onpolicysft.train_trl --config papers/onpolicysft/configs/cpu/chains.yaml \\
        --model.init_args.config.length_norm const --model.init_args.config.count all
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

from common.errors import ModelError, SetupError
from common.files import write_json
from common.reasoning.rollouts import Rollout
from common.training.cli import settings_in_json

from . import baselines, method
from .module import GRPO, OnPolicySFT
from .train import cli
from .trl_backend import CPU, grpo_arguments, opsft_arguments, trainer_class


def rows(data, problems: Sequence) -> list[dict]:
    """trl's data: each prompt as the data module asks it, and its number. SetupError if trl would read other ids."""
    return [{"prompt": data.question(p), "number": i} for i, p in enumerate(problems)]


def reward_function(training: OnPolicySFT, data, problems: Sequence):
    """In trl's form, by the data module's own grader; the truncation reward, or GRPO's accuracy + length."""
    limit, with_length = training.config.max_new_tokens, getattr(training, "reward", "truncation") != "truncation"

    def reward(completion_ids, number, **_) -> list[float]:
        rollouts = [Rollout(i, tuple(ids), bool(ids) and ids[-1] in data.end) for i, ids in enumerate(completion_ids)]
        correct = data.grade([problems[n] for n in number], rollouts)
        if with_length:
            return [baselines.accuracy_and_length_reward(c, len(r.ids), limit) for c, r in zip(correct, rollouts)]
        return [method.truncation_reward(c, r.finished, len(r.ids), limit, training.config.require_eos)
                for c, r in zip(correct, rollouts)]

    return reward


def build(training: OnPolicySFT, data, steps: int, out: Path, options: dict):
    """The trainer. Raises SetupError or ValueError for what trl cannot do."""
    import trl
    from datasets import Dataset

    if type(training) not in (OnPolicySFT, GRPO):
        raise SetupError(f"model.class_path {type(training).__name__}: trl trains OnPolicySFT and GRPO; use train.py for the others")
    if steps < 1:
        raise SetupError(f"trainer.max_steps is {steps}; trl needs a number of updates")
    training.configure_model()
    if training.tokenizer is None:
        raise SetupError("the model has no tokenizer, which trl needs to read prompts")
    data.trainer = SimpleNamespace(lightning_module=training)
    data.setup()
    problems = data.sequences()[0].problems
    if training.tokenizer.pad_token is None:
        training.tokenizer.pad_token = training.tokenizer.eos_token
    training.model.generation_config.eos_token_id = list(data.end)
    grpo = isinstance(training, GRPO)
    arguments = grpo_arguments(training.config, beta=training.beta) if grpo else opsft_arguments(training.config)
    device = {} if torch.cuda.is_available() else CPU
    args = trl.GRPOConfig(output_dir=str(out / "trl"), max_steps=steps, logging_steps=1, seed=training.seed, adam_beta1=training.betas[0],
                          adam_beta2=training.betas[1], save_strategy="steps", save_steps=10, save_total_limit=2,
                          **(arguments | {"weight_decay": training.weight_decay} | device | options))
    trainer = (trl.GRPOTrainer if grpo else trainer_class())(
        model=training.model, reward_funcs=reward_function(training, data, problems), args=args,
        train_dataset=Dataset.from_list(rows(data, problems)), processing_class=training.tokenizer)
    return trainer, problems


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--trl", type=settings_in_json, default={}, help="more of GRPOConfig, as JSON")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    options, others = parser.parse_known_args(argv)
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")  # ours, with two more options
    read = cli(["--config", options.config, *others], run=False)
    training, out = read.model, Path(read.trainer.default_root_dir)
    training.trainer, read.trainer.datamodule = read.trainer, read.datamodule  # whose settings are facts of the run
    try:
        trainer, _ = build(training, read.datamodule, read.trainer.max_steps, out, options.trl)
    except (SetupError, ModelError, ValueError, TypeError, ImportError, OSError) as error:
        print(f"onpolicysft: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    trainer.train(resume_from_checkpoint=options.resume and any((out / "trl").glob("checkpoint-*")))
    trainer.save_model(str(out / "model"))
    if trainer.is_world_process_zero():
        training.done = trainer.state.global_step
        write_json(out / "model" / "training.json", training.run_facts() | training.product_facts() | {"back-end": "trl"})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
