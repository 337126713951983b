"""The small LLaVA with a Qwen3 decoder: what it is, that it is kept and opened whole, and that its training goes on where it was killed."""

import pytest
import torch

from common.errors import ModelError
from common.standins import llava_qwen3 as standin
from common.vision.features import Pictures
from common.vision.llava import packed_questions, save


@pytest.fixture
def small(monkeypatch):
    pictures = Pictures(8, easy=2)
    monkeypatch.setattr(standin, "Pictures", lambda: pictures)
    monkeypatch.setattr(standin.standins.Rows.__init__, "__defaults__", (2, 3))  # rows of a step, questions of a row
    monkeypatch.setattr(standin.tower, "dinov2", lambda: None)


def test_a_killed_training_goes_on_and_counts_its_seconds(small, tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    _, losses, seconds = standin.train(0, 2, 4, progress=False)
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "again"))
    _, first, some = standin.train(0, 2, 4, progress=False, stop=3)
    model, both, more = standin.train(0, 2, 4, progress=False)
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


def test_a_seed_that_is_not_there_is_answered_with_the_way_out():
    with pytest.raises(ModelError, match="seed7 of common/standins/llava-qwen3-weights is not there: .*`make standins-llava_qwen3`"):
        standin.stand_in(7)
