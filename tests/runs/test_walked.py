"""The smoke rung walks what a default run does. An experiment that it leaves out, since its smallest size takes minutes, is walked by
the tests of its paper: each of its jobs is called there, on a tiny model or on what stands in for the large one."""

import ast
import importlib
from pathlib import Path

from common.runs.sources import ROOT


def called(folder: Path) -> set[tuple[str, str]]:
    """(module, function) of every call `module.function(...)` in the tests of a folder; "*" for `getattr(module, name)(...)`."""
    found = set()
    for path in sorted(folder.glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alias = {name.asname or name.name: name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                found.add((alias.get(node.func.value.id, ""), node.func.attr))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Call) and ast.unparse(node.func.func) == "getattr":
                found.add((alias.get(ast.unparse(node.func.args[0]), ""), "*"))
    return found


def jobs_of_what_smoke_leaves_out():
    """{function of a job: (module, name) of it where it is defined} of the experiments that are asked for and not walked, by paper."""
    for paper in sorted(path.parent for path in (ROOT / "papers").glob("*/eval.py")):
        experiments = importlib.import_module(f"papers.{paper.name}.eval").EXPERIMENTS
        left_out = [e for e in experiments if e.jobs and not e.data and not e.walked]
        found = {}
        for function in sorted({job.function for e in left_out for job in [*e.jobs("cpu"), *(e.then("cpu", e.example) if e.then else [])]}):
            module, name = function.split(":")
            job = getattr(importlib.import_module(module), name)
            found[function] = job.__module__.rpartition(".")[2], job.__name__
        if found:
            yield paper, found


def test_every_job_that_smoke_leaves_out_is_called_by_a_test():
    uncalled, seen = set(), 0
    for paper, found in jobs_of_what_smoke_leaves_out():
        calls = called(paper / "tests")
        seen += len(found)
        for function, (module, name) in found.items():
            if function.startswith("papers.") and not {(module, name), (module, "*")} & calls:
                uncalled.add(function)
    assert seen > 20 and not uncalled


def test_a_call_is_seen_by_whatever_name_and_a_mention_is_none(tmp_path):
    (tmp_path / "test_a.py").write_text("from ..experiments import real as of, rates\nof.run(0)\nrates.jobs\nfrom x import y\ny.z(1)\n"
                                        "for name in 'ab':\n    getattr(rates, name)(0)\n")
    (tmp_path / "made_up.py").write_text("from ..experiments import speed\nspeed.run(0)\n")
    assert called(tmp_path) == {("real", "run"), ("y", "z"), ("rates", "*")}
