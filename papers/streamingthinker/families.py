"""How this paper's method is used on a model of any family: what `make families` tries.

    training pass         the streaming layout over a padded batch, beside the stock model fed a token at a time: its own cache holds the
                          source's states, cut to what the row may see, and those of the target so far
    interleaved           one causal text, which is the stock model without mask or positions of ours
    thinking              the reasoner with two caches, told what to write, beside the training pass
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from common.streaming.caches import attention_window

from . import method
from .method import Segments, collate
from .reasoner import Reasoner, Tokens

START = 3  # of the target: the wrong one that differences are held against


def samples_of(model: PreTrainedModel, ids: Tensor) -> list[Segments]:
    """Two samples of different length, within the model's window."""
    window, found = attention_window(model.config) or ids.shape[1], []
    for row, more in zip(ids.tolist(), (0, 1)):
        t = row[: max(min(len(row), window - 1) - more, 7)]  # below that the method is to refuse
        n = len(t) // 6
        cut = [t[i * n : (i + 1) * n] for i in range(5)] + [t[5 * n :]]
        found.append(Segments.of(cut[:3], cut[3:5] + [cut[5][:1], cut[5][1:]]))
    return found


@torch.no_grad()
def reference(model: PreTrainedModel, sample: Segments, start: int = 0) -> Tensor:
    """Logits (T, V) of the target's rows, from the stock model and its own cache, a token at a time."""
    source, target = (torch.tensor([[t for s in side for t in s]]) for side in (sample.source, sample.target))
    read = model(input_ids=source, use_cache=True).past_key_values
    states = [[(layer.keys, layer.values) for layer in read.layers], [[] for _ in read.layers]]
    rows = []
    for p, w in enumerate(method.visible_prefix(sample.source_lengths, sample.target_lengths).tolist()):
        cache = DynamicCache()
        for number, (keys, values) in enumerate(states[0]):
            own = states[1][number]
            cache.update(*(torch.cat([kind[..., :w, :], *(pair[i] for pair in own)], -2) for i, kind in enumerate((keys, values))), number)
        out = model(input_ids=target[:, p : p + 1], position_ids=torch.tensor([[start + p]]), past_key_values=cache, use_cache=True)
        for number, layer in enumerate(cache.layers):
            states[1][number].append((layer.keys[..., -1:, :], layer.values[..., -1:, :]))
        rows.append(out.logits[0, -1])
    return torch.stack(rows)


def agree(model: PreTrainedModel, ours: Tensor, right: Tensor, wrong: Tensor) -> None:
    """Raises AssertionError unless ours is much nearer to `right` than `wrong` is."""
    off, effect = float((ours - right).abs().max()), float((wrong - right).abs().max())
    share = 1e-3 if model.dtype == torch.float64 else 2e-2
    assert off <= share * effect, f"off by {off:.2g} where a wrong start makes {effect:.2g} and logits reach {float(right.abs().max()):.2g}"


@torch.no_grad()
def training_pass(model: PreTrainedModel, ids: Tensor) -> None:
    samples = samples_of(model, ids)
    batch = collate(samples)
    logits = method.forward(model, batch)
    for row, sample in zip(logits, samples):
        n = sum(sample.target_lengths)
        agree(model, row[batch.n_source : batch.n_source + n], reference(model, sample), reference(model, sample, START))


@torch.no_grad()
def interleaved(model: PreTrainedModel, ids: Tensor) -> None:
    samples = samples_of(model, ids)
    batch = collate(samples, "interleaved")
    logits = method.forward(model, batch)
    for row, sample in zip(logits, samples):
        alone = collate([sample], "interleaved").ids
        right = model(input_ids=alone, use_cache=False).logits[0]
        wrong = model(input_ids=alone.flip(1), use_cache=False).logits[0]
        agree(model, row[: alone.shape[1]], right, wrong)


@torch.no_grad()
def thinking(model: PreTrainedModel, ids: Tensor) -> None:
    """A unit ends with the last token of the sample's unit; boundaries are told by counting, for any token may be one."""
    for sample in samples_of(model, ids):
        script = [list(unit) for unit in sample.target[1:]]
        end = model.get_input_embeddings().num_embeddings  # no token: units end by their cap, the rest by its own
        tokens = Tokens(sample.source[0], sample.target[0], frozenset(), end, {1: ()}, end, end)
        logits: list[Tensor] = []
        reasoner = Told(model, tokens, unit_cap=max(map(len, script)), rest_cap=len(script[-1]))
        reasoner.script, reasoner.logits = script, logits
        reasoner.think([list(s) for s in sample.source[1:]], depth=1)
        batch = collate([sample])
        with torch.no_grad():
            expected, wrong = (method.forward(model, b)[0] for b in (batch, collate([sample], start=START)))
        rows = batch.rows[0, batch.targets[0] != -100]
        agree(model, torch.stack(logits).to(model.dtype), expected[rows], wrong[rows])


class Told(Reasoner):
    """Writes a script and keeps what the model would have chosen from."""

    script: list[list[int]]
    logits: list[Tensor]

    def _write(self, two, thought, reads, schedule, depth, note) -> None:
        header = list(self.tokens.header)
        if header[:-1]:
            two.feed(header[:-1], reads[0])
        current = header[-1]
        for unit, told in enumerate(self.script):
            last = unit == len(self.script) - 1
            schedule.wait(unit + 1)
            for token in told:
                self.logits.append(two.feed([current], reads[-1] if last else reads[unit + 1])[-1])
                current = token


METHODS: dict[str, Callable[[PreTrainedModel, Tensor], None]] = {
    "training pass": training_pass, "interleaved": interleaved, "thinking": thinking}
