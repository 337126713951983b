"""Claims as data: claims.yaml (before any run) -> a record per claim and rung (after it) -> a file.

A record carries the claim, what the paper says, the protocol fixed beforehand with the hash of
claims.yaml, what was measured, the verdict, and the run that measured it (commit, command, machine,
versions). `claim_record.schema.json` is its shape; beyond the shape, a record is invalid when its
verdict does not follow from its own numbers, when a number is not finite, or when it names a place
on somebody's machine. Two runs that found the same differ in `run` only (`same_result`). Files are
replaced in one step: a run killed at any moment leaves the old record or the new one.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from ..errors import RecordError
from ..files import write_atomic
from .intervals import LARGEST, interval, paired, share, summarize  # noqa: F401  (part of this door)
from .machine import environment, git_state, start_run  # noqa: F401  (part of this door)
from .verdict import DULL, FAILS, rule_problem, verdict

VARIES = ("id", "started_at", "seconds", "environment", "commit", "dirty", "timing")
MOST_VALUES = 1_000_000
RECORD_NAME = re.compile(r"C[0-9]+[a-z]?\.[a-z-]+\.json")
BIDI = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")  # they reorder what a reader sees
# A path from the root, a home folder or a drive, where a word starts; "https://host" is none.
PRIVATE_PATH = re.compile(r"""(?:^|[\s=:'"(,])(?:/[\w.-]+(?:/|$)|~/|[A-Za-z]:\\)""")


@dataclass(frozen=True)
class Claims:
    """One claims.yaml: `paper` (key, title, ...), `claims`, `headlines`, and the sha256 of the file."""

    paper: dict
    claims: list[dict]
    sha256: str
    headlines: tuple[dict, ...] = ()

    def __iter__(self) -> Iterator[dict]:
        return iter(self.claims)

    def __len__(self) -> int:
        return len(self.claims)

    def find(self, claim_id: str, rung: str | None = None) -> dict | None:
        """The claim "skipgpt/C9" or "C9": its entry for the rung, else its first entry."""
        found = [c for c in self.claims if claim_id in (c["id"], c["id"].partition("/")[2])]
        return next((c for c in found if c["rung"] == rung), found[0] if found else None)


def load_claims(path: str | Path) -> Claims:
    """Reads and checks claims.yaml. Raises RecordError that names the file and the field."""
    path = Path(path)
    raw = _read(path)
    try:
        content = yaml.load(raw, Loader=_Loader)
    except Exception as error:  # PyYAML lets through whatever its constructors raise: `!!bool x` is a KeyError
        said = " ".join(str(error).split()) or type(error).__name__
        raise RecordError(f"{path}: not valid YAML: {said[:500]}") from None
    _check_shape(content, "claims.schema.json", path)
    seen = set()
    for i, claim in enumerate(content["claims"]):
        at, rule = f"{path}: $.claims[{i}]", None
        if claim["id"].partition("/")[0] != content["paper"]["key"]:
            raise RecordError(f"{at}.id: {claim['id']} is not of paper {content['paper']['key']}")
        if (claim["id"], claim["rung"]) in seen:
            raise RecordError(f"{at}.id: {claim['id']} appears twice at rung {claim['rung']}")
        seen.add((claim["id"], claim["rung"]))
        if claim.get("status") != "not-checkable" and (rule := rule_problem(claim)):
            raise RecordError(f"{at}.{rule[0]}: {claim['id']}: {rule[1]}")
    headlines = content.get("headlines", ())
    names = {claim["id"].partition("/")[2] for claim in content["claims"]}
    for i, headline in enumerate(headlines):
        if headline["id"].partition("/")[0] != content["paper"]["key"]:
            raise RecordError(f"{path}: $.headlines[{i}].id: {headline['id']} is not of paper {content['paper']['key']}")
        if unknown := [name for name in (*headline["rows"], headline.get("shows", headline["rows"][0])) if name not in names]:
            raise RecordError(f"{path}: $.headlines[{i}]: {headline['id']} names {', '.join(unknown)}, which is no claim here")
    return Claims(content["paper"], content["claims"], hashlib.sha256(raw).hexdigest(), tuple(headlines))


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-5 as a number, and refuses a key given twice and merge keys, all unlike YAML 1.1.

    Ten merges of ten merges of ... would fill the memory before anything could count them.
    """

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"merge key {key.value!r}, line {key.start_mark.line + 1}: write the entries out")
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"key {key.value!r} appears twice, line {key.start_mark.line + 1}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def make_record(
    claim: dict,
    claims_sha256: str,
    measured: dict | None,
    run: dict,
    *,
    seeds: Sequence[int],
    config_sha256: str = "",
    models: Sequence = (),
    datasets: Sequence = (),
    timing: dict | None = None,
    artifacts: Sequence[dict] | None = None,
    deviations: Sequence[str] = (),
    blocked_by: Sequence[str] = (),
) -> dict:
    """A checked record with its verdict.

    claim: an entry of claims.yaml; pass claim | {"rung": ...} to record it at another rung.
    measured: `summarize(...)` or `paired(...)`, plus baselines, delta, details; None if not run.
    run: `start_run(command)` | {"seconds": ...}. The rest goes where the schema says.
    Raises RecordError naming the field that is wrong.
    """
    measured = {"value": None, "n_runs": 0} if measured is None else measured
    word, reason, blocked = verdict(claim, measured, timing, blocked_by)
    about = ("id", "statement", "kind", "topic", "where", "rung")
    protocol = {**claim["protocol"], "seeds": list(seeds), "config_sha256": config_sha256}
    known = claim["protocol"].get("deviations", ())
    protocol["deviations"] = list(dict.fromkeys([*known, *deviations]))
    optional = {"timing": timing, "artifacts": artifacts}
    record = {
        "schema": "claim-record/2",
        "claim": {
            **{key: claim[key] for key in about},
            "paper_key": claim["id"].partition("/")[0],
            "required": claim.get("required", False),
        },
        "paper": claim["paper"],
        "protocol": {"rule": None, **protocol, "claims_sha256": claims_sha256},
        "measured": measured,
        "verdict": {"word": word, "reason": reason, "blocked_by": blocked},
        "run": {
            "id": f"{claim['id']}.{claim['rung']}@{run.get('started_at')}",
            **run,
            "models": list(models),
            "datasets": list(datasets),
            **{key: value for key, value in optional.items() if value is not None},
        },
    }
    validate_record(record, f"the new record of {claim['id']}")
    return _ordered(record, _schema("claim_record.schema.json"))


def validate_record(record: dict, name: str | Path = "record") -> None:
    """Raises RecordError naming `name` and the field, if the record is not a valid one."""
    _check_shape(record, "claim_record.schema.json", name)
    claim, measured, run = record["claim"], record["measured"], record["run"]
    if claim["id"].partition("/")[0] != claim["paper_key"]:
        raise RecordError(f"{name}: $.claim.paper_key: is not that of {claim['id']}")
    for at, numbers in (("measured", measured), *((f"measured.{c}", measured[c]) for c in ("placebo", "sensitivity") if measured.get(c))):
        _check_numbers(numbers, f"{name}: $.{at}")
    try:
        datetime.fromisoformat(run["started_at"])
    except ValueError:
        raise RecordError(f"{name}: $.run.started_at: {run['started_at']!r} is no time") from None
    for field in ("command", "models", "datasets", "artifacts", "environment"):
        for at, text in _strings(run.get(field), f"$.run.{field}"):
            if PRIVATE_PATH.search(text):
                raise RecordError(
                    f"{name}: {at}: {text[:80]!r} names a place on this machine; "
                    "write it relative to the repository"
                )
    _check_verdict(record, name)


def _check_numbers(measured: dict, at: str) -> None:
    """Value, list, standard error and interval say the same: each follows from the ones before it."""
    low, high = measured.get("ci95", (0, 0))
    if low > high:
        raise RecordError(f"{at}.ci95: {[low, high]} runs from high to low")
    value, runs = measured["value"], measured.get("per_seed")
    if "ci95" in measured and not low <= value <= high:
        raise RecordError(f"{at}.value: {value} lies outside its own interval {[low, high]}")
    if runs is None:
        if measured.get("stderr") is not None and "ci95" in measured and measured.get("stderr_kind") in ("paired", "clustered"):
            _equal_intervals(measured, interval({k: v for k, v in measured.items() if k != "ci95"}), at)
        return
    if len(runs) != measured["n_runs"]:
        raise RecordError(f"{at}.n_runs: is {measured['n_runs']}, but per_seed has {len(runs)} values")
    kind = measured.get("stderr_kind")
    if kind in ("across-seeds", "across-processes"):
        again = summarize(runs, measured.get("resolution", 0.0), kind.removeprefix("across-"))
        if not math.isclose(again["value"], value, rel_tol=1e-9, abs_tol=1e-12):
            raise RecordError(f"{at}.value: is {value}, but the mean of per_seed is {again['value']}")
        _equal_intervals(measured, again.get("ci95"), at)


def _equal_intervals(measured: dict, again: Sequence[float] | None, at: str) -> None:
    given = measured.get("ci95")
    if (given is None) != (again is None):
        raise RecordError(f"{at}.ci95: is {given}, but its list gives {again}")
    width = abs(again[1] - again[0]) if again else 0.0
    if again and not all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6 * width) for a, b in zip(given, again)):
        raise RecordError(f"{at}.ci95: is {list(given)}, which does not follow from the numbers beside it ({list(again)})")


def _check_verdict(record: dict, name: str | Path) -> None:
    """The word must follow from the numbers beside it: nobody writes it by hand."""
    word, entry = record["verdict"]["word"], {**record["claim"], **record}
    if word == "not-checkable" or (word == "not-run" and record["verdict"].get("blocked_by")):
        if word == "not-run" and record["measured"]["value"] is not None:
            raise RecordError(f"{name}: $.verdict.word: is not-run, but measured.value is given")
        return
    if problem := rule_problem(entry):
        raise RecordError(f"{name}: $.{problem[0]}: {problem[1]}")
    try:
        expected = verdict(entry, record["measured"], record["run"].get("timing"))[0]
    except RecordError as error:
        raise RecordError(f"{name}: $.measured: {error}") from None
    if word != expected:
        raise RecordError(f"{name}: $.verdict.word: is {word}, but the numbers say {expected}")


# ------------------------------------------------------------------------------- shape and types


@functools.cache
def _schema(file: str) -> dict:
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
    record = referencing.Resource.from_contents(_schema("claim_record.schema.json"))
    registry = referencing.Registry().with_resource("claim-record/2", record)
    return jsonschema.Draft202012Validator(_schema(file), registry=registry)


def _check_shape(content, file: str, name: str | Path) -> None:
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


def _strings(value, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, f"{at}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _strings(inner, f"{at}[{i}]")


def _ordered(value, schema: dict):
    """Keys in the schema's order, keys that it leaves free by name: equal runs, equal files."""
    if isinstance(value, dict):
        known = schema.get("properties", {})
        keys = [key for key in known if key in value] + sorted(set(value) - set(known))
        return {key: _ordered(value[key], known.get(key, {})) for key in keys}
    if isinstance(value, list | tuple):
        return [_ordered(inner, schema.get("items", {})) for inner in value]
    return value


# ------------------------------------------------------------------------------------------ files


def record_path(results_dir: str | Path, claim_id: str, rung: str) -> Path:
    """Raises RecordError for a claim or rung that would lead out of the folder: shapes are not checked everywhere."""
    name = f"{claim_id.rpartition('/')[2]}.{rung}.json"
    if not RECORD_NAME.fullmatch(name):
        raise RecordError(f"{Path(results_dir)}: {name!r} is no name of a record, such as C1.analytic.json")
    return Path(results_dir) / name


def results_dir(paper_dir: str | Path, dirty: bool) -> Path:
    """Where records of this run go: results/, or results/.scratch/ from a tree with changes."""
    results = Path(paper_dir) / "results"
    return results / ".scratch" if dirty else results


def write_record(record: dict, results_dir: str | Path) -> Path:
    """Checks the record and writes it in one step; the path it is in.

    Raises RecordError for an invalid record, for a record of a dirty tree outside .scratch, and
    when the folder cannot be written or the disk is full; the old file is then still there.
    """
    path = record_path(results_dir, record["claim"]["id"], record["claim"]["rung"])
    validate_record(record, path)
    if record["run"]["dirty"] and path.parent.name == "results":
        raise RecordError(
            f"{path}: the tree has uncommitted changes, and such a run may write only to "
            "results/.scratch/; commit first"
        )
    write_atomic(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_record(path: str | Path) -> dict:
    """Reads and checks one record file. Raises RecordError that names the file and the field."""
    path = Path(path)
    try:
        record = json.loads(_read(path), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not valid JSON: {error}") from None
    validate_record(record, path)
    wanted = record_path(path.parent, record["claim"]["id"], record["claim"]["rung"])
    if path.name != wanted.name:
        raise RecordError(f"{path}: $.claim: belongs into a file called {wanted.name}")
    return record


def record_files(results_dir: str | Path) -> list[Path]:
    """The record files of a results folder, by claim and rung; other files are no records."""
    found = [p for p in Path(results_dir).glob("C*.json") if RECORD_NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: claim_order(p.name))


def claim_order(claim_id: str) -> tuple[int, str]:
    """Sorts C2 before C15 and C15 before C15b."""
    number = re.search(r"C([0-9]+)", claim_id)
    return int(number[1]) if number else 0, claim_id


def read_records(results_dir: str | Path) -> list[dict]:
    """All records of a folder, if it exists. Raises RecordError at the first invalid one."""
    return [read_record(path) for path in record_files(results_dir)]


SAYS = ("statement", "kind", "topic", "where", "required", "paper")
OF_PROTOCOL = ("metric", "higher_is_better", "unit", "evidence", "placebo", "sensitivity", "rule")


def stale(record: dict, claims: Claims) -> str:
    """What claims.yaml says otherwise than the record, e.g. "rule"; "" where they say the same.

    By what is said of this claim and not by the file's hash: a word changed in a note makes no record older.
    """
    claim = claims.find(record["claim"]["id"], record["claim"]["rung"])
    if claim is None or claim["rung"] != record["claim"]["rung"]:
        return ""  # of no entry: shown as unlisted, or as a further rung of one
    ours = {**record["claim"], "paper": record["paper"]}
    theirs = {"required": False, **claim}
    different = [name for name in SAYS if ours.get(name) != theirs.get(name)]
    return ", ".join(different + [name for name in OF_PROTOCOL if record["protocol"].get(name) != claim["protocol"].get(name)])


def same_result(a: dict, b: dict) -> bool:
    """Whether two records say the same, apart from when, where and how fast they were made."""

    def rest(record: dict) -> dict:
        return {**record, "run": {k: v for k, v in record["run"].items() if k not in VARIES}}

    return rest(a) == rest(b)


def exit_status(records: Sequence[dict], strict: bool = False, older: Sequence[str] = ()) -> int:
    """0 whatever the verdicts; strict: 1 when a required claim is contradicted or opposed, when its measure does not
    discriminate, or when its record is of older code (`older`: ids of such claims)."""
    required = [r for r in records if r["claim"].get("required")]
    failed = any(r["verdict"]["word"] in FAILS or DULL in r["verdict"]["reason"] or "insensitive" in r["verdict"]["reason"]
                 or r["claim"]["id"] in older for r in required)
    return int(strict and failed)


def _once(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object whose keys are there once. Raises ValueError."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return made


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
