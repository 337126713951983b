"""The live command: words through a pipe, samples through a file, and what it is told is taken up or refused."""

import io
import json
import shutil
import wave

import numpy as np
import pytest
import torch

from common.claims.machine import ROOT
from common.data.speech import SPEAKERS, espeak_bank
from common.errors import DataError
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


def test_an_answer_stays_on_its_line_whatever_breaks_the_model_writes(talker, monkeypatch):
    """The output's line i answers the input's line i."""
    words = [(talker[1](text)["input_ids"], read) for text, read in (("the\ncat", 1), (" sat\r\n", 2), (" on", 3))]
    monkeypatch.setattr(stream, "run", lambda *_: iter(words))
    assert told(talker, [iter(["a"]), iter(["b"])]) == 2 * "the cat sat   on\n"


def test_a_recording_from_a_closed_standard_input_is_refused(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        stream._opened("-")


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
    for options, says in ((["--threshold", "2"], "scores are 0 to 1"), (["--k", "inf"], "--k inf: a number of units"),
                          (["--k", "nan"], "--k nan"), (["--every", "0"], ""),
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
    with pytest.raises(Exception, match="ends before its samples"):  # and not: 0 bits
        stream.samples(io.BytesIO(b"RIFF1234WAVEfmt \x10\0\0\0\1\0\1\0"), None, "c.wav")


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
    path = wav(tmp_path / "a.wav", sound(22_050 / RATE), 22_050)
    assert stream.main(["--checkpoint", str(tmp_path / "m"), "--audio", str(path), "--k", "2", "--show", "timing"]) == 0
    out = capsys.readouterr().out
    times = [float(part.split(" s]")[0]) for part in out.split("[")[1:]]
    assert times[:3] == [0.48, 0.72, 0.96] and "probes" in out
    assert stream.main(["--checkpoint", str(tmp_path / "m"), "--audio", str(path), "--task", "spoken", "--question", "zebra"]) == 2
    assert "--question 'zebra': a word of apple" in capsys.readouterr().err
    assert stream.main(["--checkpoint", str(tmp_path / "m"), "--audio", str(path), "--every", "0"]) == 2
    assert "every = 0: a whole number, 1 or more" in capsys.readouterr().err
    asked = []
    for every in ("1", "3"):  # of a head that is never sure: a probe at units 1, 4 and the end
        never = ["--head", "max-prob", "--threshold", "1", "--every", every, "--show", "timing"]
        assert stream.main(["--checkpoint", str(tmp_path / "m"), "--audio", str(path), *never]) == 0
        asked.append(int(capsys.readouterr().out.rpartition("probes, ")[2].split(" taken back")[0]))
    assert asked == [5, 2]


@pytest.mark.parametrize("bank, learnt", [("espeak", 22_050), ("fsdd", 8_000)])
def test_a_recording_at_another_rate_than_the_models_is_refused(bank, learnt):
    """Its bands are of other pitches, and its words came out wrong without a word."""
    task = Task("words", bank=bank)
    stream.check_rate(task, learnt, "a.wav")
    for rate in (learnt - 50, 2 * learnt, 11_025, 16_000):
        with pytest.raises(DataError, match=rf"a\.wav: {rate:,} samples a second, and this model knows sound at {learnt:,}.*-ar {learnt} "):
            stream.check_rate(task, rate, "a.wav")


def test_the_rates_are_those_of_the_banks():
    assert espeak_bank(("one",), SPEAKERS[:1]).rate == stream.LEARNT["espeak"]


def test_the_command_refuses_the_rate_before_it_hears(tmp_path, capsys):
    there = ROOT / "papers/proactivellm/standins/words/seed0"
    assert stream.main(["--checkpoint", str(there), "--audio", str(wav(tmp_path / "a.wav", sound(1.0), 16_000))]) == 2
    told = capsys.readouterr()
    assert "a.wav: 16,000 samples a second, and this model knows sound at 22,050" in told.err and told.err.count("\n") == 1 and not told.out


def heard_of(path, rate=None):
    with open(path, "rb") as file:
        found, pieces = stream.samples(file, rate, path.name)
        return found, np.concatenate([np.zeros(0, np.float32), *pieces])


@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF])
def test_what_stands_behind_the_samples_of_a_file_is_not_heard(size, tmp_path):
    """A title or a picture; a file that is being written does not know its size, and goes to its end."""
    whole = bytearray(wav(tmp_path / "a.wav", sound(0.3)).read_bytes())
    (tmp_path / "b.wav").write_bytes(bytes(whole) + b"LIST" + (4000).to_bytes(4, "little") + b"\x7f" * 4000)
    assert np.array_equal(heard_of(tmp_path / "b.wav")[1], heard_of(tmp_path / "a.wav")[1])
    if size is not None:
        whole[40:44] = size.to_bytes(4, "little")
        (tmp_path / "c.wav").write_bytes(whole)
        assert np.array_equal(heard_of(tmp_path / "c.wav")[1], heard_of(tmp_path / "a.wav")[1])


@pytest.mark.parametrize("rate", [0, 1, 3, -8000, 10**12])
def test_rates_that_are_none_of_sound_are_refused(rate, tmp_path):
    (tmp_path / "raw").write_bytes(sound(0.2).tobytes())
    with pytest.raises(DataError, match=f"raw: {rate} samples a second; 1,000 to 384,000"):
        heard_of(tmp_path / "raw", rate)
    with pytest.raises(DataError, match="a.wav says 8000 samples a second, and --rate"):
        heard_of(wav(tmp_path / "a.wav", sound(0.2)), rate)
    if 0 <= rate < 2**31:
        with pytest.raises(DataError, match=f"b.wav: {rate} samples a second"):
            heard_of(wav(tmp_path / "b.wav", sound(0.2), max(rate, 1)) if rate else _no_rate(tmp_path))
    assert heard_of(tmp_path / "raw", 8000)[0] == heard_of(tmp_path / "a.wav", 8000)[0] == 8000


def _no_rate(folder):
    whole = bytearray(wav(folder / "b.wav", sound(0.2)).read_bytes())
    whole[24:28] = bytes(4)
    (folder / "b.wav").write_bytes(whole)
    return folder / "b.wav"


@pytest.mark.parametrize("spoil, said", [
    (lambda state: state.pop(next(iter(state))), "damaged, or of another model"),
    (lambda state: state.update({k: v[:1].clone() for k, v in list(state.items())[:1]}), "damaged, or of another model"),
    (lambda state: next(iter(state.values())).fill_(float("nan")), "holds NaN or infinity"), (None, "damaged, or of another model"),
])  # fmt: skip
def test_an_encoder_that_is_not_the_models_is_told_in_a_line(spoil, said, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    there, folder = ROOT / "papers/proactivellm/standins/words/seed0", tmp_path / "m"
    shutil.copytree(there, folder)
    state = load_file(there / "encoder.safetensors")
    if spoil is None:
        (folder / "encoder.safetensors").write_bytes(b"")
    else:
        spoil(state)
        save_file(state, folder / "encoder.safetensors")
    assert stream.main(["--checkpoint", str(folder), "--audio", str(wav(tmp_path / "a.wav", sound(0.2)))]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
