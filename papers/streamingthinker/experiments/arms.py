"""The claims in the small: arms tuned from one base (standins.py) answer the same unseen stories, greedily, with two real caches.

    start(seed)        the base: as it was trained, and untuned in streaming, which is the no-op
    run(seed, arm)     an arm: units, answers at D1, D2, D3, delays by the event model on the traces that it wrote
    schedules(seed)    random schedules of reader and writer: how many give the tokens of the serial one

A base below its bars is an error (standins.base), and so the experiment stops before it shows anything.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from common.data import stories
from common.errors import UserError
from common.runs.jobs import Job
from common.seeds import asked
from common.standins import stories as base_of
from common.streaming.batched import Written

from .. import baselines, latency, standins, worded
from ..reasoner import Reasoner, Serial, Thought, Threads
from ..standins import ARMS

WAYS = ("blocking", "buffered", "streaming")
UNTUNED = {"start": ("batch", None), "untuned": ("streaming", 0), "untuned rope": ("streaming", None)}  # mode and start of the base's runs


@dataclass(frozen=True)
class Size:
    """seeds: how many (`seeds` says which); unseen stories that each arm answers at each depth; random schedules; most tokens of a unit
    and of the rest. untrained: smoke walks the same way with models that have learnt nothing, and shows nothing."""

    seeds: tuple[int, ...]
    stories: int
    schedules: int
    caps: tuple[int, int] = (base_of.UNIT_CAP, base_of.REST_CAP)
    untrained: bool = False


SIZES = {"smoke": Size((0,), 3, 5, (3, 3), True), "cpu": Size(asked(), 300, 200)}


def seeds(size: str) -> tuple[int, ...]:
    """As many as are asked for of those whose base is there. Where none is, the first, whose jobs then say what is missing and stop the
    run. Raises UserError where fewer are there than are asked for."""
    how, there = SIZES[size], standins.committed()
    if how.untrained or not there:
        return how.seeds if how.untrained else base_of.SEEDS[:1]
    if len(there) < len(how.seeds):
        raise UserError(f"SEEDS={len(how.seeds)}: {len(there)} story tellers are there, of seeds {list(there)}: train others with "
                        f"`python -m common.standins.stories --seeds {max(there) + 1} …`, a quarter of an hour each")
    return there[:len(how.seeds)]


def weights(seed: int, *arms: str) -> tuple[str, ...]:
    """Files that a job computes from."""
    own = [base_of.FOLDER / f"seed{seed}", *(standins.FOLDER / f"seed{seed}" / arm.replace(" ", "-") for arm in arms)]
    return tuple(str(f / "model.safetensors") for f in own if (f / "model.safetensors").is_file())


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, and only order the work and estimate the rest."""
    found = []
    for seed in seeds(size):
        found.append(Job(f"start/seed{seed}", f"{__name__}:start", {"seed": seed, "size": size}, weights(seed), 25))
        for arm in ARMS:
            found.append(Job(f"{arm}/seed{seed}", f"{__name__}:run", {"seed": seed, "arm": arm, "size": size}, weights(seed, arm), 20))
        found.append(Job(f"schedules/seed{seed}", f"{__name__}:schedules", {"seed": seed, "size": size}, weights(seed, "streaming"), 60))
    return found


def told(size: str, seed: int) -> list[stories.Story]:
    return [stories.totals(i, "test", seed) for i in range(SIZES[size].stories)]


def model_of(seed: int, arm: str, how: Size):
    """(model, facts) of the base ("start") or of an arm."""
    if how.untrained:
        return base_of.build(seed).eval(), {"name": "untrained"}
    if arm == "start":
        model, _, facts = standins.base(seed)
        return model, facts
    return standins.tuned(seed, arm)


# -- the jobs ----------------------------------------------------------------------------------------------
def start(seed: int, size: str = "cpu") -> dict:
    """{"model", "start": scores by depth, "untuned", "untuned rope": the same in streaming, with restarting and contiguous positions}."""
    how, asked_of = SIZES[size], told(size, seed)
    model, facts = model_of(seed, "start", how)
    return {"model": facts} | {
        name: scores(asked_of, {d: base_of.written(model, asked_of, d, mode, begin, caps=how.caps) for d in (1, 2, 3)})
        for name, (mode, begin) in UNTUNED.items()}


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """Scores by depth, delays, and for streaming "other units": D2 answers where the thoughts are another story's."""
    how, of = SIZES[size], ARMS[arm]
    model, facts = model_of(seed, arm, how)
    asked_of = told(size, seed)
    found = scores(asked_of, {d: base_of.written(model, asked_of, d, of.mode, of.runs_from, caps=how.caps) for d in (1, 2, 3)})
    if arm == "streaming":
        others = [stories.with_units_of(a, b) for a, b in zip(asked_of, [*asked_of[1:], asked_of[0]])]
        rows = base_of.written(model, others, 2, of.mode, of.runs_from, given=True, caps=how.caps)
        found["other units"] = base_of.graded(asked_of, rows)["answer"]
    return found | {"model": facts}


def scores(asked_of: Sequence[stories.Story], rows: dict[int, list[Written]]) -> dict:
    """{"D1", "D2", "D3": share of right answers, "answers": D2's by item, "unit", "kinds", "places", "tokens": of a trace by depth,
    "truncated", "reduction": {way: [D1, D2, D3]}}. The units are those of D2."""
    graded = {d: base_of.graded(asked_of, of) for d, of in rows.items()}
    two = graded[2]
    return {**{f"D{d}": g["answer"] for d, g in graded.items()}, "items": len(asked_of), "tokens": [graded[d]["tokens"] for d in (1, 2, 3)],
            **{name: two[name] for name in ("answers", "unit", "kinds", "places", "truncated")},
            "reduction": {way: [fmean(reduced(s, w, way) for s, w in zip(asked_of, rows[d])) for d in (1, 2, 3)] for way in WAYS}}


def reduced(story: stories.Story, row: Written, way: str) -> float:
    """Delay of a written trace against batch on the same trace, in %, at the paper's costs (event model)."""
    m = 1 + max(len(row.rest) - 1, 1)  # the cue, and the rest but for <eos>
    return latency.reduction(way, story.words, [len(u) for u in row.units], m)


def schedules(seed: int, size: str = "cpu") -> dict:
    """{"equal", "placebo", "of"}: schedules under which the reasoner, and the one without a cursor, write the serial one's tokens.
    Each fifth is of two threads; the rest read so many segments ahead, at random, before each token."""
    how = SIZES[size]
    model, _ = model_of(seed, "streaming", how)
    tokens, caps = worded.of_stories(), dict(zip(("unit_cap", "rest_cap"), how.caps))
    ours, theirs = (kind(model, tokens, **caps) for kind in (Reasoner, baselines.Impatient))
    equal = placebo = 0
    for i in range(how.schedules):
        story = stories.totals(i, "test", seed)
        segments = [stories.ids(s) for s in story.source]
        reference = ours.think(segments, 2)
        equal += baselines.same(scheduled(ours, segments, i), reference)
        placebo += baselines.same(scheduled(theirs, segments, i), reference)
    return {"equal": equal, "placebo": placebo, "of": how.schedules}


def scheduled(reasoner: Reasoner, segments: Sequence[Sequence[int]], number: int) -> Thought:
    """A thought under random schedule `number`."""
    if number % 5 == 4:
        return reasoner.think(segments, 2, Threads())
    draw = random.Random(number)
    pace = draw.choice((0.02, 0.1, 0.5))
    return reasoner.think(segments, 2, Serial(lambda: draw.random() < pace))
