"""How an answer is scored, once for all experiments: one question a row, as a user asks it, on pictures that no training saw.

Rows of a batch hold prompts of equal length (system words, 64 visual tokens, the question), so that nothing is padded; the
answer is the token of the highest logit behind the last one. How the model runs is a pruner.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.data import scenes
from common.vision.llava import N_VISUAL, question_slots
from common.vision.parts import Parts

from .pruners import Nothing
from .session import Pruner, PruningSession, Trace

YES_NO = ("exists", "relation")


@dataclass(frozen=True)
class Asked:
    """A question about a picture. picture: its number in the split, the unit that intervals are clustered by."""

    picture: int
    kind: str
    text: str
    answer: str


@functools.lru_cache(maxsize=4)
def questions(split: str, count: int, seed: int = 0) -> tuple[Asked, ...]:
    """One question of every kind about each of `count` scenes, those of equal length beside each other."""
    draw = np.random.default_rng([seed, 11])
    asked = [Asked(i, q.kind, q.text, q.answer) for i in range(count) for q in scenes.one_of_each_kind(scenes.scene(i, split), draw)]
    return tuple(sorted(asked, key=lambda q: len(q.text.split())))


@functools.lru_cache(maxsize=4)
def features(split: str, count: int) -> Tensor:
    """(count, N, dv) of these scenes by the frozen tower."""
    from common.vision.features import Pictures  # with Lightning, for which a command that plans jobs need not wait

    return Pictures(count, split=split, easy=0).scene_features


@dataclass(frozen=True)
class Prompts:
    """asked: the questions of the rows. embeds (B, S, d), visual (B, S) bool."""

    asked: list[Asked]
    embeds: Tensor
    visual: Tensor


def prompts(parts: Parts, asked: tuple[Asked, ...], shown: Tensor, batch: int = 64) -> Iterator[Prompts]:
    """Batches of prompts of equal length. shown: `features` of the split."""
    embed, start = parts.decoder.get_input_embeddings(), 0
    ids = [question_slots(parts.tokenizer, q)[0] for q in asked]  # type: ignore[arg-type]  # an Asked has what is read of a question
    while start < len(asked):
        end = start
        while end < len(asked) and end - start < batch and len(ids[end]) == len(ids[start]):
            end += 1
        rows = asked[start:end]
        pictures = shown[[q.picture for q in rows]].float()
        text = embed(torch.tensor([parts.prefix + row for row in ids[start:end]]))
        n = len(parts.prefix)
        embeds = torch.cat([text[:, :n], parts.projector(pictures), text[:, n:]], 1)
        visual = torch.zeros(embeds.shape[:2], dtype=torch.bool)
        visual[:, n : n + N_VISUAL] = True
        yield Prompts(list(rows), embeds, visual)
        start = end


def answers(parts: Parts, batch: Prompts, pruner: Pruner) -> tuple[Tensor, Trace]:
    """(log-probabilities (B, V) behind the last token, what happened)."""
    with PruningSession(parts.decoder, pruner, batch.visual) as session:
        out = parts.decoder(inputs_embeds=batch.embeds, attention_mask=torch.ones(batch.visual.shape, dtype=torch.long), use_cache=False,
                            logits_to_keep=1)
    return out.logits[:, -1].float().log_softmax(-1), session.trace


@dataclass
class Run:
    """One way to run a model over a split: right[i] of the i-th question; traced[i]: visual tokens in each layer; chosen[i]: the answer."""

    right: list[bool]
    visual: list[list[int]]
    chosen: list[int]

    def share(self, asked: tuple[Asked, ...], kinds: Callable[[str], bool] = lambda kind: True) -> float:
        hits = [hit for q, hit in zip(asked, self.right) if kinds(q.kind)]
        return sum(hits) / len(hits)


@torch.no_grad()
def run(parts: Parts, asked: tuple[Asked, ...], shown: Tensor, pruner: Callable[[list[Asked]], Pruner] | Pruner | None = None) -> Run:
    """pruner: one for all prompts, or a function of a batch's questions."""
    parts.decoder.eval()
    out = Run([], [], [])
    for batch in prompts(parts, asked, shown):
        one = Nothing() if pruner is None else pruner(batch.asked) if callable(pruner) else pruner
        logs, trace = answers(parts, batch, one)
        said = logs.argmax(-1).tolist()
        wanted = parts.tokenizer.convert_tokens_to_ids([q.answer for q in batch.asked])
        out.right += [a == b for a, b in zip(said, wanted)]
        out.chosen += said
        out.visual += [list(row) for row in zip(*trace.visual)]
    return out
