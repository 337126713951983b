"""The shape of claims.yaml and of records, and what no such file may hold, whoever wrote it.

The shapes are the two JSON schemas beside this file. Beyond them: numbers are finite, text is real text that looks as it is,
keys are there once, nothing is nested deeper or longer than a person writes, and no place on somebody's machine is named.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..errors import RecordError
from .intervals import LARGEST

MOST_VALUES = 1_000_000
BIDI = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")  # they reorder what a reader sees
# A path from the root, a home folder or a drive, where a word starts; "https://host" is none.
PRIVATE_PATH = re.compile(r"""(?:^|[\s=:'"(,])(?:/[\w.-]+(?:/|$)|~/|[A-Za-z]:\\)""")


@functools.cache
def schema(file: str) -> dict:
    return json.loads(Path(__file__).with_name(file).read_text(encoding="utf-8"))


@functools.cache
def _validator(file: str):
    """The jsonschema validator, or None (with a warning) where jsonschema is not installed."""
    try:
        import jsonschema
        import referencing
    except ImportError:
        warnings.warn(
            "jsonschema is not installed, so the shape of records is not checked on this machine; "
            "`python -m common.report --check` checks it where it is",
            stacklevel=2,
        )
        return None
    record = referencing.Resource.from_contents(schema("claim_record.schema.json"))
    registry = referencing.Registry().with_resource("claim-record/2", record)
    return jsonschema.Draft202012Validator(schema(file), registry=registry)


def check_shape(content, file: str, name: str | Path) -> None:
    _refuse_strange(content, "$", name, itertools.count())
    if validator := _validator(file):
        from jsonschema.exceptions import best_match

        if error := best_match(validator.iter_errors(content)):
            said = error.message if len(error.message) < 200 else f"{error.message[:200]}..."
            raise RecordError(f"{name}: {error.json_path}: {said}")


def _refuse_strange(value, at: str, name: str | Path, seen: Iterator[int], depth: int = 0) -> None:
    """Only JSON's types, finite numbers, real text, and no more nesting and values than a person writes.

    seen: counts values. YAML's aliases let ten lines stand for ten thousand million of them.
    """
    if depth > 30:
        raise RecordError(f"{name}: {at[:80]}: is nested too deeply")
    if next(seen) > MOST_VALUES:
        raise RecordError(f"{name}: {at[:80]}: is the {MOST_VALUES:,}th value of the file; no record is that long")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise RecordError(f"{name}: {at}: key {key!r} must be text; put it in quotes")
            _refuse_strange(key, f"{at} (a key)", name, seen, depth + 1)
            _refuse_strange(inner, f"{at}.{key}", name, seen, depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _refuse_strange(inner, f"{at}[{i}]", name, seen, depth + 1)
    elif isinstance(value, int | float):
        if not abs(value) <= LARGEST:  # also false for NaN
            raise RecordError(f"{name}: {at}: {str(value)[:20]} is not a usable number")
    elif isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise RecordError(f"{name}: {at}: is not valid text (half of a surrogate pair)")
        if turned := BIDI.search(value):
            raise RecordError(f"{name}: {at}: holds the control character U+{ord(turned[0]):04X}, which makes text look other than it is")
    elif value is not None:
        kind = type(value).__name__
        raise RecordError(f"{name}: {at}: a {kind} is not plain data; if it is text, quote it")


def strings(value, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, f"{at}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from strings(inner, f"{at}[{i}]")


def ordered(value, schema: dict):
    """Keys in the schema's order, keys that it leaves free by name: equal runs, equal files."""
    if isinstance(value, dict):
        known = schema.get("properties", {})
        keys = [key for key in known if key in value] + sorted(set(value) - set(known))
        return {key: ordered(value[key], known.get(key, {})) for key in keys}
    if isinstance(value, list | tuple):
        return [ordered(inner, schema.get("items", {})) for inner in value]
    return value


def once(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object whose keys are there once. Raises ValueError."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return made


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
