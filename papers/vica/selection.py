"""Which layers let text look at the picture: scores, and sets made from them (paper, layer selection; spec 3.6).

Leave-one-out: how far the answer's distribution moves, in nats, when the look of one layer is taken away from a model that
looks in all. Greedy backward elimination takes layers away one after the other, because two layers may do the same and
either alone look needless. Both are measured on validation pictures; the paper does not say at which slot, so: where the
answer's first token is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

# (cross layers) -> log-probabilities (M, V) at the scored slots of fixed validation rows
Answers = Callable[[tuple[int, ...]], Tensor]


def divergence(p: Tensor, q: Tensor) -> float:
    """Mean KL(p || q) in nats of log-probabilities (M, V). What p rules out adds nothing, whatever q makes of it (0 log 0 = 0); what q
    alone rules out makes it infinite. Raises ValueError where nothing is scored."""
    if not len(p):
        raise ValueError("no slot is scored: the divergence of no answers is no number")
    return float((p.exp() * (p - q)).masked_fill(p == -math.inf, 0.0).sum(-1).mean())


def leave_one_out(answers: Answers, layers: Sequence[int]) -> dict[int, float]:
    """{layer: nats} without each layer of the set."""
    whole = answers(tuple(layers))
    return {layer: divergence(whole, answers(tuple(k for k in layers if k != layer))) for layer in layers}


def top(scores: dict[int, float], count: int) -> tuple[int, ...]:
    """The layers of the highest scores; of equal ones the lower."""
    if not 0 <= count <= len(scores):
        raise ValueError(f"{count} of {len(scores)} layers")
    return tuple(sorted(sorted(scores, key=lambda layer: (-scores[layer], layer))[:count]))


def bottom(scores: dict[int, float], count: int) -> tuple[int, ...]:
    return tuple(sorted(sorted(scores, key=lambda layer: (scores[layer], layer))[:count]))


def greedy(answers: Answers, layers: Sequence[int], count: int) -> tuple[tuple[int, ...], list[tuple[int, float]]]:
    """(the layers kept, [(layer taken away, nats from the whole)]): at each turn the one whose loss moves the answer least."""
    whole, kept, steps = answers(tuple(layers)), tuple(layers), []
    while len(kept) > count:
        costs = {layer: divergence(whole, answers(tuple(k for k in kept if k != layer))) for layer in kept}
        away = min(kept, key=lambda layer: (costs[layer], -layer))
        steps.append((away, costs[away]))
        kept = tuple(k for k in kept if k != away)
    return kept, steps
