"""The chain from committed results to committed words, pulled at every link: `python -m common.report --check`.

    results -> verdict   every record is computed again from results/measurements.*.json, by the paper's quantities and
                         claims.yaml: value, interval, controls, timing, seeds, models, word and reason must be equal; a claim
                         that was not run waits for what claims.yaml says
    code -> results      (code.py) results/sources.json has the hash of every file that an experiment's jobs depended on; where the tree's
                         differs, the records are of older code, and the files are named; where none differs, none may be missing
    run -> commit        (history.py) a record's commit is in the history, and held that code and the claim

A paper's experiments are reached by the name of its eval.py: common imports no paper.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..claims.machine import ROOT
from ..claims.records import SEED, Claims, load_claims, read_records, seeds_counted, stale
from ..claims.rungs import RUNGS_OF
from ..claims.shapes import once
from ..claims.verdict import verdict
from ..errors import RecordError, UserError
from . import history
from .code import changed_since, place, read_sources

COMMAND = re.compile(r"( RUNG=[a-z]+)?( ONLY=[\w,-]+)?( SEEDS=[0-9]{1,3})?")  # behind "make reproduce-<paper>"
BESIDE = ("was", "task", "baselines", "deviations")  # of a protocol: what claims.yaml says, and no word follows from


def problems(paper: str, root: Path = ROOT) -> Iterator[str]:
    """What does not follow in the committed records of a paper, a sentence each."""
    folder = root / "papers" / paper
    try:
        claims, records = load_claims(folder / "claims.yaml"), read_records(folder / "results")
    except RecordError as error:
        yield str(error).replace(f"{root}/", "")
        return
    for record in records:
        yield from (f"papers/{paper}: {problem}" for problem in _alone(record, claims, paper))
    yield from (f"papers/{paper}: {problem}" for problem in history.problems(paper, records, claims, root))
    yield from recomputed(paper, claims, records, root)


def recomputed(paper: str, claims: Claims, records: Sequence[dict], root: Path = ROOT) -> Iterator[str]:
    """Where the paper's quantities, asked of its committed results, give another record than the committed one."""
    folder = root / "papers" / paper
    by_key = {_key(r): r for r in records}
    computed: set[tuple[str, str]] = set()
    named, whole = [], True  # models and data sets that the results name, if all of these can be read
    for experiment in importlib.import_module(f"papers.{paper}.eval").EXPERIMENTS:
        rung = RUNGS_OF[experiment.rung]
        try:
            results = committed_results(folder / "results", experiment)
            measured = experiment.quantities(results, experiment.rung) if experiment.quantities else {}
            named += [entry for entries in experiment.facts(results) for entry in entries] if experiment.facts else []
        except FileNotFoundError:
            continue  # never run, or not published: then its claims have no record either, which is looked at below
        except (KeyError, IndexError, TypeError, ValueError, RecordError) as error:
            yield f"papers/{paper}: experiment {experiment.name}: its claims cannot be computed from the committed results: {error!r}"
            whole = False
            continue
        yield from (f"papers/{paper}: {problem}" for problem in _unlisted(experiment, folder / "results" / "sources.json", root))
        jobs = own_results(experiment, results)
        for name, now in measured.items():
            computed.add((name, rung))
            claim, of_claim = claims.find(name, rung), by_key.get((name, rung))
            if claim is None or of_claim is None:
                continue
            try:
                found = list(differences(claim | {"rung": rung}, of_claim, dict(now), jobs))
            except RecordError as error:
                found = [f"cannot be judged: {error}"]
            yield from (f"papers/{paper}: {name}: {problem}" for problem in found)
    for name, rung in sorted({key for key, record in by_key.items() if record["measured"]["value"] is not None} - computed):
        yield f"papers/{paper}: {name} at {rung}: the record has a value, and no committed result gives it"
    for (name, rung), record in by_key.items() if whole else ():
        unknown = [entry for field in ("models", "datasets") for entry in record["run"].get(field, ()) if entry not in plain(named)]
        yield from (f"papers/{paper}: {name} at {rung}: no committed result names {entry!r:.100}, as its run does" for entry in unknown[:1])


def _key(record: dict) -> tuple[str, str]:
    return record["claim"]["id"].partition("/")[2], record["claim"]["rung"]


def _alone(record: dict, claims: Claims, paper: str) -> Iterator[str]:
    """What is wrong with a record beside claims.yaml, without computing anything again."""
    (name, rung), claim = _key(record), claims.find(record["claim"]["id"], record["claim"]["rung"])
    at = f"{name} at {rung}"
    if record["claim"]["paper_key"] != paper:
        yield f"{at}: the record is of another paper, {record['claim']['paper_key']}"
        return
    if not COMMAND.fullmatch(record["run"]["command"].removeprefix(f"make reproduce-{paper}")):
        yield f"{at}: {record['run']['command']!r:.100} is no command that measures a claim of {paper}"
    if claim is None:
        yield f"{at}: claims.yaml has no such claim"
        return
    if different := stale(record, replace(claims, claims=[claim | {"rung": rung}])):
        yield f"{at}: claims.yaml has another {different} than the record"
    ours, theirs = record["protocol"], claim["protocol"]
    if other := [field for field in BESIDE if _entries(ours, field) != _entries(theirs, field)]:
        yield f"{at}: claims.yaml has another {', '.join(other)} than the record"
    if record["measured"]["value"] is not None:
        return
    said = record["verdict"]
    word = verdict(claim, None, blocked_by=said.get("blocked_by") or ("time",))[0]
    if word != said["word"]:
        yield f"{at}: the record has no value and says {said['word']}; of this claim it could only say {word}"
    elif not (claim.get("status") or claim.get("blocked_by")):
        yield f"{at}: the record says {word}, and claims.yaml names nothing that this claim waits for"
    elif verdict(claim, None)[1:] != (said["reason"], said.get("blocked_by", [])):
        yield f"{at}: the record says {word}, and not for the reason that claims.yaml gives: {verdict(claim, None)[1]}"
    if record["measured"] != {"value": None, "n_runs": 0}:
        yield f"{at}: the record has no value, and other numbers of a measurement"


def _entries(protocol: dict, field: str) -> Any:
    """A field of a protocol, where one that is empty is as good as none, and a deviation counts once."""
    found = protocol.get(field) or None
    return sorted(set(found)) if field == "deviations" and found else found


def _unlisted(experiment: Any, path: Path, root: Path) -> Iterator[str]:
    """Code, and data that jobs name, of an experiment that results/sources.json does not list, though nothing that it lists has changed:
    then the run depended on these, too, and a change of them would make no record older."""
    listed = read_sources(path).get(experiment.name)
    if listed is None or experiment.jobs is None or changed_since(listed, root):
        return
    try:
        jobs = experiment.jobs(experiment.rung)
        code = {file for job in jobs for file in job.sources() if file.suffix == ".py"}
    except (UserError, OSError):  # a user's data, or a stand-in that is trained when it is needed, is not here
        return
    names = {place(file, root) for file in code | {Path(name) for job in jobs for name in job.data}}
    if missing := sorted(names - listed.keys()):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        yield f"experiment {experiment.name}: results/sources.json does not list {', '.join(missing[:3])}{more}, on which its jobs depend"


def own_results(experiment: Any, results: dict) -> list[str]:
    """Names of the results that are the experiment's own: in a document that several share another may have other seeds."""
    try:
        own = {SEED.sub("", job.name) for job in experiment.jobs(experiment.rung)} if experiment.jobs else set()
    except UserError:  # its data is not here
        own = set()
    return [name for name in results if not own or SEED.sub("", name) in own]


def committed_results(folder: Path, experiment: Any) -> dict:
    """What an experiment's quantities read. Raises FileNotFoundError where it was never published."""
    if experiment.rung == "analytic":
        return {}
    text = (folder / f"measurements.{experiment.document}.json").read_text(encoding="utf-8")
    document = json.loads(text, object_pairs_hook=once)["results"]
    return {experiment.name: document} if experiment.run else document


def differences(claim: dict, record: dict, now: dict, jobs: Iterable[str]) -> Iterator[str]:
    """What the record has otherwise than the results give. now: what the paper's quantities return for the claim; jobs: names of the
    results that they are from."""
    timing = now.pop("timing", None)
    if record["measured"]["value"] is None:
        yield f"the record has no value ({record['verdict']['word']}), and the committed results give {now['value']}"
        return
    if unequal := sorted(unequal_paths(plain(now), record["measured"])):
        yield f"measured.{unequal[0]} is not what the committed results give ({len(unequal)} such entries)"
        return
    if unequal := sorted(unequal_paths(plain(timing), record["run"].get("timing"))):
        yield f"run.timing{'.' * bool(unequal[0])}{unequal[0]} is not what the committed results give ({len(unequal)} such entries)"
    seeds = seeds_counted(now, claim["protocol"].get("seeds", []), jobs)
    if seeds != record["protocol"]["seeds"]:
        yield f"the record names the seeds {record['protocol']['seeds']}, and its results are of {seeds}"
    word, reason, _ = verdict(claim, now, timing)
    if (word, reason) != (record["verdict"]["word"], record["verdict"]["reason"]):
        yield f"the record says {record['verdict']['word']}, and its results give {word}: {reason}"


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def unequal_paths(a: Any, b: Any, at: str = "") -> Iterator[str]:
    """Where two JSON values differ by more than rounding of the last digits."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in a.keys() | b.keys():
            if key not in a or key not in b:
                yield f"{at}{key}"
            else:
                yield from unequal_paths(a[key], b[key], f"{at}{key}.")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, pair in enumerate(zip(a, b)):
            yield from unequal_paths(*pair, f"{at}{i}.")
    elif isinstance(a, float | int) and isinstance(b, float | int) and not isinstance(a, bool):
        if not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12):
            yield at.rstrip(".")
    elif a != b:
        yield at.rstrip(".")
