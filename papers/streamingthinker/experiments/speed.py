"""What joining the two caches costs a decode step: views of one buffer, beside a stock cache of as many tokens, beside concatenation.

One layer's shape is SmolLM2's; weights are random, for time does not depend on them. Rounds take turns, and a round's ratio is to the
stock step right beside it. Three processes; the machine should have nothing else to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
from transformers.cache_utils import DynamicCache

from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.shapes import SMOLLM2_135M
from common.streaming.two_streams import TwoStreams

WAYS = ("views", "concatenation")


@dataclass(frozen=True)
class Size:
    processes: int
    layers: int
    source: int
    target: int
    rounds: int


SIZES = {"smoke": Size(1, 1, 60, 4, 3), "cpu": Size(3, 6, 1500, 60, 30)}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"step/process{i}", f"{__name__}:step", {"process": i, "size": size}, seconds=15) for i in range(SIZES[size].processes)]


@torch.no_grad()
def step(process: int, size: str = "cpu") -> dict:
    """{"ratio": {way: median of seconds of a step / seconds of a stock step beside it}, "ms": {way: median}}."""
    how = SIZES[size]
    shape = replace(SMOLLM2_135M, L=how.layers, V=1000)
    model = load(ModelSpec("random", config=shape.config(max_position_embeddings=4096), seed=process)).model
    draw = torch.Generator().manual_seed(process)
    source, target = (torch.randint(1000, (n,), generator=draw) for n in (how.source, how.target))
    two = TwoStreams(model)
    two.read(source)
    two.feed(target)
    parts = [[torch.cat(pair, -2) for pair in zip(layer.part("source"), layer.part("target"))] for layer in two.cache.layers]
    ways = {"stock": _stock(model, parts, how.target), "views": lambda: (two.feed([7]), two.take_back(1)),
            "concatenation": _concatenated(model, two, how.target)}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for name in list(ways) * (how.rounds + 2):  # the first two rounds are not counted
        began = time.perf_counter()
        ways[name]()
        took[name].append(time.perf_counter() - began)
    counted = {name: times[2:] for name, times in took.items()}
    return {"ratio": {way: median(a / b for a, b in zip(counted[way], counted["stock"])) for way in WAYS},
            "ms": {name: 1000 * median(times) for name, times in counted.items()}}


def _stock(model, parts: list[list[torch.Tensor]], position: int) -> Callable[[], object]:
    cache = DynamicCache()
    for number, (keys, values) in enumerate(parts):
        cache.update(keys, values, number)

    def one() -> None:
        model(input_ids=torch.tensor([[7]]), position_ids=torch.tensor([[position]]), past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return one


def _concatenated(model, two: TwoStreams, position: int) -> Callable[[], object]:
    """As the released code merges: both caches are joined into a new one, which the step then uses. Once a step, not once a sentence."""
    def one() -> None:
        cache = DynamicCache()
        for number, layer in enumerate(two.cache.layers):
            cache.update(*(torch.cat(pair, -2) for pair in zip(layer.part("source"), layer.part("target"))), number)
        model(input_ids=torch.tensor([[7]]), position_ids=torch.tensor([[position]]), past_key_values=cache, use_cache=True)

    return one
