"""Scores that belong to weights: kept in a file with what they are of, and read again only where that is the same.

    of = {"weights_sha256": folder_sha256(run / "model"), "dtype": "bfloat16", "limit": None}
    row = kept(run / "benchmarks" / "GQA.json", of, lambda: evaluate(...), log)

A name says nothing about weights: a run that is trained anew has the folder of the one before, and its scores are others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DataError, ModelError
from ..files import file_sha256, write_json


def folder_sha256(folder: Path) -> str:
    """sha256 over names and bytes of all files below a model's folder, hidden ones apart. Raises ModelError where there are none."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    lines = [f"{name} {file_sha256(path)}\n" for name, path in files if not any(part.startswith(".") for part in name.split("/"))]
    if not lines:
        raise ModelError(f"{folder.name}: there is no such folder of a model, or nothing in it")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def named(name: str | None, revision: str | None = None) -> dict[str, Any]:
    """What tells a model by its name: of a folder the hash of its files, of a hub's id the revision."""
    folder = Path(name).expanduser() if name else None
    if folder is not None and folder.is_dir():
        return {"name": name, "sha256": folder_sha256(folder)}
    return {"name": name, "revision": revision}


def kept(path: Path, of: dict[str, Any], make: Callable[[], dict], log: Callable[[str], None]) -> dict[str, Any]:
    """What `make` gives, from the file where it was kept of the same `of`, else made, and kept with it under "of".

    of: plain data, compared as JSON reads it. Raises DataError for a file that is none of ours, and whatever `make` raises.
    """
    of = json.loads(json.dumps(of, default=str))
    row = _read(path) if path.is_file() else {}
    if row.get("of") != of:
        if row:
            log(f"what {path.name} holds is of other weights or another question, and is replaced")
        row = make() | {"of": of}
        write_json(path, row)
    return row


def _read(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} in {path.parent.name} is no JSON ({error}); delete it, and the benchmark is asked again") from error
    if not isinstance(row, dict):
        raise DataError(f"{path.name} in {path.parent.name} holds no scores; delete it, and the benchmark is asked again")
    return row
