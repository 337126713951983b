"""Many rows decoded at once: every token is the likeliest of one pass over the whole row under common's masks, and forced ones are told."""

import pytest
import torch

from common import masks
from common.models import load, tiny
from common.streaming.batched import Row, Written, decode, interleaved
from tests.numerics import float64

UNIT, STOP = 90, 91
HOW = dict(ends={UNIT}, boundary=UNIT, stop=STOP, unit_cap=5, rest_cap=6)
ROWS = [Row([[1, 2], [20, 21, 22], [23, 24]], [3, 4, 5], [7, 8], [9]), Row([[1, 2], [30]], [3, 4, 5], [7, 8], [9]),
        Row([[1, 2], [40, 41], [42], [43, 44, 45, 46], [47]], [3, 4, 5], [7, 8], [9])]


@pytest.fixture(scope="module")
def found():
    with float64():
        yield load(tiny("qwen3", vocab_size=96, initializer_range=0.6)).model.double()


def one_pass(model, row, written, visible, start):
    """(likeliest token of each row that predicts a chosen one, the chosen ones) of a whole row, source and target at once."""
    source = [*row.source, row.closing]
    target = [row.header, *written.units, [*row.cue, *written.rest]]
    ids = [t for side in (source, target) for unit in side for t in unit]
    n_source, n_target = (sum(map(len, side)) for side in (source, target))
    if visible == "units":
        seen = masks.visible_tokens([len(u) for u in source], [len(u) for u in target], masks.unit_by_unit(len(source), len(target)))
    else:
        seen = torch.full((n_target,), n_source)
    positions = masks.group_position_ids(n_source, n_target, n_source if start is None else start)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), attention_mask=masks.streaming_mask(seen, n_source), position_ids=positions[None],
                       use_cache=False).logits[0, n_source:]
    chosen = [False] * len(row.header) + [True] * sum(map(len, written.units)) + [False] * len(row.cue) + [True] * len(written.rest)
    at = [i for i, yes in enumerate(chosen) if yes]
    return logits[torch.tensor(at) - 1].argmax(-1).tolist(), [ids[n_source + i] for i in at]


@pytest.mark.numerics
@pytest.mark.parametrize("visible, start", [("units", 0), ("units", 30), ("all", None), ("all", 0)])
def test_every_token_is_the_likeliest_of_one_pass(found, visible, start):
    for row, written in zip(ROWS, decode(found, ROWS, visible=visible, start=start, **HOW)):
        likeliest, chosen = one_pass(found, row, written, visible, start)
        assert len(written.units) == len(row.source) - 1 and all(a == b or b == UNIT for a, b in zip(likeliest, chosen))
        assert sum(a == b for a, b in zip(likeliest, chosen)) >= len(chosen) - len(written.units)
        assert written.tokens == len(chosen) and all(unit[-1] == UNIT and len(unit) <= 5 for unit in written.units)


def test_interleaved_is_one_causal_text(found):
    for row, written in zip(ROWS, interleaved(found, ROWS, **HOW)):
        text, chosen = [*row.source[0], *row.header], []
        for source, unit in zip(row.source[1:], written.units):
            text += source
            chosen += range(len(text), len(text) + len(unit))
            text += unit
        text += [*row.closing, *row.cue]
        chosen += range(len(text), len(text) + len(written.rest))
        text += written.rest
        with torch.no_grad():
            logits = found(input_ids=torch.tensor([text]), use_cache=False).logits[0]
        likeliest = logits[torch.tensor(chosen) - 1].argmax(-1).tolist()
        assert all(a == text[i] or text[i] == UNIT for a, i in zip(likeliest, chosen))


def test_given_units_are_written_and_the_rest_follows_from_them(found):
    row = Row(ROWS[0].source, [3, 4, 5], [7, 8], [9], given=[50, UNIT, 51, 52, UNIT])
    written = decode(found, [row], **HOW)[0]
    assert written.units == [[50, UNIT], [51, 52, UNIT]]
    likeliest, chosen = one_pass(found, row, written, "units", 0)
    assert likeliest[5:] == chosen[5:]


@pytest.mark.parametrize("way", [decode, interleaved])
def test_where_nothing_is_asked_nothing_is_written(found, way):
    """Rows whose source is an instruction alone; the others are as without them, whatever their place."""
    empty = Row([[1, 2]], [3, 4, 5], [7, 8], [9])
    assert way(found, [], **HOW) == [] and way(found, [empty], **HOW) == [Written()]
    first, second = way(found, [ROWS[0], ROWS[2]], **HOW)
    assert way(found, [empty, ROWS[0], empty, ROWS[2]], **HOW) == [Written(), first, Written(), second]


def test_rows_that_do_not_go_together(found):
    with pytest.raises(ValueError, match=r"headers of \[1, 3\] tokens"):
        decode(found, [ROWS[0], Row([[1], [2]], [3])], **HOW)
    with pytest.raises(ValueError, match="visible 'half'"):
        decode(found, ROWS, visible="half", **HOW)
