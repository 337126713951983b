"""Fusion on any family, each kind beside an independent oracle: `python -m common.families` runs all.

    internal direct      a decoder on embeddings: neutral = the stock model, bit for bit; learnt = the stock model with the same sums
                         written into its blocks' inputs, and greedy tokens = greedy decoding without a cache
    internal modular     pre, post, parallel: neutral = the stock model; text before a picture does not see it; a cache changes nothing
    external ..., whole  a stock multimodal model on ids and pixels; families with pictures only
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .internal import Internal, Pictures
from .method import Fusion, FusionConfig, LayerSet, Sizes, few

NEAR = 1e-4  # of the largest value: stock norms, rotations and eager softmaxes compute in fp32 whatever they are given
DV, N, START = 8, 4, 3  # width of a made-up tower, patches, and the slot where a picture begins


def _close(ours: Tensor, theirs: Tensor, what: str) -> None:
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    assert apart < NEAR, f"{what}: {apart:.2g} of the largest value apart"


def _case(model: PreTrainedModel, config: FusionConfig, ids: Tensor) -> tuple[Fusion, Tensor, list[Tensor], Tensor]:
    """(fusion, embeddings, what the blocks get, where) of rows with a picture of random features in the middle."""
    torch.manual_seed(1)
    text = model.config.get_text_config(decoder=True)
    table: Any = model.get_input_embeddings()
    embeds = table(ids)
    sizes = Sizes(DV, embeds.shape[-1], 32, 2, text.num_hidden_layers)
    fusion = Fusion(config, sizes).to(embeds.dtype)
    states = torch.randn(3, len(ids), N, DV, dtype=embeds.dtype)
    _, extras = fusion(dict(enumerate(states)))
    where = torch.zeros(ids.shape, dtype=torch.bool)
    where[:, START : START + N] = True
    return fusion, embeds, extras, where


def _set(model: PreTrainedModel) -> tuple[LayerSet, tuple[int, int]]:
    return few("two", (1, 2), 2), (0, model.config.get_text_config(decoder=True).num_hidden_layers - 1)


def _run(model: PreTrainedModel, internal: Internal, embeds: Tensor, extras: list[Tensor], where: Tensor) -> Tensor:
    internal.pictures = Pictures.of(extras, where)
    return model(inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long), use_cache=False).logits


@torch.no_grad()
def inside(model: PreTrainedModel, ids: Tensor, pattern: Any = "direct", variant: Any = "pre", count: int = 3) -> None:
    layers, points = _set(model)
    config = FusionConfig(layers, "internal", pattern, variant=variant, points=points, neutral=True)
    fusion, embeds, extras, where = _case(model, config, ids)
    plain = model(inputs_embeds=embeds, attention_mask=torch.ones_like(ids), use_cache=False).logits
    with Internal(model, fusion) as internal:
        assert torch.equal(_run(model, internal, embeds, extras, where), plain), "a neutral start changes the logits"
    assert torch.equal(model(inputs_embeds=embeds, attention_mask=torch.ones_like(ids), use_cache=False).logits, plain), "hooks stay behind"
    for projector in fusion.extra:
        nn.init.normal_(projector.linear_2.weight, std=0.3)
    for cross in fusion.cross:
        cross.gate_1.fill_(0.7)
        cross.gate_2.fill_(0.5)
    draw = torch.randn(3, len(ids), N, DV, dtype=embeds.dtype, generator=torch.Generator().manual_seed(2))
    _, extras = fusion(dict(enumerate(draw)))
    with Internal(model, fusion) as internal:
        ours = _run(model, internal, embeds, extras, where)
        other = _run(model, internal, embeds, [states.flip(0) for states in extras], where)
        written = _written(model, internal, ids, extras, where, count)
        table: Any = model.get_input_embeddings()
        for i in range(count):
            so_far = torch.cat([embeds, table(written[:, :i])], 1)
            longer = torch.cat([where, torch.zeros(len(ids), i, dtype=torch.bool)], 1)
            scores = _run(model, internal, so_far, extras, longer)[:, -1]
            behind = scores.amax(-1) - scores.gather(1, written[:, i, None])[:, 0]
            assert behind.max() < NEAR * scores.abs().max(), "generate writes another token than a pass without a cache"
    assert (ours - plain).abs().max() > NEAR * plain.abs().max(), "what was added makes no difference"
    if _causal(model, embeds, plain):  # a stock prefix that sees both ways sees the picture's slots, whatever they hold
        assert torch.equal(ours[:, :START], other[:, :START]), "text before the picture sees it"
    if pattern == "direct":
        _close(ours, _summed(model, embeds, extras, points), "internal direct")


def _causal(model: PreTrainedModel, embeds: Tensor, plain: Tensor) -> bool:
    """Whether the stock model's own text is blind to what stands behind it."""
    turned = torch.cat([embeds[:, :START], embeds[:, START:].flip(0)], 1)
    logits = model(inputs_embeds=turned, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long), use_cache=False).logits
    return torch.equal(logits[:, :START], plain[:, :START])


def _written(model: PreTrainedModel, internal: Internal, ids: Tensor, extras: list[Tensor], where: Tensor, count: int) -> Tensor:
    internal.pictures = Pictures.of(extras, where)
    generate: Any = model.generate
    return generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None,
                    pad_token_id=0)[:, ids.shape[1] :]


def _summed(model: PreTrainedModel, embeds: Tensor, extras: list[Tensor], points: tuple[int, ...]) -> Tensor:
    """The definition of internal direct: what a block is given, with the picture's slots replaced by their sums."""
    def at(states: Tensor) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            given = args[0] if args else kwargs["hidden_states"]
            changed = torch.cat([given[:, :START], given[:, START : START + N] + states, given[:, START + N :]], 1)
            return ((changed, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": changed})

        return hook

    blocks: Any = model.get_decoder().layers
    hooks = [blocks[p].register_forward_pre_hook(at(states), with_kwargs=True) for p, states in zip(points, extras)]
    try:
        return model(inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long), use_cache=False).logits
    finally:
        for each in hooks:
            each.remove()


@torch.no_grad()
def whole(model: PreTrainedModel, ids: Tensor, position: Any = "external", pattern: Any = "direct", count: int = 3) -> None:
    from common.families import with_pictures

    from .multimodal import Fused

    sample = with_pictures(model, ids)
    plain = model(**sample).logits
    layers, points = _set(model)
    config = FusionConfig(layers, position, pattern, points=points if position == "internal" else None)
    fused = Fused(model, config, sample)
    with fused:
        assert torch.equal(model(**sample).logits, plain), "a neutral start changes the logits"
        torch.manual_seed(3)
        for parameter in fused.new.parameters():
            nn.init.normal_(parameter, std=0.3) if parameter.numel() > 1 else parameter.fill_(0.6)
        ours = model(**sample).logits
        assert (ours - plain).abs().max() > NEAR * plain.abs().max(), "what was added makes no difference"
        generate: Any = model.generate
        written = generate(**sample, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
        width = sample["input_ids"].shape[1]
        longer = sample | {"input_ids": written[:, :-1], "attention_mask": torch.ones_like(written[:, :-1])}
        if "mm_token_type_ids" in sample:
            longer["mm_token_type_ids"] = (longer["input_ids"] == model.config.image_token_id).long()
        scores = model(**longer, use_cache=False).logits[:, width - 1 :]
        chosen = scores.gather(2, written[:, width:, None])[..., 0]
        assert (scores.amax(-1) - chosen).max() < NEAR * scores.abs().max(), "generate writes another token than a pass without a cache"
    assert torch.equal(model(**sample).logits, plain), "hooks stay behind"


def applies(model: PreTrainedModel) -> bool:
    """Whether it reads pictures."""
    return hasattr(model.config, "vision_config")


METHODS: dict[str, Callable[[PreTrainedModel, Tensor], None]] = {"internal direct": inside}
METHODS |= {f"internal modular, {variant}": partial(inside, pattern="modular", variant=variant) for variant in ("pre", "post", "parallel")}
for _position, _pattern in (("external", "direct"), ("external", "modular"), ("internal", "direct"), ("internal", "modular")):
    _use = partial(whole, position=_position, pattern=_pattern)
    vars(_use)["applies"] = applies  # a function's own attribute: for which models it is
    METHODS[f"whole model, {_position} {_pattern}"] = _use
