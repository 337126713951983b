"""`python -m papers.X.eval --rung R`: from what a paper measured to records, tables, pictures and an exit status.

A paper says what it measures at a rung (`measure`, giving an `Outcome`); here claims become records with verdicts,
written to results/.scratch/, or with --publish to results/ (clean tree only). A record whose result is that of the
committed one keeps the committed one, with the run that first gave it. At rung `smoke` the same path is walked with tiny
sizes: every job, claim, table and picture of the default run, in half a minute, and nothing is recorded. Exit status: 0 when
the rung was run and recorded, whatever the verdicts; 1 with STRICT=1 and a required claim that is contradicted or opposed,
whose measure does not discriminate, or whose record is of older code; 2 for what the user can mend; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..claims.machine import changed_files, git_state
from ..claims.records import (
    Claims,
    exit_status,
    load_claims,
    make_record,
    read_record,
    read_records,
    record_path,
    same_result,
    seeds_counted,
    start_run,
    write_record,
)
from ..claims.rungs import RUNGS, make_command, rung_of
from ..errors import RecordError
from ..files import advice, sweep, write_atomic, write_json
from ..progress import replace_unprintable
from ..report import ending
from ..report.code import digest_of, older_code, read_sources
from ..report.rows import ours_text
from ..seeds import refuse_nonsense
from .documents import write_document

Log = Callable[[str], None]


@dataclass
class Outcome:
    """What a rung measured.

    measured {claim: summarize(...) or the like}, by the claim's name without the paper ("C1a"). timings {claim: timing}.
    models, datasets: for records of the rung itself. documents {name: JSON}: written as measurements.<name>.json.
    lines: tables to print. pictures(folder): draws and returns the files. elsewhere {claim: command}: claims of this
    rung that another command measures; their committed records stay as they are, and are shown. sources {claim: the
    experiment that measured it}; files {experiment: {file: hash}}, all that its results depend on; jobs {experiment: names}. seconds:
    that the jobs took when they were run, which is longer than a run that finds them finished.
    """

    measured: dict[str, dict] = field(default_factory=dict)
    timings: dict[str, dict] = field(default_factory=dict)
    models: list = field(default_factory=list)
    datasets: list = field(default_factory=list)
    documents: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    pictures: Callable[[Path], list[Path]] | None = None
    elsewhere: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, str | None]] = field(default_factory=dict)
    jobs: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    left_out: tuple[str, ...] = ()


def run(here: Path, rung: str, measure: Callable[[str, Log], Outcome], publish: bool, log: Log,
        command: str | None = None) -> int:
    """Measures, records and shows. command: what the user typed, if not make reproduce-<paper>.

    Raises RecordError for --publish from a tree with changes.
    """
    claims = load_claims(here / "claims.yaml")
    if rung == "smoke":
        return walk(here, claims, measure, log)
    paper = claims.paper["key"]
    began = time.monotonic()
    facts = start_run(command or make_command(paper, rung))
    if publish and facts["dirty"]:
        raise RecordError(f"--publish: the tree has uncommitted changes{_changes()}, so the records could not name a "
                          "commit; commit first")
    folder = here / "results" / ("" if publish else ".scratch")
    _refuse_early(folder, claims, rung)
    committed = read_records(here / "results")
    config = hashlib.sha256((here / "eval.py").read_bytes()).hexdigest()  # of what runs, not of what it becomes meanwhile
    outcome = measure(rung, log)
    facts["seconds"] = round(max(time.monotonic() - began, outcome.seconds), 1)
    _same_tree(facts, publish)
    if _hash(here / "claims.yaml") != claims.sha256:
        log("claims.yaml changed during the run: these verdicts are on what it said before, and count as stale; run again")

    def elsewhere(claim: dict) -> bool:
        return claim["rung"] == RUNGS[rung][-1] and claim["id"].partition("/")[2] in outcome.elsewhere

    shown = [record for record in committed if record["claim"]["rung"] not in RUNGS[rung] or elsewhere(record["claim"])]
    now = []
    for claim in claims:
        if elsewhere(claim):
            log(f"{claim['id']}: measured by `{outcome.elsewhere[claim['id'].partition('/')[2]]}`; its committed record is shown")
        elif claim["rung"] in RUNGS[rung] or claim["rung"] == "paper-scale":
            now.append(_judged(claim, claims.sha256, outcome, facts, config))
            _keep(now[-1], folder)
    if outcome.files:
        _add(folder / "sources.json", outcome.files)
    for name, document in outcome.documents.items():
        write_document(folder / f"measurements.{name}.json", {"run": facts, "results": document})
    for line in outcome.lines:
        log(line)
    if outcome.pictures is not None:
        for path in outcome.pictures(folder):
            log(f"picture: {path.relative_to(here.parent.parent)}")
    log("")
    older = [record["claim"]["id"] for record in shown if older_code(record)]
    log(ending.terminal_table(claims, shown + now, older))
    for line in differences(committed, now):
        log(line)
    if facts["dirty"]:
        log(f"This tree has changes that no commit holds{_changes()}, so the run names no commit and its records stay "
            "in results/.scratch/.")
    log(ending.json_line(claims, shown + now, rung=rung, seconds=facts["seconds"], commit=facts["commit"], dirty=facts["dirty"],
                         older=older))
    return exit_status(shown + now, os.environ.get("STRICT") == "1", older)


def differences(committed: Sequence[dict], now: Sequence[dict]) -> list[str]:
    """What this run has otherwise than the committed records, claim by claim with both numbers."""
    before = {(r["claim"]["id"], r["claim"]["rung"]): r for r in committed}
    lines, same, new = [], 0, 0
    for record in now:
        if record["measured"]["value"] is None:
            continue
        old = before.get((record["claim"]["id"], record["claim"]["rung"]))
        if old is None or old["measured"]["value"] is None:
            new += 1
        elif (old["verdict"]["word"], old["measured"]["value"]) == (record["verdict"]["word"], record["measured"]["value"]):
            same += 1
        else:
            was, ours = (f"{r['verdict']['word']} {ours_text(r)}" for r in (old, record))
            turned = "" if old["verdict"]["word"] == record["verdict"]["word"] else "  <- another word"
            lines.append(f"  {record['claim']['id']}: committed {was}; this run {ours}{turned}")
    begin = f"Against the committed records: {same} equal, {len(lines)} different"
    return [begin + (f", {new} without a committed value" if new else "") + (":" if lines else "."), *lines]


def _add(path: Path, files: dict[str, dict[str, str | None]]) -> None:
    """sources.json keeps what other experiments wrote into it."""
    write_json(path, dict(sorted((read_sources(path) | files).items())))


def walk(here: Path, claims: Claims, measure: Callable[[str, Log], Outcome], log: Log) -> int:
    """The default run at tiny sizes, to its last picture: its words mean nothing, and none is recorded or shown.

    Raises RecordError when a claim of the rung has no finite value, a value belongs to no claim, or a picture that the
    paper's page shows was not drawn; what goes wrong on the way raises as it does in the default run.
    """
    began = time.monotonic()
    outcome = measure("smoke", log)
    facts = start_run(make_command(here.name, "smoke")) | {"seconds": 0.0}
    wanted = {c["id"].partition("/")[2]: c for c in claims if c["rung"] in RUNGS["smoke"] and c.get("status") != "not-checkable"}
    wanted = {name: claim for name, claim in wanted.items() if name not in outcome.elsewhere and not claim.get("blocked_by")}
    if strangers := sorted(set(outcome.measured) - {claim["id"].partition("/")[2] for claim in claims}):
        raise RecordError(f"measured, but in no claim of claims.yaml: {', '.join(strangers)}")
    for name, claim in wanted.items():
        if (outcome.measured.get(name) or {}).get("value") is None:
            raise RecordError(f"{claim['id']}: the run gave it no value")
        _judged(claim, claims.sha256, outcome, facts, "")  # refuses what is not finite
    for line in outcome.lines:
        log(line)
    json.dumps(outcome.documents, allow_nan=False)
    with tempfile.TemporaryDirectory() as folder:
        drawn = [path.name for path in (outcome.pictures(Path(folder)) if outcome.pictures else []) if path.stat().st_size]
    if missing := sorted(pictures_of(here) - set(drawn) - set(outcome.left_out)):
        raise RecordError(f"not drawn, though README.md shows it: {', '.join(missing)}")
    log(f"smoke: {here.name}: {len(wanted)} claims have a value, {len(outcome.lines)} lines of tables, {len(drawn)} pictures, in "
        f"{time.monotonic() - began:.0f} s. At this size no value means anything: nothing is recorded.")
    return 0


def pictures_of(here: Path) -> set[str]:
    """Names of the pictures in results/ that the paper's page shows."""
    readme = here / "README.md"
    return set(re.findall(r"\]\(results/([\w.-]+\.svg)\)", readme.read_text(encoding="utf-8"))) if readme.is_file() else set()


def _refuse_early(folder: Path, claims, rung: str) -> None:
    """What would stop the records from being written at the end is said before minutes of work. Leftovers are removed."""
    sweep(folder)
    write_atomic(folder / ".writable", "")
    (folder / ".writable").unlink(missing_ok=True)
    if (folder / "sources.json").exists() and not read_sources(folder / "sources.json"):
        raise RecordError(f"{folder / 'sources.json'}: is no table of files and hashes, e.g. with the marks of a merge in it, and what "
                          "other experiments wrote there would be lost; mend it, or delete it and run all again")
    for claim in claims:
        path = record_path(folder, claim["id"], claim["rung"])
        if path.is_dir() and claim["rung"] in (*RUNGS[rung], "paper-scale"):
            raise RecordError(f"{path}: is a folder, where a record would be written; move it away and run again")


def _same_tree(facts: dict, publish: bool) -> None:
    """Jobs read the code when they start: a run whose tree changed meanwhile is of no commit."""
    if (facts["commit"], facts["dirty"]) == (now := git_state()):
        return
    if publish:
        changed = f" with uncommitted changes{_changes()}" if now[1] else ""
        raise RecordError(f"--publish: the tree changed during the run (it was commit {facts['commit'][:12]}, and is "
                          f"{now[0][:12]}{changed}), so its records could not name a commit; commit and run again, which "
                          "reuses what still holds")
    facts["dirty"] = True


def _changes() -> str:
    """The files that make this tree a changed one, as a part of a sentence; "" where git lists none."""
    try:
        files = changed_files()
    except (OSError, subprocess.SubprocessError):  # e.g. in a copied paper
        return " (git knows of no commit here, and NINEFOLD_COMMIT names none)"
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return f" ({', '.join(files[:5])}{more})" if files else ""


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _judged(claim: dict, sha256: str, outcome: Outcome, facts: dict, config: str) -> dict:
    name = claim["id"].partition("/")[2]
    own = claim["rung"] not in ("analytic", "paper-scale")
    measured = outcome.measured.get(name)
    if measured and name in outcome.sources:
        experiment = outcome.sources[name]
        facts = facts | {"sources": {"experiment": experiment, "sha256": digest_of(outcome.files[experiment])}}
    seeds = claim["protocol"].get("seeds", [])
    if measured:
        seeds = seeds_counted(measured, seeds, outcome.jobs.get(outcome.sources.get(name, ""), ()))
    return make_record(claim, sha256, measured, facts, seeds=seeds,
                       timing=outcome.timings.get(name), models=outcome.models if own else [],
                       datasets=outcome.datasets if own else [], config_sha256=config)


def _keep(record: dict, folder: Path) -> None:
    """Writes the record, unless the same result is there, by a run that is worth as much: then that run stays named. A timing is of the
    run whose measurements stand beside the record."""
    path = record_path(folder, record["claim"]["id"], record["claim"]["rung"])
    if path.exists():
        try:
            old = read_record(path)
            timed = old["run"].get("timing") != record["run"].get("timing")
            if same_result(old, record) and not timed and old["run"]["dirty"] <= record["run"]["dirty"]:
                return
        except RecordError:
            pass  # an invalid old record is replaced
    write_record(record, folder)


def rounded(value: Any, leave_out: Sequence[str] = ()) -> Any:
    """A result small enough to commit: without the named entries, numbers to five places."""
    if isinstance(value, dict):
        return {k: rounded(v, leave_out) for k, v in value.items() if k not in leave_out}
    if isinstance(value, float):
        return round(value, 5)
    return [rounded(v, leave_out) for v in value] if isinstance(value, list | tuple) else value


def main(here: Path, measure: Callable[[str, Log], Outcome], argv: list[str] | None = None, only: str | None = None) -> int:
    """only: the experiments that a user asked for, which the record's command names."""
    parser = argparse.ArgumentParser(description="Run the claims of one rung and print a verdict for each.")
    parser.add_argument("--rung", type=rung_of, default=os.environ.get("RUNG") or "cpu", help="default: $RUNG, or cpu")
    parser.add_argument("--only", help="names of experiments, separated by commas; default: $ONLY, or all that need not be asked for")
    parser.add_argument("--publish", action="store_true", help="write records and pictures to results/ (clean tree only)")
    options = parser.parse_args(argv)
    replace_unprintable()
    try:
        refuse_nonsense()
        command = make_command(here.name, options.rung, only, os.environ.get("SEEDS"))
        return run(here, options.rung, measure, options.publish, lambda text: print(text, flush=True), command)
    except OSError as error:
        where = Path(error.filename or here)
        print(f"reproduce-{here.name}: {where}: {advice(error, where)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"reproduce-{here.name}: {error}", file=sys.stderr)
        return 2
    except SystemExit as error:  # of a job, or a library that it asked: with its status 0 the run would count as done
        print(f"reproduce-{here.name}: a job ended by sys.exit({error.code!r}), which is no result; nothing is recorded", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():  # where it alone was told, their jobs would go on to their ends first
            worker.terminate()
        print(f"\nreproduce-{here.name}: stopped. Finished jobs are kept: run it again to go on from here.", file=sys.stderr)
        return 130
