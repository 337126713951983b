"""The report's drawings, as plain SVG: one line of the forest plot, and the strip of a timing.

Every claim has an axis of its own, for the units differ: ◆ the paper, ● ours with its 95 % interval, ○ each seed, × the arm
that must not pass or must be told apart, shaded where the rule holds, and below, on a second axis, ▲ the values compared.
Places are percentages of the width, so that a line takes any width of the page and its marks keep their shape. Colours and
strokes are the page's style sheet's.
"""

from __future__ import annotations

import math

from ..claims.intervals import interval
from ..claims.rules import COMPARING, band, number
from .rows import Row, ours_text, value_text
from .timings import Case
from .words import e

SHAPES = {
    "paper": "M0 -8L8 0L0 8L-8 0Z",
    "ours": "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1 -5 0Z",
    "control": "M-4 -4L4 4M-4 4L4 -4",
    "baseline": "M-5 4H5L0 -4Z",
    "paper-baseline": "M-5 4H5L0 -4Z",
}
LINE, SECOND = 20, 66  # y of the two axes
LISTED = 160  # characters of names below a plot; the drawer has them all


class _Axis:
    """A horizontal axis around some numbers."""

    def __init__(self, *numbers: float | None):
        seen = [x for x in numbers if x is not None and math.isfinite(x)]
        pad = 0.08 * (max(seen) - min(seen)) or 0.05 * abs(seen[0]) or 1.0
        self.left, self.right = min(seen) - pad, max(seen) + pad

    def at(self, number: float) -> str:
        inside = min(max(number, self.left), self.right)
        return f"{100 * (inside - self.left) / (self.right - self.left):.2f}%"

    def drawn(self, y: int) -> str:
        digits = max(0, 1 - math.floor(math.log10(self.right - self.left)))  # two that change
        return (
            f'<line class="axis" x1="0%" x2="100%" y1="{y}" y2="{y}"/>'
            f'<text x="0%" y="{y + 26}">{self.left:,.{digits}f}</text>'
            f'<text x="100%" y="{y + 26}" text-anchor="end">{self.right:,.{digits}f}</text>'
        )

    def mark(self, name: str, number: float, y: int, title: str) -> str:
        return (
            f'<svg class="{name}" x="{self.at(number)}" y="{y}" overflow="visible">'
            f'<path d="{SHAPES[name]}"><title>{e(title)}</title></path></svg>'
        )

    def line(self, css: str, low: float, high: float, y1: int, y2: int) -> str:
        return f'<line class="{css}" x1="{self.at(low)}" x2="{self.at(high)}" y1="{y1}" y2="{y2}"/>'


def legend(name: str) -> str:
    """One of the marks, to stand in a sentence."""
    return f'<svg class="sign {name}" viewBox="-9 -9 18 18" aria-hidden="true"><path d="{SHAPES[name]}"/></svg>'


def forest(row: Row) -> str:
    """One claim of the forest plot, as SVG; "" if there is no number to draw.

    The paper's diamond is on the axis only under a comparing rule: elsewhere ours is an effect. Baselines are values of
    the metric, which an effect is not, and may be far away: they have a second axis, with the paper and ours on it where
    these are values of the metric too.
    """
    shown = row.shown
    rule, measured = shown["protocol"].get("rule") or {}, (row.record or {}).get("measured", {})
    compares, value = any(name in rule for name in COMPARING), measured.get("value")
    paper = shown["paper"]["value"] if compares else None
    if value is None and paper is None:
        return ""
    both = [("paper", paper, f"paper: {number(paper)}"), ("ours", value, f"ours: {ours_text(row.record)}")]
    both = [(name, at, title) for name, at, title in both if at is not None]
    controls = [("control", measured[name]["value"], f"{name}: {value_text(measured[name])}") for name in ("placebo", "sensitivity")
                if (measured.get(name) or {}).get("value") is not None]
    marks, height = _first_axis(rule, measured, paper, controls + both), 50
    compared = [("baseline", at, f"{name} {number(at)}") for name, at in measured.get("baselines", {}).items()]
    if compares and shown["paper"].get("baseline") is not None:
        theirs = shown["paper"]["baseline"]
        compared.append(("paper-baseline", theirs, f"the paper's own baseline {number(theirs)}"))
    if compared:
        height, again = 96, both if compares else []
        axis = _Axis(*(at for _, at, _ in (*compared, *again)))
        marks.append(axis.drawn(SECOND))
        marks += [axis.mark(name, at, SECOND, title) for name, at, title in (*again, *compared)]
    names = [title for _, _, title in compared]
    label = f"{row.short}: ours {ours_text(row.record)}, paper {number(shown['paper']['value'])}"
    label = "; ".join([label, *(title for _, _, title in controls), *([f"compared: {', '.join(names)}"] if names else [])])
    svg = f'<svg role="img" aria-label="{e(label)}" width="100%" height="{height}">{"".join(marks)}</svg>'
    listed = " · ".join(names)
    if len(listed) > LISTED:
        listed = f"{len(names)} values compared, named in the drawer"
    return svg + (f"<small>▲ {e(listed)}</small>" if names else "")


def _first_axis(rule: dict, measured: dict, paper: float | None, given: list[tuple]) -> list[str]:
    """The rule's band, the interval, the seeds, and the marks."""
    low, high = (band(rule, paper) if rule else None) or (None, None)
    span = interval(measured) if measured.get("value") is not None else None
    seeds = measured.get("per_seed", [])
    axis = _Axis(*(at for _, at, _ in given), low, high, *(span or ()), *seeds)
    marks = [axis.drawn(LINE)]
    if low is not None and high is not None:
        width = float(axis.at(high)[:-1]) - float(axis.at(low)[:-1])
        marks.append(f'<rect class="holds" x="{axis.at(low)}" width="{width:.2f}%" y="4" height="32"/>')
        marks += [axis.line("edge", edge, edge, 4, 36) for edge in (low, high) if math.isfinite(edge)]
    if span:
        marks.append(axis.line("interval", *span, LINE, LINE))
    marks += [f'<circle class="seed" cx="{axis.at(at)}" cy="28" r="2.5"/>' for at in seeds]
    return marks + [axis.mark(name, at, LINE, title) for name, at, title in given]


def strip(case: Case) -> str:
    """The roofline strip of one case: for each variant its rounds, their median, and the least time of its arithmetic."""
    longest = 1.04 * max(max(*variant.seconds, case.limit(variant) or 0.0) for variant in case.variants)
    rows = []
    for variant in case.variants:
        limit, median = case.limit(variant), variant.median
        said = f"{_seconds(median)}, median of {len(variant.seconds)}"
        marks = ['<line class="axis" x1="0%" x2="100%" y1="12" y2="12"/>']
        if limit is not None:
            said += f"; {100 * limit / median:.3g} % of its limit, {_seconds(limit)}"
            places = f'x1="{100 * limit / longest:.2f}%" x2="{100 * median / longest:.2f}%"'
            marks.append(f'<line class="lost" {places} y1="12" y2="12"/>')
            edge = f"{100 * limit / longest:.2f}%"
            marks.append(f'<line class="limit" x1="{edge}" x2="{edge}" y1="2" y2="22"/>')
        marks += [f'<circle class="seed" cx="{100 * t / longest:.2f}%" cy="17" r="2.5"/>' for t in variant.seconds]
        marks.append(f'<circle class="median" cx="{100 * median / longest:.2f}%" cy="12" r="4.5"/>')
        label = f"{variant.name}: {said}"
        svg = f'<svg role="img" aria-label="{e(label)}" width="100%" height="24">{"".join(marks)}</svg>'
        rows.append(f'<tr><th scope="row">{e(variant.name)}</th><td class="plot">{svg}</td><td>{e(said)}</td></tr>')
    load = f", load average {case.load_average:.2g}" if case.load_average is not None else ""
    about = f"{case.name}: {case.device or 'device not recorded'}, {case.dtype or 'precision not recorded'}{load}"
    counted = any(variant.flops for variant in case.variants)
    about_limit = f"Limit: FLOPs at {case.limit_text}." if counted else "No count of FLOPs is recorded, so no limit is drawn."
    return (
        f'<table class="strip"><caption>{e(about)}<br><small>{e(about_limit)} From {e(case.source)}; axis from 0 to '
        f"{e(_seconds(longest))}.</small></caption><tbody>{''.join(rows)}</tbody></table>"
    )


def _seconds(x: float) -> str:
    """0.146 -> "146 ms"."""
    units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    scale, unit = next((entry for entry in units if x >= entry[0]), units[-1])
    return f"{x / scale:.3g} {unit}"
