"""Copy one paper, with what it uses of `common`, into a folder that runs alone.

    make copy-skipgpt DEST=../my-method

A student who wants to change a method should not carry eight others. Inside a paper imports are
relative, so the folder may be renamed afterwards. Which files of `common` come along is found by
following the imports, function-level ones too; data files beside a copied module come with it, and so
do folders beside it that it names, e.g. of trained weights.
The versions are those of uv.lock, written as a plain requirements.txt without any index. What came along is printed, and
stands in the copy's README: each part of common with its size and with who needs it there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .progress import replace_unprintable
from .runs.sources import ROOT, data_of, imported_modules, reached

# The points of planes.py are read beside those of other papers, by nothing that a copy has.
ELSEWHERE = "planes.py"
NOT_COPIED = shutil.ignore_patterns("__pycache__", "lightning_logs", ".*", ELSEWHERE)
NAMED = 3  # users of a part whose names are shown

MAKEFILE = """\
# Copied from Ninefold. The environment is made from requirements.txt, with pip's own settings, unless the user brings one:
# make test ENV_PYTHON=python3
ifeq ($(filter Makefile ./Makefile,$(lastword $(MAKEFILE_LIST))),)
ifneq ($(strip $(MAKEFILE_LIST)),$(strip $(CURDIR)/Makefile))
$(error This works in the Makefile's own folder only: cd to it, or make -C FOLDER TARGET)
endif
endif

# What a user may set goes to Python through the environment, as it was typed: neither make nor a shell looks into it.
SETTINGS := RUNG ONLY SEEDS STRICT NINEFOLD_DATA NINEFOLD_CACHE PYTHON ENV_PYTHON
GIVEN :=
$(foreach name,$(SETTINGS),$(if $(filter-out undefined,$(origin $(name))),$(if $(value $(name)),\\
  $(eval GIVEN += $(name))$(eval override $(name) := $$(value $(name)))$(eval export $(name)))))

# Without this a Python that was told not to look into the folder that it stands in finds nothing of this one.
unexport PYTHONSAFEPATH
# Whatever the locale, files are UTF-8; a sign that the user's own encoding of the output lacks is printed as "?".
ENCODING := $(if $(filter :%,$(PYTHONIOENCODING)),,$(firstword $(subst :, ,$(PYTHONIOENCODING))))
override PYTHONIOENCODING := $(ENCODING):replace
override PYTHONUTF8 := 1
export PYTHONUTF8 PYTHONIOENCODING

ENVIRONMENT := .venv/.done
ifneq ($(filter ENV_PYTHON,$(GIVEN)),)
ifneq ($(ENV_PYTHON),.venv/bin/python)
ENVIRONMENT := .own-python
endif
endif
RUN = "$${{ENV_PYTHON:-.venv/bin/python}}"
IS_NEW = 'import sys; print(sys.version_info >= (3, 11))'
MUST_RUN = [ "$$("$$python" -c $(IS_NEW) 2>/dev/null </dev/null)" = True ] || {{ printf '%s\\n' >&2 \\
  "$$python is no Python, 3.11 or newer, that runs here: name one by PYTHON=... (or ENV_PYTHON=...)"; exit 2; }}

.PHONY: reproduce test smoke
reproduce: $(ENVIRONMENT)
\t@$(RUN) -m papers.{paper}.eval

test: $(ENVIRONMENT)
\t@unset RUNG ONLY SEEDS STRICT; $(RUN) -m pytest

smoke: $(ENVIRONMENT)
\t@$(RUN) -m papers.{paper}.train fit --config papers/{paper}/configs/cpu/rehearsal.yaml --trainer.max_steps 2

.own-python:
\t@python=$$ENV_PYTHON; $(MUST_RUN)

# torch first and with what it needs, which differs between its builds; the rest exactly as listed.
.venv/.done: requirements.txt
\t@python=$${{PYTHON:-python3}}; $(MUST_RUN); "$$python" -m venv .venv
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

## What came along of common

Every file that the paper's own files import, or that these import in turn, with the data beside it.

{table}
"""


class CopyError(UserError):
    """A paper or a place that cannot be: which, and what to choose instead."""


@dataclass(frozen=True)
class Part:
    """A room of common, or a module in no room. files: with its data; lines: of its Python files; users: who imports it."""

    name: str
    files: int
    lines: int
    users: tuple[str, ...]


def own_files(root: Path, paper: str) -> list[Path]:
    """The Python files of a paper that a copy has."""
    return sorted(file for file in (root / "papers" / paper).rglob("*.py") if file.name != ELSEWHERE)


def needed_files(root: Path, paper: str) -> list[Path]:
    """Files of `common` that the paper's Python files reach, and the data beside them, relative to root, sorted."""
    code = {f for f in reached(own_files(root, paper), root) if f.is_relative_to(root / "common")}
    return sorted(file.relative_to(root) for file in code | data_of(code))


def part_of(file: Path) -> str:
    """common/data/text.py -> data, common/files.py -> files."""
    return file.parts[1] if len(file.parts) > 2 else file.stem


def parts(root: Path, paper: str) -> list[Part]:
    """What a copy of the paper has of common, the largest first.

    Users are the paper's own files, tests as one; of a part that only common needs, the parts that do.
    """
    files = needed_files(root, paper)
    own: dict[str, dict[str, None]] = {}
    other: dict[str, dict[str, None]] = {}
    for file in [*own_files(root, paper), *(root / file for file in files if file.suffix == ".py")]:
        place = file.relative_to(root)
        ours = place.parts[0] == "papers"
        user = ("tests" if "tests" in place.parts else Path(*place.parts[2:]).as_posix()) if ours else f"common.{part_of(place)}"
        for name in _parts_imported(file, root):
            if name != user.removeprefix("common.") or ours:
                (own if ours else other).setdefault(name, {})[user] = None
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(part_of(file), []).append(root / file)
    made = [Part(name, len(its), sum(len(f.read_text(encoding="utf-8").splitlines()) for f in its if f.suffix == ".py"),
                 tuple(sorted(own.get(name) or other.get(name, {}), key=lambda user: (user == "tests", user))))
            for name, its in found.items()]
    return sorted(made, key=lambda part: (-part.lines, part.name))


def _parts_imported(file: Path, root: Path) -> Iterator[str]:
    for name in imported_modules(file, ".".join(file.relative_to(root).parent.parts)):
        words = name.split(".")
        if words[0] == "common" and len(words) > 1:
            yield words[1]


def needed_by(part: Part) -> str:
    """The users of a part in a cell of a table."""
    more = len(part.users) - NAMED
    return ", ".join(part.users[:NAMED]) + (f" and {more} more" if more > 0 else "")


def table(found: list[Part]) -> list[tuple[str, str, str, str]]:
    """Rows of what came along, with their heads and their sum."""
    return [("part of common", "files", "lines", "needed by"),
            *((part.name, f"{part.files}", f"{part.lines:,}", needed_by(part)) for part in found),
            ("total", f"{sum(part.files for part in found)}", f"{sum(part.lines for part in found):,}", "")]


def markdown(found: list[Part]) -> str:
    head, *rows = ("| " + " | ".join(row) + " |" for row in table(found))
    return "\n".join([head, "|---|--:|--:|---|", *rows])


def shared_by_tests(root, paper):
    """Files of tests/ that the paper's own tests import, relative to root, sorted."""
    folder = root / "papers" / paper
    names = {name for file in folder.rglob("*.py") for name in imported_modules(file, ".".join(file.parent.relative_to(root).parts))}
    files = {Path(*name.split(".")).with_suffix(".py") for name in names if name.startswith("tests.")}
    return sorted(file for file in files if (root / file).is_file())


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
        shutil.copytree(root / "papers" / paper, new / "papers" / paper, ignore=NOT_COPIED)
        if (package := root / "papers" / "__init__.py").is_file():  # a source of every record: without it all look older
            shutil.copy2(package, new / "papers" / "__init__.py")
        for file in needed_files(root, paper):
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / file, new / file)
        for name in ("LICENSE", "CITATION.cff", ".gitignore"):
            shutil.copy2(root / name, new / name)
        shutil.copy2(root / "tests" / "conftest.py", new / "conftest.py")  # no network in tests
        (new / "tests").mkdir()
        for file in shared_by_tests(root, paper):
            shutil.copy2(root / file, new / file)
        (new / "pytest.ini").write_text(pytest_ini(root))
        (new / "requirements.txt").write_text(requirements(root))
        (new / "Makefile").write_text(MAKEFILE.format(paper=paper))
        (new / "README.md").write_text(README.format(paper=paper, commit=commit(root), table=markdown(parts(root, paper))))
        new.rename(dest)  # takes the place of an empty folder, too
    return dest


def main(arguments):
    if not arguments:
        raise CopyError("usage: python -m common.copy_paper PAPER FOLDER (default: $DEST)")
    dest = copy_paper(arguments[0], arguments[1] if len(arguments) > 1 else os.environ.get("DEST", ""))
    count = sum(file.is_file() for file in dest.rglob("*"))
    print(f"copy-{arguments[0]}: {count} files in {dest}; `make test` there runs its tests\n")
    for name, files, lines, users in table(parts(ROOT, arguments[0])):
        print(f"  {name:<15}{files:>6}{lines:>8}  {users}".rstrip())


if __name__ == "__main__":
    replace_unprintable()  # the folder's name may have signs that this output lacks
    try:
        main(sys.argv[1:])
    except (CopyError, OSError) as error:  # OSError: a folder that cannot be made or written
        print(f"copy: {error}", file=sys.stderr)
        sys.exit(2)
