"""Thinking while the input arrives: a reader fills the source, a writer thinks, and one cursor says what a thought may see.

Algorithm 1 of the paper, on the two parts of one cache (common/streaming): unit u is written under segments 0 .. u, however far the
reader is ahead. So what is written is a function of the input alone and never of timing; who runs when is a schedule's business:

    Serial      one worker: reads the next segment when a unit ends (what the released code does). ahead: segments that it reads
                earlier than needed, before a token, as a test may ask
    Threads     two workers: a thread reads whatever has arrived, while this one writes
    Streams     as Threads, the reader on a CUDA stream of its own, an event a segment

    reasoner = Reasoner(model, Tokens(...))
    for event in reasoner.think(segments, depth=2): ...

`segments` may block: a segment is read when it is there, and the source has ended when the iterator has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from common.errors import ModelError, UserError
from common.streaming import given
from common.streaming.two_streams import TwoStreams

from . import method
from .probe import check_live, check_positions

END: Any = object()  # no segment: None among them is a mistake, and no end


class BadInput(UserError, ValueError):
    """Text or settings that the reasoner cannot take."""


@dataclass(frozen=True)
class Tokens:
    """Ids. instruction: s_0. header: what the target begins with. ends: tokens that end a unit; boundary: the one forced at the cap.
    cues: {depth: what is forced behind the last unit}. answer: the token after which the answer stands (<EOR>, or A). stop: ends the text.
    forbidden: tokens that the input must not contain, for they would pass for structure. closing: what ends the user's turn; the deep part
    sees it, no unit does, for nobody knows that a sentence is the last one before the input has ended."""

    instruction: tuple[int, ...]
    header: tuple[int, ...]
    ends: frozenset[int]
    boundary: int
    cues: dict[int, tuple[int, ...]]
    answer: int
    stop: int
    forbidden: frozenset[int] = frozenset()
    closing: tuple[int, ...] = ()

    def check(self, segment: Sequence[int], number: int) -> None:
        """Raises BadInput for an id that is structure before the segment's last: a user who writes <EOT> must not end a thought."""
        if wrong := sorted(self.forbidden & set(segment[:-1])):
            raise BadInput(f"segment {number} contains token {wrong[0]}, which marks structure and may not stand in a user's text: "
                           "encode the text with split_special_tokens=True, or leave the mark out")


@dataclass(frozen=True)
class Event:
    """kind: read (segment number is in the source), unit (written), answer (its first token), end. at: seconds since the start.
    tokens: of the unit, or of the whole rest."""

    kind: str
    number: int
    at: float
    tokens: tuple[int, ...] = ()


@dataclass
class Thought:
    """What came of an input. m: tokens from the last unit's end to the first answer token, the forced cue counted."""

    units: list[list[int]] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    source: list[int] = field(default_factory=list)  # tokens of each segment
    m: int = 0
    truncated: bool = False

    def at(self, kind: str, number: int = -1) -> float:
        """When the event of a kind with this number (-1: the last) happened."""
        times = [e.at for e in self.events if e.kind == kind and number in (-1, e.number)]
        if not times:
            raise BadInput(f"no event {kind} {number}: the thought was cut before")
        return times[-1]


# -- who runs when -----------------------------------------------------------------------------------------
class Serial:
    """One worker. ahead(): segments to be read beyond what is needed, asked before each token; default none."""

    def __init__(self, ahead: Callable[[], int] = lambda: 0):
        self.ahead = ahead

    @contextmanager
    def reading(self, read_one: Callable[[], bool]) -> Iterator[Serial]:
        self.read_one, self.done = read_one, 0
        self.ended = False
        yield self

    def _more(self) -> None:
        if not self.ended and self.read_one():
            self.done += 1
        else:
            self.ended = True

    def wait(self, count: int) -> int:
        """Returns when `count` segments have been read or the source has ended: how many there are."""
        while self.done < count and not self.ended:
            self._more()
        return self.done

    def step(self) -> None:
        """Between two tokens."""
        for _ in range(self.ahead()):
            self._more()


class Threads:
    """A reader thread beside the writer. on_stream: a context for the reader's passes, entered in its thread; published: called there
    after each segment; before: called by the writer before it uses a newly published segment."""

    def __init__(self, on_stream: Callable = nullcontext, published: Callable = lambda: None, before: Callable = lambda: None):
        self.on_stream, self.published, self.before = on_stream, published, before

    @contextmanager
    def reading(self, read_one: Callable[[], bool]) -> Iterator[Threads]:
        self.done, self.ended, self.error = 0, False, None
        self.changed, self.stopped = threading.Condition(), False

        def work() -> None:
            try:
                with self.on_stream():
                    while not self.stopped and read_one():
                        self.published()
                        with self.changed:
                            self.done += 1
                            self.changed.notify_all()
            except BaseException as error:  # what the reader meets, the writer raises
                self.error = error
            with self.changed:
                self.ended = True
                self.changed.notify_all()

        thread = threading.Thread(target=work, name="reader", daemon=True)
        thread.start()
        try:
            yield self
            thread.join()
        finally:
            self.stopped = True
        if self.error:
            raise self.error

    def wait(self, count: int) -> int:
        with self.changed:
            self.changed.wait_for(lambda: self.done >= count or self.ended)
        if self.error:
            raise self.error
        self.before()
        return self.done

    def step(self) -> None:
        pass


def streams() -> Threads:
    """Threads whose reader has a CUDA stream of its own. Raises UserError without a CUDA device."""
    if not torch.cuda.is_available():
        raise UserError("the schedule with CUDA streams needs a CUDA device, and there is none: use threads")
    own, events = torch.cuda.Stream(), []
    return Threads(lambda: torch.cuda.stream(own), lambda: events.append(own.record_event()),
                   lambda: [torch.cuda.current_stream().wait_event(e) for e in events[-1:]])


SCHEDULES: dict[str, Callable] = {"serial": Serial, "threads": Threads, "streams": streams}


# -- the reasoner ------------------------------------------------------------------------------------------
class Reasoner:
    """One input at a time (batches: common/streaming/batched.py, for scores). start: the target's first position. unit_cap, rest_cap: most
    tokens of a unit, whose boundary is then forced, and of the rest. choose: logits (V,) -> token, default the likeliest.

    Raises ModelError for a model that cannot keep two streams apart.
    """

    def __init__(self, model: nn.Module, tokens: Tokens, start: int = 0, unit_cap: int = 64, rest_cap: int = 256,
                 choose: Callable[[torch.Tensor], int] = lambda logits: int(logits.argmax()),
                 clock: Callable[[], float] = time.perf_counter):
        method.check_model(model)
        check_live(model, method)
        if unit_cap < 1 or rest_cap < 1:
            raise BadInput(f"caps of {unit_cap} and {rest_cap} tokens: at least 1 each")
        self.model, self.tokens, self.start, self.caps = model, tokens, start, (unit_cap, rest_cap)
        self.choose, self.clock = choose, clock

    def think(self, segments: Iterable[Sequence[int]], depth: int = 2, schedule: str | Serial | Threads = "serial",
              told: Callable[[Event], None] = lambda event: None) -> Thought:
        """Reads and thinks to the end. segments: ids of the question and the sentences, each with its end mark. told: hears of each event
        as it happens, in the thread where it does. Of no segment nothing is thought. Raises BadInput for a depth without a cue, or a
        segment that is no row of this model's ids or holds one that is structure; ModelError for logits that are no numbers."""
        if depth not in self.tokens.cues:
            raise BadInput(f"depth {depth}: there is {', '.join(map(str, sorted(self.tokens.cues)))}")
        workers = SCHEDULES[schedule]() if isinstance(schedule, str) else schedule
        two, thought, began = TwoStreams(self.model, self.start), Thought(), self.clock()
        reads = [len(self.tokens.instruction)]  # tokens of the source behind segment k
        coming = iter(segments)
        self._read(two, self.tokens.instruction)

        def note(kind: str, number: int, tokens: Sequence[int] = ()) -> None:
            event = Event(kind, number, self.clock() - began, tuple(tokens))
            thought.events.append(event)
            told(event)

        def read_one() -> bool:
            if (coming_next := next(coming, END)) is END:
                return False
            segment = self._ids(coming_next, len(thought.source))
            self._read(two, segment)
            reads.append(reads[-1] + len(segment))
            thought.source.append(len(segment))
            note("read", len(thought.source) - 1)
            return True

        with workers.reading(read_one) as schedule_:
            self._write(two, thought, reads, schedule_, depth, note)
        return thought

    whole = False  # whether all of the input, its end too, is read before anything is written

    def sight(self, reads: Sequence[int], unit: int) -> int:
        """Source tokens that unit number `unit` sees: what was there when it became due, and nothing that came since."""
        return reads[unit + 1]

    def _ids(self, segment: Sequence[int], number: int) -> list[int]:
        """Raises BadInput for what is no row of ids that this model has, and as `Tokens.check`."""
        try:
            ids = given.tokens(f"segment {number}", segment, self.model, or_embeddings=False).tolist()
        except ValueError as error:
            raise BadInput(f"segment {number} is {type(segment).__name__} {str(segment)[:40]!r}, and no sequence of token ids of this "
                           f"model: encode its text ({error})") from error
        self.tokens.check(ids, number)
        return ids

    def _chosen(self, two: TwoStreams, token: int, visible: int) -> int:
        """What follows a token that is fed. Raises ModelError where the logits are no numbers: argmax would take NaN for the highest."""
        logits = self._feed(two, [token], visible)[-1]
        if not logits.amax().isfinite():
            raise ModelError(f"the model prefers no token (a logit of {logits.amax().item()}): its numbers are not finite (float16 "
                             "overflows; load it in float32 or bfloat16)")
        return self.choose(logits)

    def _read(self, two: TwoStreams, tokens: Sequence[int]) -> None:
        check_positions(self.model, two.source_length + len(tokens) - 1)
        two.read(tokens)

    def _feed(self, two: TwoStreams, tokens: Sequence[int], visible: int) -> torch.Tensor:
        check_positions(self.model, self.start + two.target_length + len(tokens) - 1)
        return two.feed(tokens, visible)

    def _write(self, two: TwoStreams, thought: Thought, reads: list[int], schedule, depth: int, note: Callable) -> None:
        tokens, header = self.tokens, list(self.tokens.header)
        if not schedule.wait(1 << 30 if self.whole else 1):
            return note("end", 0)  # nothing was asked
        closing = tokens.closing
        if self.whole and closing:
            self._read(two, closing)
            reads[-1] += len(closing)
            closing = ()
        if header[:-1]:
            self._feed(two, header[:-1], reads[-1 if self.whole else 0])
        current, unit = header[-1], 0
        while schedule.wait(unit + 1) > unit:  # a unit for each segment that comes
            written: list[int] = []
            while True:
                schedule.step()
                chosen = self._chosen(two, current, self.sight(reads, unit))
                if len(written) + 1 >= self.caps[0] and chosen not in tokens.ends:
                    chosen, thought.truncated = tokens.boundary, True
                written.append(chosen)
                current = chosen
                if chosen in tokens.ends:
                    break
            thought.units.append(written)
            note("unit", unit, written)
            unit += 1
        if closing:
            self._read(two, closing)
        everything, answered = reads[-1] + len(closing), False
        for forced in tokens.cues[depth]:
            self._feed(two, [current], everything)
            current = forced
        thought.m = len(tokens.cues[depth])
        while len(thought.rest) < self.caps[1]:
            chosen = self._chosen(two, current, everything)
            thought.rest.append(chosen)
            if not answered:
                thought.m += 1
            if thought.rest[-2:-1] == [tokens.answer] and not answered:
                answered = True
                note("answer", 0, [chosen])
            if chosen == tokens.stop:
                break
            current = chosen
        thought.truncated |= thought.rest[-1] != tokens.stop
        note("end", 0, thought.rest)
