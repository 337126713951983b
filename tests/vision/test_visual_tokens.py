"""Visual tokens ranked, dropped and scheduled: what a map holds is what is ranked by, and what is dropped is not seen."""

import pytest
import torch

from common.models import load, tiny
from common.vision.layout import Layout, joint, split
from common.vision.llava import dense_hidden
from common.vision.visual_tokens import attention_to_pictures, kept_by, last_slots, random_scores, schedule, without
from tests.numerics import close

IMAGE = 95
SHORT, LONG = [1, 6, IMAGE, IMAGE, IMAGE, IMAGE, 9, 4], [1, 5, 6, IMAGE, IMAGE, IMAGE, IMAGE, 7, 8, 9, 10]


@pytest.fixture(scope="module")
def model():
    return load(tiny()).model.double().eval()


def batch(*prompts, left=False) -> Layout:
    width = max(map(len, prompts))
    pad = [[0] * (width - len(p)) for p in prompts]
    rows = [(q + p if left else p + q) for p, q in zip(prompts, pad)]
    real = [([0] * len(q) + [1] * len(p) if left else [1] * len(p) + [0] * len(q)) for p, q in zip(prompts, pad)]
    return split(torch.tensor(rows), IMAGE, torch.tensor(real))


def pictures(layout: Layout) -> torch.Tensor:
    return torch.randn(len(layout.ids), 4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_last_slot_is_the_last_real_one():
    assert last_slots(batch(SHORT, LONG)).tolist() == [3, 6]
    assert last_slots(batch(SHORT, LONG, left=True)).tolist() == [3, 6], "padding is packed away"
    inside = batch(SHORT)
    inside.real = torch.tensor([[False, True, True, False]])
    assert last_slots(inside).tolist() == [2]


@pytest.mark.numerics
def test_attention_is_the_dense_model_s_own_of_these_layers_alone(model):
    """Against every map of a whole pass by stock transformers, bit by bit; nothing runs behind the last layer asked for."""
    layout = batch(SHORT, LONG)
    visual, ran = pictures(layout), []
    hooks = [block.self_attn.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, block in enumerate(model.model.layers)]
    found = attention_to_pictures(model, layout, visual, [1, 0])
    for hook in hooks:
        hook.remove()
    assert list(found) == [1, 0] and ran == [0, 1]
    assert model.config._attn_implementation == "sdpa" and not any(b.self_attn._forward_hooks for b in model.model.layers)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        embeds, positions, mask, _ = joint(layout, model.get_input_embeddings()(layout.ids), visual)
        added = torch.zeros(mask.shape, dtype=embeds.dtype).masked_fill_(~mask, torch.finfo(embeds.dtype).min)
        maps = model.model(inputs_embeds=embeds, attention_mask=added, position_ids=positions, use_cache=False,
                           output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    for layer in (0, 1):
        for row, last in enumerate((4 + 3, 4 + 6)):  # the visual tokens stand first
            assert torch.equal(found[layer][row], maps[layer].mean(1)[row, last, :4])
            assert 0 < float(found[layer][row].sum()) < 1, "the rest goes to text"
    assert len(attention_to_pictures(model, layout, visual, range(3))) == 3 and attention_to_pictures(model, layout, visual, []) == {}


@pytest.mark.parametrize("layer", [3, -1])
def test_a_layer_that_is_not_there_is_named(model, layer):
    layout = batch(SHORT)
    with pytest.raises(ValueError, match="LlamaForCausalLM has 0 to 2"):
        attention_to_pictures(model, layout, pictures(layout), [0, layer])


def test_the_highest_stay_and_of_equal_ones_the_first():
    assert kept_by(torch.tensor([[0.1, 0.3, 0.3, 0.2]]), 2).tolist() == [[False, True, True, False]]
    assert kept_by(torch.tensor([[0.3, 0.1, 0.3, 0.3]]), 2).tolist() == [[True, False, True, False]]
    assert not kept_by(torch.ones(2, 3), 0).any() and kept_by(torch.ones(2, 3), 9).all()


def test_the_order_by_lot_follows_from_the_seed():
    like = torch.zeros(3, 5)
    assert torch.equal(random_scores(like, 1), random_scores(like, 1)) and not torch.equal(random_scores(like, 1), random_scores(like, 2))
    assert random_scores(like.to("meta"), 1).device.type == "meta", "where the tokens are"


@pytest.mark.numerics
def test_what_is_dropped_is_not_seen_and_the_rest_stays_where_it_was(model):
    """The dense model on a shorter sequence with a gap in its positions is the dense model with those keys masked."""
    layout = batch(SHORT, LONG)
    visual, keep = pictures(layout), torch.tensor([[True, False, False, True], [False, True, True, False]])
    fewer, left = without(layout, visual, keep)
    assert fewer.visual_positions.tolist() == [[2, 5], [4, 5]] and fewer.visual_real.all()
    assert torch.equal(left, torch.stack([visual[0, [0, 3]], visual[1, [1, 2]]]))
    assert torch.equal(fewer.positions, layout.positions)
    with torch.no_grad():
        short = dense_hidden(model, fewer, left)
        embeds, positions, mask, _ = joint(layout, model.get_input_embeddings()(layout.ids), visual)
        mask = mask.clone()
        mask[:, 0, :, :4] &= keep[:, None]
        mask |= torch.eye(mask.shape[-1], dtype=torch.bool)
        masked = model.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state[:, 4:]
    close(short[layout.real], masked[layout.real], 1e-12)
    with pytest.raises(ValueError, match=r"by row: \[1, 2\]; a batch needs equally many"):
        without(layout, visual, torch.tensor([[True, False, False, False], [False, True, True, False]]))


def test_a_schedule_has_its_mean_and_never_rises():
    assert list(schedule((0, 4, 5, 6), 0.5).items()) == [(0, 1.0), (4, 0.5), (5, 0.25), (6, 0.25)]
    assert list(schedule((6, 0), 0.75).items()) == [(0, 1.0), (6, 0.5)], "in the order of layers"
    for k in (2, 3, 4, 8):
        for mean in (0.51, 0.6, 0.75, 1.0):
            shares = list(schedule(tuple(range(k)), mean).values())
            assert sum(shares) / k == pytest.approx(mean) and shares[0] == 1 and shares == sorted(shares, reverse=True)
    for layers, mean in (((0, 1), 0.5), ((3,), 1.0), ((), 0.5), ((0, 1), 1.1)):
        with pytest.raises(ValueError, match="above .* and up to 1"):
            schedule(layers, mean)
