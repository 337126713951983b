"""The harness around the method: jobs and what they depend on, tables, pictures, the commands."""

import importlib
import inspect
import json

import pytest
from PIL import Image

from common.claims.records import load_claims
from common.runs import experiment

from .. import eval as harness
from .. import look, pictures, tables
from ..experiments import clock, llava, speed
from . import made_up
from .made_up import results, staged, timed

CLAIMS = load_claims(harness.HERE / "claims.yaml")
SMALL = "common/standins/llava-weights/seed0"


def every_job(size="cpu"):
    return experiment.every_job(harness.EXPERIMENTS, size)


def test_every_job_names_a_function_with_these_arguments():
    for size in ("smoke", "cpu"):
        jobs = every_job(size)
        for job in jobs:
            module, name = job.function.split(":")
            inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)
        timings = {"smoke": 1, "cpu": speed.PROCESSES}[size]
        clocks = len(clock.EXAMPLE)  # a model each; what they follow from is there already
        assert len({job.name for job in jobs}) == len(jobs) == 2 + 7 * len(llava.SIZES[size].seeds) + timings + clocks + 9 + 4 + 5


def test_jobs_depend_on_what_they_compute_by_and_not_on_what_shows_it():
    jobs = {job.function.rpartition(".")[2]: {path.name for path in job.sources()} for job in every_job()}
    for job, names in jobs.items():
        assert ({"stages.py"} if "guideline" in job else {"method.py", "session.py", "attention.py", "pruners.py"}) <= names
        assert not names & {"eval.py", "quantities.py", "tables.py", "reported.py", "claims.yaml", "module.py", "look.py"}
    for job in ("llava:knocked", "llava:looked", "llava:pruned"):
        assert {"llava.py", "scoring.py", "scenes.py", "model.safetensors", "baselines.py", "analysis.py"} <= jobs[job]
    assert "scenes.py" not in jobs["speed:one_process"] and "flops.py" in jobs["speed:one_process"]


def test_the_default_run_has_the_sizes_that_are_written_down():
    cpu = llava.SIZES["cpu"]
    text = (harness.HERE / "README.md").read_text()
    seeds = {claim["id"]: tuple(claim["protocol"]["seeds"]) for claim in CLAIMS if "seeds" in claim["protocol"]}
    other = {name for name in seeds if "/C24" in name or "/C28" in name}
    assert len(seeds) == 33 + 6 + 6 + 11 + 16 == 45 + len(other)
    assert all(of == ((0,) if name in other else cpu.seeds) for name, of in seeds.items())
    assert f"{cpu.test} test pictures" in text and f"{cpu.validation} validation pictures" in text and f"first {cpu.looked}" in text
    s = speed.SIZES["cpu"]
    assert (s.before, s.visual, s.behind, s.kept, s.shape.L) == (35, 576, 27, 10, 30)
    assert s.filter_layer + 1 == s.shape.L // 2 and s.exit_layer + 1 in (22, 23), "half of the depth, three quarters of it"


def test_tables_show_every_way_and_every_arm():
    asked = (*tables.guideline(staged()), *tables.qwen3(made_up.qwen3()), *tables.smollm2(made_up.smollm2()),
             *tables.equal(made_up.equal()),
             *tables.precision(made_up.precision()), *tables.oracle(made_up.oracle()), *tables.budget(made_up.budget()))
    text = "\n".join((*tables.llava(results()), *tables.exact({}), *tables.speed(timed()), *asked))
    for name in (*tables.WAYS.values(), *tables.WHICH.values(), *tables.ARMS, "FastV, K = 3", "Qwen2-VL-7B", "dense / pruned", "Qwen3",
                 "SmolLM2", "bfloat16, influence too", "another lot", "14.10", "Few tokens",
                 "threshold 0.1, 300 of 600 questions, 10.0 tokens"):
        assert name in text, name
    assert "97.0" in text and "boundary 3" in text and "no exit" in text


def test_pictures_are_drawn(tmp_path):
    found = {path.name for path in (*pictures.llava(results(), "cpu", tmp_path), *pictures.speed(timed(), "cpu", tmp_path))}
    assert found == {name for e in harness.EXPERIMENTS for name in e.draws} == {"blocks.svg", "kept.svg", "trade_off.svg", "time.svg"}
    assert "what digit ?" in (tmp_path / "kept.svg").read_text()


def test_the_analytic_rung_ends_with_the_table_and_one_json_line(capsys, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    (tmp_path / "results").mkdir()
    assert experiment.main(tmp_path, harness.EXPERIMENTS, ["--rung", "analytic"]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (last["paper"], last["rung"]) == ("visipruner", "analytic")
    assert [last["counts"][word] for word in ("adds-up", "does-not-add-up", "opposes")] == [10, 3, 1]


# -- looking -------------------------------------------------------------------------------------------------
def test_looking_at_a_small_llava_draws_it_and_says_what_stays(tmp_path, capsys):
    from common.data import scenes

    Image.fromarray(scenes.scene(0, "val").image()).save(tmp_path / "a.png")
    assert look.main(["--model", SMALL, "--pictures", str(tmp_path / "a.png"), "--question", "what digit?", "--boundary", "2",
                      "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    layers = said.rpartition(": ")[2].split()
    assert len(layers) == 8 and layers[:4] == ["64"] * 4 and int(layers[-1]) < 64
    assert str(scenes.scene(0, "val").digit) in said and Image.open(tmp_path / "out" / "a.png").width > 400


def test_the_llava_on_smollm2_is_looked_at_by_its_folder(tmp_path, monkeypatch, capsys):
    """A folder of an adapter and a projector is opened with its tower; the small Llama stands in for it here. A training's product, which
    has a projector too, is not taken for one."""
    from common.standins import llava_smollm2
    from common.vision import llava as vision

    asked = []
    monkeypatch.setattr(llava_smollm2, "opened", lambda folder, with_tower: asked.append((folder, with_tower)) or vision.load_llava(SMALL))
    for name in ("projector.safetensors", "adapter_config.json"):
        (tmp_path / name).write_bytes(b"{}")
    assert look.main(["--model", str(tmp_path), "--scenes", "1", "--out", str(tmp_path / "out")]) == 0
    assert asked == [(tmp_path, True)] and "tokens by layer: 64" in capsys.readouterr().out
    (tmp_path / "adapter_config.json").unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert look.main(["--model", str(tmp_path), "--scenes", "1", "--out", str(tmp_path / "out")]) == 2 and len(asked) == 1


@pytest.mark.parametrize("arguments, message", [
    ([], "--pictures FILE"), (["--pictures", "nothing.png"], "needs a --question"),
    (["--pictures", "nothing.png", "--question", "what digit ?"], "no picture that can be read"),
    (["--scenes", "1", "--model", "nowhere/at/all"], "nowhere/at/all: there is no such folder"),
    (["--scenes", "1", "--model", "nowhere/at-all"], "nowhere/at-all cannot be loaded as a multimodal model")])
def test_what_cannot_be_looked_at_is_answered_in_a_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read once, so the environment would come too late
    given = arguments if "--model" in arguments else ["--model", SMALL, *arguments]
    assert look.main(given) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
