"""Two streams through one model: `read` a unit of the source when it comes, `feed` target tokens when they are chosen.

The source attends to itself alone, a target token to the source that is visible to it and to the target before it, and each
stream counts its own positions, the source from 0, the target from phi. So nothing that was encoded depends on what comes
later, and nothing need be encoded twice; both streams lie in one `TwoPartCache` (caches.py).

    streams = TwoStreams(model)
    streams.read(unit)                                # token ids, or embeddings
    logits = streams.feed([first])                    # sees all that was read by now, and the target
    streams.read(unit)
    streams.take_back(1)                              # what the last token predicts may see more now,
    logits = streams.feed([first])                    # so it is fed again

When to read, what to write, and other positions than these are a policy's and a method's, which use this. `feed` may run in
one thread while another reads: give it `visible`, the source that had been read when the two were last in step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .caches import LayersError, TwoPartCache


@dataclass
class Counts:
    """What was done. fed: tokens that went through the model, those fed again included. pairs: (query, key) pairs attended.
    rotated: cached keys that were changed in place. reads, writes: passes over the source and over the target."""

    fed: int = 0
    pairs: int = 0
    rotated: int = 0
    reads: int = 0
    writes: int = 0


class TwoStreams:
    """See the head of this file. phi: the target's first position, any real number. One sentence; for inference only.

    Raises LayersError for a model whose attention is neither SDPA nor eager or not full in every layer, and WindowError as soon as
    source and target together outgrow a sliding layer's window.
    """

    def __init__(self, model: nn.Module, phi: float = 0.0):
        attention = model.config.get_text_config(decoder=True)._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise LayersError(f"{type(model).__name__} uses attention {attention!r}; what a target token sees of the source is a slice "
                            "of the cache, which is tested with attn_implementation sdpa and eager: load it with one of them")
        self.model, self.phi = model, phi
        self.cache = TwoPartCache(model.config)
        self.counts = Counts()
        self._counting = threading.Lock()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def source_length(self) -> int:
        """Source tokens that have been read."""
        return self.cache.source_length

    @property
    def target_length(self) -> int:
        """Target tokens that have been fed and not taken back."""
        return self.cache.target_length

    @torch.no_grad()
    def read(self, unit: Sequence[int] | Tensor, positions: Sequence[float] | Tensor | None = None) -> None:
        """Encodes the next source tokens against the source so far: ids (n,), or embeddings (n, width).

        positions (n,): ids of their own; default source_length and on. May run ahead of what is fed.
        Raises ValueError for a unit without tokens.
        """
        unit = torch.as_tensor(unit, device=self.device)
        n, start = len(unit), self.source_length
        if not n:
            raise ValueError("read: a unit without tokens")
        if positions is None:
            positions = torch.arange(start, start + n)
        self._run(unit, positions, self.cache.reader(), 1)
        with self._counting:
            self.counts.reads += 1
            self._count(n, start)

    @torch.no_grad()
    def feed(self, tokens: Sequence[int] | Tensor, visible: int | None = None,
             positions: Sequence[float] | Tensor | None = None, keep: int = 1) -> Tensor:
        """Logits (keep, V) of the last `keep` of these target tokens (0: of all), ids (n,) or embeddings (n, width).

        visible: source tokens that they see, the first ones; None: all that have been read. positions (n,): ids of their own;
        default phi + target_length and on. Raises ValueError for no tokens, or more visible than read.
        """
        tokens = torch.as_tensor(tokens, device=self.device)
        n, before = len(tokens), self.target_length
        if not n:
            raise ValueError("feed: no target token")
        seen = self.source_length if visible is None else visible
        if positions is None:
            first = int(self.phi) if float(self.phi).is_integer() else float(self.phi)
            positions = torch.arange(before, before + n) + first
        logits = self._run(tokens, positions, self.cache.writer(seen), keep)
        with self._counting:
            self.counts.writes += 1
            self._count(n, seen + before)
        return logits

    def take_back(self, n: int | None = None) -> None:
        """Forgets the last n target tokens (None: all), as if they had not been fed; `counts` stay. Raises ValueError if there are
        not so many."""
        self.cache.drop_target(n)

    @torch.no_grad()
    def change_target_keys(self, change: Callable[[Tensor, int], Tensor]) -> None:
        """Replaces every layer's target keys (1, heads, T, head size) by change(keys, number of the layer), e.g. a rotation."""
        self.cache.map_target_keys(change)
        self.counts.rotated += self.target_length

    def fork(self) -> TwoStreams:
        """The same two streams once more, with counts from 0: from here they grow apart. The states are copied."""
        new = TwoStreams(self.model, self.phi)
        new.cache = self.cache.fork(target=True)
        return new

    # -- the model -------------------------------------------------------------------------------
    def _run(self, tokens: Tensor, positions, view: TwoPartCache, keep: int) -> Tensor:
        inputs = {"inputs_embeds" if tokens.is_floating_point() else "input_ids": tokens[None]}
        positions = torch.as_tensor(positions, device=self.device)
        out = self.model(**inputs, position_ids=positions[None], past_key_values=view, use_cache=True, logits_to_keep=keep)
        return out.logits[0]

    def _count(self, n: int, before: int) -> None:
        """n tokens that attend to `before` others, and causally among themselves."""
        self.counts.fed += n
        self.counts.pairs += n * before + n * (n + 1) // 2
