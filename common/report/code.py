"""The code that results were computed by: the hashes of its files, and what of it differs now.

results/sources.json has the hash of every file that an experiment's jobs depended on; a record carries one hash over them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..claims.machine import ROOT
from ..claims.shapes import once


def older_code(record: dict, root: Path = ROOT) -> list[str]:
    """Files that differ now from those that the record's results were computed by; for a measurement that names none, so much.

    Only files that were there are compared: a new one changes a result through one of these, which then imports it.
    """
    if (named := record["run"].get("sources")) is None:
        measured = record["measured"]["value"] is not None and record["claim"]["rung"] != "analytic"
        return ["(the run did not write down its sources)"] if measured else []
    files = read_sources(root / "papers" / record["claim"]["paper_key"] / "results" / "sources.json").get(named["experiment"])
    if files is None or digest_of(files) != named["sha256"]:
        return ["(results/sources.json does not hold the files that the record names)"]
    return changed_since(files, root)


def changed_since(files: Mapping[str, str | None], root: Path = ROOT) -> list[str]:
    """Of files with their hashes those that the tree has otherwise, or no longer. Names in brackets are of no tree, see `hashes`."""
    return [name for name, sha in files.items() if not name.startswith("(") and _sha256(root / name) != sha]


def digest_of(files: Mapping[str, str | None]) -> str:
    """One hash over {file: hash}: what a record carries."""
    return hashlib.sha256(json.dumps(dict(sorted(files.items()))).encode()).hexdigest()


def hashes(files: Iterator[Path] | list[Path], root: Path = ROOT) -> dict[str, str | None]:
    """{file relative to the root: the first 16 digits of its hash}; of what lies outside, or in a cache, the name in brackets,
    which says what was read and cannot be looked up in another tree."""
    return {place(path, root): _sha256(path) for path in sorted(files)}


def place(path: Path, root: Path = ROOT) -> str:
    if not path.is_absolute():
        return path.as_posix()
    inside = path.is_relative_to(root) and not path.relative_to(root).parts[0].startswith(".")
    return path.relative_to(root).as_posix() if inside else f"({path.name})"


def read_sources(path: Path) -> dict[str, dict[str, str | None]]:
    """{experiment: {file: hash}} as results/sources.json has it; {} for a file that is not there, or is no such table."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, RecursionError):
        return {}


@functools.lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> dict[str, dict[str, str | None]]:
    found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    if not isinstance(found, dict) or not all(isinstance(files, dict) and all(isinstance(sha, str | None) for sha in files.values())
                                              for files in found.values()):
        raise ValueError("no table of files and hashes")
    return found


def _sha256(path: Path) -> str | None:
    try:
        facts = path.stat()
        return _hash(path, facts.st_mtime_ns, facts.st_size)
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)
def _hash(path: Path, changed: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
