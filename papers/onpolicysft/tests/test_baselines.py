"""GRPO by hand and where it teaches nothing; what the other choices keep."""

import math

import pytest
import torch

from tests.numerics import close

from ..baselines import (
    accuracy_and_length_reward,
    grpo_loss,
    keep_all,
    keep_none,
    keep_random,
    keep_shortest,
    kl_to_reference,
    off_policy_steps,
)
from ..method import denominator, group_advantage, keep, sft_loss, surrogate_loss
from .conftest import LIMIT, G, gradient, log_probs
from .exact import f64


# -- GRPO --------------------------------------------------------------------------------------------------
def test_clipping_by_hand():
    """Ratios 1.5 and 0.5 with advantages 1 and -1: clipped where the step would go on, kept where it would go back."""
    logp = torch.tensor([[1.5, 0.5], [1.5, 0.5]], dtype=torch.float64).log().requires_grad_()
    old, mask, gain = torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, 2).bool(), torch.tensor([1.0, -1.0])
    loss = grpo_loss(logp, old, gain, mask)
    close(loss, f64((-(1.2 + 0.5) / 2 + (1.5 + 0.8) / 2) / 2), rel=1e-12)
    loss.backward()
    close(logp.grad, f64([[0.0, -0.5 / 4], [1.5 / 4, 0.0]]), rel=1e-12)
    higher = grpo_loss(logp, old, gain, mask, eps_low=0.1, eps_high=0.28)
    close(higher, f64((-(1.28 + 0.5) / 2 + (1.5 + 0.9) / 2) / 2), rel=1e-12)


def test_kl_by_hand():
    logp = torch.tensor([[0.5, 0.25]], dtype=torch.float64).log().requires_grad_()
    ref = torch.tensor([[0.25, 0.25]], dtype=torch.float64).log()
    close(kl_to_reference(logp, ref), f64([[0.5 + math.log(2) - 1, 0.0]]), rel=1e-12)
    loss = grpo_loss(logp, logp.detach(), torch.tensor([0.0]), torch.ones(1, 2).bool(), ref_logp=ref, beta=0.1)
    close(loss, f64(0.1 * (math.log(2) - 0.5) / 2), rel=1e-12)
    loss.backward()
    close(logp.grad, f64([[0.1 * (1 - 0.5) / 2, 0.0]]), rel=1e-12)
    with pytest.raises(ValueError, match="no log-probabilities of a reference"):
        grpo_loss(logp, logp, torch.tensor([0.0]), torch.ones(1, 2).bool(), beta=0.1)


@pytest.mark.parametrize("norm, expected", [("seq", -(1 + 2) / 2), ("token", -(1 * 1 + 2 * 3) / 4), ("const", -(1 * 1 + 2 * 3) / 16),
                                            ("max", -(1 * 1 + 2 * 3) / 6)])
def test_norms_by_hand_and_padding_may_hold_anything(norm, expected):
    """Lengths 1 and 3, advantages 1 and 2, ratio 1, limit 8."""
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]]).bool()
    logp = torch.tensor([[-1.0, float("nan"), float("-inf")], [-1.0, -2.0, -3.0]], dtype=torch.float64).requires_grad_()
    loss = grpo_loss(logp, logp, torch.tensor([1.0, 2.0]), mask, length_norm=norm, limit=8, ref_logp=logp.detach(), beta=0.1)
    close(loss, f64(expected), rel=1e-12)
    loss.backward()
    assert logp.grad.isfinite().all() and not logp.grad[~mask].any()


@pytest.mark.numerics
def test_raw_rewards_on_policy_make_it_the_surrogate(double, rollouts):
    """Removing KL, centring and scaling from GRPO is all that lies between it and supervised fine-tuning."""
    logp, mask = log_probs(double, rollouts, range(6))
    raw = group_advantage(rollouts.rewards, G, center=False, scale=False)
    total = denominator(rollouts.lengths, "const", LIMIT)
    a = gradient(double, grpo_loss(logp, logp, raw, mask, total, "const"))
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
        found = torch.autograd.grad(grpo_loss(logp, logp, advantage, mask, total, "max"), logp, retain_graph=True)[0]
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
