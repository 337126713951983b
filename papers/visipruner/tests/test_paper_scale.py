"""The paper's own tables, rehearsed: tiny random models of the architectures, a harness that only asks, and what becomes of scores."""

import json
import types

import pytest
import torch
from PIL import Image

from common.benchmarks import vqa
from common.errors import UserError
from common.families import build, with_pictures

from .. import quantities, reported
from ..experiments import paper as paper_scale
from ..method import paper


class Inputs(dict):
    def to(self, *where):
        return self


class Processor:
    """As a processor behaves: the prompt of a picture is its places in the text; texts of one length here, so nothing is padded."""

    def __init__(self, model):
        self.model, self.tokenizer = model, self

    def apply_chat_template(self, said, add_generation_prompt):
        assert add_generation_prompt and [part["type"] for part in said[0]["content"]] == ["image", "text"]
        return said[0]["content"][1]["text"]

    def __call__(self, images, text, padding, return_tensors):
        assert padding and return_tensors == "pt" and len(images) == len(text)
        ids = torch.tensor([[3 + ord(letter) % 90 for letter in each] for each in text])
        return Inputs(with_pictures(self.model, ids))

    def batch_decode(self, rows, skip_special_tokens):
        return [" ".join(map(str, row)) for row in rows.tolist()]


ASKED = ["what is it ?", "how many of ?"[:12]], [Image.new("RGB", (8, 8))] * 2


@pytest.mark.parametrize("family", ["llava", "llava-qwen3", "internvl", "llava_onevision", "qwen2_vl"])
def test_answers_of_each_architecture_dense_and_pruned(family):
    """Pruned by a rule that drops nothing, the answers are the stock model's; by one that drops, another pass gives the same again."""
    model = build(family)
    model.generation_config.pad_token_id = 0
    given = model, Processor(model)
    dense = paper_scale.answer(*given, None, *ASKED, 4)
    assert dense == paper_scale.answer(*given, paper(boundary=9, shallow=None, kv="all"), *ASKED, 4)
    rule = paper(boundary=-1, layer_threshold=2, tokens_threshold=1e9, shallow=None)
    assert paper_scale.answer(*given, rule, *ASKED, 4) == paper_scale.answer(*given, rule, *ASKED, 4)
    assert [len(text.split()) for text in dense] == [4, 4]


def test_answers_are_greedy_whatever_the_model_s_generation_config_says():
    model = build("llava")
    model.generation_config.pad_token_id = 0
    greedy, asked = paper_scale.answer(model, Processor(model), None, *ASKED, 4), []
    model.generation_config.num_beams = 3
    model.register_forward_pre_hook(lambda module, args, kwargs: asked.append(len(kwargs["input_ids"])), with_kwargs=True)
    assert paper_scale.answer(model, Processor(model), None, *ASKED, 4) == greedy and set(asked) == {2}


def test_both_models_have_the_released_settings():
    of = paper_scale.settings()
    assert set(of) < set(reported.MODELS)
    seven, thirteen = (config for _, config in of.values())
    assert (seven.boundary, seven.layer_threshold, seven.tokens_threshold, seven.exit_consecutive) == (6, 0.995, 0.2, False)
    assert seven.shallow.first == "merge" and thirteen.shallow.first == "half" and thirteen.with_(shallow=seven.shallow) == seven


def test_scores_are_kept_and_not_made_again(monkeypatch, tmp_path):
    asked = []

    def evaluate(answer, name, out, **how):
        asked.append(name)
        if name == "MMStar":
            raise vqa.BenchmarkError("no such task")
        return {"value": 50.0 + len(asked)}

    commit = ["first"]
    monkeypatch.setattr(vqa, "evaluate", evaluate)
    monkeypatch.setattr(vqa, "harness", lambda: None)
    monkeypatch.setattr(paper_scale, "open_model", lambda name, device: (types.SimpleNamespace(
        config=types.SimpleNamespace(_commit_hash=commit[0])), None))
    lines = []
    first = paper_scale.measure(tmp_path, lines.append, device="cpu", benchmarks=("GQA", "MMStar"))
    assert asked == ["GQA", "MMStar"] * 4 and first["LLaVA-1.5-7B"]["dense"] == {"GQA": 51.0}
    assert any("MMStar: no score. no such task" in line for line in lines)
    assert paper_scale.measure(tmp_path, lines.append, device="cpu", benchmarks=("GQA",)) == first and len(asked) == 8
    other = paper_scale.measure(tmp_path, lines.append, device="cpu", benchmarks=("GQA",), limit=3)
    assert len(asked) == 12 and other != first, "scores of a try are not those of all questions"
    assert len(json.loads((tmp_path / "LLaVA-1.5-7B.pruned.GQA.json").read_text())["of"]["config"]) > 5
    commit[0] = "second"
    paper_scale.measure(tmp_path, lines.append, device="cpu", benchmarks=("GQA",), limit=3)
    assert len(asked) == 16, "the hub has other weights now"
    monkeypatch.setenv("VISIPRUNER_MODELS", str(tmp_path / "own"))
    monkeypatch.setattr(paper_scale, "open_model", lambda *_: pytest.fail("weights of a folder are told by its files"))
    for weights, times in ((b"a", 20), (b"a", 20), (b"b", 24)):
        for name in paper_scale.settings():
            (tmp_path / "own" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "own" / name / "model.safetensors").write_bytes(weights)
        paper_scale.measure(tmp_path, lines.append, device="cpu", benchmarks=("GQA",), limit=3)
        assert len(asked) == times, weights


def test_what_is_missing_is_told_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="GPU with 40 GB"):
        paper_scale.measure(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cannot be loaded"):
        paper_scale.open_model(str(tmp_path), "cpu")


def test_losses_are_between_two_scores_of_one_harness():
    """All seven: each benchmark 2 points lower, MME-P 40 of 2,000: 2 points. With one missing, nothing is measured."""
    scores = dict.fromkeys(reported.TABLE_5, 60.0) | {"MME-P": 1500.0}
    lower = {name: value - (40 if name == "MME-P" else 2) for name, value in scores.items()}
    whole = {"LLaVA-1.5-7B": {"dense": scores, "pruned": lower}, "LLaVA-1.5-13B": {"dense": scores, "pruned": {"GQA": 1.0}}}
    found = quantities.paper({"paper": whole})
    assert found.keys() == {"C2"} and found["C2"]["value"] == pytest.approx(2.0)
