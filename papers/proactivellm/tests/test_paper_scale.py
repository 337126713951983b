"""The paper rung in the small: products of trainings are found, opened, calibrated on one split and scored on another."""

import json
from types import SimpleNamespace as Of

import pytest
import torch

from common.errors import UserError
from common.models import load, tiny
from tests.small_tokenizers import tokenizer

from ..experiments import paper

ROWS = [("the cat sat on the mat", "the mat", "where"), ("we see a small dog", "a dog", "what"), ("the black cat", "cat", "who")]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two products as trainings leave them, and one that no table has."""
    words = tokenizer("qwen2")
    for name, form in (("qwen25-3b_squad", "squad"), ("qwen25-3b_en-de", "translation"), ("mine", "squad")):
        folder = tmp_path / name / "model"
        load(tiny("qwen2", vocab_size=len(words), initializer_range=0.4)).model.save_pretrained(folder)
        words.save_pretrained(folder)
        about = {"data.instruction": "answer", "data.form": form, "data.splits": ["train", "validation"], "attn_implementation": "sdpa",
                 "trained_from": "x", "revision": None}
        (folder / "proactivellm.json").write_text(json.dumps(about))
    monkeypatch.setenv("PROACTIVE_RUNS", str(tmp_path))
    return tmp_path


def test_products_are_scored_in_every_way(runs, monkeypatch):
    monkeypatch.setattr(paper, "LONGEST", 6)
    monkeypatch.setattr(paper, "CALIBRATION", 1)
    asked, log = [], []

    def rows(about, split):
        asked.append((about["data.form"], split))
        return ROWS

    found = paper.measure_paper(log.append, "cpu", None, rows)
    assert set(found) == {"short qa", "en-de"} and any("mine: no row" in line for line in log)
    assert sorted(asked) == [("squad", "validation"), ("translation", "test"), ("translation", "validation")], "SQuAD has no test split"
    assert set(found["short qa"]) == {"batch", "wait-9", "entropy", "attention"} and "bleu" in found["en-de"]["entropy"]
    assert found["short qa"]["batch"]["RCO"] == pytest.approx(1) and found["short qa"]["wait-9"]["RCO"] == pytest.approx(1)
    for row in found["short qa"].values():
        assert 0 <= row["f1"] <= 100 and row["n"] == 2
    assert found["en-de"]["batch"]["n"] == 3


def test_thresholds_and_scores_never_share_a_row():
    def rows(about, split):
        return [f"{split} {i}" for i in range(5)]

    about = {"data.form": "squad", "data.splits": ["train", "validation"], "data.path": "squad"}
    assert paper.held_and_test(about, 2, rows) == (["validation 0", "validation 1"], ["validation 2", "validation 3"])
    assert paper.held_and_test(about | {"data.form": "mctest"}, 2, rows) == (["validation 0", "validation 1"], ["test 0", "test 1"])
    assert paper.held_and_test(about | {"data.form": "mctest"}, None, rows)[1] == [f"test {i}" for i in range(5)]
    with pytest.raises(UserError, match="none is left to be scored"):
        paper.held_and_test(about, None, rows)


def test_nothing_is_claimed_without_a_gpu_or_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PROACTIVE_RUNS", str(tmp_path))
    with pytest.raises(UserError, match="found no trained model"):
        paper.measure_paper(device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="needs a GPU"):
            paper.measure(tmp_path, print)


def test_real_captions_are_walked_from_text_to_bleu(tmp_path, monkeypatch):
    """Multi30k's files in the small: a tokenizer, a base, every arm and way."""
    import gzip

    from tests.small_tokenizers import ENGLISH, FRENCH

    from .. import tables
    from ..experiments import multi30k

    for name in multi30k.DATA:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in (ENGLISH if ".en." in name else FRENCH)))
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    monkeypatch.setattr(paper, "LONGEST", 4)
    monkeypatch.setattr(multi30k, "KS", (1, 7))
    assert [job.name for job in multi30k.jobs("smoke")] == ["multi30k/en-de"]
    found = multi30k.translate("smoke")
    assert {"batch-trained", "full", "batch only", *(f"trained for wait-{k}" for k in (1, 7))} <= set(found)
    assert {"batch", "wait-1", "entropy, 0.9", "attention, 0.9"} <= set(found["full"]) and found["full"]["batch"]["RCO"] == pytest.approx(1)
    assert "trained for wait-7: own" in "\n".join(tables.multi30k({"multi30k/en-de": found}))


def test_a_choice_is_its_letter_and_no_answer_is_none():
    """A is an article in SQuAD's form: with it, an empty answer would be right wherever A is."""
    rows = [("A", "A"), ("a. a dog", "A"), ("", "A"), ("the", "A"), ("B", "A"), ("B", "B"), ("", "B"), ("...", "C")]
    items = [Of(example=Of(reference=gold, n_units=3)) for _, gold in rows]
    streams = {id(item): Of(tokens=text, delays=[]) for item, (text, _) in zip(items, rows)}
    found = paper.scores(streams, items, Of(decode=lambda text, skip_special_tokens: text), "accuracy")
    assert found["accuracy"] == 100 * 3 / 8
    assert paper.f1("", "A") == paper.f1("the", "An") == paper.rouge_l("", "the") == 0, "nothing in common is nothing"


def test_squads_score_and_rouge_by_hand():
    assert paper.f1("The Cat!", "a cat") == 1 and paper.f1("black cat", "cat") == pytest.approx(2 / 3) and paper.f1("", "x") == 0
    assert paper.rouge_l("a b c d", "b d") == pytest.approx(2 * 2 / 5) and paper.rouge_l("", "x") == 0  # "a" is an article


def test_batches_are_of_one_header():
    from ..data import cut

    items = cut(tokenizer("qwen2"), "answer", ROWS * 7, 400)
    assert sorted(len(b) for b in paper.batches(items)) == [5, 16] and all(
        len({i.example.target_units[0] for i in b}) == 1 for b in paper.batches(items))
