"""Fusion on a stock multimodal model, its weights and config as they are: `Fused(llava, config, sample)`, then call and generate.

    config = FusionConfig(layer_set("triple", 24), "internal", "direct")
    with Fused(llava, config, sample=processor(...)) as fused:          # sample: any inputs with a picture
        llava.generate(**inputs)                                         # the model's own, whatever its arguments

The model goes on reading the layer that it reads; the set's other layers come beside it. Everything that is new stands in
`fused.new` and starts neutral: the model is the plain one, bit for bit, until it is trained. On layers a, b and its own, external
direct is what transformers' `vision_feature_layer=[a, b, own]` computes, written as a sum over the columns of the wide matrix.

What the model does with its tower is read off one pass over the sample, and not off its name: which list of blocks saw the picture,
which module outside the tower reads their states, how many leading tokens (a class token, registers) were dropped before, whether
what is read is a state as it is, and how many slots in the text a picture takes.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.errors import UserError
from common.probe import in_use

from .checks import Unfit, blocks_of
from .internal import GatedCrossAttention, Internal, Pictures
from .method import FusionConfig, Projector, Sizes
from .mmfuser import MMFuser, square


class _Enough(Exception):
    """The decoder is about to run."""


@dataclass
class Reading:
    """blocks: of the tower. reader: the module outside it that reads them; entry: the linear layer in it that sees what it sees.
    leading: tokens dropped in front. main: the layer that is read (k: behind block k), None where it is normed first. n, dv: patches
    of a picture, and their width. slots: places in the text for each picture of the sample; pictures: how many."""

    blocks: nn.ModuleList
    reader: nn.Module
    entry: nn.Linear | None
    leading: int
    main: int | None
    n: int
    dv: int
    slots: float
    pictures: int


def read(model: nn.Module, sample: dict[str, Any]) -> Reading:
    """Raises Unfit: which property is missing."""
    kind, inner = type(model).__name__, blocks_of(model)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 1 and not _holds(inner, m)
             and len({type(each) for each in m}) == 1]
    seen: dict[nn.Module, Tensor] = {}
    calls: list[tuple[nn.Module, Tensor]] = []

    def block_hook(module: nn.Module, args: tuple, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(output, Tensor):
            seen[module] = output

    def reader_hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = args[0] if args else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
        if isinstance(given, Tensor) and given.dim() == 3:
            calls.append((module, given))

    blocks = {each for m in lists for each in m}
    hooks = [each.register_forward_hook(block_hook) for each in blocks]
    hooks += [m.register_forward_pre_hook(reader_hook, with_kwargs=True) for m in model.modules() if m is not model and m not in blocks]
    before = inner.__dict__.get("forward")

    def stop(*args: Any, **kwargs: Any) -> None:
        raise _Enough

    inner.forward = stop
    try:
        with in_use(model):
            model(**sample, use_cache=False)
    except _Enough:
        pass
    finally:
        del inner.forward
        if before is not None:
            inner.forward = before
        for hook in hooks:
            hook.remove()
    ran = [m for m in lists if all(each in seen for each in m) and len({seen[each].shape for each in m}) == 1]
    if not ran:
        raise Unfit(f"{kind}: no list of alike blocks saw the picture.")
    tower_blocks = max(ran, key=len)
    last = seen[tower_blocks[-1]]
    if last.dim() != 3:
        raise Unfit(f"{kind}: its tower does not keep pictures apart (states of shape {tuple(last.shape)}, not pictures, patches, width).")
    tower = next(m for m in model.modules() if _holds(m, tower_blocks) and not _holds(m, inner))
    m, tokens, dv = last.shape
    outside = [(module, given) for module, given in calls if not _holds(tower, module) and not _holds(module, tower)
               and given.shape[0] == m and given.shape[1] <= tokens and given.shape[2] == dv]
    if not outside:
        raise Unfit(f"{kind}: nothing outside its tower reads one state a patch; patches are merged, or several layers read at once.")
    reader, given = outside[0]
    leading = tokens - given.shape[1]
    main = next((k for k, block in enumerate(tower_blocks, 1) if torch.equal(seen[block][:, leading:], given)), None)
    if main is None and leading:
        raise Unfit(f"{kind}: {given.shape[1]} of its tower's {tokens} tokens are read, and of no block as they are.")
    entry = next((module for module, same in calls if isinstance(module, nn.Linear) and _holds(reader, module)
                  and same.shape == given.shape and torch.equal(same, given)), None)
    slots = int((sample["input_ids"] == image_token(model)).sum())
    return Reading(tower_blocks, reader, entry, leading, main, given.shape[1], dv, slots / m, m)


def _holds(outer: nn.Module, inner: nn.Module) -> bool:
    return any(module is inner for module in outer.modules())


def image_token(model: nn.Module) -> int:
    """The id that stands for a visual token. Raises Unfit where the config names none."""
    config: Any = model.config
    token = next((v for name in ("image_token_id", "image_token_index") if (v := getattr(config, name, None)) is not None), None)
    if token is None:
        raise Unfit(f"{type(model).__name__}: its config has no image_token_id, which stands for a visual token in a row of ids.")
    return token


class New(nn.Module):
    """What fusion adds to a model, by its kind, all neutral at first. beside: matrices of external direct by layer or group."""

    def __init__(self, config: FusionConfig, sizes: Sizes, reading: Reading):
        super().__init__()
        own = (config.layers.main,) if reading.main is None else (reading.main,)
        self.config, self.points = config, config.blocks(sizes.blocks)
        self.parts = [part for part in config.layers.parts if part != own] if config.kind == "external direct" else []
        entry = reading.entry
        self.beside = nn.ModuleList(nn.Linear(reading.dv, entry.out_features, bias=False) for _ in self.parts if entry is not None)
        self.fuser = MMFuser(reading.dv, len(config.layers.levels)) if config.kind == "external modular" else None
        self.extra = nn.ModuleList(Projector(reading.dv, sizes.d) for _ in self.points)
        modular = config.kind == "internal modular"
        self.cross = nn.ModuleList(GatedCrossAttention(sizes.d, sizes.f, sizes.heads, config.mlp) for _ in self.points if modular)
        for matrix in self.beside:
            nn.init.zeros_(matrix.weight)
        for projector in self.extra if not modular else ():
            assert isinstance(projector, Projector)
            nn.init.zeros_(projector.linear_2.weight)
            nn.init.zeros_(projector.linear_2.bias)

    @property
    def layers(self) -> tuple[int, ...]:
        of = self.config.layers
        return tuple(sorted({*(k for part in self.parts for k in part), *(of.levels if self.fuser is not None else ()),
                             *(of.extras if self.points else ())}))


_ATTACHED: weakref.WeakKeyDictionary[nn.Module, weakref.ref] = weakref.WeakKeyDictionary()  # stock model -> the fusion that is on it


def unwrapped(model: nn.Module) -> nn.Module:
    """The stock model inside of peft's wrapper, or torch.compile's: what their `generate` calls, past the wrapper's own forward."""
    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), model)


class Fused:
    """Hooks on a stock *ForConditionalGeneration, from `attach` (or `with`) to `detach`; the model is called as ever.

    Raises Unfit naming the property that this kind of fusion lacks there, ValueError for layers that the tower has not, or that add
    nothing to what the model reads, and UserError for a model that another fusion is on: the two would be added up. A model is not to
    be copied with a fusion on it (UserError): the copy's hooks would look at this one's pictures.
    """

    def __init__(self, model: nn.Module, config: FusionConfig, sample: dict[str, Any]):
        self.model, self.stock = model, unwrapped(model)
        self._alone()
        self.config, self.reading = config, read(model, sample)
        kind, r = type(model).__name__, self.reading
        if len(r.blocks) != config.layers.blocks:
            raise ValueError(f"layer set {config.layers.name!r} is of a tower with {config.layers.blocks} blocks; that of {kind} has "
                             f"{len(r.blocks)}")
        if config.kind == "external direct" and (r.entry is None or config.op != "parts"):
            raise Unfit(f"{kind}: no linear layer reads a patch as its tower gives it, beside which other layers could be read."
                        if r.entry is None else f"op {config.op!r}: a model that is there keeps its own layer; parts are read beside it.")
        if config.position == "internal" and r.slots != r.n:
            raise Unfit(f"{kind}: a picture of {r.n} patches takes {r.slots:g} places in the text, and a place needs a patch of its own.")
        if config.kind == "external direct" and config.layers.parts == ((r.main,),):
            raise ValueError(f"layer set {config.layers.name!r} names the layer that {kind} reads already, and no other")
        self.grid = square(r.n) if config.kind == "external modular" else None
        like: Any = next(r.reader.parameters())
        self.new = New(config, Sizes.of(r.dv, model.config), r).to(like.device, like.dtype)
        self.internal = Internal(model, self.new)
        self._states: dict[int, Tensor] = {}
        self._width = 0  # slots of the pass that runs; 0 where none does, as when a block is recomputed
        self._where: Tensor | None = None
        self._encoded: Any = None  # features of the pictures of this call, where `generate` had the tower run before it
        self._shown: tuple[Any, Tensor, list[Tensor]] | None = None  # such features, their slots, and what goes into the blocks of them
        self._hooks: list[Any] = []

    def _alone(self) -> None:
        there = _ATTACHED[self.stock]() if self.stock in _ATTACHED else None
        if there not in (None, self):
            raise UserError(f"this {type(self.model).__name__} has a fusion on it already; two would be added up: detach() that one first")

    def __deepcopy__(self, memo: dict) -> Fused:
        raise UserError("a model cannot be copied with a fusion on it: detach() it, copy the model, and put a fusion of its own on the "
                        "copy (with the weights: load_state_dict(fused.new.state_dict()))")

    def attach(self) -> Fused:
        if self._hooks:
            return self
        self._alone()
        _ATTACHED[self.stock] = weakref.ref(self)
        add, inner, r = self._hooks.append, blocks_of(self.model), self.reading
        for k in self.new.layers:
            if k == 0:
                add(r.blocks[0].register_forward_pre_hook(lambda module, args, kwargs: self._keep(0, args or tuple(kwargs.values())),
                                                          with_kwargs=True))
            else:
                add(r.blocks[k - 1].register_forward_hook(lambda module, args, output, k=k: self._keep(k, output)))
        if self.new.fuser is not None:
            add(r.reader.register_forward_pre_hook(self._looked))
        if self.new.parts and r.entry is not None:
            add(r.entry.register_forward_hook(self._widened))
        if self.new.points:
            for called in {self.model, self.stock}:  # peft calls the stock model's forward past its hooks, and `generate` past peft's
                add(called.register_forward_pre_hook(self._asked, with_kwargs=True))
            add(inner.register_forward_pre_hook(self._begin, with_kwargs=True))
            add(inner.register_forward_hook(self._end, always_call=True))
            blocks: Any = inner.layers
            for point in self.new.points:
                add(blocks[point].register_forward_pre_hook(self._all_there, with_kwargs=True))
            self.internal.attach()
        return self

    def detach(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        self.internal.detach()
        self._states.clear()
        self._shown = None
        if self.stock in _ATTACHED and _ATTACHED[self.stock]() is self:
            del _ATTACHED[self.stock]

    __enter__ = attach

    def __exit__(self, *error: Any) -> None:
        self.detach()

    def _keep(self, k: int, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        self._states[k] = states[:, self.reading.leading :]

    def _looked(self, module: nn.Module, args: tuple) -> tuple:
        assert self.new.fuser is not None
        return self.new.fuser(args[0], [self._states[k] for k in self.config.layers.levels], self.grid), *args[1:]

    def _widened(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        for matrix, part in zip(self.new.beside, self.new.parts):
            states = torch.stack([self._states[k] for k in part]).mean(0) if len(part) > 1 else self._states[part[0]]
            output = output + matrix(states)
        return output

    def _asked(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        self._where, self._encoded = None if ids is None else ids == image_token(self.model), kwargs.get("mm_encoder_outputs")

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """A new prompt has new states, or no picture; a later token has neither and goes on with what there is. `generate` has the tower
        run once, before its first call: rows that it repeats (beams, several samples) share a picture, and without a cache each call
        has the prompt's pictures again, and no states.

        Raises UserError for a picture that nothing would be added of in the blocks, though the model itself would read it, and for other
        methods that run the decoder over a part of the prompt."""
        embeds, cache = kwargs.get("inputs_embeds"), kwargs.get("past_key_values")
        if "vica" in kwargs:
            raise UserError("ViCA runs the decoder over text alone, and fusion in the blocks adds at a picture's places: use external "
                            "fusion with it, or detach() this one")
        self._width = 0 if embeds is None else embeds.shape[1]
        first = cache is None or int(cache.get_seq_length()) == 0
        where, self._where = self._where, None
        if where is not None and not bool(where.any()):  # the tower was run by itself (get_image_features), and not for this text
            self._states.clear()
        if self._states:
            extras = [projector(self._states[k]) for projector, k in zip(self.new.extra, self.config.layers.extras)]
            self._states.clear()
            if where is None:
                raise UserError("a picture without input_ids: the places that fusion in the blocks adds its layers at are those of the "
                                "image token. Call the whole model, with input_ids in place of inputs_embeds.")
            if not first:
                raise UserError("a picture behind a prompt that is cached: its layers would not reach the blocks. Give all pictures in the "
                                "first call, or run the whole text again without the cache.")
            where = _one_a_picture(where, extras)
            self.internal.pictures = Pictures.of(extras, where)
            self._shown = None if self._encoded is None else (self._encoded, where, extras)
        elif first:
            self.internal.pictures = None if where is None or not bool(where.any()) else self._again(where)
        watched = self.internal.pictures is not None and blocks_of(self.model).config._attn_implementation.startswith("watched_")
        if watched and embeds is not None and len(embeds) > 1:
            raise UserError("several rows under a pruning session: tokens that leave one of them move, and fusion in the blocks adds by "
                            "place. Give one row at a time, or detach() the fusion")

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._width = 0

    def _all_there(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Raises UserError where tokens have left on the way to a block: what it adds by place would go to others."""
        states = args[0] if args else kwargs["hidden_states"]
        if self._width and self.internal.pictures is not None and states.shape[1] != self._width:
            raise UserError(f"{self._width - states.shape[1]} of {self._width} tokens were dropped before a block in which fusion adds by "
                            f"place: drop them behind its last block ({max(self.new.points)}), use external fusion, or detach() this one")

    def _again(self, where: Tensor) -> Pictures:
        """Of the prompt that `generate` runs again, longer by what it has written."""
        if self._shown is not None and self._shown[0] is self._encoded:
            _, before, extras = self._shown
            where = _one_a_picture(where, extras)
            width = before.shape[1]
            if len(where) == len(before) and torch.equal(where[:, :width], before) and not bool(where[:, width:].any()):
                return Pictures.of(extras, where)
        raise UserError("image tokens, and the tower saw no picture for them in this call: its layers, which fusion adds in the blocks, "
                        "are not there. Give pixel_values (or what else the processor makes of the picture) with the ids.")


def _one_a_picture(where: Tensor, extras: list[Tensor]) -> Tensor:
    """where (B, S), a row for each of those that the tower saw: of rows that only repeat the one before, the first."""
    times, rest = divmod(int(where.sum()), extras[0].shape[0] * extras[0].shape[1])
    if times > 1 and not rest and len(where) % times == 0 and torch.equal(where[::times].repeat_interleave(times, 0), where):
        return where[::times]
    return where
