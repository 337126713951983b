"""The pages of the planes: docs/planes/<family>.md with a picture a bench, and their section of the report.

    python -m common.report --readme    rewrites them with the READMEs' tables
    python -m common.report --check     fails where one is not what the committed results give

A page shows every point with its interval, what it rests on, the command that makes it and the file that holds it, and lists what
the family promises and no committed result gives, with its price.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..claims.machine import ROOT
from ..files import write_atomic
from .planes import FAMILIES, Bench, Family, Missing, Point, Source, gather
from .rows import sample_text, value_text
from .scatter import draw, marks
from .tables import cell
from .words import e

FOLDER = Path("docs") / "planes"
Planes = Mapping[str, Sequence[Bench]]
NOBODY = "no paper states such a point"


def drawn(benches: Sequence[Bench]) -> list[Bench]:
    return [bench for bench in benches if bench.points]


def name_of(bench: Bench) -> str:
    """Of its picture."""
    return f"{bench.family}-{bench.key}.svg"


def files(planes: Planes) -> dict[Path, str]:
    """{path relative to the root: text} of all pages and pictures."""
    made: dict[Path, str] = {}
    for family in FAMILIES:
        benches = planes.get(family.key, [])
        given = marks(benches)
        made |= {FOLDER / name_of(bench): draw(bench, given) for bench in drawn(benches)}
        made[FOLDER / f"{family.key}.md"] = markdown(family, benches)
    return made


def stale_files(root: Path, planes: Planes) -> list[Path]:
    """Pages and pictures that are not what the results give, those that nothing gives included."""
    made = {root / path: text for path, text in files(planes).items()}
    different = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return different + _left_over(root, made)


def update_files(root: Path, planes: Planes) -> dict[Path, str]:
    """{path: what was done with it}."""
    made = {root / path: text for path, text in files(planes).items()}
    done = {}
    for path, text in made.items():
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        if not same:
            write_atomic(path, text)
        done[path] = "unchanged" if same else "rewritten"
    for path in _left_over(root, made):
        path.unlink()
        done[path] = "removed"
    return done


def _left_over(root: Path, made: Mapping[Path, str]) -> list[Path]:
    return sorted(path for pattern in ("*.md", "*.svg") for path in (root / FOLDER).glob(pattern) if path not in made)


def of_tree(root: Path = ROOT) -> Planes | None:
    """The planes of a tree that has pages of them; None for one that has none, such as a paper that was copied out."""
    return gather(root) if (root / FOLDER).is_dir() else None


# -- what a page says --------------------------------------------------------------------------------------
def count(bench: Bench, method: str) -> int:
    """Points of a bench that are of a family's method."""
    return sum(bench.stands_for.get(point.method) == method for point in bench.points)


def absent(family: Family, benches: Sequence[Bench]) -> list[Missing]:
    """The family's methods of which no bench has a point or lists one as missing."""
    named = {bench.stands_for.get(name) for bench in benches for name in bench.stands_for}
    return [Missing(method, NOBODY, "-", "-") for method in family.methods if method not in named]


def sources(bench: Bench) -> list[Source]:
    return list(dict.fromkeys(point.source for point in bench.points))


def flags(bench: Bench) -> list[str]:
    """Sentences about runs that count as nothing until they are made again."""
    return [f"{source.record} is {source.flag}: its points are shown, and count as nothing until `{source.command}` has run again."
            for source in sources(bench) if source.flag]


def n_text(point: Point) -> str:
    """What the point rests on: of the axis with an interval, the vertical one first."""
    of = next((of for of in (point.y, point.x) if of.get("stderr") is not None), point.y)
    return sample_text({"measured": {**of, "stderr": None}})


HEAD = ("method", "setting", "{x}", "{y}", "rests on", "command", "record")


def head(bench: Bench) -> list[str]:
    return [name.format(x=bench.x.label, y=bench.y.label) for name in HEAD]


def cells(point: Point) -> list[str]:
    """In the order of HEAD, as plain text."""
    return [point.method, point.setting or "-", value_text(point.x), value_text(point.y), n_text(point), point.source.command,
            point.source.record]


# -- Markdown ----------------------------------------------------------------------------------------------
def markdown(family: Family, benches: Sequence[Bench]) -> str:
    """One page, whole. Written by the report; nobody edits it."""
    shown = drawn(benches)
    letters = dict(zip((bench.key for bench in shown), string.ascii_uppercase))
    lines = [f"# {family.title}", "", "<!-- Written by `python -m common.report --readme` from the committed results. -->", "",
             family.opening, "",
             "Points are comparable within a bench (one model or recipe, one set of test items, drawn together) and never between two. "
             "Behind a value stands its 95 % interval, by Student's t over trainings or processes, or clustered over items; a value "
             "without one is exact, of a single run, or equal in all of them. A bar in a picture ends at the frame where its interval "
             "goes on; a mark at the frame lies beyond it, and its number stands there.", ""]
    lines += ["## Which methods meet where", "", f"| method | {' | '.join(letters.values())} |", "|---" * (len(shown) + 1) + "|"]
    for method in family.methods:
        counts = [count(bench, method) for bench in shown]
        lines.append(f"| {cell(method)} | {' | '.join(str(n) if n else '·' for n in counts)} |")
    lines += ["", "Numbers of points. " + "; ".join(f"{letters[bench.key]}: {bench.title}" for bench in shown) + "."]
    for bench in shown:
        lines += ["", f"## {letters[bench.key]}. {bench.title}", "", bench.comparable, "",
                  f"![{bench.title}: {bench.y.label} against {bench.x.label}]({name_of(bench)})", ""]
        lines += [f"**{flag}**\n" for flag in flags(bench)]
        lines += [f"| {' | '.join(map(cell, head(bench)))} |", "|---" * len(HEAD) + "|"]
        for point in bench.points:
            *texts, command, record = cells(point)
            link = f"[{Path(record).name}](../../{record})"
            lines.append(f"| {' | '.join([*map(cell, texts), f'`{command}`', link])} |")
    lines += ["", "## What is missing", ""]
    rows = missing_rows(family, benches)
    if rows:
        lines += ["| method | bench | why | command | price |", "|---" * 5 + "|"]
        lines += [f"| {cell(method)} | {cell(title)} | {cell(why)} | {f'`{command}`' if command != '-' else '-'} | {cell(price)} |"
                  for method, title, why, command, price in rows]
    else:
        lines.append("Nothing that this plane promises.")
    return "\n".join(lines) + "\n"


def missing_rows(family: Family, benches: Sequence[Bench]) -> list[tuple[str, str, str, str, str]]:
    """(methods, bench, why, command, price): what one command would make for one reason is one row."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for title, those in (*((bench.title, bench.missing) for bench in benches), ("-", absent(family, benches))):
        for one in those:
            rows.setdefault((title, one.why, one.command, one.price), []).append(one.method)
    return [("; ".join(dict.fromkeys(names)), *row) for row, names in rows.items()]


# -- the report --------------------------------------------------------------------------------------------
def section(planes: Planes, figure) -> str:
    """The report's section; "" where no bench has a point. figure(svg text, caption) -> HTML."""
    if not any(drawn(benches) for benches in planes.values()):
        return ""
    parts = []
    for family in FAMILIES:
        benches = planes.get(family.key, [])
        given = marks(benches)
        parts.append(f'<h3 id="plane-{e(family.key)}">{e(family.title)}</h3><p>{e(family.opening)}</p>')
        for bench in drawn(benches):
            problem = "".join(f'<p class="problem">⚠ {e(flag)}</p>' for flag in flags(bench))
            rows = ["<tr>" + "".join(f"<td>{e(text)}</td>" for text in cells(point)) + "</tr>" for point in bench.points]
            parts.append(f'<h4>{e(bench.title)}</h4><p class="key">{e(bench.comparable)}</p>{problem}'
                         f'<div class="figures">{figure(draw(bench, given), bench.title)}</div>'
                         f"<details><summary>{len(rows)} points</summary>{_table(head(bench), rows)}</details>")
        if lacking := missing_rows(family, benches):
            rows = ["<tr>" + "".join(f"<td>{e(text)}</td>" for text in row) + "</tr>" for row in lacking]
            parts.append(f"<details><summary>{len(rows)} missing, with their price</summary>"
                         f'{_table(["method", "bench", "why", "command", "price"], rows)}</details>')
    return ('<section aria-labelledby="planes"><h2 id="planes">Where papers meet</h2><p class="key">Points are comparable within a '
            f'bench and never between two; bars are 95 % intervals.</p>{"".join(parts)}</section>')


def _table(names: Sequence[str], rows: Sequence[str]) -> str:
    top = "".join(f'<th scope="col">{e(name)}</th>' for name in names)
    return f'<table class="headlines"><thead><tr>{top}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
