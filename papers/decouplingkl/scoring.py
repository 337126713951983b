"""Answers to held-out problems at temperature 1, and their scores: Avg@k, Pass@k, length, share at the cap, entropy.

The cap is large and not the training's length: at that, a student that no longer ends would look as one that does (pitfall 13).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from common.benchmarks import reasoning
from common.benchmarks.perplexity import eval_mode
from common.reasoning.rollouts import Rollout, response_logits, sample

from . import method


def answers(model, data, problems: Sequence, n: int, cap: int, seed: int, ends: Collection[int] | None = None,
            rows: int = 256) -> list[Rollout]:
    """n responses to each problem, in order. ends: tokens that end one; None: the data's."""
    return sample(model, [p.prompt for p in problems], n, cap, end=data.end if ends is None else ends, rows=rows,
                  generator=torch.Generator().manual_seed(seed))


def evaluate(model, data, problems: Sequence, n: int, cap: int, seed: int, ends: Collection[int] | None = None) -> list[dict]:
    """`graded` answers."""
    return graded(data, problems, answers(model, data, problems, n, cap, seed, ends))


def graded(data, problems: Sequence, rollouts: Sequence[Rollout]) -> list[dict]:
    """Per problem {"kind", "correct": [n bools], "lengths": [n], "finished": [n]}; length counts the end token."""
    correct = data.grade(problems, rollouts)
    rows = [{"kind": p.kind, "correct": [], "lengths": [], "finished": []} for p in problems]
    for r, right in zip(rollouts, correct):
        for name, value in (("correct", bool(right)), ("lengths", len(r.ids)), ("finished", r.finished)):
            rows[r.prompt][name].append(value)
    return rows


def scores(rows: Sequence[dict], cap: int) -> dict:
    """What common.benchmarks.reasoning makes of `evaluate`'s rows: "avg", "pass_at", "tokens", "at_cap", ..., and by problem."""
    return reasoning.score([r["correct"] for r in rows], [r["lengths"] for r in rows], cap, [r["finished"] for r in rows]).to_dict()


def entropies(model, prompts: Sequence[Sequence[int]], rollouts: Sequence[Rollout], batch: int = 16) -> list[float]:
    """For each response the predictive entropy sum_v - q log q, in nats, summed over its tokens, its end included: teacher forcing,
    in eval mode. Their sum over all tokens is what the curriculum's gate reads (spec 3.5)."""
    found = []
    with eval_mode(model), torch.no_grad():
        for start in range(0, len(rollouts), batch):
            logits, _, response = response_logits(model, prompts, rollouts[start : start + batch])
            for row, mask in zip(logits, response):  # one row in float32 at a time; entr: 0 log 0 is 0
                wide = row[mask].to(torch.promote_types(row.dtype, torch.float32))
                found.append(torch.special.entr(wide.softmax(-1)).sum().double().item())
    return found


def measure(model, problems: Sequence, samples: int, cap: int, ends: Collection[int], seed: int, first: int = 0,
            batch: int = 16) -> list[dict]:
    """{"entropy": summed, "length", "finished"} of `samples` responses to each problem. first: the place of the first problem among
    all, for a process that answers a share: it draws what one process would."""
    generator = torch.Generator().manual_seed(seed)
    if first:
        torch.randint(-(2**63), 2**63 - 1, (first * samples,), generator=generator)
    prompts = [p.prompt for p in problems]
    rollouts = sample(model, prompts, samples, cap, end=ends, generator=generator)
    return [{"entropy": e, "length": len(r.ids), "finished": r.finished}
            for e, r in zip(entropies(model, prompts, rollouts, batch), rollouts)]


def divergences(student, teacher, prompts: Sequence[Sequence[int]], rollouts: Sequence[Rollout], batch: int = 16) -> dict[str, float]:
    """{"forward", "reverse"}: mean token KL over all tokens of these responses, whoever wrote them."""
    sums, tokens = {"forward": 0.0, "reverse": 0.0}, sum(len(r.ids) for r in rollouts)
    with eval_mode(student), eval_mode(teacher), torch.no_grad():
        for start in range(0, len(rollouts), batch):
            part = rollouts[start : start + batch]
            (zq, _, where), (zp, _, _) = response_logits(student, prompts, part), response_logits(teacher, prompts, part)
            sums["forward"] += method.forward_kl(zq[where], zp[where]).double().sum().item()
            sums["reverse"] += method.reverse_kl(zq[where], zp[where]).double().sum().item()
    return {name: value / tokens for name, value in sums.items()}
