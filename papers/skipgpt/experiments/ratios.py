"""How near real skipping comes to its bounds: a batch of eight in prefill, one row in decoding, each in three processes.

    make reproduce-skipgpt ONLY=ratios          the machine should have nothing else to do

The cases are `speed.py`'s, at SmolLM2-135M's dimensions: prefill of 8 x 64 tokens at 40 %, bounded by FLOPs, and decoding of one row
upon 256 cached tokens at 50 %, bounded by the weights that need not be read. Mask mode, which computes everything, goes in the same
rounds: it is the placebo.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from common.runs.jobs import Job
from common.timing.cases import in_a_process

from . import speed
from .speed import Plan

PREFILL, DECODING = "skip 0.40", "skip 0.50"  # what claims read of a prefill and of decoding
PLANS = {"cpu": Plan(batches=(8,), prompt_lengths=(64,), decode_batches=(1,), contexts=(256,), sparsities=(0.40, 0.50), repeats=15,
                     time_limit=60.0),
         "smoke": Plan(batches=(2,), prompt_lengths=(8,), decode_batches=(1,), contexts=(16,), sparsities=(0.40, 0.50), repeats=2,
                       time_limit=5.0)}
PROCESSES = 3


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"ratios/process{i}", f"{__name__}:one_process", {"process": i, "size": size},
                seconds=80.0 if size == "cpu" else 2.0) for i in range(PROCESSES)]


def one_process(process: int, size: str = "cpu") -> dict[str, Any]:
    """`speed.measure` of both cases; process: also the seed of what is skipped."""
    return measured(process, size) if size == "smoke" else in_a_process(measured, process, size)


def measured(process: int, size: str) -> dict[str, Any]:
    n = speed.SIZES[size]
    return speed.measure(n.shape.config(max_position_embeddings=8192), replace(PLANS[size], seed=process), calibration=n.calibration)
