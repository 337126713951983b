"""The report as one HTML file: no network, no library, no font; a content policy forbids them.

From the top: what was found (papers x claims, a tile each), then each paper with its forest plot.
Every claim has an axis of its own, for the units differ: ◆ the paper, ● ours with its 95 %
interval, ○ each seed, ▲ a baseline, shaded where the rule holds. A claim opens to its whole record.
The page works without its script, which only filters, copies, and opens what a link points at.
Style and script are the files beside this one.
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
<p class="key">◆ paper ● ours, 95 % interval ○ a seed ▲ a baseline; shaded: the rule holds</p>
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
    shown, record = row.shown, row.record
    return f"""<details class="claim" id="{_anchor(row)}" {data}><summary>
<span class="what"><b>{_e(row.short)}</b> {_e(shown["statement"])}
<small>{_e(row.rung)}</small></span>
<span class="plot">{forest(row)}</span>
<span class="numbers">paper {_e(paper_text(shown["paper"]))}<br>ours {_e(ours_text(record))}</span>
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


def forest(row: Row) -> str:
    """One claim's line of the forest plot, as SVG; "" if there is no number to draw.

    Positions are percentages, so that the line takes any width and its marks keep their shape. The
    paper's diamond is on the axis only under a comparing rule: elsewhere ours is an effect.
    """
    shown = row.shown
    rule, measured = shown["protocol"].get("rule") or {}, (row.record or {}).get("measured", {})
    kind, value = rule.get("type"), measured.get("value")
    paper = shown["paper"]["value"] if kind in COMPARING else None
    low, high = _holds(kind, rule, paper)
    span = interval(measured) if value is not None else None
    seeds, baselines = measured.get("per_seed", []), measured.get("baselines", {})
    drawn = [paper, value, low, high, *(span or ()), *seeds, *baselines.values()]
    drawn = [x for x in drawn if x is not None and math.isfinite(x)]
    if not drawn or (value is None and paper is None):
        return ""
    pad = 0.08 * (max(drawn) - min(drawn)) or 0.05 * abs(drawn[0]) or 1.0
    left, right = min(drawn) - pad, max(drawn) + pad

    def x(at: float) -> float:
        return 100 * (min(max(at, left), right) - left) / (right - left)

    marks = ['<line class="axis" x1="0%" x2="100%" y1="20" y2="20"/>']
    if low is not None:
        place = f'x="{x(low):.2f}%" width="{x(high) - x(low):.2f}%"'
        marks.append(f'<rect class="holds" {place} y="4" height="32"/>')
        for edge in (low, high):
            if math.isfinite(edge):
                at = f"{x(edge):.2f}%"
                marks.append(f'<line class="edge" x1="{at}" x2="{at}" y1="4" y2="36"/>')
    for name, at in baselines.items():
        marks.append(_mark("baseline", x(at), "M-5 16H5L0 8Z", f"baseline {name}: {number(at)}"))
    if span:
        ends = f'x1="{x(span[0]):.2f}%" x2="{x(span[1]):.2f}%"'
        marks.append(f'<line class="interval" {ends} y1="20" y2="20"/>')
    for at in seeds:
        marks.append(f'<circle class="seed" cx="{x(at):.2f}%" cy="28" r="2.5"/>')
    if paper is not None:
        shape = "M0 -8L8 0L0 8L-8 0Z"
        marks.append(_mark("paper", x(paper), shape, f"paper: {number(paper)}", 20))
    if value is not None:
        title = f"<title>ours: {_e(ours_text(row.record))}</title>"
        marks.append(f'<circle class="ours" cx="{x(value):.2f}%" cy="20" r="5">{title}</circle>')
    label = f"{row.short}: ours {ours_text(row.record)}, paper {number(shown['paper']['value'])}"
    return (
        f'<svg role="img" aria-label="{_e(label)}" width="100%" height="50">{"".join(marks)}'
        f'<text x="0%" y="48">{left:.3g}</text>'
        f'<text x="100%" y="48" text-anchor="end">{right:.3g}</text></svg>'
    )


def _holds(kind: str | None, rule: dict, paper: float | None) -> tuple[float | None, float | None]:
    """Where on the axis the rule holds; (None, None) if that depends on more than the rule."""
    tolerance = rule.get("tolerance", 0.0)
    if kind == "direction":
        return rule["threshold"], math.inf
    if kind == "equivalence":
        return -tolerance, tolerance
    if kind in ("exact", "relative", "absolute"):
        width = tolerance * abs(paper) if kind == "relative" else tolerance
        return paper - width, paper + width
    return None, None


def _mark(name: str, at: float, shape: str, title: str, y: float = 0) -> str:
    return (
        f'<svg class="{name}" x="{at:.2f}%" y="{y}" overflow="visible">'
        f'<path d="{shape}"><title>{_e(title)}</title></path></svg>'
    )
