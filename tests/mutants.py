"""`make mutants`: experiments, quantities and selections are broken in one place at a time; which breaks does no test notice?

A mutant is one small change of a file that turns methods into words: "train" for "test", an arm for its neighbour, + for -, a
comparison turned, an index shifted, arguments exchanged, a call dropped. First the paper's tests run once as they are, and it is
noted which lines each of them reaches. A mutant then meets the tests that reach its line, the fastest first, in a process of its
own that is ended when it takes too long, on a copy of the tree. One that fails a test is killed.

    make mutants [ONLY=gpe,vica/quantities] [MINUTES=15]    MINUTES: of all together; which mutants fit in is drawn by lot
                 [ONLY=*/experiments]                       a folder of every paper; *: any paper, or any file of one
                 [PROCESSES=2]                              workers, a core each
                 [FRESH=1]                                  forgets what earlier runs came to

The lot is drawn in rounds. In each of the first, every file has three mutants tried, two of them of the kinds that turn an experiment
into another (mutant_changes.turns): experiments, which run jobs, wait for no end of the quantities. Then come all other mutants of
quantities, which take milliseconds, and then the rest.

What a run comes to is remembered in the cache, so that many short ones are a long one: a killed mutant stays killed while the paper's
code and the test that killed it are as they were, one that is alive while it meets the same tests; and which lines a test reaches,
while its file and the paper's code are as they were: noting that takes as long as the tests themselves and half as much again.

Quantities are arithmetic: what runs experiments (RUNNING) is not asked about them, so that they are tried in milliseconds.

docs/mutants.md gets the counts, the share that would be alive of all, and every mutant that is alive, with the reason that
docs/mutants.yaml gives for it: that it changes nothing that anybody could see. Exit status 1 where one is alive without a reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from tests.mutant_changes import Mutant, arithmetic, mutants, targets, turns
from tests.mutant_page import PAGE, write_page
from tests.mutant_runs import Worker

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = "tests/report/test_committed.py::test_committed_results_give_the_committed_records"
RUNNING = ("test_harness", "test_experiments", "test_paper_scale", "test_training")  # test files of a paper that run what it computes
PROCESSES = int(os.environ.get("PROCESSES") or 2)
SLACK = 20.0  # seconds that a mutant may take beyond four times what its tests take
FIRST = 8  # rounds in which every file has its turn, before quantities, which are quick, are tried to their end


def tests_of(root: Path, paper: str) -> list[str]:
    """Test files that name what is broken, or the table of all experiments, and the test that the paper's committed results give its
    committed records. Quantities are arithmetic on results: what runs experiments is not asked about them."""
    names = {Path(file).stem for file in targets(root, paper)}
    found = sorted((root / "papers" / paper.partition("/")[0] / "tests").glob("test_*.py"))
    def of(name: str, path: Path) -> bool:
        if arithmetic(name) and path.stem in RUNNING:
            return False
        return bool(re.search(rf"import .*\b({name}{'' if arithmetic(name) else '|eval'})\b", path.read_text()))

    some = [str(path.relative_to(root)) for path in found if any(of(name, path) for name in names)]
    judge = [f"{COMMITTED}[{paper.partition('/')[0]}]"] if (root / COMMITTED.partition("::")[0]).is_file() else []
    return some + judge


def meeting(mutant: Mutant, known: dict) -> list[str]:
    """Tests that reach the mutant's line, the fastest first; of a line that runs at import (a table of arms) all that reach its file."""
    line = [test for test, (_, lines) in known.items() if mutant.line in lines.get(mutant.file, ())]
    some = line or [test for test, (_, lines) in known.items() if lines.get(mutant.file)]
    if arithmetic(mutant.file):
        some = [test for test in some if Path(test.partition("::")[0]).stem not in RUNNING]
    return sorted(some, key=lambda test: known[test][0])


def rounds(made: list[Mutant], seed: int = 0) -> list[Mutant]:
    """All of them, by lot: FIRST times three of each file, two of which make another experiment; then quantities; then the rest."""
    drawn: Counter[tuple[str, bool]] = Counter()
    order = []
    for mutant in random.Random(seed).sample(made, len(made)):
        number = drawn[mutant.file, turns(mutant)] // (2 if turns(mutant) else 1)
        drawn[mutant.file, turns(mutant)] += 1
        order.append((min(number, FIRST), number >= FIRST and not arithmetic(mutant.file), mutant))
    return [mutant for *_, mutant in sorted(order, key=lambda of: of[:2])]


class Memory:
    """What earlier runs came to, in a file: {mutant: [word, {file: hash} of what it rests on]}. A change of common is not noticed.

    Of each test file also the lines that its tests reach, under "reached"."""

    def __init__(self, root: Path, paper: str):
        folder, self.root = root / "papers" / paper, root
        self.path = Path(os.environ.get("NINEFOLD_CACHE") or root / ".cache" / "ninefold") / "mutants" / f"{paper}.json"
        self.known: dict = json.loads(self.path.read_text()) if self.path.is_file() and not os.environ.get("FRESH") else {}
        found = sorted(folder.rglob("*.py"))
        self.tests = {str(p.relative_to(root)): _hash(p.read_bytes()) for p in found if p.name.startswith("test_")}
        results = sorted((folder / "results").glob("*.json"))
        self.tests[COMMITTED.partition("::")[0]] = _hash(b"".join(p.read_bytes() for p in results))
        self.rest = {str(p.relative_to(root)): _hash(p.read_bytes()) for p in (*found, *(root / "tests").glob("*.py"))
                     if not p.name.startswith(("test_", "mutant"))}

    def rests_on(self, tests: list[str]) -> dict[str, str]:
        files = {test.partition("::")[0] for test in tests}
        return {name: of for name, of in self.tests.items() if name in files} | {"rest": _hash(json.dumps(self.rest).encode())}

    def word(self, mutant: Mutant, tests: list[str]) -> str | None:
        word, rested = self.known.get(self.key(mutant), (None, {}))
        now = self.rests_on(tests)
        return word if rested == now or word == "killed" and rested.items() <= (self.tests | now).items() else None

    def keep(self, mutant: Mutant, word: str, tests: list[str]) -> None:
        self.known[self.key(mutant)] = [word, self.rests_on(tests)]

    def reached(self, file: str) -> dict | None:
        """Of a test file, as `Worker.reached` gives it; None where it is not known, or was noted of other code."""
        rested, found = self.known.get(f"reached {file}", (None, None))
        return found if rested == self.rests_on([file]) else None

    def keep_reached(self, file: str, found: dict) -> None:
        self.known[f"reached {file}"] = [self.rests_on([file]), found]

    def key(self, mutant: Mutant) -> str:
        return f"{mutant.file} {_hash(mutant.source((self.root / mutant.file).read_bytes()))}"

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.known))


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def run(root: Path, paper: str, minutes: float, seed: int = 0) -> list[tuple[Mutant, str]]:
    """(mutant, "killed", "alive", "invalid" or "not tried"): as many as fit into the minutes, in the order of `rounds`."""
    memory, files = Memory(root, paper.partition("/")[0]), tests_of(root, paper)
    end, outcome = time.monotonic() + 60 * minutes, {}
    made = [m for file in targets(root, paper) for m in mutants(file, (root / file).read_bytes())]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(PROCESSES) as pool:
        free = list(pool.map(lambda i: Worker(root, Path(folder).resolve() / str(i), files), range(PROCESSES)))
        workers = tuple(free)
        if new := [file for file in files if memory.reached(file) is None]:
            noted = free[0].reached(targets(root, paper.partition("/")[0]), new)
            for file in new:
                memory.keep_reached(file, {test: found for test, found in noted.items() if file in (test, test.partition("::")[0])})
            memory.write()
        known = {test: found for file in files for test, found in memory.reached(file).items()}
        outcome |= {mutant: word for mutant in made if (word := memory.word(mutant, meeting(mutant, known)))}
        began, remembered = time.monotonic(), len(outcome)
        order = [mutant for mutant in rounds(made, seed) if mutant not in outcome]
        print(f"{paper}: {len(known)} tests, {len(made)} mutants, {remembered} of them remembered; {(end - began) / 60:.1f} minutes are "
              "left for the others", flush=True)

        kills: Counter[str] = Counter()

        def attempt(mutant: Mutant) -> None:
            tests = sorted(meeting(mutant, known), key=lambda test: known[test][0] / (1 + kills[test]))  # the fastest, and what kills
            if time.monotonic() > end:
                return
            worker = free.pop()
            try:
                seconds = 4 * sum(known[test][0] for test in tests) + SLACK
                outcome[mutant] = worker.try_out(mutant, tests, seconds) if tests else "alive"
                killed_by = [worker.killer] if outcome[mutant] == "killed" and worker.killer else tests
                memory.keep(mutant, outcome[mutant], killed_by)
                kills[worker.killer or ""] += 1
            finally:
                free.append(worker)
            if len(outcome) % 50 == 0:
                tried = len(outcome) - remembered
                alive, each = sum(word == "alive" for word in list(outcome.values())), (time.monotonic() - began) / max(tried, 1)
                left = min(each * (len(order) - tried), end - time.monotonic()) / 60
                print(f"  {len(outcome)} of {len(made)}, {alive} alive; about {left:.0f} minutes left", flush=True)

        try:
            list(pool.map(attempt, order))
        finally:
            memory.write()
            for worker in workers:
                worker.end()
    return [(m, outcome.get(m, "not tried")) for m in made]


def expand(root: Path, words: list[str], papers: list[str]) -> list[str]:
    """["*/experiments"] -> ["gpe/experiments", ...]; what names nothing is left out."""
    found = [name + slash + part for word in words for paper, slash, part in [word.partition("/")]
             for name in papers if fnmatch(name, paper)]
    return [name for name in dict.fromkeys(found) if targets(root, name)]


def main() -> int:
    papers = sorted(path.parent.name for path in (ROOT / "papers").glob("*/quantities.py"))
    words = [name.strip() for name in (os.environ.get("ONLY") or "*").split(",")]
    asked = expand(ROOT, words, papers)
    if unknown := {word for word in words if not expand(ROOT, [word], papers)}:
        print(f"ONLY={','.join(sorted(unknown))}: no paper, and no file of one; there is: {', '.join(papers)}", file=sys.stderr)
        return 2
    try:
        minutes = float(os.environ.get("MINUTES") or 15)
    except ValueError:
        print(f"MINUTES={os.environ['MINUTES']}: give a number of minutes", file=sys.stderr)
        return 2
    missing, end = 0, time.monotonic() + 60 * minutes
    for number, name in enumerate(asked):
        missing += write_page(ROOT, run(ROOT, name, (end - time.monotonic()) / 60 / (len(asked) - number)))
    print(f"{PAGE}: {missing} alive without a reason")
    return int(missing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
