"""The claims in the small: students of chain arithmetic, distilled from reasoners four times their size by every cell and mixture.

Per seed the weak student (standins.py) is trained by every arm from the same weights, on the same problems, with the same
teacher, for as many updates; all then answer the same unseen problems eight times each, at the teacher's own cap. An arm is two
switches, prefix source and share of reverse KL, and a training length; the rest are its controls. strong.py asks the better student.

    start(seed)       the student as it is
    run(seed, arm)    one arm: scores, entropy, both KLs on both prefix sources, and the same over updates, shortly
    itself(seed)      the student as its own teacher: loss, gradient and change, all of which must be 0
    made(seed)        teacher and students of a seed that is not committed

All are jobs: arguments in, JSON out (common/runs/jobs.py). SIZES: how much of it; "smoke" only walks the way.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import stdev

import lightning as L
import torch
from torch import nn

from common.models import ModelSpec
from common.reasoning.problems import Chains
from common.reasoning.rollouts import Rollout, response_logits
from common.runs.jobs import Job
from common.seeds import asked, seed_of
from common.standins import reasoner
from common.training.fit import fit

from .. import baselines, method, standins
from ..curriculum import EntropyGatedLength
from ..module import Distilling
from ..scoring import answers, entropies, graded, scores
from ..standins import made  # noqa: F401  (a job)

CAP = reasoner.CAP  # of a scored response: no trace that teacher or student learnt from is longer
SHORT = 12  # tokens: one step of a chain and a half
LADDER = (SHORT, 24, 48, 96, CAP)  # of the curriculum: a fifth of the updates each, while the gate lets it pass
GATE = 0.85  # of the student's entropy before distillation
RATE = 2e-3
ALL = 1 << 16  # tokens of a step and more: with 30 words all their logits are held at once


@dataclass(frozen=True)
class Arm:
    """prefix: whose responses are read. lam: share of reverse KL. horizon: the most tokens of a response that is trained on.
    mix: method.DistillConfig's. teacher: the reasoner, or the same with its words shuffled. again: on other problems, by other
    draws. gate: H_min of the curriculum as a share of the start's entropy (0: a ladder without a gate), None: a fixed length."""

    prefix: str
    lam: float
    horizon: int = CAP
    mix: str = "linear"
    teacher: str = "reasoner"
    again: bool = False
    gate: float | None = None


SF, SR, TF, TR = Arm("student", 0.0), Arm("student", 1.0), Arm("teacher", 0.0), Arm("teacher", 1.0)
ARMS = {
    "SF": SF, "mix 0.25": replace(SF, lam=0.25), "mix 0.5": replace(SF, lam=0.5), "mix 0.75": replace(SF, lam=0.75), "SR": SR,
    "TF": TF, "TR": TR,
    "short SF": replace(SF, horizon=SHORT), "short SR": replace(SR, horizon=SHORT),
    "curriculum": replace(SR, gate=GATE), "ladder": replace(SR, gate=0.0),
    "by entropy": replace(SR, mix="by_entropy"),
    "SF again": replace(SF, again=True), "shuffled": replace(SF, teacher="shuffled"),
}
MIXED = ("SF", "mix 0.25", "mix 0.5", "mix 0.75", "SR")  # the same prefixes, lambda 0 to 1


@dataclass(frozen=True)
class Size:
    """How much is done: seeds; updates, each on a response to each of `prompts` problems; every how many of them `probe`
    validation problems are answered, `probed` times each; test problems, and responses to each. job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    prompts: int
    updates: int
    every: int
    probe: int
    probed: int
    test: int
    samples: int
    job_seconds: float


SIZES = {"smoke": Size(seeds=(0,), prompts=3, updates=5, every=5, probe=2, probed=2, test=4, samples=8, job_seconds=1),
         "cpu": Size(seeds=asked(), prompts=24, updates=30, every=10, probe=16, probed=4, test=64, samples=8, job_seconds=60)}


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, and only order the work and estimate the rest."""
    how, found = SIZES[size], []

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = (), **arguments) -> None:
        found.append(Job(name, f"{__name__}:{function}", arguments, seconds=min(seconds, how.job_seconds), after=after))

    for seed in how.seeds:
        after = needed(found, seed)
        job(f"start/seed{seed}", "start", 3, after, seed=seed, size=size)
        job(f"itself/seed{seed}", "itself", 3, after, seed=seed, size=size)
        for name, arm in ARMS.items():
            job(f"{name}/seed{seed}", "run", 7 if arm.horizon == SHORT else 19, after, seed=seed, arm=name, size=size)
    return found


def needed(found: list[Job], seed: int) -> tuple[str, ...]:
    """What jobs of a seed wait for: nothing where its models are committed; else the job that makes them, which is added."""
    if seed in reasoner.SEEDS:
        return ()
    found.append(Job(f"models/seed{seed}", f"{__name__}:made", {"seed": seed}, seconds=500))
    return (found[-1].name,)


# -- the models --------------------------------------------------------------------------------------------
def teacher_of(arm: Arm, seed: int) -> nn.Module:
    teacher = standins.teacher(seed)[0]
    return baselines.shuffled(teacher, seed_of("shuffled teacher", seed)) if arm.teacher == "shuffled" else teacher


def config(arm: Arm, how: Size) -> method.DistillConfig:
    return method.DistillConfig(prefix=arm.prefix, lam=arm.lam, mix=arm.mix, max_new_tokens=arm.horizon, prompts_per_step=how.prompts,
                                micro_batch_size=how.prompts, token_chunk=ALL, lr=RATE, warmup_steps=0)


# -- the jobs ----------------------------------------------------------------------------------------------
def start(seed: int, size: str = "cpu", strength: str = "weak") -> dict:
    """{"test", "kl", "model", "teacher"}: the student before anything."""
    model, _, source = standins.student(seed, strength)
    teacher, _, of_teacher = standins.teacher(seed)
    return measured(model, teacher, SIZES[size], seed) | {"model": source, "teacher": of_teacher}


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """One arm from the weak student; see `distilled`."""
    return distilled(seed, "weak", ARMS[arm], SIZES[size])[1]


def distilled(seed: int, strength: str, arm: Arm, how: Size,
              keep: Callable[[int, nn.Module], None] = lambda done, model: None) -> tuple[nn.Module, dict]:
    """(the student after the arm, {"history", "curve", "decisions", "moved", "test", "kl", "seconds"}). keep: called with the updates
    so far and the student, whenever it is probed."""
    student, teacher = standins.student(seed, strength), teacher_of(arm, seed)
    before = copy.deepcopy(student[0].state_dict())
    training = distilling(student, teacher, config(arm, how), seed_of("arm", seed, arm.again))
    curve: list[list[float]] = []
    began = time.perf_counter()

    def probe(done: int) -> None:
        curve.append([done, *probed(training, how, seed)])
        keep(done, training.model)

    gate = curriculum(arm, how)  # before the probe, which then sees what the gate has made of the weights
    data = Chains(how.updates * how.prompts, seed=seed + 1000 * arm.again)
    learn(training, data, how.updates, [*([gate] if gate else []), Probe(probe, how.every)])
    seconds = time.perf_counter() - began
    moved = max(float((value - before[name]).abs().max()) for name, value in student[0].state_dict().items())
    found = {"history": columns(training.history), "curve": curve, "decisions": gate.decisions if gate else [], "moved": moved,
             "seconds": seconds}
    return student[0], measured(student[0], standins.teacher(seed)[0], how, seed) | found


def itself(seed: int, size: str = "cpu", strength: str = "weak") -> dict:
    """The student as its own teacher, two updates of each cell and of the balanced mixture: {"loss", "norm", "moved"}, the largest
    of all, which must be 0."""
    how, found = SIZES[size], {"loss": 0.0, "norm": 0.0, "moved": 0.0}
    for arm in (SF, SR, TF, TR, ARMS["mix 0.5"]):
        student = standins.student(seed, strength)
        before = baselines.itself(student[0])
        training = distilling(student, baselines.itself(before), config(arm, how), seed)
        learn(training, Chains(2 * how.prompts, seed=seed), 2, [])
        found["loss"] = max([found["loss"], *(abs(row["loss per token"]) for row in training.history)])
        found["norm"] = max([found["norm"], *(row["norm"] for row in training.history)])
        changes = [float((a - b).detach().abs().max()) for a, b in zip(student[0].parameters(), before.parameters())]
        found["moved"] = max([found["moved"], *changes])
    return found


# -- training and answering --------------------------------------------------------------------------------
def distilling(student: tuple, teacher: nn.Module, config: method.DistillConfig, seed: int) -> Distilling:
    """A training whose models are in memory. student: (model, tokenizer, facts)."""
    training = Distilling(ModelSpec("in memory"), ModelSpec("in memory"), config, betas=(0.9, 0.95), weight_decay=0.0, cap=CAP, seed=seed)
    training.given, training.given_teacher = student, (teacher, student[1], {"name": "in memory"})
    return training


def curriculum(arm: Arm, how: Size) -> EntropyGatedLength | None:
    if arm.gate is None:
        return None
    return EntropyGatedLength(list(LADDER), h_min=arm.gate, stage_steps=how.updates // len(LADDER), prompts=4 * how.probe, cap=CAP)


def learn(training: L.LightningModule, data: Chains, updates: int, callbacks: list) -> None:
    """Batches and not optimiser steps are counted: a step without anything to learn from is a step. The training clips by itself."""
    fit(training, data, -1, max_epochs=1, limit_train_batches=updates, gradient_clip_val=None, callbacks=callbacks)
    training.model.eval()


def columns(history: list[dict]) -> dict[str, list[float]]:
    """What is kept of a training, compactly: of every update the loss, the gradient's norm, and the length of a response."""
    return {name: [row[name] for row in history] for name in ("loss per token", "norm", "length")}


class Probe(L.Callback):
    """Calls probe(updates so far) before the first update, then after every `every`."""

    def __init__(self, probe: Callable[[int], None], every: int):
        self.probe, self.every = probe, every

    def on_train_start(self, trainer, module) -> None:
        self.probe(module.done)

    def on_train_batch_end(self, trainer, module, *_) -> None:
        if module.done % self.every == 0:
            self.probe(module.done)


def probed(training: L.LightningModule, how: Size, seed: int) -> tuple[float, float, float, float]:
    """(Avg, tokens, share at the cap, entropy) on validation problems."""
    data = Chains(count=1)
    found, _ = scored(training.model, data, [data.problem(i, "val") for i in range(how.probe)], how.probed, seed)
    return found["avg"], found["tokens"], found["at_cap"], found["entropy"]


def scored(model: nn.Module, data: Chains, problems: list, n: int, seed: int) -> tuple[dict, list[Rollout]]:
    """(scores of n responses to each problem at the cap, with "entropy" in nats over all their tokens; the responses)."""
    rollouts = answers(model, data, problems, n, CAP, seed)
    entropy = sum(entropies(model, [p.prompt for p in problems], rollouts, batch=64)) / sum(len(r.ids) for r in rollouts)
    return scores(graded(data, problems, rollouts), CAP) | {"entropy": entropy}, rollouts


def measured(model: nn.Module, teacher: nn.Module, how: Size, seed: int) -> dict:
    """{"test": scores, the standard error of Avg clustered by problem; "kl": {prefix: [forward, reverse]} in nats a token, on
    responses of the teacher and of the student}, on unseen problems."""
    data = Chains(count=1)
    problems = [data.problem(i, "test") for i in range(how.test)]
    found, own = scored(model, data, problems, how.samples, seed)
    kept = {name: value for name, value in found.items() if not name.endswith("_by_problem")}
    kept["avg stderr"] = stdev(found["avg_by_problem"]) / len(problems) ** 0.5
    theirs, first = answers(teacher, data, problems, 1, CAP, seed), own[:: how.samples]
    return {"test": kept, "kl": {"teacher": divergences(model, teacher, problems, theirs),
                                 "student": divergences(model, teacher, problems, first)}}


@torch.no_grad()
def divergences(model: nn.Module, teacher: nn.Module, problems: list, rollouts: list[Rollout]) -> list[float]:
    """[forward, reverse] KL, means over the tokens of these responses."""
    prompts = [p.prompt for p in problems]
    (ours, _, mask), (theirs, _, _) = (response_logits(m, prompts, rollouts) for m in (model, teacher))
    return [float(kl(ours[mask], theirs[mask]).double().mean()) for kl in (method.forward_kl, method.reverse_kl)]
