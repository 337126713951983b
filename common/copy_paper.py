"""Copy one paper, with what it uses of `common`, into a folder that runs alone.

    make copy-skipgpt DEST=../my-method

A student who wants to change a method should not carry eight others. Inside a paper imports are
relative, so the folder may be renamed afterwards. Which files of `common` come along is found by
following the imports, function-level ones too; data files beside a copied module come with it, and so
do folders beside it that it names, e.g. of trained weights.
The versions are those of uv.lock, written as a plain requirements.txt without any index.
"""

import ast
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns("__pycache__", "lightning_logs", ".*")

MAKEFILE = """\
# Copied from Ninefold. The environment is made from requirements.txt, with pip's own settings, unless the user brings one:
# make test ENV_PYTHON=python3
PYTHON ?= python3
RUNG ?= cpu
ENV_PYTHON ?= .venv/bin/python
ENVIRONMENT := $(if $(filter .venv/bin/python,$(ENV_PYTHON)),.venv/.done)
export STRICT NINEFOLD_DATA NINEFOLD_CACHE

.PHONY: reproduce test smoke
reproduce: $(ENVIRONMENT)
\t@"$(ENV_PYTHON)" -m papers.{paper}.eval --rung "$(RUNG)"

test: $(ENVIRONMENT)
\t@"$(ENV_PYTHON)" -m pytest

smoke: $(ENVIRONMENT)
\t@"$(ENV_PYTHON)" -m papers.{paper}.train fit --config papers/{paper}/configs/cpu/rehearsal.yaml --trainer.max_steps 2

# torch first and with what it needs, which differs between its builds; the rest exactly as listed.
.venv/.done: requirements.txt
\t@"$(PYTHON)" -m venv .venv
\t@.venv/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.txt)"
\t@.venv/bin/python -m pip install --quiet --no-deps -r requirements.txt
\t@touch $@
"""

README = """\
# {paper}, copied from Ninefold

Copied at {commit}. `papers/{paper}/README.md` is the paper's own page: the claims, the map from
equations to functions, the deviations. Links in it to other folders lead to the repository.

    make reproduce      # a verdict for every claim, on two CPU cores
    make test           # the paper's tests, without network
    make smoke          # a training of two steps, in seconds

Change `papers/{paper}/method.py`; `common/` holds only what this paper uses. Python 3.11 or newer.
Apache-2.0, see LICENSE; to cite, see CITATION.cff.
"""


class CopyError(Exception):
    """Something the user can mend; the message says what."""


def imported_modules(path, package):
    """Absolute dotted names that a file imports anywhere in it.

    path: a Python file; package: dotted name of the package it is in. For `from a import b` both
    `a` and `a.b` are given, because only the file system knows whether b is a module.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def named_folders(path):
    """Folders beside a Python file, not packages, whose whole name is one of its string constants."""
    words = {node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return [f for f in sorted(path.parent.iterdir()) if f.name in words and f.is_dir() and not any(f.glob("*.py"))]


def needed_files(root, paper):
    """Files of `common` that the paper's Python files reach, relative to root, sorted."""
    found, queue = set(), sorted((root / "papers" / paper).rglob("*.py"))
    while queue:
        path = queue.pop()
        package = ".".join(path.relative_to(root).parent.parts)
        for name in imported_modules(path, package):
            parts = name.split(".")
            if parts[0] != "common":
                continue
            for depth in range(1, len(parts) + 1):  # importing a.b.c runs a and a.b as well
                target = root.joinpath(*parts[:depth])
                for file in (target.with_suffix(".py"), target / "__init__.py"):
                    if file.is_file() and file not in found:
                        found.add(file)
                        queue.append(file)
    for file in [f for f in found if f.suffix == ".py"]:
        for folder in named_folders(file):
            found.update(f for f in folder.rglob("*") if f.is_file())
    for folder in {file.parent for file in found}:
        inside = folder.glob("*") if folder == root / "common" else folder.rglob("*")
        found.update(f for f in inside if f.is_file() and f.suffix not in (".py", ".pyc"))
    return sorted(file.relative_to(root) for file in found)


def requirements(root):
    """Pinned versions of uv.lock, with markers, without hashes and hosts. Needs uv (in .venv)."""
    export = "export --quiet --frozen --no-emit-project --no-hashes --no-annotate --no-header"
    uv = [sys.executable, "-m", "uv", *export.split(), "--python", sys.executable]
    done = subprocess.run([*uv, "--prune", "torch"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise CopyError(f"uv could not read uv.lock; run `make setup`.\n{done.stderr.strip()}")
    lock = tomllib.loads((root / "uv.lock").read_text())
    torch = next(p["version"] for p in lock["package"] if p["name"] == "torch")
    return f"torch=={torch}\n{done.stdout}"


def commit(root):
    """What to call the state that is copied."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)

    head = git("rev-parse", "HEAD")
    if head.returncode:
        return "a state without a commit"
    changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    return f"commit {head.stdout.strip()}" + (" with uncommitted changes" if changed else "")


def pytest_ini(root):
    """The pytest settings of pyproject.toml, for papers/ alone."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["pytest"]
    lines = ["[pytest]"]
    for key, value in (settings["ini_options"] | {"testpaths": "papers"}).items():
        several = isinstance(value, list)
        lines += [f"{key} =", *(f"    {v}" for v in value)] if several else [f"{key} = {value}"]
    return "\n".join(lines) + "\n"


def copy_paper(paper, destination, root=ROOT):
    """Copy `paper` to the empty or absent folder `destination`; all of it appears, or nothing.

    Raises CopyError for an unknown paper, or a destination that is not empty or inside root.
    """
    papers = sorted(path.parent.name for path in (root / "papers").glob("*/method.py"))
    if paper not in papers:
        raise CopyError(f"there is no paper {paper!r} here; there is: {', '.join(papers)}")
    if not destination:
        raise CopyError(f"say where to: make copy-{paper} DEST=../my-{paper}")
    dest = Path(destination).expanduser().resolve()
    if dest == root or root in dest.parents:
        raise CopyError(f"{destination} is inside this repository; choose a folder outside it")
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise CopyError(f"{destination} is not an empty folder; choose another")
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=".copy-") as folder:
        new = Path(folder) / "new"
        shutil.copytree(root / "papers" / paper, new / "papers" / paper, ignore=NOT_COPIED)
        for file in needed_files(root, paper):
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / file, new / file)
        for name in ("LICENSE", "CITATION.cff", ".gitignore"):
            shutil.copy2(root / name, new / name)
        shutil.copy2(root / "tests" / "conftest.py", new / "conftest.py")  # no network in tests
        (new / "pytest.ini").write_text(pytest_ini(root))
        (new / "requirements.txt").write_text(requirements(root))
        (new / "Makefile").write_text(MAKEFILE.format(paper=paper))
        (new / "README.md").write_text(README.format(paper=paper, commit=commit(root)))
        new.rename(dest)  # takes the place of an empty folder, too
    return dest


def main(arguments):
    if not arguments:
        raise CopyError("usage: python -m common.copy_paper PAPER FOLDER")
    dest = copy_paper(arguments[0], arguments[1] if len(arguments) > 1 else "")
    count = sum(file.is_file() for file in dest.rglob("*"))
    print(f"copy-{arguments[0]}: {count} files in {dest}; `make test` there runs its tests")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CopyError as error:
        sys.exit(f"copy: {error}")
