"""What a layer knows, by closed-form ridge regression: several layers side by side cost the sum of their Gram matrices (spec 8.3).

Each layer is standardised on the training pictures and divided by the root of its width, so that late layers, whose norms are eight
times as large, do not drown early ones. The strength is chosen by leave-one-out on the training pictures alone. With no weights but
the ridge's, a difference between two sets is in what the layers hold, not in how well something was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the Gram matrix's mean eigenvalue


@dataclass(frozen=True)
class Grams:
    """Inner products of one view of the pictures (a layer, a mean of layers). train (n, n), tests by name (m, n)."""

    train: Tensor
    tests: dict[str, Tensor]

    def __add__(self, other: Grams) -> Grams:
        return Grams(self.train + other.train, {name: gram + other.tests[name] for name, gram in self.tests.items()})


def standardised(train: Tensor, tests: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Every feature with mean 0 and variance 1 over the training pictures (n, width), divided by the root of the width."""
    mean, scale = train.mean(0), train.std(0).clamp(min=1e-6) * train.shape[1] ** 0.5
    return (train - mean) / scale, {name: (test - mean) / scale for name, test in tests.items()}


def grams(train: Tensor, tests: dict[str, Tensor]) -> Grams:
    """Of standardised features (n, width)."""
    return Grams(train @ train.T, {name: test @ train.T for name, test in tests.items()})


def total(parts: Iterable[Grams]) -> Grams:
    """The Gram matrices of several views side by side."""
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


class Ridge:
    """Ridge regressions from one set of views, for any number of targets."""

    def __init__(self, of: Grams):
        self.of = of
        self.values, self.vectors = torch.linalg.eigh(of.train.double())

    def accuracies(self, labels: Sequence[int], tests: dict[str, Sequence[int]]) -> dict[str, float]:
        """{test: share of labels right}. labels: of the training pictures, classes 0 to C - 1."""
        classes = torch.tensor(labels)
        target = torch.nn.functional.one_hot(classes).double()
        mean = target.mean(0)
        projected = self.vectors.T @ (target - mean)
        best: tuple[float, Tensor] | None = None
        for strength in STRENGTHS:
            shrunk = 1 / (self.values.clamp(min=0) + strength * self.values.clamp(min=0).mean())
            weights = self.vectors @ (shrunk[:, None] * projected)
            # left out one by one: the residual is alpha_i / (K + s I)^-1_ii
            left_out = target - weights / (self.vectors.square() @ shrunk)[:, None]
            right = (left_out.argmax(1) == classes).double().mean().item()
            if best is None or right > best[0]:
                best = right, weights
        assert best is not None
        found = {}
        for name, wanted in tests.items():
            chosen = (self.of.tests[name].double() @ best[1] + mean).argmax(1)
            found[name] = (chosen == torch.tensor(wanted)).double().mean().item()
        return found
