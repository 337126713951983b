"""The paper's six tasks: a question, a context in sentences, an answer; from files, or from the hub. Tasks of lm-eval (tasks/*.yaml).

    $NINEFOLD_DATA/streaming/{task}.jsonl    {"question", "context", "answer"} a line, context a text or a list of sentences

or the hub's rows (spec 4; ids are our mapping of the paper's names). The paper draws 1,000 items a task by a seed that it does not
give; here the first `limit` of an order that a fixed seed draws. GSM-Symbolic's instances come of some 150 templates: a training set
that knows the templates is to be split by them (`original_id`), which is the trainer's business.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import reprlib
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.data.text import is_text
from common.errors import DataError, TaskError
from common.files import file_sha256
from common.reasoning.strict import StrictVerifier
from common.reasoning.verifiers import after_thinking, last_boxed
from common.streaming.units import sentence_ends

from .data import rows_of

Item = dict[str, Any]
ORDERS = ("question", "context")
SEED = 1


@dataclass(frozen=True)
class Task:
    """kind: number, label or text, which decides how an answer is graded. hub, configs, split: where; read: its row -> (question,
    context, answer). ask: what is put behind the question, where the answer is one of a few words."""

    kind: str
    hub: str
    configs: tuple[str | None, ...]
    split: str
    read: Callable[[Mapping], tuple[str, str | Sequence[str], str]]
    ask: str = ""


def sentences(text: str | Sequence[str]) -> list[str]:
    """A text cut behind each sentence; a list as it is, without blanks around its entries."""
    if isinstance(text, str):
        ends = sentence_ends(text)
        text = [text[a:b] for a, b in zip([0, *ends], ends)]
    return [" ".join(part.split()) for part in text if part.strip()]


def word_problem(text: str, answer: str) -> tuple[str, list[str], str]:
    """The question of a word problem is its last sentence."""
    *context, question = sentences(text)
    return question, context, answer


def _numbers(row: Mapping) -> tuple[str, list[str], str]:
    return word_problem(row["question"], row["answer"].rpartition("####")[2].strip().replace(",", ""))


def _metamath(row: Mapping) -> tuple[str, list[str], str]:
    return word_problem(row["query"], row["response"].rpartition("The answer is:")[2].strip())


def _hotpot(row: Mapping) -> tuple[str, list[str], str]:
    return row["question"], [s for part in row["context"]["sentences"] for s in part], row["answer"]


LOGIC = "Answer with {}."
TASKS = {
    "gsm_symbolic": Task("number", "apple/GSM-Symbolic", ("p1", "p2"), "test", _numbers),
    "metamath": Task("number", "meta-math/MetaMathQA-40K", (None,), "train", _metamath),
    "proofwriter": Task("label", "tasksource/proofwriter", (None,), "test", lambda row: (row["question"], row["theory"], row["answer"]),
                        LOGIC.format("True, False or Unknown")),
    "logicnli": Task("label", "tasksource/LogicNLI", (None,), "test", lambda row: (row["hypothesis"], row["premise"], row["label"]),
                     LOGIC.format("entailment, contradiction, neutral or self_contradiction")),
    "hotpotqa": Task("text", "hotpotqa/hotpot_qa", ("distractor",), "validation", _hotpot),
    "pubmedqa": Task("label", "qiaojin/PubMedQA", ("pqa_labeled",), "train",
                     lambda row: (row["question"], " ".join(row["context"]["contexts"]), row["final_decision"]),
                     LOGIC.format("yes, no or maybe")),
}


# -- items -------------------------------------------------------------------------------------------------
def load_items(name: str, data: str | Path | None = None, limit: int | None = None) -> list[Item]:
    """[{"question", "context" (sentences), "answer"}] of three sentences at least, the question counted, as the paper keeps them.

    data: a folder in the place of $NINEFOLD_DATA. Raises TaskError for another name or a limit below 1, DataError for a file or hub that
    cannot be read, naming line or field.
    """
    if name not in TASKS or (limit is not None and limit < 1):
        raise TaskError(f"{name!r} is none of the tasks {', '.join(TASKS)}" if name not in TASKS else f"limit {limit}: 1 item at least")
    task, path = TASKS[name], file_of(name, data)
    if path:
        rows = [(f"{path.name}, line {n}", line) for n, line in rows_of(path)]
        items = [_item(where, lambda line=line: _own(json.loads(line)), task) for where, line in rows]
    else:
        rows_of_hub = _from_hub(name, task)
        items = [_item(f"{task.hub}, row {n}", lambda row=row: task.read(row), task) for n, row in enumerate(rows_of_hub, 1)]
    kept = [item for item in items if len(item["context"]) >= 2]
    if not kept:
        raise DataError(f"{name}: no item of three sentences among {len(items)}")
    random.Random(SEED).shuffle(kept)
    return kept[:limit]


def file_of(name: str, data: str | Path | None = None) -> Path | None:
    """The file that a task is read from; None: the hub."""
    folder = data or os.environ.get("NINEFOLD_DATA")
    path = Path(folder).expanduser() / "streaming" / f"{name}.jsonl" if folder else None
    return path if path and path.is_file() else None


def source_of(name: str, data: str | Path | None = None) -> dict[str, str]:
    """What tells a task's items from others of its name, to be kept with scores: the hash of the file, or the hub's id."""
    path = file_of(name, data)
    return {"sha256": file_sha256(path)} if path else {"hub": TASKS[name].hub}


def answer_of(answer: Any) -> Any:
    """A number, or JSON's true as the label it may be, as text; anything else as it is."""
    return str(answer) if isinstance(answer, int) or isinstance(answer, float) and math.isfinite(answer) else answer


def _own(row: Mapping) -> tuple[str, str | Sequence[str], str]:
    return row["question"], row["context"], answer_of(row["answer"])


def _item(where: str, read: Callable[[], tuple], task: Task) -> Item:
    try:
        question, context, answer = read()
        if not isinstance(context, Sequence):  # of an object its names would be the sentences
            raise TypeError(f"the context is {reprlib.repr(context)}, no text and no list of sentences")
        told = [context] if isinstance(context, str) else context
        for name, text in (("answer", answer), ("question", question), *(("context", sentence) for sentence in told)):
            if not is_text(text):
                raise TypeError(f"the {name} is {reprlib.repr(text)} and no text")
        if not question.strip():
            raise ValueError("the question is empty")
        if not (answer.strip() if task.kind == "number" else normal(answer)):
            raise ValueError(f"the answer {answer!r} has no word to be compared: every empty box would be right")
        return {"question": " ".join(f"{question} {task.ask}".split()), "context": sentences(context), "answer": answer}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: {type(error).__name__} {error}; question, context and answer are expected, all text") from error


def _from_hub(name: str, task: Task) -> list[Mapping]:
    from datasets import load_dataset

    try:
        return [row for config in task.configs for row in load_dataset(task.hub, config, split=task.split)]
    except Exception as error:  # hub, http and offline errors share no useful base class
        raise DataError(f"{name}: cannot get {task.hub} from the hub ({type(error).__name__}). Offline, NINEFOLD_DATA names a folder with "
                        f"streaming/{name}.jsonl.") from error


# -- for lm-eval -------------------------------------------------------------------------------------------
def lm_eval_dataset(name: str, data: str | None = None, limit: int | None = None, suffix: str = "", context_first: bool = False,
                    **_) -> dict:
    """The `custom_dataset` of the task files: one split, "test", with the prompt beside the rest. suffix, context_first: for a model that
    has not learnt what to do; the others' prompts are to be cut by `parts_of`, which puts the question first."""
    from datasets import Dataset

    return {"test": Dataset.from_list([item | {"kind": TASKS[name].kind, "prompt": prompt_of(item, context_first) + suffix}
                                       for item in load_items(name, data, limit)])}


def prompt_of(item: Item, context_first: bool = False) -> str:
    parts = [item["question"], "\n".join(item["context"])]
    return "\n\n".join(parts[::-1] if context_first else parts)


def parts_of(prompt: str) -> tuple[str, list[str]]:
    """(question, sentences) of a prompt. Raises TaskError for another text."""
    question, mark, context = prompt.partition("\n\n")
    if not (mark and question.strip() and context.strip()):
        raise TaskError(f"a prompt is a question, an empty line and sentences, one a line, and not {prompt[:60]!r}")
    return question, context.split("\n")


def grade(kind: str, texts: Sequence[str], golds: Sequence[str]) -> list[bool]:
    """Whether each text's last box is right: numbers by math-verify, labels and names word for word after SQuAD's normalisation."""
    if kind == "number":
        return _verifier().verify_many(list(zip(texts, golds)))
    found = [after_thinking(text) for text in texts]
    boxed = [None if text is None else last_boxed(text) for text in found]
    return [answer is not None and normal(answer) == normal(gold) for answer, gold in zip(boxed, golds)]


def normal(answer: str) -> str:
    """SQuAD's: lower case, without punctuation and articles, single blanks; \\text{} of a box is taken off, and _ is a blank. As there,
    punctuation is dropped and parts nothing ("U.S." is "US"); of an answer that is an article and nothing else, that is what remains."""
    plain = re.sub(r"\\text\{(.*?)\}", r"\1", answer).lower().replace("_", " ")
    words = "".join(sign for sign in plain if sign not in string.punctuation).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def process_results(doc: Mapping, results: Sequence) -> dict[str, float]:
    """Of one item, where lm-eval itself runs a task."""
    return {"right": float(grade(doc["kind"], [results[0]], [doc["answer"]])[0])}


@cache
def _verifier() -> StrictVerifier:
    return StrictVerifier()
