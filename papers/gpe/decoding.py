"""Streaming decoding of many sentences at once: a READ or a WRITE is one step, and unread source does not exist yet.

Every row of the batch is a stream of its own. In each step it feeds one token, the next source token if its policy
wants more read, else the next target token, into one cache in order of arrival; `is_source` says which columns are
which, and the arm's rules become a mask over them. Nothing that a row has not read is in the cache, so no mask can leak
it. All arms of method.py run here, with the ids that a stream can know:

    word ends   "ends": known from a word's last token. "opens": seen when the next word's first token is sampled; that
                sample is thrown away, more is read, the last token is fed again with what it may see now (its first
                copy is masked out), and the word is predicted again, now surely as the opening of one.
    refresh     KV re-encoding: after a READ all target tokens are fed again.

`stream` gives the words, when each was written (`delays`, in source units read) and how many tokens were fed.
`session.py` does the same for one endless stream with the two-part cache.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.streaming.units import Example
from common.streaming.words import Boundary

from .method import Arm, check_model, mask_for
from .probe import check_length, reach
from .reencoding import in_two_frames, turns_of


class _Now(NamedTuple):
    """Of each row, while tokens are chosen: how many are known, the goal, whether a word must open, whether it is done. chosen:
    (row, place in the target, token, goal), of each token."""

    known: list[int]
    goal: list[int]
    must_open: list[bool]
    done: list[bool]
    chosen: list[tuple[int, int, int, int]]


@dataclass
class Streamed:
    """One decoded stream. words: token ids of each; delays: source units (without prompt and end) read when it ended.

    truncated: it hit max_target. fed: tokens forwarded. logits: with keep_logits, those that chose each token, (T', V).
    """

    words: list[list[int]] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    truncated: bool = False
    fed: int = 0
    logits: list[Tensor] = field(default_factory=list)

    def text(self, tokenizer) -> str:
        return tokenizer.decode([token for word in self.words for token in word], skip_special_tokens=True).strip()


@torch.no_grad()
def stream(model: nn.Module, arm: Arm, examples: Sequence[Example], boundary: Boundary, k: int | None,
           max_target: int | Sequence[int] = 64, forced: bool = False, keep_logits: bool = False,
           project=None) -> list[Streamed]:
    """Greedy wait-k streaming of all examples as one batch; only source, its units and v_0 of an example are used.

    k None reads everything first: batch processing with the arm's ids. max_target: target tokens at most, prompt
    included, for all or for each. An empty source (no unit between u_0 and the end) has an empty answer. forced: write the
    example's own target, whatever the model prefers (for tests and timing). project(features) -> embeddings, for sources
    with frames. Raises ModelError as method.forward.
    """
    check_model(model, arm)
    return _Streams(model, arm, examples, boundary, k, max_target, forced, keep_logits, project).run()


class _Streams:
    """The state of a batch of streams. Vectors have an entry a row; what is counted row by row is in lists, which are faster there."""

    LISTS = ("examples", "out", "sizes", "ends", "limits", "n_words", "word_length")

    def __init__(self, model, arm, examples, boundary, k, max_target, forced, keep_logits, project):
        self.model, self.arm, self.boundary, self.k = model, arm, boundary, k
        self.examples, self.forced, self.keep_logits = examples, forced, keep_logits
        self.device, self.reach = next(model.parameters()).device, reach(model)
        n = self.n = len(examples)
        if k is not None and k < 1:
            raise ValueError(f"stream: k = {k}; one unit must be read before the first word (k >= 1, or None)")
        self.units = torch.tensor([len(e.source_units) for e in examples])
        # read[b, u]: tokens of the first u units
        self.read = torch.zeros(n, int(self.units.max()) + 1, dtype=torch.int64)
        for b, e in enumerate(examples):
            self.read[b, 1 : len(e.source_units) + 1] = torch.tensor(e.source_units).cumsum(0)
        self.embeddings = self._embed_sources(project)
        self.sizes, self.ends, self.marks = self.units.tolist(), self.read.tolist(), boundary.table.tolist()
        self.opening = torch.tensor([e.target_units[0] for e in examples])
        limit = torch.as_tensor(max_target).expand(n).clone()
        self.limit = torch.tensor([len(e.target) for e in examples]) if forced else limit.clamp(min=1) + self.opening
        self.limits, width = self.limit.tolist(), int(self.limit.max()) + 1
        self.tokens = torch.zeros(n, width, dtype=torch.int64)
        for b, e in enumerate(examples):
            self.tokens[b, : self.opening[b]] = e.target[: self.opening[b]]
        self.n_words, self.word_length = [0] * n, [0] * n
        self.pointer = torch.zeros(n, dtype=torch.int64)  # source tokens fed
        self.goal = torch.tensor([self._goal(row) for row in range(n)])
        self.known, self.fed = self.opening.clone(), torch.zeros(n, dtype=torch.int64)  # target tokens chosen, fed
        self.written = self.goal[:, None].expand(-1, width).clone()
        self.started = torch.zeros(n, dtype=torch.bool)  # the first READ is over
        self.must_open = torch.zeros(n, dtype=torch.bool)
        self.done = (self.units == 2) & (not forced)  # an empty source has an empty answer
        self.is_source = torch.zeros(n, 0, dtype=torch.bool)
        self.alive = torch.zeros(n, 0, dtype=torch.bool)
        self.out = [Streamed() for _ in examples]
        self.total = torch.zeros(n, dtype=torch.int64)

    def _embed_sources(self, project) -> Tensor:
        """(B, S, width): embeddings of all source tokens. They are looked up, not encoded: no context is in them."""
        table, rows = self.model.get_input_embeddings(), []
        for e in self.examples:
            row = table(e.source.clamp(min=0).to(self.device))
            if e.features is not None:
                row = torch.where((e.source < 0)[:, None].to(self.device), project(e.features.to(self.device)).to(row.dtype), row)
            rows.append(row)
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _goal(self, row: int) -> int:
        """Source tokens that must have been read before the row's next word: cum(1 + g(j))."""
        units = self.sizes[row]
        return self.ends[row][units if self.k is None else min(1 + self.k + self.n_words[row], units)]

    # -- one step --------------------------------------------------------------------------------
    def run(self) -> list[Streamed]:
        from transformers import DynamicCache

        self.cache, everyone = DynamicCache(), self.out
        self.turns = turns_of(self.model) if self.arm.two_frames else []
        with in_two_frames(self.model) if self.arm.two_frames else contextlib.nullcontext():
            while not self.done.all():
                source, target = self._choose()
                logits = self._feed(source, target)
                self._advance(source, target)
                ready = ~self.done & (self.fed == self.known) & (self.pointer >= self.goal) & (source | target)
                if ready.any():
                    self._sample(logits, ready)
                    self._let_go()
        return everyone

    def _let_go(self) -> None:
        """Takes finished rows out of the batch, once they are a quarter of it: sentences end at very different times."""
        for row in self.done.nonzero()[:, 0].tolist():
            self.out[row].fed = int(self.total[row])
        keep = (~self.done).nonzero()[:, 0]
        if len(keep) == 0 or 4 * len(keep) > 3 * self.n:
            return
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[keep])
        for name in self.LISTS:
            rows = getattr(self, name)
            setattr(self, name, [rows[i] for i in keep.tolist()])
        self.cache.batch_select_indices(keep.to(self.device))
        self.n = len(keep)

    def _choose(self) -> tuple[Tensor, Tensor]:
        """Which rows feed a source token, and which a target token, in this step."""
        wants_read, has_target = self.pointer < self.goal, self.fed < self.known
        if self.arm.interleaved:  # what was written comes first, then what was read after it
            target = has_target & (self.started | ~wants_read)
        else:
            target = has_target & ~wants_read
        target &= ~self.done
        return wants_read & ~target & ~self.done, target

    def _feed(self, source: Tensor, target: Tensor) -> Tensor:
        rows, arm = torch.arange(self.n), self.arm
        at_source = self.pointer.clamp(max=self.embeddings.shape[1] - 1)
        t = self.fed.clamp(max=self.tokens.shape[1] - 1)
        token = self.model.get_input_embeddings()(self.tokens[rows, t].to(self.device))
        inputs = torch.where(source[:, None].to(self.device), self.embeddings[rows, at_source], token)
        self.is_source = torch.cat([self.is_source, source[:, None]], 1)
        self.alive = torch.cat([self.alive, (source | target)[:, None]], 1)
        sees = self.alive & (self.is_source | target[:, None] | (arm.source_sees != "nothing"))
        sees[:, -1] = True
        self.total += source | target
        mask, frames = sees[:, None, None], {}
        if arm.two_frames:
            frames = dict(frame_shift=torch.where(target, self.pointer, 0)[:, None].to(self.device),
                          frame_source=self.is_source.to(self.device), frame_turns=self.turns)
        else:
            mask = mask_for(self.model, mask)
        ids = torch.where(source, self._source_ids(), self._target_ids(rows, t))[:, None]
        check_length(self.reach, sees.shape[1], ids)
        return self.model(inputs_embeds=inputs[:, None], attention_mask=mask.to(self.device),
                          position_ids=ids.to(self.device), past_key_values=self.cache, use_cache=True,
                          **frames).logits[:, -1].float().cpu()

    def _source_ids(self) -> Tensor:
        kind = self.arm.positions
        if kind == "arrival":
            return self.pointer + torch.where(self.started, self.known, 0)
        return torch.zeros_like(self.pointer) if kind in ("no_source", "none") else self.pointer

    def _target_ids(self, rows: Tensor, t: Tensor) -> Tensor:
        kind, phi = self.arm.positions, self.arm.phi
        if kind in ("frozen", "arrival"):
            return self.written[rows, t] + t
        if kind == "contiguous":  # of the text read so far when it is encoded again; else of all of it (an oracle's)
            return t + (self.pointer if self.arm.refresh else self.read.gather(1, self.units[:, None])[:, 0])
        ids = torch.zeros_like(t) if kind in ("no_target", "none") else t
        return ids + (int(phi) if float(phi).is_integer() else phi)

    def _advance(self, source: Tensor, target: Tensor) -> None:
        self.pointer += source.long()
        self.fed += target.long()
        self.started |= self.pointer >= self.goal

    # -- after a step: choose the next token, or finish, or read on -------------------------------
    def _sample(self, logits: Tensor, ready: Tensor) -> None:
        b = self.boundary
        logits[:, list(b.banned)] = float("-inf")
        logits[:, len(b.table) :] = float("-inf")  # rows of the head that no token has
        if self.must_open.any():  # a word was ended before the READ: what follows must begin one
            inside = ~b.table.clone()
            inside[b.stop] = False
            inside = torch.nn.functional.pad(inside, (0, logits.shape[1] - len(inside)))
            logits = logits.masked_fill(self.must_open[:, None] & inside, float("-inf"))
        best = logits.argmax(-1).tolist()
        now = _Now(self.known.tolist(), self.goal.tolist(), self.must_open.tolist(), self.done.tolist(), [])
        for row in ready.nonzero()[:, 0].tolist():
            token = best[row]
            if self.forced:
                example = self.examples[row]
                token = int(example.target[now.known[row]]) if now.known[row] < len(example.target) else b.stop
            if self.keep_logits and not now.must_open[row]:
                self.out[row].logits.append(logits[row])
            elif self.keep_logits:
                self.out[row].logits[-1] = logits[row]  # the prediction after the READ is the one that counts
            self._write(row, token, now)
        if now.chosen:
            rows, at, tokens, goals = torch.tensor(now.chosen).T
            self.tokens[rows, at], self.written[rows, at] = tokens, goals
        self.known, self.goal = torch.tensor(now.known), torch.tensor(now.goal)
        self.must_open, self.done = torch.tensor(now.must_open), torch.tensor(now.done)

    def _write(self, row: int, token: int, now: _Now) -> None:
        out, stop = self.out[row], token == self.boundary.stop
        opens = self.boundary.kind == "opens"
        if opens and self.word_length[row] > 0 and not now.must_open[row] and (stop or self.marks[token]):
            self._end_word(row, now)
            if self._read_on(row, now):
                now.must_open[row] = True
                self._take_back(row)
                return
        now.must_open[row] = False
        if stop:
            if self.word_length[row]:
                self._end_word(row, now)
            now.done[row] = True
            return
        if self.word_length[row] == 0:
            out.words.append([])
        out.words[-1].append(token)
        now.chosen.append((row, now.known[row], token, now.goal[row]))
        now.known[row] += 1
        self.word_length[row] += 1
        if not opens and self.marks[token]:
            self._end_word(row, now)
            if self._read_on(row, now) and self.arm.refresh:
                self._forget_target(row)
        if now.known[row] >= self.limits[row] and not self.forced:
            if self.word_length[row]:
                self._end_word(row, now)
            now.done[row] = out.truncated = True

    def _end_word(self, row: int, now: _Now) -> None:
        units = self.sizes[row]
        read = bisect_right(self.ends[row], now.goal[row], 1, units + 1) - 2  # units after u_0
        self.out[row].delays.append(min(read, units - 2))
        self.n_words[row] += 1
        self.word_length[row] = 0

    def _read_on(self, row: int, now: _Now) -> bool:
        """Moves the row's goal; whether that means a READ."""
        before, now.goal[row] = now.goal[row], self._goal(row)
        return now.goal[row] > before

    def _take_back(self, row: int) -> None:
        """After a READ the last target token is fed again, with what it may see then."""
        if self.arm.refresh:
            self._forget_target(row)
        elif not self.arm.interleaved:
            last = (self.alive[row] & ~self.is_source[row]).nonzero()[-1]
            self.alive[row, last] = False
            self.fed[row] -= 1

    def _forget_target(self, row: int) -> None:
        self.alive[row] &= self.is_source[row]
        self.fed[row] = 0
