"""Where attention goes while a unit is written, and while the answer is: figures 4c-d in numbers, on gold traces of unseen stories.

Means over layers, heads and rows of the attention that falls on the source, the instruction left out:

    own, before    of a unit's rows, the share on its own sentence, and on the one before
    early          of the rows behind the last word, the share on the first half of the sentences, the question left out
"""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor

from common.data import stories
from common.runs.jobs import Job

from .. import method
from ..method import Segments
from ..standins import ARMS
from ..worded import segments_of
from . import arms

ASKED = ("batch", "batch spe", "streaming")
COUNT, ROWS = {"smoke": 3, "cpu": 100}, 20


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"attention/{arm}/seed{seed}", f"{__name__}:attention", {"arm": arm, "seed": seed, "size": size},
                arms.weights(seed, arm), 4)
            for seed in arms.seeds(size) for arm in ASKED]


@torch.no_grad()
def attention(arm: str, seed: int, size: str = "cpu") -> dict:
    """{"own", "before", "early": shares, "items"}."""
    of, told = ARMS[arm], [stories.totals(i, "test", seed) for i in range(COUNT[size])]
    model, _ = arms.model_of(seed, arm, arms.SIZES[size])
    model.set_attn_implementation("eager")  # sdpa keeps no map
    found: list[dict[str, float]] = []
    for at in range(0, len(told), ROWS):
        samples = [segments_of(story, 2) for story in told[at : at + ROWS]]
        batch = method.collate(samples, of.layout, of.positions, of.start)
        mask = method.for_attention(batch.mask, "eager", model.dtype)
        maps = model(input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions, use_cache=False,
                     output_attentions=True).attentions
        mean = torch.stack([m.mean(1) for m in maps]).mean(0)
        found += [shares(one[batch.n_source :, : batch.n_source], sample) for one, sample in zip(mean, samples)]
    return {name: fmean(row[name] for row in found) for name in found[0]} | {"items": len(found)}


def shares(attended: Tensor, sample: Segments) -> dict[str, float]:
    """Of one story. attended (T or more, S or more): of each target row, on each source token."""
    ends = torch.tensor(sample.source_lengths).cumsum(0).tolist()
    by_segment = torch.stack([attended[:, a:b].sum(1) for a, b in zip(ends, ends[1:])], 1)  # without the instruction
    by_segment = by_segment / by_segment.sum(1, keepdim=True)
    units = torch.arange(len(sample.target)).repeat_interleave(torch.tensor(sample.target_lengths))
    writes = torch.cat([units[1:], units[-1:]])  # the unit of the token that a row predicts
    n = by_segment.shape[1]
    rows = by_segment[: len(writes)]
    own = [rows[writes == u, u - 1].mean() for u in range(2, n + 1)]  # the question has none before it
    before = [rows[writes == u, u - 2].mean() for u in range(2, n + 1)]
    half = 1 + (n - 1) // 2
    deep = rows[writes == n + 1]
    early = deep[:, 1:half].sum(1) / deep[:, 1:].sum(1)
    return {"own": float(torch.stack(own).mean()), "before": float(torch.stack(before).mean()), "early": float(early.mean())}
