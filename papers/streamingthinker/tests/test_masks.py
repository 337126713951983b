"""The mask and the positions are those that `common` makes from the same units."""

import torch

from common import masks

from ..method import collate
from .test_method import CLOSED, FIRST, FIXTURE, SHORT


def test_the_mask_is_common_s():
    for samples in ([CLOSED], [SHORT, FIXTURE, FIRST]):
        batch = collate(samples)
        lengths = [torch.tensor([sum(map(len, getattr(s, side))) for s in samples]) for side in ("source", "target")]
        visible = torch.zeros(len(samples), int(lengths[1].max()), dtype=torch.long)
        for row, s in zip(visible, samples):
            readable = masks.unit_by_unit(len(s.source), len(s.target))
            w = masks.visible_tokens(s.source_lengths, s.target_lengths, readable)
            row[: len(w)] = w
        common = masks.streaming_mask(visible, batch.n_source, *lengths)
        for i, (s, t) in enumerate(zip(*lengths)):
            real = torch.cat([torch.arange(s), batch.n_source + torch.arange(t)])
            assert torch.equal(batch.mask[i, 0, real], common[i, 0, real])  # what a padding row sees is nobody's business
            assert torch.equal(batch.positions[i, real], masks.group_position_ids(int(s), int(t)))
