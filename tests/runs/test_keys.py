"""Every job of every paper, in a copy of the tree whose files are really edited: an edit of a file that a job depends on changes
the job's key, and an edit of any other file does not. So a result is never reused for code that would give another, and nothing is
computed again when a page, a table or another paper changes."""

import functools
import importlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from common.runs.experiment import every_job
from common.runs.jobs import Job
from common.runs.sources import ROOT, closure
from tests.test_rules import tracked

SHORT = 20_000  # bytes of a file of the copy, but for Python's: of weights the beginning will do
EDIT = b"\n# a comment\n"


class Tree:
    """The files below a folder, each of which is as it was or has a comment more."""

    def __init__(self, root: Path):
        self.root = root
        self.files = frozenset(path for path in root.rglob("*") if path.is_file())
        self.edited: frozenset[Path] = frozenset()
        self.content: dict[Path, bytes] = {}  # of files that were read since they changed

    def read(self, path: Path) -> bytes:
        if path not in self.content:
            with open(path, "rb") as file:
                self.content[path] = file.read()
        return self.content[path]

    def shorten(self) -> None:
        """Leaves the beginning of every file."""
        for path in self.files:
            os.truncate(path, min(path.stat().st_size, 100))
        self.content.clear()

    def edit(self, files: frozenset[Path]) -> None:
        """From now on these have a comment more, and all others are as they were."""
        for path in self.edited - files:
            os.truncate(path, path.stat().st_size - len(EDIT))
        for path in files - self.edited:
            with open(path, "ab") as file:
                file.write(EDIT)
        for path in files ^ self.edited:
            self.content.pop(path, None)
        self.edited = files


def unfaithful(jobs: list[Job], tree: Tree, patch, closure=closure):
    """Jobs whose key does not follow exactly the files that they depend on, a sentence each. Jobs of one module and data share their
    files, and one of them stands for all."""
    patch.setattr("common.runs.jobs.closure", lambda module: closure(module, tree.root))
    patch.setattr(Path, "read_bytes", lambda path: tree.read(path))  # a file is read once between two edits of it
    jobs = list({(job.function.partition(":")[0], job.data): job for job in jobs}.values())
    files = [frozenset(job.sources()) for job in jobs]
    before = [job.key() for job in jobs]
    for job, its, key in zip(jobs, files, before):  # all others at once: a single one would be enough
        tree.edit(tree.files - its)
        if job.key() != key:
            yield f"{job.name}: its key changes with a file that it does not depend on"
    # A comment imports nothing: which files there are need not be found out four thousand times, nor all of each be read.
    tree.edit(frozenset())
    patch.setattr("common.runs.jobs.closure", functools.cache(lambda module: closure(module, tree.root)))
    if [job.key() for job in jobs] != before:
        yield "the tree is not what it was"
    tree.shorten()
    before = [job.key() for job in jobs]
    for path in sorted(frozenset().union(*files)):
        tree.edit(frozenset({path}))
        for job, its, key in zip(jobs, files, before):
            if path in its and job.key() == key:
                yield f"{job.name}: its key is the same with another {path.name}"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """What git has of common and papers, and an empty file of each name that an experiment reads below NINEFOLD_DATA."""
    root = tmp_path_factory.mktemp("keys").resolve()
    for path in tracked(ROOT):
        place = path.relative_to(ROOT)
        if place.parts[0] in ("common", "papers"):
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes()
            (root / place).write_bytes(content if path.suffix == ".py" else content[:SHORT])
    return root


def test_the_key_of_every_job_follows_its_files_and_no_others(tree, monkeypatch):
    monkeypatch.setenv("NINEFOLD_DATA", str(tree / "data"))
    jobs = []
    for paper in sorted(path.parent.name for path in (ROOT / "papers").glob("*/eval.py")):
        experiments = importlib.import_module(f"papers.{paper}.eval").EXPERIMENTS
        for name in {name for experiment in experiments for name in experiment.data}:
            (tree / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / "data" / name).touch()
        jobs += [replace(job, data=tuple(moved(name, tree) for name in job.data)) for job in every_job(experiments)]
    assert len({job.function.partition(":")[0] for job in jobs}) > 40 and any("real/" in job.name for job in jobs)
    found = list(unfaithful(jobs, Tree(tree), monkeypatch))
    assert not found, "\n".join(found[:20])


def moved(name: str, tree: Path) -> str:
    """A file of this tree as the copy has it."""
    path = Path(name).resolve()
    return str(tree / path.relative_to(ROOT)) if path.is_relative_to(ROOT) else name


@pytest.mark.parametrize(("broken", "says"), [
    (lambda module, root: closure(module, root)[1:], "first: its key is the same with another"),
    (lambda module, root: (*closure(module, root), *root.rglob("*.md")), "changes with a file that it does not depend on"),
])  # fmt: skip
def test_a_dependency_too_few_or_too_many_is_seen(broken, says, tmp_path, monkeypatch):
    for name, text in {"papers/__init__.py": "", "papers/a/__init__.py": "", "papers/a/work.py": "from . import method",
                       "papers/a/method.py": "", "papers/a/tables.py": "", "papers/a/README.md": "prose"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "weights").write_text("0")
    jobs = [Job("first", "papers.a.work:job", {}), Job("second", "papers.a.tables:job", {}, data=(str(tmp_path / "weights"),))]
    assert not list(unfaithful(jobs, Tree(tmp_path), monkeypatch))

    def asked(module, root):
        """As it was for those who ask what there is, and as it is broken for the keys."""
        return broken(module, root) if calls.append(module) or len(calls) > len(jobs) else closure(module, root)

    calls: list[str] = []
    found = list(unfaithful(jobs, Tree(tmp_path), monkeypatch, asked))
    assert any(says in line for line in found), found
