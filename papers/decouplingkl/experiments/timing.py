"""What the issue of speed comes to on a CPU: memory and time of the chunked loss at Qwen3's vocabulary, and how fast prefixes come.

    make reproduce-decouplingkl ONLY=timing          the machine should have nothing else to do

    loss(process)        the loss of 1,024 tokens over 151,936 words, forward and backward in fp32: all at once (which is autograd's own),
                         in chunks of 128 tokens, in one chunk, and, of a few tokens, one at a time
    sampling(process)    the family's `sample` beside `generate` of transformers on the same work, twice

Heads are an eighth as wide as Qwen3-0.6B's and Qwen3-4B's, so that the whole loss stays below six gigabytes: what is compared are
tensors of the vocabulary's size, which no width changes. Seconds of a loss are of all cores, so that other work is not counted. Each
case of a loss has a process of its own, for a peak of memory never falls; a claim counts the processes of the jobs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.reasoning.rollouts import against_generate
from common.runs.jobs import WORKER_ENVIRONMENT, Job
from common.shapes import QWEN3_0_6B, QWEN3_4B
from common.timing.cases import in_a_process

from . import speed
from .speed import Case

WIDER = 8  # times that Qwen3's heads are as wide as these


@dataclass(frozen=True)
class Size:
    """processes; the loss; tokens that are also taken one at a time; repetitions behind one that warms up; of the sampler: prompts,
    responses to each, their most tokens. fresh: each case in a process of its own."""

    processes: int
    case: Case
    few: int
    repeats: int
    prompts: int
    responses: int
    limit: int
    fresh: bool = True


SIZES = {"smoke": Size(1, Case(tokens=8, V=64, student=4, teacher=6, chunk=2), few=2, repeats=1, prompts=2, responses=2, limit=4,
                       fresh=False),
         "cpu": Size(3, Case(student=QWEN3_0_6B.d // WIDER, teacher=QWEN3_4B.d // WIDER), few=32, repeats=2, prompts=16, responses=16,
                     limit=170)}


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for two free cores of a 2024 server."""
    kinds = {"loss": 70.0, "sampling": 20.0} if size == "cpu" else {"loss": 1.0, "sampling": 1.0}
    return [Job(f"timing/{kind}/process{i}", f"{__name__}:{kind}", {"process": i, "size": size}, seconds=seconds)
            for kind, seconds in kinds.items() for i in range(SIZES[size].processes)]


def loss(process: int, size: str = "cpu") -> dict[str, Any]:
    """{"whole", "chunked", "one chunk", "one token": {"peak_bytes": [...], "seconds": [...], "loss", "tokens"}}. process: which it is."""
    how = SIZES[size]
    cases = {"whole": ("whole", how.case), "chunked": ("chunked", how.case),
             "one chunk": ("chunked", replace(how.case, chunk=how.case.tokens)),
             "one token": ("chunked", replace(how.case, tokens=how.few, chunk=1))}
    found = {}
    with usual_memory():
        for name, (kind, case) in cases.items():
            arguments = (speed.loss, kind, asdict(case), "cpu", how.repeats)
            found[name] = (in_a_process(*arguments) if how.fresh else arguments[0](*arguments[1:])) | {"tokens": case.tokens}
    return found


def sampling(process: int, size: str = "cpu") -> dict[str, list[float]]:
    """{"sample", "generate": [response tokens a second, the best of three, first and second time]}."""
    how = SIZES[size]
    rounds = [against_generate("cpu", how.prompts, how.responses, how.limit) for _ in range(2)]
    return {name: [each[name] for each in rounds] for name in ("sample", "generate")}


@contextlib.contextmanager
def usual_memory() -> Iterator[None]:
    """Processes that begin in here give blocks back as they do by default. A job's worker keeps them, which would count as held."""
    kept = {name: os.environ.pop(name) for name in WORKER_ENVIRONMENT if name.startswith("MALLOC_") and name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
