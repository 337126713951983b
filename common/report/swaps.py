"""`make swaps`: what each word becomes when the method and the arm that must fail change places.

A word that says something of the method turns when the placebo's numbers stand in the method's place and the method's in the
placebo's; in an equivalence, those of the pair that is known to differ. Looked at is every claim of kind small or ours that is
required or supports, as its committed record has it. Exit status 1 where a `supports` stays, or has no arm that could turn it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..claims.machine import ROOT
from ..claims.verdict import verdict
from ..progress import replace_unprintable
from .papers import read_papers
from .rows import Row

FORM = "{:<20}{:<20}{:<20}{}"
SHARED = ("ceiling", "baselines", "details", "delta")  # of the measurement as a whole, and of no arm


class Swap(NamedTuple):
    """stays: a `supports` that no exchange of arms turns."""

    claim: str
    word: str
    swapped: str
    arm: str
    stays: bool


def swaps(root: Path = ROOT) -> Iterator[Swap]:
    for paper in read_papers(root):
        for row in paper.rows:
            about = row.shown
            if row.record and about.get("kind") in ("small", "ours") and (about.get("required") or row.word == "supports"):
                if row.record["measured"]["value"] is not None:
                    yield _swap(row, row.record)


def _swap(row: Row, record: dict) -> Swap:
    measured = record["measured"]
    name = next((name for name in ("placebo", "sensitivity") if record["protocol"].get(name) and measured.get(name)), None)
    if name is None:
        exact = record["claim"]["rung"] == "analytic"
        return Swap(row.id, row.word, "-", "exact: no arm" if exact else "no arm could turn it", row.word == "supports" and not exact)
    own = {key: value for key, value in measured.items() if key not in (*SHARED, "placebo", "sensitivity")}
    shared = {key: measured[key] for key in (*SHARED, "placebo", "sensitivity") if key in measured}
    word = verdict({**record["claim"], **record}, {**shared, **measured[name], name: own}, record["run"].get("timing"))[0]
    return Swap(row.id, row.word, word, record["protocol"][name], row.word == word == "supports")


def main(root: Path = ROOT) -> int:
    replace_unprintable()
    found = list(swaps(root))
    print(FORM.format("claim", "word", "swapped", "with"))
    for swap in found:
        print(FORM.format(*swap[:3], swap.arm) + ("   <- stays" if swap.stays else ""))
    stay = [swap.claim for swap in found if swap.stays]
    print(f"{len(found)} claims, {sum(swap.word != swap.swapped for swap in found)} turn" + (f"; stay: {', '.join(stay)}" if stay else ""))
    return int(bool(stay))


if __name__ == "__main__":
    sys.exit(main())
