"""Five tasks of reasoning_gym, and reasoning about them that is longer than it needs to be: the "five benchmarks" of a small real model.

    chain_sum                98 + 93 = 191. 191 - 77 = 114. Answer: 114
    simple_equations         of 3*x + 5 = 20: 3*x = 20 - 5 = 15. x = 15 / 3 = 5. Answer: 5
    leg_counting             of 3 tigers, 2 bees: 3 * 4 = 12. 2 * 6 = 12. 12 + 12 = 24. Answer: 24
    number_filtering         of ['14', '52'], all larger than 37 removed: 14 is smaller, keep. 52 is larger, drop. Answer: ['14']
    word_sequence_reversal   Last is go. Before it acute. Before it hundred. Answer: go, acute, hundred

Each is solved by a few short sentences that a rule can write, asks in a prompt of under 70 tokens, and has more than ten thousand
texts; three are about numbers and two about lists. Not taken: what looks into words (spell_backward, letter_counting: the tokenizer
hides the letters), what has few texts (lcm, count_bits), long prompts (number_sorting), and yes or no (leap years).

A redundant trace has openings, checks, restarts and closings, as in sums.py, how much of them differs from trace to trace. A step is
wrong now and then, always seen to be, and written again: hesitating is useful, and every trace ends at the right answer. Problems,
their seeds and their score are reasoning_gym's own; no text of validation or test is one of another split, or of a trace.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..errors import SetupError
from . import sums
from .problems import Problem
from .rollouts import Rollout
from .sums import CHECKS, OPENINGS, RESTARTS, Sums
from .verifiers import GymVerifier

SPLITS = {"test": 130_000_000, "val": 120_000_000, "train": 110_000_000, "traces": 140_000_000}  # entry i is drawn from seed + i
HELD_OUT = 256  # problems of a task that validation has, and test
CLOSINGS = ("That should be all of it.", "So that gives us the result.")
WRONG, LONGEST = 0.04, 4  # share of steps that are first written wrong; checks and restarts in a trace, at most
OFF = (-10, -1, 1, 10)  # of a wrong calculation


class Step(NamedTuple):
    """A sentence of a solution, and what it may be mistaken for."""

    right: str
    slips: tuple[str, ...]


class Solution(NamedTuple):
    steps: list[Step]
    answer: str


# -- the tasks ---------------------------------------------------------------------------------------------
def calculation(left: str, value: int) -> Step:
    return Step(f"{left} = {value}.", tuple(f"{left} = {value + off}." for off in OFF))


def chain_sum(entry: dict) -> Solution:
    steps = sums.steps(entry["metadata"]["expression"])
    return Solution([calculation(f"{s.left} {s.operation} {s.right}", s.value) for s in steps], str(steps[-1].value))


def simple_equations(entry: dict) -> Solution:
    """a*x + b = c, a*x - b = c or b - a*x = c; an a of 1 is not written. ValueError for another equation."""
    equation = entry["metadata"]["equation"]
    if found := re.fullmatch(r"(?:(\d+)\*)?([a-z]) ([+-]) (\d+) = (-?\d+)", equation):
        a, x, sign, b, c = found.groups()
        term = f"{c} {'-' if sign == '+' else '+'} {b}"
        product = int(c) - int(b) if sign == "+" else int(c) + int(b)
    elif found := re.fullmatch(r"(\d+) - (?:(\d+)\*)?([a-z]) = (-?\d+)", equation):
        b, a, x, c = found.groups()
        term, product = f"{b} {'+' if int(c) < 0 else '-'} {abs(int(c))}", int(b) - int(c)
    else:
        raise ValueError(f"five: {equation!r} is no equation of one unknown, once, and one number beside it")
    steps = [calculation(f"{a}*{x} = {term}" if a else f"{x} = {term}", product)]
    if a:
        steps.append(calculation(f"{x} = {product} / {a}", product // int(a)))
    return Solution(steps, str(product // int(a or 1)))


def leg_counting(entry: dict) -> Solution:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    steps, total = [], None
    for animal, count in entry["metadata"]["animals"].items():
        legs = count * ANIMALS[animal]
        steps.append(calculation(f"{count} * {ANIMALS[animal]}", legs))
        if total is not None:
            steps.append(calculation(f"{total} + {legs}", total + legs))
        total = legs if total is None else total + legs
    return Solution(steps, str(total))


def number_filtering(entry: dict) -> Solution:
    about = entry["metadata"]
    does, _, which = about["operation"].partition("_")  # keep or remove those that are larger or smaller
    bound, steps, kept = float(about["filter_value"]), [], []
    for number in about["original_numbers"]:
        is_now = "equal" if float(number) == bound else "larger" if float(number) > bound else "smaller"
        keep = (is_now == which) == (does == "keep")
        if keep:
            kept.append(number)
        words = [f"{number} is {how}, {'keep' if (how == which) == (does == 'keep') else 'drop'}."
                 for how in (is_now, *({"larger", "smaller"} - {is_now}))]
        steps.append(Step(words[0], tuple(sorted(words[1:]))))
    return Solution(steps, str(kept))


def word_sequence_reversal(entry: dict) -> Solution:
    words = entry["metadata"]["words"][::-1]
    steps = []
    for i, word in enumerate(words):
        begins = "Before it" if i else "Last is"
        steps.append(Step(f"{begins} {word}.", tuple(f"{begins} {other}." for other in words if other != word) or (f"{begins} {word}.",)))
    return Solution(steps, ", ".join(words))


class Task(NamedTuple):
    """settings: reasoning_gym's. solve: the solution of an entry."""

    settings: dict[str, Any]
    solve: Callable[[dict], Solution]


TASKS = {
    "chain_sum": Task(dict(min_terms=2, max_terms=3, min_digits=1, max_digits=2), chain_sum),
    "simple_equations": Task(dict(min_terms=2, max_terms=2, min_value=1, max_value=10, operators=("+", "-", "*"),
                                  operators_weights=[0.5, 0.5, 0.0]), simple_equations),  # "*" is what gives x its factor
    "leg_counting": Task(dict(min_animals=2, max_animals=2, min_instances=1, max_instances=6), leg_counting),
    "number_filtering": Task(dict(min_numbers=3, max_numbers=4, min_decimals=0, max_decimals=0, min_value=10, max_value=99),
                             number_filtering),
    "word_sequence_reversal": Task(dict(min_words=3, max_words=5), word_sequence_reversal),
}


# -- traces ------------------------------------------------------------------------------------------------
def essential(task: str, entry: dict) -> str:
    """The shortest trace that writes every step."""
    steps, answer = TASKS[task].solve(entry)
    return " ".join([*(step.right for step in steps), f"Answer: {answer}"])


def trace(task: str, entry: dict, draw: random.Random) -> str:
    """A trace with redundancy v drawn from 0.3 to 1; its answer is right."""
    steps, answer = TASKS[task].solve(entry)
    v, sentences, spent = draw.uniform(0.3, 1), [], 0
    if draw.random() < v:
        sentences.append(draw.choice(OPENINGS))
    for last in (False, True):
        for step in steps:
            if spent < LONGEST and draw.random() < WRONG:
                sentences += [draw.choice(step.slips), draw.choice(CHECKS)]
                spent += 1
            sentences.append(step.right)
            if spent < LONGEST and draw.random() < 0.6 * v:
                sentences += [draw.choice(CHECKS), step.right]
                spent += 1
        if last or spent >= LONGEST or draw.random() >= 0.4 * v:
            break
        sentences.append(draw.choice(RESTARTS))
        spent += 1
    if draw.random() < v:
        sentences.append(draw.choice(CLOSINGS))
    return " ".join([*sentences, f"Answer: {answer}"])


# -- problems ----------------------------------------------------------------------------------------------
@functools.cache
def dataset(task: str, split: str):
    """reasoning_gym's own entries of a task and split, drawn when they are asked for. ImportError without the package."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that it imports
        import reasoning_gym

    return reasoning_gym.create_dataset(task, size=10**6, seed=SPLITS[split], **TASKS[task].settings)


@functools.cache
def held_out(task: str) -> dict[str, tuple[dict, ...]]:
    """The HELD_OUT problems of "test" and of "val", no two of one text."""
    asked: set[str] = set()
    found = {}
    for split in ("test", "val"):
        entries: dict[str, dict] = {}
        for entry in _drawn(task, split):
            if entry["question"] not in asked:
                entries.setdefault(entry["question"], entry)
            if len(entries) == HELD_OUT:
                break
        asked |= entries.keys()
        found[split] = tuple(entries.values())
    return found


def entries(task: str, split: str, count: int) -> list[dict]:
    """The first `count` of a split. Of "train" and "traces" what validation or test asks word for word is left out.

    ValueError for more of "test" or "val" than HELD_OUT."""
    apart = held_out(task)
    if split in apart:
        if count > HELD_OUT:
            raise ValueError(f"five: {count} problems of {task} are asked for, and {split} has {HELD_OUT}; ask for fewer")
        return list(apart[split][:count])
    asked = {entry["question"] for each in apart.values() for entry in each}
    return list(itertools.islice((entry for entry in _drawn(task, split) if entry["question"] not in asked), count))


def _drawn(task: str, split: str) -> Iterator[dict]:
    return (dataset(task, split)[i] for i in itertools.count())


class Five(Sums):
    """The five tasks, asked as Sums asks its one. count: training problems; held_out: validation's; of all tasks together."""

    def use(self, tokenizer) -> Five:
        if not getattr(tokenizer, "chat_template", None):
            raise SetupError("data Five asks through a chat template, and the model's tokenizer has none; take an instruct model")
        super().use(tokenizer)
        return self

    def problems(self, split: str, count: int) -> list[Problem]:
        """A task after the other, over and over, so that any first part has as many of each, but for one. kind: the task. gold:
        reasoning_gym's entry."""
        each = -(-count // len(TASKS))
        found = {task: [Problem(self.prompt(e["question"]), dict(e), task, self.turns(e["question"])) for e in entries(task, split, each)]
                 for task in TASKS}
        return [problem for row in zip(*found.values()) for problem in row][:count]

    def grade(self, problems: list[Problem], rollouts: list[Rollout]) -> list[bool]:
        """By the scorer of each problem's own task."""
        verifiers = {task: GymVerifier(dataset(task, "train")) for task in {str(problem.kind) for problem in problems}}
        asked = [problems[r.prompt] for r in rollouts]
        return [verifiers[str(problem.kind)](self.text(r), problem.gold) for r, problem in zip(rollouts, asked)]

    def needed(self, problem: Problem) -> int:
        """Tokens of the essential trace, with the end."""
        return len(self.words(essential(str(problem.kind), problem.gold), add_special_tokens=False)["input_ids"]) + 1
