"""common/streaming/audio.py: an encoder that hears nothing before its time, and utterances as examples."""

import numpy as np
import pytest
import torch
from torch import nn

from common.data import speech
from common.streaming.audio import CausalEncoder, spoken_example, spoken_examples
from tests.numerics import close, far, float64

pytestmark = pytest.mark.numerics


def encoder(n=6, width=5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CausalEncoder(n, width, hidden=8, context=3).double().eval()


@torch.no_grad()
def test_what_was_heard_is_encoded_as_in_the_whole_and_what_follows_changes_nothing():
    with float64():
        encode, features = encoder(), torch.randn(2, 11, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        whole = encode(features)
        assert whole.shape == (2, 11, 5)
        for heard in (1, 4, 10):
            close(encode(features[:, :heard]), whole[:, :heard])
            other = features.clone()
            other[:, heard:] += 1
            close(encode(other)[:, :heard], whole[:, :heard])
            far(encode(other)[:, heard], whole[:, heard])
        close(encode(features[0]), whole[0])  # any number of dimensions before


@torch.no_grad()
def test_a_token_is_heard_for_two_contexts():
    """Two convolutions of three tokens: token t reaches t .. t + 4."""
    encode, features = encoder(), torch.randn(12, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    other = features.clone()
    other[3] += 1
    moved = (encode(other) - encode(features)).abs().amax(-1) > 1e-12
    assert moved.nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7]


@torch.no_grad()
def test_frames_take_the_place_of_ids_below_zero():
    encode, table = encoder(), nn.Embedding(4, 5).double()
    features = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    joined = encode.join(torch.tensor([[2, -1, -1, 3]]), features, table)
    assert torch.equal(joined[0, [0, 3]], table(torch.tensor([2, 3]))) and torch.equal(joined[0, 1:3], encode(features)[0, 1:3])


def test_a_spoken_example_by_hand():
    """One second at 8 kHz: 50 frames of 20 ms, 4 a token: 13 tokens, 6 a chunk: 480 ms, 480 ms, and 40 ms and silence."""
    generator = np.random.default_rng(0)
    spoken = speech.Utterance(["one", "two"], generator.normal(size=8000).astype(np.float32), [400.0, 800.0], "a", 8000)
    example = spoken_example(spoken, [7, 8], [9], [[1], [2, 3], [4]])
    assert example.source.tolist() == [7, 8, *[-1] * 13, 9] and example.source_units == (2, 6, 6, 1, 1)
    assert example.unit_ends == (480.0, 960.0, 1000.0) and example.n_units == 3
    assert example.target.tolist() == [1, 2, 3, 4] and example.target_units == (1, 2, 1) and example.reference == "one two"
    frames = speech.stacked(speech.log_mel(spoken.waveform, 8000), 4)
    assert frames.shape == (13, 160) and torch.equal(example.features[2:15], frames)
    assert not example.features[:2].any() and not example.features[15].any()


def test_spoken_examples_are_the_numbered_utterances_of_the_bank():
    takes = {("a", word): [np.full(800 * (i + 1), 0.5, dtype=np.float32)] for i, word in enumerate(("one", "two"))}
    bank, ids = speech.Bank("tones", 8000, takes), {"one": 5, "two": 6}
    found = spoken_examples(bank, [4, 2], [1], [2], lambda spoken: [[3], *([ids[w]] for w in spoken.words), [4]], seed=1,
                            stack=2, chunk_tokens=3)
    for number, example in zip((4, 2), found, strict=True):
        spoken = speech.utterance(bank, number, 1)
        assert example.target.tolist() == [3, *(ids[w] for w in spoken.words), 4] and example.reference.split() == spoken.words
        assert set(example.source_units[1:-2]) <= {3} and example.features.shape[1] == 80
        assert sum(example.source_units[1:-1]) == -(-(len(spoken.waveform) * 1000 // 8000 // 20) // 2)
