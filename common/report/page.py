"""The report as one HTML file: no network, no library, no font; a content policy forbids them.

From the top: the headline of every paper (first.py), then what was found (papers x claims, a tile each), then where methods of
several papers meet (plane_pages.py), then each paper with its headlines and its forest plot (charts.py), its timings and its
pictures, then how verdicts are made (words.py). A claim opens to its whole record (drawer.py). The page can be read without
its script, which filters, searches, copies, follows links into drawers and back, and opens the drawers for a printer. Style and
script are the files beside this one, allowed by their hashes: no other style or script runs, whatever a record says.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from pathlib import Path

from ..claims.rules import KINDS
from .charts import legend, strip
from .drawer import claim, copy, data, kind, look, state
from .first import first_lines, intervals_shown, shown
from .papers import Paper
from .plane_pages import Planes, section
from .rows import RUNGS, Row, anchors
from .words import MEANING, chip, e, how

LINKS = re.compile(r"(?:https://)?((?:github\.com|arxiv\.org/abs)/[\w./-]+)")
VIEW_BOX = re.compile(r'viewBox="0 0 (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)"')
WIDE = 1.9  # width over height from which a picture gets a row of its own
POLICY = (
    "default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
    "base-uri 'none'; form-action 'none'"
)


def page(papers: list[Paper], planes: Planes | None = None) -> str:
    """The whole page as text. The same papers and planes give the same text."""
    here = [paper for paper in papers if paper.here]
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = POLICY.format(style=_sha256(style), script=_sha256(script))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Ninefold: verdicts</title><style>{style}</style></head><body>
{_header(here, bool(planes))}
<main><section aria-labelledby="headlines"><h2 id="headlines">Headlines</h2>{_first(papers)}</section>
<section aria-labelledby="papers-and-claims"><h2 id="papers-and-claims">Papers and claims</h2>
{_filters(here)}<p><a class="skip" href="#{e(here[0].key) if here else "how-verdicts-are-made"}">skip the tiles</a></p>
<table class="matrix"><tbody>
{"".join(_matrix_row(paper) for paper in papers)}</tbody></table>
<p class="key">A hatched tile (on paper: underlined) is of kind small or ours: it may support or oppose, never match.
Kinds are counted apart: what adds up is arithmetic, and no result obtained again.</p></section>
{section(planes or {}, _svg)}{"".join(_paper(paper) for paper in here)}
{how()}</main><p class="status" role="status"></p><script>{script}</script></body></html>
"""


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _header(here: list[Paper], planes: bool) -> str:
    links = [("headlines", "Headlines"), ("papers-and-claims", "Papers and claims"), *([("planes", "Where papers meet")] * planes),
             *((paper.key, paper.key) for paper in here)]
    links.append(("how-verdicts-are-made", "How verdicts are made"))
    nav = " · ".join(f'<a href="#{e(where)}">{e(name)}</a>' for where, name in links)
    return f"""<header><h1>Ninefold: a verdict for every claim</h1>
<p>Nine papers on efficient language models, re-implemented and measured.</p>
<p class="key">{e(_provenance(here))}</p><nav aria-label="sections">{nav}</nav></header>"""


def _provenance(here: list[Paper]) -> str:
    """Where the numbers are from, all records together."""
    records = [row.record for paper in here for row in paper.rows if row.record]
    runs = [record["run"] for record in records if record["measured"]["value"] is not None]
    if not runs:
        return "Nothing is measured yet."
    days = sorted({run["started_at"][:10] for run in runs})
    commits, dirty = {run["commit"] for run in runs}, sum(run["dirty"] for run in runs)
    machines = {(run["environment"].get("cuda") or {}).get("name") or run["environment"].get("cpu") for run in runs}
    return (
        f"{len(runs)} measured claims, each with its record below, made {'on' if len(days) == 1 else 'from'} "
        f"{' to '.join(days[:: max(1, len(days) - 1)])} at {len(commits)} commit{'' if len(commits) == 1 else 's'} on "
        f"{', '.join(sorted(map(str, machines - {None}))) or 'a machine not recorded'}, "
        + (f"{dirty} of them from a tree with changes. " if dirty else "every one from a clean tree. ")
        + f"{intervals_shown(here)} intervals of 95 % are shown; by chance, one in twenty misses what it is of."
    )


def _first(papers: list[Paper]) -> str:
    """What the root README opens with: a line a paper."""
    rows = []
    for line in first_lines(papers):
        title = f'<a href="#{e(line.key)}">{e(line.title)}</a>' if line.here else e(line.title)
        sides = "".join(f"<td>{_said(*side)}</td>" for side in (line.small, line.full))
        begin = "<tr>" if line.here else '<tr class="planned">'
        rows.append(f'{begin}<th scope="row">{title}</th><td>{e(line.headline)}</td>{sides}</tr>')
    return _table(("paper", "its headline", "shown here, in the small", "at the paper's size"), rows)


def _said(word: str, beside: str) -> str:
    """A word and what stands beside it; a word of a small run is hatched, as everywhere."""
    return " ".join([*([chip(word, " small" * (word in ("supports", "opposes")))] if word else []), e(beside)])


def _headlines(paper: Paper) -> str:
    """All headlines of one paper, with the claims that each rests on."""
    rows = [f"<tr><td>{e(h.statement)}</td><td>{e(h.paper)}</td><td>{_said(h.word, h.rung)}</td>"
            f"<td>{e(', '.join(f'{name} {word}' for name, word in h.words.items()))}</td><td>{e(shown(h))}</td><td>{e(h.needs)}</td></tr>"
            for h in paper.headlines]
    return _table(("headline", "the paper's figure", "word", "rests on", "shown here", "its own size needs"), rows) if rows else ""


def _table(names: tuple[str, ...], rows: list[str]) -> str:
    head = "".join(f'<th scope="col">{e(name)}</th>' for name in names)
    return f'<table class="headlines"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


# ------------------------------------------------------------------------------------ the matrix


def _filters(papers: list[Paper]) -> str:
    """Checkboxes with the number of claims that each narrows to. Nothing checked is everything."""
    rows = [(paper.key, row) for paper in papers for row in paper.rows]
    groups = (
        ("paper", [paper.key for paper in papers], Counter(key for key, _ in rows)),
        ("verdict", list(MEANING), Counter(state(row) for _, row in rows)),
        ("kind", list(KINDS), Counter(kind(row) for _, row in rows)),
        ("rung", list(RUNGS), Counter(row.rung for _, row in rows)),
    )
    boxes = []
    for name, order, found in groups:
        inputs = "".join(
            f'<label><input type="checkbox" name="{name}" value="{e(value)}">'
            f"{MEANING[value][0] + ' ' if value in MEANING else ''}{e(value)} "
            f'<span class="count">{found[value]}</span></label>'
            for value in (*order, *sorted(set(found) - set(order)))
            if found[value]
        )
        boxes.append(f"<fieldset><legend>{name}</legend>{inputs}</fieldset>")
    return f"""<form class="filters" role="search" hidden>
<label class="search">search <input type="search" name="search" autocomplete="off"></label>{"".join(boxes)}
<p><output aria-live="polite">{len(rows)} of {len(rows)} claims</output> <button type="reset">show all</button></p>
<p class="empty" hidden>No claim passes: take a filter away, or show all.</p></form>
"""


def _matrix_row(paper: Paper) -> str:
    if not paper.here:
        return f'<tr class="planned"><th scope="row">{e(paper.title)}</th><td>planned, not there yet</td></tr>\n'
    tiles = "".join(_tile(row, paper, anchor) for row, anchor in zip(paper.rows, anchors(paper.rows)))
    title = f'<a href="#{e(paper.key)}">{e(paper.title)}</a>'
    return (
        f'<tr><th scope="row">{title}<br><small>{e(_counts(paper))}</small></th><td>{tiles}'
        f'<small class="none" hidden>no claim of this paper passes the filters</small></td></tr>\n'
    )


def _counts(paper: Paper) -> str:
    """By kind, which are never added up."""
    counted = paper.kinds()
    kinds = [*(name for name in KINDS if name in counted), *sorted(set(counted) - set(KINDS))]
    said = (f"{name}: {', '.join(f'{counted[name][word]} {word}' for word in MEANING if counted[name][word])}" for name in kinds)
    return "; ".join(said) or "no claims"


def _tile(row: Row, paper: Paper, anchor: str) -> str:
    classes, more = look(row)
    word = state(row)
    return (
        f'<a class="tile v-{e(word)}{classes}" {data(row, paper)} href="#{e(anchor)}" '
        f'title="{e(row.shown["statement"])}"><b>{e(row.short)}</b> {MEANING[word][0]} {e(word + more)}</a>'
    )


# ------------------------------------------------------------------------------------- one paper


def _paper(paper: Paper) -> str:
    authors = paper.about.get("authors", "")
    authors = ", ".join(authors) if isinstance(authors, list) else authors
    arxiv = paper.about.get("arxiv")
    about = [e(authors), e(paper.about.get("venue", ""))]
    about += [_link(f"arxiv.org/abs/{arxiv}") if arxiv else "", _link(paper.about.get("code", ""))]
    problems = "".join(f'<p class="problem">⚠ {e(problem)}</p>' for problem in paper.problems)
    claims = "".join(claim(row, paper, anchor) for row, anchor in zip(paper.rows, anchors(paper.rows)))
    key = f"""{legend("paper")} paper {legend("ours")} ours, 95 % interval {legend("control")} the arm that must
not pass, or must be told apart <svg class="sign" viewBox="-9 -9 18 18"
aria-hidden="true"><circle class="seed" r="3"/></svg> a seed; shaded: the rule holds. Below, on an axis of their own,
{legend("baseline")} the values compared, {legend("paper-baseline")} the paper's own"""
    parts = [_headlines(paper), f'<p class="key">{key}</p>{claims}']
    if paper.timings:
        about_limit = "● the median of ○ the rounds; | the least time that the arithmetic takes"
        strips = "".join(strip(case) for case in paper.timings)
        parts.append(f'<h3>Timings</h3><p class="key">{about_limit}</p><div class="strips">{strips}</div>')
    if paper.pictures:
        figures = "".join(_picture(path, paper.captions.get(path.name, "")) for path in paper.pictures)
        parts.append(f'<h3>Figures</h3><div class="figures">{figures}</div>')
    if paper.deviations:
        entries = "".join(f"<dt>{e(name)}</dt><dd>{e(text)}</dd>" for name, text in paper.deviations.items())
        parts.append(f'<details class="all"><summary>All deviations from the paper ({len(paper.deviations)})</summary>'
                     f'<dl class="words">{entries}</dl></details>')  # fmt: skip
    return f"""<section class="one-paper" data-of="{e(paper.key)}" aria-labelledby="{e(paper.key)}">
<h2 id="{e(paper.key)}">{e(paper.title)}</h2><p>{" · ".join(part for part in about if part)}</p>{problems}
<p>{copy(f"make reproduce-{paper.key}")} <small>{e(_counts(paper))}</small></p>
{"".join(parts)}</section>
"""


def _link(where: str) -> str:
    """A link for the reader to follow, if it is a place that we know; nothing is loaded from it."""
    found = LINKS.fullmatch(where)
    return f'<a href="https://{e(found[1])}">{e(found[1])}</a>' if found else e(where)


def _picture(path: Path, caption: str) -> str:
    """As an image, in which no script runs."""
    name = f"{caption} ({path.name})" if caption else path.name
    if path.suffix == ".svg":
        return _svg(path.read_text(encoding="utf-8", errors="replace"), name)
    return _figure(f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", name)


def _svg(text: str, name: str) -> str:
    """An SVG stays text, which is a quarter smaller than base64."""
    text = " ".join(text.split())
    box = VIEW_BOX.search(text)
    for char, safe in (("%", "%25"), ("#", "%23"), ("'", "%27"), ("&", "&amp;")):
        text = text.replace(char, safe)
    return _figure(f"data:image/svg+xml;charset=utf-8,{text}", name, box is not None and float(box[1]) > WIDE * float(box[2]))


def _figure(source: str, name: str, wide: bool = False) -> str:
    classes = ' class="wide"' if wide else ""
    return f"<figure{classes}><img alt=\"{e(name)}\" src='{source}'><figcaption>{e(name)}</figcaption></figure>"
