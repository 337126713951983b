"""Copies for training: `make copy-<paper> ONLY=training` has method and training, works alone, and has nothing that judges claims."""

import functools
import os
import subprocess
import sys

import pytest
import yaml

from common import copy_paper
from common.copy_selection import FEW, CopyError, configs, own_files, papers_files, parts, pictures_of
from common.runs.sources import ROOT, imported_modules
from tests import copies as tables
from tests.in_copies import TRAINS

PAPERS = tables.papers_of(ROOT)
JUDGES = {"runs", "report", "standins", "timing", "families"}


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Every paper's copy, renamed, a line of its method changed, and what became of a student's work in it: (folders, statuses, output)."""
    pytest.importorskip("uv", reason="uv comes with `make setup`")
    base, folders = tmp_path_factory.mktemp("small"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy_paper, "requirements", functools.cache(copy_paper.requirements))
        for paper in PAPERS:
            folders[paper] = copy_paper.copy_paper(paper, base / paper, "training").rename(base / f"my {paper}")
            with (folders[paper] / "papers" / paper / "method.py").open("a") as file:
                file.write("\nCHANGED = True\n")
    return folders, *tables.worked_in(folders.values(), base)


@pytest.mark.parametrize("paper", PAPERS)
def test_it_works_alone(paper, copies):
    """Its method imports alone, its tests are collected, every module can be imported, its config is right; one paper trains."""
    folders, statuses, said = copies
    assert statuses[str(folders[paper].resolve())] == 0, said[-6000:]
    tried = [line for line in said.splitlines() if line.startswith(f"{paper}: ")]
    assert len(tried) == 5 + (paper == TRAINS) and all(line.endswith(": right") for line in tried), tried


@pytest.mark.parametrize("paper", PAPERS)
def test_it_has_what_is_trained_and_nothing_that_judges(paper, copies):
    copy = copies[0][paper]
    own, page = copy / "papers" / paper, (copy / "README.md").read_text()
    for name in ("method.py", "train.py", "module.py", "data.py", "baselines.py", "configs/cpu/rehearsal.yaml", "README.md"):
        assert (own / name).is_file(), name
    for name in ("LICENSE", "CITATION.cff", "requirements.txt", "conftest.py", "pytest.ini", "papers/__init__.py"):
        assert (copy / name).is_file(), name
    for name in ("eval.py", "experiments", "claims.yaml", "quantities.py", "tables.py", "planes.py"):
        assert not (own / name).exists(), name
    code = [file.relative_to(copy) for file in (copy / "common").rglob("*.py")]
    assert not JUDGES & {file.parts[1] for file in code}
    assert (own / "tests" / "test_method.py").is_file() and (own / "tests" / "test_training.py").is_file()
    assert len(list((own / "configs").rglob("*.yaml"))) == len(list((ROOT / "papers" / paper / "configs").rglob("*.yaml")))
    assert all((copy / file).is_file() for file in pictures_of(own / "README.md"))
    assert f"make copy-{paper} DEST=folder" in page and f"papers.{paper}.train" in page and "Copied from" in (own / "README.md").read_text()
    assert str(sum(len((copy / file).read_text().splitlines()) for file in code)) in page.replace(",", "")


@pytest.mark.parametrize("paper", PAPERS)
def test_it_imports_nothing_that_is_not_there(paper, copies):
    """Inside functions, too: a name of this tree is a file of the copy, or something within one."""
    copy = copies[0][paper]
    for file in copy.rglob("*.py"):
        for name in imported_modules(file, ".".join(file.parent.relative_to(copy).parts)):
            if name.partition(".")[0] in ("common", "papers", "tests") and (ROOT.joinpath(*name.split(".")).with_suffix(".py")).is_file():
                assert copy.joinpath(*name.split(".")).with_suffix(".py").is_file(), f"{file.relative_to(copy)} imports {name}"


@pytest.mark.parametrize("paper", PAPERS)
def test_what_configs_begin_from_is_there(paper, copies):
    copy = copies[0][paper]
    text = (copy / "papers" / paper / "configs" / "cpu" / "rehearsal.yaml").read_text()
    named = [word for word in text.split() if word.startswith(("common/", "papers/")) and "/seed" in word]
    assert all((copy / word / "config.json").is_file() for word in named) and yaml.safe_load(text)


def test_its_makefile_trains_and_tests(copies):
    copy = copies[0][TRAINS]
    listed = subprocess.run(["make", "-n", "test", "smoke", "ENV_PYTHON=python3"], cwd=copy, capture_output=True, text=True)
    assert listed.returncode == 0 and "-m pytest" in listed.stdout and f"-m papers.{TRAINS}.train fit --config" in listed.stdout
    none = subprocess.run(["make", "-n", "reproduce", "ENV_PYTHON=python3"], cwd=copy, capture_output=True, text=True)
    assert none.returncode == 2 and "reproduce" in none.stderr


# --- the rule, on a tree in the small --------------------------------------------------------------

MAIN = '\nif __name__ == "__main__":\n    pass\n'
TREE = {
    "papers/__init__.py": "",
    "papers/a/__init__.py": "",
    "papers/a/method.py": '"""The method; `part.py` is the part that runs it, other.py is not there."""\nimport torch',
    "papers/a/part.py": "from common import probe",
    "papers/a/train.py": "from common.training import cli\nfrom .module import M" + MAIN,
    "papers/a/module.py": "from common.models import load\nfrom .method import x",
    "papers/a/baselines.py": "from common.models import load\nfrom .part import x",
    "papers/a/watch.py": "def f():\n    from common import small" + MAIN,
    "papers/a/heavy.py": "def f():\n    from common import large" + MAIN,
    "papers/a/shapes.py": "from common import small, flops",
    "papers/a/eval.py": "from common.runs import jobs\nfrom .experiments import one" + MAIN,
    "papers/a/judged.py": "from .experiments import one",
    "papers/a/planes.py": "from common.models import load",
    "papers/a/experiments/__init__.py": "",
    "papers/a/experiments/one.py": "from ..method import x",
    "papers/a/README.md": "![idea](results/idea.svg) and ![gone](results/gone.svg) and ![far](https://far/x.svg)",
    "papers/a/claims.yaml": "",
    "papers/a/results/idea.svg": "<svg/>",
    "papers/a/results/C1.cpu.json": "{}",
    "papers/a/weights/seed0/model.bin": "",
    "papers/a/weights/seed1/model.bin": "",
    "papers/a/configs/cpu/rehearsal.yaml": "model:\n  class_path: papers.a.module.M\n  init_args: {base: papers/a/weights/seed0}\n",
    "papers/a/configs/cpu/heavy.yaml": "model: {class_path: papers.a.heavy.M}\n",
    "papers/a/configs/cpu/heavies.yaml": "trainer:\n  callbacks: [{class_path: torch.X}, {class_path: common.large.C}]\n",
    "papers/a/configs/cpu/room.yaml": "model: {base: common/trained}\ndata: {class_path: common.training.Data}\n",
    "papers/a/tests/__init__.py": "",
    "papers/a/tests/conftest.py": "from common.models import tiny",
    "papers/a/tests/made_up.py": "from ..baselines import x",
    "papers/a/tests/test_method.py": "from tests.numerics import close\nfrom .made_up import y",
    "papers/a/tests/test_heavy.py": "def test():\n    from ..heavy import f",
    "papers/a/tests/test_helped.py": "from tests.helper import x",
    "papers/a/tests/test_jobs.py": "from ..experiments.one import x",
    "common/__init__.py": "",
    "common/models.py": "x = 1\n" * 20,
    "common/probe.py": "",
    "common/flops.py": "",
    "common/small.py": "x = 1\n" * FEW,
    "common/large.py": "x = 1\n" * (FEW + 1),
    "common/training/__init__.py": "",
    "common/training/cli.py": "",
    "common/runs/jobs.py": "",
    "common/trained/model.bin": "",
    "tests/conftest.py": "",
    "tests/numerics.py": "from tests.deeper import x\nimport common.models",
    "tests/deeper.py": "",
    "tests/helper.py": "from tests.large import x",
    "tests/large.py": "import common.large",
    "LICENSE": "", "CITATION.cff": "", ".gitignore": "", "pyproject.toml": "[tool.pytest.ini_options]\ntimeout = 3\n",
}  # fmt: skip


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name, text in TREE.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    monkeypatch.setattr(copy_paper, "requirements", lambda root: "torch==1.0\n")
    return tmp_path / "tree"


def test_the_copy_of_a_small_tree(tree, tmp_path):
    dest = copy_paper.copy_paper("a", tmp_path / "copy", "training", root=tree)
    copied = {str(file.relative_to(dest)) for file in dest.rglob("*") if file.is_file()}
    assert copied == {
        "papers/__init__.py", *(f"papers/a/{name}" for name in (
            "__init__.py", "method.py", "part.py", "train.py", "module.py", "baselines.py", "watch.py", "README.md", "results/idea.svg",
            "weights/seed0/model.bin", "configs/cpu/rehearsal.yaml", "configs/cpu/room.yaml", "tests/__init__.py", "tests/conftest.py",
            "tests/made_up.py", "tests/test_method.py")),
        "common/__init__.py", "common/models.py", "common/probe.py", "common/small.py", "common/training/__init__.py",
        "common/training/cli.py", "common/trained/model.bin", "tests/numerics.py", "tests/deeper.py",
        "LICENSE", "CITATION.cff", ".gitignore", "conftest.py", "pytest.ini", "requirements.txt", "Makefile", "README.md",
    }  # fmt: skip
    assert [(p.name, p.lines, p.users) for p in parts(tree, "a", "training") if p.name in ("small", "trained")] == [
        ("small", FEW, ("watch.py",)), ("trained", 0, ("configs",))]
    assert [line.split("`")[1] for line in (dest / "README.md").read_text().splitlines() if line.startswith("| `")] == [
        "python -m papers.a.train", "python -m papers.a.watch"]


def test_what_changes_in_the_tree_changes_the_selection(tree):
    assert tree / "papers/a/shapes.py" not in own_files(tree, "a", "training")
    (tree / "papers/a/method.py").write_text("import common.flops, common.small")
    found = own_files(tree, "a", "training")
    assert tree / "papers/a/shapes.py" in found and tree / "papers/a/part.py" not in found
    assert len(configs(tree, "a", found)) == 2 and papers_files(tree, "a")


def test_a_part_that_is_none_a_folder_that_is_there(tree, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for only in ("trainin", "speech", "Training", "`training`"):
        with pytest.raises(CopyError, match=f"ONLY='{only}': there is no such part of a paper; there is: training") as refused:
            copy_paper.copy_paper("a", tmp_path / "new", only, root=tree)
        assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(CopyError, match="not an empty folder"):
        copy_paper.copy_paper("a", tmp_path / "full", "training", root=tree)
    with pytest.raises(CopyError, match="say where to"):
        copy_paper.copy_paper("a", "", "training", root=tree)
    assert not (tmp_path / "new").exists() and [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_the_setting_reaches_the_command(tmp_path):
    """As make hands it on; the answer to a part that is none is a line and status 2."""
    done = subprocess.run([sys.executable, "-m", "common.copy_paper", "skipgpt"], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"DEST": str(tmp_path / "new"), "ONLY": "speech"})
    assert done.returncode == 2 and done.stderr.startswith("copy: ONLY='speech'") and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()
