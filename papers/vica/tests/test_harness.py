"""The harness around the method: jobs in the small, verdicts from results that we choose, tables, pictures, the rungs' commands."""

import dataclasses
import importlib
import inspect
import itertools
import json

import pytest
import torch

from common import reproduce
from common.data.scenes import KINDS
from common.records import load_claims, make_record, start_run
from common.standins import checkpoints

from .. import analytic, baselines, experiment, method, pictures, sizes, speed, tables, verdicts
from .. import eval as harness

SEEDS = sizes.SIZES["cpu"].seeds
CLAIMS = load_claims(harness.HERE / "claims.yaml")
PARTS = {"scratch": harness.measure_scratch, "patches": harness.measure_patches}
EVERY = {"all", "open", "yes/no", *KINDS}


def test_every_claim_is_measured_blocked_or_not_checkable():
    exact, facts = verdicts.analytic_claims(), start_run("test") | {"seconds": 0.0}
    small = {*verdicts.small_claims(results(), SEEDS), *verdicts.scratch_claims(scratched(), SEEDS),
             *verdicts.patch_claims(patched(), SEEDS), "C3a", "C3b"}
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
    exact = verdicts.analytic_claims()
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
            layers = None if arm == "dense" else harness.arms(found, seed).get(arm, [])
            found[f"{arm}/seed{seed}"] = {"arm": arm, "layers": layers, "loss": 0.1,
                                          "test": score(accuracy.get(arm, 0.3 if arm == "text" else 0.9), seed)}
        found[f"dense/seed{seed}"]["frozen"] = frozen_by(frozen)
        for keep in sizes.KEEPS:
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
    assert word(claim, verdicts.small_claims(results(**changes), SEEDS)) == expected


def test_verdicts_of_the_two_longer_runs():
    assert word("C1r", verdicts.scratch_claims(scratched(), SEEDS)) == "supports"
    assert word("C1r", verdicts.scratch_claims(scratched(0.7), SEEDS)) == "contradicts"
    assert word("C8c", verdicts.patch_claims(patched(), SEEDS)) == "supports"
    assert word("C8c", verdicts.patch_claims(patched(vica=0.9), SEEDS)) != "supports"


def test_arms_are_chosen_by_what_validation_pictures_said():
    found = results()
    arms = harness.arms(found, 0)
    assert (arms["top"], arms["bottom"], arms["last"], arms["greedy"]) == ([0, 1], [6, 7], [6, 7], [0, 3])
    assert arms["wide"] == [0, 1, 2, 3] and len(arms["drawn"]) == 2 and arms["drawn"] == harness.arms(found, 0)["drawn"]
    assert baselines.uniform_layers(8, 2) == (0, 4)


def test_tables_and_pictures_show_every_arm(tmp_path):
    found = results(top=0.777)
    text = "\n".join((*tables.cpu_tables(found, SEEDS), *tables.scratch_table(scratched(), SEEDS), *tables.patch_table(patched(), SEEDS)))
    for name in (*tables.ARMS.values(), "blind optimum", "dense, 3 random tokens", "ViCA, greedy 4, PyramidDrop 0.5"):
        assert name in text, name
    assert "77.8" in text and "{0, 4} look" in text
    (tmp_path / "measurements.scratch.json").write_text(json.dumps({"results": scratched()}))
    drawn = {path.name for path in pictures.draw(found, tmp_path, SEEDS)}
    assert "from nothing" in (tmp_path / "trade_off.svg").read_text()
    assert drawn == {"who_sees_whom.svg", "trade_off.svg", "layers.svg", "pairs.svg"}
    assert "ViCA: a layer that looks" in (tmp_path / "who_sees_whom.svg").read_text()


# -- the jobs, in the small --------------------------------------------------------------------------------
def test_every_job_names_a_function_with_these_arguments():
    for size in sizes.SIZES:
        jobs = harness.every_job(size)
        for job in jobs:
            module, name = job.function.split(":")
            inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)
        seeds = len(sizes.SIZES[size].seeds)
        assert len({job.name for job in jobs}) == len(jobs) == 3 + (4 + 6 + 1 + 2) * seeds + 1


def test_jobs_depend_on_what_they_compute_by_and_not_on_what_shows_it():
    jobs = {job.function: job for job in harness.every_job()}
    found = {name: {path.name for path in jobs[f"papers.vica.{name}"].sources()} for name in ("experiment:one", "speed:measure_cpu")}
    for names in found.values():
        assert {"method.py", "multimodal.py"} <= names
        assert not names & {"eval.py", "verdicts.py", "tables.py", "pictures.py", "reported.py", "checks.py", "claims.yaml", "report.py"}
    assert {"experiment.py", "sizes.py", "module.py", "scenes.py", "model.safetensors"} <= found["experiment:one"]
    assert {"speed.py", "flops.py"} <= found["speed:measure_cpu"]


def test_smoke_is_the_same_run_at_other_sizes():
    """The same arms, and nothing that one computes is taken for the other."""
    arms = {size: {job.name.partition("/seed")[0] for job in harness.every_job(size)} for size in sizes.SIZES}
    assert arms["smoke"] == arms["cpu"] and len(arms["cpu"]) == 3 + 4 + 6 + 1 + 1 + 2
    small, whole = harness.every_job("smoke"), harness.every_job("cpu")
    for job in small:
        (twin,) = [other for other in whole if other.name == job.name]
        assert (twin.function, twin.arguments.keys()) == (job.function, job.arguments.keys()) and twin.arguments != job.arguments
    assert not {small[0].key(), small[-1].key()} & {whole[0].key(), whole[-1].key()}
    assert "smoke" in small[3].arguments["weights"] and small[3].arguments["weights"] != whole[3].arguments["weights"]


def test_the_default_run_has_the_sizes_that_are_written_down():
    """Seeds of claims.yaml, and what the README says of steps, rows, tokens and lengths."""
    of, timed, text = sizes.SIZES["cpu"], speed.SIZES["cpu"], (harness.HERE / "README.md").read_text()
    seeds = [claim["protocol"]["seeds"] for claim in CLAIMS if claim["rung"] == "cpu-small" and "seeds" in claim["protocol"]]
    assert len(seeds) == 17 and all(tuple(s) == of.seeds for s in seeds)
    assert f"for {of.steps} steps of {of.rows} rows" in text and f"{sum(of.scratch_stages):,} steps, layers {{0, 4}}" in text
    assert f"that no layer of the tower has mixed, {of.patch_steps:,} steps)" in text
    assert (of.trained_on, of.test, of.validation, of.easy, of.counts, of.patch_rows) == (1200, 250, 100, 120, (8, 16, 32), 24)
    assert (timed.case.prefix, timed.case.visual, timed.case.suffix, timed.repeats) == (35, 576, 27, 20)
    assert timed.shape == analytic.SMOLLM2_135M and len(timed.layers) == 8


SMALL = sizes.Size(seeds=(0,), steps=2, rows=2, trained_on=6, test=6, validation=2, easy=0, counts=(8,), patch_steps=1, patch_rows=2,
                   scratch_stages=(1, 1), job_seconds=1.0)


@pytest.fixture
def small(monkeypatch):
    """{name: value} -> the name of a size of a handful of pictures with these changes; none of easy-VQA's test split."""
    def size(**changes):
        monkeypatch.setitem(sizes.SIZES, "small", dataclasses.replace(SMALL, **changes))
        return "small"

    monkeypatch.setattr(experiment, "blind", lambda of: {})
    monkeypatch.setattr(experiment, "KEEPS", (0.5,))
    return size


def test_jobs_train_answer_and_repeat_themselves(small, tmp_path):
    size = small()
    found = experiment.one(0, str(tmp_path / "w.safetensors"), size)
    assert len(found["leave-one-out"]) == 8 and len(found["pairs"]) == 28 and len(found["greedy"]["kept"]) == 2
    assert set(found["frozen"]) == {"ffn", "attention", "all"} and (tmp_path / "w.safetensors").stat().st_size > 1e6
    arm = experiment.two(0, "wide", [0, 2, 4, 6], size, drop=True)
    assert {"all", "open", "digit"} <= arm["test"].keys() and {"ranked", "random", "schedule"} == arm["PyramidDrop 0.5"].keys()
    assert json.dumps(arm) == json.dumps(experiment.two(0, "wide", [0, 2, 4, 6], size, drop=True))
    assert set(experiment.two(0, "dense", None, small(steps=1))["frozen"]) == {"ffn", "attention", "all"}


@pytest.mark.numerics
def test_a_dense_model_with_all_its_tokens_is_the_dense_model(small):
    """Ranking and cutting alone changes no answer."""
    size = small(counts=(64,))
    found, parts = experiment.pruned(0, size), experiment.stand_in(0)
    whole = experiment.tested(parts, experiment.dense(parts), sizes.SIZES[size], alone=True)
    assert found["64"]["attention"] == found["64"]["random"] == whole
    assert found["equivalent tokens"] == experiment.equal_tokens(parts) < 8


@pytest.mark.numerics
def test_the_committed_small_llava_answers_and_is_blind_without_picture():
    of, parts = dataclasses.replace(SMALL, test=24), experiment.stand_in(0)
    assert experiment.tested(parts, experiment.dense(parts), of)["all"] > 0.95
    assert experiment.tested(parts, experiment.vica(parts, ()), of)["all"] < 0.5


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
    assert reproduce.main(harness.HERE, harness.measure, ["--rung", rung], parts=PARTS) == 2
    error = capsys.readouterr().err
    assert "GPU" in error and len(error.strip().splitlines()) == 1


def test_the_analytic_rung_ends_with_the_table_and_one_json_line(capsys, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    (tmp_path / "results").mkdir()
    assert reproduce.main(tmp_path, harness.measure, ["--rung", "analytic"]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["paper"] == "vica" and last["rung"] == "analytic" and isinstance(last["dirty"], bool)
    assert last["counts"]["matches"] == 10 and last["counts"]["contradicts"] == 3  # whatever the tree's state


def test_timings_give_verdicts_a_table_and_a_picture(tmp_path):
    """At a tiny model's dimensions: what a timing says there is nobody's business, that it says it is."""
    ratio = {"ratios": [7.0, 7.1, 6.9], "median": 7.0, "iqr": 0.1, "bound": 10.14}
    case = {"rounds": 3, "load_average": 0.1, "text": 62, "ratios": {"dense / vica": ratio, "masked / vica": ratio | {"bound": 1.0}}}
    measured, timings = verdicts.speed_claims({"cases": {"one": case}})
    assert measured["C3a"]["value"] == pytest.approx(7.0 - 0.6 * 10.14) and timings["C3a"]["rounds"] == 3
    assert word("C3a", measured) == "supports" == word("C3b", measured)
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    assert pictures.time(plt, {"speed": {"cases": {"one": case}}}).axes
    assert speed.bound and analytic.bound(analytic.LLAVA_7B, 8) > 7
