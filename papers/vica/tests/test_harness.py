"""The harness around the method: jobs in the small, verdicts from results that we choose, tables, pictures, the rungs' commands."""

import dataclasses
import importlib
import inspect
import itertools
import json

import pytest
import torch

from common.claims.records import load_claims, make_record, start_run
from common.data.scenes import KINDS
from common.runs import experiment
from common.standins.llava import checkpoints, stand_in

from .. import analytic, baselines, method, pictures, quantities, scoring, tables
from .. import eval as harness
from ..experiments import llava, patches, scratch, speed

SEEDS = llava.SIZES["cpu"].seeds
CLAIMS = load_claims(harness.HERE / "claims.yaml")
EVERY = {"all", "open", "yes/no", *KINDS}


def test_every_claim_is_measured_blocked_or_not_checkable():
    exact, facts = quantities.exact({}, "analytic"), start_run("test") | {"seconds": 0.0}
    small = {*quantities.llava(results()), *quantities.scratch(scratched()), *quantities.patches(patched()), "C3a", "C3b"}
    for claim in CLAIMS:
        name = claim["id"].partition("/")[2]
        if claim.get("status") == "not-checkable":
            continue
        if claim["rung"] == "analytic":
            record = make_record(claim, CLAIMS.sha256, exact[name], facts, seeds=[])
            assert record["verdict"]["word"] in ("matches", "contradicts"), (name, record["verdict"])
        elif claim["rung"] == "cpu-small":
            assert name in small, name
        else:
            assert claim.get("blocked_by"), name
    assert {*exact} | small <= {claim["id"].partition("/")[2] for claim in CLAIMS}


def test_what_does_not_follow_from_the_papers_own_arithmetic_contradicts():
    """At 62 text tokens FLOPs allow 7.58 times, with its tower the visual side costs 8.9 %, two rows have another average."""
    exact = quantities.exact({}, "analytic")
    assert {name for name in exact if word(name, exact, seeds=[]) == "contradicts"} == {"C2d", "C4a", "C7c"}
    assert exact["C4a"]["value"] == pytest.approx(7.58, abs=0.005) and exact["C2d"]["value"] == pytest.approx(8.9, abs=0.05)


# -- verdicts from results that we choose ------------------------------------------------------------------
def score(value, seed=0):
    return dict.fromkeys((*EVERY, "easy all", "easy open"), value + 0.001 * seed)


def results(worth=(0.9, 0.7, 0.1, 0.2, 0.05, 0.04, 0.01, 0.02), pairs=None, frozen=0.7, kept=0.9, lot=0.7, cut=0.5, **accuracy):
    """Results as the jobs give them. accuracy {arm: share right}, 0.9 unless said; by default pairs do as their scores promise."""
    found = {}
    for seed in SEEDS:
        single = {str(k): v for k, v in enumerate(worth)}
        names = ["-".join(map(str, p)) for p in itertools.combinations(range(8), 2)]
        by_pair = {p: score(pairs[p] if pairs else 0.3 + 0.3 * sum(single[k] for k in p.split("-"))) for p in names}
        greedy = {"kept": [0, 3], "steps": [[k, 0.1] for k in (6, 7, 5, 4, 2, 1)]}
        one = {"model": {}, "layers": 8, "dense": score(0.9, seed), "blind": score(0.3), "frozen": frozen_by(frozen), "loss": 0.1,
               "leave-one-out": single, "dense, leave-one-out": single, "greedy": greedy, "pairs": by_pair,
               "all layers": score(accuracy.get("all_layers", 0.9), seed)}
        found[f"all layers/seed{seed}"] = one
        for arm in ("dense", "text", "top", "bottom", "last", "drawn", "greedy", "wide"):
            layers = None if arm == "dense" else llava.arms(found, seed).get(arm, [])
            found[f"{arm}/seed{seed}"] = {"arm": arm, "layers": layers, "loss": 0.1,
                                          "test": score(accuracy.get(arm, 0.3 if arm == "text" else 0.9), seed)}
        found[f"dense/seed{seed}"]["frozen"] = frozen_by(frozen)
        for keep in llava.KEEPS:
            found[f"wide/seed{seed}"][f"PyramidDrop {keep}"] = {"schedule": {}, "ranked": only_scenes(kept), "random": only_scenes(lot)}
        found[f"pruned/seed{seed}"] = {"equivalent tokens": 3} | {
            str(c): {"attention": only_scenes(cut), "random": only_scenes(cut)} for c in (3, 8, 16, 32)}
    return found


def only_scenes(value):
    return dict.fromkeys(EVERY, value)


def frozen_by(value):
    return {what: score(value) for what in ("ffn", "attention", "all")}


def scratched(ours=0.9):
    return {f"scratch/seed{s}": {"layers": [0, 4], "dense": score(0.9), "test": score(ours, s)} for s in SEEDS}


def patched(dense=0.9, vica=0.6):
    both = {"dense": dense, "vica": vica}
    return {f"patches/{arm}/seed{s}": {"arm": arm, "test": score(both[arm], s)} for arm in both for s in SEEDS}


def word(name, measured, seeds=(0, 1, 2)):
    facts = start_run("test") | {"seconds": 0.0}
    return make_record(CLAIMS.find(name), CLAIMS.sha256, measured[name], facts, seeds=list(seeds))["verdict"]["word"]


@pytest.mark.parametrize("claim, changes, expected", [
    ("C1s", {}, "supports"),
    ("C1s", {"top": 0.8}, "contradicts"),
    ("C1t", {"top": 0.87}, "supports"),
    ("C1u", {"text": 0.31}, "supports"),
    ("C1u", {"text": 0.5}, "contradicts"),
    ("C1g", {"greedy": 0.7}, "contradicts"),
    ("C6a", {"kept": 0.88}, "supports"),
    ("C6a", {"kept": 0.7}, "contradicts"),
    ("C6b", {"kept": 0.8, "lot": 0.7}, "supports"),
    ("C6b", {"kept": 0.6, "lot": 0.7}, "contradicts"),
    ("C7a", {"cut": 0.5}, "supports"),
    ("C7b", {"cut": 0.95}, "contradicts"),
    ("C8a", {"all_layers": 0.7}, "contradicts"),
    ("C8b", {"frozen": 0.6}, "supports"),
    ("C8b", {"frozen": 0.89}, "contradicts"),
    ("C9a", {}, "supports"),
    ("C9c", {}, "supports"),
    ("C9d", {"bottom": 0.6}, "supports"),
    ("C9e", {"top": 0.7}, "supports"),
    ("C9e", {"greedy": 0.7}, "contradicts"),
])  # fmt: skip
def test_verdicts_follow_the_scores(claim, changes, expected):
    assert word(claim, quantities.llava(results(**changes))) == expected


def test_verdicts_of_the_two_longer_runs():
    assert word("C1r", quantities.scratch(scratched())) == "supports"
    assert word("C1r", quantities.scratch(scratched(0.7))) == "contradicts"
    assert word("C8c", quantities.patches(patched())) == "supports"
    assert word("C8c", quantities.patches(patched(vica=0.9))) != "supports"


def test_arms_are_chosen_by_what_validation_pictures_said():
    found = results()
    arms = llava.arms(found, 0)
    assert (arms["top"], arms["bottom"], arms["last"], arms["greedy"]) == ([0, 1], [6, 7], [6, 7], [0, 3])
    assert arms["wide"] == [0, 1, 2, 3] and len(arms["drawn"]) == 2 and arms["drawn"] == llava.arms(found, 0)["drawn"]
    assert baselines.uniform_layers(8, 2) == (0, 4)


def test_tables_and_pictures_show_every_arm(tmp_path):
    found = results(top=0.777)
    text = "\n".join((*tables.llava(found), *tables.scratch(scratched()), *tables.patches(patched())))
    for name in (*tables.ARMS.values(), "blind optimum", "dense, 3 random tokens", "ViCA, greedy 4, PyramidDrop 0.5"):
        assert name in text, name
    assert "77.8" in text and "{0, 4} look" in text
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
        assert len({job.name for job in jobs}) == len(jobs) == 3 + (4 + 6 + 1 + 2) * seeds + 1 + 2


def test_arms_follow_from_the_all_layer_model_of_their_seed_alone():
    """Each seed's as soon as its own is there; every job of the default run is named by then."""
    some = {name: of for name, of in results().items() if name in ("all layers/seed1", "dense/seed0")}
    assert [job.name for job in llava.then("cpu", some)] == [f"{arm}/seed1" for arm in llava.arms(some, 1)]
    assert llava.then("cpu", {}) == []
    assert {job.name for job in llava.then("cpu", results())} == {job.name for job in llava.then("cpu", llava.EXAMPLE)}
    chosen = {job.name: job.arguments["layers"] for job in llava.then("cpu", results())}
    assert chosen["wide/seed0"] == [0, 1, 2, 3] and chosen["top/seed2"] == [0, 1]


def test_jobs_depend_on_what_they_compute_by_and_not_on_what_shows_it():
    jobs = {job.function.rpartition(".")[2]: {path.name for path in job.sources()} for job in every_job()}
    for names in jobs.values():
        assert {"method.py", "layout.py"} <= names
        assert not names & {"eval.py", "quantities.py", "tables.py", "pictures.py", "reported.py", "exact.py", "claims.yaml", "claims.py"}
    assert {"llava.py", "scoring.py", "module.py", "scenes.py", "model.safetensors"} <= jobs["llava:all_layers"]
    assert {"speed.py", "flops.py"} <= jobs["speed:measure_cpu"] and "module.py" not in jobs["speed:measure_cpu"]


def test_smoke_is_the_same_run_at_other_sizes():
    """The same arms, and nothing that one computes is taken for the other."""
    arms = {size: {job.name.partition("/seed")[0] for job in every_job(size)} for size in ("smoke", "cpu")}
    assert arms["smoke"] == arms["cpu"] and len(arms["cpu"]) == 3 + 4 + 6 + 1 + 1 + 2 + 2
    small, whole = every_job("smoke"), every_job("cpu")
    for job in small:
        (twin,) = [other for other in whole if other.name == job.name]
        assert (twin.function, twin.arguments.keys()) == (job.function, job.arguments.keys()) and twin.arguments != job.arguments
    assert not {small[0].key(), small[-1].key()} & {whole[0].key(), whole[-1].key()}
    assert "smoke" in small[3].arguments["weights"] and small[3].arguments["weights"] != whole[3].arguments["weights"]


def test_the_default_run_has_the_sizes_that_are_written_down():
    """Seeds of claims.yaml, and what the README says of steps, rows, tokens and lengths."""
    small, nothing, raw, timed = (of.SIZES["cpu"] for of in (llava, scratch, patches, speed))
    text = (harness.HERE / "README.md").read_text()
    seeds = [claim["protocol"]["seeds"] for claim in CLAIMS if claim["rung"] == "cpu-small" and "seeds" in claim["protocol"]]
    assert len(seeds) == 17 and all(tuple(s) == small.seeds == nothing.seeds == raw.seeds for s in seeds)
    assert f"for {small.steps} steps of {small.rows} rows" in text
    assert f"{sum(nothing.stages):,} steps, layers {{0, 4}}" in text and scratch.LAYERS == (0, 4)
    assert f"that no layer of the tower has mixed, {raw.steps:,} steps)" in text
    assert (small.trained_on, small.test, small.validation, small.easy, small.counts) == (1200, 250, 100, 120, (8, 16, 32))
    assert (nothing.test, nothing.easy, raw.test, raw.trained_on, raw.rows) == (250, 120, 250, 1200, 24)
    assert (timed.case.prefix, timed.case.visual, timed.case.suffix, timed.repeats) == (35, 576, 27, 20)
    assert timed.shape == analytic.SMOLLM2_135M and len(timed.layers) == 8


SMALL = llava.Size(seeds=(0,), steps=2, rows=2, trained_on=6, test=6, validation=2, easy=0, counts=(8,), job_seconds=1.0)


@pytest.fixture
def small(monkeypatch):
    """{name: value} -> the name of a size of a handful of pictures with these changes; none of easy-VQA's test split."""
    def size(**changes):
        monkeypatch.setitem(llava.SIZES, "small", dataclasses.replace(SMALL, **changes))
        return "small"

    monkeypatch.setattr(llava, "blind", lambda count, easy: {})
    monkeypatch.setattr(llava, "KEEPS", (0.5,))
    return size


def test_jobs_train_answer_and_repeat_themselves(small, tmp_path):
    size = small()
    found = llava.all_layers(0, str(tmp_path / "w.safetensors"), size)
    assert len(found["leave-one-out"]) == 8 and len(found["pairs"]) == 28 and len(found["greedy"]["kept"]) == 2
    assert set(found["frozen"]) == {"ffn", "attention", "all"} and (tmp_path / "w.safetensors").stat().st_size > 1e6
    arm = llava.tune(0, "wide", [0, 2, 4, 6], size, drop=True)
    assert {"all", "open", "digit"} <= arm["test"].keys() and {"ranked", "random", "schedule"} == arm["PyramidDrop 0.5"].keys()
    assert json.dumps(arm) == json.dumps(llava.tune(0, "wide", [0, 2, 4, 6], size, drop=True))
    assert set(llava.tune(0, "dense", None, small(steps=1))["frozen"]) == {"ffn", "attention", "all"}


@pytest.mark.numerics
def test_a_dense_model_with_all_its_tokens_is_the_dense_model(small):
    """Ranking and cutting alone changes no answer."""
    size = small(counts=(64,))
    found, model = llava.pruned(0, size), stand_in(0)
    whole = scoring.tested(model, scoring.dense(model), SMALL.test, 0, alone=True)
    assert found["64"]["attention"] == found["64"]["random"] == whole
    assert found["equivalent tokens"] == llava.equal_tokens(model) < 8


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
    assert last["counts"]["matches"] == 10 and last["counts"]["contradicts"] == 3  # whatever the tree's state


def test_timings_give_verdicts_a_table_and_a_picture(tmp_path):
    """At a tiny model's dimensions: what a timing says there is nobody's business, that it says it is."""
    ratio = {"ratios": [7.0, 7.1, 6.9], "median": 7.0, "iqr": 0.1, "bound": 10.14}
    case = {"rounds": 3, "load_average": 0.1, "text": 62, "ratios": {"dense / vica": ratio, "masked / vica": ratio | {"bound": 1.0}}}
    measured = quantities.speed({"speed": {"cases": {"one": case}}})
    assert measured["C3a"]["value"] == pytest.approx(7.0 - 0.6 * 10.14) and measured["C3a"]["timing"]["rounds"] == 3
    measured = {name: {k: v for k, v in of.items() if k != "timing"} for name, of in measured.items()}
    assert word("C3a", measured) == "supports" == word("C3b", measured)
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    assert pictures.time(plt, {"speed": {"cases": {"one": case}}}).axes
    assert analytic.bound(analytic.LLAVA_7B, 8) > 7
