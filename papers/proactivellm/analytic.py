"""Exact figures: moments of the path laws, waits and lags in closed form, pairs of attention, and what printed figures imply.

Symbols as in method.py: M units to read, L to write, p_t = (t + 1) / (L + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction as F
from math import sqrt

from common.benchmarks.interaction import average_interaction_lag, lag_saved, relative_context_observed

from . import reported
from .method import Law, weights

# -- path laws (spec 3.3) ------------------------------------------------------------------------------------
SHAPES = {"translation": (16, 16), "qa in the small": (24, 4), "short qa": (116, 3), "choice qa": (205, 1)}  # (M, L) of a table's row


def shares(law: Law, L: int) -> list[F]:
    """P(a unit of the source falls at or before step t), t = 1 .. L, under the multinomial laws: phi(t) is Binomial(M, p_t)."""
    if law.name not in ("multinomial", "polynomial", "slack") or law.random_power:
        raise ValueError(f"law {law.name} has no bins of fixed chances")
    of = [F(w).limit_denominator(10**12) for w in weights(law, L)]
    return [sum(of[: t + 1]) / sum(of) for t in range(1, L + 1)]


def mean(law: Law, M: int, L: int) -> list[F]:
    """E phi(t), t = 1 .. L, exactly, of every law that draws."""
    if law.name == "naive":  # the way that is left is halved at every step
        return [M * (1 - F(1, 2**t)) for t in range(1, L + 1)]
    if law.name == "sorted":
        return _sorted_mean(M, L)
    if law.name == "dirichlet":
        return [F(M * t, L + 1) for t in range(1, L + 1)]
    if law.name == "multipath":  # k uniform in 1 .. M
        return [F(sum(min(k + t, M) for k in range(1, M + 1)), M) for t in range(L)]
    if law.name == "waitk":
        return [F(min(law.k + t, M)) for t in range(L)]
    return [F(M)] * L if law.name == "batch" else [M * p for p in shares(law, L)]


def variance(law: Law, M: int, L: int) -> list[F]:
    """Var phi(t), t = 1 .. L."""
    if law.name == "naive":
        return _naive_variance(M, L)
    if law.name == "sorted":
        return _sorted_variance(M, L)
    if law.name == "dirichlet":  # beta-binomial: a = alpha t, b = alpha (L + 1 - t)
        alpha, found = F(law.alpha).limit_denominator(10**6), []
        for t in range(1, L + 1):
            a, b = alpha * t, alpha * (L + 1 - t)
            found.append(M * a * b * (a + b + M) / ((a + b) ** 2 * (a + b + 1)))
        return found
    if law.name == "multipath":
        return [F(sum(min(k + t, M) ** 2 for k in range(1, M + 1)), M) - m**2 for t, m in enumerate(mean(law, M, L))]
    if law.name in ("waitk", "batch"):
        return [F(0)] * L
    return [M * p * (1 - p) for p in shares(law, L)]


def covariance(law: Law, M: int, L: int, s: int, t: int) -> F:
    """Cov(phi(s), phi(t)), s <= t, of the multinomial laws: M p_s (1 - p_t)."""
    p = shares(law, L)
    return M * p[s - 1] * (1 - p[t - 1])


def mean_rco(law: Law, M: int, L: int) -> F:
    """E of the share of the source read, mean over units; of the uniform multinomial law (L + 3) / (2 (L + 1)) at any M."""
    return sum(mean(law, M, L), F(0)) / (M * L)


def vacuous(law: Law, L: int) -> bool:
    """Whether the law always reads everything before each of L units: then MSLM is batch training, and no prefix is ever seen."""
    return all(p == 1 for p in shares(law, L))


def unseen(law: Law, L: int) -> F:
    """Share of the source that is hidden from the first unit, mean: what the law teaches about prefixes."""
    return 1 - shares(law, L)[0]


def _naive_variance(M: int, L: int) -> list[F]:
    """By E and E of the square of what is left, R: R' uniform in 0 .. R has mean R / 2 and E R'^2 = R (2 R + 1) / 6."""
    one, two, found = F(M), F(M * M), []
    for _ in range(L):
        one, two = one / 2, (2 * two + one) / 6
        found.append(two - one**2)
    return found


def _sorted_mean(M: int, L: int) -> list[F]:
    return [sum(_at_least(M, L, t, v) for v in range(1, M + 1)) for t in range(1, L + 1)]


def _sorted_variance(M: int, L: int) -> list[F]:
    means = _sorted_mean(M, L)
    return [sum((2 * v - 1) * _at_least(M, L, t, v) for v in range(1, M + 1)) - m**2 for t, m in zip(range(1, L + 1), means)]


def _at_least(M: int, L: int, t: int, v: int) -> F:
    """P(the t-th smallest of L numbers of 0 .. M >= v): fewer than t of them are below v."""
    below, found, ways = F(v, M + 1), F(0), 1
    for i in range(t):
        found += ways * below**i * (1 - below) ** (L - i)
        ways = ways * (L - i) // (i + 1)
    return found


def spread_ratio(law: str, M: int, L: int) -> float:
    """SD of phi(1) of a control over that of the uniform multinomial law (C15: "far higher")."""
    return sqrt(variance(Law(law), M, L)[0] / variance(Law(), M, L)[0])


# -- waiting -----------------------------------------------------------------------------------------------
def wait_k(k: int, M: int, L: int) -> list[F]:
    return [F(min(k + t, M)) for t in range(L)]


def lag_and_context(path: Sequence, M: int) -> tuple[F, F]:
    """(AIL, RCO) of a path, exactly."""
    path = [F(v) for v in path]
    return average_interaction_lag(path, F(M)), relative_context_observed(path, F(M))


def words_of(batch_lag: float) -> float:
    """n of M = L = n that a batch row's AIL of (n + 1) / 2 means."""
    return 2 * batch_lag - 1


def wait_9(n: float) -> tuple[float, float]:
    """(AIL, RCO) of wait-9 at M = L = n, between whole n linearly."""
    low = int(n)
    ends = [lag_and_context(wait_k(9, m, m), m) for m in (low, low + 1)]
    return tuple(float(a + F(n - low) * (b - a)) for a, b in zip(*ends))


def implied_lag() -> float:
    """AIL that table 1's translation row has if its RCO and its batch row hold: 6.74, not 8.36 (D1)."""
    of = reported.TABLE_1["en-de"]
    return of["batch"].ail - lag_saved(of["entropy"].rco, words_of(of["batch"].ail))


# -- attention pairs (spec 7.4) ----------------------------------------------------------------------------
HEADER = 3  # tokens of the assistant's header
PAIRS = {"choice qa": (205, [152], 60), "short qa": (116, [103] * 3, 40), "en-de": (16, [min(9 + t, 16) for t in range(16)], 20)}


def pairs(P: int, path: Sequence[int], header: int = HEADER) -> int:
    """(query, key) pairs of one answer: P instruction tokens, one token a unit, header and target written along the path.

    n (n + 1) / 2 of what was read, and for each unit P + phi(t) of the source and header + t of the target.
    """
    n = P + path[-1]
    return n * (n + 1) // 2 + sum(P + phi for phi in path) + sum(header + t for t in range(1, len(path) + 1))


def probe_pairs(P: int, path: Sequence[int], every: int = 1, header: int = HEADER) -> tuple[int, int]:
    """(pairs, passes) of probes that say READ, a token each: after every unit that is read before a unit is written, from the first.

    Units that were read when the unit before was written are not probed again; the probe that says WRITE is the unit's own row.
    """
    total = passes = 0
    at = 1
    for t, phi in enumerate(path, 1):
        for read in range(at, phi, every):
            total += P + read + header + t
            passes += 1
        at = max(at, phi)
    return total, passes


def saving(name: str, P: int | None = None, probes: int = 0) -> float:
    """Share of the batch's pairs that a row saves. probes: one after so many units (0: not counted, as the paper does)."""
    M, path, own = PAIRS[name]
    P = own if P is None else P
    spent = pairs(P, path) + (probe_pairs(P, path, probes)[0] if probes else 0)
    return 1 - spent / pairs(P, [M] * len(path))


def tokens(name: str, probes: int = 0) -> tuple[int, int]:
    """Tokens that go through the model: (of the row, of batch)."""
    M, path, P = PAIRS[name]
    spent = P + path[-1] + HEADER + len(path) + (probe_pairs(P, path, probes)[1] if probes else 0)
    return spent, P + M + HEADER + len(path)


def prompt_that_fits(name: str, printed: float, most: int = 200) -> tuple[int, float]:
    """(P, saving in %) of the instruction length, in tokens, whose saving comes nearest to the printed one."""
    return min(((P, 100 * saving(name, P)) for P in range(1, most + 1)), key=lambda found: abs(found[1] - printed))


# -- headline (D5) -----------------------------------------------------------------------------------------
def kept() -> dict[str, float]:
    """% of its batch row's quality that each streaming row keeps."""
    rows = {f"{name}, {head}": (found[head], found["batch"]) for name, found in reported.TABLE_1.items() if "batch" in found
            for head in ("entropy", "attention") if head in found}
    rows["spoken-squad, entropy"] = reported.TABLE_3["entropy"], reported.TABLE_3["batch"]
    return {name: 100 * row.quality / batch.quality for name, (row, batch) in rows.items()}


def nearest_kept() -> float:
    """Of these the one nearest to the headline's."""
    return min(kept().values(), key=lambda value: abs(value - reported.HEADLINE["kept"]))


def spoken_seconds() -> float:
    """Mean length of a recording that table 3's two rows mean."""
    batch, ours = reported.TABLE_3["batch"], reported.TABLE_3["entropy"]
    return (batch.ail - ours.ail) / (1 - ours.rco)
