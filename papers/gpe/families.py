"""GPE on any decoder: each way to use it, held against the stock model fed one token at a time without mask or layout of ours.

The reference knows neither masks nor two-part caches. It encodes the source alone, cuts the stock model's own cache to the tokens
that a target row may see, puts the states of the target behind them and feeds the next token. For position re-encoding the target
stays where it is and the source is encoded anew, as many positions before it as tokens are visible: no key is turned. A second
reference needs no ids and no cache: with as many source tokens hidden from every row by an ordinary padding mask, and the target's ids
going on behind the source, stock and method are to agree.

Differences are held against what another offset would make. `python -m common.families` runs all of this on every family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from common.masks import visible_tokens
from common.streaming.units import Example
from common.streaming.words import Boundary

from . import method
from .decoding import stream
from .method import Arm, arm
from .probe import reach
from .segments import Batch, readable
from .session import Session, run

KS = (1, 2)  # wait-k of the two rows


# -- the stock model, a token at a time --------------------------------------------------------------------
@torch.no_grad()
def reference(model: PreTrainedModel, source: Tensor, target: Tensor, visible: Sequence[int], source_first: Callable[[int], int],
              target_first: float) -> Tensor:
    """Logits (T, V) of a target (T,) whose row t sees the first visible[t] of the source (S,) and the target up to itself.

    source_first(v): position of the source's first token for a row that sees v tokens. target_first: that of the target.
    """
    rows: list[Tensor] = []
    written: list[list[tuple[Tensor, Tensor]]] = []  # of each target token, keys and values of each layer
    for t, seen in enumerate(visible):
        cache = DynamicCache()
        start = source_first(seen)
        model(input_ids=source[None, :seen], position_ids=torch.arange(start, start + seen)[None], past_key_values=cache, use_cache=True)
        for number in range(len(cache.layers)):
            for states in written:
                cache.update(*states[number], number)
        position = torch.tensor([[t + (int(target_first) if float(target_first).is_integer() else target_first)]])
        rows.append(model(input_ids=target[None, t : t + 1], position_ids=position, past_key_values=cache, use_cache=True).logits[0, -1])
        written.append([(layer.keys[..., -1:, :].clone(), layer.values[..., -1:, :].clone()) for layer in cache.layers])
    return torch.stack(rows)


def examples_of(model: PreTrainedModel, ids: Tensor) -> list[Example]:
    """Every token a unit: the first half of a row is its source, as much of the rest as the model's window allows its target."""
    window = reach(model).window or ids.shape[1]
    columns = min(window, ids.shape[1])
    half = (columns + 1) // 2
    return [Example.of_units(*([[token] for token in side] for side in (row[:half], row[half:columns]))) for row in ids.tolist()]


def seen_by(example: Example, k: int) -> list[int]:
    return visible_tokens(example.source_units, example.target_units, readable(example, k)).tolist()


def expected(model: PreTrainedModel, own: Arm, example: Example, k: int, offset: int = 0) -> Tensor:
    """What the rows before each target token but the first must give, (T - 1, V), with the target moved by `offset`."""
    if own.two_frames:
        first = len(example.source)
        return reference(model, example.source, example.target, seen_by(example, k), lambda seen: first - seen, first + offset)[:-1]
    return reference(model, example.source, example.target, seen_by(example, k), lambda seen: 0, own.phi + offset)[:-1]


def agree(model: PreTrainedModel, ours: Tensor, right: Tensor, wrong: Tensor) -> None:
    """Raises AssertionError unless ours is much nearer to `right` than `wrong` is."""
    off, effect = (ours - right).abs().max().item(), (wrong - right).abs().max().item()
    share = 1e-3 if model.dtype == torch.float64 else 2e-2
    assert off <= share * effect, f"off by {off:.2g} where a wrong offset makes {effect:.2g} and logits reach {right.abs().max():.2g}"


def agree_on(model: PreTrainedModel, own: Arm, example: Example, k: int, ours: Tensor) -> None:
    agree(model, ours, expected(model, own, example, k), expected(model, own, example, k, offset=3))


# -- the method, as it is used -----------------------------------------------------------------------------
@torch.no_grad()
def _whole(model: PreTrainedModel, own: Arm, ids: Tensor) -> None:
    method.check_model(model, own)
    examples = examples_of(model, ids)
    batch = Batch.of(examples, KS)
    logits = method.forward(model, own, batch.source, batch.target, batch.layout)
    for row, (example, k) in enumerate(zip(examples, KS)):
        agree_on(model, own, example, k, logits[row, 1:])


def training(model: PreTrainedModel, ids: Tensor) -> None:
    """The pass over a whole sequence, by the two references."""
    _whole(model, arm("group"), ids)
    _behind_a_hidden_end(model, ids)


@torch.no_grad()
def _behind_a_hidden_end(model: PreTrainedModel, ids: Tensor) -> None:
    batch = Batch.of(examples_of(model, ids), [None] * len(ids))
    n, hidden = batch.layout.n_source, 1
    at = batch.layout._replace(visible=torch.full_like(batch.layout.visible, n - hidden))
    ours = method.forward(model, arm("group", n), batch.source, batch.target, at)[:, 1:]
    tokens = torch.cat([batch.source, batch.target], 1)
    mask = torch.ones_like(tokens)
    mask[:, n - hidden : n] = 0
    stock = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, n:-1]
    everything = model(input_ids=tokens, use_cache=False).logits[:, n:-1]
    agree(model, ours, stock, everything)


def half_a_position(model: PreTrainedModel, ids: Tensor) -> None:
    _whole(model, arm("group", 0.5), ids)


class Scripted(Session):
    """A session that writes what it is told, and keeps what the model would have chosen from."""

    def told(self, script: Sequence[int]) -> Scripted:
        self.script, self.logits = list(script), []
        return self

    def _choose(self, logits: Tensor, inside: bool) -> int:
        self.logits.append(logits)
        return self.script.pop(0)


def _live(model: PreTrainedModel, own: Arm, ids: Tensor) -> None:
    method.check_model(model, own)
    for example, k in zip(examples_of(model, ids), KS):
        boundary = Boundary("ends", torch.ones(model.get_input_embeddings().num_embeddings, dtype=torch.bool), -1)
        source, target = example.source.tolist(), example.target.tolist()
        session = Scripted(model, own, boundary, target[:1]).told([*target[1:-1], boundary.stop])
        words = list(run(session, [[token] for token in source[:-1]], source[-1:], k))
        assert [token for word, _ in words for token in word] == target[1:-1], "the session wrote other words than it was told"
        agree_on(model, own, example, k, torch.stack(session.logits).to(model.dtype))


def session(model: PreTrainedModel, ids: Tensor) -> None:
    """One live stream with the cache of two parts."""
    _live(model, arm("group"), ids)


def batch_decoding(model: PreTrainedModel, ids: Tensor) -> None:
    """Many streams at once, with one cache in order of arrival. Every row has the k of the batch."""
    method.check_model(model, arm("group"))
    examples = examples_of(model, ids)
    boundary = Boundary("ends", torch.ones(model.get_input_embeddings().num_embeddings, dtype=torch.bool), -1)
    own = arm("group")
    for k in KS:
        streams = stream(model, own, examples, boundary, k, forced=True, keep_logits=True)
        for example, streamed in zip(examples, streams):
            agree_on(model, own, example, k, torch.stack(streamed.logits)[: len(example.target) - 1].to(model.dtype))


def position_reencoding(model: PreTrainedModel, ids: Tensor) -> None:
    """The baseline that moves the target at each READ: over a whole sequence in two frames, and live by turning cached keys."""
    _whole(model, arm("position_reencoding"), ids)
    _live(model, arm("position_reencoding"), ids)


METHODS: dict[str, Callable[[PreTrainedModel, Tensor], None]] = {
    "training pass": training,
    "φ = 0.5": half_a_position,
    "streaming session": session,
    "batch decoding": batch_decoding,
    "position re-encoding": position_reencoding,
}
