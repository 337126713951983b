"""What ViCA takes by the clock, on the small LLaVAs whose accuracy it is judged by: prefills of test questions in each way.

Timed is the decoder's pass over the first test pictures as `llava.tested` makes it (a picture with all its questions a row), in the
layers that each seed's greedy elimination left. The weights are the stand-in's: time does not hang on what they say. On a decoder of
0.9 million parameters a pass is short and calls weigh much; the clock at real dimensions is speed.py's.

A process times one seed; the rounds within it say how finely it could be read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.flops import counted
from common.runs.jobs import Job
from common.timing.cases import in_a_process
from common.timing.clock import facts, timings_within
from common.vision.layout import packed
from common.vision.llava import question_slots
from common.vision.parts import Parts

from ..scoring import Questions, dense, test_set, vica
from . import llava


@dataclass(frozen=True)
class Size:
    """pictures: of the test split, the first so many, in one batch."""

    pictures: int
    repeats: int
    seconds: float


SIZES = {"smoke": Size(2, repeats=2, seconds=0.5), "cpu": Size(64, repeats=10, seconds=4.0)}


def jobs(size: str = "cpu") -> list[Job]:
    """What the layers come from: jobs of llava.py, that are not run again where they are finished."""
    return [job for job in llava.jobs(size) if job.name.startswith(("features/", "stand-in/", "all layers/"))]


def then(size: str, results: dict) -> list[Job]:
    """A job for every seed whose layers are chosen."""
    seeds = [seed for seed in llava.SIZES[size].seeds if f"all layers/seed{seed}" in results]
    return [Job(f"clock/seed{seed}", f"{__name__}:one_process",
                {"seed": seed, "layers": llava.arms(results, seed)["greedy"], "size": size}, seconds=2 * SIZES[size].seconds)
            for seed in seeds]


def one_process(seed: int, layers: list[int], size: str) -> dict[str, Any]:
    """`measure`, at size cpu in a process of its own."""
    return measure(seed, layers, size) if size == "smoke" else in_a_process(measure, seed, layers, size)


def ways(parts: Parts, layers: tuple[int, ...], pictures: Tensor, asked: Questions) -> dict[str, Callable[[], Tensor]]:
    """{way: a pass that gives the text's last hidden states}. dense again: what two timings of one thing differ by."""
    every = tuple(range(parts.decoder.config.num_hidden_layers))
    shown = {"few": llava.pooled(pictures, llava.equal_tokens(parts))}
    runs = {"dense": dense(parts), "dense again": dense(parts), "all layers": vica(parts, every), "greedy": vica(parts, layers),
            "few": dense(parts), "text": vica(parts, ())}
    slots = [[question_slots(parts.tokenizer, q) for q in questions] for questions in asked]

    def once(name: str) -> Tensor:
        features = shown.get(name, pictures).float()
        layout = packed(parts.prefix, slots, features.shape[1])
        return runs[name](layout, parts.visual(layout, features))

    return {name: functools.partial(once, name) for name in runs}


@torch.no_grad()
def measure(seed: int, layers: list[int], size: str = "cpu", log: Callable[[str], None] = print) -> dict[str, Any]:
    """{"settings", "layers", "flops": {way}, "times": {way: seconds of each round}, "rounds", "load_average"}."""
    from common.standins.llava import stand_in

    s, of, parts = SIZES[size], llava.SIZES[size], stand_in(seed)
    parts.decoder.eval()
    pictures, asked = (part[: s.pictures] for part in test_set("test", of.test, of.easy))
    fns = ways(parts, tuple(layers), pictures, asked)
    flops = {name: counted(fn).total for name, fn in fns.items()}
    timings, rounds, _ = timings_within(s.seconds, fns, s.repeats, 2)
    log("; ".join(f"{name} {timing['median']:.3f} s" for name, timing in timings.items()))
    return {"settings": facts("cpu"), "layers": list(layers), "flops": flops,
            "times": {name: timing["times"] for name, timing in timings.items()}, "rounds": rounds,
            "load_average": max(t["load_average"] for t in timings.values())}
