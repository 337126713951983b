"""The same delay twice: by this machine's clock, with a paced reader in a thread of its own, and by the event model at measured costs.

A story's words come at r seconds each, slow enough that thinking takes about half of the reading time. What a token and a segment cost
is measured first, in the same process and with the one thread that each worker has, without a source to wait for. Five processes, for
one of three was off by a tenth; the machine should have nothing else to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from common.data import stories
from common.runs.jobs import Job
from common.streaming.two_streams import TwoStreams

from .. import baselines, latency, worded
from ..reasoner import Event, Reasoner, Thought
from . import arms

DUTY = 0.5  # of the reading time that thinking takes


@dataclass(frozen=True)
class Size:
    """processes; stories to measure the costs on, and to time; the arms' size."""

    processes: int
    warm: int
    timed: int
    of: str


SIZES = {"smoke": Size(1, 1, 1, "smoke"), "cpu": Size(5, 6, 15, "cpu")}


def jobs(size: str = "cpu") -> list[Job]:
    seed = arms.seeds(SIZES[size].of)[0]
    return [Job(f"clock/process{i}", f"{__name__}:clock", {"process": i, "size": size}, arms.weights(seed, "streaming"), 20)
            for i in range(SIZES[size].processes)]


def clock(process: int, size: str = "cpu") -> dict:
    """{"tau", "p", "r": s; "streaming", "batch": medians over stories of measured / predicted delay of streaming; "delay": {"streaming",
    "batch", "predicted"}: medians, s}. Stories differ from process to process."""
    how = SIZES[size]
    seed, arm_size = arms.seeds(how.of)[0], arms.SIZES[how.of]
    model, _ = arms.model_of(seed, "streaming", arm_size)
    options = dict(zip(("unit_cap", "rest_cap"), arm_size.caps))
    ours, waits = (kind(model, worded.of_stories(), **options) for kind in (Reasoner, baselines.Batch))
    first = 1000 * (process + 1)
    warm = [stories.totals(first + i, "val", seed) for i in range(how.warm)]
    with one_thread():
        tau, p, tokens = costs(ours, map(ids_of, warm))
    r = tau * tokens / (DUTY * sum(sum(s.words) for s in warm) / len(warm))
    of = latency.Costs(r=r, tau=tau, p=p, whole=p)
    rows = []
    for i in range(how.timed):
        story = stories.totals(first + 500 + i, "val", seed)
        told, pauses = ids_of(story), [r * n for n in story.words]
        streamed, thought = timed(ours, told, pauses)
        waited, _ = timed(waits, told, pauses)
        predicted = latency.simulate("streaming", story.words, [len(u) for u in thought.units], thought.m, of).delay
        rows.append((streamed, waited, predicted))
    columns = {name: median(column) for name, column in zip(("streaming", "batch", "predicted"), zip(*rows))}
    ratios = {"streaming": median(s / q for s, _, q in rows), "batch": median(b / q for _, b, q in rows)}
    return {"tau": tau, "p": p, "r": r, "delay": columns} | ratios


@contextmanager
def one_thread() -> Iterator[None]:
    """What a worker has while the other one works: torch computes with one thread inside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def ids_of(story: stories.Story) -> list[list[int]]:
    return [stories.ids(segment) for segment in story.source]


def costs(reasoner: Reasoner, told: Iterable[Sequence[Sequence[int]]]) -> tuple[float, float, float]:
    """(seconds a written token, seconds a segment's reading, tokens of a trace's units), medians and mean. told: the segments of some
    texts, as ids."""
    steps, reads, tokens = [], [], []
    for segments in told:
        two = TwoStreams(reasoner.model)
        for segment in segments:
            began = time.perf_counter()
            two.read(segment)
            reads.append(time.perf_counter() - began)
        thought = reasoner.think(segments)
        written = sum(map(len, thought.units))
        tokens.append(written)
        steps.append((thought.at("end") - sum(reads[-len(segments) :])) / (written + len(thought.rest) + 1))
    return median(steps), median(reads), sum(tokens) / len(tokens)


def timed(reasoner: Reasoner, told: Sequence[Sequence[int]], pauses: Sequence[float]) -> tuple[float, Thought]:
    """(seconds from the last segment's arrival to the first answer token, the thought), two threads: a reader that is held up until a
    segment is spoken, which takes its pause, and a writer."""
    came: list[float] = []
    answered: list[float] = []

    def segments() -> Iterator[Sequence[int]]:
        due = time.perf_counter()
        for segment, pause in zip(told, pauses, strict=True):
            due += pause
            time.sleep(max(0.0, due - time.perf_counter()))
            came.append(time.perf_counter())
            yield segment

    def heard(event: Event) -> None:
        if event.kind in ("answer", "end"):
            answered.append(time.perf_counter())

    with one_thread():
        thought = reasoner.think(segments(), 2, "threads", heard)
    return answered[0] - came[-1], thought
