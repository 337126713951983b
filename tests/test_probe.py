"""common/probe.py: a measurement is made once, held against its own rounding, and leaves no trace."""

import math

import pytest
import torch

from common import probe
from common.errors import ModelError
from common.models import load, tiny


@pytest.fixture
def model():
    return load(tiny("llama")).model


def test_once_a_key_and_again_when_the_weights_have_changed(model):
    calls = []

    def measure(subject):
        calls.append(subject)
        return len(calls)

    assert [probe.once(model, key, measure) for key in ("a", "a", "b", "a")] == [1, 1, 2, 1]
    with torch.no_grad():
        next(model.parameters()).mul_(2.0)
    assert probe.once(model, "a", measure) == 3
    model.train()
    with torch.no_grad():
        next(model.parameters()).mul_(2.0)
    assert probe.once(model, "a", measure) == 3  # in training what it is stays as it is
    assert probe.once(model.to(torch.float64), "a", measure) == 4


def test_a_refusal_is_raised_again_and_another_error_is_not_kept(model):
    def refuse(subject):
        calls.append(0)
        raise ModelError("no such layer")

    calls = []
    for _ in range(2):
        with pytest.raises(ModelError, match="no such layer"):
            probe.once(model, "refused", refuse)
    assert len(calls) == 1
    with pytest.raises(ZeroDivisionError):
        probe.once(model, "crash", lambda subject: 1 / 0)
    assert probe.once(model, "crash", lambda subject: 5) == 5


def test_in_use_puts_every_mode_back(model):
    model.train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), probe.in_use(model):
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        raise KeyError
    assert [module.training for module in model.modules()] == before and torch.is_grad_enabled()


def test_change_is_relative_and_infinite_for_what_is_no_number():
    assert probe.change(torch.tensor([1.0, -3.0]), torch.tensor([1.0, -4.0])) == 0.25
    assert probe.change(torch.zeros(2), torch.zeros(2)) == 0
    for bad in (float("nan"), float("inf")):
        assert math.isinf(probe.change(torch.tensor([bad]), torch.ones(1))) and math.isinf(probe.change(torch.ones(1), torch.tensor([bad])))


def test_small_models_in_half_precision_are_copied(model):
    assert probe.measurable(model) is model
    half = load(tiny("llama", dtype="bfloat16")).model
    copy = probe.measurable(half)
    assert copy is not half and copy.dtype == torch.float32 and half.dtype == torch.bfloat16
    assert (probe.rounding(half), probe.rounding(copy), probe.rounding(copy.double())) == (2**-7, 2**-23, 2**-23)
