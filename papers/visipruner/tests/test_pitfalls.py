"""The pitfalls of the method and of its comparison (specification 10: 2, 7, 12 to 14) that no other test names."""

from dataclasses import replace

import pytest
import torch

from common.attention import Edit

from ..analysis import Looking
from ..baselines import Chosen, FastV, PyramidDrop
from ..method import influence, neutral, paper
from ..pruners import VisiPruner, highest, shallow_edit
from ..session import PruningSession
from .test_method import FAMILIES, LAYERS, alone, close, decoder, prompts

PICTURE = slice(4, 9)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return decoder(FAMILIES[request.param])


@pytest.fixture(scope="module")
def case():
    return alone(*prompts(padded=False), 0)


@torch.no_grad()
def under(model, call, visual, pruner):
    with PruningSession(model, pruner, visual) as session:
        return model(**call).logits, session.trace


# -- 2: c_j are parts of what o_proj is given --------------------------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_contributions_of_all_keys_add_up_to_the_input_of_o_proj(attn):
    """With grouped heads, in every layer of every row, the padded one too. What leaving a key out does to o_proj's own input is cos_j and
    L2_j."""
    model = decoder(FAMILIES["qwen3"], attn=attn, dtype=torch.float64 if attn == "sdpa" else torch.float32)  # eager has no padding in fp64
    call, visual = prompts()
    given, seen = {}, {}
    hooks = [layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args, i=i: given.__setitem__(i, args[0][:, -1]))
             for i, layer in enumerate(model.model.layers)]
    try:
        under(model, call, visual, Looking(lambda layer, view, rows: seen.__setitem__(layer, (rows.weights.clone(), rows.values.clone()))))
    finally:
        for hook in hooks:
            hook.remove()
    assert {*seen} == {*given} == {*range(LAYERS)}
    for layer, (weights, values) in seen.items():
        c = weights[..., None] * values.repeat_interleave(weights.shape[1] // values.shape[1], 1)  # (B, H, K, d)
        out, parts = given[layer], c.transpose(1, 2).flatten(2)  # (B, H d), (B, K, H d)
        rel = 1e-12 if attn == "sdpa" else 1e-5
        assert close(parts.sum(1), out, rel)
        of = influence(weights, values)
        assert close(of.output, out.norm(dim=-1), rel) and close(of.norm, parts.norm(dim=-1), rel)
        left = out[:, None] - parts
        assert close(of.cos, torch.cosine_similarity(out[:, None].expand_as(left), left, dim=-1), rel)
        assert (parts[1, :3] == 0).all() and not close(parts[:, PICTURE].sum(1), out, 1e-2), "padding gives nothing, the picture not all"


# -- 7: visual tokens that do not see each other have no order ---------------------------------------------
class Apart(VisiPruner):
    """Visual tokens do not attend to visual tokens in any layer, by the shallow stage's own pairs; text sees all of them."""

    def edit(self, layer, view):
        edit = shallow_edit(paper().shallow, 1, view)
        return Edit(edit.pairs & view.visual[:, :, None], "before")


def permuted(call, order):
    """The picture's tokens in another order, each with the position that it had."""
    moved = torch.arange(call["input_ids"].shape[1])
    moved[PICTURE] = torch.tensor(order)
    return call | {"input_ids": call["input_ids"][:, moved], "position_ids": call["position_ids"][:, moved]}, moved


ORDER = [7, 4, 8, 6, 5]
RULE = paper(boundary=0, layer_threshold=2, relative=True, shallow=None)


@torch.no_grad()
def test_permuted_visual_tokens_give_permuted_choices_and_the_same_answer(model, case):
    call, visual = case
    shares = {}
    under(model, call, visual, type("Look", (Apart,), {"keep": lambda self, layer, view, rows: shares.setdefault(layer, rows) and None})(
        RULE.with_(exit_cos=2)))
    of = influence(shares[1].weights, shares[1].values)
    share = (of.norm[0] / of.output[0])[PICTURE].sort().values
    between = float(share[1:3].mean())  # two go and three stay
    rule = RULE.with_(tokens_threshold=between)
    one, other = Apart(rule), Apart(rule)
    ours, _ = under(model, call, visual, one)
    turned, moved = permuted(call, ORDER)
    theirs, _ = under(model, turned, visual, other)
    kept = one.rules[0].kept.tolist()
    assert len(kept) == 3 and one.rules[0].filter_layer == other.rules[0].filter_layer == 1
    assert sorted(moved[other.rules[0].kept].tolist()) == kept and sorted(other.rules[0].kept.tolist()) != kept
    text = ~visual[0]
    assert close(theirs[0, text], ours[0, text], 1e-6)  # rotations are in single precision
    ours, theirs = (under(model, each, visual, VisiPruner(rule))[0][0, text] for each in (call, turned))
    assert not close(theirs, ours, 1e-3), "where they see each other, the order means something"


@torch.no_grad()
def test_under_the_papers_shallow_stage_the_pictures_order_is_nothing_to_the_text(model, case):
    """In all layers but the last, where text sees a picture whose tokens did not see each other. With its visual self-attention kept, as
    the released code has it, order means something there."""
    call, visual = case
    turned, _ = permuted(call, ORDER)
    text = ~visual[0]

    def pruner(visual_self):
        shallow = replace(paper().shallow, layers=LAYERS, visual_self=visual_self, onto=0, first="skip")
        return type("Late", (VisiPruner,), {"edit": lambda self, layer, view: shallow_edit(
            shallow, layer, view) if layer < LAYERS - 1 else Edit(view.visual[:, :, None] & view.visual[:, None, :] & ~torch.eye(
                view.slots.shape[1], dtype=torch.bool), "before")})(neutral())

    ours, theirs = (under(model, each, visual, pruner(False))[0][0, text] for each in (call, turned))
    assert close(theirs, ours, 1e-6)
    ours, theirs = (under(model, each, visual, pruner(True))[0][0, text] for each in (call, turned))
    assert not close(theirs, ours, 1e-4)


# -- 12: rivals that drop nothing, and one choice by two names ---------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize("pruner", [FastV(1, 0.0), PyramidDrop([1, 2, 3], 1.0), PyramidDrop([0], 1.0), FastV(LAYERS - 1, 0.75)],
                         ids=["FastV", "PyramidDrop", "PyramidDrop at once", "FastV behind the last layer"])
def test_rivals_that_keep_everything_are_the_stock_model_bit_for_bit(model, pruner):
    call, visual = prompts()
    before, written = model(**call).logits, model.generate(**call, max_new_tokens=5, do_sample=False)
    with PruningSession(model, pruner, visual) as session:
        after = model(**call).logits
        assert torch.equal(model.generate(**call, max_new_tokens=5, do_sample=False), written)
    text = ~visual & call["attention_mask"].bool()
    assert torch.equal(after[text], before[text]) and session.trace.visual == [visual.sum(1).tolist()] * LAYERS


@torch.no_grad()
def test_fastv_and_attention_at_the_same_layer_and_number_are_one_choice(model):
    """VisiPruner's own layer and number, by attention in the place of value (what `at_own_k` asks), is FastV at that layer and share. Value
    at the same number is another choice."""
    call, visual = alone(*prompts(padded=False), 0)
    value = VisiPruner(RULE.with_(tokens_threshold=0.2, exit_cos=2))
    under(model, call, visual, value)
    layer, count = value.rules[0].filter_layer, len(value.rules[0].kept)
    assert layer == 1 and 0 < count < 5
    fast, trace = under(model, call, visual, FastV(layer, 1 - count / 5))
    chosen, same = under(model, call, visual, Chosen("attention", layer, count))
    assert torch.equal(fast, chosen) and torch.equal(trace.kept[layer][0], same.kept[layer][0]) and len(same.kept[layer][0]) == count
    weights = {}
    under(model, call, visual, Looking(lambda number, view, rows: weights.setdefault(number, rows.weights.mean(1))))
    assert torch.equal(same.kept[layer][0], highest(weights[layer], visual, [count])[0].nonzero()[:, 0])


def test_pyramiddrop_leaves_the_shares_that_its_schedule_says(model):
    call, visual = prompts()
    for share, left in ((1.0, [5, 5, 5, 5, 5]), (0.5, [5, 5, 3, 2, 1]), (0.0, [5, 5, 0, 0, 0])):
        _, trace = under(model, call, visual, PyramidDrop([1, 2, 3], share))
        assert [row[0] for row in trace.visual] == left


# -- 13, 14: decisions in other arithmetic -----------------------------------------------------------------
def decided(model, call, visual, config):
    """(filter layer, kept, exit layer) of each row."""
    pruner = VisiPruner(config)
    under(model, call, visual, pruner)
    return [(r.filter_layer, None if r.kept is None else r.kept.tolist(), r.exit_layer) for r in pruner.rules]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_half_weights_decide_as_single_ones_where_margins_are_large(family):
    """Thresholds lie in the widest gaps of what the model does in fp32, in the layer whose cosines are farthest from 1; bf16 and fp16 move
    cosines and shares by less than half of these gaps, and every decision stays: the layer, the tokens and the exit."""
    model, (call, visual) = decoder(FAMILIES[family], dtype=torch.float32), prompts(padded=False)
    seen = looked(model, call, visual)
    layer = min(range(1, LAYERS - 1), key=lambda number: least(seen[number], visual).max())
    cosine, share = least(seen[layer], visual).max(), shares(seen[layer], visual).sort().values
    gap, cut = (float(value) for value in (share[1:] - share[:-1]).max(0))
    config = paper(boundary=layer - 1, layer_threshold=float((1 + cosine) / 2), relative=True, shallow=None, exit_patience=1, exit_cos=-1,
                   tokens_threshold=float(share[int(cut) : int(cut) + 2].mean()))
    usual = decided(model, call, visual, config)
    assert [(found, ends) for found, _, ends in usual] == [(layer, layer + 1 if kept else None) for _, kept, _ in usual]
    assert 0 < sum(len(kept) for _, kept, _ in usual) < int(visual.sum())
    for dtype in (torch.bfloat16, torch.float16):
        half = decoder(FAMILIES[family], dtype=torch.float32).to(dtype)
        theirs = looked(half, call, visual)[layer]
        assert theirs.cos.dtype == theirs.norm.dtype == torch.float32, "influence is never in half precision"
        moved = (shares(theirs, visual) - shares(seen[layer], visual)).abs().max()
        turned = (least(theirs, visual) - least(seen[layer], visual)).abs().max()
        assert 0 < moved < gap / 2 and 0 < turned < (1 - cosine) / 2, "the margins are large"
        assert decided(half, call, visual, config) == usual


def looked(model, call, visual):
    found = {}
    under(model, call, visual, Looking(lambda layer, view, rows: found.__setitem__(layer, influence(rows.weights, rows.values))))
    return found


def shares(of, visual):
    return (of.norm / of.output[:, None])[visual]


def least(of, visual):
    return of.cos.masked_fill(~visual, 2).amin(1)
