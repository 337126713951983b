"""What the method is compared with while a text comes in: waiting for all of it, and thinking without a cursor.

Interleaved decoding, the paper's other baseline, is `common.streaming.batched.interleaved`; its delays are latency.py's two accounts.
"""

from __future__ import annotations

from collections.abc import Sequence

from .reasoner import Reasoner, Thought


class Batch(Reasoner):
    """Reads to the end, then writes every unit under all of it: the paper's Batch-S. start: behind the source, for contiguous positions."""

    whole = True

    def sight(self, reads: Sequence[int], unit: int) -> int:
        return reads[-1]


class Impatient(Reasoner):
    """No cursor: a unit sees whatever the reader has read by now. What it writes depends on who was faster."""

    def sight(self, reads: Sequence[int], unit: int) -> int:
        return reads[-1]


def same(one: Thought, other: Thought) -> bool:
    """Whether two thoughts have the same tokens."""
    return one.units == other.units and one.rest == other.rest
