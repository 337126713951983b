"""The arm is the arm, for what test_experiments.py does not reach: the recipes of real models, and what is counted of responses."""

from types import SimpleNamespace as Of

import pytest
import torch

from common.models import ModelSpec

from .. import module
from ..experiments import chains, five, paper, rates, speed, sums


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
    assert chains.skipping([{"kind": 2, "correct": [True], "lengths": [15]}]) == 1


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


# -- the paper's size, and what an update takes ------------------------------------------------------------
def test_a_curve_is_read_step_by_step_and_of_a_step_that_came_twice_the_later(tmp_path):
    for version, rows in ((2, "20,,\n20,0.5,80\n10,0.25,90\n"), (10, "20,0.75,70\n30,0.5,\n")):
        folder = tmp_path / "logs" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,val/avg,val/tokens\n" + rows)
    assert paper.curve(tmp_path) == [[10, 0.25, 90], [20, 0.75, 70]]


def test_spreads_are_means_over_benchmarks_and_none_where_one_has_none(monkeypatch):
    spreads = {"a": 0.25, "b": 0.75}
    monkeypatch.setattr(paper.reasoning, "score", lambda correct, lengths, cap: Of(avg=correct, normalised_length_std=lengths))
    monkeypatch.setattr(paper.reasoning, "macro_average", lambda every: {"avg": sum(s.avg for s in every.values())})
    scored = {name: {"correct": i, "lengths": spread, "cap": 9} for i, (name, spread) in enumerate(spreads.items())}
    assert paper.means(scored) == {"avg": 1, "normalised_length_std": 0.5, "by_benchmark": {"a": 0, "b": 1}}
    assert paper.means(scored | {"c": {"correct": 2, "lengths": None, "cap": 9}})["normalised_length_std"] is None


@pytest.mark.parametrize("device, dtype", [("cuda", "bfloat16"), ("cpu", "float32")])
def test_a_model_is_scored_where_and_as_it_is_asked_for(device, dtype, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(paper, "load", lambda spec: asked.append((spec.name, spec.revision, spec.dtype, spec.device)) or Of(
        model=Of(dtype=spec.dtype), tokenizer=None, source={"weights_sha256": "hash"}))
    monkeypatch.setattr(paper, "kept", lambda path, of, score, log: (path.name, of))
    of = {"weights_sha256": "hash", "dtype": dtype, "options": {"limit": "5"}}
    found = paper.scores(tmp_path, "trained", ModelSpec("a/model", revision="abc"), ["gsm8k"], device, print, {"limit": 5})
    assert found == {"gsm8k": ("trained.gsm8k.json", of)} and asked == [("a/model", "abc", dtype, device)]


def test_an_update_is_timed_of_both_kinds_and_what_is_finished_is_read(tmp_path, monkeypatch):
    asked = []

    def timed(call, kind, config, tokens, **options):
        asked.append((kind, tokens, options))
        return {"seconds": [float(len(asked))], "peak_bytes": [2**20 * len(asked)], "forward_tokens": 7}

    monkeypatch.setattr(speed, "in_a_process", timed)
    monkeypatch.setattr(speed, "pooled", lambda runs: {"seconds": [r["seconds"][0] for r in runs], "peak_bytes": [2**20]})
    options = {"responses": 2, "micro": 1}
    first = speed.measure({"size": 1}, (5,), "cpu", tmp_path, lambda text: None, 2, **options)
    assert first["settings"] == {"config": {"size": 1}, "device": "cpu", "processes": 2, **options}
    assert asked == [(kind, 5, {"device": "cpu", **options}) for kind in speed.KINDS for _ in range(2)]
    assert {kind: first["cases"]["5"][kind]["seconds"] for kind in speed.KINDS} == dict(zip(speed.KINDS, ([1.0, 2.0], [3.0, 4.0])))
    assert speed.measure({"size": 1}, (5,), "cpu", tmp_path, lambda text: None, 2, **options) == first and len(asked) == 4
    monkeypatch.setattr(speed, "SMOLLM2_135M", "shape")
    monkeypatch.setattr(speed, "measure", lambda *of, **how: (of, how))
    assert speed.measure_cpu("log") == (("shape", (512,), "cpu", None, "log"), {"responses": 4, "micro": 2, "repeats": 1})
    case = {kind: {"seconds": [s, 9.0], "peak_bytes": [b * 2**20, 2**20], "forward_tokens": n} for kind, s, b, n in zip(
        speed.KINDS, (1.0, 2.0), (4, 8), (30, 40))}
    line = speed.table({"cases": {"5": case}})
    assert "peak 4 MiB against 8 of" in line and "(0.50), 1.0 s against 2.0 (0.50), 30 tokens read against 40" in line
