"""Claims as data: claims.yaml (entries.py, before any run) -> a record per claim and rung (after it) -> a file.

A record carries the claim, what the paper says, the protocol fixed beforehand with the hash of
claims.yaml, what was measured, the verdict, and the run that measured it (commit, command, machine,
versions). `claim_record.schema.json` is its shape (shapes.py); beyond the shape, a record is invalid when its
verdict does not follow from its own numbers, when these do not follow from each other, or when it names a place
on somebody's machine. Two runs that found the same differ in `run` only (`same_result`). Files are
replaced in one step: a run killed at any moment leaves the old record or the new one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from ..errors import RecordError
from ..files import write_atomic
from .effects import DULL, INSENSITIVE, share_again
from .entries import Claims, load_claims  # noqa: F401  (part of this door)
from .intervals import interval, paired, share, summarize  # noqa: F401  (part of this door)
from .machine import environment, git_state, start_run  # noqa: F401  (part of this door)
from .rules import FAILS, rule_problem
from .shapes import PRIVATE_PATH, check_shape, once, ordered, read_bytes, schema, strings
from .verdict import verdict

VARIES = ("id", "started_at", "seconds", "environment", "commit", "dirty", "timing")
SEED = re.compile(r"/seed([0-9]+)$")  # how the name of a job or result ends that is of one training
RECORD_NAME = re.compile(r"C[0-9]+[a-z]?\.[a-z-]+\.json")


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
    return ordered(record, schema("claim_record.schema.json"))


def validate_record(record: dict, name: str | Path = "record") -> None:
    """Raises RecordError naming `name` and the field, if the record is not a valid one."""
    check_shape(record, "claim_record.schema.json", name)
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
        for at, text in strings(run.get(field), f"$.run.{field}"):
            if PRIVATE_PATH.search(text):
                raise RecordError(
                    f"{name}: {at}: {text[:80]!r} names a place on this machine; "
                    "write it relative to the repository"
                )
    _check_verdict(record, name)


def _check_numbers(measured: dict, at: str) -> None:
    """Value, list, standard error and interval say the same: each follows from the ones before it."""
    value, runs, kind, given = measured["value"], measured.get("per_seed"), measured.get("stderr_kind"), measured.get("ci95")
    if value is None:
        if given is not None or runs:
            raise RecordError(f"{at}.value: is missing, and there is a list or an interval of it")
        return
    if given is not None:
        low, high = given
        if low > high:
            raise RecordError(f"{at}.ci95: {[low, high]} runs from high to low")
        if not low <= value <= high:
            raise RecordError(f"{at}.value: {value} lies outside its own interval {[low, high]}")
        if kind is None:
            raise RecordError(f"{at}.ci95: is {[low, high]}, and no standard error says what it is over")
    if runs is not None and len(runs) != measured["n_runs"]:
        raise RecordError(f"{at}.n_runs: is {measured['n_runs']}, but per_seed has {len(runs)} values")
    if kind in ("across-seeds", "across-processes"):
        if not runs:
            raise RecordError(f"{at}.per_seed: is missing, and the standard error is said to be over {measured['n_runs']} runs")
        again = summarize(runs, measured.get("resolution", 0.0), kind.removeprefix("across-"))
        if not math.isclose(again["value"], value, rel_tol=1e-9, abs_tol=1e-12):
            raise RecordError(f"{at}.value: is {value}, but the mean of per_seed is {again['value']}")
    elif kind == "binomial" and measured.get("n_items"):
        counted = share_again(measured)
        again = share(*counted) if counted else measured
    elif kind in ("paired", "clustered", "sample") and measured.get("stderr") is not None:
        again = {**measured, "ci95": interval({k: v for k, v in measured.items() if k != "ci95"})}
    else:
        return
    for field, theirs in (("stderr", again.get("stderr")), ("ci95", again.get("ci95"))):
        ours = measured.get(field)
        if (field == "stderr" or ours is not None or runs) and not _equal(ours, theirs):
            raise RecordError(f"{at}.{field}: is {ours}, which does not follow from the numbers beside it: they give {theirs}")


def _equal(a: float | Sequence[float] | None, b: float | Sequence[float] | None) -> bool:
    """Two standard errors, or two intervals: equal but for rounding, which is a millionth of the width."""
    if a is None or b is None:
        return a is None and b is None
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-6 * abs(b[1] - b[0])) for x, y in zip(a, b))
    return isinstance(a, float | int) and isinstance(b, float | int) and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


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
        record = json.loads(read_bytes(path), object_pairs_hook=once)
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


def seeds_counted(measured: dict, named: Sequence[int], results: Iterable[str]) -> list[int]:
    """The seeds that a measurement is of. Of trainings those of the results, called .../seedN, where these are as many as it counts: SEEDS=
    may have asked for more than the claim names, and stand-ins that fell short of their bars are left out. named: by the claim."""
    if measured.get("stderr_kind") != "across-seeds":
        return list(named)
    found = sorted({int(match[1]) for name in results if (match := SEED.search(name))})
    if len(found) == measured["n_runs"]:
        return found
    return list(named) if len(named) == measured["n_runs"] else list(range(measured["n_runs"]))


def same_result(a: dict, b: dict) -> bool:
    """Whether two records say the same, apart from when, where and how fast they were made."""

    def rest(record: dict) -> dict:
        return {**record, "run": {k: v for k, v in record["run"].items() if k not in VARIES}}

    return rest(a) == rest(b)


def exit_status(records: Sequence[dict], strict: bool = False, older: Sequence[str] = ()) -> int:
    """0 whatever the verdicts; strict: 1 when a required claim is contradicted or opposed, when its measure does not
    discriminate, or when its record is of older code (`older`: ids of such claims)."""
    required = [r for r in records if r["claim"].get("required")]
    failed = any(r["verdict"]["word"] in FAILS or DULL in r["verdict"]["reason"] or INSENSITIVE in r["verdict"]["reason"]
                 or r["claim"]["id"] in older for r in required)
    return int(strict and failed)
