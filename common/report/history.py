"""What the history says of committed records: the commit that each names is in it, and held the code and the claims that it is of.

    run -> commit     a record's commit is in the history, before the one that is checked out
    commit -> code    the hashes in results/sources.json are those of the files as that commit has them: whoever edits a hash, names
                      another commit, or ran a tree with changes that git was told to overlook, is told which file differs
    commit -> claims  the claim stood in claims.yaml at that commit, with today's rule: a rule that was changed after the run has the
                      old one under `was`

A shallow clone, a copy and a tarball have no history: there these questions are left open.
"""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..claims.machine import ROOT
from ..claims.records import Claims
from .code import digest_of, read_sources

COMMIT = re.compile(r"[0-9a-f]{7,64}")
NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


def problems(paper: str, records: Sequence[dict], claims: Claims, root: Path = ROOT) -> Iterator[str]:
    """What the history says otherwise than a paper's records, a sentence each."""
    for record in records:
        if problem := commit_problem(record, root):
            yield problem
    if not is_there(root):
        return
    measured = [r for r in records if r["measured"]["value"] is not None and commit_problem(r, root) is None]
    yield from _other_code(measured, read_sources(root / "papers" / paper / "results" / "sources.json"), root)
    yield from _other_claims(measured, claims, f"papers/{paper}/claims.yaml", root)


# -- run -> commit -----------------------------------------------------------------------------------------
def commit_problem(record: dict, root: Path = ROOT) -> str | None:
    """Why a record's commit cannot be the one that it ran on; None where it can, and where there is no history to ask.

    A commit goes by its own number and no other name.
    """
    commit, name = record["run"]["commit"], f"{record['claim']['id']} at {record['claim']['rung']}"
    if record["run"]["dirty"]:
        return f"{name}: its run was of a tree with uncommitted changes, and it stands among the committed records"
    if not COMMIT.fullmatch(commit) or not commit.strip("0"):
        return f"{name}: {commit[:40]!r} is no commit"
    if not is_there(root):
        return None
    return None if _is_ancestor(root, commit) else f"{name}: commit {commit[:12]} is not in the history before this one"


@functools.lru_cache(maxsize=8)
def is_there(root: Path) -> bool:
    """Whether the tree has its whole history, and git may be asked for it."""
    def asked(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return asked("rev-parse", "--is-shallow-repository") == "false" and asked("rev-parse", "--show-prefix") == ""
    except (OSError, subprocess.CalledProcessError):
        return False


@functools.lru_cache(maxsize=512)
def _is_ancestor(root: Path, commit: str) -> bool:
    answer = subprocess.run(["git", "-C", str(root), "merge-base", "--is-ancestor", commit, "HEAD"], capture_output=True)
    return answer.returncode == 0


# -- commit -> code ----------------------------------------------------------------------------------------
def _other_code(records: Iterable[dict], sources: Mapping[str, Mapping[str, str | None]], root: Path) -> Iterator[str]:
    """An experiment at a commit that some record names, of which results/sources.json has another hash than the commit's file.

    What no commit tracks, a user's data, cannot be looked up; code can.
    """
    pairs = {(run["commit"], run["sources"]["experiment"]) for run in (record["run"] for record in records)
             if "sources" in run and digest_of(sources.get(run["sources"]["experiment"], {})) == run["sources"]["sha256"]}
    named = {(commit, name) for commit, experiment in pairs for name in sources.get(experiment, {}) if not name.startswith("(")}
    held = {place: None if content is None else hashlib.sha256(content).hexdigest()[:16] for place, content in contents(root, named)}
    for commit, experiment in sorted(pairs):
        different = [name for name, sha in sources[experiment].items() if (commit, name) in held and held[commit, name] != sha
                     and (held[commit, name] or name.endswith(".py"))]
        if different:
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            yield (f"experiment {experiment}: its records name commit {commit[:12]}, and results/sources.json has another hash than that "
                   f"commit of {', '.join(different[:3])}{more}")


def contents(root: Path, places: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], bytes | None]]:
    """((commit, file), what the file held at that commit, None where it was not there), by one process of git for all."""
    listed = sorted(place for place in set(places) if "\n" not in place[1])
    asked = "".join(f"{commit}:{name}\n" for commit, name in listed).encode()
    given = subprocess.run(["git", "-C", str(root), "cat-file", "--batch"], input=asked, capture_output=True, check=True).stdout
    at = 0
    for place in listed:
        end = given.index(b"\n", at)
        about, at = given[at:end].split(b" "), end + 1
        if about[-1] == b"missing" or about[-2] != b"blob":
            yield place, None
            at += 0 if about[-1] == b"missing" else int(about[-1]) + 1
            continue
        yield place, given[at : at + int(about[-1])]
        at += int(about[-1]) + 1


# -- commit -> claims --------------------------------------------------------------------------------------
def _other_claims(records: Iterable[dict], claims: Claims, file: str, root: Path) -> Iterator[str]:
    """A record whose claim was written, or whose rule was changed without a word, after its run: what is asked when the results are
    known was not fixed beforehand."""
    by_commit: dict[str, list[dict]] = {}
    for record in records:
        by_commit.setdefault(record["run"]["commit"], []).append(record)
    now = (root / file).read_bytes()
    for (commit, _), then in contents(root, [(commit, file) for commit in by_commit]):
        entries = [] if then == now else _entries(then)
        for record in by_commit[commit] if then != now else ():
            name, rung = record["claim"]["id"], record["claim"]["rung"]
            found = [entry for entry in entries if entry.get("id") == name]
            before = next((entry for entry in found if entry.get("rung") == rung), found[0] if found else None)
            today = claims.find(name, rung)
            if before is None:
                yield f"{name} at {rung}: claims.yaml had no such claim at commit {commit[:12]}, on which it ran: it was asked afterwards"
            elif today is not None and (changed := _changed(before, today)):
                yield (f"{name} at {rung}: claims.yaml had another {changed} at commit {commit[:12]}, on which it ran, and no entry under "
                       "`was` says why")


def _entries(text: bytes | None) -> list[dict]:
    """The claims of a claims.yaml of any age, as far as it can be read; its shape may have been another."""
    try:
        found: Any = yaml.load(text or b"", Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return [entry for entry in found["claims"] if isinstance(entry, dict)]
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        return []


def _changed(before: dict, today: dict) -> str:
    """What was fixed beforehand and is another now; "" where nothing is, or where `was` has grown since."""
    then, now = before.get("protocol") or {}, today["protocol"]
    if len(now.get("was", ())) > len(then.get("was") or ()):
        return ""
    pairs = {"kind": (before.get("kind"), today["kind"]), "required": (bool(before.get("required")), bool(today.get("required"))),
             "evidence": (then.get("evidence"), now.get("evidence")), "rule": (_plain(then.get("rule")), _plain(now.get("rule")))}
    return ", ".join(name for name, (old, new) in pairs.items() if old != new)


def _plain(rule: Any) -> Any:
    """A rule's name and number: the sentence beside them decides nothing, and YAML 1.1 reads 1e-5 as text."""
    if not isinstance(rule, dict):
        return rule
    return {name: float(at) if isinstance(at, str) and NUMBER.fullmatch(at) else at for name, at in rule.items() if name != "falsified_if"}
