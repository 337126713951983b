"""What is kept, what is scored, what it is divided by, and that at the sampling weights it is the policy gradient."""

import math
from copy import deepcopy

import pytest
import torch

from common.models import load, tiny
from tests.numerics import close, far

from ..method import (
    OnPolicySFTConfig,
    denominator,
    divergence_by_token,
    keep,
    mean_by_type,
    right_padded,
    sft_loss,
    sft_loss_sum,
    surrogate_loss,
    token_log_probs,
    truncation_reward,
)
from .conftest import KEPT, LIMIT, gradient, log_probs
from .exact import f64, truly_double

NORMS = ("max", "token", "const", "seq")


def kept_loss(model, rollouts, norm, count="kept", rows=None, n_all=None):
    lengths = [rollouts.lengths[i] for i in KEPT]
    total = denominator(lengths, norm, LIMIT, count, len(rollouts.lengths) if n_all is None else n_all)
    return sft_loss(*log_probs(model, rollouts, KEPT if rows is None else rows), total, norm)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


# -- what is kept ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("correct, finished, length, require_eos, reward", [
    (True, True, 5, True, 1.0), (True, True, LIMIT, True, 1.0), (False, True, 5, True, 0.0),
    (True, False, LIMIT, True, 0.0),  # cut by the sampler: it has exactly the limit's tokens, and the right answer
    (True, False, LIMIT, False, 1.0),  # the authors' code
    (True, True, LIMIT + 1, True, 0.0), (True, True, LIMIT + 1, False, 0.0), (False, False, LIMIT, False, 0.0)])
def test_right_finished_and_within_the_limit(correct, finished, length, require_eos, reward):
    assert truncation_reward(correct, finished, length, LIMIT, require_eos) == reward


def test_all_right_ones_are_kept_and_only_zero_and_one_are_rewards():
    assert keep([0.0, 1.0, 1.0, 0.0, 1.0]) == keep(torch.tensor([0, 1, 1, 0, 1])) == [1, 2, 4]
    assert keep([0.0, 0.0]) == keep([]) == []
    with pytest.raises(ValueError, match="reward 1 is 0.5"):
        keep([1.0, 0.5])


@pytest.mark.parametrize("entry", [dict(length_norm="mean"), dict(count="some"), dict(rollouts_per_prompt=0), dict(max_new_tokens=3.5),
                                   dict(temperature=0.0), dict(lr=float("nan")), dict(updates_per_rollout=0), dict(warmup_steps=-1)])
def test_config_names_its_wrong_entry(entry):
    with pytest.raises(ValueError, match=next(iter(entry))):
        OnPolicySFTConfig(**entry)


def test_config_is_the_authors_and_says_when_it_is_off_policy():
    config = OnPolicySFTConfig()
    assert (config.prompts_per_step * config.rollouts_per_prompt, config.max_new_tokens, config.lr) == (1024, 3500, 1e-6)
    assert config.on_policy
    assert not OnPolicySFTConfig(temperature=0.6).on_policy and not OnPolicySFTConfig(updates_per_rollout=4).on_policy


# -- what is scored ----------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_response_costs_what_it_costs_alone(rollouts, family):
    """Right-padded without a mask, left-padded with one and with position ids, and only the last logits: all the same."""
    model = truly_double(load(tiny(family)).model)
    with torch.no_grad():
        found, mask = log_probs(model, rollouts, range(6))
        assert mask.sum(1).tolist() == rollouts.lengths
        for i, (prompt, response) in enumerate(zip(rollouts.prompts, rollouts.responses)):
            alone = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
            each = torch.stack([alone[len(prompt) + t - 1, token] for t, token in enumerate(response)])
            close(found[i][mask[i]], each)
            assert not found[i][~mask[i]].any()
        ids, mask = right_padded(rollouts.prompts, rollouts.responses)
        short = token_log_probs(model(ids, logits_to_keep=ids.shape[1] - 1).logits, ids, mask)  # the shorter prompt has two
        close(short, found)
        width = ids.shape[1]
        real = torch.stack([torch.arange(width) < len(p) + len(r) for p, r in zip(rollouts.prompts, rollouts.responses)])
        order = real.long().argsort(dim=1, stable=True)  # padding to the left
        ids, mask, real = ids.gather(1, order), mask.gather(1, order), real.gather(1, order)
        logits = model(ids, attention_mask=real.long(), position_ids=(real.cumsum(1) - 1).clamp(min=0)).logits
        left = token_log_probs(logits, ids, mask)
        close(left[mask], found[found != 0])


@pytest.mark.numerics
def test_prompt_and_padding_are_not_scored_and_the_end_is(double, rollouts):
    ids, mask = right_padded(rollouts.prompts, rollouts.responses)
    logits = double(ids).logits.detach().requires_grad_()
    sft_loss_sum(token_log_probs(logits, ids, mask), mask).backward()
    scored = logits.grad.abs().sum(-1) > 0
    assert torch.equal(scored[:, :-1], mask[:, 1:]) and not scored[:, -1].any()

    def loss(ids, logits=None):
        return sft_loss_sum(token_log_probs(double(ids).logits if logits is None else logits, ids, mask), mask)

    noise = ids.clone()
    for i, (prompt, response) in enumerate(zip(rollouts.prompts, rollouts.responses)):
        noise[i, len(prompt) + len(response) :] = torch.arange(ids.shape[1] - len(prompt) - len(response)) + 20
    assert not torch.equal(noise, ids)
    close(loss(noise), loss(ids), rel=1e-12)
    close(gradient(double, loss(noise)), gradient(double, loss(ids)), rel=1e-12)
    end, moved = len(rollouts.prompts[0]) + rollouts.lengths[0] - 1, logits.detach().clone()
    moved[0, end - 1, ids[0, end]] += 1  # the logit of the end alone, where it is predicted
    assert loss(ids, logits.detach()) - loss(ids, moved) > 1e-3


def test_log_probabilities_are_in_single_precision_at_least():
    ids, mask = right_padded([[1]], [[3, 2]])
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    rough = token_log_probs(logits.bfloat16(), ids, mask)
    assert rough.dtype == torch.float32 and token_log_probs(logits.double(), ids, mask).dtype == torch.float64
    assert torch.equal(rough, token_log_probs(logits.bfloat16().float(), ids, mask))


def test_a_token_that_nothing_predicts_is_refused():
    ids, mask = right_padded([[]], [[3, 2]])
    with pytest.raises(ValueError, match="first 1 tokens"):
        token_log_probs(torch.zeros(1, 2, 5), ids, mask)
    ids, mask = right_padded([[1, 4]], [[3, 2]])
    with pytest.raises(ValueError, match="first 3 tokens"):
        token_log_probs(torch.zeros(1, 2, 5), ids, mask)
    with pytest.raises(ValueError, match="2 prompts, but 1"):
        right_padded([[1], [1]], [[2]])


# -- what it is divided by ---------------------------------------------------------------------------------
@pytest.mark.parametrize("norm, kept, every", [("max", 12 / (2 * 3), 12 / (4 * 3)), ("token", 12 / 4, 12 / 8), ("const", 12 / 16, 12 / 32),
                                               ("seq", (2 / 1 + 10 / 3) / 2, (2 / 1 + 10 / 3) / 4)])
def test_by_hand(norm, kept, every):
    """Lengths 1 and 3 with summed costs 2 and 10, limit 8, four sampled."""
    logp = torch.tensor([[0.0, -2.0, 99.0, 99.0], [0.0, -1.0, -4.0, -5.0]], dtype=torch.float64)
    mask = torch.tensor([[0, 1, 0, 0], [0, 1, 1, 1]]).bool()
    close(sft_loss(logp, mask, denominator([1, 3], norm, 8), norm), f64(kept), rel=1e-12)
    close(sft_loss(logp, mask, denominator([1, 3], norm, 8, "all", 4), norm), f64(every), rel=1e-12)


def test_denominators_refuse_what_they_cannot_divide_by():
    assert denominator([1, 3], longest=7) == 14.0  # the longest of all rollouts
    for wrong, word in ((dict(lengths=[]), "no response was kept"), (dict(lengths=[3], length_norm="const"), "limit"),
                        (dict(lengths=[3, 2], count="all"), "n_all is None"), (dict(lengths=[3, 2], count="all", n_all=1), "2 were kept"),
                        (dict(lengths=[3], longest=2), "longest is 2"), (dict(lengths=[3], length_norm="mean"), "length_norm 'mean'")):
        with pytest.raises(ValueError, match=word):
            denominator(**wrong)


@pytest.mark.numerics
def test_three_norms_give_one_direction_and_the_fourth_another(double, rollouts):
    of = {norm: gradient(double, kept_loss(double, rollouts, norm)) for norm in NORMS}
    assert cosine(of["max"], of["token"]) > 1 - 1e-12 and cosine(of["max"], of["const"]) > 1 - 1e-12
    assert cosine(of["max"], of["seq"]) < 0.999
    lengths = [rollouts.lengths[i] for i in KEPT]
    close(of["max"] * 4 * max(lengths), of["token"] * sum(lengths), rel=1e-12)


@pytest.mark.numerics
def test_lengths_that_are_equal_make_all_four_alike(double, rollouts):
    logp, mask = log_probs(double, rollouts, [0, 4])  # three tokens each
    losses = [sft_loss(logp, mask, denominator([3, 3], norm, 3), norm) for norm in NORMS]
    close(torch.stack(losses), losses[0].expand(4), rel=1e-12)


@pytest.mark.numerics
@pytest.mark.parametrize("norm", NORMS)
def test_micro_batches_add_up_to_the_batch(double, rollouts, norm):
    whole = gradient(double, kept_loss(double, rollouts, norm))
    for size in (1, 2, 3):
        parts = [KEPT[i : i + size] for i in range(0, len(KEPT), size)]
        added = sum(gradient(double, kept_loss(double, rollouts, norm, rows=rows)) for rows in parts)
        close(added, whole, rel=1e-12)


@pytest.mark.numerics
def test_averaging_each_micro_batch_for_itself_is_another_gradient(double, rollouts):
    """The authors' code does; half a way back to "seq"."""
    whole = gradient(double, kept_loss(double, rollouts, "token"))
    each = sum(gradient(double, sft_loss(*log_probs(double, rollouts, rows), denominator([rollouts.lengths[i] for i in rows], "token")))
               for rows in (KEPT[:2], KEPT[2:])) / 2
    assert cosine(each, whole) < 0.999


@pytest.mark.numerics
@pytest.mark.parametrize("norm", NORMS)
def test_more_wrong_samples_change_only_the_count_of_all(double, rollouts, norm):
    """c_L of Eq. 9: over all, the loss is K / n times that over the kept."""
    kept = gradient(double, kept_loss(double, rollouts, norm))
    for sampled in (6, 9):
        every = gradient(double, kept_loss(double, rollouts, norm, "all", n_all=sampled))
        close(every, kept * len(KEPT) / sampled, rel=1e-12)


def test_a_rank_that_kept_nothing_has_gradients_of_zero(double):
    ids = torch.tensor([[1, 5, 8]])
    mask = torch.zeros_like(ids).bool()
    for norm in NORMS:
        loss = sft_loss(token_log_probs(double(ids).logits, ids, mask), mask, 4.0, norm)
        assert loss == 0 and not gradient(double, loss).any()  # and none is missing: `gradient` would raise
    none, mask = right_padded([], [])
    assert none.shape == mask.shape == (0, 0)


# -- what it is derived from -------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("count", ["kept", "all"])
def test_policy_gradient_is_cross_entropy_on_what_was_kept(double, rollouts, norm, count):
    """Eq. 7 and 8: the surrogate sees all six responses, cross-entropy four. Gradients agree, values do not."""
    logp, mask = log_probs(double, rollouts, range(6))
    total = denominator([rollouts.lengths[i] for i in KEPT], norm, LIMIT, count, 6)
    surrogate, entropy = surrogate_loss(logp, logp.detach(), rollouts.rewards, mask, total, norm), kept_loss(double, rollouts, norm, count)
    a, b = gradient(double, surrogate), gradient(double, entropy)
    close(a, b, rel=1e-12)
    assert b.norm() > 1e-3
    far(surrogate, entropy, rel=0.05)
    if norm == "const" and count == "all":
        close(surrogate, f64(-16 / (6 * LIMIT)), rel=1e-12)  # minus right tokens: every ratio is 1


@pytest.mark.numerics
def test_after_one_update_it_is_so_no_more(double, rollouts):
    model = deepcopy(double)
    old = log_probs(model, rollouts, range(6))[0].detach()
    total = denominator([rollouts.lengths[i] for i in KEPT])

    def both():
        logp, mask = log_probs(model, rollouts, range(6))
        surrogate = gradient(model, surrogate_loss(logp, old, rollouts.rewards, mask, total))
        return surrogate, gradient(model, sft_loss(*log_probs(model, rollouts, KEPT), total))

    before = both()
    close(*before, rel=1e-12)
    with torch.no_grad():
        step = before[1] * 0.1
        for parameter, g in zip(model.parameters(), step.split([p.numel() for p in model.parameters()])):
            parameter -= g.view_as(parameter)
    stale, fresh = both()
    far(stale, fresh, rel=0.05)
    assert cosine(stale, fresh) < 0.999


# -- where the two models differ ---------------------------------------------------------------------------
@pytest.mark.numerics
def test_divergence_by_hand():
    base, other = f64([[[[0.5, 0.5], [0.9, 0.1]]], [[[0.25, 0.75], [0.9, 0.1]]]]).log()
    by_hand = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    close(divergence_by_token(base, other), f64([[by_hand, 0.0]]), rel=1e-12)
    far(divergence_by_token(other, base), f64([[by_hand, 0.0]]), rel=0.05)  # it has a direction
    a, b = torch.randn(2, 2, 7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    close(divergence_by_token(a, b, chunk=3), divergence_by_token(a, b), rel=1e-12)
    assert divergence_by_token(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="share a vocabulary"):
        divergence_by_token(a, b[..., :-1])


def test_a_token_that_the_base_cannot_write_counts_nothing():
    """0 x -inf is 0, also where both give -inf; what only the other cannot write is infinitely far."""
    inf = float("inf")
    base = torch.tensor([[[0.0, 0.0, -inf, -inf], [0.0, 0.0, 0.0, -inf]]])
    other = torch.tensor([[[math.log(3), 0.0, -inf, 0.0], [0.0, 0.0, -inf, 0.0]]])
    found = divergence_by_token(base.double(), other.double())
    close(found[:, 0], f64([0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.2)]), rel=1e-6)
    assert found[0, 1] == inf and divergence_by_token(base, base).tolist() == [[0.0, 0.0]]


def test_means_are_of_the_token_that_is_predicted():
    ids = torch.tensor([[1, 7, 8, 7], [1, 8, 8, 0]])
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0]]).bool()
    divergence = torch.tensor([[1.0, 2.0, 4.0, 99.0], [99.0, 8.0, 99.0, 99.0]])
    types, means, counts = mean_by_type(divergence, ids, mask)
    assert (types.tolist(), means.tolist(), counts.tolist()) == ([8, 7], [5.0, 2.5], [2, 2])
