"""Traces in English with known faults, to ask what a gate sees.

    merged        two neighbouring units in one: a unit is missing                           count
    summary       one more unit at the end, which sums up                                    count
    delayed       from some sentence on, each unit comes a sentence late                     order
    ahead         from some sentence on, each unit is the next sentence's                    order
    quoted        two units repeat their sentences word for word                             quotation
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from common.data import stories

from .curation import SKIP, Trace

COUNT, ORDER, QUOTED = ("merged", "summary"), ("delayed", "ahead"), ("quoted",)
THINGS = ("apples", "stamps", "coins", "books")


def english(number: int, split: str = "test", seed: int = 0) -> Trace:
    """A clean trace: a story of running totals and its units, in sentences."""
    return in_english(stories.totals(number, split, seed), random.Random(number))


def in_english(story: stories.Story, draw: random.Random) -> Trace:
    """A story of running totals as a trace."""
    thing = draw.choice(THINGS)
    pairs = [_pair(sentence[1:-1], unit[1:-1], thing, draw) for sentence, unit in zip(story.source, story.units)]
    return Trace(tuple(s for s, _ in pairs), tuple(u for _, u in pairs), story.answer)


def _pair(words: Sequence[str], unit: Sequence[str], thing: str, draw: random.Random) -> tuple[str, str]:
    who = words[0].capitalize()
    if who == "Total":
        names = [w.capitalize() for w in words[1:]]
        together = ", ".join(names[:-1]) + f" and {names[-1]}"
        return f"How many {thing} do {together} have together?", f"The question asks for the total of {together}."
    if unit[0] == stories.SKIP:
        sentence = f"{who} wears a {words[2]} hat." if words[1] == "wears" else f"{who} has {words[2]} {thing}."
        return sentence, SKIP
    if words[1] == "has":
        return f"{who} has {words[2]} {thing}.", draw.choice((f"{who} starts with {words[2]}.", f"So {who} has {words[2]} now."))
    if words[1] == "gives":
        other = words[3].capitalize()
        return (f"{who} gives {words[2]} {thing} to {other}.",
                f"{who} gives away {words[2]}: {unit[1]} - {words[2]} = {unit[6]} for {who}, and {unit[8]} + {words[2]} = {unit[13]} for "
                f"{other}.")
    sum_ = f"{unit[1]} {unit[2]} {words[2]} = {unit[6]}"
    return f"Then {who} {words[1]} {words[2]} {thing}.", f"{who} {words[1]} {words[2]}: {sum_}, so {who} has {unit[6]}."


def merged(trace: Trace, draw: random.Random) -> Trace:
    k = draw.randrange(len(trace.units) - 1)
    units = list(trace.units)
    units[k : k + 2] = [" ".join(units[k : k + 2])]
    return _with(trace, units)


def summary(trace: Trace, draw: random.Random) -> Trace:
    return _with(trace, [*trace.units, f"In all that makes {trace.answer}."])


def delayed(trace: Trace, draw: random.Random) -> Trace:
    k = 1 + draw.randrange(max(len(trace.units) // 2 - 1, 1))
    units = list(trace.units)
    late = [*units[:k], SKIP, *units[k:]]
    return _with(trace, [*late[: len(units) - 1], " ".join(late[len(units) - 1 :])])


def ahead(trace: Trace, draw: random.Random) -> Trace:
    k = 1 + draw.randrange(max(len(trace.units) // 2 - 1, 1))
    units = list(trace.units)
    return _with(trace, [*units[:k], " ".join(units[k : k + 2]), *units[k + 2 :], SKIP])


def quoted(trace: Trace, draw: random.Random) -> Trace:
    units = list(trace.units)
    for k in draw.sample(range(len(units)), 2):
        units[k] = trace.sentences[k]
    return _with(trace, units)


def _with(trace: Trace, units: Sequence[str]) -> Trace:
    return Trace(trace.sentences, tuple(units), trace.answer)


FAULTS: dict[str, Callable[[Trace, random.Random], Trace]] = {f.__name__: f for f in (merged, summary, delayed, ahead, quoted)}
