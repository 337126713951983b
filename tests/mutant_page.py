"""docs/mutants.md: what came of the mutants of each file, which are alive and why, and how many of all there would be."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import yaml

from tests.mutant_changes import Mutant, arithmetic, mutants, targets, turns

PAGE, REASONS = Path("docs/mutants.md"), Path("docs/mutants.yaml")


def reason_of(mutant: Mutant, reasons: list[dict]) -> str:
    """Entries name a file, a line as it stands, the change (or none: whatever is done to that line), and the reason."""
    return next((r["reason"] for r in reasons if r["file"] == mutant.file and r["line"] == mutant.shown
                 and r.get("change", mutant.change) == mutant.change), "")


def section(file: str, tried: list[tuple[Mutant, str]], reasons: list[dict]) -> str:
    """What the page says of a file."""
    count = {word: sum(w == word for _, w in tried) for word in ("killed", "alive", "invalid", "not tried")}
    alive = [(m, reason_of(m, reasons)) for m, word in tried if word == "alive"]
    rows = [f"## {file}", "", f"{len(tried)} mutants: {count['killed']} killed, {count['alive']} alive, {count['invalid']} invalid, "
            f"{count['not tried']} not tried. "]
    turned = Counter(word for m, word in tried if turns(m))
    rows[-1] += f"Of these {turned.total()} make another experiment of it: {turned['killed']} killed, {turned['alive']} alive."
    rows += [""]
    if alive:
        rows += ["| line | as it stands | change | reason |", "|---|---|---|---|"]
        rows += [f"| {m.line} | `{_cell(m.shown)}` | `{_cell(m.change)}` | {reason} |" for m, reason in alive] + [""]
    return "\n".join(rows)


def shares(parts: dict[str, str]) -> list[str]:
    """The table of what would be alive of all, by kind of file: either kind of change of a file counts for its mutants, however many
    of them were tried, for the lot prefers one of them."""
    kinds: dict[str, list[tuple[str, bool]]] = {}
    for file, part in parts.items():
        kind = "quantities" if arithmetic(file) else "experiments" if "/experiments/" in file else "selections"
        kinds.setdefault(kind, []).append((part, False))
        kinds.setdefault(f"{kind}, made another", []).append((part, True))
    rows = ["| kind of file | tried | alive | of these without a reason | share alive, estimated of all |", "|---|---|---|---|---|"]
    for kind, found in sorted(kinds.items()):
        tried = alive = bare = 0
        weights = expected = 0.0
        for part, only in found:
            turned, every = counts_of(part, True), counts_of(part, False)
            for total, killed, living in [turned] if only else [turned, [a - b for a, b in zip(every, turned)]]:
                tried, alive = tried + killed + living, alive + living
                if killed + living:
                    weights, expected = weights + total, expected + total * living / (killed + living)
            bare += sum(line.endswith("|  |") for line in part.splitlines())
        rows.append(f"| {kind} | {tried} | {alive} | {'' if found[0][1] else bare} | {f'{expected / weights:.1%}' if weights else ''} |")
    return [*rows, ""]


def counts_of(part: str, only_turned: bool) -> tuple[int, int, int]:
    """(mutants, killed, alive) that a file's part names; zeros where it does not say how many make another experiment."""
    pattern = r"Of these (\d+) make another experiment of it: (\d+) killed, (\d+) alive" if only_turned else \
        r"(\d+) mutants: (\d+) killed, (\d+) alive"
    found = re.search(pattern, part)
    return tuple(map(int, found.groups())) if found else (0, 0, 0)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")[:100]


def write_page(root: Path, tried: list[tuple[Mutant, str]]) -> int:
    """Writes the page; files that were not asked for keep their part of it. Returns how many are alive without a reason."""
    page, reasons = root / PAGE, root / REASONS
    known = (yaml.safe_load(reasons.read_text()) if reasons.is_file() else None) or []
    old = page.read_text().split("\n## ")[1:] if page.is_file() else []
    parts = {part.split("\n", 1)[0]: "## " + part.rstrip() + "\n" for part in old}
    for file in dict.fromkeys(m.file for m, _ in tried):
        parts[file] = section(file, [(m, word) for m, word in tried if m.file == file], known)
    papers: dict[str, list[int]] = {path.parent.name: [0] * 5 for path in sorted((root / "papers").glob("*/quantities.py"))}
    for file, part in parts.items():
        counts = map(int, re.search(r"\d+ mutants: (\d+) killed, (\d+) alive, (\d+) invalid", part).groups())
        paper = file.split("/")[1]
        papers[paper] = [0, *(a + b for a, b in zip(papers[paper][1:], counts)), 0]
    for paper, counts in papers.items():  # of all its files as they are now, what the last runs left out too
        counts[0] = sum(len(mutants(file, (root / file).read_bytes())) for file in targets(root, paper))
        counts[4] = max(counts[0] - sum(counts[1:4]), 0)
    papers["all"] = [sum(counts) for counts in zip(*papers.values())]
    head = ["# Mutants", "", "Written by `make mutants` (tests/mutants.py): places in which experiments, quantities and selections were",
            "broken, and what the tests of their paper noticed. Reasons are those of docs/mutants.yaml. A part is as the last run of its",
            "file left it; \"mutants\" and \"not tried\" of the table are counted on all files as they are now.", "",
            "| paper | mutants | killed | alive | invalid | not tried |", "|---|---|---|---|---|---|",
            *(f"| {paper} | {' | '.join(map(str, counts))} |" for paper, counts in papers.items()), "",
            "How many would be alive if all were tried, from those that were drawn by lot; \"made another\" are the changes that make",
            "another experiment of it (an arm, a split or a metric for its neighbour, a sign turned, a seed or a rate left out). A part",
            "that was written before these were counted has them under its kind of file alone. Tests that were written for survivors kill",
            "these and flatter the estimate, until the next lot is drawn.", "", *shares(parts)]
    page.write_text("\n".join([*head, *(parts[file] for file in sorted(parts))]).rstrip() + "\n")
    return sum(word == "alive" and not reason_of(m, known) for m, word in tried)
