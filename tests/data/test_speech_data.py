"""common/data/speech.py: what is spoken is said once and the same, and features never look ahead."""

import importlib.util
import io
import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data import speech
from common.errors import DataError
from tests.numerics import close, float64

ROOT = Path(__file__).resolve().parents[2]
needs_espeak = pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed")
FEW = dict(words=("seven", "house"), speakers=(("en-us+m1", 175, 40), ("en-us+f2", 185, 55)))


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NINEFOLD_CACHE", str(tmp_path_factory.mktemp("first")))
        return speech.espeak_bank(**FEW)


def tones():
    """A bank without a synthesiser: every word a tone of its own length."""
    takes = {}
    for s, speaker in enumerate(("a", "b")):
        for w, word in enumerate(("one", "two", "three")):
            t = np.arange(800 * (w + 1)) / 8000
            takes[speaker, word] = [np.sin(2 * np.pi * (300 + 100 * w + 37 * s) * t).astype(np.float32)]
    return speech.Bank("tones", 8000, takes)


@needs_espeak
def test_a_bank_is_the_same_in_another_process_and_another_cache(bank, tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "second"))
    again = speech.espeak_bank(**FEW)
    assert bank.takes.keys() == again.takes.keys() and len(bank.takes) == 4
    for name in bank.takes:
        assert np.array_equal(bank.takes[name][0], again.takes[name][0])


@needs_espeak
def test_a_relative_cache_is_the_callers_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NINEFOLD_CACHE", "cache")
    assert len(speech.espeak_bank(("one",), FEW["speakers"][:1]).takes) == 1
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npz"]


@needs_espeak
def test_damaged_speech_data_ends_no_process(tmp_path):
    code = (f"import espeakng_loader; espeakng_loader.get_data_path = lambda: {str(tmp_path)!r}\n"
            "from common.data.speech import Espeak; Espeak()")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "DataError: espeak-ng did not start" in done.stderr


@needs_espeak
def test_words_and_voices_differ_and_are_of_a_words_length(bank):
    lengths = {name: len(takes[0]) / bank.rate for name, takes in bank.takes.items()}
    assert all(0.2 < seconds < 0.8 for seconds in lengths.values()), lengths
    seven, house = (bank.takes["en-us+m1", word][0] for word in ("seven", "house"))
    n = min(len(seven), len(house))
    assert np.abs(seven[:n] - house[:n]).mean() > 0.01
    other = bank.takes["en-us+f2", "seven"][0]
    n = min(len(seven), len(other))
    assert np.abs(seven[:n] - other[:n]).mean() > 0.01


@needs_espeak
def test_a_voice_that_does_not_exist_is_named():
    code = "from common.data.speech import Espeak; Espeak().say('a', 'en-us+nobody-at-all')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "no voice 'en-us+nobody-at-all'" in done.stderr


def test_an_utterance_is_a_function_of_seed_and_number_and_knows_its_word_ends():
    bank = tones()
    a, b = speech.utterance(bank, 3, seed=5), speech.utterance(bank, 3, seed=5)
    assert a.words == b.words and np.array_equal(a.waveform, b.waveform)
    assert any(speech.utterance(bank, i, seed=5).words != a.words for i in range(4, 8))
    assert not np.array_equal(speech.utterance(bank, 3, seed=6).waveform[:500], a.waveform[:500])
    assert len(a.words) == len(a.word_ends) and 3 <= len(a.words) <= 7
    assert a.word_ends == sorted(a.word_ends) and a.word_ends[-1] < 1000 * len(a.waveform) / bank.rate
    quiet = speech.utterance(bank, 3, seed=5, snr_db=(200.0, 200.0))  # after a word's end there is a pause
    for end in quiet.word_ends:
        at = round(end * bank.rate / 1000)
        assert np.abs(quiet.waveform[at + 1 : at + 80]).max() < 1e-4 < np.abs(quiet.waveform[at - 100 : at]).max()


@pytest.mark.numerics
@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_features_of_what_was_heard_do_not_change_with_what_follows(rate):
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(rate, generator=generator)
    whole, hop = speech.log_mel(samples, rate), rate * 20 // 1000
    assert whole.shape == (len(samples) // hop, 40)
    for heard in (1, 7, 30):
        other = samples.clone()
        other[heard * hop :] = 0
        changed = speech.log_mel(other, rate)
        assert torch.equal(whole[:heard], changed[:heard])
        assert not torch.equal(whole[heard], changed[heard])
        with float64():
            close(speech.log_mel(samples[: heard * hop], rate), speech.log_mel(samples, rate)[:heard])
    assert speech.log_mel(samples[: hop - 1], rate).shape == (0, 40)


def test_a_tone_is_loudest_in_the_band_of_its_frequency():
    rate = 16000
    t = np.arange(rate) / rate
    low, high = (speech.log_mel(np.sin(2 * np.pi * f * t).astype(np.float32), rate)[20].argmax() for f in (300, 3000))
    assert 2 <= low < 12 < 20 < high < 35


def test_stacking_fills_the_last_token_with_silence():
    frames = torch.arange(10.0).reshape(5, 2)
    stacked = speech.stacked(frames, 2)
    assert stacked.shape == (3, 4)
    assert stacked[:2].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and stacked[2, :2].tolist() == [8, 9]
    assert stacked[2, 2:].tolist() == pytest.approx([-1.25, -1.25])  # what log_mel gives for digital silence
    assert speech.log_mel(np.zeros(4000, dtype=np.float32), 8000)[0].tolist() == pytest.approx([-1.25] * 40)


def fsdd(folder, names=("7_jo_0.wav", "7_jo_5.wav", "3_al_12.wav"), rate=8000, channels=1):
    (folder / "speech").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "speech" / "fsdd.zip", "w") as archive:
        for i, name in enumerate(names):
            raw = io.BytesIO()
            with wave.open(raw, "wb") as sound:
                sound.setparams((channels, 2, rate, 0, "NONE", ""))
                sound.writeframes((np.full(400 * channels, 1000 * (i + 1))).astype("<i2").tobytes())
            archive.writestr(f"recordings/{name}", raw.getvalue())
    return folder


def test_recorded_digits_are_split_as_their_authors_say(tmp_path):
    fsdd(tmp_path)
    train, test = (speech.fsdd_bank(split, tmp_path) for split in ("train", "test"))
    assert set(train.takes) == {("jo", "seven"), ("al", "three")} and set(test.takes) == {("jo", "seven")}
    assert train.takes["al", "three"][0].max() == pytest.approx(3000 / 32768)
    assert train.rate == 8000 and train.name == "FSDD, train"


def test_recordings_that_are_missing_or_wrong_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("NINEFOLD_DATA", raising=False)
    with pytest.raises(DataError, match="set NINEFOLD_DATA"):
        speech.fsdd_bank("train")
    with pytest.raises(DataError, match=r"speech/fsdd\.zip"):
        speech.fsdd_bank("train", tmp_path)
    with pytest.raises(DataError, match="not 8 kHz"):
        speech.fsdd_bank("train", fsdd(tmp_path, rate=16000))
    with pytest.raises(DataError, match="no archive of"):
        speech.fsdd_bank("train", fsdd(tmp_path, names=("seven.wav",)))
    (tmp_path / "speech" / "fsdd.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="no archive of"):
        speech.fsdd_bank("train", tmp_path)
    with pytest.raises(ValueError, match="neither train nor test"):
        speech.fsdd_bank("dev", tmp_path)
    with zipfile.ZipFile(tmp_path / "speech" / "fsdd.zip", "w") as archive:
        archive.writestr("recordings/7_jo_5.wav", b"RIFF")
    with pytest.raises(DataError, match="ends early"):
        speech.fsdd_bank("train", tmp_path)
    with pytest.raises(DataError, match="12_jo_5.wav names no digit"):
        speech.fsdd_bank("train", fsdd(tmp_path, names=("12_jo_5.wav",)))


def test_a_hop_between_samples_is_refused():
    with pytest.raises(ValueError, match="10 ms is 220.5 samples at 22050 Hz"):
        speech.log_mel(np.zeros(4410, dtype=np.float32), 22050, hop_ms=10)
