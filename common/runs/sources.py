"""What a piece of code depends on: the files that its imports reach, and the data that these name.

`closure("papers.gpe.experiments.speed")` follows every import statement of a module, those inside functions too, through the packages
of this tree (`common`, `papers`). It decides which results may be reused (a job's name holds the content of these files) and
which files of common a copied paper takes along, so that no list of files is kept by hand and none can be wrong. What is
reached by a name in a string alone is not seen: name such a module in an import, or the file among the job's sources.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ("common", "papers")
WRITTEN = ("results", "__pycache__", "lightning_logs")  # by runs: nothing may depend on them


def imported_modules(path: Path, package: str) -> Iterator[str]:
    """Absolute dotted names that a file imports anywhere in it.

    path: a Python file; package: dotted name of the package it is in. For `from a import b` both `a` and `a.b` are given,
    because only the file system knows whether b is a module.
    """
    for level, module, names in _looked_at(path).imports:
        parts = package.split(".")
        base = parts[: len(parts) - level + 1] if level else []
        name = ".".join([*base, *([module] if module else [])])
        yield name
        yield from (f"{name}.{each}" for each in names)


def named_data(path: Path) -> list[Path]:
    """Files and folders beside a Python file, no code, whose whole name is one of its string constants, or stands before the
    "/" of one: "tasks", "claims.schema.json"."""
    words = _looked_at(path).words

    def is_data(beside: Path) -> bool:
        if beside.name not in words or beside.name in WRITTEN:
            return False
        return not (any(beside.glob("*.py")) if beside.is_dir() else beside.suffix in (".py", ".pyc"))

    return sorted(filter(is_data, path.parent.iterdir()))


@dataclass(frozen=True)
class Seen:
    """What a file says: imports as (level, module, names), and its string constants, also cut at the first "/"."""

    imports: tuple[tuple[int, str | None, tuple[str, ...]], ...]
    words: frozenset[str]


def _looked_at(path: Path) -> Seen:
    """Once a file as it is: a run asks for the closures of dozens of jobs, which share nearly all of it."""
    facts = path.stat()
    return _look(path, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=4096)
def _look(path: Path, changed: int, size: int) -> Seen:
    imports: list[tuple[int, str | None, tuple[str, ...]]] = []
    words: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module, tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= {node.value, node.value.partition("/")[0]}
    return Seen(tuple(imports), frozenset(words))


def reached(start: Iterable[Path], root: Path = ROOT) -> set[Path]:
    """The files of `start` and every Python file of the tree that their imports reach; importing a.b.c runs a and a.b, too."""
    found = set(start)
    queue = list(found)
    while queue:
        path = queue.pop()
        for name in imported_modules(path, ".".join(path.relative_to(root).parent.parts)):
            parts = name.split(".")
            if parts[0] not in OURS:
                continue
            for depth in range(1, len(parts) + 1):
                target = root.joinpath(*parts[:depth])
                for file in (target.with_suffix(".py"), target / "__init__.py"):
                    if file not in found and file.is_file():
                        found.add(file)
                        queue.append(file)
    return found


def data_of(files: Iterable[Path]) -> set[Path]:
    """All files of the data that these Python files name, see `named_data`."""
    found: set[Path] = set()
    for path in files:
        for data in named_data(path):
            found.update(f for f in (data.rglob("*") if data.is_dir() else [data]) if f.is_file())
    return found


def closure(module: str, root: Path = ROOT) -> tuple[Path, ...]:
    """Every file that the dotted module's results may depend on, sorted. Raises ModuleNotFoundError where it is none of ours."""
    target = root.joinpath(*module.split("."))
    start = next((f for f in (target.with_suffix(".py"), target / "__init__.py") if f.is_file()), None)
    if start is None:
        raise ModuleNotFoundError(f"{module}: no such module in this tree")
    packages = [p / "__init__.py" for p in target.relative_to(root).parents if (root / p / "__init__.py").is_file()]
    code = reached([start, *(root / p for p in packages)], root)
    return tuple(sorted(code | {file for file in data_of(code) if file.suffix != ".md"}))  # prose computes nothing
