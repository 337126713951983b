"""The jobs of a paper's runs as text: what each calls, with which arguments, after which others. Jobs that differ in their seed alone
share a line. A paper's test_listed.py holds that text, so that a run that becomes another shows before it costs an hour."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import common.files
from common.runs.experiment import Experiment
from common.runs.jobs import Job

SIZE = "cpu"


def listed(experiments: Sequence[Experiment], monkeypatch) -> str:
    """A paragraph for each experiment that has jobs, a line for each: name, [seeds], function(arguments), data, jobs before it.

    Of the default run. The data that a job names need not be there. Raises AssertionError for two jobs of one name, and for one
    that leaves it to a default how large it is.
    """
    for module in [common.files, *list(sys.modules.values())]:
        if module is common.files or ".experiments." in getattr(module, "__name__", "") and hasattr(module, "data_file"):
            monkeypatch.setattr(module, "data_file", lambda name: Path("DATA") / name)
    paragraphs = []
    for of in experiments:
        if of.jobs:
            jobs = [*of.jobs(SIZE), *(of.then(SIZE, of.example) if of.then else ())]
            assert len({job.name for job in jobs}) == len(jobs), f"{of.name}: two jobs of one name"
            paragraphs += [f"{of.name}:", *lines(jobs)]
    return "\n".join(paragraphs)


def lines(jobs: Sequence[Job]) -> list[str]:
    """A line for jobs that differ in their seed alone."""
    seeds: dict[str, list[str]] = {}
    before = ""
    for job in jobs:
        seed = str(job.arguments.get("seed", ""))
        data = ", ".join(name.removeprefix("DATA/") for name in job.data if name.startswith("DATA/"))
        text = line(job, seed) + (f" of {data}" if data != before else " of the same" if data else "")
        before = data
        seeds.setdefault(text, []).append(seed)
    return [text.replace("{}", f"[{' '.join(found)}] " if found != [""] else "", 1) for text, found in seeds.items()]


def line(job: Job, seed: str) -> str:
    """With {} for seeds and * for the job's own."""
    def plain(text: str) -> str:
        text = text.replace(str(common.files.cache_dir()), "CACHE")
        return re.sub(rf"(seed|-){seed}(?=$|[/,.'\s\]])", r"\1*", text) if seed else text

    module, _, function = job.function.partition(":")
    takes = inspect.signature(getattr(import_module(module), function)).parameters
    assert job.arguments.keys() <= takes.keys(), f"{job.name}: {function} takes {', '.join(takes)}"
    assert job.arguments.get("size") == (SIZE if "size" in takes else None), f"{job.name}: of the size of its function's default"
    arguments = ", ".join(f"{name}={plain(repr(value))}" for name, value in job.arguments.items() if name not in ("seed", "size"))
    text = f"{plain(job.name)} {{}}{module.rpartition('.')[2]}.{function}({arguments})"
    return text + (f" < {plain(', '.join(job.after))}" if job.after else "")


def wrapped(text: str) -> str:
    """As it stands in a test file; `unwrapped` undoes it."""
    return "\n".join(textwrap.fill(row, 130, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
                     for row in text.splitlines())


def unwrapped(text: str) -> str:
    return re.sub(r"\n\s+", " ", text.strip())
