"""Families that users have: where the layers work, and by which property a model is refused."""

import pytest
import torch

from common.errors import UserError
from common.families import build, text_ids

from .. import families, method
from ..decoding import generate
from ..method import Places, ViCAConfig, check_model
from ..multimodal import ViCA
from .conftest import PROMPTS, batch, pictures

pytestmark = pytest.mark.numerics


# One of each way in which a layer makes its keys, or a head its logits; `make families` tries all.
@pytest.mark.parametrize("family", ["smollm3", "stablelm-qk-norm", "granite", "cohere2", "starcoder2", "phi3", "olmo2", "gemma2", "gpt2",
                                    "deepseek_v3", "llama-dynamic", "gpt_oss"])
def test_every_way_to_use_it_is_right_on_other_families(family):
    model = build(family)
    for use in families.METHODS.values():
        if getattr(use, "applies", lambda model: True)(model):
            use(model, text_ids())


def run(model, layout):
    with torch.no_grad():
        method.forward(model, ViCAConfig((0,)), model.get_input_embeddings()(layout.ids), layout, pictures(layout, dtype=model.dtype))


def test_layers_that_hand_nothing_on_to_attention_are_not_checkpointed():
    model, layout = build("stablelm").train(), batch([PROMPTS[2]])[0]
    run(model, layout)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(UserError, match="hand no keyword arguments on"):
        run(model, layout)


@pytest.mark.parametrize("family, says", [
    ("gptj", "asks the attention functions of transformers 0 times"), ("diffllama", "2 times"),
    ("bloom", "no attention that knows its layer"), ("qwen2_vl", "mrope_section"),
    ("qwen3_next", r"does not see all text before it \(linear_attention\)"),
    ("paligemma", "does not give the stock model's logits"), ("llama4_text", "no one list of layers"),
])
def test_models_that_it_does_not_fit_are_refused_by_property(family, says):
    """Wherever one begins: the method, its check, kept keys, or decoding; and the model is as it was."""
    model, config = build(family), ViCAConfig((0,))
    words, places = model.get_input_embeddings()(torch.tensor([[5, 6]])), Places(torch.tensor([[0, 1]]))
    layout, *_ = batch([[5, 6]])
    for use in (lambda: check_model(model, config), lambda: method.forward(model, config, words, places),
                lambda: method.hidden_states(model, config, words, places), lambda: generate(model, config, layout, None, 2),
                lambda: method.compute_visual_kv(model, words, places.positions, (0,)), lambda: ViCA(model, config)):
        with pytest.raises(UserError, match=says):
            use()
    assert not model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
