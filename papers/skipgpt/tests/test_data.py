"""What a training reads: each row once in a pass, however steps are cut; made-up tokens, derived again by their rules; texts of files."""

import json

import numpy as np
import pytest
import torch

from common.errors import SetupError
from common.training.steps import StepBatches, ValidationBatches
from tests.numerics import float64

from ..data import RaggedRows, RedPajamaSample, Rows, TextWindows, TokenDifficulty, apart
from ..difficulty import KINDS, token_difficulty
from .runs import Uneven, alone, fit, router_tuning

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


def test_a_step_is_the_same_however_it_is_cut():
    rows = Uneven().rows(0)

    def steps(micro, ranks, start=0, count=6, workers=0):
        """[(sample_index, ids)] of steps start … count-1, put together from all ranks."""
        out = []
        for rank in range(ranks):
            batches = StepBatches(rows, batch_size=8, micro_batch=micro, seed=3, start_step=start,
                                  rank=rank, world_size=ranks)
            loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers)
            it = iter(loader)
            for _ in range((count - start) * 8 // (micro * ranks)):
                batch = next(it)
                for index, row, n in zip(batch["sample_index"], batch["input_ids"],
                                         batch["lengths"]):
                    out.append((index, row[:n].tolist(), batch["step_tokens"]))
        return sorted(out)

    whole = steps(8, 1)
    assert [index for index, *_ in whole] == list(range(48))
    assert steps(1, 1) == steps(2, 2) == steps(4, 2) == whole
    assert steps(2, 2, start=4) == whole[32:]
    assert steps(4, 1, workers=2) == whole
    for k in range(6):
        step = whole[8 * k : 8 * k + 8]
        assert {tokens for *_, tokens in step} == {sum(len(ids) for _, ids, _ in step)}
    first = sorted(ids for _, ids, _ in whole[:36])  # one pass over 36 rows: each of them once
    assert first == sorted(rows[i].tolist() for i in range(36))
    assert [ids for _, ids, _ in whole[36:48]] != [ids for _, ids, _ in whole[:12]]


def test_ranks_validate_equally_often_and_each_row_once():
    """Sharded weights are gathered in every forward pass: a rank that stops early would hang the rest."""
    rows = Rows(torch.arange(5)[:, None].expand(5, 6) + 3)
    ranks = [list(ValidationBatches(rows, micro_batch=1, rank=r, world_size=3)) for r in range(3)]
    assert [len(batches) for batches in ranks] == [2, 2, 2]
    real = [b for batches in ranks for b in batches if b["attention_mask"].any()]
    assert sorted(int(b["input_ids"][0, 0]) for b in real) == [3, 4, 5, 6, 7]
    (padding,) = [b for batches in ranks for b in batches if not b["attention_mask"].any()]
    module = alone(router_tuning()).eval()
    module.on_validation_start()
    module.validation_step(real[0], 0)
    held_out, stats = module._held_out.clone(), module.state.stats()
    module.validation_step(padding, 1)
    assert torch.equal(module._held_out, held_out) and module.state.stats().n_tokens == stats.n_tokens


def test_a_step_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(SetupError, match="batch_size 8 is not a multiple of 3 x 1"):
        fit(router_tuning(), tmp_path, accumulate=3)


def test_windows_need_a_tokenizer(tmp_path):
    with pytest.raises(SetupError, match="needs a tokenizer"):
        fit(router_tuning(), tmp_path, data=TextWindows(batch_size=8))


def test_rows_have_lengths():
    assert Rows(torch.zeros(3, 5, dtype=torch.int64)).lengths.tolist() == [5, 5, 5]
    ragged = RaggedRows(np.arange(9, dtype=np.int32), np.array([0, 2, 5, 9]), np.array([2, 0]))
    assert ragged.lengths.tolist() == [4, 2] and ragged[0].tolist() == [5, 6, 7, 8]


def test_token_difficulty_is_what_it_says():
    """Every label re-derived from the tokens alone."""
    ids, kinds = token_difficulty(200, 64, seed=1)
    assert ids.shape == kinds.shape == (200, 64) and ids.min() >= 0 and ids.max() == 36
    for row, kind in zip(ids.tolist(), kinds.tolist()):
        bound = {}
        for t in range(1, 64):
            if kind[t] == KINDS["cycle"]:
                assert row[t] == (row[t - 1] + 1) % 16 and row[t - 1] < 16
            if 16 <= row[t - 1] < 24:  # a key; its value follows
                known = row[t - 1] in bound
                assert kind[t] == KINDS["recall" if known else "recall_new"]
                assert 24 <= row[t] < 32 and bound.setdefault(row[t - 1], row[t]) == row[t]
            if kind[t] == KINDS["triple"]:
                x, y, z = (v - 32 for v in row[t - 2 : t + 1])
                assert z == (x + y) % 5
    share = torch.bincount(kinds.flatten(), minlength=5) / kinds.numel()
    mean = 0.28 * 5.5 + 0.27 * 2 + 0.45 * 3  # tokens a segment
    assert share[KINDS["cycle"]] == pytest.approx(0.28 * 4.5 / mean, abs=0.02)
    assert share[KINDS["triple"]] == pytest.approx(0.45 / mean, abs=0.02)
    values = share[KINDS["recall"]] + share[KINDS["recall_new"]]
    assert values == pytest.approx(0.27 / mean, abs=0.01)


def test_token_difficulty_is_a_function_of_seed_and_number():
    ids, kinds = token_difficulty(6, 64, seed=1)
    for part, whole in zip(token_difficulty(2, 64, seed=1, first=3), (ids, kinds)):
        assert torch.equal(part, whole[3:5])
    assert torch.equal(token_difficulty(6, 128, seed=1)[0][:, :64], ids)
    assert not torch.equal(token_difficulty(6, 64, seed=2)[0], ids)
    data = TokenDifficulty(train_samples=4, val_samples=2, seed=1)
    assert torch.equal(data.rows(0).ids, ids[:4]) and len(data.rows(1).ids) == 2


@pytest.mark.parametrize("value", [None, 5, ["a"], "half \ud83d", {"a": 1}])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_is_no_text_is_named_with_file_and_row(tmp_path, value, kind):
    """A list was trained on as if it were a row of words; null ended in a TypeError of the tokenizer."""
    if kind == "jsonl":
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one two", value)))
    elif isinstance(value, str):
        pytest.skip("parquet holds no half surrogate")
    else:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        rows = ["one two", None] if value is None else [value, value]
        parquet.write_table(pa.table({"text": rows}), tmp_path / "a.parquet")
    rows = RedPajamaSample(str(tmp_path))
    row = 1 if kind == "parquet" and value is not None else 2
    with pytest.raises(SetupError, match=rf"a\.{kind}, (line|row) {row}: field 'text' holds no text"):
        list(rows._read(rows._local_files()))


def test_no_text_that_validates_is_trained_on_though_it_comes_twice(monkeypatch, capsys):
    """Four texts, the third twice; one that ends alike and one that only begins alike stay."""
    texts = [[1, 2, 3], [1, 2, 4], [5, 6, 7, 8], [5, 6, 7, 8], [5, 0, 7, 8]]
    offsets = np.cumsum([0, *map(len, texts)])
    ids = np.array(sum(texts, []), dtype=np.int32)
    assert apart(ids, offsets, np.array([0, 1, 3, 4]), np.array([2])).tolist() == [0, 1, 4]
    assert apart(ids, offsets, np.array([0, 3]), np.array([1])).tolist() == [0, 3]
    assert apart(ids, offsets, np.array([3]), np.array([2])).tolist() == []
    for seed in range(6):
        rows = RedPajamaSample("./x", holdout=0.4, seed=seed)
        monkeypatch.setattr(rows, "_tokens", lambda: (ids, offsets))
        train, held = ({tuple(of[i].tolist()) for i in range(len(of.lengths))} for of in rows.sequences())
        assert not train & held and len(train | held) == 4
    assert "also among those that validate" in capsys.readouterr().out
    rows = RedPajamaSample("./x", holdout=0.5)
    monkeypatch.setattr(rows, "_tokens", lambda: (np.array([1, 2, 1, 2], dtype=np.int32), np.array([0, 2, 4])))
    with pytest.raises(SetupError, match="every sample to train on is, token by token, one to validate on"):
        rows.sequences()


def test_one_sample_is_always_left_to_train_on(monkeypatch):
    rows = RedPajamaSample("./x", holdout=1.0)
    monkeypatch.setattr(rows, "_tokens", lambda: (np.arange(12, dtype=np.int32), np.array([0, 3, 6, 9, 12])))
    train, validate = rows.sequences()
    assert len(train.lengths) == 1 and len(validate.lengths) == 3
    assert not {int(s) for s in train.start} & {int(s) for s in validate.start}
