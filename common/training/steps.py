"""Training data as optimiser steps: what is seen, and when, follows from (seed, step) alone.

Step k sees the samples k G … k G + G - 1 of one endless stream: the training set in a new seeded order for every pass.
The stream is cut into micro-batches for the accumulation steps and ranks that the Trainer happens to have. So batch 1 x
accumulate 8 = batch 8, two processes = one, and a run that was killed goes on at the right sample without a stored
sampler or RNG state.

A paper's rows say how they become a batch:
    len(rows.counts[name]) rows, each with what it adds to the total `name` of an optimiser step, e.g. its tokens
    rows[i]                         one sample
    rows.collate(samples, sample_index, totals) -> dict     a micro-batch. sample_index: places in the stream (ints);
                                    totals {name: int}: over the *whole* optimiser step, all ranks and accumulation:
                                    what a summed loss is divided by
    rows.blank(batch) -> dict       the same batch so that it counts nowhere
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..errors import SetupError
from ..seeds import seed_of


def n_rows(rows) -> int:
    return len(next(iter(rows.counts.values())))


def totals(rows, which: list[int]) -> dict[str, int]:
    """Sums of the rows' counts."""
    return {name: int(count[which].sum()) for name, count in rows.counts.items()}


class StepBatches(IterableDataset):
    """The endless micro-batches of one rank, from optimiser step `start_step` on."""

    def __init__(self, rows, *, batch_size: int, micro_batch: int, seed: int, start_step: int = 0,
                 rank: int = 0, world_size: int = 1):
        self.rows, self.batch_size, self.micro_batch = rows, batch_size, micro_batch
        self.seed, self.start_step = seed, start_step
        self.rank, self.world_size = rank, world_size
        self._pass = -1
        self._order: Sequence[int] = ()  # the rows as pass number `_pass` has them

    def row(self, index: int) -> int:
        """Which row stands at place `index` of the stream: a function of (seed, index)."""
        turn, place = divmod(index, n_rows(self.rows))
        if turn != self._pass:
            generator = torch.Generator().manual_seed(seed_of("order", self.seed, turn))
            self._order = torch.randperm(n_rows(self.rows), generator=generator).numpy()
            self._pass = turn
        return int(self._order[place])

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        skip, every = (worker.id, worker.num_workers) if worker else (0, 1)
        parts = self.batch_size // (self.micro_batch * self.world_size)
        for number in itertools.count(self.start_step * parts + skip, every):
            step, part = divmod(number, parts)
            stream = range(step * self.batch_size, (step + 1) * self.batch_size)
            rows = [self.row(index) for index in stream]
            first = (part * self.world_size + self.rank) * self.micro_batch
            mine = slice(first, first + self.micro_batch)
            yield self.rows.collate([self.rows[r] for r in rows[mine]], list(stream[mine]), totals(self.rows, rows))


class FromStep(IterableDataset):
    """rows[start], rows[start + 1], ... rows[stop - 1], where a row is a whole optimiser step.

    Without a length on purpose: a Trainer that resumes counts a loader's length from the beginning, and would start
    the shortened one anew before its end.
    """

    def __init__(self, rows, start: int, stop: int):
        self.rows, self.start, self.stop = rows, start, stop

    def __iter__(self) -> Iterator:
        return (self.rows[step] for step in range(self.start, self.stop))


class ValidationBatches(IterableDataset):
    """Every row once; rank r takes every world_size-th batch.

    A rank that runs out before the others goes on with batches that count nowhere: sharded weights are gathered in
    every forward pass, so all ranks must make equally many.
    """

    def __init__(self, rows, *, micro_batch: int, rank: int = 0, world_size: int = 1):
        self.rows, self.micro_batch = rows, micro_batch
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[dict]:
        n, size = n_rows(self.rows), self.micro_batch
        for turn in range(0, n, self.world_size * size):
            first = turn + self.rank * size
            mine = list(range(first, min(first + size, n)))
            if mine:
                yield self.rows.collate([self.rows[i] for i in mine], mine, totals(self.rows, mine))
            else:
                yield self.rows.blank(self.rows.collate([self.rows[0]], [0], dict.fromkeys(self.rows.counts, 0)))


class StepData(L.LightningDataModule):
    """Common part. `batch_size` counts samples per *optimiser step*, over devices and accumulation.

    The micro-batch of a device is batch_size / (accumulate_grad_batches x devices), so that another machine does not
    make another experiment. Subclasses define `sequences()`.
    """

    def __init__(self, batch_size: int, seed: int, num_workers: int = 0):
        super().__init__()
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self._sequences: tuple | None = None

    def sequences(self) -> tuple:
        """(training rows, validation rows). Called when the model and its tokenizer are loaded."""
        raise NotImplementedError

    def tokenizer(self):
        """The model's. Raises SetupError if it has none."""
        tokenizer = self.trainer.lightning_module.tokenizer
        if tokenizer is None:
            raise SetupError(f"{type(self).__name__} needs a tokenizer and the model has none: put the tokenizer's files "
                             "into the model's folder, or use generated data, which is made of ids.")
        return tokenizer

    def rows(self, which: int):
        if self._sequences is None:
            self._sequences = self.sequences()
        rows = self._sequences[which]
        if not n_rows(rows):
            raise SetupError(f"{type(self).__name__}: no row is left to {('train', 'validate')[which]} on: the data are empty, too few to "
                             "be split, or all cut away.")
        return rows

    def micro_batch(self) -> int:
        """Samples per device and micro-batch. SetupError if a step does not divide evenly."""
        accumulate, devices = self.trainer.accumulate_grad_batches, self.trainer.world_size
        if self.batch_size < 1:
            raise SetupError(f"data.batch_size {self.batch_size}: an optimiser step has one sample or more.")
        if self.batch_size % (accumulate * devices):
            raise SetupError(f"data.batch_size {self.batch_size} is not a multiple of {accumulate} x {devices} "
                             "(trainer.accumulate_grad_batches x devices).")
        return self.batch_size // (accumulate * devices)

    def train_dataloader(self):
        """From the sample on at which the trainer stands: a resumed run calls this as well."""
        steps = StepBatches(self.rows(0), batch_size=self.batch_size, seed=self.seed,
                            start_step=self.trainer.global_step, **self._share())
        return DataLoader(steps, batch_size=None, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(ValidationBatches(self.rows(1), **self._share()), batch_size=None)

    def _share(self) -> dict[str, int]:
        return dict(micro_batch=self.micro_batch(), rank=self.trainer.global_rank, world_size=self.trainer.world_size)
