"""What an update holds and computes: identities of the code, which claims.yaml makes no claim of, and the formula of C5c."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from common.flops import counted
from common.models import load, tiny
from common.reasoning.rollouts import Rollout

from .. import analytic, method
from ..data import Problem
from ..module import GRPO, OnPolicySFT

LENGTHS = (30, 70, 50, 90)
RIGHT = (True, False, True, True)


def training_of(kind, model, **options):
    """A training outside of a Trainer, whose backward pass and step are plain."""
    training = kind(None, method.OnPolicySFTConfig(rollouts_per_prompt=4, max_new_tokens=100, micro_batch_size=1), **options)
    training.given = model, None, {}
    training.configure_model()
    training._trainer = SimpleNamespace(world_size=1, model=None)
    training.manual_backward = lambda loss: loss.backward()
    training.step = lambda: 0.0
    return training


def update(training):
    draw = torch.Generator().manual_seed(1)
    rollouts = [Rollout(0, tuple(torch.randint(3, 90, (n,), generator=draw).tolist()), True) for n in LENGTHS]
    return training.update([Problem((1, 5), "", 0)], rollouts, list(RIGHT))


def other_models(training):
    return sum(isinstance(v, list) and bool(v) and isinstance(v[0], torch.nn.Module) for v in vars(training).values())


def test_an_update_holds_one_model_and_runs_no_pass_without_a_gradient():
    """GRPO beside it holds a reference and asks it: a count that found none there would show nothing."""
    passes = {}
    for kind in (OnPolicySFT, GRPO):
        training = training_of(kind, load(tiny()).model)
        assert other_models(training) == (kind is GRPO)
        seen = passes.setdefault(kind, [])
        for model in (training.model, *(training.reference if kind is GRPO else ())):
            model.register_forward_hook(lambda *_, seen=seen: seen.append(torch.is_grad_enabled()))
        update(training)
    assert passes[OnPolicySFT] == [True] * sum(RIGHT)
    assert sorted(passes[GRPO]) == [False] * len(RIGHT) + [True] * len(RIGHT)


@pytest.mark.numerics
def test_tokens_count_what_is_executed():
    """The ratio of FLOPs that were executed is that of C5c's formula, up to two prompt tokens a response and what of attention
    grows with the square of the length; without a reference GRPO is at its placebo."""
    model = load(tiny("llama", hidden_size=64, intermediate_size=192)).model
    trainings = {"ours": training_of(OnPolicySFT, model), "grpo": training_of(GRPO, model), "alone": training_of(GRPO, model, beta=0.0)}
    of = {name: counted(partial(update, training)).total for name, training in trainings.items()}
    kept = sum(n for n, right in zip(LENGTHS, RIGHT) if right) / sum(LENGTHS)
    assert of["ours"] / of["grpo"] == pytest.approx(analytic.compute_ratio(kept, old=False), rel=0.04)
    assert of["alone"] / of["grpo"] == pytest.approx(analytic.compute_ratio(1.0, old=False), rel=0.04)
