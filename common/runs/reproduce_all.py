"""`make reproduce`: every paper that is here, one after the other, whatever becomes of the ones before.

    make reproduce RUNG=cpu            python -m common.runs.reproduce_all --rung cpu

Before the first starts, how long all will take: a paper's committed records say how many seconds the run that made them
took (`run.seconds`, of the same command), so a new paper needs no figure here. A paper that fails is named at the end with
its exit status and the command to run it again, and the exit status is 1. Each paper is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..claims.rungs import make_command, rung_of
from ..errors import UserError
from ..seeds import refuse_nonsense

ROOT = Path(__file__).resolve().parents[2]
SMOKE_SECONDS = 40.0  # what a paper may take at that rung, on two cores
Log = Callable[[str], None]


def papers(root: Path = ROOT) -> list[str]:
    """Those that can be run: they have an eval.py."""
    return sorted(path.parent.name for path in (root / "papers").glob("*/eval.py"))

SEEDS = 3  # that a default run trains


def recorded_seconds(root: Path, paper: str, rung: str) -> float | None:
    """How long the longest run that left committed records took by this very command; None if no record says. Of a run over more seeds
    than the default's the share of these: jobs are by seed."""
    found = []
    for path in (root / "papers" / paper / "results").glob("C*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            run = record["run"]
            if record.get("verdict", {}).get("word") == "not-run":
                continue
            if re.sub(r" SEEDS=\d+$", "", run["command"]) == make_command(paper, rung):
                asked = re.search(r" SEEDS=(\d+)$", run["command"])
                share = min(1.0, SEEDS / max(1, int(asked[1]))) if asked else 1.0
                found.append(share * float(run["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # the paper's own run refuses a record like that, and says why
    return max(found, default=None)


def duration(seconds: float) -> str:
    """For people: seconds below a minute and a half, minutes below an hour and a half, then hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate(guesses: dict[str, float | None]) -> str:
    """What all of these will take together, as far as records say."""
    known = [seconds for seconds in guesses.values() if seconds is not None]
    unknown = [paper for paper, seconds in guesses.items() if seconds is None]
    if not known:
        return "no record says how long"
    return f"about {duration(sum(known))}" + (f" and {', '.join(unknown)}, of which no record says how long" if unknown else "")


def run_paper(root: Path, paper: str, rung: str) -> int:
    """Exit status of a paper's own command; what it prints goes where ours does."""
    return subprocess.run([sys.executable, "-m", f"papers.{paper}.eval", "--rung", rung], cwd=root).returncode


def reproduce_all(root: Path = ROOT, rung: str = "cpu", log: Log = print,
                  run: Callable[[Path, str, str], int] = run_paper) -> int:
    """Runs every paper and says at the end what became of each. Returns 0, or 1 if one did not end with status 0."""
    guesses = {paper: SMOKE_SECONDS if rung == "smoke" else recorded_seconds(root, paper, rung) for paper in papers(root)}
    if not guesses:
        log(f"reproduce: no paper is here: no papers/*/eval.py in {root.name}")
        return 1
    log(f"reproduce: {len(guesses)} papers at rung {rung}: {estimate(guesses)}, going by their committed records; "
        "finished work is reused")
    began, ended = time.monotonic(), {}
    for number, paper in enumerate(guesses, 1):
        rest = {p: s for p, s in guesses.items() if p not in ended}
        log(f"\nreproduce: [{number}/{len(guesses)}] {paper}: {estimate({paper: guesses[paper]})}   "
            f"({duration(time.monotonic() - began)} gone, left in all: {estimate(rest)})")
        start = time.monotonic()
        try:
            status = run(root, paper, rung)
        except KeyboardInterrupt:
            left = ", ".join(rest)
            log(f"\nreproduce: stopped. Not done: {left}. What is finished is kept: run it again to go on from here.")
            return 130
        ended[paper] = status, time.monotonic() - start
    log("")
    for paper, (status, seconds) in ended.items():
        log(f"reproduce: {paper:<20s} {'done  ' if status == 0 else 'FAILED'} {duration(seconds):>8s}" + (
            "" if status == 0 else f"   {meaning(status)}; run it again: {make_command(paper, rung)}"))
    failed = [paper for paper, (status, _) in ended.items() if status]
    log(f"reproduce: {len(ended) - len(failed)} of {len(ended)} papers ran to their end in {duration(time.monotonic() - began)}"
        + (f"; not {', '.join(failed)}" if failed else "" if rung == "smoke" else "; `make report` shows them on a page"))
    return 1 if failed else 0


def meaning(status: int) -> str:
    """An exit status in words; see reproduce.py for the first two."""
    if status < 0:
        return f"ended by signal {-status}"
    if status == 1 and os.environ.get("STRICT") == "1":
        return ("exit status 1: a required claim is contradicted or opposed, its measure does not discriminate, its record is of older "
                "code, or it broke off")
    return f"exit status {status}: its own message stands above"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="reproduce", description="Run every paper that is here and say what became of each.")
    parser.add_argument("--rung", type=rung_of, default=os.environ.get("RUNG") or "cpu", help="default: $RUNG, or cpu")
    options = parser.parse_args(argv)
    if only := os.environ.get("ONLY"):
        print(f"reproduce: ONLY={only} names experiments of one paper: make reproduce-<paper> ONLY=...", file=sys.stderr)
        return 2
    try:
        refuse_nonsense()
    except UserError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    return reproduce_all(rung=options.rung, log=lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(main())
