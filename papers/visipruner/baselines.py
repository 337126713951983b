"""What VisiPruner is compared with, as pruners of the same session (session.py): tokens leave the model there as they do under it.

    FastV(layer, share)               one drop behind a layer, ranked by the last token's attention in it (Chen et al. 2024)
    PyramidDrop(layers, share)        a share of what is left, behind each of several layers (Xing et al. 2025)
    Chosen(score, layer, counts)      one drop, so many a row, by attention, by value-weighted attention, or by lot
    ExitBehind(layer)                 all of the picture goes behind a layer
    pruners.Nothing()                 the model as it is

All inside the model: the layers up to the drop see everything, as these methods have it. `counts` may differ by row, so that a
rival can be given VisiPruner's own number of tokens for each question; `settings` gives FastV and PyramidDrop its pairs.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.attention import Rows

from .pruners import Nothing, Score, highest, scored
from .session import View


class Chosen(Nothing):
    """Keeps so many visual tokens a row behind one layer. layer, counts: one for all rows, or one for each."""

    def __init__(self, score: Score, layer: int | Sequence[int], counts: int | Sequence[int], seed: int = 0):
        self.score, self.layer, self.counts, self.seed = score, layer, counts, seed

    def begin(self, view: View, n_layers: int) -> None:
        super().begin(view, n_layers)
        rows = len(view.slots)
        self.layers, self.of_row = _by_row(self.layer, rows), _by_row(self.counts, rows)

    def wants(self, layer: int) -> bool:
        return layer in self.layers

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if rows is None:
            return None
        chosen = highest(scored(self.score, rows, seed=self.seed), view.visual, self.of_row)
        now = torch.tensor([[layer == of] for of in self.layers], device=chosen.device)
        return torch.where(now, chosen, view.visual)


def _by_row(given: int | Sequence[int], rows: int) -> list[int]:
    """One number for every row, or those of each; beams repeat a row."""
    of = [given] if isinstance(given, int) else list(given)
    if not of or rows % len(of):
        raise ValueError(f"{len(of)} numbers for {rows} rows")
    return [each for each in of for _ in range(rows // len(of))]


def _share(share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it lies between 0 and 1")
    return share


class FastV(Chosen):
    """share of the visual tokens is dropped behind a layer, by the attention that the last token pays there (FastV, K and R)."""

    def __init__(self, layer: int, share: float):
        super().__init__("attention", layer, 0)
        self.share = _share(share)

    def begin(self, view: View, n_layers: int) -> None:
        self.counts = [round((1 - self.share) * int(n)) for n in view.visual.sum(1)]
        super().begin(view, n_layers)


class PyramidDrop(Nothing):
    """Behind each of the layers a share of the visual tokens that are left stays, ranked by the last token's attention there."""

    def __init__(self, layers: Sequence[int], share: float = 0.5):
        self.at, self.share = frozenset(layers), _share(share)

    def wants(self, layer: int) -> bool:
        return layer in self.at

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if rows is None:
            return None
        return highest(scored("attention", rows), view.visual, [math.ceil(self.share * int(n)) for n in view.visual.sum(1)])


class ExitBehind(Nothing):
    """The whole picture goes behind a layer."""

    def __init__(self, layer: int):
        self.layer = layer

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        return torch.zeros_like(view.visual) if layer == self.layer else None


# -- at given pairs ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rival:
    """A method with a place and a share. make(place, share): its pruner. places(layers): where it can drop. shares(tokens): from the
    fewest tokens to the most. plan(place, share, tokens, layers): the visual tokens of each layer."""

    make: Callable
    places: Callable[[int], Sequence]
    shares: Callable[[int], Sequence[float]]
    plan: Callable[..., list[int]]


def fastv_plan(layer: int, share: float, tokens: int, layers: int) -> list[int]:
    return [tokens if number <= layer else round((1 - share) * tokens) for number in range(layers)]


def pyramid_plan(at: Sequence[int], share: float, tokens: int, layers: int) -> list[int]:
    plan = [tokens]
    for number in range(layers - 1):
        plan.append(math.ceil(share * plan[-1]) if number in at else plan[-1])
    return plan


STAGES = ((1, 3, 5), (0, 2, 4), (2, 4, 6), (0, 1, 2))  # where PyramidDrop drops, of eight layers
RIVALS = {"FastV": Rival(FastV, lambda layers: range(layers - 1), lambda n: [1 - k / n for k in range(n + 1)], fastv_plan),
          "PyramidDrop": Rival(PyramidDrop, lambda layers: [at for at in STAGES if max(at) < layers],
                               lambda n: [k / n for k in range(1, n + 1)], pyramid_plan)}


def settings(rival: Rival, tokens: int, layers: int, budget: float, pairs: Callable[[list[int]], float]) -> list[tuple]:
    """For each place where a rival can drop, its setting (place, share) with the fewest pairs that are no fewer than the budget.
    pairs(plan): those of a plan, in the budget's unit. Places that have more whatever the share are left out; where that is all of
    them, the one with the fewest stays."""
    def left(place, share: float) -> float:
        return pairs(rival.plan(place, share, tokens, layers))

    places, shares = rival.places(layers), rival.shares(tokens)
    low = [place for place in places if left(place, shares[0]) <= budget] or [min(places, key=lambda place: left(place, shares[0]))]
    return [(place, shares[min(bisect_left(shares, budget, key=lambda share: left(place, share)), len(shares) - 1)]) for place in low]
