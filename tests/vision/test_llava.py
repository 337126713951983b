"""The small LLaVA: its real vision tower, its pictures and questions, its files, and the committed ones."""

import json
import shutil

import numpy as np
import pytest
import torch

from common.data import easyvqa, scenes
from common.errors import ModelError
from common.standins.llava import FOLDER, SEEDS, Rows, accuracy, by_kind, report
from common.vision import tower as vision
from common.vision.llava import LAYERS, card, dense_hidden, load_llava, packed_questions, save, scored_loss
from tests.numerics import close, float64


@pytest.fixture(scope="module")
def small():
    return load_llava(FOLDER / "seed0")


@pytest.fixture
def double():
    found = load_llava(FOLDER / "seed0")
    found.llava.double()
    with float64():
        yield found


# -- the tower ---------------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_the_tower_is_the_packaged_onnx_graph():
    """DINOv2-S/14 against onnxruntime's run of the file it was read from, on a real photo.

    The file is in single precision and runs in it, so the bound is what that loses, for our side is exact beside it: 6e-8
    a step, which over a sum of up to 1,536 terms grows as its root, in each of 12 blocks.
    """
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from sklearn.datasets import load_sample_image

    graph = onnx.load(vision.onnx_file())
    last = [n for n in graph.graph.node if n.name.startswith("/backbone/layernorm/")][-1].output[0]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, 1, None))
    shown = vision.pixels([load_sample_image("china.jpg")[:224, :224]], 224)
    wanted = runtime.InferenceSession(graph.SerializeToString()).run([last], {"input_image": shown.numpy()})[0]
    tower = vision.dinov2().double()
    with torch.no_grad(), float64():
        found = tower(shown.double()).last_hidden_state
    close(found, wanted, 12 * 1536**0.5 * 6e-8)
    assert np.abs(wanted).mean() > 1


def test_features_are_kept_and_a_damaged_file_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    shown = [scenes.scene(i).image() for i in range(2)]
    first = vision.features("try", shown, (2, 11)).clone()
    assert first.shape == (2, 64, 768) and first.dtype == torch.float16
    path = next((tmp_path / "features").iterdir())
    kept = path.read_bytes()
    assert torch.equal(vision.features("try", shown, (2, 11)), first) and path.read_bytes() == kept
    path.write_bytes(kept[:200])
    assert torch.equal(vision.features("try", shown, (2, 11)), first)
    assert vision.features("try", shown, (2, 9)).shape == (2, 64, 768) and len(list((tmp_path / "features").iterdir())) == 2


def test_pictures_that_are_none_are_said(tmp_path):
    from common.errors import SetupError

    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(SetupError, match="a.png is no picture"):
        vision.padded_pixels(tmp_path / "a.png", 28, vision.IMAGE_MEAN, vision.IMAGE_STD)


def test_padding_to_a_square_uses_the_mean_colour(tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 20), (255, 255, 255)).save(tmp_path / "a.png")
    found = vision.padded_pixels(tmp_path / "a.png", 40, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert found.shape == (3, 40, 40)
    assert torch.allclose(found[:, 20], torch.ones(3, 40)) and found[:, :8].abs().max() < 0.01


# -- scenes ------------------------------------------------------------------------------------------------
def test_scenes_are_functions_of_their_number_and_splits_do_not_share_digits():
    assert scenes.scene(7, "test") == scenes.scene(7, "test") and np.array_equal(scenes.scene(7).image(), scenes.scene(7).image())
    assert len({scenes.scene(i, s, seed) for i in range(50) for s in scenes.SPLITS for seed in (0, 1)}) == 300
    train, test = ({scenes.scene(i, s).digit_sample for i in range(500)} for s in ("train", "test"))
    assert max(train) < scenes.DIGITS_FOR_TRAINING <= min(test)


def test_answers_follow_from_the_scene():
    """Every question re-answered from the objects alone; each colour is there once."""
    for number in range(200):
        scene = scenes.scene(number, "val")
        by_color = {t.color: t for t in scene.things}
        assert len(by_color) == len(scene.things)
        cells = [(t.row, t.column) for t in scene.things] + [scene.digit_cell]
        assert len(set(cells)) == len(cells)
        for q in scene.questions():
            words = q.text.split()
            if q.kind in ("shape", "shade", "row", "column"):
                value = getattr(by_color[words[2]], q.kind)
                assert q.answer == (str(value + 1) if isinstance(value, int) else value)
            elif q.kind == "color":
                assert [t.color for t in scene.things if t.shape == words[2]] == [q.answer]
            elif q.kind == "exists":
                assert (by_color.get(words[2]) is not None and by_color[words[2]].shape == words[3]) == (q.answer == "yes")
                assert words[2] in by_color and any(t.shape == words[3] for t in scene.things)  # a hard no
            elif q.kind == "relation":
                a, b = by_color[words[1]], by_color[words[4]]
                assert (a.column < b.column if words[2] == "left" else a.row < b.row) == (q.answer == "yes")
            else:
                assert q.answer == str(len(scene.things) if q.kind == "count" else scene.digit)
        for kind in ("exists", "relation"):
            answers = [q.answer for q in scene.questions() if q.kind == kind]
            assert answers.count("yes") == answers.count("no")


def test_captions_name_every_object_and_the_digit():
    scene = scenes.scene(3)
    draw = np.random.default_rng(0)
    captions = {scene.caption(draw) for _ in range(40)}
    assert len(captions) > 10  # the order is drawn
    for caption in captions:
        parts = {frozenset(part.split()) for part in caption.removesuffix(" .").split(" , ")}
        assert parts == {frozenset((t.color, t.shape, t.shade)) for t in scene.things} | {frozenset(("digit", str(scene.digit)))}


def test_the_blind_optimum():
    q = scenes.Question
    train = [q("color", "a ?", "red"), q("color", "a ?", "red"), q("color", "a ?", "blue"), q("color", "b ?", "blue"), q("n", "c ?", "3")]
    asked = [q("color", "a ?", "?"), q("color", "b ?", "?"), q("color", "unseen ?", "?"), q("new", "unseen ?", "?")]
    assert scenes.blind(train, asked) == ["red", "blue", "red", "red"]


def test_easy_vqa_is_as_its_package_says():
    assert [len(easyvqa.numbers(s)) for s in ("train", "val", "test")] == [3500, 500, 1000]
    test = [q for n in easyvqa.numbers("test") for q in easyvqa.questions("test", n)]
    known = [q for s in ("train", "val") for n in easyvqa.numbers(s) for q in easyvqa.questions(s, n)]
    assert len(test) == 9673 and len(known) == 38575 and len({q.answer for q in known}) == 13
    right = [q.answer == guess for q, guess in zip(test, scenes.blind(known, test))]
    open_ = [hit for q, hit in zip(test, right) if q.kind == "open"]
    assert sum(right) / len(right) == pytest.approx(0.670, abs=5e-4) and sum(open_) / len(open_) == pytest.approx(0.233, abs=5e-4)
    assert easyvqa.image("test", 0).shape == (64, 64, 3)


# -- the model ---------------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_packed_questions_are_the_stock_forward_on_pixels(double):
    """Many questions in one row from features, against LlavaForConditionalGeneration on the picture, one at a time."""
    scene = scenes.scene(5, "test")
    shown = vision.pixels([scene.image()], 112).double()
    asked = scene.questions()[:6]
    decoder, layout = double.language_model(), packed_questions(double, [asked])
    with torch.no_grad():
        states = double.llava.model.vision_tower(shown, output_hidden_states=True).hidden_states
        features = torch.cat([states[k][:, 1:] for k in LAYERS], -1)
        ours = decoder.lm_head(dense_hidden(decoder, layout, double.projector(features)))[layout.targets != -100]
        for i, question in enumerate(asked):
            words = double.tokenizer.convert_tokens_to_ids(question.text.split())
            ids = torch.tensor([double.prefix + [double.llava.config.image_token_id] * 64 + words])
            stock = double.llava(input_ids=ids, pixel_values=shown, attention_mask=torch.ones_like(ids)).logits[0, -1]
            close(ours[i], stock)


@pytest.mark.numerics
def test_the_loss_is_the_mean_over_answers(double):
    layout = packed_questions(double, [scenes.scene(1).questions()[:3], scenes.scene(2).questions()[:2]])
    hidden = torch.randn(*layout.ids.shape, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total, count = scored_loss(double.language_model(), hidden, layout)
    logits = double.language_model().lm_head(hidden)
    one_by_one = sum(torch.nn.functional.cross_entropy(logits[b, t], layout.targets[b, t]) for b, t in (layout.targets != -100).nonzero())
    assert count == 5
    close(total, one_by_one)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_committed_models_answer_as_their_cards_say(seed):
    """On thirty of the pictures; the card's figures are of all 500."""
    folder = FOLDER / f"seed{seed}"
    about = card(folder)
    assert about["seed"] == seed and (folder / "model.safetensors").stat().st_size < 4 << 20
    found = report(load_llava(folder), pictures=30)
    for part in ("scenes", "easy-VQA"):
        for kind, value in found[part].items():
            assert value > found[f"{part}, blind"][kind] + 0.1, kind
            assert abs(value - about["accuracy"][part][kind]) < 0.12, (part, kind)


def test_a_folder_that_is_no_small_llava_is_refused(small, tmp_path):
    save(small, tmp_path / "copy")
    again = load_llava(tmp_path / "copy")
    for a, b in zip(again.llava.state_dict().values(), small.llava.state_dict().values()):
        assert torch.equal(a, b)
    with pytest.raises(ModelError, match="nowhere: no config.json"):
        load_llava(tmp_path / "nowhere")
    shutil.copytree(tmp_path / "copy", tmp_path / "other")
    entries = json.loads((tmp_path / "other" / "config.json").read_text())
    entries["text_config"]["num_hidden_layers"] = 9
    (tmp_path / "other" / "config.json").write_text(json.dumps(entries))
    with pytest.raises(ModelError, match=r"other: \d+ weights do not fit"):
        load_llava(tmp_path / "other")


def test_training_rows_follow_from_seed_and_step(small):
    class Few:
        split, easy = "train", easyvqa.numbers("train")[:3]
        scenes = [scenes.scene(i) for i in range(4)]
        scene_features, easy_features = torch.zeros(4, 64, 8), torch.ones(3, 64, 8)

    rows = Rows(Few(), small.tokenizer, small.prefix, stage_1=1, steps=9, seed=3, rows=6, asked=4)
    for step in (0, 5):
        (a, x), (b, y) = rows[step], rows[step]
        assert torch.equal(a, b) and torch.equal(x.ids, y.ids)
    assert not torch.equal(rows[5][1].ids, rows[6][1].ids)
    describe = small.tokenizer.convert_tokens_to_ids("describe")
    assert (rows[0][1].ids[:, len(small.prefix)] == describe).all()  # stage 1: captions alone


def test_accuracy_counts_answers(small):
    asked = [[scenes.Question("color", "color of circle ?", "red"), scenes.Question("digit", "what digit ?", "3")]]
    decoder = small.language_model()

    def hidden(layout, visual):  # the state whose nearest word is "red", everywhere
        red = decoder.lm_head.weight[small.tokenizer.convert_tokens_to_ids("red")]
        return (100 * red).expand(*layout.ids.shape, -1)

    assert accuracy(small, torch.zeros(1, 64, 1152), asked, hidden) == [[True, False]]
    assert by_kind(asked, [[True, False]]) == {"color": 1.0, "digit": 0.0}


def test_a_killed_training_of_a_stand_in_goes_on_as_if_unbroken(tmp_path, monkeypatch):
    """Rows after the kill are the rows that follow, to the last step: a loader that is shortened must not begin anew."""
    from common.standins import llava as standins

    class Few(standins.Pictures):
        def __init__(self, count=6, seed=0, layers=(2, 9, 11), split="train", easy=0):
            monkeypatch.setattr(vision, "features", lambda name, images, layers: torch.randn(
                len(images), 64, 384 * len(layers), generator=torch.Generator().manual_seed(0)).half())
            super().__init__(6, seed, layers, split, 0)

    monkeypatch.setattr(standins, "Pictures", Few)
    monkeypatch.setattr(standins.Rows.__init__, "__defaults__", (2, 3))
    found = {}
    for name, stops in (("unbroken", (None,)), ("killed", (2, None))):
        monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / name))
        for stop in stops:
            found[name] = standins.train(0, "test", stage_1=3, stage_2=3, progress=False, stop=stop)
    (whole, losses), (resumed, again) = found["unbroken"], found["killed"]
    assert losses == again and len(losses) == 6
    for a, b in zip(whole.language_model().parameters(), resumed.language_model().parameters()):
        assert torch.equal(a, b)
