"""A model is refused by the property that sampling and scoring need and it lacks; prompts that leave no room are refused."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from common.errors import ModelError
from common.models import load, tiny
from common.reasoning.probe import check_model
from common.reasoning.rollouts import check_positions, sample


@pytest.fixture(scope="module")
def stock():
    return load(tiny("llama")).model


def changed(model, forward):
    """The same weights in a class whose forward is `forward(stock's forward, arguments)`."""

    class Changed(LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, **others):
            return forward(super().forward, dict(others, input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                                                 past_key_values=past_key_values, use_cache=use_cache))

    found = Changed(model.config).eval()
    found.load_state_dict(model.state_dict())
    return found


def looks_ahead(forward, given):
    out = forward(**given)
    out.logits = out.logits + out.logits.flip(1)
    return out


def forgets_where_it_is(forward, given):
    single = given["input_ids"].shape[1] == 1
    return forward(**given | ({"position_ids": torch.zeros_like(given["input_ids"])} if single else {}))


def sees_pads(forward, given):
    return forward(**given | {"attention_mask": None})


def overflows(forward, given):
    out = forward(**given)
    out.logits = out.logits * float("nan")
    return out


@pytest.mark.parametrize("forward, named", [(looks_ahead, "^tokens that look ahead"), (forgets_where_it_is, "^its cache"),
                                            (sees_pads, "^left padding"), (overflows, "off by nan")])
def test_what_a_model_lacks_is_named(forward, named, stock):
    check_model(stock)
    with pytest.raises(ModelError, match=named):
        check_model(changed(stock, forward))


def test_a_model_is_left_in_the_mode_that_it_was_in(stock):
    stock.train()
    check_model(stock)
    assert stock.training and stock.eval()


@pytest.mark.parametrize("family", ["mamba", "jamba"])
def test_states_that_are_no_keys_and_values_are_named(family):
    from common.families import build

    with pytest.raises(ModelError, match="^(a state that is no key and value|no key-value cache|the cache is not filled)"):
        check_model(build(family, dtype=torch.float32))


def test_a_prompt_that_leaves_no_room_is_refused_with_numbers(stock):
    """Learned positions would end in an index error, rotary ones in nonsense."""
    for kind, name in (("llama", "max_position_embeddings"), ("gpt2", "n_positions")):
        model = AutoModelForCausalLM.from_config(load(tiny(kind)).model.config.__class__(
            **load(tiny(kind)).model.config.to_dict() | {name: 32}))
        with pytest.raises(ModelError, match=r"a prompt of 40 tokens and 5 to come are more than the 32 of .*max_prompt_tokens"):
            sample(model, [[5] * 3, [5] * 40], 1, 5, end=2)
        assert len(sample(model, [[5] * 27], 1, 5, end=())[0].ids) == 5
        check_positions(model, 27, 5)
        with pytest.raises(ModelError, match="28 tokens and 5"):
            check_positions(model, 28, 5)
