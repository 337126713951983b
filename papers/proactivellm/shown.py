"""How much of a source an answer of one letter is shown in training: the law of phi(1), exactly, under every law of the paths.

A source has M units and its end, which is one more that is read (README, D10): a path is drawn over n = M + 1. Of the units that are
written phi(1) belongs to the letter. Whether the end of the answer is another one decides everything. With the letter alone, L = 1, the
multinomial laws put all of n into bins 0 and 1, and phi(1) = n with certainty: the law is *vacuous*, its masked view is the batch view, and
its KL is 0. With the end counted, L = 2, phi(1) is binomial with p = 2/3, which is what slack gives to the letter alone.

    multinomial, polynomial, slack   binomial(n, p), p the share of bins 0 and 1     (a drawn power: the mean over powers)
    dirichlet                        beta-binomial(n, alpha, alpha L)
    naive                            uniform on 0 .. n
    sorted                           the least of L numbers of 0 .. n
    waitk, multipath, batch          min(k, n);  uniform on 1 .. n;  n

Three kinds of prefix follow, and only one of them teaches to answer early (`kinds`): before the evidence, *early* (the evidence is there
and units are still to come), and whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction as F
from functools import lru_cache
from math import comb
from typing import NamedTuple

from .method import Law, weights

FAMILY: dict[str, Law] = {
    "multinomial": Law(), "polynomial, power 1": Law("polynomial", power=1), "polynomial, power -1": Law("polynomial", power=-1),
    "polynomial, drawn power": Law("polynomial", random_power=True), "slack": Law("slack"), "dirichlet": Law("dirichlet"),
    "naive": Law("naive"), "sorted": Law("sorted"), "wait-3": Law("waitk", k=3), "multipath": Law("multipath")}
POWERS = (0, 1, 2)  # that `random_power` draws from (method.read_path)


@lru_cache(maxsize=4096)
def of_first(law: Law, n: int, L: int) -> tuple[F, ...]:
    """P(phi(1) = 0), .., P(phi(1) = n). n: units to read, the end of the source included; L: units to write. ValueError below 1."""
    if n < 1 or L < 1:
        raise ValueError(f"of_first: {n} units to read and {L} to write; it needs one each")
    return tuple(_first(law, n, L))


def _first(law: Law, n: int, L: int) -> list[F]:
    if law.name == "naive":
        return [F(1, n + 1)] * (n + 1)
    if law.name == "sorted":  # the least is at least v where all are
        least = [F(n + 1 - v, n + 1) ** L for v in range(n + 2)]
        return [a - b for a, b in zip(least, least[1:])]
    if law.name == "dirichlet":
        return _beta_binomial(n, F(law.alpha).limit_denominator(10**6), L)
    if law.name in ("waitk", "multipath", "batch"):
        ks = {"waitk": [min(law.k, n)], "multipath": range(1, n + 1), "batch": [n]}[law.name]
        return [F(int(v in ks), len(ks)) for v in range(n + 1)]
    if law.random_power:
        rows = [_binomial(n, _share(law, L, power)) for power in POWERS]
        return [sum(column, F(0)) / len(POWERS) for column in zip(*rows)]
    return _binomial(n, _share(law, L))


def _share(law: Law, L: int, power: float | None = None) -> F:
    """Of the bins that are read before the first unit: 0 and 1."""
    of = [F(w).limit_denominator(10**12) for w in weights(law, L, power)]
    return sum(of[:2], F(0)) / sum(of)


def _binomial(n: int, p: F) -> list[F]:
    return [comb(n, v) * p**v * (1 - p) ** (n - v) for v in range(n + 1)]


def _beta_binomial(n: int, alpha: F, L: int) -> list[F]:
    """Of n units those in one bin of L + 1, whose chances are drawn from Dir(alpha): a = alpha, b = alpha L, each from the one before."""
    a, b, found = alpha, alpha * L, [F(1)]
    for i in range(n):  # P(0) = prod (b + i) / (a + b + i)
        found[0] *= (b + i) / (a + b + i)
    for v in range(n):
        found.append(found[-1] * (n - v) * (a + v) / ((v + 1) * (b + n - v - 1)))
    return found


class Kinds(NamedTuple):
    """Chances that sum to 1. before: the evidence is not read yet; early: it is, and sentences are still to come; whole: all are read."""

    before: F
    early: F
    whole: F


def kinds(law: Law, M: int, L: int, needed: int) -> Kinds:
    """Of a source of M units and its end, whose evidence is read with unit `needed` of 1 .. M. whole: all M, whether the end is or not."""
    if not 1 <= needed <= M:
        raise ValueError(f"kinds: evidence at unit {needed} of {M}")
    of = of_first(law, M + 1, L)
    return Kinds(sum(of[:needed], F(0)), sum(of[needed:M], F(0)), sum(of[M:], F(0)))


def vacuous(law: Law, M: int, L: int) -> bool:
    """Whether the letter is always predicted with the whole source and its end read."""
    return of_first(law, M + 1, L)[-1] == 1


def quarters(law: Law, M: int, L: int) -> list[F]:
    """Chances that phi(1) lies in each quarter of 0 .. M + 1 (places 4 v // (n + 1)): of an even law a quarter each."""
    of = of_first(law, M + 1, L)
    return [sum((p for v, p in enumerate(of) if 4 * v // len(of) == quarter), F(0)) for quarter in range(4)]


def mean_of(of: Sequence[F]) -> F:
    return sum((v * p for v, p in enumerate(of)), F(0))
