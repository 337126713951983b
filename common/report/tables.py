"""Records -> the tables that people read: those of READMEs, between their markers.

Everything comes from papers/*/claims.yaml and papers/*/results/, so that the same records give the same bytes. A claim
without a record keeps its row; a record whose claim was changed since is *stale*, one whose code was changed is *older*, one
that does not validate is *invalid*, one of a tree with changes or of results/.scratch/ is *scratch*, and none counts as its word.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..claims.machine import BLOCK, ROOT
from ..claims.rules import KINDS, rule_text
from ..errors import RecordError
from ..files import write_atomic
from .first import first_lines, shown
from .papers import Paper, read_papers
from .rows import Row, ours_with_unit, paper_text, sample_text

# A paper's own Python files that have the same name in every paper; what else it has beside method.py is a part of its own.
SAME_NAMES = ("__init__", "method", "baselines", "analytic", "reported", "data", "module", "train", "scoring", "standins", "eval",
              "quantities", "tables", "pictures", "families", "planes")

# -------------------------------------------------------------------------------------- Markdown


def markdown_table(rows: Iterable[Row]) -> str:
    """All claims of one paper, for its results/README.md: what each rests on, both numbers in their unit, rule and word."""
    lines = ["| claim | kind | paper | ours | rule | controls | rung | verdict | n, SE | command |", "|---" * 10 + "|"]
    for row in rows:
        shown = row.shown
        protocol = shown["protocol"]
        rule = rule_text(protocol.get("rule")) + "".join(f"; until {was['until']}: {was['rule']}" for was in protocol.get("was", ()))
        controls = "; ".join(f"{name}: {protocol[name]}" for name in ("placebo", "sensitivity") if protocol.get(name))
        required = " (required)" if shown.get("required") else ""
        cells = (
            f"**{row.short}** {cell(shown['statement'])}" + (f" ({cell(note)})" if (note := (row.claim or {}).get("note")) else ""),
            f"{shown.get('kind') or '-'}{required}",
            cell(paper_text(shown["paper"])),
            cell(ours_with_unit(row.record)),
            cell(rule),
            cell(controls or "-"),
            row.rung,
            f"**{row.word}**" + (f" ({row.flag})" if row.flag else ""),
            cell(sample_text(row.record)),
            f"`{row.command.replace('|', chr(92) + '|')}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def headline_table(paper: Paper) -> str:
    """The headlines of one paper, for the top of its README: what it says, and what stands behind each here."""
    lines = ["| headline | the paper's figure | word | rests on | shown here | its own size needs |", "|---" * 6 + "|"]
    for h in paper.headlines:
        cells = (cell(h.statement), cell(h.paper), f"**{h.word}**" + (f" ({h.rung})" if h.rung else ""),
                 cell(", ".join(f"{name} {word}" for name, word in h.words.items())), cell(shown(h) or "-"), cell(h.needs))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def root_table(papers: Iterable[Paper]) -> str:
    """The root README's table: a line a paper, its first headline, what is shown here, and what full size would need."""
    lines = ["| paper | its headline | shown here, in the small | at the paper's size |", "|---" * 4 + "|"]
    for line in first_lines(papers):
        title = f"[{cell(line.title)}](papers/{line.key}/README.md)" if line.here else cell(line.title)
        sides = (": ".join([*([f"**{word}**"] if word else []), *([cell(beside)] if beside else [])]) for word, beside in
                 (line.small, line.full))
        lines.append(f"| {title} | {cell(line.headline)} | {' | '.join(sides)} |")
    return "\n".join(lines)


def counts_table(papers: Iterable[Paper]) -> str:
    """Papers x kinds of claim: how often each word; kinds are never added up."""
    lines = [f"| paper | {' | '.join(KINDS)} | read in full | command |", "|---" * (len(KINDS) + 3) + "|"]
    for paper in papers:
        if not paper.here:
            continue
        counted = paper.kinds()
        cells = [", ".join(f"{n} {word}" for word, n in sorted(counted.get(kind, {}).items(), key=lambda item: -item[1])) or "·"
                 for kind in KINDS]
        second_hand = _second_hand(paper)
        read = f"no: {second_hand} value{'' if second_hand == 1 else 's'} second-hand" if second_hand else (
            paper.about.get("read", "yes") if paper.about else "-")
        lines.append(f"| {paper.key} | {' | '.join(cells)} | {read} | `make reproduce-{paper.key}` |")
    return "\n".join(lines)


def _second_hand(paper: Paper) -> int:
    return sum(row.shown["paper"].get("source") == "secondary" for row in paper.rows)


def read_sentence(papers: Iterable[Paper]) -> str:
    """For how many papers the text could be read; what the mark on a value means."""
    here = [paper for paper in papers if paper.here]
    whole = sum(bool(paper.about) and not _second_hand(paper) for paper in here)
    return (f"The text of {whole or 'none'} of these {len(here)} papers could be read in full. Where it could not, a value is from the "
            "abstract, the authors' code, or somebody who quotes it; the last are marked *(secondary)* wherever they stand, and a "
            "paper's README says who that is.")


def cell(text: str) -> str:
    """Text that cannot break out of a Markdown table cell, or bring HTML into it."""
    text = " ".join(str(text).split()).replace("\\", "\\\\")
    for char, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(char, safe)
    return text.replace("`", "'").replace("*", "\\*").replace("_", "\\_")


# --------------------------------------------------------------------------------- README blocks


def read_block(path: Path, name: str) -> str:
    """The text of one block. Raises RecordError if the file has not exactly one such block."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
    found = [match["text"] for match in BLOCK.finditer(text) if match["name"] == name]
    if len(found) != 1:
        raise RecordError(
            f"{path}: has {len(found)} blocks called {name}, and needs one: a line "
            f"<!-- ninefold:{name} -->, and below it a line <!-- /ninefold:{name} -->"
        )
    return found[0]


def update_block(path: Path, name: str, text: str) -> bool:
    """Puts `text` between the markers of block `name`; whether the file changed."""
    wanted = text.rstrip("\n") + "\n"
    if "<!-- ninefold:" in wanted or "<!-- /ninefold:" in wanted:
        raise RecordError(f"{path}: the new text of block {name} holds a marker itself")
    if read_block(path, name) == wanted:
        return False

    def put(match):
        new = wanted if match["name"] == name else match["text"]
        return match["open"] + new + match["close"]

    write_atomic(path, BLOCK.sub(put, path.read_text(encoding="utf-8")))
    return True


def blocks(root: Path = ROOT, papers: Sequence[Paper] | None = None) -> list[tuple[Path, str, str]]:
    """(file, block, text) for the root README, the tree in CONTRIBUTING.md, and the README of every paper that is there."""
    papers = read_papers(root) if papers is None else papers
    made = [(root / "README.md", "papers", root_table(papers) + "\n"),
            (root / "README.md", "counts", f"{counts_table(papers)}\n\n{read_sentence(papers)}\n")]
    if (root / "CONTRIBUTING.md").is_file():
        made.append((root / "CONTRIBUTING.md", "common", tree(root / "common") + "\n"))
    for paper in papers:
        if paper.here:
            folder = root / "papers" / paper.key
            made.append((folder / "README.md", "headlines", headline_table(paper) + "\n"))
            if own := parts(folder):
                made.append((folder / "README.md", "parts", own + "\n"))
            made.append((folder / "results" / "README.md", "claims", markdown_table(paper.rows) + "\n"))
    return made


def tree(folder: Path) -> str:
    """The Python files of common, each with the sentence that it begins with, and the rooms with theirs."""
    lines = ["```"]
    for path in sorted(folder.rglob("*.py"), key=lambda path: (path.parent != folder, path.parent, path.name != "__init__.py", path.name)):
        about = _about(path)
        place = path.relative_to(folder.parent)
        room = path.name == "__init__.py"
        name = f"{place.parent}/" if room else f"{'  ' * (len(place.parts) - 1)}{path.name}"
        lines.append(f"{name:<24s}  {_sentence(about)}")
    return "\n".join([*lines, "```"])


def parts(folder: Path) -> str:
    """The files beside a paper's method.py that other papers need not have, each with the sentence that it begins with; "" of none."""
    found = [path for path in sorted(folder.glob("*.py")) if path.stem not in SAME_NAMES]
    return "\n".join(["```", *(f"{path.name:<22s}  {_sentence(_about(path))}" for path in found), "```"]) if found else ""


def _about(path: Path) -> str:
    """The first paragraph of a file's docstring, in one line."""
    about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(about.split("\n\n")[0].split())


def _sentence(text: str, width: int = 110) -> str:
    """Its beginning, cut between words."""
    return text if len(text) <= width else text[: text.rindex(" ", 0, width)].rstrip(",;:") + " ..."


def check(root: Path = ROOT, papers: Sequence[Paper] | None = None) -> list[Path]:
    """The files whose block differs from what the records give, or which have no such block."""
    different = []
    for path, name, text in blocks(root, papers):
        try:
            if read_block(path, name) != text:
                different.append(path)
        except RecordError:
            different.append(path)
    return list(dict.fromkeys(different))
