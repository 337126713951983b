"""Which tokens count, and realised rates: which share of the valid tokens skips each module, by layer and by position.

Sums stay on the device and are read once, at the end: counting costs no synchronisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RoutingStats:
    """Realised rates over valid tokens. per_layer (L, 2) and by_position (S, 2): columns attention, MLP skip.

    A position is a place among the new tokens of a forward pass: left padding and cached decoding shift it.
    """

    attn_skip: float
    mlp_skip: float
    per_layer: Tensor
    by_position: Tensor
    n_tokens: int

    @property
    def sparsity(self) -> float:
        """Module sparsity, the quantity that target_sparsity speaks of."""
        return (self.attn_skip + self.mlp_skip) / 2


class Recording:
    """Counts of one recording: skipped attention, skipped MLPs, valid tokens."""

    def __init__(self, layers: int):
        self.layers = layers
        self.by_layer: Tensor | None = None  # (L, 3), fp64
        self.by_position = torch.zeros(0, 3, dtype=torch.float64)  # (longest pass, 3)

    def add(self, index: int, g_attn: Tensor, g_mlp: Tensor, valid: Tensor) -> None:
        """The gates (B, S) of one layer in one forward pass; valid (B, S) is False at padding."""
        seq = g_attn.shape[1]
        if self.by_layer is None:
            self.by_layer = torch.zeros(self.layers, 3, dtype=torch.float64, device=valid.device)
        if len(self.by_position) < seq:
            longer = torch.zeros(seq, 3, dtype=torch.float64, device=valid.device)
            longer[: len(self.by_position)] = self.by_position
            self.by_position = longer
        skipped = torch.stack([(g_attn == 0) & valid, (g_mlp == 0) & valid, valid], -1).double()  # (B, S, 3)
        self.by_layer[index] += skipped.sum((0, 1))
        self.by_position[:seq] += skipped.sum(0)

    def stats(self) -> RoutingStats:
        """Raises RuntimeError if nothing was counted."""
        if self.by_layer is None:
            raise RuntimeError("no forward pass since start_recording(), or the mode was 'dense'")
        layer, position = self.by_layer.cpu(), self.by_position.cpu()
        total = layer.sum(0)
        return RoutingStats((total[0] / total[2]).item(), (total[1] / total[2]).item(), layer[:, :2] / layer[:, 2:],
                            position[:, :2] / position[:, 2:].clamp(min=1), int(layer[0, 2]))


def valid_tokens(mask, batch: int, seq: int, cache, device) -> Tensor:
    """(B, S), False for padding. A 2-D mask is that already; in a 4-D one (`generate` makes it for static caches)
    padding does not see itself. Without a mask every token counts."""
    if isinstance(mask, dict):  # one for each attention type of the model
        mask = mask.get("full_attention", next(iter(mask.values())))
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return mask[:, -seq:].bool()
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        return torch.ones(batch, seq, dtype=torch.bool, device=device)
    past = torch.as_tensor(0 if cache is None else cache.get_seq_length(), device=device)
    own = torch.arange(seq, device=device) + past.clamp(max=mask.shape[-1] - seq)
    seen = mask[:, 0].gather(-1, own.expand(len(mask), seq)[..., None])[..., 0]
    visible = seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2
    return visible.expand(batch, seq)
