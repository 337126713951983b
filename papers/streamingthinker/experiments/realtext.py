"""Tokens waited on real questions, without any model: GSM8K (the question is its last sentence) and PubMedQA's labelled abstracts.

A question comes first, then the sentences of its text. Tokens are SmolLM2's. Sentences end with . ! or ?, abbreviations too, as a live
stream has to take them: that makes segments shorter, and the first one, the question, not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import DataError
from common.files import data_file
from common.models import SMOLLM2, load
from common.runs.jobs import Job
from common.streaming.units import sentence_ends

from .. import latency

FILES = ("math/gsm8k_test.jsonl", "text/pubmed_qa_labeled.jsonl")


@dataclass(frozen=True)
class Size:
    items: int


SIZES = {"smoke": Size(20), "cpu": Size(1000)}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job("realtext", f"{__name__}:waited", {"size": size}, tuple(str(data_file(name)) for name in FILES), seconds=20)]


def sentences(text: str) -> list[str]:
    ends = sentence_ends(text)
    return [text[a:b].strip() for a, b in zip([0, *ends], ends)]


def of_gsm8k(row: dict) -> list[str]:
    """The question, which is the last sentence, then the others."""
    found = sentences(row["question"])
    return [found[-1], *found[:-1]]


def of_pubmed(row: dict) -> list[str]:
    """The question, then the abstract's sentences. Raises DataError where a row has no line "Question: "."""
    text, mark, question = row["context"].removeprefix("Context: ").partition("\nQuestion: ")
    if not mark:
        raise DataError(f"{FILES[1]}: a row without a line 'Question: ': {row['context'][:60]!r}")
    return [question.split("\n")[0].strip(), *sentences(text)]


def waited(size: str = "cpu") -> dict:
    """{"GSM8K", "PubMedQA": % fewer tokens waited, by item of three sentences at least; "sentences": means}."""
    tokenizer, how = load(SMOLLM2).tokenizer, SIZES[size]
    found: dict = {}
    for name, file, cut in zip(("GSM8K", "PubMedQA"), FILES, (of_gsm8k, of_pubmed)):
        rows = [cut(json.loads(line)) for line in data_file(file).read_text(encoding="utf-8").rstrip("\n").split("\n")[: how.items]]
        rows = [row for row in rows if len(row) >= 3]  # as the paper keeps them (app. D)
        found[name] = [round(reduced(tokenizer, row), 2) for row in rows]
        found.setdefault("sentences", {})[name] = sum(map(len, rows)) / len(rows)
    return found


def reduced(tokenizer, segments: Sequence[str]) -> float:
    tokens = [len(ids) for ids in tokenizer(list(segments), add_special_tokens=False)["input_ids"]]
    return 100 * (1 - latency.waited(tokens) / latency.waited(tokens, "batch"))
