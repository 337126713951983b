"""Which files a copy of a paper has: all of it, or what a student needs who changes the method and trains it.

The whole copy has every file of the paper, and of `common` what these reach. The copy for training (ONLY=training) has

1. method.py, the parts beside it that its docstring names, train.py, and whatever these import;
2. commands of the paper, modules with a main, that ask `common` for at most `FEW` lines beyond that;
3. the paper's other modules, and its tests, that ask `common` for nothing beyond that, and that need no experiment and no stand-in;
4. configs whose classes are among these, and the data that code or configs name.

So nothing is listed by hand, and what judges claims (runs, claims, report, the experiments) stays behind by its own weight.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError
from .runs.sources import data_of, imported_modules, reached

# The points of planes.py are read beside those of other papers, by nothing that a copy has.
ELSEWHERE = "planes.py"
WHOLE, TRAINING = "", "training"
KINDS = {TRAINING: "the method, its training and their tests"}
FEW = 450  # lines of common: an eighth of what a copy for training should have
NAMED = 3  # users of a part whose names are shown


class CopyError(UserError):
    """A paper, a part of it or a place that cannot be: which, and what to choose instead."""


@dataclass(frozen=True)
class Part:
    """A room of common, or a module in no room. files: with its data; lines: of its Python files; users: who imports it."""

    name: str
    files: int
    lines: int
    users: tuple[str, ...]


# --- the paper's files ----------------------------------------------------------------------------


def own_files(root: Path, paper: str, only: str = WHOLE) -> list[Path]:
    """The Python files of a paper that a copy has, sorted. Raises CopyError where `only` names no kind of copy."""
    if only == WHOLE:
        return sorted(file for file in (root / "papers" / paper).rglob("*.py") if file.name != ELSEWHERE)
    if only not in KINDS:
        there = ", ".join(f"{kind} ({what})" for kind, what in KINDS.items())
        raise CopyError(f"ONLY={only!r}: there is no such part of a paper; there is: {there}; without ONLY all is copied")
    folder = root / "papers" / paper
    state = tuple((file, (facts := file.stat()).st_mtime_ns, facts.st_size)
                  for place in (folder, root / "common", root / "tests") for file in sorted(place.rglob("*.py")))
    return list(_for_training(root, folder, state))


@functools.lru_cache(maxsize=32)
def _for_training(root: Path, folder: Path, state: tuple[tuple[Path, int, int], ...]) -> tuple[Path, ...]:
    """Once a tree as it is (`state`): it takes a second, and a copy asks for it several times."""
    def of_common(files: Iterable[Path]) -> set[Path]:
        return {file for file in files if file.is_relative_to(root / "common")}

    def left_behind(files: Iterable[Path]) -> bool:
        """Of experiments, or of what makes the models that they are on."""
        made = root / "common" / "standins"
        return any(file.is_relative_to(made) or file.is_relative_to(folder) and file.parent != folder for file in files)

    begin = [folder / "method.py", *parts_of_method(folder), folder / "train.py"]
    core = reached(filter(Path.is_file, begin), root)
    modules = [file for file in sorted(folder.glob("*.py")) if file.name != ELSEWHERE]
    closures = {file: reached([file], root) for file in modules}
    chosen = set(core)
    for file in filter(is_command, modules):
        if lines_of(of_common(closures[file]) - core) <= FEW and not left_behind(closures[file]):
            chosen |= closures[file]
    inside = of_common(chosen)
    for file in modules:
        if of_common(closures[file]) <= inside and not left_behind(closures[file]):
            chosen |= closures[file]
    for test in sorted((folder / "tests").glob("test_*.py")):
        needed = _reached_by_test(test, root)
        if {file for file in needed if not file.is_relative_to(folder / "tests")} <= chosen:
            chosen |= needed
    return tuple(sorted(file for file in chosen if file.is_relative_to(folder)))


def parts_of_method(folder: Path) -> list[Path]:
    """The files beside method.py that its docstring names."""
    words = ast.get_docstring(ast.parse((folder / "method.py").read_text(encoding="utf-8"))) or ""
    return sorted({folder / name for name in re.findall(r"\b\w+\.py\b", words) if (folder / name).is_file()})


def is_command(file: Path) -> bool:
    return '\nif __name__ == "__main__":\n' in file.read_text(encoding="utf-8")


def _reached_by_test(test: Path, root: Path) -> set[Path]:
    """The files of papers and common that a test needs; what pytest loads before it, and what helpers in tests/ import, too."""
    start = [test, *filter(Path.is_file, [test.parent / "conftest.py"])]
    found = reached(start, root)
    while more := reached(found | {root / file for file in shared_by_tests(root, found)}, root) - found:
        found |= more
    return {file for file in found if not file.is_relative_to(root / "tests")}


def shared_by_tests(root: Path, files: Iterable[Path]) -> list[Path]:
    """Files of tests/ that these Python files import, or that those import in turn, relative to root, sorted."""
    found: set[Path] = set()
    queue = list(files)
    while queue:
        file = queue.pop()
        for name in imported_modules(file, ".".join(file.parent.relative_to(root).parts)):
            helper = root.joinpath(*name.split(".")).with_suffix(".py")
            if name.startswith("tests.") and helper.is_file() and helper not in found:
                found.add(helper)
                queue.append(helper)
    return sorted(file.relative_to(root) for file in found)


# --- configs, and data that code and configs name --------------------------------------------------


def configs(root: Path, paper: str, own: Iterable[Path]) -> list[Path]:
    """The paper's configs that name no class of this tree outside `own` and what these reach, sorted."""
    there = reached(own, root)

    def known(config: Path) -> bool:
        words = (word for key, word in _scalars(read_config(config)) if key == "class_path")
        modules = (root.joinpath(*word.split(".")[:-1]) for word in words if word.startswith(("common.", "papers.")))
        return all(module.with_suffix(".py") in there or module / "__init__.py" in there for module in modules)

    return [file for file in sorted((root / "papers" / paper / "configs").rglob("*.yaml")) if known(file)]


def read_config(config: Path) -> Any:
    return yaml.safe_load(config.read_text(encoding="utf-8"))


def _scalars(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, string) wherever in it."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _scalars(each, str(name))
    elif isinstance(value, list):
        for each in value:
            yield from _scalars(each, key)
    elif isinstance(value, str):
        yield key, value


def named_by_configs(root: Path, files: Iterable[Path]) -> set[Path]:
    """Files of this tree that configs name, or that lie in a folder that they name: weights to begin from."""
    words = {word for file in files for _, word in _scalars(read_config(file)) if word.startswith(("common/", "papers/"))}
    return {file for word in words for file in ([root / word] if (root / word).is_file() else (root / word).rglob("*")) if file.is_file()}


def pictures_of(page: Path) -> list[Path]:
    """The pictures that a page shows, as far as they are there."""
    names = re.findall(r"!\[[^\]]*\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")) if page.is_file() else []
    return [page.parent / name for name in names if (page.parent / name).is_file()]


def papers_files(root: Path, paper: str) -> list[Path]:
    """All files of the paper that a copy for training has, relative to root, sorted."""
    folder, own = root / "papers" / paper, own_files(root, paper, TRAINING)
    chosen = configs(root, paper, own)
    data = {file for file in data_of(own) if not file.is_relative_to(folder / "configs")} | named_by_configs(root, chosen)
    page = folder / "README.md"
    found = {*own, *chosen, *(file for file in data if file.is_relative_to(folder)), *filter(Path.is_file, [page]), *pictures_of(page)}
    return sorted(file.relative_to(root) for file in found)


# --- what comes along of common -------------------------------------------------------------------


def needed_files(root: Path, paper: str, only: str = WHOLE) -> list[Path]:
    """Files of `common` that the copied Python files reach, and the data beside them, relative to root, sorted."""
    own = own_files(root, paper, only)
    files = {f for f in reached(own, root) if f.is_relative_to(root / "common")}
    files |= data_of(files)
    if only == TRAINING:
        files |= {file for file in named_by_configs(root, configs(root, paper, own)) if file.is_relative_to(root / "common")}
    return sorted(file.relative_to(root) for file in files)


def part_of(file: Path) -> str:
    """common/data/text.py -> data, common/files.py -> files."""
    return file.parts[1] if len(file.parts) > 2 else file.stem


def parts(root: Path, paper: str, only: str = WHOLE) -> list[Part]:
    """What a copy of the paper has of common, the largest first.

    Users are the paper's own files, tests as one; of a part that only common needs, the parts that do; of data that a config
    names, the configs.
    """
    files = needed_files(root, paper, only)
    own: dict[str, dict[str, None]] = {}
    other: dict[str, dict[str, None]] = {}
    for file in [*own_files(root, paper, only), *(root / file for file in files if file.suffix == ".py")]:
        place = file.relative_to(root)
        ours = place.parts[0] == "papers"
        user = ("tests" if "tests" in place.parts else Path(*place.parts[2:]).as_posix()) if ours else f"common.{part_of(place)}"
        for name in _parts_imported(file, root):
            if name != user.removeprefix("common.") or ours:
                (own if ours else other).setdefault(name, {})[user] = None
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(part_of(file), []).append(root / file)
    made = [Part(name, len(its), lines_of(f for f in its if f.suffix == ".py"),
                 tuple(sorted(own.get(name) or other.get(name) or ([] if name == "__init__" else ["configs"]),
                              key=lambda user: (user == "tests", user))))
            for name, its in found.items()]
    return sorted(made, key=lambda part: (-part.lines, part.name))


def lines_of(files: Iterable[Path]) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


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
