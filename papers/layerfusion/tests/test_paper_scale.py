"""The paper's own table, rehearsed: a tiny trained model put together again, answers by number, and what becomes of scores."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from common.benchmarks import vqa
from common.errors import ModelError, UserError
from common.vision import llava

from ..experiments import paper
from ..method import Fusion, Sizes
from ..module import NEW, FusedTraining, save_product

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "cuda").glob("*.yaml"))


@pytest.mark.parametrize("position, pattern", [("external", "direct"), ("internal", "modular")])
def test_a_trained_model_is_put_together_again_and_answers(position, pattern, tmp_path):
    """A batch of a question with a picture and one without, padded left, is what each is alone; another picture, another answer."""
    torch.manual_seed(0)
    words = llava.tokenizer()
    decoder = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=6, num_attention_heads=2,
                                           vocab_size=len(words), initializer_range=0.5, bos_token_id=1, eos_token_id=2, pad_token_id=0))
    tower = CLIPVisionModel(CLIPVisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=6, num_attention_heads=2, image_size=8,
                                             patch_size=4, projection_dim=16, initializer_factor=20.0))
    tower.save_pretrained(tmp_path / "tower")
    about = {"layers": "triple", "tower_blocks": 6, "compat": False, "position": position, "pattern": pattern, "op": "parts",
             "variant": "pre", "points": [0, 2, 4] if position == "internal" else None, "llava.tower": str(tmp_path / "tower")}
    fusion = Fusion(paper.config_of(about), Sizes.of(16, decoder.config))
    for cross in fusion.cross:
        torch.nn.init.constant_(cross.gate_1, 2.0)
    folder = tmp_path / "run" / "seed1" / "finetune" / "model"
    parts = llava.Llava(decoder, words, {})
    save_product(folder, type("Parts", (), {"decoder": decoder, "tokenizer": parts.tokenizer}), fusion, "finetune", about)
    eyes = paper.open_model(folder, "cpu")
    assert eyes.fusion.points == ((0, 2, 4) if position == "internal" else ())
    shown = [Image.effect_noise((9, 6), 90), Image.effect_noise((5, 8), 90)]
    asked = ["what digit ?", "how many shapes ?"]
    both = paper.answer(eyes, asked, [shown[0], None], 6)
    assert both == [*paper.answer(eyes, asked[:1], shown[:1], 6), *paper.answer(eyes, asked[1:], [None], 6)]
    two = paper.answer(eyes, asked, shown, 6)
    assert two[0] == both[0] and len(two[0].split()) > 1
    with pytest.raises(ModelError, match="no training.json"):
        paper.open_model(tmp_path, "cpu")


def test_scores_are_kept_and_not_made_again(monkeypatch, tmp_path):
    asked = []

    def evaluate(answer, name, out, **how):
        asked.append(name)
        if name == "OCRBench":
            raise vqa.BenchmarkError("no such task")
        return {"value": 50.0}

    monkeypatch.setattr(vqa, "evaluate", evaluate)
    monkeypatch.setattr(vqa, "harness", lambda: None)
    monkeypatch.setenv("LAYERFUSION_RUNS", str(tmp_path / "runs"))
    with pytest.raises(UserError, match="no trained model under runs"):
        paper.measure(tmp_path, device="cpu")
    model = tmp_path / "runs" / "external-direct_triple" / "seed2" / "finetune" / "model"
    model.mkdir(parents=True)
    (model / NEW).touch()
    lines: list[str] = []
    (tmp_path / "out").mkdir()
    for _ in range(2):
        found = paper.measure(tmp_path / "out", lines.append, device="cpu", benchmarks=("GQA", "OCRBench"))
        assert found == {"external-direct_triple": {"seed2": {"GQA": 50.0}}}
    assert asked == ["GQA", "OCRBench", "OCRBench"] and any("no score. no such task" in line for line in lines)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="needs a GPU"):
            paper.measure(tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_the_stage_kind_and_set_of_its_name(path):
    of = yaml.safe_load(path.read_text())
    about = of["model"]["init_args"]
    tower, size, data, kind, named, stage = path.stem.split("_")
    assert (about["stage"], f"{about['position']}-{about['pattern']}") == (stage, kind)
    assert about["layers"] == ([23] if named == "default" else named) and data == "665k"
    assert ("2.7B" in about["llava"]["decoder"]["name"]) == (size == "27") and tower in about["llava"]["tower"]
    assert about["tower_blocks"] == {"clip": 24, "siglip": 27}[tower]
    assert (about["fusion"] is None) == (stage == "pretrain")
    if stage == "finetune":
        first = yaml.safe_load(path.with_name(path.name.replace("finetune", "pretrain")).read_text())
        assert about["fusion"] == f"{first['trainer']['default_root_dir']}/model/{NEW}"
    config = FusedTraining(None, **{k: about[k] for k in ("layers", "tower_blocks", "position", "pattern")}).config
    assert len(config.blocks({"14": 24, "27": 32}[size])) == (len(config.layers.extras) if about["position"] == "internal" else 0)


def test_the_configs_cover_the_rows_that_claims_compare():
    names = {path.stem.removeprefix("clip_14_665k_") for path in CONFIGS}
    for run in ("external-direct_default", "external-direct_triple", "external-direct_all", "external-modular_former",
                "internal-direct_triple", "internal-direct_latter", "internal-modular_double", "internal-modular_triple"):
        assert {f"{run}_pretrain", f"{run}_finetune"} <= names
    assert len(CONFIGS) == 24 and not json.dumps(sorted(names)).count("..")
