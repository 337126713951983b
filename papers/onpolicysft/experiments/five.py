"""Five tasks, one adapter: SmolLM2-135M that reasons at length about each (common/standins/five.py), made brief on all of them at once.

    make reproduce-onpolicysft ONLY=five

    base(seed)       the model as it is
    run(seed, arm)   On-Policy SFT, and what it is compared with: fixed data, best of n, GRPO with the truncation reward, GRPO with accuracy
                     and length, as many rollouts kept by lot; trained on problems of all tasks, one limit for all; then scored task by task

As sums.py: weights fp32, computed with in bfloat16, a bfloat16 copy samples; one rate; the same unseen problems for all, at the starting
model's cap and never at the training's limit. What tasks need differs (their shortest traces: 22 to 37
tokens), the limit does not, as the paper has one limit for five benchmarks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import fmean

import torch

from common.models import ModelSpec
from common.reasoning.five import TASKS, Five
from common.runs.jobs import Job
from common.seeds import asked
from common.standins.five import load_five_reasoner
from common.training.fit import fit

from .. import module
from ..method import OnPolicySFTConfig
from ..scoring import answers, graded, scores

FIRST = 3  # of the seeds, as of the sums
RATE = 1e-5  # of every arm
LIMIT = 56  # of a rollout; the longest trace without redundancy is of 50
CAP = 160  # of a scored response
# class of module.py, changes of the config, its own options. A length reward is not blind to what a limit cuts: its limit is the cap.
ARMS: dict[str, tuple[str, dict, dict]] = {
    "opsft": ("OnPolicySFT", {}, {}),
    "fixed data": ("FixedData", {}, {}),
    "best of n": ("BestOfN", {}, {}),
    "grpo": ("GRPO", {}, {"beta": 0.04}),
    "grpo, length": ("GRPO", {"max_new_tokens": CAP, "micro_batch_size": 2}, {"beta": 0.04, "reward": "accuracy + length"}),  # for memory
    "by lot": ("ByLot", {}, {}),
}
SECONDS = {"grpo": 600, "grpo, length": 900}  # of an arm that does not take 240
BUDGETS = (8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 56, 64, 80, 96, 128, CAP)


@dataclass(frozen=True)
class Size:
    """How much is done: seeds; updates of a training, each on `rollouts` responses to `prompts` problems; test problems, all tasks
    together, responses to each, the most tokens of one."""

    seeds: tuple[int, ...]
    prompts: int
    rollouts: int
    updates: int
    test: int
    samples: int
    cap: int
    job_seconds: float


SIZES = {"smoke": Size(seeds=(0,), prompts=5, rollouts=3, updates=1, test=10, samples=2, cap=12, job_seconds=25),
         "cpu": Size(seeds=tuple(FIRST + seed for seed in asked(3)), prompts=10, rollouts=6, updates=20, test=480, samples=2, cap=CAP,
                     job_seconds=1200)}


# -- the jobs ----------------------------------------------------------------------------------------------
def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, while nothing else uses the other."""
    how, made = SIZES[size], []

    def job(name: str, function: str, seconds: float, **arguments) -> None:
        made.append(Job(f"five/{name}", f"{__name__}:{function}", arguments | {"size": size}, seconds=min(seconds, how.job_seconds)))

    for seed in how.seeds:
        job(f"base/seed{seed}", "base", 240, seed=seed)
        for arm in ARMS:
            job(f"{arm}/seed{seed}", "run", SECONDS.get(arm, 240), seed=seed, arm=arm)
    return made


def base(seed: int, size: str = "cpu") -> dict:
    model, data, source = start("bfloat16")
    return {"model": source, "test": tested(model, data, size, seed)}


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """{"arm", "test", "history" (a list a column), "skipped", "seconds" of training}."""
    training, model, data, seconds = train(seed, arm, size)
    history = {name: [round(row[name], 4) for row in training.history] for name in ("right", "length", "cut", "kept")}
    return {"arm": arm, "history": history, "skipped": training.skipped, "seconds": seconds,
            "test": tested(model.to(torch.bfloat16).eval(), data, size, seed)}


def train(seed: int, arm: str, size: str):
    """An arm from the starting model: (its training, the model, the data, seconds)."""
    how = SIZES[size]
    kind, changes, options = ARMS[arm]
    model, data, source = start("float32")
    config = OnPolicySFTConfig(**dict(prompts_per_step=how.prompts, rollouts_per_prompt=how.rollouts, max_new_tokens=LIMIT,
                                      micro_batch_size=4, lr=RATE, warmup_steps=2) | changes)
    training = getattr(module, kind)(ModelSpec("in memory"), config, betas=(0.9, 0.95), weight_decay=0.0, cap=how.cap, seed=seed,
                                     sample_dtype="bfloat16", **options)
    training.given = model, data.words, source
    task, began = Five(count=how.updates * how.prompts, held_out=len(TASKS), seed=seed), time.perf_counter()
    # Batches and not optimiser steps are counted: a step that kept nothing is a step. The training clips by itself.
    fit(training, task, -1, max_epochs=1, limit_train_batches=how.updates, gradient_clip_val=None, precision="bf16-mixed")
    return training, model, data, time.perf_counter() - began


def start(dtype: str):
    """(model, data, facts). Errors: of common.standins.five.found."""
    model, tokenizer, source = load_five_reasoner(dtype=dtype)
    return model, Five().use(tokenizer), source


def tested(model, data: Five, size: str, seed: int) -> dict:
    """Scores of held-out problems, over all and "by_kind": of each task, there with what it needs at least, and "within": [[tokens,
    share of responses that are right and have ended by then]]; of each task the first response, to read."""
    how = SIZES[size]
    problems = data.problems("test", how.test)
    rollouts = answers(model, data, problems, how.samples, how.cap, seed, rows=96)  # few rows: for memory
    rows = graded(data, problems, rollouts)
    found = scores(rows, how.cap)
    for task, of in found["by_kind"].items():
        some = [row for row in rows if row["kind"] == task]
        of |= {"needed": fmean(data.needed(p) for p in problems if p.kind == task),
               "within": [[tokens, within(some, tokens)] for tokens in BUDGETS]}
    return found | {"said": {str(p.kind): data.text(rollouts[i * how.samples]) for i, p in enumerate(problems[: len(TASKS)])}}


def within(rows: list[dict], tokens: int) -> float:
    """Share of the responses that are right, finished, and no longer than that, their end counted. As sums.py's, which is not imported: an
    arm more there would train all of these anew."""
    return fmean(right and ended and length <= tokens
                 for row in rows for right, ended, length in zip(row["correct"], row["finished"], row["lengths"]))
