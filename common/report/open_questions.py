"""docs/open.md: the required claims that nothing decides yet, each with its number, the n that would decide, and the price.

    python -m common.report --readme    rewrites it with the READMEs' tables
    python -m common.report --check     fails where it is not what the committed records give

A claim is open where its record is inconclusive, or where its word stands alone and not beside the paper's other required claims
(Holm). The n is what the referee wrote into the record; the price multiplies the seconds of the recorded run, which is what more
seeds of the same work take on that machine. A claim of which no number of runs would decide has none, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..claims.effects import p_values
from ..claims.headlines import family, first_miss, holm
from ..claims.intervals import over_items, sample_size
from ..claims.rules import FAILS, rule_text
from ..files import write_atomic
from .papers import Paper
from .rows import Row, ours_with_unit
from .tables import cell

PAGE = Path("docs") / "open.md"
DECIDED = ("supports", "opposes")
NEEDED = re.compile(r"about ([\d,]+) (runs|items) would decide")
CONTROL = re.compile(r"(?:but|and) the placebo, (.+?),? (passes|neither fails)")
MOST = 200  # runs beyond which a price in minutes means nothing


def open_rows(paper: Paper) -> Iterator[tuple[Row, str]]:
    """(row, why it is open) of the required claims that no record decides."""
    stands = holm(_family(paper))
    for row in paper.rows:
        if not row.shown.get("required") or row.claim is None:
            continue
        if row.flag:
            yield row, row.problem
        elif row.record is None:
            yield row, "it was never run"
        elif row.word == "inconclusive":
            yield row, _why(row.reason)
        elif row.word in DECIDED and not stands.get(row.id, True):
            yield row, f"alone it {row.word}; beside the paper's other required claims this many runs are too few (Holm)"


def _family(paper: Paper) -> dict[str, float]:
    return family(row.record for row in paper.rows if row.record and not row.flag)


def _why(reason: str) -> str:
    """The referee's sentence without the numbers, which stand in cells of their own."""
    if control := CONTROL.search(reason):
        return f"the arm that must fail {'passes, too' if control[2] == 'passes' else 'is not shown to fail'}: {control[1]}"
    if "there is no interval" in reason:
        return "one run has no interval"
    return "its interval contains the bar" if NEEDED.search(reason) or "no number" in reason else reason


def price(row: Row, level: float) -> tuple[str, str]:
    """(what would decide, what it takes). level: of the p-value at which a word also stands beside the paper's others."""
    if not row.record or row.flag:
        return "-", f"`{row.command}`"
    if row.word in DECIDED:
        n = beside_others(row.record, level)
        return _trainings(row, n) if n else ("-", f"`{row.command}`")
    reason, found = row.reason, NEEDED.search(row.reason)
    if "does not discriminate" in reason:
        return "no number of runs: the measure cannot tell the two apart", "-"
    if "no number of" in reason:
        return "no number of runs: the value lies at its bar", "-"
    if "there is no interval" in reason:
        return "three trainings", f"see papers/{row.id.partition('/')[0]}/README.md"
    if found is None:
        return "-", f"`{row.command}`"
    n, what = int(found[1].replace(",", "")), found[2]
    evidence = row.shown["protocol"].get("evidence", "")
    if what == "items" or evidence != "trainings" or n > MOST:
        return f"{n:,} {what if what == 'items' else evidence or what}", "-"
    return _trainings(row, n)


def _trainings(row: Row, n: int) -> tuple[str, str]:
    assert row.record is not None
    minutes = row.record["run"]["seconds"] * n / row.record["measured"]["n_runs"] / 60
    command = re.sub(r" SEEDS=\d+", "", row.command)
    return f"{n} trainings", f"`{command} SEEDS={n}`, about {minutes:,.0f} minutes, and stand-ins beyond the committed ones"


def beside_others(record: dict, level: float) -> int | None:
    """The least number of trainings, of the value and the spread that were seen, at which its word has a p-value of at most `level`."""
    measured, entry = record["measured"], {**record["claim"], **record}
    if record["protocol"].get("evidence") != "trainings" or over_items(measured) or not measured.get("stderr"):
        return None
    n, word = sample_size(measured), record["verdict"]["word"] in FAILS
    for more in range(n + 1, MOST + 1):
        found = p_values(entry, measured | {"n_runs": more, "stderr": measured["stderr"] * (n / more) ** 0.5})
        if found and found[word] <= level:
            return more
    return None


def page(papers: Iterable[Paper]) -> str:
    """The whole page. Written by the report; nobody edits it."""
    here = [paper for paper in papers if paper.here]
    required = sum(bool(row.claim and row.claim.get("required")) for paper in here for row in paper.rows)
    rows = [(paper, row, why) for paper in here for row, why in open_rows(paper)]
    level = {paper.key: first_miss(_family(paper)) for paper in here}
    lines = ["# Open questions", "", "<!-- Written by `python -m common.report --readme` from the committed records. -->", "",
             f"Of {required} required claims of {len(here)} papers these {len(rows)} are decided by nothing yet. An inconclusive claim is "
             "unfinished work: beside each stands the number of trainings that would decide it if its spread stays what it is, and what "
             "they take on the machine of the record.", "",
             "| claim | what is asked | ours | rule | why it is open | what would decide | price |", "|---" * 7 + "|"]
    for paper, row, why in rows:
        decides, takes = price(row, level[paper.key])
        cells = (f"[{row.id}](../papers/{paper.key}/results/README.md)", cell(row.shown["statement"]), cell(ours_with_unit(row.record)),
                 cell(rule_text(row.shown["protocol"].get("rule"))), cell(why), cell(decides), takes)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def is_stale(root: Path, papers: Iterable[Paper]) -> bool:
    """Whether the tree's page is not what the records give. A tree without docs/, such as a paper that was copied out, has none."""
    path = root / PAGE
    return path.parent.is_dir() and (not path.is_file() or path.read_text(encoding="utf-8") != page(papers))


def update(root: Path, papers: Iterable[Paper]) -> str:
    """What was done with it."""
    if not is_stale(root, papers):
        return "unchanged"
    write_atomic(root / PAGE, page(papers))
    return "rewritten"
