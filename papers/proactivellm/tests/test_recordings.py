"""What is no recording of plain samples is refused, what is one is heard, and options and facts that do not fit are told."""

import io
import json
import shutil
import types

import numpy as np
import pytest

from common.claims.machine import ROOT
from common.errors import DataError, ModelError

from .. import stream
from ..data import FORMS
from ..recordings import samples

WORDS = ROOT / "papers/proactivellm/standins/words/seed0"
SOUND = (np.arange(4000) % 7 * 1000).astype("<i2")
OF_PLAIN = bytes.fromhex("0100000000001000800000aa00389b71")  # the name that WAVE_FORMAT_EXTENSIBLE has for plain samples


def wav(form=1, mark=b"RIFF", kind=b"WAVE", of=b"", rate=22_050):
    two = [form.to_bytes(2, "little"), (1).to_bytes(2, "little"), rate.to_bytes(4, "little"), (2 * rate).to_bytes(4, "little")]
    about = b"".join([*two, (2).to_bytes(2, "little"), (16).to_bytes(2, "little")])
    if of:
        about += (22).to_bytes(2, "little") + (16).to_bytes(2, "little") + (4).to_bytes(4, "little") + of
    data = SOUND.tobytes()
    return (mark + bytes(4) + kind + b"fmt " + len(about).to_bytes(4, "little") + about + b"data" + len(data).to_bytes(4, "little") + data)


def heard(content, rate=None):
    found, pieces = samples(io.BytesIO(content), rate, "a.wav")
    return found, (np.concatenate([np.zeros(0, np.float32), *pieces]) * 32768).astype("<i2")


@pytest.mark.parametrize("content, what", [
    (wav(kind=b"AVI "), "a RIFF file of another kind than WAVE"), (wav(mark=b"RF64"), "RF64"), (b"fLaC" + bytes(4000), "FLAC"),
    (b"OggS" + bytes(4000), "Ogg"), (b"ID3\4" + bytes(4000), "MP3"), (b"FORM\0\0\0\0AIFF" + bytes(4000), "AIFF"),
    (bytes(3) + b"\x20ftypM4A " + bytes(4000), "MP4"), (b"\x1aE\xdf\xa3" + bytes(4000), "Matroska or WebM"),
])  # fmt: skip
@pytest.mark.parametrize("rate", [None, 22_050])
def test_what_is_no_recording_of_samples_is_refused_whatever_rate_is_said(content, what, rate):
    """The message without a rate sent users to --rate, and with it the file was heard as noise."""
    with pytest.raises(DataError, match=f"a.wav is {what}, and no WAV file of plain samples: ffmpeg -i a.wav -ac 1 -c:a pcm_s16le"):
        samples(io.BytesIO(content), rate, "a.wav")


def test_a_header_of_the_extensible_kind_is_read_where_its_samples_are_plain():
    assert heard(wav(0xFFFE, of=OF_PLAIN))[0] == 22_050 and np.array_equal(heard(wav(0xFFFE, of=OF_PLAIN))[1], SOUND)
    for form, of in ((0xFFFE, b"\3" + OF_PLAIN[1:]), (0xFFFE, b""), (3, b"")):
        with pytest.raises(DataError, match="16-bit samples of one channel are read"):
            heard(wav(form, of=of))


def test_a_file_that_was_cut_is_heard_and_told(capsys):
    whole = wav(rate=1000)
    assert np.array_equal(heard(whole)[1], SOUND) and not capsys.readouterr().err
    assert np.array_equal(heard(whole[:-3000])[1], SOUND[:-1500])
    assert capsys.readouterr().err == ("proactivellm: a.wav ends 1.50 s before the samples that its header says; the rest is missing\n")


# -- the command -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options, says", [
    (["--audio", "a.wav", "--instruction", "x"], "--instruction has no use with --audio"), (["--rate", "8000"], "--rate has no use"),
    (["--audio", "a.wav", "--base", "x"], "--base has no use with --audio"), (["--task", "words"], "--task has no use without --audio"),
    (["--k", "2", "--head", "margin"], "leave out --head and --threshold, or --k"), (["--k", "2", "--threshold", "0.5"], "or --k"),
    (["--audio", ""], "cannot be opened"), (["--audio", "a.wav", "--question", "apple"], "writes down what is said, and cannot be asked"),
])  # fmt: skip
def test_options_without_a_use_are_told(options, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").write_bytes(wav())
    monkeypatch.setattr("sys.stdin", None)
    assert stream.main(["--checkpoint", str(WORDS), *options]) == 2
    told = capsys.readouterr()
    assert says in told.err and told.err.count("\n") == 1 and not told.out


@pytest.mark.parametrize("facts, says", [
    ({"data.task": "mt"}, "task 'mt' of the recordings 'espeak'; there is words, spoken of espeak, fsdd"),
    ({"data.bank": "elsewhere"}, "of the recordings 'elsewhere'"), ({"data.task": ["words"]}, r"task \['words'\]"),
])  # fmt: skip
def test_facts_of_another_task_or_bank_are_told(facts, says, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(WORDS, folder)
    (folder / "proactivellm.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=says):
        stream.open_listener(folder, None)


def test_a_model_of_fewer_words_than_its_bank_is_told(tmp_path, monkeypatch):
    """Of recorded digits, say, without the facts that say so: a question was an id without a row."""
    small = types.SimpleNamespace(get_input_embeddings=lambda: types.SimpleNamespace(num_embeddings=15),
                                  config=types.SimpleNamespace(hidden_size=64))
    folder = tmp_path / "m"
    shutil.copytree(WORDS, folder)
    monkeypatch.setattr("common.models.load", lambda spec: types.SimpleNamespace(model=small))
    width = json.loads((WORDS / "config.json").read_text())["hidden_size"]
    small.config.hidden_size = width
    with pytest.raises(ModelError, match="a model of 15 tokens, and the words of espeak take 29: these facts are of another model"):
        stream.open_listener(folder, "words")


def test_a_question_is_put_as_training_put_it():
    row = {"context": "A b.", "question": "Who won?", "answers": {"text": ["Ann"]}}
    facts = {"data.path": "rajpurkar/squad", "data.form": "squad"}
    assert stream.asked_of(facts, "Who won?") == FORMS["squad"](row, ())[2] == "Question: Who won?"
    assert stream.asked_of(facts, "Question: Who won?") == "Question: Who won?" and stream.asked_of(facts, "") == ""
    for plain in ({}, {"data.path": None, "data.form": "squad"}, {"data.path": "x", "data.form": "translation"}):
        assert stream.asked_of(plain, "Who won?") == "Who won?"
