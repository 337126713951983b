"""Where text and visual tokens of a batch stand, as data, and the dense form that follows from it.

A LLaVA's `input_ids` hold the image token once per visual token. `split` takes the two apart: text tokens with the
positions that they have in the joint sequence, and the positions of the visual tokens. `joint` puts embeddings back
together for a stock decoder. One rule says who sees whom, here and wherever a method runs on a part of the sequence:

    query i sees key j  iff  j is real, position[j] <= position[i], and segment[j] is 0 or that of i.

Segments let several questions share one image in one row: each is a segment of its own whose positions begin behind
the image, so that every question sees exactly what it would see alone. Visual tokens and prefix have segment 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

IGNORED = -100


@dataclass
class Layout:
    """B rows of T text slots and N visual slots; padding may stand anywhere.

    ids (B, T): text tokens. positions (B, T), visual_positions (B, N): in the joint sequence. real (B, T),
    visual_real (B, N): False at padding. segments (B, T). targets (B, T): the token that a slot predicts, -100 where
    nothing is scored; shifted already, never across an image.
    """

    ids: Tensor
    positions: Tensor
    real: Tensor
    visual_positions: Tensor
    visual_real: Tensor
    segments: Tensor
    targets: Tensor

    def to(self, device) -> Layout:
        return Layout(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def rows(self, index) -> Layout:
        """The rows of an index, a slice or a mask."""
        return Layout(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def split(input_ids: Tensor, image_token_id: int, attention_mask: Tensor | None = None,
          labels: Tensor | None = None) -> Layout:
    """Layout of LLaVA-style ids (B, S), padded left or right; labels (B, S) as in transformers, not shifted.

    A label is the target of the slot before it if that slot holds a text token: the first token after an image has no
    text slot that sees the image before it, and is not scored. Padding slots get position 0.
    Raises ValueError for shapes that differ.
    """
    for name, other in (("attention_mask", attention_mask), ("labels", labels)):
        if other is not None and other.shape != input_ids.shape:
            raise ValueError(f"{name} is {tuple(other.shape)}, input_ids {tuple(input_ids.shape)}")
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    visual = real & (input_ids == image_token_id)
    text = real & ~visual
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    targets = torch.full_like(input_ids, IGNORED)
    if labels is not None:
        both = text[:, :-1] & text[:, 1:]
        targets[:, :-1] = torch.where(both, labels[:, 1:], targets[:, :-1])

    def packed(chosen: Tensor, values: Tensor, empty: int) -> Tensor:
        width = int(chosen.sum(1).max()) if chosen.numel() else 0
        order = (~chosen).int().argsort(dim=1, stable=True)[:, :width]
        return torch.where(chosen.gather(1, order), values.gather(1, order), empty)

    ones = torch.ones_like(input_ids)
    return Layout(ids=packed(text, input_ids, 0), positions=packed(text, positions, 0), real=packed(text, ones, 0).bool(),
                  visual_positions=packed(visual, positions, 0), visual_real=packed(visual, ones, 0).bool(),
                  segments=torch.zeros_like(packed(text, ones, 0)), targets=packed(text, targets, IGNORED))


def visibility(positions: Tensor, real: Tensor, segments: Tensor | None = None) -> Tensor:
    """(B, S, S) bool, [query, key], by the rule above. A padding query sees itself, so that its softmax is finite."""
    seen = real[:, None, :] & (positions[:, None, :] <= positions[:, :, None])
    if segments is not None:
        seen &= (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
    return seen | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """The form in which eager attention takes a mask (bool, True where a key is seen): 0, or the lowest number of the dtype of `like`."""
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill_(~mask, torch.finfo(like.dtype).min)


def joint(layout: Layout, text: Tensor, visual: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(embeddings (B, N + T, d), positions (B, N + T), mask (B, 1, N + T, N + T) bool, is_visual (B, N + T)).

    Slots stand as [visual ; text]: positions and mask carry the order. text (B, T, d), visual (B, N, d).
    """
    positions = torch.cat([layout.visual_positions, layout.positions], 1)
    real = torch.cat([layout.visual_real, layout.real], 1)
    segments = torch.cat([torch.zeros_like(layout.visual_positions), layout.segments], 1)
    is_visual = torch.cat([torch.ones_like(layout.visual_real), torch.zeros_like(layout.real)], 1)
    return torch.cat([visual, text], 1), positions, visibility(positions, real, segments)[:, None], is_visual


def packed(prefix: list[int], rows: list[list[tuple[list[int], list[int]]]], n_visual: int) -> Layout:
    """One picture a row and several texts about it, each a segment: (ids, targets) of equal length, as its slots see them.

    prefix: ids before the picture (same in all rows). Every text stands at position len(prefix) + n_visual and on.
    Raises ValueError for a text whose targets are not as many as its ids.
    """
    behind, width = len(prefix) + n_visual, len(prefix) + max(sum(len(ids) for ids, _ in row) for row in rows)
    parts = {name: torch.full((len(rows), width), empty) for name, empty in
             (("ids", 0), ("positions", 0), ("segments", 0), ("targets", IGNORED))}
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for b, row in enumerate(rows):
        ids, positions, segments, targets = list(prefix), list(range(len(prefix))), [0] * len(prefix), [IGNORED] * len(prefix)
        for number, (said, wanted) in enumerate(row, 1):
            if len(said) != len(wanted):
                raise ValueError(f"row {b}, text {number}: {len(said)} ids, {len(wanted)} targets")
            ids += said
            positions += range(behind, behind + len(said))
            segments += [number] * len(said)
            targets += wanted
        for name, values in (("ids", ids), ("positions", positions), ("segments", segments), ("targets", targets)):
            parts[name][b, : len(ids)] = torch.tensor(values)
        real[b, : len(ids)] = True
    where = torch.arange(len(prefix), behind).expand(len(rows), -1)
    return Layout(**parts, real=real, visual_positions=where, visual_real=torch.ones_like(where, dtype=torch.bool))
