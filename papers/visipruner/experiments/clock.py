"""What pruning takes by the clock, on the small LLaVAs whose accuracy it is judged by: the questions of a few test pictures.

Timed is the decoder's prefill of the prompts that `llava.pruned` asked, as it asked them (a question a row, 64 rows at once), under
the setting that each method came to on validation pictures. Beside it the FLOPs that were executed. On a decoder of 0.9 million
parameters a prefill is short, and what a method computes to decide weighs more than at real size (speed.py): the clock says so.

A process times one model; the rounds within it say how finely it could be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.flops import counted
from common.runs.jobs import Job
from common.standins.llava import stand_in
from common.timing.cases import in_a_process
from common.timing.clock import facts, timings_within

from .. import scoring
from ..baselines import FastV, PyramidDrop
from ..method import paper
from ..pruners import VisiPruner
from ..session import Pruner
from . import llava

EXAMPLE = {"pruned/seed0": {"config": {"boundary": 1, "threshold": 0.2, "FastV": [1, 0.5], "PyramidDrop": [[1, 3, 5], 0.5]}}}


@dataclass(frozen=True)
class Size:
    """pictures: of the test split, the first so many."""

    pictures: int
    repeats: int
    seconds: float


SIZES = {"smoke": Size(1, repeats=2, seconds=1.0), "cpu": Size(10, repeats=6, seconds=5.0)}


def jobs(size: str = "cpu") -> list[Job]:
    """What the settings come from: jobs of llava.py, that are not run again where they are finished."""
    return [job for job in llava.jobs(size) if job.name.startswith(("features/", "stand-in/", "pruned/"))]


def then(size: str, results: dict) -> list[Job]:
    """A job for every model whose settings are there."""
    return [Job(f"clock/{name.partition('/')[2]}", f"{__name__}:one_process",
                {"seed": int(name.rpartition("seed")[2]), "settings": result["config"], "size": size}, seconds=2 * SIZES[size].seconds)
            for name, result in sorted(results.items()) if name.startswith("pruned/")]


def one_process(seed: int, settings: dict, size: str) -> dict[str, Any]:
    """`measure`, at size cpu in a process of its own."""
    return measure(seed, settings, size) if size == "smoke" else in_a_process(measure, seed, settings, size)


def pruners(settings: dict) -> dict[str, Pruner | None]:
    """{way: its pruner}; settings: "config" of `llava.pruned`. dense again: what two timings of one thing differ by."""
    config = paper(shallow=None).with_(boundary=settings["boundary"], relative=True, tokens_threshold=settings["threshold"])
    return {"dense": None, "dense again": None, "VisiPruner": VisiPruner(config), "FastV": FastV(*settings["FastV"]),
            "PyramidDrop": PyramidDrop(*settings["PyramidDrop"])}


@torch.no_grad()
def measure(seed: int, settings: dict, size: str = "cpu", log: Callable[[str], None] = print) -> dict[str, Any]:
    """{"settings", "flops": {way}, "times": {way: seconds of each round}, "questions", "rounds", "load_average"}."""
    s, parts = SIZES[size], stand_in(seed)
    parts.decoder.eval()
    asked = llava.asked("test", llava.SIZES[size].test)
    few = tuple(q for q in asked if q.picture < s.pictures)
    batches = list(scoring.prompts(parts, few, scoring.features("test", llava.SIZES[size].test)))
    fns = {name: lambda pruner=pruner: _prefills(parts, batches, pruner) for name, pruner in pruners(settings).items()}
    flops = {name: counted(fn).total for name, fn in fns.items()}
    timings, rounds, _ = timings_within(s.seconds, fns, s.repeats, 2)
    log("; ".join(f"{name} {timing['median']:.3f} s" for name, timing in timings.items()))
    return {"settings": facts("cpu"), "flops": flops, "times": {name: timing["times"] for name, timing in timings.items()},
            "questions": len(few), "rounds": rounds, "load_average": max(t["load_average"] for t in timings.values())}


def _prefills(parts, batches: Sequence[scoring.Prompts], pruner: Pruner | None) -> None:
    for batch in batches:
        if pruner is None:  # the stock decoder, outside of any session
            parts.decoder(inputs_embeds=batch.embeds, attention_mask=torch.ones(batch.visual.shape, dtype=torch.long), use_cache=False,
                          logits_to_keep=1)
        else:
            scoring.answers(parts, batch, pruner)
