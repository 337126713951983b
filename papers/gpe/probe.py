"""What GPE assumes of a stock decoder, measured on eight tokens, once for each model and kind of arm.

    apart       a row's logits do not change with a token that the mask hides, and do with one that it shows
    ids         they change when the target's ids move, and do not when all ids move by the same number: only differences count.
                An arm whose ids are no group ids needs no more than that ids count
    fractions   the same for half a position, where phi is no whole number
    causal      with all source visible, and ids that run on, the pass is the stock model's own
    frames      position re-encoding with all source visible is a batch: it gives what the stock model gives
    decoding    a token at a time, out of either cache, gives what the pass over the whole sequence gives

Nothing here asks for a model's name: convolutions, recurrences, ALiBi, learned tables, layers of their own ways with masks show in
the numbers. What is refused says which property is missing. How far a model reaches (a sliding window, frequencies that change
with the length, a table of positions) is measured as well, and held against each text by `check_length`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from common.errors import ModelError
from common.masks import for_attention
from common.probe import change, in_use, measurable, once, rounding
from common.streaming.caches import LayersError, attention_window
from common.streaming.two_streams import TwoStreams

from .reencoding import TWO_FRAMES, in_two_frames, own_attention, turns_of

GROUPS = ("group", "no_source", "no_target", "none", "reencoded")  # positions that need ids of which only differences count
MOVED, FAR = 5, 7  # positions


class Reach(NamedTuple):
    """window: columns that sliding layers see; longest: first id that the model cannot take, or from which on all others are
    turned otherwise; None: no end."""

    window: int | None
    longest: int | None


class Paper(NamedTuple):
    """What is measured: functions of method.py, which knows this file and not the other way round."""

    run: Callable[..., Tensor]
    position_ids: Callable[..., Tensor]
    attention_mask: Callable[..., Tensor]
    layout: Callable[..., Any]


def check(model: nn.Module, arm: Any, paper: Paper) -> None:
    """Raises ModelError naming the property that the model lacks for this arm."""
    kind, config = type(model).__name__, model.config.get_text_config(decoder=True)
    attention = config._attn_implementation
    if attention not in ("sdpa", "eager", TWO_FRAMES):
        raise ModelError(f"{kind} uses attention {attention!r}, which takes no mask of source and target: load it with "
                         "attn_implementation sdpa or eager")
    whole = float(arm.phi).is_integer()
    once(model, (arm.positions, arm.source_sees, whole), lambda m: _measure(m, arm, whole, paper))


def reach(model: nn.Module) -> Reach:
    """How long a text of this model may be, measured once."""
    return once(model, "reach", _reach)


def check_length(reach: Reach, columns: int, ids: Tensor) -> None:
    """Raises ModelError for more columns than a model's sliding layers see, or ids beyond its positions."""
    window, longest = reach
    if window is not None and columns > window:
        raise ModelError(f"source and target have {columns} tokens together; this model's sliding layers see {window} columns "
                         "(config.sliding_window) and would forget by column: shorten the text")
    if longest is not None and ids.numel() and ids.max() >= longest:
        raise ModelError(f"a position id of {ids.max().item():g}; from {longest} on this model's positions change their meaning or "
                         "end (a table, or frequencies that depend on the length): shorten the text, or take a smaller phi")


# -- measuring ---------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _passes(model: nn.Module) -> Iterator[nn.Module]:
    """The model, in use, to make passes with; ModelError for one that a pass of ours ends with an error."""
    subject = measurable(model)
    try:
        with in_use(subject), own_attention(subject):
            yield subject
    except (ModelError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a forward pass that was not made for this raises
        first = str(error).strip().partition("\n")[0]
        raise ModelError(f"{type(model).__name__}: a pass with a mask of four dimensions, position ids and a cache ends in "
                         f"{type(error).__name__} ({first[:160]}); GPE needs a decoder that takes all three") from error


def _measure(model: nn.Module, arm: Any, whole: bool, paper: Paper) -> None:
    with _passes(model) as subject:
        _Measurement(subject, type(model).__name__, arm, whole, paper).all()


class _Measurement:
    """Eight tokens: a source of four units, a target of four, wait-1, so that the rows see 2, 3, 4 and 4 source tokens.

    Three and two where sliding layers see less.
    """

    def __init__(self, model: nn.Module, kind: str, arm: Any, whole: bool, paper: Paper):
        self.model, self.kind, self.whole, self.paper = model, kind, whole, paper
        self.arm = replace(arm, refresh=False)  # an arm that encodes the target anew is a batch at every moment
        self.grouped = arm.positions in GROUPS
        if self.grouped:
            self.arm = replace(arm, phi=0.0)
        self.plain = replace(self.arm, positions="group") if self.arm.two_frames else self.arm
        size = model.get_input_embeddings().num_embeddings
        self.n, self.n_target = (3, 2) if (sliding(model) or 8) < 8 else (4, 4)
        self.device = next(model.parameters()).device
        step = max(1, (size - 1) // (self.n + self.n_target))  # apart where the vocabulary is large, and varied where it is tiny
        tokens = (1 + torch.arange(self.n + self.n_target) * step % max(1, size - 1))[None].to(self.device)
        self.source, self.target = tokens[:, : self.n], tokens[:, self.n :]
        self.other = lambda token: (token + 1) % size
        rows = torch.arange(self.n_target, device=self.device)[None]
        self.layout = self.laid_out((rows + 2).clamp(max=self.n), (rows + 1).clamp(2, self.n))
        single = model.dtype in (torch.float32, torch.float64)
        self.share, self.exact = (0.02 if single else 0.5), 16 * rounding(model) if single else self.own_rounding()

    def laid_out(self, visible: Tensor, written: Tensor) -> Any:
        lengths = (torch.tensor([n], device=self.device) for n in (self.n, self.n_target))
        return self.paper.layout(visible, written, *lengths, self.n)

    def logits(self, arm: Any = None, source: Tensor | None = None, moved: tuple[float, float] = (0, 0)) -> Tensor:
        """(T, V): what predicts each target token, with other source tokens, or ids moved in source and target."""
        arm = arm or self.plain
        ids = self.paper.position_ids(arm, self.layout)
        if any(moved):
            source_moved, target_moved = moved
            ids = ids + torch.tensor([source_moved] * self.n + [target_moved] * self.n_target, device=self.device)
        source = self.source if source is None else source
        return self.paper.run(self.model, arm, source, self.target, self.layout, ids)[0].float()

    def refuse(self, what: str) -> None:
        raise ModelError(f"{self.kind}: {what}")

    def all(self) -> None:
        self.apart()
        self.ids()
        attention_window(self.model.config)
        self.causal()
        if self.arm.two_frames:
            self.frames()
        self.decoding()

    def apart(self) -> None:
        last, first = self.source.clone(), self.source.clone()
        last[0, -1], first[0, 0] = self.other(last[0, -1]), self.other(first[0, 0])
        base, unseen, seen = self.logits(), self.logits(source=last), self.logits(source=first)
        if not base.isfinite().all():
            self.refuse("a pass with a mask of source and target gives numbers that are not finite")
        # Row t predicts token t + 1 and sees t + 2 source tokens: the last one is hidden from those that predict the first n - 2.
        if not self.arm.interleaved and change(unseen[1 : self.n - 1], base[1 : self.n - 1]) > self.exact:
            self.refuse("source and target do not stay apart: a row's logits change with a source token that the mask hides from it "
                        "(layers that mix tokens by a convolution or a recurrence, or a mask that is not read); GPE needs attention in "
                        "every layer, by the mask that it is given")
        if change(seen[1:], base[1:]) <= self.exact:
            self.refuse("a target row's logits do not change with a source token that the mask shows to it")

    def ids(self) -> None:
        base, apart = self.logits(), self.logits(moved=(0, MOVED))
        effect = change(apart[1:], base[1:])
        if self.arm.positions != "none" and effect <= 4 * self.exact:
            self.refuse("position ids change nothing (positions by ALiBi, or none); GPE counts positions by ids")
        if not self.grouped:
            return
        if change(self.logits(moved=(FAR, FAR))[1:], base[1:]) > self.share * effect + self.exact:
            self.refuse("its positions are absolute: logits change when all ids move by the same number (a learned or fixed table, "
                        "or weights between the rotation and the scores); group ids need positions of which only differences count")
        if not self.whole:
            try:
                halfway = self.logits(moved=(0.5, 0.5))
            except (IndexError, RuntimeError, TypeError):
                halfway = torch.full_like(base, float("nan"))
            if change(halfway[1:], base[1:]) > self.share * effect + self.exact:
                self.refuse("it takes no fractions of a position (a table has none): set phi to a whole number")
            self.arm, self.plain = replace(self.arm, phi=0.5), replace(self.plain, phi=0.5)

    def in_batch(self, arm: Any) -> Tensor:
        """(T - 1, V), all source visible."""
        everything = self.laid_out(*[torch.full_like(self.target, self.n)] * 2)
        ids = self.paper.position_ids(arm, everything)
        return self.paper.run(self.model, arm, self.source, self.target, everything, ids)[0, 1:].float()

    def own_rounding(self) -> float:
        """How far the stock model is from itself, the tokens in one pass and one by one out of its own cache; two last digits at least.
        Thirty layers in bfloat16 make a twentieth of the largest logit, where moved ids make a half and 16 last digits an eighth."""
        tokens, cache = torch.cat([self.source, self.target], 1), DynamicCache(config=self.model.config)
        whole = self.model(input_ids=tokens, use_cache=False).logits[0]
        steps = [self.model(input_ids=token[None], past_key_values=cache, use_cache=True).logits[0, -1] for token in tokens[0].split(1)]
        return max(change(torch.stack(steps), whole), 2 * rounding(self.model))

    def stock(self) -> Tensor:
        tokens = torch.cat([self.source, self.target], 1)
        return self.model(input_ids=tokens, use_cache=False).logits[0, self.n : -1].float()

    def causal(self) -> None:
        """All source visible and ids that run on: a batch, so what the stock model gives when nobody hands it a mask."""
        contiguous = replace(self.plain, positions="contiguous", source_sees="nothing", phi=0.0)
        stock, unmoved = self.stock(), self.in_batch(replace(self.plain, positions="group", source_sees="nothing", phi=0.0))
        if change(self.in_batch(contiguous), stock) > self.share * change(unmoved, stock) + self.exact:
            self.refuse("its own pass over a text is not the causal one (a prefix that is read in both directions, a window of its own): "
                        "it would not be the model that it is under a mask of source and target")

    def decoding(self) -> None:
        whole = self.logits(self.arm)[1:]
        effect = change(self.logits(self.arm, moved=(0, MOVED))[1:], whole)
        allowed = self.share * effect + self.exact
        with in_two_frames(self.model) if self.arm.two_frames else contextlib.nullcontext():
            self.same(self.one_by_one(), whole, allowed, "a cache in order of arrival")
        if self.plain.positions == "group" and self.plain.source_sees == "nothing":
            streams, rows = TwoStreams(self.model, self.plain.phi), []
            streams.read(self.source[0, :1])
            for t in range(self.n_target - 1):
                if streams.source_length < int(self.layout.visible[0, t]):
                    streams.read(self.source[0, t + 1 : t + 2])
                rows.append(streams.feed(self.target[0, t : t + 1])[0].float())
            self.same(torch.stack(rows), self.logits()[1:], allowed, "the cache of two parts")

    def one_by_one(self) -> Tensor:
        """(T - 1, V): every token a pass of its own, by embeddings, as soon as what it sees is there."""
        ids, mask = self.paper.position_ids(self.arm, self.layout)[0], self.paper.attention_mask(self.arm, self.layout)[0, 0]
        read = (self.layout.written if self.arm.interleaved else self.layout.visible)[0].tolist()
        order = sorted(range(self.n + self.n_target), key=lambda i: (i, 0) if i < self.n else (read[i - self.n] - 0.5, i))
        embedded = self.model.get_input_embeddings()(torch.cat([self.source, self.target], 1))
        turns, cache, rows, seen = turns_of(self.model) if self.arm.two_frames else [], DynamicCache(), {}, []
        for i in order:
            seen.append(i)
            sees, more = mask[i, seen][None, None, None], {}
            if self.arm.two_frames:
                shift = self.layout.visible[:, i - self.n : i - self.n + 1] if i >= self.n else self.layout.visible.new_zeros(1, 1)
                more = dict(frame_shift=shift, frame_source=torch.tensor(seen, device=self.device) < self.n, frame_turns=turns)
            else:
                sees = for_attention(sees, self.model.config.get_text_config(decoder=True)._attn_implementation, self.model.dtype)
            rows[i] = self.model(inputs_embeds=embedded[:, i : i + 1], attention_mask=sees, position_ids=ids[None, i : i + 1],
                                 past_key_values=cache, use_cache=True, **more).logits[0, -1].float()
        before = {i: order[at - 1] if self.arm.interleaved else i - 1 for at, i in enumerate(order)}
        return torch.stack([rows[before[self.n + t]] for t in range(1, self.n_target)])

    def same(self, step_by_step: Tensor, whole: Tensor, allowed: float, which: str) -> None:
        finite = step_by_step.isfinite()
        if change(step_by_step[finite], whole[finite]) > allowed:
            self.refuse(f"decoding a token at a time out of {which} gives other logits than the pass over the whole sequence")

    def frames(self) -> None:
        """All source visible: the target's queries look at the source from S + t, as in a batch."""
        ours, unmoved, stock = self.in_batch(self.arm), self.in_batch(self.plain), self.stock()
        if change(ours, stock) > self.share * change(unmoved, stock) + self.exact:
            self.refuse("position re-encoding with all source visible does not give the stock model's logits: its attention does not "
                        "go through the function that it was given, or adds something to its scores; every arm but "
                        "position_reencoding runs on it")


def sliding(model: nn.Module) -> int | None:
    """Columns that sliding layers see, and None for layers of other kinds, too, which `_Measurement` speaks about."""
    try:
        return attention_window(model.config)
    except LayersError:
        return None


def _reach(model: nn.Module) -> Reach:
    """An unseen token far away must leave the others' logits as they are, up to the id that is asked for."""
    window = sliding(model)
    with _passes(model) as subject:
        return Reach(window, _longest(subject, subject.config.get_text_config(decoder=True)))


def _longest(model: nn.Module, config) -> int | None:
    size, device = model.get_input_embeddings().num_embeddings, next(model.parameters()).device
    tokens, near = (torch.linspace(1, size - 1, 5).long() % size)[None].to(device), torch.arange(5, device=device)
    mask = for_attention(torch.ones(5, 5, dtype=torch.bool, device=device).tril()[None, None], config._attn_implementation, model.dtype)

    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=tokens, attention_mask=mask, position_ids=ids[None], use_cache=False).logits[0, :4].float()

    def steady(last: int) -> bool:
        base = logits(near)  # frequencies that grew with the length have gone back
        return change(logits(torch.cat([near[:4], near.new_tensor([last])])), base) <= 16 * rounding(model)

    table = getattr(config, "max_position_embeddings", None)
    try:
        logits(near + 0.5)
    except (IndexError, RuntimeError, TypeError):
        return table  # it has an end; to ask beyond it would end a process on a GPU
    named = [table, *_originals(getattr(config, "rope_parameters", None) or {}), *_originals(vars(config))]
    candidates = sorted({n for n in named if isinstance(n, int) and n > len(near)}, reverse=True)
    try:
        if not candidates or steady(4 * candidates[0]):
            return None
        return next((n for n in candidates if steady(n - 1)), len(near))
    finally:
        logits(near)


def _originals(settings: dict) -> list:
    """Values of "original_max_position_embeddings" in settings that may be kept by kind of layer."""
    nested = [value for value in settings.values() if isinstance(value, dict)]
    return [settings.get("original_max_position_embeddings"), *(found for inner in nested for found in _originals(inner))]
