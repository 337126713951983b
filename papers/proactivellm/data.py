"""Streams as training batches: generated, or from files and the hub; each row with a path of its own, drawn from a law.

    Generated      the tasks of tasks.py, with known evidence
    Answered       passages with a question before them, or sentence pairs: line-aligned files, JSON lines, or a hub data set
A path is a function of (seed, place in the training stream): the same whatever the batch, the devices, or a restart. What comes of
batches: common/training/steps.py.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from common.data.apart import apart
from common.errors import SetupError
from common.seeds import seed_of
from common.streaming.units import Example, Template
from common.training.steps import StepData

from .method import Batch, Law, read_path, visible_tokens
from .tasks import Item, Task


def units_of(example: Example) -> tuple[int, int]:
    """(M + 1, L): what a path reads, the end of the source included, and what it writes, the end of the answer included."""
    return len(example.source_units) - 1, len(example.target_units) - 1


def batch_of(examples: Sequence[Example], paths: Sequence[Sequence[int]]) -> tuple[Batch, Tensor | None]:
    """(padded rows, frames of audio (B, S, n) or None). Ids of frames are -1 in `source`, see CausalEncoder.join."""
    pad = torch.nn.utils.rnn.pad_sequence

    def stacked(rows) -> Tensor:
        return pad(list(rows), batch_first=True)

    visible = [visible_tokens(e.source_units, e.target_units, path) for e, path in zip(examples, paths, strict=True)]
    scored = [torch.arange(len(e.target)) >= e.target_units[0] for e in examples]
    batch = Batch(stacked(e.source for e in examples), stacked(e.target for e in examples), stacked(visible),
                  torch.tensor([len(e.source) for e in examples]), torch.tensor([len(e.target) for e in examples]), stacked(scored))
    features = stacked(e.features for e in examples) if examples[0].features is not None else None
    return batch, features


class Rows:
    """Items as the rows of common/training/steps.py."""

    def __init__(self, items: Sequence[Item], law: Law, seed: int, oracle: bool):
        self.items, self.law, self.seed, self.oracle = items, law, seed, oracle
        targets = np.array([len(i.example.target) - i.example.target_units[0] for i in items], dtype=np.int64)
        tokens = np.array([len(i.example.source) + len(i.example.target) for i in items], dtype=np.int64)
        self.counts = {"step_targets": targets, "step_tokens": tokens}

    def __getitem__(self, row: int) -> Item:
        return self.items[row]

    def path(self, item: Item, index: int) -> Sequence[int]:
        """Of the item at this place of the stream; the oracle's, where that is what is trained on."""
        if self.oracle:
            return item.oracle
        return read_path(self.law, *units_of(item.example), random.Random(seed_of("path", self.seed, index)))

    def collate(self, items: list[Item], sample_index: list[int], totals: dict[str, int]) -> dict:
        paths = [self.path(item, index) for item, index in zip(items, sample_index)]
        batch, features = batch_of([item.example for item in items], paths)
        return {"batch": batch, "features": features, "sample_index": sample_index, **totals}

    @staticmethod
    def blank(micro: dict) -> dict:
        """A micro-batch that counts nowhere, for a rank that has run out of validation rows."""
        micro["batch"].scored.zero_()
        return micro


class Streams(StepData):
    """Common part. law: of the paths, by its name and numbers (method.Law); oracle: the paths that the labels say, where there are
    labels: what the alignment-supervised rival is trained on. Subclasses define `items()`: (training, validation)."""

    def __init__(self, law: str = "multinomial", power: float = 0.0, random_power: bool = False, alpha: float = 1.0, k: int = 1,
                 oracle: bool = False, batch_size: int = 32, seed: int = 1, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)
        self.law, self.power, self.random_power, self.alpha, self.k, self.oracle = law, power, random_power, alpha, k, oracle
        self.drawn = Law(law, power, random_power, alpha, k)  # type: ignore[arg-type]  # Law refuses other names

    def items(self) -> tuple[Sequence[Item], Sequence[Item]]:
        raise NotImplementedError

    def sequences(self) -> tuple[Rows, Rows]:
        train, held = self.items()
        for name, found in (("training", train), ("validation", held)):
            if not len(found):
                raise SetupError(f"{type(self).__name__}: no {name} stream")
        return Rows(train, self.drawn, self.seed, self.oracle), Rows(held, self.drawn, self.seed, self.oracle)


class Generated(Streams):
    """Items of a task (tasks.py). first: number of the first training item. language: seed of the task's draws (None: the seed's)."""

    def __init__(self, task: str = "qa", bank: str = "espeak", train_samples: int = 32_000, val_samples: int = 128, first: int = 0,
                 language: int | None = None, law: str = "multinomial", power: float = 0.0, random_power: bool = False, alpha: float = 1.0,
                 k: int = 1, oracle: bool = False, batch_size: int = 32, seed: int = 1, num_workers: int = 0):
        super().__init__(law, power, random_power, alpha, k, oracle, batch_size, seed, num_workers)
        self.task, self.bank, self.train_samples, self.val_samples = task, bank, train_samples, val_samples
        self.first, self.language = first, language

    def items(self) -> tuple[Sequence[Item], Sequence[Item]]:
        task = Task(self.task, self.seed if self.language is None else self.language, self.bank)
        return Drawn(task, "train", self.train_samples, self.first), Drawn(task, "calibration", self.val_samples, 10**8)


class Drawn(Sequence):
    """Items of a task, made when they are asked for and kept: a training may not see all of them."""

    def __init__(self, task: Task, split: str, count: int, first: int = 0):
        self.task, self.split, self.count, self.first = task, split, count, first
        self.known: dict[int, Item] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number):
        if not 0 <= number < self.count:
            raise IndexError(number)
        if number not in self.known:
            self.known[number] = self.task.item(self.first + number, self.split)
        return self.known[number]


# -- real text ---------------------------------------------------------------------------------------------
MAY_REFUSE = 0.01  # share of the rows that may be left out because a token lies in two of their words
FORMS = {  # hub data sets of the paper (spec 4): source, answer, instruction of a row
    "translation": lambda row, languages: (row["translation"][languages[0]], row["translation"][languages[1]], ""),
    "squad": lambda row, _: (row["context"], row["answers"]["text"][0], f"Question: {row['question']}"),
    "mctest": lambda row, _: (row["story"], "ABCD"[int(row["answer"])] if str(row["answer"]).isdigit() else row["answer"],
                              f"Question: {row['question']} Choices: " + " ".join(
                                  f"{letter}. {text}" for letter, text in zip("ABCD", row["choices"]))),
    "dialogsum": lambda row, _: (row["dialogue"], row["summary"], ""),
    "spoken-squad": lambda row, _: (row["context"], row["answer"], f"Question: {row['question']}"),
}


class Answered(Streams):
    """Text that is read word by word, and an answer to it; an instruction, and the question of a row, stand before it.

    train, validation: files of JSON lines {"source", "target", "question" (may be absent)}, plain or .gz; or path, name, revision of a
    hub data set whose rows `form` says how to read (FORMS), with its splits. languages: of a translation.
    """

    def __init__(self, train: str | None = None, validation: str | None = None, path: str | None = None, name: str | None = None,
                 revision: str | None = None, form: Literal["translation", "squad", "mctest", "dialogsum", "spoken-squad"] = "translation",
                 splits: tuple[str, str] = ("train", "validation"), languages: tuple[str, str] = ("en", "de"), instruction: str = "",
                 max_tokens: int = 2048, val_samples: int = 512, law: str = "multinomial", power: float = 0.0, random_power: bool = False,
                 alpha: float = 1.0, k: int = 1, batch_size: int = 32, seed: int = 1, num_workers: int = 0):
        super().__init__(law, power, random_power, alpha, k, False, batch_size, seed, num_workers)
        self.train, self.validation, self.path, self.name, self.revision = train, validation, path, name, revision
        self.form, self.splits, self.languages, self.instruction = form, tuple(splits), tuple(languages), instruction
        self.max_tokens, self.val_samples = max_tokens, val_samples

    def rows_of(self, split: int) -> list[tuple[str, str, str]]:
        """(source, answer, instruction of the row) of training (0) or validation (1). Raises SetupError: what is missing."""
        if self.path is None:
            file = (self.train, self.validation)[split]
            if file is None:
                raise SetupError(f"data.{('train', 'validation')[split]}: name a file of JSON lines, or data.path, a hub data set")
            return [(row["source"], row["target"], row.get("question") or "") for row in read_rows(Path(file))]
        from datasets import load_dataset

        try:
            found = load_dataset(self.path, self.name, split=self.splits[split], revision=self.revision)
        except Exception as error:  # hub, http and dataset errors share no useful base class
            reason = (str(error).splitlines() or [""])[0][:200]
            raise SetupError(f"Cannot get data set {self.path} ({self.name}) from the hub ({type(error).__name__}: {reason}). Offline, "
                             "give data.train and data.validation files of JSON lines.") from error
        return [FORMS[self.form](row, self.languages) for row in found]

    def prepare_data(self) -> None:
        """Before any model is loaded: a missing file should not cost ten minutes of loading. Raises SetupError, too, where validation would
        be training."""
        sides = self.splits if self.path else [name and Path(name).expanduser().resolve() for name in (self.train, self.validation)]
        if sides[0] == sides[1] and sides[0] is not None:
            raise SetupError(f"data: {Path(sides[0]).name} is to be trained on and to be validated on: a loss on what was trained on tells "
                             "nothing; name two that share no row")
        if self.path is None:
            self.rows_of(1)

    def items(self) -> tuple[Sequence[Item], Sequence[Item]]:
        tokenizer, held = self.tokenizer(), self.rows_of(1)[: self.val_samples]
        train = apart(self.rows_of(0), held, lambda row: (row[0].strip(), row[2].strip()))  # not the answer
        return cut(tokenizer, self.instruction, train, self.max_tokens), cut(tokenizer, self.instruction, held, self.max_tokens)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of JSON lines with "source" and "target". Raises SetupError naming file and line."""
    path = path.expanduser()
    if not path.is_file():
        raise SetupError(f"there is no file {path.name} in {path.parent.name or '.'}")
    rows = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_row(line, f"{path.name}, line {number}"))
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise SetupError(f"{path.name} cannot be read as JSON lines: {error}") from error
    if not rows:
        raise SetupError(f"{path.name} holds no row")
    return rows


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{where}: no JSON ({error})") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) and row[key].strip() for key in ("source", "target")):
        raise SetupError(f'{where}: no "source" and "target" in it')
    if not isinstance(row.get("question"), str | None):
        raise SetupError(f'{where}: "question" is {row["question"]!r}, and no text')
    return row


def cut(tokenizer, instruction: str, rows: Sequence[tuple[str, str, str]], max_tokens: int) -> list[Item]:
    """Rows in units of words, those that fit. The question is part of the instruction: what is enough is undefined without it.

    Raises SetupError where more than a hundredth cannot be cut into words. The oracle is not known: it is empty.
    """
    items, refused, templates = [], [], {}
    for source, target, question in rows:
        told = f"{instruction}\n{question}".strip()
        try:
            if told not in templates:
                templates = {told: Template.of(tokenizer, told)}
            example = templates[told].example(source, target)
        except ValueError as error:
            refused.append(str(error))
            continue
        if len(example.source) + len(example.target) <= max_tokens:
            items.append(Item(example, ()))
    if len(refused) > MAY_REFUSE * len(rows):
        raise SetupError(f"data: {len(refused)} of {len(rows)} rows cannot be cut into words; the first: {refused[0]}")
    if left_out := len(rows) - len(items):
        print(f"data: {left_out} of {len(rows)} rows are left out: longer than {max_tokens} tokens, or not to be cut ({refused[:1]})",
              flush=True)
    return items
