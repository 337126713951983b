"""The report as one HTML file: no network, no library, no font; a content policy forbids them.

From the top: what was found (papers x claims, a tile each), then each paper with its forest plot.
Every claim has an axis of its own, for the units differ: ◆ the paper, ● ours with its 95 %
interval, ○ each seed, shaded where the rule holds, and below ▲ the baselines. A claim opens to its
whole record. The page works without its script, which only filters, copies, and opens what a link
points at. Style and script are the files beside this one.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections import Counter
from pathlib import Path

from .intervals import interval
from .report_rows import RUNGS, Paper, Row, ours_text, paper_text, sample_text
from .verdict import COMPARING, WORDS, can_match, number, rule_text

MEANING = {
    "matches": ("✓", "the paper's own quantity was obtained, and lies inside the rule"),
    "supports": ("↗", "in the small: direction and minimum effect, fixed beforehand, hold"),
    "contradicts": ("✗", "the falsifier fired, or the paper's own arithmetic disagrees"),
    "inconclusive": ("?", "the interval contains the threshold; the sentence says what n would do"),
    "not-run": ("○", "blocked by weights, data, gpu or time"),
    "not-checkable": ("∅", "the paper does not define the quantity"),
    "stale": ("⟳", "claims.yaml changed after the record was made; it counts as nothing"),
    "invalid": ("⚠", "the record file does not validate; it counts as nothing"),
    "unlisted": ("⚠", "a record of no claim in claims.yaml; it counts as nothing"),
}
SHAPES = {
    "paper": "M0 -8L8 0L0 8L-8 0Z",
    "ours": "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1 -5 0Z",
    "baseline": "M-5 4H5L0 -4Z",
}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
LINKS = re.compile(r"(?:https://)?((?:github\.com|arxiv\.org/abs)/[\w./-]+)")


def page(papers: list[Paper]) -> str:
    """The whole page as text. The same papers give the same text."""
    here = [paper for paper in papers if paper.here]
    total = Counter()
    for paper in here:
        total += paper.counts()
    said = ", ".join(f"{total[word]} {word}" for word in MEANING if total[word]) or "no claims yet"
    style, script = (
        Path(__file__).with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".css", ".js")
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ninefold: verdicts</title><style>{style}</style></head><body>
<header><h1>Ninefold: a verdict for every claim</h1>
<p>Nine papers on efficient language models, re-implemented and measured. {_e(said)}.</p></header>
<main><section aria-labelledby="matrix"><h2 id="matrix">Papers and claims</h2>
{_filters(here)}<table class="matrix"><tbody>
{"".join(_matrix_row(paper) for paper in papers)}</tbody></table>
<p class="key">A hatched tile is of a smaller rung than the paper's: it may support, never match.
</p></section>
{"".join(_paper(paper) for paper in here)}
{_how()}</main><script>{script}</script></body></html>
"""


def _e(text) -> str:
    return html.escape(str(text), quote=True)


def _anchor(row: Row) -> str:
    return _e(f"{row.id.replace('/', '-')}-{row.rung}")


def _attributes(row: Row) -> tuple[str, str, str]:
    """(classes, data attributes for the filter, what the tile or chip says)."""
    state = row.flag or row.word
    small = not can_match({"rung": row.rung, "kind": row.shown["kind"]})
    classes = f"v-{state}{' small' if small else ''}"
    said = f"{MEANING[state][0]} {state}" + (f" ({row.word})" if row.flag == "stale" else "")
    return classes, f'data-verdict="{_e(state)}" data-rung="{_e(row.rung)}"', said


# ------------------------------------------------------------------------------------ the matrix


def _filters(papers: list[Paper]) -> str:
    rows = [row for paper in papers for row in paper.rows]
    rungs, states = Counter(r.rung for r in rows), Counter(r.flag or r.word for r in rows)
    boxes = []
    for name, order, found in (("verdict", MEANING, states), ("rung", RUNGS, rungs)):
        inputs = "".join(
            f'<label><input type="checkbox" name="{name}" value="{_e(value)}" checked> '
            f"{MEANING[value][0] + ' ' if value in MEANING else ''}{_e(value)} ({found[value]})"
            "</label>"
            for value in (*order, *sorted(set(found) - set(order)))
            if found[value]
        )
        boxes.append(f"<fieldset><legend>{name}</legend>{inputs}</fieldset>")
    return (
        f'<form class="filters">{"".join(boxes)}<button type="reset">show all</button> '
        f'<output aria-live="polite">{len(rows)} of {len(rows)} claims</output></form>'
    )


def _matrix_row(paper: Paper) -> str:
    if not paper.here:
        return f'<tr class="planned"><th scope="row">{_e(paper.title)}</th><td>planned</td></tr>\n'
    tiles = []
    for row in paper.rows:
        classes, data, said = _attributes(row)
        tiles.append(
            f'<a class="tile {classes}" {data} href="#{_anchor(row)}" '
            f'title="{_e(row.shown["statement"])}"><b>{_e(row.short)}</b> {_e(said)}</a>'
        )
    title = f'<a href="#{_e(paper.key)}">{_e(paper.title)}</a>'
    return f'<tr><th scope="row">{title}</th><td>{"".join(tiles)}</td></tr>\n'


def _how() -> str:
    words = "".join(
        f'<dt><span class="chip v-{word}">{sign} {word}</span></dt><dd>{_e(meaning)}</dd>'
        for word, (sign, meaning) in MEANING.items()
        if word in WORDS or word == "stale"
    )
    return f"""<section aria-labelledby="how"><h2 id="how">How verdicts are made</h2>
<p>Every claim, its rule and what would falsify it are written into claims.yaml before a run, and
each record carries that file's hash. The word is computed from the numbers, by one function, and a
record whose word does not follow from its numbers is invalid. An interval decides, never a point;
better than the paper beyond the tolerance is no match either.</p><dl class="words">{words}</dl>
</section>"""


# ------------------------------------------------------------------------------------- one paper


def _paper(paper: Paper) -> str:
    authors = paper.about.get("authors", "")
    authors = ", ".join(authors) if isinstance(authors, list) else authors
    arxiv = paper.about.get("arxiv")
    parts = [_e(authors), _e(paper.about.get("venue", ""))]
    parts += [_link(f"arxiv.org/abs/{arxiv}") if arxiv else "", _link(paper.about.get("code", ""))]
    problems = "".join(f'<p class="problem">⚠ {_e(problem)}</p>' for problem in paper.problems)
    figures = "".join(_picture(path) for path in paper.pictures)
    return f"""<section aria-labelledby="{_e(paper.key)}"><h2 id="{_e(paper.key)}">{_e(paper.title)}
</h2><p>{" · ".join(part for part in parts if part)}</p>{problems}
<p>{_copy(f"make reproduce-{paper.key}")}</p>
<p class="key">◆ paper ● ours, 95 % interval ○ a seed; shaded: the rule holds. Below, on an axis of
their own: ▲ the values compared</p>
{"".join(_claim(row) for row in paper.rows)}<div class="figures">{figures}</div></section>
"""


def _link(where: str) -> str:
    """A link for the reader to follow, if it is a place that we know; nothing is loaded from it."""
    found = LINKS.fullmatch(where)
    return f'<a href="https://{_e(found[1])}">{_e(found[1])}</a>' if found else _e(where)


def _copy(command: str) -> str:
    return (
        f'<code>{_e(command)}</code> <button type="button" class="copy" data-copy="{_e(command)}" '
        f'aria-label="copy the command {_e(command)}">copy</button>'
    )


def _picture(path: Path) -> str:
    kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
    data = base64.b64encode(path.read_bytes()).decode()
    name = _e(path.name)
    return (
        f'<figure><img alt="{name}" src="data:{kind};base64,{data}"><figcaption>{name}'
        "</figcaption></figure>"
    )


def _claim(row: Row) -> str:
    classes, data, said = _attributes(row)
    shown = row.shown
    sides = (("paper", paper_text(shown["paper"])), ("ours", ours_text(row.record)))
    numbers = [f"{name} {_e(text)}" for name, text in sides if text != "-"]
    return f"""<details class="claim" id="{_anchor(row)}" {data}><summary>
<span class="what"><b>{_e(row.short)}</b> {_e(shown["statement"])}
<small>{_e(row.rung)}</small></span>
<span class="plot">{forest(row)}</span>
<span class="numbers">{"<br>".join(numbers)}</span>
<span class="chip {classes}">{_e(said)}</span></summary>
{_record(row)}</details>
"""


def _record(row: Row) -> str:
    """The drawer: the sentence, the command, the protocol, the machine, and the record as it is."""
    shown, record = row.shown, row.record
    protocol, paper = shown["protocol"], shown["paper"]
    rule = protocol.get("rule") or {}
    baselines = (record["measured"] if record else {}).get("baselines", {})
    facts = {
        "where": shown.get("where"),
        "paper's set-up": paper.get("setup"),
        "source": paper["source"],
        "kind": shown["kind"],
        "metric": protocol.get("metric"),
        "rule": rule_text(protocol.get("rule")),
        "falsified if": rule.get("falsified_if"),
        "seeds": ", ".join(map(str, protocol.get("seeds", ()))),
        "n, SE": sample_text(record),
        "baselines": " · ".join(f"{name} {number(at)}" for name, at in baselines.items()),
        "deviations": " · ".join(protocol.get("deviations", ())),
    }
    parts = [f"<p>{_e(row.reason)}</p>"]
    if row.flag:
        parts.append(f'<p class="problem">⚠ {_e(row.problem)}</p>')
    parts += [f"<p>{_copy(row.command)}</p>", _table("the claim", facts)]
    if record:
        run = record["run"]
        seen = {key: run[key] for key in ("started_at", "seconds", "commit", "dirty")}
        text = json.dumps(record, indent=2, ensure_ascii=False)
        parts.append(_table("the run", {**seen, **_flat(run["environment"])}))
        parts.append(f"<details><summary>the whole record</summary><pre>{_e(text)}</pre></details>")
    return f'<div class="drawer">{"".join(parts)}</div>'


def _table(caption: str, facts: dict) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_e(name)}</th><td>{_e(value)}</td></tr>'
        for name, value in facts.items()
        if value not in (None, "", "-")
    )
    return f"<table><caption>{caption}</caption><tbody>{rows}</tbody></table>"


def _flat(facts: dict, before: str = "") -> dict:
    flat = {}
    for name, value in facts.items():
        inner = _flat(value, f"{before}{name}.") if isinstance(value, dict) else None
        flat.update({f"{before}{name}": value} if inner is None else inner)
    return flat


# --------------------------------------------------------------------------------------- drawing


class _Axis:
    """A horizontal axis around some numbers. Places are percentages of its width, so that a line
    takes any width of the page and its marks keep their shape."""

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
            f'<path d="{SHAPES[name]}"><title>{_e(title)}</title></path></svg>'
        )


def forest(row: Row) -> str:
    """One claim of the forest plot, as SVG; "" if there is no number to draw.

    The paper's diamond is on the axis only under a comparing rule: elsewhere ours is an effect.
    Baselines are values of the metric, which an effect is not, and may be far away: they have a
    second axis, with the paper and ours on it where these are values of the metric too.
    """
    shown = row.shown
    rule, measured = shown["protocol"].get("rule") or {}, (row.record or {}).get("measured", {})
    kind, value = rule.get("type"), measured.get("value")
    paper = shown["paper"]["value"] if kind in COMPARING else None
    if value is None and paper is None:
        return ""
    low, high = _holds(kind, rule, paper)
    span = interval(measured) if value is not None else None
    seeds, baselines = measured.get("per_seed", []), measured.get("baselines", {})
    axis = _Axis(paper, value, low, high, *(span or ()), *seeds)
    marks = [axis.drawn(20)]
    if low is not None:
        width = float(axis.at(high)[:-1]) - float(axis.at(low)[:-1])
        place = f'x="{axis.at(low)}" width="{width:.2f}%"'
        marks.append(f'<rect class="holds" {place} y="4" height="32"/>')
        for edge in (low, high):
            if math.isfinite(edge):
                ends = f'x1="{axis.at(edge)}" x2="{axis.at(edge)}"'
                marks.append(f'<line class="edge" {ends} y1="4" y2="36"/>')
    if span:
        ends = f'x1="{axis.at(span[0])}" x2="{axis.at(span[1])}"'
        marks.append(f'<line class="interval" {ends} y1="20" y2="20"/>')
    for at in seeds:
        marks.append(f'<circle class="seed" cx="{axis.at(at)}" cy="28" r="2.5"/>')
    both = [("paper", paper, f"paper: {number(paper)}")]
    both.append(("ours", value, f"ours: {ours_text(row.record)}"))
    marks += [axis.mark(name, at, 20, title) for name, at, title in both if at is not None]
    height, names = 50, ""
    if baselines:
        if kind not in COMPARING:
            both = []
        axis, height = _Axis(*baselines.values(), *(at for _, at, _ in both)), 96
        marks.append(axis.drawn(66))
        marks += [axis.mark(name, at, 66, title) for name, at, title in both if at is not None]
        listed = {name: f"{name} {number(at)}" for name, at in baselines.items()}
        marks += [axis.mark("baseline", baselines[name], 66, listed[name]) for name in listed]
        names = f"<small>▲ {_e(' · '.join(listed.values()))}</small>"
    label = f"{row.short}: ours {ours_text(row.record)}, paper {number(shown['paper']['value'])}"
    return (
        f'<svg role="img" aria-label="{_e(label)}" width="100%" height="{height}">'
        f"{''.join(marks)}</svg>{names}"
    )


def _holds(kind: str | None, rule: dict, paper: float | None) -> tuple[float | None, float | None]:
    """Where on the axis the rule holds; (None, None) if that depends on more than the rule."""
    tolerance = rule.get("tolerance", 0.0)
    if kind == "direction":
        return rule["threshold"], math.inf
    if kind == "equivalence":
        return -tolerance, tolerance
    if paper is not None and kind in ("exact", "relative", "absolute"):
        width = tolerance * abs(paper) if kind == "relative" else tolerance
        return paper - width, paper + width
    return None, None
