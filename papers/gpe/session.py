"""One live stream: `read` a source unit when it comes, `write` a target word when the policy says so.

The paper's decoding (spec 3.6): a READ encodes the new source tokens against the source alone, a WRITE the new target tokens
against both, which `common/streaming/two_streams.py` does and counts. Here stand words and arms: a WRITE feeds tokens until a
word has ended. After a READ the last target token is fed again, because what it predicts may now see more; nothing else is
ever encoded twice.

The arms that keep source and target apart run here, and the two re-encoding baselines: "reencoded" turns the cached
target keys at each READ, `refresh` encodes the whole target again. Interleaved-streaming keeps one cache in order of
arrival. `decoding.stream` does all this for a batch; a test holds the two equal.

A session is of one text: what would give other words without a sign (a second text, dropout, a step that broke off and is tried
again) is refused, or cannot happen.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.modes import eval_mode
from common.streaming.caches import TwoPartCache
from common.streaming.given import check_count, tokens
from common.streaming.two_streams import Counts, TwoStreams
from common.streaming.words import Boundary

from .method import Arm, check_model
from .probe import check_length, reach
from .reencoding import rotate, rotation, turns_of

MOST = 1 << 24  # from there on positions in fp32 are not apart
_END = object()  # of the units; None is a mistake and no end


class Chosen(NamedTuple):
    """A target token and how many source tokens had been read when it was chosen."""

    token: int
    written: int


class Word(NamedTuple):
    """What a WRITE gave. tokens: of one word, [] if the text ended instead. ended: nothing more will come."""

    tokens: list[int]
    ended: bool


class Session:
    """A stream in progress. opening: ids of v_0, one at least. max_word: tokens of one word at most, a guard against a model that
    never ends one (`Word.ended` is then True and `truncated` is set). ended: nothing more will come. truncated: it was cut.

    The model reads and writes in eval mode, whatever mode it is in, and has its own again after each `read` and `write`: dropout would
    draw other words each time. An error or an interrupt in the midst of one leaves the stream half-way, and all that follow are refused.
    Raises ModelError as `method.check_model`, and ValueError for an arm that no live stream can run, a phi that is no finite number below
    2^24, a boundary of no known kind, and an opening or a max_word that is none.
    """

    def __init__(self, model: nn.Module, arm: Arm, boundary: Boundary, opening: Sequence[int], max_word: int = 32):
        if not math.isfinite(arm.phi) or abs(arm.phi) >= MOST:  # before the model is measured with it
            raise ValueError(f"phi {arm.phi}: the first target position is a number, less than {MOST:,}")
        check_model(model, arm)
        if arm.interleaved or arm.source_sees != "nothing" or (arm.positions == "contiguous" and not arm.refresh):
            raise ValueError("Session runs arms whose source sees no target, with ids that a live stream can know; "
                             "decoding.stream runs the others")
        if boundary.kind not in ("ends", "opens"):
            raise ValueError(f"boundary: kind is {boundary.kind!r}, not ends or opens")
        check_count("max_word", max_word, 1)
        self.model, self.arm, self.boundary, self.max_word = model, arm, boundary, max_word
        self.opening: list[int] = tokens("opening", opening, model, or_embeddings=False).tolist()
        self.streams, self.reach = TwoStreams(model, arm.phi), reach(model)
        self.turns = turns_of(model) if arm.two_frames else []
        self.target: list[Chosen] = []  # fed, in order
        self.pending: list[Chosen] = []  # chosen, not fed yet
        self.ended, self.truncated = False, False
        self._at_frame = 0
        self._last_word: int | None = None
        self._must_open = False
        self._half_way = False  # in the midst of a READ or a WRITE, or left there

    @property
    def cache(self) -> TwoPartCache:
        return self.streams.cache

    @property
    def counts(self) -> Counts:
        return self.streams.counts

    # -- READ ------------------------------------------------------------------------------------
    def read(self, unit: Sequence[int] | Tensor) -> None:
        """Encodes one source unit: token ids (n,), or embeddings (n, width). May run ahead of what is written.

        After the end of the text it is encoded all the same, and nothing answers it: who reads ahead cannot know.
        Raises ValueError for a unit without tokens, ids that the model has no embedding of, embeddings of another width or not finite, and
        after a step that broke off; ModelError beyond the model's reach.
        """
        unit = tokens("read", unit, self.model)
        constant, read = self.arm.positions in ("no_source", "none"), self.cache.source_length
        ids = torch.zeros(len(unit), dtype=torch.int64) if constant else torch.arange(read, read + len(unit))
        check_length(self.reach, self.cache.target_length + read + len(unit), ids)
        with self._step():
            self.streams.read(unit, ids)

    # -- WRITE -----------------------------------------------------------------------------------
    def write(self, more_source: bool = True) -> Word:
        """The next word, seeing all source read so far; Word([], True) after the end. more_source: whether a READ will follow this word.

        With word ends that only show when the next word opens, that opening is dropped if a READ follows, and kept as
        the beginning of the next word if none does. Where it was dropped and none followed, it is chosen again, for one pass more.
        Raises ValueError before anything was read and after a step that broke off; ModelError beyond the model's reach, and for logits
        that are not finite.
        """
        if self.ended:
            return Word([], True)
        if self.cache.source_length == 0:
            raise ValueError("write: nothing has been read yet; call read() with the instruction and a unit first")
        with self._step():
            word = self._write_word(more_source)
        return Word(word, self.ended)

    def _write_word(self, more_source: bool) -> list[int]:
        if not self.target and not self.pending:
            self.pending = [Chosen(token, self.cache.source_length) for token in self.opening]
        self._prepare()
        word = [] if self._last_word is None else [self._last_word]  # kept from the call before
        self._last_word, b = None, self.boundary
        while True:
            logits = self._feed_pending()
            token = self._choose(logits, bool(word))
            if b.kind == "opens" and word and (token == b.stop or b.table[token]):
                if more_source:
                    self._must_open = True
                else:
                    self._keep(token)
                break
            if token == b.stop:
                self.ended = True
                break
            word.append(token)
            self.pending.append(Chosen(token, self.cache.source_length))
            if b.kind == "ends" and b.table[token]:
                break
            if len(word) >= self.max_word:
                self.ended = self.truncated = True
                break
        return word

    def _keep(self, token: int) -> None:
        if token == self.boundary.stop:
            self.ended = True
        else:
            self._last_word = token
            self.pending.append(Chosen(token, self.cache.source_length))

    def _choose(self, logits: Tensor, inside: bool) -> int:
        b = self.boundary
        logits = logits.clone()
        logits[[token for token in b.banned if token < len(logits)]] = float("-inf")  # a tokenizer may have more than the head
        logits[len(b.table) :] = float("-inf")  # rows of the head that no token has
        if self._must_open and not inside:
            closed = torch.nn.functional.pad(~b.table, (0, len(logits) - len(b.table))).to(logits.device)
            closed[b.stop] = False
            logits = logits.masked_fill(closed, float("-inf"))
            self._must_open = False
        best = int(logits.argmax())
        if not logits[best] > float("-inf"):  # NaN, which argmax takes for the highest, or nothing that may be written
            raise ModelError(f"the model prefers no token that may be written next (a logit of {logits[best].item()}): its numbers are not "
                             "finite (float16 overflows; load it in float32 or bfloat16), or its head has none of these tokens")
        return best

    def _prepare(self) -> None:
        """What the arm does after a READ about target tokens that were encoded before it; and something to feed in any case."""
        read = self.cache.source_length
        if read != self._at_frame:
            if self.arm.two_frames and self.target:
                shift = torch.tensor([read - self._at_frame], device=self.streams.device)
                self.streams.change_target_keys(lambda keys, layer: rotate(keys, *rotation(shift, self.turns[layer]), self.turns[layer]))
            if self.arm.refresh:
                self.streams.take_back()
                self.pending = self.target + self.pending
                self.target = []
            self._at_frame = read
        if not self.pending and self.target:  # the next word's opening was dropped: the last token predicts it again
            self.streams.take_back(1)
            self.pending = [self.target.pop()]

    def _feed_pending(self) -> Tensor:
        """Feeds chosen target tokens; logits (V,) of the last one."""
        before = self.cache.target_length
        ids = [self._position(before + i, chosen.written) for i, chosen in enumerate(self.pending)]
        check_length(self.reach, self.cache.source_length + before + len(ids), torch.tensor(ids))
        logits = self.streams.feed([chosen.token for chosen in self.pending], positions=ids)
        self.target += self.pending
        self.pending = []
        return logits[-1].float()

    def _position(self, t: int, written: int) -> float:
        kind, phi = self.arm.positions, self.arm.phi
        if kind == "frozen":  # the id that it was first given, also when it is fed again
            return written + t
        if kind in ("reencoded", "contiguous"):
            return self.cache.source_length + t
        start = int(phi) if float(phi).is_integer() else phi
        return start + (0 if kind in ("no_target", "none") else t)

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """Around a READ or a WRITE: it comes to its end or is the last. An error leaves layers of unequal length, and half a word."""
        if self._half_way:
            raise ValueError("this session is half-way: a read or write broke off by an error or an interrupt (or still runs in another "
                             "thread), and what came next would be other words; make a new Session and read the text again")
        self._half_way = True
        with eval_mode(self.model):
            yield
        self._half_way = False


def run(session: Session, units: Iterable[Sequence[int] | Tensor], ending: Sequence[int], k: int | None,
        max_words: int = 512) -> Iterator[tuple[list[int], int]]:
    """Wait-k over a source that arrives unit by unit: yields (tokens of a word, words read by then) as they come.

    session: a new one for each text. units: the instruction first, then the words, as an iterator that may block. ending: ids of the end
    marker, read as one more unit when the source has ended. k None: reads everything first. An empty source has an empty answer. After
    max_words the text is cut (0: before its first word): `session.truncated` is set, and `session.ended` is not.

    Raises ValueError at the call, before the first word is asked for: for a session that was used, a k below 1, max_words below 0, either
    of them no whole number, and an ending that is no unit. While it runs: as `Session.read`, `Session.write` and `units`.
    """
    if k is not None:
        check_count("run: k", k, 1, ", or None to read everything first")
    check_count("run: max_words", max_words, 0)
    tokens("run: ending", ending, session.model)
    _check_new(session)
    return _run(session, iter(units), ending, k, max_words)


def _run(session: Session, units: Iterator[Sequence[int] | Tensor], ending: Sequence[int], k: int | None,
         max_words: int) -> Iterator[tuple[list[int], int]]:
    _check_new(session)  # once more: two runs may have been made before either began
    if (instruction := next(units, _END)) is not _END:
        session.read(instruction)
    read, open_source, written = 0, True, 0
    while not session.ended and written < max_words:
        while open_source and (k is None or read < k + written):
            unit = next(units, _END)
            if unit is _END and not read:
                session.ended = True
                return
            if unit is _END:
                session.read(ending)
                open_source = False
            else:
                session.read(unit)
                read += 1
        word = session.write(more_source=open_source)
        if word.tokens:
            written += 1
            yield word.tokens, read
    session.truncated |= not session.ended


# -- what is given -----------------------------------------------------------------------------------------
def _check_new(session: Session) -> None:
    if session.counts.reads or session.pending or session.ended or session._half_way:
        raise ValueError(f"run: this session is of another text, {session.cache.source_length} tokens of which have been read, and would "
                         "answer both together; make a new Session for each text")
