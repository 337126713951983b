"""segments.py: a row sees what it should, and a word with its punctuation is one unit of reading and writing."""

import random

import pytest
import torch

from common.models import load, tiny
from common.streaming.units import Example, Template
from common.streaming.words import Boundary
from tests.small_tokenizers import tokenizer

from .. import method
from ..decoding import stream
from ..segments import Batch, readable
from ..session import Session, run

# Two tokens of opening and one of each word but the second of the source; k = 1.
SMALL = Example.of_units([[1, 1], [5], [6, 6], [2]], [[3, 3], [7, 7], [8], [4]])


# -- punctuation -------------------------------------------------------------------------------------------
def test_punctuation_belongs_to_its_word_two_reads_and_two_delays():
    """'Hello, world.' is two words: the released code reads four times for it and logs four delays."""
    t = Template.of(tokenizer("qwen2"), "Say it")
    boundary = Boundary.of_tokenizer(t.tokenizer, t.stop)
    model = load(tiny("llama", vocab_size=len(t.tokenizer))).model
    example = t.example("Hello, world.", "merci, monde.")
    out = stream(model, method.arm("group"), [example], boundary, 1, forced=True)[0]
    assert [t.tokenizer.decode(word).strip() for word in out.words] == ["merci,", "monde."] and out.delays == [1, 2]

    reads, written = [], iter(example.target[example.target_units[0] :].tolist())

    class Counting(Session):
        held = None

        def read(self, unit):
            reads.append(len(unit))
            super().read(unit)

        def _choose(self, logits, inside):  # a word that is dropped for a READ comes again after it
            token = next(written) if self.held is None or not self._must_open else self.held
            self.held, self._must_open = token, False
            return token

    session = Counting(model, method.arm("group"), boundary, t.ids(t.opening))
    words = list(run(session, t.units("Hello, world.".split()), t.ids(t.user_end), 1))
    assert [read for _, read in words] == [1, 2]
    assert reads == list(example.source_units)  # instruction, two words, the end


# -- batches ----------------------------------------------------------------------------------
@pytest.mark.parametrize("k, may_see, visible, written", [
    (1, [2, 2, 3, 4], [3, 3, 3, 5, 6, 6], [3, 3, 3, 3, 5, 6]),
    (2, [3, 3, 4, 4], [5, 5, 5, 6, 6, 6], [5, 5, 5, 5, 6, 6]),
    (99, [4] * 4, [6] * 6, [6] * 6), (None, [4] * 4, [6] * 6, [6] * 6),
])  # fmt: skip
def test_what_rows_see_by_hand(k, may_see, visible, written):
    """Source tokens up to unit 0, 1, 2, 3: 2, 3, 5, 6. Rows v0a v0b v1a v1b v2 v3 predict v0b v1a v1b v2 v3 -."""
    assert readable(SMALL, k).tolist() == may_see and SMALL.n_units == 2
    layout = Batch.of([SMALL], [k]).layout
    assert layout.visible[0].tolist() == visible and layout.written[0].tolist() == written


def test_a_batch_is_padded_behind_and_scores_words_and_end_only():
    short = Example.of_units([[1], [5], [2]], [[3], [7], [4]])
    batch = Batch.of([SMALL, short], [1, None])
    assert batch.source.tolist() == [[1, 1, 5, 6, 6, 2], [1, 5, 2, 0, 0, 0]]
    assert batch.target.tolist() == [[3, 3, 7, 7, 8, 4], [3, 7, 4, 0, 0, 0]]
    assert batch.scored.int().tolist() == [[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]]
    assert batch.layout.visible[1].tolist() == [3, 3, 3, 0, 0, 0]
    assert batch.layout.source_lengths.tolist() == [6, 3] and batch.layout.target_lengths.tolist() == [6, 3]
    moved = batch.to("cpu")
    assert torch.equal(moved.layout.visible, batch.layout.visible) and moved.layout.n_source == 6


def test_a_batch_for_kv_re_encoding_is_cut_at_what_was_read():
    batch = Batch.of([SMALL, SMALL], [1, 1], method.arm("kv_reencoding"), [1, 2])
    assert batch.source.tolist() == [[1, 1, 5, 0, 0], [1, 1, 5, 6, 6]] and batch.layout.source_lengths.tolist() == [3, 5]
    assert batch.scored.int().tolist() == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert batch.layout.visible.tolist() == [[3] * 6, [5] * 6]


def test_a_long_mask_is_its_definition_row_by_row_and_the_same_twice():
    """At 2,048 tokens the official code's shift of mask rows overwrites what it still has to read."""
    draw = random.Random(4)
    source, target = ([[1] * draw.randint(1, 3) for _ in range(512)] for _ in range(2))
    example = Example.of_units(source, target)
    batch, k = Batch.of([example], [3]), 3
    mask = method.attention_mask(method.arm("group"), batch.layout)[0, 0]
    assert mask.shape[0] > 2000 and torch.equal(mask, method.attention_mask(method.arm("group"), Batch.of([example], [3]).layout)[0, 0])
    n, unit_of = len(example.source), [j for j, unit in enumerate(target) for _ in unit]
    ends = torch.tensor(example.source_units).cumsum(0).tolist()
    for row in range(n):
        assert mask[row].nonzero()[:, 0].tolist() == list(range(row + 1))
    for t, unit in enumerate(unit_of):
        predicts = unit_of[t + 1] if t + 1 < len(unit_of) else unit
        seen = ends[min(k + max(predicts, 1) - 1, 511)]
        assert mask[n + t].nonzero()[:, 0].tolist() == [*range(seen), *range(n, n + t + 1)]
