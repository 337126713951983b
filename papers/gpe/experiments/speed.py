"""What a stream costs in time: GPE against re-encoding and interleaving, as the stream grows.

One sentence of the specification's example (20 words, 7.3) and longer copies of it are streamed at batch one, every token
forced, so that all modes do the same reading and writing:

    group        GPE: source and target cache, one target token fed again after each READ
    position     the same, and the cached target keys turned at each READ
    kv           the whole target encoded again at each READ
    interleaved  one cache in order of arrival

Rounds are interleaved (group, position, kv, interleaved, group, ...), a clock is read after each READ with its WRITE, and
CUDA is waited for. FLOPs come from analytic.py and bound what may be saved. `python -m papers.gpe.experiments.speed` prints the
table for the shape of SmolLM2-135M, with --device cuda for that of Qwen2.5-3B in bf16.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from common.files import write_json
from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.timing.cases import over_processes, time_allowed
from common.timing.clock import facts, wait
from common.timing.decoding import cache_bytes

from ..analytic import EXAMPLE, QWEN25_3B, SMOLLM2_135M, Sentence, Shape, cost
from .exact import INSIDE, OPENS, STOP, forced_session, forced_stream

MODES = ("group", "position", "kv", "interleaved")
FEWEST = 3  # rounds for an interval


@dataclass(frozen=True)
class Size:
    """factors: copies of the example's 20 words in a sentence, the shortest first. seconds: after which no round is begun."""

    shape: Shape
    factors: tuple[int, ...]
    rounds: int
    seconds: float


SIZES = {"smoke": Size(Shape(32, 64, 1, 2, 1, 16, 64, tied=True, name="tiny"), (1, 2), rounds=1, seconds=5.0),
         "cpu": Size(SMOLLM2_135M, (1, 2), FEWEST, seconds=60.0),
         "gpu": Size(QWEN25_3B, (1, 4, 16), rounds=20, seconds=540.0)}


# -- one stream --------------------------------------------------------------------------------------------
def units_of(sentence: Sentence, k: int) -> Iterator[tuple[int, list[int]]]:
    """(source tokens to read, target tokens to write) of each step of the stream; the last step writes the end."""
    read = 0
    for j, tokens in enumerate(sentence.target[1:], 1):
        goal = sentence.read(k, j)
        yield goal - read, [STOP] * tokens if j == len(sentence.target) - 1 else [OPENS] + [INSIDE] * (tokens - 1)
        read = goal


def two_caches(model: nn.Module, sentence: Sentence, k: int, mode: str) -> tuple[list[float], int]:
    """(seconds of each READ with its WRITE, bytes of the cache at the end) with a Session."""
    session, marks = forced_session(model, mode, sentence), []
    wait(model.device)
    began = time.perf_counter()
    for _ in forced_stream(session, sentence, k):
        wait(model.device)
        marks.append(time.perf_counter() - began)
        began = time.perf_counter()
    return marks, session.cache.nbytes()


@torch.no_grad()
def one_cache(model: nn.Module, sentence: Sentence, k: int) -> tuple[list[float], int]:
    """The same for interleaved streaming: everything in order of arrival."""
    from transformers import DynamicCache

    cache, at, marks = DynamicCache(config=model.config), 0, []

    def feed(tokens: list[int]) -> None:
        nonlocal at
        ids = torch.tensor([tokens], device=model.device)
        model(input_ids=ids, position_ids=torch.arange(at, at + len(tokens), device=model.device)[None],
              past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].argmax().item()
        at += len(tokens)

    wait(model.device)
    for number, (new, word) in enumerate(units_of(sentence, k)):
        began = time.perf_counter()
        if new:
            feed([OPENS] * new)
        if number == 0:
            feed([OPENS] * sentence.target[0])
        for token in word:
            feed([token])
        wait(model.device)
        marks.append(time.perf_counter() - began)
    return marks, cache_bytes(cache)


# -- all of them -------------------------------------------------------------------------------------------
def measure(shape: Shape, *, device: str, dtype: str, factors: tuple[int, ...], k: int = 3, rounds: int = FEWEST,
            time_limit: float = 60.0, out: Path | None = None, log: Callable[[str], None] = print) -> dict[str, Any]:
    """A JSON document of cases, one a sentence length, the shortest first; saved after each.

    A case runs FEWEST to `rounds` rounds as time allows; one that does not fit is left out and named in "not_run".
    """
    model = load(ModelSpec("random", config=shape.config(max_position_embeddings=8192), device=device, dtype=dtype)).model
    document: dict[str, Any] = facts(device) | {"shape": shape.name, "dtype": dtype, "k": k, "cases": {}, "not_run": []}
    began = time.monotonic()
    for factor in factors:
        sentence = EXAMPLE.times(factor)
        words, seconds, marks, size = sentence.n, {m: [] for m in MODES}, {m: [] for m in MODES}, {}
        started = time.monotonic()
        for number in range(-1, rounds):  # round -1 warms up
            if number >= 1 and _no_time(started, began, number, time_limit, len(document["cases"]) + 1 < len(factors)):
                break
            for mode in MODES if number >= 0 or not document["cases"] else ("group",):
                if mode in ("position", "interleaved") and number > 0:
                    continue  # shown beside the two that a claim compares
                each, size[mode] = (one_cache(model, sentence, k) if mode == "interleaved"
                                    else two_caches(model, sentence, k, mode))
                if number >= 0:
                    seconds[mode].append(sum(each))
                    marks[mode].append(each)
        if len(seconds["kv"]) < 1:
            document["not_run"].append({"words": words, "reason": "no time left"})
            continue
        costs = {mode: cost(sentence, k, mode) for mode in MODES}
        fifth = max(words // 5, 1)
        document["cases"][f"{words} words"] = {
            "words": words, "load_average": os.getloadavg()[0], "flops_ratio": shape.flops(costs["kv"]) / shape.flops(costs["group"]),
            "modes": {mode: {
                "seconds": seconds[mode], "fed": costs[mode].fed, "pairs": costs[mode].pairs, "cache_bytes": size[mode],
                "per_read": [round(median(column), 6) for column in zip(*marks[mode])],
                "first_fifth": median(x for each in marks[mode] for x in each[1 : 1 + fifth]),
                "last_fifth": median(x for each in marks[mode] for x in each[words - fifth - k : words - k]),
            } for mode in MODES},
        }
        names = list(document["cases"])
        document |= {"shortest": names[0], "longest": names[-1], "seconds": time.monotonic() - began}
        if out is not None:
            write_json(out, document)
        case = document["cases"][f"{words} words"]
        log(f"  {words} words: " + ", ".join(f"{m} {median(v['seconds']):.2f} s" for m, v in case["modes"].items())
            + f"; KV / group {median(seconds['kv']) / median(seconds['group']):.2f} of {case['flops_ratio']:.2f} in FLOPs")
    return document


def _no_time(started: float, began: float, done: int, limit: float, more_to_come: bool) -> bool:
    """Whether another round of this sentence would leave no time; FEWEST rounds run in any case."""
    now = time.monotonic()
    a_round = (now - started) / (done + 1)
    return done >= FEWEST and now - began + a_round > (limit / 2 if more_to_come else limit)


def jobs(size: str = "cpu") -> list[Job]:
    return [Job("speed", f"{__name__}:measure_cpu", {"size": size}, seconds=60 if size == "cpu" else 1)]


def measure_cpu(size: str = "cpu", time_limit: float | None = None, out: Path | None = None,
                log: Callable[[str], None] = print, processes: int = 1) -> dict[str, Any]:
    """The shape of SmolLM2-135M in fp32, 20 and 40 words, in so many processes, each within the time limit."""
    s = SIZES[size]
    return over_processes(processes, measure, s.shape, device="cpu", dtype="float32", factors=s.factors, rounds=s.rounds,
                   time_limit=time_limit or s.seconds, out=out, log=log)


def measure_gpu(time_limit: float | None = None, out: Path | None = None, log: Callable[[str], None] = print,
                processes: int = 3) -> dict[str, Any]:
    """The shape of Qwen2.5-3B in bf16, 20, 80 and 320 words, in each process within its share of the time.

    Raises RuntimeError without a CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device: the rung gpu-random-weights times a model of real size on one GPU; a smaller "
                           "one on the CPU: make reproduce-gpe ONLY=speed")
    s = SIZES["gpu"]
    return over_processes(processes, measure, s.shape, device="cuda", dtype="bfloat16", factors=s.factors, rounds=s.rounds,
                          time_limit=(time_limit or time_allowed(s.seconds)) / processes, out=None if out is None else out / "speed.json",
                          log=log)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Streaming one sentence: time of GPE, re-encoding and interleaving.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--time-limit", type=float, help="seconds of measurement (60; 540 on CUDA)")
    parser.add_argument("--out", type=Path, help="JSON file (a folder on CUDA)")
    options = parser.parse_args(argv)
    try:
        document = (measure_gpu(options.time_limit, options.out) if options.device == "cuda"
                    else measure_cpu(time_limit=options.time_limit, out=options.out))
    except RuntimeError as error:
        print(f"gpe speed: {error}", file=sys.stderr)
        return 2
    print(json.dumps({name: {mode: round(median(m["seconds"]), 4) for mode, m in case["modes"].items()}
                      for name, case in document["cases"].items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
