"""Chains of small sums, and traces that solve them with more words than they need.

    prompt     <bos> c 4 f + 7 a * 3 ?        start at 4, add 7, multiply by 3; everything modulo 10; labels name the steps
    essential  f 4 + 7 = 1 ; a 1 * 3 = 3 A 3 <eos>          7 tokens a step, and 2: nothing of it can be left out, because a
                                                             small model does not compose two operations in one look
    redundant  W: wait, the same step once more; R: restart, the whole chain once more. How often differs from trace to
               trace. Each computation is wrong now and then, and a wrong one is more often computed again: repeating
               is useful here, as in real reasoning, so that a model that just drops it gets worse.

What is redundant is thus known token by token, which no real chain of thought offers. Problems follow from (seed, split,
number), traces from a generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BOS, END, WAIT, RESTART, NEXT, ANSWER = "<bos>", "<eos>", "W", "R", ";", "A"
OPERATIONS, LABELS, DIGITS = ("+", "-", "*"), tuple("abcdefgh"), tuple("0123456789")
WORDS = ("<pad>", BOS, END, "?", "=", NEXT, WAIT, RESTART, ANSWER, *DIGITS, *OPERATIONS, *LABELS)
SPLITS = {"train": 0, "val": 1, "test": 2}
LONGEST = 170  # tokens of a trace; no repetition begins within ROOM of it
ROOM = 45
WRONG = 0.04  # of the computations


@dataclass(frozen=True)
class Problem:
    """start and digits 0 .. 9; labels of start and of each step; operations of the steps."""

    start: int
    labels: tuple[str, ...]
    operations: tuple[str, ...]
    digits: tuple[int, ...]

    @property
    def k(self) -> int:
        return len(self.operations)

    @property
    def prompt(self) -> tuple[str, ...]:
        steps = [w for label, op, d in zip(self.labels[1:], self.operations, self.digits) for w in (label, op, str(d))]
        return (BOS, self.labels[0], str(self.start), *steps, "?")

    @property
    def answer(self) -> int:
        value = self.start
        for op, d in zip(self.operations, self.digits):
            value = compute(value, op, d)
        return value

    @property
    def essential(self) -> int:
        """Tokens that a right response needs: 7 k + 2."""
        return 7 * self.k + 2


def compute(x: int, operation: str, d: int) -> int:
    """Modulo 10."""
    return {"+": x + d, "-": x - d, "*": x * d}[operation] % 10


def problem(number: int, split: str = "train", seed: int = 0, ops: tuple[int, int] = (1, 3)) -> Problem:
    """Problem `number` of a split; k is uniform in ops, both ends included."""
    draw = np.random.default_rng([seed, SPLITS[split], number])
    k = int(draw.integers(ops[0], ops[1] + 1))
    labels = tuple(LABELS[i] for i in draw.permutation(len(LABELS))[: k + 1])
    return Problem(int(draw.integers(10)), labels, tuple(OPERATIONS[i] for i in draw.integers(3, size=k)),
                   tuple(int(d) for d in draw.integers(10, size=k)))


def trace(of: Problem, draw: np.random.Generator, verbosity: float | None = None) -> tuple[str, ...]:
    """A redundant response, <eos> at its end. verbosity: 0 .. 1; drawn from 0.3 .. 1 for this trace if None."""
    v = float(draw.uniform(0.3, 1.0)) if verbosity is None else verbosity
    words: list[str] = []
    while True:  # one pass over the chain
        value = of.start
        for i, (label, op, d) in enumerate(zip(of.labels[1:], of.operations, of.digits)):
            last = i == of.k - 1
            while True:  # one computation of the step
                true = compute(value, op, d)
                wrong = draw.random() < WRONG
                found = (true + int(draw.integers(1, 10))) % 10 if wrong else true
                words += [label, str(value), op, str(d), "=", str(found)]
                again = draw.random() < (0.5 + 0.5 * v if wrong else 0.85 * v)
                if not again or len(words) > LONGEST - ROOM:
                    break
                words.append(WAIT)
            value = found
            if not last:
                words.append(NEXT)
        if draw.random() < 0.8 * v and len(words) <= LONGEST - ROOM:
            words.append(RESTART)
            continue
        return (*words, ANSWER, str(value), END)


def essential(of: Problem) -> tuple[str, ...]:
    """The shortest right response: 7 k + 2 tokens."""
    words, value = [], of.start
    for i, (label, op, d) in enumerate(zip(of.labels[1:], of.operations, of.digits)):
        found = compute(value, op, d)
        words += [label, str(value), op, str(d), "=", str(found), NEXT if i < of.k - 1 else ANSWER]
        value = found
    return (*words, str(value), END)


def correct(words: Sequence[str], of: Problem, limit: int | None = None) -> bool:
    """Whether a response ends with A, the answer and <eos>, within `limit` tokens; what stands before is its own affair."""
    return (limit is None or len(words) <= limit) and tuple(words[-3:]) == (ANSWER, str(of.answer), END)


def tokenizer():
    """One token a word, in hub format."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BOS, eos_token=END, pad_token="<pad>", unk_token="<pad>")
