"""The arm is the arm, for what test_experiments.py does not reach: the recipes of real models, and what is counted of responses."""

from types import SimpleNamespace as Of

import pytest
import torch

from .. import module
from ..experiments import chains, five, rates, sums


class Begun(Exception):
    pass


CHANGES = {"prompts_per_step", "rollouts_per_prompt", "temperature", "length_norm", "max_new_tokens", "lr", "micro_batch_size"}


@pytest.mark.parametrize("of, micro, rate", [(sums, 24, 1e-5), (five, 4, 1e-5)], ids=["sums", "five"])
def test_every_arm_of_a_real_model_has_the_recipe_of_its_rivals_but_for_what_names_it(of, micro, rate, monkeypatch):
    """Until the training would begin: its class, its settings, its data and its Trainer's options, at the default size."""
    seen, how = [], of.SIZES["cpu"]

    def fit(training, task, steps, **options):
        seen.append((training, task, steps, options))
        raise Begun

    start = (torch.nn.Linear(1, 1), Of(words="words", problems=None), {"name": "base"})
    monkeypatch.setattr(of, "fit", fit)
    monkeypatch.setattr(of, "start" if of is five else "_start", lambda *asked: start)
    for arm, (kind, changes, more) in of.ARMS.items():
        with pytest.raises(Begun):
            of.run(7, arm)
        training, task, steps, options = seen.pop()
        assert type(training) is getattr(module, kind), arm
        assert training.seed == 7 and task.seed == 7, "the arms of a seed see the same problems"
        expected = dict(prompts_per_step=how.prompts, rollouts_per_prompt=how.rollouts, max_new_tokens=of.LIMIT, micro_batch_size=micro,
                        lr=of.RATE, warmup_steps=2) | changes
        assert {name: getattr(training.config, name) for name in expected} == expected, arm
        assert set(changes) <= CHANGES and training.betas == (0.9, 0.95) and training.weight_decay == 0.0 and training.cap == how.cap
        assert all(getattr(training, name) == value for name, value in more.items()), arm
        assert task.count == how.updates * how.prompts and training.given == (start[0], "words", start[2])
        callbacks = options.pop("callbacks", [])
        assert steps == -1 and {k: options[k] for k in ("max_epochs", "limit_train_batches", "gradient_clip_val", "precision")} == {
            "max_epochs": 1, "limit_train_batches": how.updates, "gradient_clip_val": None, "precision": "bf16-mixed"}
        assert len(callbacks) == (of is sums and arm in sums.WATCHED)
    assert of.RATE == rate


def test_a_step_is_left_out_where_a_right_response_is_shorter_than_all_of_them():
    """k steps take 7 k + 2 tokens: 16 for two of them. Of four right responses one is shorter; wrong ones do not count."""
    rows = [{"kind": 2, "correct": [True, True, False], "lengths": [15, 16, 3]}, {"kind": 3, "correct": [True, True], "lengths": [23, 40]}]
    assert chains.skipping(rows) == 1 / 4 and chains.skipping([{"kind": 2, "correct": [False], "lengths": [1]}]) == 0


def test_the_base_is_scored_on_test_problems_at_the_cap(monkeypatch):
    asked, how = [], chains.SIZES["cpu"]
    monkeypatch.setattr(chains, "stand_in", lambda seed: ("model", None, f"source {seed}"))
    monkeypatch.setattr(chains, "held_out", lambda data, count, split="test": asked.append((count, split)) or "problems")
    monkeypatch.setattr(chains, "answers", lambda model, data, problems, samples, cap, seed: asked.append(
        (model, problems, samples, cap, seed)) or "rollouts")
    monkeypatch.setattr(chains, "graded", lambda data, problems, rollouts: (problems, rollouts))
    monkeypatch.setattr(chains, "scores", lambda rows, cap: (rows, cap))
    monkeypatch.setattr(chains, "budgets", lambda data, problems, rollouts, samples: (problems, rollouts, samples))
    assert chains.base(3) == {"model": "source 3", "test": (("problems", "rollouts"), chains.CAP),
                              "budgets": ("problems", "rollouts", how.samples)}
    assert asked == [(how.test, "test"), ("model", "problems", how.samples, chains.CAP, 3)]


def test_rates_are_swept_of_every_arm_that_has_one():
    assert rates.SWEPT == ("opsft", "best of n", "fixed data", "grpo", "grpo, length") and set(rates.SWEPT) <= set(chains.ARMS)
    assert {(job.arguments["arm"], job.arguments["lr"]) for job in rates.jobs() if "arm" in job.arguments} == {
        (arm, lr) for arm in rates.SWEPT for lr in rates.RATES}
