"""One live stream: `read` a unit when it comes, `write` when the head says so; a probe that says READ is taken back.

    session = Session(model, policy, boundary, header)
    session.read(instruction); session.read(unit)
    unit = session.write(more=True)          # tokens of a unit, or None: it wants to read more
    session.read(unit) ...

The spec's loop (3.6): feed the last target token, look at what it predicts; where that would begin a unit and the head is not sure,
forget the token's states, for they were computed with a stale phi, read on, and feed it again. So all states in the cache are those of
one masked pass along the path that was read, whatever was probed in between. Before the first unit it is the whole header that is fed
again, for in training all its rows see phi(1).

Reading is free of the answer: it costs a pass over the unit alone. Probing is not free, which `counts` says both ways: all that went
through the model, and `wasted`, what of it was in probes that were taken back.

A session is of one stream: what would give another answer without a sign (a second text, a step that broke off and is tried again, logits
that are no numbers) is refused.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.attention import Rows, watched
from common.errors import ModelError
from common.modes import eval_mode
from common.streaming.given import check_count, tokens
from common.streaming.two_streams import Counts, TwoStreams
from common.streaming.words import Boundary

from .decoding import shown
from .heads import Policy, Probe
from .method import check_model
from .probe import positions, within

_END = object()  # of the units; None is a mistake and no end


class LastRow:
    """A watcher (common/attention.py) that keeps each layer's weights of the last query."""

    def __init__(self, queries: int):
        self.query, self.weights = torch.tensor([queries - 1]), []

    def chosen(self, layer: int) -> Tensor:
        return self.query

    def look(self, layer: int, rows: Rows) -> None:
        self.weights.append(rows.weights[0])  # (H, K)

    def edit(self, layer: int, query: Tensor, key: Tensor) -> None:
        return None


@dataclass
class Wasted:
    """In probes that were taken back: how many, tokens fed, pairs attended."""

    probes: int = 0
    fed: int = 0
    pairs: int = 0


class Session:
    """A stream in progress. header: ids of the assistant's header, one at least. max_unit: tokens of a unit at most, a guard.

    every: after a probe that says READ, so many units are read before the next probe. ended: nothing more will come. truncated: the answer
    was cut, at max_unit or at the model's last position. The model reads and writes in eval mode, whatever mode it is in: dropout would
    draw every probe, and so the answer, anew. An error or an interrupt in the midst of a `read` or `write` leaves the stream half-way, and
    all that follow are refused.
    Raises ModelError as `method.check_model`, ValueError for a header that is no ids of the model, another kind of boundary, and a
    max_unit or an every that is no whole number, one at least.
    """

    def __init__(self, model: nn.Module, policy: Policy, boundary: Boundary, header: Sequence[int], max_unit: int = 32, every: int = 1):
        check_model(model)
        check_count("max_unit", max_unit, 1)
        check_count("every", every, 1)
        if boundary.kind not in ("ends", "opens"):
            raise ValueError(f"boundary: kind is {boundary.kind!r}, not ends or opens")
        self.model, self.policy, self.boundary, self.max_unit, self.every = model, policy, boundary, max_unit, every
        self.streams = TwoStreams(model)
        self.pending = tokens("header", header, model, or_embeddings=False).tolist()  # chosen, and not fed for good
        self.units_read, self.written = -1, 0  # the instruction is no unit
        self.instruction = 0
        self.ended = self.truncated = False
        self.probes, self.wasted = 0, Wasted()
        self._next_probe = self._read_at = 0  # units read: before the next probe; when the last token was written
        self._held: tuple[int, Probe] | None = None  # a probe whose states are in the cache, good until more is read
        self._cost = 0, 0
        self._half_way = False

    @property
    def counts(self) -> Counts:
        return self.streams.counts

    # -- READ ------------------------------------------------------------------------------------
    def read(self, unit: Sequence[int] | Tensor) -> None:
        """Encodes the instruction, the next unit, or the end of the source: ids (n,), or embeddings (n, width).

        What was probed before it is taken back. Raises ValueError for a unit without tokens, ids that the model has no embedding of,
        embeddings of another width or not finite, and after a step that broke off; ModelError beyond the model's positions.
        """
        unit = tokens("read", unit, self.model)
        within(self.model, self.streams.source_length + len(unit), 0)
        with self._step():
            if self._held is not None:
                self._take_back()
            self.streams.read(unit)
        self.units_read += 1
        if self.units_read == 0:
            self.instruction = self.streams.source_length

    # -- WRITE -----------------------------------------------------------------------------------
    def write(self, more: bool = True) -> list[int] | None:
        """Tokens of the next unit, [] where the answer ended instead, None where the policy wants to read more.

        more: whether there is more to read; False: the end of the source has been read, and it is WRITE whatever the head says.
        Raises ValueError before a unit was read and after a step that broke off; ModelError for logits that are not finite.
        """
        if self.ended:
            return []
        if self.units_read < 1:
            raise ValueError("write: read the instruction and a unit first")
        with self._step():
            return self._write(more)

    def _write(self, more: bool) -> list[int] | None:
        if self.policy.goal is not None and (self.boundary.kind == "ends" or not self.written):
            self._next_probe = int(math.ceil(float(self.policy.goal(torch.tensor(self.written)))))
        if more and self.units_read < self._next_probe:
            return None
        unit: list[int] = []
        while True:
            if self._held is None and self._full():
                self.ended = self.truncated = True
                return unit
            self._held = self._held or self._probe()
            token, probe = self._held
            if unit and self.boundary.kind == "opens" and self._begins(token):
                return unit  # the next unit's first token has a decision of its own, in the next call
            if not unit and more and self._decides(token) and not bool(self.policy.write(probe)):
                self._next_probe = self.units_read + self.every
                if self.policy.goal is not None:
                    self._next_probe = int(math.ceil(float(self.policy.goal(torch.tensor(self.written)))))
                return None
            self._held, self.pending = None, []
            if token == self.boundary.stop:
                self.ended = True
                return unit
            self.written += not unit
            unit.append(token)
            self.pending, self._read_at = [token], self.units_read
            if self.boundary.kind == "ends" and bool(self.boundary.table[token]):
                return unit
            if len(unit) >= self.max_unit:
                self.ended = self.truncated = True
                return unit

    def _full(self) -> bool:
        """Whether the answer has come to the model's last position, where it is cut."""
        room = positions(self.model)
        return room is not None and self.streams.target_length + len(self.pending) > room

    def _begins(self, token: int) -> bool:
        return token == self.boundary.stop or bool(self.boundary.table[token])

    def _decides(self, token: int) -> bool:
        """Within a unit there is no decision."""
        return self.boundary.kind == "ends" or self.written == 0 or self._begins(token)

    def _probe(self) -> tuple[int, Probe]:
        """The likeliest next token with what is read, and all that heads see of it. `pending` is fed."""
        fed, pairs = self.counts.fed, self.counts.pairs
        attention = None
        with shown(self.model, self.policy.needs - {"attention"}) as seen:
            if "attention" in self.policy.needs:
                watcher = LastRow(len(self.pending))
                with watched(self.model.get_decoder(), watcher):
                    logits = self.streams.feed(self.pending)[-1]
                attention = self._on_stream(torch.stack(watcher.weights))
            else:
                logits = self.streams.feed(self.pending)[-1]
        self.probes += 1
        self._cost = self.counts.fed - fed, self.counts.pairs - pairs
        logits = logits.float().clone()
        logits[[token for token in self.boundary.banned if token < len(logits)]] = float("-inf")  # a tokenizer may have more than the head
        logits[len(self.boundary.table) :] = float("-inf")
        if self.boundary.kind == "opens" and self.written and self.units_read > self._read_at:
            inner = torch.nn.functional.pad(~self.boundary.table, (0, len(logits) - len(self.boundary.table))).to(logits.device)
            inner[self.boundary.stop] = False  # a unit was ended before more was read: what follows must begin one
            logits = logits.masked_fill(inner, float("-inf"))
        best = int(logits.argmax())
        if not logits[best].isfinite():  # NaN, which argmax takes for the highest and a head for sure; or nothing may be written
            raise ModelError(f"the model prefers no token that may be written next (a logit of {logits[best].item()}): its numbers are not "
                             "finite (float16 overflows; load it in float32 or bfloat16), or its head has none of these tokens")
        read, written = torch.tensor(self.units_read), torch.tensor(self.written)
        return best, Probe(logits, read, written, seen["hidden"][0, -1] if "hidden" in seen else None, attention)

    def _on_stream(self, weights: Tensor) -> Tensor:
        """(layers, heads, S) in reading order, 0 on the instruction. weights (layers, heads, K): the cache has the source reversed."""
        source = weights[..., : self.streams.source_length].flip(-1).clone()
        source[..., : self.instruction] = 0
        return source

    def _take_back(self) -> None:
        self.streams.take_back(len(self.pending))
        fed, pairs = self._cost
        self.wasted = Wasted(self.wasted.probes + 1, self.wasted.fed + fed, self.wasted.pairs + pairs)
        self._held = None

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """Around a READ or a WRITE: it comes to its end or is the last. An error leaves layers of unequal length, and half a unit."""
        if self._half_way:
            raise ValueError("this session is half-way: a read or write broke off by an error or an interrupt, and what came next would be "
                             "another answer; make a new Session and read the stream again")
        self._half_way = True
        with eval_mode(self.model):
            yield
        self._half_way = False


def run(session: Session, units: Iterable, ending: Sequence[int], max_units: int = 512) -> Iterator[tuple[list[int], int]]:
    """Over a source that arrives unit by unit: yields (tokens of a unit, units of the source read by then) as they come.

    units: the instruction first, then the source's, ids or embeddings, as an iterator that may block. ending: ids of the end of the source,
    read as one more unit when it has ended. The session learns that the source has ended when it has, and not before. After max_units the
    answer is cut (0: before its first unit): `session.truncated` is set, and `session.ended` is not.

    Raises ValueError at the call for a session that has read something, whose answer would be one to both texts, a max_units that is no
    whole number, and an ending that is no unit; while it runs as `Session.read`, `Session.write` and `units`.
    """
    check_count("run: max_units", max_units, 0)
    tokens("run: ending", ending, session.model)
    _check_new(session)
    return _run(session, iter(units), ending, max_units)


def _run(session: Session, units: Iterator, ending: Sequence[int], max_units: int) -> Iterator[tuple[list[int], int]]:
    _check_new(session)  # once more: two runs may have been made before either began
    if (instruction := next(units, _END)) is _END:
        session.ended = True
    else:
        session.read(instruction)
    more, read, written = True, 0, 0
    while not session.ended and written < max_units:
        found = None if read == 0 else session.write(more)
        if found is None:
            if (unit := next(units, _END)) is not _END:
                session.read(unit)
                read += 1
            elif read == 0:
                session.ended = True
            else:
                session.read(ending)
                more = False
        elif found:
            written += 1
            yield found, read
    session.truncated |= not session.ended


def _check_new(session: Session) -> None:
    if (read := session.units_read) >= 0 or session.ended or session._half_way:
        raise ValueError(f"run: this session has read an instruction and {max(read, 0)} units of another stream; make a new Session")
