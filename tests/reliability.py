"""The table of docs/reliability.md, from the lists that the tests are made of: python -m tests.reliability writes it.

A row is "survived" because the suite passes: a case that does not survive is marked in its list, is expected to fail by the
suite, and is counted here as lost. test_reliability.py holds the page equal to this.
"""

from collections import Counter
from pathlib import Path

from common.report.tables import read_block, update_block
from tests.runs.test_survival import KILLS, MOMENTS
from tests.test_faults import FAULTS
from tests.test_foreign_code import ATTEMPTS
from tests.test_fuzz import FUZZ

PAGE, BLOCK = Path(__file__).resolve().parent.parent / "docs" / "reliability.md", "reliability"
ENDS = {"error": "a clear error", "result": "the right result"}


def rows() -> list[tuple[str, int, int, str]]:
    """(what was tried, how often, how often it survived, what it ended in)."""
    found = [("run killed at a random moment, started again", KILLS, KILLS, "the unbroken run's records and product, bit for bit"),
             ("writer killed before or after each of its system calls", len(MOMENTS), len(MOMENTS), "the old record or the new one")]
    for group in dict.fromkeys(f.group for f in FAULTS):
        found.append((group, *counted([f for f in FAULTS if f.group == group])))
    found.append((f"malformed input: {', '.join(FUZZ)}", sum(FUZZ.values()), sum(FUZZ.values()),
                  "an error that names file and place, or a valid result"))
    found.append(("loading something that would run code, or leave its folder", *counted(ATTEMPTS)))
    return found


def counted(cases: list) -> tuple[int, int, str]:
    lost, ends = sum(bool(getattr(c, "known", "")) for c in cases), Counter(c.ends for c in cases)
    said = " or ".join(words for end, words in ENDS.items() if ends[end])
    return len(cases), len(cases) - lost, said


def table() -> str:
    found = rows()
    tried, survived = (sum(row[k] for row in found) for k in (1, 2))
    lines = ["| fault | tried | survived | records lost | ends in |", "|---|--:|--:|--:|---|"]
    lines += [f"| {what} | {n} | {ok} | {n - ok} | {ends} |" for what, n, ok, ends in found]
    return "\n".join([*lines, f"| **all** | **{tried}** | **{survived}** | **{tried - survived}** | |"]) + "\n"


def shown() -> str:
    return read_block(PAGE, BLOCK)


if __name__ == "__main__":
    print("renewed" if update_block(PAGE, BLOCK, table()) else "as it was")
