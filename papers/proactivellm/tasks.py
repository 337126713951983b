"""Streams whose evidence has a known place: what must be read before each unit of the answer follows from how they are made.

    qa        two of six slots are asked for; their values lie somewhere among fillers. Evidence comes in any order
    revised   the same, and in half of the streams a later value overturns an asked one: an early clue is not the last word
    mt        word by word, but a separable verb is translated by itself and its particle, which comes one to five words later
    words     spoken words, written down; the source is audio, a unit 240 ms (common/data/speech.py)
    spoken    which word came after "apple"? The question is text, the evidence anywhere in the recording

`Task.item(number, split)` is item `number` of an endless sequence, another one for "train", "calibration" and "test". An item's `oracle`
is, for every unit of the answer and its end, how many units of the source must be read: nothing that is trained or decides ever sees
it, except the rival that is labelled with it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from common.data.speech import WORDS, Bank, Utterance, espeak_bank, fsdd_bank, utterance
from common.streaming.audio import spoken_example
from common.streaming.units import Example
from common.streaming.words import Boundary

PAD, END, HEADER, STOP, ASK = range(5)  # ids of every task; END: of the source, STOP: of the answer
SPECIAL = 5
SPLITS = {"train": 0, "calibration": 10**9, "test": 2 * 10**9}
# stream_qa (spec 8, task 1)
SLOTS, VALUES, FILLERS, LENGTH = 6, 8, 12, 24
# stream_mt (spec 8, task 2)
PLAIN, VERBS, PARTICLES, APART, WORDS_OF_A_SENTENCE, SEPARABLE = 32, 6, 4, (1, 5), (10, 22), 0.3
# speech
STACK, CHUNK = 4, 3  # frames of 20 ms a token, tokens a unit
FEATURES = 160  # of a token: 4 frames x 40 mel bands
SPOKEN = {"words": (3, 7), "spoken": (4, 7)}  # words of an utterance


class Item(NamedTuple):
    example: Example
    oracle: tuple[int, ...]


class Task:
    """One of the tasks above. vocabulary: ids; boundary: where units of its answers end; seed: of its draws.

    bank: whose recordings are spoken, "espeak" or "fsdd" (recorded digits, NINEFOLD_DATA). Raises ValueError for an unknown name.
    """

    def __init__(self, name: str, seed: int = 0, bank: str = "espeak"):
        if name not in TASKS:
            raise ValueError(f"task: no {name!r}; there is {', '.join(TASKS)}")
        self.name, self.seed, self.bank = name, seed, bank
        self.vocabulary = {"qa": _QA, "revised": _QA, "mt": _MT}.get(name) or SPECIAL + len(self._words())
        whole = torch.ones(self.vocabulary, dtype=torch.bool)
        if name == "mt":
            whole[_first_halves()] = False
        self.boundary = Boundary("ends", whole, STOP, (PAD, END, HEADER, ASK))

    @property
    def spoken(self) -> bool:
        return self.name in SPOKEN

    @property
    def longest(self) -> int:
        """Tokens of an answer, its end included, that decoding allows."""
        return {"qa": 4, "revised": 4, "mt": 60, "words": 16, "spoken": 4}[self.name]

    def item(self, number: int, split: str = "train") -> Item:
        at = number + SPLITS[split]
        if self.spoken:
            return _spoken(self, at, split)
        rng = random.Random(f"{'qa' if self.name == 'revised' else self.name} {self.seed} {at}")
        return _mt(rng) if self.name == "mt" else _qa(rng, self.name == "revised")

    def items(self, count: int, split: str, first: int = 0) -> list[Item]:
        return [self.item(first + i, split) for i in range(count)]

    def _words(self) -> Sequence[str]:
        return sorted(WORDS) if self.bank == "espeak" else sorted(WORDS[:10])

    def text(self, tokens: Sequence[int]) -> str:
        """Ids of an answer as words apart, to be scored."""
        if self.spoken:
            return " ".join(self._words()[t - SPECIAL] if t >= SPECIAL else f"<{t}>" for t in tokens)
        return " ".join(map(str, tokens))


# -- question answering ------------------------------------------------------------------------------------
_SLOT, _VALUE, _FILL = SPECIAL, SPECIAL + SLOTS, SPECIAL + SLOTS + SLOTS * VALUES
_QA = _FILL + FILLERS


def _qa(rng: random.Random, revised: bool) -> Item:
    """Six values, one of each slot, at random places; revised: in half of the streams one more of an asked slot, behind the first."""
    places = rng.sample(range(LENGTH), SLOTS)
    stream = [_FILL + rng.randrange(FILLERS) for _ in range(LENGTH)]
    values = [rng.randrange(VALUES) for _ in range(SLOTS)]
    for slot, place in enumerate(places):
        stream[place] = _VALUE + slot * VALUES + values[slot]
    asked = rng.sample(range(SLOTS), 2)
    last = {slot: places[slot] for slot in asked}
    if revised and rng.random() < 0.5:
        slot = rng.choice(asked)
        behind = [place for place in range(places[slot] + 1, LENGTH) if place not in places]
        if behind:
            last[slot] = rng.choice(behind)
            values[slot] = (values[slot] + rng.randrange(1, VALUES)) % VALUES
            stream[last[slot]] = _VALUE + slot * VALUES + values[slot]
    answer = [_VALUE + slot * VALUES + values[slot] for slot in asked]
    first, both = last[asked[0]] + 1, max(last.values()) + 1
    example = Example.of_units([[_SLOT + slot for slot in asked], *([token] for token in stream), [END]],
                               [[HEADER], *([token] for token in answer), [STOP]], reference=" ".join(map(str, answer)))
    return Item(example, (first, both, both))


def overturned(item: Item) -> bool:
    """Whether a later value of an asked slot overturns an earlier one."""
    return sum(_VALUE <= token < _FILL for token in item.example.source.tolist()) > SLOTS


# -- translation with look-ahead ---------------------------------------------------------------------------
# source: PLAIN words, VERBS, PARTICLES; target: PLAIN words (the first half of them two tokens), VERBS x (PARTICLES + 1), a null word
_VERB, _PARTICLE = SPECIAL + PLAIN, SPECIAL + PLAIN + VERBS
_OUT = _PARTICLE + PARTICLES
_SECOND = _OUT + PLAIN  # second tokens of two-token words
_OUT_VERB = _SECOND + 4
_NULL = _OUT_VERB + VERBS * (PARTICLES + 1)
_MT = _NULL + 1


def _first_halves() -> list[int]:
    return [_OUT + i for i in range(PLAIN // 2)]


def _mt(rng: random.Random) -> Item:
    """Word i becomes word i; a verb's word depends on the particle that follows it one to five words later, before any other verb; a
    particle becomes a null word."""
    m = rng.randint(*WORDS_OF_A_SENTENCE)
    source: list[int | None] = [None] * m
    target: list[list[int]] = [[] for _ in range(m)]
    needs, waits = list(range(1, m + 1)), -1  # for the particle at this place
    for i in range(m):
        if source[i] is not None:
            continue
        if i > waits and rng.random() < SEPARABLE:
            verb, particle = rng.randrange(VERBS), rng.randrange(PARTICLES)
            free = [j for j in range(i + APART[0], min(i + APART[1] + 1, m)) if source[j] is None]
            if free:
                j = rng.choice(free)
                source[i], source[j] = _VERB + verb, _PARTICLE + particle
                target[i], target[j] = [_OUT_VERB + verb * (PARTICLES + 1) + particle], [_NULL]
                needs[i] = j + 1
                waits = j
                continue
        word = rng.randrange(PLAIN)
        source[i] = SPECIAL + word
        target[i] = [_OUT + word, _SECOND + word % 4] if word < PLAIN // 2 else [_OUT + word]
    oracle = [max(needs[: i + 1]) for i in range(m)]
    tokens = [token for unit in target for token in unit]
    example = Example.of_units([[ASK], *([word] for word in source), [END]], [[HEADER], *target, [STOP]],
                               reference=" ".join(map(str, tokens)))
    return Item(example, (*oracle, m + 1))


# -- speech ------------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=4)
def bank_of(name: str, split: str) -> Bank:
    """Synthesised words are the same to train and to test on, and their strings differ; of recordings other takes are tested."""
    return espeak_bank() if name == "espeak" else fsdd_bank("test" if split == "test" else "train")


def _spoken(task: Task, number: int, split: str) -> Item:
    bank, ids = bank_of(task.bank, split), {word: SPECIAL + i for i, word in enumerate(task._words())}
    spoken = utterance(bank, number, task.seed, words=SPOKEN[task.name])
    if task.name == "words":
        units, places, before = [[ids[word]] for word in spoken.words], list(range(len(spoken.words))), [ASK]
    else:
        at = _askable(spoken, number)
        units, places, before = [[ids[spoken.words[at + 1]]]], [at + 1], [ASK, ids[spoken.words[at]]]
    example = spoken_example(spoken, before, [END], [[HEADER], *units, [STOP]], STACK, CHUNK)
    heard = [next(i for i, end in enumerate(example.unit_ends, 1) if end >= spoken.word_ends[place] or i == len(example.unit_ends))
             for place in places]
    end = heard[-1] if task.name == "spoken" else example.n_units + 1
    reference = " ".join(task._words()[unit[0] - SPECIAL] for unit in units)
    return Item(Example(example.source, example.source_units, example.target, example.target_units, features=example.features,
                        reference=reference, unit_ends=example.unit_ends), (*heard, end))


def _askable(spoken: Utterance, number: int) -> int:
    """Place of a word that is spoken once and not last: with four words and more of twenty-four nearly always there; else the first."""
    once = [i for i, word in enumerate(spoken.words[:-1]) if spoken.words.count(word) == 1]
    return random.Random(f"asked {number}").choice(once) if once else 0


TASKS = ("qa", "revised", "mt", "words", "spoken")
