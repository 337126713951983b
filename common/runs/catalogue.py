"""`make experiments`: what every paper can measure, how long it takes, what it needs, and when it was last recorded."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

from .experiment import Experiment
from .reproduce_all import ROOT, papers

COLUMNS = "{:<18s}{:<13s}{:<10s}{:>8s}  {:<20s}{}"


def command(paper: str, experiment: Experiment) -> str:
    """What a user types to run it."""
    words = [f"make reproduce-{paper}"]
    if experiment.rung in ("gpu", "paper"):
        words.append(f"RUNG={experiment.rung}")
    if experiment.asked:
        words.append(f"ONLY={experiment.name}")
    return " ".join(words)


def recorded(root: Path, paper: str, experiment: Experiment) -> str:
    """The day of the committed measurements, "" where there are none. Those of a changed tree carry no verdict, so they are named."""
    path = root / "papers" / paper / "results" / f"measurements.{experiment.document}.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))["run"]
        return run["started_at"][:10] + (", dirty" if run.get("dirty") else "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def lines(root: Path = ROOT) -> Iterator[str]:
    yield COLUMNS.format("paper", "experiment", "rung", "minutes", "recorded", "command; what it needs")
    for paper in papers(root):
        for experiment in importlib.import_module(f"papers.{paper}.eval").EXPERIMENTS:
            needs = [*(["NINEFOLD_DATA"] if experiment.data else []), *([experiment.needs] if experiment.needs else [])]
            what = "with every run" if experiment.rung == "analytic" else command(paper, experiment)
            yield COLUMNS.format(paper, experiment.name, experiment.rung, f"{experiment.minutes:g}" if experiment.minutes else "",
                                 recorded(root, paper, experiment), "; ".join([what, *needs]))


def main() -> None:
    for line in lines():
        print(line)


if __name__ == "__main__":
    main()
