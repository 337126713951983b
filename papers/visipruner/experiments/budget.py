"""Few tokens: at each question's own number of at most twenty, by value, by three kinds of attention and by lot; rivals at its pairs.

The calibrated rule keeps 32.8, 41.9 and 34.1 of 64 tokens a question (README, D7), where the paper's keeps 10 of 576. Here the threshold
goes up, at the calibrated boundary, to the lowest at which the questions of validation pictures that are filtered keep TOKENS at most on
average: no label is read. Compared are the test questions that the rule then filters to TOKENS or fewer, with as many tokens behind the
same layer by other scores (paper table 4):

    attention   of the last prompt token, mean over heads
    text        of all text tokens, mean
    picture     of the visual tokens themselves, mean
    lot

and, on all test questions, FastV and PyramidDrop with no fewer pairs (equal.py).

    make reproduce-visipruner ONLY=budget
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from common.attention import Edit
from common.runs.jobs import Job
from common.standins.llava import SEEDS, stand_in
from common.vision.parts import Parts

from .. import scoring
from ..analysis import THRESHOLDS
from ..method import VisiPrunerConfig
from ..pruners import Nothing, VisiPruner, highest
from ..scoring import Run
from ..session import PruningSession, View
from . import equal, llava
from .llava import SIZES, Set, Size

TOKENS = 20  # the specification's bound
Rater = Literal["text", "picture"]


def jobs(size: str = "cpu") -> list[Job]:
    seeds = [seed for seed in SIZES[size].seeds if seed in SEEDS]
    return [Job(f"budget/seed{seed}", f"{__name__}:budget", {"seed": seed, "size": size}, seconds=60) for seed in seeds]


def budget(seed: int, size: str = "cpu") -> dict:
    return at_few(stand_in(seed), equal.calibrated(seed), SIZES[size])


def at_few(parts: Parts, config: VisiPrunerConfig, s: Size) -> dict:
    """equal.compared at the higher threshold, and {"threshold", "right": {score: bits of all test questions}, "kept": tokens of each, None
    where none went, "few": "1" for each that keeps 1 to TOKENS}."""
    config = config.with_(tokens_threshold=threshold_for(Set.of(parts, "val", s.validation), config))
    test = Set.of(parts, "test", s.test)
    whole = test.run(VisiPruner(config.with_(exit_cos=2)))
    kept = [count if layer is not None else None for layer, count in map(llava.when, whole.visual)]
    runs = {"value": whole} | {name: test.run(llava.at_own_k(test.asked, whole, score, number)) for name, score, number in (
        ("attention", "attention", 0), ("lot", "lot", 0), ("another lot", "lot", 1))}
    runs |= {"text": rated(test, whole, "text"), "picture": rated(test, whole, "picture")}
    return equal.compared(parts, config, s) | {
        "threshold": config.tokens_threshold, "kept": kept, "few": llava.bits(k is not None and 0 < k <= TOKENS for k in kept),
        "right": {name: llava.bits(run.right) for name, run in runs.items()}}


def threshold_for(val: Set, config: VisiPrunerConfig, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """The lowest at which those that are filtered keep TOKENS at most on average; the highest where none does."""
    for threshold in sorted(thresholds):
        found = map(llava.when, val.run(VisiPruner(config.with_(tokens_threshold=threshold, exit_cos=2))).visual)
        kept = [count for layer, count in found if layer is not None]
        if kept and sum(kept) / len(kept) <= TOKENS:
            return threshold
    return max(thresholds)


# -- attention of more than the last token -----------------------------------------------------------------
class Rated(Nothing):
    """Keeps counts[b] visual tokens of row b behind one layer, by the mean attention that its text, or the picture itself, pays there."""

    def __init__(self, by: Rater, layer: int, counts: Sequence[int]):
        self.by, self.layer, self.counts = by, layer, list(counts)

    def begin(self, view: View, n_layers: int) -> None:
        super().begin(view, n_layers)
        self.view = view

    def rate(self, layer: int, query: Tensor, key: Tensor, scale: float) -> None:
        if layer == self.layer:
            weights = attention(query, key, scale, self.view.causal()).mean(1)  # (B, Q, K)
            raters = self.view.visual if self.by == "picture" else self.view.real & ~self.view.visual
            self.score = (weights * raters[:, :, None]).sum(1) / raters.sum(1, keepdim=True)

    def keep(self, layer: int, view: View, rows) -> Tensor | None:
        return highest(self.score, view.visual, self.counts) if layer == self.layer else None


class Seeing(PruningSession):
    """A session that shows a `Rated` pruner the queries and keys of every layer."""

    def edit(self, layer: int, query: Tensor, key: Tensor) -> Edit | None:
        self.pruner.rate(layer, query, key, self.decoder.layers[layer].self_attn.scaling)
        return super().edit(layer, query, key)


def attention(query: Tensor, key: Tensor, scale: float, seen: Tensor) -> Tensor:
    """(B, H, Q, K) weights in fp32. query (B, H, Q, d), key (B, G, K, d), seen (B, Q, K) bool."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    return (query.float() @ key.float().transpose(-1, -2) * scale).masked_fill(~seen[:, None], float("-inf")).softmax(-1)


@torch.no_grad()
def rated(of: Set, run: Run, by: Rater) -> Run:
    """With the layer and the number of tokens that VisiPruner came to for each question; those of one layer in a call."""
    when = {id(q): llava.when(visual) for q, visual in zip(of.asked, run.visual)}
    last, out, decoder = len(run.visual[0]) - 1, Run([], [], []), of.parts.decoder.eval()
    for batch in scoring.prompts(of.parts, of.asked, of.shown):
        behind = [last if when[id(q)][0] is None else when[id(q)][0] for q in batch.asked]
        said, visual = [0] * len(behind), [[0]] * len(behind)
        for layer in sorted(set(behind)):
            rows = [i for i, own in enumerate(behind) if own == layer]
            pruner, where = Rated(by, layer, [when[id(batch.asked[i])][1] for i in rows]), batch.visual[rows]
            with Seeing(decoder, pruner, where) as session:
                found = decoder(inputs_embeds=batch.embeds[rows], attention_mask=torch.ones(where.shape, dtype=torch.long), use_cache=False,
                                logits_to_keep=1).logits[:, -1].argmax(-1).tolist()
            for i, answer, counts in zip(rows, found, zip(*session.trace.visual)):
                said[i], visual[i] = answer, list(counts)
        wanted = of.parts.tokenizer.convert_tokens_to_ids([q.answer for q in batch.asked])
        out.right += [a == b for a, b in zip(said, wanted)]
        out.chosen += said
        out.visual += visual
    return out
