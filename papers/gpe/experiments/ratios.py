"""What a READ and a WRITE of one word cost beside a plain cached step of the stock model, at equal cache length, in three processes.

    make reproduce-gpe ONLY=ratios              the machine should have nothing else to do

A live session (session.py) at SmolLM2-135M's dimensions holds half of the cached tokens as source, half as target; words are of one
token, which shows that the word ends with it. A READ is then one pass of one token, and the WRITE behind it another, of the token that was
chosen before. Beside them, in turn and upon as many cached tokens, goes one step of the stock model, whose cache has room for what
comes (timing/decoding.py), so that it copies nothing. Placebos, which must cost more: a READ that encodes the source anew, without a
cache, and the WRITE of KV re-encoding, which encodes the whole target again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.streaming.words import Boundary
from common.timing.cases import in_a_process
from common.timing.clock import facts
from common.timing.decoding import Room

from .. import method
from ..analytic import SMOLLM2_135M, Shape
from ..session import Session

PLAIN, READ, WRITE, READ_ANEW, WRITE_ANEW = "plain", "read", "write", "read anew", "write anew"
WORD, STOP = 1, 0  # every word is this one token


@dataclass(frozen=True)
class Size:
    """lengths: cached tokens at the beginning, even. rounds: each of a READ, a WRITE and two plain steps, behind one that warms up.
    anew: rounds of the placebos. processes: how many, each a job."""

    shape: Shape
    lengths: tuple[int, ...]
    rounds: int
    anew: int
    processes: int


SIZES = {"cpu": Size(SMOLLM2_135M, (16, 256, 1500), rounds=20, anew=3, processes=3),
         "smoke": Size(Shape(32, 64, 2, 2, 1, 16, 64, tied=True, name="tiny"), (4, 16), rounds=2, anew=2, processes=3)}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"ratios/process{i}", f"{__name__}:one_process", {"process": i, "size": size},
                seconds=60.0 if size == "cpu" else 1.0) for i in range(SIZES[size].processes)]


def one_process(process: int, size: str = "cpu") -> dict[str, Any]:
    """`measured` where nothing else has run."""
    return measured(process, size) if size == "smoke" else in_a_process(measured, process, size)


def measured(process: int, size: str) -> dict[str, Any]:
    """{"settings", "seconds": {cached tokens: {"plain", "read", "write", "read anew", "write anew": of each round}}}."""
    n = SIZES[size]
    spec = ModelSpec("random", config=n.shape.config(max_position_embeddings=8192), device="cpu", dtype="float32", seed=process)
    model = load(spec).model
    return {"settings": facts("cpu") | {"shape": n.shape.name},
            "seconds": {str(length): at_length(model, length, n.rounds, n.anew) for length in n.lengths}}


# -- what is timed -----------------------------------------------------------------------------------------
class OneWord(Session):
    """A session that writes the same one-token word for ever: the model answers, and its answer is overruled."""

    def _choose(self, logits: Tensor, inside: bool) -> int:
        super()._choose(logits, inside)
        return WORD


def session_at(model: nn.Module, length: int, arm: str) -> OneWord:
    """Half of `length` tokens read, half fed as target, and the last of these chosen before the last READ: as in the midst of a stream."""
    session = OneWord(model, method.arm(arm), Boundary("ends", torch.tensor([False, True]), STOP), [WORD] * (length // 2))
    session.read([WORD] * (length // 2))
    session.write()
    return session


class Plain:
    """The stock model, one token at a time behind `length` cached ones, with room for `more`."""

    def __init__(self, model: nn.Module, shape: Any, length: int, more: int):
        size = 1, shape.num_key_value_heads, length + more, shape.head_dim
        self.model, self.at = model, length
        self.cache = Cache(layers=[Room(*torch.randn(2, *size, dtype=model.dtype), length) for _ in range(shape.num_hidden_layers)])

    @torch.no_grad()
    def step(self) -> int:
        positions = torch.tensor([[self.at]])
        self.at += 1
        out = self.model(input_ids=torch.tensor([[WORD]]), position_ids=positions, past_key_values=self.cache, use_cache=True)
        return int(out.logits[0, -1].argmax())


def at_length(model: nn.Module, length: int, rounds: int, anew: int,
              clock: Callable[[], float] = time.perf_counter) -> dict[str, list[float]]:
    """Seconds of each round; both caches grow by two tokens a round. A round's plain time is the mean of its two steps."""
    session, again = session_at(model, length, "group"), session_at(model, length, "kv_reencoding")
    plain = Plain(model, model.config, length, 2 * (rounds + 1))
    found: dict[str, list[float]] = {name: [] for name in (PLAIN, READ, WRITE, READ_ANEW, WRITE_ANEW)}

    def timed(fn: Callable[[], Any]) -> float:
        began = clock()
        fn()
        return clock() - began

    for number in range(-1, rounds):  # round -1 warms up
        step = timed(plain.step)
        read = timed(lambda: session.read([WORD]))
        write = timed(session.write)
        step = (step + timed(plain.step)) / 2
        if number >= 0:
            for name, seconds in ((PLAIN, step), (READ, read), (WRITE, write)):
                found[name].append(seconds)
    source = torch.full((1, length // 2 + 1), WORD)
    for number in range(-1, anew):
        with torch.no_grad():
            read = timed(lambda: model(input_ids=source, use_cache=True, logits_to_keep=1))
        again.read([WORD])
        write = timed(again.write)
        if number >= 0:
            found[READ_ANEW].append(read)
            found[WRITE_ANEW].append(write)
    return found
