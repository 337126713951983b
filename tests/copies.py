"""What a copy of each paper may bring of common, in lines: python -m tests.copies writes the table of CONTRIBUTING.md.

The table is a ceiling that test_copies.py holds: the lines of today and a little room, so that a comment more breaks nothing and a
module more is seen.
"""

from pathlib import Path

from common.copy_paper import parts
from common.report.tables import read_block, update_block

ROOT = Path(__file__).resolve().parent.parent
PAGE, BLOCK = ROOT / "CONTRIBUTING.md", "copies"
STEP, LEAST = 50, 10  # ceilings are multiples of the one, and leave room for the other when they are made
ALONE, ALL = "modules in no room", "**all**"


def lines_of(root: Path, paper: str) -> dict[str, int]:
    """{room of common: lines of its Python files that a copy of the paper has}; what stands in no room is one entry, and so is all."""
    found: dict[str, int] = {ALL: 0}
    for part in parts(root, paper):
        name = part.name if (root / "common" / part.name).is_dir() else ALONE
        found[name] = found.get(name, 0) + part.lines
        found[ALL] += part.lines
    return found


def papers_of(root: Path) -> list[str]:
    return sorted(path.parent.name for path in (root / "papers").glob("*/method.py"))


def table(root: Path = ROOT) -> str:
    lines = {paper: lines_of(root, paper) for paper in papers_of(root)}
    rooms = [*sorted({room for found in lines.values() for room in found} - {ALONE, ALL}), ALONE, ALL]

    def ceiling(n: int) -> str:
        return f"{-(-(n + LEAST) // STEP) * STEP:,}" if n else "·"

    rows = [f"| {room} | {' | '.join(ceiling(found.get(room, 0)) for found in lines.values())} |" for room in rooms]
    return "\n".join([f"| lines of | {' | '.join(lines)} |", "|---" + "|--:" * len(lines) + "|", *rows]) + "\n"


def ceilings(text: str) -> dict[str, dict[str, int]]:
    """{paper: {room: lines}} of such a table."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return {paper: {row[0]: int(row[n].replace(",", "").replace("·", "0")) for row in rows} for n, paper in enumerate(head) if n}


def shown() -> str:
    return read_block(PAGE, BLOCK)


if __name__ == "__main__":
    print("renewed" if update_block(PAGE, BLOCK, table()) else "as it was")
