"""docs/machines.md: the default runs again on another processor, claim by claim beside the committed records.

    python -m common.report.machines            compares results/.scratch of this tree with its committed records, and prints
    python -m common.report.machines --write    and adds what it found to docs/machines.json, from which docs/machines.md is made

A word may not depend on the processor. Kernels sum in another order on another one, so a training ends elsewhere, and so do its
numbers; whether a word turned is what has to be known. Compared are claims of the default run whose quantity is no time, and only
where both runs are of the same code (the hash of all files behind the result), libraries (the lock) and seeds, and of another
processor. The page is of the records as they stood at the commits that it names; `report --check` holds it to its file.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..claims.machine import ROOT
from ..claims.records import read_records
from ..files import write_atomic, write_json
from ..progress import replace_unprintable
from .papers import PLANNED
from .rows import ours_text
from .tables import cell

FACTS, PAGE = Path("docs") / "machines.json", Path("docs") / "machines.md"
TIMES = ("efficiency-measured", "training-cost")  # topics whose quantities are seconds, or ratios of seconds
CLOSE = 1e-4  # relative: as many digits as a table shows


def compared(committed: Sequence[dict], again: Sequence[dict]) -> list[dict]:
    """A row a claim that both runs measured alike: {"claim", "committed", "again": {"word", "shown", "value"}, "inside": whether the value
    of the second run lies in the interval of the first}."""
    first = {(r["claim"]["id"], r["claim"]["rung"]): r for r in committed}
    rows = []
    for record in again:
        before = first.get((record["claim"]["id"], record["claim"]["rung"]))
        if before is None or not same_but_for_the_processor(before, record):
            continue
        low, high = before["measured"].get("ci95") or (before["measured"]["value"],) * 2
        rows.append({"claim": record["claim"]["id"], "inside": low <= record["measured"]["value"] <= high, **{
            name: {"word": r["verdict"]["word"], "shown": ours_text(r), "value": r["measured"]["value"]}
            for name, r in zip(("committed", "again"), (before, record))}})
    return rows


def same_but_for_the_processor(first: dict, second: dict) -> bool:
    both = (first, second)
    if first["claim"]["rung"] != "cpu-small" or first["claim"]["topic"] in TIMES or any(r["run"].get("timing") for r in both) or any(
            r["measured"]["value"] is None or " ONLY=" in r["run"]["command"] for r in both):
        return False
    (code, lock, of, rule, processor), (*others, another) = (
        (r["run"].get("sources"), r["run"]["environment"]["lock_sha256"], r["protocol"].get("seeds"), r["protocol"]["rule"],
         r["run"]["environment"]["cpu"]) for r in both)
    return code is not None and [code, lock, of, rule] == others and processor != another


def runs(records: Iterable[dict]) -> list[str]:
    """"command, commit, processor" of the runs that records are of, each once."""
    return sorted({f"{r['run']['command']} at {(r['run']['commit'] or 'a tree without a commit')[:7]}, {r['run']['environment']['cpu']}"
                   for r in records if r["claim"]["rung"] == "cpu-small" and r["measured"]["value"] is not None})


def processors(records: Iterable[dict]) -> str:
    return ", ".join(sorted({r["run"]["environment"]["cpu"] for r in records if r["claim"]["rung"] == "cpu-small"}))


def of_paper(committed: Sequence[dict], again: Sequence[dict]) -> dict:
    rows = compared(committed, again)
    ids = {row["claim"] for row in rows}
    first, second = ([r for r in side if r["claim"]["id"] in ids] for side in (committed, again))
    return {"rows": rows, "committed": processors(first), "again": processors(second), "runs": {
        "committed": runs(first), "again": runs(second)}}


def counts(rows: Sequence[dict]) -> Counter:
    found: Counter = Counter(claims=len(rows))
    for row in rows:
        ours, theirs = row["committed"]["value"], row["again"]["value"]
        found["equal"] += abs(ours - theirs) <= CLOSE * max(abs(ours), abs(theirs))
        found["inside"] += row["inside"]
        found["turned"] += row["committed"]["word"] != row["again"]["word"]
        found["reversed"] += {row["committed"]["word"], row["again"]["word"]} == {"supports", "opposes"}
    return found


# -- the page ----------------------------------------------------------------------------------------------
def page(facts: dict) -> str:
    """facts: {paper: `of_paper`}."""
    whole = counts([row for of in facts.values() for row in of["rows"]])
    lines = ["# The same runs on another processor", "",
             "<!-- Written by `python -m common.report.machines --write` from docs/machines.json. -->", "",
             f"The default runs of {len(facts)} papers on two machines: the code (by the hash of every file behind a result), libraries "
             "and seeds are the same, the processor is another. "
             f"Of {whole['claims']} claims whose quantity is no time {whole['turned']} have another word there, and {whole['reversed']} "
             f"the opposite one. {whole['inside']} values lie in the committed interval, {whole['equal']} are equal to four digits."
             + ("" if whole["reversed"] else " A word that turns is at the edge of its rule: between *inconclusive* and another, where "
                                             "more trainings decide."), "",
             "| paper | processors | claims | equal | in the committed interval | another word | the opposite word |", "|---" * 7 + "|"]
    for key, of in facts.items():
        found = counts(of["rows"])
        title = PLANNED.get(key, key).partition(":")[0]
        cells = (f"[{title}](../papers/{key}/README.md)", f"{cell(of['committed'])}; {cell(of['again'])}", *(
            str(found[name]) for name in ("claims", "equal", "inside", "turned", "reversed")))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Words that turned", "", "| claim | committed | on the other processor |", "|---|---|---|"]
    turned = [row for of in facts.values() for row in of["rows"] if row["committed"]["word"] != row["again"]["word"]]
    for row in turned:
        lines.append("| " + " | ".join((row["claim"], *(f"{row[side]['word']}, {cell(row[side]['shown'])}"
                                                        for side in ("committed", "again")))) + " |")
    lines += ["", "## The runs", "", "Committed records are those of these commits; newer ones may have taken their place since.", ""]
    for key, of in facts.items():
        lines += [f"- {key}: {'; '.join(cell(run) for run in (*of['runs']['committed'], *of['runs']['again']))}"]
    return "\n".join(lines) + "\n"


def read(root: Path) -> dict:
    """{paper: `of_paper`}, in the order of the root README."""
    path = root / FACTS
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {key: facts[key] for key in PLANNED if key in facts}


def is_stale(root: Path) -> bool:
    """Whether the tree's page is not what its file gives. A tree without the file has no page."""
    facts, path = read(root), root / PAGE
    return bool(facts) and (not path.is_file() or path.read_text(encoding="utf-8") != page(facts))


def update(root: Path) -> str:
    """What was done with the page."""
    if not is_stale(root):
        return "unchanged"
    write_atomic(root / PAGE, page(read(root)))
    return "rewritten"


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser("python -m common.report.machines", description="What another processor makes of the default runs.")
    parser.add_argument("--write", action="store_true", help="add it to docs/machines.json and write docs/machines.md")
    parser.add_argument("--runs", type=Path, default=None, help="folder with <paper>/: records of the other machine's runs (default: "
                        "each paper's results/.scratch)")
    options = parser.parse_args(argv)
    replace_unprintable()
    facts = read(root)
    for key in PLANNED:
        results = root / "papers" / key / "results"
        again = results / ".scratch" if options.runs is None else options.runs / key
        if not again.is_dir() or not results.is_dir():
            continue
        of = of_paper(read_records(results), read_records(again))
        if of["rows"]:
            facts[key] = of
            found = counts(of["rows"])
            print(f"{key}: {found['claims']} claims, {found['equal']} equal, {found['inside']} in the committed interval, "
                  f"{found['turned']} with another word")
    if options.write and facts:
        write_json(root / FACTS, facts)
        write_atomic(root / PAGE, page(read(root)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
