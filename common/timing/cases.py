"""Cases, timed one after the other within a time limit, saved after each and gone on with; and timed again in other processes.

A case is a frozen dataclass with a `name`; a paper says what one round of it is. `run_cases` takes the smallest first, gives each
its share of the time left (`Timetable`), writes the whole document after each, and names those that did not run and why.
Rounds of one process say how finely it was timed. How far the time of a computation differs from one process to the next
(where its memory lies, which cores it got) they do not say: `over_processes` measures everything again in fresh ones.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..errors import UserError
from ..files import write_json
from .clock import spread

Document = dict[str, Any]
SAMPLES = ("times", "ratios", "seconds", "peak_bytes")  # lists with a value a round


def time_allowed(seconds: float) -> float:
    """How many seconds a timing on a GPU may take, all its processes together: $MINUTES where that is set, else `seconds`.

    Raises UserError unless it is a number above 0.
    """
    text = os.environ.get("MINUTES", "")
    if not text:
        return seconds
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 10_000:
        raise UserError(f"MINUTES={text}: give the minutes that a timing on a GPU may take, a number above 0")
    return 60 * minutes


# -- within a time limit -----------------------------------------------------------------------------------
class Timetable:
    """Which case comes next, and in how many seconds, so that all ends at the limit.

    estimates {case: seconds of a round}, up to one factor a kind: slower {kind: factor}, None where nothing is known yet; every
    case that has run corrects that of its kind. rounds: how many a case needs at least. surely: runs in any case, and first.
    not_run {case: why}.
    """

    def __init__(self, estimates: dict[Hashable, float], limit: float, rounds: int, clock: Callable[[], float],
                 slower: dict[str, float | None], kind: Callable[[Any], str] = lambda case: "", surely: Hashable = None):
        self.estimates, self.limit, self.rounds, self.clock, self.began = estimates, limit, rounds, clock, clock()
        self.slower, self.kind, self.surely = dict(slower), kind, surely
        self.not_run: dict[Hashable, str] = {}

    def gone(self) -> float:
        return self.clock() - self.began

    def a_round(self, case: Hashable) -> float:
        return self.estimates[case] * (self.slower[self.kind(case)] or 1.0)

    def took(self, case: Hashable, seconds: float) -> None:
        self.slower[self.kind(case)] = seconds / self.estimates[case]

    def next(self, pending: Sequence[Hashable]) -> tuple[Hashable, float] | None:
        """The next case and its share of the time left; None, and in `not_run` why, where no other fits."""
        pending = sorted((c for c in pending if c not in self.not_run), key=lambda c: (c != self.surely, self.a_round(c)))
        if not pending:
            return None
        left = self.limit - self.gone()
        least = {c: self.a_round(c) * self.rounds for c in pending}
        fits = list(pending)
        known = None not in self.slower.values()
        while known and fits and sum(least[c] for c in fits) > left and fits != [self.surely]:
            fits.pop()
        if not fits:
            self.not_run |= {c: f"needs about {least[c]:.0f} s, {max(left, 0):.0f} s of {self.limit:.0f} s were left" for c in pending}
            return None
        return fits[0], left * self.a_round(fits[0]) / sum(self.a_round(c) for c in fits)


def finished(out: Path | None, settings: Document, cases: Sequence[Any], log: Callable[[str], None]) -> dict[str, Document]:
    """{name: result} of an earlier run with the same settings, of cases that are the same; {} if there are none."""
    if out is None or not out.exists():
        return {}
    try:
        document = json.loads(out.read_text())
        same, old = document["settings"] == settings, document["cases"]
        wanted = {case.name: json.loads(json.dumps(asdict(case))) for case in cases}
        old = {name: result for name, result in old.items() if name in wanted and wanted[name].items() <= result.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        log(f"  {out.name} is damaged; measuring everything anew")
        return {}
    if not same:
        log(f"  {out.name} is of other settings or other code; measuring everything anew")
        return {}
    log(f"  {len(old)} of {len(cases)} cases are in {out.name} already")
    return old


def run_cases(cases: Sequence[Any], run: Callable[[Any, float], Document], timetable: Timetable, document: Document, *,
              out: Path | None = None, judged: Callable[[Document], Document] = lambda document: {},
              line: Callable[[Document], str] = str, log: Callable[[str], None] = print) -> Document:
    """The document, with the results of `run(case, seconds)` under "cases" by name, beside those that are there already.

    A result has "round_seconds" and the case's own fields. "not_run" [{"case", "reason"}] names cases that did not fit into
    the time or the device's memory, "seconds" all that it took. judged: what else follows from the document, e.g. flags.
    out: JSON file, written whole after each case. line: a result as it is logged.
    """
    document.setdefault("not_run", [])
    case: Any
    done = document["cases"]

    def save() -> None:
        document["seconds"] = timetable.gone()
        document.update(judged(document))
        if out is not None:
            write_json(out, document)

    while chosen := timetable.next([case for case in cases if case.name not in done]):
        case, seconds = chosen
        try:
            result = run(case, seconds)
        except torch.cuda.OutOfMemoryError:
            timetable.not_run[case] = "out of device memory"
        if case in timetable.not_run:  # here the exception no longer holds the tensors
            torch.cuda.empty_cache()
            continue
        timetable.took(case, result["round_seconds"])
        done[case.name] = result
        log(f"  {line(result)}")
        save()
    document["not_run"] = [{"case": case.name, "reason": timetable.not_run[case]} for case in cases if case in timetable.not_run]
    save()
    return document


# -- in other processes ------------------------------------------------------------------------------------
def in_a_process(function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
    """function(...) where nothing else has ever run or been held: in a spawned process. It, its arguments and its result are
    pickled, so it stands at the top of a module. Raises what it raises, or a RuntimeError with its type and text where it cannot be
    pickled; RuntimeError, too, if the process was killed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_picklable, function, arguments, options).result()
        except BrokenProcessPool as error:
            raise RuntimeError(f"{function.__name__} lost its process, which somebody or the system killed; the system does so when "
                               "memory runs out") from error


def _picklable(function: Callable[..., Any], arguments: tuple, options: dict[str, Any]) -> Any:
    """function(...); an error that would not survive the way back is told in words: on that way it would break the whole pool."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{function.__name__}: {type(error).__name__}: {error}") from None
        raise


def over_processes(processes: int, measure: Callable[..., Document], *arguments: Any, out: Path | None = None, **options: Any) -> Document:
    """What `measure` gives, measured in so many processes, one after the other, and `pooled`.

    out: JSON file of the whole; each process keeps and continues one of its own beside it (speed.1.json, ...). With 1 it is
    measured here, as if this function were not. Raises ValueError for fewer.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes}; a timing takes at least one")
    own = [{} if out is None else {"out": out.with_name(f"{out.stem}.{n}{out.suffix}")} for n in range(1, processes + 1)]
    if processes == 1:
        return measure(*arguments, **options, **({} if out is None else {"out": out}))
    options.pop("log", None)  # is here; they print
    document = pooled([in_a_process(measure, *arguments, **options, **each) for each in own])
    if out is not None:
        write_json(out, document)
    return document


def pooled(documents: Sequence[Document]) -> Document:
    """One document in the form of each: a process counts as one value, its median.

    Lists with a value a round (SAMPLES) become lists with the median of each process; "iqr" is that of the processes' medians
    or speedups beside it; other numbers are medians over the processes, flags and other lists everything that one of them has. A
    key that one process lacks is left out. "processes": how many there were.
    """
    return _pool("", documents) | {"processes": len(documents)}


def _pool(name: str, values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        merged = {key: _pool(key, [v[key] for v in values]) for key in first if all(key in v for v in values)}
        centre = next((key for key in ("median", "speedup") if key in merged), None)
        if centre and "iqr" in merged:
            merged["iqr"] = spread([v[centre] for v in values])["iqr"]
        return merged
    if all(v == first for v in values) and name not in SAMPLES:
        return first
    if isinstance(first, bool):
        return any(values)
    if all(isinstance(v, int | float) for v in values):
        return median(values)
    if isinstance(first, list):
        if all(isinstance(x, int | float) for v in values for x in v):
            if name in SAMPLES:
                return [median(v) for v in values if v]
            if len({len(v) for v in values}) == 1:
                return [median(column) for column in zip(*values)]
        return list({json.dumps(x, sort_keys=True): x for v in values for x in v}.values())
    return first
