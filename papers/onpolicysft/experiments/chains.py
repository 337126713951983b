"""The claims in the small: reasoners of chain arithmetic that repeat themselves, taught to be brief without becoming wrong.

Per seed a committed stand-in (common/standins/reasoner-weights: 0.1 M parameters, really trained on redundant traces) is trained by
every method from the same weights, on the same problems, for as many updates. All then answer the same unseen problems at
the stand-in's own cap, four times each.

    base(seed)       the stand-in as it is, and its responses cut at budgets
    run(seed, arm)   one method; its curve over updates; for On-Policy SFT also budgets and where it diverges from the base

Both are jobs: arguments in, JSON out (common/runs/jobs.py). SIZES: how much of it; "smoke" only walks the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import torch

from common.benchmarks.reasoning import budget_curve
from common.models import ModelSpec
from common.reasoning.rollouts import Rollout
from common.runs.jobs import Job
from common.standins.reasoner import FOLDER, load_reasoner
from common.training.fit import fit

from .. import method, module
from ..data import Chains
from ..method import OnPolicySFTConfig
from ..scoring import answers, auc, evaluate, scores


@dataclass(frozen=True)
class Size:
    """How much is done: seeds; problems to train on; updates, each on `rollouts` responses to `prompts` of them; every how many
    updates `probe` validation problems are answered; test problems, responses to each; those on whose answers two models are
    compared. job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    problems: int
    updates: int
    prompts: int
    rollouts: int
    every: int
    probe: int
    test: int
    samples: int
    compared: int
    job_seconds: float


SIZES = {"smoke": Size(seeds=(0,), problems=64, updates=2, prompts=4, rollouts=6, every=2, probe=4, test=8, samples=2, compared=4,
                       job_seconds=1),
         "cpu": Size(seeds=(0, 1, 2), problems=4096, updates=40, prompts=16, rollouts=16, every=5, probe=48, test=200, samples=4,
                     compared=64, job_seconds=60)}
CAP = 170  # of a scored response: the stand-in's own
TINY = dict(max_new_tokens=40, micro_batch_size=256, lr=5e-4, warmup_steps=0)
BUDGETS = (12, 16, 24, 32, 48, 64, 96, CAP)
ARMS: dict[str, tuple[str, dict, dict]] = {  # class of module.py, changes of `settings`, its own options
    "opsft": ("OnPolicySFT", {}, {}),
    "by lot": ("ByLot", {}, {}),
    "best of n": ("BestOfN", {}, {}),
    "fixed data": ("FixedData", {}, {}),
    "grpo": ("GRPO", {}, {"beta": 0.04}),
    "grpo, length": ("GRPO", {"max_new_tokens": CAP}, {"beta": 0.04, "reward": "accuracy + length"}),
    "T 0.6": ("OnPolicySFT", {"temperature": 0.6}, {}),
    "T 1.5": ("OnPolicySFT", {"temperature": 1.5}, {}),
    "seq": ("OnPolicySFT", {"length_norm": "seq"}, {}),
    "G 4": ("OnPolicySFT", {"rollouts_per_prompt": 4}, {}),
    "L 24": ("OnPolicySFT", {"max_new_tokens": 24}, {}),
}


SLOW = {"grpo, length": 50, "T 1.5": 30}  # arms that take longer than 20 s


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, and only order the work and estimate the rest."""
    how, made = SIZES[size], []

    def job(name: str, function: str, seconds: float, **arguments) -> None:
        made.append(Job(name, f"{__package__}.{function}", arguments | {"size": size}, seconds=min(seconds, how.job_seconds)))

    for seed in how.seeds:
        job(f"base/seed{seed}", "chains:base", 20, seed=seed)
        job(f"flops/seed{seed}", "exact:flops_ratio", 5, seed=seed)
        for arm in ARMS:
            job(f"{arm}/seed{seed}", "chains:run", SLOW.get(arm, 20), seed=seed, arm=arm)
    return made


def settings(size: str) -> dict:
    """Of a training, for OnPolicySFTConfig."""
    return TINY | {"prompts_per_step": SIZES[size].prompts, "rollouts_per_prompt": SIZES[size].rollouts}


def stand_in(seed: int):
    """(model, tokenizer, facts) of a committed reasoner."""
    folder = FOLDER / f"seed{seed}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.name} of common/standins/reasoner-weights is missing: restore it or run `make standins-reasoner`")
    return load_reasoner(folder)


def held_out(data: Chains, count: int) -> list:
    return [data.problem(i, "test") for i in range(count)]


def base(seed: int, size: str = "cpu") -> dict:
    how = SIZES[size]
    model, _, source = stand_in(seed)
    data = Chains(count=1)
    problems = held_out(data, how.test)
    return {"model": source, "test": scores(evaluate(model, data, problems, how.samples, CAP, seed), CAP),
            "budgets": budgets(model, data, problems, how.samples, seed)}


def budgets(model, data: Chains, problems: list, samples: int, seed: int) -> list[list[float]]:
    """[[tokens, Avg@N of responses cut there]]."""
    rollouts = answers(model, data, problems, samples, CAP, seed)
    by_problem = [[r.ids for r in rollouts[i : i + samples]] for i in range(0, len(rollouts), samples)]

    def grade(i: int, ids) -> bool:
        return data.grade(problems[i : i + 1], [Rollout(0, tuple(ids), False)])[0]

    return [[b, value] for b, value in budget_curve(by_problem, BUDGETS, grade)]


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """One method from the stand-in of a seed: {"arm", "curve", "history", "test", "seconds", ...}."""
    how = SIZES[size]
    kind, changes, options = ARMS[arm]
    model, tokenizer, source = stand_in(seed)
    training = getattr(module, kind)(ModelSpec("in memory"), OnPolicySFTConfig(**(settings(size) | changes)), betas=(0.9, 0.95),
                                     weight_decay=0.0, samples=how.samples, cap=CAP, seed=seed, **options)
    training.given = model, tokenizer, source
    data = Chains(how.problems, seed=seed)
    probe, curve = [data.problem(i, "val") for i in range(how.probe)], []
    began = time.perf_counter()

    def add_to_curve(done: int) -> None:
        curve.append([done, *_short(evaluate(model, data, probe, how.samples, CAP, seed))])

    # Batches and not optimiser steps are counted: a step that kept nothing is a step. The training clips by itself.
    fit(training, data, -1, max_epochs=1, limit_train_batches=how.updates, gradient_clip_val=None,
        callbacks=[Probe(add_to_curve, how.every)])
    result = {"arm": arm, "curve": curve, "history": training.history, "skipped": training.skipped,
              "seconds": time.perf_counter() - began}
    model.eval()
    problems = held_out(data, how.test)
    rows = evaluate(model, data, problems, how.samples, CAP, seed)
    result |= {"test": scores(rows, CAP), "skips a step": skipping(rows)}
    if arm == "opsft":
        result |= {"budgets": budgets(model, data, problems, how.samples, seed),
                   "divergence": divergence(stand_in(seed)[0], model, data, problems[: how.compared], seed)}
    return result


def _short(rows: list[dict]) -> tuple[float, float]:
    """(Avg@N, mean tokens)."""
    n = sum(len(r["correct"]) for r in rows)
    return sum(sum(r["correct"]) for r in rows) / n, sum(sum(r["lengths"]) for r in rows) / n


def skipping(rows: list[dict]) -> float:
    """Share of right responses with fewer tokens than every step, the answer and the end take: 7 k + 2."""
    right = [(r["kind"], n) for r in rows for ok, n in zip(r["correct"], r["lengths"]) if ok]
    return sum(n < 7 * k + 2 for k, n in right) / max(len(right), 1)


class Probe(L.Callback):
    """Calls probe(updates so far) before the first update, then after every `every`."""

    def __init__(self, probe: Callable[[int], None], every: int):
        self.probe, self.every = probe, every

    def on_train_start(self, trainer, module) -> None:
        self.probe(module.done)

    def on_train_batch_end(self, trainer, module, *_) -> None:
        if module.done % self.every == 0:
            self.probe(module.done)


@torch.no_grad()
def divergence(first, trained, data: Chains, problems: list, seed: int) -> dict:
    """Where base and trained model differ on the base's own responses (spec 3.8): mean by next token, and the AUC of D_t at
    separators for "the base may hesitate here": its next token is W or R and not ; or A."""
    rollouts = answers(first, data, problems, 1, CAP, seed)
    ids, mask = method.right_padded([problems[r.prompt].prompt for r in rollouts], [r.ids for r in rollouts])
    d = method.divergence_by_token(first(input_ids=ids).logits, trained(input_ids=ids).logits)
    types, means, counts = method.mean_by_type(d, ids, mask)
    words = data.words.convert_ids_to_tokens(types.tolist())
    next_words, values = ids[:, 1:][mask[:, 1:]], d[:, :-1][mask[:, 1:]]
    waits, goes = (torch.isin(next_words, torch.tensor(data.words.convert_tokens_to_ids(list(w)))) for w in (("W", "R"), (";", "A")))
    every = torch.isin(next_words, torch.tensor(data.words.convert_tokens_to_ids(["W", "R", ";", "A"])))
    return {"by word": [[w, m, c] for w, m, c in zip(words, means.tolist(), counts.tolist())],
            "AUC, wait or restart against the rest": auc(values, waits), "AUC, separator against the rest": auc(values, every),
            "AUC, wait or restart among separators": auc(values[waits | goes], waits[waits | goes])}
