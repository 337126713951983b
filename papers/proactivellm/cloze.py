"""Real prose that is read sentence by sentence, and a question with one letter as its answer: where the evidence stands is known.

A passage is five neighbouring sentences of one document; the question, which comes first, shows one of them with a word left out, and
four words to choose from. The right one stands once in the passage, in that sentence; the others nowhere in it. So the letter is known
once that sentence has been read, and before that only what kind of word fits.

    train          the help pages of the Python language (CPython's `pydoc_data.topics`), most of them
    calibration    the other help pages
    test           docstrings of the standard library: other documents, by other hands; no sentence of them is in the help pages

`Cloze.item(number, split)` is an item of an endless sequence, as in tasks.py; documents take turns, so that long ones do not rule.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from common.data.prose import library, topics
from common.streaming.units import Template, sentence_ends

from .tasks import Item

SENTENCES, LETTERS = 5, "ABCD"  # of a passage; of the options
WORDS_OF_A_SENTENCE, LEAST_LETTERS = (7, 20), 5  # of a sentence that is taken; of a word that is asked for
PLAIN = 0.75  # share of a sentence's words that are words, and no code
ASKED = 'Which word is missing in "{gap}"? {options}. Answer with a letter.'
GAP = "____"


class Passage(NamedTuple):
    """sentences; document: its number in the split."""

    sentences: tuple[str, ...]
    document: int


class Question(NamedTuple):
    """A passage and what is asked of it. place: of the sentence with the answer, from 1; options: four words; answer: the letter."""

    passage: Passage
    place: int
    gap: str
    options: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        """The letter stands behind its word: where the word comes again in the passage, what came after it is its letter."""
        return ASKED.format(gap=self.gap, options=", ".join(f"{word} {letter}" for letter, word in zip(LETTERS, self.options)))


# -- sentences ---------------------------------------------------------------------------------------------
def words_in(text: str) -> list[str]:
    """Lower-case words of letters alone, as options and passages are compared."""
    return re.findall(r"[a-z]+", text.lower())


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
class Cloze:
    """Questions about passages, in a tokenizer's units: the question is the instruction, a sentence a unit. seed: of the draws.

    prose: {split: documents of sentences}, None: CPython's. Raises ValueError where a letter is more than one token.
    """

    def __init__(self, tokenizer: Any, seed: int = 0, prose: dict[str, list[list[str]]] | None = None):
        self.tokenizer, self.seed, self.prose = tokenizer, seed, documents() if prose is None else prose
        ids = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in LETTERS]
        if any(len(each) != 1 for each in ids):
            raise ValueError(f"cloze: of the letters {LETTERS} one is no token of its own: {ids}")
        self.letters = tuple(each[0] for each in ids)

    @cached_property
    def words(self) -> dict[str, list[tuple[str, int]]]:
        """{split: (word, document) of every word that may be asked for}."""
        return {split: sorted({(word, number) for number, sentences in enumerate(of) for s in sentences for word in _askable(s)})
                for split, of in self.prose.items()}

    def question(self, number: int, split: str) -> Question:
        rng, of = random.Random(f"cloze {self.seed} {split} {number}"), self.prose[split]
        while True:  # a passage whose words all stand in it twice is not asked about
            document = number % len(of)
            start = rng.randrange(len(of[document]) - SENTENCES + 1)
            passage = Passage(tuple(of[document][start : start + SENTENCES]), document)
            there = words_in(" ".join(passage.sentences))
            place = rng.randrange(SENTENCES)
            able = [word for word in _askable(passage.sentences[place]) if there.count(word) == 1]
            if able:
                break
        answer = rng.choice(able)
        others = self._others(rng, split, answer, passage, set(there))
        options = rng.sample([answer, *others], len(LETTERS))
        gap = re.sub(rf"\b{answer}\b", GAP, passage.sentences[place], count=1)
        return Question(passage, place + 1, gap, tuple(options), LETTERS[options.index(answer)])

    def _others(self, rng: random.Random, split: str, answer: str, passage: Passage, there: set[str]) -> list[str]:
        """Three words of other documents, none of them in the passage, of the answer's length give or take two letters."""
        found: list[str] = []
        while len(found) < len(LETTERS) - 1:
            word, document = rng.choice(self.words[split])
            if document != passage.document and word not in there and word not in found and abs(len(word) - len(answer)) <= 2:
                found.append(word)
        return found

    def item(self, number: int, split: str = "train") -> Item:
        return self.asked(self.question(number, split))

    def asked(self, of: Question, about: Question | None = None) -> Item:
        """The question `of` in front of its passage, or of that of another question, where its evidence never comes. The oracle's end is
        the letter's: an answer may end where it begins."""
        passage = (about or of).passage
        template = Template.of(self.tokenizer, of.text)
        example = template.example(" ".join(passage.sentences), of.answer, sentence_ends, lambda text: [len(text)])
        return Item(example, (of.place, of.place))

    def items(self, count: int, split: str, first: int = 0) -> list[Item]:
        return [self.item(first + i, split) for i in range(count)]

    def elsewhere(self, count: int, split: str, shift: int) -> list[Item]:
        """The same passages, each with the question about the passage `shift` places further; an item's oracle is the place of its own
        evidence, so that what is told apart by place alone shows. A passage that has one of the options in it gets the next question."""
        asked, found = [self.question(i, split) for i in range(count)], []
        for i, own in enumerate(asked):
            there = set(words_in(" ".join(own.passage.sentences)))
            other = next(asked[(i + shift + step) % count] for step in range(count)
                         if (i + shift + step) % count != i and not there & set(asked[(i + shift + step) % count].options))
            found.append(Item(self.asked(other, own).example, (own.place, own.place)))
        return found


def _askable(sentence: str) -> Sequence[str]:
    """Lower-case words of a sentence that stand in it once, in no larger one, and are long enough."""
    plain = [word.strip(",;:.") for word in sentence.split()]
    every = words_in(sentence)
    return [word for word in plain if word.isalpha() and word.islower() and len(word) >= LEAST_LETTERS and every.count(word) == 1]
