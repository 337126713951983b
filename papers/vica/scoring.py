"""How an answer is scored, once for all experiments: on pictures that no training saw, beside the best guess without them.

An answer is right if each of its tokens is the most likely one where it is predicted: one word for the small LLaVAs, several
tokens and the end of the turn for a chat model. Which way a decoder is run (dense, ViCA, fewer tokens) is a function.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from common.data import easyvqa, scenes
from common.vision.layout import IGNORED, Layout, packed
from common.vision.llava import LAYERS, dense_hidden, question_slots
from common.vision.parts import Parts

from . import method

YES_NO = ("exists", "relation", "yes/no")
Questions = list[list[scenes.Question]]  # by picture
Hidden = Callable[[Layout, Tensor], Tensor]  # (layout, visual embeddings (B, N, d)) -> last hidden states (B, T, d) of the text


# -- ways to run a decoder ---------------------------------------------------------------------------------
def dense(parts: Parts) -> Hidden:
    return lambda layout, visual: dense_hidden(parts.decoder, layout, visual)


def vica(parts: Parts, layers: tuple[int, ...], keep: Callable[[Layout, Tensor], dict] | None = None) -> Hidden:
    """keep(layout, visual) -> {layer: visual tokens it still looks at}, as `method.forward` takes it."""
    config = method.ViCAConfig(layers)

    def hidden(layout: Layout, visual: Tensor) -> Tensor:
        embeds = parts.decoder.get_input_embeddings()(layout.ids)
        return method.hidden_states(parts.decoder, config, embeds, layout, visual, keep=None if keep is None else keep(layout, visual))

    return hidden


# -- questions ---------------------------------------------------------------------------------------------
def questions(split: str, count: int, easy: int) -> Questions:
    """One question of every kind about each of `count` scenes, then all about each of `easy` pictures of easy-VQA."""
    draw = np.random.default_rng([0, 11])
    of_scenes = [scenes.one_of_each_kind(scenes.scene(i, split), draw) for i in range(count)]
    return of_scenes + [easyvqa.questions(split, number) for number in easyvqa.numbers(split)[:easy]]


@functools.lru_cache(maxsize=4)
def test_set(split: str, count: int, easy: int, layers: tuple[int, ...] = LAYERS) -> tuple[Tensor, Questions]:
    """(features, `questions`) of these pictures. layers: of the vision tower, whose states side by side are the features."""
    from common.vision.features import Pictures  # with Lightning, for which a command that plans jobs need not wait

    pictures = Pictures(count, layers=layers, split=split, easy=easy)
    features = torch.cat([pictures.scene_features, pictures.easy_features]) if easy else pictures.scene_features
    return features, questions(split, count, easy)


# -- answers -----------------------------------------------------------------------------------------------
Row = tuple[int, list[int]]  # number of a picture, and of each of its questions in this row the tokens of the answer


@torch.no_grad()
def at_answers(parts: Parts, hidden: Hidden, features: Tensor, asked: Questions, alone: bool = False,
               batch: int = 64) -> Iterator[tuple[list[Row], Tensor, Tensor]]:
    """(rows, logits (A, V), targets (A,)) of a batch after the other, at the slots where answers are predicted, in their order.

    alone: one question a row instead of a picture with all of its questions.
    """
    parts.decoder.eval()
    device = parts.decoder.device
    rows = [(i, [q]) for i, questions in enumerate(asked) for q in questions] if alone else list(enumerate(asked))
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        slots = [[question_slots(parts.tokenizer, q) for q in questions] for _, questions in some]
        layout = packed(parts.prefix, slots, features.shape[1]).to(device)
        visual = parts.visual(layout, features[[i for i, _ in some]].float().to(device))
        states = hidden(layout, visual)
        scored = layout.targets != IGNORED
        lengths = [[sum(target != IGNORED for target in targets) for _, targets in row] for row in slots]
        yield [(i, n) for (i, _), n in zip(some, lengths)], method.logits(parts.decoder, states[scored]).float(), layout.targets[scored]


def right_answers(parts: Parts, hidden: Hidden, features: Tensor, asked: Questions, alone: bool = False,
                  batch: int = 64) -> list[list[bool]]:
    """Right or wrong, by picture and question."""
    right: list[list[bool]] = [[] for _ in asked]
    for rows, logits, targets in at_answers(parts, hidden, features, asked, alone, batch):
        hits = iter((logits.argmax(-1) == targets).tolist())
        for i, lengths in rows:
            right[i] += [sum(itertools.islice(hits, length)) == length for length in lengths]
    return right


def log_probabilities(parts: Parts, hidden: Hidden, features: Tensor, asked: Questions) -> Tensor:
    """(A, V) at all slots where an answer is predicted."""
    return torch.cat([logits.log_softmax(-1) for _, logits, _ in at_answers(parts, hidden, features, asked)])


# -- scores ------------------------------------------------------------------------------------------------
def scores(asked: Questions, right: list[list[bool]], n_scenes: int) -> dict[str, float]:
    """Accuracies. all, open, yes/no: of questions about scenes; easy ...: of easy-VQA; by kind."""
    hits_of: dict[str, list[bool]] = {}
    for i, (questions, hits) in enumerate(zip(asked, right)):
        for q, hit in zip(questions, hits):
            group = "yes/no" if q.kind in YES_NO else "open"
            for name in ("all", group, q.kind) if i < n_scenes else ("easy all", f"easy {group}"):
                hits_of.setdefault(name, []).append(hit)
    return {name: sum(hits) / len(hits) for name, hits in hits_of.items()}


def tested(parts: Parts, hidden: Hidden, count: int, easy: int, alone: bool = False, layers: tuple[int, ...] = LAYERS,
           batch: int = 64) -> dict[str, float]:
    """Scores on `count` scenes and `easy` pictures of easy-VQA. alone: what treats each question by itself; scenes only."""
    features, asked = (part[: count if alone else None] for part in test_set("test", count, easy, layers))
    return scores(asked, right_answers(parts, hidden, features, asked, alone, batch), count)


def blind(count: int, easy: int) -> dict[str, float]:
    """Scores of the best answers without the picture: what a model of the text alone may reach."""
    asked, draw = questions("test", count, easy), np.random.default_rng([0, 11])
    known = [q for i in range(4000) for q in scenes.one_of_each_kind(scenes.scene(i), draw)]
    known_easy = [q for n in easyvqa.numbers("train") for q in easyvqa.questions("train", n)]
    guesses = iter(scenes.blind(known, [q for row in asked[:count] for q in row]) +
                   scenes.blind(known_easy, [q for row in asked[count:] for q in row]))
    return scores(asked, [[next(guesses) == q.answer for q in row] for row in asked], count)
