"""What a student does with copied papers, in one process that loads the libraries once: python -P tests/in_copies.py FOLDER ...

For each folder, the work of `make copy-<paper>`, a child is forked that stands in it and has nothing else of Ninefold on its
path: method.py is imported and must itself import torch and transformers alone; all tests are collected; every job has its key;
the analytic rung gives its verdicts; the rehearsal trains for two steps. One paper's tests of exact figures run, too. Of the
papers whose rehearsal makes a vision tower first, that one trains. The last line is {paper: exit status}.
A copy for training (ONLY=training) has no eval.py: there every module is imported, the rehearsal's config is held against the code's
signatures, and one paper trains.
Started with -P, so that this file's own folder is not on the path either.
"""

import builtins
import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

LIBRARIES = ("torch", "torch._dynamo", "transformers.models.llama.modeling_llama", "lightning.pytorch.cli", "peft", "pytest",
             "hypothesis", "jsonschema", "rich.progress")
WALKED, LIKE_IT = "visipruner", {"layerfusion", "vica"}  # with weights, pictures, features of a tower: what a copy could lack
TRAINS = "skipgpt"  # of the copies for training
METHOD_MAY_IMPORT = sys.stdlib_module_names | {"torch", "transformers"}


def imported_by_method(paper: str) -> set[str]:
    """What the paper's modules import, by their top names, when method.py is."""
    found, original = set(), builtins.__import__

    def watched(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 and (globals or {}).get("__name__", "").startswith("papers."):
            found.add(name.partition(".")[0])
        return original(name, globals, locals, fromlist, level)

    builtins.__import__ = watched
    try:
        importlib.import_module(f"papers.{paper}.method")
    finally:
        builtins.__import__ = original
    return found


def command(module: str, *words: str) -> int:
    """`python -m module words` in this process; its exit status."""
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        return left.code or 0
    return 0


def trains(paper: str) -> bool:
    """Whether the rehearsal makes two optimiser steps and leaves a checkpoint that says so."""
    import torch

    status = command(f"papers.{paper}.train", "fit", "--config", f"papers/{paper}/configs/cpu/rehearsal.yaml", "--trainer.max_steps=2",
                     "--trainer.enable_progress_bar=false")
    last = Path(f"lightning_logs/{paper}/rehearsal/checkpoints/last.ckpt")
    return status == 0 and torch.load(last, weights_only=True)["global_step"] == 2


def parses(paper: str) -> bool:
    """Whether the rehearsal's config fits the signatures that it reaches; nothing is built."""
    return command(f"papers.{paper}.train", "fit", "--config", f"papers/{paper}/configs/cpu/rehearsal.yaml", "--print_config") == 0


def imports_all() -> int:
    """How many modules there are, all of which could be imported."""
    files = [*Path("common").rglob("*.py"), *Path("papers").rglob("*.py")]
    names = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
    return len([importlib.import_module(name) for name in names])


def steps(paper: str):
    """(what was tried, whether it went as it should), one after the other."""
    import pytest

    foreign = imported_by_method(paper) - METHOD_MAY_IMPORT
    yield f"method.py imports {foreign or 'torch and transformers'}", not foreign and not any(m.startswith("common") for m in sys.modules)
    whole = Path(f"papers/{paper}/eval.py").is_file()
    some = ["-k", "test_analytic"] if whole and paper == WALKED else ["--collect-only", "--assert=plain"]
    yield "tests", pytest.main(["-q", "-p", "no:cacheprovider", *some]) == 0
    if whole:
        every_job = importlib.import_module("common.runs.experiment").every_job
        experiments = importlib.import_module(f"papers.{paper}.eval").EXPERIMENTS
        jobs = {(job.function.partition(":")[0], job.data): job for size in ("smoke", "cpu") for job in every_job(experiments, size)}
        yield "the key of a job of each module", all(job.key() for job in jobs.values())
        yield "analytic rung", command(f"papers.{paper}.eval", "--rung", "analytic") == 0 and any(
            Path(f"papers/{paper}/results/.scratch").glob("C*.analytic.json"))
    else:
        yield f"all of {imports_all()} modules can be imported", True
        yield "the rehearsal's config", parses(paper)
    if Path(f"papers/{paper}/train.py").is_file() and (paper not in LIKE_IT if whole else paper == TRAINS):
        yield "two steps", trains(paper)
    ours = [getattr(m, "__file__", None) for name, m in sys.modules.items() if name.partition(".")[0] in ("common", "papers")]
    outside = [file for file in filter(None, ours) if Path.cwd() not in Path(file).resolve().parents]
    yield f"all of {len(ours)} modules are the copy's{outside or ''}", bool(ours) and not outside


def in_copy(folder: Path) -> int:
    """Exit status of the child that stands in the folder."""
    sys.stdout.flush()
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        (paper,) = (path.parent.name for path in Path("papers").glob("*/method.py"))
        status = 0
        for what, right in steps(paper):
            print(f"{paper}: {what}: {'right' if right else 'WRONG'}", flush=True)
            if not right:
                status = 1
                break
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    folders = [Path(folder).resolve() for folder in sys.argv[1:]]
    print(json.dumps({str(folder): in_copy(folder) for folder in folders}))
