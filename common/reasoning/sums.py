"""Sums in natural language: reasoning_gym's chain_sum, and reasoning about them that is longer than it needs to be.

    problem    State the final answer to the following arithmetic problem: 98 + 93 - 77 =
    essential  98 + 93 = 191. 191 - 77 = 114. Answer: 114
    redundant  an opening, "Wait, let me check that again." and the step once more, "Alternatively, let me start over."
               and everything once more, a closing sentence. How much of it differs from trace to trace.

A computation is wrong now and then, and a wrong one is more often checked again, right this time: hesitating is useful here, as in
real reasoning. So what is redundant is known, while the words, the tokenizer and the model are real. The problems, their
seeds and their score are reasoning_gym's own (a package with no weights); the traces are ours and follow from (seed, number).
"""

from __future__ import annotations

import random
import re
from typing import Any, NamedTuple

from ..errors import SetupError
from .problems import TESTED, Problem, Problems, Rows
from .rollouts import Rollout
from .verifiers import GymVerifier, response_text

TASK = dict(min_terms=2, max_terms=3, min_digits=1, max_digits=2)
SPLITS = {"train": 10_000_000, "val": 20_000_000, "test": 30_000_000, "traces": 40_000_000}  # disjoint: entry i is drawn from seed + i
OPENINGS = ("Okay, let me think about this step by step.", "Hmm, let me work this out carefully.", "Let me see what we have here.")
CHECKS = ("Wait, let me check that again.", "Hmm, let me double-check that.", "Hold on, is that right?")
RESTARTS = ("Alternatively, let me start over to be sure.", "Let me verify the whole calculation once more.")
CLOSINGS = ("So the result should be {}.", "That gives us {} in the end.")
HESITATION = ("Wait", "Hmm", "Hold", "Alternatively", "Okay")  # how the sentences begin that no answer needs
WRONG, LONGEST = 0.04, 4  # share of wrong computations; checks and restarts in a trace, at most


class Step(NamedTuple):
    left: int
    operation: str
    right: int

    @property
    def value(self) -> int:
        return self.left + self.right if self.operation == "+" else self.left - self.right


def steps(expression: str) -> list[Step]:
    """"98 + 93 - 77" as its additions and subtractions from left to right. ValueError for anything else."""
    if not re.fullmatch(r"-?\d+( [+-] -?\d+)+", expression):
        raise ValueError(f"sums: {expression!r} is no chain of additions and subtractions")
    words, chain = expression.split(), []
    left = int(words[0])
    for operation, right in zip(words[1::2], words[2::2]):
        chain.append(Step(left, operation, int(right)))
        left = chain[-1].value
    return chain


def essential(expression: str) -> str:
    """The shortest trace that writes every step."""
    return " ".join(f"{s.left} {s.operation} {s.right} = {s.value}." for s in steps(expression)) + f" Answer: {steps(expression)[-1].value}"


def trace(expression: str, draw: random.Random) -> str:
    """A trace with redundancy v drawn from 0.3 to 1."""
    v, sentences, spent = draw.uniform(0.3, 1), [], 0
    if draw.random() < v:
        sentences.append(draw.choice(OPENINGS))
    while True:
        value = None
        for step in steps(expression):
            left = step.left if value is None else value
            while True:
                right_one = Step(left, step.operation, step.right).value
                wrong = draw.random() < WRONG
                value = right_one + draw.choice((-10, -1, 1, 10)) if wrong else right_one
                sentences.append(f"{left} {step.operation} {step.right} = {value}.")
                if spent < LONGEST and draw.random() < (0.5 + 0.5 * v if wrong else 0.7 * v):
                    sentences.append(draw.choice(CHECKS))
                    spent += 1
                else:
                    break
        if spent < LONGEST and draw.random() < 0.5 * v:
            sentences.append(draw.choice(RESTARTS))
            spent += 1
        else:
            break
    if draw.random() < v:
        sentences.append(draw.choice(CLOSINGS).format(value))
    return " ".join([*sentences, f"Answer: {value}"])


def dataset(split: str, size: int):
    """reasoning_gym's own entries of a split. ImportError without the package."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that it imports
        import reasoning_gym

    return reasoning_gym.create_dataset("chain_sum", size=size, seed=SPLITS[split], **TASK)


class Sums(Problems):
    """chain_sum through the model's chat template with an empty system turn. count: training problems; held_out: validation's."""

    def __init__(self, count: int = 4096, held_out: int = 64, seed: int = 1):
        super().__init__(seed)
        self.count, self.held_out = count, held_out
        self.words: Any = None

    def use(self, tokenizer) -> Sums:
        """For work without a Trainer."""
        if not getattr(tokenizer, "chat_template", None):
            raise SetupError("data Sums asks through a chat template, and the model's tokenizer has none; take an instruct model")
        self.words, self.end = tokenizer, (tokenizer.eos_token_id,)
        return self

    @staticmethod
    def turns(question: str) -> tuple[dict, ...]:
        return {"role": "system", "content": ""}, {"role": "user", "content": question}

    def prompt(self, question: str) -> tuple[int, ...]:
        return tuple(self.words.apply_chat_template(list(self.turns(question)), add_generation_prompt=True, return_dict=False))

    def problems(self, split: str, count: int) -> list[Problem]:
        """kind: the number of steps. gold: reasoning_gym's entry. Short sums are few: of "train" the next ones drawn stand in for
        those that are also among the first of validation or test."""
        entries = dataset(split, count)
        if split == "train":
            asked = {e["question"] for other in ("val", "test") for e in dataset(other, TESTED)}
            entries = [e for e in dataset(split, 2 * count + 64) if e["question"] not in asked][:count]
        return [Problem(self.prompt(e["question"]), dict(e), e["metadata"]["num_terms"] - 1, self.turns(e["question"]))
                for e in entries]

    def sequences(self) -> tuple[Rows, Rows]:
        self.use(self.tokenizer())
        return Rows(self.problems("train", self.count)), Rows(self.problems("val", self.held_out))

    def grade(self, problems: list[Problem], rollouts: list[Rollout]) -> list[bool]:
        verifier = GymVerifier(dataset("train", 1))  # the score is the task's, whatever the entry
        return [verifier(self.text(r), problems[r.prompt].gold) for r in rollouts]

    def text(self, rollout: Rollout) -> str:
        return response_text(self.words, rollout.ids, self.end)

    def needed(self, problem: Problem) -> int:
        """Tokens of the essential trace, with the end."""
        text = essential(problem.gold["metadata"]["expression"])
        return len(self.words(text, add_special_tokens=False)["input_ids"]) + 1
