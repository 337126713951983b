"""The live command: words through a pipe, samples through a file, and what it is told is taken up or refused."""

import io
import json
import wave

import numpy as np
import pytest
import torch

from common.models import load, tiny
from common.streaming.audio import CausalEncoder
from common.streaming.units import Template
from common.streaming.words import Boundary
from tests.open_pipe import open_pipe
from tests.small_tokenizers import tokenizer

from .. import baselines, stream
from ..session import Session
from ..tasks import CHUNK, FEATURES, Task


@pytest.fixture(scope="module")
def talker():
    words = tokenizer("qwen2")
    return load(tiny("qwen2", vocab_size=len(words), initializer_range=0.4, seed=3)).model, words


def told(talker, lines, policy=None, **more):
    out = io.StringIO()
    stream.answer(*talker, policy or baselines.WaitK(2), "answer", lines, out, max_units=5, **more)
    return out.getvalue()


# -- text --------------------------------------------------------------------------------------------------
def test_a_line_for_a_line_and_delays_behind_words(talker, capsys):
    text = told(talker, [iter("the cat sat on the mat".split()), iter([]), iter(["we"])], timing=True)
    lines = text.splitlines()
    assert len(lines) == 3 and lines[1].startswith(" (0 probes") and "taken back" in lines[0]
    delays = [int(part[1:-1]) for part in lines[0].split() if part.startswith("[")]
    assert delays == [min(2 + i, 6) for i in range(len(delays))] and delays
    assert "cut" in capsys.readouterr().err  # a random model ends nothing


def test_no_word_is_taken_before_the_head_asks_for_it(talker):
    """Wait-2: when the first word is written two are taken, the third only after it."""
    taken, seen = [], []

    def words():
        for word in "the cat sat on the mat".split():
            taken.append(word)
            yield word

    class Out(io.StringIO):
        def write(self, text):
            seen.append(len(taken))
            return super().write(text)

    stream.answer(*talker, baselines.WaitK(2), "answer", [words()], Out(), max_units=3)
    assert seen[:3] == [2, 3, 4]


def test_live_units_are_those_that_training_cuts(talker):
    """Fed in parts, the session reads the tokens of the whole text, and its rows see them."""
    model, words = talker
    template = Template.of(words, "answer")
    example = template.example("the cat sat", "a mat")
    parts = list(template.units(iter("the cat sat".split())))
    assert [len(p) for p in parts] == list(example.source_units[:-1])
    session = Session(model, baselines.Always(False), Boundary.of_tokenizer(words, template.stop), template.ids(template.opening))
    for part in parts:
        session.read(part)
    assert session.units_read == 3 and session.instruction == example.source_units[0]


def test_the_command_reads_a_pipe_and_a_folder(talker, tmp_path, monkeypatch, capsys):
    model, words = talker
    model.save_pretrained(tmp_path / "m")
    words.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "proactivellm.json").write_text(json.dumps({"data.instruction": "answer"}))
    with open_pipe() as (put, file):
        put(b"the cat sat\n")
        put(None)
        monkeypatch.setattr(stream.sys, "stdin", file)
        assert stream.main(["--checkpoint", str(tmp_path / "m"), "--head", "margin", "--threshold", "0.2", "--question", "who"]) == 0
    assert capsys.readouterr().out.endswith("\n")


def test_what_is_wrong_is_told_in_a_line(tmp_path, capsys):
    for options, says in ((["--threshold", "2"], "scores are 0 to 1"), (["--every", "0"], ""),
                          (["--audio", str(tmp_path / "none.wav")], "encoder.safetensors")):
        arguments = options if "--checkpoint" in options else ["--checkpoint", str(tmp_path), *options]
        assert stream.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("proactivellm stream: ") and says in error and error.count("\n") == 1


# -- audio -------------------------------------------------------------------------------------------------
RATE = 8000


def sound(seconds=1.3, seed=0):
    return (np.random.default_rng(seed).normal(0, 0.1, int(RATE * seconds)).clip(-1, 1) * 32767).astype("<i2")


def wav(path, samples, rate=RATE, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


@pytest.mark.parametrize("seconds", [0.2, 1.0, 1.3, 2.41])
def test_a_recording_heard_in_pieces_is_the_recording_encoded_whole(seconds):
    from common.data.speech import log_mel, stacked

    torch.manual_seed(0)
    encoder, samples = CausalEncoder(FEATURES, 16, 24), sound(seconds).astype(np.float32) / 32768
    frames = stacked(log_mel(samples, RATE), 4)
    pieces = (samples[i : i + 150] for i in range(0, len(samples), 150))
    units = list(stream.heard(encoder, RATE, pieces))
    with torch.no_grad():
        whole = encoder(frames)
    assert [len(u) for u in units] == [CHUNK] * (len(whole) // CHUNK) + ([len(whole) % CHUNK] if len(whole) % CHUNK else [])
    torch.testing.assert_close(torch.cat(units), whole, rtol=1e-4, atol=1e-5)


def test_wav_files_and_raw_samples(tmp_path):
    samples = sound()
    with open(wav(tmp_path / "a.wav", samples), "rb") as file:
        rate, pieces = stream.samples(file, None, "a.wav")
        whole = np.concatenate(list(pieces))
    assert rate == RATE and np.array_equal((whole * 32768).astype("<i2"), samples)
    raw = io.BytesIO(samples.tobytes())
    rate, pieces = stream.samples(raw, 16000, "raw")
    assert rate == 16000 and sum(map(len, pieces)) == len(samples)
    with pytest.raises(Exception, match="give --rate"):
        stream.samples(io.BytesIO(samples.tobytes()), None, "raw")
    with open(wav(tmp_path / "b.wav", samples, channels=2), "rb") as file, pytest.raises(Exception, match="2 channels"):
        stream.samples(file, None, "b.wav")
    with pytest.raises(Exception, match="ends before its samples"):
        stream.samples(io.BytesIO(b"RIFF1234WAVEfmt "), None, "c.wav")


def test_words_are_written_while_the_recording_goes_on(tmp_path, capsys):
    """By wait-2 of units of 240 ms: a random model's words, with when each was written."""
    from safetensors.torch import save_file

    task = Task("words")
    model = load(tiny(vocab_size=task.vocabulary, initializer_range=0.4)).model
    torch.manual_seed(1)
    encoder = CausalEncoder(FEATURES, model.config.hidden_size)
    model.save_pretrained(tmp_path / "m")
    save_file({n: t.contiguous() for n, t in encoder.state_dict().items()}, tmp_path / "m" / "encoder.safetensors")
    (tmp_path / "m" / "training.json").write_text(json.dumps({"task": "words"}))
    path = wav(tmp_path / "a.wav", sound(1.0))
    assert stream.main(["--checkpoint", str(tmp_path / "m"), "--audio", str(path), "--k", "2", "--show", "timing"]) == 0
    out = capsys.readouterr().out
    times = [float(part.split(" s]")[0]) for part in out.split("[")[1:]]
    assert times[:3] == [0.48, 0.72, 0.96] and "probes" in out
    assert stream.main(["--checkpoint", str(tmp_path / "m"), "--audio", str(path), "--task", "spoken", "--question", "zebra"]) == 2
    assert "--question 'zebra': a word of apple" in capsys.readouterr().err
