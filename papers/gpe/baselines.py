"""What GPE is compared with. Most of it is an arm of method.py, because a variant is a mask and a vector of ids.

    interleaved            one causal sequence in order of arrival: what a chat model does with a stream
    batch_streaming        batch-trained habits, ids frozen when written: the nearest to SimulMask on this harness
    position_reencoding    ids as in a batch at every moment: cached keys turned at each READ
    kv_reencoding          the whole target encoded again at each READ: the batch-trained model's own way, at its price
    contiguous             the same mask with contiguous ids, which only whoever knows the source's length can count
    no_..._positions       ids taken away from one stream or both
    interleaved_group, finished_...                        one of the three mismatches switched alone
    untuned                no-op: the batch-trained model, streamed as it is
    random                 the references of other sentences: fluent, grammatical, about something else

SimulMask, DST, CAAT and Wav2Vec-S themselves are systems of other frameworks and are not run (claim C8).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

LADDER = ("interleaved", "batch_streaming", "position_reencoding", "kv_reencoding", "group")
ABLATIONS = ("no_source_positions", "no_target_positions", "no_positions")
FACTORS = ("interleaved_group", "finished_frozen", "finished_group")


def of_other_sentences(references: Sequence[str], seed: int = 0) -> list[str]:
    """Every sentence gets another one's reference: what BLEU gives to text that has nothing to do with the source.

    Raises ValueError for fewer than two sentences.
    """
    if len(references) < 2:
        raise ValueError("of_other_sentences: needs two sentences or more")
    order = list(range(len(references)))
    random.Random(seed).shuffle(order)
    taken = dict(zip(order, order[1:] + order[:1]))  # one cycle: no sentence keeps its own
    return [references[taken[i]] for i in range(len(references))]
