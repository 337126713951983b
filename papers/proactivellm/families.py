"""ProactiveLLM on any decoder: how each way is used, and what it is held against: the stock model, fed without masks or layout of ours.

The reference encodes a source cut to what a row sees, alone, and puts the target's states behind it: for each row anew, out of the stock
model's own cache. Differences are held against what one source token more or less would make. `python -m common.families` runs all
of this on every family.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from common.streaming.caches import LayersError, attention_window
from common.streaming.units import Example
from common.streaming.words import Boundary

from . import baselines, heads, method
from .data import batch_of
from .decoding import decode
from .session import Session, run

PATH = (1, 2)  # units read before the first and the second token of the answer; before its end all of them


def example_of(model: PreTrainedModel, ids: Tensor) -> tuple[Example, list[int]]:
    """Every token a unit: (instruction, units, end of the source; header, two tokens, end), and a path."""
    try:
        window = attention_window(model.config) or ids.shape[1]
    except LayersError:
        window = ids.shape[1]
    n = max(4, min(window, ids.shape[1]) - 4)
    row = ids[0].tolist()
    return Example.of_units([[token] for token in row[:n]], [[token] for token in (row * 2)[n : n + 4]]), [*PATH, n - 1]


@torch.no_grad()
def reference(model: PreTrainedModel, source: Tensor, target: Tensor, visible: list[int]) -> Tensor:
    """Logits (T, V): row t from a stock cache of the first visible[t] source tokens and of the target's states before it."""
    rows: list[Tensor] = []
    written: list[list[tuple[Tensor, Tensor]]] = []
    for t, seen in enumerate(visible):
        cache = DynamicCache()
        model(input_ids=source[None, :seen], position_ids=torch.arange(seen)[None], past_key_values=cache, use_cache=True)
        for number in range(len(cache.layers)):
            for states in written:
                cache.update(*states[number], number)
        rows.append(model(input_ids=target[None, t : t + 1], position_ids=torch.tensor([[t]]), past_key_values=cache,
                          use_cache=True).logits[0, -1])
        written.append([(layer.keys[..., -1:, :].clone(), layer.values[..., -1:, :].clone()) for layer in cache.layers])
    return torch.stack(rows)


def agree(model: PreTrainedModel, ours: Tensor, right: Tensor, wrong: Tensor) -> None:
    """Raises AssertionError unless ours is much nearer to `right` than `wrong` is."""
    off, effect = (ours - right).abs().max().item(), (wrong - right).abs().max().item()
    share = 1e-3 if model.dtype == torch.float64 else 2e-2
    assert off <= share * effect, f"off by {off:.2g} where another path makes {effect:.2g} and logits reach {right.abs().max():.2g}"


def both(model: PreTrainedModel, example: Example, path: list[int]) -> tuple[Tensor, Tensor]:
    """(what the rows before each target token but the first must give, what they would with one unit more)."""
    batches = [batch_of([example], [p])[0] for p in (path, [min(phi + 1, path[-1]) for phi in path])]
    return tuple(reference(model, example.source, example.target, b.visible[0].tolist())[:-1] for b in batches)


@torch.no_grad()
def training(model: PreTrainedModel, ids: Tensor) -> None:
    """Both views of one pass, by the reference."""
    method.check_model(model)
    example, path = example_of(model, ids)
    views = method.two_views(model, batch_of([example], [path])[0])
    right, wrong = both(model, example, path)
    agree(model, views.stream[0, :-1], right, wrong)
    whole, _ = both(model, example, [path[-1]] * len(path))
    agree(model, views.batch[0, :-1], whole, right)


class _Told(Session):
    """Writes what it is told along a path, with a probe before every READ, and keeps the logits of the rows that stay."""

    def told(self, script: list[int]) -> _Told:
        self.script, self.rows = script, []
        return self

    def _probe(self):
        token, probe = super()._probe()
        self.shown = probe.logits
        return self.script[len(self.rows)], probe

    def write(self, more: bool = True):
        unit = super().write(more)
        if unit is not None:
            self.rows.append(self.shown)
        return unit


class _Along(baselines.Random):
    def __init__(self, path: list[int]):
        super().__init__(0.0)
        self.path = path

    def write(self, probe: heads.Probe) -> Tensor:
        return torch.tensor(int(probe.read) >= self.path[int(probe.written)])


def session(model: PreTrainedModel, ids: Tensor) -> None:
    """One live stream: probes that are taken back leave no trace."""
    method.check_model(model)
    example, path = example_of(model, ids)
    boundary = Boundary("ends", torch.ones(model.get_input_embeddings().num_embeddings, dtype=torch.bool), int(example.target[-1]))
    target = example.target.tolist()
    if target[-1] in target[1:-1]:
        boundary = boundary._replace(stop=-1)
    live = _Told(model, _Along(path), boundary, target[:1]).told([*target[1:-1], boundary.stop])
    source = example.source.tolist()
    for _ in run(live, iter([[token] for token in source[:-1]]), source[-1:]):
        pass
    agree(model, torch.stack(live.rows).to(model.dtype), *both(model, example, path))


def batch_decoding(model: PreTrainedModel, ids: Tensor) -> None:
    """All probes of a unit in one pass give what a live session gives."""
    method.check_model(model)
    example, _ = example_of(model, ids)
    boundary = Boundary("ends", torch.ones(model.get_input_embeddings().num_embeddings, dtype=torch.bool), -1)
    source = example.source.tolist()
    for policy in (baselines.WaitK(1), heads.Decide(heads.MaxProb(), 2.0)):
        out = decode(model, [example], policy, boundary, 3)[0]
        live = Session(model, policy, boundary, example.target[:1].tolist())
        units = [unit for unit, _ in run(live, iter([[token] for token in source[:-1]]), source[-1:], max_units=3)]
        assert out.units == units, f"in a batch {out.units} is written, live {units}"


METHODS: dict[str, Callable[[PreTrainedModel, Tensor], None]] = {
    "two views": training,
    "streaming session": session,
    "batch decoding": batch_decoding,
}
