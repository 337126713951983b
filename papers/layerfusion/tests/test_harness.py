"""The harness around the method: jobs and what they depend on, tables, pictures, the command."""

import importlib
import inspect
import json

from common.claims.records import load_claims
from common.runs import experiment

from .. import eval as harness
from .. import pictures, tables
from ..experiments import probes, speed, trained
from . import made_up

CLAIMS = load_claims(harness.HERE / "claims.yaml")


def test_every_job_names_a_function_with_these_arguments():
    for size in ("smoke", "cpu"):
        for job in experiment.every_job(harness.EXPERIMENTS, size):
            module, name = job.function.split(":")
            inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)


def test_jobs_depend_on_what_they_compute_by_and_not_on_what_shows_it():
    jobs = {job.function.rpartition(".")[2]: {path.name for path in job.sources()} for job in experiment.every_job(harness.EXPERIMENTS)}
    for names in jobs.values():
        assert not names & {"eval.py", "quantities.py", "tables.py", "reported.py", "claims.yaml", "module.py"}
    assert {"probing.py", "hard_scenes.py", "scenes.py", "tower.py"} <= jobs["probes:probed"]
    assert {"method.py", "tower.py"} <= jobs["stages:found"] and "internal.py" in jobs["speed:one_process"]
    assert {"model.safetensors", "llava.py", "hard_scenes.py"} <= jobs["llava:looked"]
    assert {"method.py", "internal.py", "mmfuser.py", "running.py", "data.py", "small.py", "known_words.py"} <= jobs["trained:trained"]
    assert {"adapter_model.safetensors", "llava.py", "scenes.py"} <= jobs["committed:looked"]


def test_the_default_run_has_the_seeds_that_are_written_down():
    s = probes.SIZES["cpu"]
    easy = list(range(probes.FIRST_SEED, probes.FIRST_SEED + s.easy))
    for claim in CLAIMS:
        name, seeds = claim["id"].partition("/")[2], claim["protocol"].get("seeds")
        if name in ("C1a", "C1b", "C1c", "C1d", "C1e", "C2p", "C2q"):
            assert seeds == easy == [10, 11, 12, 13, 14]
        elif name in ("C1h", "C1s", "C17a"):
            assert seeds == easy[: s.hard]
        elif name in (*harness.LONG, *harness.MORE, *harness.VARIANTS, *harness.SMOLLM2):
            assert tuple(seeds) == trained.SIZES["cpu"].seeds
    assert not {0, 1} & set(easy), "the specification's exploration must not count"
    of = speed.SIZES["cpu"]
    assert (of.visual, of.text, of.shape.L) == (576, 64, 30)


def test_tables_show_every_arm():
    results = made_up.trained(stuck=("late region",))
    text = "\n".join((
        *tables.exact({}), *tables.probes(made_up.probes()), *tables.stages(made_up.stages()), *tables.llava(made_up.llava()),
        *tables.speed(made_up.speed()), *tables.long(results), *tables.more(results), *tables.variants(results),
        *tables.smollm2(made_up.smollm2()), *tables.committed(made_up.committed()), *tables.own(made_up.own())))
    for name in (*probes.SETS, *probes.MEANS, *trained.LONG, *trained.MORE, *trained.VARIANTS, "their own internal concat",
                 "layer 9 from another picture", "no single layer knows all", "a single layer knows nearly all", "173,027,334",
                 "SmolLM2 with", "cross-attention", "layer 2 from another picture 70.0", "no picture", "     -    0 of 3",
                 "   500    3 of 3"):
        assert name in text, name


def test_the_precondition_says_what_is_established(tmp_path, capsys):
    recorded = tables.precondition([3.7, 1.7, 6.7], 0.3)
    assert recorded.endswith("is not established") and "4.0 points" in recorded
    assert tables.precondition([5.0, 5.1, 5.2], 0.3).endswith("no single layer knows all")
    assert tables.precondition([1.0, 1.1, 1.2], 0.3).endswith("sets cannot matter here")
    assert tables.precondition([9.0], 0.3).endswith("is not established"), "one draw has no interval"
    tables.looked_first(tmp_path)
    assert "No results of these probes are committed yet" in capsys.readouterr().out
    (tmp_path / "measurements.cpu-small.json").write_text(json.dumps({"results": made_up.probes()}))
    tables.looked_first(tmp_path)
    (long,) = (e for e in harness.EXPERIMENTS if e.name == "long")
    long.ready()
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("no single layer knows all") and "by probes (C17a)" in second


def test_pictures_are_drawn(tmp_path):
    drawn = (*pictures.probes(made_up.probes(), "cpu", tmp_path), *pictures.stages(made_up.stages(), "cpu", tmp_path))
    found = {path.name for path in drawn}
    assert found == {name for e in harness.EXPERIMENTS for name in e.draws} == {"layers.svg", "sets.svg", "similarity.svg"}


def test_the_analytic_rung_ends_with_the_table_and_one_json_line(capsys, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    (tmp_path / "results").mkdir()
    assert experiment.main(tmp_path, harness.EXPERIMENTS, ["--rung", "analytic"]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (last["paper"], last["rung"]) == ("layerfusion", "analytic")
    assert [last["counts"][word] for word in ("adds-up", "does-not-add-up", "opposes", "supports")] == [4, 1, 3, 5]
