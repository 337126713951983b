"""Advantages, the clipped ratio and the KL by hand; nothing here is of the paper."""

import math

import pytest
import torch

from common.reasoning.policy_gradient import ClippedLoss, group_advantage, grpo_loss, kl_to_reference
from tests.numerics import close


def f64(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_group_advantage():
    rewards = f64([1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    close(group_advantage(rewards, 3), f64([2 / 3**0.5, *[-1 / 3**0.5] * 2, -2 / 3**0.5, *[1 / 3**0.5] * 2]), rel=1e-12)
    close(group_advantage(rewards, 3, scale=False), f64([2 / 3, -1 / 3, -1 / 3, -2 / 3, 1 / 3, 1 / 3]), rel=1e-12)
    assert torch.equal(group_advantage(rewards, 3, center=False, scale=False), rewards)
    flat = group_advantage(torch.tensor([1.7] * 3 + [0.0] * 3), 3)  # the mean of three 1.7 is not 1.7
    assert torch.equal(flat, torch.zeros(6))
    for wrong in (4, 1):
        with pytest.raises(ValueError, match="groups"):
            group_advantage(rewards, wrong)


def test_clipping_by_hand():
    """Ratios 1.5 and 0.5 with advantages 1 and -1: clipped where the step would go on, kept where it would go back."""
    logp = f64([[1.5, 0.5], [1.5, 0.5]]).log().requires_grad_()
    old, mask, gain = torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, 2).bool(), torch.tensor([1.0, -1.0])
    loss = grpo_loss(logp, old, gain, mask, 2)
    close(loss, f64((-(1.2 + 0.5) / 2 + (1.5 + 0.8) / 2) / 2), rel=1e-12)
    loss.backward()
    close(logp.grad, f64([[0.0, -0.5 / 4], [1.5 / 4, 0.0]]), rel=1e-12)
    higher = grpo_loss(logp, old, gain, mask, 2, ClippedLoss(eps_low=0.1, eps_high=0.28))
    close(higher, f64((-(1.28 + 0.5) / 2 + (1.5 + 0.9) / 2) / 2), rel=1e-12)


def test_kl_by_hand():
    logp, ref = f64([[0.5, 0.25]]).log().requires_grad_(), f64([[0.25, 0.25]]).log()
    close(kl_to_reference(logp, ref), f64([[0.5 + math.log(2) - 1, 0.0]]), rel=1e-12)
    nothing, mask = torch.tensor([0.0]), torch.ones(1, 2).bool()
    loss = grpo_loss(logp, logp.detach(), nothing, mask, 1, ClippedLoss(beta=0.1), ref)
    close(loss, f64(0.1 * (math.log(2) - 0.5) / 2), rel=1e-12)
    loss.backward()
    close(logp.grad, f64([[0.1 * (1 - 0.5) / 2, 0.0]]), rel=1e-12)
    with pytest.raises(ValueError, match="no log-probabilities of a reference"):
        grpo_loss(logp, logp, nothing, mask, 1, ClippedLoss(beta=0.1))


@pytest.mark.parametrize("own_length, total, expected", [(True, 2, -(1 + 2) / 2), (False, 4, -(1 * 1 + 2 * 3) / 4),
                                                         (False, 16, -(1 * 1 + 2 * 3) / 16), (False, 6, -(1 * 1 + 2 * 3) / 6)])
def test_what_divides_a_response_and_that_padding_may_hold_anything(own_length, total, expected):
    """Lengths 1 and 3, advantages 1 and 2, ratio 1."""
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]]).bool()
    logp = f64([[-1.0, float("nan"), float("-inf")], [-1.0, -2.0, -3.0]]).requires_grad_()
    loss = grpo_loss(logp, logp, torch.tensor([1.0, 2.0]), mask, total, ClippedLoss(beta=0.1, own_length=own_length), logp.detach())
    close(loss, f64(expected), rel=1e-12)
    loss.backward()
    assert logp.grad.isfinite().all() and not logp.grad[~mask].any()


def test_what_neither_gives_a_chance_counts_nothing():
    """0 x -inf is 0: of the policy's impossible tokens; what only the reference refuses is infinitely far."""
    inf = float("inf")
    logp = torch.tensor([[-inf, -inf, -1.0, -1.0]], requires_grad=True)
    found = kl_to_reference(logp, torch.tensor([[-inf, -1.0, -1.0, -inf]]))
    assert found.tolist() == [[0.0, 0.0, 0.0, inf]]
    reference = torch.tensor([[-inf, -1.0, -1.0, -2.0]])
    loss = grpo_loss(logp, logp.detach(), torch.tensor([1.0]), torch.ones(1, 4), 1.0, ClippedLoss(beta=0.1), reference)
    loss.backward()
    assert loss.isfinite() and logp.grad.isfinite().all() and logp.grad[0, 2] != 0
