"""The first view, the same in the root README and on the page: a line a paper, its headline, and what stands behind it here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..claims.headlines import Headline
from ..claims.intervals import interval
from ..claims.rules import rule_text
from .papers import COMING, Paper
from .rows import ours_with_unit

# Beside a word that no small run gave.
NOT_RUN = "not run in the small"
AT = {"analytic": f"exact arithmetic; {NOT_RUN}", "gpu-random-weights": "real size, random weights"}


@dataclass(frozen=True)
class Line:
    """small, full: (word, "" where there is none; what stands beside it) in the small, and at the paper's size."""

    key: str
    title: str
    here: bool
    headline: str
    small: tuple[str, str]
    full: tuple[str, str]


def first_lines(papers: Iterable[Paper]) -> list[Line]:
    return [_line(paper) for paper in papers]


def _line(paper: Paper) -> Line:
    title = paper.title.partition(":")[0]
    if not paper.here:
        return Line(paper.key, title, False, COMING.get(paper.key, "-"), ("", "planned"), ("", "planned"))
    if not paper.headlines:
        return Line(paper.key, title, True, "no headline can be read: see the report", ("", "-"), ("", "-"))
    h = paper.headlines[0]
    full = (h.word, shown(h)) if h.rung == "paper-scale" else ("", f"not run: needs {h.needs}")
    small = ("", "not run") if h.rung in ("", "paper-scale") else (h.word, "; ".join(filter(None, (AT.get(h.rung), shown(h)))))
    if older := _older(paper, h):
        beside = [part for part in small[1].split("; ") if part not in ("", "not run", NOT_RUN)]
        small = small[0], "; ".join([*beside, f"in the small by older code: {older}"])
    return Line(paper.key, title, True, f"{h.short} ({h.paper})", small, full)


def _older(paper: Paper, h: Headline) -> str:
    """Rows of a headline that older code has run in the small, with the words of then, which count nowhere: to leave them out would say
    that nothing was seen. One with its word, one that opposes if any does, and how many more: this is a line."""
    rows = [row for row in paper.rows if row.flag == "older" and row.rung == "cpu-small" and row.short in h.words]
    if not rows:
        return ""
    shown_row = min(rows, key=lambda row: row.word != "opposes")
    return f"{shown_row.short} {shown_row.word}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")


def shown(h: Headline) -> str:
    """The row whose numbers a headline shows, with them and what they are held against; "" where it has none."""
    if not h.record or h.record["measured"]["value"] is None:
        return ""
    what = f"{h.here} ({h.row})" if h.here else h.row
    rule = rule_text(h.record["protocol"].get("rule"))
    return f"{what}: {ours_with_unit(h.record)}" + (f"; rule: {rule}" if rule not in ("", "-") else "")


def intervals_shown(papers: Iterable[Paper]) -> int:
    """How many intervals of 95 % the report shows of records to believe: one in twenty misses by chance."""
    measured = [row.record["measured"] for paper in papers for row in paper.rows if row.record and not row.flag]
    return sum(one["value"] is not None and interval(one) is not None for one in measured)
