"""The small reasoner: its loss has no length bias, a killed training goes on, and the card tells the truth."""

import json

import pytest
import torch

from common.data import chains
from common.standins import reasoner
from tests.numerics import close, float64

STAGES = ((3, 3e-3), (3, 1e-3))


def test_the_committed_models_are_as_long_as_their_corpus_and_as_right_as_their_cards(one_thread):
    for seed in reasoner.SEEDS:
        card = json.loads((reasoner.FOLDER / f"seed{seed}" / "training.json").read_text())
        found = reasoner.report(reasoner.load_reasoner(reasoner.FOLDER / f"seed{seed}")[0], problems=60)
        assert abs(card["test"]["tokens"] / card["corpus mean length"] - 1) < 0.15, "a token-mean loss would write half as much"
        assert abs(found["tokens"] / card["test"]["tokens"] - 1) < 0.2 and abs(found["avg"] - card["test"]["avg"]) < 0.1
        assert card["test"]["avg"] > 0.8


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.numerics
def test_every_token_weighs_the_same_whatever_its_batch():
    """Two batches of other lengths: the loss of each is its sum of nats over rows x the corpus' mean."""
    rows, model = reasoner.Traces(0, 4, count=200, rows=4), reasoner.build(0).double()
    training = reasoner.ReasonerTraining(model, rows.mean_length, STAGES)
    for step in (0, 1):
        ids, targets = rows[step]
        with torch.no_grad(), float64():
            nll = -model(ids).logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0][targets[:, 1:] != -100].sum()
            close(training.training_step((ids, targets), step), nll / (4 * rows.mean_length))


def test_targets_are_the_trace_and_not_the_prompt():
    ids, targets = reasoner.Traces(0, 1, count=64, rows=8)[0]
    question = chains.WORDS.index("?")
    for row, wanted in zip(ids, targets):
        first = int((row == question).nonzero()[0]) + 1
        assert (wanted[:first] == -100).all() and wanted[first] == row[first] and wanted[wanted != -100][-1] == chains.WORDS.index("<eos>")


def test_a_killed_training_goes_on_as_if_unbroken(tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "a"))
    unbroken, losses, _ = reasoner.train(0, STAGES, count=200, progress=False)
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "b"))
    reasoner.train(0, STAGES, count=200, progress=False, stop=2)
    resumed, again, _ = reasoner.train(0, STAGES, count=200, progress=False)
    assert losses == again and len(losses) == 6
    for a, b in zip(unbroken.parameters(), resumed.parameters()):
        assert torch.equal(a, b)


def test_the_rate_goes_up_and_down_once_a_stage():
    stages = ((100, 1.0), (50, 0.5))
    rates = [reasoner.rate(step, stages) for step in range(151)]
    assert rates[0] == 1 / 25 and max(rates) == pytest.approx(1.0) and rates[99] < 0.01
    assert max(rates[100:]) == pytest.approx(0.5) and rates[150] == 0


def test_another_width_reads_the_same_batches_and_has_checkpoints_of_its_own(tmp_path, monkeypatch, one_thread):
    """The default is the committed models' own shape, to the last weight's."""
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    narrow = reasoner.DECODER | {"hidden_size": 32, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
    model, losses, mean_length = reasoner.train(0, ((2, 3e-3),), count=200, progress=False, decoder=narrow)
    wide, others, same_length = reasoner.train(0, ((2, 3e-3),), count=200, progress=False)
    assert (model.config.hidden_size, wide.config.hidden_size) == (32, 64) and mean_length == same_length
    assert len(losses) == len(others) == 2 and losses != others and len(list((tmp_path / "standins-reasoner").iterdir())) == 2
    committed = reasoner.load_reasoner(reasoner.FOLDER / "seed0")[0]
    assert {n: p.shape for n, p in committed.named_parameters()} == {n: p.shape for n, p in reasoner.build(0).named_parameters()}
    card = reasoner.train_reasoner(1, tmp_path / "card", ((2, 3e-3),), narrow)
    assert card["decoder"]["hidden_size"] == 32 and reasoner.load_reasoner(tmp_path / "card")[0].config.hidden_size == 32
