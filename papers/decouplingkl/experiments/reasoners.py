"""The bench on which both papers of the reasoning family meet: On-Policy SFT's reasoners, distilled by this paper's methods.

    make reproduce-decouplingkl ONLY=reasoners

On-Policy SFT makes the reasoners of common/standins brief, each from its own samples. Here the same reasoners (109,000 parameters) start,
on the same problems in the same order, for as many updates at the same rate, each on as many responses; then they answer the same unseen
problems, as often, under the same cap. What differs is where the signal comes from: not a verifier but a teacher, and that is another
reasoner of the recipe, with a width that a student can reach.

    start(seed)      a reasoner as it is
    run(seed, arm)   one arm: scores, entropy, both KLs on both prefix sources, and the same over updates, shortly

`SFT, brief` is no distillation: hard labels on the shortest right solutions, by which a length can be seen to fall.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from statistics import stdev

import torch
from torch import Tensor, nn

from common.data import chains as words
from common.models import ModelSpec
from common.reasoning.problems import Chains, Problem
from common.reasoning.rollouts import Rollout, response_log_probs
from common.runs.jobs import Job
from common.seeds import asked, seed_of
from common.standins import reasoner

from .. import method, standins
from ..curriculum import EntropyGatedLength
from ..data import SolvedChains
from ..module import BLANK, Distilling
from . import chains as small
from .chains import CAP, GATE, LADDER, SF, SR, TF, TR, Arm

RATE = 5e-4  # On-Policy SFT's, which its sweep found best for itself: no arm here has a sweep of its own
WRITTEN = Arm("dataset", 0.0)
ARMS = {"SF": SF, "SR": SR, "TF": TF, "TR": TR, "mix 0.25": replace(SF, lam=0.25), "mix 0.5": replace(SF, lam=0.5),
        "curriculum": replace(SR, gate=GATE), "SF again": replace(SF, again=True), "SFT, brief": WRITTEN}
CELLS = ("SF", "SR", "TF", "TR", "mix 0.25", "mix 0.5", "curriculum")  # this paper's methods


@dataclass(frozen=True)
class Size:
    """How much is done: seeds; training problems; updates, each on `rollouts` responses to `prompts` of them; every how many updates
    `probe` validation problems are answered, `probed` times each; test problems, and responses to each."""

    seeds: tuple[int, ...]
    problems: int
    updates: int
    prompts: int
    rollouts: int
    every: int
    probe: int
    probed: int
    test: int
    samples: int


SIZES = {"smoke": Size((0,), problems=64, updates=5, prompts=2, rollouts=2, every=5, probe=2, probed=1, test=4, samples=4),
         "cpu": Size(asked(), problems=4096, updates=40, prompts=16, rollouts=16, every=10, probe=32, probed=4, test=200, samples=4)}


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu."""
    how, found = SIZES[size], []
    for seed in how.seeds:
        after = small.needed(found, seed)
        for name in ("start", *ARMS):
            arguments = {"seed": seed, "size": size} | ({} if name == "start" else {"arm": name})
            seconds = 1 if size == "smoke" else 10 if name == "start" else 15 if name == "SFT, brief" else 120
            found.append(Job(f"reasoners/{name}/seed{seed}", f"{__name__}:{'start' if name == 'start' else 'run'}", arguments,
                             seconds=seconds, after=after))
    return found


# -- the models and the problems ---------------------------------------------------------------------------
def teacher_of(seed: int) -> int:
    """The seed of the reasoner that teaches: the next of the committed ones."""
    return reasoner.SEEDS[(seed + 1) % len(reasoner.SEEDS)]


def held_out(count: int, problems: int, split: str = "test") -> list[Problem]:
    """The first problems of a split that are not among the first `problems` of training word for word, as On-Policy SFT has them."""
    data = Chains(count=1)
    trained = {data.problem(i, "train").prompt for i in range(problems)}
    unseen = (problem for i in itertools.count() if (problem := data.problem(i, split)).prompt not in trained)
    return list(itertools.islice(unseen, count))


class Brief(SolvedChains):
    """Chains with the shortest right solutions."""

    def solution(self, problem: Problem) -> tuple[int, ...]:
        return tuple(self.words.convert_tokens_to_ids(list(words.essential(problem.gold))))


class Written(Distilling):
    """Supervised fine-tuning: the negative log-likelihood of the text that is read; the teacher is not asked."""

    def loss_sum(self, problems: list, rows: list[Rollout]) -> Tensor:
        prompts, read = ([p.prompt for p in problems], rows) if rows else BLANK
        logp, mask = response_log_probs(self.model, prompts, read)
        return -(logp * (mask if rows else torch.zeros_like(mask))).sum()


# -- the jobs ----------------------------------------------------------------------------------------------
def start(seed: int, size: str = "cpu") -> dict:
    """{"test", "kl", "model", "teacher"}: a reasoner before anything."""
    (model, _, source), (teacher, _, of_teacher) = standins.teacher(seed), standins.teacher(teacher_of(seed))
    return measured(model, teacher, SIZES[size], seed) | {"model": source, "teacher": of_teacher}


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """{"history", "curve": [[updates, Avg, tokens, share at the cap, entropy]], "decisions", "test", "kl", "seconds"}."""
    how, of = SIZES[size], ARMS[arm]
    student, teacher = standins.teacher(seed), standins.teacher(teacher_of(seed))[0]
    training, curve = distilling(student, teacher, of, how, seed_of("arm", seed, of.again)), []
    problems = held_out(how.probe, how.problems, "val")

    def probe(done: int) -> None:
        found, _ = small.scored(training.model, Chains(count=1), problems, how.probed, seed)
        curve.append([done, found["avg"], found["tokens"], found["at_cap"], found["entropy"]])

    gate = None if of.gate is None else EntropyGatedLength(
        list(LADDER), h_min=of.gate, stage_steps=how.updates // len(LADDER), prompts=2 * how.probe, cap=CAP)
    kind = Brief if of.prefix == "dataset" else Chains
    began = time.perf_counter()
    small.learn(training, kind(how.problems, seed=seed + 1000 * of.again), how.updates,
                [*([gate] if gate else []), small.Probe(probe, how.every)])
    seconds = time.perf_counter() - began
    return measured(training.model, teacher, how, seed) | {
        "history": small.columns(training.history), "curve": curve, "seconds": seconds, "decisions": gate.decisions if gate else []}


def distilling(student: tuple, teacher: nn.Module, arm: Arm, how: Size, seed: int) -> Distilling:
    """A training whose models are in memory. Of a written solution one copy is read: more would have the same gradient."""
    written = arm.prefix == "dataset"
    rollouts = 1 if written else how.rollouts
    config = method.DistillConfig(prefix=arm.prefix, lam=arm.lam, max_new_tokens=arm.horizon, prompts_per_step=how.prompts,
                                  rollouts_per_prompt=rollouts, micro_batch_size=how.prompts * rollouts, token_chunk=small.ALL, lr=RATE,
                                  warmup_steps=0)
    kind = Written if written else Distilling
    training = kind(ModelSpec("in memory"), ModelSpec("in memory"), config, betas=(0.9, 0.95), weight_decay=0.0, cap=CAP, seed=seed)
    training.given, training.given_teacher = student, (teacher, student[1], {"name": "in memory"})
    return training


def measured(model: nn.Module, teacher: nn.Module, how: Size, seed: int) -> dict:
    """As chains.measured, on the bench's problems."""
    problems = held_out(how.test, how.problems)
    found, own = small.scored(model, Chains(count=1), problems, how.samples, seed)
    kept = {name: value for name, value in found.items() if not name.endswith("_by_problem")}
    kept["avg stderr"] = stdev(found["avg_by_problem"]) / len(problems) ** 0.5
    theirs, first = small.answers(teacher, Chains(count=1), problems, 1, CAP, seed), own[:: how.samples]
    return {"test": kept, "kl": {"teacher": small.divergences(model, teacher, problems, theirs),
                                 "student": small.divergences(model, teacher, problems, first)}}
