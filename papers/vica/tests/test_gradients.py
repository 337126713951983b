"""ViCA in training: gradients are those of the definition, with checkpointing, with calls in between and after an interrupt, and the model
that was trained is the stock model again."""

import pytest
import torch

from common.errors import ModelError
from common.models import load, tiny
from tests.numerics import close, far, truly_double

from .. import method
from ..method import ViCACache, ViCAConfig
from ..reference import masked_reference
from .conftest import PROMPTS, batch, pictures, run

pytestmark = pytest.mark.numerics

EXACT = 1e-12  # of the largest value: models are in double precision


def gradients(model, config, layout, visual):
    model.zero_grad()
    visual = visual.clone().requires_grad_(True)
    embeds = model.get_input_embeddings()(layout.ids)
    logits = method.forward(model, config, embeds, layout, visual).logits
    targets = layout.ids.masked_fill(~layout.real, -100)
    loss, count = method.loss_sum(logits, targets)
    loss.backward()
    return {"visual": visual.grad, **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}}, int(count)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients_reach_the_picture_and_are_the_definition_s(attention, prompts):
    model, config = truly_double(load(tiny(attn_implementation=attention)).model.double()), ViCAConfig((0, 2))
    ours, count = gradients(model, config, prompts.layout, prompts.visual)
    assert count == int(prompts.layout.real.sum())
    model.zero_grad()
    visual = prompts.visual.clone().requires_grad_(True)
    logits = masked_reference(model, config, prompts.layout, visual)
    method.loss_sum(logits, prompts.layout.ids.masked_fill(~prompts.layout.real, -100))[0].backward()
    close(ours["visual"], visual.grad, 1e-11)
    for name, p in model.named_parameters():
        close(ours[name], p.grad, 1e-11)


def test_gradient_checkpointing_changes_nothing(prompts):
    model, config = truly_double(load(tiny()).model.double()).train(), ViCAConfig((0, 2))
    plain, _ = gradients(model, config, prompts.layout, prompts.visual)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for _ in range(2):
        again, _ = gradients(model, config, prompts.layout, prompts.visual)
        assert again.keys() == plain.keys()
        for name, gradient in plain.items():
            close(again[name], gradient, EXACT)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_after_a_checkpointed_step_the_model_is_the_stock_model(attention, prompts):
    """The backward pass runs layers again, by our attention; whoever calls the decoder then meets its own, and so does another call."""
    from common.vision.llava import dense_hidden

    model, config = truly_double(load(tiny(attn_implementation=attention)).model.double()), ViCAConfig((0, 2))
    with torch.no_grad():
        dense, plain = dense_hidden(model, prompts.layout, prompts.visual), model(prompts.ids, attention_mask=prompts.real).logits
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    targets, embed = prompts.layout.ids.masked_fill(~prompts.layout.real, -100), model.get_input_embeddings()
    loss = sum(method.loss_sum(method.forward(model, config, embed(prompts.layout.ids), prompts.layout, visual).logits, targets)[0]
               for visual in (prompts.visual, -prompts.visual))  # two calls before their backward pass
    assert model.config._attn_implementation == attention
    with torch.no_grad():
        close(dense_hidden(model, prompts.layout, prompts.visual), dense, EXACT)
    loss.backward()
    assert model.config._attn_implementation == attention
    checkpointed = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.gradient_checkpointing_disable()
    model.zero_grad()
    for visual in (prompts.visual, -prompts.visual):
        embeds = model.get_input_embeddings()(prompts.layout.ids)
        method.loss_sum(method.forward(model, config, embeds, prompts.layout, visual).logits,
                        prompts.layout.ids.masked_fill(~prompts.layout.real, -100))[0].backward()
    for name, p in model.named_parameters():
        close(checkpointed[name], p.grad, EXACT)
    with torch.no_grad():
        model.eval()
        close(dense_hidden(model, prompts.layout, prompts.visual), dense, EXACT)
        close(model(prompts.ids, attention_mask=prompts.real).logits, plain, EXACT)


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.get_decoder().modules())


@pytest.mark.parametrize("answered", ["answer", "held out", "other layers"])
def test_calls_between_a_checkpointed_step_and_its_backward_pass_change_no_gradient(answered, prompts):
    """An answer that is sampled, a held-out loss in evaluation, a step with other layers: the first one's hooks are still there."""
    model, config = truly_double(load(tiny()).model.double()).train(), ViCAConfig((0, 2))
    layout, embed = prompts.layout, model.get_input_embeddings()
    plain, _ = gradients(model, config, layout, prompts.visual)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    before = hooks(model)
    model.zero_grad()
    visual = prompts.visual.clone().requires_grad_(True)
    logits = method.forward(model, config, embed(layout.ids), layout, visual).logits
    if answered == "other layers":
        method.forward(model, ViCAConfig((1,)), embed(layout.ids), layout, visual)
    else:
        model.eval()
        with torch.no_grad():
            cache = ViCACache() if answered == "answer" else None
            method.forward(model, config, embed(layout.ids), layout, visual, cache)
        model.train()
    method.loss_sum(logits, layout.ids.masked_fill(~layout.real, -100))[0].backward()
    for name, gradient in ({"visual": visual.grad} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}).items():
        close(gradient, plain[name], EXACT)
    model.gradient_checkpointing_disable()
    assert hooks(model) > before
    method.forward(model, config, embed(layout.ids), layout, visual)
    assert hooks(model) == before


def test_reentrant_checkpointing_is_refused_and_may_be_on_where_nothing_is_learned(prompts):
    model, config = truly_double(load(tiny()).model.double()).train(), ViCAConfig((0, 2))
    wanted = run(model, config, prompts.layout, prompts.visual)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ModelError, match=r'reentrant.* gradient_checkpointing_enable\(\{"use_reentrant": False\}\)'):
        gradients(model, config, prompts.layout, prompts.visual)
    with torch.no_grad():
        close(run(model, config, prompts.layout, prompts.visual), wanted, EXACT)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_interrupt_within_attention_leaves_the_stock_model(attention, prompts, monkeypatch):
    model = truly_double(load(tiny(attn_implementation=attention)).model.double())
    plain = model(prompts.ids, attention_mask=prompts.real).logits
    wanted = run(model, ViCAConfig((0, 2)), prompts.layout, prompts.visual)

    def pressed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(method, "_stock", pressed)
        run(model, ViCAConfig((0, 2)), prompts.layout, prompts.visual)
    assert model.config._attn_implementation == attention
    close(model(prompts.ids, attention_mask=prompts.real).logits, plain, EXACT)
    close(run(model, ViCAConfig((0, 2)), prompts.layout, prompts.visual), wanted, EXACT)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True], ids=["without masks", "masks"])
def test_dropout_of_attention_is_honoured(attention, padded, prompts):
    """At a dropout of nearly one nothing is read, neither picture nor text: each token goes its own way; at zero both are."""
    layout = prompts.layout if padded else batch([PROMPTS[2]])[0]
    visual, found = pictures(layout), {}
    for dropout in (0.0, 0.999999):
        model = load(tiny(attn_implementation=attention, attention_dropout=dropout)).model.double().train()
        torch.manual_seed(0)
        found[dropout] = run(model, ViCAConfig((0, 1, 2)), layout, visual)[layout.real]
        torch.manual_seed(0)
        other = run(model, ViCAConfig((0, 1, 2)), layout, -visual)[layout.real]
        assert torch.equal(other, found[dropout]) == bool(dropout)
    far(found[0.0], found[0.999999])


def test_the_model_is_left_as_it_was(decoder):
    model = load(tiny()).model.double().eval()
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        before, keys = model(ids).logits, set(model.state_dict())
        layout, *_ = batch([PROMPTS[2]])
        run(model, ViCAConfig((0, 2)), layout, pictures(layout))
        assert torch.equal(model(ids).logits, before) and set(model.state_dict()) == keys
    assert model.config._attn_implementation == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)
