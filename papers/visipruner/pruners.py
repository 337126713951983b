"""VisiPruner as a pruner of a session, and what it shares with its rivals (baselines.py): scores, and the highest of them.

    Nothing()             drops nothing: the model as it is, and the base of the others
    VisiPruner(config)    the paper's three stages, decided by method.py
    scored, highest       of visual tokens by attention, by value-weighted attention or by lot, and so many of each row
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from common.attention import Edit, Rows
from common.errors import ModelError

from .method import Influence, Rule, ShallowConfig, VisiPrunerConfig, influence
from .session import View

Score = Literal["attention", "value", "lot"]


class Nothing:
    """Drops nothing. Base of the others: what a pruner that decides one thing need not write again."""

    def begin(self, view: View, n_layers: int) -> None:
        self.n_layers = n_layers

    def see(self, layer: int, rows: Rows) -> None: ...

    def edit(self, layer: int, view: View) -> Edit | None:
        return None

    def wants(self, layer: int) -> bool:
        return False

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        return None

    def cached(self, layer: int, view: View) -> Tensor | None:
        return None


class VisiPruner(Nothing):
    """The paper's three stages (method.py). `rules`: what each row of the last prompt came to; `influences`: {layer: Influence} if kept."""

    def __init__(self, config: VisiPrunerConfig | None = None):
        self.config = config or VisiPrunerConfig()
        self.rules: list[Rule] = []

    def begin(self, view: View, n_layers: int) -> None:
        super().begin(view, n_layers)
        self.rules = [Rule(self.config) for _ in view.slots]

    def edit(self, layer: int, view: View) -> Edit | None:
        shallow = self.config.shallow
        return None if shallow is None or layer >= shallow.layers else shallow_edit(shallow, layer, view)

    def wants(self, layer: int) -> bool:
        return any(rule.wants(layer) for rule in self.rules)

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if rows is None:
            return None
        of, keep = influence(rows.weights, rows.values), view.visual.clone()
        if not bool(of.output.isfinite().all()):  # a comparison with nan is False, and would drop the whole picture
            row = int((~of.output.isfinite()).nonzero()[0, 0])
            raise ModelError(f"layer {layer}, row {row}: the output of the last token's attention is not finite: no token's share of "
                             "it is known. In double precision transformers' eager attention makes nan of padding on the left: load the "
                             "model with sdpa, or in single precision.")
        for b, rule in enumerate(self.rules):
            here = view.visual[b].nonzero()[:, 0]
            stay = rule.step(layer, view.slots[b, here], of.cos[b, here], of.norm[b, here], float(of.output[b]))
            keep[b, here] = torch.isin(view.slots[b, here], stay)
        return keep

    def cached(self, layer: int, view: View) -> Tensor | None:
        if self.config.kv == "all":
            return None
        always = self.config.boundary if self.config.kv == "boundary" else None
        until = [self.config.boundary if rule.filter_layer is None else rule.filter_layer for rule in self.rules]
        until = until if always is None else [always] * len(until)
        return torch.tensor([[layer > last] for last in until], device=view.slots.device).expand_as(view.slots)


def shallow_edit(shallow: ShallowConfig, layer: int, view: View) -> Edit | None:
    """The (query, key) pairs that a shallow layer goes without (spec 3.2)."""
    first = shallow.first if layer == 0 else "skip"
    if first == "none" or not bool(view.visual.any()):
        return None
    keys, text = view.visual[:, None, :], (view.real & ~view.visual)[:, :, None]
    if first == "half":  # of each row's visual tokens
        rank = view.visual.long().cumsum(1)
        keys = keys & (rank <= rank[:, -1:] // 2)[:, None, :]
    seen = view.slots[:, None, :] <= view.slots[:, :, None]
    pairs, among = text & keys & seen, view.visual[:, :, None] & view.visual[:, None, :] & seen
    if first == "skip" and shallow.visual_self:
        among = torch.zeros_like(among)
    elif shallow.mode == "before":  # a visual token still sees itself: without any key a softmax has no meaning
        among = among & ~torch.eye(view.slots.shape[1], dtype=torch.bool, device=view.slots.device)
    if first != "merge":
        return Edit(pairs | among, shallow.mode)
    if shallow.mode == "before":
        return Edit(pairs, "merge", merge_onto(shallow.onto, view), hidden=among)
    return Edit(pairs | among, "merge", merge_onto(shallow.onto, view).masked_fill(view.visual, -1))  # text's weight alone is moved


def merge_onto(onto: int, view: View) -> Tensor:
    """(B, n): the column of visual token number `onto`, or of the last visual token that the query sees where that comes later."""
    columns = torch.where(view.visual, torch.arange(view.slots.shape[1], device=view.slots.device), -1)
    count = view.visual.long().cumsum(1)  # visual tokens up to each query
    by_number = columns.new_zeros(len(columns), int(count.max()) + 1)
    by_number.scatter_(1, torch.where(view.visual, count, 0), columns.clamp(min=0))
    return by_number.gather(1, torch.minimum(count, torch.full_like(count, onto + 1)))


# -- which tokens ------------------------------------------------------------------------------------------
def scored(score: Score, rows: Rows, of: Influence | None = None, seed: int = 0) -> Tensor:
    """(B, K): the mean attention of the last token over heads, its value-weighted norm |c_j|, or drawn evenly."""
    if score == "attention":
        return rows.weights.mean(1)
    if score == "value":
        return (of or influence(rows.weights, rows.values)).norm
    return torch.rand(rows.weights.shape[0], rows.weights.shape[2], generator=torch.Generator().manual_seed(seed)).to(rows.weights.device)


def highest(score: Tensor, visual: Tensor, counts: Sequence[int]) -> Tensor:
    """(B, n) bool: of each row's visual tokens the counts[b] highest; of equal ones the first."""
    order = score.masked_fill(~visual, -float("inf")).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return visual & (rank < torch.tensor(list(counts), device=order.device)[:, None])
