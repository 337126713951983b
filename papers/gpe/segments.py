"""Sentences as units of tokens, and batches of them with their read/write history.

    source   u_0 (instruction), u_1 .. u_n (words), u_{n+1} (end of the user's turn)
    target   v_0 (the assistant's opening), v_1 .. v_m (words), v_{m+1} (end)

`Example` holds one pair as token ids with the number of tokens of every unit; for speech the source holds frames of
features in place of ids. `Batch.of` pads examples, lets a wait-k policy decide what each target row sees, and gives the
`Layout` that method.py works on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.masks import visible_tokens, wait_k

from .method import Arm, Layout


@dataclass(frozen=True)
class Example:
    """One source and its target, in tokens.

    source: ids (S,); -1 where the token is a frame of `features` (S, F). source_units, target_units: tokens of
    u_0 .. u_{n+1} and of v_0 .. v_{m+1}. text: the source as a user wrote it; reference: the target.
    Raises ValueError when units and tokens do not add up.
    """

    source: Tensor
    source_units: tuple[int, ...]
    target: Tensor
    target_units: tuple[int, ...]
    text: str = ""
    reference: str = ""
    features: Tensor | None = None
    unit_ends: tuple[float, ...] = field(default=())  # speech: when each source unit has been heard, ms

    def __post_init__(self) -> None:
        for name, tokens, units in (("source", self.source, self.source_units),
                                    ("target", self.target, self.target_units)):
            if sum(units) != len(tokens) or len(units) < 2 or min(units) < 1:
                raise ValueError(f"example {self.text[:40]!r}: {name} has {len(tokens)} tokens in units {list(units)}; "
                                 "units must add up and none may be empty (the first is the prompt, the last the end)")

    @property
    def n_words(self) -> int:
        """Source units between the instruction and the end marker: |x| of the latency metrics."""
        return len(self.source_units) - 2

    def readable(self, k: int | None) -> Tensor:
        """Source units that v_0 .. v_{m+1} may see: u_0 and g(j); v_0 is written with the first word."""
        g = 1 + wait_k(k, len(self.source_units) - 1, len(self.target_units) - 1)
        return torch.cat([g[:1], g])

    @staticmethod
    def of_units(source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], **more) -> Example:
        """From lists of token ids, one list a unit."""
        return Example(torch.tensor([t for u in source for t in u]), tuple(map(len, source)),
                       torch.tensor([t for u in target for t in u]), tuple(map(len, target)), **more)


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
            readable = example.readable(k)
            seen = [visible_tokens(example.source_units, example.target_units, readable, shift) for shift in (True, False)]
            rows = torch.zeros(len(example.target), dtype=torch.bool)
            rows[example.target_units[0] :] = True
            length = len(example.source)
            if arm is not None and arm.refresh:
                unit = words[b]
                length = sum(example.source_units[: int(readable[unit])])
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
