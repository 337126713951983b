"""Sampling: from the policy and nothing else, the same whoever is beside a row; log-probabilities: of what was sampled."""

import pytest
import torch

from common.models import load, tiny
from common.reasoning import rollouts
from common.reasoning.rollouts import Rollout, response_log_probs, sample, truncate
from tests.numerics import close, float64

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
MODELS = [(family, attention) for family in ("llama", "qwen3") for attention in ("sdpa", "eager")]


@pytest.fixture(params=MODELS, ids="-".join)
def model(request):
    with float64():
        yield load(tiny(request.param[0], attn_implementation=request.param[1], vocab_size=40)).model.double()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.numerics
def test_greedy_is_the_full_forward_pass_whatever_is_beside_a_row(model):
    """Left padding, dropped rows and batches of rows change nothing."""
    expected = []
    for prompt in PROMPTS:
        ids = list(prompt)
        while len(ids) - len(prompt) < 8 and not (len(ids) > len(prompt) and ids[-1] == 2):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        expected.append(tuple(ids[len(prompt) :]))
    for options in ({}, {"rows": 2}, {"compact": 0.0}, {"compact": 1.0}):
        found = sample(model, PROMPTS, 2, 8, end=2, temperature=0, **options)
        assert [r.ids for r in found] == [e for e in expected for _ in range(2)]
        assert [r.prompt for r in found] == [0, 0, 1, 1, 2, 2]


@pytest.mark.numerics
def test_what_is_drawn_does_not_depend_on_rows_or_on_dropping(model):
    first = sample(model, PROMPTS, 6, 12, end=[2, 3], generator=seeded())
    for options in ({"rows": 5}, {"compact": 0.0}, {"compact": 1.0}):
        assert sample(model, PROMPTS, 6, 12, end=[2, 3], generator=seeded(), **options) == first
    assert sample(model, PROMPTS, 6, 12, end=[2, 3], generator=seeded(1)) != first
    assert len({r.ids for r in first if r.prompt == 0}) > 1


def test_finished_means_that_an_end_token_came(model):
    found = sample(model, PROMPTS, 40, 6, end=[2, 3], temperature=3.0, generator=seeded())
    assert {r.finished for r in found} == {True, False}
    for r in found:
        assert r.finished == (r.ids[-1] in (2, 3)) and not set(r.ids[:-1]) & {2, 3}
        assert len(r.ids) == 6 or r.finished
    assert all(len(r.ids) == 6 and not r.finished for r in sample(model, PROMPTS, 2, 6, end=(), generator=seeded()))


def test_frequencies_are_softmax_of_the_logits_and_the_models_own_settings_are_ignored():
    """A generation_config that truncates (as R1-Distill's does) must not be read: chi-square against the policy."""
    model = load(tiny(vocab_size=12, initializer_range=0.3)).model
    model.generation_config.update(temperature=0.3, top_p=0.5, top_k=2, do_sample=True)
    for temperature in (1.0, 1.7):
        found = sample(model, [[5, 6]], 6000, 1, end=(), temperature=temperature, generator=seeded(), rows=2000)
        seen = torch.bincount(torch.tensor([r.ids[0] for r in found]), minlength=12).double()
        with torch.no_grad():
            p = (model(torch.tensor([[5, 6]])).logits[0, -1].double() / temperature).softmax(-1)
        assert ((seen - 6000 * p) ** 2 / (6000 * p)).sum() < 31.3, "11 degrees of freedom, 0.1 %"


@pytest.mark.parametrize("top_p, top_k", [(0.7, 0), (1.0, 4), (0.8, 6)])
def test_a_truncated_law_is_the_one_that_transformers_has(top_p, top_k):
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    model = load(tiny(vocab_size=12, initializer_range=0.3)).model
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6]])).logits[:, -1]
    expected = TemperatureLogitsWarper(1.7)(None, logits)
    expected = TopKLogitsWarper(top_k)(None, expected) if top_k else expected
    p = TopPLogitsWarper(top_p)(None, expected)[0].double().softmax(-1)
    found = sample(model, [[5, 6]], 6000, 1, end=(), temperature=1.7, top_p=top_p, top_k=top_k, generator=seeded(), rows=2000)
    seen = torch.bincount(torch.tensor([r.ids[0] for r in found]), minlength=12).double()
    allowed = p > 0
    assert 1 < allowed.sum() < 12 and not seen[~allowed].any()
    assert ((seen - 6000 * p) ** 2 / (6000 * p))[allowed].sum() < 31.3
    greedy = sample(model, [[5, 6]], 1, 3, end=(), temperature=0, top_p=top_p, top_k=top_k)
    assert greedy == sample(model, [[5, 6]], 1, 3, end=(), temperature=0)


def test_truncation_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    kept = [truncate(logits, 1.0, p, k).isfinite().sum().item() for p, k in ((0.5, 0), (0.6, 0), (0.76, 0), (1.0, 2), (0.7, 2), (1.0, 0))]
    assert kept == [1, 2, 3, 2, 2, 4]
    assert truncate(logits, 0.1, 0.9).isfinite().sum() == 1  # of the tempered law


def test_modes_and_gradients_are_left_as_they_were():
    model = load(tiny(attention_dropout=0.5)).model.train()
    model.model.layers[0].eval()
    assert sample(model, PROMPTS, 2, 4, end=2, generator=seeded()) == sample(model, PROMPTS, 2, 4, end=2, generator=seeded())
    assert model.training and not model.model.layers[0].training and model.model.layers[1].training
    with pytest.raises(FloatingPointError, match="not finite"):
        model.lm_head.weight.data.fill_(float("nan"))
        sample(model, PROMPTS, 1, 2, end=2)
    assert model.training and torch.is_grad_enabled()


@pytest.mark.numerics
def test_log_probabilities_are_those_of_each_response_alone(model):
    found = sample(model, PROMPTS, 3, 9, end=2, generator=seeded())
    logp, mask = response_log_probs(model, PROMPTS, found)
    other, _ = response_log_probs(model, PROMPTS, found, pad=7)
    close(other, logp)
    for row, r in enumerate(found):
        prompt = PROMPTS[r.prompt]
        with torch.no_grad():
            alone = model(torch.tensor([[*prompt, *r.ids]])).logits[0].log_softmax(-1)
        expected = alone[len(prompt) - 1 : -1].gather(-1, torch.tensor(r.ids)[:, None])[:, 0]
        assert mask[row].sum() == len(r.ids)
        close(logp[row, : len(r.ids)], expected)
    assert logp.requires_grad and (logp[~mask] == 0).all()


@pytest.mark.parametrize("arguments, says", [
    (([[5], []], 1, 3), "prompt 1 is empty"), (([[5]], 0, 3), "n = 0"), (([[5]], 1, 0), "max_new_tokens = 0"),
    (([[500]], 1, 3), "vocabulary")])
def test_bad_input(arguments, says):
    model = load(tiny()).model
    with pytest.raises(ValueError, match=says):
        sample(model, *arguments, end=2)
    with pytest.raises(ValueError, match="temperature -1"):
        sample(model, [[5]], 1, 3, end=2, temperature=-1)
    for law in ({"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}):
        with pytest.raises(ValueError, match="top_p .*, top_k"):
            sample(model, [[5]], 1, 3, end=2, **law)
    with pytest.raises(ValueError, match="compact = 2"):
        sample(model, [[5]], 1, 3, end=2, compact=2)
    with pytest.raises(ValueError, match="no rollouts"):
        rollouts.packed_batch([[5]], [])
    with pytest.raises(ValueError, match="rollout 0"):
        rollouts.packed_batch([[5]], [Rollout(1, (3,), True)])
