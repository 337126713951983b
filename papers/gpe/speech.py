"""Audio as source tokens: a causal encoder from log-mel frames to the language model's embeddings.

A source token is a stack of frames (80 ms, say); the encoder sees it and a fixed number of tokens before it, never one
after it, so that encoding a recording whole and encoding it as it arrives give the same embeddings. A wait-k unit is a
chunk of several tokens. At paper scale the same place is taken by a pretrained streaming encoder (README, D7).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .segments import Batch


class AudioEncoder(nn.Module):
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

    def join(self, batch: Batch, embeddings: nn.Module) -> Tensor:
        """(B, S, width): embeddings of the source's ids, and of its frames where the id is -1."""
        text = embeddings(batch.source.clamp(min=0))
        return torch.where((batch.source < 0)[..., None], self(batch.features).to(text.dtype), text)
