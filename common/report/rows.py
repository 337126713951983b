"""What a report is made of: a `Row` per claim and rung, and how its numbers are written in a table's cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..claims.intervals import interval
from ..claims.records import Claims, claim_order, stale
from ..claims.rules import number, unit_of
from ..claims.verdict import verdict
from .code import older_code

RUNGS = ("analytic", "cpu-small", "gpu-random-weights", "paper-scale")
RUNG_OPTION = {"gpu-random-weights": " RUNG=gpu", "paper-scale": " RUNG=paper"}


@dataclass
class Row:
    """One claim at one rung: its entry in claims.yaml, its record, or both.

    flag: "" for a row to believe, else "older" (code), "stale" (claim), "scratch", "invalid" or "unlisted", with `problem`
    for why. asked: the experiment that measures it, where that runs only when it is asked for.
    """

    id: str
    rung: str
    claim: dict | None = None
    record: dict | None = None
    flag: str = ""
    problem: str = ""
    asked: str = ""

    @property
    def short(self) -> str:
        return self.id.rpartition("/")[2]

    @property
    def shown(self) -> dict:
        """What the record, or else the claim, says: statement, paper, protocol, ..."""
        if self.record:
            return {**self.record["claim"], **self.record}
        empty = {"paper": {"value": None, "unit": "", "source": ""}, "protocol": {}}
        return self.claim or {**empty, "statement": self.problem, "kind": "", "where": ""}

    @property
    def word(self) -> str:
        return self._said()[0]

    @property
    def reason(self) -> str:
        return self._said()[1]

    def _said(self) -> tuple[str, str]:
        if self.record:
            return self.record["verdict"]["word"], self.record["verdict"]["reason"]
        if self.claim is None:
            return "not-run", self.problem
        if self.claim.get("status") or self.claim.get("blocked_by"):
            return verdict(self.claim, None)[:2]
        return "not-run", f"No record yet; `{self.command}` makes it."

    @property
    def command(self) -> str:
        """What made the record, or would make one."""
        if self.record and self.record["measured"]["value"] is not None:
            return self.record["run"]["command"]
        only = f" ONLY={self.asked}" if self.asked else ""
        return f"make reproduce-{self.id.partition('/')[0]}{RUNG_OPTION.get(self.rung, '')}{only}"


def rows_of(claims: Claims | None, records: Sequence[dict], root: Path | None = None) -> list[Row]:
    """One row per claim and rung, in the order of claims.yaml; records of no claim come last.

    root: of the tree whose code the committed records must be of; None for records of a run that has just ended.
    """
    found = {(r["claim"]["id"], r["claim"]["rung"]): r for r in records}
    rows = []
    for claim in claims.claims if claims else ():
        listed = {c["rung"] for c in claims or () if c["id"] == claim["id"]}
        more = [rung for rung in RUNGS if rung not in listed and (claim["id"], rung) in found]
        for rung in (claim["rung"], *more):
            record = found.pop((claim["id"], rung), None)
            row = Row(claim["id"], rung, claim, record)
            if record and record["run"]["dirty"]:
                row.flag = "scratch"
                row.problem = "This record is of a tree with uncommitted changes; commit, and run it again."
            elif record and claims and (different := stale(record, claims)):
                row.flag = "stale"
                row.problem = f"claims.yaml has another {different} than this record; run it again."
            elif record and root and (files := older_code(record, root)):
                row.flag = "older"
                others = f" and {len(files) - 4} more" if len(files) > 4 else ""
                row.problem = f"Made by older code: {', '.join(files[:4])}{others} changed since; run it again."
            rows.append(row)
    why = "claims.yaml has no such claim." if claims else "claims.yaml is missing or invalid."
    for (claim_id, rung), record in sorted(found.items(), key=lambda item: claim_order(item[0][0])):
        rows.append(Row(claim_id, rung, None, record, "unlisted", why))
    return rows


def anchors(rows: Sequence[Row]) -> list[str]:
    """What a link names each row by: the claim's id for its first row, "skipgpt/C9", else id/rung[/flag]."""
    made = []
    for row in rows:
        names = (row.id, f"{row.id}/{row.rung}", f"{row.id}/{row.rung}/{row.flag}")
        made.append(next(name for name in names if name not in made))
    return made


# ------------------------------------------------------------------- numbers in a table's cell


def paper_text(paper: dict) -> str:
    if paper.get("value") is None:
        return "-"
    unit = paper["unit"]
    value = f"{number(paper['value'])} {unit}".rstrip()
    return f"{value} ({paper['source']})" if paper["source"] in ("secondary", "derived") else value


def ours_text(record: dict | None) -> str:
    return value_text(record["measured"] if record else None)


def value_text(measured: dict | None) -> str:
    """A measurement, or a control of one, with its interval."""
    if not measured or measured["value"] is None:
        return "-"
    value, span = measured["value"], interval(measured)
    return f"{value:.4g} [{span[0]:.4g}, {span[1]:.4g}]" if span else number(value)


def ours_with_unit(record: dict | None) -> str:
    """The same with the unit of the claim's quantity."""
    return "-" if record is None else f"{ours_text(record)} {unit_of({**record['claim'], **record})}".rstrip()


def sample_text(record: dict | None) -> str:
    if record is None or record["measured"]["value"] is None:
        return "-"
    measured = record["measured"]
    runs, items = measured["n_runs"], measured.get("n_items")
    clusters = measured.get("n_clusters")
    what = {"across-processes": "process", "across-seeds": "training"}.get(measured.get("stderr_kind"), "run")
    parts = [f"{runs} {what}{'' if runs == 1 else 'es' if what == 'process' else 's'}", f"{items:,} items" if items else "",
             f"{clusters:,} clusters" if clusters else ""]
    if measured.get("stderr") is not None:
        parts.append(f"SE {measured['stderr']:.3g}")
    return ", ".join(part for part in parts if part)
