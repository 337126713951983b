"""The tree and the machine that a record names: what is a change of the tree, and what is said of an environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import files
from common.claims import machine
from common.claims.intervals import point
from common.claims.records import make_record
from tests.sample_records import claim, claims_yaml, one, record


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.delenv("NINEFOLD_COMMIT", raising=False)
    for key, value in {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}.items():
        monkeypatch.setenv(key, value)

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    git("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "README.md").write_text(
        "# Hello\n<!-- ninefold:papers -->\nold\n<!-- /ninefold:papers -->\nBye.\n"
    )
    git("add", ".")
    git("commit", "-qm", "one")
    return tmp_path


def test_dirty_means_changed_code_not_written_results(repository):
    commit, dirty = machine.git_state(repository)
    assert len(commit) == 40 and not dirty
    for generated in ("papers/demo/results/C1.analytic.json", "report.html"):
        path = repository / generated
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    readme = repository / "README.md"
    readme.write_text(readme.read_text().replace("\nold\n", "\nnew\nlonger\n"))
    assert machine.git_state(repository) == (commit, False)
    readme.write_text(readme.read_text().replace("Bye", "So long"))
    assert machine.git_state(repository) == (commit, True)


@pytest.mark.parametrize("change", ["edit", "delete", "add"])
def test_dirty_sees_every_kind_of_change(repository, change):
    path = repository / ("new file.py" if change == "add" else "code.py")
    path.unlink() if change == "delete" else path.write_text("x = 2\n")
    assert machine.git_state(repository)[1]


def test_what_changed_is_named(repository, monkeypatch):
    """By its place under the root, also in a repository that holds more than that, whatever is in its name."""
    assert machine.changed_files(repository) == []
    names = ["new file.py", 'a "b"\tc\n.py', "\u00fc.py", "deep/er/x.yaml", os.fsdecode(b"\xff.py")]
    for name in names:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).touch()
    (repository / "code.py").unlink()
    (repository / "report.html").touch()
    assert sorted(machine.changed_files(repository)) == sorted([*names, "code.py"])
    assert machine.changed_files(repository / "deep") == ["er/x.yaml"]
    (repository / "deep" / "README.md").write_text("# Of its own\n<!-- ninefold:claims -->\n<!-- /ninefold:claims -->\n")
    subprocess.run(["git", "add", "deep"], cwd=repository, check=True)
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "two"], cwd=repository, check=True)
    (repository / "deep" / "README.md").write_text("# Of its own\n<!-- ninefold:claims -->\nx\n<!-- /ninefold:claims -->\n")
    assert machine.changed_files(repository / "deep") == [] and not machine.git_state(repository / "deep")[1]
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent.parent))
    with pytest.raises(subprocess.CalledProcessError):
        machine.changed_files(repository.parent)


@pytest.mark.parametrize(("count", "named"), [
    (0, ""), (1, " (a0.py)"), (5, " (a0.py, a1.py, a2.py, a3.py, a4.py)"), (8, " (a0.py, a1.py, a2.py, a3.py, a4.py and 3 more)"),
    (None, " (git knows of no commit here, and NINEFOLD_COMMIT names none)"),
])  # fmt: skip
def test_a_run_names_what_changed(tmp_path, monkeypatch, capsys, count, named):
    """Where it says that its records are not to be committed, and where it refuses to publish."""
    from common.runs import reproduce

    def changed():
        if count is None:
            raise FileNotFoundError("git")
        return [f"a{i}.py" for i in range(count)]

    here = tmp_path / "papers" / "demo"
    here.mkdir(parents=True)
    claims_yaml(here, claim("equals", "analytic", paper=3.0) | {"id": "demo/C1"})
    (here / "eval.py").touch()
    outcome = reproduce.Outcome({"C1": point(3.0)})
    states = iter([("a" * 40, False), ("a" * 40, True)])
    monkeypatch.setattr(reproduce, "changed_files", changed)
    monkeypatch.setattr(machine, "git_state", lambda root=None: ("a" * 40, True))
    monkeypatch.setattr(reproduce, "git_state", lambda root=None: ("a" * 40, True))
    assert reproduce.main(here, lambda rung, log: outcome, ["--rung", "analytic"]) == 0
    assert f"This tree has changes that no commit holds{named}, so the run names no commit" in capsys.readouterr().out
    assert reproduce.main(here, lambda rung, log: outcome, ["--rung", "analytic", "--publish"]) == 2
    assert f"--publish: the tree has uncommitted changes{named}, so" in capsys.readouterr().err
    monkeypatch.setattr(machine, "git_state", lambda root=None: next(states))
    monkeypatch.setattr(reproduce, "git_state", lambda root=None: next(states))  # changed meanwhile
    assert reproduce.main(here, lambda rung, log: outcome, ["--rung", "analytic", "--publish"]) == 2
    assert f"and is aaaaaaaaaaaa with uncommitted changes{named}), so its records" in capsys.readouterr().err


def test_results_above_the_root_are_no_reason_to_call_it_clean(repository):
    """A copy that lies in somebody's folder of results is still a tree with changes."""
    root = repository / "results" / "mine"
    root.mkdir(parents=True)
    (root / "code.py").touch()
    assert machine.changed_files(root) == ["code.py"]


@pytest.mark.parametrize("ignored", [True, False])
def test_what_a_killed_writer_leaves_is_no_change(repository, ignored):
    """With our .gitignore git does not list it; without, in a copy that lost it, it is known by its name."""
    if ignored:
        (repository / ".gitignore").write_bytes((machine.ROOT / ".gitignore").read_bytes())
        subprocess.run(["git", "add", ".gitignore"], cwd=repository, check=True)
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "two"], cwd=repository, check=True)
    with pytest.raises(SystemError), files.replacing(repository / "report.html") as file:
        file.write(b"half")
        (left,) = repository.glob(".report.html.*.tmp")
        for folder in ("", "papers/demo/configs", "common"):
            copy = repository / folder / left.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(b"half")
        raise SystemError("killed")
    with pytest.raises(SystemError), files.building(repository / "a folder") as folder:
        (folder / "inside.py").touch()
        os.rename(folder, repository / "common" / folder.name)  # out of reach of the writer, who would take it away
        raise SystemError("killed")
    assert len(list(repository.rglob("*.tmp"))) == 3
    assert machine.changed_files(repository) == []
    listed = subprocess.run(["git", "status", "--porcelain"], cwd=repository, capture_output=True, text=True, check=True).stdout
    assert bool(listed) != ignored
    for name in ("notes.tmp", ".x.tmp", "common/a.0123456.tmp", ".settings.0123456789.tmp"):
        (repository / name).touch()
        assert machine.changed_files(repository) == [name]
        (repository / name).unlink()


def test_outside_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("NINEFOLD_COMMIT", raising=False)
    assert machine.git_state(tmp_path) == ("unknown", True)
    monkeypatch.setenv("NINEFOLD_COMMIT", "abc")
    assert machine.git_state(tmp_path) == ("abc", False)
    monkeypatch.setenv("PATH", "")  # no git at all
    assert machine.git_state(tmp_path) == ("abc", False)


def test_environment_names_versions_and_nobody():
    got = machine.environment()
    assert got["versions"]["torch"] and got["cores"] >= 1 and got["memory_gb"] > 0
    assert set(got["versions"]) >= {"transformers", "lm-eval", "trl"}
    text = json.dumps(got)
    secrets = [os.uname().nodename, str(Path.home()), str(machine.ROOT), os.environ.get("USER")]
    assert not [s for s in secrets if s and len(s) > 4 and s in text]
    record(run={"environment": got})  # and is accepted as it is


def test_environment_imports_nothing_heavy():
    code = (
        "import sys, common.claims.records as r; r.environment(); "
        "print(sorted({'torch', 'jsonschema'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_start_run_begins_a_record(repository):
    run = machine.start_run("make reproduce-demo", repository) | {"seconds": 3.0}
    made = make_record(claim(), "c" * 64, one(101.0), run, seeds=[0])
    assert made["run"]["commit"] == machine.git_state(repository)[0]
    assert made["run"]["id"].startswith("demo/C1.paper-scale@20")
