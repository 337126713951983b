"""The claims in the small: reasoners of chain arithmetic that repeat themselves, trained to be brief without becoming wrong.

Per seed a stand-in (common/standins/reasoner-weights: 0.1 M parameters, really trained on redundant traces) is trained by
every method from the same weights, on the same problems, for as many updates. All then answer the same unseen problems at
the stand-in's own cap, four times each. Three stand-ins are committed; SEEDS=n trains the others by the same recipe.

    base(seed)       the stand-in as it is, and its responses cut at budgets
    run(seed, arm)   one method; for some its curve over updates, budgets, and where it diverges from the base
    made(seed)       a stand-in that is not committed

All are jobs: arguments in, JSON out (common/runs/jobs.py). SIZES: how much of it; "smoke" only walks the way.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from common.benchmarks.reasoning import budget_curve
from common.files import building
from common.models import ModelSpec
from common.reasoning.rollouts import Rollout
from common.runs.jobs import Job
from common.seeds import asked
from common.standins import reasoner
from common.training.fit import fit

from .. import method, module
from ..data import Chains
from ..method import OnPolicySFTConfig
from ..scoring import answers, auc, evaluate, graded, scores
from .probe import Probe


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
         "cpu": Size(seeds=asked(), problems=4096, updates=40, prompts=16, rollouts=16, every=5, probe=160, test=200, samples=4,
                     compared=64, job_seconds=60)}
CAP = 170  # of a scored response: the stand-in's own
TINY = dict(max_new_tokens=40, micro_batch_size=256, lr=5e-4, warmup_steps=0)
BUDGETS = (12, 16, 24, 32, 48, 64, 96, CAP)
MORE = 4  # times as many problems an update, where each gets a quarter of the rollouts
# class of module.py, changes of `settings`, its own options; each has the rate that its own sweep found best (rates.py)
ARMS: dict[str, tuple[str, dict, dict]] = {
    "opsft": ("OnPolicySFT", {}, {}),
    "again": ("OnPolicySFT", {}, {}),  # on other problems, by other draws: what two trainings of one kind differ by
    "by lot": ("ByLot", {}, {}),
    "best of n": ("BestOfN", {"lr": 2e-4}, {}),
    "fixed data": ("FixedData", {}, {}),
    "grpo": ("GRPO", {}, {"beta": 0.04}),
    "grpo, length": ("GRPO", {"max_new_tokens": CAP}, {"beta": 0.04, "reward": "accuracy + length"}),
    "T 0.6": ("OnPolicySFT", {"temperature": 0.6}, {}),
    "T 1.5": ("OnPolicySFT", {"temperature": 1.5}, {}),
    "seq": ("OnPolicySFT", {"length_norm": "seq"}, {}),
    "G 4": ("OnPolicySFT", {"rollouts_per_prompt": 4}, {}),
    "G 4, as many": ("OnPolicySFT", {"rollouts_per_prompt": 4}, {}),  # rollouts in all as 16 a problem give
    "L 24": ("OnPolicySFT", {"max_new_tokens": 24}, {}),
}
WATCHED = ("opsft", "best of n", "fixed data", "grpo", "grpo, length")  # arms that are probed while they train
COMPARED = ("opsft", "by lot")  # arms of which it is asked where they diverge from the base
SLOW = {"grpo, length": 50, "grpo": 30}  # arms that take longer than 20 s


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, and only order the work and estimate the rest."""
    how, found = SIZES[size], []

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = (), **arguments) -> None:
        found.append(Job(name, f"{__name__}:{function}", arguments, seconds=min(seconds, how.job_seconds), after=after))

    for seed in how.seeds:
        after = () if seed in reasoner.SEEDS else (f"stand-in/seed{seed}",)
        if after:
            found.append(Job(after[0], f"{__name__}:made", {"seed": seed}, seconds=300))
        job(f"base/seed{seed}", "base", 10, after, seed=seed, size=size)
        for arm in ARMS:
            job(f"{arm}/seed{seed}", "run", SLOW.get(arm, 20), after, seed=seed, arm=arm, size=size)
    return found


def settings(size: str, arm: str = "opsft") -> dict:
    """Of an arm's training, for OnPolicySFTConfig."""
    how = SIZES[size]
    prompts = how.prompts * (MORE if arm == "G 4, as many" else 1)
    return TINY | {"prompts_per_step": prompts, "rollouts_per_prompt": how.rollouts} | ARMS[arm][1]


# -- stand-ins ---------------------------------------------------------------------------------------------
def stand_in(seed: int):
    """(model, tokenizer, facts) of a reasoner: a committed one, or one of the cache, which is trained where it is missing."""
    if seed not in reasoner.SEEDS:
        made(seed)
        return reasoner.load_reasoner(place(seed))
    folder = reasoner.FOLDER / f"seed{seed}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.name} of common/standins/reasoner-weights is missing: restore it or run `make standins-reasoner`")
    return reasoner.load_reasoner(folder)


def place(seed: int) -> Path:
    """Where the cache keeps a stand-in: by its recipe, as its checkpoints."""
    checkpoints = reasoner.checkpoints(seed, reasoner.STAGES)
    return checkpoints.with_name(f"{checkpoints.name}-weights")


def made(seed: int) -> dict:
    """The card of a stand-in that is not committed: how long and how right it is."""
    folder = place(seed)
    if not folder.is_dir():
        with building(folder) as beside:
            reasoner.train_reasoner(seed, beside)
    return {"test": json.loads((folder / "training.json").read_text(encoding="utf-8"))["test"]}


# -- the jobs ----------------------------------------------------------------------------------------------
def held_out(data: Chains, count: int, split: str = "test") -> list:
    """The first problems of a split that no training asks word for word: short chains are few, and come up again."""
    trained = {data.problem(i, "train").prompt for i in range(SIZES["cpu"].problems)}
    unseen = (problem for i in itertools.count() if (problem := data.problem(i, split)).prompt not in trained)
    return list(itertools.islice(unseen, count))


def base(seed: int, size: str = "cpu") -> dict:
    how = SIZES[size]
    model, _, source = stand_in(seed)
    data = Chains(count=1)
    problems = held_out(data, how.test)
    rollouts = answers(model, data, problems, how.samples, CAP, seed)
    return {"model": source, "test": scores(graded(data, problems, rollouts), CAP),
            "budgets": budgets(data, problems, rollouts, how.samples)}


def budgets(data: Chains, problems: list, rollouts: list[Rollout], samples: int) -> list[list[float]]:
    """[[tokens, Avg@N of responses cut there]]."""
    by_problem = [[r.ids for r in rollouts[i : i + samples]] for i in range(0, len(rollouts), samples)]

    def grade(i: int, ids) -> bool:
        return data.grade(problems[i : i + 1], [Rollout(0, tuple(ids), False)])[0]

    return [[b, value] for b, value in budget_curve(by_problem, BUDGETS, grade)]


def train(seed: int, arm: str, size: str, lr: float | None = None, watch: Callable | None = None):
    """One method from the stand-in of a seed: (its training, the model, the data, seconds).

    lr: another rate than the arm's. watch(model, data, updates so far): called before the first update and after every few, of
    arms in WATCHED.
    """
    how = SIZES[size]
    kind, _, options = ARMS[arm]
    model, tokenizer, source = stand_in(seed)
    drawn = seed + (1000 if arm == "again" else 0)  # what it trains on, and its rollouts
    config = OnPolicySFTConfig(**(settings(size, arm) | ({} if lr is None else {"lr": lr})))
    training = getattr(module, kind)(ModelSpec("in memory"), config, betas=(0.9, 0.95), weight_decay=0.0, samples=how.samples, cap=CAP,
                                     seed=drawn, **options)
    training.given = model, tokenizer, source
    data, began = Chains(how.problems, seed=drawn), time.perf_counter()
    watching = [Probe(lambda done: watch(model, data, done), how.every)] if watch is not None and arm in WATCHED else []
    # Batches and not optimiser steps are counted: a step that kept nothing is a step. The training clips by itself.
    fit(training, data, -1, max_epochs=1, limit_train_batches=how.updates, gradient_clip_val=None, callbacks=watching)
    model.eval()
    return training, model, data, time.perf_counter() - began


def validated(model, data: Chains, size: str, seed: int, count: int | None = None) -> tuple[float, float]:
    """(Avg@N, mean tokens) on validation problems, as many as a probe asks or `count`, at the cap."""
    how = SIZES[size]
    return _short(evaluate(model, data, held_out(data, count or how.probe, "val"), how.samples, CAP, seed))


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """One method from the stand-in of a seed: {"arm", "history" (a list a column), "test", "seconds", ...}."""
    how, curve = SIZES[size], []
    training, model, data, seconds = train(seed, arm, size, watch=lambda model, data, done: curve.append(
        [done, *validated(model, data, size, seed)]))
    result = {"arm": arm, "history": columns(training.history, ("kept", "kept length", "length") if arm == "opsft" else ()),
              "skipped": training.skipped, "seconds": seconds}
    problems = held_out(data, how.test)
    rollouts = answers(model, data, problems, how.samples, CAP, seed)
    rows = graded(data, problems, rollouts)
    result |= {"test": scores(rows, CAP), "skips a step": skipping(rows)}
    if arm in WATCHED:
        result["curve"] = curve
    if arm == "opsft":
        result["budgets"] = budgets(data, problems, rollouts, how.samples)
    if arm in COMPARED:
        result["divergence"] = divergence(stand_in(seed)[0], model, data, problems[: how.compared], seed)
    return result


def columns(history: list[dict], names: tuple[str, ...]) -> dict[str, list[float]]:
    """The named entries of every update, and the loss of those that kept something: what is kept of a training, compactly."""
    return {"loss per token": [row["loss per token"] for row in history if "loss per token" in row]} | {
        name: [row[name] for row in history] for name in names}


def _short(rows: list[dict]) -> tuple[float, float]:
    """(Avg@N, mean tokens)."""
    n = sum(len(r["correct"]) for r in rows)
    return sum(sum(r["correct"]) for r in rows) / n, sum(sum(r["lengths"]) for r in rows) / n


def skipping(rows: list[dict]) -> float:
    """Share of right responses with fewer tokens than every step, the answer and the end take: 7 k + 2."""
    right = [(r["kind"], n) for r in rows for ok, n in zip(r["correct"], r["lengths"]) if ok]
    return sum(n < 7 * k + 2 for k, n in right) / max(len(right), 1)


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
