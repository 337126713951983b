"""How right and how long: scores of several responses to each of a set of problems.

Everything is computed from two tables, `correct[problem][sample]` and `lengths[problem][sample]` (response tokens,
thinking and end token included), with as many samples for each problem; `by_problem` makes them from a flat list.

    Avg@N        mean over samples, then over problems
    Pass@k       one right in k: unbiased from N samples (Chen et al. 2021), or the first k as they came
    tokens       mean over all samples, right or wrong; over the right ones alone it is another number, and flatters
    efficiency   100 x accuracy in % / tokens; of several benchmarks, from their mean accuracy and mean tokens

`entropy` is the one score that needs the model: how undecided it is, token by token, on responses of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

Table = Sequence[Sequence[Any]]


# -- right -------------------------------------------------------------------------------------------------
def avg_at_k(correct: Table) -> float:
    """Share of right samples, averaged over samples and then over problems. ValueError if empty or ragged."""
    _width(correct, "correct")
    return fmean(fmean(map(bool, row)) for row in correct)


def pass_at_k(correct: Table, k: int) -> float:
    """Mean over problems of the unbiased chance that one of k samples is right. ValueError for k outside 1 .. N."""
    n = _width(correct, "correct")
    return fmean(unbiased_pass(n, sum(map(bool, row)), k) for row in correct)


def unbiased_pass(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): that one of k samples, drawn without replacement from n of which c are right, is right.

    Chen et al. 2021, section 2.1, as the product of 1 - k / i over i = n - c + 1 .. n, which never overflows.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@k: n = {n}, c = {c}, k = {k}; needs 1 <= k <= n samples and 0 <= c <= n right ones")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def pass_at_first_k(correct: Table, k: int) -> float:
    """Share of problems with a right one among the first k samples, in the order in which they were drawn."""
    n = _width(correct, "correct")
    if not 1 <= k <= n:
        raise ValueError(f"pass@first k: k = {k} of {n} samples")
    return fmean(any(row[:k]) for row in correct)


# -- long --------------------------------------------------------------------------------------------------
def mean_length(lengths: Table) -> float:
    """Mean tokens over all samples, right or wrong."""
    _check_lengths(lengths)
    return fmean(fmean(row) for row in lengths)


def mean_length_of_correct(correct: Table, lengths: Table) -> float | None:
    """Mean tokens over the right samples of all problems; None where none is right."""
    _check_same(correct, lengths)
    right = [n for row, sizes in zip(correct, lengths) for ok, n in zip(row, sizes) if ok]
    return fmean(right) if right else None


def normalised_length_std(lengths: Table) -> float:
    """Standard deviation (N - 1) of the length over samples of one problem / their mean, averaged over problems.

    Spec onpolicysft 5, our reading of "normalised". ValueError for a single sample a problem.
    """
    if _check_lengths(lengths) < 2:
        raise ValueError("normalised_length_std: one sample a problem does not spread; sample two or more")
    return fmean(_std(row) / fmean(row) for row in lengths)


def share_at_cap(lengths: Table, cap: int, finished: Table | None = None) -> float:
    """Share of samples of `cap` tokens or more, the limit that they were sampled with.

    finished: where an end token came; a response that ends with the cap's very last token is then not counted.
    """
    _check_lengths(lengths)
    if finished is None:
        finished = [[False] * len(row) for row in lengths]
    _check_same(finished, lengths)
    return fmean(fmean(n >= cap and not ended for n, ended in zip(*rows)) for rows in zip(lengths, finished))


def efficiency(accuracy_percent: float, tokens: float) -> float:
    """Percent of accuracy per token, times 100: 100 x accuracy_percent / tokens (spec onpolicysft 5; 59.9, 2186: 2.74)."""
    if not tokens > 0 or not 0 <= accuracy_percent <= 100:
        raise ValueError(f"efficiency: {accuracy_percent} % in {tokens} tokens; needs 0 to 100 % and some tokens")
    return 100 * accuracy_percent / tokens


def budget_curve(responses: Sequence[Sequence[Sequence[int]]], budgets: Sequence[int],
                 grade: Callable[[int, Sequence[int]], bool]) -> list[tuple[int, float]]:
    """[(budget, Avg@N of the responses cut to their first `budget` tokens)].

    responses: [problem][sample] token ids. grade(problem, ids): whether these ids answer problem number `problem`; it
    sees a response that is cut exactly as one that the model had not finished.
    """
    _width(responses, "responses")
    if not budgets or min(budgets) < 0:
        raise ValueError(f"budget_curve: budgets {list(budgets)}; needs one or more, none negative")
    return [(b, avg_at_k([[grade(i, ids[:b]) for ids in row] for i, row in enumerate(responses)])) for b in budgets]


# -- all of them -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scored:
    """Scores of one benchmark; accuracies are shares, lengths tokens. `to_dict()` is what a record holds."""

    problems: int
    samples: int  # a problem
    cap: int  # the limit that the responses were sampled with
    avg: float
    pass_at: dict[int, float]  # k -> unbiased
    tokens: float
    tokens_of_correct: float | None
    normalised_length_std: float | None  # None for one sample a problem
    at_cap: float
    efficiency: float
    avg_by_problem: list[float] = field(default_factory=list)  # for intervals over problems
    tokens_by_problem: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: the ks of pass_at are text."""
        return asdict(self) | {"pass_at": {str(k): value for k, value in self.pass_at.items()}}


def score(correct: Table, lengths: Table, cap: int, finished: Table | None = None,
          ks: Sequence[int] | None = None) -> Scored:
    """All scores of one benchmark. ks: of Pass@k; None takes 1, 2, 4, ... and N. ValueError for tables that do not fit."""
    _check_same(correct, lengths)
    n, tokens, avg = _width(correct, "correct"), mean_length(lengths), avg_at_k(correct)
    ks = sorted({2**i for i in range(n.bit_length())} | {n}) if ks is None else ks
    return Scored(
        problems=len(correct), samples=n, cap=cap, avg=avg, pass_at={k: pass_at_k(correct, k) for k in ks}, tokens=tokens,
        tokens_of_correct=mean_length_of_correct(correct, lengths),
        normalised_length_std=normalised_length_std(lengths) if n > 1 else None,
        at_cap=share_at_cap(lengths, cap, finished), efficiency=efficiency(100 * avg, tokens),
        avg_by_problem=[fmean(map(bool, row)) for row in correct], tokens_by_problem=[fmean(row) for row in lengths],
    )


def macro_average(scored: Mapping[str, Scored]) -> dict[str, Any]:
    """Unweighted means over benchmarks of avg, tokens, at_cap and of the Pass@k that all have; efficiency of the means.

    The paper's figure is 100 x mean accuracy / mean tokens; the mean of the benchmarks' efficiencies is another number.
    """
    if not scored:
        raise ValueError("macro_average: no benchmarks")
    found = list(scored.values())
    avg, tokens = fmean(s.avg for s in found), fmean(s.tokens for s in found)
    ks = [k for k in found[0].pass_at if all(k in s.pass_at for s in found)]
    return {
        "benchmarks": list(scored), "avg": avg, "tokens": tokens, "at_cap": fmean(s.at_cap for s in found),
        "pass_at": {str(k): fmean(s.pass_at[k] for s in found) for k in ks}, "efficiency": efficiency(100 * avg, tokens),
    }  # fmt: skip


# -- undecided ---------------------------------------------------------------------------------------------
def entropy(model, prompts: Sequence[Sequence[int]], rollouts: Sequence, batch: int = 16) -> float:
    """Mean predictive entropy in nats, over all response tokens of all rollouts, the end token included.

    rollouts: `common.reasoning.rollouts.Rollout`s that the model itself sampled at temperature 1; `batch` are read at a time, by
    teacher forcing, in eval mode. Spec decouplingkl 3.5: sum over tokens of sum_v -q_v log q_v / tokens, so a long
    response counts more than a short one. ValueError for no rollouts.
    """
    import torch

    from ..reasoning.rollouts import response_logits
    from .perplexity import eval_mode

    if not rollouts or batch < 1:
        raise ValueError(f"entropy: {len(rollouts)} rollouts, {batch} at a time; one or more of both are needed")
    sums = []
    with eval_mode(model), torch.no_grad():
        for start in range(0, len(rollouts), batch):
            logits, _, response = response_logits(model, prompts, rollouts[start : start + batch])
            for row, mask in zip(logits, response):  # one row in float32 at a time; entr: 0 log 0 is 0
                sums.append(torch.special.entr(row[mask].float().softmax(-1)).sum().double().item())
    return math.fsum(sums) / sum(len(r.ids) for r in rollouts)


# -- tables ------------------------------------------------------------------------------------------------
def by_problem(values: Sequence, samples: int) -> list[list]:
    """A flat list, problem 0 x samples, problem 1 x samples, ..., as [problem][sample]."""
    if samples < 1 or not len(values) or len(values) % samples:
        raise ValueError(f"by_problem: {len(values)} values do not make problems of {samples} samples")
    return [list(values[i : i + samples]) for i in range(0, len(values), samples)]


def _width(table: Table, name: str) -> int:
    """Samples of each problem. ValueError for none, or not equally many."""
    widths = sorted({len(row) for row in table})
    if not widths or widths[0] < 1:
        raise ValueError(f"{name}: no problems, or one without samples")
    if len(widths) > 1:
        i = next(i for i, row in enumerate(table) if len(row) != len(table[0]))
        raise ValueError(f"{name}: problem {i} has {len(table[i])} samples, problem 0 has {len(table[0])}; means over "
                         "problems compare only with equally many")
    return widths[0]


def _check_lengths(lengths: Table) -> int:
    width = _width(lengths, "lengths")
    for i, row in enumerate(lengths):
        if not all(n > 0 and math.isfinite(n) for n in row):
            raise ValueError(f"lengths: problem {i} has {list(row)}; a response has one token or more, its end token")
    return width


def _check_same(table: Table, lengths: Table) -> None:
    _width(table, "correct")
    _check_lengths(lengths)
    if [len(row) for row in table] != [len(row) for row in lengths]:
        raise ValueError(f"{len(table)} problems of {len(table[0])} samples, but lengths of {len(lengths)} problems of "
                         f"{len(lengths[0])}")


def _std(row: Sequence[float]) -> float:
    mean = fmean(row)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in row) / (len(row) - 1))
