"""What asking costs: a probe beside a plain decode step, and a READ behind a long stream beside one behind a short one.

Random weights of SmolLM2-135M's widths and a sixth of its layers, one thread; behind 1,000 tokens of a stream (late) and 100 (early):

    decode         one token through a stock cache of as many tokens, what `generate` does at every step
    probe          one target token through the cache of two parts, and taken back
    read late      one unit of a token, behind 1,000; read early: behind 100
    encode again   the whole stream once more, which is what a model does that cannot keep it; encode early: of 100 tokens

All go in turn within a round, so that whatever else the machine does falls on all; a claim counts processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers import DynamicCache

from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.shapes import SMOLLM2_135M, Shape
from common.streaming.two_streams import TwoStreams
from common.timing.cases import in_a_process

SIXTH = replace(SMOLLM2_135M, name="a sixth of SmolLM2-135M", L=SMOLLM2_135M.L // 6, V=SMOLLM2_135M.V // 6)
TINY = Shape(32, 64, 1, 2, 1, 16, 64, tied=True, name="tiny")


@dataclass(frozen=True)
class Size:
    """late, early: tokens of the stream. rounds: of each way in a process."""

    shape: Shape
    late: int
    early: int
    rounds: int
    processes: int


SIZES = {"smoke": Size(TINY, 40, 8, 3, 3), "cpu": Size(SIXTH, 1000, 100, 21, 3)}


def jobs(size: str = "cpu") -> list[Job]:
    seconds = 1 if size == "smoke" else 12
    return [Job(f"speed/process{number}", f"{__name__}:timed", {"number": number, "size": size}, seconds=seconds)
            for number in range(SIZES[size].processes)]


def timed(number: int, size: str = "cpu") -> dict:
    """{way: seconds of every round}, measured in a process of its own, but for smoke. number: which; it draws the tokens."""
    return one_process(number, size) if size == "smoke" else in_a_process(one_process, number, size)


@torch.no_grad()
def one_process(number: int, size: str) -> dict:
    """The same, in the calling process."""
    of = SIZES[size]
    torch.set_num_threads(1)
    model = load(ModelSpec("random", config=of.shape.config(max_position_embeddings=8192), seed=number)).model
    tokens = torch.randint(1, of.shape.V, (of.late,), generator=torch.Generator().manual_seed(number))
    streams = {name: _stream(model, tokens[:n]) for name, n in (("late", of.late), ("early", of.early))}
    caches = {"late": _stock(model, tokens)}
    ways: dict[str, Callable[[], object]] = {
        "decode": lambda: _decode(model, caches["late"], tokens[:1]), "probe": lambda: _probe(streams["late"], tokens[:1]),
        "read late": lambda: streams["late"].read(tokens[:1]), "read early": lambda: streams["early"].read(tokens[:1]),
        "encode again": lambda: _stream(model, tokens), "encode early": lambda: _stream(model, tokens[: of.early])}
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(of.rounds + 2):  # two warm up
        for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
            began = time.perf_counter()
            ways[name]()
            if turn > 1:
                found[name].append(time.perf_counter() - began)
    return found | {"shape": of.shape.name, "late": of.late, "early": of.early}


def _stream(model, tokens) -> TwoStreams:
    streams = TwoStreams(model)
    streams.read(tokens)
    return streams


def _stock(model, tokens) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    model(input_ids=tokens[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _decode(model, cache: DynamicCache, token) -> None:
    model(input_ids=token[None], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].argmax().item()


def _probe(streams: TwoStreams, token) -> None:
    streams.feed(token)[-1].argmax().item()
    streams.take_back(1)
