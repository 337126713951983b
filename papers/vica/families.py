"""ViCA on any family of decoders, each way to use it beside an independent oracle: `python -m common.families` runs all.

    prefill            logits around a picture = the masked definition, run by the stock model; other pictures give others
    text               a row without a picture = the stock model's own logits, of a row that is asked alone
    generate           greedy tokens = greedy decoding without a cache, by the definition
    kept picture       keys and values kept from a first question answer a second one, prefill and decoding
    frozen prefix      the 7B checkpoint's variant = the definition
    pruning            PyramidDrop's schedule = the definition without the dropped keys
    ViCA(model)        a stock multimodal model on ids and pixels, `ViCA(model, config)`; families with pictures only
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.vision.layout import Layout, split

from . import method, pruning
from .decoding import generate as answers

PLACE = 101  # stands for a visual token in a row of ids; its embedding is never read
NEAR = 1e-4  # of the largest value: stock norms, rotations and eager softmaxes compute in fp32 whatever they are given


def _close(ours: Tensor, theirs: Tensor, what: str) -> None:
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    assert apart < NEAR, f"{what}: {apart:.2g} of the largest value apart"


def _layers(model: PreTrainedModel) -> tuple[int, ...]:
    """The first, and the last two: with windows, without positions and in between where a family has such layers."""
    n = model.get_decoder().config.num_hidden_layers
    return tuple(sorted({0, n - 2, n - 1} & set(range(n))))


def _case(model: PreTrainedModel, ids: Tensor, count: int = 4) -> tuple[Layout, Tensor]:
    """Rows with a picture of random features behind their third token, the second row two tokens shorter; (B, N, d) features."""
    place = ids.new_full((len(ids), count), PLACE)
    row, real = torch.cat([ids[:, :3], place, ids[:, 3:]], 1), torch.ones(len(ids), ids.shape[1] + count, dtype=torch.long)
    real[1:, -2:] = 0
    layout = split(row, PLACE, real)
    words = model.get_input_embeddings()(ids)
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(len(ids), count, words.shape[-1], generator=draw, dtype=torch.float64).to(words) * words.std()
    return layout, features


def _embeds(model: PreTrainedModel, layout: Layout) -> Tensor:
    return model.get_input_embeddings()(layout.ids)


def _told(layout: Layout, row: int, ids: Tensor) -> Layout:
    """A row of `_case` alone, with all of these ids (1, T) as its text: a token that is written may be any id."""
    behind = layout.visual_positions.shape[1] * (torch.arange(ids.shape[1]) > 2)
    ones = torch.ones_like(ids)
    return Layout(ids, (torch.arange(ids.shape[1]) + behind)[None], ones.bool(), layout.visual_positions[row : row + 1],
                  layout.visual_real[row : row + 1], ones - 1, ones - 101)


@torch.no_grad()
def prefill(model: PreTrainedModel, ids: Tensor) -> None:
    config, (layout, features) = method.ViCAConfig(_layers(model)), _case(model, ids)
    ours = method.forward(model, config, _embeds(model, layout), layout, features).logits
    theirs = method.definition(model, config, _embeds(model, layout), layout, features)
    _close(ours[layout.real], theirs[layout.real], "prefill")
    other = method.forward(model, config, _embeds(model, layout), layout, -features).logits
    before, behind = layout.real & (layout.positions < 3), layout.real & (layout.positions > 3)
    _close(other[before], ours[before], "text before the picture")
    moved = (other - ours).abs().amax(-1)[behind].min() / ours.std()
    assert moved > 1e-3, f"the picture does not reach the text behind it ({moved:.2g})"


@torch.no_grad()
def text(model: PreTrainedModel, ids: Tensor) -> None:
    config, (layout, features) = method.ViCAConfig(_layers(model)), _case(model, ids)
    none = method.forward(model, config, model.get_input_embeddings()(ids), method.Places(torch.arange(ids.shape[1]).expand_as(ids)))
    _close(none.logits, model(input_ids=ids).logits, "text alone")
    gap = method.forward(model, method.ViCAConfig(()), _embeds(model, layout), layout, features).logits[0]
    stock = model(input_ids=ids[:1], attention_mask=torch.ones_like(ids[:1]), position_ids=layout.positions[:1]).logits[0]
    from .masks import windows

    if not any(windows(model.get_decoder().config)):  # a stock window counts slots and not positions
        _close(gap, stock, "text with a gap in its positions")


@torch.no_grad()
def generate(model: PreTrainedModel, ids: Tensor, count: int = 4) -> None:
    config, (layout, features) = method.ViCAConfig(_layers(model)), _case(model, ids)
    written = answers(model, config, layout, features, count)
    for row in range(len(ids)):
        told = ids[row : row + 1, : int(layout.real[row].sum())]
        for token in written[row]:
            alone = _told(layout, row, told)
            scores = method.definition(model, config, _embeds(model, alone), alone, features[row : row + 1])[0, -1]
            assert scores.max() - scores[token] < NEAR * scores.abs().max(), "generate writes another token than the definition"
            told = torch.cat([told, ids.new_tensor([[token]])], 1)


@torch.no_grad()
def kept_picture(model: PreTrainedModel, ids: Tensor, count: int = 3) -> None:
    config, (layout, features) = method.ViCAConfig(_layers(model)), _case(model, ids)
    kept = method.compute_visual_kv(model, features, layout.visual_positions, config.cross_layers, layout.visual_real)
    again = Layout(ids.flip(1)[:, : layout.ids.shape[1]], *(getattr(layout, name) for name in (
        "positions", "real", "visual_positions", "visual_real", "segments", "targets")))
    ours = method.forward(model, config, _embeds(model, again), again, kept).logits
    theirs = method.definition(model, config, _embeds(model, again), again, features)
    _close(ours[again.real], theirs[again.real], "a kept picture's second question")
    fresh = answers(model, config, again, features, count)
    assert answers(model, config, again, kept, count) == fresh, "a kept picture is lost in decoding"


@torch.no_grad()
def frozen_prefix(model: PreTrainedModel, ids: Tensor) -> None:
    config, (layout, features) = method.ViCAConfig(_layers(model), "frozen"), _case(model, ids)
    ours = method.forward(model, config, _embeds(model, layout), layout, features).logits
    _close(ours[layout.real], method.definition(model, config, _embeds(model, layout), layout, features)[layout.real], "frozen prefix")


@torch.no_grad()
def pruned(model: PreTrainedModel, ids: Tensor) -> None:
    layers = _layers(model)
    config, (layout, features) = method.ViCAConfig(layers), _case(model, ids)
    shares = dict(zip(layers, (1.0, 0.5, 0.25)))
    keep = pruning.ranked(model, config, layout, features, shares)
    assert [int(k.sum(1).unique()) for k in keep.values()] == [4, 2, 1][: len(layers)], "another number of visual tokens is kept"
    ours = method.forward(model, config, _embeds(model, layout), layout, features, keep=keep).logits
    _close(ours[layout.real], method.definition(model, config, _embeds(model, layout), layout, features, keep)[layout.real], "pruning")


@torch.no_grad()
def whole_model(model: PreTrainedModel, ids: Tensor, count: int = 3) -> None:
    from common.families import with_pictures

    from .multimodal import ViCA

    inputs = with_pictures(model, ids)
    ours = ViCA(model, method.ViCAConfig(_layers(model)))
    out = ours(**inputs)
    theirs = method.definition(model, ours.config, out.text, out.layout, out.visual)
    _close(out.logits, theirs, "ViCA(model)")
    plain = ViCA(model, method.ViCAConfig(()))(input_ids=ids)
    _close(plain.logits, model(input_ids=ids).logits, "ViCA(model) without a picture")
    layout, shown, embed = out.layout, out.text, model.get_input_embeddings()
    for row in zip(*ours.generate(**inputs, max_new_tokens=count, eos_token_id=None)):
        scores = method.definition(model, ours.config, shown, layout, out.visual)[:, -1]
        for of, token in zip(scores, row):
            assert of.max() - of[token] < NEAR * of.abs().max(), "ViCA(model).generate writes another token than the definition"
        new = ids.new_tensor(row)[:, None]
        shown, ones = torch.cat([shown, embed(new)], 1), torch.ones_like(new)
        longer = {"ids": new, "positions": layout.positions[:, -1:] + 1, "real": ones.bool(), "segments": ones - 1, "targets": ones - 101}
        layout = replace(layout, **{name: torch.cat([getattr(layout, name), value], 1) for name, value in longer.items()})


def applies(model: PreTrainedModel) -> bool:
    """Whether it reads pictures."""
    return hasattr(model.config, "vision_config")


METHODS: dict[str, Callable[[PreTrainedModel, Tensor], None]] = {
    "prefill": prefill, "text": text, "generate": generate, "kept picture": kept_picture, "frozen prefix": frozen_prefix,
    "pruning": pruned, "ViCA(model)": whole_model}
vars(whole_model)["applies"] = applies  # a function's own attribute: for which models it is
