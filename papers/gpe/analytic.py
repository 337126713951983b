"""What follows from the definitions alone: wait-k, what a row sees, what streaming one sentence costs. Integers.

Symbols as in the specification: source units u_0 .. u_{n+1}, target units v_0 .. v_{m+1} (token counts), S and T their
sums, g(j) the source units after u_0 that are read when target unit j is written. A *read* is a forward pass over new
source tokens. Costs are counted for one sentence, batch 1, every token of the target forced:

    interleaved    one causal sequence in order of arrival: S + T tokens, N (N + 1) / 2 pairs
    group          source apart from target; after each READ but the first the last target token is fed again
    position       the same, and all cached target keys are turned by the newly read tokens
    kv             after each READ the whole target so far is fed again
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from common import shapes

MODES = ("interleaved", "group", "position", "kv")


# -- wait-k ------------------------------------------------------------------------------------------------
def g(k: int | None, n: int, j: int) -> int:
    """Units after u_0 that are readable at target unit j >= 1: min(k + j - 1, n + 1); the end marker is unit n + 1."""
    return n + 1 if k is None else min(k + j - 1, n + 1)


def delays(k: int, n: int, m: int) -> list[int]:
    """Words read when word 1 .. m is written."""
    return [min(g(k, n, j), n) for j in range(1, m + 1)]


@dataclass(frozen=True)
class Sentence:
    """Tokens of each unit: source u_0 .. u_{n+1}, target v_0 .. v_{m+1}."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def n(self) -> int:
        return len(self.source) - 2

    @property
    def S(self) -> int:
        return sum(self.source)

    @property
    def T(self) -> int:
        return sum(self.target)

    def read(self, k: int | None, j: int) -> int:
        """Source tokens, u_0 included, readable at target unit j; v_0 is written with the first word."""
        return sum(self.source[: 1 + g(k, self.n, max(j, 1))])

    def visible(self, k: int | None) -> list[int]:
        """V(t) of every target row: by the unit of the token that it predicts; the last row keeps its own."""
        own = [self.read(k, j) for j, tokens in enumerate(self.target) for _ in range(tokens)]
        return own[1:] + own[-1:]

    def density(self, k: int | None) -> float:
        """Share of target-to-source cells that are allowed."""
        return sum(self.visible(k)) / (self.S * self.T)

    def times(self, factor: int) -> Sentence:
        """The same sentence with its words repeated."""
        return Sentence((self.source[0], *self.source[1:-1] * factor, self.source[-1]),
                        (self.target[0], *self.target[1:-1] * factor, self.target[-1]))


# n = m = 20 words of 1 to 2 tokens, a prompt of 20 and an opening of 3 (spec 7.3)
EXAMPLE = Sentence((20, *(1, 1, 2, 1, 1) * 4, 2), (3, *(2, 1, 2, 1, 2) * 4, 2))


# -- cost of one sentence ----------------------------------------------------------------------------------
class Cost(NamedTuple):
    """fed: tokens forwarded. pairs: (query, key). rotated: cached keys turned. reads: forward passes over source."""

    fed: int
    pairs: int
    rotated: int = 0
    reads: int = 0


def _triangle(before: int, new: int) -> int:
    """Pairs of `new` tokens that each see `before` others and the new ones up to themselves."""
    return new * before + new * (new + 1) // 2


def cost(sentence: Sentence, k: int | None, mode: str) -> Cost:
    """Of the whole sentence. Raises ValueError for an unknown mode."""
    steps = per_read(sentence, k, mode)
    return Cost(*(sum(column) for column in zip(*steps)))


def per_read(sentence: Sentence, k: int | None, mode: str) -> list[Cost]:
    """What each READ costs with the word that is written after it: the stream as it grows."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    steps, read, written = [], 0, 0
    for j, tokens in enumerate(sentence.target):
        if j == 1:
            continue  # v_0 and v_1 are written after the same READ
        new = sentence.target[0] + sentence.target[1] if j == 0 else tokens
        goal = sentence.read(k, j)
        more, fed, pairs, rotated = goal - read, 0, 0, 0
        if more:
            fed, pairs = more, _triangle(read + (written if mode == "interleaved" else 0), more)
            if written and mode in ("group", "position"):  # the last target token is fed again
                fed, pairs = fed + 1, pairs + goal + written
                rotated = written if mode == "position" else 0
            elif written and mode == "kv":
                fed, pairs = fed + written, pairs + _triangle(goal, written)
        read = goal
        fed, pairs = fed + new, pairs + _triangle(read + written, new)
        written += new
        steps.append(Cost(fed, pairs, rotated, int(more > 0)))
    return steps


# -- models ------------------------------------------------------------------------------------------------
class Shape(shapes.Shape):
    """What a `Cost` is in FLOPs at these dimensions."""

    @property
    def linear_flops(self) -> int:
        """FLOPs a token of all projections, without the head: 2 L (d H h + 2 d K h + H h d + 3 d f)."""
        return 2 * self.L * self.linear

    def flops(self, cost: Cost) -> int:
        """linear F + 4 L H h P + 3 L K h per turned key."""
        return self.linear_flops * cost.fed + 4 * self.L * self.dq * cost.pairs + 3 * self.L * self.dk * cost.rotated


QWEN25_3B, LLAMA31_8B, GEMMA2_2B, PHI3_MINI, SMOLLM2_135M = (Shape(**vars(shape)) for shape in (
    shapes.QWEN25_3B, shapes.LLAMA31_8B, shapes.GEMMA2_2B, shapes.PHI3_MINI, shapes.SMOLLM2_135M))
SHAPES = (QWEN25_3B, LLAMA31_8B, GEMMA2_2B, PHI3_MINI, SMOLLM2_135M)


# -- what the paper's and the code's settings amount to ----------------------------------------------------
def steps_per_epoch(pairs: int = 232_825, batch: int = 8, accumulate: int = 4, gpus: int = 2) -> int:
    """Optimiser steps of the README's example on IWSLT-17 En-Fr (the last, smaller batch counts)."""
    return -(-pairs // (batch * accumulate * gpus))


def lag_of_wait_k(k: int, n: int, m: int) -> float:
    """AL in closed form for k <= n: k + (1 - n / m) (tau - 1) / 2, tau = min(n - k + 1, m); n for k > n."""
    if k > n:
        return float(n)
    return k + (1 - n / m) * (min(n - k + 1, m) - 1) / 2
