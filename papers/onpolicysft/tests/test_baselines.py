"""GRPO beside the method, and where it teaches nothing; what the other choices keep."""

import pytest
import torch

from common.reasoning.policy_gradient import ClippedLoss, group_advantage, grpo_loss
from tests.numerics import close

from ..baselines import accuracy_and_length_reward, keep_all, keep_none, keep_random, keep_shortest, off_policy_steps
from ..method import denominator, keep, sft_loss, surrogate_loss
from .conftest import LIMIT, G, gradient, log_probs


# -- GRPO --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("norm, total", [("seq", 2), ("token", 4), ("const", 16), ("max", 6)])
def test_the_norms_of_the_method_are_totals_of_its_loss(norm, total):
    """Lengths 1 and 3, limit 8; test_policy_gradient.py has their losses by hand."""
    assert denominator([1, 3], norm, 8) == total


@pytest.mark.numerics
def test_raw_rewards_on_policy_make_it_the_surrogate(double, rollouts):
    """Removing KL, centring and scaling from GRPO is all that lies between it and supervised fine-tuning."""
    logp, mask = log_probs(double, rollouts, range(6))
    raw = group_advantage(rollouts.rewards, G, center=False, scale=False)
    total = denominator(rollouts.lengths, "const", LIMIT)
    a = gradient(double, grpo_loss(logp, logp, raw, mask, total, ClippedLoss(own_length=False)))
    logp, mask = log_probs(double, rollouts, range(6))
    b = gradient(double, surrogate_loss(logp, logp, rollouts.rewards, mask, total))
    close(a, b, rel=1e-12)


@pytest.mark.numerics
@pytest.mark.parametrize("center, scale, eps", [(True, False, 0.0), (True, True, 0.0), (True, True, 1e-4)])
def test_a_group_that_is_all_right_teaches_grpo_nothing_and_us_something(double, rollouts, center, scale, eps):
    rows = [0, 1, 3]  # as one group: all right
    logp, mask = log_probs(double, rollouts, rows)
    total = denominator([rollouts.lengths[i] for i in rows])

    def of(rewards):
        advantage = group_advantage(torch.tensor(rewards), 3, eps=eps, center=center, scale=scale)
        loss = grpo_loss(logp, logp, advantage, mask, total, ClippedLoss(own_length=False))
        found = torch.autograd.grad(loss, logp, retain_graph=True)[0]
        raw = torch.autograd.grad(surrogate_loss(logp, logp, torch.tensor(rewards), mask, total), logp, retain_graph=True)[0]
        return bool(found.any()), bool(raw.any())

    assert of([1.0, 1.0, 1.0]) == (False, True)
    assert of([0.0, 0.0, 0.0]) == (False, False)
    assert of([1.0, 0.0, 1.0]) == (True, True)
    assert gradient(double, sft_loss(logp, mask, total)).norm() > 1e-3


def test_two_rewards_in_one():
    assert accuracy_and_length_reward(True, 34, 170) == pytest.approx(1.8) and accuracy_and_length_reward(False, 170, 170) == 0
    assert accuracy_and_length_reward(True, 3000, 3500, 0.5) - accuracy_and_length_reward(True, 3001, 3500, 0.5) == pytest.approx(1 / 7000)
    with pytest.raises(ValueError, match="171 tokens"):
        accuracy_and_length_reward(True, 171, 170)


# -- what is kept ------------------------------------------------------------------------------------------
REWARDS = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_shortest_of_each_prompt():
    lengths = [5, 2, 4, 1, 1, 1, 7, 6, 6]
    assert keep_shortest(REWARDS, lengths, 3) == [2, 7]  # not the shorter wrong ones; nothing of the second; the first of two
    with pytest.raises(ValueError, match="groups of 4"):
        keep_shortest(REWARDS, lengths, 4)


def test_by_lot_all_and_none():
    drawn = [keep_random(REWARDS, seed) for seed in range(200)]
    assert all(len(set(d)) == 5 and d == sorted(d) for d in drawn) and keep_random(REWARDS, 3) == drawn[3]
    share = [sum(i in d for d in drawn) / 200 for i in range(9)]
    assert min(share) > 0.4 and max(share) < 0.7  # each 5 in 9, whatever its reward
    assert keep_all(REWARDS) == list(range(9)) and keep_none(REWARDS) == []


def test_a_fixed_pool_is_used_up_before_it_is_used_again():
    steps = off_policy_steps(REWARDS, 2, 7, seed=0)
    assert [len(s) for s in steps] == [2] * 7
    for first in (0, 2, 4):  # two steps are a pass over five: one is left out
        both = steps[first] + steps[first + 1]
        assert len(set(both)) == 4 and set(both) <= set(keep(REWARDS))
    assert len({tuple(s) for s in steps}) > 3 and steps == off_policy_steps(REWARDS, 2, 7, seed=0)
    with pytest.raises(ValueError, match="6 responses a step, but 5 passed"):
        off_policy_steps(REWARDS, 6, 1, seed=0)
