"""Training data: token sequences, as optimiser steps of common/training/steps.py.

A micro-batch is a dict:
    input_ids, attention_mask   (B, S) int64, padded on the right
    sample_index, lengths       lists of B ints: place in the stream, tokens before the padding
    step_tokens, step_targets   ints: valid and predicted tokens of the *whole* optimiser step, over
                                all ranks and accumulation: what a summed loss is divided by
Three sources: `TextWindows` (packaged prose), `RedPajamaSample` (the paper's data),
`TokenDifficulty` (generated: Tier A, see `difficulty.py`).
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import reprlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.data.prose import docstrings, tokenizer_sha256, topics, windows
from common.data.text import is_text, lines
from common.errors import SetupError
from common.files import building, cache_dir
from common.seeds import seed_of
from common.training.steps import StepData

from .difficulty import VOCABULARY, token_difficulty
from .layers import embeddings_of, find_stack


class TokenRows:
    """What both kinds of rows have in common: how they become a micro-batch (see common/training/steps.py)."""

    lengths: np.ndarray

    @property
    def counts(self) -> dict[str, np.ndarray]:
        return {"step_tokens": self.lengths, "step_targets": self.lengths - 1}

    @staticmethod
    def collate(rows: list[Tensor], sample_index: list[int], totals: dict[str, int]) -> dict:
        return collate(rows, sample_index, totals["step_tokens"], totals["step_targets"])

    @staticmethod
    def blank(batch: dict) -> dict:
        return batch | {"attention_mask": torch.zeros_like(batch["attention_mask"])}


class Rows(TokenRows):
    """Token sequences of one length: tensor (N, S), int64."""

    def __init__(self, ids: Tensor):
        self.ids, self.lengths = ids, np.full(len(ids), ids.shape[1], dtype=np.int64)

    def __getitem__(self, index: int) -> Tensor:
        return self.ids[index]


class RaggedRows(TokenRows):
    """Token sequences of different lengths in one flat array; `which` selects rows of it."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, which: np.ndarray):
        self.ids, self.start = ids, offsets[which]
        self.lengths = offsets[which + 1] - offsets[which]

    def __getitem__(self, index: int) -> Tensor:
        begin = self.start[index]
        return torch.from_numpy(self.ids[begin : begin + self.lengths[index]].astype(np.int64))


def collate(rows: list[Tensor], sample_index: list[int], tokens: int, targets: int) -> dict:
    """Pads on the right with id 0; what stands there is never read, see `attention_mask`."""
    lengths = [len(row) for row in rows]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    for row, target in zip(rows, ids):
        target[: len(row)] = row
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    return dict(input_ids=ids, attention_mask=mask, sample_index=sample_index, lengths=lengths,
                step_tokens=tokens, step_targets=targets)


def apart(ids: np.ndarray, offsets: np.ndarray, train: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The rows of `train` that are none of `held` token by token (crawled text comes twice).

    Lengths, first, middle and last tokens tell nearly all apart, and of a corpus on disk no more is read than these.
    """
    def marks(rows: np.ndarray) -> np.ndarray:
        start, length = offsets[rows], offsets[rows + 1] - offsets[rows]
        return np.stack([length, *(ids[start + at].astype(np.int64) for at in (0 * length, length // 2, length - 1))], 1)

    def whole(row: int) -> bytes:
        return np.asarray(ids[offsets[row] : offsets[row + 1]]).tobytes()

    texts, seen = {whole(row) for row in held}, set(map(tuple, marks(held).tolist()))
    alike = np.array([tuple(mark) in seen for mark in marks(train).tolist()], dtype=bool)
    return train[[not (like and whole(row) in texts) for row, like in zip(train, alike)]]


def at_least(least: int, name: str, value: int) -> None:
    """Raises SetupError: a sequence of one token predicts nothing, and all that is counted would be nan."""
    if value < least:
        raise SetupError(f"data.{name} is {value}: a number from {least} on.")


class TextWindows(StepData):
    """Packed windows of English text that every installation carries (`common/data/prose.py`).

    corpus: "topics" (Python's help pages, 0.4 MB) or "docstrings" (of the installed packages, at
    most max_chars). length: tokens a window. val_windows: taken evenly from the validation split.
    """

    def __init__(self, corpus: Literal["topics", "docstrings"] = "topics", length: int = 128,
                 val_windows: int = 32, max_chars: int = 4_000_000, batch_size: int = 16,
                 seed: int = 43, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)
        self.corpus, self.max_chars = corpus, max_chars
        self.length, self.val_windows = length, val_windows

    def sequences(self) -> tuple[Rows, Rows]:
        at_least(2, "length", self.length)
        at_least(1, "val_windows", self.val_windows)
        texts = topics() if self.corpus == "topics" else docstrings(max_chars=self.max_chars)
        train = windows(texts["train"], self.tokenizer(), self.length)
        held = windows(texts["validation"], self.tokenizer(), self.length)
        every = max(len(held) // self.val_windows, 1)
        return Rows(train), Rows(held[::every][: self.val_windows])


class RedPajamaSample(StepData):
    """The paper's data: one sample a row, truncated to `max_length`, not packed.

    path: hub id of a data set in parquet, or a local folder of *.jsonl or *.parquet files.
    revision: the data set's commit. field: the text column. holdout: fraction kept out of training,
    drawn by seed; val_samples: so many of it validate, on however many devices. Ids are cached under
    the hash of tokenizer, source and max_length (the official cache is named after a command-line
    default: a second model trains on the first one's ids).
    """

    def __init__(self, path: str, revision: str | None = None, field: str = "text",
                 max_length: int = 4096, holdout: float = 0.001, val_samples: int = 100,
                 batch_size: int = 16, seed: int = 43, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)
        self.path, self.revision, self.field = path, revision, field
        self.max_length, self.holdout, self.val_samples = max_length, holdout, val_samples

    def prepare_data(self) -> None:
        """Before any model is loaded: a missing folder should not cost ten minutes of loading."""
        if self._is_local():
            self._local_files()

    def sequences(self) -> tuple[RaggedRows, RaggedRows]:
        at_least(2, "max_length", self.max_length)
        at_least(1, "val_samples", self.val_samples)
        ids, offsets = self._tokens()
        usable = np.flatnonzero(np.diff(offsets) > 1)  # a sample of one token predicts nothing
        if len(usable) < 2:
            raise SetupError(f"data.path {self.path!r} holds {len(usable)} samples of two tokens "
                             "or more: 2 are needed, one to train and one to validate.")
        generator = torch.Generator().manual_seed(seed_of("holdout", self.seed))
        usable = usable[torch.randperm(len(usable), generator=generator).numpy()]
        held = min(max(1, round(self.holdout * len(usable))), len(usable) - 1)
        validate = usable[: min(held, self.val_samples)]
        train = apart(ids, offsets, usable[held:], validate)
        if not len(train):
            raise SetupError(f"data.path {self.path!r}: every sample to train on is, token by token, one to validate on. A loss on what "
                             "was trained on tells nothing; give texts that differ.")
        if len(train) < len(usable) - held:
            print(f"data: {len(usable) - held - len(train)} samples are also among those that validate, and are not trained on", flush=True)
        return RaggedRows(ids, offsets, train), RaggedRows(ids, offsets, validate)

    def _tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """(flat int32 ids, memory-mapped; int64 offsets (N + 1,)); made by one process, once."""
        tokenizer = self.tokenizer()
        identity, texts = self._source()
        key = [tokenizer_sha256(tokenizer), identity, self.field, self.max_length]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
        folder = cache_dir() / f"skipgpt-tokens-{name}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "offsets.npy").exists():
                with building(folder) as work:
                    self._write_tokens(tokenizer, texts(), work)
        ids = np.memmap(folder / "ids.int32", dtype=np.int32, mode="r")
        return ids, np.load(folder / "offsets.npy")

    def _write_tokens(self, tokenizer, texts: Iterator[str], folder: Path) -> None:
        offsets = [0]
        with open(folder / "ids.int32", "wb") as file:
            while chunk := list(itertools.islice(texts, 1000)):
                encoded = tokenizer(chunk, truncation=True, max_length=self.max_length)
                for ids in encoded["input_ids"]:
                    file.write(np.asarray(ids, dtype=np.int32).tobytes())
                    offsets.append(offsets[-1] + len(ids))
        if offsets[-1] == 0:
            raise SetupError(f"data.path {self.path!r} holds no text.")
        np.save(folder / "offsets.npy", np.asarray(offsets, dtype=np.int64))

    def _is_local(self) -> bool:
        named = self.path.startswith((".", "/", "~")) or self.path.count("/") != 1
        return named or Path(self.path).is_dir()

    def _local_files(self) -> list[Path]:
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise SetupError(f"data.path: there is no folder {self.path!r}. Give a folder of "
                             f"*.jsonl or *.parquet files with a column {self.field!r}, or the hub "
                             "id (owner/name) of such a data set.")
        files = sorted(p for p in folder.rglob("*") if p.suffix in (".jsonl", ".parquet"))
        if not files:
            raise SetupError(f"data.path: {self.path!r} has no *.jsonl or *.parquet file.")
        return files

    def _source(self) -> tuple:
        """(what identifies the content, function giving an iterator of texts)."""
        if self._is_local():
            files = self._local_files()
            stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
            return [str(Path(self.path).expanduser().resolve()), stats], lambda: self._read(files)
        return self._hub()

    def _hub(self) -> tuple:
        from datasets import load_dataset
        from huggingface_hub import HfApi

        try:
            commit = HfApi().dataset_info(self.path, revision=self.revision).sha
            data = load_dataset(self.path, revision=commit, split="train")
        except Exception as error:  # hub, http and dataset errors share no useful base class
            reason = (str(error).splitlines() or [""])[0][:200]
            raise SetupError(f"Cannot get data set {self.path} from the hub ("
                             f"{type(error).__name__}: {reason}). Give data.path a local folder of "
                             "*.jsonl or *.parquet files instead.") from error
        if self.field not in data.column_names:
            raise SetupError(f"Data set {self.path} has no column {self.field!r}, but "
                             f"{', '.join(data.column_names)}: set data.field.")
        if self.revision is None:
            warnings.warn(f"{self.path}: no revision in the config. This run uses commit {commit}; "
                          "pin it.", stacklevel=1)
        def texts():
            for number, row in enumerate(data, 1):
                yield self._text(row[self.field], f"{self.path}, row {number}")

        return [self.path, commit], texts

    def _text(self, value, where: str) -> str:
        """Null, a number, a list or half a surrogate pair is no text: a tokenizer would fail far from here, or train on it."""
        if not is_text(value):
            raise SetupError(f"{where}: field {self.field!r} holds no text, but {reprlib.repr(value)}. Mend the row or take it out.")
        return value

    def _read(self, files: list[Path]) -> Iterator[str]:
        for path in files:
            if path.suffix == ".parquet":
                import pyarrow.parquet as parquet

                table = parquet.ParquetFile(path)
                if self.field not in table.schema_arrow.names:
                    raise SetupError(f"{path.name} has no column {self.field!r}, but "
                                     f"{', '.join(table.schema_arrow.names)}: set data.field.")
                batches = table.iter_batches(1000, columns=[self.field])
                values = itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
                for number, value in enumerate(values, 1):
                    yield self._text(value, f"{path.name}, row {number}")
                continue
            for number, line in lines(path):
                try:
                    value = json.loads(line)[self.field]
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise SetupError(f"{path.name}, line {number}: no JSON object with a field "
                                     f"{self.field!r}.") from error
                yield self._text(value, f"{path.name}, line {number}")


class TokenDifficulty(StepData):
    """Tier A: generated sequences; validation ones start at number 10^9 of the same generator."""

    def __init__(self, length: int = 64, train_samples: int = 30_000, val_samples: int = 256,
                 batch_size: int = 32, seed: int = 43, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)
        self.length, self.train_samples, self.val_samples = length, train_samples, val_samples

    def sequences(self) -> tuple[Rows, Rows]:
        at_least(2, "length", self.length)
        at_least(1, "train_samples", self.train_samples)
        at_least(1, "val_samples", self.val_samples)
        if self.trainer is not None:  # else nobody reads them by a model
            words = embeddings_of(find_stack(self.trainer.lightning_module.model)).shape[0]
            if words < VOCABULARY:
                raise SetupError(f"TokenDifficulty is written in {VOCABULARY} tokens, and the model has {words}: take one with so many.")
        train, _ = token_difficulty(self.train_samples, self.length, seed=self.seed)
        held, _ = token_difficulty(self.val_samples, self.length, seed=self.seed, first=10**9)
        return Rows(train), Rows(held)
