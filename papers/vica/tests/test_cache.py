"""ViCACache as any cache is used: its rows move, tokens are taken back, it is emptied, and what is not known of it is refused."""

import copy

import pytest
import torch

from common.families import build, text_ids, with_pictures
from tests.numerics import close, far

from .. import method
from ..method import Places, ViCACache, ViCAConfig
from ..multimodal import ViCA
from .conftest import PROMPTS, batch, pictures

CONFIG, EXACT = ViCAConfig((0, 2)), 1e-10


@pytest.fixture
def two(decoder):
    """(model, a filled cache, step): rows of unlike length and unlike pictures; step(cache, tokens, rows) gives the next logits (B, V)."""
    model = decoder()
    layout, *_ = batch([PROMPTS[1], PROMPTS[2]])
    visual = pictures(layout).clone()
    visual[1] = -visual[1]
    embed, cache = model.get_input_embeddings(), ViCACache()
    next_place = torch.tensor([len(PROMPTS[1]), len(PROMPTS[2])])

    @torch.no_grad()
    def step(cache, tokens, rows, behind=0):
        places = Places(next_place[rows][:, None] + behind)
        return method.forward(model, CONFIG, embed(torch.tensor(tokens)[:, None]), places, past_key_values=cache).logits[:, -1]

    with torch.no_grad():
        method.forward(model, CONFIG, embed(layout.ids), layout, visual, cache)
    return model, cache, step


@pytest.mark.numerics
@pytest.mark.parametrize("move, rows", [
    (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), [1, 0]),
    (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    (lambda cache: cache.batch_select_indices(torch.tensor([False, True])), [1]),
    (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1])])
def test_a_row_that_moves_takes_its_picture_and_its_places_along(two, move, rows):
    _, cache, step = two
    wanted = step(copy.deepcopy(cache), [7, 9], [0, 1])
    move(cache)
    given = step(cache, [(7, 9)[row] for row in rows], rows)
    close(given, wanted[rows], EXACT)
    assert cache.visual.positions.shape[0] == cache.positions.shape[0] == len(rows)


@pytest.mark.numerics
def test_and_with_the_other_row_s_picture_it_would_answer_otherwise(two):
    _, cache, step = two
    wanted = step(copy.deepcopy(cache), [7, 9], [0, 1])
    cache.visual = cache.visual.select(torch.tensor([1, 0]))
    far(step(cache, [7, 9], [0, 1]), wanted, 1e-3)


@pytest.mark.numerics
def test_tokens_that_are_taken_back_were_never_there(two):
    _, cache, step = two
    wanted = step(copy.deepcopy(cache), [7, 9], [0, 1])
    for i, token in enumerate((11, 12, 13)):
        step(cache, [token, token + 3], [0, 1], i)
    cache.crop(-3)
    cache.crop(0)
    close(step(cache, [7, 9], [0, 1]), wanted, EXACT)
    with pytest.raises(ValueError, match=r"crop\(4\): minus the number of tokens to take back, and \d+ are there"):
        cache.crop(4)
    with pytest.raises(ValueError, match="crop"):
        cache.crop(-1000)
    close(step(copy.deepcopy(cache), [5, 6], [0, 1], 1), step(cache, [5, 6], [0, 1], 1), EXACT)


@torch.no_grad()
def test_an_emptied_cache_is_a_new_one_and_knows_no_picture(two, prompts):
    model, cache, _ = two
    cache.reset()
    embeds = model.get_input_embeddings()(prompts.layout.ids)
    again = method.forward(model, CONFIG, embeds, prompts.layout, prompts.visual, cache).logits
    close(again[prompts.layout.real], method.forward(model, CONFIG, embeds, prompts.layout, prompts.visual, ViCACache()).logits[
        prompts.layout.real], EXACT)
    cache.reset()
    assert cache.visual is None and cache.get_seq_length() == 0


@torch.no_grad()
def test_text_behind_a_call_that_was_broken_off_or_behind_a_stock_model_is_refused(two):
    model, cache, step = two
    broken = model.get_decoder().layers[1].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        with pytest.raises(KeyboardInterrupt):
            step(cache, [7, 9], [0, 1])
    finally:
        broken.remove()
    with pytest.raises(ValueError, match="was broken off, or a stock model wrote there: begin with a new ViCACache"):
        step(cache, [7, 9], [0, 1])
    stock = ViCACache()
    model(torch.tensor([[5, 6, 7]]), past_key_values=stock)
    with pytest.raises(ValueError, match="begin with a new ViCACache"):
        method.forward(model, CONFIG, model.get_input_embeddings()(torch.tensor([[8]])), Places(torch.tensor([[3]])), past_key_values=stock)


@torch.no_grad()
def test_whole_models_go_on_behind_what_was_taken_back_and_answer_without_dropout():
    llava = build("llava")
    ours, inputs, cache = ViCA(llava, CONFIG), with_pictures(llava, text_ids()), ViCACache()
    ours(**inputs, past_key_values=cache)
    wanted = ours(torch.tensor([[7], [9]]), past_key_values=copy.deepcopy(cache)).logits
    ours(torch.tensor([[8, 6], [5, 5]]), past_key_values=cache)
    cache.crop(-2)
    close(ours(torch.tensor([[7], [9]]), past_key_values=cache).logits, wanted, 1e-5)
    text_alone = ViCACache()
    ours(torch.tensor([[7, 8]]), past_key_values=text_alone)
    text_alone.crop(-2)
    close(ours(torch.tensor([[7, 8]]), past_key_values=text_alone).logits, ours(torch.tensor([[7, 8]])).logits, 1e-5)

    calm = ours.generate(**inputs, max_new_tokens=6, eos_token_id=None)
    llava.config.text_config.attention_dropout = 0.5
    for block in llava.get_decoder().layers:
        block.self_attn.attention_dropout = 0.5
    llava.train()
    llava.model.vision_tower.eval()  # a frozen part stays as it was
    assert ours.generate(**inputs, max_new_tokens=6, eos_token_id=None) == calm
    assert llava.training and llava.get_decoder().layers[0].training and not llava.model.vision_tower.training


@pytest.mark.parametrize("layers", [(True,), (0, True), (1.0,), ("1",)])
def test_a_layer_is_a_number_and_true_is_none(layers):
    with pytest.raises(ValueError, match="distinct layer numbers from 0 on"):
        ViCAConfig(layers)
