"""Whether pruning decides the same in bfloat16 and by attention written out: the same questions, the same settings, another arithmetic.

The released code computes its cosines in half precision, where one step next to .999 is as large as the margin (D5). Here the weights
and all activations are bfloat16, or attention is eager instead of SDPA; influence and thresholds are fp32 in each, as the session
has it. And the placebo: influence rounded to bfloat16 as well, which is what the code's way comes to.

    make reproduce-visipruner ONLY=precision
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from common.attention import Rows
from common.runs.jobs import Job
from common.standins.llava import SEEDS, stand_in

from .. import scoring
from ..method import influence
from ..pruners import VisiPruner
from ..session import View
from . import llava
from .equal import calibrated
from .llava import SIZES, Set

Decision = tuple[int | None, tuple[int, ...]]  # filter layer, slots that it kept


def jobs(size: str = "cpu") -> list[Job]:
    seeds = [seed for seed in SIZES[size].seeds if seed in SEEDS]
    return [Job(f"precision/seed{seed}", f"{__name__}:precision", {"seed": seed, "size": size}, seconds=40) for seed in seeds]


class Rounded(VisiPruner):
    """VisiPruner whose numbers of influence go through bfloat16 before they are compared with thresholds."""

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if rows is None:
            return None
        of, keep = influence(rows.weights, rows.values), view.visual.clone()
        cos, norm, output = (part.bfloat16().float() for part in of)
        for b, rule in enumerate(self.rules):
            here = view.visual[b].nonzero()[:, 0]
            stay = rule.step(layer, view.slots[b, here], cos[b, here], norm[b, here], float(output[b]))
            keep[b, here] = torch.isin(view.slots[b, here], stay)
        return keep


@torch.no_grad()
def decisions(of: Set, pruner: VisiPruner, into: torch.dtype = torch.float32) -> tuple[list[Decision], list[int]]:
    """(what was decided for each question, the answers)."""
    found: list[Decision] = []
    chosen: list[int] = []
    for batch in scoring.prompts(of.parts, of.asked, of.shown):
        logs, _ = scoring.answers(of.parts, replace(batch, embeds=batch.embeds.to(into)), pruner)
        chosen += logs.argmax(-1).tolist()
        found += [(rule.filter_layer, () if rule.kept is None else tuple(rule.kept.tolist())) for rule in pruner.rules]
    return found, chosen


def precision(seed: int, size: str = "cpu") -> dict:
    """{"pictures", "filtered": bits, way: {"layer", "number", "tokens", "answer": bits of whether they are those of fp32 by SDPA,
    "overlap": of the kept sets question by question, shared / all, where fp32 filtered}}."""
    parts, config = stand_in(seed), calibrated(seed)
    of = Set.of(parts, "test", SIZES[size].looked)
    usual, answers = decisions(of, VisiPruner(config))
    eager = copied(parts.decoder, lambda decoder: decoder.set_attn_implementation("eager"))
    half = copied(parts.decoder, lambda decoder: decoder.to(torch.bfloat16))
    by = {name: replace(of, parts=replace(parts, decoder=decoder)) for name, decoder in (("eager", eager), ("bfloat16", half))}
    ways = {"eager": decisions(by["eager"], VisiPruner(config)),
            "bfloat16": decisions(by["bfloat16"], VisiPruner(config), torch.bfloat16),
            "bfloat16, influence too": decisions(by["bfloat16"], Rounded(config), torch.bfloat16)}
    return {"pictures": [q.picture for q in of.asked], "filtered": llava.bits(layer is not None for layer, _ in usual)} | {
        way: compared(usual, answers, *both) for way, both in ways.items()}


def compared(usual: list[Decision], answers: list[int], other: list[Decision], theirs: list[int]) -> dict:
    both = list(zip(usual, other))
    return {"layer": llava.bits(a[0] == b[0] for a, b in both), "number": llava.bits(len(a[1]) == len(b[1]) for a, b in both),
            "tokens": llava.bits(a == b for a, b in both), "answer": llava.bits(a == b for a, b in zip(answers, theirs)),
            "overlap": [round(len({*a[1]} & {*b[1]}) / len({*a[1]} | {*b[1]}), 4) if a[1] or b[1] else 1.0
                        for a, b in both if a[0] is not None]}


def copied(decoder: nn.Module, change: Callable[[nn.Module], object]) -> nn.Module:
    made = copy.deepcopy(decoder)
    change(made)
    return made.eval()
