"""Real questions and a real model: SmolLM2-135M with an adapter for each way to think (adapters.py) answers gsm_symbolic. By name alone.

    asked                the questions, without any model: tokens that stand before the first thought
    untuned              the model as it is, run in streaming: the placebo
    run(way, seed)       an adapter, tuned first where it is not there: questions of templates that no training has, and questions of the
                         trained templates with other numbers. Greedy, D2, two caches

Every arm writes its own traces and is timed in its own way alone: batch waits for the end, interleaved has one cache whose source stands
still ("blocking", as the paper counts it) or is buffered, streaming has two workers. Delays here are the event model's at the paper's
costs; paced.py has the clock's. One seed of the three ways takes some two and a half hours of one core; a killed run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from common.models import SMOLLM2, load
from common.progress import progress
from common.runs.jobs import Job
from common.seeds import asked
from common.streaming.batched import Row, Written, decode, interleaved

from .. import adapters, latency, symbolic
from ..adapters import RECIPE, WAYS, Recipe
from ..reasoner import Tokens
from ..symbolic import Aligned, Lines

SETS = ("new", "known")
DEPTH = 2


@dataclass(frozen=True)
class Size:
    """seeds; the recipe of an adapter; most tokens of a unit and of the rest; questions that are answered together."""

    seeds: tuple[int, ...]
    recipe: Recipe
    caps: tuple[int, int] = (136, 80)
    together: int = 21


SIZES = {"cpu": Size(asked(), RECIPE)}
SIZES["smoke"] = Size((0,), replace(RECIPE, steps=1, rows=2, parts=1), (2, 2))  # never walked


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server, while nothing else uses the other; with the tuning of what is not committed."""
    found = [Job("symbolic/asked", f"{__name__}:questions", {"size": size}, seconds=20),
             Job("symbolic/untuned", f"{__name__}:untuned", {"size": size}, seconds=700)]
    return found + [Job(f"symbolic/{way}/seed{seed}", f"{__name__}:run", {"way": way, "seed": seed, "size": size}, seconds=3000)
                    for seed in SIZES[size].seeds for way in WAYS]


def questions(size: str = "cpu") -> dict:
    """{"new", "known": {"templates", "waited": % fewer input tokens before the first thought than there are, by question; "half": the same
    of a reasoner that begins when half of the sentences are read}}."""
    told, words, found = adapters.questions(SIZES[size].recipe), Lines.of(load(SMOLLM2).tokenizer), {}
    for name in SETS:
        of = getattr(told, name)
        segments = [[len(words.line(s)) for s in one.sentences] for one in of]
        found[name] = {"templates": [one.template for one in of],
                       "waited": [round(100 * (1 - latency.waited(s) / sum(s)), 2) for s in segments],
                       "half": [round(100 * (1 - sum(s[: (len(s) + 1) // 2]) / sum(s)), 2) for s in segments]}
    return found


def untuned(size: str = "cpu") -> dict:
    return run("untuned", 0, size)


def run(way: str, seed: int, size: str = "cpu") -> dict:
    """{"new", "known": scores of either set (`scores`), "model": facts}."""
    how = SIZES[size]
    told = adapters.questions(how.recipe)
    model, words, facts = adapters.opened(way, seed, how.recipe)
    done = {}
    for name in SETS:
        of = getattr(told, name)
        done[name] = scores(of, written(model, words, of, way, how.caps, how.together), words, way)
    return done | {"model": facts}


def written(model, words: Lines, of: Sequence[Aligned], way: str, caps: tuple[int, int], together: int) -> list[Written]:
    """What the model writes, greedily, a few questions at a time."""
    tokens, found = words.tokens(), []
    how = dict(ends=set(tokens.ends), boundary=tokens.boundary, stop=tokens.stop, unit_cap=caps[0], rest_cap=caps[1])
    for at in progress(range(0, len(of), together), f"{way}: questions, {together} at a time"):
        rows = [Row([tokens.instruction, *map(words.line, one.sentences)], tokens.header, tokens.cues[DEPTH], tokens.closing)
                for one in of[at : at + together]]
        if way == "interleaved":
            found += interleaved(model, rows, **how)
        else:
            found += decode(model, rows, visible="all" if way == "batch" else "units", start=None if way == "batch" else 0, **how)
    return found


def answer_tokens(row: Written, tokens: Tokens) -> int:
    """m of latency.py: tokens from the last unit's end to the first answer token, the forced cue counted; all of the rest where the answer
    never comes."""
    deep = row.rest.index(tokens.answer) + 2 if tokens.answer in row.rest else len(row.rest)
    return len(tokens.cues[DEPTH]) + min(deep, len(row.rest))


def delays(one: Aligned, row: Written, tokens: Tokens, way: str) -> dict[str, float]:
    """{way of latency.py: s} of what was written, event model; of the reasoner's own ways and no others."""
    words, units = [len(sentence.split()) for sentence in one.sentences], [len(unit) for unit in row.units]
    own = WAYS["streaming" if way == "untuned" else way].delays
    return {name: latency.simulate(name, words, units, answer_tokens(row, tokens)).delay for name in own}


def scores(of: Sequence[Aligned], found: Sequence[Written], words: Lines, way: str) -> dict:
    """{"correct": by question; "thoughts": [right word for word, of them] of units that say something, the question's left out; "skips":
    the same of units that skip; "delay": {way: s}, "tokens": of a trace, means; "truncated": share}."""
    tokens = words.tokens()
    right = {True: [0, 0], False: [0, 0]}  # by whether the gold unit skips
    for one, row in zip(of, found, strict=True):
        for gold, own in zip(one.units[1:], row.units[1:], strict=True):
            count = right[gold == symbolic.SKIP]
            count[0] += own == words.line(gold)
            count[1] += 1
    timed = [delays(one, row, tokens, way) for one, row in zip(of, found)]
    return {"correct": [int(words.answered(row.rest) == one.answer) for one, row in zip(of, found)], "thoughts": right[False],
            "skips": right[True], "delay": {name: fmean(row[name] for row in timed) for name in timed[0]},
            "tokens": fmean(row.tokens for row in found), "truncated": fmean(row.truncated for row in found)}
