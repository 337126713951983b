"""Many small experiments as one run that survives.

A job is a function of its arguments, named by the hash of those arguments and of the source it depends on. Its
result is a JSON document, written atomically when it is done, with its own hash: a file of another job, or one in which
a digit changed, is as good as none. So a run that was killed goes on where it stopped, a second run reuses everything and
says so, and a changed source recomputes what depends on it and nothing else. Two runs at once do the same work twice.
Jobs run in worker processes, one thread each by default: two one-thread processes do more small matrix products
per second than one process with two threads.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import sweep
from .records import write_atomic

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

    sources: files whose content is part of the job's name. seconds: a guess, for the time left and the order.
    after: jobs whose results (or files) this one needs.
    """

    name: str
    function: str
    arguments: dict[str, Any]
    sources: tuple[str, ...] = ()
    seconds: float = 10.0
    after: tuple[str, ...] = field(default=())

    def key(self) -> str:
        said = [self.function, self.arguments, *_versions()]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for source in sorted(self.sources):
            digest.update(Path(source).read_bytes())
        return digest.hexdigest()[:16]


@functools.cache
def _versions() -> tuple[str, ...]:
    """Python and the libraries that compute: another version is another result."""
    found = [sys.version.split()[0]]
    for name in ("torch", "transformers", "lightning", "peft", "lm-eval", "sacrebleu", "jiwer", "espeakng-loader"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return tuple(found)


def write_json(path: Path, value: Any) -> None:
    """Writes the whole document or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


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


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    workers: int = 2,
    threads: int = 1,
    say: Callable[[str], None] = print,
    patience: float = 30.0,
) -> dict[str, Any]:
    """Runs what is not finished yet and returns {job name: result}, each as JSON gives it back, in the order of `jobs`.

    patience: seconds after which the time left is said again although no job has ended.
    Raises RuntimeError naming the first job that failed, or whose result could not be written, after the running ones
    ended; finished results stay.
    """
    results: dict[str, Any] = {}
    keys = {job.name: job.key() for job in jobs}
    paths = {name: folder / f"{name.replace('/', '.')}.{key}.json" for name, key in keys.items()}
    if len(paths) != len(jobs):
        raise ValueError("two jobs have the same name")
    sweep(folder)
    for job in jobs:
        if (done := read_result(paths[job.name], keys[job.name])) is not None:
            results[job.name] = done
    if results:
        say(f"reusing {len(results)} of {len(jobs)} finished jobs in {_relative(folder)}")
    waiting = [job for job in jobs if job.name not in results]
    if not waiting:
        return results  # all read, in order
    guess = sum(job.seconds for job in waiting) / workers
    say(f"{len(waiting)} jobs on {workers} processes, about {guess:.0f} s on two cores of a 2024 server")
    started, running, failed = time.monotonic(), {}, None
    spent = guessed = 0.0  # how long finished jobs took against their guesses: corrects the time left
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
    )
    ours = WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}  # read when a process, and torch in it, starts
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)

    def left() -> float:
        rest = sum(j.seconds for j in waiting) + sum(max(j.seconds - (time.monotonic() - t), 0) for j, t in running.values())
        return rest * (spent / guessed if guessed else 1.0) / workers

    try:
        while waiting or running:
            for job in sorted(waiting, key=lambda j: -j.seconds):
                if len(running) < workers and failed is None and all(a in results or a not in paths for a in job.after):
                    try:
                        future = pool.submit(_call, job.function, job.arguments)
                    except BrokenProcessPool:
                        failed = (job.name, LOST)
                        break
                    running[future] = (job, time.monotonic())
                    waiting.remove(job)
            if not running:
                break
            ended = wait(running, timeout=patience, return_when=FIRST_COMPLETED).done
            if not ended:
                say(f"  [{len(results):3d}/{len(jobs)}] running: {', '.join(job.name for job, _ in running.values())}   "
                    f"{time.monotonic() - started:5.0f} s gone, about {left():4.0f} s left")
            for future in ended:
                job, began = running.pop(future)
                seconds = time.monotonic() - began
                try:
                    result = json.loads(json.dumps(future.result()))  # as a run gets it that finds it finished
                    write_json(
                        paths[job.name],
                        {
                            "job": job.name,
                            "key": keys[job.name],
                            "arguments": job.arguments,
                            "seconds": round(seconds, 2),
                            "sha256": _sha256(result),
                            "result": result,
                        },
                    )
                except BrokenProcessPool:
                    failed = failed or (job.name, LOST)
                    continue
                except Exception as error:
                    failed = failed or (job.name, error)
                    continue
                results[job.name] = result
                spent, guessed = spent + seconds, guessed + job.seconds
                say(
                    f"  [{len(results):3d}/{len(jobs)}] {job.name:<44s} {seconds:6.1f} s   "
                    f"{time.monotonic() - started:5.0f} s gone, about {left():4.0f} s left"
                )
    finally:
        pool.shutdown(wait=failed is None, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    if failed:
        name, error = failed
        raise RuntimeError(f"job {name} failed: {error}. Finished jobs are kept; run again to go on from here.") from (
            error if isinstance(error, Exception) else None
        )
    return {job.name: results[job.name] for job in jobs}


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
