"""Batches of sentence pairs with their read/write history.

A pair is an `Example` of common/streaming/units.py: a source of units u_0 (instruction), u_1 .. u_n (words), u_{n+1} (end of
the user's turn) and a target of units v_0 (the assistant's opening), v_1 .. v_m (words), v_{m+1} (end). `readable` lets
wait-k decide how much source each target unit sees; `Batch.of` pads examples and gives the `Layout` that method.py works on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.masks import visible_tokens, wait_k
from common.streaming.units import Example

from .method import Arm, Layout


def readable(example: Example, k: int | None) -> Tensor:
    """Source units that v_0 .. v_{m+1} may see, int64 (m + 2,): u_0 and g(j) more; v_0 is written with the first word."""
    g = 1 + wait_k(k, len(example.source_units) - 1, len(example.target_units) - 1)
    return torch.cat([g[:1], g])


@dataclass
class Batch:
    """Padded examples. source, target (B, S), (B, T) ids; scored (B, T): words and end, not the opening, not padding."""

    source: Tensor
    target: Tensor
    scored: Tensor
    layout: Layout
    features: Tensor | None = None

    @staticmethod
    def of(examples: Sequence[Example], ks: Sequence[int | None], arm: Arm | None = None,
           words: Sequence[int] | None = None) -> Batch:
        """ks: wait-k of each example, None for batch processing.

        An arm that refreshes (KV re-encoding) is trained on what its decoder sees: the source read so far as if it were
        all, and one target word, number words[b] >= 1 (v_1, ...), to predict.
        """
        visible, written, lengths, scored = [], [], [], []
        for b, (example, k) in enumerate(zip(examples, ks, strict=True)):
            path = readable(example, k)
            seen = [visible_tokens(example.source_units, example.target_units, path, shift) for shift in (True, False)]
            rows = torch.zeros(len(example.target), dtype=torch.bool)
            rows[example.target_units[0] :] = True
            length = len(example.source)
            if arm is not None and arm.refresh:
                unit = words[b]
                length = sum(example.source_units[: int(path[unit])])
                first = sum(example.target_units[:unit])
                rows[:first] = False
                rows[first + example.target_units[unit] :] = False
                seen = [torch.full_like(v, length) for v in seen]
            visible.append(seen[0])
            written.append(seen[1])
            lengths.append(length)
            scored.append(rows)
        source = [example.source[:n] for example, n in zip(examples, lengths)]
        layout = Layout(_pad(visible), _pad(written), torch.tensor(lengths),
                        torch.tensor([len(e.target) for e in examples]), max(lengths))
        features = None
        if any(e.features is not None for e in examples):
            features = _pad([e.features[:n] for e, n in zip(examples, lengths)])
        return Batch(_pad(source), _pad([e.target for e in examples]), _pad(scored), layout, features)

    def to(self, device) -> Batch:
        moved = {name: value if value is None else value.to(device) for name, value in
                 (("source", self.source), ("target", self.target), ("scored", self.scored), ("features", self.features))}
        layout = Layout(*(part.to(device) if isinstance(part, Tensor) else part for part in self.layout))
        return Batch(layout=layout, **moved)


def _pad(rows: Sequence[Tensor]) -> Tensor:
    """Stacked with zeros behind the shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
