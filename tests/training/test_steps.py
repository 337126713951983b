"""common/training/steps.py: a step is the same however it is cut, resumed or spread over ranks; totals; padding batches."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader

from common.errors import SetupError
from common.seeds import seed_of
from common.training.steps import StepBatches, StepData, ValidationBatches


class Numbers:
    """Row i is the number i, with i + 1 tokens, of which i * i count: totals that do not follow from each other."""

    def __init__(self, n):
        self.counts = {"step_tokens": np.arange(n) + 1, "step_targets": np.arange(n) ** 2}

    def __getitem__(self, index):
        return index

    @staticmethod
    def collate(samples, sample_index, totals):
        return {"samples": samples, "sample_index": sample_index, "valid": True, **totals}

    @staticmethod
    def blank(batch):
        return batch | {"valid": False}


class Data(StepData):
    made = 0

    def sequences(self):
        self.made += 1
        return Numbers(12), Numbers(5)


def data_at(step=0, accumulate=1, ranks=1, rank=0, tokenizer=None):
    data = Data(batch_size=8, seed=3)
    data.trainer = SimpleNamespace(global_step=step, accumulate_grad_batches=accumulate, world_size=ranks,
                                   global_rank=rank, lightning_module=SimpleNamespace(tokenizer=tokenizer))
    return data


def stream(micro, ranks, start=0, stop=6, workers=0, seed=3):
    """[(place, row, tokens, targets)] of steps start … stop - 1 of 8 rows out of 12, put together from all ranks."""
    seen = []
    for rank in range(ranks):
        batches = StepBatches(Numbers(12), batch_size=8, micro_batch=micro, seed=seed, start_step=start, rank=rank,
                              world_size=ranks)
        loader = DataLoader(batches, batch_size=None, num_workers=workers)
        for batch in islice(loader, (stop - start) * 8 // (micro * ranks)):
            assert len(batch["samples"]) == micro
            seen += [(*one, batch["step_tokens"], batch["step_targets"])
                     for one in zip(batch["sample_index"], batch["samples"])]
    return sorted(seen)


# -- seeds -------------------------------------------------------------------------------------------------
def test_a_seed_is_what_it_always_was():
    """Committed stand-ins and routers were trained in the order that these seeds give. From coreutils:

    printf "('order', 43, 0)" | b2sum -l 32
    """
    assert seed_of("order", 43, 0) == 0xefb99ffd
    others = seed_of("order", 43, 1), seed_of("order", 430), seed_of("order", "43", 0)
    assert len({seed_of("order", 43, 0), *others}) == 4


# -- training ----------------------------------------------------------------------------------------------
def test_ranks_accumulation_and_workers_cut_the_same_steps():
    whole = stream(8, 1)
    assert [place for place, *_ in whole] == list(range(48))
    for micro, ranks in ((1, 1), (4, 1), (2, 2), (4, 2), (1, 4)):
        assert stream(micro, ranks) == whole
    assert stream(2, 2, workers=2) == whole


def test_the_ranks_of_one_micro_batch_stand_side_by_side():
    """Step 1 is the places 8 … 15: first micro-batch 8 9 | 10 11, second 12 13 | 14 15."""
    places = [[batch["sample_index"] for batch in islice(
        StepBatches(Numbers(12), batch_size=8, micro_batch=2, seed=3, start_step=1, rank=rank, world_size=2), 2)]
        for rank in (0, 1)]
    assert places == [[[8, 9], [12, 13]], [[10, 11], [14, 15]]]


def test_a_run_that_was_killed_goes_on_at_the_same_rows():
    whole = stream(8, 1)
    for start in range(1, 6):  # steps 1 and 4 begin and end in different passes
        assert stream(8, 1, start=start) == stream(2, 2, start=start) == whole[8 * start:]
    assert stream(2, 1, start=1, workers=2) == whole[8:]


def test_every_pass_holds_each_row_once_in_an_order_of_its_own():
    rows = [row for _, row, *_ in stream(8, 1)]
    passes = [rows[first : first + 12] for first in range(0, 48, 12)]
    assert all(sorted(one) == list(range(12)) for one in passes)
    assert len(set(map(tuple, passes))) == 4
    assert rows != [row for _, row, *_ in stream(8, 1, seed=4)]


def test_totals_are_of_the_whole_step_in_every_part_of_it():
    for micro, ranks in ((8, 1), (1, 2)):
        seen = stream(micro, ranks)
        for step in (seen[first : first + 8] for first in range(0, 48, 8)):
            rows = [row for _, row, *_ in step]
            expected = (sum(row + 1 for row in rows), sum(row * row for row in rows))
            assert {(tokens, targets) for *_, tokens, targets in step} == {expected}
    batch = next(iter(StepBatches(Numbers(4), batch_size=4, micro_batch=1, seed=0)))  # all rows: 1+2+3+4, 0+1+4+9
    assert (batch["step_tokens"], batch["step_targets"]) == (10, 14) and type(batch["step_tokens"]) is int


# -- validation --------------------------------------------------------------------------------------------
def test_validation_sees_each_row_once_and_fills_up_with_batches_that_count_nowhere():
    """5 rows, micro-batch 2, 2 ranks: rank 1 has nothing left in the second turn, yet makes a batch."""
    def batch(samples, tokens, targets, valid=True):
        return dict(samples=samples, sample_index=samples, valid=valid, step_tokens=tokens, step_targets=targets)

    ranks = [list(ValidationBatches(Numbers(5), micro_batch=2, rank=rank, world_size=2)) for rank in (0, 1)]
    assert ranks == [[batch([0, 1], 3, 1), batch([4], 5, 16)], [batch([2, 3], 7, 13), batch([0], 0, 0, valid=False)]]
    alone = list(ValidationBatches(Numbers(5), micro_batch=2))
    assert [b["samples"] for b in alone] == [[0, 1], [2, 3], [4]] and all(b["valid"] for b in alone)


# -- the data module ---------------------------------------------------------------------------------------
def test_data_module_cuts_by_the_trainer_and_goes_on_where_it_stands():
    data = data_at(step=2, accumulate=2, ranks=2, rank=1)
    assert data.micro_batch() == 2
    assert [b["sample_index"] for b in islice(data.train_dataloader(), 2)] == [[18, 19], [22, 23]]
    assert [b["samples"] for b in data.val_dataloader()] == [[2, 3], [0]]
    assert data.made == 1  # both of one reading
    whole = next(iter(data_at(step=2).train_dataloader()))
    assert [(i, r) for i, r, *_ in stream(8, 1, start=2, stop=3)] == list(zip(whole["sample_index"], whole["samples"]))


def test_a_step_that_does_not_divide_is_refused():
    with pytest.raises(SetupError, match=r"data\.batch_size 8 is not a multiple of 4 x 4 \(trainer\.accumulate"):
        data_at(accumulate=4, ranks=4).micro_batch()  # either alone would divide
    assert data_at(accumulate=4, ranks=2).micro_batch() == 1


def test_a_model_without_a_tokenizer_is_told():
    with pytest.raises(SetupError, match="Data needs a tokenizer and the model has none: put the tokenizer's files"):
        data_at().tokenizer()
    mine = object()
    assert data_at(tokenizer=mine).tokenizer() is mine
