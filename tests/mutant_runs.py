"""Processes that run a paper's tests on a copy of the tree, once with a note of the lines that each test reaches, then on mutants.

A process imports the libraries once; every run of tests is a fork of it, which is ended when its time is over.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


class Reach:
    """A plugin of pytest: {test: [seconds, {file: lines}]}. What a shared fixture reaches counts for each test that has it."""

    def __init__(self, files: dict[str, str]):
        self.files, self.tests, self.fixtures, self.at = files, {}, {}, None

    def __enter__(self):
        sys.settrace(lambda frame, event, arg: self._line if frame.f_code.co_filename in self.files else None)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _line(self, frame, event, arg):
        if event == "line" and self.at is not None:
            self.at.setdefault(self.files[frame.f_code.co_filename], set()).add(frame.f_lineno)
        return self._line

    def pytest_runtest_protocol(self, item, nextitem):
        self.at, self.began, self.item = {}, time.monotonic(), item
        self.tests[item.nodeid] = [0.0, self.at, getattr(item, "fixturenames", ())]

    def pytest_runtest_logfinish(self, nodeid, location):
        self.tests[nodeid][0] = time.monotonic() - self.began

    def pytest_fixture_setup(self, fixturedef, request):
        self.fixtures.setdefault(fixturedef.argname, {})
        self.at = self.fixtures[fixturedef.argname]

    def pytest_fixture_post_finalizer(self, fixturedef, request):
        self.at = {}

    def pytest_runtest_call(self, item):
        self.at = self.tests[item.nodeid][1]

    def found(self) -> dict:
        whole = {}
        for test, (seconds, lines, fixtures) in self.tests.items():
            reached: dict[str, set] = {}
            for some in (lines, *(self.fixtures.get(name, {}) for name in fixtures)):
                for file, numbers in some.items():
                    reached.setdefault(file, set()).update(numbers)
            whole[test] = [seconds, {file: sorted(numbers) for file, numbers in reached.items()}]
        return whole


def work() -> None:
    """Reads requests, a line of JSON each, answers each with one. Libraries are imported once; every run is a fork."""
    import lightning.pytorch.cli  # noqa: F401
    import pytest
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for request in map(json.loads, sys.stdin):
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            os.dup2(os.open("child.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(1, 2)
            arguments = ["-q", "-p", "no:cacheprovider", "--timeout=0", "--no-header", *request["arguments"]]
            if not request["record"]:
                os._exit(pytest.main([*arguments, "-x"]))
            with Reach({str(Path(file).resolve()): file for file in request["files"]}) as reach:
                status = pytest.main(arguments, plugins=[reach])
            Path(request["record"]).write_text(json.dumps(reach.found()))
            os._exit(status)
        end, status = time.monotonic() + request["seconds"], None
        while status is None and time.monotonic() < end:
            done, code = os.waitpid(pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if done else None
            time.sleep(0.02)
        if status is None:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        answers.write(json.dumps({"status": status}) + "\n")
        answers.flush()


class Worker:
    def __init__(self, root: Path, folder: Path):
        names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True,
                               text=True).stdout.split("\0")  # fmt: skip
        for name in names if any(names) else [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]:
            if name and (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, folder / name)
        self.folder, cache = folder, os.environ.get("NINEFOLD_CACHE") or root / ".cache" / "ninefold"
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "NINEFOLD_CACHE": str(Path(cache).resolve()),
                            "PYTHONPATH": str(folder), "PYTEST_ADDOPTS": ""}
        self.process = subprocess.Popen([sys.executable, "-c", "from tests.mutant_runs import work; work()"], cwd=folder, env=env,
                                        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, arguments: list[str], seconds: float, record: str = "", files: tuple[str, ...] = ()) -> int | None:
        """pytest's status, None where time ran out."""
        request = {"arguments": arguments, "seconds": seconds, "record": record, "files": files}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["status"]

    def try_out(self, mutant, tests: list[str], seconds: float) -> str:
        """"killed", "alive" or "invalid"."""
        path = self.folder / mutant.file
        before = path.read_bytes()
        path.write_bytes(mutant.source(before))
        try:
            status = self.ask(tests, seconds)
        finally:
            path.write_bytes(before)
        return {0: "alive", 2: "invalid", 4: "invalid"}.get(status, "killed")  # 2, 4: not even the tests can be imported

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


# -- which tests meet a mutant -------------------------------------------------------------------------------
def reached(worker: Worker, files: list[str], tests: list[str], seconds: float = 900.0) -> dict:
    """{test: [seconds, {file: lines}]} of the tree as it is. Raises SystemExit where a test fails."""
    record = worker.folder / "reached.json"
    if worker.ask(tests, seconds, str(record), tuple(files)) != 0:
        last = (worker.folder / "child.log").read_text(errors="replace")[-2000:]
        raise SystemExit(f"{last}\nmutants: the tests fail before anything is broken")
    return json.loads(record.read_text())


def meeting(mutant, known: dict) -> list[str]:
    """Tests that reach the mutant's line, the fastest first; of a line that runs at import (a table of arms) all that reach its file."""
    line = [test for test, (_, lines) in known.items() if mutant.line in lines.get(mutant.file, ())]
    some = line or [test for test, (_, lines) in known.items() if lines.get(mutant.file)]
    return sorted(some, key=lambda test: known[test][0])
