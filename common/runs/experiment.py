"""Experiments as data: what a paper measures, by which jobs, and which functions read the results.

A paper's eval.py is a tuple of these and one call of `main`. From the tuple follow which command measures which claim, what
runs alone on the machine, what the smoke rung walks, and the rows of `make experiments`. Nothing registers itself, and no
paper inherits anything: an experiment is four functions and some facts about them.

    jobs(size) -> the jobs; then(size, results) -> jobs that follow from results; or run(folder, log) -> results, for what
        keeps its own state (a GPU benchmark, the paper's own models)
    quantities(results, size) -> {claim: what `common.claims.intervals` gives, "timing" beside it where it was timed}
    tables(results, size) -> lines; pictures(results, size, folder) -> files drawn

`results` are those of all experiments of the run, by the job's name; of a `run`, by the experiment's. `size` is the rung that
was asked for ("smoke", "cpu", ...); what it means in seeds, steps and items stands with the experiment's jobs (SIZES).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..claims.records import load_claims
from ..claims.rungs import RUNGS
from ..errors import RecordError, UserError
from ..report.code import hashes
from . import inputs, reproduce
from .jobs import Job, run_jobs, work_folder
from .reproduce import Log, Outcome, rounded
from .sources import closure

Results = dict[str, Any]
WORKERS = 2  # jobs at once, a thread each


@dataclass(frozen=True)
class Experiment:
    """rung: analytic, cpu, gpu or paper. asked: runs only when ONLY= names it; `claims` are those it then measures.
    alone: its jobs run after all others, one at a time, with every core. walked: whether the smoke rung takes it.
    data: files under NINEFOLD_DATA; `needs`: what else, in words; ready(): raises UserError before any work where that is missing.
    minutes: on two cores. document: its results are kept as measurements.<document>.json, without the entries `left_out`; one that
    several share is written only by a run of all of them. draws: pictures that nobody else draws, where it is not walked.
    facts(results): (models, datasets) for the records. example: results of the right shape, from which the jobs of `then` can be told
    before there are any."""

    name: str
    rung: str
    quantities: Callable[[Results, str], dict[str, dict]] | None = None
    jobs: Callable[[str], Sequence[Job]] | None = None
    then: Callable[[str, Results], Sequence[Job]] | None = None
    run: Callable[[Path, Log], Any] | None = None
    tables: Callable[[Results, str], Iterable[str]] | None = None
    pictures: Callable[[Results, str, Path], list[Path]] | None = None
    asked: bool = False
    alone: bool = False
    walked: bool = True
    claims: tuple[str, ...] = ()
    minutes: float = 0.0
    data: tuple[str, ...] = ()
    needs: str = ""
    ready: Callable[[], None] | None = None
    document: str = ""
    left_out: tuple[str, ...] = ()
    draws: tuple[str, ...] = ()
    facts: Callable[[Results], tuple[list, list]] | None = None
    example: Results = field(default_factory=dict)


def chosen(experiments: Sequence[Experiment], rung: str, only: str | None) -> list[Experiment]:
    """Those of a run: of the rung (and "analytic", which is part of every run) all that need not be asked for, or those that
    `only` names, separated by commas. Raises UserError for a name that the rung does not have."""
    rung_of = {"smoke": "cpu"}.get(rung, rung)
    exact = [e for e in experiments if e.rung == "analytic"]
    here = [e for e in experiments if e.rung == rung_of and e.rung != "analytic"]
    if only:
        if not (names := names_of(only)):
            raise UserError(f"ONLY={only}: names no experiment; at rung {rung} there is: {', '.join(e.name for e in here)}")
        if unknown := [name for name in names if name not in {e.name for e in here}]:
            raise UserError(f"ONLY={only}: no experiment {', '.join(unknown)} at rung {rung}; there is: {', '.join(e.name for e in here)}")
        return exact + [e for e in here if e.name in names]
    if rung == "smoke":
        return exact + [e for e in here if e.walked and not e.data]
    return exact + [e for e in here if not e.asked]


def names_of(only: str) -> list[str]:
    """The names that a user separates by commas, with or without blanks."""
    return [name.strip() for name in only.split(",") if name.strip()]


def measure(paper: str, experiments: Sequence[Experiment], only: str | None, rung: str, log: Log) -> Outcome:
    """Runs the chosen experiments' jobs, then asks their functions. For `reproduce.run`."""
    some, folder = chosen(experiments, rung, only), work_folder(paper, rung)
    if rung in ("gpu", "paper") and all(e.rung == "analytic" for e in some):
        log(f"{paper} has no experiment at rung {rung}: nothing runs there, arithmetic alone is checked")
    _find(some, rung)
    results = _results(some, rung, folder, log)
    to_commit = committed(some, rung, results)
    undrawn = [name for e in experiments if e not in some for name in e.draws]
    out = Outcome(left_out=tuple(reproduce.pictures_of(Path("papers") / paper)) if only else tuple(undrawn))
    kept: dict[str, dict] = {}
    for experiment in some:
        if experiment.quantities:
            try:
                found = experiment.quantities(to_commit, rung)
            except RecordError as error:  # e.g. a run that diverged
                raise RecordError(f"experiment {experiment.name} of {paper}: {error}") from error
            for claim, measured in found.items():
                if claim in out.measured:
                    raise UserError(f"two experiments of {paper} measure {claim}")
                measured = dict(measured)
                out.sources[claim] = experiment.name
                if (timing := measured.pop("timing", None)) is not None:
                    out.timings[claim] = timing
                out.measured[claim] = measured
        if experiment.facts:
            models, datasets = experiment.facts(results)
            out.models += [m for m in models if m not in out.models]
            out.datasets += [d for d in datasets if d not in out.datasets]
        if experiment.tables:
            out.lines += experiment.tables(results, rung)
        out.files[experiment.name] = hashes(sources(paper, experiment, rung, results))
        out.jobs[experiment.name] = [job.name for job in _jobs_of(experiment, rung, results)] if experiment.jobs else []
        if experiment.document:
            own = to_commit[experiment.name] if experiment.run else {
                job.name: to_commit[job.name] for job in _jobs_of(experiment, rung, results)}
            if own:  # an experiment that lacks a package leaves itself out
                kept.setdefault(experiment.document, {}).update(own)
    # A document that others share is whole or stays as it was.
    parts = {e.document for e in experiments if e.rung == some[-1].rung and e not in some}
    out.seconds = seconds_of(some, rung, results, folder)
    out.documents = {name: document for name, document in kept.items() if name not in parts}
    out.pictures = functools.partial(_draw, some, results, rung)
    out.elsewhere = _elsewhere(paper, experiments, some, rung, out.measured, bool(only))
    return out


def committed(some: Sequence[Experiment], rung: str, results: Results) -> Results:
    """The results as they are committed: numbers to five places, without what each experiment leaves out.

    Quantities read these and no others, so that whoever has the repository can compute every word again.
    """
    made: Results = {}
    for experiment in some:
        if experiment.run:
            made[experiment.name] = _as_json(rounded(results[experiment.name], experiment.left_out))
        elif experiment.jobs:
            made |= {job.name: _as_json(rounded(results[job.name], experiment.left_out)) for job in _jobs_of(experiment, rung, results)}
    return made


def _as_json(value: Any) -> Any:
    """What a file of it would be read as: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))


def sources(paper: str, experiment: Experiment, rung: str, results: Results) -> list[Path]:
    """Every file that an experiment's results depend on: the closures and data of its jobs, or of the module of its name."""
    if experiment.jobs:
        return sorted({file for job in _jobs_of(experiment, rung, results) for file in job.sources()})
    named = f"papers.{paper}.experiments.{experiment.name}"
    function = experiment.run or experiment.quantities
    try:
        return list(closure(named))
    except ModuleNotFoundError:
        return list(closure(function.__module__)) if function else []


def seconds_of(some: Sequence[Experiment], rung: str, results: Results, folder: Path) -> float:
    """How long the jobs took when they were run, two at once but for the timings: what a record says, also of a run that found
    them finished. Stand-ins of further seeds (jobs called `made`) are not counted: they are trained once, and a default run has them."""
    total = 0.0
    for experiment in (e for e in some if e.jobs):
        at_once = 1 if experiment.alone else WORKERS
        for job in _jobs_of(experiment, rung, results):
            if job.function.endswith(":made"):
                continue
            path = folder / f"{job.name.replace('/', '.')}.{job.key()}.json"
            try:
                total += float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) / at_once
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a file that is gone or damaged meanwhile says nothing of time
    return total


def _results(some: Sequence[Experiment], rung: str, folder: Path, log: Log) -> Results:
    """All jobs that may share the machine in one go, each as soon as what it needs is there; then the timings, alone. At size
    smoke no timing means anything, and starting a worker takes longer than its work: then all go together."""
    together = [e for e in some if e.jobs and (rung == "smoke" or not e.alone)]
    alone = [e for e in some if e.jobs and e not in together]

    def follow(results: Results) -> list[Job]:
        return [job for e in together if e.then for job in e.then(rung, results)]

    results: Results = {}
    if first := _once(job for e in together if e.jobs for job in e.jobs(rung)):
        later = [job for e in together if e.then for job in e.then(rung, e.example)]
        results |= run_jobs(first, folder, workers=WORKERS, threads=1, log=log, then=follow, expected=later)
    for experiment in alone:
        log(f"{experiment.name}: alone on the machine")
        results |= run_jobs(experiment.jobs(rung) if experiment.jobs else [], folder, workers=1, threads=os.cpu_count() or 1, log=log,
                            then=functools.partial(experiment.then, rung) if experiment.then else None,
                            expected=experiment.then(rung, experiment.example) if experiment.then else [])
    for experiment in some:
        if experiment.run:
            results[experiment.name] = experiment.run(folder / experiment.name, log)
    return results


def _once(jobs: Iterable[Job]) -> list[Job]:
    """Each name once: an experiment may begin with jobs of another one."""
    return list({job.name: job for job in jobs}.values())


def _jobs_of(experiment: Experiment, size: str, results: Results) -> list[Job]:
    first = experiment.jobs(size) if experiment.jobs else []
    return [*first, *(experiment.then(size, results) if experiment.then else [])]


def _find(some: Sequence[Experiment], rung: str) -> None:
    """What the experiments need is there, and every file that they and their jobs name is whole. Raises UserError before any work."""
    for experiment in some:
        inputs.look([inputs.named(name) for name in experiment.data])
        if experiment.ready:
            experiment.ready()
    inputs.look(file for e in some if e.jobs for job in e.jobs(rung) for file in job.data)


def _draw(some: Sequence[Experiment], results: Results, size: str, folder: Path) -> list[Path]:
    return [path for e in some if e.pictures for path in e.pictures(results, size, folder)]


def _elsewhere(paper: str, experiments: Sequence[Experiment], some: Sequence[Experiment], rung: str, measured: dict,
               part: bool) -> dict[str, str]:
    """{claim of this rung that other experiments measure: the command}. Where ONLY= took a part of the rung, the rest is theirs."""
    last = {"smoke": "cpu"}.get(rung, rung)
    asked = {claim: f"make reproduce-{paper} ONLY={e.name}" for e in experiments if e.rung == last and e.asked and e not in some
             for claim in e.claims}
    usual = [e for e in experiments if e.rung == last and not e.asked and e not in some]
    if usual and part:
        claims = load_claims(_claims_of(paper))
        rest = {c["id"].partition("/")[2] for c in claims if c["rung"] == RUNGS[rung][-1]} - set(measured)
        asked = dict.fromkeys(sorted(rest), f"make reproduce-{paper}") | asked
    return asked


def _claims_of(paper: str) -> Path:
    return Path("papers") / paper / "claims.yaml"


def every_job(experiments: Sequence[Experiment], size: str = "cpu") -> list[Job]:
    """All jobs that any command may run at that size, each once; of what needs data that is not here, none. `then` gets made-up results."""
    jobs: list[Job] = []
    for experiment in experiments:
        if not experiment.jobs or (experiment.data and not os.environ.get("NINEFOLD_DATA")):
            continue
        jobs += experiment.jobs(size)
        if experiment.then:
            jobs += experiment.then(size, experiment.example)
    return _once(jobs)


def main(here: Path, experiments: Sequence[Experiment], argv: list[str] | None = None) -> int:
    """The command of a paper; see `reproduce.main` for options and exit status."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", default=os.environ.get("ONLY") or None)
    own, rest = parser.parse_known_args(argv)
    paper, only = here.name, own.only
    asked = ",".join(names_of(only)) if only else None  # as a record's command has it: what is copied from there must run
    return reproduce.main(here, functools.partial(measure, paper, experiments, only), rest, only=asked)
