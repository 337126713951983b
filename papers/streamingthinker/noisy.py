"""Traces to train on as a generator without quality control leaves them: a share of them with a planted fault, in the stand-in's words.

    pool(seed, count, share)      stories, each clean or with one of faults.py's five kinds, drawn evenly
    kept(pool, arm)               which of them are trained on: all, what the gate keeps, as many by lot, or all of them without faults

The gate (curation.py) judges a story's English; the same fault, drawn alike, is planted in the words that are learnt. A trainer needs
a unit for every sentence: without a gate, what is too many is joined to the last unit and what is missing is skipped, so that a
merged unit leaves all that follow a sentence early. Line numbers are the place's and the deep part is the story's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.data import stories
from common.data.stories import Level, Story

from . import faults
from .curation import SKIP, Gate, Trace, tf_idf
from .method import Segments
from .worded import segments_of

ARMS = ("all", "gated", "lot", "clean")
LEVEL = Level((3, 7), (2, 3))  # the tuning's
FIRST = 2 * 10**8  # number of a pool's first story: the arms' tuning begins at 1e8


@dataclass(frozen=True)
class Taught:
    """A story to train on: clean, the same as it was written, its English, and the fault's name, "" for none."""

    clean: Story
    written: Story
    english: Trace
    fault: str = ""


def pool(seed: int, count: int, share: float, level: Level = LEVEL) -> list[Taught]:
    return [taught(stories.totals(FIRST + i, "train", seed, level), f"{seed} {i}", share) for i in range(count)]


def taught(story: Story, name: str, share: float) -> Taught:
    """name: what all draws follow from."""
    draw = random.Random(name)
    english = faults.in_english(story, draw)
    if draw.random() >= share:
        return Taught(story, story, english)
    fault = draw.choice(list(faults.FAULTS))
    return Taught(story, planted(story, fault, random.Random(f"{name} {fault}")),
                  faults.FAULTS[fault](english, random.Random(f"{name} {fault}")), fault)


def planted(story: Story, fault: str, draw: random.Random) -> Story:
    """The story with a fault in its units, one unit a sentence again."""
    plain = Trace(*(tuple(" ".join(words[1:-1]) for words in side) for side in (story.source, story.units)), story.answer)
    units = [unit.replace(SKIP, stories.SKIP).split() for unit in faults.FAULTS[fault](plain, draw).units]
    if fault == "summary":
        units[-1] = ["total", story.answer]  # the same in words that the stand-in knows
    return replace(story, units=tuple((stories.LINES[i], *unit, stories.UNIT) for i, unit in enumerate(fitted(units, len(story.source)))))


def fitted(units: Sequence[Sequence[str]], count: int) -> list[list[str]]:
    """As many units as sentences: what is too many is joined to the last, what is missing is skipped."""
    found = [list(unit) for unit in units[:count]] + [[stories.SKIP] for _ in range(count - len(units))]
    for more in units[count:]:
        found[-1] += more
    return found


def gate(count: int) -> Gate:
    """TF-IDF, its bars set on so many clean traces that no pool has."""
    known = [faults.english(i, "val") for i in range(count)]
    return Gate.calibrated(known, tf_idf([text for trace in known for text in (*trace.sentences, *trace.units)]))


def kept(of: Sequence[Taught], arm: str, gate_of: Callable[[], Gate], seed: int) -> list[Story]:
    """The stories that an arm trains on. gate_of: makes the gate, where it is asked. Raises ValueError for another arm."""
    if arm not in ARMS:
        raise ValueError(f"arm {arm!r}: one of {', '.join(ARMS)}")
    if arm == "clean":
        return [one.clean for one in of]
    if arm == "all":
        return [one.written for one in of]
    judge = gate_of()
    passed = [one.written for one in of if judge.accepts(one.english)]
    return passed if arm == "gated" else [one.written for one in random.Random(f"lot {seed}").sample(list(of), len(passed))]


def rows_at(step: int, told: Sequence[Story], seed: int, rows: int) -> list[Segments]:
    """The rows of a step out of a pool: each story once a round, in another order every round, depths drawn evenly."""
    first, found = step * rows, []
    for at in range(first, first + rows):
        turn, place = divmod(at, len(told))
        order = np.random.default_rng([seed, 31, turn]).permutation(len(told))
        depth = int(np.random.default_rng([seed, 32, at]).integers(1, 4))
        found.append(segments_of(told[int(order[place])], depth))
    return found
