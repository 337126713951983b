"""What every paper promises: its configs parse, its tables equal its records, it can be copied out.

Papers are found by their files, so that a new one is held to the same from its first day. A part
that does not exist yet is skipped, and named in the summary.
"""

import functools
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common import copy_paper
from common.report import __main__ as report
from common.report.first import first_lines
from common.report.papers import read_papers
from common.runs.experiment import every_job
from tests.copies import worked_in
from tests.in_copies import LIKE_IT, METHOD_MAY_IMPORT, imported_by_method

ROOT = Path(__file__).resolve().parent.parent
PAPERS = sorted(path.parent.name for path in (ROOT / "papers").glob("*/method.py"))
CONFIGS = sorted((ROOT / "papers").glob("*/configs/**/*.yaml"))


# --- configs --------------------------------------------------------------------------------------


@pytest.fixture
def no_arguments(monkeypatch):
    """LightningCLI warns when a program has arguments of its own, as pytest has."""
    monkeypatch.setattr(sys, "argv", ["train"])


def parse(cli, config, capsys):
    """Check a config as `python -m papers.X.train fit --config F --print_config` does.

    Every key is held against the signature that it reaches; nothing is built, so that a config for
    GPUs is checked without any. Returns the complaint, or "" for a config that is right.
    """
    with pytest.raises(SystemExit) as left:
        cli(["fit", "--config", str(config), "--print_config"])
    streams = capsys.readouterr()
    return "" if left.value.code in (0, None) else streams.err or f"exit {left.value.code}"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "papers")))
def test_config_parses(config, capsys, no_arguments):
    paper = config.relative_to(ROOT / "papers").parts[0]
    if not (ROOT / "papers" / paper / "train.py").exists():
        pytest.skip(f"papers/{paper}/train.py does not exist yet")
    train = importlib.import_module(f"papers.{paper}.train")
    assert not parse(train.cli, config, capsys)
    assert config.read_text().startswith("#"), "a config begins with its lab note"


def test_config_check_can_fail(tmp_path, capsys, no_arguments):
    """An unknown key, a wrong type and a class without the argument are each refused, by name."""
    from lightning.pytorch.cli import LightningCLI
    from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

    def cli(args):
        LightningCLI(BoringModel, BoringDataModule, args=args)

    config = tmp_path / "config.yaml"
    config.write_text("trainer:\n  max_steps: 2\n")
    assert not parse(cli, config, capsys)
    for text, key in (
        ("trainer:\n  max_stepz: 2\n", "max_stepz"),
        ("trainer:\n  max_steps: two\n", "max_steps"),
        ("model:\n  width: 3\n", "width"),
    ):
        config.write_text(text)
        assert key in parse(cli, config, capsys)


# --- on a cluster ---------------------------------------------------------------------------------

SRUN = """#!/usr/bin/env python3
import json, os, sys
json.dump([sys.argv[1:], os.environ["OMP_NUM_THREADS"]], open(os.environ["SRUN_SAID"], "w"))
"""


def commands_of_the_cluster_page():
    """Lines of the page's command blocks, as words."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", (ROOT / "docs" / "cluster.md").read_text())
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def as_slurm_would(words, folder):
    """What the template hands to srun, run as sbatch runs it: #SBATCH lines are defaults for options before the script."""
    script = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
    lines = re.findall(r"(?m)^#SBATCH --([\w-]+)=(\S+)$", (ROOT / words[script]).read_text())
    given = dict(lines) | {key.removeprefix("--"): value for key, value in zip(words[1:script:2], words[2:script:2])}
    (folder / "srun").write_text(SRUN)
    (folder / "srun").chmod(0o755)
    env = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SRUN_SAID": str(folder / "said"), "ENV_PYTHON": "python",
                        "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NUM_NODES": given["nodes"],
                        "SLURM_NTASKS_PER_NODE": given["ntasks-per-node"], "SLURM_CPUS_PER_TASK": given["cpus-per-task"]}
    done = subprocess.run(["bash", *words[script:]], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command, threads = json.loads((folder / "said").read_text())
    assert command[:2] == ["python", "-m"] and threads == given["cpus-per-task"]
    return command[2], command[3:], given


def test_the_commands_for_a_cluster_parse(tmp_path, capsys, no_arguments):
    """Each line by the programs that read it: torchrun's own parser, the template under bash, then the paper's command line."""
    from torch.distributed.run import get_args_parser

    seen = []
    for words in commands_of_the_cluster_page():
        if words[0].endswith("torchrun"):
            read = get_args_parser().parse_args(words[1:])
            module, arguments, size = read.training_script, read.training_script_args, int(read.nproc_per_node)
            assert read.module and read.standalone
        else:
            module, arguments, given = as_slurm_would(words, tmp_path)
            size = int(given["ntasks-per-node"]) * int(given["nodes"])
        train = importlib.import_module(module)
        assert arguments[:2] == ["fit", "--config"] and "last" in arguments
        with pytest.raises(SystemExit) as left:
            train.cli([*arguments, "--print_config"])
        said = capsys.readouterr()
        assert left.value.code in (0, None), said.err
        config = yaml.safe_load(said.out)
        trainer = config["trainer"]
        assert trainer["num_nodes"] * int(trainer["devices"]) == size, words
        samples = (config["data"].get("init_args") or config["data"])["batch_size"]
        assert samples % (trainer["accumulate_grad_batches"] * size) == 0, words
        if isinstance(trainer["strategy"], dict):
            assert trainer["strategy"]["init_args"]["data_parallel_size"] == size
        seen.append(module)
    assert len(seen) == 4 and len(set(seen)) == 3
    wrong = subprocess.run(["bash", "docs/ninefold.sbatch", "vica"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "usage: sbatch" in wrong.stderr


def test_the_cluster_page_says_of_every_paper_what_is_rehearsed():
    rows = re.findall(r"(?m)^\| (\w+) \|.*\| `([^`]+)` \|$", (ROOT / "docs" / "cluster.md").read_text())
    assert sorted(paper for paper, _ in rows) == sorted(path.parent.name for path in (ROOT / "papers").glob("*/train.py"))
    assert all("processes" in (ROOT / file).read_text() for _, file in rows)


def test_rank_and_size_come_from_slurm(monkeypatch):
    from lightning import Trainer
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # put back: the strategy sets it, and rank 6 writes no logs
    for name, value in {"NTASKS": "8", "NTASKS_PER_NODE": "4", "JOB_NUM_NODES": "2", "NNODES": "2", "PROCID": "6", "LOCALID": "2",
                        "NODEID": "1", "NODELIST": "a[1-2]", "JOB_NODELIST": "a[1-2]", "JOB_ID": "7", "JOBID": "7",
                        "JOB_NAME": "ninefold"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    trainer = Trainer(accelerator="cpu", strategy="ddp", num_nodes=2, devices=4, logger=False, enable_checkpointing=False)
    here = trainer.strategy.cluster_environment
    assert type(here).__name__ == "SLURMEnvironment" and here.creates_processes_externally
    assert (here.world_size(), here.global_rank(), here.local_rank(), here.node_rank(), here.main_address) == (8, 6, 2, 1, "a1")


# --- tables ---------------------------------------------------------------------------------------


def test_readme_tables_equal_the_records(capsys):
    """`python -m common.report --check`, in this process."""
    status = report.main(["--check"])
    streams = capsys.readouterr()
    assert status == 0, streams.out + streams.err


def test_a_line_of_the_root_readme_is_read_at_a_glance():
    for line in first_lines(read_papers()):
        said = [line.headline, *line.small, *line.full]
        assert len(" ".join(said).split()) <= 40, f"{line.key}: more than 40 words: {said}"


# --- jobs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("size", ["smoke", "cpu"])
def test_every_job_has_a_key_of_its_own(paper, size, monkeypatch):
    """What a job depends on is there and can be read: one that names a folder ends a run in its first second."""
    jobs = every_job(importlib.import_module(f"papers.{paper}.eval").EXPERIMENTS, size)
    judging = {f"papers/{paper}/{file}.py" for file in ("eval", "quantities", "tables", "pictures")}
    for job in {(job.function.partition(":")[0], job.data): job for job in jobs}.values():  # the others read the same files
        assert job.key()
        read = {str(path.relative_to(ROOT)) for path in job.sources()}
        assert not read & {*judging, "common/report/ending.py", "common/report/tables.py", "common/runs/reproduce.py"}, (
            f"{job.name} would be run again when only a table changes")
    for job in jobs:
        module, name = job.function.split(":")
        assert callable(getattr(importlib.import_module(module), name)), job.function
    # Files that all jobs of a module share make no two of its jobs differ: what does is in the key beside them.
    monkeypatch.setattr("common.runs.jobs._closure", lambda module: ())
    keys = {job.name: job.key() for job in jobs}
    assert len(keys) == len(jobs) > 0 and len(set(keys.values())) == len(jobs)


@pytest.mark.parametrize("paper", PAPERS)
def test_what_is_timed_alone_is_recorded_alone(paper):
    """In a document with the trainings a timing could not be taken again without hours of these. (ViCA's and VisiPruner's clock times
    what a training job made, and stands with it.)"""
    mine = [e for e in importlib.import_module(f"papers.{paper}.eval").EXPERIMENTS if e.document and e.rung == "cpu"]
    for experiment in mine:
        beside = [e.name for e in mine if e is not experiment and e.document == experiment.document]
        assert not (experiment.alone and experiment.then is None and beside), f"{experiment.name} shares its document with {beside}"


# --- copy-out -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Every paper copied, and what became of a student's work in the copies: ({paper: folder}, {folder: status}, output).

    One process for all, which loads the libraries once; nothing of this repository is on its path."""
    pytest.importorskip("uv", reason="uv comes with `make setup`")
    base = tmp_path_factory.mktemp("copies")
    with pytest.MonkeyPatch.context() as patch:  # uv is asked once: the versions are those of one lock
        patch.setattr(copy_paper, "requirements", functools.cache(copy_paper.requirements))
        folders = {paper: copy_paper.copy_paper(paper, base / f"my {paper}") for paper in PAPERS}
    return folders, *worked_in(folders.values(), base)


@pytest.mark.parametrize("paper", PAPERS)
def test_copied_paper_runs_alone(paper, copies):
    """Its method imports alone, its tests can be collected, its jobs have their keys, it gives verdicts, it trains for two steps."""
    folders, statuses, said = copies
    dest = folders[paper]
    assert statuses[str(dest.resolve())] == 0, said[-6000:]
    tried = [line for line in said.splitlines() if line.startswith(f"{paper}: ")]
    trains = (dest / "papers" / paper / "train.py").exists() and paper not in LIKE_IT
    parts = 3 + 2 * (dest / "papers" / paper / "eval.py").exists() + trains
    assert len(tried) == parts and all(line.endswith(": right") for line in tried), tried


@pytest.mark.parametrize("paper", PAPERS)
def test_copied_paper_has_its_commands_and_versions(paper, copies):
    dest = copies[0][paper]
    for file in (dest / "requirements.txt", dest / "Makefile", dest / "README.md"):
        assert "://" not in file.read_text()
    pins = (dest / "requirements.txt").read_text().splitlines()
    assert pins[0].startswith("torch==") and any(p.startswith("transformers==") for p in pins)
    for own in ("python3", ".venv/bin/python"):
        listed = subprocess.run(["make", "-n", "test", "reproduce", "smoke", f"ENV_PYTHON={own}"], cwd=dest, capture_output=True, text=True)
        assert listed.returncode == 0, listed.stderr
        commands = re.findall(r'(?m)"\$\{ENV_PYTHON:-\.venv/bin/python\}" -m (.*)$', listed.stdout)
        assert [c.split()[0] for c in commands] == ["pytest", f"papers.{paper}.eval", f"papers.{paper}.train"]
        assert (dest / commands[2].split("--config ")[1].split()[0]).is_file()
        assert ("pip install" in listed.stdout) == (own == ".venv/bin/python")  # a Python of one's own is used as it is


def test_what_a_method_imports_is_seen(tmp_path, monkeypatch):
    """The check that runs in the copies finds a foreign import, at the top or behind a neighbour."""
    import papers

    folder = tmp_path / "papers" / "sample_of_imports"
    folder.mkdir(parents=True)
    (folder / "method.py").write_text("import math, torch\nfrom .other import x\n")
    (folder / "other.py").write_text("import yaml\nfrom common.claims import rungs\nx = 1\n")
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(tmp_path / "papers")])
    assert imported_by_method("sample_of_imports") - METHOD_MAY_IMPORT == {"yaml", "common"}


@pytest.fixture
def tree(tmp_path):
    """A repository in the small: one paper, of which three ways lead into common/."""
    root = tmp_path / "root"
    for name, text in {
        "papers/a/method.py": "",
        "papers/a/eval.py": "from common import flops\ndef f():\n    import common.data.prose",
        "papers/a/results/one.json": "{}",
        "papers/a/tests/test_method.py": "from tests.numerics import close",
        "papers/a/results/.scratch/two.json": "{}",
        "papers/b/method.py": "from common import unused",
        "common/__init__.py": "",
        "common/flops.py": "from .timing import clock\nfrom . import models",
        "common/timing.py": "FOLDER = Path(__file__).parent / 'trained'\nSCHEMA = 'schema.json'",
        "common/trained/seed0/config.json": "{}",
        "common/trained of others/config.json": "{}",
        "common/schema.json": "{}",
        "common/models.py": "",
        "common/unused.py": "",
        "common/data/__init__.py": "",
        "common/data/prose.py": "from ..claims.records import write\nTEXT = 'topics.txt'",
        "common/data/unnamed.txt": "",
        "common/data/topics.txt": "",
        "common/data/images.py": "",
        "common/claims/records.py": "",
        "tests/conftest.py": "",
        "tests/numerics.py": "",
        "tests/of_others.py": "",
        "LICENSE": "",
        "CITATION.cff": "",
        ".gitignore": "",
        "pyproject.toml": "[tool.pytest.ini_options]\ntimeout = 3\naddopts = ['-x', '-q']\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_copy_takes_what_is_imported_and_no_more(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(copy_paper, "requirements", lambda root: "torch==1.0\n")
    dest = copy_paper.copy_paper("a", tmp_path / "copy", root=tree)
    copied = {str(p.relative_to(dest)) for p in dest.rglob("*") if p.is_file()}
    assert {name for name in copied if name.startswith("common/")} == {
        "common/__init__.py", "common/flops.py", "common/timing.py", "common/models.py",
        "common/claims/records.py", "common/data/__init__.py", "common/data/prose.py",
        "common/data/topics.txt", "common/schema.json", "common/trained/seed0/config.json",
    }  # fmt: skip
    assert {name for name in copied if name.startswith("papers/")} == {
        "papers/a/method.py", "papers/a/eval.py", "papers/a/results/one.json", "papers/a/tests/test_method.py",
    }  # fmt: skip
    assert {name for name in copied if name.startswith("tests/")} == {"tests/numerics.py"}
    ini = (dest / "pytest.ini").read_text()
    assert "timeout = 3\n" in ini and "testpaths = papers\n" in ini and "    -x\n    -q\n" in ini
    assert "a state without a commit" in (dest / "README.md").read_text()


def test_copy_refuses_what_it_must_not_write(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(copy_paper, "requirements", lambda root: "torch==1.0\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for paper, dest, says in (
        ("c", tmp_path / "new", "no paper 'c' here; there is: a, b"),
        ("a", "", "say where to: make copy-a DEST="),
        ("a", tmp_path / "full", "not an empty folder"),
        ("a", tree / "out", "inside this repository"),
    ):
        with pytest.raises(copy_paper.CopyError, match=says):
            copy_paper.copy_paper(paper, dest, root=tree)
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    assert (copy_paper.copy_paper("a", tmp_path / "empty", root=tree) / "Makefile").exists()


def test_copy_that_fails_leaves_nothing(tree, tmp_path, monkeypatch):
    def fail(root):
        raise copy_paper.CopyError("no uv")

    monkeypatch.setattr(copy_paper, "requirements", fail)
    with pytest.raises(copy_paper.CopyError, match="no uv"):
        copy_paper.copy_paper("a", tmp_path / "copy", root=tree)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root"]
