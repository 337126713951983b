"""The method on natural language: SmolLM2-135M that reasons in English about sums (sums.py, taught.py), made brief.

    base(seed)       the taught model as it is
    run(seed, arm)   On-Policy SFT, or the same filter on responses of the starting weights (fixed data), then scored

Weights are fp32 and computed with in bfloat16; a bfloat16 copy samples. All are scored on the same unseen problems at the
starting model's cap, never at the training's limit. SIZES: what two cores do in about an hour, ten times as many rollouts
for a GPU, and "smoke", which only walks the way. Every function is one job: arguments in, JSON out.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import torch

from common.models import ModelSpec

from . import module
from .data import Problem
from .evaluation import answers, evaluate, scores
from .experiment import auc, fit
from .method import OnPolicySFTConfig, divergence_by_token, mean_by_type, right_padded
from .sums import CHECKS, CLOSINGS, OPENINGS, RESTARTS, Sums
from .taught import load_taught

LIMIT = 40  # of a rollout
ARMS = {  # class of module.py, learning rate
    "opsft": ("OnPolicySFT", 5e-5),
    "fixed data": ("FixedData", 5e-5),
    "opsft, 1e-5": ("OnPolicySFT", 1e-5),  # added after the first two had run; no claim is made of it
}


@dataclass(frozen=True)
class Size:
    """How much is done: seeds; updates of a training, each on `rollouts` responses to `prompts` problems; test problems,
    responses to each, the most tokens of one; those on whose answers two models are compared. And where."""

    seeds: tuple[int, ...]
    prompts: int
    rollouts: int
    updates: int
    test: int
    samples: int
    cap: int
    compared: int
    device: str


SIZES = {"smoke": Size(seeds=(0,), prompts=2, rollouts=3, updates=1, test=4, samples=2, cap=12, compared=4, device="cpu"),
         "cpu": Size(seeds=(0, 1, 2), prompts=6, rollouts=8, updates=20, test=96, samples=2, cap=160, compared=24, device="cpu"),
         "cuda": Size(seeds=(0, 1, 2), prompts=16, rollouts=16, updates=40, test=512, samples=4, cap=160, compared=24, device="cuda")}
PHRASES = re.compile("|".join(re.escape(p.partition("{")[0].strip()) for p in (*OPENINGS, *CHECKS, *RESTARTS, *CLOSINGS)))


def base(seed: int, size: str = "cpu") -> dict:
    model, data, source = _start(size, "bfloat16")
    return {"model": source, "test": _test(model, data, size, seed)}


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """{"arm", "test", "history", "needed", "seconds"}, and where it differs from the base (On-Policy SFT alone)."""
    how = SIZES[size]
    model, data, source = _start(size, "float32")
    kind, rate = ARMS[arm]
    config = OnPolicySFTConfig(prompts_per_step=how.prompts, rollouts_per_prompt=how.rollouts, max_new_tokens=LIMIT,
                               micro_batch_size=24, lr=rate, warmup_steps=2)
    training = getattr(module, kind)(ModelSpec("in memory"), config, betas=(0.9, 0.95), weight_decay=0.0, cap=how.cap,
                                     seed=seed, sample_dtype="bfloat16")
    training.given = model, data.words, source
    task, began = Sums(count=how.updates * how.prompts, seed=seed), time.perf_counter()
    fit(training, task, how.updates, lambda done: None, how.updates, accelerator="gpu" if how.device == "cuda" else "cpu",
        precision="bf16-mixed")
    found = {"arm": arm, "history": training.history, "skipped": training.skipped, "seconds": time.perf_counter() - began}
    brief = model.to(torch.bfloat16).to(how.device).eval()
    found["test"] = _test(brief, data, size, seed)
    if kind == "OnPolicySFT":
        found["divergence"] = divergence(_start(size, "bfloat16")[0], brief, data, data.problems("test", how.compared), how.cap, seed)
    return found


def _start(size: str, dtype: str):
    model, tokenizer, source = load_taught(dtype=dtype)
    return model.to(SIZES[size].device), Sums().use(tokenizer), source


def _test(model, data: Sums, size: str, seed: int) -> dict:
    """Scores of held-out problems; what they need at least; the first responses, to read."""
    how = SIZES[size]
    problems = data.problems("test", how.test)
    rows = evaluate(model, data, problems, how.samples, how.cap, seed)
    said = answers(model, data, problems[:3], 1, how.cap, seed)
    needed = [data.needed(p) for p in problems]
    return scores(rows, how.cap) | {"needed": sum(needed) / len(needed), "said": [data.said(r) for r in said]}


def redundant_starts(words, ids: list[int]) -> list[bool]:
    """For each token whether a sentence begins there that no answer needs. The text's phrases are found by their characters."""
    ends = [len(words.decode(ids[: i + 1])) for i in range(len(ids))]
    starts = [found.start() for found in PHRASES.finditer(words.decode(ids))]
    return [any(a <= s < b for s in starts) for a, b in zip([0, *ends], ends)]


@torch.no_grad()
def divergence(first, brief, data: Sums, problems: list[Problem], cap: int, seed: int) -> dict:
    """Where base and brief model differ on the base's own responses (spec 3.8): mean by next token, and the AUC of D_t for
    "the next token begins a sentence that no answer needs"."""
    found = answers(first, data, problems, 1, cap, seed)
    ids, mask = right_padded([problems[r.prompt].prompt for r in found], [r.ids for r in found])
    device = next(first.parameters()).device
    d = torch.cat([divergence_by_token(first(input_ids=rows).logits, brief(input_ids=rows).logits).cpu()
                   for rows in ids.to(device).split(8)])
    redundant = torch.zeros_like(mask)
    for row, rollout in enumerate(found):
        redundant[row, mask[row]] = torch.tensor(redundant_starts(data.words, list(rollout.ids)))
    types, means, counts = mean_by_type(d, ids, mask)
    often = [(data.words.decode([t]), m, c) for t, m, c in zip(types.tolist(), means.tolist(), counts.tolist()) if c >= 5]
    return {"by token, five or more times": often[:20],
            "AUC, redundant sentence against the rest": auc(d[:, :-1][mask[:, 1:]], redundant[:, 1:][mask[:, 1:]])}
