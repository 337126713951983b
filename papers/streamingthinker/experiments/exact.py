"""What needs no trained model: the event model on gold traces of generated stories, and the tokens that are waited for."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from common.data import stories
from common.runs.jobs import Job

from .. import latency

SPEEDS = {"150 words a minute": 0.4, "680 words a minute": 0.088}
WAYS = ("blocking", "buffered", "streaming")


@dataclass(frozen=True)
class Size:
    count: int


SIZES = {"smoke": Size(20), "cpu": Size(2000)}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job("gold", f"{__name__}:gold", {"size": size}, seconds=3)]


def gold(size: str = "cpu") -> dict:
    """{"waited": % fewer tokens, by item; "reduction": {speed: {way: [D1, D2, D3]}}, "places": tokens of D1 question / context first}."""
    told = [stories.totals(i) for i in range(SIZES[size].count)]
    waited = [100 * (1 - latency.waited(s.words) / sum(s.words)) for s in told]
    found = {}
    for name, r in SPEEDS.items():
        costs = latency.Costs(r=r)
        found[name] = {way: [fmean(reduced(story, d, way, costs) for story in told) for d in (1, 2, 3)] for way in WAYS}
    count = len(told) // 10
    first, last = ([stories.places(i, order=order) for i in range(count)] for order in ("question", "context"))
    saved = [100 * written_tokens(a, 1) / written_tokens(b, 1) for a, b in zip(first, last)]
    return {"waited": [round(w, 3) for w in waited[:500]], "reduction": found, "places": [round(s, 2) for s in saved]}


def reduced(story: stories.Story, depth: int, way: str, costs: latency.Costs) -> float:
    """A gold trace's delay against batch on the same trace, in %."""
    return latency.reduction(way, story.words, [len(u) for u in story.units], deep_tokens(story, depth), costs)


def deep_tokens(story: stories.Story, depth: int) -> int:
    """m: the forced cue, the deep part, A and the answer; not <eos>."""
    return len(story.deep[depth - 1])


def written_tokens(story: stories.Story, depth: int) -> int:
    return sum(map(len, story.units)) + 1 + len(story.deep[depth - 1])
