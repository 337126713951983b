"""Greedy decoding of many rows that think unit by unit: for scores, where only what is written counts and not when.

A row is a source in segments s_0 .. s_n (an instruction, then what is answered one by one), and a target that begins with a header
and has a unit for each of s_1 .. s_n, then a forced cue and the rest. Unit u is written under s_0 .. s_u (`visible="units"`) or under
all of them ("all", batch processing); the token that ends a unit is fed under what the next one sees, for it predicts its first
token. The source is read beforehand: its states do not depend on what is written, so nothing that is written can tell.

`interleaved` decodes the same rows as one causal sequence in which source units and target units take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from ..errors import ModelError
from ..masks import for_attention
from .caches import TwoPartCache


@dataclass(frozen=True)
class Row:
    """Token ids. source: s_0 .. s_n. header: what the target begins with. cue: what is forced behind the last unit. closing: the
    source's end, which only the rest sees. given: tokens of units that are forced in the place of those that the model would choose."""

    source: Sequence[Sequence[int]]
    header: Sequence[int]
    cue: Sequence[int] = ()
    closing: Sequence[int] = ()
    given: Sequence[int] = ()


@dataclass
class Written:
    """Token ids of each unit, its boundary included, and of what follows the cue, the end included. truncated: a unit was cut at its
    cap and its boundary forced, or the rest was cut."""

    units: list[list[int]] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)
    truncated: bool = False

    @property
    def tokens(self) -> int:
        return sum(map(len, self.units)) + len(self.rest)


class _Progress:
    """Where a row is: which unit it writes, and which tokens are forced next."""

    def __init__(self, row: Row, ends: set[int], boundary: int, stop: int, unit_cap: int, rest_cap: int):
        self.row, self.ends, self.boundary, self.stop, self.caps = row, ends, boundary, stop, (unit_cap, rest_cap)
        self.written, self.unit, self.done = Written(), 0, False
        self.current: list[int] = []
        self.forced: list[int] = []
        self.given = list(row.given)

    @property
    def last(self) -> bool:
        return self.unit >= len(self.row.source) - 1

    def next(self, chosen: int) -> int:
        """The token to feed next, where the model chose `chosen`."""
        if self.done:
            return self.stop
        if self.forced:
            return self.forced.pop(0)
        if self.last:
            self.written.rest.append(chosen)
            self.written.truncated |= chosen != self.stop and len(self.written.rest) >= self.caps[1]
            self.done = chosen == self.stop or len(self.written.rest) >= self.caps[1]
            return chosen
        if self.given:
            chosen = self.given.pop(0)
        elif len(self.current) + 1 >= self.caps[0] and chosen not in self.ends:
            chosen, self.written.truncated = self.boundary, True
        self.current.append(chosen)
        if chosen in self.ends:
            self.written.units.append(self.current)
            self.current, self.unit = [], self.unit + 1
            if self.last:
                self.forced = list(self.row.cue)
        return chosen


@torch.no_grad()
def decode(model: nn.Module, rows: Sequence[Row], *, ends: set[int], boundary: int, stop: int, visible: str = "units",
           start: int | None = 0, unit_cap: int = 64, rest_cap: int = 256) -> list[Written]:
    """What each row writes; nothing where there is nothing to answer, in a row whose source is s_0 alone.

    ends: ids that end a unit. boundary: the one that is forced at unit_cap. stop: id that ends the rest. start: the target's first
    position; None: behind the row's own source, as in one sequence. Headers are of one length. Raises ValueError for what is not, and
    ModelError for logits that are no numbers.
    """
    if visible not in ("units", "all"):
        raise ValueError(f"visible {visible!r}: units or all")
    if not all(map(_asks, rows)) or not rows:
        return _asked(rows, lambda some: decode(model, some, ends=ends, boundary=boundary, stop=stop, visible=visible, start=start,
                                                unit_cap=unit_cap, rest_cap=rest_cap))
    if len({len(row.header) for row in rows}) != 1 or not rows[0].header:
        raise ValueError(f"headers of {sorted({len(row.header) for row in rows})} tokens; in a batch they need one length, 1 or more")
    device, implementation = next(model.parameters()).device, model.config._attn_implementation
    sources = [[token for unit in (*row.source, row.closing) for token in unit] for row in rows]
    lengths = torch.tensor([len(s) for s in sources], device=device)
    width = int(lengths.max())
    read = [torch.tensor([*map(len, row.source), len(row.closing)]).cumsum(0).tolist() for row in rows]
    cache = TwoPartCache(model.config, start=max(64, width))
    dtype = next(model.parameters()).dtype
    with cache.reading():
        model(input_ids=_padded(sources, stop).to(device), position_ids=torch.arange(width, device=device).expand(len(rows), -1),
              past_key_values=cache, use_cache=True, logits_to_keep=1)
    rows_ = [_Progress(row, ends, boundary, stop, unit_cap, rest_cap) for row in rows]
    first = lengths if start is None else torch.full_like(lengths, start)
    tokens, at = torch.tensor([list(row.header) for row in rows], device=device), 0
    while True:
        seen = torch.tensor([read[i][-1 if visible == "all" or p.last else p.unit + 1] for i, p in enumerate(rows_)], device=device)
        n = tokens.shape[1]
        if n > 1:  # the header: its last token predicts the first unit's first, the others predict the header, which comes before
            seen = torch.where(torch.arange(n, device=device) < n - 1,
                               torch.tensor([r[-1 if visible == "all" else 0] for r in read], device=device)[:, None], seen[:, None])
        mask = for_attention(cache.write_mask(seen, n, lengths), implementation, dtype)
        positions = first[:, None] + torch.arange(at, at + n, device=device)
        with cache.writing():
            logits = model(input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                           logits_to_keep=1).logits[:, -1]
        at += n
        chosen = _likeliest(logits, [not p.done for p in rows_])
        tokens = torch.tensor([[p.next(c)] for p, c in zip(rows_, chosen)], device=device)
        if all(p.done for p in rows_):
            return [p.written for p in rows_]


@torch.no_grad()
def interleaved(model: nn.Module, rows: Sequence[Row], *, ends: set[int], boundary: int, stop: int, unit_cap: int = 64,
                rest_cap: int = 256) -> list[Written]:
    """What each row writes as one causal sequence s_0 header s_1 t_1 s_2 t_2 ... cue rest, with contiguous positions. Nothing asked,
    nothing written, as in `decode`."""
    if not all(map(_asks, rows)) or not rows:
        return _asked(rows, lambda some: interleaved(model, some, ends=ends, boundary=boundary, stop=stop, unit_cap=unit_cap,
                                                     rest_cap=rest_cap))
    device = next(model.parameters()).device
    rows_ = [_Progress(row, ends, boundary, stop, unit_cap, rest_cap) for row in rows]
    queues = [[*row.source[0], *row.header, *row.source[1]] for row in rows]
    cache, at = DynamicCache(config=model.config), 0
    tokens = torch.tensor([[q.pop(0)] for q in queues], device=device)
    while True:
        positions = torch.full((len(rows), 1), at, device=device)
        logits = model(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True).logits[:, -1]
        at += 1
        following = []
        for p, queue, chosen in zip(rows_, queues, _likeliest(logits, [not p.done for p in rows_])):
            if not queue:
                unit = p.unit
                following.append([p.next(chosen)])
                if p.unit > unit:
                    queue += p.row.closing if p.last else p.row.source[p.unit + 1]
            else:
                following.append([queue.pop(0)])
        tokens = torch.tensor(following, device=device)
        if all(p.done for p in rows_):
            return [p.written for p in rows_]


def _likeliest(logits: Tensor, going: list[bool]) -> list[int]:
    """The likeliest token of each row, logits (B, V). Raises ModelError where those of a row that goes on are no numbers: argmax takes
    NaN for the highest, and the row would be written to its cap with that."""
    finite = logits.amax(-1).isfinite().tolist()
    if wrong := [i for i, (goes_on, is_number) in enumerate(zip(going, finite)) if goes_on and not is_number]:
        raise ModelError(f"the model prefers no token in {len(wrong)} of {len(going)} rows (the first: {wrong[0]}): its numbers are not "
                         "finite (float16 overflows; load it in float32 or bfloat16)")
    return logits.argmax(-1).tolist()


def _asks(row: Row) -> bool:
    return len(row.source) > 1


def _asked(rows: Sequence[Row], answer: Callable[[list[Row]], list[Written]]) -> list[Written]:
    """The answers of the rows that ask something, and empty ones between them."""
    some = [row for row in rows if _asks(row)]
    told = iter(answer(some) if some else [])
    return [next(told) if _asks(row) else Written() for row in rows]


def _padded(sequences: Sequence[Sequence[int]], filler: int) -> Tensor:
    out = torch.full((len(sequences), max(map(len, sequences))), filler)
    for row, sequence in zip(out, sequences):
        row[: len(sequence)] = torch.tensor(list(sequence))
    return out
