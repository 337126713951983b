"""Layers of the tower inside a stock decoder, by hooks on its blocks: internal direct (3.5) and internal modular (3.6).

    with Internal(decoder, fusion) as internal:
        internal.pictures = Pictures.of(extras, where)         # where (B, S): the slots of visual tokens in the sequence
        decoder(inputs_embeds=...)                             # or decoder.generate(...): only the prefill gets additions

Direct: before block l_j the states of visual slots, and no others, get P_j(f_j) added. Modular: every slot asks the pictures that
begin at it or before it, so that text before a picture never sees it. With n a norm without weights:

    pre        h += tanh(g1) CA(n h, v);  h += tanh(g2) MLP(n h);  then the block
    post       the block; then the same two
    parallel   tanh(g1) CA(norm h, v) beside the block's own attention, tanh(g2) MLP(norm h) beside its own MLP, by its own norms

Gates start at 0: then the model is the plain one, bit for bit. Keys and values of a picture are made once for a prompt where nothing
learns. Hooks add and never write in place, and a block that is recomputed (gradient checkpointing) sees the pictures of its own
prompt, so that several prompts may come before one backward.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import blocks_of, check


# -- pictures of a batch -----------------------------------------------------------------------------------
@dataclass
class Pictures:
    """What the blocks get, for one prompt of B rows.

    extras: for each point (M, N, d), the pictures of all rows one after the other. where (B, S): the slots of their tokens, in the
    same order. order (B, S): which slot comes before which, by default as they stand. kept: keys and values by point.
    """

    extras: list[Tensor]
    where: Tensor
    order: Tensor
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, extras: Sequence[Tensor], where: Tensor, order: Tensor | None = None) -> Pictures:
        """Raises ValueError where the slots are not as many as the tokens, or a row's are no whole number of pictures."""
        where = where.bool()
        if order is None:
            order = torch.arange(where.shape[1], device=where.device).expand_as(where)
        for states in extras:
            if int(where.sum()) != states.shape[0] * states.shape[1] or bool((where.sum(1) % states.shape[1]).any()):
                raise ValueError(f"{int(where.sum())} visual slots (by row {where.sum(1).tolist()}) for {states.shape[0]} pictures of "
                                 f"{states.shape[1]} tokens")
        return cls(list(extras), where, order)

    def added(self, number: int, start: int, width: int, rows: int) -> Tensor | None:
        """(rows, width, d): what slots start .. start + width - 1 get of a point; None where none of them is a picture's."""
        where = self.where[:, start : start + width]
        if not bool(where.any()):
            return None
        states = self.extras[number]
        whole = states.new_zeros(*self.where.shape, states.shape[-1]).masked_scatter(self.where[..., None], states)
        part = F.pad(whole[:, start : start + width], (0, 0, 0, width - where.shape[1]))
        return _rows(part, rows)

    def by_row(self, number: int) -> Tensor:
        """(B, n, d): a row's visual tokens, padded behind with zeros to the most that a row has."""
        states, real = self.extras[number], self.real
        return states.new_zeros(*real.shape, states.shape[-1]).masked_scatter(real[..., None], states)

    @property
    def real(self) -> Tensor:
        counts = self.where.sum(1, keepdim=True)
        return torch.arange(int(counts.max()), device=self.where.device) < counts

    def seen(self, start: int, width: int, rows: int) -> Tensor:
        """(rows, width, n) bool: whether a slot sees a visual token: from where its picture begins, and all of it."""
        n, real = self.extras[0].shape[1], self.real
        slots = (~self.where).int().argsort(dim=1, stable=True)[:, : real.shape[1]]  # of each visual token
        first = slots.gather(1, torch.arange(real.shape[1], device=slots.device).expand_as(slots) // n * n)
        begins = self.order.gather(1, first)
        order = self.order[:, start : start + width]
        written = order.new_full((len(order), width - order.shape[1]), torch.iinfo(order.dtype).max)  # behind the prompt
        order = torch.cat([order, written], 1)
        return _rows(real[:, None] & (begins[:, None] <= order[:, :, None]), rows)


def _rows(tensor: Tensor, rows: int) -> Tensor:
    """Beams of a row share its pictures: rows are repeated where a batch has several times as many."""
    return tensor if len(tensor) == rows else tensor.repeat_interleave(rows // len(tensor), 0)


# -- internal modular --------------------------------------------------------------------------------------
def plain_norm(states: Tensor) -> Tensor:
    """RMS norm without weights."""
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    return (wide * (wide.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()).to(states.dtype)


class GatedCrossAttention(nn.Module):
    """4 d^2 + 3 d f + 2 parameters: attention to a picture without biases and positions, an MLP like the decoder's, two gates."""

    def __init__(self, d: int, f: int, heads: int, mlp: bool = True):
        super().__init__()
        if d % heads:
            raise ValueError(f"width {d} does not divide by {heads} heads")
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.gate_1 = nn.Parameter(torch.zeros(1))
        self.up, self.gate, self.down = (nn.Linear(*size, bias=False) if mlp else None for size in ((d, f), (d, f), (f, d)))
        self.gate_2 = nn.Parameter(torch.zeros(1)) if mlp else None

    def keys_values(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Each (B, heads, n, d / heads) of (B, n, d)."""
        k, v = (part(picture).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.k, self.v))
        return k, v

    def attend(self, query: Tensor, kv: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        """tanh(g1) CA: (B, T, d) from query (B, T, d); zero where a slot sees nothing. seen (B, T, n) bool."""
        q = self.q(query).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        anything = seen.any(-1, keepdim=True)
        out = F.scaled_dot_product_attention(q, *kv, attn_mask=(seen | ~anything)[:, None])
        return self.gate_1.tanh() * (self.o(out.transpose(1, 2).flatten(2)) * anything)

    def transform(self, normed: Tensor) -> Tensor:
        """tanh(g2) MLP(normed); 0 without an MLP."""
        if self.up is None or self.gate is None or self.down is None or self.gate_2 is None:
            return normed.new_zeros(())
        return self.gate_2.tanh() * self.down(F.silu(self.gate(normed)) * self.up(normed))


class Inside(Protocol):
    """What is read of a fusion (method.Fusion, multimodal.New): blocks, the settings of its kind, a cross-attention for each block."""

    config: Any
    points: tuple[int, ...]
    cross: nn.ModuleList


# -- hooks -------------------------------------------------------------------------------------------------
CHECKPOINT = "_gradient_checkpointing_func"  # of a block: what transformers lets recompute its forward


class Internal:
    """Fusion in the blocks of a stock *ForCausalLM (or any model whose get_decoder() has `layers`), from `attach` to `detach`.

    pictures: of the prompt that comes next; None for text alone. Raises Unfit naming the property for which the decoder cannot be used.
    """

    def __init__(self, decoder: nn.Module, fusion: Inside):
        self.inner, self.fusion, self.pictures = blocks_of(decoder), fusion, None
        self.start, self._hooks = 0, []
        if fusion.points:
            check(decoder, fusion.points, fusion.config.variant == "parallel" and fusion.config.pattern == "modular")

    pictures: Pictures | None
    _hooks: list[Any]

    def attach(self) -> Internal:
        if self._hooks:
            return self
        add = self._hooks.append
        if self.fusion.points:
            add(self.inner.register_forward_pre_hook(self._begin, with_kwargs=True))
        for number, point in enumerate(self.fusion.points):
            block: Any = self.inner.layers[point]
            variant = self.fusion.config.variant if self.fusion.config.pattern == "modular" else "direct"
            if variant == "direct":
                add(block.register_forward_pre_hook(partial(_before, partial(self._direct, number)), with_kwargs=True))
            elif variant == "pre":
                add(block.register_forward_pre_hook(partial(_before, partial(self._modular, number)), with_kwargs=True))
            elif variant == "post":
                add(block.register_forward_hook(partial(_behind, partial(self._modular, number))))
            else:
                add(block.self_attn.register_forward_hook(partial(_beside, partial(self._attended, number)), with_kwargs=True))
                if self.fusion.config.mlp:
                    add(block.mlp.register_forward_hook(partial(_beside, partial(self._transformed, number)), with_kwargs=True))
        return self

    def detach(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        for point in self.fusion.points:
            block: Any = self.inner.layers[point]
            found = getattr(block, CHECKPOINT, None)
            if isinstance(found, _Recomputed) and found.internal is self:
                setattr(block, CHECKPOINT, found.stock)
        self.pictures = None

    __enter__ = attach

    def __exit__(self, *error: Any) -> None:
        self.detach()

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """How much of the sequence the cache holds: the slots of this pass begin there."""
        cache = kwargs.get("past_key_values")
        self.start = int(cache.get_seq_length()) if cache is not None else 0
        for point in self.fusion.points:
            block: Any = self.inner.layers[point]
            stock = getattr(block, CHECKPOINT, None)
            if stock is not None and not (isinstance(stock, _Recomputed) and stock.internal is self):
                setattr(block, CHECKPOINT, _Recomputed(self, stock))

    def _direct(self, number: int, h: Tensor) -> Tensor:
        added = None if self.pictures is None else self.pictures.added(number, self.start, h.shape[1], len(h))
        return h if added is None else h + added.to(h.dtype)

    def _modular(self, number: int, h: Tensor) -> Tensor:
        h = h + self._attended(number, plain_norm(h))
        return h + self._transformed(number, plain_norm(h))

    def _cross(self, number: int) -> GatedCrossAttention:
        cross = self.fusion.cross[number]
        assert isinstance(cross, GatedCrossAttention)
        return cross

    def _attended(self, number: int, normed: Tensor) -> Tensor:
        cross, pictures = self._cross(number), self.pictures
        if pictures is None or not bool(pictures.where.any()):
            return normed.new_zeros(())
        if number not in pictures.kept or torch.is_grad_enabled():  # what learns is made anew at each pass
            pictures.kept[number] = cross.keys_values(pictures.by_row(number).to(normed.dtype))
        k, v = (_rows(part, len(normed)) for part in pictures.kept[number])
        return cross.attend(normed, (k, v), pictures.seen(self.start, normed.shape[1], len(normed)))

    def _transformed(self, number: int, normed: Tensor) -> Tensor:
        return self._cross(number).transform(normed)

    def __deepcopy__(self, memo: dict) -> Internal:
        """Of a model that is copied with its fusion on: hooks, blocks and weights are the copy's own, and it has no picture yet."""
        made = memo[id(self)] = object.__new__(type(self))
        for name, value in vars(self).items():
            setattr(made, name, None if name == "pictures" else copy.deepcopy(value, memo))
        return made


class _Recomputed:
    """A block's checkpoint function with the pictures of the pass: the block is recomputed when another prompt may have come since,
    and hooks inside of it read them."""

    def __init__(self, internal: Internal, stock: Callable):
        self.internal, self.stock = internal, stock

    def __call__(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        internal = self.internal
        of_this_pass = internal.pictures, internal.start

        def run(*args: Any, **kwargs: Any) -> Any:
            now = internal.pictures, internal.start
            internal.pictures, internal.start = of_this_pass
            try:
                return function(*args, **kwargs)
            finally:
                internal.pictures, internal.start = now

        return self.stock(run, *args, **kwargs)


# Hooks are partials of functions and methods, and no closures: those are what `copy.deepcopy` gives the copied model its own of.
def _before(change: Callable[[Tensor], Tensor], module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}


def _behind(change: Callable[[Tensor], Tensor], module: nn.Module, args: tuple, output: Any) -> Any:
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def _beside(more: Callable[[Tensor], Tensor], module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    """Adds to a sub-layer's output what `more` makes of its input."""
    given = args[0] if args else kwargs["hidden_states"]
    return (output[0] + more(given), *output[1:]) if isinstance(output, tuple) else output + more(given)
