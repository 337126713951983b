"""The experiment of five tasks: an arm is what it is called, scores are task by task, quantities by hand, words from both sides."""

import dataclasses
import importlib
import inspect
import json
from statistics import fmean

import pytest
import torch

from common.errors import SetupError
from common.models import load, tiny
from common.reasoning.five import TASKS
from common.runs.experiment import measure
from common.standins import five as stand_in
from tests.numerics import drawn
from tests.small_tokenizers import byte_words

from .. import eval as harness
from .. import module, pictures, quantities_five, tables
from ..experiments import five
from .made_up import CLAIMS, FIVE, swapped, verdict
from .made_up import five as results

NAMES = ("C1f", "C1g", "C4f", "C4g", "C4h", "C8f")
SEEDS = (3, 4, 5)
SMALL = five.Size(seeds=(3,), prompts=3, rollouts=2, updates=2, test=10, samples=2, cap=12, job_seconds=1)


# -- the jobs ----------------------------------------------------------------------------------------------
@pytest.fixture
def small(monkeypatch):
    """Tiny models of bytes in the adapter's place; every second response is called right, so that each arm has something to learn from."""
    pytest.importorskip("reasoning_gym")
    words = byte_words()
    options = dict(vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1, max_position_embeddings=1024)
    monkeypatch.setattr(five, "load_five_reasoner", lambda dtype: load(tiny(dtype=dtype, **options))._replace(
        tokenizer=words, source={"name": "x"}))
    monkeypatch.setitem(five.SIZES, "small", SMALL)
    monkeypatch.setattr(five, "LIMIT", 8)
    for _, changes, _ in five.ARMS.values():
        if "max_new_tokens" in changes:
            assert changes["max_new_tokens"] == five.CAP == 160
            monkeypatch.setitem(changes, "max_new_tokens", 14)
    grade = five.Five.grade
    monkeypatch.setattr(five.Five, "grade", lambda self, problems, rollouts: [
        found or i % 2 == 0 for i, found in enumerate(grade(self, problems, rollouts))])
    monkeypatch.setattr(module.method, "truncation_reward", lambda right, finished, length, limit, require_eos=True: float(right))


@pytest.mark.parametrize("arm", list(five.ARMS))
def test_an_arm_from_problems_to_scores(arm, small, monkeypatch):
    seen = []
    train = five.train
    monkeypatch.setattr(five, "train", lambda *given: seen.append(train(*given)) or seen[-1])
    before = {name: value.clone() for name, value in five.start("float32")[0].state_dict().items()}
    found = json.loads(json.dumps(five.run(3, arm, "small")))
    [(training, model, _, _)] = seen
    kind, changes, options = five.ARMS[arm]
    assert type(training).__name__ == kind and training.config.lr == 1e-5 and training.config.temperature == 1.0
    assert training.config.max_new_tokens == (14 if arm == "grpo, length" else 8) and training.cap == SMALL.cap
    assert (training.config.prompts_per_step, training.config.rollouts_per_prompt) == (3, 2) and training.sample_dtype == "bfloat16"
    assert (getattr(training, "beta", None), getattr(training, "reward", None)) == (options.get("beta"), {
        "grpo": "truncation", "grpo, length": "accuracy + length"}.get(arm))
    assert found["arm"] == arm
    assert {name: len(of) for name, of in found["history"].items()} == dict.fromkeys(("right", "length", "cut", "kept"), 2)
    assert training.done == 2 and any(not torch.equal(before[name].bfloat16(), value) for name, value in model.state_dict().items())
    test = found["test"]
    assert (test["problems"], test["samples"], test["cap"]) == (10, 2, 12) and set(test["by_kind"]) == set(TASKS) == set(test["said"])
    assert all(of["problems"] == 2 for of in test["by_kind"].values())


def test_kept_by_lot_is_as_many_and_not_the_right_ones(small, monkeypatch):
    kept = {}
    for arm in ("opsft", "by lot"):
        kind, chosen = getattr(module, five.ARMS[arm][0]), kept.setdefault(arm, [])
        monkeypatch.setattr(kind, "selected", lambda self, rollouts, rewards, of=kind.selected, into=chosen: into.append(
            (of(self, rollouts, rewards), rewards)) or into[-1][0])
        five.run(3, arm, "small")
    for arm, steps in kept.items():
        right = [all(rewards[i] for i in some) for some, rewards in steps]
        assert all(len(some) == sum(rewards) for some, rewards in steps) and all(right) == (arm == "opsft")


def test_the_base_is_scored_task_by_task(small):
    found = five.base(3, "small")
    test = json.loads(json.dumps(found["test"]))
    assert found["model"] == {"name": "x"} and fmean(of["avg"] for of in test["by_kind"].values()) == pytest.approx(test["avg"])
    for task, of in test["by_kind"].items():
        shares = [share for _, share in of["within"]]
        assert [tokens for tokens, _ in of["within"]] == list(five.BUDGETS) and shares == sorted(shares) and shares[-1] <= of["avg"]
        problems = [p for p in five.start("float32")[1].problems("test", 10) if p.kind == task]
        assert of["needed"] == pytest.approx(fmean(five.Five().use(byte_words()).needed(p) for p in problems))


def test_what_is_right_within_a_budget_is_right_over_and_short_enough():
    rows = [{"correct": [True, True], "lengths": [10, 20], "finished": [True, True]},
            {"correct": [False, True], "lengths": [5, 10], "finished": [True, False]}]
    assert [five.within(rows, tokens) for tokens in (9, 10, 19, 20)] == [0, 0.25, 0.25, 0.5]


def test_jobs_are_the_arms_of_every_seed():
    assert five.LIMIT == 56 and five.RATE == 1e-5
    jobs = {job.name: job for job in five.jobs()}
    assert set(jobs) == {f"five/{arm}/seed{seed}" for arm in ("base", *five.ARMS) for seed in SEEDS}
    for job in jobs.values():
        where, name = job.function.split(":")
        inspect.signature(getattr(importlib.import_module(where), name)).bind(**job.arguments)
    assert sum(job.seconds for job in five.jobs() if job.name.endswith("seed3")) < 50 * 60
    assert five.SIZES["cpu"].test <= 5 * 256 and five.SIZES["cpu"].test % 5 == five.SIZES["smoke"].test % 5 == 0


def test_a_run_without_the_adapter_ends_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_in, "FOLDER", tmp_path / "five-weights")
    asked = next(each for each in harness.EXPERIMENTS if each.name == "five")
    with pytest.raises(SetupError, match="five-weights/.*make standins-five"):
        measure("onpolicysft", [asked], "five", "cpu", lambda line: pytest.fail(line))
    monkeypatch.setattr(stand_in, "find_spec", lambda name: None if name == "reasoning_gym" else True)
    with pytest.raises(SetupError, match="reasoning_gym cannot be imported; `make setup`"):
        measure("onpolicysft", [asked], "five", "cpu", lambda line: pytest.fail(line))


# -- quantities, worked out by hand from results in which no two numbers are equal ---------------------------
def result(arm, seed, problems=96):
    by_kind = {}
    for task in TASKS:
        by_kind[task] = {"avg": drawn(arm, seed, task, "avg"), "tokens": drawn(arm, seed, task, "tokens", low=10.0, high=150.0),
                         "samples": 2, "needed": drawn(arm, seed, task, "needed"), "problems": problems,
                         "within": [[9, drawn(arm, seed, task, 9)], [150, drawn(arm, seed, task, 150)], [160, 1.0]]}
    return {"test": {"by_kind": by_kind}}


@pytest.fixture(scope="module")
def found():
    return {f"five/{arm}/seed{seed}": result(arm, seed) for arm in FIVE for seed in SEEDS}


def at(found, arm, seed, task, key):
    return found[f"five/{arm}/seed{seed}"]["test"]["by_kind"][task][key]


def mean(found, arm, seed, key):
    return sum(at(found, arm, seed, task, key) for task in TASKS) / 5


def check(measured, expected, placebo, resolution):
    assert measured["per_seed"] == pytest.approx([expected(seed) for seed in SEEDS], rel=1e-12), "the quantity"
    assert measured["placebo"]["per_seed"] == pytest.approx([placebo(seed) for seed in SEEDS], rel=1e-12), "its placebo"
    for each in (measured, measured["placebo"]):
        assert each.get("resolution") == (None if resolution is None else pytest.approx(resolution, rel=1e-12))


def margin(found, arm, seed, tasks):
    """Over tasks (None: their mean) and rivals."""
    of = [(lambda a, key, task=task: at(found, a, seed, task, key)) if task else (lambda a, key: mean(found, a, seed, key))
          for task in tasks]
    return min(max(100 * (get(arm, "avg") - get(rival, "avg")), 100 * (get(rival, "tokens") - get(arm, "tokens")) / get("base", "tokens"))
               for get in of for rival in FIVE if rival != arm)


def test_every_quantity_by_hand(found):
    measured = quantities_five.five(found)

    def saved(arm, over):
        length = {each: (lambda seed, each=each: mean(found, each, seed, "tokens")) for each in FIVE}
        return lambda seed: 100 * (length[over](seed) - length[arm](seed)) / length["base"](seed)

    def gained(arm, over):
        return lambda seed: 100 * (mean(found, arm, seed, "avg") - mean(found, over, seed, "avg"))

    def cut(seed):
        """The method takes more than 9 tokens and at most 150."""
        return fmean(100 * (at(found, "base", seed, task, "within")[1][1] - at(found, "base", seed, task, "avg")) for task in TASKS)

    item = 100 / (5 * 96 * 2)
    check(measured["C1f"], saved("opsft", "base"), saved("by lot", "base"), None)
    check(measured["C1g"], gained("opsft", "base"), cut, item)
    check(measured["C4f"], lambda seed: margin(found, "opsft", seed, [None]), lambda seed: margin(found, "by lot", seed, [None]), item)
    check(measured["C4g"], lambda seed: margin(found, "opsft", seed, TASKS), lambda seed: margin(found, "by lot", seed, TASKS), 5 * item)
    check(measured["C4h"], gained("opsft", "grpo, length"), gained("best of n", "grpo, length"), item)
    check(measured["C8f"], saved("opsft", "fixed data"), saved("by lot", "fixed data"), None)
    assert measured.keys() == set(NAMES)
    tokens = {arm: fmean(mean(found, arm, seed, "tokens") for seed in SEEDS) for arm in FIVE}
    right = {arm: fmean(100 * mean(found, arm, seed, "avg") for seed in SEEDS) for arm in FIVE}
    needed = fmean(mean(found, "base", seed, "needed") for seed in SEEDS)
    assert measured["C1f"]["baselines"] == measured["C8f"]["baselines"] == pytest.approx(tokens | {"needed": needed})
    assert all(measured[name]["baselines"] == pytest.approx(right) for name in ("C1g", "C4f", "C4h")) and "baselines" not in measured["C4g"]


def test_an_item_is_the_coarsest_of_seeds_and_tasks(found):
    coarse = found | {f"five/opsft/seed{seed}": result("opsft", seed, 48 if seed == 4 else 96) for seed in SEEDS}
    measured = quantities_five.five(coarse)
    assert measured["C4h"]["resolution"] == pytest.approx(100 / (5 * 48 * 2))
    assert measured["C4g"]["resolution"] == pytest.approx(100 / (48 * 2))


def test_facts_are_of_the_lowest_seed():
    models, datasets = quantities_five.facts(results())
    assert models == [{"name": "x"}] and datasets == [{"name": f"reasoning_gym {task}", "split": "test", "n": 96} for task in TASKS]


# -- words -------------------------------------------------------------------------------------------------
def word(name, found):
    return verdict(name, quantities_five.five(found))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_claim_says_supports_and_one_training_never_does(name):
    assert word(name, results())[0] == "supports"
    assert word(name, {job: of for job, of in results().items() if job.endswith("/seed3")})[0] == "inconclusive"


PLACES = {"C1f": "base", "C1g": "base", "C4f": "by lot", "C4g": "by lot", "C4h": "grpo, length", "C8f": "fixed data"}


@pytest.mark.parametrize("name", NAMES)
def test_arms_that_change_places_turn_the_word(name):
    assert word(name, swapped(results(), "opsft", PLACES[name], "five/"))[0] == "opposes"


@pytest.mark.parametrize("name, changes", [
    ("C1f", {"opsft": (0.7, 60.0)}), ("C1g", {"opsft": (0.56, 35.0)}), ("C4f", {"fixed data": (0.8, 20.0)}), ("C4g", {"grpo": (0.8, 20.0)}),
    ("C4h", {"grpo, length": (0.8, 42.0)}), ("C8f", {"fixed data": (0.62, 30.0)})])
def test_the_contrary_opposes(name, changes):
    assert word(name, results(changes))[0] == "opposes"


def test_one_task_is_enough_to_oppose_the_frontier_on_every_task_and_not_in_the_mean():
    one = results(by_task={("best of n", "leg_counting"): (0.8, 20.0)})
    assert word("C4g", one)[0] == "opposes" and word("C4f", one)[0] == "supports"


@pytest.mark.parametrize("name, changes", [
    ("C1f", {"by lot": (0.5, 30.0)}), ("C4f", {"by lot": (0.69, 30.0)}), ("C4g", {"by lot": (0.69, 30.0)}),
    ("C4h", {"best of n": (0.72, 40.0)}), ("C8f", {"by lot": (0.5, 30.0)})])
def test_a_placebo_that_passes_takes_the_word_away(name, changes):
    said = word(name, results(changes))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


def test_so_does_a_start_that_loses_nothing_when_it_is_cut():
    found = results()
    for seed in SEEDS:
        for of in found[f"five/base/seed{seed}"]["test"]["by_kind"].values():
            of["within"] = [[8, 0.0], [48, of["avg"] + 0.001 * seed], [160, of["avg"]]]
    said = word("C1g", found)
    assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


# -- what is shown -----------------------------------------------------------------------------------------
def test_claims_tables_and_pictures_are_of_the_experiment(tmp_path):
    asked = next(experiment for experiment in harness.EXPERIMENTS if experiment.name == "five")
    assert asked.asked and not asked.walked and asked.claims == NAMES and asked.ready is stand_in.ready
    for name in NAMES:
        assert tuple(CLAIMS.find(name)["protocol"]["seeds"]) == five.SIZES["cpu"].seeds == SEEDS
    text = "\n".join(tables.five(results()))
    assert all(f"{name}, 1 s a training" in text for name in tables.FIVE.values()) and text.count("  mean ") == len(FIVE)
    base = [line.split() for line in tables.five(results()) if line.startswith(("  chain_sum", "  mean"))][:2]
    assert base[0] == ["chain_sum", "60.4", "[60.2,", "60.6]", "75.0"], "equal values have no interval"
    assert base[1][1] == "62.4" and base[1][4] == "77.0"
    assert "opsft leg_counting" in text and "chain_sum 30.0" in text
    one = {job: of for job, of in results().items() if job.endswith("/seed3")}
    assert "[" not in "\n".join(tables.five(one)).replace("[95 % interval]", ""), "one training has none"
    [file] = pictures.five(results(), "cpu", tmp_path)
    drawn_text = file.read_text()
    assert file.name == "five.svg" and "mean of the five" in drawn_text and all(task.replace("_", " ") in drawn_text for task in TASKS)


def test_the_mean_is_a_bench_of_the_plane_and_missing_until_it_is_run():
    planes = pytest.importorskip(f"{__package__.rpartition('.')[0]}.planes", reason="planes stay behind when a paper is copied")
    from common.report.planes import Document, Source

    source = Source("make", "75 minutes", "measurements.five.json")
    bench = planes.five(Document(results(), source))
    assert [point.method for point in bench.points] == list(tables.FIVE.values()) and not bench.missing
    [ours] = [point for point in bench.points if point.method == "On-Policy SFT"]
    assert ours.y["value"] == pytest.approx(72.4) and ours.x["value"] == pytest.approx(37 + 0.04) and len(ours.y["ci95"]) == 2
    assert ours.y["resolution"] == pytest.approx(100 / 960)
    absent = planes.five(Document(None, source))
    assert not absent.points and len(absent.missing) == len(tables.FIVE)


def test_the_size_says_what_the_job_does():
    assert dataclasses.replace(five.SIZES["cpu"], seeds=()) == five.Size((), 10, 6, 20, 480, 2, 160, 1200)
