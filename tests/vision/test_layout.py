"""Layouts: positions, padding, targets that never cross an image, and the one rule of who sees whom."""

import pytest
import torch

from common.vision.layout import IGNORED, joint, packed, split, visibility
from tests.numerics import close, float64

IMAGE = 9


def test_split_by_hand():
    ids = torch.tensor([[1, 2, 9, 9, 3, 4, 0], [0, 0, 1, 5, 6, 7, 8]])
    real = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]])
    layout = split(ids, IMAGE, real, labels=ids)
    assert layout.ids.tolist() == [[1, 2, 3, 4, 0], [1, 5, 6, 7, 8]]
    assert layout.positions.tolist() == [[0, 1, 4, 5, 0], [0, 1, 2, 3, 4]]
    assert layout.real.tolist() == [[True] * 4 + [False], [True] * 5]
    assert layout.visual_positions.tolist() == [[2, 3], [0, 0]] and layout.visual_real.tolist() == [[True, True], [False, False]]
    # 2 stands before the picture, which it cannot see: it must not be trained on 3
    assert layout.targets.tolist() == [[2, IGNORED, 4, IGNORED, IGNORED], [5, 6, 7, 8, IGNORED]]


def test_padding_left_or_right_is_the_same_layout():
    rows = [[1, 9, 9, 3], [1, 2, 9, 9, 9, 9, 5, 6]]
    width, found = 10, []
    for side in (0, 1):
        ids, real = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.long)
        for i, row in enumerate(rows):
            start = (width - len(row)) * side
            ids[i, start : start + len(row)], real[i, start : start + len(row)] = torch.tensor(row), 1
        found.append(split(ids, IMAGE, real, labels=ids))
    for name in vars(found[0]):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name)), name


def test_padding_with_the_image_s_own_id_is_no_image():
    layout = split(torch.tensor([[1, 9, 2, 9]]), IMAGE, torch.tensor([[1, 1, 1, 0]]))
    assert layout.visual_positions.tolist() == [[1]]


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"labels is \(1, 2\), input_ids \(1, 3\)"):
        split(torch.ones(1, 3, dtype=torch.long), IMAGE, labels=torch.ones(1, 2, dtype=torch.long))


def test_visibility_of_segments_by_hand():
    """Prefix 0 1, picture 2 3, question a: 4 5, question b: 4; the last slot is padding."""
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 4, 0]])
    real = torch.tensor([[True] * 7 + [False]])
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 0]])
    seen = visibility(positions, real, segments)[0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0],
                    [1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 1]]


@pytest.mark.numerics
def test_joint_is_the_stock_sequence():
    """A stock decoder on the joint form gives what it gives on the sequence as it stands."""
    from common.models import load, tiny

    model = load(tiny()).model.double()
    ids = torch.tensor([[1, 5, 9, 9, 9, 7, 8]])
    layout, visual = split(ids, IMAGE), torch.randn(1, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    embeds, positions, mask, is_visual = joint(layout, model.get_input_embeddings()(layout.ids), visual)
    plain = model.get_input_embeddings()(ids)
    plain[0, 2:5] = visual[0]
    with torch.no_grad(), float64():
        ours = model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits[0]
        stock = model(inputs_embeds=plain).logits[0]
    assert is_visual[0].tolist() == [True] * 3 + [False] * 4
    close(ours, stock[[2, 3, 4, 0, 1, 5, 6]])


def test_packed_by_hand():
    layout = packed([1, 2], [[([5, 6], [IGNORED, 7]), ([8], [3])], [([4], [4])]], 3)
    assert layout.ids.tolist() == [[1, 2, 5, 6, 8], [1, 2, 4, 0, 0]]
    assert layout.positions.tolist() == [[0, 1, 5, 6, 5], [0, 1, 5, 0, 0]]
    assert layout.segments.tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 0, 0]]
    assert layout.targets.tolist() == [[IGNORED, IGNORED, IGNORED, 7, 3], [IGNORED, IGNORED, 4, IGNORED, IGNORED]]
    assert layout.visual_positions.tolist() == [[2, 3, 4]] * 2 and layout.real.sum(1).tolist() == [5, 3]
    assert layout.rows(torch.tensor([1])).ids.tolist() == [[1, 2, 4, 0, 0]]
    with pytest.raises(ValueError, match="row 0, text 1: 1 ids, 2 targets"):
        packed([1], [[([5], [1, 2])]], 2)
