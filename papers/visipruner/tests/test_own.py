"""What a user's pictures, settings, models and folders may be, and what the commands make of them."""

import json
import struct
from types import SimpleNamespace as Of

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration

from common.errors import ModelError, UserError
from common.families import build

from .. import calibrate, look, own, score, survey
from ..experiments import paper as paper_scale
from ..method import ShallowConfig, paper
from ..settings import Settings, read_settings, write_settings

SMALL = "common/standins/llava-weights/seed0"
SIZES = dict(hidden_size=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)


# -- pictures ----------------------------------------------------------------------------------------------
def test_sixteen_bits_of_grey_are_grey_whatever_the_file_is(tmp_path):
    """PIL reads a PGM of 16 bits as 32-bit integers, and clips these at 255: a white picture."""
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 0x8000, 0x0100))
    Image.fromarray(np.array([[0x8000, 0x0100]], np.int32)).save(tmp_path / "a.tiff")
    for name in ("a.pgm", "a.tiff"):
        assert [own.opened(tmp_path / name).getpixel((x, 0)) for x in (0, 1)] == [(128,) * 3, (1,) * 3], name
    Image.fromarray(np.array([[200, 7]], np.int32)).save(tmp_path / "eight.tiff")
    assert own.opened(tmp_path / "eight.tiff").getpixel((0, 0)) == (200,) * 3
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(UserError, match=r"f\.tiff: no picture that can be read \(its pixels are floats"):
        own.opened(tmp_path / "f.tiff")


def test_tokens_are_drawn_on_a_picture_only_where_they_stand_on_it_row_by_row():
    one, nine_tiles = list(range(5, 5 + 576)), [66 * tile + i for tile in range(9) for i in range(64)]
    pixtral = [row * 5 + i for row in range(4) for i in range(4)]
    assert look.side_of(one) == 24 and look.side_of(pixtral) == 4
    assert look.side_of(nine_tiles) is look.side_of(one[:-1]) is look.side_of([3]) is look.side_of([]) is None
    assert look.side_of([row * 10 + i for row in range(4) for i in range(9)]) is None, "four rows of nine are no square of six"


# -- settings ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("changes, says", [
    ({"relative": "false"}, "relative is 'false': true or false"), ({"relative": None}, "relative is None"),
    ({"exit_consecutive": "no"}, "exit_consecutive is 'no'"), ({"boundary": 8}, "boundary 8 of a model with layers 0 to 7"),
    ({"shallow": {"layers": 2, "mode": "after", "visual_self": "no", "first": "merge", "onto": 0}}, "visual_self is 'no'"),
    ({"relative": ...}, "relative is missing"), ({"tokens_threshold": ...}, "tokens_threshold is missing"),
    ({"shallow": {"layers": 2}}, "first is missing"), ({"model": 3}, "model is 3")])
def test_settings_that_would_be_another_rule_are_refused(changes, says, tmp_path):
    """`"relative": "false"` is true to Python, and a name that is left out would be the paper's absolute threshold."""
    path = tmp_path / "s.json"
    write_settings(path, paper(boundary=2, relative=True, tokens_threshold=0.03, shallow=ShallowConfig(2)), "mine", 8, [])
    of = json.loads(path.read_text())
    for name, value in changes.items():
        place = of if name == "model" else of["config"]
        place[name] = value
        if value is ...:
            del place[name]
    path.write_text(json.dumps(of))
    with pytest.raises(UserError, match=f"settings that mean nothing .*{says}"):
        read_settings(path)


def test_a_mark_of_byte_order_does_not_make_settings_unreadable(tmp_path):
    path = tmp_path / "s.json"
    write_settings(path, paper(), "mine", 8, [])
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert read_settings(path).config == paper()


# -- models ------------------------------------------------------------------------------------------------
def test_a_decoder_without_a_list_of_layers_is_refused_by_every_command(tmp_path, capsys, monkeypatch):
    model = Pix2StructForConditionalGeneration(Pix2StructConfig(text_config=dict(SIZES, vocab_size=50), vision_config=dict(
        hidden_size=16, patch_embed_hidden_size=16, d_ff=32, d_kv=8, num_hidden_layers=2, num_attention_heads=2, seq_len=16)))
    ids = {"input_ids": torch.tensor([[1, 2, 3]])}
    monkeypatch.setattr(look, "opened", lambda name: look.Opened(model, lambda picture, question: ids, str))
    for command in (look, calibrate, survey):
        assert command.main(["--model", "x", "--scenes", "1", "--out", str(tmp_path / command.__name__)]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.endswith("has no list of layers to prune between") or "no list of two or more layers" in error
    with pytest.raises(ModelError, match="no list of layers"):
        Settings(paper(), "m", 2, frozenset()).check(model)


def saved(folder, **parts):
    """A tiny stock LLaVA in a folder, with its processor."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    from common.vision.llava import tokenizer

    model = build("llava")
    eye = model.config.vision_config
    model.save_pretrained(folder)
    LlavaProcessor(CLIPImageProcessor(size={"shortest_edge": eye.image_size}, crop_size=eye.image_size), parts.get("words", tokenizer()),
                   patch_size=eye.patch_size, vision_feature_select_strategy="default", num_additional_image_tokens=1,
                   chat_template=parts.get("template", "<bos> <image> {{ messages[0].content[1].text }}")).save_pretrained(folder)
    return folder


def test_a_model_that_is_cut_short_or_of_other_sizes_is_one_line(tmp_path):
    folder = saved(tmp_path / "mine")
    assert look.opened(str(folder)).model is not None
    config, weights = folder / "config.json", folder / "model.safetensors"
    of, whole = json.loads(config.read_text()), weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    for attempt in (lambda: look.opened(str(folder)), lambda: paper_scale.open_model(str(folder), "cpu")):
        with pytest.raises(UserError, match="cannot be loaded as a multimodal model of transformers .*incomplete"):
            attempt()
    weights.write_bytes(whole)
    config.write_text(json.dumps(of | {"text_config": of["text_config"] | {"intermediate_size": 8}}))
    with pytest.raises(UserError, match="cannot be loaded"):
        look.opened(str(folder))
    config.write_text(json.dumps(of))
    for path in folder.glob("*processor*"):
        path.unlink()
    with pytest.raises(UserError, match=r"mine: no processor \(processor_config\.json"):
        look.opened(str(folder))


def test_a_template_s_first_token_is_not_put_there_twice(tmp_path):
    """Tokenizers of Pixtral and others begin a text with it, and so do their templates."""
    from tokenizers.processors import TemplateProcessing

    from common.vision.llava import tokenizer

    words = tokenizer()
    words._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", words.bos_token_id)])
    assert words("in one").input_ids[0] == words.bos_token_id
    picture = Image.new("RGB", (8, 8))
    for template, times in (("<bos> <image> {{ messages[0].content[1].text }}", 1), ("<image> {{ messages[0].content[1].text }}", 1)):
        of = look.opened(str(saved(tmp_path / str(len(template)), words=words, template=template)))
        ids = of.inputs(picture, "in one word")["input_ids"]
        assert (ids == words.bos_token_id).sum() == times and ids[0, 0] == words.bos_token_id, template
    seen = {}

    def processor(**given):
        seen.update(given)
        return Of(to=lambda *where: {"input_ids": torch.zeros(1, 2, dtype=torch.long)})

    vars(processor).update(tokenizer=words, batch_decode=lambda rows, **how: [""], apply_chat_template=lambda said, **how: "<bos> what")
    model = Of(device="cpu", dtype=torch.float32, generate=lambda **given: torch.zeros(1, 3, dtype=torch.long))
    paper_scale.answer(model, processor, None, ["what"], [picture], 1)
    assert seen["add_special_tokens"] is False


# -- folders and options -----------------------------------------------------------------------------------
def test_a_price_in_a_question_is_no_formula(tmp_path, capsys):
    picture = tmp_path / "cat.png"
    Image.new("RGB", (8, 8)).save(picture)
    assert look.main(["--model", SMALL, "--pictures", str(picture), "--question", r"is it $\new or $5 ?", "--out", str(tmp_path)]) == 0
    assert "tokens by layer" in capsys.readouterr().out


@pytest.mark.parametrize("command, name", [(look, "val.png"), (survey, "survey.json"), (survey, "survey.svg"), (score, "scores.json")])
def test_a_folder_where_a_file_is_to_stand_is_told_before_any_work(command, name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(look, "opened", lambda name: pytest.fail("the model is opened first"))
    monkeypatch.setattr(score, "guarded", lambda *of: pytest.fail("the model is opened first"))
    (tmp_path / "out" / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "val.png")
    write_settings(tmp_path / "s.json", paper(), "mine", 8, [])
    more = ["--settings", str(tmp_path / "s.json"), "--device", "cpu"] if command is score else [
        "--pictures", str(tmp_path / "val.png"), "--question", "what ?"]
    assert command.main(["--model", SMALL, "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert f"{name} is a folder there" in error and error.count("\n") == 1


@pytest.mark.parametrize("command, given, says", [
    (look, ["--tokens", "0"], "--tokens 0"), (look, ["--boundary", "-2"], "--boundary -2"), (look, ["--threshold", "-1"], "--threshold -1"),
    (look, ["--scenes", "-1"], "--scenes -1"), (survey, ["--scenes", "-1"], "--scenes -1"), (survey, ["--parts", "all"], "no part all"),
    (survey, ["--question", "what ?"], "--question is asked about --pictures"), (calibrate, ["--at-least", "nan"], "at_least is nan"),
    (calibrate, ["--at-least", "1.5"], "at_least is 1.5"), (calibrate, ["--tokens", "0"], "tokens is 0")])
def test_options_that_mean_nothing_are_one_line_before_the_model_is_opened(command, given, says, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(look, "opened", lambda name: pytest.fail("the model is opened first"))
    assert command.main(["--model", SMALL, "--scenes", "1", "--out", str(tmp_path / "out"), *given]) == 2
    assert says in capsys.readouterr().err


def test_a_limit_of_no_questions_is_refused(tmp_path, capsys):
    write_settings(tmp_path / "s.json", paper(), "mine", 8, [])
    assert score.main(["--model", "m", "--settings", str(tmp_path / "s.json"), "--limit", "0", "--out", str(tmp_path / "out")]) == 2
    assert "limit is 0" in capsys.readouterr().err
    assert survey._modes("before, after") == ["after", "before"]


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "~/no/where", "models/llava/mine"])
def test_a_folder_that_is_not_there_is_told_without_asking_the_hub(name, monkeypatch):
    """Without a network the hub is asked for half a minute, and the error is then about the network."""
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="there is no such folder"):
        own.loaded(name, "auto")
