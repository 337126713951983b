"""What a stranger types first: `make doctor` and `make reproduce`, where things are missing and where papers fail."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from common import doctor
from common.claims.rungs import make_command
from common.runs import reproduce_all

ROOT = Path(__file__).resolve().parent.parent


def make(folder, *words, **env):
    """(exit status, output and errors together) of make, undisturbed by a make that runs these tests."""
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", *words], cwd=folder, env=outer | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


# --- every paper ----------------------------------------------------------------------------------


def record(folder, name, command, seconds):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"run": {"command": command, "seconds": seconds}}))


@pytest.fixture
def tree(tmp_path):
    """Three papers that only say which they are; `b` fails, with an exit status of its own."""
    root = tmp_path / "a tree"
    (root / "common").mkdir(parents=True)
    for name in ("Makefile", "common/__init__.py", "common/claims/__init__.py", "common/claims/rungs.py",
                 "common/errors.py", "common/seeds.py",
                 "common/runs/__init__.py", "common/runs/reproduce_all.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for paper, last in (("a", ""), ("b", "sys.exit(7)"), ("c", "")):
        (root / "papers" / paper / "results").mkdir(parents=True)
        (root / "papers" / paper / "eval.py").write_text(f"import os, sys\nprint('this is {paper}', *sys.argv[1:])\n{last}\n")
    results = root / "papers" / "a" / "results"
    record(results, "C1.cpu-small.json", "make reproduce-a", 100.0)
    record(results, "C2.cpu-small.json", "make reproduce-a", 130.0)  # the run is as long as its longest record says
    record(results, "C3.cpu-small.json", "make speech-a", 5000.0)  # another command's
    (results / "C4.cpu-small.json").write_text("{")
    record(root / "papers" / "b" / "results", "C1.cpu-small.json", "make reproduce-b", 20.0)
    record(root / "papers" / "b" / "results", "C1.gpu-random-weights.json", "make reproduce-b RUNG=gpu", 3.0)
    return root


def test_a_paper_that_fails_stops_no_other_and_is_named_at_the_end(tree):
    status, said = make(tree, "reproduce", "RUNG=cpu", ENV_PYTHON=sys.executable)
    assert status != 0
    lines = [line for line in said.splitlines() if line]
    assert "3 papers at rung cpu: about 2 min and c, of which no record says how long" in lines[0]
    assert [line for line in lines if line.startswith("this is")] == [f"this is {p} --rung cpu" for p in "abc"]
    assert re.search(r"\[2/3\] b: about 20 s   \(\d s gone, left in all: about 20 s and c", said)
    end = said[said.index("this is c"):]
    assert re.search(r"a +done", end) and re.search(r"c +done", end)
    assert re.search(r"b +FAILED.*exit status 7.*run it again: make reproduce-b$", end, re.MULTILINE)
    assert "2 of 3 papers ran to their end" in end and "not b" in end


def test_all_done_is_exit_status_0_and_a_rung_goes_through(tree):
    (tree / "papers" / "b" / "eval.py").write_text("import sys\nprint('this is b', *sys.argv[1:])\n")
    status, said = make(tree, "reproduce", "RUNG=gpu", ENV_PYTHON=sys.executable)
    assert status == 0 and "this is b --rung gpu" in said and "about 3 s and a, c" in said and "3 of 3 papers" in said
    status, said = make(tree, "reproduce", "RUNG=huge", ENV_PYTHON=sys.executable)
    assert status != 0 and "invalid choice: 'huge'" in said and "this is" not in said


def test_a_contradicted_required_claim_is_said_under_strict(tree, monkeypatch, capsys):
    monkeypatch.setenv("STRICT", "1")
    assert reproduce_all.reproduce_all(tree, run=lambda root, paper, rung: int(paper == "c")) == 1
    assert "c                    FAILED" in (out := capsys.readouterr().out) and "a required claim is contradicted" in out


def test_stopped_by_hand_it_says_what_is_not_done(tree):
    def stop(root, paper, rung):
        if paper == "b":
            raise KeyboardInterrupt
        return 0

    said = []
    assert reproduce_all.reproduce_all(tree, log=said.append, run=stop) == 130
    assert "Not done: b, c. What is finished is kept" in said[-1]


def test_a_run_over_more_seeds_says_what_the_default_takes(tmp_path):
    """Of 1,200 s over six seeds three take half; fewer seeds than the default's promise nothing less; a claim that was not run, nothing."""
    folder = tmp_path / "papers" / "a" / "results"
    folder.mkdir(parents=True)
    for name, command, seconds, word in (("C1", " SEEDS=6", 1200, "supports"), ("C2", " SEEDS=1", 100, "opposes"),
                                         ("C3", " ONLY=long", 9000, "opposes"), ("C4", "", 5000, "not-run")):
        record = {"run": {"command": f"make reproduce-a{command}", "seconds": seconds}, "verdict": {"word": word}}
        (folder / f"{name}.cpu-small.json").write_text(json.dumps(record))
    (folder / "C5.cpu-small.json").write_text('{"run": {}, "verdict": "supports"}')  # the paper's own run refuses it, and says why
    assert reproduce_all.recorded_seconds(tmp_path, "a", "cpu") == 600


def test_the_records_of_this_tree_say_how_long_it_takes():
    for paper in reproduce_all.papers(ROOT):
        seconds = reproduce_all.recorded_seconds(ROOT, paper, "cpu")
        assert seconds is None or 10 < seconds < 6 * 3600, (paper, seconds)  # no bar for how fast: a shared machine may have been slow
    assert any(reproduce_all.recorded_seconds(ROOT, p, "cpu") for p in reproduce_all.papers(ROOT))
    assert make_command("a", "paper") == "make reproduce-a RUNG=paper"


# --- the doctor -----------------------------------------------------------------------------------


def seen(**changes):
    """The facts of a machine with a large GPU, on which everything is right."""
    packages = {name: {"range": ">=1", "version": "1.0", "fits": True} for name in ("torch", "transformers", "lightning", "peft", "trl")}
    card = ["NVIDIA H100 80GB HBM3", 85.0]
    return dict(python="3.12.3", cores=8, memory_gb=64.0, available_gb=60.0, disk_gb=100.0, cards=[card], torch_cards=[card],
                packages=packages, hub={"endpoint": doctor.HUB, "offline": None, "answer": None},
                data={"folder": None, "found": [], "missing": list(doctor.DATA)},
                cache={"place": ".cache/ninefold", "gb": 0.5, "writable": True}) | changes


def without(*names):
    return {name: package | ({"version": None, "fits": False} if name in names else {}) for name, package in seen()["packages"].items()}


@pytest.mark.parametrize(("changes", "can", "why"), [
    ({}, {"cpu", "gpu", "paper"}, "configs/cuda"),
    ({"available_gb": 3.0}, {"gpu", "paper"}, "3.0 GB of memory are available, 6 are needed"),
    ({"disk_gb": 1.0}, {"gpu", "paper"}, "1.0 GB of disk are free, 2 are needed"),
    ({"cores": 1}, {"cpu", "gpu", "paper"}, "on one core it takes about twice"),
    ({"cards": [], "torch_cards": []}, {"cpu"}, "no GPU here"),
    ({"torch_cards": []}, {"cpu"}, "the installed torch cannot use the GPU"),
    ({"torch_cards": [["small", 24.0]]}, {"cpu", "paper"}, "the GPU has 24 GB, one of 80 GB is needed"),
    ({"packages": without("trl")}, {"gpu"}, "packages: trl; `make setup` installs them"),
    ({"packages": without("peft")}, set(), "packages: peft"),
    ({"packages": {}}, {"cpu", "paper"}, "packages: torch, transformers, lightning, peft"),
    ({"cache": {"place": "x", "gb": 0.0, "writable": False}}, set(), "set NINEFOLD_CACHE"),
    ({"hub": {"endpoint": "x", "offline": "HF_HUB_OFFLINE", "answer": None}}, {"cpu", "gpu"}, "switched off by HF_HUB_OFFLINE"),
    ({"hub": {"endpoint": "x", "offline": None, "answer": "does not answer (timed out)"}}, {"cpu", "gpu"}, "the hub does not answer"),
])  # fmt: skip
def test_which_rungs_can_run_and_why_not(changes, can, why):
    judged = doctor.rungs(seen(**changes))
    assert {rung for rung, (yes, _) in judged.items() if yes} == can
    assert any(why in said for _, said in judged.values())
    assert all(said for yes, said in judged.values() if not yes)
    screen = doctor.lines(seen(**changes))
    assert len(screen) < 24 and all(f"RUNG={rung}" in "".join(screen) for rung in judged)


def test_what_is_missing_is_named_on_the_screen():
    some = {"folder": "d", "found": [n for n in doctor.DATA if "multi30k" not in n and "piqa" not in n],
            "missing": [n for n in doctor.DATA if "multi30k" in n or "piqa" in n]}
    packages = without("trl") | {"peft": {"range": ">=2", "version": "1.0", "fits": False}}
    screen = "\n".join(doctor.lines(seen(data=some, packages=packages)))
    for part in ("10 of 20 files in d", "missing in text/: piqa.jsonl", "missing in translation/: all 9",
                 "3 of 5 as pyproject.toml asks", "peft 1.0 is not >=2", "missing: trl", "NVIDIA H100 80GB HBM3, 85 GB"):
        assert part in screen, part
    assert "NINEFOLD_DATA is not set" in "\n".join(doctor.lines(seen()))
    assert "missing in" not in "\n".join(doctor.lines(seen()))


def test_the_doctor_on_this_machine(tmp_path, monkeypatch):
    """By make, with a Python that has no package at all and a folder in place of the data: a screenful, exit status 0."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # -S: no site-packages
    bare.chmod(0o755)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "piqa.jsonl").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "model").write_bytes(b"x" * 3_000_000)
    status, said = make(ROOT, "doctor", ENV_PYTHON=str(bare), NINEFOLD_DATA=str(tmp_path), NINEFOLD_CACHE=str(tmp_path / "kept"),
                        HF_HUB_OFFLINE="1")
    assert status == 0 and len(said.splitlines()) < 30
    count = len(doctor.required(ROOT))
    assert {"torch", "lm-eval", "trl", "onnx", "jiwer"} <= doctor.required(ROOT).keys() and "pytest" not in doctor.required(ROOT)
    for part in (f"0 of {count} as pyproject.toml asks", "missing: torch", "1 of 20 files", "switched off by HF_HUB_OFFLINE", "not asked",
                 "RUNG=cpu   no: packages: torch"):
        assert part in said, said
    assert doctor.cache(tmp_path / "kept") == {"place": str(tmp_path / "kept"), "gb": 0.003, "writable": True}
    assert doctor.cache(tmp_path / "not" / "yet")["writable"] and not (tmp_path / "not").exists()


def test_the_doctor_needs_no_new_python_to_say_that_it_needs_one(monkeypatch, capsys):
    ast.parse((ROOT / "common" / "doctor.py").read_text(), feature_version=(3, 8))
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    assert doctor.main([]) == 0
    assert "needs 3.11 to 3.14. Name one: make doctor PYTHON=" in capsys.readouterr().out


@pytest.mark.parametrize(("version", "wanted", "expected"), [
    ("2.13.0+cpu", ">=2.11,<2.14", True), ("2.14.0", ">=2.11,<2.14", False), ("2.11", ">=2.11,<2.14", True), ("2.9.1", ">=2.11", False),
    ("0.1.1", "==0.1.1", True), ("0.1.10", "==0.1.1", False), ("6.0.0rc1", ">=5.17,<6", False), ("1.14.0.dev0", ">=1.14,<2", True),
    ("3", "", True),
])  # fmt: skip
def test_versions_are_compared_as_numbers(version, wanted, expected):
    assert doctor.fits(version, wanted) is expected


def test_every_range_of_pyproject_is_understood_and_fits_here():
    found = doctor.required(ROOT)
    assert all(doctor.fits("1", package["range"]) in (True, False) for package in found.values())
    assert found["torch"]["fits"] and found["jsonargparse"]["range"] == ">=4.40"  # the extras in brackets are no part of the name
    with pytest.raises(ValueError, match="none of >=, <, =="):
        doctor.fits("1.0", "~=1.0")


def test_the_files_that_the_doctor_looks_for_are_those_of_the_page():
    table = re.search(r"\| file in that folder.*?\n\n", (ROOT / "docs" / "data.md").read_text(), re.DOTALL).group()
    named = set()
    for name in re.findall(r"`((?:text|math|translation|speech)/[^`]+)`", table):
        parts = [part[1:-1].split(",") if part.startswith("{") else [part] for part in re.split(r"(\{[^}]*\})", name)]
        whole = [""]
        for choices in parts:
            whole = [before + choice for before in whole for choice in choices]
        named.update(whole)
    assert named == set(doctor.DATA)


def test_the_hub_is_asked_once_and_only_when_told(monkeypatch):
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", here)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(doctor, "torch_cards", list)
    try:
        assert doctor.facts()["hub"] == {"endpoint": here, "offline": "HF_HUB_OFFLINE", "answer": None} and not asked
        assert doctor.facts(ask_hub=True)["hub"]["answer"] == "answers (status 404)" and len(asked) == 1
    finally:
        server.shutdown()
        server.server_close()
    assert doctor.hub_answer(here).startswith("does not answer (")
