"""One bench of a plane as SVG: a mark a point, its interval both ways, curves, and a list of names beside.

Plain SVG, written by hand: the same points give the same bytes on every machine. Colours are those of Okabe and Ito, which
colour-blind readers tell apart, and each method has a shape, too; a list beside the frame names them, so that no label hides a mark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from ..claims.intervals import interval
from .planes import Axis, Bench, Point
from .rows import value_text
from .words import e

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#222222", "#e69f00", "#56b4e9", "#777777")
SHAPES = ("M-5 0A5 5 0 1 1 5 0A5 5 0 1 1 -5 0Z", "M-4.4 -4.4H4.4V4.4H-4.4Z", "M-5.2 4.4H5.2L0 -5Z", "M0 -6L6 0L0 6L-6 0Z",
          "M-5.2 -4.4H5.2L0 5Z", "M-1.7 -5.5H1.7V-1.7H5.5V1.7H1.7V5.5H-1.7V1.7H-5.5V-1.7H-1.7Z", "M-6 -3H6V3H-6Z", "M-3 -6H3V6H-3Z",
          "M0 -6.2L5.9 -1.9L3.6 5L-3.6 5L-5.9 -1.9Z")
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 860, 62, 520, 34, 46  # RIGHT: where the frame ends and the list begins
LINE = 17  # of the list
FARTHEST = 0.35  # how far an interval may stretch the frame, of the points' own range, or of the middle interval's width

Mark = tuple[str, str]  # colour, path


def marks(benches: Iterable[Bench]) -> dict[str, Mark]:
    """{method: its mark}, the same on every bench of a family; no two methods share both colour and shape."""
    methods = list(dict.fromkeys(point.method for bench in benches for point in bench.points))
    return {name: (COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]) for i, name in enumerate(methods)}


class Scale:
    """From values of an axis to places between two pixels."""

    def __init__(self, axis: Axis, points: Sequence[dict], start: float, end: float):
        self.kind, self.start, self.end = axis.scale, start, end
        if axis.scale == "log" and min(of["value"] for of in points) <= 0:
            raise ValueError(f"{axis.label}: a logarithmic axis needs values above 0")
        self.low, self.high = (self.to(x) for x in axis.shown) if axis.shown else self._around(points, axis.possible)

    def _around(self, points: Sequence[dict], possible: tuple[float, float] | None) -> tuple[float, float]:
        """All values, and of intervals what stretches this by no more than FARTHEST."""
        values = [self.to(of["value"]) for of in points]
        spans = [[self.to(x) for x in span if self.kind == "linear" or x > 0] for of in points if (span := interval(of))]
        ends, low, high = [x for span in spans for x in span], min(values), max(values)
        reach = FARTHEST * max(high - low, median([max(s) - min(s) for s in spans if s] or [0.0])) or 0.05 * abs(high) or 1.0
        low, high = max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach)
        pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - pad, high + pad
        if possible:
            least, most = (self.to(x) for x in possible)
            low, high = max(low, least - 0.03 * (high - low)), min(high, most + 0.03 * (high - low))
        return low, high

    def to(self, x: float) -> float:
        if self.kind == "log":
            return math.log10(max(x, 1e-12))
        return math.copysign(math.sqrt(abs(x)), x) if self.kind == "root" else x

    def at(self, x: float) -> float:
        return self.start + (self.end - self.start) * (self.to(x) - self.low) / (self.high - self.low)

    def inside(self, x: float) -> float:
        return min(max(self.at(x), min(self.start, self.end)), max(self.start, self.end))

    def holds(self, x: float) -> bool:
        return self.low - 1e-9 <= self.to(x) <= self.high + 1e-9

    def ticks(self) -> list[float]:
        """Three to eight round values within."""
        if self.kind == "linear":
            step = 10.0 ** math.floor(math.log10((self.high - self.low) / 3))
            step *= next(by for by in (1, 2, 2.5, 5, 10) if (self.high - self.low) / (step * by) <= 7)
            return [round(k * step, 12) for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        if self.kind == "root":
            some = [t for t in (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100) if self.holds(t)]
            return [float(t) for t in some if len(some) <= 8 or t in (0, 1, 4, 10, 20, 30, 50, 75, 100)]
        found: list[float] = []
        decades = range(math.floor(self.low) - 1, math.ceil(self.high) + 1)
        for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
            found = [round(s * 10.0**d, 12) for d in decades for s in steps if self.holds(s * 10.0**d)]
            if len(found) >= 4:
                break
        return found


def draw(bench: Bench, given: Mapping[str, Mark]) -> str:
    """The whole file. given: `marks` of the family. Raises ValueError for a bench without a point."""
    if not bench.points:
        raise ValueError(f"bench {bench.key} has no point to draw")
    names = list(dict.fromkeys(point.method for point in bench.points))
    height = max(340, TOP + LINE * (len(names) + 2) + 20)
    x = Scale(bench.x, [point.x for point in bench.points], LEFT, RIGHT - 18)
    y = Scale(bench.y, [point.y for point in bench.points], height - BOTTOM, TOP)
    parts = [*_frame(bench, x, y, height)]
    for name in names:
        those = [point for point in bench.points if point.method == name]
        if name in bench.joined and len(those) > 1:
            line = " ".join(f"{x.inside(p.x['value']):.1f},{y.inside(p.y['value']):.1f}" for p in those)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{given[name][0]}" stroke-width="1.2" stroke-opacity=".7"/>')
    parts += [_whiskers(point, x, y, given[point.method][0]) for point in bench.points]
    parts += [_mark(point, x, y, given[point.method]) for point in bench.points]
    parts += _beyond(bench.points, x, y)
    parts += _list(names, given)
    about = e(f"{bench.title}: {bench.y.label} against {bench.x.label}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
            f'aria-label="{about}" font-family="sans-serif" font-size="12" fill="#222222">\n'
            f'<title>{about}</title><rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")


ARROWS = {("less", "more"): "\u2196", ("more", "more"): "\u2197", ("less", "less"): "\u2199", ("more", "less"): "\u2198",
          ("", "more"): "\u2191", ("", "less"): "\u2193", ("less", ""): "\u2190", ("more", ""): "\u2192"}


def _frame(bench: Bench, x: Scale, y: Scale, height: int) -> Iterable[str]:
    floor, middle = height - BOTTOM, (LEFT + RIGHT - 18) / 2
    for tick in x.ticks():
        at = x.at(tick)
        yield f'<path d="M{at:.1f} {TOP}V{floor}" stroke="#e4e4e4"/>'
        yield f'<text x="{at:.1f}" y="{floor + 17}" text-anchor="middle" font-size="11">{tick:,g}</text>'
    for tick in y.ticks():
        at = y.at(tick)
        yield f'<path d="M{LEFT} {at:.1f}H{RIGHT - 18}" stroke="#e4e4e4"/>'
        yield f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end" font-size="11">{tick:,g}</text>'
    if all(axis.label.endswith("% of dense") for axis in (bench.x, bench.y)):  # the same unit: where both are equal
        low, high = max(x.low, y.low), min(x.high, y.high)
        yield (f'<path d="M{x.at(low):.1f} {y.at(low):.1f}L{x.at(high):.1f} {y.at(high):.1f}" stroke="#777777" stroke-dasharray="2 4"/>')
    yield f'<path d="M{LEFT} {TOP}V{floor}H{RIGHT - 18}" fill="none" stroke="#222222"/>'
    scale = {"log": ", logarithmic", "root": ", square-root scale", "linear": ""}[bench.x.scale]
    yield f'<text x="{middle:.0f}" y="{height - 10}" text-anchor="middle">{e(bench.x.label + scale)}</text>'
    turned = f"rotate(-90 14 {(TOP + floor) / 2:.0f})"
    yield f'<text x="14" y="{(TOP + floor) / 2:.0f}" text-anchor="middle" transform="{turned}">{e(bench.y.label)}</text>'
    if arrow := ARROWS.get((bench.x.better, bench.y.better)):
        yield f'<text x="{LEFT}" y="22" font-weight="bold">{arrow} better</text>'
    yield f'<text x="{RIGHT - 18}" y="22" text-anchor="end" font-size="11" fill="#5c5c66">bars: 95 % intervals</text>'


def _whiskers(point: Point, x: Scale, y: Scale, colour: str) -> str:
    at, on = x.inside(point.x["value"]), y.inside(point.y["value"])
    lines = []
    if span := interval(point.x):
        lines.append(f"M{x.inside(span[0]):.1f} {on:.1f}H{x.inside(span[1]):.1f}")
    if span := interval(point.y):
        lines.append(f"M{at:.1f} {y.inside(span[0]):.1f}V{y.inside(span[1]):.1f}")
    return f'<path d="{"".join(lines)}" stroke="{colour}" stroke-opacity=".45" fill="none"/>' if lines else ""


def _mark(point: Point, x: Scale, y: Scale, mark: Mark) -> str:
    at, on = x.inside(point.x["value"]), y.inside(point.y["value"])
    name = f"{point.method}, {point.setting}" if point.setting else point.method
    title = f"<title>{e(f'{name}: {value_text(point.x)}; {value_text(point.y)}')}</title>"
    shape = (f'<path transform="translate({at:.1f} {on:.1f})" d="{mark[1]}" fill="{mark[0]}" stroke="#ffffff" stroke-width=".8">'
             f"{title}</path>")
    return shape


def _beyond(points: Sequence[Point], x: Scale, y: Scale) -> Iterable[str]:
    """Numbers of the points that stand at an edge because they lie beyond it, one above the other."""
    taken: list[tuple[float, float]] = []
    for point in points:
        signs = []
        for value, scale, (lower, higher) in ((point.x["value"], x, "\u2190\u2192"), (point.y["value"], y, "\u2193\u2191")):
            if not scale.holds(value):
                signs.append(f"{lower if scale.to(value) < scale.low else higher} {value:.3g}")
        if not signs:
            continue
        at, on = x.inside(point.x["value"]), y.inside(point.y["value"])
        right = at > (x.start + x.end) / 2
        step = 12 if on < (y.start + y.end) / 2 else -12  # away from the edge that is near
        on += 4 + (step if not y.holds(point.y["value"]) else 0)
        while any(abs(at - a) < 64 and abs(on - b) < 11 for a, b in taken):
            on += step
        taken.append((at, on))
        place = f'x="{at - 8:.1f}" y="{on:.1f}" text-anchor="end"' if right else f'x="{at + 8:.1f}" y="{on:.1f}"'
        yield f'<text {place} font-size="10">{", ".join(signs)}</text>'


def _list(names: Sequence[str], given: Mapping[str, Mark]) -> Iterable[str]:
    for i, name in enumerate(names):
        at = TOP + 8 + LINE * i
        yield (f'<path transform="translate({RIGHT + 10} {at})" d="{given[name][1]}" fill="{given[name][0]}"/>'
               f'<text x="{RIGHT + 24}" y="{at + 4}">{e(name)}</text>')
