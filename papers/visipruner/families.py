"""VisiPruner on any family of decoders, each way to use it beside an independent oracle: `python -m common.families` runs all.

    neutral       nothing pruned: logits and written tokens of the stock model, bit for bit, in the session and after it
    pruned        dropped tokens = the stock model with their keys hidden from the layers behind, two rows that keep different tokens
    generate      greedy tokens = greedy decoding without a cache, by that definition
    shallow       text-to-picture attention before the softmax in all layers = the stock model without the picture, positions kept
    whole model   a stock multimodal model on ids and pixels; families with pictures only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .baselines import Chosen
from .method import ShallowConfig, neutral, paper
from .pruners import VisiPruner
from .session import PruningSession

NEAR = 1e-4  # of the largest value: stock norms, rotations and eager softmaxes compute in fp32 whatever they are given
PICTURE = slice(2, 7)  # of the slots of a text, whose tokens stand for visual ones


def _close(ours: Tensor, theirs: Tensor, what: str) -> None:
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    assert apart < NEAR, f"{what}: {apart:.2g} of the largest value apart"


def _case(ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    visual = torch.zeros(ids.shape, dtype=torch.bool)
    visual[:, PICTURE] = True
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, visual


def _different() -> Chosen:
    """Rows that keep different numbers of tokens behind different layers."""
    return Chosen("value", [0, 1], [2, 1])


def hiding(model: PreTrainedModel, call: dict[str, Tensor], gone: Sequence[dict[int, int]]) -> Tensor:
    """Logits (B, S, V) of the stock model: gone[row] {slot: the first layer that does not see it}."""
    ids = call["input_ids"]
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()

    def at(layer: int):
        seen = causal.repeat(len(ids), 1, 1)
        for row, slots in enumerate(gone):
            for slot, first in slots.items():
                seen[row, :, slot] &= layer < first
        seen |= torch.eye(ids.shape[1], dtype=torch.bool)
        mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill_(~seen, torch.finfo(model.dtype).min)[:, None]

        def hook(module, args, kwargs):
            return args, kwargs | {"attention_mask": mask}

        return hook

    hooks = [layer.register_forward_pre_hook(at(i), with_kwargs=True) for i, layer in enumerate(model.get_decoder().layers)]
    try:
        return model(**call, use_cache=False).logits
    finally:
        for each in hooks:
            each.remove()


def _gone(session: PruningSession, visual: Tensor) -> list[dict[int, int]]:
    """What a session dropped: {slot: the first layer without it} by row."""
    gone: list[dict[int, int]] = [{} for _ in visual]
    for layer, rows in session.trace.kept.items():
        for row, kept in enumerate(rows):
            for slot in set(visual[row].nonzero()[:, 0].tolist()) - set(kept.tolist()):
                gone[row].setdefault(slot, layer + 1)
    return gone


@torch.no_grad()
def unchanged(model: PreTrainedModel, ids: Tensor) -> None:
    call, visual = _case(ids)
    before = model(**call).logits
    with PruningSession(model, VisiPruner(neutral()), visual):
        assert torch.equal(model(**call).logits, before), "a session that prunes nothing changes the logits"
    with PruningSession(model, _different(), visual):
        model(**call)
    assert torch.equal(model(**call).logits, before), "a session leaves something behind"


@torch.no_grad()
def pruned(model: PreTrainedModel, ids: Tensor) -> None:
    call, visual = _case(ids)
    for pruner in (_different(), VisiPruner(paper(boundary=-1, layer_threshold=2, relative=True, tokens_threshold=0.2, shallow=None))):
        with PruningSession(model, pruner, visual) as session:
            ours = model(**call).logits
        theirs = hiding(model, call, _gone(session, visual))
        _close(ours[~visual], theirs[~visual], f"{type(pruner).__name__}")
        if isinstance(pruner, Chosen):  # what VisiPruner keeps follows from the weights, and may be all
            whole = hiding(model, call, [{} for _ in ids])
            assert (theirs - whole)[:, -1].abs().max() > NEAR * whole.abs().max(), "what was dropped makes no difference"


@torch.no_grad()
def generate(model: PreTrainedModel, ids: Tensor, count: int = 4) -> None:
    call, visual = _case(ids)
    with PruningSession(model, _different(), visual) as session:
        written = model.generate(**call, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
        gone = _gone(session, visual)
    assert written.shape[1] == ids.shape[1] + count
    scores = hiding(model, {"input_ids": written[:, :-1]}, gone)[:, ids.shape[1] - 1 :]
    chosen = scores.gather(2, written[:, ids.shape[1] :, None])[..., 0]
    assert (scores.amax(-1) - chosen).max() < NEAR * scores.abs().max(), "generate writes another token than the definition"


@torch.no_grad()
def shallow(model: PreTrainedModel, ids: Tensor) -> None:
    call, visual = _case(ids)
    everywhere = ShallowConfig(layers=10**6, mode="before", first="skip")
    with PruningSession(model, VisiPruner(neutral().with_(shallow=everywhere)), visual):
        ours = model(**call).logits
    slots = visual[0].nonzero()[:, 0].tolist()
    _close(ours[~visual], hiding(model, call, [dict.fromkeys(slots, 0)] * len(ids))[~visual], "the shallow stage in all layers")


@torch.no_grad()
def whole_model(model: PreTrainedModel, ids: Tensor, count: int = 3) -> None:
    from common.families import with_pictures

    inputs = with_pictures(model, ids)
    visual = inputs["input_ids"] == model.config.image_token_id
    before = model(**inputs).logits
    with PruningSession(model, VisiPruner(neutral())):
        assert torch.equal(model(**inputs).logits, before), "a session that prunes nothing changes the logits"
    with PruningSession(model, _different()) as session:
        ours = model(**inputs).logits
        gone = _gone(session, visual)
        written = model.generate(**inputs, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert any(gone), "nothing was pruned"
    _close(ours[~visual], hiding(model, inputs, gone)[~visual], "a multimodal model")
    width = inputs["input_ids"].shape[1]
    whole = inputs | {"input_ids": written[:, :-1], "attention_mask": torch.ones_like(written[:, :-1])}
    if "mm_token_type_ids" in inputs:
        whole["mm_token_type_ids"] = (whole["input_ids"] == model.config.image_token_id).long()
    scores = hiding(model, whole, gone)[:, width - 1 :]
    chosen = scores.gather(2, written[:, width:, None])[..., 0]
    assert (scores.amax(-1) - chosen).max() < NEAR * scores.abs().max(), "generate writes another token than the definition"


def applies(model: PreTrainedModel) -> bool:
    """Whether it reads pictures."""
    return hasattr(model.config, "vision_config")


METHODS: dict[str, Callable[[PreTrainedModel, Tensor], None]] = {
    "neutral": unchanged, "pruned": pruned, "generate": generate, "shallow": shallow, "whole model": whole_model}
vars(whole_model)["applies"] = applies  # a function's own attribute: for which models it is
