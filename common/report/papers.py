"""The papers as their folders have them: rows of claims, and what explains these.

Gathering never raises for what is wrong in a folder: an invalid file becomes a row that says so.
Beside its rows a paper has the deviations of its README by id, its pictures with the README's words for them, and its timings.
"""

from __future__ import annotations

import ast
import contextlib
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..claims.headlines import Headline, headlines
from ..claims.machine import ROOT
from ..claims.records import Claims, load_claims, read_record, record_files
from ..errors import RecordError
from .rows import Row, rows_of
from .timings import Case, timed_cases

PLANNED = {  # titles, in the order of the root README
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
COMING = {  # headlines of papers that are not there yet, from their abstracts
    "streamingthinker": "thinking while reading keeps batch quality and waits 80 % fewer tokens before it reasons",
    "proactivellm": "deciding by its own states when to speak lowers latency at equal quality",
    "layerfusion": "visual features of several stages, fused at the input, generalise best",
    "visipruner": "without training, 99 % of visual attention and 53.9 % of FLOPs of LLaVA-1.5-7B go",
    "decouplingkl": "prefix source and KL direction are two choices; an entropy-gated length curriculum gains 3.6 points Avg@k",
}
PICTURE = re.compile(r"!\[([^\]]+)\]\(results/([\w.-]+)\)")
DEVIATIONS = re.compile(r"^## Deviations\b.*?$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
# A row of a table, "| D1 | what | why |", or an entry of a list, "- **D1 Title.** What", with its further lines.
DEVIATION = re.compile(r"^(?:\| *(D\d+) *\|(.*)\|$|- \*\*(D\d+)\b(.*(?:\n +\S.*)*))", re.MULTILINE)


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
    captions: dict[str, str] = field(default_factory=dict)  # of pictures, by file name
    deviations: dict[str, str] = field(default_factory=dict)  # by id
    timings: list[Case] = field(default_factory=list)
    headlines: list[Headline] = field(default_factory=list)

    def counts(self) -> Counter:
        """Rows per word; a flagged row counts under its flag."""
        return Counter(row.flag or row.word for row in self.rows)

    def kinds(self) -> dict[str, Counter]:
        """{kind of claim: rows per word}: kinds are never counted together."""
        counted: dict[str, Counter] = {}
        for row in self.rows:
            counted.setdefault(row.shown.get("kind") or "invalid", Counter())[row.flag or row.word] += 1
        return counted


def asked_for(folder: Path) -> dict[str, str]:
    """{claim: experiment} of those that a run measures only where ONLY= names them.

    eval.py is read and not imported: it brings every library that computes, which takes seconds. What cannot be read so has none: what is
    wrong with an eval.py is for the paper's own run to report.
    """
    try:
        tree = ast.parse((folder / "eval.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return {}
    names = {node.targets[0].id: node.value for node in tree.body
             if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    found: dict[str, str] = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Experiment" and call.args:
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            if "asked" in given and "claims" in given:
                claims = given["claims"]
                claims = names.get(claims.id, claims) if isinstance(claims, ast.Name) else claims
                with contextlib.suppress(ValueError, TypeError):  # put together by code: a test finds it
                    found |= dict.fromkeys(ast.literal_eval(claims), ast.literal_eval(call.args[0]))
    return found


def read_paper(folder: Path, scratch: bool = False) -> Paper:
    """A paper as its folder has it; nothing that is wrong in the folder raises.

    scratch: also the records of results/.scratch/, each after the committed one.
    """
    key = folder.name
    paper = Paper(key, PLANNED.get(key, key), here=(folder / "claims.yaml").exists())
    if not paper.here:
        return paper

    def said(error: RecordError) -> str:
        return str(error).replace(f"{folder.parent.parent}/", "")  # no path of this machine

    claims = None
    try:
        claims = load_claims(folder / "claims.yaml")
        paper.about, paper.title = claims.paper, claims.paper["title"]
    except RecordError as error:
        paper.problems.append(said(error))
    records, invalid = [], []
    for path in record_files(folder / "results"):
        try:
            record = read_record(path)
            if record["claim"]["paper_key"] != key:
                raise RecordError(f"{path}: $.claim.id: {record['claim']['id']} is of another paper than the folder {key}")
            records.append(record)
        except RecordError as error:
            name, rung = path.name.split(".")[:2]
            invalid.append(Row(f"{key}/{name}", rung, None, None, "invalid", said(error)))
            paper.problems.append(said(error))
    broken, asked = {(row.id, row.rung): row for row in invalid}, asked_for(folder)
    for row in rows_of(claims, records, folder.parent.parent):
        row.asked = asked.get(row.short, "") if row.rung == "cpu-small" else ""
        bad = broken.pop((row.id, row.rung), None)
        if bad:
            row.flag, row.problem = bad.flag, bad.problem
        paper.rows.append(row)
    paper.rows += broken.values()
    if claims:
        paper.headlines = headlines(claims, [row.record for row in paper.rows if row.record and not row.flag])
    if scratch:
        _add_scratch(paper, claims, folder / "results" / ".scratch", said)
    paper.pictures, strange = _pictures(folder / "results")
    paper.problems += [f"papers/{key}/results/{problem}" for problem in strange]
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.exists() else ""
    paper.captions = {name: words for words, name in PICTURE.findall(text)}
    paper.deviations = dict(_deviations(text))
    paper.timings, unread = timed_cases(folder / "results")
    paper.problems += [f"papers/{key}/results/{problem}" for problem in unread]
    return paper


def _add_scratch(paper: Paper, claims: Claims | None, folder: Path, said) -> None:
    for path in record_files(folder):
        try:
            record = read_record(path)
        except RecordError as error:
            paper.problems.append(said(error))
            continue
        claim_id, rung = record["claim"]["id"], record["claim"]["rung"]
        why = "From results/.scratch/: a run on this machine, not a committed record."
        row = Row(claim_id, rung, claims.find(claim_id, rung) if claims else None, record, "scratch", why)
        same = [i for i, other in enumerate(paper.rows) if (other.id, other.rung) == (claim_id, rung)]
        paper.rows.insert(same[-1] + 1 if same else len(paper.rows), row)


def _pictures(results: Path) -> tuple[list[Path], list[str]]:
    """(SVG and PNG files; of two with one name, the SVG), (what is wrong with the others).

    A link could lead out of the tree, and what it leads to would stand in the report; a pipe would never end.
    """
    found, problems = {}, []
    for suffix in ("*.png", "*.svg"):
        for path in sorted(results.glob(suffix)):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found[path.stem] = path
            else:
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
                problems.append(f"{path.name}: is {kind}, where a picture's own file belongs; it is left out of the report")
    return [found[stem] for stem in sorted(found)], problems


def _deviations(readme: str) -> Iterator[tuple[str, str]]:
    """(id, sentences without Markdown) of the section "Deviations"."""
    section = DEVIATIONS.search(readme)
    for match in DEVIATION.finditer(section[1] if section else ""):
        text = match[2] if match[1] else match[4]
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("**", "").replace("`", "")
        cells = [" ".join(cell.split()) for cell in text.split("|")]
        yield match[1] or match[3], " · ".join(cell for cell in cells if cell)


def read_papers(root: Path = ROOT, scratch: bool = False) -> list[Paper]:
    """The nine, and any further folder with a claims.yaml after them."""
    more = sorted(p.parent.name for p in (root / "papers").glob("*/claims.yaml"))
    return [read_paper(root / "papers" / key, scratch) for key in dict.fromkeys([*PLANNED, *more])]
