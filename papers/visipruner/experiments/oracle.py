"""What leaving out each visual token does to the answer, by leaving it out; and how near the cheap scores come to that.

Value and attention rank tokens from one row of attention in one block. Here every visual token is dropped alone behind block BEHIND, and
the fall of the log-probability of the model's own answer (no labels) is its importance: 64 passes a question. Beside it stand the
scores of that block, by rank correlation, and by what sixteen tokens chosen by each are worth. It is an oracle of single tokens: two
that hold the same cost nothing when one of them goes, and it may keep neither.

    make reproduce-visipruner ONLY=oracle
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.attention import Rows
from common.runs.jobs import Job
from common.standins.llava import SEEDS, stand_in

from .. import analysis, scoring
from ..pruners import Nothing, highest, scored
from ..session import View
from . import llava
from .llava import KEPT, Set

BEHIND = 3  # of eight blocks: half of the depth, as in C17


@dataclass(frozen=True)
class Size:
    seeds: tuple[int, ...]
    test: int


SIZES = {"smoke": Size((0,), 2), "cpu": Size(SEEDS, 30)}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"oracle/seed{seed}", f"{__name__}:oracle", {"seed": seed, "size": size}, seconds=60) for seed in SIZES[size].seeds]


class Without(Nothing):
    """One visual token, by its number in the picture, goes behind a block."""

    def __init__(self, block: int, number: int):
        self.block, self.number = block, number

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        return view.visual & (view.visual.long().cumsum(1) != self.number + 1) if layer == self.block else None


class Given(Nothing):
    """Behind a block those visual tokens stay that are given by number: stay (B, N) bool."""

    def __init__(self, block: int, stay: Tensor):
        self.block, self.stay = block, stay

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if layer != self.block:
            return None
        keep = torch.zeros_like(view.visual)
        keep[view.visual] = self.stay.flatten()
        return keep


@torch.no_grad()
def importance(of: Set, batch: scoring.Prompts, block: int = BEHIND) -> Tensor:
    """(B, N): nats that the model's own answer loses when each visual token goes behind a block."""
    logs, _ = scoring.answers(of.parts, batch, Nothing())
    own = logs.argmax(-1, keepdim=True)
    without = [scoring.answers(of.parts, batch, Without(block, k))[0].gather(1, own) for k in range(int(batch.visual[0].sum()))]
    return logs.gather(1, own) - torch.cat(without, 1)


def looking(batch: scoring.Prompts) -> analysis.Looking:
    """by_layer[l] = {score: (B, N) of the visual tokens}."""
    lots = {"lot": llava.lot(batch.asked), "another lot": llava.lot(batch.asked, 1)}

    def see(layer: int, view: View, rows: Rows) -> dict[str, Tensor]:
        scores = {"value": scored("value", rows), "attention": scored("attention", rows)} | {
            name: scored("lot", rows, seed=seed) for name, seed in lots.items()}
        return {name: score[view.visual].view(len(view.visual), -1) for name, score in scores.items()}

    return analysis.Looking(see)


@torch.no_grad()
def oracle(seed: int, size: str = "cpu") -> dict:
    """{"pictures", "right": {score: bits with KEPT tokens}, "rank": {score: rank correlation with the oracle's, by question},
    "shared": {score: of the oracle's KEPT tokens, the share that it keeps, too}, "dense": bits}."""
    of = Set.of(stand_in(seed), "test", SIZES[size].test)
    names = ("oracle", "value", "attention", "lot", "another lot")
    right: dict[str, list[bool]] = {name: [] for name in ("dense", *names)}
    rank: dict[str, list[float]] = {name: [] for name in names[1:]}
    shared: dict[str, list[float]] = {name: [] for name in names[1:]}
    for batch in scoring.prompts(of.parts, of.asked, of.shown):
        look = looking(batch)
        wanted = torch.tensor(of.parts.tokenizer.convert_tokens_to_ids([q.answer for q in batch.asked]))
        right["dense"] += (scoring.answers(of.parts, batch, look)[0].argmax(-1) == wanted).tolist()
        scores = {"oracle": importance(of, batch)} | look.by_layer[BEHIND]
        everyone = torch.ones_like(scores["oracle"], dtype=torch.bool)
        kept = {name: highest(score, everyone, [KEPT] * len(score)) for name, score in scores.items()}
        for name in names:
            logs, _ = scoring.answers(of.parts, batch, Given(BEHIND, kept[name]))
            right[name] += (logs.argmax(-1) == wanted).tolist()
        for name in names[1:]:
            rank[name] += [round(r, 4) for r in correlation(scores[name], scores["oracle"]).tolist()]
            shared[name] += [round(s, 4) for s in ((kept[name] & kept["oracle"]).sum(1) / KEPT).tolist()]
    return {"pictures": [q.picture for q in of.asked], "right": {name: llava.bits(hits) for name, hits in right.items()}, "rank": rank,
            "shared": shared}


def correlation(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B,): Spearman's, row by row; of equal values the first has the lower rank."""
    a, b = (of.argsort(dim=1, stable=True).argsort(dim=1).double() for of in (ours, theirs))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
