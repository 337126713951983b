"""The harness of the CPU run: the tuning loop, held budgets, the guard, and from results to verdicts."""

import importlib
import inspect
import json
import re
from dataclasses import replace

import pytest
import torch

from common.claims.intervals import MIN_ITEMS, MIN_RUNS, interval
from common.claims.records import load_claims, make_record, start_run
from common.data.prose import docstrings, document_windows, topics
from common.runs import reproduce
from common.runs.experiment import every_job, main
from common.runs.jobs import work_folder
from common.runs.sources import closure
from tests.numerics import close

from .. import crossing, gathering, pictures, quantities, standins, tables
from .. import eval as harness
from ..difficulty import base_folder, base_model, sequences
from ..experiments import rates, ratios, scratch, smollm2, speed
from ..experiments.smollm2 import BudgetMissed, check_budget
from ..method import SkipGPTConfig, apply_skipgpt
from ..tuning import BudgetNotHeld, evaluate, hold_budget, shift_budget, tune
from .invariants import REL

CLAIMS = load_claims(harness.HERE / "claims.yaml")


def small(seed=0, **config):
    model = standins.new_base(seed).to(torch.get_default_dtype())
    torch.manual_seed(seed)
    return model, apply_skipgpt(model, SkipGPTConfig(**config))


def rows(count, seed=0):
    return torch.randint(0, 37, (count, 16), generator=torch.Generator().manual_seed(seed))


def flat(state):
    return torch.cat([p.detach().flatten() for p in state.parameters()])


def run(model, state, start=0, stop=6, optimiser=None):
    optimiser = optimiser or torch.optim.AdamW(state.parameters(), lr=1e-2)
    list(zip(range(stop - start), tune(model, lambda s: rows(4, s), optimiser, 6, start=start, state=state, seed=3)))
    return optimiser


@pytest.mark.numerics
@pytest.mark.usefixtures("float64")
def test_tuning_taken_up_in_the_middle_gives_the_same_routers():
    whole, state = small()
    run(whole, state)
    first, before = small()
    optimiser = run(first, before, stop=3)
    second, after = small(seed=1)
    for a, b in zip(after.routers().values(), before.routers().values()):
        a.load_state_dict(b.state_dict())
    for (_, a), (_, b) in zip(second.named_parameters(), first.named_parameters()):
        a.data.copy_(b.data)
    fresh = torch.optim.AdamW(after.parameters(), lr=1e-2)
    fresh.load_state_dict(optimiser.state_dict())
    run(second, after, start=3, optimiser=fresh)
    close(flat(after), flat(state), REL)


def test_tuning_moves_the_routers_and_nothing_else():
    model, state = small()
    before = {name: p.clone() for name, p in model.named_parameters()}
    run(model, state)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("router" in name for name in moved)


@pytest.mark.numerics
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("wanted", [0.25, 0.6])
def test_a_held_budget_is_realised_and_can_be_taken_back(wanted):
    model, state = small()
    for parameter in state.parameters():
        parameter.requires_grad_(False)
    ids, before = rows(32), flat(state)
    shift = hold_budget(model, state, ids, wanted, tolerance=0.01)
    state.start_recording()
    evaluate(model, ids)
    assert abs(state.stats().sparsity - wanted) <= 0.02
    shift_budget(state, -shift)
    close(flat(state), before, REL)


@pytest.mark.numerics
@pytest.mark.usefixtures("float64")
def test_a_budget_that_no_threshold_gives_is_refused():
    model, state = small()
    before = flat(state)
    state.policy = lambda layer, name, x, valid: valid.float()  # the routers are not asked
    with pytest.raises(BudgetNotHeld, match="no threshold skips 0.250 of the modules; the nearest is off by 0.250"):
        hold_budget(model, state, rows(4), 0.25)
    close(flat(state), before, REL)


def test_pitfall_15_a_score_off_its_budget_is_refused():
    check_budget(0.2599, 0.25, "routers")
    with pytest.raises(BudgetMissed, match="realised module sparsity 0.280, requested 0.250"):
        check_budget(0.28, 0.25, "routers")


def test_every_analytic_claim_gets_the_verdict_that_its_figures_give():
    measured, facts = quantities.exact({}), start_run("test") | {"seconds": 0.0}
    analytic = [claim for claim in CLAIMS if claim["rung"] == "analytic"]
    assert {claim["id"].partition("/")[2] for claim in analytic} == set(measured)
    words = {}
    for claim in analytic:
        name = claim["id"].partition("/")[2]
        words[name] = make_record(claim, CLAIMS.sha256, measured[name], facts, seeds=[])["verdict"]["word"]
    assert words.pop("C10") == "does-not-add-up"  # 10,000 x 16 samples need 111 % of the card's four-hour peak
    assert words.pop("C15c") == "supports"  # 1.44 reported, 1.81 possible
    assert set(words.values()) == {"adds-up"}


@pytest.mark.parametrize("argv, reason", [(["--rung", "gpu"], "CUDA"), (["--rung", "paper"], "GPU"), (["--only", "real"], "NINEFOLD_DATA")])
def test_what_the_machine_cannot_run_is_answered_in_a_line(argv, reason, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("NINEFOLD_DATA", raising=False)
    assert main(harness.HERE, harness.EXPERIMENTS, argv) == 2
    error = capsys.readouterr().err
    assert reason in error and len(error.strip().splitlines()) == 1


def test_the_analytic_rung_ends_with_the_table_and_one_json_line(capsys, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "claims.yaml").write_bytes((harness.HERE / "claims.yaml").read_bytes())
    (tmp_path / "eval.py").write_bytes((harness.HERE / "eval.py").read_bytes())
    assert main(tmp_path, harness.EXPERIMENTS, ["--rung", "analytic"]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["paper"] == "skipgpt" and last["counts"]["adds-up"] == 6
    assert last["counts"]["does-not-add-up"] == 1 and last["counts"]["supports"] == 1
    assert len(list((tmp_path / "results" / ".scratch").glob("C*.json"))) == 8 + sum(
        claim["rung"] == "paper-scale" for claim in CLAIMS)


def test_a_retain_has_the_error_of_its_scores():
    """By hand: ratios 0.9 and 1.0; errors 0.01/0.5 and 0.45 * 0.02/0.25 of the first, none of the second."""
    scores = {"dense": {"a": 0.5, "b": 0.4}, "routers at 0.25": {"a": 0.45, "b": 0.4}}
    errors = {"dense": {"a": [0.02, 900], "b": [0.0, 100]}, "routers at 0.25": {"a": [0.01, 900], "b": [0.0, 100]}}
    measured = quantities.paper({"paper": {"8B": scores | {"errors": errors}}})["C3"]
    close(torch.tensor([measured["value"], measured["stderr"]]), torch.tensor([95.0, 50 * (0.02**2 + 0.036**2) ** 0.5]), 1e-6)
    assert measured["n_items"] == 1000 and measured["ci95"][0] < 95 < measured["ci95"][1]
    words = {}
    for value in (93.0, 95.2, 97.0):
        sure = measured | {"value": value, "stderr": 0.4}
        sure["ci95"] = list(interval({key: sure[key] for key in sure if key != "ci95"}))
        run = start_run("test") | {"seconds": 0.0}
        words[value] = make_record(CLAIMS.find("C3"), CLAIMS.sha256, sure, run, seeds=[])["verdict"]["word"]
    assert list(words.values()) == ["contradicts", "inconclusive", "matches"]


def test_every_method_has_the_best_rate_of_its_sweep_on_sequences_that_nothing_else_sees():
    """By hand: the rate of least cross-entropy. Splits are disjoint, and every method of the sweep is one that runs."""
    listed = {job.name: {"ce": 1 + abs(job.arguments["rate"] - 1e-2), "sparsity": 0.4} for job in rates.jobs("smoke")}
    assert rates.best(listed) == dict.fromkeys(rates.GRIDS, 1e-2) and rates.GRIDS.keys() == scratch.RATES.keys()
    assert all(scratch.RATES[method] in grid for method, grid in rates.GRIDS.items())
    splits = [{tuple(row) for row in sequences(split, 0, 32)[0].tolist()} for split in ("tune", "calibration", "test", "validation")]
    assert len(set.union(*splits)) == sum(map(len, splits))
    for method in rates.GRIDS:
        scored = rates.validated(method, 1e-2, 0, "smoke")
        assert 0 < scored["ce"] < 6 and 0 <= scored["sparsity"] <= 1


def test_tables_and_pictures_come_from_the_committed_measurements():
    results = committed_measurements("cpu-small") | committed_measurements("real-data")
    text = "\n".join([*tables.scratch(results), *tables.smollm2(results), *tables.real(results)])
    for line in ("routers, T = 0.40 [trained]", "MoD-D, T = 0.40 [trained]", "greedy drop, 15 of 60 modules"):
        assert line in text
    assert text.count("+-") == 7 * 4  # seven methods on four real tasks
    figure = pictures.router_map(pictures_library(), results)
    assert len(figure.axes) == 2 and len(figure.axes[0].patches) == 60
    figure = pictures.learning_curves(pictures_library(), results)
    assert len(figure.axes[0].lines) == 2 * 2 + 3  # two targets, in training and in validation; the run that was stopped often


def committed_measurements(name):
    return json.loads((harness.HERE / "results" / f"measurements.{name}.json").read_text())["results"]


def pictures_library():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def test_publishing_from_a_changed_tree_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "start_run", lambda command: {"dirty": True})
    assert main(harness.HERE, harness.EXPERIMENTS, ["--rung", "analytic", "--publish"]) == 2
    assert "commit first" in capsys.readouterr().err


# -- the run at tiny sizes -------------------------------------------------------------------------
@pytest.fixture
def jobs(monkeypatch):
    """jobs(size): those of every experiment that needs no data."""
    monkeypatch.delenv("NINEFOLD_DATA", raising=False)
    return lambda size: every_job([e for e in harness.EXPERIMENTS if e.walked], size)


def arms(jobs):
    """What each job does, but for its size and its seed: {(name, function, other arguments)}."""
    return {(re.sub(r"/seed\d+$", "", job.name), job.function, json.dumps(
        {key: value for key, value in job.arguments.items() if key not in ("size", "seed")}, sort_keys=True)) for job in jobs}


def test_the_smoke_run_walks_every_job_of_the_default_run(jobs):
    assert arms(jobs("smoke")) == arms(jobs("cpu")) and len(arms(jobs("cpu"))) == 10 + 6 + 3 + ratios.PROCESSES
    for size in ("smoke", "cpu"):
        listed = jobs(size)
        assert all(job.arguments["size"] == size for job in listed)
        assert len({job.name for job in listed}) == len(listed)
        assert {after for job in listed for after in job.after} <= {job.name for job in listed}


def test_no_smoke_result_is_taken_for_one_of_the_default_run(jobs):
    asked = {size: {(job.function, json.dumps(job.arguments, sort_keys=True)) for job in jobs(size)} for size in ("smoke", "cpu")}
    assert not asked["smoke"] & asked["cpu"]
    assert speed.jobs("smoke")[0].key() != speed.jobs("cpu")[0].key()
    assert work_folder("skipgpt", "smoke") != work_folder("skipgpt", "cpu")


def test_every_job_names_a_function_with_these_arguments(jobs):
    for job in jobs("cpu"):
        module, name = job.function.split(":")
        inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)


def test_what_only_shows_judges_or_trained_is_no_part_of_a_jobs_name(jobs):
    """Else another title of a picture would train everything again; nor does one model's result wait for another's weights."""
    for module in {job.function.partition(":")[0] for job in jobs("cpu")}:
        names = {path.name for path in closure(module) if path.parent == harness.HERE}
        assert not names & {"eval.py", "quantities.py", "tables.py", "pictures.py", "claims.yaml", "standins.py", "routers_smollm2.py",
                            "crossing.py", "gathering.py", "module.py", "data.py"}, module
    weights = {module: {path.relative_to(harness.HERE).parts[0] for path in closure(module.__name__) if path.suffix == ".safetensors"}
               for module in (scratch, smollm2, speed)}
    assert weights == {scratch: {"standins"}, smollm2: {"routers"}, speed: set()}


def test_real_benchmarks_are_jobs_where_the_data_is(jobs, tmp_path, monkeypatch):
    without = jobs("smoke")
    (tmp_path / "text").mkdir()
    for name in smollm2.REAL_FILES:
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    more = jobs("smoke")[len(without) :]
    assert [job.name for job in more] == ["real/dense", *(
        f"real/{method} at {target}" for target in ("0.25", "0.40") for method in ("routers", "matched random", "static"))]
    assert all({tmp_path / name for name in smollm2.REAL_FILES} <= set(job.sources()) for job in more)


def test_the_default_run_has_the_sizes_that_its_claims_name(jobs):
    small, pretrained = scratch.SIZES["cpu"], smollm2.SIZES["cpu"]
    named = {tuple(claim["protocol"]["seeds"]) for claim in CLAIMS
             if claim["rung"] == "cpu-small" and "from-scratch" in claim["paper"].get("setup", "")}
    assert named == {small.seeds}
    named = {tuple(map(int, numbers)) for claim in CLAIMS if "Gemma" not in (claim["paper"].get("setup") or "")  # test_gemma.py
             for numbers in re.findall(r"(\d+) windows of (\d+)", claim["paper"].get("setup") or "")}
    assert named == {(pretrained.test_windows, pretrained.length), (pretrained.long_windows, pretrained.long)}
    assert min(pretrained.test_windows, pretrained.long_windows) >= MIN_ITEMS and speed.PROCESSES >= MIN_RUNS
    assert {plan.prompt_lengths for size, plan in speed.PREFILL.items() if size == "cpu"} == {(128,)}
    assert "one prompt of 128 tokens" in CLAIMS.find("C15d")["paper"]["setup"]


def test_more_seeds_train_their_base_models_first(monkeypatch):
    monkeypatch.setitem(scratch.SIZES, "cpu", replace(scratch.SIZES["cpu"], seeds=(0, 3)))
    listed = {job.name: job for job in scratch.jobs()}
    assert listed["tier_a/joint/seed3"].after == ("tier_a/base/seed3",) and not listed["tier_a/joint/seed0"].after
    assert listed["tier_a/base/seed3"].arguments == {"seed": 3, "size": "cpu"} and "tier_a/base/seed0" not in listed


def test_a_base_of_more_seeds_is_kept_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    monkeypatch.setattr(standins, "STEPS", 2)
    with pytest.raises(FileNotFoundError, match="--seeds 3"):
        base_model(3)
    monkeypatch.setattr(standins.train_base, "__defaults__", (2, None))
    assert standins.base_of_run(3)["seed"] == 3
    assert base_folder(3).is_relative_to(tmp_path) and base_model(3).config.num_hidden_layers == 6


# -- the held-out text -----------------------------------------------------------------------------
def paragraphs(texts):
    return {bare for text in texts for part in re.split(r"\n\s*\n", text) if len(bare := "".join(part.split())) > 40}


def test_the_held_out_text_is_of_many_documents_and_nothing_of_it_was_trained_on_or_calibrated_with():
    """Of the installed packages a fifth, by the hash of the files' names: to read all of them takes half a minute."""
    corpora = topics(), docstrings(max_chars=800_000)
    seen = paragraphs(text for corpus in corpora for split in ("train", "validation") for text in corpus[split])
    held_out = smollm2.documents()
    assert not seen & paragraphs(held_out) and len(held_out) > 100


def test_every_window_is_of_another_document():
    texts = ["a " * 300, "b " * 5, "c " * 100]

    class Letters:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": [ord(letter) for letter in text.split()[0]] * len(text.split())}

    rows, numbers = document_windows(texts, Letters(), 50)
    assert rows.shape == (2, 50) and numbers == [0, 2] and rows[:, 0].tolist() == [ord("a"), ord("c")]
    assert document_windows(texts, Letters(), 50, each=2)[1] == [0, 0, 2, 2]


def test_the_page_shows_every_picture_and_no_other():
    assert reproduce.pictures_of(harness.HERE) == {f"{picture.__name__}.svg" for picture in (
        pictures.tier_a_methods, pictures.sparsity_sweep, pictures.router_map, pictures.position, pictures.learning_curves)}


# -- the committed models --------------------------------------------------------------------------
def test_a_base_is_trained_and_saved_as_those_that_are_committed(tmp_path):
    result = standins.train_base(0, steps=2, folder=tmp_path)
    committed = standins.BASES / "seed0"
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in committed.iterdir()}
    assert json.loads((tmp_path / "training.json").read_text()) == result
    assert result.keys() == json.loads((committed / "training.json").read_text()).keys() and result["test_ce"] > 3
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (standins.new_base(0), base_model(0))]
    assert shapes[0] == shapes[1]


def test_where_routers_cross_a_baseline_is_the_first_stop_from_which_they_stay_below():
    curve = [{"tokens": n, "held": held, "best": 3.0} for n, held in ((0, 4.0), (10, 2.9), (20, 3.1), (30, 2.8), (40, 2.7))]
    assert crossing.crossed(curve, lambda row: row["best"]) == 30
    assert crossing.crossed(curve[:3], lambda row: row["best"]) is None
    costs = crossing.committed_costs()  # of 30 layers, from the committed plan: the cheapest is the zero of the scale
    assert costs.shape == (30, 2) and costs.min() == 0


@pytest.mark.parametrize("command, option, value", [
    (crossing, "--target", "2"), (crossing, "--target", "nan"), (crossing, "--steps", "0"), (crossing, "--every", "0"),
    (gathering, "--sparsity", "7"), (gathering, "--sparsity", "nan"), (gathering, "--rounds", "1")])
def test_a_number_that_cannot_be_measured_is_said_before_any_model_is_loaded(command, option, value, monkeypatch, capsys):
    for name in ("prepare", "static_plans", "load"):
        if hasattr(command, name):
            monkeypatch.setattr(command, name, lambda *args, **kwargs: pytest.fail("work has begun"))
    monkeypatch.setattr("sys.argv", ["command", option, value])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 2 and option in capsys.readouterr().err
