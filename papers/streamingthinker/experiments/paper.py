"""The paper's own tables: models that you trained with configs/cuda, on its six tasks, at the depths that they have learnt.

    make reproduce-streamingthinker RUNG=paper

looks in `lightning_logs/streamingthinker/` (another folder: STREAMINGTHINKER_RUNS) for what trainings leave, `<run>/model`, where a run
is called as its config: qwen3-4b_streaming_d3 is base, layout (with -context: the question comes last), depth. Each base is asked
untuned, too ("qwen3-4b_original"), whole and in its own chat. What is asked stands in configs/cuda/benchmarks.json.

Delays are the event model's, from the lengths of what was written, as the paper's are; and, for streaming, the clock's: two workers
(CUDA streams, or threads) and a source that speaks `seconds_a_word`, on the first `clock_items` of one task.

Scores are kept beside a model in `<run>/benchmarks/`, with the hash of its weights and all that was asked: a run that was killed goes on
with the next task, and a run that was trained anew is scored anew.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from common.benchmarks.kept import kept
from common.benchmarks.sampled import sampling_lm
from common.errors import UserError
from common.models import Loaded, ModelSpec, load
from common.streaming.two_streams import TwoStreams

from .. import harness, questions
from ..reasoner import Event, Reasoner

ASKED = Path(__file__).parent.parent / "configs" / "cuda" / "benchmarks.json"

COUNTS = ("items", "cap", "unit_cap", "rows")
CARD = ("layout", "positions", "start", "instruction", "cues", "context_first", "whole")  # how a model is asked; and `how`, all but:
NOT_OF_A_SCORE = ("tasks", "rows")


def runs_folder() -> Path:
    return Path(os.environ.get("STREAMINGTHINKER_RUNS", "lightning_logs/streamingthinker"))


def asked(path: Path = ASKED) -> dict[str, Any]:
    """The entries of benchmarks.json. Raises UserError naming the one that is wrong."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if odd := [name for name in found["tasks"] if name not in questions.TASKS]:
        raise UserError(f"{path.name}: {odd[0]!r} is no task; there is {', '.join(questions.TASKS)}")
    if found["clock_task"] not in questions.TASKS or min(found[n] for n in COUNTS) < 1 or found["clock_items"] < 0:
        raise UserError(f"{path.name}: {', '.join(COUNTS)} are 1 or more, clock_items 0 or more, clock_task one of the tasks")
    return found


def measure(folder: Path, log: Callable[[str], None]) -> dict[str, dict]:
    """Of the paper rung; scores stand beside the models and not in the folder of the rung."""
    return measure_paper(log)


def measure_paper(log: Callable[[str], None] = print, device: str = "cuda", how: dict[str, Any] | None = None,
                  data: Path | str | None = None) -> dict[str, dict]:
    """{run: {"layout", "depth", "by": {task: what harness.evaluate gives}, "clock"}} of the runs that are there and of their bases.

    how: as benchmarks.json. data: in the place of NINEFOLD_DATA. Raises UserError, with what is needed, without a GPU or without a
    trained model.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("rung paper needs a GPU of 80 GB (none is visible), the hub, and models trained with configs/cuda; see "
                        "papers/streamingthinker/README.md, section Run it")
    runs = sorted(p.parent.parent for p in runs_folder().glob("*/model/streamingthinker.json"))
    if not runs:
        raise UserError(f"rung paper found no trained model in {runs_folder().name}/: train one with configs/cuda, and set "
                        "STREAMINGTHINKER_RUNS to the folder that holds the runs")
    how, found = asked() if how is None else how, {}
    for run in runs:
        card = harness.read_card(run / "model")
        last = bool(card.get("context_first"))
        original = f"{run.name.partition('_')[0]}_original{'-context' * last}"
        if original not in found:
            spec, untuned = ModelSpec(card["trained_from"], revision=card.get("revision")), {"layout": "original", "context_first": last}
            found[original] = {"layout": "original", "depth": 0,
                               "by": by_task(runs_folder() / original, spec, untuned, 0, how, device, log, data)}
        for depth in card["depths"]:
            name = run.name if len(card["depths"]) == 1 else f"{run.name}_d{depth}"
            spec = ModelSpec(str(run / "model"))
            by = by_task(run, spec, card, depth, how, device, log, data)
            clock = by.pop("clock", None)
            found[name] = {"layout": card["layout"], "depth": depth, "by": by} | ({"clock": clock} if clock else {})
    return found


def by_task(run: Path, spec: ModelSpec, card: dict, depth: int, how: dict[str, Any], device: str, log: Callable[[str], None],
            data: Path | str | None) -> dict[str, dict]:
    """Scores of a model, one task after the other, and the clock's; what is kept of these very weights is read."""
    found: dict[str, dict] = {}
    of = load(replace(spec, dtype="bfloat16" if device == "cuda" else "float32", device=device))
    about = {"weights_sha256": of.source["weights_sha256"], "dtype": str(of.model.dtype), "data": data,
             "card": {entry: card.get(entry) for entry in CARD},
             "asked": {entry: value for entry, value in how.items() if entry not in NOT_OF_A_SCORE}}

    def once(name: str, make: Callable[[], dict]) -> dict:
        def made() -> dict:
            log(f"{run.name}, D{depth}: {name}")
            return make()

        task = how["clock_task"] if name == "clock" else name
        row = kept(run / "benchmarks" / f"{name}.d{depth}.json", about | {"items": questions.source_of(task, data)}, made, log)
        return {entry: value for entry, value in row.items() if entry != "of"}

    def score(task: str) -> dict:
        lm = sampling_lm(of.model, of.tokenizer, rows=how["rows"]) if card["layout"] == "original" else harness.thinking_lm(
            of.model, of.tokenizer, card, depth, how["rows"], how["unit_cap"])
        return harness.evaluate(lm, task, layout=card["layout"], context_first=bool(card.get("context_first")), data=data,
                                limit=how["items"], cap=how["cap"])

    for task in how["tasks"]:
        found[task] = once(task, lambda task=task: score(task))
    if card["layout"] == "streaming" and how["clock_items"]:
        found["clock"] = once("clock", lambda: clock(of, card, depth, how, device, data))
    return found


# -- by the clock ------------------------------------------------------------------------------------------
def clock(of: Loaded, card: dict, depth: int, how: dict[str, Any], device: str, data: Path | str | None = None) -> dict[str, Any]:
    """{"first": s from the stream's start to the first written token (table 4), "delay": s from the last word to the first answer token,
    "join": s of all views on the two parts of an example's cache, "items", "truncated"}: means, with a reader and a writer at once; on CUDA
    "peak": most MiB of weights, caches and passes while an item is thought about."""
    chat = harness.chat_of(of.model, of.tokenizer, card)
    order = "context" if card.get("context_first") else "question"
    firsts, delays, joins, peaks, cut = [], [], [], [], 0
    for item in questions.load_items(how["clock_task"], data, how["clock_items"]):
        segments, words = harness.segments_of(chat, questions.prompt_of(item), order)
        times: dict[str, float] = {}

        def spoken(segments=segments, words=words, times=times) -> Iterator[list[int]]:
            times["began"] = due = time.perf_counter()
            for segment, n in zip(segments, words):
                due += how["seconds_a_word"] * n
                time.sleep(max(0.0, due - time.perf_counter()))
                times["last"] = time.perf_counter()
                yield segment

        def choose(logits: torch.Tensor, times=times) -> int:
            chosen = int(logits.argmax())  # waits for the device
            times.setdefault("first", time.perf_counter())
            return chosen

        def told(event: Event, times=times) -> None:
            if event.kind in ("answer", "end"):
                times.setdefault("answer", time.perf_counter())

        reasoner = Reasoner(of.model, chat.tokens(), card.get("start", 0), unit_cap=how["unit_cap"], rest_cap=how["cap"], choose=choose)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        thought = reasoner.think(spoken(), depth, "streams" if device == "cuda" else "threads", told)
        if device == "cuda":  # before `joining`, which fills a cache of its own beside that of the thought
            peaks.append(torch.cuda.max_memory_allocated() / 2**20)
        cut += thought.truncated
        joins.append(joining(of.model, segments, sum(map(len, thought.units)) + len(thought.rest)))
        firsts.append(times["first"] - times["began"])
        delays.append(times["answer"] - times["last"])
    peak = {"peak": max(peaks)} if peaks else {}
    means = dict(zip(("first", "delay", "join"), map(fmean, (firsts, delays, joins))))
    return means | {"items": len(firsts), "truncated": cut / len(firsts)} | peak


def joining(model, segments: list[list[int]], written: int, tries: int = 20) -> float:
    """Seconds that the two parts of a cache take to be opened apart and together: a view for each segment that is read and for each token
    that is written (where the paper splits and merges once a segment)."""
    two = TwoStreams(model)
    for segment in segments:
        two.read(segment)

    def of(view: Callable[[], object]) -> float:
        began = time.perf_counter()
        for _ in range(tries):
            view()
        return (time.perf_counter() - began) / tries

    return len(segments) * of(two.cache.reader) + written * of(lambda: two.cache.writer(two.source_length))
