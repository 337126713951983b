"""Cells of the design against losses of whole sequences, where all sequences can be enumerated."""

import torch

from tests.numerics import close, far

from .. import method
from ..analytic import Tabular, objective
from ..method import forward_kl, reverse_kl
from .test_method import slope_of


def test_sequence_kl_is_the_sum_of_the_cells_that_are_tied():
    q, p = Tabular(0), Tabular(1)
    close(method.sequence_kl_by_enumeration(p, q, 3), objective(q, p, forward_kl, p), 1e-10)
    close(method.sequence_kl_by_enumeration(q, p, 3), objective(q, q, reverse_kl, p), 1e-10)
    far(objective(q, q, forward_kl, p), objective(q, p, forward_kl, p), 1e-3)  # the prefixes make a difference


def test_gradients_of_cells_and_of_sequences():
    q, p = Tabular(0), Tabular(1)

    def gradient(loss):
        return slope_of(loss, q.logits)

    close(gradient(objective(q, p, forward_kl, p)), gradient(method.sequence_kl_by_enumeration(p, q, 3)), 1e-10)  # TF is whole
    whole, cell = gradient(method.sequence_kl_by_enumeration(q, p, 3)), gradient(objective(q, q, reverse_kl, p))
    assert (cell - whole).norm() > 0.1 * whole.norm(), "SR leaves out how the prefixes follow from the weights"
    responses = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    sampled = dict.fromkeys((False, True), 0.0)
    for y in responses:
        log_q = torch.stack([q(y[:t])[v] for t, v in enumerate(y)])
        log_p = torch.stack([p(y[:t])[v] for t, v in enumerate(y)]).detach()
        for returns in sampled:
            sampled[returns] = sampled[returns] + q.chance(y).detach() * method.sampled_reverse(log_q, log_p, returns=returns).sum()
    close(gradient(sampled[False]), cell, 1e-10)
    close(gradient(sampled[True]), whole, 1e-10)
