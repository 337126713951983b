"""Scores of sampled answers, against numbers made by hand."""

import math

import pytest
import torch

from common.benchmarks import reasoning
from common.models import load, tiny
from common.reasoning.rollouts import Rollout
from tests.numerics import float64

CORRECT = [[True, False, True, True], [False, False, False, False], [True, True, True, True]]
LENGTHS = [[10, 20, 10, 20], [5, 5, 5, 5], [40, 20, 20, 40]]


@pytest.mark.parametrize("n, c, values", [(4, 1, {1: 0.25, 2: 0.5, 4: 1.0}), (16, 3, {1: 0.1875, 2: 0.35, 4: 0.607143, 8: 0.9, 16: 1.0}),
                                          (4, 0, {4: 0.0}), (4, 4, {1: 1.0})])
def test_unbiased_pass(n, c, values):
    for k, value in values.items():
        assert reasoning.unbiased_pass(n, c, k) == pytest.approx(value, abs=5e-7)
        assert reasoning.unbiased_pass(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k))


def test_scores_by_hand():
    found = reasoning.score(CORRECT, LENGTHS, cap=40)
    assert found.avg == pytest.approx(7 / 12) and found.tokens == pytest.approx(200 / 12) and found.at_cap == pytest.approx(2 / 12)
    assert found.pass_at[4] == pytest.approx(2 / 3) and found.pass_at[1] == pytest.approx(7 / 12)
    assert found.pass_at[2] == pytest.approx((1 + 0 + 1) / 3)  # 1 - C(1,2)/C(4,2) = 1
    assert found.tokens_of_correct == pytest.approx((10 + 10 + 20 + 120) / 7)
    assert found.efficiency == pytest.approx(100 * 100 * 7 / 12 / (200 / 12))
    assert reasoning.pass_at_first_k(CORRECT, 1) == pytest.approx(2 / 3)
    assert reasoning.efficiency(59.9, 2186) == pytest.approx(2.74016, abs=5e-6)


def test_spread_of_lengths_is_relative_and_of_a_prompt():
    assert reasoning.normalised_length_std([[5, 5], [100, 100]]) == 0
    a = reasoning.normalised_length_std([[10, 20]])
    assert a == pytest.approx(reasoning.normalised_length_std([[100, 200]])) and a > 0.3


def test_budgets_cut_before_they_grade():
    found = reasoning.budget_curve([[(1, 2, 9)], [(9,)]], [1, 2, 3], lambda i, ids: ids[-1:] == (9,))
    assert found == [(1, 0.5), (2, 0.5), (3, 1.0)]


def test_benchmarks_count_equally_whatever_their_size():
    small, large = reasoning.score([[True]], [[10]], 50), reasoning.score([[False]] * 9, [[30]] * 9, 50)
    found = reasoning.macro_average({"a": small, "b": large})
    assert (found["avg"], found["tokens"], found["efficiency"]) == (0.5, 20.0, 250.0)


@pytest.mark.numerics
def test_entropy_is_that_of_the_responses_tokens():
    model = load(tiny(vocab_size=30)).model.double()
    prompts, found = [[5, 6], [7]], [Rollout(0, (8, 9, 2), True), Rollout(1, (4, 2), True)]
    total = 0.0
    for r in found:
        prompt = prompts[r.prompt]
        with torch.no_grad(), float64():
            q = model(torch.tensor([[*prompt, *r.ids]])).logits[0].softmax(-1)[len(prompt) - 1 : -1]
        total += float(-(q * q.log()).sum())
    with float64():
        one_by_one, together = reasoning.entropy(model, prompts, found, batch=1), reasoning.entropy(model, prompts, found)
    assert one_by_one == pytest.approx(total / 5, rel=1e-9) and together == pytest.approx(total / 5, rel=1e-9)


@pytest.mark.parametrize("correct, lengths", [([], []), ([[]], [[]]), ([[True], [True, False]], [[1], [1, 2]]), ([[True]], [[1, 2]])])
def test_tables_that_do_not_fit_are_refused(correct, lengths):
    with pytest.raises(ValueError):
        reasoning.score(correct, lengths, 10)
