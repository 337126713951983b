"""Real prose that is read sentence by sentence, and a question with one letter as its answer: where the evidence stands is known.

A passage is five neighbouring sentences of one document. The question comes after it, at the head of the answer: one of its sentences,
begun, up to a word that is one of eight. Their letters stand in the instruction, the same for every question: the class is A, the object B.
What follows is known once that sentence has been read, and before that only what kind of word may come; the eight are common in such
prose, and others of them often stand in the passage, too.

    train          the help pages of the Python language (CPython's `pydoc_data.topics`), most of them
    calibration    the other help pages
    test           docstrings of the standard library: other documents, by other hands; no sentence of them is in the help pages

`Cloze.item(number, split)` is an item of an endless sequence, as in tasks.py; documents take turns, so that long ones do not rule.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from common.data.prose import library, topics
from common.streaming.units import Template, sentence_ends

from .tasks import Item

SENTENCES = 5  # of a passage
OPTIONS = {"class": "A", "object": "B", "value": "C", "function": "D", "method": "E", "string": "F", "type": "G", "name": "H"}
INSTRUCTION = "Read the text, then go on with the letter of the next word: " + ", ".join(
    f"{letter} {word}" for word, letter in OPTIONS.items()) + "."
WORDS_OF_A_SENTENCE, BEGUN = (7, 20), 4  # of a sentence that is taken; of its beginning, at least
PLAIN = 0.75  # share of a sentence's words that are words, and no code


class Question(NamedTuple):
    """passage: sentences; document: its number in the split; place: of the sentence with the answer, from 1; begun: that sentence up to the
    answer; word: the answer."""

    passage: tuple[str, ...]
    document: int
    place: int
    begun: str
    word: str

    @property
    def letter(self) -> str:
        return OPTIONS[self.word]


# -- sentences ---------------------------------------------------------------------------------------------
def sentences_of(document: str) -> list[str]:
    """Whole sentences of its prose, in order: no code, no grammar, one full stop at the end and none of an abbreviation within."""
    found = []
    for paragraph in re.split(r"\n\s*\n", document):
        if re.search(r">>>|::=|\.\. |\|", paragraph):
            continue
        text = " ".join(paragraph.split())
        ends = sentence_ends(text)
        found += [text[a:b].strip() for a, b in zip([0, *ends], ends)]
    return [sentence for sentence in found if _is_prose(sentence)]


def _is_prose(sentence: str) -> bool:
    words = sentence.split()
    plain = sum(word.strip(",;:.()").isalpha() for word in words)
    return bool(re.fullmatch(r"[A-Z][ -~]*\.", sentence)) and (
        WORDS_OF_A_SENTENCE[0] <= len(words) <= WORDS_OF_A_SENTENCE[1] and plain >= PLAIN * len(words))


@lru_cache(maxsize=1)
def documents() -> dict[str, list[list[str]]]:
    """{split: documents, each a list of sentences}; those too short for a passage are left out. No sentence stands in two splits, or twice
    in one."""
    pages, modules = topics(), library()
    texts = {"train": pages["train"], "calibration": (*pages["validation"], *pages["test"]), "test": modules["test"]}
    seen: set[str] = set()
    found: dict[str, list[list[str]]] = {}
    for split, documents in texts.items():
        found[split] = []
        for text in documents:
            new = [s for s in dict.fromkeys(sentences_of(text)) if s not in seen]
            seen.update(new)
            if len(new) >= SENTENCES:
                found[split].append(new)
    return found


def facts() -> list[dict]:
    """Of the two corpora, for records."""
    return [topics().source, library().source]


# -- questions ---------------------------------------------------------------------------------------------
def beginnings(sentence: str) -> Iterator[tuple[str, str]]:
    """(the sentence up to it, the word) of every one of the eight, behind four words and more, where it stands there first."""
    words = sentence.split()
    bare_words = [word.strip(",;:.") for word in words]
    for i, bare in enumerate(bare_words):
        if i >= BEGUN and bare in OPTIONS and bare not in bare_words[:i]:
            yield " ".join(words[:i]), bare


class Cloze:
    """Questions about passages, in a tokenizer's units: a sentence is a unit of the source, the question stands in the header of the
    answer. seed: of the draws. prose: {split: documents of sentences}, None: CPython's. Raises ValueError where a letter is more than one
    token."""

    def __init__(self, tokenizer: Any, seed: int = 0, prose: dict[str, list[list[str]]] | None = None):
        self.tokenizer, self.seed, self.prose = tokenizer, seed, documents() if prose is None else prose
        ids = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"] for letter in OPTIONS.values()]
        if any(len(each) != 1 for each in ids):
            raise ValueError(f"cloze: of the letters {', '.join(OPTIONS.values())} one is no token of its own: {ids}")
        self.letters = tuple(each[0] for each in ids)

    @cached_property
    def template(self) -> Template:
        return Template.of(self.tokenizer, INSTRUCTION)

    @cached_property
    def askable(self) -> dict[str, list[list[tuple[int, str, str]]]]:
        """{split: of each document, (number of the sentence, its beginning, the word) of all that may be asked}."""
        found: dict[str, list[list[tuple[int, str, str]]]] = {}
        for split, of in self.prose.items():
            found[split] = [[(i, *pair) for i, sentence in enumerate(sentences) for pair in beginnings(sentence)] for sentences in of]
        return found

    def question(self, number: int, split: str) -> Question:
        rng = random.Random(f"cloze {self.seed} {split} {number}")
        able = [document for document, asked in enumerate(self.askable[split]) if asked]
        document = able[number % len(able)]
        at, begun, word = rng.choice(self.askable[split][document])
        sentences = self.prose[split][document]
        start = rng.randint(max(0, at - SENTENCES + 1), min(at, len(sentences) - SENTENCES))
        return Question(tuple(sentences[start : start + SENTENCES]), document, at - start + 1, begun, word)

    def item(self, number: int, split: str = "train") -> Item:
        return self.asked(self.question(number, split))

    def asked(self, of: Question, passage: tuple[str, ...] | None = None, place: int | None = None) -> Item:
        """The question behind its passage, or behind another one, where its evidence never comes. The oracle's end is the letter's: an
        answer may end where it begins. place: that the oracle says, None: the question's. Raises ValueError for a tokenizer that writes
        the letter otherwise behind the beginning than alone."""
        template = replace(self.template, opening=f"{self.template.opening}{of.begun} ")
        example = template.example(" ".join(passage or of.passage), of.letter, sentence_ends, lambda text: [len(text)])
        if (token := int(example.target[-2])) not in self.letters or len(example.target) != example.target_units[0] + 2:
            raise ValueError(f"cloze: {of.letter} behind {of.begun!r} is token {token} and none of {self.letters}")
        return Item(example, (place or of.place,) * 2)

    def items(self, count: int, split: str, first: int = 0) -> list[Item]:
        return [self.item(first + i, split) for i in range(count)]

    def elsewhere(self, count: int, split: str, shift: int) -> list[Item]:
        """The passages of `items(count, split)`, each with a question about a passage of the document `shift` places further. An item's
        oracle is the place of its own evidence, so that what is told apart by place alone shows. Raises ValueError where that document
        is the passage's own."""
        found, around = [], sum(map(bool, self.askable[split]))  # documents take turns: after so many items it is the first again
        if shift % around == 0:
            raise ValueError(f"cloze: {shift} places further than a passage of {split} is its own document, of {around}: there is another "
                             "document needed")
        behind = -(-count // around) * around + shift  # questions that `items(count, split)` does not ask
        for i in range(count):
            own, other = self.question(i, split), self.question(behind + i, split)
            if other.begun in " ".join(own.passage):
                raise ValueError(f"cloze: {other.begun!r} stands in passage {i} of {split} too: there is another document needed")
            found.append(self.asked(other, own.passage, own.place))
        return found
