"""A key-value cache of two parts: a source and a target that grow apart and are joined when the target attends.

In streaming the source's states never depend on the target, so reading ahead, sharing one source between several
targets, and taking back a target token cost nothing. An ordinary cache cannot tell the two apart. Here every layer has
one buffer, filled from its middle in both directions,

    [ ... s2 s1 s0 | t0 t1 t2 ... ]

the source to the left (so in reverse), the target to the right. What a target query may see, the first `visible`
source tokens and all of the target, is then one contiguous slice: no copy and no mask at batch size one. The order of
columns does not matter to attention, because keys carry their rotary positions already. The buffer doubles when full.

    cache = TwoPartCache(model.config)
    with cache.reading():
        model(source_ids, position_ids=..., past_key_values=cache)           # the source, causal among itself
    with cache.writing(visible=n):
        model(target_ids, position_ids=..., past_key_values=cache)           # sees n source tokens and the target

Reading while writing, in two threads, needs two views, each with its own part open, of what the cache holds:

    reader, writer = cache.reader(), cache.writer(visible=n)                  # n: source tokens that have been read by now
    model(..., past_key_values=reader)  |  model(..., past_key_values=writer)

Rows of a batch with other numbers of source tokens, or padding, need a mask: `write_mask` has the order of columns.
For inference only (states are kept without their graph). Eager and SDPA, any model whose layers all attend fully.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ..errors import ModelError

READ, WRITE = "read", "write"


class LayersError(ModelError, TypeError):
    """A model whose attention cannot keep a source and a target apart."""


class WindowError(ModelError, ValueError):
    """A stream that has outgrown a sliding layer's window."""


class Buffers:
    """What a layer holds, whoever looks at it: keys, values (B, heads, capacity, head size); `middle` is the column of t0.

    lock: held while columns are filled or moved. Columns that were filled stay as they are, and a pass that has got its slices
    keeps them, also when the buffer has grown into a new one meanwhile.
    """

    def __init__(self, start: int):
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.start, self.middle = start, 0
        self.n_source = self.n_target = 0
        self.lock = threading.Lock()


def _of_buffers(name: str) -> property:
    return property(lambda self: getattr(self.buffers, name), lambda self, value: setattr(self.buffers, name, value))


class TwoPartLayer(CacheLayerMixin):
    """One layer: its buffers, and which part is open for whoever holds this layer."""

    is_sliding = False
    is_croppable = False
    keys, values, middle, start = map(_of_buffers, ("keys", "values", "middle", "start"))
    n_source, n_target = map(_of_buffers, ("n_source", "n_target"))

    def __init__(self, start: int = 64, buffers: Buffers | None = None, mode: str = READ, visible: int | None = None):
        # Without the base's own __init__, which would empty the buffers.
        self.buffers = buffers or Buffers(start)
        self.mode, self.visible, self.is_initialized = mode, visible, False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def _make_room(self, key_states: Tensor, value_states: Tensor) -> None:
        """Doubles the side that is full, keeping what is there."""
        n = key_states.shape[-2]
        left, right = self.middle, (0 if self.keys is None else self.keys.shape[-2]) - self.middle
        need_left = self.n_source + (n if self.mode == READ else 0)
        need_right = self.n_target + (n if self.mode == WRITE else 0)
        if self.keys is not None and need_left <= left and need_right <= right:
            return
        new_left = left if self.keys is not None and need_left <= left else max(2 * need_left, self.start)
        new_right = right if self.keys is not None and need_right <= right else max(2 * need_right, self.start)
        for name, states in (("keys", key_states), ("values", value_states)):
            old = getattr(self, name)
            new = states.new_zeros(*states.shape[:2], new_left + new_right, states.shape[-1])
            if old is not None:
                used = slice(self.middle - self.n_source, self.middle + self.n_target)
                new[..., new_left - self.n_source : new_left + self.n_target, :] = old[..., used, :]
            setattr(self, name, new)
        self.middle = new_left

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Appends to the part that is open; returns what its queries may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        with self.buffers.lock:
            return self._append(key_states, value_states)

    def _append(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        self._make_room(key_states, value_states)
        n = key_states.shape[-2]
        if self.mode == READ:
            low, high = self.middle - self.n_source - n, self.middle - self.n_source
            for buffer, states in ((self.keys, key_states), (self.values, value_states)):
                buffer[..., low:high, :] = states.detach().flip(-2)
            self.n_source += n
            # In reading order, so that the usual causal mask fits.
            return tuple(b[..., low : self.middle, :].flip(-2) for b in (self.keys, self.values))
        low = self.middle + self.n_target
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            buffer[..., low : low + n, :] = states.detach()
        self.n_target += n
        seen = slice(self.middle - self._seen(), self.middle + self.n_target)
        return self.keys[..., seen, :], self.values[..., seen, :]

    def _seen(self) -> int:
        return self.n_source if self.visible is None else self.visible

    def get_seq_length(self) -> int:
        return self.n_source if self.mode == READ else self._seen() + self.n_target

    def get_mask_sizes(self, query_length) -> tuple[int, int]:
        length = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.get_seq_length() + length, 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers 5.17

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized, self.n_source, self.n_target, self.middle = False, 0, 0, 0

    def part(self, name: str) -> tuple[Tensor, Tensor]:
        """Keys and values of "source" or "target" in reading order, (B, heads, tokens, head size)."""
        if name == "source":
            cut = slice(self.middle - self.n_source, self.middle)
            return self.keys[..., cut, :].flip(-2), self.values[..., cut, :].flip(-2)
        cut = slice(self.middle, self.middle + self.n_target)
        return self.keys[..., cut, :], self.values[..., cut, :]


def attention_window(config) -> int | None:
    """Columns within which every layer attends fully: None without sliding layers.

    A sliding window counts columns, and source and target do not lie in the order that it means; below the window the
    layer is an ordinary one. Raises LayersError for layers that are neither full nor sliding attention.
    """
    config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise LayersError(
            f"this model has {', '.join(sorted(others))} layers (config.layer_types), which cannot tell source from "
            "target; use a model whose layers attend fully, or slide with a window longer than the stream"
        )
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds or (not getattr(config, "layer_types", None) and window)
    return window if slides and getattr(config, "use_sliding_window", True) else None


def check_window(config, columns: int) -> None:
    """Raises WindowError if `columns` of source and target together exceed a sliding layer's window."""
    window = attention_window(config)
    if window is not None and columns > window:
        raise WindowError(
            f"source and target have {columns} tokens together, but this model has layers that see {window} "
            "(config.sliding_window) and would forget by column, source and target mixed up: shorten the stream"
        )


class TwoPartCache(Cache):
    """See the head of this file.

    config: of the model (its text part, for a multimodal one). start: columns that each part first has room for.
    Raises LayersError for layers that are neither full nor sliding attention, and WindowError when a stream outgrows the
    window of sliding ones.
    """

    def __init__(self, config, start: int = 64):
        config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        self.config = config
        attention_window(config)
        super().__init__(layers=[TwoPartLayer(start) for _ in range(config.num_hidden_layers)])

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if layer_idx == 0:
            check_window(self.config, self.source_length + self.target_length + key_states.shape[-2])
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    # -- which part is open ------------------------------------------------------------------
    @contextlib.contextmanager
    def reading(self) -> Iterator[TwoPartCache]:
        """Forward passes inside append to the source and see the source alone."""
        with self._open(READ, None):
            yield self

    @contextlib.contextmanager
    def writing(self, visible: int | None = None) -> Iterator[TwoPartCache]:
        """Forward passes inside append to the target; they see it and the first `visible` source tokens (None: all)."""
        if visible is not None:
            self._check_visible("writing", visible)
        with self._open(WRITE, visible):
            yield self

    @contextlib.contextmanager
    def _open(self, mode: str, visible: int | None) -> Iterator[None]:
        before = [(layer.mode, layer.visible) for layer in self.layers]
        for layer in self.layers:
            layer.mode, layer.visible = mode, visible
        try:
            yield
        finally:
            for layer, (mode, visible) in zip(self.layers, before):
                layer.mode, layer.visible = mode, visible

    # -- two threads -------------------------------------------------------------------------
    def reader(self) -> TwoPartCache:
        """A view through which a thread reads while another writes: passes append to the source and see the source alone."""
        return self._view(READ, None)

    def writer(self, visible: int | None = None) -> TwoPartCache:
        """A view through which a thread writes while another reads: passes append to the target; they see it and the first
        `visible` source tokens (None: those that have been read by now). Raises ValueError for tokens that no pass has read to
        its end. One reader and one writer at a time; on CUDA streams, whoever hands over `visible` waits for the reader's stream.
        """
        visible = self.source_length if visible is None else visible
        self._check_visible("writer", visible)
        return self._view(WRITE, visible)

    def _view(self, mode: str, visible: int | None) -> TwoPartCache:
        view = TwoPartCache(self.config, self.layers[0].start)
        view.layers = [TwoPartLayer(buffers=layer.buffers, mode=mode, visible=visible) for layer in self.layers]
        return view

    def _check_visible(self, what: str, visible: int) -> None:
        if not 0 <= visible <= self.source_length:
            raise ValueError(f"{what}(visible={visible}): {self.source_length} source tokens have been read")

    def write_mask(self, visible: Tensor, n_new: int, source_lengths: Tensor | None = None,
                   target_real: Tensor | None = None) -> Tensor:
        """Boolean (B, 1, n_new, columns) for the next pass inside `writing()` when rows differ.

        visible (B,) or (B, n_new): source tokens each row or query may see. source_lengths (B,): real source tokens.
        target_real (B, target tokens + n_new): False where a column of the target holds padding.
        """
        n_source, n_target = self.source_length, self.target_length
        visible = visible.reshape(len(visible), -1, 1)
        reverse = torch.arange(n_source - 1, -1, -1, device=visible.device)
        source = (reverse < visible).expand(-1, n_new, -1)
        if source_lengths is not None:
            source = source & (reverse < source_lengths[:, None])[:, None]
        column, row = torch.arange(n_target + n_new, device=visible.device), torch.arange(n_new, device=visible.device)
        target = (column <= n_target + row[:, None]).expand(len(visible), -1, -1)
        if target_real is not None:
            target = target & (target_real[:, None] | (column == n_target + row[:, None]))
        return torch.cat([source, target], -1)[:, None]

    # -- what is in it -----------------------------------------------------------------------
    @property
    def source_length(self) -> int:
        """Source tokens that went through all layers: the last one gets them last."""
        return self.layers[-1].n_source

    @property
    def target_length(self) -> int:
        return self.layers[-1].n_target

    def nbytes(self) -> int:
        """Bytes of the tokens held; the buffers have up to twice the room."""
        tokens = self.source_length + self.target_length
        return sum(tokens * b[..., :1, :].nbytes for layer in self.layers for b in (layer.keys, layer.values)
                   if b is not None)

    # -- changes -----------------------------------------------------------------------------
    def drop_target(self, n: int | None = None) -> None:
        """Forgets the last n target tokens (None: all). Raises ValueError if there are not so many."""
        n = self.target_length if n is None else n
        if not 0 <= n <= self.target_length:
            raise ValueError(f"drop_target({n}): the target has {self.target_length} tokens")
        for layer in self.layers:
            layer.n_target -= n

    def map_target_keys(self, change) -> None:
        """Replaces every layer's target keys (B, heads, T, head size) by change(keys, number of the layer), e.g. a rotation."""
        for number, layer in enumerate(self.layers):
            if layer.n_target:
                cut = slice(layer.middle, layer.middle + layer.n_target)
                layer.keys[..., cut, :] = change(layer.keys[..., cut, :], number)

    def fork(self, target: bool = False) -> TwoPartCache:
        """A second cache with the same source and an empty or the same target; the states are copied, and grow apart from here."""
        new = TwoPartCache(self.config, self.layers[0].start)
        for old, layer in zip(self.layers, new.layers):
            if old.keys is not None:
                layer.update(*old.part("source"))  # a new layer reads
                if target:
                    TwoPartLayer(buffers=layer.buffers, mode=WRITE).update(*old.part("target"))
        return new
