"""The real model that reasons about five tasks: its adapter merges, its card says how right it is, outside the bars it is refused."""

import json
from collections import Counter

import pytest
import torch

from common.errors import ModelError, SetupError
from common.lora import CONFIG, WEIGHTS, LoraSpec
from common.models import load, tiny
from common.reasoning.five import TASKS, Five, entries
from common.standins import five as recipe
from tests.small_tokenizers import byte_words

FAIR = dict.fromkeys(TASKS, 0.6)


def small():
    words = byte_words()
    return tiny("llama", vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1), words


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An adapter of two steps of a tiny model, with its card: (folder, spec, tokenizer)."""
    pytest.importorskip("reasoning_gym")
    pytest.importorskip("trl")
    root, (spec, words) = tmp_path_factory.mktemp("five"), small()
    folder = root / "five-weights"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recipe, "CAP", 12)
        card = recipe.train(folder, steps=2, rows_a_step=4, work=root / "work", asked=1, model=load(spec).model, tokenizer=words)
    assert card == json.loads((folder / "training.json").read_text())
    return folder, spec, words


@pytest.fixture
def fair(trained, tmp_path):
    """A copy of it whose card has every task between the bars."""
    folder = tmp_path / "five-weights"
    folder.mkdir()
    for path in trained[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    say(folder, FAIR)
    return folder


def say(folder, right):
    card = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(card | {"right": right}))


def test_a_training_leaves_an_adapter_and_a_card_with_every_task(trained):
    card = json.loads((trained[0] / "training.json").read_text())
    assert [s for s, _ in card["loss by step"]] == [1, 2] and card["rank"] == recipe.RANK and card["asked"] == 1
    assert card["right"].keys() == card["tokens"].keys() == TASKS.keys()
    assert all(0 <= share <= 1 for share in card["right"].values()) and all(0 < n <= 12 for n in card["tokens"].values())
    assert card["command"] == "python -m common.standins.five --steps 2", "not the recipe's steps"
    assert (trained[0] / WEIGHTS).is_file() and (trained[0] / CONFIG).is_file()


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    """A checkpoint after the first of two steps: the second run trains one step, and its curve has both."""
    pytest.importorskip("trl")
    import transformers
    import trl

    spec, words = small()
    how = dict(steps=2, rows_a_step=2, work=tmp_path / "work", asked=1, tokenizer=words)
    begun: list[int] = []
    monkeypatch.setattr(recipe, "answered", lambda *asked: (FAIR, FAIR))
    config = trl.SFTConfig
    monkeypatch.setattr(trl, "SFTConfig", lambda **given: config(**given | {"save_steps": 1}))
    stop = transformers.TrainerCallback()
    stop.on_step_begin = lambda args, state, control, **_: begun.append(state.global_step)
    stop.on_save = lambda args, state, control, **_: (_ for _ in ()).throw(KeyboardInterrupt) if len(begun) == 1 else control
    trainer = trl.SFTTrainer
    monkeypatch.setattr(trl, "SFTTrainer", lambda **given: trainer(**given, callbacks=[stop]))
    with pytest.raises(KeyboardInterrupt):
        recipe.train(tmp_path / "five", model=load(spec).model, **how)
    assert begun == [0] and not (tmp_path / "five" / WEIGHTS).exists()
    card = recipe.train(tmp_path / "five", model=load(spec).model, **how)
    assert begun == [0, 1] and [s for s, _ in card["loss by step"]] == [1, 2]


@pytest.mark.parametrize("name, value", [("RATE", 2e-3), ("ADAPTER", LoraSpec(8)), ("SHARES", {"chain_sum": 8})])
def test_another_recipe_never_goes_on_from_this_ones_checkpoints(name, value, monkeypatch, tmp_path):
    """Nor does other code: one byte more in a file of the closure is another folder, a file beside the weights is not."""
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    before = recipe.work_of(360, 8, 0, "a")
    assert before == recipe.work_of(360, 8, 0, "a") and before.parent == tmp_path / "standins-five"
    others = ((20, 8, 0, "a"), (360, 4, 0, "a"), (360, 8, 1, "a"), (360, 8, 0, "b"))
    assert len({before, *(recipe.work_of(*other) for other in others)}) == 5
    with monkeypatch.context() as patched:
        patched.setattr(recipe, name, value)
        assert recipe.work_of(360, 8, 0, "a") != before
    files = {path.name: path for path in recipe.closure("common.standins.five")}
    other = tmp_path / "five.py"
    other.write_bytes(files["five.py"].read_bytes() + b"\n")
    monkeypatch.setattr(recipe, "closure", lambda module: (other, *(p for n, p in files.items() if n != "five.py")))
    changed = recipe.work_of(360, 8, 0, "a")
    assert changed != before
    given = recipe.closure("")
    monkeypatch.setattr(recipe, "closure", lambda module: (*given, recipe.FOLDER / WEIGHTS))
    assert recipe.work_of(360, 8, 0, "a") == changed, "what a training writes is no part of its name"


def test_the_merged_model_is_the_adapted_one_and_plain(trained, fair, monkeypatch):
    folder, spec, words = trained
    monkeypatch.setattr(recipe, "SMOLLM2", spec)
    loaded, plain = recipe.load_five_reasoner(folder=fair), load(spec).model
    pairs = [(n, a.detach(), b.detach()) for (n, a), b in zip(loaded.model.named_parameters(), plain.parameters())]
    moved = {n for n, a, b in pairs if not torch.equal(a, b)}
    assert moved == {n for n, _ in plain.named_parameters() if any(layer in n for layer in recipe.ADAPTER.targets)}
    assert all(p.requires_grad for p in loaded.model.parameters()) and not any("lora" in n for n, _ in loaded.model.named_parameters())
    assert loaded.source["adapter"] == "common/standins/five-weights" and len(loaded.source["adapter_sha256"]) == 64
    assert recipe.load_five_reasoner("bfloat16", fair).model.dtype == torch.bfloat16


@pytest.mark.parametrize("changes, named", [
    ({"leg_counting": 0.39}, "leg_counting 39%"), ({"chain_sum": 0.951}, "chain_sum 95%"),
    ({"chain_sum": 0.1, "simple_equations": 1.0}, "chain_sum 10%, simple_equations 100%")])
def test_a_task_outside_the_bars_is_named_and_the_adapter_refused(changes, named, fair):
    say(fair, FAIR | changes)
    with pytest.raises(ModelError, match=f"answers to {named} are right"):
        recipe.load_five_reasoner(folder=fair)


def test_a_task_that_the_card_does_not_have_is_not_answered(fair):
    say(fair, dict.fromkeys(list(TASKS)[1:], 0.6))
    with pytest.raises(ModelError, match="chain_sum 0%"):
        recipe.found(fair)
    recipe.reaches(dict.fromkeys(TASKS, recipe.BARS[0]))
    recipe.reaches(dict.fromkeys(TASKS, recipe.BARS[1]))


def test_a_missing_adapter_is_named_with_what_makes_it(fair, tmp_path, monkeypatch):
    (fair / WEIGHTS).unlink()
    monkeypatch.setattr(recipe, "FOLDER", fair)
    for asks in (lambda: recipe.found(fair), recipe.ready, recipe.load_five_reasoner):
        with pytest.raises(SetupError, match="five-weights/adapter_model.safetensors is missing.*make standins-five"):
            asks()


def test_rows_are_shared_out_and_no_held_out_problem_is_shown():
    pytest.importorskip("reasoning_gym")
    data = Five().use(byte_words())
    made = recipe.rows(data, 24, seed=0)
    assert Counter(row["task"] for row in made) == {task: 3 * share for task, share in recipe.SHARES.items()}
    assert all(Counter(row["task"] for row in made[i : i + 8]) == recipe.SHARES for i in range(16))
    assert recipe.SHARES.keys() == TASKS.keys() and sum(recipe.SHARES.values()) == recipe.ROWS
    assert all(row["completion"].endswith("<e>") and row["prompt"].endswith("<s>") for row in made)
    held_out = [e for task in TASKS for split in ("test", "val") for e in entries(task, split, 256)]
    asked = {data.words.decode(data.prompt(e["question"])) for e in held_out}
    assert not asked & {row["prompt"] for row in made} and len({row["prompt"] for row in made}) > 20
    assert made == recipe.rows(data, 24, seed=0) != recipe.rows(data, 24, seed=1)


def test_answers_are_counted_task_by_task(monkeypatch):
    """Right for two tasks of five, and as long as their number says."""
    pytest.importorskip("reasoning_gym")
    from common.reasoning.rollouts import Rollout

    data, order = Five().use(byte_words()), list(TASKS)
    problems = data.problems("val", 10)

    def made(model, prompts, n, cap, **how):
        found = []
        for i, problem in enumerate(problems):
            text = f"Answer: {problem.gold['answer']}" if problem.kind in order[:2] and (i < 5 or problem.kind == order[0]) else ""
            ids = tuple(data.words(text, add_special_tokens=False)["input_ids"])[:cap]
            found.append(Rollout(i, ids + (1,) * (40 * (order.index(problem.kind) + 1) - len(ids)), True))
        assert [tuple(p) for p in prompts] == [p.prompt for p in problems] and (n, cap) == (1, recipe.CAP)
        return found

    monkeypatch.setattr(recipe, "sample", made)
    right, tokens = recipe.answered(None, data, 2)
    assert right == dict(zip(order, (1.0, 0.5, 0.0, 0.0, 0.0))) and tokens == dict(zip(order, (40.0, 80.0, 120.0, 160.0, 200.0)))


def test_the_committed_adapter_is_what_its_card_says():
    if not recipe.FOLDER.is_dir():
        pytest.skip("not trained yet: make standins-five")
    about = json.loads((recipe.FOLDER / "training.json").read_text())
    assert (about["steps"], about["rows"], about["rank"]) == (recipe.STEPS, recipe.ROWS, recipe.RANK)
    assert (recipe.FOLDER / WEIGHTS).stat().st_size < 4e6 and (recipe.FOLDER / "README.md").is_file()
    recipe.ready()
