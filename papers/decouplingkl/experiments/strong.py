"""The better student: accuracies that can be told apart, GRPO from every cell, and what two end tokens do.

    make reproduce-decouplingkl ONLY=strong

    start(seed)         the better student as it is, and after GRPO
    run(seed, arm)      an arm of chains.py; of the four cells also GRPO from them, switched after 20 and after 60 updates
    ends(seed, stops)   reverse KL from a teacher that ends its responses with <eos2>, sampled until <eos> or until either

The stop-token audit trains nobody anew: both vocabularies get a second end token, and the teacher's output row of <eos> moves to
it. So the teacher writes what it wrote, and ends it otherwise; a word that it never writes takes <eos>'s place.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn

from common.data import chains as words
from common.models import ModelSpec
from common.reasoning.problems import Chains
from common.reasoning.rollouts import Rollout
from common.runs.jobs import Job
from common.seeds import asked, seed_of

from .. import method, standins
from ..module import GRPO
from . import chains as small
from .chains import CAP, SF, SHORT, SR, TF, TR

CELLS = {"SF": SF, "SR": SR, "TF": TF, "TR": TR}
ARMS = CELLS | {"SF again": replace(SF, again=True), "short SF": replace(SF, horizon=SHORT), "short SR": replace(SR, horizon=SHORT),
                "short TF": replace(TF, horizon=SHORT), "short TR": replace(TR, horizon=SHORT)}
SWITCHES = (20, 60)  # updates of distillation before RL
STOPS = {"one end": False, "two ends": True}
SECOND_END = "<eos2>"


@dataclass(frozen=True)
class Size:
    """distilled: as chains.Size, of the better student. Of GRPO: updates, problems an update, responses to each."""

    distilled: small.Size
    updates: int
    prompts: int
    rollouts: int
    switches: tuple[int, ...]


SIZES = {"smoke": Size(replace(small.SIZES["smoke"], updates=2, every=1), updates=1, prompts=2, rollouts=4, switches=(1, 2)),
         "cpu": Size(small.Size(seeds=asked(), prompts=24, updates=60, every=20, probe=64, probed=8, test=64, samples=8, job_seconds=120),
                     updates=20, prompts=16, rollouts=8, switches=SWITCHES)}
RL_RATE = 5e-4


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu."""
    how, found = SIZES[size].distilled, []

    def job(name: str, function: str, seconds: float, after: tuple[str, ...], **arguments) -> None:
        found.append(Job(f"strong/{name}", f"{__name__}:{function}", arguments | {"size": size}, seconds=min(seconds, how.job_seconds),
                         after=after))

    for seed in how.seeds:
        after = small.needed(found, seed)
        job(f"start/seed{seed}", "start", 20, after, seed=seed)
        for name, arm in ARMS.items():
            job(f"{name}/seed{seed}", "run", 75 if name in CELLS else 12 if arm.horizon == SHORT else 35, after, seed=seed, arm=name)
        for stops in STOPS:
            job(f"{stops}/seed{seed}", "ends", 35, after, seed=seed, stops=stops)
    return found


# -- cells, and GRPO from them -----------------------------------------------------------------------------
def start(seed: int, size: str = "cpu") -> dict:
    """As chains.start, and {"rl": {"0": after GRPO}}."""
    (model, _, source), how = standins.student(seed, "strong"), SIZES[size]
    found = small.measured(model, standins.teacher(seed)[0], how.distilled, seed)
    return found | {"model": source, "rl": {"0": reinforced(model, how, seed)}}


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """As chains.distilled; a cell also {"rl": {updates before: {"before", "after", ...}}}."""
    how, kept = SIZES[size], {}

    def keep(done: int, model: nn.Module) -> None:
        if done in how.switches and arm in CELLS:
            kept[done] = copy.deepcopy(model)

    model, found = small.distilled(seed, "strong", ARMS[arm], how.distilled, keep)
    if arm in CELLS:
        found["rl"] = {str(done): reinforced(there.eval(), how, seed) for done, there in sorted(kept.items())}
    return found


def reinforced(model: nn.Module, how: Size, seed: int) -> dict:
    """{"before", "after": scores on unseen problems, "right", "length": of every update's responses, "skipped"}. Trains `model`."""
    data, test = Chains(count=1), how.distilled
    problems = [data.problem(i, "test") for i in range(test.test)]

    def now() -> dict:
        found = small.scored(model, data, problems, test.samples, seed)[0]
        return {name: found[name] for name in ("avg", "pass_at", "tokens", "at_cap", "entropy")}

    before = now()
    config = method.DistillConfig(max_new_tokens=CAP, prompts_per_step=how.prompts, rollouts_per_prompt=how.rollouts,
                                  micro_batch_size=how.prompts * how.rollouts, lr=RL_RATE, warmup_steps=0)
    training = GRPO(ModelSpec("in memory"), config, betas=(0.9, 0.95), weight_decay=0.0, cap=CAP, seed=seed_of("rl", seed))
    training.given = model.requires_grad_(True), words.tokenizer(), {"name": "in memory"}
    small.learn(training, Chains(how.updates * how.prompts, seed=seed + 500), how.updates, [])
    history = {name: [row[name] for row in training.history] for name in ("right", "length")}
    return {"before": before, "after": now(), "skipped": training.skipped} | history


# -- two end tokens ----------------------------------------------------------------------------------------
def widened(model: nn.Module, ends_by_second: bool) -> nn.Module:
    """The model with one more word, a second end token that it never writes; or, ends_by_second, that it writes in place of the
    first. An output row of a word that is never written, <pad>, is that of an end which is not used; the output matrix is then no
    longer tied to the input's. A stock model."""
    model = copy.deepcopy(model)
    rows = model.get_input_embeddings().weight.detach().clone()
    end, never = words.WORDS.index(words.END), words.WORDS.index("<pad>")
    heads = torch.cat([rows, rows[never : never + 1]])
    if ends_by_second:
        heads[-1], heads[end] = rows[end], rows[never]
    model.config.tie_word_embeddings = False
    model.config.vocab_size = len(heads)
    model.set_input_embeddings(nn.Embedding.from_pretrained(torch.cat([rows, rows[end : end + 1]]), freeze=False))
    model.lm_head = nn.Linear(rows.shape[1], len(heads), bias=False)
    model.lm_head.weight.data.copy_(heads)
    model.vocab_size = len(heads)
    return model


def ends(seed: int, stops: str, size: str = "cpu") -> dict:
    """Reverse KL on student prefixes, whole responses, from a teacher that ends by <eos2>: as chains.distilled, and {"ended by": share
    of test responses that ended with each token}. Sampling, in training and test, stops at <eos> alone, or at either."""
    how = SIZES[size].distilled
    end, second = words.WORDS.index(words.END), len(words.WORDS)
    stop = (end, second) if STOPS[stops] else (end,)
    tokenizer = words.tokenizer()
    tokenizer.add_tokens([SECOND_END], special_tokens=True)
    student, teacher = standins.student(seed, "strong"), widened(standins.teacher(seed)[0], True)
    model = widened(student[0], False)
    config = replace(small.config(SR, how), stop_token_ids=stop)
    training = small.distilling((model, tokenizer, student[2]), teacher.eval(), config, seed_of("arm", seed, False))
    data = TwoEnds(how.updates * how.prompts, seed, stop)
    small.learn(training, data, how.updates, [])
    problems = [data.problem(i, "test") for i in range(how.test)]
    found, rollouts = small.scored(model, data, problems, how.samples, seed)
    kept = {name: value for name, value in found.items() if not name.endswith("_by_problem")}
    share = {name: sum(r.finished and r.ids[-1] == token for r in rollouts) / len(rollouts)
             for name, token in (("eos", end), ("eos2", second))}
    return {"test": kept, "ended by": share, "history": small.columns(training.history)}


class TwoEnds(Chains):
    """Chains whose responses may end by either token; a right one is right by whichever."""

    def __init__(self, count: int, seed: int, stop: tuple[int, ...]):
        super().__init__(count, seed=seed)
        self.end = stop

    def grade(self, problems: list, rollouts: list[Rollout]) -> list[bool]:
        end = words.WORDS.index(words.END)
        return super().grade(problems, [replace(r, ids=(*r.ids[:-1], end)) if r.finished else r for r in rollouts])
