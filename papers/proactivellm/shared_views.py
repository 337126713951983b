"""Both views of a batch from one pass over its source, for answers that are short beside it.

No source row sees the target, so the states of the source are the same in both views: the pass has rows `source | target | target`, the
first copy of the target sees the whole source, the second what its path shows, and neither sees the other. It is `method.two_views`
number by number, and its gradient too, for the price of one view and a target; a test holds them equal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .method import Batch, Views, as_attention_reads, logits_of, streaming_mask
from .probe import within


def mask_of(batch: Batch) -> Tensor:
    """Boolean (B, 1, S + 2 T, S + 2 T): source, the target with everything read, the target along its path."""
    n, t = batch.source.shape[1], batch.target.shape[1]
    whole = batch.source_lengths[:, None].expand_as(batch.visible)
    read, path = (streaming_mask(visible, n, batch.source_lengths, batch.target_lengths) for visible in (whole, batch.visible))
    mask = torch.zeros(len(batch.target), 1, n + 2 * t, n + 2 * t, dtype=torch.bool, device=read.device)
    mask[..., : n + t, : n + t] = read
    mask[..., n + t :, :n] = path[..., n:, :n]
    mask[..., n + t :, n + t :] = path[..., n:, n:]
    return mask


def views(model: nn.Module, batch: Batch) -> Views:
    """`method.two_views` in one pass. Raises ModelError for more columns than sliding layers see, or than there are positions."""
    n, t = batch.source.shape[1], batch.target.shape[1]
    within(model, n, 2 * t)
    places = [torch.arange(length, device=batch.target.device) for length in (n, t, t)]
    logits = logits_of(model, batch.source, torch.cat([batch.target, batch.target], 1), as_attention_reads(model, mask_of(batch)),
                       torch.cat(places)[None])
    return Views(*logits.chunk(2, 1))
