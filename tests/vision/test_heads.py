"""A decoder's own way from states to logits: scales and caps included, layers left alone, the model as it was."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.vision.heads import by_own_head
from tests.numerics import close

SMALL = dict(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
             head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)
SCALED = {"llama": {}, "granite": {"logits_scaling": 3.0}, "cohere": {"logit_scale": 0.25}, "gemma2": {"final_logit_softcapping": 0.5}}


@pytest.mark.parametrize("kind", SCALED)
def test_logits_of_some_states_are_the_model_s_own(kind):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **SCALED[kind]), dtype=torch.float64).eval()
    ids = torch.tensor([[3, 5, 7, 9], [4, 6, 8, 10]])
    with torch.no_grad():
        out = model(ids, output_hidden_states=True, use_cache=False)
        bare = model.get_output_embeddings()(out.hidden_states[-1])
        some = torch.tensor([[False, True, False, True], [True, False, False, False]])
        found = by_own_head(model, out.hidden_states[-1][some])
    close(found, out.logits[some])
    assert torch.allclose(bare, out.logits) == (kind == "llama"), "a scale that changes nothing tests nothing"
    assert "forward" not in model.get_decoder().__dict__


def test_a_forward_that_somebody_set_is_there_again_also_after_an_error():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL)).eval()
    mine = model.get_decoder().forward
    model.get_decoder().forward = mine
    by_own_head(model, torch.zeros(3, 16))
    with pytest.raises(RuntimeError):
        by_own_head(model, torch.zeros(3, 15))
    assert model.get_decoder().__dict__["forward"] is mine
