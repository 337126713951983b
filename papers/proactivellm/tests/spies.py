"""What notes how it was called, in the place of trainings and streams, for the tests of the jobs."""

import inspect
from types import SimpleNamespace as Of

import torch

from ..decoding import Looked
from ..experiments import arms
from ..heads import Probe

HOW = arms.How(7, 5, 11, 13, (0.6, 0.8, 0.98), (1, 3), 0.75, (0.7, 0.9), 2.5, "slack")


def bound(function, args, options):
    """{parameter: value} of a call."""
    call = inspect.signature(function).bind(*args, **options)
    call.apply_defaults()
    return {name: value for name, value in call.arguments.items() if name != "self"}


class Stub(arms.Streamer):
    """A streamer that streams nothing and notes who was asked to stream what."""

    def __init__(self, model=None, encoder=None, task=None, how=HOW):
        self.model, self.task, self.how, self.join = model, task, how, None
        self.calibration = [Of(name=f"c{i}", oracle=(i + 1,)) for i in range(2)]
        self.test = [Of(name=f"t{i}", oracle=(i + 1,)) for i in range(3)]
        self.asked = []
        self.__dict__["whole"] = (["answer 0", "answer 1"], arms.flat([look()]))  # of calibration streams

    def split(self, items):
        return "calibration" if items is self.calibration else "test" if items is self.test else [item.name for item in items]

    def streams(self, items, policy, **options):
        self.asked.append(("streams", self.split(items), policy, options))
        if (record := options.get("record")) is not None:
            record.append(look())
        return [Of(tokens=[1, 2], probes=5), Of(tokens=[3], probes=6)] if getattr(policy, "threshold", 0) == float("inf") else [
            Of(tokens=[1, 2], probes=1), Of(tokens=[4], probes=1)]

    def row(self, items, policy, **options):
        self.asked.append(("row", self.split(items), policy, options))
        rco = getattr(policy, "chance", getattr(policy, "threshold", 0.5))
        return {"quality": 10.0 * rco, "RCO": rco, "of": self.split(items)}


def look():
    """Two streams of three and two units; each row's last real slot has everything read."""
    draw = torch.Generator().manual_seed(3)
    real = torch.tensor([[True, True, True], [True, True, False]])
    probe = Probe(torch.randn(2, 3, 5, generator=draw), torch.tensor([[1, 2, 3]] * 2), torch.zeros(2, 3),
                  torch.randn(2, 3, 4, generator=draw), torch.rand(2, 3, 2, 2, 3, generator=draw))
    return Looked(probe, torch.tensor([[7, 9, 9], [4, 4, 8]]), real)
