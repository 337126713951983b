"""Copy one paper, with what it uses of `common`, into a folder that runs alone.

    make copy-skipgpt DEST=../my-method                  # all of it, with its claims and their verdicts
    make copy-skipgpt DEST=../my-method ONLY=training    # the method, its training and their tests

A student who wants to change a method should not carry eight others. Inside a paper imports are relative, and the copy's folder may
have any name. Which files come along is found by following the imports, function-level ones too (copy_selection.py); data files
beside a copied module come with it, and so do folders beside it that it names, e.g. of trained weights.
The versions are those of uv.lock, written as a plain requirements.txt without any index. What came along is printed, and
stands in the copy's README: each part of common with its size and with who needs it there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from .copy_pages import NOTE, makefile, readme
from .copy_selection import (
    ELSEWHERE,
    WHOLE,
    CopyError,
    needed_files,
    own_files,
    papers_files,
    parts,
    shared_by_tests,
    table,
)
from .progress import replace_unprintable
from .runs.sources import ROOT

NOT_COPIED = shutil.ignore_patterns("__pycache__", "lightning_logs", ".*", ELSEWHERE)


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

    try:
        head = git("rev-parse", "HEAD")
    except OSError:  # no git on this machine, as where a tarball was unpacked
        return "a state without a commit"
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


def copy_paper(paper, destination, only=WHOLE, root=ROOT):
    """Copy `paper`, or its part `only`, to the empty or absent folder `destination`; all of it appears, or nothing.

    Raises CopyError for an unknown paper or part, or a destination that is not empty or inside root.
    """
    papers = sorted(path.parent.name for path in (root / "papers").glob("*/method.py"))
    if paper not in papers:
        raise CopyError(f"there is no paper {paper!r} here; there is: {', '.join(papers)}")
    own = own_files(root, paper, only)
    if not destination:
        raise CopyError(f"say where to: make copy-{paper} DEST=../my-{paper}")
    try:
        dest = Path(destination).expanduser().resolve()
    except RuntimeError:
        raise CopyError(f"{destination} is in the home folder of a user who is not here; choose another") from None
    if dest == root or root in dest.parents:
        raise CopyError(f"{destination} is inside this repository; choose a folder outside it")
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise CopyError(f"{destination} is not an empty folder; choose another")
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=".copy-") as folder:
        new = Path(folder) / "new"
        copy_files(root, new, needed_files(root, paper, only))
        if only == WHOLE:
            shutil.copytree(root / "papers" / paper, new / "papers" / paper, ignore=NOT_COPIED)
        else:
            copy_files(root, new, papers_files(root, paper))
            if (page := new / "papers" / paper / "README.md").is_file():
                page.write_text(NOTE + page.read_text(encoding="utf-8"), encoding="utf-8")
        if (root / "papers" / "__init__.py").is_file():  # a source of every record: without it all look older
            copy_files(root, new, ["papers/__init__.py"])
        copy_files(root, new, ("LICENSE", "CITATION.cff", ".gitignore"))
        shutil.copy2(root / "tests" / "conftest.py", new / "conftest.py")  # no network in tests
        (new / "tests").mkdir()
        copy_files(root, new, shared_by_tests(root, own))
        (new / "pytest.ini").write_text(pytest_ini(root))
        (new / "requirements.txt").write_text(requirements(root))
        (new / "Makefile").write_text(makefile(paper, only))
        (new / "README.md").write_text(readme(root, paper, commit(root), only), encoding="utf-8")
        new.rename(dest)  # takes the place of an empty folder, too
    return dest


def copy_files(root, new, files):
    """files: relative to both."""
    for file in files:
        (new / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / file, new / file)


def main(arguments):
    if not arguments:
        raise CopyError("usage: python -m common.copy_paper PAPER FOLDER (default: $DEST); $ONLY: a part of the paper")
    paper, only = arguments[0], os.environ.get("ONLY", WHOLE)
    dest = copy_paper(paper, arguments[1] if len(arguments) > 1 else os.environ.get("DEST", ""), only)
    count = sum(file.is_file() for file in dest.rglob("*"))
    print(f"copy-{paper}: {count} files in {dest}; `make test` there runs its tests\n")
    for name, files, lines, users in table(parts(ROOT, paper, only)):
        print(f"  {name:<15}{files:>6}{lines:>8}  {users}".rstrip())


if __name__ == "__main__":
    replace_unprintable()  # the folder's name may have signs that this output lacks
    try:
        main(sys.argv[1:])
    except (CopyError, OSError) as error:  # OSError: a folder that cannot be made or written
        print(f"copy: {error}", file=sys.stderr)
        sys.exit(2)
