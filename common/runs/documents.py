"""A document of measurements as a file that a person can read: a line for each innermost list or object, so that a row is a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import write_atomic


def write_document(path: Path, value: Any) -> None:
    """Writes the whole document or nothing, a third shorter than with a line for each number. Raises FileError as `write_atomic` does."""
    write_atomic(path, as_rows(value) + "\n")


def as_rows(value: Any, depth: int = 0) -> str:
    """JSON with keys in order; what holds no other list or object stands on one line."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if not any(isinstance(each, dict | list | tuple) for each in inner):
        return json.dumps(value, sort_keys=True)
    margin, close = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, dict):
        parts = [f"{json.dumps(str(key))}: {as_rows(value[key], depth + 1)}" for key in sorted(value)]
        return "{" + margin + ("," + margin).join(parts) + close + "}"
    return "[" + margin + ("," + margin).join(as_rows(each, depth + 1) for each in value) + close + "]"
