"""What a picture costs over the text alone, at batches of 1, 4 and 16, and a decoding step behind it; each in three processes.

    make reproduce-vica ONLY=ratios             the machine should have nothing else to do

The cases are `timed.py`'s, at SmolLM2-135M's dimensions with 8 of its 30 layers looking: 62 tokens of text around a picture of 576.
Beside ViCA, in the same rounds, go the text alone and the dense model on 64 visual tokens, what pruning could reach at best, which is
the placebo of the prefill; that of decoding is the dense model, whose cache holds the whole picture.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.timing.cases import in_a_process
from common.timing.clock import facts, timings_within

from .. import analytic, method
from ..analytic import Shape
from .timed import Case, decoding, stock_and_ours, variants

OURS, TEXT, PLACEBO = "vica", "text only", "dense 64"


@dataclass(frozen=True)
class Size:
    """batches: of prefill; decoded: those of which decoding is timed too. case: with its steps of decoding. repeats, seconds: of a
    batch's prefill. rounds: of its decoding. processes: how many, each a job."""

    shape: Shape
    layers: tuple[int, ...]
    batches: tuple[int, ...]
    decoded: tuple[int, ...]
    case: Case
    repeats: int
    seconds: float
    rounds: int
    processes: int


SIZES = {"cpu": Size(analytic.SMOLLM2_135M, method.PAPER_CROSS_LAYERS["llava-1.5-7b"], (1, 4, 16), (1, 4), Case(1, 35, 27, decode=(16,)),
                     repeats=15, seconds=25.0, rounds=5, processes=3),
         "smoke": Size(Shape(32, 64, 3, 4, 2, 8, 96, name="three small layers"), (0, 2), (1, 2), (1,),
                       Case(1, 3, 2, visual=72, decode=(2,)), repeats=2, seconds=1.0, rounds=2, processes=3)}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"ratios/process{i}", f"{__name__}:one_process", {"process": i, "size": size},
                seconds=110.0 if size == "cpu" else 2.0) for i in range(SIZES[size].processes)]


def one_process(process: int, size: str = "cpu") -> dict[str, Any]:
    """`measured` where nothing else has run."""
    return measured(process, size) if size == "smoke" else in_a_process(measured, process, size)


@torch.no_grad()
def measured(process: int, size: str) -> dict[str, Any]:
    """{"settings", "prefill", "decoding": {batch: {variant: seconds of each round}}}; of decoding a token's. process: also the seed."""
    n = SIZES[size]
    spec = ModelSpec("random", config=n.shape.config(max_position_embeddings=4096), device="cpu", dtype="float32", seed=process)
    models = stock_and_ours(load(spec).model)
    prefill, decoded = {}, {}
    for batch in n.batches:
        case = replace(n.case, batch=batch, only=(OURS, TEXT, PLACEBO))
        fns, _ = variants(models, case, n.layers, process)
        timings, _, _ = timings_within(n.seconds, fns, n.repeats, seed=process)
        prefill[str(batch)] = {name: of["times"] for name, of in timings.items()}
        if batch in n.decoded:
            found = decoding(models, case, n.layers, process, time.perf_counter, n.rounds)
            decoded[str(batch)] = {name: of[str(max(case.decode))]["times"] for name, of in found.items()}
    return {"settings": facts("cpu") | {"shape": n.shape.name, "layers": list(n.layers)}, "prefill": prefill, "decoding": decoded}
