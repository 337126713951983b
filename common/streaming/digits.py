"""Recorded digits for a language model that hears through Whisper: utterances, questions, and how much must be heard to answer each.

    words    write down the digits that are spoken
    spoken   which digit comes after <one of them>? The question is text and stands before the recording, the answer is one word

Recordings of the Free Spoken Digit Dataset (NINEFOLD_DATA), joined to utterances with pauses and a little noise; test takes are in no
training utterance. The recording is Whisper's states in chunks of 480 ms (whisper.py), computed once an utterance, for that encoder never
trains; a source token is 80 ms, a unit of reading a chunk.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.speech import DIGITS, Bank, Utterance, fsdd_bank, utterance
from ..errors import ModelError
from ..whisper import load_whisper
from .units import Example, Template
from .whisper import FRAME_MS, MELS, ChunkedEncoder, heard_example, tokens_of

CHUNK, STACK = 48, 8  # frames of 10 ms: of a chunk, of a source token
TOKEN_MS = STACK * FRAME_MS
TASKS = ("words", "spoken")
COUNTS = {"words": (3, 7), "spoken": (4, 7)}  # digits of an utterance
PAUSES = (100, 400)  # ms between them
ASKED = {"words": "Write down the digits.", "spoken": "Which digit comes after {}?"}
SPLITS = {"train": 0, "calibration": 10**9, "test": 2 * 10**9}


@functools.lru_cache(maxsize=2)
def bank_of(split: str) -> Bank:
    """Recorded digits; test takes are spoken in test utterances alone. Raises DataError where NINEFOLD_DATA lacks them."""
    return fsdd_bank("test" if split == "test" else "train")


@functools.lru_cache(maxsize=1)
def encoder() -> ChunkedEncoder:
    """Whisper's, frozen. Raises ModelError where the package is absent."""
    return ChunkedEncoder(load_whisper().model.get_encoder(), CHUNK).eval()


class Asked(NamedTuple):
    """An utterance as an example. heard: units of the source that must be read before each word of the answer, which nothing that is
    trained or decides ever sees."""

    example: Example
    heard: tuple[int, ...]


def said(task: str, number: int, split: str, seed: int = 0, bank: Callable[[str], Bank] = bank_of) -> Utterance:
    """Utterance `number` of a split; for a question the first from there on, in steps out of reach, with a word to ask about.

    Raises ModelError where there is none.
    """
    takes = bank(split)
    for again in range(100):
        found = utterance(takes, number + SPLITS[split] + again * 10**11, seed, words=COUNTS[task], pause_ms=PAUSES)
        if task == "words" or _askable(found):
            return found
    raise ModelError(f"speech: no utterance of {takes.name} has a word that is spoken once")


class Recordings:
    """Utterances of recorded digits in the words of a tokenizer. bank(split), states(utterance) -> (tokens, n): other ones for tests.

    Raises ModelError for a tokenizer that needs several tokens for a digit.
    """

    def __init__(self, tokenizer: Any, seed: int = 0, bank: Callable[[str], Bank] = bank_of,
                 states: Callable[[Utterance], Tensor] | None = None):
        self.tokenizer, self.seed, self.bank, self.states = tokenizer, seed, bank, states or states_of
        found = {word: tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in DIGITS}
        if long := [word for word, ids in found.items() if len(ids) != 1]:
            raise ModelError(f"{long[0]!r} is {len(found[long[0]])} tokens of this tokenizer; a digit has to be one here")
        self.ids = {word: ids[0] for word, ids in found.items()}
        self.words = {number: word for word, number in self.ids.items()}
        self.stop = self.template("").stop

    def template(self, instruction: str) -> Template:
        return Template.of(self.tokenizer, instruction)

    def spoken(self, task: str, number: int, split: str) -> Utterance:
        return said(task, number, split, self.seed, self.bank)

    def ask(self, task: str, number: int, split: str = "train") -> Asked:
        """Raises ValueError for an unknown task."""
        if task not in TASKS:
            raise ValueError(f"task: no {task!r}; there is {', '.join(TASKS)}")
        spoken = self.spoken(task, number, split)
        places, question = list(range(len(spoken.words))), ASKED[task]
        if task == "spoken":
            at = random.Random(f"asked {self.seed} {split} {number}").choice(_askable(spoken))
            places, question = [at + 1], question.format(spoken.words[at])
        template = self.template(question)
        units = [[self.ids[spoken.words[place]]] for place in places]
        example = heard_example(spoken, self.states(spoken), template.ids(template.prefix), template.ids(template.user_end),
                                [template.ids(template.opening), *units, [self.stop]], TOKEN_MS, CHUNK // STACK)
        last = len(example.unit_ends)
        heard = tuple(next((i for i, end in enumerate(example.unit_ends, 1) if end >= spoken.word_ends[place]), last) for place in places)
        return Asked(example, heard)

    def text(self, tokens: Sequence[int]) -> str:
        """Ids of an answer as words apart; what is no digit counts as a wrong word."""
        return " ".join(self.words.get(int(token), f"<{int(token)}>") for token in tokens)


def states_of(spoken: Utterance) -> Tensor:
    """(tokens, STACK / 2 x d) in half precision: Whisper's states of an utterance, in chunks, those of a token side by side."""
    tokens = tokens_of(spoken.waveform, spoken.rate, CHUNK, STACK)
    with torch.no_grad():
        return encoder()(tokens.reshape(1, -1, MELS))[0].reshape(len(tokens), -1).half()


def _askable(spoken: Utterance) -> list[int]:
    """Places of the words that are spoken once, and not last."""
    return [i for i, word in enumerate(spoken.words[:-1]) if spoken.words.count(word) == 1]
