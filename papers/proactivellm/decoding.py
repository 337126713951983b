"""Many streams at once, every probe of a unit in one pass: what a live session does one by one (session.py), for scoring.

A probe depends on what is read and on what is written, and not on other probes: whatever is read, no state of the source changes, and
what a failed probe left is taken back. So for one unit of the answer the probes at phi, phi + 1, ... M are rows of one pass that do not
see each other; the first that writes is kept with its states, and the others are forgotten. Nothing of a stream that is not read
reaches a row that counts: the mask ends at phi. A test holds the two equal, tokens, delays and probes.

`decode(..., reencode=True)` is the baseline that encodes the whole answer again at every step, as a batch would be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from common.modes import eval_mode
from common.streaming.units import Example
from common.streaming.words import Boundary

from .heads import Policy, Probe
from .method import as_attention_reads, check_model
from .probe import within


@dataclass
class Streamed:
    """One answer. units: tokens of each. delays: source units read when each was begun, at most M: the end of the source is none.
    probes: passes over the target; failed: those of them that were taken back. pairs: (query, key) pairs attended, `wasted` of them
    in failed probes; fed: tokens fed, `fed_again` of them in failed probes."""

    units: list[list[int]] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    probes: int = 0
    failed: int = 0
    pairs: int = 0
    wasted: int = 0
    fed: int = 0
    fed_again: int = 0
    ended_at: int | None = None  # source units read when the answer was ended
    truncated: bool = False

    @property
    def tokens(self) -> list[int]:
        return [token for unit in self.units for token in unit]


class Looked(NamedTuple):
    """Probes of a step, of all slots: probe (n, slots), the likeliest token (n, slots), and which of them are a decision of a stream that
    goes on, (n, slots); the last real slot of a row has everything read."""

    probe: Probe
    token: Tensor
    real: Tensor


@contextlib.contextmanager
def shown(model: nn.Module, needs: frozenset[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, every pass leaves the state before the head as ["hidden"] where that is needed; attention is then eager, where needed."""
    seen: dict[str, Tensor] = {}
    hook = None
    before = model.config.get_text_config(decoder=True)._attn_implementation
    if "hidden" in needs:
        hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.__setitem__("hidden", inputs[0]))
    try:
        if "attention" in needs:
            model.set_attn_implementation("eager")
        yield seen
    finally:
        if hook is not None:
            hook.remove()
        if "attention" in needs:
            model.set_attn_implementation(before)


def padded(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


Join = Callable[[Tensor, Tensor, nn.Module], Tensor]  # ids (B, S) and frames (B, S, n) -> embeddings, as CausalEncoder.join


@torch.no_grad()
def decode(model: nn.Module, examples: Sequence[Example], policy: Policy, boundary: Boundary, max_target: int = 64,
           join: Join | None = None, reencode: bool = False, record: list[Looked] | None = None) -> list[Streamed]:
    """Streams every example's source under the policy. join: makes embeddings of a source with frames of audio. record: takes what
    every step looked at, chosen or not.

    Greedy. A unit begins after a token that ends one (boundary "ends") or with a token that begins one ("opens"); within a unit there is
    no decision, and what is written after more has been read begins one. An empty source, without a unit between instruction and end,
    has an empty answer. Raises ValueError for headers of different length, ModelError for a model that cannot stream
    (`method.check_model`), beyond a sliding window, and beyond the model's positions.
    """
    if not examples:
        return []
    if len({example.target_units[0] for example in examples}) != 1:
        raise ValueError(f"decode: {len(examples)} examples, whose headers have to be of one length")
    check_model(model)
    within(model, max(len(e.source) for e in examples), examples[0].target_units[0] + max_target)
    with eval_mode(model), shown(model, policy.needs) as seen:
        return _Streams(model, examples, policy, boundary, join, reencode, seen, record).run(max_target)


class _Streams:
    def __init__(self, model, examples, policy, boundary, join, reencode, seen, record):
        self.model, self.examples, self.policy, self.boundary = model, examples, policy, boundary
        self.reencode, self.seen, self.record = reencode, seen, record
        self.device = next(model.parameters()).device
        self.lengths = torch.tensor([len(e.source) for e in examples], device=self.device)
        self.instruction = torch.tensor([e.source_units[0] for e in examples], device=self.device)
        self.last = torch.tensor([len(e.source_units) - 1 for e in examples], device=self.device)  # M + 1: the end of the source
        ends = padded([torch.tensor(e.source_units).cumsum(0) for e in examples]).to(self.device)
        self.ends = torch.maximum(ends, torch.where(ends == 0, self.lengths[:, None], ends))  # padded: all of it
        self.width = int(self.lengths.max())
        self.cache = self._encoded(join)
        self.out = [Streamed(pairs=n * (n + 1) // 2, fed=n) for n in self.lengths.tolist()]
        self.all_read = torch.zeros_like(self.lengths, dtype=torch.bool)

    def _encoded(self, join) -> DynamicCache:
        """The sources, causal and padded on the right; their states do not depend on what will be read when."""
        ids, cache = padded([e.source for e in self.examples]).to(self.device), DynamicCache()
        column = torch.arange(self.width, device=self.device)
        mask = (column[:, None] >= column) & (column < self.lengths[:, None])[:, None]
        mask = (mask | torch.eye(self.width, dtype=torch.bool, device=self.device))[:, None]
        if self.examples[0].features is not None:
            features = padded([e.features for e in self.examples]).to(self.device)
            inputs = {"inputs_embeds": join(ids, features, self.model.get_input_embeddings())}
        else:
            inputs = {"input_ids": ids}
        self.model(**inputs, attention_mask=as_attention_reads(self.model, mask), position_ids=column[None], past_key_values=cache,
                   use_cache=True, logits_to_keep=1)
        return cache

    def run(self, max_target: int) -> list[Streamed]:
        n = len(self.examples)
        header = padded([e.target[: e.target_units[0]] for e in self.examples]).to(self.device)
        pending, before = header, 0  # tokens to feed; target tokens in the cache
        read = torch.ones(n, dtype=torch.int64, device=self.device)
        inside = torch.zeros(n, dtype=torch.bool, device=self.device)  # of a unit whose last token is still to come
        done = self.last <= 1  # nothing to read, nothing to write
        for row in done.nonzero()[:, 0].tolist():
            self.out[row].ended_at = 0
        for _ in range(max_target if not bool(done.all()) else 0):
            token, read, begins = self._step(pending, before, read, inside, done)
            stop = token == self.boundary.stop
            for row in (~done).nonzero()[:, 0].tolist():
                out, at = self.out[row], min(int(read[row]), int(self.last[row]) - 1)
                if stop[row]:
                    out.ended_at = at
                    continue
                if begins[row] or not out.units:
                    out.units.append([])
                    out.delays.append(at)
                out.units[-1].append(int(token[row]))
            done = done | stop
            if bool(done.all()):
                break
            if self.boundary.kind == "ends":
                inside = ~self.boundary.table.to(self.device)[token]
            if self.reencode:
                pending = torch.cat([pending, token[:, None]], 1)
            else:
                before += pending.shape[1]
                pending = token[:, None]
        for row in (~done).nonzero()[:, 0].tolist():
            self.out[row].truncated = True
        return self._counted()

    def _counted(self) -> list[Streamed]:
        """What was never read was never encoded."""
        for row, out in enumerate(self.out):
            used = out.ended_at if out.ended_at is not None else (out.delays or [int(self.last[row])])[-1]
            if not self.all_read[row]:
                n, m = int(self.ends[row, used]), int(self.lengths[row])
                out.pairs -= m * (m + 1) // 2 - n * (n + 1) // 2
                out.fed -= m - n
        return self.out

    # -- one token of every answer ---------------------------------------------------------------
    def _step(self, pending: Tensor, before: int, read: Tensor, inside: Tensor, done: Tensor):
        """(token, units read, whether it begins a unit) of each row: probes at read, read + 1, ... until one writes."""
        n, p = pending.shape
        written = torch.tensor([len(out.units) for out in self.out], device=self.device)
        units = self._slots(read, written, inside, done)  # (n, slots)
        real = units <= self.last[:, None]
        units, written = torch.minimum(units, self.last[:, None]), written[:, None].expand_as(units)
        visible = self.ends.gather(1, units)
        logits, attention = self._pass(pending, before, visible)
        b = self.boundary
        logits[..., list(b.banned)] = float("-inf")
        logits[..., len(b.table) :] = float("-inf")
        if b.kind == "opens":  # a unit was ended before more was read: what follows must begin one
            inner = torch.nn.functional.pad(~b.table.to(self.device), (0, logits.shape[-1] - len(b.table)))
            if b.stop >= 0:
                inner[b.stop] = False
            must = (units > read[:, None]) & (written > 0)
            logits = logits.masked_fill(must[..., None] & inner, float("-inf"))
        token = logits.argmax(-1)  # (n, slots)
        begins = self._begins(token, inside, written)
        probe = Probe(logits, torch.minimum(units, self.last[:, None] - 1), written, self._hidden(p), attention)
        stops = ~begins | self.policy.write(probe) | (units == self.last[:, None])
        chosen = (stops & real).int().argmax(1)  # the first
        if self.record is not None:
            self.record.append(Looked(probe, token, begins & real & ~done[:, None]))
        self._keep(chosen, before, p)
        rows = torch.arange(n, device=self.device)
        self._count(chosen, visible, before, p, done)
        self.all_read = self.all_read | ((units[rows, chosen] == self.last) & ~done)
        at = torch.where(done, read, units[rows, chosen])
        return token[rows, chosen], at, begins[rows, chosen]

    def _slots(self, read: Tensor, written: Tensor, inside: Tensor, done: Tensor) -> Tensor:
        """Units read at which there is a look at the model, (n, slots): from what is read on to the end; of a policy that looks at no
        state, where it writes, and before that where a unit's going on shows in its next token alone."""
        if self.policy.goal is not None:
            goal = torch.ceil(self.policy.goal(written).double()).long().clamp(max=int(self.last.max()))
            goal = torch.where(inside, read, torch.maximum(torch.minimum(goal, self.last), read))
            first = written == 0
            if self.boundary.kind == "ends" or bool((first | done).all()) or bool((goal == read).all()):
                return goal[:, None]
            return torch.stack([read, goal], 1)
        slots = int((self.last - read)[~done].max()) + 1
        if self.boundary.kind == "ends" and bool((inside | done).all()):
            slots = 1
        return read[:, None] + torch.arange(slots, device=self.device)

    def _begins(self, token: Tensor, inside: Tensor, written: Tensor) -> Tensor:
        """Whether a token would begin a unit, or end the answer, so that there is something to decide."""
        if self.boundary.kind == "ends":
            return (~inside)[:, None].expand_as(token)
        return self.boundary.table.to(self.device)[token] | (token == self.boundary.stop) | (written == 0)

    def _pass(self, pending: Tensor, before: int, visible: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (n, slots, V) of the last pending token, fed once for every slot; each copy sees its source and its own."""
        (n, p), slots = pending.shape, visible.shape[1]
        slot, place = (torch.arange(slots * p, device=self.device) // p), (torch.arange(slots * p, device=self.device) % p)
        source = torch.arange(self.width, device=self.device) < visible.repeat_interleave(p, 1)[..., None]
        written = torch.ones(n, slots * p, before, dtype=torch.bool, device=self.device)
        own = ((slot[:, None] == slot) & (place[:, None] >= place)).expand(n, -1, -1)
        mask = torch.cat([source, written, own], -1)[:, None]
        rows = slice(p - 1, None, p)
        out = self.model(input_ids=pending.repeat(1, slots), attention_mask=as_attention_reads(self.model, mask),
                         position_ids=(before + place)[None].expand(n, -1), past_key_values=self.cache, use_cache=True,
                         output_attentions="attention" in self.policy.needs)
        attention = None
        if "attention" in self.policy.needs:
            weights = torch.stack([a[:, :, rows, : self.width] for a in out.attentions], 1)  # (n, layers, heads, slots, S)
            told = torch.arange(self.width, device=self.device) < self.instruction[:, None]
            attention = weights.masked_fill(told[:, None, None, None], 0).permute(0, 3, 1, 2, 4)
        return out.logits[:, rows].float(), attention

    def _hidden(self, p: int) -> Tensor | None:
        return self.seen["hidden"][:, p - 1 :: p] if "hidden" in self.policy.needs else None

    def _keep(self, chosen: Tensor, before: int, p: int) -> None:
        """Of the new states only those of the chosen slot; none of them where everything is encoded again."""
        at = self.width + before
        columns = (at + chosen[:, None] * p + torch.arange(p, device=self.device))[:, None, :, None]
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                kept = states.gather(2, columns.expand(-1, states.shape[1], -1, states.shape[3]))
                setattr(layer, name, states[:, :, :at] if self.reencode else torch.cat([states[:, :, :at], kept], 2))

    def _count(self, chosen: Tensor, visible: Tensor, before: int, p: int, done: Tensor) -> None:
        for row in (~done).nonzero()[:, 0].tolist():
            out, k = self.out[row], int(chosen[row])
            costs = [p * (int(v) + before) + p * (p + 1) // 2 for v in visible[row, : k + 1]]
            out.probes, out.failed = out.probes + k + 1, out.failed + k
            out.pairs, out.wasted = out.pairs + sum(costs), out.wasted + sum(costs[:-1])
            out.fed, out.fed_again = out.fed + p * (k + 1), out.fed_again + p * k
