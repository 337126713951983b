"""The cache of a pruned prompt as a caller holds it: his own object, readable in a session alone, taken back, reset, copied."""

import copy

import pytest
import torch
from transformers import DynamicCache

from common.errors import ModelError, UserError

from ..baselines import Chosen
from ..session import PrunedCache, PruningSession
from .test_method import decoder, prompts

LENGTHS = [14, 14, 14, 14, 11]  # of the widest row: row 0 keeps 2 of 5 behind layer 1, row 1 keeps 1 of 6 behind layer 3


@pytest.fixture(scope="module")
def llama():
    return decoder()


def session(model, visual):
    return PruningSession(model, Chosen("value", [1, 3], [2, 1]), visual)


def prefilled(model, **more):
    """A pruned prompt with its open session's cache, and a function that decodes two tokens by one call."""
    call, visual = prompts(padded=False)
    cache = model(**call, **more).past_key_values
    return cache, lambda held: model(input_ids=torch.tensor([[5, 6], [7, 8]]), past_key_values=held).logits


@torch.no_grad()
def test_a_callers_own_empty_cache_is_the_one_that_is_filled(llama):
    visual = prompts(padded=False)[1]
    with session(llama, visual):
        cache, decode = prefilled(llama)
        expected = decode(cache)
    for own in (DynamicCache(), DynamicCache(config=llama.config)):
        with session(llama, visual):
            cache, decode = prefilled(llama, past_key_values=own)
            assert cache is own and own.get_seq_length() == 14
            assert [keys.shape[2] for keys, *_ in own] == LENGTHS
            assert torch.equal(decode(own), expected) and own.get_seq_length() == 16


@torch.no_grad()
def test_a_pruned_prompt_cannot_be_decoded_by_the_stock_model(llama):
    visual = prompts(padded=False)[1]
    with session(llama, visual):
        cache, decode = prefilled(llama)
        expected = decode(copy.deepcopy(cache))
    keys = cache.layers[-1].keys.clone()
    for held in (cache, copy.deepcopy(cache)):
        with pytest.raises(ModelError, match="inside of"):
            decode(held)
        assert held.get_seq_length() == 14 and torch.equal(held.layers[-1].keys, keys)
    with session(llama, visual):  # another session of the same model reads it as the first did
        assert torch.equal(decode(cache), expected)


@torch.no_grad()
def test_what_was_written_is_taken_back_and_the_prompt_never(llama):
    with session(llama, prompts(padded=False)[1]):
        cache, decode = prefilled(llama)
        first = decode(cache)
        cache.crop(-2)
        assert cache.get_seq_length() == 14 and torch.equal(decode(cache), first)
        with pytest.raises(ValueError, match="positive"):
            cache.crop(15)  # the older meaning, a length: never read as a number of tokens to take back
        with pytest.raises(UserError, match="cannot take back 3"):
            cache.crop(-3)
        assert cache.get_seq_length() == 16


@torch.no_grad()
def test_a_cache_that_was_reset_takes_the_next_prompt(llama):
    stock = llama(torch.tensor([[1, 2]]), past_key_values=DynamicCache()).past_key_values
    stock.reset()
    if stock.get_seq_length():
        pytest.skip("this transformers' own dynamic cache keeps its length when it is reset")
    with session(llama, prompts(padded=False)[1]):
        cache, decode = prefilled(llama)
        expected = decode(cache)
        cache.reset()
        assert cache.get_seq_length() == 0 and isinstance(cache, PrunedCache)
        again, decode = prefilled(llama, past_key_values=cache)
        assert again is cache and torch.equal(decode(cache), expected)


def test_a_model_is_not_copied_while_it_is_pruned(llama):
    with session(llama, prompts()[1]), pytest.raises(ModelError, match="copy it before"):
        copy.deepcopy(llama)
    copy.deepcopy(llama)


def test_an_offloaded_cache_is_refused(llama):
    held = DynamicCache()
    held.offloading = True
    with session(llama, prompts(padded=False)[1]), pytest.raises(ModelError, match="offloaded"):
        prefilled(llama, past_key_values=held)


@torch.no_grad()
def test_a_tuple_is_pruned_as_an_output_is(llama):
    call, visual = prompts()
    stack = llama.get_decoder()
    with session(llama, visual):
        whole, parts = stack(**call), stack(**call, return_dict=False)
    assert isinstance(parts, tuple) and torch.equal(parts[0], whole.last_hidden_state)
    assert (parts[0] == 0).all(-1).any()  # slots of what was dropped


@torch.no_grad()
def test_image_tokens_of_an_earlier_call_are_not_read(llama):
    llama.config.image_token_id = 3
    try:
        ids = torch.tensor([[1, 3, 3, 4, 5]])
        with PruningSession(llama, Chosen("value", 1, 1)):
            llama(input_ids=ids)
            with pytest.raises(ModelError, match="where are the visual tokens"):
                llama.get_decoder()(input_ids=torch.tensor([[1, 6, 7, 3, 3]]))  # by itself: nothing said where
    finally:
        del llama.config.image_token_id
