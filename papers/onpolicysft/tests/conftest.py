"""Six responses of different lengths to two prompts, some right, some cut, and a tiny model to score them."""

from types import SimpleNamespace

import pytest
import torch

from common.models import load, tiny

from ..method import keep, right_padded, token_log_probs, truncation_reward
from .exact import truly_double

END, LIMIT, G = 2, 8, 3
PROMPTS = ([1, 5, 8, 7], [1, 6])
# (response, is its answer right): the last of the first prompt is right but cut at the limit, one of the second is wrong.
RESPONSES = (([9, 4, END], True), ([9, 9, 5, 4, 7, END], True), ([9, 5, 9, 5, 9, 5, 9, 4], True),
             ([11, END], True), ([12, 13, END], False), ([12, 11, 12, 11, END], True))
KEPT = [0, 1, 3, 5]


@pytest.fixture(scope="session")
def double():
    return truly_double(load(tiny("llama")).model)


@pytest.fixture
def rollouts():
    """prompts, responses, lengths and rewards of all six; prompts are repeated, one for each response."""
    prompts = [PROMPTS[i // G] for i in range(len(RESPONSES))]
    responses = [r for r, _ in RESPONSES]
    rewards = [truncation_reward(right, r[-1] == END, len(r), LIMIT) for r, right in RESPONSES]
    assert keep(rewards) == KEPT
    return SimpleNamespace(prompts=prompts, responses=responses, rewards=torch.tensor(rewards), lengths=[len(r) for r in responses])


def log_probs(model, rollouts, rows):
    """(log-probabilities, mask) of these rows, in one right-padded batch."""
    ids, mask = right_padded([rollouts.prompts[i] for i in rows], [rollouts.responses[i] for i in rows])
    return token_log_probs(model(ids).logits, ids, mask), mask


def gradient(model, loss):
    """All gradients in one vector; parameters that the loss does not reach are an error."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
