"""A stock model under a pruner: tokens that a pruner drops really leave the layers behind it, in prefill and in the cache.

    with PruningSession(llava, VisiPruner(paper())) as session:      # LlavaForConditionalGeneration, as transformers built it
        ids = llava.generate(input_ids=..., pixel_values=..., attention_mask=...)
    session.trace.filter_layers, session.trace.kept, session.trace.exit_layers

    with PruningSession(decoder, pruner, visual=where):              # a decoder with projected features: where (B, S) bool
        decoder(inputs_embeds=..., attention_mask=...)

In each layer the pruner sees the attention of the last prompt token (common/attention.py) and answers which slots go on. From
the next layer on hidden states, rotary tables, position ids and mask hold these slots only; rows that keep fewer are padded on
the left. The cache of a layer holds what the layer saw, so layers have different lengths while its logical length, from which
positions follow, stays that of the whole prompt (`PrunedCache`). Behind the last layer the states return to their slots, zero
where a token was dropped. A layer from which nothing was dropped gets what the stock model gives it, bit for bit.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from common.attention import Edit, Rows, watched
from common.errors import ModelError, UserError
from common.probe import in_use, measurable, rounding


@dataclass
class View:
    """What stands in a layer: slots (B, n) of the prompt, -1 at padding; visual (B, n) among them; last (B,) the column of the last
    prompt token; n_prompt: slots of the whole prompt."""

    slots: Tensor
    visual: Tensor
    last: Tensor
    n_prompt: int

    @property
    def real(self) -> Tensor:
        return self.slots >= 0

    def causal(self) -> Tensor:
        """(B, n, n) bool: slots see real slots up to themselves; padding sees itself, so that its softmax is finite."""
        seen = self.real[:, None, :] & (self.slots[:, None, :] <= self.slots[:, :, None])
        return seen | torch.eye(self.slots.shape[1], dtype=torch.bool, device=self.slots.device)


class Pruner(Protocol):
    """What decides. One object serves many prompts: `begin` is called at each."""

    def begin(self, view: View, n_layers: int) -> None: ...

    def see(self, layer: int, rows: Rows) -> None:
        """The attention of the last token in a layer that `wants` it, before `edit` is asked."""

    def edit(self, layer: int, view: View) -> Edit | None:
        """Which (query, key) pairs of this layer are touched in prefill."""

    def wants(self, layer: int) -> bool:
        """Whether `keep` needs this layer's attention of the last token."""

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        """(B, n) bool: the slots that go on behind this layer; None for all. Only visual ones may go."""

    def cached(self, layer: int, view: View) -> Tensor | None:
        """(B, n) bool: the slots whose keys stay for decoding, asked at the end of prefill; None for all."""


@dataclass
class Trace:
    """What happened to a prompt. tokens, visual [layer][row]: tokens that a layer computed, and visual ones among them; cached
    [layer][row]: prompt keys that it keeps for decoding."""

    tokens: list[list[int]] = field(default_factory=list)
    visual: list[list[int]] = field(default_factory=list)
    cached: list[list[int]] = field(default_factory=list)
    kept: dict[int, list[Tensor]] = field(default_factory=dict)  # layer -> slots of visual tokens behind it, by row, where they changed


class PrunedCache(DynamicCache):
    """A cache whose layers hold different numbers of prompt tokens. real[l] (B, n_l): which of a layer's prompt keys are tokens.

    `get_seq_length` is the logical length: prompt and what was written since, whatever the layers dropped. Only a session can read
    it, since a stock model has one mask for all layers: written to outside of one it raises ModelError.
    """

    def __init__(self, n_prompt: int):
        super().__init__()
        self._begin(n_prompt)

    def _begin(self, n_prompt: int) -> None:
        self.n_prompt, self.written = n_prompt, 0
        self.real: dict[int, Tensor] = {}
        self.in_session = True

    @classmethod
    def of(cls, cache: DynamicCache, n_prompt: int) -> PrunedCache:
        """The caller's own empty cache, which becomes one that can be pruned: he holds the same object before and after."""
        cache.__class__ = cls
        assert isinstance(cache, PrunedCache)
        cache._begin(n_prompt)
        return cache

    def update(self, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.in_session:
            raise ModelError("this cache holds a pruned prompt, and its layers hold different numbers of keys: decode with it inside of "
                             "`with PruningSession(...)`")
        return super().update(*args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.n_prompt + self.written if self.real else super().get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def keep(self, layer: int, real: Tensor, columns: Tensor | None) -> None:
        """Notes what the layer holds; columns (B, m) int: keys that stay, -1 for padding on the left."""
        if columns is not None:
            held, index = self.layers[layer], columns.clamp(min=0)[:, None, :, None]
            held.keys = held.keys.gather(2, index.expand(-1, held.keys.shape[1], -1, held.keys.shape[3]))
            held.values = held.values.gather(2, index.expand(-1, held.values.shape[1], -1, held.values.shape[3]))
            real = columns >= 0
        self.real[layer] = real

    def bytes(self) -> int:
        return sum(each.keys.nbytes + each.values.nbytes for each in self.layers)

    def _of_rows(self, change) -> None:
        self.real = {layer: change(real) for layer, real in self.real.items()}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._of_rows(lambda real: real.index_select(0, beam_idx.to(real.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._of_rows(lambda real: real.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._of_rows(lambda real: real[indices])

    def crop(self, tokens_to_remove: int) -> None:
        if -tokens_to_remove > self.written:
            raise UserError(f"cannot take back {-tokens_to_remove} tokens: {self.written} were written behind the prompt, and what was "
                            "dropped of it cannot be brought back; run the prompt again")
        if tokens_to_remove > 0:  # transformers before 5.18 takes it for a length, which no two layers here need to have in common
            raise ValueError(f"crop({tokens_to_remove}): a positive number is refused; give as a negative one how many tokens to take back")
        super().crop(tokens_to_remove)
        self.written += tokens_to_remove

    def reset(self) -> None:
        super().reset()
        self._begin(0)


# -- the session -------------------------------------------------------------------------------------------
class PruningSession:
    """Hooks on an unchanged model, from `with` to the end of it. See the module's docstring.

    visual (B, S) bool: where visual tokens stand, for input that carries no image tokens. Raises ModelError for a model whose layers
    cannot be pruned (by property), and for what happens outside of what a session holds: a cache of another session, say.
    """

    def __init__(self, model: nn.Module, pruner: Pruner, visual: Tensor | None = None, check: bool = True):
        if check:
            check_model(model)
        self.model, self.pruner, self.given = model, pruner, visual
        self.decoder = model.get_decoder()
        self.trace = Trace()
        self._by_ids: Tensor | None = None  # where image tokens stand in the ids of this call
        self._views: list[View] = []  # of each layer of a prefill, as far as it has come
        self._view: View | None = None  # of the layer that runs; None while decoding
        self._cache: PrunedCache | None = None
        self._fresh = 0  # tokens of a call behind the prompt
        self._tail: Tensor | None = None  # (B, written) which of the tokens behind the prompt are real
        self._looked: Rows | None = None

    def __enter__(self) -> PruningSession:
        stack = ExitStack()
        stack.enter_context(watched(self.decoder, self))
        hooks = [self.decoder.register_forward_pre_hook(self._begin, with_kwargs=True), self.decoder.register_forward_hook(self._end)]
        if self.model is not self.decoder:
            hooks.append(self.model.register_forward_pre_hook(self._see_ids, with_kwargs=True))
        for number, layer in enumerate(self.decoder.layers):
            hooks.append(layer.register_forward_pre_hook(self._before(number), with_kwargs=True))
            hooks.append(layer.register_forward_hook(self._after(number)))
        for hook in hooks:
            stack.callback(hook.remove)
        self._stack = stack
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()
        if self._cache is not None:
            self._cache.in_session = False
        self._view = self._cache = None

    def __deepcopy__(self, memo: dict) -> PruningSession:
        raise ModelError("a model cannot be copied while it is pruned: its copy would carry this session's hooks; copy it before `with`")

    # -- a call begins
    def _see_ids(self, module, args, kwargs) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        token = getattr(module.config, "image_token_id", None)
        self._by_ids = None if ids is None or token is None else ids == token

    def _begin(self, module, args, kwargs):
        for name in ("deepstack_visual_embeds", "visual_pos_masks"):
            if kwargs.get(name) is not None:
                raise ModelError(f"the model adds visual features again in later layers ({name}): dropped tokens would come back")
        embeds = kwargs.get("inputs_embeds")
        embeds = args[0] if embeds is None and args else embeds
        source = kwargs["input_ids"] if embeds is None else embeds
        batch, width = source.shape[:2]
        by_ids, self._by_ids = self._by_ids, None  # of this call alone: a part of the model may be called by itself next
        cache = kwargs.get("past_key_values")
        if cache is not None and (not isinstance(cache, DynamicCache) or cache.offloading):
            kind = f"{type(cache).__name__}{', offloaded' if isinstance(cache, DynamicCache) else ''}"
            raise ModelError(f"{kind}: a pruned model's layers hold different numbers of keys; use the dynamic one as it is")
        mask = kwargs.get("attention_mask")
        if cache is not None and cache.get_seq_length() > 0:
            if not isinstance(cache, PrunedCache):
                raise ModelError("this cache was filled outside of a pruning session; run the prompt inside of it")
            self._cache, self._view, self._fresh, cache.in_session = cache, None, width, True
            self._tail = None if mask is None or mask.dim() != 2 else mask[:, cache.n_prompt :].bool()
            if by_ids is not None and bool(by_ids.any()):
                raise ModelError("a picture behind the prompt: give all pictures in the first call")
            return None
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            raise ModelError("attention_mask must be (batch, tokens): which tokens are real; who sees whom follows from it")
        real = torch.ones(batch, width, dtype=torch.bool, device=source.device) if mask is None else mask.bool()
        visual = self.given if self.given is not None else by_ids
        if visual is None:
            raise ModelError("where are the visual tokens? Give visual=(batch, tokens) bool, or input_ids with the model's image token")
        if len(visual) and batch % len(visual) == 0:  # beams and several samples a prompt repeat its row
            visual = visual.repeat_interleave(batch // len(visual), 0)
        if tuple(visual.shape) != (batch, width):
            raise ModelError(f"visual is {tuple(visual.shape)}, the prompt {(batch, width)}")
        slots = torch.where(real, torch.arange(width, device=source.device), -1)
        self._view, self._views, self.trace = View(slots, visual.to(source.device) & real, slots.argmax(1), width), [], Trace()
        self.pruner.begin(self._view, len(self.decoder.layers))
        caching = kwargs.get("use_cache")
        caching = self.decoder.config.use_cache if caching is None else caching
        self._cache = None if not caching else PrunedCache(width) if cache is None else PrunedCache.of(cache, width)
        kwargs["past_key_values"] = self._cache
        return args, kwargs

    # -- a layer
    def _before(self, number: int):
        def hook(module, args, kwargs):
            states = args[0] if args else kwargs["hidden_states"]
            if self._view is None:
                kwargs["attention_mask"] = self._decoding_mask(number, states)
                return args, kwargs
            self._views.append(self._view)
            self._looked = None
            if self._view is self._views[0]:  # no row has dropped anything: what the stock model hands on
                return None
            index = self._view.slots.clamp(min=0)
            for name in ("position_embeddings", "position_ids"):
                if (value := kwargs.get(name)) is not None:
                    kwargs[name] = tuple(_at(part, index) for part in value) if isinstance(value, tuple) else _at(value, index)
            plain = self._sdpa and bool(self._view.real.all())
            kwargs["attention_mask"] = None if plain else self._as_read(self._view.causal()[:, None], states)
            return args, kwargs

        return hook

    def _after(self, number: int):
        def hook(module, args, output):
            if (view := self._view) is None:
                return None
            keep = self.pruner.keep(number, view, self._looked)
            if keep is None or bool((keep | ~view.visual).all()):
                return None
            columns = _packed(view.real & (keep | ~view.visual))
            index, held = columns.clamp(min=0), columns >= 0
            slots = torch.where(held, view.slots.gather(1, index), -1)
            self._view = View(slots, view.visual.gather(1, index) & held, torch.full_like(view.last, columns.shape[1] - 1), view.n_prompt)
            self.trace.kept[number] = [row[seen] for row, seen in zip(slots, self._view.visual)]
            states = output[0] if isinstance(output, tuple) else output
            states = states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return hook

    # -- a call ends
    def _end(self, module, args, output):
        if (view := self._view) is None:
            if self._cache is not None:
                self._cache.written += self._fresh
                self._cache.in_session = False
            return None
        self._view = None
        for layer, of in enumerate(self._views):
            self.trace.tokens.append(of.real.sum(1).tolist())
            self.trace.visual.append(of.visual.sum(1).tolist())
            if self._cache is not None:
                stay = self.pruner.cached(layer, of)
                self._cache.keep(layer, of.real, None if stay is None else _packed(of.real & (stay | ~of.visual)))
                self.trace.cached.append(self._cache.real[layer].sum(1).tolist())
        if self._cache is not None:
            self._cache.in_session = False
        if view is not self._views[0]:
            states = output[0]
            whole = states.new_zeros(len(states), view.n_prompt + 1, states.shape[-1])  # padding goes to a slot that is cut off
            index = torch.where(view.real, view.slots, view.n_prompt)[..., None].expand_as(states)
            whole = whole.scatter(1, index, states)[:, : view.n_prompt]
            if isinstance(output, tuple):  # return_dict=False
                return (whole, *output[1:])
            output.last_hidden_state = whole
        return output

    # -- the watcher's side
    def edit(self, layer: int, query: Tensor, key: Tensor) -> Edit | None:
        return None if self._view is None else self.pruner.edit(layer, self._view)

    def chosen(self, layer: int) -> Tensor | None:
        return self._view.last if self._view is not None and self.pruner.wants(layer) else None

    def look(self, layer: int, rows: Rows) -> None:
        self._looked = rows
        self.pruner.see(layer, rows)

    # -- masks
    def _decoding_mask(self, layer: int, states: Tensor) -> Tensor:
        assert self._cache is not None  # a call that is no prefill brought one
        fresh = states.shape[1]
        real, written = self._cache.real[layer], self._cache.written + fresh
        tail = torch.ones(len(real), written, dtype=torch.bool, device=real.device) if self._tail is None else self._tail[:, :written]
        own = torch.ones(fresh, written, dtype=torch.bool, device=real.device).tril(written - fresh)
        seen = torch.cat([real[:, None].expand(-1, fresh, -1), own[None] & (tail[:, None] | torch.eye(
            written, dtype=torch.bool, device=real.device)[written - fresh :][None])], 2)
        return self._as_read(seen[:, None], states)

    @property
    def _sdpa(self) -> bool:
        return self.decoder.config._attn_implementation.endswith("sdpa")

    def _as_read(self, seen: Tensor, states: Tensor) -> Tensor:
        if self._sdpa:
            return seen
        return torch.zeros(seen.shape, dtype=states.dtype, device=seen.device).masked_fill_(~seen, torch.finfo(states.dtype).min)


def _at(value: Tensor, index: Tensor) -> Tensor:
    """Per-token tables (B or 1, S) or (B or 1, S, d) at the slots index (B, n)."""
    if value.dim() not in (2, 3) or value.shape[0] not in (1, len(index)):
        raise ModelError(f"positions of shape {tuple(value.shape)}: tokens with several positions (multi-axis rotary) are not supported")
    value = value.expand(len(index), *value.shape[1:])
    return value.gather(1, index if value.dim() == 2 else index[..., None].expand(-1, -1, value.shape[2]))


def _packed(keep: Tensor) -> Tensor:
    """(B, m) columns that stay, in order, at the right; -1 on the left where a row keeps fewer."""
    width = int(keep.sum(1).max())
    order = keep.int().argsort(dim=1, stable=True)[:, keep.shape[1] - width :]
    return torch.where(keep.gather(1, order), order, -1)


# -- what is assumed of a model ----------------------------------------------------------------------------
_CHECKED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class _DropOne:
    """Drops the first visual token behind the first layer: what `check_model` tries."""

    def begin(self, view, n_layers): ...
    def see(self, layer, rows): ...
    def edit(self, layer, view): ...
    def cached(self, layer, view): ...

    def wants(self, layer: int) -> bool:
        return True

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if rows is None:
            raise ModelError("its attention does not go through transformers' attention interface, so no layer can be looked into")
        return None if layer else view.slots != 1


@torch.no_grad()
def check_model(model: nn.Module) -> None:
    """Tries once what pruning rests on: a token that is dropped behind a layer is a key that later layers do not see.

    Raises ModelError naming the property for a decoder of which that is not true (a window, other attention, recurrent layers, ...).
    """
    decoder = model.get_decoder()
    if decoder in _CHECKED:
        return
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) < 2:
        raise ModelError(f"{type(decoder).__name__} has no list of two or more layers to prune between")
    name, subject = type(decoder).__name__, measurable(decoder)
    table = subject.get_input_embeddings()
    draw = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, 6, table.embedding_dim, generator=draw).to(table.weight) * table.weight.float().std().to(table.weight)
    visual = torch.tensor([[False, True, True, False, False, False]], device=embeds.device)
    call = dict(inputs_embeds=embeds, attention_mask=torch.ones(1, 6, dtype=torch.long, device=embeds.device), use_cache=False)
    try:
        with in_use(subject), PruningSession(_Bare(subject), _DropOne(), visual, check=False):
            dropped = subject(**call).last_hidden_state[:, 3:]
        with in_use(subject):
            hidden = _hiding(subject, call, slot=1, behind=0)[:, 3:]
            stock = subject(**call).last_hidden_state[:, 3:]
    except ModelError as error:
        raise ModelError(f"{name} cannot be pruned: {error}") from error
    if any(getattr(decoder.config, "layer_types", None) or []) and "sliding_attention" in decoder.config.layer_types or getattr(
            decoder.config, "sliding_window", None) and getattr(decoder.config, "use_sliding_window", True):
        raise ModelError(f"{name} cannot be pruned: its attention looks back through a window, which counts keys, not positions")
    off, effect, size = (float(t.double().norm()) for t in (dropped.double() - hidden, stock.double() - hidden, stock))
    share = 1e-3 if dropped.dtype in (torch.float32, torch.float64) else 0.1
    if not off <= share * effect + rounding(subject) * size:  # of what hiding the key changes; values of trained models differ by 1e4
        raise ModelError(f"{name} cannot be pruned: dropping a token is not the same there as hiding its keys (off by {off / size:.1e} of "
                         f"the states' size, where hiding them changes {effect / size:.1e})")
    _CHECKED[decoder] = True


class _Bare(nn.Module):
    """A decoder stack where a session expects a whole model."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder, self.config = decoder, decoder.config

    def get_decoder(self) -> nn.Module:
        return self.decoder


def _hiding(decoder: nn.Module, call: dict, slot: int, behind: int) -> Tensor:
    """(1, S, d) of the stock decoder with one key hidden from all queries but its own in the layers behind one: the definition."""
    width = call["inputs_embeds"].shape[1]
    seen = torch.ones(width, width, dtype=torch.bool, device=call["inputs_embeds"].device).tril()
    seen[:, slot] = torch.arange(width, device=seen.device) == slot
    lowest = torch.finfo(call["inputs_embeds"].dtype).min
    mask = torch.zeros(1, 1, width, width, dtype=call["inputs_embeds"].dtype, device=seen.device).masked_fill_(~seen, lowest)

    def hook(module, args, kwargs):
        kwargs["attention_mask"] = mask
        return args, kwargs

    hooks = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in decoder.layers[behind + 1 :]]
    try:
        return decoder(**call).last_hidden_state
    finally:
        for each in hooks:
            each.remove()
