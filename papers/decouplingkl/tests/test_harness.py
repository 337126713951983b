"""The harness around the method: every claim has somebody who measures it, jobs and sizes, tables, pictures, students."""

import dataclasses
import importlib
import inspect
import json
import re

import pytest
import torch

from common.models import ModelSpec, load
from common.runs.experiment import every_job
from common.standins import reasoner

from .. import eval as harness
from .. import pictures, quantities, standins, tables
from ..experiments import chains as small
from ..experiments import real, reasoners, timing
from ..experiments import strong as better
from .made_up import CLAIMS, strong, verdict, weak


def of(claim):
    return claim["id"].partition("/")[2]


def test_every_claim_is_measured_blocked_or_not_checkable():
    counted, run, asked = quantities.exact({}, "analytic"), quantities.weak(weak()), quantities.strong(strong())
    later = [claim for e in harness.EXPERIMENTS if e.name in ("reasoners", "timing") for claim in e.claims]
    assert {*asked} == {*harness.STRONG} and not {*run} & {*asked} and not {*run, *asked} & {*later} and len(later) == 6
    for claim in CLAIMS:
        if claim.get("status") != "not-checkable":
            here = {"analytic": counted, "cpu-small": {*run, *asked, *later}}.get(claim["rung"], ())
            assert of(claim) in here or claim.get("blocked_by"), claim["id"]
    assert {*counted, *run, *asked, *later} <= {of(claim) for claim in CLAIMS}


@pytest.mark.numerics
def test_figures_that_arithmetic_does_not_give_are_named():
    """Qwen3's queries are wider than the sibling's formula has them, and 55.34 % is no count of 500 problems."""
    counted = quantities.exact({}, "analytic")
    words = {name: verdict(name, counted)[0] for name in counted}
    assert {name for name in words if words[name] == "does-not-add-up"} == {"C13f", "C14a"}
    assert {name for name in words if words[name] == "supports"} == {"C2a", "C6a", "C6b"}
    assert set(words.values()) == {"adds-up", "does-not-add-up", "supports"}


def test_required_claims_and_headlines_are_about_what_the_default_run_measures():
    required = {of(claim) for claim in CLAIMS if claim.get("required")}
    assert 3 <= len(required) <= 6 and required <= {*quantities.weak(weak())}
    assert len(CLAIMS.headlines) == 5 and all(h["shows"] in {*quantities.weak(weak()), *quantities.exact({}, "")} for h in CLAIMS.headlines)


def runs(names):
    """Summaries as experiments/paper.py gives them, every run a point better and a hundred tokens longer than the one before."""
    return {name: {"avg": 30.0 + i, "passed": 40.0 + 2 * i, "tokens": 1000.0 + 100 * i, "at_cap": 0.0,
                   "by": {"math": {"avg": 50.0 + 3 * i, "passed": 60.0 + i, "tokens": 500.0 + 10 * i}} | {
                       name: {"avg": k * i, "passed": -k * i} for k, name in ((2, "gsm8k"), (4, "amc23"), (6, "aime24"))}}
            for i, name in enumerate(names)}


CONFIGS = sorted(path.stem for path in (harness.HERE / "configs" / "cuda").glob("*.yaml"))


def test_the_papers_size_is_measured_by_runs_of_the_committed_configs():
    everything = {of(c) for c in CLAIMS if c["rung"] == "paper-scale" and c.get("status") != "not-checkable"}
    assert {*quantities.paper({"paper": runs(CONFIGS)})} == everything
    assert quantities.paper({"paper": {}}) == {} and {*quantities.paper({"paper": runs(["4b-sr-4096"])})} == {"C8"}


def test_differences_of_runs_by_hand():
    """In this order: each cell and length, the curriculum, then GRPO."""
    names = ["4b-sf-128", "4b-sr-128", "4b-tf-128", "4b-tr-128", "4b-sf-4096", "4b-sr-4096", "4b-tf-4096", "4b-tr-4096", "4b-sr-curriculum",
             "4b-sf-4096-grpo", "4b-sr-4096-grpo"]
    found = {name: measured["value"] for name, measured in quantities.paper({"paper": runs(names)}).items()}
    assert found == pytest.approx({
        "C3": 3, "C3b": -1, "C4": 15, "C4b": 15, "C5": -2, "C5b": -4, "C5c": -2, "C5d": -4, "C7": 4, "C7b": 8, "C7c": 4, "C7d": 4,
        "C8": 1500, "C10": 3, "C10p": 6, "C10l": 1500 / 1800, "C12": 9, "C12l": 580, "C19a": 2, "C19b": -2, "C19c": 4, "C19d": -4,
        "C19e": 6, "C19f": -6, "C19l": -100})
    names = ["8b-sr-4096", "8b-sf-128", "8b-sr-curriculum", "8b-sr-128", "8b-sf-128-grpo", "8b-sr-128-grpo"]
    found = {name: measured["value"] for name, measured in quantities.paper({"paper": runs(names)}).items()}
    assert found == pytest.approx({"C8b": 1000, "C11": 2, "C11p": 4, "C11l": 1000 / 1200, "C12b": 6, "C4c": 9, "C4d": 65, "C4f": 6})


def test_shapes_are_those_of_the_models():
    from common.shapes import Shape

    words = len(reasoner.chains.WORDS)
    for shape, decoder in ((quantities.STUDENT, standins.DECODER), (quantities.TEACHER, reasoner.DECODER)):
        assert shape == Shape.of(reasoner.build(0, decoder).config) and shape.V == words
    assert (quantities.STUDENT.parameters(), quantities.TEACHER.parameters()) == (27744, 108736)


# -- tables and pictures, from made-up results --------------------------------------------------------------
def test_tables_and_pictures_show_every_arm(tmp_path):
    found = weak()
    text = "\n".join(tables.weak(found))
    for name in ("start", *small.ARMS):
        assert tables.ARMS[name] in text, name
    assert "0.400 < 0.500" in text and "rollback, 12" in text and "loss 0, gradient's norm 0, change of a weight 0" in text
    assert {path.name for path in pictures.weak(found, "cpu", tmp_path)} == {"mixtures.svg", "plane.svg", "compute.svg"}
    assert "GFLOP" in (tmp_path / "compute.svg").read_text() and "logits are cached" in (tmp_path / "compute.svg").read_text()
    assert "entropy-gated curriculum" in (tmp_path / "plane.svg").read_text()
    assert "Mean of 5 seeds" in "\n".join(tables.weak(weak(seeds=5))) and pictures.weak(weak(seeds=5), "cpu", tmp_path)


def test_tables_and_pictures_show_rl_and_both_ends(tmp_path):
    found = strong()
    text = "\n".join(tables.strong(found))
    for name in ("start", *better.ARMS, *better.STOPS):
        assert tables.ARMS[name] in text, name
    assert text.count("after 20:") == text.count("after 60:") == 4 and "after  0:" in text and "by <eos2> 10.0 %" in text
    assert [path.name for path in pictures.strong(found, "cpu", tmp_path)] == ["strong.svg"]


def test_a_response_s_part_of_an_update_is_counted_exactly():
    """Sampling and reading by the student is a forward pass and three; by the teacher one; heads on all tokens."""
    def forward(d, f, tokens):
        return 2 * (2 * tokens * (4 * d * d + 3 * d * f) + 2 * tokens**2 * d) + 2 * tokens * d * 30

    student, teacher = forward(32, 96, 60), forward(64, 192, 60)
    assert quantities.update_of("SR", 50) == teacher + 4 * student == quantities.update_of("one end", 50)
    assert quantities.update_of("TF", 50) == teacher + 3 * student and quantities.update_of("TR", 50, "logits") == 3 * student
    arms = quantities.Arms(weak())
    assert arms.flops(0, "SR") == quantities.update_of("SR", 50)


def test_compute_is_what_was_spent_until_a_probe():
    """Three updates of two responses, probes after none, one and three, of two seeds with their own lengths; a cache saves the teacher's
    and the sampling's part."""
    found = {f"{arm}/seed{seed}": {"history": {"length": [10.0 + seed, 20.0, 30.0]},
                                   "curve": [[0, 0.1], [1, 0.2 + 0.2 * seed], [3, 0.5]]}
             for arm in ("start", "SF", "TF") for seed in (0, 1)}
    arms = quantities.Arms(found)
    for arm, cached in (("SF", None), ("TF", None), ("TF", "logits")):
        xs, ys = pictures._spent(arms, arm, 2, cached)
        first = sum(2 * quantities.update_of(arm, length, cached) for length in (10.0, 11.0)) / 2
        rest = sum(2 * quantities.update_of(arm, length, cached) for length in (20.0, 30.0))
        assert xs == pytest.approx([0.0, first / 1e9, (first + rest) / 1e9]) and ys == pytest.approx([10.0, 30.0, 50.0])
    assert pictures._spent(arms, "TF", 2, "logits")[0][-1] < 0.6 * pictures._spent(arms, "TF", 2, None)[0][-1]


# -- the jobs ----------------------------------------------------------------------------------------------
def test_every_job_names_a_function_with_these_arguments():
    for jobs, count in ((small.jobs(), 3 * (2 + len(small.ARMS))), (better.jobs(), 3 * (1 + len(better.ARMS) + len(better.STOPS)))):
        for job in jobs:
            module, name = job.function.split(":")
            inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)
        assert len({job.name for job in jobs}) == len({named(job) for job in jobs}) == len(jobs) == count


def named(job):
    """What makes a job's key, beside files and versions, which all jobs of a function share."""
    return job.function, json.dumps(job.arguments, sort_keys=True)


def test_a_job_depends_on_what_computes_and_on_nothing_that_shows():
    for job in {job.function: job for job in every_job(harness.EXPERIMENTS)}.values():
        sources = job.sources()
        names = {path.name for path in sources}
        if job.name.startswith("timing/"):
            assert {"method.py", "rollouts.py", "speed.py"} <= names and not names & {"module.py", "quantities.py", "claims.yaml"}
            continue
        assert {"method.py", "module.py", "curriculum.py", "sampled.py", "rollouts.py", "problems.py"} <= names, job.name
        assert not names & {"eval.py", "quantities.py", "tables.py", "pictures.py", "analytic.py", "reported.py", "claims.yaml"}, job.name
        for folder in ("reasoner-weights/seed0", "students/weak/seed0", "students/strong/seed0"):
            assert any(path.match(f"{folder}/model.safetensors") for path in sources), (job.name, folder)
        assert any(path.match("experiments/strong.py") for path in sources) == job.name.startswith("strong/")


def test_smoke_walks_every_job_at_another_size():
    def arms(jobs):
        return {(job.name.rpartition("/seed")[0], job.function, *sorted(job.arguments.keys())) for job in jobs}

    smoke, cpu = every_job(harness.EXPERIMENTS, "smoke"), every_job(harness.EXPERIMENTS, "cpu")
    timed = [[job for job in jobs if job.name.startswith("timing/")] for jobs in (smoke, cpu)]
    assert {job.function for job in timed[0]} == {job.function for job in timed[1]} and {j.arguments["process"] for j in timed[0]} == {0}
    smoke, cpu = ([job for job in jobs if not job.name.startswith("timing/")] for jobs in (smoke, cpu))
    assert arms(smoke) == arms(cpu) and {job.arguments["seed"] for job in smoke} == {0}
    assert not {named(job) for job in smoke} & {named(job) for job in cpu}
    for tiny, full in ((small.SIZES["smoke"], small.SIZES["cpu"]), (better.SIZES["smoke"].distilled, better.SIZES["cpu"].distilled)):
        assert all(getattr(tiny, name) <= getattr(full, name) for name in vars(full) if name != "seeds")


def test_the_default_sizes_are_those_that_the_claims_and_the_page_name():
    """Seeds, responses a problem, updates and lengths are written in claims.yaml and in the README's deviations."""
    size, other = small.SIZES["cpu"], better.SIZES["cpu"]
    for claim in CLAIMS:
        if claim["rung"] == "cpu-small" and claim["protocol"]["evidence"] == "trainings":
            of_pair = claim["id"].partition("/")[2] in harness.REAL
            every = {size.seeds, other.distilled.seeds, real.SIZES["cpu"].seeds, reasoners.SIZES["cpu"].seeds}
            assert every == {tuple(claim["protocol"]["seeds"])}, claim["id"]
            text = claim["statement"] + claim["protocol"]["metric"]
            samples, short = (real.SIZES["cpu"].samples, real.SHORT) if of_pair else (size.samples, small.SHORT)
            assert {int(n) for n in re.findall(r"(?:Avg|Pass)@(\d+)", text)} <= {samples}, claim["id"]
            assert {int(n) for n in re.findall(r"(\d+)[ -]token", text)} <= {short}, claim["id"]
            assert {int(n) for n in re.findall(r"(\d+) updates", text)} <= set(better.SWITCHES), claim["id"]
    assert other.switches == better.SWITCHES == (20, other.distilled.updates)
    page = (harness.HERE / "README.md").read_text()
    assert f"{size.prompts} responses an update, AdamW 2e-3, {size.updates} updates (weak) or {other.distilled.updates} (strong)" in page
    assert f"ladder {', '.join(map(str, small.LADDER))}" in page and f"{small.GATE:g}".lstrip("0") + " of the start's entropy" in page
    assert f"{other.updates} updates of {other.prompts} problems x {other.rollouts} responses" in page
    meeting, how = reasoners.SIZES["cpu"], timing.SIZES["cpu"]
    assert f"{meeting.updates} updates of {meeting.prompts} problems x {meeting.rollouts} responses, AdamW 5e-4" in page
    assert f"{how.case.student} and {how.case.teacher} wide" in page and "three processes with" in page and how.processes == 3
    assert small.RATE == 2e-3 and better.RL_RATE == 5e-4 and size.updates % len(small.LADDER) == 0


def test_more_seeds_are_those_before_and_new_ones_that_wait_for_their_models(monkeypatch):
    three = {job.name: job for job in small.jobs()}
    monkeypatch.setitem(small.SIZES, "cpu", dataclasses.replace(small.SIZES["cpu"], seeds=tuple(range(5))))
    five = {job.name: job for job in small.jobs()}
    assert all(five[name] == job for name, job in three.items())
    assert {name for name in five if name.startswith("models/")} == {"models/seed3", "models/seed4"}
    for name, job in five.items():
        seed = name.rpartition("/seed")[2]
        assert job.after == ((f"models/seed{seed}",) if seed in ("3", "4") and not name.startswith("models/") else ()), name


# -- students ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", reasoner.SEEDS)
@pytest.mark.parametrize("strength", standins.STAGES)
def test_committed_students_are_small_whole_and_what_their_cards_say(strength, seed):
    folder = standins.FOLDER / strength / f"seed{seed}"
    card = json.loads((folder / "training.json").read_text())
    assert card["seed"] == seed and [tuple(s) for s in card["stages"]] == list(standins.STAGES[strength])
    assert card["decoder"] == standins.DECODER and (folder / "model.safetensors").stat().st_size < 70_000
    model, words, facts = standins.student(seed, strength)
    assert sum(p.numel() for p in model.parameters()) == 27744 == facts["parameters"] and len(words) == 30
    assert model.config.vocab_size == standins.teacher(seed)[0].config.vocab_size
    assert load(ModelSpec(str(folder))).source["weights_sha256"] == facts["weights_sha256"]


def test_a_seed_that_is_not_committed_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    trained, train = [], reasoner.train_reasoner

    def quickly(seed, folder, stages, decoder):
        trained.append((seed, decoder["hidden_size"], stages))
        monkeypatch.setattr(reasoner, "train", lambda seed, stages, decoder: (reasoner.build(seed, decoder), [1.0], 60.0))
        return train(seed, folder, stages, decoder)

    monkeypatch.setattr(reasoner, "train_reasoner", quickly)
    monkeypatch.setattr(reasoner, "report", lambda model: {"avg": 0.5, "tokens": 60.0})
    assert standins.made(3) == dict.fromkeys(("teacher", "weak", "strong"), {"avg": 0.5, "tokens": 60.0})
    weak_one, strong_one, teacher = standins.student(3, "weak")[0], standins.student(3, "strong")[0], standins.teacher(3)[0]
    assert trained == [(3, 64, reasoner.STAGES), (3, 32, standins.STAGES["weak"]), (3, 32, standins.STAGES["strong"])]
    assert teacher.config.hidden_size == 64 and torch.equal(weak_one.lm_head.weight, strong_one.lm_head.weight)


def test_a_missing_student_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(standins, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="weak/seed1 is missing: restore it or run `make standins-decouplingkl`"):
        standins.student(1, "weak")
