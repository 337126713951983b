"""What a report is made of: a `Row` per claim and rung, a `Paper` per folder.

Gathering never raises for what is wrong in a folder: an invalid file becomes a row that says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .intervals import interval
from .machine import ROOT
from .records import (
    Claims,
    RecordError,
    claim_order,
    load_claims,
    read_record,
    record_files,
    stale,
)
from .verdict import number, verdict

PLANNED = {  # in the order of the root README
    "skipgpt": "SkipGPT: each token skips its own modules",
    "gpe": "LLM as Effective Streaming Processor: group position encoding",
    "streamingthinker": "StreamingThinker: thinking while reading",
    "proactivellm": "ProactiveLLM: learning when to interact",
    "vica": "ViCA: vision-only cross-attention",
    "layerfusion": "Multi-Layer Visual Feature Fusion",
    "visipruner": "VisiPruner: pruning visual tokens by layer",
    "onpolicysft": "On-Policy SFT for efficient reasoning",
    "decouplingkl": "Decoupling KL and Trajectories",
}
RUNGS = ("analytic", "cpu-small", "gpu-random-weights", "paper-scale")
RUNG_OPTION = {"gpu-random-weights": " RUNG=gpu", "paper-scale": " RUNG=paper"}


@dataclass
class Row:
    """One claim at one rung: its entry in claims.yaml, its record, or both.

    flag: "" for a row to believe, else "stale", "invalid" or "unlisted", with `problem` saying why.
    """

    id: str
    rung: str
    claim: dict | None = None
    record: dict | None = None
    flag: str = ""
    problem: str = ""

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
        return f"make reproduce-{self.id.partition('/')[0]}{RUNG_OPTION.get(self.rung, '')}"


@dataclass
class Paper:
    """One row of the matrix. `here` is false for a paper that is planned only."""

    key: str
    title: str
    here: bool = False
    about: dict = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)

    def counts(self) -> Counter:
        """Rows per word; a flagged row counts under its flag."""
        return Counter(row.flag or row.word for row in self.rows)


def rows_of(claims: Claims | None, records: Sequence[dict]) -> list[Row]:
    """One row per claim and rung, in the order of claims.yaml; records of no claim come last."""
    found = {(r["claim"]["id"], r["claim"]["rung"]): r for r in records}
    rows = []
    for claim in claims or ():
        listed = {c["rung"] for c in claims if c["id"] == claim["id"]}
        more = [rung for rung in RUNGS if rung not in listed and (claim["id"], rung) in found]
        for rung in (claim["rung"], *more):
            record = found.pop((claim["id"], rung), None)
            row = Row(claim["id"], rung, claim, record)
            if record and stale(record, claims):
                row.flag = "stale"
                row.problem = "claims.yaml was changed after this record was made; run it again."
            rows.append(row)
    why = "claims.yaml has no such claim." if claims else "claims.yaml is missing or invalid."
    for (claim_id, rung), record in sorted(found.items(), key=lambda item: claim_order(item[0][0])):
        rows.append(Row(claim_id, rung, None, record, "unlisted", why))
    return rows


def read_paper(folder: Path) -> Paper:
    """A paper as its folder has it; nothing that is wrong in the folder raises."""
    key = folder.name
    paper = Paper(key, PLANNED.get(key, key), here=(folder / "claims.yaml").exists())
    if not paper.here:
        return paper

    def said(error: RecordError) -> str:
        return str(error).replace(f"{folder.parent.parent}/", "")  # no path of this machine

    claims, records, invalid = None, [], []
    try:
        claims = load_claims(folder / "claims.yaml")
        paper.about, paper.title = claims.paper, claims.paper["title"]
    except RecordError as error:
        paper.problems.append(said(error))
    for path in record_files(folder / "results"):
        try:
            records.append(read_record(path))
        except RecordError as error:
            name, rung = path.name.split(".")[:2]
            invalid.append(Row(f"{key}/{name}", rung, None, None, "invalid", said(error)))
            paper.problems.append(said(error))
    broken = {(row.id, row.rung): row for row in invalid}
    for row in rows_of(claims, records):
        bad = broken.pop((row.id, row.rung), None)
        if bad:
            row.flag, row.problem = bad.flag, bad.problem
        paper.rows.append(row)
    paper.rows += broken.values()
    paper.pictures = _pictures(folder / "results")
    return paper


def _pictures(results: Path) -> list[Path]:
    """SVG and PNG files; of two with one name, the SVG."""
    found = {p.stem: p for suffix in ("*.png", "*.svg") for p in sorted(results.glob(suffix))}
    return [found[stem] for stem in sorted(found)]


def read_papers(root: Path = ROOT) -> list[Paper]:
    """The nine, and any further folder with a claims.yaml after them."""
    more = sorted(p.parent.name for p in (root / "papers").glob("*/claims.yaml"))
    return [read_paper(root / "papers" / key) for key in dict.fromkeys([*PLANNED, *more])]


# ------------------------------------------------------------------- numbers in a table's cell


def paper_text(paper: dict) -> str:
    if paper.get("value") is None:
        return "-"
    unit = paper["unit"]
    value = f"{number(paper['value'])} {unit}".rstrip()
    return f"{value} ({paper['source']})" if paper["source"] in ("secondary", "derived") else value


def ours_text(record: dict | None) -> str:
    if record is None or record["measured"]["value"] is None:
        return "-"
    value, span = record["measured"]["value"], interval(record["measured"])
    return f"{value:.4g} [{span[0]:.4g}, {span[1]:.4g}]" if span else number(value)


def sample_text(record: dict | None) -> str:
    if record is None or record["measured"]["value"] is None:
        return "-"
    measured = record["measured"]
    runs, items = measured["n_runs"], measured.get("n_items")
    parts = [f"{runs} run{'' if runs == 1 else 's'}", f"{items:,} items" if items else ""]
    if measured.get("stderr") is not None:
        parts.append(f"SE {measured['stderr']:.3g}")
    return ", ".join(part for part in parts if part)
