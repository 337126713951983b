"""A real pair: half of SmolLM2-135M distilled from the whole, on sums in English, by cells, lengths, a mixture and the curriculum.

    make reproduce-decouplingkl ONLY=real

The gap of capacity, the tokenizer and the long-winded modes of the teacher are real here (pair.py). Every arm trains all of the
student's weights, from the same start, for as many updates, each on a response to each of as many problems; then all answer the same
unseen problems at the cap of 160 tokens. Weights are fp32 and computed with in bfloat16; a bfloat16 copy samples.

    start(seed)      the student as it is
    run(seed, arm)   one arm: scores, entropy, both KLs on both prefix sources, and the same over updates, shortly

What two cores do in an hour and a quarter a seed. There is one pair: seeds draw problems and responses anew.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import stdev

import torch
from torch import nn

from common.lora import WEIGHTS
from common.models import Loaded, ModelSpec
from common.reasoning.rollouts import Rollout
from common.reasoning.sums import Sums
from common.runs.jobs import Job
from common.seeds import asked, seed_of
from common.training.fit import fit

from .. import method, pair
from ..curriculum import EntropyGatedLength
from ..module import Distilling
from ..scoring import answers, divergences, entropies, graded, scores
from .chains import GATE, SF, SR, TF, TR, Arm, Probe, columns

CAP = pair.CAP  # of a scored response
SHORT = 40  # tokens: what the steps of a problem need, twice
LADDER = (SHORT, 80, CAP)
RATE = 5e-5
WHOLE = {"SF": SF, "SR": SR, "TF": TF, "TR": TR, "mix 0.25": replace(SF, lam=0.25), "SF again": replace(SF, again=True),
         "curriculum": replace(SR, gate=GATE), "ladder": replace(SR, gate=0.0)}
ARMS = {name: replace(arm, horizon=CAP) for name, arm in WHOLE.items()} | {
    "short SF": replace(SF, horizon=SHORT), "short SR": replace(SR, horizon=SHORT)}


@dataclass(frozen=True)
class Size:
    """How much is done: seeds; updates, each on a response to each of `prompts` problems, `rows` of them at a time; every how many of
    them `probe` validation problems are answered, and by the gate; test problems, and responses to each; the most tokens of one. ladder:
    of the curriculum, as many updates each."""

    seeds: tuple[int, ...]
    prompts: int
    updates: int
    rows: int
    every: int
    probe: int
    test: int
    samples: int
    cap: int = CAP
    ladder: tuple[int, ...] = LADDER


SIZES = {"cpu": Size(seeds=asked(), prompts=48, updates=39, rows=8, every=13, probe=48, test=128, samples=4)}
SIZES["smoke"] = replace(SIZES["cpu"], seeds=(0,))  # never walked


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server, while nothing else uses the other."""
    found: list[Job] = []
    adapters = (pair.FOLDER / who / WEIGHTS for who in pair.STEPS)
    weights = tuple(str(path) for path in adapters if path.is_file())  # where one is missing the jobs say so
    for seed in SIZES[size].seeds:
        found.append(Job(f"real/start/seed{seed}", f"{__name__}:start", {"seed": seed, "size": size}, weights, 200))
        found += [Job(f"real/{name}/seed{seed}", f"{__name__}:run", {"seed": seed, "arm": name, "size": size}, weights,
                      350 if arm.horizon == SHORT else 1100) for name, arm in ARMS.items()]
    return found


# -- the jobs ----------------------------------------------------------------------------------------------
def start(seed: int, size: str = "cpu") -> dict:
    """{"test", "kl", "model", "teacher"}: the student before anything."""
    student, teacher = (pair.opened(who, "bfloat16") for who in ("student", "teacher"))
    return measured(student.model.eval(), teacher, SIZES[size], seed) | {"model": student.source, "teacher": teacher.source}


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """{"history", "curve": [[updates, Avg, tokens, share at the cap, entropy]], "decisions", "test", "kl", "seconds"}."""
    how, of = SIZES[size], ARMS[arm]
    student, teacher = pair.opened("student"), pair.opened("teacher", "bfloat16")
    training, curve = distilling(student, teacher, of, how, seed_of("arm", seed, of.again)), []

    def probe(done: int) -> None:
        problems = Sums().use(student.tokenizer)
        found, _ = scored(training.sampling_model(), problems, problems.problems("val", how.probe), 1, how.cap, seed)
        curve.append([done, found["avg"], found["tokens"], found["at_cap"], found["entropy"]])

    gate = None if of.gate is None else EntropyGatedLength(list(how.ladder), h_min=of.gate, stage_steps=how.updates // len(how.ladder),
                                                           prompts=how.probe, cap=how.cap)
    began = time.perf_counter()
    # The gate before the probe, which then sees what the gate has made of the weights. Batches and not optimiser steps are counted.
    fit(training, Sums(count=how.updates * how.prompts, held_out=how.probe, seed=seed + 1000 * of.again), -1, max_epochs=1,
        limit_train_batches=how.updates, gradient_clip_val=None, callbacks=[*([gate] if gate else []), Probe(probe, how.every)],
        precision="bf16-mixed")
    seconds = time.perf_counter() - began
    done = training.model.to(torch.bfloat16).eval()
    return measured(done, teacher, how, seed) | {"history": columns(training.history), "curve": curve, "seconds": seconds,
                                                 "decisions": gate.decisions if gate else []}


def distilling(student: Loaded, teacher: Loaded, arm: Arm, how: Size, seed: int) -> Distilling:
    """A training of the student whose models are in memory. It samples until the tokenizer's own end, as the scores do."""
    config = method.DistillConfig(prefix=arm.prefix, lam=arm.lam, max_new_tokens=min(arm.horizon, how.cap), prompts_per_step=how.prompts,
                                  micro_batch_size=how.rows, token_chunk=256, lr=RATE, warmup_steps=2,
                                  stop_token_ids=(student.tokenizer.eos_token_id,))
    training = Distilling(ModelSpec("in memory"), ModelSpec("in memory"), config, betas=(0.9, 0.95), weight_decay=0.0, cap=how.cap,
                          seed=seed, sample_dtype="bfloat16")
    training.given = student.model, student.tokenizer, student.source
    training.given_teacher = teacher.model, teacher.tokenizer, teacher.source
    return training


def scored(model: nn.Module, data: Sums, problems: list, n: int, cap: int, seed: int) -> tuple[dict, list[Rollout]]:
    """(scores of n responses to each problem at the cap, with "entropy" in nats over all their tokens; the responses)."""
    rollouts = answers(model, data, problems, n, cap, seed, rows=64)
    entropy = sum(entropies(model, [p.prompt for p in problems], rollouts, batch=8)) / sum(len(r.ids) for r in rollouts)
    return scores(graded(data, problems, rollouts), cap) | {"entropy": entropy}, rollouts


def measured(model: nn.Module, teacher: Loaded, how: Size, seed: int) -> dict:
    """{"test": scores, the standard error of Avg clustered by problem, the first responses to read; "kl": {prefix: [forward, reverse]} in
    nats a token, on responses of the teacher and of the student to a quarter of the problems}."""
    data = Sums().use(teacher.tokenizer)
    problems = data.problems("test", how.test)
    found, own = scored(model, data, problems, how.samples, how.cap, seed)
    kept = {name: value for name, value in found.items() if not name.endswith("_by_problem")}
    kept |= {"avg stderr": stdev(found["avg_by_problem"]) / len(problems) ** 0.5,
             "said": [data.text(r) for r in own[: 3 * how.samples : how.samples]]}
    some = problems[: -(-len(problems) // 4)]
    theirs, ours = answers(teacher.model, data, some, 1, how.cap, seed, rows=64), own[:: how.samples][: len(some)]
    kl = {who: divergences(model, teacher.model, [p.prompt for p in some], rollouts, batch=8)
          for who, rollouts in (("teacher", theirs), ("student", ours))}
    return {"test": kept, "kl": {who: [found["forward"], found["reverse"]] for who, found in kl.items()}}
