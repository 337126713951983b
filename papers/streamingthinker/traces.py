"""Streaming chains of thought from a language model, in the form that training reads: section 3.1 and app. C (no code was released).

    python -m papers.streamingthinker.traces --problems FILE --out OUT --generator Qwen/Qwen3-32B [--teacher MODEL] [--engine vllm]

Problems are JSON lines {"question", "context" (a text, or sentences), "answer"}; --out gets rows that `data.JsonTraces` reads. In turn:

    1  the generator writes a unit for each sentence, in order (RULES; one example)
    2  the teacher, where there is one, rewrites units so that they and the sentences pair one to one, and adds nothing (REWRITE)
    3  the gate of curation.py: what it drops goes no deeper, which is where most tokens are spent
    4  depths by intervention: the generator goes on behind its own units and the cue of D2, to the answer; then, behind "Wait", to the
       check of D3, and each has to come to the right answer. D1 is the same trace without what lies between, and the loader leaves it out

or, with --whole, an ordinary chain of thought about all of the input at once, kept where its answer is right: what the paper's Batch SFT
is trained on (`data.whole`).

What fails is generated once more, then dropped: OUT.dropped says, a line a failure, of which problem, why, and what had been written.

A generator is any `Writer` (replies.py). `model_writer` makes one of a
transformers model or of vLLM; one model is open at a time, so that the two need not fit beside each other, and replies are kept beside
--out as they come: a killed command goes on from there. The prompts are ours: the paper prints a gist, and its depths' texts are not known.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.benchmarks.kept import named
from common.data.text import is_text
from common.errors import DataError, UserError
from common.files import write_atomic
from common.reasoning.verifiers import after_thinking, last_boxed

from . import curation
from .curation import PASSES, SKIP, Gate, Trace, generate
from .data import MARKS, boxed, read_row, rows_of
from .harness import SUFFIX
from .questions import answer_of, grade, normal, prompt_of, sentences
from .replies import Writer, in_turn, model_writer, remembered, writable
from .worded import CUES

CHECK = "Wait, let me check that again."
EXAMPLE = ("How many apples has Ann? <EOQ> Ann has 3 apples. <EOS> It rains. <EOS> Bob gives her 2 more. <EOS>\n"
           "The question is how many apples Ann has in the end. <EOQ> Ann starts with 3 apples. <EOT> <Skip> <EOT> With Bob's 2 she "
           "has 3 + 2 = 5. <EOT>")
RULES = ("You reason while a text is being read to you: first a question, which ends with <EOQ>, then sentences, each of which ends with "
         "<EOS>. Write one short unit of reasoning for each of them, in their order, and leave none out. Say what is asked and end with "
         "<EOQ>; then for each sentence say in your own words what it tells, clear up what is unclear, or do the small step that follows "
         "from it and from what you have written, and end with <EOT>. Where a sentence does not matter, write <Skip> <EOT>. Use nothing "
         "that comes later, assume nothing that is not said, and write no summary and no answer at the end.\n\nExample:\n{example}\n\n"
         "Text:\n{text}")
REWRITE = ("Here is a text in marked sentences and a reasoning in marked units that goes with it. Rewrite the units so that each belongs "
           "to one sentence, in the same order: a unit may use its own sentence and those before it, and nothing that comes later; none "
           "stands for two sentences or comes late, none repeats its sentence word for word, and nothing is added to what the reasoning "
           "says. Where a sentence does not matter the unit is <Skip>. Keep the marks: one <EOQ>, then one <EOT> a sentence. Write the "
           "units alone.\n\nText:\n{text}\n\nReasoning:\n{units}")
ANSWER = "\n\nWhen you have written the last unit, think once more as a whole, and put the final answer within \\boxed{}."

AT_ONCE = {"transformers": 16, "vllm": 512}  # replies that a kill loses at most
CAP, WHOLE_CAP = 1024, 3072  # a whole chain is 400 to 1,250 tokens long in the mean of a task (table 1), and one that is cut has no answer


@dataclass(frozen=True)
class Problem:
    """sentences: the question first."""

    sentences: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        return marked(self.sentences, "<EOS>")


def marked(parts: Sequence[str], end: str) -> str:
    """The first part with <EOQ> behind it, the others with `end`."""
    return " ".join(f"{part} {'<EOQ>' if i == 0 else end}" for i, part in enumerate(parts))


def units_of(text: str) -> tuple[str, ...]:
    """The units of a reply; what stands behind the last mark is one too many, so that the gate sees it. () where a thought never ends."""
    plain = after_thinking(text)
    *units, rest = (" ".join(part.split()) for part in MARKS.split(plain or "")[::2])
    return (*units, *([rest] if rest else []))


def well_marked(text: str) -> bool:
    """Whether the marks of a reply are the ones that belong there, <EOQ> once and then <EOT>, and no unit both skips and tells.

    Behind the last mark stands nothing: a reply that ends at its cap has half a unit there.
    """
    *units, rest = MARKS.split(after_thinking(text) or "")[::2]
    marks = MARKS.findall(after_thinking(text) or "")
    whole = not rest.strip() and marks == ["EOQ", "EOT", *["EOT"] * (len(marks) - 2)]
    return whole and not any(SKIP in unit and unit.strip() != SKIP for unit in units)


# -- from problems to rows ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Dropped:
    """problem: its number. attempt: 0, 1, ... why: a reason of the gate; "marks" where units pair and their marks are not those that were
    asked for; "answer" where a depth comes to another one. wrote: the units, or what that depth says."""

    problem: int
    attempt: int
    why: str
    wrote: tuple[str, ...]


def make_rows(problems: Sequence[Problem], writer: Writer, gate: Gate, teacher: Writer | None = None, kind: str = "number",
              passes: int = PASSES) -> tuple[list[dict[str, Any]], list[Dropped]]:
    """(rows in the released form, with "self_check"; each failure, in the order in which they came). kind: how an answer is graded, as of
    `questions.Task`."""
    rows: dict[int, dict[str, Any]] = {}
    dropped: list[Dropped] = []

    def passed(of: dict[int, Any], why: Callable[[int, Any], str | None], wrote: Callable[[Any], tuple[str, ...]]) -> dict[int, Any]:
        reasons = {i: why(i, one) for i, one in of.items()}
        dropped.extend(Dropped(i, attempt, reason, wrote(of[i])) for i, reason in reasons.items() if reason)
        return {i: one for i, one in of.items() if not reasons[i]}

    def deeper(begun: dict[int, str]) -> dict[int, str]:
        """What the generator goes on with, where it comes to the right answer."""
        asked = [(RULES.format(example=EXAMPLE, text=problems[i].text) + ANSWER, text) for i, text in begun.items()]
        found = dict(zip(begun, map(_whole, writer(asked, attempt))))
        right = dict(zip(found, grade(kind, list(found.values()), [problems[i].answer for i in found]))) if found else {}
        return passed(found, lambda i, text: None if right[i] else "answer", lambda text: (text,))

    for attempt in range(passes):
        left = [i for i in range(len(problems)) if i not in rows]
        replies = passed(_replies([problems[i] for i in left], left, writer, teacher, attempt),
                         lambda i, reply: reason(problems[i], reply, gate), units_of)
        units = {i: marked([unit or SKIP for unit in units_of(reply)], "<EOT>") for i, reply in replies.items()}
        deep = deeper({i: f"{text} {CUES[2]}" for i, text in units.items()})
        checks = deeper({i: f"{units[i]} {CUES[2]} {text} {CHECK}" for i, text in deep.items()})
        rows |= {i: row_of(problems[i], units[i], deep[i], check) for i, check in checks.items()}
    return [rows[i] for i in sorted(rows)], dropped


def _replies(of: Sequence[Problem], numbers: Sequence[int], writer: Writer, teacher: Writer | None, attempt: int) -> dict[int, str]:
    """Units as the generator, and then the teacher, wrote them."""
    found = writer([(RULES.format(example=EXAMPLE, text=problem.text), "") for problem in of], attempt)
    if teacher:
        found = teacher([(REWRITE.format(text=problem.text, units=marked(units_of(reply), "<EOT>")), "")
                         for problem, reply in zip(of, found)], attempt)
    return dict(zip(numbers, found))


def reason(problem: Problem, reply: str, gate: Gate) -> str | None:
    """Why units are dropped, None where they are kept. Their answer is not known yet."""
    trace = Trace(problem.sentences, units_of(reply))
    (by,) = generate([(trace.sentences, "")], lambda sentences, attempt: trace, gate, passes=1).dropped
    return next(iter(by), None if well_marked(reply) else "marks")


def by_pass(dropped: Sequence[Dropped], passes: int) -> list[dict[str, int]]:
    """How many were dropped for each reason, by pass."""
    return [dict(Counter(one.why for one in dropped if one.attempt == attempt)) for attempt in range(passes)]


def make_whole_rows(problems: Sequence[Problem], writer: Writer, kind: str = "number",
                    passes: int = PASSES) -> tuple[list[dict[str, Any]], list[Dropped]]:
    """The paper's Batch SFT (spec 3.8): an ordinary chain of thought about the whole input, kept where its answer is right. All of the
    input is the question of a row, and the chain is the question's unit."""
    rows: dict[int, dict[str, Any]] = {}
    dropped: list[Dropped] = []
    asked = [prompt_of({"question": problem.sentences[0], "context": problem.sentences[1:]}) for problem in problems]
    for attempt in range(passes):
        left = [i for i in range(len(problems)) if i not in rows]
        found = list(map(_whole, writer([(asked[i] + SUFFIX, "") for i in left], attempt)))
        right = grade(kind, found, [problems[i].answer for i in left]) if left else []
        for i, text, ok in zip(left, found, right):
            if ok:
                rows[i] = {"Instruct_Context": {"context": "", "instruct": f"{asked[i]} <EOQ>"},
                           "streaming_reasoning": f"{unboxed(text)} <EOQ>", "deep_reasoning": "<EOR>",
                           "answer": f"\\boxed{{{problems[i].answer}}}"}
            else:
                dropped.append(Dropped(i, attempt, "answer", (text,)))
    return [rows[i] for i in sorted(rows)], dropped


def _whole(text: str) -> str:
    return " ".join((after_thinking(text) or "").split())


def row_of(problem: Problem, units: str, deep: str, check: str) -> dict[str, Any]:
    """units: with their marks."""
    question, *told = problem.sentences
    return {"Instruct_Context": {"context": " ".join(f"{s} <EOS>" for s in told), "instruct": f"{question} <EOQ>"},
            "streaming_reasoning": units, "deep_reasoning": f"{unboxed(deep)} <EOR>",
            "self_check": f"{CHECK} {unboxed(check)}", "answer": f"\\boxed{{{problem.answer}}}"}


def unboxed(text: str) -> str:
    """A text without its box, whose content stays, and without marks: the answer stands in a field of its own, behind <EOR>."""
    boxed, plain = last_boxed(text), MARKS.sub("", text)
    return " ".join((plain if boxed is None else plain.replace(f"\\boxed{{{boxed}}}", boxed)).replace("$", "").split())


def read_problems(path: Path, kind: str = "number") -> list[Problem]:
    """kind: how answers are graded. Raises DataError naming the line that is no problem of three sentences, that has marks of structure in
    it, or whose answer could not be told from another: one without a word to compare, or whose braces do not pair."""
    if not path.is_file():
        raise DataError(f"there is no file {path.name}")
    found = []
    for number, line in rows_of(path):
        try:
            row = json.loads(line)
            if not isinstance(row["context"], (str, list)):  # of an object its names would be the sentences
                raise TypeError(f"context {row['context']!r} is no text and no list of sentences")
            told = (" ".join(row["question"].split()), *sentences(row["context"]))
            answer = row["answer"] if isinstance(row["answer"], bool) else answer_of(row["answer"])
            if not is_text(answer):
                raise TypeError(f"answer {answer!r} is no text and no number")
            answer = boxed(answer).strip()  # it gets a box of its own
            if kind != "number" and answer and not normal(answer):
                raise ValueError(f"answer {answer!r} has no word to be compared: every empty box would be right")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError) as error:
            raise DataError(f"{path.name}, line {number}: {error!r}; question, context and answer are expected") from error
        texts = (*told, answer)
        if len(told) < 3 or not all(texts) or not all(map(is_text, texts)) or any(MARKS.search(s) or SKIP in s for s in texts):
            raise DataError(f"{path.name}, line {number}: a question, two sentences and an answer are the least, without {SKIP} and marks")
        found.append(Problem(told, answer))
    if not found:
        raise DataError(f"{path.name} holds no problem")
    return found


# -- the command -------------------------------------------------------------------------------------------
def gate_of(encoder: str, problems: Sequence[Problem], clean: Path | None) -> Gate:
    """Bars from clean rows in the released form, or the defaults of `Gate`, which are for a sentence encoder."""
    encode = curation.minilm() if encoder == "minilm" else curation.tf_idf([s for p in problems for s in p.sentences])
    if clean is None:
        if encoder != "minilm":
            raise DataError("the gate's own bars are for a sentence encoder: with tf-idf name clean traces to set them by (--clean)")
        return Gate(encode)
    rows = []
    if not clean.is_file():
        raise DataError(f"--clean: there is no file {clean.name}")
    for number, line in rows_of(clean):
        try:
            rows.append(read_row(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UserError) as error:
            raise DataError(f"--clean: {clean.name}, line {number}: no row of the released form ({error})") from error
    return Gate.calibrated([Trace(tuple(row["source"]), tuple(row["units"])) for row in rows], encode)


def _options(text: str) -> dict[str, Any]:
    found = json.loads(text)  # argparse says what a ValueError is about
    if not isinstance(found, dict):
        raise ValueError
    return found


def writers(options: argparse.Namespace, replies: Path) -> tuple[Writer, Writer | None]:
    """The generator and the teacher, if there is one, that main was asked for."""
    asked = [(options.generator, options.generator_options)] + [(options.teacher, options.teacher_options)] * bool(options.teacher)
    alone = in_turn(*(partial(model_writer, name, options.engine, options.cap, **more) for name, more in asked))
    generator, *teacher = (remembered(one, replies, [named(name), more, options.engine, options.cap], AT_ONCE[options.engine])
                           for one, (name, more) in zip(alone, asked))  # a folder that was trained anew writes other replies
    return generator, teacher[0] if teacher else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Streaming chains of thought for problems, generated, rewritten and gated.")
    parser.add_argument("--problems", type=Path, required=True, help='JSON lines: {"question", "context", "answer"}')
    parser.add_argument("--out", type=Path, required=True, help="JSON lines that JsonTraces reads")
    parser.add_argument("--generator", required=True, help="hub id or folder (the paper: Qwen/Qwen3-32B)")
    parser.add_argument("--teacher", help="hub id or folder (the paper: Qwen/Qwen3-235B-A22B-Instruct-2507); default: none")
    for who in ("generator", "teacher"):
        parser.add_argument(f"--{who}-options", type=_options, default={}, metavar="JSON",
                            help='of its engine, as \'{"tensor_parallel_size": 8}\' (vllm.LLM) or \'{"dtype": "bfloat16"}\' (ModelSpec)')
    parser.add_argument("--whole", action="store_true", help="a chain of thought about the whole input, for Batch SFT")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--kind", choices=["number", "label", "text"], default="number", help="how an answer is graded")
    parser.add_argument("--encoder", choices=["minilm", "tf-idf"], default="minilm")
    parser.add_argument("--clean", type=Path, help="clean rows of the released form, twenty or more, to set the gate's bars by")
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--cap", type=int, help=f"most tokens of a reply (default {CAP}; {WHOLE_CAP} with --whole)")
    options = parser.parse_args(argv)
    options.cap = (WHOLE_CAP if options.whole else CAP) if options.cap is None else options.cap
    replies = options.out.with_name(f"{options.out.name}.replies")
    try:
        if options.passes < 1 or options.cap < 1:
            raise DataError(f"--passes {options.passes}, --cap {options.cap}: 1 at least, or nothing is written")
        writable(options.out, replies, [options.problems, options.clean])
        problems = read_problems(options.problems, options.kind)
        if options.whole and (options.teacher or options.clean):
            raise DataError("--whole with --teacher or --clean: a chain about the whole input has no units to be rewritten or gated")
        gate = None if options.whole else gate_of(options.encoder, problems, options.clean)
        writer, teacher = writers(options, replies)
        rows, dropped = (make_whole_rows(problems, writer, options.kind, options.passes) if gate is None
                         else make_rows(problems, writer, gate, teacher, options.kind, options.passes))
        failures = [{"problem": one.problem + 1, "question": problems[one.problem].sentences[0], "pass": one.attempt + 1, "why": one.why,
                     "wrote": one.wrote} for one in dropped]
        for path, found in ((options.out.with_name(f"{options.out.name}.dropped"), failures), (options.out, rows)):
            write_atomic(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found))
    except (UserError, ValueError, TypeError, ImportError) as error:
        print(f"streamingthinker traces: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"streamingthinker traces: interrupted; what was written is in {replies.name}, and the same command goes on from there",
              file=sys.stderr)
        return 130
    replies.unlink(missing_ok=True)
    reasons = "; ".join(f"pass {i}: " + (", ".join(f"{why} {n}" for why, n in by.items()) or "none")
                        for i, by in enumerate(by_pass(dropped, options.passes), 1))
    print(f"{len(rows)} of {len(problems)} problems have a trace; dropped: {reasons}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
