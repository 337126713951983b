"""Calibration in one call: the experiment's own choice on the same inputs, a stock LLaVA on pixels, the file of settings, the commands."""

import inspect
import json
from types import SimpleNamespace as Of

import pytest
import torch
from PIL import Image

from common.benchmarks import vqa
from common.data import scenes
from common.errors import ModelError, UserError
from common.families import build, with_pictures
from common.standins.llava import folder_of, stand_in
from common.vision.llava import load_llava

from .. import analysis, look, own, score, scoring
from .. import calibrate as calibration
from ..calibrate import calibrate
from ..experiments import llava
from ..method import ShallowConfig, paper
from ..own import Prompt, answered
from ..pruners import VisiPruner
from ..settings import Settings, read_settings, write_settings

SMALL = "common/standins/llava-weights/seed0"
SOME = (0.2, 0.05, 0.02, 0.01)


@pytest.fixture(scope="module")
def parts():
    return stand_in(0)


@pytest.fixture(scope="module")
def asked():
    """The open questions about two validation pictures, as the experiment asks them."""
    return llava.Set.of(stand_in(0), "val", 2)


def as_prompts(of):
    return [Prompt({"inputs_embeds": batch.embeds, "attention_mask": torch.ones(batch.visual.shape, dtype=torch.long)}, batch.visual)
            for batch in scoring.prompts(of.parts, of.asked, of.shown)]


# -- the choice --------------------------------------------------------------------------------------------
@torch.no_grad()
def test_the_choice_is_the_experiments_own_on_the_same_inputs(parts, asked):
    """Attempt by attempt, agreement and pairs to the last bit: a decoder with projected features."""
    theirs = llava.pruned_by(parts, llava.Size((0,), test=1, looked=1, validation=2), rivals={}, curve_at=(), thresholds=SOME)
    ours = calibrate(parts.decoder, as_prompts(asked), thresholds=SOME)
    assert ours.tried == theirs["tried"]["VisiPruner"] and len(ours.tried) >= 14
    assert (ours.config.boundary, ours.config.tokens_threshold) == tuple(theirs["config"].values())[:2]
    assert ours.config == paper(shallow=None, boundary=ours.config.boundary, relative=True, tokens_threshold=ours.config.tokens_threshold)
    assert ours.pairs == theirs["tried"]["pairs"][0] and ours.enough and (ours.rows, ours.layers) == (len(asked.asked), 8)


def test_a_stock_llava_on_pixels_gives_the_decoders_choice(asked):
    """The tower in half precision moves shares by thousandths: the same attempts agree as often and leave as many pairs."""
    small = load_llava(folder_of(0))
    few = llava.Set(asked.parts, asked.asked[:3], asked.shown)
    inputs = look._small(small).inputs
    pixels = [Prompt(inputs(scenes.scene(q.picture, "val").image(), q.text), name=q.text) for q in few.asked]
    ours, theirs = calibrate(small.llava, pixels, thresholds=SOME[1:3]), calibrate(few.parts.decoder, as_prompts(few), thresholds=SOME[1:3])
    assert ours.config == theirs.config and ours.rows == 3
    assert [(t["boundary"], t["threshold"], t["agreement"]) for t in ours.tried] == [
        (t["boundary"], t["threshold"], t["agreement"]) for t in theirs.tried]
    assert [t["pairs"] for t in ours.tried] == pytest.approx([t["pairs"] for t in theirs.tried], abs=0.02)


def test_no_label_and_no_other_picture_is_read(asked, monkeypatch):
    """The same whatever the answers are called; each prompt alone is asked, dense once and once an attempt."""
    ran = []
    monkeypatch.setattr(calibration, "answered", lambda model, prompt, pruner=None, tokens=1: ran.append((id(prompt), pruner)) or
                        answered(model, prompt, pruner, tokens))
    prompts = as_prompts(asked)
    found = calibrate(asked.parts.decoder, prompts, thresholds=(0.2, 0.02))
    assert len(ran) == len(prompts) * (1 + len(found.tried)) and {number for number, _ in ran} == {id(p) for p in prompts}
    assert [pruner for _, pruner in ran[: len(prompts)]] == [None] * len(prompts)
    tried = [(pruner.config.boundary, pruner.config.tokens_threshold) for _, pruner in ran[len(prompts) :: len(prompts)]]
    assert tried == [(t["boundary"], t["threshold"]) for t in found.tried]


def test_pairs_and_agreement_by_hand(monkeypatch):
    """Two prompts of one row, three layers, ten visual and four other tokens; behind layer 0 five are left of the first, and its answer
    turns. k^2 + k n_t: (140 + 2 x 45 + 3 x 140) of 6 x 140."""
    model = Of(get_decoder=lambda: Of(layers=[None] * 3))

    def run(model, prompt, pruner=None, tokens=1):
        pruned = pruner is not None and prompt == "first"
        return own.Answered([(7 if pruned else 5,)], Of(tokens=[[14], [9], [9]] if pruned else [[14]] * 3,
                                                        visual=[[10], [5], [5]] if pruned else [[10]] * 3))

    monkeypatch.setattr(calibration, "answered", run)
    found = calibrate(model, ["first", "second"], thresholds=(0.1,))
    assert found.agreement == 0.5 and found.pairs == pytest.approx((140 + 2 * 45 + 3 * 140) / 840) and not found.enough
    assert calibrate(model, ["first", "second"], thresholds=(0.1,), at_least=0.5).enough


def test_answers_are_cut_behind_the_first_end_and_longer_ones_can_differ():
    assert own.cut([4, 9, 2, 0, 0], {2}) == (4, 9, 2) and own.cut([4, 9], {2}) == (4, 9) and own.cut([4, 9], {None}) == (4, 9)
    model = build("llava")
    model.generation_config.pad_token_id = 0
    prompt = Prompt(with_pictures(model, torch.arange(5, 14)[None]))
    one, three = answered(model, prompt), answered(model, prompt, tokens=3)
    assert one.ids[0] == three.ids[0][:1] and len(three.ids[0]) == 3
    assert one.text() == [9] and one.visual() == [[4] * 3]
    none = answered(model, prompt, VisiPruner(paper(boundary=-1, layer_threshold=2, tokens_threshold=1e9, shallow=None)))
    assert none.visual() == [[4, 0, 0]]


@pytest.mark.parametrize("changes, message", [
    (dict(prompts=[]), "no prompts"), (dict(at_least=0.0), "at_least"), (dict(at_least=1.2), "at_least"), (dict(tokens=0), "tokens"),
    (dict(thresholds=()), "thresholds"), (dict(blind=True), "none of the prompts holds a picture")])
def test_what_cannot_be_calibrated_is_refused(asked, changes, message):
    prompts = [Prompt(p.inputs, torch.zeros_like(p.visual)) for p in as_prompts(asked)] if changes.pop("blind", 0) else as_prompts(asked)
    with pytest.raises(UserError, match=message):
        calibrate(asked.parts.decoder, **{"prompts": prompts} | changes)


def test_a_model_that_cannot_be_pruned_and_padding_on_the_right_are_refused_by_property():
    model = build("gemma3")
    with pytest.raises(ModelError, match="window"):
        calibrate(model, [Prompt(with_pictures(model, torch.arange(5, 14)[None]))])
    with pytest.raises(UserError, match="mine: padded on the right"):
        Prompt({"attention_mask": torch.tensor([[1, 1, 0]])}, name="mine")


# -- the file ----------------------------------------------------------------------------------------------
FOUND = paper(boundary=2, relative=True, tokens_threshold=0.03, shallow=ShallowConfig(2, "before"))


def test_settings_are_read_as_they_were_written(tmp_path):
    path, folder = tmp_path / "s.json", tmp_path / "mine"
    folder.mkdir()
    for config in (FOUND, paper(shallow=None)):
        write_settings(path, config, str(folder), 8, ["b", "a", "a"], agreement=0.98)
        read = read_settings(path)
        assert (read.config, read.layers, read.model, read.pictures) == (config, 8, "mine", {"a", "b"})
        assert str(tmp_path) not in path.read_text() and json.loads(path.read_text())["agreement"] == 0.98, "no place of a machine"
    eight, nine = (Of(get_decoder=lambda n=n: Of(layers=[0] * n)) for n in (8, 9))
    assert read.check(eight) == config
    with pytest.raises(UserError, match="mine with 8 layers, and this model has 9"):
        read.check(nine)


def test_what_is_no_settings_file_is_refused(tmp_path):
    path = tmp_path / "s.json"
    write_settings(path, FOUND, "hub/id", 8, [])
    good = json.loads(path.read_text())
    wrong = [("{", "no settings that can be read"), ("[]", "not a file of"), (json.dumps(good | {"format": "9"}), "not a file of")]
    wrong += [(json.dumps(good | {"config": good["config"] | change}), "settings that mean nothing") for change in (
        {"boundary": -5}, {"another": 1}, {"shallow": {"depth": 3}}, {"layer_threshold": "x"}, {"tokens_threshold": "x"},
        {"tokens_threshold": None}, {"tokens_threshold": float("nan")}, {"tokens_threshold": -1}, {"boundary": 2.5}, {"boundary": True},
        {"exit_cos": float("inf")})]
    wrong += [(json.dumps(good | {"pictures": them}), "not a list of digests") for them in ("abc", [5], None)]
    wrong += [(json.dumps(good | {"layers": layers}), "whole numbers") for layers in ("8", 8.0, True)]
    wrong += [(json.dumps({k: v for k, v in good.items() if k != "layers"}), "settings that mean nothing")]
    for text, message in wrong:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_settings(path)
    with pytest.raises(UserError, match="no settings that can be read"):
        read_settings(tmp_path / "none.json")


def test_pictures_are_known_by_their_pixels_and_what_was_chosen_on_is_not_scored():
    one, other = (Image.fromarray(scenes.scene(i, "val").image()) for i in (0, 1))
    chosen = Settings(paper(), "m", 8, frozenset([own.digest(one)]))
    assert own.digest(one.convert("RGBA")) == own.digest(one) != own.digest(other) != own.digest(one.resize((32, 128)))
    chosen.refuse([other], "GQA")
    with pytest.raises(UserError, match="GQA shows 1 of the pictures"):
        chosen.refuse([other, one], "GQA")


# -- the commands ------------------------------------------------------------------------------------------
def test_how_many_prompts_can_tell_the_share_that_was_asked_from_all():
    """One of 33 is 3.03 %, more than the 3 % that may differ."""
    for at_least, need in ((0.97, 34), (0.99, 100), (0.9, 10), (0.5, 2), (1.0, 1)):
        assert calibration.enough(at_least) == need
        assert need == 1 or (need - 1) / need >= at_least - 1e-12 > (need - 2) / (need - 1) - 1e-12


def test_a_question_may_hold_other_ends_of_a_line_and_a_file_a_mark_of_byte_order(tmp_path):
    picture(tmp_path)
    (tmp_path / "p.jsonl").write_text('\ufeff{"picture": "a.png", "question": "what\u2028digit\x85?"}\r\n', encoding="utf-8")
    assert [one.text for one in own.lines(tmp_path / "p.jsonl")] == ["what\u2028digit\x85?"]


def picture(folder, number=0, name="a.png"):
    Image.fromarray(scenes.scene(number, "val").image()).save(folder / name)
    return folder / name


def test_calibrated_looked_at_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibration, "calibrate", lambda model, prompts, at_least, tokens: calibrate(
        model, prompts, at_least=at_least, tokens=tokens, thresholds=(0.05, 0.02)))
    picture(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"picture": "a.png", "question": "what digit ?"}\n\n')
    out = tmp_path / "s.json"
    assert calibration.main(["--model", SMALL, "--prompts", str(tmp_path / "p.jsonl"), "--scenes", "1", "--out", str(out)]) == 0
    said, warned = capsys.readouterr()
    chosen = read_settings(out)
    boundary = chosen.config.boundary
    assert f"boundary {boundary}, threshold {chosen.config.tokens_threshold:g}" in said and "of 2 answers stay" in said
    assert "2 prompts: an answer that differs is 50 % of them" in warned
    assert chosen.pictures == {own.digest(Image.open(tmp_path / "a.png"))}, "the scene is the picture of the file"
    assert look.main(["--model", SMALL, "--pictures", str(tmp_path / "a.png"), "--question", "what digit?", "--settings", str(out),
                      "--out", str(tmp_path / "looks")]) == 0
    layers = capsys.readouterr().out.rpartition(": ")[2].split()
    assert layers[: boundary + 2] == ["64"] * (boundary + 2) and int(layers[-1]) < 64
    of = json.loads(out.read_text()) | {"layers": 30}
    out.write_text(json.dumps(of))
    assert look.main(["--model", SMALL, "--scenes", "1", "--settings", str(out), "--out", str(tmp_path / "looks")]) == 2
    assert "chosen for seed0 with 30 layers, and this model has 8" in capsys.readouterr().err


@pytest.mark.parametrize("text, message", [
    ("not json", "line 1: expected"), ('{"picture": "a.png"}', "line 1: expected"), ('{"picture": 3, "question": "x"}', "are texts"),
    ('{"picture": "none.png", "question": "x"}', "no picture that can be read"), ("[]", "line 1: expected"), ("", "give --pictures")])
def test_prompts_that_are_none_are_answered_in_a_line(text, message, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text(text)
    picture(tmp_path)
    assert calibration.main(["--model", SMALL, "--prompts", str(tmp_path / "p.jsonl")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_every_picture_is_asked_every_question_and_scenes_are_of_validation(tmp_path):
    files = [picture(tmp_path, 0), picture(tmp_path, 1, "b.png")]
    options = Of(pictures=files, question=["x ?", "y ?"], prompts=None, scenes=3)
    found = own.questions(options)
    assert [(q.name, q.text) for q in found[:4]] == [("a", "x ?"), ("a", "y ?"), ("b", "x ?"), ("b", "y ?")]
    assert found[0].digest == found[4].digest == own.digest(Image.fromarray(scenes.scene(0, "val").image()))
    assert not {q.digest for q in found} & {own.digest(Image.fromarray(scenes.scene(i, "test").image())) for i in range(3)}
    with pytest.raises(UserError, match="needs a --question"):
        own.questions(Of(pictures=files, question=[], prompts=None, scenes=0))


# -- the harness -------------------------------------------------------------------------------------------
def scored(tmp_path, monkeypatch, shown, pictures=()):
    """A harness that shows one picture, and a model of eight layers; which config it answered under."""
    under = []
    monkeypatch.setattr(vqa, "harness", lambda: None)
    monkeypatch.setattr(score.paper_scale, "open_model", lambda source, device: (
        Of(get_decoder=lambda: Of(layers=[0] * 8)), lambda images, **others: images))
    monkeypatch.setattr(score.paper_scale, "folder_sha256", lambda path: "hash")

    def answer(model, processor, config, prompts, images, tokens):
        processor(images=images, text=prompts)
        under.append(config)
        return ["4"]

    def evaluate(ask, name, out, **how):
        ask(["how many ?"], [shown], 4)
        return {"value": 50.0 + len(under)}

    monkeypatch.setattr(score.paper_scale, "answer", answer)
    monkeypatch.setattr(vqa, "evaluate", evaluate)
    path = tmp_path / "s.json"
    write_settings(path, FOUND, "mine", 8, pictures)
    (tmp_path / "mine").mkdir(exist_ok=True)
    return score.score(str(tmp_path / "mine"), read_settings(path), tmp_path / "out", ("GQA",), device="cpu", log=lambda line: None), under


def test_benchmarks_are_scored_dense_and_by_the_settings(tmp_path, monkeypatch):
    shown = Image.fromarray(scenes.scene(3, "val").image())
    values, under = scored(tmp_path, monkeypatch, shown)
    assert under == [None, FOUND] and values == {"dense": {"GQA": 51.0}, "pruned": {"GQA": 52.0}}
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["pruned"] == {"GQA": 52.0}
    again, under = scored(tmp_path, monkeypatch, shown)
    assert under == [] and again == values, "scores are kept"
    _, under = scored(tmp_path, monkeypatch, shown, ["another picture"])
    assert under == [FOUND], "settings that were chosen on other pictures are scored anew"


def test_a_benchmark_that_shows_a_picture_of_the_settings_is_not_scored(tmp_path, monkeypatch):
    shown = Image.fromarray(scenes.scene(3, "val").image())
    with pytest.raises(UserError, match="the benchmark shows 1 of the pictures that the settings were chosen on"):
        scored(tmp_path, monkeypatch, shown, [own.digest(shown)])
    assert not (tmp_path / "out" / "scores.json").exists()


def test_what_cannot_be_scored_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    write_settings(tmp_path / "s.json", FOUND, "mine", 8, [])
    given = ["--model", "mine", "--settings", str(tmp_path / "s.json"), "--out", str(tmp_path)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, message in ((["--benchmarks", "GQA,none"], "no benchmark none"), (["--benchmarks", " ,"], "no benchmark is asked for"),
                               ([], "no GPU is visible"), (["--settings", "nothing.json"], "no settings that can be read")):
        assert score.main([*given, *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1


def test_what_is_asked_of_an_agreement_is_what_the_experiments_ask():
    theirs = inspect.signature(analysis.calibrate).parameters
    assert {name: theirs[name].default for name in ("at_least", "thresholds", "base")} == {
        name: value for name, value in calibrate.__kwdefaults__.items() if name != "tokens"} and calibrate.__kwdefaults__["tokens"] == 1


# -- what a user's files and options may hold ------------------------------------------------------------
def test_pictures_are_read_as_people_see_them(tmp_path):
    """Upright, though the camera lay on its side; 16 bits of grey as grey, where PIL's way to RGB makes them white."""
    wide = Image.new("RGB", (6, 4))
    wide.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to the right
    wide.save(tmp_path / "turned.png", exif=exif)
    upright = own.opened(tmp_path / "turned.png")
    assert upright.size == (4, 6) and upright.getpixel((3, 0)) == (255, 0, 0)
    assert own.digest(Image.open(tmp_path / "turned.png")) == own.digest(upright) != own.digest(wide)
    grey = Image.new("I;16", (2, 1))
    grey.putpixel((0, 0), 0x8000)
    grey.putpixel((1, 0), 0x0100)
    grey.save(tmp_path / "grey.png")
    assert [own.opened(tmp_path / "grey.png").getpixel((x, 0)) for x in (0, 1)] == [(128,) * 3, (1,) * 3]


@pytest.mark.parametrize("line", ['{"picture": "a.png", "question": " "}', '{"picture": "a.png", "question": "\\ud800"}',
                                  '{"picture": "a\\u0000.png", "question": "what ?"}', "[" * 100_000])
def test_lines_that_ask_nothing_are_told(line, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "mine.jsonl").write_text(line)
    assert calibration.main(["--model", SMALL, "--prompts", str(tmp_path / "mine.jsonl"), "--out", str(tmp_path / "s.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("visipruner calibrate: ") and error.count("\n") == 1 and str(tmp_path) in error


@pytest.mark.parametrize("options, said", [
    (["--threshold", "nan"], "--threshold nan"), (["--threshold", "inf"], "--threshold inf"), (["--boundary", "8"], "has layers 0 to 7"),
    (["--out", "{file}"], "no folder can be made there"), (["--out", "{file}/below"], "no folder can be made there"),
    (["--model", "papers/gpe/standins/seed0"], "has no vision_config, so it reads no pictures"),
])  # fmt: skip
def test_what_cannot_be_looked_at_is_one_line_before_any_work(options, said, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    options = [option.replace("{file}", str(tmp_path / "file")) for option in options]
    assert look.main(["--model", SMALL, "--scenes", "1", "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("config", ["null", '{"model_type": "llava", "vision_config": 3}',
                                    '{"model_type": "llava", "text_config": {"hidden_size": "a"}}'])
def test_a_damaged_config_and_a_picture_that_pil_cannot_decode_are_answered_in_a_line(config, tmp_path, capsys):
    """transformers ends in its own kinds of error for the one, PIL in NotImplementedError for the other: a DDS of no pixel format."""
    import struct

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(config)
    (tmp_path / "model" / "preprocessor_config.json").write_text("{}")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    header = b"DDS " + struct.pack("<7I", 124, 4111, 8, 8, 24, 0, 0) + bytes(44) + struct.pack("<8I", 32, *[0] * 7)
    (tmp_path / "a.dds").write_bytes(header + bytes(300))
    for file, said in (("a.png", f"{tmp_path / 'model'} cannot be loaded as a multimodal model"), ("a.dds", "no picture that can be read")):
        assert look.main(["--model", str(tmp_path / "model"), "--pictures", str(tmp_path / file), "--question", "what ?", "--out",
                          str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert said in error and error.startswith("visipruner look: ") and error.count("\n") == 1


def test_two_pictures_of_one_name_do_not_take_each_others_place(tmp_path, capsys):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    pictures = [str(tmp_path / name) for name in ("a.png", "a.jpg")]
    assert look.main(["--model", SMALL, "--pictures", *pictures, "--question", "what ?", "--out", str(tmp_path / "out")]) == 2
    assert "several pictures are called a" in capsys.readouterr().err


def test_words_that_a_small_model_does_not_know_are_told(capsys):
    look.opened(SMALL).inputs(Image.new("RGB", (8, 8)), "how many zebras ?")
    assert capsys.readouterr().err == "visipruner: words that this small model does not know: zebras\n"


@pytest.mark.parametrize("command", ["calibrate", "survey"])
def test_an_output_that_cannot_be_written_is_told_before_the_model_is_opened(command, tmp_path, capsys, monkeypatch):
    from .. import survey

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(look, "opened", lambda name: pytest.fail("the model is opened first"))
    main = {"calibrate": calibration, "survey": survey}[command].main
    assert main(["--model", SMALL, "--scenes", "2", "--out", str(tmp_path / "file" / "below")]) == 2
    assert "no folder can be made there" in capsys.readouterr().err
