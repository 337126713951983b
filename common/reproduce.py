"""`python -m papers.X.eval --rung R`: from what a paper measured to records, tables, pictures and an exit status.

A paper says what it measures at a rung (`measure`, giving an `Outcome`); here claims become records with verdicts,
written to results/.scratch/, or with --publish to results/ (clean tree only). A record whose result is that of the
committed one keeps the committed one, with the run that first gave it. Exit status: 0 when the rung was run and
recorded, whatever the verdicts; 1 with STRICT=1 and a required claim contradicted; 2 for what the user can mend.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import report
from .files import advice, sweep
from .jobs import write_json
from .machine import git_state
from .models import ModelError
from .records import (
    RecordError,
    exit_status,
    load_claims,
    make_record,
    read_record,
    read_records,
    record_path,
    same_result,
    start_run,
    write_atomic,
    write_record,
)
from .rungs import LONG_NAMES, RUNGS, make_command

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What a rung measured.

    measured {claim: summarize(...) or the like}, by the claim's name without the paper ("C1a"). timings {claim: timing}.
    models, datasets: for records of the rung itself. documents {name: JSON}: written as measurements.<name>.json.
    lines: tables to print. pictures(folder): draws and returns the files. elsewhere {claim: command}: claims of this
    rung that another command measures; their committed records stay as they are, and are shown.
    """

    measured: dict[str, dict] = field(default_factory=dict)
    timings: dict[str, dict] = field(default_factory=dict)
    models: list = field(default_factory=list)
    datasets: list = field(default_factory=list)
    documents: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    pictures: Callable[[Path], list[Path]] | None = None
    elsewhere: dict[str, str] = field(default_factory=dict)


def point(value: float, **details) -> dict:
    """The `measured` of a single figure, e.g. a computed one."""
    return {"value": value, "n_runs": 1} | details


def source_files(here: Path, leave_out: set[str], *common: str) -> tuple[str, ...]:
    """Code that a measurement may depend on: the paper's own, less what only shows results, and patterns of common/."""
    used = [p for p in sorted(here.glob("*.py")) if p.name not in leave_out]
    for pattern in common:
        used += sorted((here.parent.parent / "common").glob(pattern))
    return tuple(map(str, used))


def run(here: Path, rung: str, measure: Callable[[str, Say], Outcome], publish: bool, say: Say,
        command: str | None = None) -> int:
    """Measures, records and shows. command: what the user typed, if not make reproduce-<paper>.

    Raises RecordError for --publish from a tree with changes.
    """
    claims = load_claims(here / "claims.yaml")
    paper = claims.paper["key"]
    began = time.monotonic()
    facts = start_run(command or make_command(paper, rung))
    if publish and facts["dirty"]:
        raise RecordError("--publish: the tree has uncommitted changes, so the records could not name a commit; commit first")
    folder = here / "results" / ("" if publish else ".scratch")
    _refuse_early(folder, claims, rung)
    committed = read_records(here / "results")
    config = hashlib.sha256((here / "eval.py").read_bytes()).hexdigest()  # of what runs, not of what it becomes meanwhile
    outcome = measure(rung, say)
    facts["seconds"] = round(time.monotonic() - began, 1)
    _same_tree(facts, publish)
    if _hash(here / "claims.yaml") != claims.sha256:
        say("claims.yaml changed during the run: these verdicts are on what it said before, and count as stale; run again")

    def elsewhere(claim: dict) -> bool:
        return claim["rung"] == RUNGS[rung][-1] and claim["id"].partition("/")[2] in outcome.elsewhere

    records = [record for record in committed if record["claim"]["rung"] not in RUNGS[rung] or elsewhere(record["claim"])]
    for claim in claims:
        if elsewhere(claim):
            say(f"{claim['id']}: measured by `{outcome.elsewhere[claim['id'].partition('/')[2]]}`; its committed record is shown")
        elif claim["rung"] in RUNGS[rung] or claim["rung"] == "paper-scale":
            records.append(_record(claim, claims.sha256, outcome, facts, config, folder))
    for name, document in outcome.documents.items():
        write_json(folder / f"measurements.{name}.json", {"run": facts, "results": document})
    for line in outcome.lines:
        say(line)
    if outcome.pictures is not None:
        for path in outcome.pictures(folder):
            say(f"picture: {path.relative_to(here.parent.parent)}")
    say("")
    say(report.terminal_table(claims, records))
    say(report.json_line(claims, records, rung=rung, seconds=facts["seconds"], commit=facts["commit"]))
    return exit_status(records, strict=os.environ.get("STRICT") == "1")


def _refuse_early(folder: Path, claims, rung: str) -> None:
    """What would stop the records from being written at the end is said before minutes of work. Leftovers are removed."""
    sweep(folder)
    write_atomic(folder / ".writable", "")
    (folder / ".writable").unlink(missing_ok=True)
    for claim in claims:
        path = record_path(folder, claim["id"], claim["rung"])
        if path.is_dir() and claim["rung"] in (*RUNGS[rung], "paper-scale"):
            raise RecordError(f"{path}: is a folder, where a record would be written; move it away and run again")


def _same_tree(facts: dict, publish: bool) -> None:
    """Jobs read the code when they start: a run whose tree changed meanwhile is of no commit."""
    if (facts["commit"], facts["dirty"]) == (now := git_state()):
        return
    if publish:
        raise RecordError(f"--publish: the tree changed during the run (it was commit {facts['commit'][:12]}, and is "
                          f"{now[0][:12]}{' with uncommitted changes' if now[1] else ''}), so its records could not name a "
                          "commit; commit and run again, which reuses what still holds")
    facts["dirty"] = True


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _record(claim: dict, sha256: str, outcome: Outcome, facts: dict, config: str, folder: Path) -> dict:
    name = claim["id"].partition("/")[2]
    own = claim["rung"] not in ("analytic", "paper-scale")
    record = make_record(claim, sha256, outcome.measured.get(name), facts, seeds=claim["protocol"].get("seeds", []),
                         timing=outcome.timings.get(name), models=outcome.models if own else [],
                         datasets=outcome.datasets if own else [], config_sha256=config)
    path = record_path(folder, claim["id"], claim["rung"])
    if path.exists():
        try:
            if same_result(old := read_record(path), record):
                return old  # the same result: keep the record of the run that first gave it
        except RecordError:
            pass  # an invalid old record is replaced
    write_record(record, folder)
    return record


def rounded(value: Any, leave_out: Sequence[str] = ()) -> Any:
    """A result small enough to commit: without the named entries, numbers to five places."""
    if isinstance(value, dict):
        return {k: rounded(v, leave_out) for k, v in value.items() if k not in leave_out}
    if isinstance(value, float):
        return round(value, 5)
    return [rounded(v, leave_out) for v in value] if isinstance(value, list | tuple) else value


def main(here: Path, measure: Callable[[str, Say], Outcome], argv: list[str] | None = None,
         parts: dict[str, Callable[[str, Say], Outcome]] | None = None) -> int:
    """parts {option: measure}: what has a command of its own, `--option` here and `make <option>-<paper>` there."""
    parser = argparse.ArgumentParser(description="Run the claims of one rung and print a verdict for each.")
    parser.add_argument("--rung", choices=[*RUNGS, *LONG_NAMES], default="cpu")
    for name in parts or {}:
        parser.add_argument(f"--{name}", dest="part", action="store_const", const=name, help=f"only this: make {name}-{here.name}")
    parser.add_argument("--publish", action="store_true", help="write records and pictures to results/ (clean tree only)")
    options = parser.parse_args(argv)
    part = getattr(options, "part", None)
    try:
        return run(here, LONG_NAMES.get(options.rung, options.rung), (parts or {}).get(part, measure), options.publish,
                   lambda text: print(text, flush=True), f"make {part}-{here.name}" if part else None)
    except OSError as error:
        where = Path(error.filename or here)
        print(f"reproduce-{here.name}: {where}: {advice(error, where)}", file=sys.stderr)
        return 2
    except (RecordError, ModelError, RuntimeError) as error:
        print(f"reproduce-{here.name}: {error}", file=sys.stderr)
        return 2
