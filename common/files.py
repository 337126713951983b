"""Files that are whole or not there, whatever happens to the process that writes them.

    with replacing(path) as file: ...     takes its name when it is complete; the file that was there stays until then
    with building(path) as folder: ...    the same for a folder
    write_atomic(path, text), write_json  the same for a text, for a document
    seal(file), sealed(path)              a cached file that says itself whether a byte of it has changed
    sweep(folder)                         removes what killed processes left behind
    cache_dir(), data_file(name)          where what can be made again is kept, and where a user's data are

What is being written is called .<name>.<random>.tmp, in the same folder (a rename is one step within a file system only),
and is locked by its writer. The system drops the lock when the writer ends in any way, so that a lock is never stale, and
`sweep` can tell a leftover from the file of a run that is writing beside this one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError, FileError

SEAL = hashlib.sha256().digest_size


def advice(error: OSError, path: Path) -> str:
    """What to do about an error of writing `path`."""
    return {
        errno.ENOSPC: "the disk is full; make room and run again",
        errno.EDQUOT: "your disk quota is used up; make room and run again",
        errno.EFBIG: "it is larger than this system lets a file be (ulimit -f); raise the limit and run again",
        errno.EROFS: "the file system is read-only; copy the repository to one that is not",
        errno.EACCES: f"no permission to write in {path.parent}; change it or copy the tree",
        errno.EISDIR: "a folder has its name; move it away and run again",
    }.get(error.errno or 0, error.strerror or str(error))


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[io.BufferedRandom]:
    """A binary file that takes the place of `path` when the block ends well. Raises OSError; what was there is intact."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, handle = _locked(path, lambda name: os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(beside, path)  # before the lock goes
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)


def write_atomic(path: str | Path, text: str) -> None:
    """Writes a text file so that a reader, or a run after a crash, sees the old or the new one.

    Raises FileError, with what to do, when the folder is read-only or the disk full.
    """
    path = Path(path)
    try:
        with replacing(path) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {advice(error, path)}. What was there is intact.") from error


def write_json(path: str | Path, value: Any) -> None:
    """Writes the whole document or nothing. Raises FileError as `write_atomic` does."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def building(path: str | Path) -> Iterator[Path]:
    """An empty folder that is called `path` when the block ends well; if `path` is there by then, that one stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def make(name: Path) -> int:
        name.mkdir()
        return os.open(name, os.O_RDONLY)

    beside, handle = _locked(path, make)
    try:
        yield beside
        try:
            os.rename(beside, path)
        except OSError as error:  # another process was first
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        os.close(handle)


def _locked(path: Path, make) -> tuple[Path, int]:
    """(name, handle) of a new temporary that is locked. A sweep may come between making and locking: then once more."""
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            handle = make(beside)
        except FileExistsError:
            continue
        with contextlib.suppress(OSError):  # no locks on this file system: then nothing is swept there, either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if beside.exists():
            return beside, handle
        os.close(handle)


def sweep(folder: str | Path) -> int:
    """Removes temporaries whose writers are gone; how many. A folder that is not there has none."""
    gone = 0
    for path in Path(folder).glob(".*.tmp"):
        with contextlib.suppress(OSError):  # of a writer at work, or removed by another sweep
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                gone += 1
            finally:
                os.close(handle)
    return gone


def seal(file: io.BufferedRandom) -> None:
    """Appends the sha256 of what `replacing`'s file holds so far. numpy reads an array and leaves what follows it alone."""
    file.flush()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()
    file.seek(0, os.SEEK_END)
    file.write(digest)


def sealed(path: str | Path) -> bool:
    """Whether the file is there and ends with the sha256 of all that precedes."""
    try:
        with open(path, "rb") as file:
            left = os.fstat(file.fileno()).st_size - SEAL
            digest = hashlib.sha256()
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
            return left == 0 and file.read() == digest.digest()
    except OSError:
        return False


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """Where derived files are kept: $NINEFOLD_CACHE, else ./.cache/ninefold. Safe to delete."""
    return Path(os.environ.get("NINEFOLD_CACHE") or Path(".cache") / "ninefold")


def data_file(name: str, data: str | Path | None = None) -> Path:
    """Path of a file (name relative to `data`, default $NINEFOLD_DATA) that must exist."""
    folder = data or os.environ.get("NINEFOLD_DATA")
    if not folder:
        raise DataError(f"{name} is needed: set NINEFOLD_DATA to the folder that holds {name}.")
    path = Path(folder).expanduser() / name
    if not path.is_file():
        raise DataError(f"{path} is missing: the folder that NINEFOLD_DATA names must hold {name}.")
    return path
