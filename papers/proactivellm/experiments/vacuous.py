"""Answers of one letter under each law of the paths: shown.py's exact chances against draws, and where PubMedQA's evidence lies.

First, without data or model: 20,000 drawn paths a law and shape, and how far their shares are from the exact ones, in standard errors.
Then, from NINEFOLD_DATA, the labelled abstracts of PubMedQA, whose answers are one of A (yes), B (no) and C (maybe): the length of each
in sentences and in words, and the first sentence under a heading of results, before which nobody can know. An abstract without such a
heading, or with one that has methods in it too, says nothing of where its evidence is and is left out.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import dataclass

from common.data.text import lines
from common.errors import DataError
from common.files import data_file
from common.runs.jobs import Job
from common.seeds import seed_of
from common.streaming.units import sentence_ends

from .. import shown
from ..method import read_path

ABSTRACTS = "text/pubmed_qa_labeled.jsonl"
SHAPES = ((5, 1), (5, 2), (12, 1), (12, 2))  # (sentences, units written): the passages of cloze.py, and an abstract's size
LEAST = 5  # draws, below which a share has no standard error to speak of
HEADING = re.compile(r"([A-Z][A-Z ,&/()-]+)\.(?= )")
OF_RESULTS = re.compile(r"((MAIN|PRINCIPAL|KEY) )?(RESULTS?|FINDINGS)")


@dataclass(frozen=True)
class Size:
    draws: int
    abstracts: int


SIZES = {"smoke": Size(200, 20), "cpu": Size(20_000, 1000)}


def jobs(size: str = "cpu") -> list[Job]:
    return [Job("letter/drawn", f"{__name__}:drawn", {"size": size}, seconds=20 if size == "cpu" else 1)]


def abstract_jobs(size: str = "cpu") -> list[Job]:
    """Raises DataError where NINEFOLD_DATA lacks the file."""
    return [Job("letter/abstracts", f"{__name__}:abstracts", {"size": size}, (str(data_file(ABSTRACTS)),), seconds=2)]


# -- draws -------------------------------------------------------------------------------------------------
def drawn(size: str = "cpu") -> dict:
    """{law: {"M, L": {"whole": exact share of draws with every sentence read, "drawn": the share of draws, "furthest": the largest
    distance of a place's share from the exact one, in standard errors, of places where LEAST draws and more are expected to fall, and to
    be missed, "impossible": draws at a place of chance 0}}}."""
    return {name: {f"{m}, {units}": _against(name, m, units, SIZES[size].draws) for m, units in SHAPES} for name in shown.FAMILY}


def _against(name: str, m: int, units: int, count: int) -> dict:
    law, rng = shown.FAMILY[name], random.Random(seed_of("drawn", name, m, units))
    exact = [float(p) for p in shown.of_first(law, m + 1, units)]
    found = Counter(read_path(law, m + 1, units, rng)[0] for _ in range(count))
    furthest = max((abs(found[v] / count - p) / (p * (1 - p) / count) ** 0.5 for v, p in enumerate(exact)
                    if min(p, 1 - p) * count >= LEAST), default=0.0)
    return {"whole": sum(exact[m:]), "drawn": sum(found[v] for v in (m, m + 1)) / count, "furthest": furthest,
            "impossible": sum(found[v] for v, p in enumerate(exact) if p == 0)}


# -- PubMedQA ----------------------------------------------------------------------------------------------
def places(abstract: str) -> tuple[int, int | None, int, int | None]:
    """(sentences, the first one of results, words, the last word of that sentence), numbers from 1; None where no heading says where
    results begin. Sentences end with . ! or ?, abbreviations and headings too, as a live stream has to take them."""
    sentences = words = 0
    first = last = None
    for line in abstract.splitlines():
        heading, ends = HEADING.match(line), sentence_ends(line)
        if first is None and heading and OF_RESULTS.fullmatch(heading[1]):
            behind = next((i for i, end in enumerate(ends) if end > heading.end()), None)  # the heading is a sentence of its own
            if behind is not None:
                first, last = sentences + behind + 1, words + len(line[: ends[behind]].split())
        sentences, words = sentences + len(ends), words + len(line.split())
    return sentences, first, words, last


def of_row(row: dict) -> str:
    """The abstract. Raises DataError where a row has none, no question, or an answer that is none of three."""
    context = row.get("context")
    text, mark, _ = context.removeprefix("Context: ").partition("\nQuestion: ") if isinstance(context, str) else ("", "", "")
    if not mark or not text.strip() or row.get("continuation") not in ("yes", "no", "maybe"):
        raise DataError(f"{ABSTRACTS}: a row needs a context with a line 'Question: ' and an answer yes, no or maybe, and has "
                        f"{str(context)[:60]!r}")
    return text


def abstracts(size: str = "cpu") -> dict:
    """{"sentences", "evidence": the first of results, "words", "evidence words": lists, of abstracts whose headings say it and that go on
    behind it; "all": abstracts; "answers": how many of each}."""
    rows = [json.loads(line) for _, line in lines(data_file(ABSTRACTS))][: SIZES[size].abstracts]
    found = [places(of_row(row)) for row in rows]
    kept = [place for place in found if place[1] is not None]
    if not kept:
        raise DataError(f"{ABSTRACTS}: none of {len(rows)} abstracts has a heading of results")
    names = ("sentences", "evidence", "words", "evidence words")
    return {name: [place[i] for place in kept] for i, name in enumerate(names)} | {
        "all": len(rows), "answers": dict(sorted(Counter(row["continuation"] for row in rows).items()))}
