"""Words from committed results, again: for claims whose rule changed, without a run.

    python -m common.report --rejudge

Reads results/measurements.*.json of every paper, asks the paper's quantities and claims.yaml, and writes the records anew. What
a record says of its run (commit, command, machine, seconds, sources) is that of the run that measured. A claim that another
document measures, or none, keeps its record, but for what a claim that was not run is said to wait for.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

from ..claims.machine import ROOT
from ..claims.records import (
    load_claims,
    make_record,
    read_record,
    read_records,
    record_path,
    seeds_counted,
    write_record,
)
from ..claims.rungs import RUNGS_OF
from ..errors import RecordError
from .chain import committed_results, own_results
from .code import digest_of, read_sources


def rejudge(paper: str, root: Path = ROOT) -> Iterator[str]:
    """Writes the records that differ; a line for each. Raises RecordError for results that give a claim no valid record."""
    folder = root / "papers" / paper / "results"
    claims = load_claims(root / "papers" / paper / "claims.yaml")
    for experiment in importlib.import_module(f"papers.{paper}.eval").EXPERIMENTS:
        path = folder / f"measurements.{experiment.document}.json"
        if experiment.quantities is None or experiment.rung == "analytic" or not path.is_file():
            continue
        facts = json.loads(path.read_text(encoding="utf-8"))["run"]
        if (named := read_sources(folder / "sources.json").get(experiment.name)) is not None:
            facts = facts | {"sources": {"experiment": experiment.name, "sha256": digest_of(named)}}
        try:
            results = committed_results(folder, experiment)
            found = experiment.quantities(results, experiment.rung)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            yield f"papers/{paper}: experiment {experiment.name}: {path.name} is of another form, run it again ({error!r})"
            continue
        jobs = own_results(experiment, results)
        for name, measured in found.items():
            claim = claims.find(name, RUNGS_OF[experiment.rung])
            if claim is None:
                raise RecordError(f"papers/{paper}: experiment {experiment.name} measures {name}, which is no claim")
            seeds = seeds_counted(measured, claim["protocol"].get("seeds", []), jobs)
            yield from _renewed(claim, claims.sha256, dict(measured), facts, folder, seeds)
    for record in read_records(folder):
        claim = claims.find(record["claim"]["id"], record["claim"]["rung"])
        if claim is None or record["measured"]["value"] is not None or record["verdict"]["word"] != "not-run":
            continue
        if claim.get("blocked_by") not in (None, record["verdict"]["blocked_by"]):  # it waits for something else than it says
            facts = {name: value for name, value in record["run"].items() if name not in ("models", "datasets")}
            yield from _renewed(claim, claims.sha256, {"value": None, "n_runs": 0}, facts, folder, record["protocol"]["seeds"])


def _renewed(claim: dict, sha256: str, measured: dict, facts: dict, folder: Path, seeds: list[int]) -> Iterator[str]:
    path = record_path(folder, claim["id"], claim["rung"])
    try:
        old = read_record(path)
    except RecordError:  # of an older form, or not there; or its word is not what the referee says now
        old = None
    kept = _kept(path)
    timing = measured.pop("timing", None)
    record = make_record(claim, sha256, measured, facts, seeds=seeds, timing=timing, **kept)
    if old is None or _said(old) != _said(record):
        write_record(record, folder)
        was = old["verdict"]["word"] if old else "no valid record"
        yield f"{claim['id']}: {was} -> {record['verdict']['word']}"


def _kept(path: Path) -> dict:
    """What a record says of its run that the measurements do not: models, data, configuration. {} for one without these."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        return {field: old["run"][field] for field in ("models", "datasets") if field in old["run"]} | {
            "config_sha256": old["protocol"]["config_sha256"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _said(record: dict) -> dict:
    """What a record says beside its run: a record whose words another reading would not change keeps the run that made it, and the hash of
    the claims.yaml that it was judged by."""
    protocol = {name: value for name, value in record["protocol"].items() if name != "claims_sha256"}
    return {name: value for name, value in record.items() if name != "run"} | {"protocol": protocol}
