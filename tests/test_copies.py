"""What a copied paper brings of common: every part with its size and who needs it, printed, written down and bounded."""

import pytest

from common import copy_paper
from common.copy_selection import Part, markdown, needed_by, needed_files, own_files, parts
from common.report.papers import read_paper
from tests import copies

TREE = {
    "papers/a/method.py": "import torch",
    "papers/a/eval.py": "from common.runs.jobs import Job\n\n\ndef f():\n    from common.data import prose",
    "papers/a/experiments/text.py": "from common.runs import jobs\nfrom .. import method",
    "papers/a/tests/test_method.py": "from common.data.prose import x\nimport common.files",
    "papers/a/planes.py": "from common.report.planes import Bench",
    "common/__init__.py": "",
    "common/files.py": "1\n2\n3",
    "common/errors.py": "1",
    "common/runs/__init__.py": "",
    "common/runs/jobs.py": "from ..errors import UserError\nfrom .sources import closure",
    "common/runs/sources.py": "1",
    "common/data/__init__.py": "",
    "common/data/prose.py": "from common.errors import UserError\nTEXT = 'topics.txt'",
    "common/data/topics.txt": "a\nb\nc\nd",
    "common/report/planes.py": "1",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in TREE.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    return tmp_path / "tree"


def test_each_part_has_its_size_and_its_users(tree):
    assert parts(tree, "a") == [
        Part("files", 1, 3, ("tests",)),
        Part("runs", 3, 3, ("eval.py", "experiments/text.py")),
        Part("data", 3, 2, ("eval.py", "tests")),
        Part("errors", 1, 1, ("common.data", "common.runs")),
        Part("__init__", 1, 0, ()),
    ]
    assert markdown(parts(tree, "a")).splitlines()[-1] == "| total | 9 | 9 |  |"
    assert len(needed_files(tree, "a")) == 9


def test_what_is_read_beside_other_papers_stays_behind(tree):
    assert not any(file.name == "planes.py" for file in [*own_files(tree, "a"), *needed_files(tree, "a")])


def test_users_beyond_three_are_counted():
    assert needed_by(Part("x", 1, 1, ("a", "b", "c"))) == "a, b, c"
    assert needed_by(Part("x", 1, 1, ("a", "b", "c", "d", "e"))) == "a, b, c and 2 more"


def test_the_command_prints_it_and_the_copy_keeps_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(copy_paper, "requirements", lambda root: "torch==1.0\n")
    copy_paper.main(["skipgpt", str(tmp_path / "copy")])
    said, *table = [line for line in capsys.readouterr().out.splitlines() if line]
    found = parts(copy_paper.ROOT, "skipgpt")
    assert said.startswith("copy-skipgpt: ") and len(table) == len(found) + 2
    assert [line.split()[0] for line in table] == ["part", *(part.name for part in found), "total"]
    assert markdown(found) in (tmp_path / "copy" / "README.md").read_text()
    copied = [file for file in (tmp_path / "copy" / "common").rglob("*") if file.is_file()]
    assert len(copied) == sum(part.files for part in found)
    assert sum(len(file.read_text().splitlines()) for file in copied if file.suffix == ".py") == sum(part.lines for part in found)
    assert not list((tmp_path / "copy" / "papers").rglob("planes.py"))


def test_a_tree_is_copied_where_there_is_no_git(tmp_path, monkeypatch):
    """A tarball on a machine without git: the copy says so, and is made."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert copy_paper.commit(tmp_path) == "a state without a commit"


def test_a_copy_knows_which_records_are_of_its_own_code(tmp_path, monkeypatch):
    """All that are so here: what a copy leaves behind is no source of any."""
    monkeypatch.setattr(copy_paper, "requirements", lambda root: "torch==1.0\n")
    for paper in ("decouplingkl", "visipruner"):
        copy = copy_paper.copy_paper(paper, tmp_path / paper)
        here, there = (read_paper(root / "papers" / paper) for root in (copy_paper.ROOT, copy))
        assert {row.id: row.problem for row in there.rows} == {row.id: row.problem for row in here.rows}
        (copy / "papers" / "__init__.py").unlink()
        assert sum("older code" in row.problem for row in read_paper(copy / "papers" / paper).rows) > 10


def beyond(text, root, only=""):
    """Where a copy has more than the table allows, or the table allows far more than there is."""
    allowed = copies.ceilings(text)
    assert set(allowed) == set(copies.papers_of(root))
    for paper, rooms in allowed.items():
        lines = copies.lines_of(root, paper, only)
        for room in sorted({*rooms, *lines}):
            if not 0 <= rooms.get(room, 0) - lines.get(room, 0) < 2 * copies.STEP:
                yield f"a copy of {paper} has {lines.get(room, 0)} lines of {room}, and the table says {rooms.get(room, 0)}"


@pytest.mark.parametrize("only", ["", "training"])
def test_no_copy_grows_unseen(only):
    """CONTRIBUTING.md shows each paper's lines by room; `python -m tests.copies` renews it, in the commit that needs more."""
    assert not list(beyond(copies.shown(only), copies.ROOT, only))


def test_the_commands_of_a_copy_for_training_are_those_that_are_shown():
    """A command that asks common for more than a few lines is gone from the copy, and somebody should notice."""
    for paper, found in copies.cells(copies.shown("training")).items():
        assert found[copies.COMMANDS].split(", ") == copies.commands_of(copies.ROOT, paper)


def test_a_module_more_would_be_seen(tree):
    text = copies.table(tree)
    assert "| runs | 50 |" in text and "| modules in no room | 50 |" in text and not list(beyond(text, tree))
    (tree / "common/runs/sources.py").write_text("x = 1\n" * 10)
    assert not list(beyond(text, tree))
    (tree / "common/runs/sources.py").write_text("x = 1\n" * 60)
    assert list(beyond(text, tree)) == ["a copy of a has 68 lines of **all**, and the table says 50",
                                        "a copy of a has 62 lines of runs, and the table says 50"]
