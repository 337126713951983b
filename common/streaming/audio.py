"""Audio as source tokens: a causal encoder from log-mel frames to the language model's embeddings, and spoken examples.

A source token is a stack of frames (80 ms, say); the encoder sees it and a fixed number of tokens before it, never one
after it, so that encoding a recording whole and encoding it as it arrives give the same embeddings. A unit of reading is a
chunk of several tokens. At paper scale the same place is taken by a pretrained streaming encoder.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.speech import Bank, Utterance, log_mel, stacked, utterance
from .units import Example

FRAME_MS = 20  # from one log-mel frame to the next


class CausalEncoder(nn.Module):
    """features (..., S, n) -> embeddings (..., S, width): two causal convolutions over tokens, then a two-layer projector.

    n: numbers in a token (stacked frames x mel bands). context: tokens that one convolution sees, itself included.
    """

    def __init__(self, n: int, width: int, hidden: int = 128, context: int = 3):
        super().__init__()
        self.context = context
        self.first, self.second = nn.Conv1d(n, hidden, context), nn.Conv1d(hidden, hidden, context)
        self.norm = nn.LayerNorm(hidden)
        self.projector = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, features: Tensor) -> Tensor:
        x = features.reshape(-1, *features.shape[-2:]).transpose(1, 2)
        for layer in (self.first, self.second):
            y = F.gelu(layer(F.pad(x, (self.context - 1, 0))))
            x = y + x if y.shape == x.shape else y
        x = self.projector(self.norm(x.transpose(1, 2)))
        return x.reshape(*features.shape[:-1], x.shape[-1])

    def join(self, source: Tensor, features: Tensor, embeddings: nn.Module) -> Tensor:
        """(B, S, width): embeddings of the ids in source (B, S), and of the frames in features (B, S, n) where the id is -1."""
        text = embeddings(source.clamp(min=0))
        return torch.where((source < 0)[..., None], self(features).to(text.dtype), text)


def spoken_example(spoken: Utterance, before: Sequence[int], after: Sequence[int], target: Sequence[Sequence[int]],
                   stack: int = 4, chunk_tokens: int = 6) -> Example:
    """An utterance as source: ids `before` it (u_0: an instruction, a question), chunks of frames, ids `after` it (the end).

    target: ids of each target unit, v_0 .. v_{m+1}. stack: frames of 20 ms a source token; a unit is a chunk of chunk_tokens of
    them, the last one perhaps shorter. `unit_ends` of the example: ms heard at the end of each chunk.
    Raises ValueError for an empty prompt, end or target unit, and as `log_mel`.
    """
    frames = stacked(log_mel(spoken.waveform, spoken.rate, hop_ms=FRAME_MS), stack)
    n, width = frames.shape
    chunks = [min(chunk_tokens, n - start) for start in range(0, n, chunk_tokens)]
    features = torch.zeros(len(before) + n + len(after), width)
    features[len(before) : len(before) + n] = frames
    source = torch.tensor([*before, *[-1] * n, *after])
    total = 1000 * len(spoken.waveform) / spoken.rate
    ends = [min(float(FRAME_MS) * stack * heard, total) for heard in itertools.accumulate(chunks)]
    return Example(source, (len(before), *chunks, len(after)), torch.tensor([t for unit in target for t in unit]),
                   tuple(map(len, target)), text="", features=features, reference=" ".join(spoken.words), unit_ends=tuple(ends))


def spoken_examples(bank: Bank, numbers: Iterable[int], before: Sequence[int], after: Sequence[int],
                    target: Callable[[Utterance], Sequence[Sequence[int]]], seed: int = 0, stack: int = 4,
                    chunk_tokens: int = 6) -> list[Example]:
    """Utterances `numbers` of the bank's endless sequence (common/data/speech.py). target(utterance): ids of its target units."""
    spoken = (utterance(bank, number, seed) for number in numbers)
    return [spoken_example(each, before, after, target(each), stack, chunk_tokens) for each in spoken]
