"""What ViCA is compared with: other choices of layers, and fewer visual tokens for a dense model (common/vision/visual_tokens.py).

Pruning here is training-free and generous: the ranking sees a whole dense pass that is not charged for, and the tokens
that are dropped never enter the model. So `count` visual tokens cost what the paper's "equivalent tokens" cost, and no
pruning method that ranks by this attention can keep the same number and pay less.
"""

from __future__ import annotations

import math
import random

from torch import Tensor, nn

from common.vision.layout import Layout
from common.vision.llava import dense_hidden
from common.vision.visual_tokens import kept_by, without


def dense_on(decoder: nn.Module, layout: Layout, visual: Tensor, score: Tensor, count: int) -> Tensor:
    """Last hidden states (B, T, d) of the dense model on the `count` visual tokens of the highest score (B, N) in each row."""
    return dense_hidden(decoder, *without(layout, visual, kept_by(score, count)))


# -- sets of layers ----------------------------------------------------------------------------------------
def last_layers(n_layers: int, count: int) -> tuple[int, ...]:
    return tuple(range(n_layers - count, n_layers))


def uniform_layers(n_layers: int, count: int) -> tuple[int, ...]:
    """Evenly spread, the first one included."""
    return tuple(round(i * n_layers / count) for i in range(count))


def random_layers(n_layers: int, count: int, seed: int, draw: int = 0) -> tuple[int, ...]:
    """Drawn by lot, the last ones left aside, for these are a baseline of their own. draw: the first set of a seed, or a further one
    that differs from those before it. Raises ValueError where there are not as many sets."""
    if not 0 < count < n_layers or draw >= math.comb(n_layers, count) - 1:
        raise ValueError(f"set {draw} of {count} of {n_layers} layers: there are not so many that differ from each other and the last")
    lot, found = random.Random(seed), [last_layers(n_layers, count)]
    while len(found) < draw + 2:
        one = tuple(sorted(lot.sample(range(n_layers), count)))
        found += [] if one in found else [one]
    return found[-1]
