"""Real questions (gsm_symbolic): how many align by rule, and SmolLM2-135M with an adapter for each way to think. Asked for by name.

    aligned     without any model: which questions survive, and as the placebo, another question's worked lines
    symbolic    three rank-4 adapters (batch, interleaved, streaming), tuned for as many steps on the same aligned questions, answer
                questions of templates that no training has; untuned streaming is the placebo. Hours: each adapter is a job
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from common.lora import LoraSpec, add_lora
from common.models import SMOLLM2, ModelSpec, load
from common.progress import progress
from common.runs.jobs import Job
from common.streaming.batched import Row, Written, decode, interleaved

from .. import latency, method, standins, symbolic
from ..symbolic import Aligned, Lines

WAYS = {"untuned": standins.Arm("streaming"), "batch": standins.Arm("batch", "rope", mode="batch"),
        "interleaved": standins.Arm("interleaved", mode="interleaved"), "streaming": standins.Arm("streaming")}
SEED = 0


@dataclass(frozen=True)
class Size:
    """questions that are drawn; test questions; tuning; caps of a unit and of the rest; model: a random one in the place of SmolLM2."""

    drawn: int
    test: int
    tuning: standins.Tuning
    caps: tuple[int, int] = (96, 96)
    random: bool = False


SIZES = {"smoke": Size(60, 2, standins.Tuning(1, 2, 1e-3, 1), (2, 2), True),
         "cpu": Size(6000, 200, standins.Tuning(400, 8, 2e-3, 20))}


def aligned_jobs(size: str = "cpu") -> list[Job]:
    return [Job("aligned", f"{__name__}:aligned", {"size": size}, seconds=10)]


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"symbolic/{way}", f"{__name__}:run", {"way": way, "size": size}, seconds=600 if way == "untuned" else 9000)
            for way in WAYS]


def aligned(size: str = "cpu") -> dict:
    """{"survives", "swapped": 0 or 1 by question, the second with the next question's lines; "templates": of each; "reasons": {why: how
    many}, "skipped": share of units}."""
    count = min(SIZES[size].drawn, 1500)
    found = symbolic.surveyed(count, SEED)
    rows = [row for _, row in symbolic.rows(count, SEED)]
    swapped = [symbolic.align(a["question"], b["metadata"]["answer_cot"], b["answer"]) for a, b in zip(rows, [*rows[1:], rows[0]])]
    kept = [one for _, one in found if isinstance(one, Aligned)]
    return {"survives": [int(isinstance(one, Aligned)) for _, one in found], "swapped": [int(isinstance(one, Aligned)) for one in swapped],
            "templates": [template for template, _ in found],
            "reasons": {why: sum(one == why for _, one in found) for why in symbolic.REASONS},
            "skipped": fmean(unit == symbolic.SKIP for one in kept for unit in one.units)}


def run(way: str, size: str = "cpu") -> dict:
    """{"correct", "templates": by question; "units": share right word for word, "waited": % fewer tokens, "delay": % less by the event
    model, "truncated", "losses": every 10th}."""
    how, of = SIZES[size], WAYS[way]
    train, test = symbolic.split([one for _, one in symbolic.surveyed(how.drawn, SEED) if isinstance(one, Aligned)])
    model, words = opened(how)
    losses: list[float] = []
    if way != "untuned":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            add_lora(model, LoraSpec(rank=4, alpha=8, dropout=0.0))
        losses = standins.tune(model, of, SEED, how.tuning, lambda step, seed, tuning: rows_at(step, train, words, seed, tuning.rows))
    asked = [test[int(i)] for i in np.random.default_rng(SEED).permutation(len(test))[: how.test]]
    found = written(model.eval(), words, asked, of, how.caps)
    right = [words.answered(row.rest) == one.answer for one, row in zip(asked, found)]
    units = [row.units[i : i + 1] == [words.line(unit)] for one, row in zip(asked, found) for i, unit in enumerate(one.units)]
    segments = [[len(words.line(s)) for s in one.sentences] for one in asked]
    return {"correct": [int(ok) for ok in right], "templates": [one.template for one in asked], "units": fmean(units),
            "waited": fmean(100 * (1 - latency.waited(s) / sum(s)) for s in segments), "delay": fmean(map(reduced, asked, found)),
            "truncated": fmean(row.truncated for row in found), "losses": losses[::10]}


def opened(how: Size) -> tuple[torch.nn.Module, Lines]:
    """(model, its words)."""
    of = load(SMOLLM2)
    if how.random:
        config = dict(model_type="llama", vocab_size=of.model.config.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                      num_attention_heads=2, num_key_value_heads=2)
        return load(ModelSpec("random", config=config)).model, Lines.of(of.tokenizer)
    return of.model, Lines.of(of.tokenizer)


def rows_at(step: int, train: Sequence[Aligned], words: Lines, seed: int, rows: int) -> list[method.Segments]:
    """The same for every adapter."""
    return [words.segments(train[int(i)]) for i in np.random.default_rng([seed, 41, step]).integers(len(train), size=rows)]


def written(model, words: Lines, asked: Sequence[Aligned], of: standins.Arm, caps: tuple[int, int], together: int = 10) -> list[Written]:
    """What the model writes, greedily, a few questions at a time."""
    tokens, found = words.tokens(), []
    how = dict(ends=set(tokens.ends), boundary=tokens.boundary, stop=tokens.stop, unit_cap=caps[0], rest_cap=caps[1])
    for at in progress(range(0, len(asked), together), f"{of.mode}: questions in batches of {together}"):
        rows = [Row([tokens.instruction, *map(words.line, one.sentences)], tokens.header, tokens.cues[2], tokens.closing)
                for one in asked[at : at + together]]
        if of.mode == "interleaved":
            found += interleaved(model, rows, **how)
        else:
            found += decode(model, rows, visible="all" if of.mode == "batch" else "units", start=of.runs_from, **how)
    return found


def reduced(one: Aligned, row: Written) -> float:
    """Delay of what was written against batch on the same trace, in %, event model."""
    words = [len(sentence.split()) for sentence in one.sentences]
    return latency.reduction("streaming", words, [len(unit) for unit in row.units], max(len(row.rest), 1))
