"""Tier A's language: sequences in which it is known what each token takes to predict; and the models that know it.

Three kinds of segment: *cycle* tokens follow from the one before, so that
attention is wasted on them; *recall* tokens are bound earlier in the sequence, so that without
attention they are a guess; *triples* add two numbers, too hard for a model this small. A router
that looks at tokens should treat them differently, and whether it does can be counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.files import cache_dir
from common.seeds import seed_of

KINDS = {"other": 0, "cycle": 1, "recall": 2, "recall_new": 3, "triple": 4}
VOCABULARY = 37  # 16 cycle symbols, 8 keys, 8 values, 5 residues
BASES = Path(__file__).parent / "standins"  # a model of six layers for each seed, trained by standins.py
LENGTH = 64  # tokens of a sequence, in training and in tests
FIRST = {"base": 0, "tune": 1_000_000, "recovery": 2_000_000, "calibration": 3_000_000, "test": 4_000_000,
         "validation": 5_000_000}  # number of a split's first one


def token_difficulty(count: int, length: int = 64, *, seed: int = 0,
                     first: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences first … first + count - 1 -> (input_ids, kinds), both (count, length) int64.

    Segments follow each other until the sequence is full:
      cycle   (probability .28)  c, c+1, … mod 16, random start, 4 to 7 tokens: the token before
                                 is enough to predict the next
      recall  (.27)              key, value. A key keeps its value within a sequence; one seen
                                 before is chosen with probability .8, else any of the 8
      triple  (.45)              x, y, x + y mod 5
    kinds[n, t] is what it takes to predict token t: "cycle" for the second and later tokens of a
    run, "recall" for the value of a key seen before, "recall_new" for that of a new key (a guess),
    "triple" for the sum, "other" for everything else and for position 0. Sequence i is a function
    of (seed, i) and of nothing else; a longer sequence begins with the shorter one.
    """
    segments = length // 2 + 1  # the shortest segment has two tokens
    generator, draws = torch.Generator(), np.empty((count, 8 + 4 * segments))
    for n in range(count):
        generator.manual_seed(seed_of("difficulty", seed, first + n))
        draws[n] = torch.rand(draws.shape[1], generator=generator, dtype=torch.float64).numpy()
    values = 24 + (draws[:, :8] * 8).astype(np.int64)  # (count, 8): the value of each key
    draws = draws[:, 8:].reshape(count, segments, 4)

    ids = np.zeros((count, length + 8), dtype=np.int64)  # the last segment may run over the end
    kinds, at = np.zeros_like(ids), np.zeros(count, dtype=np.int64)
    seen = np.zeros((count, 8), dtype=bool)
    for s in range(segments):
        which, a, b, c = draws[:, s].T
        which = np.where(at < length, which, 2.0)  # 2: this sequence is full
        cycle, recall, triple = which < 0.28, (which >= 0.28) & (which < 0.55), which < 1
        triple &= which >= 0.55

        rows, run = np.flatnonzero(cycle), 4 + (b * 4).astype(np.int64)
        for step in range(7):
            rows = rows[run[rows] > step]
            ids[rows, at[rows] + step] = ((a[rows] * 16).astype(np.int64) + step) % 16
            kinds[rows, at[rows] + step] = KINDS["cycle"] if step else KINDS["other"]

        rows, known = np.flatnonzero(recall), seen.sum(1)
        rank = (c * known).astype(np.int64)  # take the rank-th of the keys seen so far
        old = (np.cumsum(seen, 1) == (rank + 1)[:, None]).argmax(1)
        key = np.where((known > 0) & (a < 0.8), old, (b * 8).astype(np.int64))[rows]
        ids[rows, at[rows]], ids[rows, at[rows] + 1] = 16 + key, values[rows, key]
        kind = np.where(seen[rows, key], KINDS["recall"], KINDS["recall_new"])
        kinds[rows, at[rows] + 1] = kind
        seen[rows, key] = True

        rows, x, y = np.flatnonzero(triple), (a * 5).astype(np.int64), (b * 5).astype(np.int64)
        for step, value in enumerate((x, y, (x + y) % 5)):
            ids[rows, at[rows] + step] = 32 + value[rows]
        kinds[rows, at[rows] + 2] = KINDS["triple"]
        at += np.select([cycle, recall, triple], [run, 2, 3], 0)
    return (torch.from_numpy(ids[:, :length].copy()), torch.from_numpy(kinds[:, :length].copy()))


@functools.lru_cache(maxsize=4)
def sequences(split: str, seed: int, count: int, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Token ids and kinds, each (count, length). Splits are disjoint ranges of the seed's endless stream."""
    return token_difficulty(count, length, seed=seed, first=FIRST[split])


def batches(split: str, seed: int, steps: int, batch: int) -> Callable[[int], Tensor]:
    """Optimiser step -> its token ids (batch, LENGTH)."""
    ids, _ = sequences(split, seed, steps * batch)
    return lambda step: ids[step * batch : (step + 1) * batch]


def base_folder(seed: int) -> Path:
    """Where the model of a seed is: three are committed; those of more seeds are trained when a run asks for them (standins.py)."""
    committed = BASES / f"seed{seed}"
    return committed if committed.is_dir() else cache_dir() / "skipgpt-bases" / f"seed{seed}"


def base_model(seed: int) -> nn.Module:
    """The model of the seed, dense, in fp32. Attention by sdpa: a step of tuning takes a tenth less than with eager."""
    from common.models import ModelSpec, load

    folder = base_folder(seed)
    if not folder.is_dir():
        train = f"python -m papers.skipgpt.standins --seeds {seed}"
        raise FileNotFoundError(f"no base model of seed {seed}: restore standins/, or run `{train}`")
    return load(ModelSpec(str(folder), attn_implementation="sdpa")).model
