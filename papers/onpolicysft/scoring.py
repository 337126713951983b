"""Answers to held-out problems at temperature 1, and their scores: Avg@N, Pass@N, tokens, Eff, budget curves.

The cap is that of the starting model. Cut at the training's limit instead, a model that only stops being finished would
look as if it had become brief (spec 10.8).
"""

from __future__ import annotations

import torch

from common.benchmarks import reasoning
from common.reasoning.rollouts import Rollout, sample


def answers(model, data, problems: list, n: int, cap: int, seed: int, rows: int = 256, temperature: float = 1.0) -> list[Rollout]:
    """n responses to each problem, in order. data: what knows its end tokens (data.py)."""
    return sample(model, [p.prompt for p in problems], n, cap, end=data.end, rows=rows, temperature=temperature,
                  generator=torch.Generator().manual_seed(seed))


def evaluate(model, data, problems: list, n: int, cap: int, seed: int) -> list[dict]:
    """`graded` answers."""
    return graded(data, problems, answers(model, data, problems, n, cap, seed))


def graded(data, problems: list, rollouts: list[Rollout]) -> list[dict]:
    """Per problem {"kind", "correct": [n bools], "lengths": [n], "finished": [n]}; length counts the end token."""
    correct = data.grade(problems, rollouts)
    rows = [{"kind": p.kind, "correct": [], "lengths": [], "finished": []} for p in problems]
    for r, right in zip(rollouts, correct):
        for name, value in (("correct", bool(right)), ("lengths", len(r.ids)), ("finished", r.finished)):
            rows[r.prompt][name].append(value)
    return rows


def scores(rows: list[dict], cap: int) -> dict:
    """What common.benchmarks.reasoning makes of `evaluate`'s rows, and the same by kind of problem."""
    def of(some: list[dict]) -> dict:
        every = reasoning.score([r["correct"] for r in some], [r["lengths"] for r in some], cap, [r["finished"] for r in some]).to_dict()
        return {k: v for k, v in every.items() if not k.endswith("_by_problem")}

    kinds = sorted({r["kind"] for r in rows})
    return of(rows) | {"by_kind": {str(k): of([r for r in rows if r["kind"] == k]) for k in kinds}}


def auc(values, positive) -> float:
    """Area under the ROC curve: the chance that a positive has the higher value, ties half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive.numpy(), values.numpy()))
