"""Processes that run a paper's tests on a copy of the tree: once with a note of the lines that each test reaches, then on mutants.

A process imports and collects once; every run of tests is a fork of it, in which the broken file takes the place of the module
that was made of the whole one, and which is ended when its time is over. What a mutant leaves behind ends with it.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

FAILS = 10  # exit status of a run whose first test fails


# -- in the process: a plugin of pytest ----------------------------------------------------------------------
class Loop:
    """Instead of running the tests: reads requests, a line of JSON each, and answers each with one."""

    def __init__(self, answers):
        self.answers, self.reach = answers, None

    def pytest_runtestloop(self, session):
        items = {item.nodeid: item for item in session.items}
        own()
        gc.freeze()
        for request in map(json.loads, sys.stdin):
            pid = os.fork()
            if not pid:
                os.setpgid(0, 0)
                os._exit(self.child(request, items))
            end, status = time.monotonic() + request["seconds"], None
            while status is None and time.monotonic() < end:
                done, code = os.waitpid(pid, os.WNOHANG)
                status = os.waitstatus_to_exitcode(code) if done else None
                time.sleep(0.005)
            if status is None:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self.answers.write(json.dumps({"status": status}) + "\n")
            self.answers.flush()
        return True

    def child(self, request: dict, items: dict) -> int:
        """0: all pass. FAILS + n: the n-th fails. 2: the broken file cannot be imported. 3: a test that is asked for is not there.

        What is recorded is asked for by test file, or by single test."""
        from _pytest.runner import runtestprotocol

        if request["file"]:
            try:
                put_in_place(Path(request["file"]))
            except Exception:
                return 2
        if request["record"]:
            some = [item for name, item in items.items() if {name, name.partition("::")[0]} & {*request["tests"]}]
        elif {*request["tests"]} <= items.keys():
            some = [items[name] for name in request["tests"]]
        else:
            return 3
        failed = 0
        if request["record"] and some:
            self.reach = Reach({str(Path(file).resolve()): file for file in request["files"]})
            some[0].config.pluginmanager.register(self.reach)
        for number, item in enumerate(some):
            with self.reach.of(item) if self.reach else open(os.devnull):
                reports = runtestprotocol(item, log=False, nextitem=None)
            if any(report.failed for report in reports):
                failed = FAILS + min(number, 255 - FAILS)
                if not request["record"]:
                    break
                print(*(report.longrepr for report in reports if report.failed), sep="\n", file=sys.stderr)
        if request["record"]:
            Path(request["record"]).write_text(json.dumps(self.reach.found if self.reach else {}))
        return failed


def put_in_place(path: Path) -> None:
    """The file is executed in the module that was made of it; who took a name out of that module gets the new one."""
    path, modules = path.resolve(), own()
    module = next((m for m in modules.values() if m.__file__ == str(path)), None)
    if module is None:
        return  # imported by a test when it runs
    before = dict(vars(module))
    exec(compile(path.read_text(), str(path), "exec"), vars(module))
    new = {id(old): vars(module)[name] for name, old in before.items() if vars(module).get(name) is not old}
    package = module.__name__.split(".experiments")[0].rpartition(".")[0] if ".experiments." not in module.__name__ else \
        module.__name__.partition(".experiments.")[0]
    for name, other in modules.items():
        if name.startswith(package) and other is not module:
            for key, value in list(vars(other).items()):
                if id(value) in new and (callable(value) or before.get(key) is value):  # 1 is the same object everywhere
                    setattr(other, key, new[id(value)])
    for name, other in modules.items():  # its table of experiments holds functions
        if name == f"{package}.eval":
            exec(compile(Path(other.__file__).read_text(), other.__file__, "exec"), vars(other))


@functools.cache
def own() -> dict:
    """Modules of the tree that were imported before anything is broken, by name; asked for once, before processes part."""
    here = str(Path.cwd().resolve())
    return {name: m for name, m in list(sys.modules.items()) if (getattr(m, "__file__", None) or "").startswith(here)}


class Reach:
    """{test: [seconds, {file: lines}]}; each test sets up all that it needs, so that its fixtures count for it."""

    def __init__(self, files: dict[str, str]):
        self.files, self.found, self.at = files, {}, None

    def of(self, item):
        self.at, self.item = {}, item
        return self

    def __enter__(self):
        self.began = time.monotonic()
        sys.settrace(lambda frame, event, arg: self._line if frame.f_code.co_filename in self.files else None)

    def __exit__(self, *_):
        sys.settrace(None)
        self.found[self.item.nodeid] = [time.monotonic() - self.began, {file: sorted(lines) for file, lines in self.at.items()}]

    def _line(self, frame, event, arg):
        if event == "line":
            self.at.setdefault(self.files[frame.f_code.co_filename], set()).add(frame.f_lineno)
        return self._line


def work(tests: list[str]) -> None:
    """What a worker runs, in its copy of the tree."""
    import pytest

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open("worker.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    pytest.main(["-q", "-s", "-p", "no:cacheprovider", "--timeout=0", *tests], plugins=[Loop(answers)])


# -- outside of it -------------------------------------------------------------------------------------------
class Worker:
    """A copy of the tree, and a process in it that has collected `tests` (files, or single ones)."""

    def __init__(self, root: Path, folder: Path, tests: list[str]):
        self.folder, self.killer = folder, None
        for name in _files(root):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)
        cache = os.environ.get("NINEFOLD_CACHE") or root / ".cache" / "ninefold"
        env = os.environ | {"OMP_NUM_THREADS": "1", "NINEFOLD_CACHE": str(Path(cache).resolve()), "PYTHONPATH": str(folder),
                            "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""}
        program = "import json, sys; from tests.mutant_runs import work; work(json.loads(sys.argv[1]))"
        self.process = subprocess.Popen([sys.executable, "-c", program, json.dumps(tests)], cwd=folder, env=env, text=True,
                                        start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, tests: list[str], seconds: float, file: str = "", record: str = "", files: tuple[str, ...] = ()) -> int | None:
        """A status of `Loop.child`; None where time ran out. Raises RuntimeError where the worker has ended."""
        request = {"tests": tests, "seconds": seconds, "file": file, "record": record, "files": files}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())["status"]
        except (BrokenPipeError, ValueError):
            raise RuntimeError((self.folder / "worker.log").read_text(errors="replace")[-2000:]) from None

    def reached(self, files: list[str], tests: list[str], seconds: float = 1200.0) -> dict:
        """{test: [seconds, {file: lines}]} of these tests (files, or single ones), on the tree as it is. Raises RuntimeError where one
        fails."""
        record = self.folder / "reached.json"
        if self.ask(tests, seconds, record=str(record), files=tuple(files)) != 0:
            last = (self.folder / "worker.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{last}\nmutants: tests fail before anything is broken")
        return json.loads(record.read_text())

    def try_out(self, mutant, tests: list[str], seconds: float) -> str:
        """"killed", "alive" or "invalid". killer: the test that failed, of the last one that was tried."""
        path, self.killer = self.folder / mutant.file, None
        before = path.read_bytes()
        path.write_bytes(mutant.source(before))
        try:
            status = self.ask(tests, seconds, str(path))
        finally:
            path.write_bytes(before)
        if status == 3:
            raise RuntimeError("a test that was there is not there any more: FRESH=1 notes again which there are")
        if status is not None and FAILS <= status < FAILS + len(tests):
            self.killer = tests[status - FAILS]
        return {0: "alive", 2: "invalid"}.get(status, "killed")

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def _files(root: Path) -> list[str]:
    """What git has or would add; the tree's own files where there is no git."""
    git = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, text=True)
    names = git.stdout.split("\0") if not git.returncode else [
        str(p.relative_to(root)) for p in root.rglob("*") if not {".venv", ".cache", "__pycache__"} & set(p.parts)]
    return [name for name in names if name and (root / name).is_file()]
