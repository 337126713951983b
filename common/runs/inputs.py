"""The files that a run reads, looked at before any of its jobs starts.

A file that is missing, empty, cut short, unreadable, not what its suffix says, or that has not as many lines as its other side ends
the run in its first second, with one line: the whole path, what is wrong, what to do. Met inside a job, minutes later, the
same file is a division by zero, or the fault of whatever read it.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError
from ..files import data_file

SIDE = re.compile(r"(?P<split>.+?)\.(?!gz)[a-z]{2}(?:\.gz)?")  # multi30k.train.de.gz: one side of a text and its translation
BLOCK = 1 << 20


def named(name: str) -> Path:
    """The path of a file of NINEFOLD_DATA, whatever has that name. Raises DataError where nothing has."""
    try:
        return data_file(name)
    except (DataError, OSError):
        folder = os.environ.get("NINEFOLD_DATA")
        if not folder or not os.path.lexists(path := Path(folder).expanduser() / name):
            raise
        return path  # a folder, a pipe, a link to nothing: for `look` to say


def look(paths: Iterable[str | Path]) -> None:
    """Each file is whole and can be read as what its suffix says, and the sides of a translation have equally many lines.

    Reads .gz and .txt to their ends, of all others the first bytes. Raises DataError for the first that is wrong.
    """
    sides: dict[str, tuple[Path, int]] = {}
    for path in dict.fromkeys(Path(path) for path in paths):
        lines = _look_at(path)
        if lines is None or not (side := SIDE.fullmatch(path.name)):
            continue
        other, count = sides.setdefault(str(path.with_name(side["split"])), (path, lines))
        if count != lines:
            raise DataError(f"{path} has {lines} lines and {other} has {count}: line n of one must be the translation of line n of the "
                            "other. Take both files from the same release.")


def _look_at(path: Path) -> int | None:
    """How many lines a text has; None of what is no text. Raises DataError."""
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise DataError(f"{path} is a folder, and a file of that name is read: move the folder away and put the file in its place.")
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(f"{path} is no file that can be read twice (a pipe or a device): put the file in its place.")
        if facts.st_size == 0:
            raise DataError(f"{path} is empty (0 bytes): copy the whole file there.")
        with open(path, "rb") as file:
            return _read(path, file)
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there, or a link to nothing: put the file there.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is cut short or no {path.suffix} file ({error}): copy the whole file there.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): let this user read it, e.g. by chmod u+r.") from error


def _read(path: Path, file: BinaryIO) -> int | None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            if not archive.namelist():
                raise DataError(f"{path} is an archive with nothing in it: copy the whole file there.")
    elif path.suffix == ".parquet":
        begin = file.read(4)
        file.seek(-4, os.SEEK_END)
        if (begin, file.read()) != (b"PAR1", b"PAR1"):
            raise DataError(f"{path} is cut short or no .parquet file (which begins and ends with PAR1): copy the whole file there.")
    elif path.suffix == ".jsonl":
        try:
            if not isinstance(json.loads(file.readline()), dict):
                raise ValueError("no object in braces")
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: its first line is no JSON object ({error}): copy the whole file there.") from error
    elif path.suffix in (".gz", ".txt"):
        with gzip.open(file) if path.suffix == ".gz" else file as text:
            lines, said = 0, False
            for block in _whole_lines(text):
                lines, said = lines + block.count(b"\n") + (not block.endswith(b"\n")), said or not block.isspace()
        if not said:
            raise DataError(f"{path} holds no line of text: copy the whole file there.")
        return lines
    return None


def _whole_lines(text: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    """Blocks that end where a line ends, the last where the file does."""
    while block := text.read(BLOCK):
        yield block + text.readline()
