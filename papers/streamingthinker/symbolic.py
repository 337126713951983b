"""Real questions with a gold thought for each sentence: reasoning-gym's gsm_symbolic, its worked lines aligned to sentences by rule.

    How many stamps does Ann have?      We need how many stamps does Ann have.        the question, told first
    She has 3 boxes of 20.              3*20=60                                       a line, behind the first sentence after which
    She likes them.                     (skip)                                        every number of it is known
    She finds 5.
    and behind the last sentence        60+5=65 #### 65                               the last line and the answer

A number is known when a sentence tells it (digits, or a word: two, half, twice, dozen) or an earlier line found it. What cannot be
aligned is dropped, with its reason: a question that is not the last sentence, or sentences that are not cut well; a number that
nobody told; a thought that is all skipped. How many questions survive is what quality control costs on real text. Of some 85 templates
53 have one that does. They are split, not instances (`split`): 30 are for the test, where no question is a training question with other
numbers; such questions of the other 23 are asked apart.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from common.errors import DataError
from common.streaming.units import Template, sentence_ends

from .method import Segments
from .reasoner import Tokens

ASKED = " Give the result as your final answer. Do not include units."
INSTRUCTION = "Write a line of reasoning for each sentence as it comes, or - where nothing follows. Then give the answer behind ####."
SKIP, CUE, MARK = "-", "So", " ####"
WORDS = {"one": 1, "two": 2, "twice": 2, "double": 2, "three": 3, "triple": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
         "nine": 9, "ten": 10, "twelve": 12, "dozen": 12, "week": 7, "half": 2, "third": 3, "quarter": 4, "%": 100, "percent": 100,
         "hour": 60, "hours": 60, "minutes": 60}
SHORT = re.compile(r"\b(Mr|Mrs|Ms|Dr|St)\.$")  # no sentence ends there
REASONS = ("question", "number", "skipped")


@dataclass(frozen=True)
class Aligned:
    """sentences: the question first. units: a thought for each, SKIP where nothing follows. template: the question's family."""

    sentences: tuple[str, ...]
    units: tuple[str, ...]
    deep: str
    answer: str
    template: int


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", re.sub(r",(?!\d{3})", " ", text))]


def told(text: str) -> set[float]:
    """Numbers that a sentence tells: digits, words, a share of a hundred as a fraction and its rest, and 1."""
    words = re.findall(r"[a-z]+|%", text.lower())
    found = {1.0, *numbers(text), *(float(WORDS[word]) for word in words if word in WORDS)}
    if {"%", "percent"} & set(words):
        found |= {round(of / 100, 6) for of in numbers(text)} | {round(1 - of / 100, 6) for of in numbers(text)} | {
            100 - of for of in numbers(text)}
    return found


def align(question: str, worked: str, answer: str, template: int = 0) -> Aligned | str:
    """The question aligned, or one of REASONS why it cannot be."""
    text = question.removesuffix(ASKED)
    ends = sentence_ends(text)
    *context, asked = [text[a:b].strip() for a, b in zip([0, *ends], ends)]
    if not asked.endswith("?") or len(context) < 2 or any(s.endswith("?") or SHORT.search(s) for s in context):
        return "question"
    lines = [line.strip() for line in worked.split("\n####")[0].splitlines() if line.strip()]
    sentences, known = (asked, *context), [told(asked)]
    for sentence in context:
        known.append(known[-1] | told(sentence))
    units: list[list[str]] = [[] for _ in sentences]
    place, found = 1, set()
    for number, line in enumerate(lines):
        needed, comes_to = _sides(line)
        while place < len(sentences) and not needed <= known[place] | found:
            place += 1
        if place == len(sentences):
            return "number"
        if number < len(lines) - 1:
            units[place].append(line)
        found |= comes_to
    if not any(units):
        return "skipped"
    first = f"We need {asked[0].lower()}{asked[1:].rstrip('?')}."
    return Aligned(sentences, (first, *(" ".join(unit) or SKIP for unit in units[1:])), lines[-1], answer, template)


def _sides(line: str) -> tuple[set[float], set[float]]:
    """(numbers that a line needs, numbers that it finds): "3*20=60" needs 3 and 20 and finds 60; of "4*2=8 and 8+1=9" 8 is its own."""
    needed: set[float] = set()
    found: set[float] = set()
    for part in re.split(r"(?<=[\d)])\s+(?=[a-z])", line):
        left, mark, right = part.rpartition("=")
        needed |= set(numbers(left if mark else part)) - found
        if mark and numbers(right):
            found.add(numbers(right)[0])
    return needed, found


# -- the generator's questions -----------------------------------------------------------------------------
NEEDS = "gsm_symbolic is reasoning-gym's: pip install reasoning-gym, or the group `reasoning`"


def ready() -> None:
    """Raises DataError where the questions' package is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise DataError(NEEDS)


@cache
def rows(count: int, seed: int = 0) -> tuple[tuple[int, dict[str, Any]], ...]:
    """(template, row) of so many questions. Raises DataError where reasoning-gym is not installed, or names its templates otherwise."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise DataError(NEEDS) from error
    data = reasoning_gym.create_dataset("gsm_symbolic", size=count, seed=seed)
    templates = getattr(data, "task_indices", None)
    if templates is None or len(templates) != count:
        raise DataError("reasoning-gym's gsm_symbolic no longer says of which template a question is (task_indices): 0.1.25 does")
    return tuple((int(template), data[i]) for i, template in enumerate(templates))


def surveyed(count: int, seed: int = 0) -> list[tuple[int, Aligned | str]]:
    """(template, aligned question or why not) of each."""
    return [(template, align(row["question"], row["metadata"]["answer_cot"], row["answer"], template))
            for template, row in rows(count, seed)]


@dataclass(frozen=True)
class Split:
    """train: to learn from. known: other questions of the same templates, with other numbers. new: of templates that no training has."""

    train: tuple[Aligned, ...]
    known: tuple[Aligned, ...]
    new: tuple[Aligned, ...]


def split(found: Sequence[Aligned], held: int = 30, each: int = 7, known: int = 5) -> Split:
    """`held` templates, spread evenly over those that have enough questions, are kept for the test, `each` questions of each, so that none
    weighs more than another; of the other templates `known` questions each, where twice as many are left to learn from.

    Raises DataError where so many templates are not there, or none is left to learn from.
    """
    of: dict[int, list[Aligned]] = {}
    for one in found:
        of.setdefault(one.template, []).append(one)
    able = sorted(template for template, own in of.items() if len(own) >= each)
    if held < 1 or len(able) < held or len(of) == held:
        raise DataError(f"{held} templates of {each} aligned questions are asked for and some to learn from; of {len(of)} templates "
                        f"{len(able)} have so many: draw more questions, or hold out fewer")
    out = {able[i * len(able) // held] for i in range(held)}
    new = tuple(one for template in sorted(out) for one in of[template][:each])
    asked = tuple(one for template in sorted(of.keys() - out) if len(of[template]) >= 3 * known for one in of[template][:known])
    told = {one.sentences for one in asked}  # a template of few numbers may tell the same story twice
    return Split(tuple(one for one in found if one.template not in out and one.sentences not in told), asked, new)


# -- in tokens ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Lines:
    """A chat model that ends sentences and thoughts with a line's end: adapters alone could not teach it new tokens' rows."""

    tokenizer: Any
    template: Template

    @staticmethod
    def of(tokenizer) -> Lines:
        """Raises DataError for a tokenizer that cuts a line's end or the answer's mark into more than a token."""
        if odd := [text for text in ("\n", MARK) if len(tokenizer.encode(text, add_special_tokens=False)) != 1]:
            raise DataError(f"the tokenizer cuts {odd[0]!r} into more than one token, which ends a thought here or begins the answer")
        return Lines(tokenizer, Template.of(tokenizer, INSTRUCTION))

    def plain(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def line(self, text: str) -> list[int]:
        return [*self.plain(text), *self.plain("\n")]

    def tokens(self) -> Tokens:
        (end,), (mark,) = self.plain("\n"), self.plain(MARK)
        t = self.template
        return Tokens(tuple(t.ids(t.prefix)), tuple(t.ids(t.opening)), frozenset({end}), end, {2: tuple(self.plain(CUE))}, mark, t.stop,
                      frozenset({end, *self.tokenizer.all_special_ids}), tuple(t.ids(t.user_end)))

    def segments(self, one: Aligned) -> Segments:
        t = self.template
        cue = self.plain(CUE)
        last = [*cue, *self.plain(f" {one.deep}"), *self.plain(MARK), *self.plain(f" {one.answer}"), *t.ids(t.ending)[:1]]
        return Segments.of([t.ids(t.prefix), *map(self.line, one.sentences), t.ids(t.user_end)],
                           [t.ids(t.opening), *map(self.line, one.units), last], forced=len(cue), closed=True)

    def answered(self, rest: Sequence[int]) -> str:
        """What stands behind the last mark."""
        return self.tokenizer.decode(list(rest), skip_special_tokens=True).rpartition(MARK.strip())[2].strip()
