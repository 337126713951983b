"""What deciding by states is compared with: policies that look at no state. And the placebo of every head, which draws lots.

    WaitK     a fixed rule (Ma et al. 2019), with a stride where source and answer are not equally long
    Random    lots at every probe: what timing is worth that knows nothing
    Always    READ always, which is batch processing, or WRITE always

Models that are compared stand as arms in experiments/arms.py: batch training alone, a model trained for each k, one that is labelled by
the oracle; re-encoding is `decoding.decode(..., reencode=True)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .heads import Probe

NEVER = 2**31  # units: more than any stream has


class WaitK:
    """WRITE unit j (from 0) once k + stride j units are read: wait-k (Ma et al. 2019). stride: units of the source to a unit of the
    answer, which is 1 in the original and has to be another number where they are not alike, as in speech."""

    needs: frozenset[str] = frozenset()

    def __init__(self, k: float, stride: float = 1.0):
        if not 1 <= k < NEVER or not 0 <= stride < NEVER:
            raise ValueError(f"wait-k: k = {k}, stride {stride}; the first unit needs one unit read, and no unit can be unread")
        self.k, self.stride = k, stride

    def goal(self, written: Tensor) -> Tensor:
        return self.k + self.stride * written

    def write(self, probe: Probe) -> Tensor:
        return probe.read >= self.goal(torch.as_tensor(probe.written))


class Random:
    """WRITE with this chance at every probe, whatever it shows: the placebo of every head."""

    needs: frozenset[str] = frozenset()
    goal = None

    def __init__(self, chance: float, seed: int = 0):
        if not 0 <= chance <= 1:
            raise ValueError(f"random: a chance of {chance}; it lies between 0 and 1")
        self.chance, self.generator = chance, torch.Generator().manual_seed(seed)

    def write(self, probe: Probe) -> Tensor:
        return torch.rand(probe.read.shape, generator=self.generator).to(probe.read.device) < self.chance


class Always:
    """READ always, which is batch processing, or WRITE always, without a look at the model."""

    needs: frozenset[str] = frozenset()

    def __init__(self, write: bool):
        self.writes = write

    def goal(self, written: Tensor) -> Tensor:
        return torch.zeros_like(written) + (0 if self.writes else NEVER)

    def write(self, probe: Probe) -> Tensor:
        return torch.full(probe.read.shape, self.writes, device=probe.read.device)
