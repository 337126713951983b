"""common/runs/sources.py: what a result depends on is what the imports reach, and the data that is named."""

import pytest

from common.runs.jobs import Job
from common.runs.sources import ROOT, closure

TREE = {
    "papers/__init__.py": "",
    "papers/a/__init__.py": "from . import start",
    "papers/a/start.py": "",
    "papers/a/work.py": "from .method import f\ndef job():\n    from common import clock\n    import papers.a.late as late",
    "papers/a/method.py": "import torch\nfrom common.models import (load,\n    save)\nWEIGHTS = Path(__file__).parent / 'weights'",
    "papers/a/late.py": "TASK = 'tasks/one.yaml'",
    "papers/a/weights/seed0/model.safetensors": "0",
    "papers/a/weights/README.md": "prose",
    "papers/a/tasks/one.yaml": "1",
    "papers/a/tasks/two.yaml": "2",
    "papers/a/results/C1.json": "{}",
    "papers/a/tables.py": "import papers.a.work\nRESULTS = 'results'",
    "papers/b/work.py": "",
    "common/__init__.py": "",
    "common/models.py": "from . import files  # and back\nfrom .circle import x",
    "common/circle.py": "from .models import y",
    "common/files.py": "",
    "common/clock.py": "",
    "common/other.py": "",
}
REACHED = {
    "papers/__init__.py", "papers/a/__init__.py", "papers/a/start.py", "papers/a/work.py", "papers/a/method.py", "papers/a/late.py",
    "papers/a/weights/seed0/model.safetensors", "papers/a/tasks/one.yaml", "papers/a/tasks/two.yaml",
    "common/__init__.py", "common/models.py", "common/circle.py", "common/files.py", "common/clock.py",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def found(tree, module):
    return {str(path.relative_to(tree)) for path in closure(module, tree)}


def test_a_closure_is_all_that_imports_reach_and_the_data_they_name(tree):
    assert found(tree, "papers.a.work") == REACHED
    assert found(tree, "papers.b.work") == {"papers/__init__.py", "papers/b/work.py"}
    assert found(tree, "common") == {"common/__init__.py"}


def test_a_closure_follows_an_edit(tree):
    assert "common/other.py" not in found(tree, "papers.a.work")
    (tree / "common/files.py").write_text("def f():\n    from .other import z\n")
    assert "common/other.py" in found(tree, "papers.a.work")


def test_results_and_prose_are_nobodys_source(tree):
    assert not {"papers/a/results/C1.json", "papers/a/weights/README.md"} & found(tree, "papers.a.tables")


def test_a_module_that_is_not_ours_is_refused(tree):
    with pytest.raises(ModuleNotFoundError, match=r"papers\.c\.work: no such module"):
        closure("papers.c.work", tree)


def test_an_edit_in_the_closure_changes_the_key_and_one_outside_does_not(tree, monkeypatch):
    """Every file of the tree in turn gets a comment, really; the job's key changes for those of its closure alone."""
    monkeypatch.setattr("common.runs.jobs.closure", lambda module: closure(module, tree))
    job = Job("one", "papers.a.work:job", {"seed": 0})
    before = job.key()
    for name, text in TREE.items():
        (tree / name).write_text(text + "\n# a comment\n")
        assert (job.key() != before) == (name in REACHED), name
        (tree / name).write_text(text)
        assert job.key() == before
    other = tree / "papers/a/weights/seed0/other.safetensors"
    other.write_text("one more file of named data")
    assert job.key() != before


def test_the_closure_of_this_module_s_neighbours_is_real():
    names = {str(path.relative_to(ROOT)) for path in closure("common.benchmarks.language")}
    assert "common/benchmarks/tasks/pydoc_cloze.yaml" in names and "common/benchmarks/language.py" in names
    assert "common/runs/reproduce.py" not in names
