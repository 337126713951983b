"""When is what written? The event model of a reasoner that thinks while its input arrives: deterministic, in seconds.

Inputs are the words of each segment, the tokens of its unit, and m, the tokens from the last boundary to the first answer token.
A segment has arrived when its last word is there, r seconds a word (150 words a minute: 0.4 s). Writing a token takes tau, reading
a segment p, reading all at once P. Five ways to work (spec 7.2; the paper prints no formula):

    batch                   waits for the end, reads, thinks
    interleaved, blocking   one cache, and the source stands still while the model thinks: what the paper's interleaved numbers are
    interleaved, buffered   one cache, text goes on arriving and waits
    streaming               two workers on two caches: reading goes on while thoughts are written
    streaming, serial       one worker on two caches (the released code): as interleaved, buffered

Every delay here is of this clock, which computes; measured seconds are experiments/clock.py's and named so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WAYS = ("batch", "blocking", "buffered", "streaming")


@dataclass(frozen=True)
class Costs:
    """Seconds: r a word, tau a written token, p a segment's prefill, whole the prefill of all input. The paper's are the default:
    tau is Delay / tokens of its table 2, p and whole table 4's seconds a call."""

    r: float = 0.4
    tau: float = 0.033
    p: float = 0.041
    whole: float = 0.052


@dataclass(frozen=True)
class Timeline:
    """delay: from the last word's arrival to the first answer token. ready: the same from the first word's start. first: the first unit's
    first token, from the start. backlog: most segments that had arrived and had no unit begun. duty: writing of units / reading time."""

    delay: float
    ready: float
    first: float
    backlog: int
    duty: float


def simulate(way: str, words: Sequence[int], units: Sequence[int], m: int, costs: Costs = Costs()) -> Timeline:
    """words, units: of each segment, equally many. m: tokens of the deep part up to the first answer token.

    Raises ValueError for another way, or units that do not pair with segments.
    """
    if len(words) != len(units) or not words:
        raise ValueError(f"{len(words)} segments and {len(units)} units: one unit a segment, and one segment at least")
    c, arrivals = costs, [costs.r * sum(words[: i + 1]) for i in range(len(words))]
    end, thinking = arrivals[-1], c.tau * sum(units)
    duty = thinking / end if end else 0.0
    if way == "batch":
        delay = c.whole + thinking + c.tau * m
        return Timeline(delay, end + delay, end + c.whole + c.tau, len(words), duty)
    if way == "blocking":
        spent = sum(c.p + c.tau * n for n in units)
        return Timeline(spent + c.tau * m, end + spent + c.tau * m, arrivals[0] + c.p + c.tau, 1, duty)
    if way not in WAYS:
        raise ValueError(f"way {way!r}: one of {', '.join(WAYS)}")
    t = read = 0.0
    begun = []
    for arrival, n in zip(arrivals, units):
        if way == "buffered":
            start = max(t, arrival) + c.p
        else:
            read = max(read, arrival) + c.p
            start = max(t, read)
        begun.append(start)
        t = start + c.tau * n
    waiting = [sum(a <= at for a in arrivals) - i for i, at in enumerate(begun)]
    delay = t + c.tau * m - end
    return Timeline(delay, end + delay, begun[0] + c.tau, max(waiting), duty)


def reduction(way: str, words: Sequence[int], units: Sequence[int], m: int, costs: Costs = Costs()) -> float:
    """By how much the delay is shorter than in batch on the same trace, in %."""
    batch = simulate("batch", words, units, m, costs).delay
    return 100 * (1 - simulate(way, words, units, m, costs).delay / batch)


def waited(tokens: Sequence[int], way: str = "streaming") -> int:
    """Input tokens that have been received when the first thought is written, the instruction not counted (the paper's "TTFT").
    tokens: of each segment."""
    return sum(tokens) if way == "batch" else tokens[0]
