"""What a loss over the whole vocabulary holds and takes, in chunks of tokens and at once; and how fast a student's prefixes come.

    python -m papers.decouplingkl.experiments.speed        Qwen3's vocabulary of 151,936 and 1,024 tokens, heads of Qwen3-0.6B and -4B
    make reproduce-decouplingkl RUNG=gpu                   4,096 tokens as well, in bfloat16, on one GPU

Hidden states are given; the loss and the gradients of hidden states and head are taken. Peak memory is over what is held before:
the two heads, the hidden states. Seconds on a CPU are those of its cores. Each case runs in a process of its own. `sampling`
times common's sampler beside `generate` of transformers on the same work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.reasoning.rollouts import against_generate
from common.shapes import QWEN3_0_6B, QWEN3_4B
from common.timing.cases import in_a_process
from common.timing.clock import facts, peak_rss_bytes, wait

from .. import method

KINDS = ("whole", "chunked")


@dataclass(frozen=True)
class Case:
    """One loss: `tokens` of a vocabulary of V from hidden states of two widths; lam between the directions: both are taken."""

    tokens: int = 1024
    V: int = QWEN3_0_6B.V
    student: int = QWEN3_0_6B.d
    teacher: int = QWEN3_4B.d
    chunk: int = 128
    lam: float = 0.5
    dtype: str = "float32"


def loss(kind: str, of: dict[str, Any], device: str = "cpu", repeats: int = 2) -> dict[str, Any]:
    """{"peak_bytes": [over what is held before], "seconds": [...], "loss"} of so many repetitions, after one that warms up."""
    if kind not in KINDS:
        raise ValueError(f"loss {kind!r} is none of {', '.join(KINDS)}")
    case, dtype = Case(**of), getattr(torch, of.get("dtype", "float32"))
    draw = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.empty(*shape, device=device, dtype=dtype).normal_(0, scale, generator=draw)  # in place: nothing beside it

    heads = []
    for width in (case.student, case.teacher):
        head = nn.Linear(width, case.V, bias=False, device="meta", dtype=dtype)
        head.weight = nn.Parameter(drawn(case.V, width, scale=2 * width**-0.5))
        heads.append(head)
    heads[1].requires_grad_(False)
    hidden, theirs = drawn(case.tokens, case.student).requires_grad_(), drawn(case.tokens, case.teacher)
    cuda, before = device == "cuda", 0
    clock = time.perf_counter if cuda else time.process_time  # of all threads: what else the machine does is not counted
    found: dict[str, Any] = {"peak_bytes": [], "seconds": [], "loss": 0.0}
    for number in range(repeats + 1):
        heads[0].weight.grad = hidden.grad = None
        wait(device)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        elif not number:
            before = peak_rss_bytes()  # of the process, which only grows
        began = clock()
        if kind == "chunked":
            value = method.chunked_mixed_kl(hidden, heads[0], theirs, heads[1], case.lam, None, case.chunk)
        else:
            with torch.no_grad():
                zp = heads[1](theirs)
            value = method.mixed_kl(heads[0](hidden), zp, case.lam).sum()
            del zp
        value.backward()
        wait(device)
        if number:
            found["seconds"].append(clock() - began)
            found["peak_bytes"].append((torch.cuda.max_memory_allocated() if cuda else peak_rss_bytes()) - before)
        found["loss"] = float(value.detach())
    return found


def measure(case: Case = Case(), device: str = "cpu", repeats: int = 2, log: Callable[[str], None] = print) -> dict[str, Any]:
    """{"settings", "whole", "chunked", "memory", "time"}: the last two are chunked / whole, of peaks and of the fastest repetitions."""
    found: dict[str, Any] = {"settings": asdict(case) | facts(device)}
    for kind in KINDS:
        found[kind] = in_a_process(loss, kind, asdict(case), device, repeats)
        log(f"  {kind}: {max(found[kind]['peak_bytes']) / 2**30:.2f} GiB, {min(found[kind]['seconds']):.2f} s")
    return found | {"memory": max(found["chunked"]["peak_bytes"]) / max(found["whole"]["peak_bytes"]),
                    "time": min(found["chunked"]["seconds"]) / min(found["whole"]["seconds"])}


def sampling(device: str = "cpu") -> dict[str, float]:
    """{"sample", "generate", "ratio"}: response tokens a second at a reasoner's size."""
    return against_generate(device)


def measure_gpu(folder: Path | None = None, log: Callable[[str], None] = print) -> dict[str, Any]:
    """The gpu rung: {tokens: measure's}. Raises UserError without a GPU."""
    if not torch.cuda.is_available():
        raise UserError("no CUDA device: the rung gpu takes the loss of 4,096 tokens of Qwen3's vocabulary, at once, on one GPU of 80 GB; "
                        "1,024 tokens on the CPU: python -m papers.decouplingkl.experiments.speed")
    return {str(tokens): measure(Case(tokens, dtype="bfloat16"), "cuda", 5, log) for tokens in (1024, 4096)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    measured = measure(repeats=parser.parse_args().repeats)
    print(f"chunked / whole: {measured['memory']:.3f} of the memory, {measured['time']:.2f} of the time")
