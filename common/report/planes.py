"""The planes as data: points that committed results give, on benches where methods of several papers can be compared.

A *family* is a plane: what its methods are compared in. A *bench* is one model (or models of one recipe) and one set of test items:
points of one bench are comparable, points of two benches never stand on one axis. A paper states its points in
papers/<paper>/planes.py, a function

    planes(recorded: Recorded) -> Iterator[Bench]

which reads results by the names of the paper's experiments. A point whose job was never recorded is listed as missing with the
command that would make it and its price; one whose record lacks a field, or holds no number, is refused by file and field. Papers are
found by their files and asked by name: common imports none.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..claims.intervals import point, refuse_unusable, summarize
from ..claims.machine import ROOT
from ..claims.processes import over_processes
from ..claims.rungs import RUNGS_OF
from ..errors import RecordError
from ..seeds import seeds_of
from .code import digest_of, older_code, read_sources
from .papers import PLANNED


@dataclass(frozen=True)
class Family:
    """methods: what the plane promises to show; one that no bench has is named on its page."""

    key: str
    title: str
    opening: str
    methods: tuple[str, ...]


FAMILIES = (
    Family("streaming", "Streaming: quality against latency",
           "How much of an answer is right, against how long the reader waits for it. A method with a setting (the k of wait-k, a "
           "threshold) is a curve.", ("wait-k", "GPE", "ProactiveLLM", "re-encoding")),
    Family("vision", "Vision: accuracy against what the picture costs",
           "How many questions about pictures are answered, against what of the picture's work is left: floating-point operations, "
           "attention pairs, and measured time.",
           ("dense", "ViCA", "VisiPruner", "FastV", "PyramidDrop", "random", "layer fusion")),
    Family("reasoning", "Reasoning: accuracy against tokens",
           "How many problems are solved, against how long the responses are.",
           ("On-Policy SFT", "GRPO", "off-policy SFT", "four cells", "mixture", "curriculum")),
    Family("pruning", "Text pruning: quality against executed work",
           "Loss on unseen text, against what share of a dense prefill's floating-point operations is executed, and against measured time.",
           ("dense", "SkipGPT", "static pruning", "mixture of depths", "token-blind routing", "random routing")),
)


@dataclass(frozen=True)
class Axis:
    """label: quantity and unit. better: "less", "more", or "" where neither is. scale: linear, log, or root (of zero and above, small
    values spread out). shown: where the picture ends; what lies beyond is drawn at the edge, with its number. possible: values that the
    quantity can have, past which no picture goes."""

    label: str
    better: str = ""
    scale: str = "linear"
    shown: tuple[float, float] | None = None
    possible: tuple[float, float] | None = None


@dataclass(frozen=True)
class Source:
    """Where points come from. flag: why they count as nothing until they are run again; "" for a run of this tree's code."""

    command: str
    price: str
    record: str
    flag: str = ""


@dataclass(frozen=True)
class Point:
    """x, y: as the `measured` part of a record, value and interval."""

    method: str
    setting: str
    x: dict
    y: dict
    source: Source


@dataclass(frozen=True)
class Missing:
    method: str
    why: str
    command: str
    price: str


class NotRecorded(Exception):
    """No committed result has such a job: its point is missing, which is no fault of a file."""


@dataclass
class Bench:
    """comparable: a sentence that says what the points share. Joined methods are drawn as a curve, in the order of their points.
    stands_for: {a method's name here: the family's method that it is}."""

    family: str
    key: str
    title: str
    comparable: str
    x: Axis
    y: Axis
    points: list[Point] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    joined: set[str] = field(default_factory=set)
    stands_for: dict[str, str] = field(default_factory=dict)

    def add(self, of: Document, method: str, x: Callable[[], dict], y: Callable[[], dict], setting: str = "", stands_for: str = "") -> None:
        """The point of a method at a setting; where a job that it rests on is not recorded, a missing one.

        Raises RecordError, with file and point, where what is recorded has not what the point reads."""
        name = f"{method}, {setting}" if setting else method
        if stands_for:
            self.stands_for[method] = stands_for
        try:
            self.points.append(Point(method, setting, checked(x()), checked(y()), of.source))
        except NotRecorded as why:
            self.missing.append(Missing(method if of.results is None else name, str(why), of.source.command, of.source.price))
        except (RecordError, LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            said = str(error) if isinstance(error, RecordError) else f"has not the form that is read: {error!r}"
            raise RecordError(f"{of.source.record}: {name} of bench {self.key}: {said}") from error

    def met(self, family: Family) -> int:
        """How many of the family's methods have a point here."""
        return len({self.stands_for.get(point.method) for point in self.points} & set(family.methods))

    def curve(self, of: Document, method: str, points: Sequence[tuple[str, Callable[[], dict], Callable[[], dict]]],
              stands_for: str = "") -> None:
        """points: (setting, x, y), joined by a line."""
        self.joined.add(method)
        for setting, x, y in points:
            self.add(of, method, x, y, setting, stands_for)

    def lacks(self, method: str, why: str, price: str, stands_for: str = "") -> None:
        """A point that no command makes yet; price: what it would take."""
        if stands_for:
            self.stands_for[method] = stands_for
        self.missing.append(Missing(method, why, "-", price))


def checked(measured: dict) -> dict:
    """Raises RecordError where a value or an end of an interval is no finite number."""
    refuse_unusable([measured["value"], *measured.get("ci95", ())], "value, interval")
    return measured


# -- what is recorded --------------------------------------------------------------------------------------
class Document:
    """The committed results of one experiment; `results` is None where it was never published."""

    def __init__(self, results: dict | None, source: Source):
        self.results, self.source = results, source

    def _absent(self, name: str) -> str:
        return "never recorded" if self.results is None else f"no result called {name}"

    def __contains__(self, job: str) -> bool:
        return self.results is not None and job in self.results

    def seeds(self, start: str) -> tuple[int, ...]:
        """Seeds of jobs `start`/seedN. Raises NotRecorded where there is none."""
        found = seeds_of(self.results or {}, start)
        if not found:
            raise NotRecorded(self._absent(start))
        return found

    def at(self, job: str, *fields: str) -> Any:
        """Raises NotRecorded for a job that is not there, RecordError for a field that it lacks."""
        if job not in self:
            raise NotRecorded(self._absent(job))
        found: Any = (self.results or {})[job]
        for i, name in enumerate(fields):
            if not isinstance(found, dict) or name not in found:
                raise RecordError(f"{job} has no {' / '.join(fields[: i + 1])}")
            found = found[name]
        return found

    def number(self, job: str, *fields: str) -> float:
        found = self.at(job, *fields)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise RecordError(f"{job}: {' / '.join(fields)} is {found!r}, and no number")
        return float(found)

    def over(self, start: str, *fields: str, scale: float = 1.0, resolution: float = 0.0) -> dict:
        """`measured` over the trainings `start`/seedN, one value each. resolution: of the scaled value."""
        return summarize([scale * self.number(f"{start}/seed{seed}", *fields) for seed in self.seeds(start)], resolution)


class Recorded:
    """A paper's committed results by the names of its experiments: recorded["text"]."""

    def __init__(self, paper: str, experiments: Sequence[Any], root: Path = ROOT):
        self.paper, self.root = paper, root
        self.experiments = {experiment.name: experiment for experiment in experiments}

    def __getitem__(self, experiment: str) -> Document:
        return self.document(experiment, self.experiments[experiment].document)

    def document(self, experiment: str, name: str) -> Document:
        """Of an experiment whose older results have a file of their own. Raises RecordError for a file that cannot be read."""
        of, folder = self.experiments[experiment], self.root / "papers" / self.paper / "results"
        command = f"make reproduce-{self.paper}" + (f" RUNG={of.rung}" if of.rung != "cpu" else "") + (
            f" ONLY={of.name}" if of.asked else "") + (" NINEFOLD_DATA=FOLDER" if of.data else "")
        minutes = f"{of.minutes:,.0f} minute{'' if round(of.minutes) == 1 else 's'} on two cores" if of.minutes else ""
        needs = [minutes, f"{', '.join(of.data)} (docs/data.md)" if of.data else "", of.needs]
        source = Source(command, "; ".join(filter(None, needs)) or "minutes", f"papers/{self.paper}/results/measurements.{name}.json")
        path = self.root / source.record
        if not path.is_file():
            return Document(None, source)
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            results, run = read["results"], read["run"]
            dirty, seeds = bool(run["dirty"]), re.search(r" SEEDS=\d+", run.get("command", ""))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{source.record}: cannot be read as results of a run: {error!r}") from None
        if not isinstance(results, dict):
            raise RecordError(f"{source.record}: results is no object of jobs")
        if seeds:  # so many trainings are had by asking for them
            source = replace(source, command=command + seeds[0])
        return Document(results, replace(source, flag=self._flag(experiment, of.rung, dirty, folder)))

    def _flag(self, experiment: str, rung: str, dirty: bool, folder: Path) -> str:
        if dirty:
            return "of a tree with uncommitted changes"
        named = read_sources(folder / "sources.json").get(experiment)
        run = {} if named is None else {"sources": {"experiment": experiment, "sha256": digest_of(named)}}
        files = older_code({"run": run, "claim": {"paper_key": self.paper, "rung": RUNGS_OF[rung]}, "measured": {"value": 0.0}}, self.root)
        if run and files:
            return f"of older code: {', '.join(files[:3])}{' and more' if len(files) > 3 else ''}"
        return "of a run that did not write down which code it was of" if files else ""


# -- all papers --------------------------------------------------------------------------------------------
def gather(root: Path = ROOT) -> dict[str, list[Bench]]:
    """{family: its benches}, those first where the most of its methods meet. A bench of which several papers state points is one: its
    words and axes must be the same."""
    found: dict[str, dict[str, Bench]] = {family.key: {} for family in FAMILIES}
    papers = [path.parent.name for path in sorted((root / "papers").glob("*/planes.py"))]
    for paper in sorted(papers, key=lambda key: (list(PLANNED).index(key) if key in PLANNED else len(PLANNED), key)):
        module, experiments = (importlib.import_module(f"papers.{paper}.{name}") for name in ("planes", "eval"))
        for bench in module.planes(Recorded(paper, experiments.EXPERIMENTS, root)):
            _join(found, bench, paper)
    for benches in found.values():
        for bench in benches.values():
            _refuse_twins(bench)
    return {family.key: sorted(found[family.key].values(), key=lambda bench: -bench.met(family)) for family in FAMILIES}


def _join(found: dict[str, dict[str, Bench]], bench: Bench, paper: str) -> None:
    if bench.family not in found:
        raise RecordError(f"papers/{paper}/planes.py: {bench.key} is of no family; there are {', '.join(found)}")
    here = found[bench.family].setdefault(bench.key, bench)
    if here is bench:
        return
    if (here.title, here.comparable, here.x, here.y) != (bench.title, bench.comparable, bench.x, bench.y):
        raise RecordError(f"papers/{paper}/planes.py: {bench.key} has other words or axes than another paper's of that name")
    here.points += bench.points
    here.missing += bench.missing
    here.joined |= bench.joined
    here.stands_for |= bench.stands_for


def _refuse_twins(bench: Bench) -> None:
    names = [(point.method, point.setting) for point in bench.points]
    if twins := sorted({" ".join(name) for name in names if names.count(name) > 1}):
        raise RecordError(f"plane {bench.family}, bench {bench.key}: stated twice: {', '.join(twins)}")


# -- a bench that several papers share ---------------------------------------------------------------------
def prefill_bench(of: Document, timed: Mapping[str, tuple[str, str]], shares: Callable[[Any, str], Sequence[float]],
                  flops: Callable[[Any, str], float]) -> Bench:
    """Prefills around a picture, by papers that time theirs at the same dimensions, each against the dense one of its own rounds.

    timed: {name shown: (way, the family's method that it is)}. shares: (a process's result, way) -> time in % of dense, round by round, or
    nothing where that process did not time it; flops: executed FLOPs in % of dense, which the first process has of all."""
    bench = Bench("vision", "prefill", "Time of a prefill at SmolLM2-135M's dimensions around a picture of 576 tokens",
                  "The decoder is that of SmolLM2-135M with random weights, in fp32 on two threads; 35 text tokens stand before"
                  " the picture and 27 behind. Each share is of the dense prefill in the same interleaved rounds, so that "
                  "shares of several runs can be compared. What leaves is decided beforehand (the papers' averages), for random"
                  " weights decide nothing: this says what of a counted saving arrives as time, and nothing of accuracy. Below "
                  "the dotted line, time falls by more than the count.",
                  Axis("executed FLOPs of the prefill, % of dense", "less"), Axis("time of the prefill, % of dense", "less"))

    def processes() -> list[Any]:
        return [of.at(name) for name in sorted(of.results or {}) if name.startswith("speed/process")] or [of.at("speed/process0")]

    def executed(way: str) -> dict:
        return point(flops(processes()[0], way))

    def time(way: str) -> dict:
        return over_processes([rounds for each in processes() if (rounds := shares(each, way))])

    for name, (way, method) in timed.items():
        bench.add(of, name, partial(executed, way), partial(time, way), stands_for=method)
    return bench


def reasoners_bench() -> Bench:
    """Reasoners of common/standins that each paper of the family trains further from the same weights on the same problems."""
    return Bench("reasoning", "chains", "A small reasoner that repeats itself, trained further",
                 "One small reasoner a seed (109,000 parameters, of common/standins), every arm trained for the same updates on responses "
                 "to as many problems, then 200 unseen problems with four samples each at the reasoner's own cap. On-Policy SFT and its "
                 "rivals learn from a verifier and each has a rate of its own; what is distilled learns from another reasoner, at one "
                 "rate and by no verifier.",
                 Axis("tokens of a response", "less", scale="log", shown=(16.0, 100.0)),
                 Axis("Avg@4, % of samples that are right", "more", shown=(74.0, 100.0)))


def share_by_round(ours: Sequence[float], dense: Sequence[float]) -> list[float]:
    """In %."""
    return [100 * a / b for a, b in zip(ours, dense, strict=True)]


def clock_share(of: Document, way: str) -> dict:
    """Time of a way in % of dense, round by round, over the processes of the jobs `clock`/seedN, one a model."""
    times = [of.at(f"clock/seed{seed}", "times") for seed in of.seeds("clock")]
    return over_processes([share_by_round(timed[way], timed["dense"]) for timed in times])
