"""The paper's own table, rehearsed: a tiny trained model put together again, answers by number, and what becomes of scores."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from common.benchmarks import vqa
from common.errors import ModelError, UserError
from common.vision import llava
from common.vision.conversations import encode_v1

from ..experiments import paper
from ..method import Fusion, Sizes
from ..module import NEW, FusedTraining, save_product, set_of

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


class Pieces:
    """A tokenizer that puts a mark before each text that it is given, as SentencePiece does: parts apart have more marks than the whole."""

    bos_token_id, eos_token = 1, "$"

    def __call__(self, text, add_special_tokens=False, return_offsets_mapping=False):
        return SimpleNamespace(input_ids=[2, *map(ord, text)], offset_mapping=[(0, 0), *((i, i + 1) for i in range(len(text)))])

    def batch_decode(self, rows, skip_special_tokens):
        return [""] * len(rows)


def test_what_is_asked_is_what_training_read(monkeypatch):
    """Ids of a text alone, and of one about a picture, are encode_v1's; greedily; a prompt without room for an answer is not asked."""
    given, table = {}, torch.nn.Embedding(128, 8)
    decoder = SimpleNamespace(get_input_embeddings=lambda: table, config=SimpleNamespace(max_position_embeddings=400),
                              generate=lambda **call: given.update(call) or torch.zeros(1, 1))
    eyes = paper.Eyes(decoder, Pieces(), None, lambda states: (torch.zeros(1, 4, 8), []), SimpleNamespace())
    monkeypatch.setattr(paper.Eyes, "states", lambda self, shown: {})
    for image in (None, Image.new("RGB", (4, 4))):
        said = {"image": image, "conversations": [{"from": "human", "value": ("" if image is None else "<image>\n") + "Who?"}]}
        ids, _ = encode_v1(Pieces(), said, n_visual=4, image_token_id=0, max_tokens=999)
        expected = table(ids).masked_fill((ids == 0)[:, None], 0)
        paper.answer(eyes, ["Who?"], [image], 9)
        assert torch.equal(given["inputs_embeds"][0], expected) and given["num_beams"] == 1
    room = 400 - len(ids)
    paper.answer(eyes, ["Who?"], [image], room)
    with pytest.raises(vqa.BenchmarkError, match=f"a prompt of {len(ids)} tokens, where the decoder has {len(ids) - 1} positions"):
        paper.answer(eyes, ["Who?"], [image], room + 1)


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
    (model / NEW).write_bytes(b"trained anew")
    paper.measure(tmp_path / "out", lines.append, device="cpu", benchmarks=("GQA",))
    assert asked[3:] == ["GQA"] and "other weights" in lines[-2], "a run's name says nothing about its weights"
    (model / "decoder").mkdir()
    (model / "decoder" / "model.safetensors").write_bytes(b"another decoder")
    paper.measure(tmp_path / "out", lines.append, device="cpu", benchmarks=("GQA",))
    assert asked[4:] == ["GQA"]
    paper.measure(tmp_path / "out", lines.append, device="cpu", benchmarks=("GQA",), limit=3)
    assert asked[5:] == ["GQA"], "a try is not all questions"
    assert asked[:3] == ["GQA", "OCRBench", "OCRBench"] and any("no score. no such task" in line for line in lines)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="needs a GPU"):
            paper.measure(tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_the_stage_kind_and_set_of_its_name(path):
    of = yaml.safe_load(path.read_text())
    about = of["model"]["init_args"]
    tower, size, data, kind, named, stage = path.stem.split("_")
    named, _, variant = named.partition("-")
    assert (about["stage"], f"{about['position']}-{about['pattern']}") == (stage, kind)
    assert about["layers"] == ([23] if named == "default" else named) and about.get("variant", "pre") == (variant or "pre")
    assert ("2.7B" in about["llava"]["decoder"]["name"]) == (size == "27") and tower in about["llava"]["tower"]
    assert about["tower_blocks"] == {"clip": 24, "siglip": 27}[tower]
    assert (about["fusion"] is None) == (stage == "pretrain")
    if stage == "finetune":
        first = yaml.safe_load(path.with_name(path.name.replace("finetune", "pretrain").replace(data, "665k")).read_text())
        steps = {"332k": 332_649, "665k": 665_298, "737k": 737_000}[data] / 128
        assert abs(of["trainer"]["max_steps"] - steps) < 1 and {"665k": "mix665k", "332k": "mix332k", "737k": "Cambrian737k"}[data] in (
            of["data"]["init_args"]["train"])
        prefix = {"665k": "" if (tower, size) == ("clip", "14") else f"{tower}_{size}_"}.get(data, f"{data}_")
        run = of["trainer"]["default_root_dir"].split("/")[-3]
        assert run == f"{prefix}{kind}_{named}{'-' * bool(variant)}{variant}", "the name that quantities read"
        assert about["fusion"] == f"{first['trainer']['default_root_dir']}/model/{NEW}"
    config = FusedTraining(None, **{k: about[k] for k in ("layers", "tower_blocks", "position", "pattern")},
                           unused_blocks=about.get("unused_blocks", 0), variant=about.get("variant", "pre")).config
    if tower == "siglip":
        assert (config.layers.main, config.layers.layers) == (25, (3, 20, 25)), "the paper's Triple"
    assert len(config.blocks({"14": 24, "27": 32}[size])) == (len(config.layers.extras) if about["position"] == "internal" else 0)


def test_the_configs_cover_the_rows_that_claims_compare():
    from .. import quantities

    runs = {yaml.safe_load(path.read_text())["trainer"]["default_root_dir"].split("/")[-3] for path in CONFIGS if "finetune" in path.name}
    kinds = (*quantities.EXTERNAL, *quantities.INTERNAL)
    asked = {*quantities.AVERAGED.values(), "external-direct_default", "internal-direct_latter", "internal-modular_all",
             *(f"{kind}_{name}" for kind in kinds for name in quantities.PAPERS_SETS),
             *(f"internal-modular_triple-{variant}" for variant in ("post", "parallel")),
             *(f"{data}_{kind}_triple" for data in ("332k", "737k") for kind in kinds)}
    assert asked <= runs and runs - asked == {"clip_27_external-direct_triple", "siglip_14_external-direct_triple"}
    assert len(CONFIGS) == 70


@pytest.mark.parametrize("layers, compat, read, main", [("triple", False, (3, 20, 25), 25), ("triple", True, (3, 20, 25), 25),
                                                        ("latter", True, (*range(15, 27),), 25), ([20], False, (20, 25), 25)])
def test_sets_of_a_tower_whose_last_block_the_official_code_takes_off(layers, compat, read, main):
    """SigLIP has 27 blocks; the tower itself keeps all of them."""
    found = set_of(layers, 27, 1, compat)
    assert (found.blocks, found.main, found.layers) == (26, main, read)
    module = FusedTraining(None, layers=layers, tower_blocks=27, unused_blocks=1, compat=compat)
    about = {"layers": layers, "tower_blocks": 27, "unused_blocks": 1, "compat": compat, "position": "external", "pattern": "direct",
             "op": "parts", "variant": "pre"}
    assert module.config.layers == found == paper.config_of(about).layers and module.tower_blocks == 27
    assert set_of("triple", 27).layers == (3, 20, 26), "as it was: the last but one of its own"
    with pytest.raises(ValueError, match="unused_blocks is 27"):
        set_of("triple", 27, 27)


def test_textvqa_is_asked_without_an_ocr_systems_tokens_and_with_them(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(vqa, "evaluate", lambda answer, name, out, **how: asked.append(name) or {"value": float(len(asked))})
    found = paper.one("run", "seed1", lambda: None, tmp_path, ("TextVQA", paper.WITH_OCR, "GQA"), None, lambda line: None, {})
    assert asked == ["TextVQA without OCR", "TextVQA", "GQA"] and found == {"TextVQA": 1.0, "TextVQA with OCR": 2.0, "GQA": 3.0}
    plain, with_ocr = vqa.BENCHMARKS["TextVQA without OCR"], vqa.BENCHMARKS["TextVQA"]
    assert (plain.task, plain.metrics, plain.changes) == (with_ocr.task, with_ocr.metrics, None) and with_ocr.changes == vqa.WITH_OCR


def test_the_loss_that_a_training_ended_with_is_read_from_its_log(tmp_path):
    assert paper.last_loss(tmp_path) == {}
    for version, rows in (("version_0", ["9.0,0"] * 9), ("version_1", ["3.0,1", ",2", *["2.0,3"] * 30, *["1.0,4"] * 20])):
        (tmp_path / "logs" / version).mkdir(parents=True)
        (tmp_path / "logs" / version / "metrics.csv").write_text("\n".join(["train/loss,step", *rows]) + "\n")
    assert paper.last_loss(tmp_path) == {"training loss": pytest.approx((30 * 2.0 + 20 * 1.0) / 50)}
