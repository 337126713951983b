"""Spoken words: strings of them with known word ends, synthesised by espeak-ng or cut from real recordings.

    bank = espeak_bank()                      24 words by 16 voices, from the PyPI package espeakng-loader
    bank = fsdd_bank("train")                 digits by 6 people: the Free Spoken Digit Dataset of NINEFOLD_DATA
    u = utterance(bank, number=7, seed=0)     words in random order, pauses, a little noise; always the same
    x = log_mel(u.waveform, bank.rate)        frames that never look ahead

A bank holds recordings of single words; an utterance puts some of one speaker's together, so that the end of every word
is known to the sample. espeak-ng keeps state between calls, so that one word spoken twice differs in some samples; a bank
is therefore made by a fresh process, in a fixed order, once, and kept in the cache with its hash.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import random
import subprocess
import sys
import wave
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..files import cache_dir, data_file, replacing

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (*DIGITS, "apple", "bread", "candle", "dog", "forest", "garden", "house", "island", "money", "orange", "river",
         "silver", "table", "window")
LARGEST_RECORDING = 10_000_000  # bytes; ten minutes
# Voice, words a minute, pitch: sixteen speakers that differ to the ear and in their spectra.
SPEAKERS = tuple((f"en-us+{name}", 175 + 5 * (i % 4), 35 + 5 * (i % 7)) for i, name in enumerate(
    ("m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4", "m5", "f5", "m6", "m7", "Alex", "Annie", "Mike", "linda")))


@dataclass(frozen=True)
class Bank:
    """Recordings of single words. takes {(speaker, word): [float32 samples in -1 .. 1]}; rate in Hz; name for records."""

    name: str
    rate: int
    takes: dict[tuple[str, str], list[np.ndarray]]

    @property
    def speakers(self) -> list[str]:
        return sorted({speaker for speaker, _ in self.takes})

    @property
    def words(self) -> list[str]:
        return sorted({word for _, word in self.takes})

    def facts(self) -> dict:
        """For records: name, number of recordings, and the hash of all samples."""
        digest = hashlib.sha256()
        for name in sorted(self.takes):
            for take in self.takes[name]:
                digest.update(repr(name).encode() + take.astype("<f4").tobytes())
        return {"name": self.name, "recordings": sum(map(len, self.takes.values())), "sha256": digest.hexdigest()}


@dataclass(frozen=True)
class Utterance:
    """words in order; waveform float32; word_ends: when each word has been heard, ms."""

    words: list[str]
    waveform: np.ndarray
    word_ends: list[float]
    speaker: str
    rate: int


# -- espeak-ng ---------------------------------------------------------------------------------------------
class Espeak:
    """The synthesiser of the installed package espeakng-loader, through its shared library. One a process."""

    SYNCHRONOUS, UTF8, RATE, PITCH = 2, 1, 1, 3
    DONT_EXIT = 0x8000  # else a damaged data folder ends the whole process
    SEED = 1

    def __init__(self):
        try:
            import espeakng_loader
        except ImportError as error:
            raise DataError("synthesised speech needs the package espeakng-loader: pip install espeakng-loader") from error
        self.library = ctypes.cdll.LoadLibrary(espeakng_loader.get_library_path())
        self.variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
        self.rate = self.library.espeak_Initialize(self.SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(),
                                                 self.DONT_EXIT)
        if self.rate <= 0:
            raise DataError("espeak-ng did not start: its data folder is missing or damaged; install espeakng-loader again")
        self.samples: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = kind(self._take)  # kept: the library holds only its address
        self.library.espeak_SetSynthCallback(self.callback)
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(self.SEED))  # else breath and flutter start from the clock

    def _take(self, samples, count, events) -> int:
        if samples and count > 0:
            self.samples.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def say(self, text: str, voice: str, words_a_minute: int = 175, pitch: int = 50) -> np.ndarray:
        """Samples in -1 .. 1 at self.rate. Raises DataError for a voice that does not exist."""
        self.samples.clear()
        variant = voice.partition("+")[2]  # the library takes an unknown one for none and says nothing
        if (variant and not (self.variants / variant).is_file()) or self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {voice!r}")
        self.library.espeak_SetParameter(self.RATE, words_a_minute, 0)
        self.library.espeak_SetParameter(self.PITCH, pitch, 0)
        raw = text.encode()
        self.library.espeak_Synth(raw, len(raw) + 1, 0, 0, 0, self.UTF8, None, None)
        self.library.espeak_Synchronize()
        if not self.samples:
            raise DataError(f"espeak-ng says nothing for {text!r}")
        return np.concatenate(self.samples).astype(np.float32) / 32768


def trimmed(samples: np.ndarray, quiet: float = 0.01) -> np.ndarray:
    """Without the silence before and after."""
    loud = np.flatnonzero(np.abs(samples) > quiet * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


def espeak_bank(words: Sequence[str] = WORDS, speakers: Sequence[tuple[str, int, int]] = SPEAKERS) -> Bank:
    """Every word by every speaker, synthesised once and kept in the cache. Raises DataError without espeakng-loader."""
    recipe = json.dumps([words, speakers, _espeak_version(), Espeak.SEED])
    path = cache_dir().resolve() / f"espeak-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.npz"
    kept = _read_bank(path)
    if kept is None:
        made = subprocess.run([sys.executable, "-m", "common.data.speech", str(path)], input=recipe, text=True,
                              capture_output=True, cwd=Path(__file__).resolve().parents[2])
        if made.returncode or (kept := _read_bank(path)) is None:
            raise DataError(f"espeak-ng could not speak the word bank: {(made.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    rate, takes = kept
    return Bank(f"espeak-ng {_espeak_version()}", rate, takes)


def _read_bank(path: Path) -> tuple[int, dict] | None:
    """(rate, takes) of a bank in the cache; None where it is absent or damaged, by the checksums of its archive."""
    try:
        with np.load(path) as file:
            takes = {tuple(name.split("|")): [file[name].astype(np.float32) / 32768] for name in file.files if "|" in name}
            return int(file["rate"]), takes
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _espeak_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"espeakng-loader {version('espeakng-loader')}"
    except PackageNotFoundError as error:
        raise DataError("synthesised speech needs the package espeakng-loader: pip install espeakng-loader") from error


def _make_bank(path: Path, recipe: str) -> None:
    words, speakers, *_ = json.loads(recipe)
    espeak, arrays = Espeak(), {}
    for voice, speed, pitch in speakers:
        for word in words:
            samples = trimmed(espeak.say(word, voice, speed, pitch))
            arrays[f"{voice}|{word}"] = np.round(samples * 32767).astype(np.int16)
    with replacing(path) as file:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, rate=espeak.rate, **arrays)
        file.write(buffer.getvalue())


# -- Free Spoken Digit Dataset -----------------------------------------------------------------------------
def fsdd_bank(split: str = "train", data: str | Path | None = None) -> Bank:
    """Recordings <digit>_<speaker>_<index>.wav of speech/fsdd.zip: index 0-4 are "test", the rest "train", as its authors say.

    Raises DataError for a missing or damaged file.
    """
    if split not in ("train", "test"):
        raise ValueError(f"fsdd_bank: split {split!r} is neither train nor test")
    path, rate = data_file("speech/fsdd.zip", data), 8000
    takes: dict[tuple[str, str], list[np.ndarray]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(n for n in archive.namelist() if n.endswith(".wav")):
                digit, speaker, index = Path(name).stem.split("_")
                if digit not in tuple("0123456789"):
                    raise ValueError(f"{name} names no digit")
                if (int(index) < 5) != (split == "test"):
                    continue
                if archive.getinfo(name).file_size > LARGEST_RECORDING:
                    raise ValueError(f"{name} says that it holds {archive.getinfo(name).file_size} bytes; no spoken digit is that long")
                with wave.open(io.BytesIO(archive.read(name))) as sound:
                    if (sound.getframerate(), sound.getsampwidth(), sound.getnchannels()) != (rate, 2, 1):
                        raise DataError(f"{path.name}, {name}: not 8 kHz, 16 bit, one channel")
                    samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2")
                takes.setdefault((speaker, DIGITS[int(digit)]), []).append(trimmed(samples.astype(np.float32) / 32768))
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, wave.Error, EOFError) as error:
        if isinstance(error, DataError):  # a RuntimeError; and what zipfile raises for an encrypted file is one, too
            raise
        raise DataError(f"{path.name} is no archive of <digit>_<speaker>_<index>.wav recordings: "
                        f"{str(error) or 'a file ends early'}") from error
    if not takes:
        raise DataError(f"{path.name} holds no recordings")
    return Bank(f"FSDD, {split}", rate, takes)


# -- utterances and features -------------------------------------------------------------------------------
def utterance(bank: Bank, number: int, seed: int = 0, words: tuple[int, int] = (3, 7), pause_ms: tuple[int, int] = (20, 120),
              snr_db: tuple[float, float] = (15.0, 30.0)) -> Utterance:
    """Utterance `number` of an endless sequence: words of one speaker in random order, with pauses and white noise."""
    rng = random.Random(f"utterance {seed} {number}")
    speaker = rng.choice(bank.speakers)
    known = sorted(word for who, word in bank.takes if who == speaker)
    chosen = [rng.choice(known) for _ in range(rng.randint(*words))]
    pieces: list[np.ndarray] = []
    ends, at = [], 0

    def silence() -> None:
        nonlocal at
        pieces.append(np.zeros(bank.rate * rng.randint(*pause_ms) // 1000, dtype=np.float32))
        at += len(pieces[-1])

    silence()
    for word in chosen:
        take = rng.choice(bank.takes[speaker, word])
        pieces.append(take * (0.3 * rng.uniform(0.7, 1.3) / max(float(np.abs(take).max()), 1e-4)))
        at += len(take)
        ends.append(1000 * at / bank.rate)
        silence()
    clean = np.concatenate(pieces)
    power = float(np.mean(clean**2)) / 10 ** (rng.uniform(*snr_db) / 10)
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, np.sqrt(power), len(clean))
    return Utterance(chosen, (clean + noise).astype(np.float32), ends, speaker, bank.rate)


def log_mel(waveform: np.ndarray | Tensor, rate: int, n_mels: int = 40, frame_ms: int = 25, hop_ms: int = 20) -> Tensor:
    """Log-mel frames (frames, n_mels), float32: torch.stft, and mel filters of transformers.audio_utils, 60 Hz to rate / 2.

    Frame t covers the samples before (t + 1) hop_ms and none after (the recording is padded in front), so features of
    a recording that has not ended are those of the whole. Scaled by constants to about -1 .. 1, never by the recording's
    own mean, which would know its future. Raises ValueError where hop_ms is no whole number of samples: frames would drift.
    """
    from transformers.audio_utils import mel_filter_bank

    size, hop = rate * frame_ms // 1000, rate * hop_ms // 1000
    if 1000 * hop != rate * hop_ms or not 0 < hop <= size:
        raise ValueError(f"log_mel: a hop of {hop_ms} ms is {rate * hop_ms / 1000:g} samples at {rate} Hz, with frames of {size}; "
                         "it must be a whole number and at most a frame")
    n_fft = 1 << (size - 1).bit_length()
    samples = torch.as_tensor(np.asarray(waveform), dtype=torch.float32)
    frames = len(samples) // hop
    if frames == 0:
        return torch.zeros(0, n_mels)
    padded = torch.nn.functional.pad(samples[: frames * hop], (size - hop, 0))
    windows = padded.unfold(0, size, hop) * torch.hann_window(size)
    power = torch.fft.rfft(windows, n=n_fft).abs() ** 2
    filters = torch.as_tensor(mel_filter_bank(n_fft // 2 + 1, n_mels, 60.0, rate / 2, rate, norm=None, mel_scale="htk"),
                              dtype=torch.float32)
    return (torch.log10(power @ filters + 1e-6) + 1.0) / 4.0


def stacked(features: Tensor, stack: int) -> Tensor:
    """(tokens, stack x n_mels): `stack` frames a token, the last one filled up with silence."""
    missing = -len(features) % stack
    silence = torch.full((missing, features.shape[1]), (np.log10(1e-6) + 1.0) / 4.0)
    return torch.cat([features, silence]).reshape(-1, stack * features.shape[1])


if __name__ == "__main__":  # a process of its own makes a bank: see the head of this file
    _make_bank(Path(sys.argv[1]), sys.stdin.read())
