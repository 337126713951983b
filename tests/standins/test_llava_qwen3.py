"""The small LLaVA with a Qwen3 decoder: what it is, that it is kept and opened whole, and that its training goes on where it was killed."""

import dataclasses
import json

import pytest
import torch

from common.errors import ModelError
from common.standins import llava
from common.standins import llava_qwen3 as standin
from common.vision.features import Pictures
from common.vision.llava import packed_questions, save


@pytest.fixture
def small(monkeypatch):
    pictures = Pictures(8, easy=2)
    monkeypatch.setattr(llava, "Pictures", lambda: pictures)
    monkeypatch.setattr(llava.Rows.__init__, "__defaults__", (2, 3))  # rows of a step, questions of a row
    monkeypatch.setattr(standin.tower, "dinov2", lambda: None)


def test_a_killed_training_goes_on_and_counts_its_seconds(small, tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    _, losses, seconds = llava.trained(standin.RECIPE, 0, 2, 4, 2e-3, progress=False)
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "again"))
    _, first, some = llava.trained(standin.RECIPE, 0, 2, 4, 2e-3, progress=False, stop=3)
    model, both, more = llava.trained(standin.RECIPE, 0, 2, 4, 2e-3, progress=False)
    assert len(first) == 3 and both == losses and len(losses) == 6, "the same schedule, rows and steps"
    assert 0 < some < more and seconds > 0
    assert type(model.language_model()).__name__ == "Qwen3ForCausalLM"


def test_it_is_opened_as_it_was_kept(tmp_path):
    model = standin.build(3, torch.randn(5, 64, 1152, generator=torch.Generator().manual_seed(0)), tower_too=False)
    save(model, tmp_path / "seed3")
    again = standin.opened(tmp_path / "seed3")
    assert again.source["name"] == "llava-qwen3/seed3" and not again.llava.training
    kept = {k: v for k, v in again.llava.state_dict().items() if ".vision_tower." not in k}
    assert kept and all(torch.equal(v, model.llava.state_dict()[k].half().float()) for k, v in kept.items())
    assert any("q_norm" in name for name in kept) and (tmp_path / "seed3" / "model.safetensors").stat().st_size < 2_000_000
    assert packed_questions(again, [[]]).ids.shape[0] == 1


def test_the_committed_one_answers_as_its_card_says():
    """On thirty of the pictures; the card's figures are of all 500."""
    folder = standin.FOLDER / "seed0"
    card = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    found = llava.report(standin.opened(folder, with_tower=True), pictures=30)
    for group, scores in card["accuracy"].items():
        if not group.endswith("blind"):
            for kind, share in scores.items():
                assert abs(found[group][kind] - share) < 0.15, (group, kind)
    assert found["scenes"]["color"] > card["accuracy"]["scenes, blind"]["color"] + 0.7


def test_a_seed_that_is_not_there_is_answered_with_the_way_out():
    with pytest.raises(ModelError, match="seed7 of common/standins/llava-qwen3-weights is not there: .*`make standins-llava_qwen3`"):
        standin.stand_in(7)


def test_its_command_trains_its_own_recipe(monkeypatch, tmp_path, capsys):
    """Of the family: model, steps, rate, name and place of the checkpoints, and the file that defines it as a source of them."""
    asked = []

    def trained(recipe, seed, *given):
        asked.append((recipe, seed, given))
        return llava.Trained("model", [1.0, 2.0], 3.6)

    monkeypatch.setattr(llava, "trained", trained)
    monkeypatch.setattr(llava, "save", lambda model, folder: asked.append((model, folder)))
    monkeypatch.setattr(llava, "report", lambda model: {"of": model})
    recipe = dataclasses.replace(standin.RECIPE, opened=lambda folder: folder.name)
    llava.main(recipe, ["--folder", str(tmp_path)])
    assert asked == [(recipe, 0, (300, 1300, 2e-3)), ("model", tmp_path / "seed0")] and recipe.build is standin.build
    card = json.loads((tmp_path / "seed0" / "training.json").read_text())
    assert (card["steps"], card["cpu_seconds"], card["curve"], card["accuracy"]) == ([300, 1300], 4, [[0, 1.0]], {"of": "seed0"})
    assert (recipe.name, recipe.every, recipe.sources) == ("qwen3", 50, (standin.__file__,))
    assert llava.LLAMA.folder == llava.FOLDER and llava.LLAMA.name == "dense"
