"""One live stream: `read` a source unit when it comes, `write` a target word when the policy says so.

The paper's decoding (spec 3.6): a READ encodes the new source tokens against the source alone, a WRITE the new target tokens
against both, which `common/streaming/two_streams.py` does and counts. Here stand words and arms: a WRITE feeds tokens until a
word has ended. After a READ the last target token is fed again, because what it predicts may now see more; nothing else is
ever encoded twice.

The arms that keep source and target apart run here, and the two re-encoding baselines: "reencoded" turns the cached
target keys at each READ, `refresh` encodes the whole target again. Interleaved-streaming keeps one cache in order of
arrival. `decoding.stream` does all this for a batch; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.streaming.caches import TwoPartCache
from common.streaming.two_streams import Counts, TwoStreams
from common.streaming.words import Boundary

from .method import Arm, check_model
from .probe import check_length, reach
from .reencoding import rotate, rotation, turns_of


class Chosen(NamedTuple):
    """A target token and how many source tokens had been read when it was chosen."""

    token: int
    written: int


class Word(NamedTuple):
    """What a WRITE gave. tokens: of one word, [] if the text ended instead. ended: nothing more will come."""

    tokens: list[int]
    ended: bool


class Session:
    """A stream in progress. opening: ids of v_0. max_word: tokens of one word at most, a guard against a model that
    never ends one (`Word.ended` is then True and `truncated` is set). ended: nothing more will come. truncated: it was cut.

    Raises ModelError as `method.check_model`, and ValueError for an arm that no live stream can run.
    """

    def __init__(self, model: nn.Module, arm: Arm, boundary: Boundary, opening: Sequence[int], max_word: int = 32):
        check_model(model, arm)
        if arm.interleaved or arm.source_sees != "nothing" or (arm.positions == "contiguous" and not arm.refresh):
            raise ValueError("Session runs arms whose source sees no target, with ids that a live stream can know; "
                             "decoding.stream runs the others")
        self.model, self.arm, self.boundary, self.max_word = model, arm, boundary, max_word
        self.opening = list(opening)
        self.streams, self.reach = TwoStreams(model, arm.phi), reach(model)
        self.turns = turns_of(model) if arm.two_frames else []
        self.target: list[Chosen] = []  # fed, in order
        self.pending: list[Chosen] = []  # chosen, not fed yet
        self.ended, self.truncated = False, False
        self._at_frame = 0
        self._last_word: int | None = None
        self._must_open = False

    @property
    def cache(self) -> TwoPartCache:
        return self.streams.cache

    @property
    def counts(self) -> Counts:
        return self.streams.counts

    # -- READ ------------------------------------------------------------------------------------
    def read(self, unit: Sequence[int] | Tensor) -> None:
        """Encodes one source unit: token ids, or embeddings (tokens, width). May run ahead of what is written.

        Raises ValueError for a unit without tokens, and ModelError beyond the model's reach.
        """
        constant, read = self.arm.positions in ("no_source", "none"), self.cache.source_length
        ids = torch.zeros(len(unit), dtype=torch.int64) if constant else torch.arange(read, read + len(unit))
        check_length(self.reach, self.cache.target_length + read + len(unit), ids)
        self.streams.read(unit, ids)

    # -- WRITE -----------------------------------------------------------------------------------
    def write(self, more_source: bool = True) -> Word:
        """The next word, seeing all source read so far. more_source: whether a READ will follow this word.

        With word ends that only show when the next word opens, that opening is dropped if a READ follows, and kept as
        the beginning of the next word if none does.
        """
        if self.ended:
            return Word([], True)
        if not self.target and not self.pending:
            self.pending = [Chosen(token, self.cache.source_length) for token in self.opening]
        self._prepare()
        word: list[int] = []
        if self._last_word is not None:  # kept from the call before
            word.append(self._last_word)
            self._last_word = None
        b, logits = self.boundary, None
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
        return Word(word, self.ended)

    def _keep(self, token: int) -> None:
        if token == self.boundary.stop:
            self.ended = True
        else:
            self._last_word = token
            self.pending.append(Chosen(token, self.cache.source_length))

    def _choose(self, logits: Tensor, inside: bool) -> int:
        b = self.boundary
        logits = logits.clone()
        logits[list(b.banned)] = float("-inf")
        logits[len(b.table) :] = float("-inf")  # rows of the head that no token has
        if self._must_open and not inside:
            closed = torch.nn.functional.pad(~b.table, (0, len(logits) - len(b.table))).to(logits.device)
            closed[b.stop] = False
            logits = logits.masked_fill(closed, float("-inf"))
            self._must_open = False
        return int(logits.argmax())

    def _prepare(self) -> None:
        """After a READ: what the arm does about target tokens that were encoded before it."""
        read = self.cache.source_length
        if read == 0:
            raise ValueError("write: nothing has been read yet; call read() with the instruction and a unit first")
        if read == self._at_frame:
            return
        if self.arm.two_frames and self.target:
            shift = torch.tensor([read - self._at_frame], device=self.streams.device)
            self.streams.change_target_keys(lambda keys, layer: rotate(keys, *rotation(shift, self.turns[layer]), self.turns[layer]))
        if self.arm.refresh:
            self.streams.take_back()
            self.pending = self.target + self.pending
            self.target = []
        elif not self.pending and self.target:
            self.streams.take_back(1)
            self.pending = [self.target.pop()]
        self._at_frame = read

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


def run(session: Session, units: Iterable[Sequence[int] | Tensor], ending: Sequence[int], k: int | None,
        max_words: int = 512) -> Iterator[tuple[list[int], int]]:
    """Wait-k over a source that arrives unit by unit: yields (tokens of a word, words read by then) as they come.

    units: the instruction first, then the words, as an iterator that may block. ending: ids of the end marker, read
    as one more unit when the source has ended. k None: reads everything first. An empty source has an empty answer. After
    max_words the text is cut: `session.truncated` is set, and `session.ended` is not.
    """
    units = iter(units)
    if (instruction := next(units, None)) is not None:
        session.read(instruction)
    read, open_source, written = 0, True, 0
    while not session.ended and written < max_words:
        while open_source and (k is None or read < k + written):
            unit = next(units, None)
            if unit is None and not read:
                session.ended = True
                return
            if unit is None:
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
