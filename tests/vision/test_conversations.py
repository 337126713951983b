"""LLaVA's files: what of a conversation is scored, what is held out, and what is wrong with a file."""

import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import SetupError
from common.training.steps import StepBatches
from common.vision.conversations import SYSTEM_V1, Conversations, encode_plain, encode_v1, read_conversations
from common.vision.layout import IGNORED, split


def words(tokenizer_of_image=7):
    """A tokenizer with a token a character, offsets included."""
    class Characters:
        bos_token_id, eos_token = 1, "$"

        def __call__(self, text, add_special_tokens=False, return_offsets_mapping=False):
            return SimpleNamespace(input_ids=[ord(c) for c in text], offset_mapping=[(i, i + 1) for i in range(len(text))])

    return Characters()


def said(ids, labels):
    return "".join(chr(i) for i, label in zip(ids.tolist(), labels.tolist()) if label != IGNORED)


CHAT = {"image": "a.png", "conversations": [
    {"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]}


def test_answers_and_their_ends_are_scored_and_nothing_else():
    ids, labels = encode_v1(words(), CHAT, n_visual=3, image_token_id=9000, max_tokens=999)
    assert said(ids, labels) == " A cat.$ Yes.$" and ids[0] == 1
    text = "".join("#" if i == 9000 else chr(i) for i in ids[1:].tolist())
    assert "USER: ###\nWhat is it? ASSISTANT: A cat.$USER: Sure? ASSISTANT: Yes.$" in text
    cut, _ = encode_v1(words(), CHAT, n_visual=3, image_token_id=9000, max_tokens=50)
    assert torch.equal(cut, ids[:50])


def test_in_stage_1_the_first_word_of_a_caption_is_predicted_behind_the_picture():
    """Pitfall 12: the slot before a picture cannot see it, and must not be trained on the caption."""
    caption = {"image": "a.png", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A cat."}]}
    ids, labels = encode_plain(words(), caption, n_visual=3, image_token_id=9000, max_tokens=99)
    layout = split(ids[None], 9000, labels=labels[None])
    scored = layout.targets[0] != IGNORED
    assert "".join(map(chr, layout.targets[0][scored].tolist())) == "A cat.\n"
    assert (layout.positions[0][scored] > 3).all() and layout.targets[0, 0] == IGNORED


def test_malformed_conversations_name_the_entry(tmp_path):
    path = tmp_path / "chat.json"
    for content, says in (("{}", "expected a list"), ("[]", "expected a list"), ("no", "is no JSON"), ([{"conversations": []}], "entry 0"),
                          ([CHAT, CHAT | {"image": "a", "conversations": CHAT["conversations"][2:]}], "entry 1: 0 <image> in its text, 1"),
                          ([{"conversations": [{"from": "robot", "value": "x"}]}], "turns of human and gpt")):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(SetupError, match=says):
            read_conversations(path)
    with pytest.raises(SetupError, match="there is no file gone.json"):
        read_conversations(tmp_path / "gone.json")


def parsed(tmp_path, *entries):
    (tmp_path / "chat.json").write_text(json.dumps(entries))
    return read_conversations(tmp_path / "chat.json")


def turns(*texts, first="human"):
    order = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": order[i % 2], "value": text} for i, text in enumerate(texts)]


def test_an_answer_without_a_question_is_left_out_as_llava_does(tmp_path):
    (entry,) = parsed(tmp_path, {"conversations": turns("Hello!", "Who?", "A cat.", first="gpt")})
    assert entry["conversations"] == turns("Who?", "A cat.")
    ids, labels = encode_v1(words(), entry, n_visual=3, image_token_id=9000, max_tokens=999)
    assert said(ids, labels) == " A cat.$"
    for bad in (turns("Hello!", first="gpt"), turns("a", "b") + turns("c", first="gpt"), turns("a") + turns("b", "c")):
        with pytest.raises(SetupError, match=r"chat.json, entry 1: human and gpt must take turns, and human ask first"):
            parsed(tmp_path, CHAT, {"conversations": bad})


@pytest.mark.parametrize("bad", [None, 3, ["x"], "half \ud800", {"x": 1}])
def test_a_turn_without_a_text_names_file_and_entry(tmp_path, bad):
    with pytest.raises(SetupError, match=r"chat.json, entry 1: 'conversations' must be turns of human and gpt with a text each"):
        parsed(tmp_path, CHAT, {"conversations": turns("Who?", bad)})
    with pytest.raises(SetupError, match="entry 0: 'conversations' must be turns"):
        parsed(tmp_path, {"conversations": [bad]})
    if bad is not None:
        with pytest.raises(SetupError, match="entry 0: 'image' .* is no file's name"):
            parsed(tmp_path, CHAT | {"image": bad})


def test_a_picture_that_is_null_is_none_and_one_that_is_asked_for_is_missed(tmp_path):
    with pytest.raises(SetupError, match=r"chat.json, entry 1: 1 <image> in its text, 0 picture \('image' is null\)"):
        parsed(tmp_path, CHAT, CHAT | {"image": None})
    entry = {"image": None, "conversations": turns("Who?", "A cat.")}
    assert parsed(tmp_path, entry) == [entry]
    for encode in (encode_v1, encode_plain):
        ids, _ = encode(words(), entry, n_visual=3, image_token_id=9000, max_tokens=999)
        assert 9000 not in ids


def test_a_text_that_speaks_of_pictures_is_text():
    """Without a picture `<image>` is seven signs, in question and answer, also for a tokenizer that has a token for it."""
    class Special(type(words())):
        def __call__(self, text, add_special_tokens=False, return_offsets_mapping=False):
            assert "<image>" not in text
            return super().__call__(text, add_special_tokens, return_offsets_mapping)

    chat = {"conversations": turns("What is <image>?", "The tag <image>.")}
    ids, labels = encode_v1(Special(), chat, n_visual=3, image_token_id=9000, max_tokens=999)
    assert said(ids, labels) == " The tag <image>.$" and "".join(map(chr, ids.tolist())).endswith(
        "USER: What is <image>? ASSISTANT: The tag <image>.$")
    ids, labels = encode_plain(Special(), chat, n_visual=3, image_token_id=9000, max_tokens=999)
    assert said(ids, labels) == "The tag <image>.\n"


# -- rows, and what is held out of them --------------------------------------------------------------------
@pytest.fixture
def files(tmp_path):
    """Six captions of a length each, "a", "aa", ..., the first two without a picture, and a folder of pictures."""
    (tmp_path / "images").mkdir()
    chats = []
    for i in range(6):
        shown = {"image": f"{i}.png"} if i > 1 else {}
        Image.new("RGB", (28, 14), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
        turns = [{"from": "human", "value": "<image>" if shown else "?"}, {"from": "gpt", "value": "a" * (i + 1)}]
        chats.append(shown | {"conversations": turns})
    (tmp_path / "train.json").write_text(json.dumps(chats))
    (tmp_path / "more.json").write_text(json.dumps(chats[::-1]))
    return tmp_path


def read(files, **options):
    found = Conversations(str(files / "train.json"), str(files / "images"), **{"template": "plain", **options})
    parts = SimpleNamespace(tokenizer=words(), n_visual=3, image_token_id=9000, image_size=28, image_mean=(0.0,) * 3, image_std=(1.0,) * 3)
    found.trainer = SimpleNamespace(lightning_module=SimpleNamespace(parts=parts))
    found.prepare_data()
    return found


def captions(rows):
    return [c["conversations"][-1]["value"] for c in rows.conversations]


def test_a_micro_batch_has_its_pictures_in_order_and_its_scored_tokens_counted(files):
    """Caption i has i + 1 letters and the line break behind it to predict; texts alone bring no picture."""
    rows = read(files, val_samples=1).rows(0)
    assert rows.counts["step_targets"][[0, 3, 4]].tolist() == [2, 5, 6]
    batch = rows.collate([rows[i] for i in (3, 0, 4)], [0, 1, 2], {"step_targets": 13})
    assert (batch["layout"].targets != IGNORED).sum(1).tolist() == [5, 2, 6] and batch["step_targets"] == 13
    assert batch["layout"].visual_real.sum(1).tolist() == [3, 0, 3]
    assert batch["pixels"].shape == (2, 3, 28, 28) and [round(p[0, 14, 14].item() * 255) for p in batch["pixels"]] == [3, 4]
    assert rows.collate([rows[0], rows[1]], [0, 1], {})["pixels"] is None
    step = next(iter(StepBatches(rows, batch_size=5, micro_batch=2, seed=0)))
    assert step["step_targets"] == 2 + 3 + 4 + 5 + 6, "of the whole step, of which two rows are here"
    assert not (rows.blank(step)["layout"].targets != IGNORED).any()


def test_no_conversation_is_trained_on_and_validated(files):
    data = read(files, val_samples=2)
    assert (captions(data.rows(0)), captions(data.rows(1))) == (["a", "aa", "aaa", "aaaa"], ["aaaaa", "aaaaaa"])
    data = read(files, val_samples=0)
    assert len(captions(data.rows(0))) == 6
    with pytest.raises(SetupError, match="Conversations: no row is left to validate on"):
        data.rows(1)
    data = read(files, val_samples=5)
    assert (captions(data.rows(0)), len(captions(data.rows(1)))) == (["a"], 5)
    data = read(files, val_samples=2, validation=str(files / "more.json"))
    assert (len(captions(data.rows(0))), captions(data.rows(1))) == (6, ["aaaaaa", "aaaaa"])


@pytest.mark.parametrize("count", [6, 7, 128])
def test_too_few_rows_to_hold_some_out_is_an_error_before_a_model_is_loaded(files, count):
    """Not, silently, all of the training rows as validation."""
    with pytest.raises(SetupError, match=f"data.val_samples {count}: train.json has 6 conversations, .* file in data.validation"):
        read(files, val_samples=count)
    assert len(captions(read(files, val_samples=count, validation=str(files / "more.json")).rows(1))) == 6


@pytest.mark.parametrize("options, says", [
    ({"template": "v2"}, "neither plain nor v1"), ({"val_samples": -1}, "data.val_samples -1: 0 or more"),
    ({"validation": "./a.json"}, r"data.validation is data.train \(a.json\)")])
def test_settings_that_cannot_be_meant(options, says):
    with pytest.raises(ValueError, match=says):
        Conversations("a.json", "b", **options)


def test_pictures_come_from_their_folder_alone(files):
    data = read(files, val_samples=1)
    rows = data.rows(0)
    for name in ("gone.png", "../train.json"):
        with pytest.raises(SetupError, match=f"data.images: no picture {name} in the folder"):
            rows.picture(name)
    with pytest.raises(SetupError, match="data.images: there is no folder"):
        data.images = str(files / "elsewhere")
        data.prepare_data()


def test_pictures_behind_a_link_are_found(files, tmp_path):
    """A hub's cache is a folder of links, and large sets lie on another disk; a name that leads out of the folder stays refused."""
    store = tmp_path / "elsewhere"
    store.mkdir()
    first = next(p for p in sorted((files / "images").rglob("*.png")))
    (store / "blob").write_bytes(first.read_bytes())
    (files / "images" / "linked.png").symlink_to(store / "blob")
    (files / "images" / "train2017").symlink_to(store)
    rows = read(files, val_samples=1).rows(0)
    for name in ("linked.png", "train2017/blob", "./train2017/../linked.png"):
        assert torch.equal(rows.picture(name), rows.picture(str(first.relative_to(files / "images"))))
    for name in ("train2017/../../train.json", "train2017/none.png", str(first)):
        with pytest.raises(SetupError, match="no picture"):
            rows.picture(name)


@pytest.mark.parametrize("place", [0, 11, 35, 60])
def test_a_damaged_picture_is_named(files, place):
    """No picture at all, a header cut short (PIL: ValueError), a chunk of no name (SyntaxError), and pixels that do not unpack."""
    first = next(p for p in sorted((files / "images").rglob("*.png")))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(first)
    rows, data = read(files, val_samples=1).rows(0), bytearray(first.read_bytes())
    data[place] = 0
    first.write_bytes(data)
    with pytest.raises(SetupError, match=first.name):
        rows.picture(str(first.relative_to(files / "images")))


def test_a_picture_of_a_kind_that_pil_reads_in_part_is_named(files):
    """A DDS file of a pixel format that it does not know."""
    first = next(p for p in sorted((files / "images").rglob("*.png")))
    header = struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44) + struct.pack("<2I4s", 32, 4, b"none")
    first.write_bytes(b"DDS " + header + bytes(40))
    rows = read(files, val_samples=1).rows(0)
    with pytest.raises(SetupError, match=rf"{first.name} is damaged \(NotImplementedError"):
        rows.picture(str(first.relative_to(files / "images")))


def test_a_limit_that_cuts_a_picture_is_named_with_the_entry_before_training(files):
    """Stage 1: <bos> and 3 places. Stage 2: the places end behind <bos>, the system text and "USER: "; behind an earlier turn later."""
    with pytest.raises(SetupError, match=r"train.json, entry 2: its picture's 3 places end at token 4, and data.max_tokens 3 would cut"):
        read(files, val_samples=1, max_tokens=3).rows(0)
    read(files, val_samples=1, max_tokens=4).rows(0)
    end = 1 + len(SYSTEM_V1 + " USER: ") + 3
    with pytest.raises(SetupError, match=f"entry 2: .* end at token {end}, .* Set it to {end} or more"):
        read(files, val_samples=1, max_tokens=end - 1, template="v1").rows(0)
    read(files, val_samples=1, max_tokens=end, template="v1").rows(0)
    chats = json.loads((files / "train.json").read_text())
    chats[4]["conversations"] = turns("Hi?", "Yes.", "<image>", "A cat.")
    (files / "train.json").write_text(json.dumps(chats))
    later = end + len("Hi? ASSISTANT: Yes.$USER: ")
    with pytest.raises(SetupError, match=f"train.json, entry 4: .* end at token {later}"):
        read(files, val_samples=1, max_tokens=later - 1, template="v1").rows(0)
