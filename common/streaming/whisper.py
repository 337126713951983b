"""Whisper's encoder in chunks: what it says of a chunk of audio never depends on what is heard after it.

Whisper was trained on thirty seconds at once, and looks ahead in four places. Each is closed, and no weight is touched:

    frames        a frame of 25 ms ends where its 10 ms end, not 12.5 ms after their middle; loudness is held against the loudest frame
                  heard so far, not against that of the whole recording
    resampling    is delayed by half of its filter, a millisecond
    convolutions  a frame of nothing stands before the first one. State j then sees frames up to 2 j + 1, the last of its own 20 ms, so that
                  the stock convolutions leak nothing over the end of a chunk, and are cut nowhere
    attention     a state attends to its own chunk and to the chunks before it, all of them or `past` of them

Fed chunk by chunk (`step`) it gives what it gives of the whole (`forward`), as a test holds in double precision; and in one chunk as
long as the recording it is the stock encoder. What it costs not to look ahead, Whisper's own decoder tells: papers/proactivellm,
ONLY=whisper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.speech import Utterance
from .units import Example

RATE, HOP, WINDOW, MELS = 16_000, 160, 400, 80  # Hz, samples from a frame to the next, samples of one, its bands
FRAME_MS = 1000 * HOP // RATE
QUIETEST = -10.0  # log10 of the power that stands for none
RANGE = 8.0  # decades below the loudest that are told apart


# -- frames ------------------------------------------------------------------------------------------------
def resampled(waveform: np.ndarray, rate: int) -> np.ndarray:
    """At RATE. Sample n depends on nothing that comes after its time: the filter's half is waited for, at most 1.3 ms from 8 kHz up."""
    if rate == RATE:
        return np.asarray(waveform, dtype=np.float32)
    from scipy.signal import resample_poly

    common = math.gcd(RATE, rate)
    up, down = RATE // common, rate // common
    moved = resample_poly(np.asarray(waveform, dtype=np.float64), up, down)
    delay = -(-10 * max(up, down) // down)  # scipy's filter has 10 max(up, down) taps on each side, at up times the rate
    return np.concatenate([np.zeros(delay), moved])[: len(waveform) * up // down].astype(np.float32)


def log_mel(waveform: np.ndarray, rate: int) -> Tensor:
    """log10 of Whisper's mel bands, (frames, MELS), float32, not yet `scaled`. Frame t covers what was heard before (t + 1) 10 ms."""
    from transformers.audio_utils import mel_filter_bank

    samples = torch.from_numpy(resampled(waveform, rate))
    count = len(samples) // HOP
    if not count:
        return torch.zeros(0, MELS)
    windows = F.pad(samples[: count * HOP], (WINDOW - HOP, 0)).unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)
    filters = mel_filter_bank(WINDOW // 2 + 1, MELS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    power = torch.fft.rfft(windows).abs().square() @ torch.as_tensor(filters, dtype=torch.float32)
    return power.clamp(min=10**QUIETEST).log10()


def scaled(frames: Tensor, chunk: int) -> Tensor:
    """Frames (T, MELS) as Whisper has them, about -1 .. 1, but under the loudest number of the chunks so far. chunk: frames of one."""
    loudest = torch.stack([part.max() for part in frames.split(chunk)]).cummax(0).values if len(frames) else frames.new_zeros(0)
    floor = loudest.repeat_interleave(chunk)[: len(frames), None] - RANGE
    return (torch.maximum(frames, floor) + 4) / 4


def tokens_of(waveform: np.ndarray, rate: int, chunk: int, stack: int) -> Tensor:
    """(tokens, stack x MELS): scaled frames, `stack` of them a token, the last one filled up with silence."""
    frames = log_mel(waveform, rate)
    return scaled(F.pad(frames, (0, 0, 0, -len(frames) % stack), value=QUIETEST), chunk).reshape(-1, stack * MELS)


# -- the encoder -------------------------------------------------------------------------------------------
class Heard(NamedTuple):
    """What is kept between chunks. frames (B, mels, 2), convolved (B, d, 1): what the next convolutions still see. keys, values: of each
    layer (B, heads, n, d / heads). so_far: states."""

    frames: Tensor
    convolved: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    so_far: int


class ChunkedEncoder(nn.Module):
    """A stock WhisperEncoder (no copy) in chunks. chunk: mel frames of one, even; past: chunks before its own that a state attends to,
    None: all. Raises ValueError for an odd or empty chunk, and a past below 0."""

    def __init__(self, encoder: nn.Module, chunk: int, past: int | None = None):
        super().__init__()
        if chunk < 2 or chunk % 2 or (past is not None and past < 0):
            raise ValueError(f"a chunk of {chunk} frames, {past} before it: frames go in pairs, and a past cannot be less than none")
        self.encoder, self.chunk, self.past = encoder, chunk, past
        self.heads = encoder.config.encoder_attention_heads

    def begin(self, batch: int) -> Heard:
        """Before anything is heard: what stock convolutions are padded with, and the frame of nothing."""
        bias, width = self.encoder.conv1.bias, self.encoder.config.d_model
        empty = bias.new_zeros(batch, self.heads, 0, width // self.heads)
        layers = len(self.encoder.layers)
        return Heard(bias.new_zeros(batch, self.encoder.config.num_mel_bins, 2), bias.new_zeros(batch, width, 1), (empty,) * layers,
                     (empty,) * layers, 0)

    def step(self, frames: Tensor, heard: Heard) -> tuple[Tensor, Heard]:
        """The next chunk (B, T, mels), the last one perhaps shorter -> (states (B, T / 2, d), what is kept). ValueError: as `forward`."""
        if frames.shape[1] > self.chunk or 2 * heard.so_far % self.chunk:
            raise ValueError(f"{frames.shape[1]} frames behind {2 * heard.so_far}: chunks are of {self.chunk}, and only the last is "
                             "shorter")
        x, seen, convolved = self._convolved(frames, heard)
        keys, values = [], []
        oldest = None if self.past is None else self.past * self.chunk // 2  # states of the past that are attended to
        for layer, k, v in zip(self.encoder.layers, heard.keys, heard.values):
            cut = max(k.shape[2] - oldest, 0) if oldest is not None else 0
            x, k, v = self._layer(layer, x, None, k[:, :, cut:], v[:, :, cut:])
            keys.append(k)
            values.append(v)
        return self.encoder.layer_norm(x), Heard(seen, convolved, tuple(keys), tuple(values), heard.so_far + x.shape[1])

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames (B, T, mels), T even -> states (B, T / 2, d), 20 ms each. lengths (B,): frames that are no padding, None: all.

        Raises ValueError for an odd number of frames, and for more than the encoder has positions for (Whisper: 30 s).
        """
        heard = self.begin(len(frames))
        x, *_ = self._convolved(frames, heard)
        place = torch.arange(x.shape[1], device=x.device)
        of = place * 2 // self.chunk
        mask = of[:, None] >= of
        if self.past is not None:
            mask &= of[:, None] - of <= self.past
        mask = mask.expand(len(x), 1, -1, -1)
        if lengths is not None:
            mask = (mask & (2 * place < lengths[:, None, None, None])) | (place[:, None] == place)
        for layer, k, v in zip(self.encoder.layers, heard.keys, heard.values):
            x, *_ = self._layer(layer, x, mask, k, v)
        return self.encoder.layer_norm(x)

    def _convolved(self, frames: Tensor, heard: Heard) -> tuple[Tensor, Tensor, Tensor]:
        """(input of the first layer (B, T / 2, d), and the two things that the next convolutions see)."""
        of, count = self.encoder, frames.shape[1] // 2
        if frames.shape[1] % 2 or heard.so_far + count > of.config.max_source_positions:
            raise ValueError(f"{frames.shape[1]} frames behind {2 * heard.so_far}: this encoder takes them in pairs, and "
                             f"{2 * of.config.max_source_positions} at most")
        seen = torch.cat([heard.frames, frames.transpose(1, 2)], 2)
        once = torch.cat([heard.convolved, F.gelu(F.conv1d(seen, of.conv1.weight, of.conv1.bias))], 2)
        x = F.gelu(F.conv1d(once, of.conv2.weight, of.conv2.bias, stride=2)).transpose(1, 2)
        return x + of.embed_positions.weight[heard.so_far : heard.so_far + count], seen[:, :, -2:], once[:, :, -1:]

    def _layer(self, layer: nn.Module, x: Tensor, mask: Tensor | None, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """WhisperEncoderLayer, with keys and values of the past before its own."""
        def split(states: Tensor) -> Tensor:
            return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        own = layer.self_attn_layer_norm(x)
        attention = layer.self_attn
        keys = torch.cat([keys, split(attention.k_proj(own))], 2)
        values = torch.cat([values, split(attention.v_proj(own))], 2)
        seen = F.scaled_dot_product_attention(split(attention.q_proj(own)), keys, values, attn_mask=mask)
        x = x + attention.out_proj(seen.transpose(1, 2).flatten(2))
        return x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x)))), keys, values


# -- in front of a language model --------------------------------------------------------------------------
class Projector(nn.Module):
    """What is heard in a token, (..., n), -> an embedding (..., width). n: stacked states x d."""

    def __init__(self, n: int, width: int, hidden: int = 256):
        super().__init__()
        self.first, self.second = nn.Linear(n, hidden), nn.Linear(hidden, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(features.to(self.first.weight.dtype))))

    def join(self, source: Tensor, features: Tensor, embeddings: nn.Module) -> Tensor:
        """(B, S, width): embeddings of the ids in source (B, S), and of the states in features (B, S, n) where the id is -1."""
        text = embeddings(source.clamp(min=0))
        return torch.where((source < 0)[..., None], self(features).to(text.dtype), text)


def heard_example(spoken: Utterance, features: Tensor, before: Sequence[int], after: Sequence[int], target: Sequence[Sequence[int]],
                  token_ms: int, chunk_tokens: int) -> Example:
    """An utterance as source: ids `before` it, its features (tokens, n) in chunks, ids `after` it; target: ids of each target unit.

    As common/streaming/audio.py's `spoken_example`, whatever the features are. Raises ValueError for an empty prompt, end or unit.
    """
    n, width = features.shape
    chunks = [min(chunk_tokens, n - start) for start in range(0, n, chunk_tokens)]
    rows = torch.zeros(len(before) + n + len(after), width, dtype=features.dtype)
    rows[len(before) : len(before) + n] = features
    total = 1000 * len(spoken.waveform) / spoken.rate
    ends = [min(float(token_ms * min(chunk_tokens * (i + 1), n)), total) for i in range(len(chunks))]
    return Example(torch.tensor([*before, *[-1] * n, *after]), (len(before), *chunks, len(after)),
                   torch.tensor([t for unit in target for t in unit]), tuple(map(len, target)), text="", features=rows,
                   reference=" ".join(spoken.words), unit_ends=tuple(ends))
