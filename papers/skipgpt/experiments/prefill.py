"""One prefill, dense and skipping, timed in processes of their own.

Rounds within one process share its memory layout and the mood of the machine, so they say how fine a ratio is, and processes say
how sure. Each starts anew, builds the model with random weights, times the same case by `speed.measure` and gives back its document.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.runs.jobs import Job

from . import speed

PROCESSES = 3
PLANS = {
    "cpu": speed.Plan(batches=(1,), prompt_lengths=(128,), contexts=(), sparsities=(0.40,), repeats=12, time_limit=15.0),
    "smoke": speed.Plan(batches=(1,), prompt_lengths=(16,), contexts=(), sparsities=(0.40,), repeats=2, time_limit=5.0),
}


def jobs(size: str = "cpu") -> list[Job]:
    seconds = {"cpu": 25.0, "smoke": 4.0}[size]
    return [Job(f"speed/process{i}", f"{__name__}:in_its_own_process", {"process": i, "size": size}, seconds=seconds)
            for i in range(PROCESSES)]


def in_its_own_process(process: int, size: str = "cpu") -> dict[str, Any]:
    """Jobs of one run may share a worker; a process more makes sure that these do not."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(timed, process, size).result()


def timed(process: int, size: str) -> dict[str, Any]:
    """process: also the seed of what is skipped."""
    n = speed.SIZES[size]
    return speed.measure(speed.config_of(n.shape), replace(PLANS[size], seed=process), calibration=n.calibration)


def on_a_gpu(folder: Path, log) -> dict[str, dict[str, Any]]:
    """What the rung gpu runs: real sizes, {"8B": document, "7B": document}."""
    return speed.measure_gpu(out=folder, log=log)
