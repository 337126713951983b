"""The small story teller: its rows, its two heads, a killed training that goes on, and cards that tell the truth."""

import json

import pytest
import torch

from common.data import stories
from common.data.stories import Level
from common.standins import stories as standin
from common.standins.stories import Phase

PHASES = (Phase(3, (1e-3, 1e-3), 0.5, 0.5, rows=4, warm=2), Phase(3, (1e-3, 0.0), 0.2, 0.2, Level((2, 3), (2, 2)), rows=4))
COMMITTED = [seed for seed in standin.SEEDS if (standin.FOLDER / f"seed{seed}" / "model.safetensors").is_file()]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("seed", COMMITTED)
def test_committed_models_are_what_their_cards_say(seed):
    folder = standin.FOLDER / f"seed{seed}"
    card = json.loads((folder / "training.json").read_text())
    model, words, facts = standin.load_stories(folder)
    found = standin.report(model, count=40)
    assert standin.reaches(card) and abs(found["unit"] - card["test"]["unit"]) < 0.05 and abs(found["D2"] - card["test"]["D2"]) < 0.15
    assert facts["parameters"] == sum(p.numel() for p in standin.build(0).parameters()) and len(words) == 103
    assert (folder / "model.safetensors").stat().st_size < 4 * 2**20


def test_bars():
    assert standin.reaches({"test": {"unit": 0.97, "D2": 0.9}}) and not standin.reaches({"test": {"unit": 0.969, "D2": 1.0}})
    assert not standin.reaches({"test": {"unit": 1.0, "D2": 0.899}})


def test_rows_learn_what_can_be_known():
    story = stories.totals(0)
    row = standin.story_row(story, 2)
    words = [w for w, _ in row]
    think, cue = words.index("<think>"), words.index("<d2>")
    assert words[0] == "<bos>" and not any(learnt for _, learnt in row[: think + 1]) and not row[cue][1]
    assert all(learnt for _, learnt in [*row[think + 1 : cue], *row[cue + 1 :]]) and words[-1] == "<eos>"
    draw = standin.np.random.default_rng(0)
    drill = standin.drill(draw, (1, 1), updates=3)
    assert [w for w, learnt in drill if not learnt][:2] == ["<bos>", "<think>"]
    line = drill[-9:]
    name, old, sign, d, new = (line[i][0] for i in (1, 2, 3, 4, 7))
    assert str((int(old) + (1 if sign == "+" else -1) * int(d)) % 10) == new and [of for _, of in line] == [
        False, False, True, False, False, True, True, True, True]
    known = {}
    for i, (word, learnt) in enumerate(recall := standin.recall(draw)):
        if word.isdigit():
            assert not learnt or known[recall[i - 1][0]] == word
            known[recall[i - 1][0]] = word
    assert 5 < sum(learnt for _, learnt in recall) <= 20


def test_the_two_heads_find_what_followed():
    """Before any step: head 0 looks at the token before, and in the next layer at what stands behind the same name."""
    model = standin.build(0).eval()
    model.set_attn_implementation("eager")
    words = "<bos> <think> Ann 3 ; Bob 5 ; Cid 8 ; Bob".split()
    with torch.no_grad():
        attention = model(torch.tensor([stories.ids(words)]), output_attentions=True).attentions
    assert all(attention[0][0, 0, i, i - 1] > 0.9 for i in range(2, len(words)))
    assert attention[1][0, 0, -1].argmax() == words.index("Bob") + 1


def test_a_killed_training_goes_on_as_if_unbroken(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "a"))
    unbroken, losses = standin.train(0, PHASES, progress=False)
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "b"))
    standin.train(0, PHASES, progress=False, stop=4)
    resumed, again = standin.train(0, PHASES, progress=False)
    assert losses == again and len(losses) == 6
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters()))


def test_rates_by_hand():
    assert [standin.rate(step, PHASES) for step in (0, 1, 2)] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert standin.rate(3, PHASES) == pytest.approx(1e-3) and standin.rate(4, PHASES) == pytest.approx(7.5e-4)


def test_scores_by_hand():
    story = stories.totals(0)
    right = standin.Written([stories.ids(u) for u in story.units], stories.ids(story.deep[1]))
    wrong = standin.Written([stories.ids(("#0", ";")), *right.units[1:]], stories.ids(("A", story.answer)), True)
    found = standin.graded([story, story], [right, wrong])
    n = len(story.units)
    assert found["unit"] == pytest.approx((2 * n - 1) / (2 * n)) and found["answer"] == 0.5 and found["answers"] == [1, 0]
    assert found["kinds"]["question"] == [1, 2] and found["places"][:2] == [[1, 2], [2, 2]] and found["truncated"] == 0.5
    assert found["tokens"] == (right.tokens + wrong.tokens) / 2


def test_a_training_writes_a_card(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(standin, "report", lambda model: {"unit": 0.5, "D2": 0.1})
    card = standin.train_stories(0, tmp_path / "seed0", PHASES)
    assert card == json.loads((tmp_path / "seed0" / "training.json").read_text()) and card["steps"] == [3, 3]
    assert not standin.reaches(card) and (tmp_path / "seed0" / "model.safetensors").is_file()
