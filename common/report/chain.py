"""The chain from committed results to committed words, pulled at every link: `python -m common.report --check`.

    results -> verdict   every record is computed again from results/measurements.*.json, by the paper's quantities and
                         claims.yaml: value, interval, controls, word and reason must be equal
    code -> results      (code.py) results/sources.json has the hash of every file that an experiment's jobs depended on; where the tree's
                         differs, the records are of older code, and the files are named
    run -> commit        (history.py) a record's commit is in the history, and held that code and the claim

A paper's experiments are reached by the name of its eval.py: common imports no paper.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..claims.machine import ROOT
from ..claims.records import Claims, load_claims, read_records, stale
from ..claims.shapes import once
from ..claims.verdict import verdict
from ..errors import RecordError
from . import history

RUNGS_OF = {"analytic": "analytic", "cpu": "cpu-small", "gpu": "gpu-random-weights", "paper": "paper-scale"}


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
    by_key = {_key(r): r for r in records}
    computed: set[tuple[str, str]] = set()
    for experiment in importlib.import_module(f"papers.{paper}.eval").EXPERIMENTS:
        if experiment.quantities is None:
            continue
        rung = RUNGS_OF[experiment.rung]
        try:
            measured = experiment.quantities(committed_results(folder / "results", experiment), experiment.rung)
        except FileNotFoundError:
            continue  # never run, or not published: then its claims have no record either, which is looked at below
        except (KeyError, IndexError, TypeError, ValueError, RecordError) as error:
            yield f"papers/{paper}: experiment {experiment.name}: its claims cannot be computed from the committed results: {error!r}"
            continue
        for name, now in measured.items():
            computed.add((name, rung))
            claim, of_claim = claims.find(name, rung), by_key.get((name, rung))
            if claim is None or of_claim is None or claim["rung"] != rung:
                continue
            try:
                found = list(differences(claim, of_claim, dict(now)))
            except RecordError as error:
                found = [f"cannot be judged: {error}"]
            yield from (f"papers/{paper}: {name}: {problem}" for problem in found)
    for name, rung in sorted({key for key, record in by_key.items() if record["measured"]["value"] is not None} - computed):
        yield f"papers/{paper}: {name} at {rung}: the record has a value, and no committed result gives it"


def _key(record: dict) -> tuple[str, str]:
    return record["claim"]["id"].partition("/")[2], record["claim"]["rung"]


def _alone(record: dict, claims: Claims, paper: str) -> Iterator[str]:
    """What is wrong with a record beside claims.yaml, without computing anything again."""
    (name, rung), claim = _key(record), claims.find(record["claim"]["id"], record["claim"]["rung"])
    at = f"{name} at {rung}"
    if record["claim"]["paper_key"] != paper:
        yield f"{at}: the record is of another paper, {record['claim']['paper_key']}"
        return
    if claim is None:
        yield f"{at}: claims.yaml has no such claim"
        return
    if different := stale(record, claims):
        yield f"{at}: claims.yaml has another {different} than the record"
    if record["measured"]["value"] is not None:
        return
    word = verdict(claim, None, blocked_by=record["verdict"].get("blocked_by") or ("time",))[0]
    if word != record["verdict"]["word"]:
        yield f"{at}: the record has no value and says {record['verdict']['word']}; of this claim it could only say {word}"


def committed_results(folder: Path, experiment: Any) -> dict:
    """What an experiment's quantities read. Raises FileNotFoundError where it was never published."""
    if experiment.rung == "analytic":
        return {}
    text = (folder / f"measurements.{experiment.document}.json").read_text(encoding="utf-8")
    document = json.loads(text, object_pairs_hook=once)["results"]
    return {experiment.name: document} if experiment.run else document


def differences(claim: dict, record: dict, now: dict) -> Iterator[str]:
    """What the record has otherwise than the results give. now: what the paper's quantities return for the claim."""
    timing = now.pop("timing", None)
    if record["measured"]["value"] is None:
        yield f"the record has no value ({record['verdict']['word']}), and the committed results give {now['value']}"
        return
    if unequal := sorted(unequal_paths(plain(now), record["measured"])):
        yield f"measured.{unequal[0]} is not what the committed results give ({len(unequal)} such entries)"
        return
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
