"""The end of a run: its claims as a table for the terminal, and one line of JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence

from ..claims.records import Claims
from ..claims.rules import WORDS, number
from .rows import Row, ours_text, rows_of

# Flags that a run marks in its own table; that a row was measured in a changed tree is not one: it is what the run is.
MARKED = {"stale": "claims.yaml says otherwise than this record", "older": "made by older code",
          "unlisted": "claims.yaml has no such claim"}


def _rows(claims: Claims, records: Sequence[dict], older: Sequence[str]) -> list[Row]:
    rows = rows_of(claims, records)
    for row in rows:
        if row.id in older and not row.flag:
            row.flag = "older"
    return rows


def terminal_table(claims: Claims, records: Sequence[dict], older: Sequence[str] = ()) -> str:
    """All claims with their verdicts, in at most 120 columns. older: ids of those that are shown by a record of older code."""
    rows = _rows(claims, records, older)
    form = "{:<6}{:<19}{:<16}{:>13}  {:<26}{}"
    lines = [form.format("claim", "rung", "verdict", "paper", "ours", "statement"), "-" * 119]
    for row in rows:
        shown = row.shown
        word = f"{row.word} *" if row.flag in MARKED else row.word
        paper = number(shown["paper"]["value"])
        ours = textwrap.shorten(ours_text(row.record), 25, placeholder="…")
        statement = textwrap.shorten(shown["statement"], 38, placeholder="…")
        lines.append(form.format(row.short, row.rung, word, paper, ours, statement).rstrip())
    flags = sorted({row.flag for row in rows} & set(MARKED))
    return "\n".join(lines + [f"* {flag}: {MARKED[flag]}" for flag in flags])


def json_line(claims: Claims, records: Sequence[dict], *, rung: str, seconds: float, commit: str, dirty: bool = False,
              older: Sequence[str] = ()) -> str:
    """One line of JSON for programs: counts of the words as the table shows them, what flags stand beside them, seconds,
    commit, whether the tree had changes that the commit does not hold, rung."""
    rows = _rows(claims, records, older)
    words, flags = Counter(row.word for row in rows), Counter(row.flag for row in rows)
    return json.dumps(
        {
            "paper": claims.paper["key"],
            "rung": rung,
            "seconds": round(seconds, 1),
            "commit": commit,
            "dirty": dirty,
            "counts": {word: words[word] for word in WORDS},
            "stale": flags["stale"],
            "older": flags["older"],
        }
    )
