"""Models that think while they read, for lm-eval: a prompt of questions.py is cut into segments, and what is written is kept.

    lm = thinking_lm(model, tokenizer, card, depth=3)          batch, streaming or interleaved, as the card of a training says
    evaluate(lm, "gsm_symbolic", limit=100)                     accuracy, tokens, tokens waited, delay by the event model

An answer is a `Thinking`, a text that knows the lengths of its segments and units. A batch original, which has learnt none of this, is
asked by `common.benchmarks.sampled.sampling_lm` with the same prompts and the suffix SUFFIX. All decode greedily.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from common.benchmarks.sampled import Response
from common.errors import TaskError
from common.progress import progress
from common.reasoning.verifiers import response_text
from common.streaming.batched import Row, Written, decode, interleaved

from . import latency
from .questions import ORDERS, grade, parts_of, prompt_of
from .worded import Chat

TASKS = Path(__file__).parent / "tasks"
SUFFIX = "\n\nThink step by step, and put the final answer within \\boxed{}."
WAYS = {"streaming": "streaming", "batch": "batch", "interleaved": "blocking"}  # whose delay the paper prints


@dataclass(frozen=True)
class Trace:
    """Of one answer: words and tokens of each segment in the order in which they came, tokens of each unit, m as of latency.simulate,
    and whether something was cut."""

    words: tuple[int, ...]
    read: tuple[int, ...]
    units: tuple[int, ...]
    m: int
    truncated: bool

    def waited(self, layout: str) -> int:
        return latency.waited(self.read, "batch" if layout == "batch" else "streaming")

    def delay(self, way: str) -> float:
        return latency.simulate(way, self.words, self.units, self.m).delay


def answered(tokenizer, rest: Sequence[int], answer: int, stop: int) -> str:
    """What is graded of the tokens behind the cue: the text behind the end of reasoning. Without that end there is no answer, whatever
    the reasoning has put into boxes."""
    return response_text(tokenizer, rest[rest.index(answer) + 1 :], {stop}) if answer in rest else ""


class Thinking(Response):
    """A `Response` with its `Trace`."""

    trace: Trace

    def __new__(cls, text: str, tokens: int, trace: Trace):
        self = super().__new__(cls, text, tokens, not trace.truncated)
        self.trace = trace
        return self


def segments_of(chat: Chat, prompt: str, order: str, whole: bool = False) -> tuple[list[list[int]], list[int]]:
    """(tokens, words) of question and sentences, in the order in which they come; whole: of all of it as one."""
    if order not in ORDERS:
        raise TaskError(f"order {order!r}: one of {', '.join(ORDERS)} (first)")
    question, context = parts_of(prompt)
    if whole:
        text = prompt_of({"question": question, "context": context}, order == "context")
        return [chat.segment(text, question=True)], [len(text.split())]
    asked, told = (chat.segment(question, question=True), len(question.split())), [(chat.segment(s), len(s.split())) for s in context]
    pairs = [asked, *told] if order == "question" else [*told, asked]
    return [tokens for tokens, _ in pairs], [words for _, words in pairs]


def chat_of(model, tokenizer, card: Mapping[str, Any]) -> Chat:
    cues = {int(depth): text for depth, text in (card.get("cues") or {}).items()} or None
    more = {"instruction": card["instruction"]} if card.get("instruction") else {}
    return Chat.of(tokenizer, model.get_input_embeddings().weight.shape[0], cues=cues, **more)


def thinking_lm(model, tokenizer, card: Mapping[str, Any], depth: int, rows: int = 8, unit_cap: int = 256):
    """An lm_eval.api.model.LM. card: streamingthinker.json of a training (layout, positions, start, instruction, cues, context_first,
    whole). rows: that are written at a time. unit_cap: not of a whole chain of thought, which may be as long as what is asked for.
    TaskError for what is not greedy, a card of no layout, or a depth that it has no cue of."""
    from lm_eval.api.model import LM

    layout, order = card["layout"], "context" if card.get("context_first") else "question"
    if layout not in WAYS:
        raise TaskError(f"layout {layout!r}: one of {', '.join(WAYS)}")
    chat = chat_of(model, tokenizer, card)
    tokens = chat.tokens()
    if depth not in tokens.cues:
        raise TaskError(f"depth {depth}: there is {', '.join(map(str, sorted(tokens.cues)))}")
    how: dict[str, Any] = dict(ends=set(tokens.ends), boundary=tokens.boundary, stop=tokens.stop)
    whole = bool(card.get("whole"))
    start = None if card.get("positions") == "rope" else card.get("start", 0)

    def think(batch: Sequence[Row], cap: int) -> list[Written]:
        caps = dict(unit_cap=cap if whole else unit_cap, rest_cap=cap)
        if layout == "interleaved":
            return interleaved(model, batch, **caps, **how)
        return decode(model, batch, visible="units" if layout == "streaming" else "all", start=start, **caps, **how)

    class ThinkingLM(LM):
        tokenizer_name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__

        def generate_until(self, requests, disable_tqdm: bool = False) -> list[Response]:
            found: list[Response] = []
            for at in progress(range(0, len(requests), rows), f"{layout}, D{depth}: batches of {rows}"):
                asked = requests[at : at + rows]
                cap = _cap([request.args[1] for request in asked])
                cut = [segments_of(chat, request.args[0], order, whole) for request in asked]
                batch = [Row([tokens.instruction, *segments], tokens.header, tokens.cues[depth], tokens.closing) for segments, _ in cut]
                for (segments, words), row in zip(cut, think(batch, cap)):
                    # the forced cue, what is written up to the end of reasoning, and the first token of the answer
                    deep = row.rest.index(tokens.answer) + 2 if tokens.answer in row.rest else len(row.rest)
                    trace = Trace(tuple(words), tuple(map(len, segments)), tuple(map(len, row.units)),
                                  len(tokens.cues[depth]) + deep, row.truncated)
                    text = answered(tokenizer, row.rest, tokens.answer, tokens.stop)
                    found.append(Thinking(text, row.tokens + len(tokens.cues[depth]), trace))
            return found

        def loglikelihood(self, requests, disable_tqdm: bool = False):
            raise TaskError("a model that thinks while it reads is asked to write; likelihoods are common.benchmarks.language's")

        loglikelihood_rolling = loglikelihood

    return ThinkingLM()


def _cap(asked: Sequence[Mapping]) -> int:
    """max_gen_toks of requests that ask for greedy writing and nothing else, else TaskError."""
    for kwargs in asked:
        if kwargs.get("do_sample") or kwargs.get("until") or "max_gen_toks" not in kwargs:
            raise TaskError(f"writing is greedy, ends where the model ends it or at max_gen_toks, and cannot take {dict(kwargs)}")
    return min(int(kwargs["max_gen_toks"]) for kwargs in asked)


def evaluate(lm, name: str, *, layout: str, context_first: bool = False, data: str | Path | None = None, limit: int | None = None,
             cap: int = 2048) -> dict[str, Any]:
    """{"right", "tokens", "waited", "heard", "delay": {way: s}, "truncated": means; "correct": by item} of a task. layout: of a training,
    or "original" for a model of common.benchmarks.sampled, whose thinking begins with the last word. context_first: of an original's
    prompt; a training has its own order."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    original = layout == "original"
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata={
        "data": str(data) if data else None, "limit": limit, "suffix": SUFFIX if original else "",
        "context_first": original and context_first})
    task = manager.load([f"{name}_thinking"])["tasks"][f"{name}_thinking"]
    output = simple_evaluate(model=lm, tasks=[task], task_manager=manager, gen_kwargs={"do_sample": False, "max_gen_toks": cap},
                             predict_only=True, bootstrap_iters=0, apply_chat_template=original, random_seed=None,
                             numpy_random_seed=None, torch_random_seed=None)
    samples = sorted(output["samples"][f"{name}_thinking"], key=lambda sample: sample["doc_id"])
    answers = [sample["resps"][0][0] for sample in samples]
    right = grade(samples[0]["doc"]["kind"], answers, [sample["doc"]["answer"] for sample in samples])
    found = {"right": fmean(right), "tokens": fmean(answer.tokens for answer in answers), "items": len(answers),
             "truncated": fmean(not answer.finished for answer in answers), "correct": [int(ok) for ok in right],
             "harness": f"lm-eval {version('lm-eval')}"}
    if original:
        costs = latency.Costs()
        return found | {"delay": {"batch": fmean(costs.whole + costs.tau * answer.tokens for answer in answers)}}
    traces = [answer.trace for answer in answers]
    ways = ("blocking", "buffered") if layout == "interleaved" else (WAYS[layout],)
    return found | {"waited": fmean(trace.waited(layout) for trace in traces), "heard": fmean(sum(trace.read) for trace in traces),
                    "delay": {way: fmean(trace.delay(way) for trace in traces) for way in ways}}


def read_card(folder: Path) -> dict[str, Any]:
    """streamingthinker.json beside a product."""
    return json.loads((folder / "streamingthinker.json").read_text(encoding="utf-8"))
