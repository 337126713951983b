"""Traces as training batches: generated stories, or lines of a file in the released data set's form.

    StoryTraces    stories with running totals (common/data/stories.py), the default
    JsonTraces     question, sentences, a unit for each, deep part and answer, one JSON object a line, under the model's chat template

Depths are drawn for every sample, a function of (seed, place in the stream): the same whatever the batch, the devices, or a restart.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from common.data import stories
from common.data.stories import Level
from common.data.text import is_text, lines
from common.errors import DataError, SetupError
from common.seeds import seed_of
from common.streaming.units import sentence_ends
from common.streaming.words import one_blank
from common.training.steps import StepData

from . import method, worded
from .method import Segments


class Rows:
    """Samples as the rows of common/training/steps.py: each may be had at several depths, of which one is drawn."""

    def __init__(self, samples: Sequence[dict[int, Segments]], seed: int):
        if not samples:
            raise SetupError("no sample to train on")
        self.samples, self.seed = samples, seed
        # The count must not depend on the place in the stream, so a row's depth is drawn by the row.
        self.chosen = [of[sorted(of)[seed_of("depth", seed, i) % len(of)]] for i, of in enumerate(samples)]
        self.counts = {"step_targets": torch.tensor([sum(s.learnt) for s in self.chosen])}
        self.layout: dict[str, Any] = {}

    def __getitem__(self, row: int) -> Segments:
        return self.chosen[row]

    def collate(self, samples: list[Segments], sample_index: list[int], totals: dict[str, int]) -> dict:
        return {"batch": method.collate(samples, **self.layout), "sample_index": sample_index, **totals}

    @staticmethod
    def blank(micro: dict) -> dict:
        """A micro-batch that counts nowhere, for a rank that has run out of validation samples."""
        micro["batch"].targets.fill_(-100)
        return micro


class Traces(StepData):
    """Common part. Subclasses define `samples()`: (training, validation), each sample {depth: Segments}. The layout is the module's."""

    def __init__(self, batch_size: int = 32, seed: int = 1, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)

    def samples(self) -> tuple[Sequence[dict[int, Segments]], Sequence[dict[int, Segments]]]:
        raise NotImplementedError

    def sequences(self) -> tuple[Rows, Rows]:
        train, held = (Rows(samples, self.seed) for samples in self.samples())
        train.layout = held.layout = self.trainer.lightning_module.layout
        return train, held

    def transfer_batch_to_device(self, batch: dict, device, dataloader_idx: int) -> dict:
        return batch | {"batch": batch["batch"].to(device)}


class StoryTraces(Traces):
    """depths: of which one is drawn for each story. order: question or context (first). task: totals, rules or places."""

    def __init__(self, train_samples: int = 16_000, val_samples: int = 128, depths: list[int] = (1, 2, 3), order: str = "question",
                 task: str = "totals", batch_size: int = 32, seed: int = 1, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)
        if task not in stories.TASKS or not set(depths) <= {1, 2, 3} or not depths:
            raise ValueError(f"data: task {task!r} of {', '.join(stories.TASKS)}; depths {list(depths)} of 1, 2, 3")
        self.train_samples, self.val_samples, self.depths, self.order, self.task = train_samples, val_samples, list(depths), order, task

    def story(self, number: int, split: str) -> stories.Story:
        more = {"totals": dict(level=Level(), order=self.order), "places": dict(order=self.order), "rules": {}}[self.task]
        return stories.TASKS[self.task](number, split, self.seed, **more)

    def samples(self):
        return tuple([{d: worded.segments_of(self.story(i, split), d) for d in self.depths} for i in range(count)]
                     for split, count in (("train", self.train_samples), ("val", self.val_samples)))


# -- real text ---------------------------------------------------------------------------------------------
MARKS = re.compile(r"<(EOS|EOQ|EOT|EOR|EOA|EOF|SEP)>")


def rows_of(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of the rows of a file of JSON lines. An empty line is none, and the mark of byte order that some editors put
    first is no part of one. Raises DataError as `lines`."""
    for number, line in lines(path):
        line = line.removeprefix("\ufeff") if number == 1 else line
        if line.strip():
            yield number, line


def boxed(answer: str) -> str:
    """What the last \\boxed{...} (or \\box{...}) of an answer holds, of nested ones the outer; all of the answer where there is none.

    Raises DataError for braces that do not pair, or a box without any: where the answer ends is then a guess.
    """
    opened: list[tuple[int, bool]] = []  # of each brace not closed yet: where what it holds begins; whether it is a box
    found, unpaired = None, False
    for mark in re.finditer(r"\\box(?:ed)?(?![a-zA-Z])\s*\{?|\\.|[{}]", answer, re.S):
        if mark.group().endswith("{") and mark.group() != "\\{":
            opened.append((mark.end(), len(mark.group()) > 1))
        elif mark.group() == "}" and opened:
            start, box = opened.pop()
            found = answer[start : mark.start()] if box else found
        else:
            unpaired |= mark.group() == "}" or mark.group().startswith("\\box")
    if opened or unpaired:
        raise DataError(f"the braces of the answer do not pair, or its box has none: {answer[:60]!r}")
    return answer if found is None else found


def pieces(text: str) -> list[str]:
    """A text of the released form, cut behind each mark; what stands behind the last one is an error and not dropped."""
    parts = [part.strip() for part in MARKS.split(text)[::2]]
    if parts[-1]:
        raise DataError(f"text behind the last mark would be lost: {parts[-1][:60]!r}")
    return parts[:-1]


def read_row(row: dict[str, Any]) -> dict[str, Any]:
    """{"source", "units", "deep", "answer", "question"} of a row of the released form (spec 3.2): Instruct_Context.{context, instruct},
    streaming_reasoning, deep_reasoning, answer. A context without marks is cut into sentences. Raises DataError naming what is missing,
    empty or no text, units and sentences that do not pair, and braces of the answer that do not."""
    try:
        context, question = row["Instruct_Context"]["context"], row["Instruct_Context"]["instruct"]
        units, deep, answer = row["streaming_reasoning"], row["deep_reasoning"], row["answer"]
    except (KeyError, TypeError) as error:
        raise DataError(f"a row lacks {error}: it needs Instruct_Context.context and .instruct, streaming_reasoning, deep_reasoning, "
                        "answer") from error
    for name, text in (("Instruct_Context.context", context), ("Instruct_Context.instruct", question), ("streaming_reasoning", units),
                       ("deep_reasoning", deep), ("answer", answer), ("self_check", row.get("self_check") or "")):
        if not is_text(text):
            raise DataError(f"{name} holds no text, but {reprlib.repr(text)}")
    if MARKS.search(context):
        sentences = pieces(context)
    else:
        ends = sentence_ends(context)
        sentences = [context[a:b].strip() for a, b in zip([0, *ends], ends)]
    source, thoughts = [MARKS.sub("", question).strip(), *sentences], pieces(units)
    if len(thoughts) != len(source):
        raise DataError(f"{len(source)} sentences (the question is one) and {len(thoughts)} units do not pair: {question[:60]!r}")
    asked = MARKS.sub("", boxed(answer)).strip()
    for name, text in (*((f"sentence {i}" if i else "the question", text) for i, text in enumerate(source)), ("the answer", asked)):
        if not text:
            raise DataError(f"{name} is empty: {question[:60]!r}")
    return {"source": source, "units": ["" if t.lower() == "<skip>" else t for t in thoughts], "deep": MARKS.sub("", deep).strip(),
            "answer": asked, "question": 0}


def apart(train: Sequence[dict[int, Segments]], held: Sequence[dict[int, Segments]]) -> list[dict[int, Segments]]:
    """The samples of `train` whose source, question and sentences, is that of none of `held`."""
    asked = {segments.source for sample in held for segments in sample.values()}
    return [sample for sample in train if not any(segments.source in asked for segments in sample.values())]


class JsonTraces(Traces):
    """train, validation: files of JSON lines in the released form. depths: 1 leaves the deep part out; 3 needs "self_check" in a row,
    which is put behind the deep part. refused: the most rows, as a share, that may not fit (units that do not pair, over max_tokens).
    Questions and sentences are read with one plain blank between words, as a live stream reads them.

    whole: an ordinary chain of thought about the whole input, the paper's Batch SFT: a row has all of it as the question and the chain as
    its one unit (`traces --whole`), there is one depth, and instruction and cue are others by default.

    Raises SetupError for more depths with `whole`, for none or one without a cue, and for a `refused` that is no share.
    """

    def __init__(self, train: str, validation: str, depths: list[int] = (2,), instruction: str | None = None,
                 cues: dict[int, str] | None = None, max_tokens: int = 4096, refused: float = 0.05, context_first: bool = False,
                 whole: bool = False, batch_size: int = 16, seed: int = 1, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)
        if whole and list(depths) != [1]:
            raise SetupError(f"data.whole with data.depths {list(depths)}: a chain of thought about the whole input has one depth, [1]")
        self.train, self.validation, self.depths, self.whole = train, validation, list(depths), whole
        self.instruction = instruction if instruction is not None else worded.WHOLE if whole else worded.INSTRUCTION
        self.cues = cues or (worded.WHOLE_CUES if whole else None)
        self.max_tokens, self.refused, self.context_first = max_tokens, refused, context_first
        known = sorted(self.cues or worded.CUES)
        if not self.depths or not set(self.depths) <= {*known} or not 0 <= refused <= 1:
            raise SetupError(f"data.depths {self.depths}, data.refused {refused}: one depth at least, each with a cue (there is "
                             f"{', '.join(map(str, known))}), and a share from 0 to 1")

    def samples(self):
        one, other = (Path(name).expanduser().resolve() for name in (self.train, self.validation))
        if one == other:
            raise SetupError(f"data.train and data.validation are both {one.name}: a loss on what was trained on tells nothing; name two "
                             "files that share no row")
        module = self.trainer.lightning_module
        chat = worded.Chat.of(self.tokenizer(), module.model.get_input_embeddings().weight.shape[0], self.instruction, self.cues)
        train, held = self._file(self.train, chat), self._file(self.validation, chat)
        kept = apart(train, held)
        if not kept:
            raise SetupError(f"every row of {one.name} asks what a row of {other.name} asks: a loss on what was trained on tells nothing; "
                             "name two files that share no row")
        if len(kept) < len(train):
            print(f"data: {len(train) - len(kept)} rows of {one.name} ask what {other.name} asks, and are not trained on", flush=True)
        return kept, held

    def _file(self, name: str, chat: worded.Chat) -> list[dict[int, Segments]]:
        path, found, wrong = Path(name).expanduser(), [], []
        if not path.is_file():
            raise SetupError(f"there is no file {path.name} in {path.parent.name or '.'}: data.train and data.validation name files of "
                             "JSON lines")
        for number, line in rows_of(path):
            try:
                found.append(self.sample(json.loads(line), chat))
            except (ValueError, RecursionError, DataError) as error:
                wrong.append(f"line {number}: {error}")
        count = len(found) + len(wrong)
        if len(wrong) > self.refused * count:
            raise SetupError(f"{path.name}: {len(wrong)} of {count} rows cannot be used; the first is {wrong[0]}")
        if not found:
            raise SetupError(f"{path.name} holds no row" + (f" that can be used; the first is {wrong[0]}" if wrong else ""))
        if wrong:
            print(f"data: {len(wrong)} of {count} rows of {path.name} are left out; the first is {wrong[0]}", flush=True)
        return found

    def sample(self, row: dict[str, Any], chat: worded.Chat) -> dict[int, Segments]:
        """The row at each depth. Raises DataError, ValueError for a row that does not fit."""
        read = read_row(row)
        if self.whole and len(read["source"]) > 1:
            raise DataError(f"{len(read['source'])} sentences with a unit each: data.whole reads rows of one, which traces --whole writes")
        check = MARKS.sub("", row.get("self_check") or "").strip()
        if not self.whole:  # whose one text keeps its lines: a question, an empty line, sentences
            read["source"] = list(map(one_blank, read["source"]))
        if self.context_first:
            read["source"], read["units"] = ([*of[1:], of[0]] for of in (read["source"], read["units"]))
            read["question"] = len(read["source"]) - 1
        made = {}
        for depth in self.depths:
            if depth == 3 and not check:
                raise DataError("depth 3 needs a self_check")
            deep = "" if depth == 1 else read["deep"] + (f" {check}" if depth == 3 else "")
            made[depth] = chat.sample(**(read | {"deep": deep}), depth=depth)
            tokens = sum(made[depth].source_lengths) + sum(made[depth].target_lengths)
            if tokens > self.max_tokens:
                raise DataError(f"{tokens} tokens, of at most {self.max_tokens}")
        return made
