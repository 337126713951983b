"""The harness around the method: jobs in the small, verdicts from results that we choose, tables, pictures, the rungs' commands."""

import dataclasses
import importlib
import inspect
import json

import pytest
import torch

from common.claims.records import load_claims
from common.runs import experiment
from common.standins.llava import checkpoints, stand_in

from .. import analytic, baselines, method, pictures, quantities, scoring, tables
from .. import eval as harness
from ..experiments import llava, patches, ratios, scratch, speed
from .made_up import drawn_thrice, patched, results, scratched, timed

CLAIMS = load_claims(harness.HERE / "claims.yaml")


def test_arms_are_chosen_by_what_validation_pictures_said():
    found = results()
    arms = llava.arms(found, 0)
    assert (arms["top"], arms["greedy"]) == ([0, 1], [0, 3])
    assert len(arms["drawn"]) == 2 and arms["drawn"] == llava.arms(found, 0)["drawn"]
    assert baselines.uniform_layers(8, 2) == (0, 4)


def test_tables_and_pictures_show_every_arm(tmp_path):
    found = results(top=0.777)
    text = "\n".join((*tables.llava(found), *tables.scratch(scratched()), *tables.patches(patched())))
    for name in (*tables.ARMS.values(), "blind optimum", "and on 3 random tokens", "PyramidDrop 0.5"):
        assert name in text, name
    assert "77.8" in text and "{0, 4} look" in text and "mixed vica" in text
    (tmp_path / "measurements.scratch.json").write_text(json.dumps({"results": scratched()}))
    drawn = {path.name for path in pictures.llava(found, "cpu", tmp_path)}
    assert "from nothing" in (tmp_path / "trade_off.svg").read_text()
    assert drawn == {"who_sees_whom.svg", "trade_off.svg", "layers.svg", "pairs.svg"}
    assert "ViCA: a layer that looks" in (tmp_path / "who_sees_whom.svg").read_text()


# -- the jobs, in the small --------------------------------------------------------------------------------
def every_job(size="cpu"):
    return experiment.every_job(harness.EXPERIMENTS, size)


def test_every_job_names_a_function_with_these_arguments():
    for size in ("smoke", "cpu"):
        jobs = every_job(size)
        for job in jobs:
            module, name = job.function.split(":")
            inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)
        seeds = len(llava.SIZES[size].seeds)
        timings = {"smoke": 1, "cpu": speed.PROCESSES}[size] + ratios.SIZES[size].processes
        assert len({job.name for job in jobs}) == len(jobs) == 4 + 1 + (5 + 3 + 6 + 1 + 1 + 4) * seeds + 1 + timings + 5


def test_arms_follow_from_the_all_layer_model_of_their_seed_alone():
    """Each seed's as soon as its own is there; every job of the default run is named by then."""
    some = {name: of for name, of in results().items() if name in ("all layers/seed1", "dense/seed0")}
    assert [job.name for job in llava.then("cpu", some)] == [f"{arm}/seed1" for arm in llava.arms(some, 1)]
    assert "again/seed0" in {job.name for job in llava.then("cpu", results())}
    assert llava.then("cpu", {}) == []
    assert {job.name for job in llava.then("cpu", results())} == {job.name for job in llava.then("cpu", llava.EXAMPLE)}
    chosen = {job.name: job.arguments["layers"] for job in llava.then("cpu", results())}
    assert chosen["again/seed0"] == chosen["greedy/seed0"] == [0, 3] and chosen["top/seed2"] == [0, 1]


def test_an_arm_that_would_be_tuned_twice_is_tuned_once_and_counted_in_both_places():
    """Greedy elimination may end at the layers of the highest scores: here for seed 1."""
    found = results(top=0.8, greedy=0.9)
    found["all layers/seed1"]["greedy"]["kept"] = [0, 1]
    assert {"greedy/seed0", "top/seed1"} <= {job.name for job in llava.then("cpu", found)}
    assert "greedy/seed1" not in {job.name for job in llava.then("cpu", found)}
    del found["greedy/seed1"]
    arms = quantities.Small(found)
    assert arms.tuned("greedy")[1] == arms.tuned("top")[1] == 0.801 and arms.tuned("greedy")[0] == 0.9
    assert "greedy {0, 1}" in "\n".join(tables.llava(found))


def test_three_draws_and_shorter_trainings_are_judged_by_these_numbers():
    """By hand: 0.8 - (0.6 + 0.7 + 0.65) / 3 = 0.15, the placebo 0.6 - 0.65; (0.65 - 0.3) / (0.7 - 0.3), the placebo 0."""
    of = quantities.draws(drawn_thrice())["C9g"]
    assert of["value"] == pytest.approx(0.15) and of["placebo"]["value"] == pytest.approx(-0.05) and of["n_runs"] == 3
    of = quantities.scratch(scratched(short=0.65))["C1q"]
    # every seed adds a thousandth to both arms: (0.35 + s) / (0.4 + s), with s = 0, 0.001, 0.002
    assert of["value"] == pytest.approx(sum((0.35 + s) / (0.4 + s) for s in (0, 0.001, 0.002)) / 3)
    assert of["placebo"]["value"] == pytest.approx(sum(s / (0.4 + s) for s in (0, 0.001, 0.002)) / 3)
    assert "drawn 2 {2, 5} 65.0" in "\n".join(tables.draws(drawn_thrice()))


def test_what_is_counted_as_kept_is_above_blind_answers():
    """A model that answers as the blind do keeps nothing, and so neither C6a nor any other share is supported by one."""
    blind = quantities.llava(results(top=0.3, greedy=0.3, drawn=0.3, all_layers=0.3, ranked=0.3, random=0.3, ffn=0.3))
    for claim in ("C1s", "C1g", "C6a", "C8a", "C8b"):
        assert abs(blind[claim]["value"]) < 0.01, claim


def test_jobs_depend_on_what_they_compute_by_and_not_on_what_shows_it():
    jobs = {job.function.rpartition(".")[2]: {path.name for path in job.sources()} for job in every_job()}
    for names in jobs.values():
        assert {"method.py", "layout.py"} <= names
        assert not names & {"eval.py", "quantities.py", "tables.py", "pictures.py", "reported.py", "exact.py", "claims.yaml", "claims.py"}
    assert {"llava.py", "scoring.py", "module.py", "scenes.py", "model.safetensors"} <= jobs["llava:all_layers"]
    assert {"speed.py", "flops.py"} <= jobs["speed:one_process"] and "module.py" not in jobs["speed:one_process"]


def test_smoke_is_the_same_run_at_other_sizes():
    """The same arms, and nothing that one computes is taken for the other."""
    arms = {size: {job.name.partition("/seed")[0] for job in every_job(size)} for size in ("smoke", "cpu")}
    others = {f"speed/process{i}" for i in range(1, speed.PROCESSES)}  # a timing that means nothing needs no second process
    assert arms["smoke"] == arms["cpu"] - others and len(arms["cpu"]) == 4 + 1 + 5 + 4 + 1 + 2 * speed.PROCESSES + 6 + 1 + 4 + 5
    small, whole = every_job("smoke"), every_job("cpu")
    for job in small:
        (twin,) = [other for other in whole if other.name == job.name]
        assert (twin.function, twin.arguments.keys()) == (job.function, job.arguments.keys()) and twin.arguments != job.arguments
    assert not {small[0].key(), small[-1].key()} & {whole[0].key(), whole[-1].key()}
    kept = [next(job.arguments["weights"] for job in jobs if "weights" in job.arguments) for jobs in (small, whole)]
    assert "smoke" in kept[0] and kept[0] != kept[1]


def test_a_seed_beyond_the_committed_ones_trains_its_stand_in_first(monkeypatch):
    monkeypatch.setitem(llava.SIZES, "cpu", dataclasses.replace(llava.SIZES["cpu"], seeds=(0, 3)))
    jobs = {job.name: job for job in llava.jobs("cpu")}
    assert "stand-in/seed3" in jobs and "stand-in/seed0" not in jobs and "stand-in/seed3" in jobs["dense/seed3"].after


def test_the_default_run_has_the_sizes_that_are_written_down():
    """Seeds of claims.yaml, and what the README says of steps, rows, tokens and lengths."""
    small, nothing, raw, timings = (of.SIZES["cpu"] for of in (llava, scratch, patches, speed))
    text = (harness.HERE / "README.md").read_text()
    seeds = [claim["protocol"]["seeds"] for claim in CLAIMS if claim["rung"] == "cpu-small" and "seeds" in claim["protocol"]
             and "/C13" not in claim["id"]]
    assert len(seeds) == 19 and all(tuple(s) == small.seeds == nothing.seeds == raw.seeds for s in seeds)
    assert f"for {small.steps} steps of {small.rows} rows" in text
    assert f"{sum(nothing.stages):,} steps, layers {{0, 4}}" in text and scratch.LAYERS == (0, 4)
    assert f"that no layer of the tower has mixed, {raw.steps:,} steps)" in text
    assert (small.trained_on, small.test, small.validation, small.easy) == (1200, 250, 60, 120)
    assert (nothing.test, nothing.easy, raw.test, raw.trained_on, raw.rows) == (250, 120, 250, 1200, 24)
    assert (timings.case.prefix, timings.case.visual, timings.case.suffix, timings.repeats) == (35, 576, 27, 20)
    assert timings.shape == analytic.SMOLLM2_135M and len(timings.layers) == 8


SMALL = llava.Size(seeds=(0,), steps=2, rows=2, trained_on=6, test=6, validation=2, easy=0, job_seconds=1.0)


@pytest.fixture
def small(monkeypatch):
    """{name: value} -> the name of a size of a handful of pictures with these changes; none of easy-VQA's test split."""
    def size(**changes):
        monkeypatch.setitem(llava.SIZES, "small", dataclasses.replace(SMALL, **changes))
        return "small"

    monkeypatch.setattr(llava, "blind", lambda count, easy: {})
    return size


def test_jobs_train_answer_and_repeat_themselves(small, tmp_path):
    size = small()
    found = llava.all_layers(0, str(tmp_path / "w.safetensors"), size)
    assert len(found["leave-one-out"]) == 8 and len(found["pairs"]) == 28 and len(found["greedy"]["kept"]) == 2
    assert {"ranked", "random", "random again", "whole", "schedule"} == found["PyramidDrop 0.5"].keys()
    assert (tmp_path / "w.safetensors").stat().st_size > 1e6
    arm = llava.tune(0, "greedy", [0, 4], size)
    assert {"all", "open", "digit"} <= arm["test"].keys() and json.dumps(arm) == json.dumps(llava.tune(0, "greedy", [0, 4], size))


def test_the_same_arm_again_starts_a_rounding_away(small):
    first, again = stand_in(0), stand_in(0)
    llava.nudged(again, 0)
    for a, b in zip(first.decoder.parameters(), again.decoder.parameters()):
        above, below = (torch.nextafter(a, torch.full_like(a, sign * torch.inf)) for sign in (1, -1))
        moved = torch.stack([b == to for to in (below, a, above)]).flatten(1).sum(1)
        assert moved.sum() == a.numel(), "to a neighbour, or not at all"
        assert a.numel() < 1000 or bool((moved > a.numel() / 4).all())
    losses = [llava.tune(0, arm, [0, 4], small())["loss"] for arm in ("greedy", "again")]
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 1e-3


def test_few_tokens_are_means_of_stretches_in_training_and_test(small, monkeypatch):
    features = torch.arange(8.0).reshape(1, 8, 1)
    assert llava.pooled(features, 3).flatten().tolist() == [1.0, 4.0, 6.5] and llava.pooled(features, None) is features
    shown, real = [], scoring.dense
    monkeypatch.setattr(llava, "dense", lambda of: lambda layout, visual: (shown.append(visual.shape[1]), real(of)(layout, visual))[1])
    found = llava.tune(0, "few", None, small())
    assert found["tokens"] == llava.equal_tokens(stand_in(0)) == 3 and set(shown) == {3}


@pytest.mark.numerics
def test_a_dense_model_with_all_its_tokens_is_the_dense_model(small, monkeypatch):
    """Ranking and cutting alone changes no answer; and frozen tokens change some."""
    monkeypatch.setattr(llava, "equal_tokens", lambda of: 64)
    found, model = llava.untuned(0, small()), stand_in(0)
    whole = scoring.tested(model, scoring.dense(model), SMALL.test, 0, alone=True)
    assert found["attention"] == found["random"] == whole == found["whole"] and set(found["frozen"]) == {"ffn", "all"}
    assert len(found["validation"]) == 8 and found["ranks"] in range(8)


@pytest.mark.numerics
def test_the_committed_small_llava_answers_and_is_blind_without_picture():
    model = stand_in(0)
    assert scoring.tested(model, scoring.dense(model), 24, 0)["all"] > 0.95
    assert scoring.tested(model, scoring.vica(model, ()), 24, 0)["all"] < 0.5


def test_checkpoints_of_one_training_are_not_taken_up_by_another():
    """Names, arguments and the files that define a training all count."""
    base = (0, "dense", 400, 3200, 2e-3)
    others = [checkpoints(*base), checkpoints(0, "vica-0-4", *base[2:]), checkpoints(1, *base[1:]), checkpoints(*base[:3], 3201, 2e-3),
              checkpoints(*base, (method.__file__,))]
    assert len(set(others)) == len(others) and "dense-seed0" in others[0].name


# -- commands ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rung", ["gpu", "paper"])
def test_what_the_machine_cannot_run_is_answered_in_a_line(rung, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert experiment.main(harness.HERE, harness.EXPERIMENTS, ["--rung", rung]) == 2
    error = capsys.readouterr().err
    assert "GPU" in error and len(error.strip().splitlines()) == 1


def test_the_analytic_rung_ends_with_the_table_and_one_json_line(capsys, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    (tmp_path / "results").mkdir()
    assert experiment.main(tmp_path, harness.EXPERIMENTS, ["--rung", "analytic"]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["paper"] == "vica" and last["rung"] == "analytic" and isinstance(last["dirty"], bool)
    counts = [last["counts"][word] for word in ("adds-up", "does-not-add-up", "opposes")]  # whatever the tree's state
    assert counts == [8, 1, 2]


def test_timings_have_a_table_and_a_picture():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    assert "dense / vica in other processes: 7.00, 7.00" in "\n".join(tables.speed(timed()))
    assert pictures.time(plt, timed()).axes and analytic.bound(analytic.LLAVA_7B, 8) > 7
