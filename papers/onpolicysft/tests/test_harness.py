"""The harness around the method: jobs in the small, verdicts from results that we choose, tables, pictures, the rungs."""

import importlib
import inspect
import json
import re
from collections import Counter

import pytest
import torch

from common.claims.records import load_claims, make_record, start_run
from common.data import chains
from common.models import ModelSpec, load, tiny
from common.runs.experiment import every_job, main

from .. import eval as harness
from .. import pictures, quantities, tables
from ..data import Chains
from ..experiments import chains as experiment
from ..experiments import exact, speed
from ..experiments import paper as paper_scale
from ..experiments import sums as sums_experiment
from ..train import cli
from .runs import byte_words

CLAIMS = load_claims(harness.HERE / "claims.yaml")
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
def test_figures_that_the_papers_arithmetic_does_not_support_contradict():
    """78.5 % is not 80; the missing reference is 11 % of the states, not half.

    C15 counts what single precision rounds, which depends on the processor (0.07 to 0.63 of what it allows were seen); that
    the two gradients are equal is held in double precision by test_method.py.
    """
    counted = quantities.exact({}, "analytic")
    words = {name: word(name, counted, seeds=[]) for name in counted}
    assert counted["C15"]["value"] < 10 and words.pop("C15") in ("matches", "contradicts")
    assert {name for name in words if words[name] == "contradicts"} == {"C1a", "C5a"}
    assert {name for name in words if words[name] == "matches"} == {"C2a", "C2b", "C5b", "C12a", "C13"}


# -- verdicts from results that we choose ------------------------------------------------------------------
def test_scores(avg, tokens, std=0.1):
    both = {"avg": avg, "tokens": tokens, "pass_at": {"1": avg, "4": 1.0}, "normalised_length_std": std, "at_cap": 0.0,
            "efficiency": 100 * avg / tokens, "problems": 10}
    return both | {"by_kind": {k: dict(both) for k in ("1", "2", "3")}}


test_scores.__test__ = False


def results(**changes):
    """Results as the jobs give them. changes {arm: (accuracy, tokens)}; base .85 and 60, others .95 and 18 unless said."""
    found = {}
    for job in experiment.jobs():
        arm, _, seed = job.name.partition("/seed")
        avg, tokens = changes.get(arm.replace(" ", "_").replace(",", "").replace(".", ""), (0.85, 60.0) if arm == "base" else (0.95, 18.0))
        shift = 0.001 * int(seed)
        rising = [{"loss per token": 0.1 + (0.02 * i if arm == "T 1.5" else 0.0)} for i in range(10)]
        found[job.name] = 0.3 if arm == "flops" else {
            "arm": arm, "test": test_scores(avg + shift, tokens, 0.5 if arm == "base" else 0.1), "history": rising, "skips a step": 0.001,
            "seconds": 1.0, "curve": [[0, 0.85, 60.0], [5, 0.86, 30.0], [10, 0.9, tokens], [40, avg, tokens]],
            "budgets": [[12, 0.1], [170, avg]], "divergence": {"AUC, wait or restart against the rest": 0.95 + shift,
                                                             "AUC, separator against the rest": 0.99, "by word": [["W", 1.5, 9]]}}
    return found


def word(name, measured, seeds=(0, 1, 2)):
    facts = start_run("test") | {"seconds": 0.0}
    return make_record(CLAIMS.find(name), CLAIMS.sha256, measured[name], facts, seeds=list(seeds))["verdict"]["word"]


@pytest.mark.parametrize("claim, changes, expected", [
    ("C1s", {}, "supports"),
    ("C1s", {"opsft": (0.95, 30.0)}, "contradicts"),
    ("C1t", {}, "supports"),
    ("C1t", {"opsft": (0.6, 12.0)}, "contradicts"),
    ("C1u", {}, "supports"),
    ("C1v", {"by_lot": (0.8, 58.0)}, "supports"),
    ("C1v", {"by_lot": (0.8, 20.0)}, "contradicts"),
    ("C4a", {"opsft": (0.97, 17.0)}, "supports"),
    ("C4a", {"grpo": (0.99, 15.0)}, "contradicts"),
    ("C5c", {}, "supports"),
    ("C8a", {"fixed_data": (0.95, 28.0)}, "supports"),
    ("C8b", {"fixed_data": (0.99, 28.0)}, "contradicts"),
    ("C9a", {}, "supports"),
    ("C9b", {"T_15": (0.1, 30.0)}, "supports"),
    ("C9c", {"T_06": (0.99, 17.0)}, "contradicts"),
    ("C10", {"G_4": (0.7, 25.0)}, "supports"),
    ("C12", {"seq": (0.95, 17.0)}, "contradicts"),
    ("C14a", {}, "supports"),
])  # fmt: skip
def test_verdicts_follow_the_scores(claim, changes, expected):
    assert word(claim, quantities.chains(results(**changes))) == expected


def test_updates_are_counted_to_the_first_probe_that_is_short_and_no_worse():
    run = {"curve": [[0, 0.8, 60.0], [5, 0.7, 20.0], [10, 0.8, 20.0], [15, 0.9, 10.0]]}
    assert quantities.updates_needed(run, 40) == 10
    assert quantities.updates_needed({"curve": [[0, 0.8, 60.0], [5, 0.9, 50.0]]}, 40) == 40


def test_tables_and_pictures_show_every_method(tmp_path):
    found = results()
    text = "\n".join(tables.chains(found))
    for name in tables.ARMS.values():
        assert name in text, name
    drawn = {path.name for path in pictures.chains(found, "cpu", tmp_path)}
    assert drawn == {"plane.svg", "updates.svg", "budgets.svg"} and "On-Policy SFT" in (tmp_path / "plane.svg").read_text()


# -- the jobs, in the small --------------------------------------------------------------------------------
def test_every_job_names_a_function_with_these_arguments():
    jobs = experiment.jobs()
    for job in jobs:
        module, name = job.function.split(":")
        inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)
    assert len({job.name for job in jobs}) == len({named(job) for job in jobs}) == len(jobs) == 3 * (2 + len(experiment.ARMS))


def named(job):
    """What makes a job's key, beside files and versions, which all jobs of a function share."""
    return job.function, json.dumps(job.arguments, sort_keys=True)


def test_a_job_depends_on_what_computes_and_on_nothing_that_shows():
    for job in {job.function: job for job in every_job(harness.EXPERIMENTS)}.values():
        sources = job.sources()
        names = {path.name for path in sources}
        assert {"method.py", "module.py", "sampled.py", "policy_gradient.py", "rollouts.py"} <= names, job.name
        assert not names & {"eval.py", "quantities.py", "tables.py", "pictures.py", "analytic.py", "speed.py", "claims.yaml"}, job.name
        of_sums = job.name.startswith("sums/")
        assert any(path.match("reasoner-weights/seed0/model.safetensors") for path in sources) != of_sums
        assert ("adapter_model.safetensors" in names) == of_sums
        assert any(path.match("experiments/chains.py") for path in sources) != of_sums  # an arm more there retrains nothing here


def test_smoke_walks_every_job_of_the_default_run_at_another_size():
    def arms(jobs):
        return {(job.name.rpartition("/seed")[0], job.function, *sorted(job.arguments.keys())) for job in jobs}

    smoke, cpu = every_job(harness.EXPERIMENTS, "smoke"), every_job(harness.EXPERIMENTS, "cpu")
    assert arms(smoke) == arms(cpu) and {job.arguments["seed"] for job in smoke} == {0}
    assert not {named(job) for job in smoke} & {named(job) for job in cpu}
    assert smoke[0].key() != cpu[0].key() == experiment.jobs("cpu")[0].key()
    for module in (experiment, sums_experiment):
        tiny, full = module.SIZES["smoke"], module.SIZES["cpu"]
        assert all(getattr(tiny, name) <= getattr(full, name) for name in vars(full) if name not in ("seeds", "device"))


def test_the_default_sizes_are_those_that_the_claims_name():
    """Seeds, responses a problem and limits are written in claims.yaml and in the README's deviations."""
    small, real = experiment.SIZES["cpu"], sums_experiment.SIZES["cpu"]
    for claim in CLAIMS:
        if claim["rung"] == "cpu-small":
            size = real if claim["id"].partition("/")[2] in ASKED else small
            assert tuple(claim["protocol"]["seeds"]) == size.seeds, claim["id"]
            assert {int(n) for n in re.findall(r"Avg@(\d+)", claim["protocol"]["metric"])} <= {size.samples}, claim["id"]
    page = (harness.HERE / "README.md").read_text()
    assert f"{small.prompts} problems x {small.rollouts} rollouts, limit {experiment.TINY['max_new_tokens']}, " in page
    assert f"AdamW 5e-4, {small.updates} updates" in page and experiment.TINY["lr"] == 5e-4
    assert f"{real.updates} updates of {real.prompts} problems x {real.rollouts} rollouts" in page


@pytest.fixture
def small(monkeypatch):
    size = experiment.Size(seeds=(0,), problems=64, updates=2, prompts=2, rollouts=4, every=1, probe=3, test=6, samples=2, compared=6,
                           job_seconds=1)
    monkeypatch.setitem(experiment.SIZES, "small", size)


@pytest.mark.parametrize("arm", ["opsft", "grpo, length"])
def test_a_job_trains_answers_and_repeats_itself(small, arm):
    first = experiment.run(0, arm, "small")
    assert [point[0] for point in first["curve"]] == [0, 1, 2] and len(first["history"]) == 2
    again = experiment.run(0, arm, "small")
    assert json.dumps({k: v for k, v in first.items() if k != "seconds"}) == json.dumps({k: v for k, v in again.items() if k != "seconds"})
    assert ("divergence" in first) == (arm == "opsft")


def test_a_base_and_its_budgets(small):
    found = experiment.base(1, "small")
    assert found["test"]["cap"] == 170 and found["budgets"][-1][0] == 170
    assert [b for b, _ in found["budgets"]] == list(experiment.BUDGETS)
    assert found["budgets"][-1][1] == pytest.approx(found["test"]["avg"], rel=1e-12)  # one sampling, counted twice


@pytest.mark.numerics
def test_an_update_costs_less_than_grpos():
    assert 0 < exact.flops_ratio(0) < 0.75 and exact.other_models_and_passes() == 0


def test_the_grader_and_the_essential_length_agree():
    data = Chains(count=4)
    problem = data.problem(3, "test")
    words = chains.essential(problem.gold)
    ids = tuple(data.words.convert_tokens_to_ids(list(words)))
    from common.reasoning.rollouts import Rollout

    assert data.grade([problem], [Rollout(0, ids, True), Rollout(0, ids[:-1], False)]) == [True, False]
    rows = [{"kind": problem.kind, "correct": [True, True], "lengths": [len(ids), len(ids) - 1]}]
    assert experiment.skipping(rows) == 0.5


# -- memory and time, rehearsed ----------------------------------------------------------------------------
def test_both_updates_run_in_processes_of_their_own():
    config = dict(tiny().config, vocab_size=96)
    logged = []
    found = speed.measure(config, (6,), "cpu", log=logged.append, responses=4, micro=2, repeats=1)
    case = found["cases"]["6"]
    tokens = 6 + speed.PROMPT
    assert case["opsft"]["forward_tokens"] == 2 * tokens and case["grpo"]["forward_tokens"] == 3 * 4 * tokens
    assert len(logged) == 2 and "GRPO with reference" in speed.table(found)
    assert "C5" in quantities.gpu({"gpu": found["cases"]["6"]})
    with pytest.raises(ValueError, match="none of opsft, grpo"):
        speed.update("ppo", config, 6)


# -- commands ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rung", ["gpu", "paper"])
def test_what_the_machine_cannot_run_is_answered_in_a_line(rung, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(harness.HERE, harness.EXPERIMENTS, ["--rung", rung]) == 2
    error = capsys.readouterr().err
    assert "GPU" in error and len(error.strip().splitlines()) == 1


def test_the_analytic_rung_ends_with_the_table_and_one_json_line(capsys, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    (tmp_path / "results").mkdir()
    assert main(tmp_path, harness.EXPERIMENTS, ["--rung", "analytic"]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    counted = quantities.exact({}, "analytic")
    words = Counter(word(name, counted, seeds=[]) for name in counted)
    assert last["paper"] == "onpolicysft" and last["rung"] == "analytic" and last["stale"] == 0
    assert {name: last["counts"][name] for name in words} == words  # this rung's alone: no record of another is there


# -- configs -----------------------------------------------------------------------------------------------
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture
def program(monkeypatch):
    """LightningCLI dislikes pytest's own arguments."""
    import sys

    monkeypatch.setattr(sys, "argv", ["train"])


def test_the_rehearsal_trains_and_leaves_a_model(tmp_path, program):
    out = tmp_path / "out"
    cli(["fit", "--config", str(harness.HERE / "configs/cpu/rehearsal.yaml"), f"--trainer.default_root_dir={out}",
         f"--trainer.logger.init_args.save_dir={out}", "--model.init_args.model.name", str(experiment.FOLDER / "seed0"), *QUIET])
    about = json.loads((out / "model" / "training.json").read_text())
    assert about["steps"] == 2 and load(ModelSpec(name=str(out / "model"))).model.config.hidden_size == 64
    rows = (out / "logs" / "version_0" / "metrics.csv").read_text()
    assert "val/tokens" in rows and "train/kept_length" in rows


@pytest.mark.parametrize("size", ["1.5b", "7b"])
def test_the_papers_configs_train_a_tiny_qwen2_and_their_table_is_filled(size, tmp_path, program, monkeypatch):
    """R1-Distill's architecture with some thousand parameters, its schema of data, two steps; then the benchmarks."""
    words = byte_words()
    load(tiny("qwen2", vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1)).model.save_pretrained(tmp_path / "tiny")
    words.save_pretrained(tmp_path / "tiny")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"problem": f"{i} + 1", "answer": i + 1}) + "\n" for i in range(9)))
    run = tmp_path / "runs" / f"r1-distill-qwen-{size}"
    cli(["fit", "--config", str(harness.HERE / f"configs/cuda/r1-distill-qwen-{size}.yaml"), f"--trainer.default_root_dir={run}",
         f"--trainer.logger.init_args.save_dir={run}", "--model.init_args.model.name", str(tmp_path / "tiny"),
         "--model.init_args.config.prompts_per_step=2", "--model.init_args.config.rollouts_per_prompt=2",
         "--model.init_args.config.max_new_tokens=5", "--model.init_args.cap=6", f"--data.init_args.train={tmp_path / 'train.jsonl'}",
         "--data.init_args.held_out=2", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto",
         "--trainer.precision=32-true", "--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
         "--trainer.val_check_interval=2", *QUIET])
    about = json.loads((run / "model" / "training.json").read_text())
    assert about["steps"] == 2 and about["skipped"] == 2, "a random model is never right: two updates skipped, and counted"
    folder = tmp_path / "data" / "maths"
    folder.mkdir(parents=True)
    (folder / "aime24.jsonl").write_text(json.dumps({"problem": "1 + 1", "answer": "2"}) + "\n")
    (run / "model" / "training.json").write_text(json.dumps(about | {"trained_from": str(tmp_path / "tiny")}))
    monkeypatch.setenv("OPSFT_RUNS", str(tmp_path / "runs"))
    means = paper_scale.measure_paper(lambda text: None, "cpu", ["aime24"], data=tmp_path / "data", repeats=2, max_tokens=6)
    found = quantities.paper({"paper": means})
    assert set(found) == ({"C1", "C2"} if size == "1.5b" else {"C3"})
    assert next(iter(found.values()))["value"] is not None and len(found) <= 2
    assert len(list((run / "benchmarks").iterdir())) == 2
