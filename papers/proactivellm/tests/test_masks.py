"""The mask, and what each token sees, are what `common` makes from the same units."""

import torch

from common import masks

from .. import method
from ..data import batch_of
from .test_method import examples, paths


def test_mask_and_rows_are_commons():
    found = examples()
    batch, _ = batch_of(found, paths(found))
    for e, path, row in zip(found, paths(found), batch.visible):
        readable = [1 + phi for phi in (path[0], *path)]
        theirs = masks.visible_tokens(e.source_units, e.target_units, readable)
        assert torch.equal(row[: len(theirs)], theirs)
    n = batch.source.shape[1]
    assert torch.equal(method.streaming_mask(batch.visible, n, batch.source_lengths, batch.target_lengths),
                       masks.streaming_mask(batch.visible, n, batch.source_lengths, batch.target_lengths))
    assert method.group_positions(4, 3)[0].tolist() == masks.group_position_ids(4, 3).tolist()
