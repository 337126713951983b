"""Losses, noise and schedules of a training, each written out once more; what a training reports, and what it leaves behind."""

import math

import pytest
import torch

from common.errors import SetupError
from common.models import load, tiny
from common.training.steps import StepBatches
from tests.numerics import close, float64

from ..data import TokenDifficulty, collate
from ..losses import distillation_loss, divergence_by_token, lm_loss, sample_noise, targets_of
from ..tuning import tune
from .invariants import REL
from .runs import AFTER_ADAM, Uneven, alone, fit, router_tuning, uneven_batch

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


def test_end_token_is_a_target_even_if_it_is_the_padding_id():
    row = torch.tensor([5, 0, 6, 0])  # 0 pads, and ends texts
    batch = collate([row, row[:2]], [0, 1], 6, 4)
    assert targets_of(batch).tolist() == [[0, 6, 0], [0, -100, -100]]
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    log = logits.log_softmax(-1)
    expected = -(log[0, 0, 0] + log[0, 1, 6] + log[0, 2, 0] + log[1, 0, 0])
    close(lm_loss(logits, batch), expected, REL)
    left = dict(input_ids=torch.tensor([[0, 5, 7]]), attention_mask=torch.tensor([[0, 1, 1]]))
    assert targets_of(left).tolist() == [[-100, 7]]  # padding predicts nothing


def test_distillation_is_the_divergence_from_the_dense_model():
    module = alone(router_tuning(distill_weight=0.5))
    batch = uneven_batch(5, 9)
    module.route(batch, 0)
    part = module.losses(batch)["distill"]
    assert module.state.mode == "mask" and part.requires_grad
    with torch.no_grad():
        student = module.logits(batch)
        inputs = dict(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        dense = load(tiny()).model(**inputs).logits
    divergence = sum((dense[b, t].log_softmax(-1).exp() * (
        dense[b, t].log_softmax(-1) - student[b, t].log_softmax(-1))).sum()
        for b, n in enumerate((5, 9)) for t in range(n - 1))
    close(part, 0.5 * divergence / 12, REL)
    assert distillation_loss(dense, dense, batch).abs() < REL * divergence


def test_a_word_without_probability_counts_nothing_in_a_divergence():
    """p = (1/2, 1/2, 0), q = (1/4, 3/4, 0): ln 2 / 2 + ln(2/3) / 2; the same where q gives the third word something."""
    p, q = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log(), torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64).log()
    assert divergence_by_token(p, q).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-12)
    assert divergence_by_token(q, p).item() == pytest.approx(0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2), rel=1e-12)
    full = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log().requires_grad_()
    value = divergence_by_token(p, full)
    assert value.item() == pytest.approx(math.log(2), rel=1e-12) and divergence_by_token(full, p).item() == math.inf
    value.backward()
    assert full.grad.tolist() == [[-0.5, -0.5, 0.0]]


def test_rates_of_weights_and_biases_and_schedules(tmp_path):
    module = router_tuning(bias_learning_rate=0.1, schedule="cosine", warmup_steps=2)
    fit(module, tmp_path, steps=4)
    scheduler = module.lr_schedulers()
    assert scheduler.base_lrs == [1e-2, 0.1]
    factors = [scheduler.lr_lambdas[0](k) for k in range(5)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-9)


def test_the_loop_of_the_cpu_experiments_is_the_same_training(tmp_path):
    """tuning.tune, with its noise replaced by that of the samples, equals the Lightning module."""
    data = TokenDifficulty(length=12, train_samples=32, val_samples=4, batch_size=8, seed=5)
    module, _ = fit(router_tuning(), tmp_path, steps=4, data=data)
    twin = alone(router_tuning())
    stream = iter(StepBatches(data.rows(0), batch_size=8, micro_batch=8, seed=5))

    def batch(step):
        rows = next(stream)
        twin.state.noise = sample_noise(2 * len(twin.state.layers), rows, 5, step)
        return rows["input_ids"]

    learned = list(twin.state.parameters())
    list(tune(twin.model, batch, torch.optim.AdamW(learned, lr=1e-2, weight_decay=0.01), 4, state=twin.state))
    for ours, theirs in zip(learned, module.state.parameters()):
        close(ours, theirs, AFTER_ADAM)


def test_without_max_steps_there_is_no_schedule(tmp_path):
    with pytest.raises(SetupError, match="max_steps"):
        fit(router_tuning(), tmp_path, steps=-1)


def test_validation_reports_argmax_rates(tmp_path):
    module = router_tuning()
    fit(module, tmp_path, steps=2, limit_val_batches=1.0, val_check_interval=2,
        check_val_every_n_epoch=None, num_sanity_val_steps=0)
    metrics = module.trainer.callback_metrics
    data = Uneven()
    rows = data.rows(1)
    module.model.eval()
    module.state.start_recording()
    with torch.no_grad():
        batch = collate([rows[i] for i in range(4)], [0, 1, 2, 3], 0, 1)
        module.state.noise = None
        loss = lm_loss(module.logits(batch), batch) / (rows.lengths.sum() - 4)
    stats = module.state.stats()
    close(metrics["val/loss"], loss, REL)
    close(metrics["val/attn_skip"], stats.attn_skip, REL)
    close(metrics["val/sparsity"], stats.sparsity, REL)


def test_noise_and_policy_do_not_outlive_training(tmp_path):
    module, _ = fit(router_tuning(), tmp_path, steps=1)
    assert module.state.noise is None and module.state.policy is None and module.state.temperature == 1.0
