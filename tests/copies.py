"""What a copy of each paper may bring of common, in lines: python -m tests.copies writes the two tables of CONTRIBUTING.md.

One is of whole copies, one of copies for training. They are ceilings that test_copies.py holds: the lines of today and a little
room, so that a comment more breaks nothing and a module more is seen.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from common.copy_selection import TRAINING, WHOLE, is_command, own_files, parts
from common.report.tables import read_block, update_block

ROOT = Path(__file__).resolve().parent.parent
PAGE, BLOCKS = ROOT / "CONTRIBUTING.md", {WHOLE: "copies", TRAINING: "copies-training"}
STEP, LEAST = 50, 10  # ceilings are multiples of the one, and leave room for the other when they are made
ALONE, ALL, COMMANDS = "modules in no room", "**all**", "commands"


def lines_of(root: Path, paper: str, only: str = WHOLE) -> dict[str, int]:
    """{room of common: lines of its Python files that a copy of the paper has}; what stands in no room is one entry, and so is all."""
    found: dict[str, int] = {ALL: 0}
    for part in parts(root, paper, only):
        name = part.name if (root / "common" / part.name).is_dir() else ALONE
        found[name] = found.get(name, 0) + part.lines
        found[ALL] += part.lines
    return found


def commands_of(root: Path, paper: str) -> list[str]:
    """The commands that a copy for training has."""
    return [file.stem for file in own_files(root, paper, TRAINING) if file.parent.name == paper and is_command(file)]


def papers_of(root: Path) -> list[str]:
    return sorted(path.parent.name for path in (root / "papers").glob("*/method.py"))


def table(root: Path = ROOT, only: str = WHOLE) -> str:
    lines = {paper: lines_of(root, paper, only) for paper in papers_of(root)}
    rooms = [*sorted({room for found in lines.values() for room, n in found.items() if n} - {ALONE, ALL}), ALONE, ALL]

    def ceiling(n: int) -> str:
        return f"{-(-(n + LEAST) // STEP) * STEP:,}" if n else "·"

    rows = [f"| {room} | {' | '.join(ceiling(found.get(room, 0)) for found in lines.values())} |" for room in rooms]
    if only == TRAINING:
        rows.append(f"| {COMMANDS} | {' | '.join(', '.join(commands_of(root, paper)) or '·' for paper in lines)} |")
    return "\n".join([f"| lines of | {' | '.join(lines)} |", "|---" + "|--:" * len(lines) + "|", *rows]) + "\n"


def cells(text: str) -> dict[str, dict[str, str]]:
    """{paper: {row: cell}} of such a table."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return {paper: {row[0]: row[n] for row in rows} for n, paper in enumerate(head) if n}


def ceilings(text: str) -> dict[str, dict[str, int]]:
    """{paper: {room: lines}}."""
    return {paper: {room: int(cell.replace(",", "").replace("·", "0")) for room, cell in found.items() if room != COMMANDS}
            for paper, found in cells(text).items()}


def take_compiled(folder: Path) -> None:
    """Gives a copy what Python has compiled here of the same files; each copy would compile some hundred anew."""
    for path in folder.rglob("*.py"):
        kept, there = (Path(importlib.util.cache_from_source(str(file))) for file in (ROOT / path.relative_to(folder), path))
        if kept.is_file():
            there.parent.mkdir(exist_ok=True)
            shutil.copyfile(kept, there)


def worked_in(folders: Iterable[Path], base: Path) -> tuple[dict[str, int], str]:
    """({folder: status}, output) of a student's work in copies (in_copies.py): one process for all, which loads the libraries once.

    Nothing of this repository is on its path, and it starts in base, outside of every copy.
    """
    folders = list(folders)
    for folder in folders:
        take_compiled(folder)
    ours = ("PYTHONPATH", "PYTEST_", "NINEFOLD_", "STRICT")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(ROOT / "tests" / "in_copies.py"), *map(str, folders)]
    done = subprocess.run(command, cwd=base, env=env, text=True, timeout=550, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        return json.loads(done.stdout.splitlines()[-1]), done.stdout
    except (ValueError, IndexError):
        raise AssertionError(f"nothing could be run in the copies:\n{done.stdout[-3000:]}") from None


def shown(only: str = WHOLE) -> str:
    return read_block(PAGE, BLOCKS[only])


if __name__ == "__main__":
    for only, block in BLOCKS.items():
        print(f"{block}: {'renewed' if update_block(PAGE, block, table(only=only)) else 'as it was'}")
