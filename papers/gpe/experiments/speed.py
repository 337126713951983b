"""What a stream costs in time: GPE against re-encoding and interleaving, as the stream grows.

One sentence of the specification's example (20 words, 7.3) and a longer copy of it are streamed at batch one, every token
forced, so that all modes do the same reading and writing:

    group        GPE: source and target cache, one target token fed again after each READ
    position     the same, and the cached target keys turned at each READ
    kv           the whole target encoded again at each READ
    interleaved  one cache in order of arrival
    again        group once more: what a comparison of a mode with itself gives, on this machine and at this load

The modes go in step: each reads and writes one word, in turn and in changing order, so that whatever else the machine does
falls on all. A clock is read after each READ with its WRITE, and CUDA is waited for. A sentence's time is measured once or
more in each of several processes; a claim counts processes. FLOPs come from analytic.py and bound what may be saved.
`python -m papers.gpe.experiments.speed` prints the table for a sixth of SmolLM2-135M, with --device cuda for the shape of
Qwen2.5-3B in bf16.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import nn

from common.files import write_json
from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.timing.cases import in_a_process, time_allowed
from common.timing.clock import facts, wait
from common.timing.decoding import cache_bytes

from ..analytic import EXAMPLE, QWEN25_3B, SMOLLM2_135M, Sentence, Shape, cost
from .exact import INSIDE, OPENS, STOP, forced_session, forced_stream

MODES = ("group", "position", "kv", "interleaved", "again")
FEWEST = 3  # processes for an interval
# Its layers and its vocabulary in the proportion of the whole: ratios of times are about those of the whole, in a sixth of the time.
A_SIXTH = replace(SMOLLM2_135M, name="a sixth of SmolLM2-135M", L=SMOLLM2_135M.L // 6, V=SMOLLM2_135M.V // 6)


@dataclass(frozen=True)
class Size:
    """factors: copies of the example's 20 words in a sentence, the shortest first. rounds: of each sentence in a process.
    threads: of a process. seconds: after which a process begins no other round."""

    shape: Shape
    factors: tuple[int, ...]
    rounds: int
    processes: int
    threads: int
    seconds: float
    modes: tuple[str, ...] = MODES


SIZES = {"smoke": Size(Shape(32, 64, 1, 2, 1, 16, 64, tied=True, name="tiny"), (1, 2), rounds=1, processes=1, threads=1, seconds=5.0),
         "cpu": Size(A_SIXTH, (1, 3), rounds=1, processes=FEWEST, threads=1, seconds=60.0,
                     modes=("group", "kv", "interleaved", "again")),
         "gpu": Size(QWEN25_3B, (1, 4, 16), rounds=5, processes=FEWEST, threads=4, seconds=150.0)}


# -- one stream --------------------------------------------------------------------------------------------
def units_of(sentence: Sentence, k: int) -> Iterator[tuple[int, list[int]]]:
    """(source tokens to read, target tokens to write) of each step of the stream; the last step writes the end."""
    read = 0
    for j, tokens in enumerate(sentence.target[1:], 1):
        goal = sentence.read(k, j)
        yield goal - read, [STOP] * tokens if j == len(sentence.target) - 1 else [OPENS] + [INSIDE] * (tokens - 1)
        read = goal


def two_caches(model: nn.Module, sentence: Sentence, k: int, mode: str) -> Iterator[Callable[[], int]]:
    """A stream with a Session; yields, after every READ with its WRITE, what tells the bytes of its cache."""
    session = forced_session(model, {"again": "group"}.get(mode, mode), sentence)
    for _ in forced_stream(session, sentence, k):
        yield session.cache.nbytes


@torch.no_grad()
def one_cache(model: nn.Module, sentence: Sentence, k: int) -> Iterator[Callable[[], int]]:
    """The same for interleaved streaming: everything in order of arrival."""
    from transformers import DynamicCache

    cache, at = DynamicCache(config=model.config), 0

    def feed(tokens: list[int]) -> None:
        nonlocal at
        ids = torch.tensor([tokens], device=model.device)
        model(input_ids=ids, position_ids=torch.arange(at, at + len(tokens), device=model.device)[None],
              past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].argmax().item()
        at += len(tokens)

    for number, (new, word) in enumerate(units_of(sentence, k)):
        if new:
            feed([OPENS] * new)
        if number == 0:
            feed([OPENS] * sentence.target[0])
        for token in word:
            feed([token])
        yield lambda: cache_bytes(cache)


def in_step(model: nn.Module, sentence: Sentence, k: int, modes: tuple[str, ...], steps: int | None = None) -> dict[str, dict]:
    """{mode: {"marks": seconds of each READ with its WRITE, "bytes": of the cache at the end}}: a step of each mode in turn.

    steps: of the sentence; None: all.
    """
    streams = {mode: one_cache(model, sentence, k) if mode == "interleaved" else two_caches(model, sentence, k, mode) for mode in modes}
    found: dict[str, dict] = {mode: {"marks": [], "bytes": 0} for mode in modes}
    size: dict[str, Callable[[], int]] = {}
    for step in range(len(sentence.target) - 1 if steps is None else steps):
        for mode in (*modes[step % len(modes) :], *modes[: step % len(modes)]):
            wait(model.device)
            began = time.perf_counter()
            size[mode] = next(streams[mode])
            wait(model.device)
            found[mode]["marks"].append(time.perf_counter() - began)
    for mode in modes:
        found[mode]["bytes"] = size[mode]()
    return found


# -- all of them -------------------------------------------------------------------------------------------
def one_process(shape: Shape, *, device: str, dtype: str, factors: tuple[int, ...], modes: tuple[str, ...] = MODES, k: int = 3,
                rounds: int = 1, threads: int = 1, time_limit: float = 60.0) -> dict[str, Any]:
    """{words: {"modes": {mode: {"seconds": of each round, "per_read", "bytes"}}, "load_average"}}, in the calling process.

    A sentence for which no time is left is missing.
    """
    torch.set_num_threads(threads)
    model = load(ModelSpec("random", config=shape.config(max_position_embeddings=8192), device=device, dtype=dtype)).model
    began, cases = time.monotonic(), {}
    in_step(model, EXAMPLE, k, modes, steps=4)  # warms up
    for factor in factors:
        sentence, done = EXAMPLE.times(factor), []
        while len(done) < rounds and (not (cases or done) or time.monotonic() - began < time_limit):
            done.append(in_step(model, sentence, k, modes))
        if done:
            cases[sentence.n] = {"load_average": os.getloadavg()[0], "modes": {mode: {
                "seconds": [sum(each[mode]["marks"]) for each in done], "bytes": done[0][mode]["bytes"],
                "per_read": [median(column) for column in zip(*(each[mode]["marks"] for each in done))]} for mode in modes}}
    return cases


def measure(shape: Shape, *, device: str, dtype: str, factors: tuple[int, ...], modes: tuple[str, ...] = MODES, k: int = 3,
            rounds: int = 1, processes: int = FEWEST, threads: int = 1, time_limit: float = 60.0, out: Path | None = None,
            log: Callable[[str], None] = print) -> dict[str, Any]:
    """A JSON document of cases, one a sentence length, the shortest first. "seconds" of a mode: a list of rounds a process.

    Processes run one after the other, each a new one; a single one is this one. A sentence that not all had time for is left
    out and named in "not_run".
    """
    began = time.monotonic()
    how = dict(device=device, dtype=dtype, factors=factors, modes=modes, k=k, rounds=rounds, threads=threads, time_limit=time_limit)
    found = []
    for number in range(processes):
        found.append(one_process(shape, **how) if processes == 1 else in_a_process(one_process, shape, **how))
        log(f"  process {number + 1}: " + "; ".join(f"{words} words, " + ", ".join(
            f"{mode} {fmean(m['seconds']):.2f} s" for mode, m in case["modes"].items()) for words, case in found[-1].items()))
    document: dict[str, Any] = facts(device) | {"shape": shape.name, "dtype": dtype, "k": k, "threads": threads,
                                                "processes": processes, "cases": {}, "not_run": []}
    for sentence in map(EXAMPLE.times, factors):
        if any(sentence.n not in cases for cases in found):
            document["not_run"].append({"words": sentence.n, "reason": "no time left"})
            continue
        document["cases"][f"{sentence.n} words"] = _case([cases[sentence.n] for cases in found], sentence, shape, k, modes)
    names = list(document["cases"])
    document |= {"shortest": names[0], "longest": names[-1], "seconds": time.monotonic() - began}
    if out is not None:
        write_json(out, document)
    return document


def _case(found: list[dict], sentence: Sentence, shape: Shape, k: int, modes: tuple[str, ...]) -> dict[str, Any]:
    """One sentence over processes."""
    costs = {mode: cost(sentence, k, {"again": "group"}.get(mode, mode)) for mode in modes}
    words, fifth, rows = sentence.n, max(sentence.n // 5, 1), {}
    for mode in modes:
        of = [each["modes"][mode] for each in found]
        per_read = [median(column) for column in zip(*(one["per_read"] for one in of))]
        rows[mode] = {"seconds": [one["seconds"] for one in of], "fed": costs[mode].fed, "pairs": costs[mode].pairs,
                      "cache_bytes": of[0]["bytes"], "per_read": [round(seconds, 6) for seconds in per_read],
                      "first_fifth": median(per_read[1 : 1 + fifth]), "last_fifth": median(per_read[words - fifth - k : words - k])}
    return {"words": words, "load_average": max(each["load_average"] for each in found),
            "flops_ratio": shape.flops(costs["kv"]) / shape.flops(costs["group"]), "modes": rows}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job("speed", f"{__name__}:measure_cpu", {"size": size}, seconds=60 if size == "cpu" else 1)]


def _sized(s: Size, **more) -> dict[str, Any]:
    return measure(s.shape, factors=s.factors, modes=s.modes, rounds=s.rounds, processes=s.processes, threads=s.threads, **more)


def measure_cpu(size: str = "cpu", time_limit: float | None = None, out: Path | None = None,
                log: Callable[[str], None] = print) -> dict[str, Any]:
    """A sixth of SmolLM2-135M in fp32, 20 and 60 words, one thread."""
    s = SIZES[size]
    return _sized(s, device="cpu", dtype="float32", time_limit=time_limit or s.seconds, out=out, log=log)


def measure_gpu(time_limit: float | None = None, out: Path | None = None, log: Callable[[str], None] = print) -> dict[str, Any]:
    """The shape of Qwen2.5-3B in bf16, 20, 80 and 320 words. Raises RuntimeError without a CUDA device."""
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device: the rung gpu-random-weights times a model of real size on one GPU; a smaller "
                           "one on the CPU: make reproduce-gpe ONLY=speed")
    s = SIZES["gpu"]
    return _sized(s, device="cuda", dtype="bfloat16", time_limit=time_limit or time_allowed(s.processes * s.seconds) / s.processes,
                  out=None if out is None else out / "speed.json", log=log)


def gpu(folder: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """As an experiment runs it."""
    return measure_gpu(out=folder, log=log)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Streaming one sentence: time of GPE, re-encoding and interleaving.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--time-limit", type=float, help="seconds of measurement in a process (60; 150 on CUDA)")
    parser.add_argument("--out", type=Path, help="JSON file (a folder on CUDA)")
    options = parser.parse_args(argv)
    try:
        document = (measure_gpu(options.time_limit, options.out) if options.device == "cuda"
                    else measure_cpu(time_limit=options.time_limit, out=options.out))
    except RuntimeError as error:
        print(f"gpe speed: {error}", file=sys.stderr)
        return 2
    print(json.dumps({name: {mode: round(median(map(fmean, m["seconds"])), 4) for mode, m in case["modes"].items()}
                      for name, case in document["cases"].items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
