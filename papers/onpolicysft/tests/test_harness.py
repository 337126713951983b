"""The harness around the method: jobs in the small, tables, pictures, the rungs. test_words.py has the verdicts."""

import dataclasses
import importlib
import inspect
import json
import re
from collections import Counter

import pytest
import torch

from common.data import chains
from common.models import tiny
from common.runs.experiment import every_job, main
from common.standins import five as five_tasks
from common.standins import reasoner
from tests import here

from .. import eval as harness
from .. import pictures, quantities, tables
from ..data import Chains, Rows
from ..experiments import chains as experiment
from ..experiments import five as five_experiment
from ..experiments import rates, speed
from ..experiments import sums as sums_experiment
from .made_up import CLAIMS, verdict
from .made_up import chains as results

ASKED = {claim for experiment in harness.EXPERIMENTS if experiment.asked for claim in experiment.claims}


def test_every_claim_is_measured_blocked_or_not_checkable():
    counted, small = quantities.exact({}, "analytic"), {*quantities.chains(results()), *ASKED}
    for claim in CLAIMS:
        name = claim["id"].partition("/")[2]
        if claim.get("status") == "not-checkable":
            continue
        assert name in {"analytic": counted, "cpu-small": small}.get(claim["rung"], ()) or claim.get("blocked_by"), name
    assert {*counted, *small} <= {claim["id"].partition("/")[2] for claim in CLAIMS}


@pytest.mark.numerics
def test_figures_that_the_papers_arithmetic_does_not_give_are_named():
    """78.5 % is not 80; the missing reference is 11 % of the states, not half."""
    counted = quantities.exact({}, "analytic")
    words = {name: verdict(name, counted)[0] for name in counted}
    assert {name for name in words if words[name] == "does-not-add-up"} == {"C1a", "C5a"}
    assert {name for name in words if words[name] == "adds-up"} == {"C2a", "C2b", "C13"}


# -- tables and pictures, from made-up results --------------------------------------------------------------
def test_tables_and_pictures_show_every_method(tmp_path):
    found = results()
    text = "\n".join(tables.chains(found))
    for name in tables.ARMS.values():
        assert name in text, name
    drawn = {path.name for path in pictures.chains(found, "cpu", tmp_path)}
    assert drawn == {"plane.svg", "updates.svg", "budgets.svg"} and "On-Policy SFT" in (tmp_path / "plane.svg").read_text()
    assert "mean of 5 seeds" in "\n".join(tables.chains(results(seeds=5))) and pictures.chains(results(seeds=5), "cpu", tmp_path)


# -- the jobs, in the small --------------------------------------------------------------------------------
def test_every_job_names_a_function_with_these_arguments():
    jobs = experiment.jobs()
    for job in jobs:
        module, name = job.function.split(":")
        inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)
    assert len({job.name for job in jobs}) == len({named(job) for job in jobs}) == len(jobs) == 3 * (1 + len(experiment.ARMS))


def named(job):
    """What makes a job's key, beside files and versions, which all jobs of a function share."""
    return job.function, json.dumps(job.arguments, sort_keys=True)


def test_a_job_depends_on_what_computes_and_on_nothing_that_shows():
    for job in {job.function: job for job in every_job(harness.EXPERIMENTS)}.values():
        sources = job.sources()
        names = {path.name for path in sources}
        assert {"method.py", "module.py", "sampled.py", "policy_gradient.py", "rollouts.py"} <= names, job.name
        assert not names & {"eval.py", "quantities.py", "tables.py", "pictures.py", "analytic.py", "speed.py", "claims.yaml"}, job.name
        of_sums, of_five = job.name.startswith("sums/"), job.name.startswith("five/")
        assert any(path.match("reasoner-weights/seed0/model.safetensors") for path in sources) != (of_sums or of_five)
        assert any(path.match("sums-weights/adapter_model.safetensors") for path in sources) == of_sums
        assert any(path.match("five-weights/adapter_model.safetensors") for path in sources) == (of_five and five_tasks.FOLDER.is_dir())
        for other, own in (("chains", not of_sums and not of_five), ("sums", of_sums), ("five", of_five)):
            assert any(path.match(f"experiments/{other}.py") for path in sources) == own, "an arm more there retrains nothing here"


def test_smoke_walks_every_job_of_the_default_run_at_another_size():
    def arms(jobs):
        return {(job.name.rpartition("/seed")[0], job.function, *sorted(job.arguments.keys())) for job in jobs}

    smoke, cpu = every_job(harness.EXPERIMENTS, "smoke"), every_job(harness.EXPERIMENTS, "cpu")
    assert arms(smoke) == arms(cpu) and {job.arguments["seed"] for job in smoke} == {0}
    assert not {named(job) for job in smoke} & {named(job) for job in cpu}
    assert smoke[0].key() != cpu[0].key() == experiment.jobs("cpu")[0].key()
    for module in (experiment, sums_experiment, five_experiment):
        tiny, full = module.SIZES["smoke"], module.SIZES["cpu"]
        assert all(getattr(tiny, name) <= getattr(full, name) for name in vars(full) if name not in ("seeds", "device"))


def test_the_default_sizes_are_those_that_the_claims_name():
    """Seeds, responses a problem and limits are written in claims.yaml and in the README's deviations."""
    small, real, tasks = (module.SIZES["cpu"] for module in (experiment, sums_experiment, five_experiment))
    of_five = next(each.claims for each in harness.EXPERIMENTS if each.name == "five")
    for claim in CLAIMS:
        if claim["rung"] == "cpu-small":
            name = claim["id"].partition("/")[2]
            size = tasks if name in of_five else real if name in ASKED else small
            assert tuple(claim["protocol"]["seeds"]) == size.seeds, claim["id"]
            assert {int(n) for n in re.findall(r"Avg@(\d+)", claim["protocol"]["metric"])} <= {size.samples}, claim["id"]
    page = (harness.HERE / "README.md").read_text()
    assert f"{small.prompts} problems x {small.rollouts} rollouts, limit {experiment.TINY['max_new_tokens']}, " in page
    assert f"AdamW 5e-4, {small.updates} updates" in page and experiment.TINY["lr"] == 5e-4
    assert f"{real.updates} updates of {real.prompts} problems x {real.rollouts} rollouts" in page
    asked = f"{tasks.updates} updates of {tasks.prompts} problems x {tasks.rollouts} rollouts,\nAdamW 1e-5, limit {five_experiment.LIMIT}. "
    assert asked in page
    assert f"{tasks.test // 5} unseen problems a task" in page and tasks.samples == 2 and tasks.cap == 160


def test_more_seeds_are_those_before_and_new_ones_that_wait_for_their_stand_ins(monkeypatch):
    three = {job.name: job for job in experiment.jobs()}
    monkeypatch.setitem(experiment.SIZES, "cpu", dataclasses.replace(experiment.SIZES["cpu"], seeds=tuple(range(5))))
    five = {job.name: job for job in experiment.jobs()}
    assert all(five[name] == job for name, job in three.items())
    assert {name for name in five if name.startswith("stand-in/")} == {"stand-in/seed3", "stand-in/seed4"}
    for name, job in five.items():
        seed = name.rpartition("/seed")[2]
        assert job.after == ((f"stand-in/seed{seed}",) if seed in ("3", "4") and not name.startswith("stand-in/") else ()), name


def test_a_stand_in_that_is_not_committed_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    trained, train = [], reasoner.train_reasoner

    def quickly(seed, folder):
        trained.append(seed)
        monkeypatch.setattr(reasoner, "train", lambda seed, stages, decoder: (reasoner.build(seed), [1.0], 60.0))
        return train(seed, folder)

    monkeypatch.setattr(reasoner, "train_reasoner", quickly)
    monkeypatch.setattr(reasoner, "report", lambda model: {"avg": 0.5, "tokens": 60.0})
    assert experiment.made(3) == {"test": {"avg": 0.5, "tokens": 60.0}}
    models = [experiment.stand_in(3)[0] for _ in range(2)]
    assert trained == [3] and torch.equal(models[0].lm_head.weight, models[1].lm_head.weight)
    assert not torch.equal(models[0].lm_head.weight, experiment.stand_in(0)[0].lm_head.weight)


@pytest.fixture
def small(monkeypatch):
    size = experiment.Size(seeds=(0,), problems=64, updates=2, prompts=2, rollouts=4, every=1, probe=1, test=2, samples=2, compared=2,
                           job_seconds=1)
    monkeypatch.setitem(experiment.SIZES, "small", size)


@pytest.mark.parametrize("arm", ["opsft", "grpo, length", "by lot"])
def test_a_job_trains_answers_and_repeats_itself(small, arm):
    first = experiment.run(0, arm, "small")
    assert [point[0] for point in first.get("curve", [])] == ([0, 1, 2] if arm in experiment.WATCHED else [])
    assert len(first["history"]["loss per token"]) == 2 and len(first["history"].get("kept", [0, 0])) == 2
    again = experiment.run(0, arm, "small")
    assert json.dumps({k: v for k, v in first.items() if k != "seconds"}) == json.dumps({k: v for k, v in again.items() if k != "seconds"})
    assert ("divergence" in first) == (arm in ("opsft", "by lot")) and ("budgets" in first) == (arm == "opsft")


def test_the_arms_that_controls_need_are_what_they_say(small, monkeypatch):
    """Again: the same settings, problems and rollouts by other draws. Four rollouts, as many: four times the problems of four."""
    seen = []
    monkeypatch.setattr(experiment, "fit", lambda training, data, *_, **how: seen.append((training, data)))
    for arm in ("opsft", "again", "G 4", "G 4, as many"):
        experiment.run(0, arm, "small")
    first, again, four, many = seen
    assert vars(first[0].config) == vars(again[0].config) and first[0].seed != again[0].seed
    assert (first[1].count, first[1].seed) == (again[1].count, again[1].seed - 1000)
    assert four[0].config == dataclasses.replace(many[0].config, prompts_per_step=2) and many[0].config.rollouts_per_prompt == 4
    assert many[0].config.prompts_per_step == 8


def test_rates_are_swept_on_validation_and_the_arms_have_the_best(small, monkeypatch):
    """Never on a test problem; and where a sweep is committed, the arms' rates are its best."""
    asked = []
    problem = Chains.problem
    monkeypatch.setattr(Chains, "problem", lambda self, number, split: asked.append(split) or problem(self, number, split))
    few = lambda self: (Rows([self.problem(i, "train") for i in range(self.count)]), Rows([]))  # noqa: E731
    monkeypatch.setattr(Chains, "sequences", few)
    found = rates.rate(0, "grpo", 1e-3, "small")
    assert {"avg", "tokens", "skipped", "seconds"} == found.keys() and set(asked) == {"train", "val"}
    monkeypatch.undo()
    results = {"rates/base/seed0": {"avg": 0.8, "tokens": 60.0}, "rates/grpo, 0.0002/seed0": {"avg": 0.9, "tokens": 30.0},
               "rates/grpo, 0.0005/seed0": {"avg": 0.85, "tokens": 15.0}, "rates/grpo, 0.001/seed0": {"avg": 0.4, "tokens": 9.0},
               "rates/grpo, 0.0001/seed0": {"avg": 0.8, "tokens": 60.0}}
    assert [rates.gain(results, "grpo", lr) for lr in rates.RATES] == pytest.approx([0, 60, 80, 45]) and rates.best(results, "grpo") == 5e-4
    committed = harness.HERE / "results" / "measurements.rates.json"
    if committed.is_file():
        swept = json.loads(committed.read_text())["results"]
        assert {arm: experiment.settings("cpu", arm)["lr"] for arm in rates.SWEPT} == {arm: rates.best(swept, arm) for arm in rates.SWEPT}
        assert "*" in "\n".join(tables.rates(swept))


def test_a_base_and_its_budgets(small):
    found = experiment.base(1, "small")
    assert found["test"]["cap"] == 170 and found["budgets"][-1][0] == 170
    assert [b for b, _ in found["budgets"]] == list(experiment.BUDGETS)
    assert found["budgets"][-1][1] == pytest.approx(found["test"]["avg"], rel=1e-12)  # one sampling, counted twice


def test_what_is_shorter_than_its_steps_has_skipped_some():
    data = Chains(count=4)
    problem = data.problem(3, "test")
    needed = len(chains.essential(problem.gold))
    assert experiment.skipping([{"kind": problem.kind, "correct": [True, True], "lengths": [needed, needed - 1]}]) == 0.5


# -- memory and time, rehearsed ----------------------------------------------------------------------------
def test_both_updates_run_in_processes_of_their_own(monkeypatch):
    config = dict(tiny().config, vocab_size=96)
    logged, ran = [], []
    monkeypatch.setattr(speed, "in_a_process", lambda *a, **more: ran.append(a[:2]) or here.in_this_process(*a, **more))
    found = speed.measure(config, (6,), "cpu", log=logged.append, responses=4, micro=2, repeats=1)
    case = found["cases"]["6"]
    tokens = 6 + speed.PROMPT
    assert case["opsft"]["forward_tokens"] == 2 * tokens and case["grpo"]["forward_tokens"] == 3 * 4 * tokens
    assert len(logged) == 2 and ran == [(speed.update, "opsft"), (speed.update, "grpo")] and "GRPO with reference" in speed.table(found)
    assert quantities.gpu({"gpu": {"opsft": {"peak_bytes": [5, 6]}, "grpo": {"peak_bytes": [10, 8]}}})["C5"]["value"] == pytest.approx(40)
    assert "C5" in quantities.gpu({"gpu": found["cases"]["6"]})
    with pytest.raises(ValueError, match="none of opsft, grpo"):
        speed.update("ppo", config, 6)


# -- commands ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rung", ["gpu", "paper"])
def test_what_the_machine_cannot_run_is_answered_in_a_line(rung, capsys, monkeypatch, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(tmp_path, harness.EXPERIMENTS, ["--rung", rung]) == 2
    error = capsys.readouterr().err
    assert "GPU" in error and len(error.strip().splitlines()) == 1


def test_the_analytic_rung_ends_with_the_table_and_one_json_line(capsys, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    (tmp_path / "results").mkdir()
    assert main(tmp_path, harness.EXPERIMENTS, ["--rung", "analytic"]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    counted = quantities.exact({}, "analytic")
    words = Counter(verdict(name, counted)[0] for name in counted)
    assert last["paper"] == "onpolicysft" and last["rung"] == "analytic" and last["stale"] == 0
    assert {name: last["counts"][name] for name in words} == words  # this rung's alone: no record of another is there
