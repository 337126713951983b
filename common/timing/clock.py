"""What it takes here: a clock that waits for the device, candidates timed in turn, peak memory, a CUDA graph.

`interleaved_timings` runs the candidates in turn, in an order shuffled anew each round, so that whatever else the machine
does falls on all of them; `timings_within` does so as often as a number of seconds allows. `calibrate` measures what the
machine could do at most. Which cases are timed, in which order and in how many processes, stands in `cases.py`.
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..flops import device_name

FEWEST = 5  # rounds for a median with quartiles; a case that has no time for as many is not run


# -- a clock -----------------------------------------------------------------------------------------------
def wait(device: str | torch.device) -> None:
    """Until the device has done what it was given; a CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def facts(device: str | torch.device) -> dict[str, Any]:
    """What a timing depends on and a record must name: {"device", "threads", "torch"}."""
    return {"device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__}


def stopwatch(
    device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> Callable[[Callable], float]:
    """A function that times one call in seconds, with the device idle before and after."""
    if device.type != "cuda":
        def on_host(fn):
            start = clock()
            fn()
            return clock() - start
        return on_host

    def on_cuda(fn):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        wait(device)
        with torch.cuda.device(device):
            start.record()
            fn()
            end.record()
        wait(device)
        return start.elapsed_time(end) / 1e3
    return on_cuda


# -- in turn -----------------------------------------------------------------------------------------------
def spread(values: list[float]) -> dict[str, float]:
    """{"median", "iqr"} of at least two values; quartiles by linear interpolation."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} value(s) have no spread: time at least 2 repeats")
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "iqr": high - low}


def interleaved_timings(
    fns: dict[str, Callable[[], Any]], warmup: int = 3, repeats: int = 10,
    device: str | torch.device = "cpu", seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Times every function once a round, `repeats` rounds, in an order shuffled anew each round.

    Returns {name: {"median", "iqr", "times", "load_average"}}: seconds, times[i] being round i, and
    the highest one-minute load average seen. CUDA devices are timed with events between
    synchronisations, others with `clock`. Warm-up rounds run in the given order, untimed.
    """
    measure = stopwatch(torch.device(device), clock)
    for _ in range(warmup):
        for fn in fns.values():
            fn()
    shuffle, order = random.Random(seed), list(fns)
    times: dict[str, list[float]] = {name: [] for name in fns}
    loads = [os.getloadavg()[0]]
    for _ in range(repeats):
        shuffle.shuffle(order)
        for name in order:
            times[name].append(measure(fns[name]))
        loads.append(os.getloadavg()[0])
    return {name: {**spread(values), "times": values, "load_average": max(loads)}
            for name, values in times.items()}


def paired_ratio(timings: dict[str, dict[str, Any]], slow: str, fast: str) -> dict[str, Any]:
    """Speed-up of `fast` over `slow`, {"median", "iqr", "ratios"}, from the ratio of each round:
    whatever slowed a round slowed both."""
    rounds = zip(timings[slow]["times"], timings[fast]["times"], strict=True)
    ratios = [a / b for a, b in rounds]
    return {**spread(ratios), "ratios": ratios}


def timings_within(
    seconds: float, fns: dict[str, Callable[[], Any]], repeats: int, warmup: int = 2,
    device: str | torch.device = "cpu", seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, dict[str, Any]], int, float]:
    """(what `interleaved_timings` gives, its rounds, seconds of one round): at most `repeats` rounds, as many as fit, at least
    FEWEST (or `repeats`). warmup: untimed passes, of which the caller has made one, another finds out what a round takes, and the
    rest take no more than a quarter of the time."""
    wait(device)
    start = clock()
    for fn in fns.values():
        fn()
    wait(device)
    a_round = max(clock() - start, 1e-9)
    more = min(max(warmup - 2, 0), int(seconds / 4 / a_round))
    rounds = max(min(repeats, int((seconds - a_round) / a_round) - more), min(repeats, FEWEST))
    return interleaved_timings(fns, more, rounds, device, seed, clock), rounds, a_round


# -- memory ------------------------------------------------------------------------------------------------
def peak_rss_bytes() -> int:
    """Resident high-water mark of the process. It never falls: one process per candidate."""
    high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return high if sys.platform == "darwin" else high * 1024


def peak_memory(fn: Callable[[], Any], device: str | torch.device = "cpu") -> dict[str, Any]:
    """Runs fn() and returns {"before_bytes", "peak_bytes", "kind"}.

    kind "cuda_allocated": bytes held by tensors, the peak during fn. kind "rss_high_water": of the
    whole process, before and after; if they are equal, fn stayed below an earlier peak and its own
    need is unknown.
    """
    device = torch.device(device)
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        fn()
        wait(device)
        peak = torch.cuda.max_memory_allocated(device)
        return {"before_bytes": before, "peak_bytes": peak, "kind": "cuda_allocated"}
    before = peak_rss_bytes()
    fn()
    return {"before_bytes": before, "peak_bytes": peak_rss_bytes(), "kind": "rss_high_water"}


# -- a graph -----------------------------------------------------------------------------------------------
def in_graph(fn: Callable[[], Any], pool: Any = None) -> Callable[[], Any]:
    """fn as one CUDA graph: the launches of all its steps are recorded once and replayed. Raises RuntimeError where it cannot be
    captured, e.g. because a size depends on data.

    pool: what `torch.cuda.graph_pool_handle` gives, for graphs that share their memory: what one leaves is then never to be
    read after another has run.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        fn()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        fn()
    return graph.replay


# -- limits ------------------------------------------------------------------------------------------------
def calibrate(
    device: str | torch.device = "cpu", seconds: float = 2.0, size: int | None = None
) -> dict[str, Any]:
    """What large square products and copies reach here, in about `seconds` in all (medians).

    Returns device, gemm_size, gemm_flops_per_s {"float32", "bfloat16"}, copy_bytes_per_s (read +
    written) and the float32_matmul_precision in force (TF32 changes the first figure). size: side
    of the product; default 8192 on CUDA, 1024 elsewhere.
    """
    device = torch.device(device)
    size = size or (8192 if device.type == "cuda" else 1024)
    measure, rates = stopwatch(device), {}

    def median_seconds(fn) -> float:
        fn()
        times: list[float] = []
        while sum(times) < seconds / 3 and len(times) < 1000 or len(times) < 3:
            times.append(measure(fn))
        return statistics.median(times)

    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        taken = median_seconds(partial(torch.mm, a, b, out=out))
        rates[str(dtype).removeprefix("torch.")] = 2 * size**3 / taken
    source = torch.zeros(size * 2**16, dtype=torch.uint8, device=device)  # larger than the caches
    target = torch.empty_like(source)
    copy = 2 * source.numel() / median_seconds(lambda: target.copy_(source))
    return {"device": device_name(device), "gemm_size": size, "gemm_flops_per_s": rates,
            "copy_bytes_per_s": copy,
            "float32_matmul_precision": torch.get_float32_matmul_precision()}
