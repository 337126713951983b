"""`make mutants`: experiments, quantities and selections are broken in one place at a time; which breaks does no test notice?

A mutant is one small change of a file that turns methods into words: "train" for "test", an arm for its neighbour, + for -, a
comparison turned, an index shifted, arguments exchanged, a call dropped. First the paper's tests run once as they are, and it is
noted which lines each of them reaches. A mutant then meets the tests that reach its line, the fastest first, in a process of its
own that is ended when it takes too long, on a copy of the tree. One that fails a test is killed.

    make mutants [ONLY=gpe,vica/quantities] [MINUTES=15]    MINUTES: of all together; which mutants fit in is drawn by lot
                 [PROCESSES=2]                              workers, a core each
                 [FRESH=1]                                  forgets what earlier runs came to

What a run comes to is remembered in the cache, so that many short ones are a long one: a killed mutant stays killed while the paper's
code and the tests that it met are as they were, one that is alive while it meets the same tests.

Quantities are arithmetic: what runs experiments (RUNNING) is not asked about them, so that they are tried in milliseconds.

docs/mutants.md gets the counts and every mutant that is alive, with the reason that docs/mutants.yaml gives for it: that it changes
nothing that anybody could see. Exit status 1 where one is alive without a reason.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.mutant_runs import Worker

ROOT = Path(__file__).resolve().parent.parent
PAGE, REASONS = Path("docs/mutants.md"), Path("docs/mutants.yaml")
FILES = ("quantities*.py", "selection.py", "calibration.py", "experiments/*.py")  # of a paper; quantities come first
RUNNING = ("test_harness", "test_experiments", "test_paper_scale", "test_training")  # test files of a paper that run what it computes
PROCESSES = int(os.environ.get("PROCESSES") or 2)
SLACK = 20.0  # seconds that a mutant may take beyond four times what its tests take
SPLITS = {"train": "test", "test": "train", "val": "test", "validation": "test", "calibration": "test", "tune": "test", "recovery": "test"}
FLIPS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
         ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"),
         ast.IsNot: ("is not", "is"), ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
         ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.And: ("and", "or"), ast.Or: ("or", "and")}  # fmt: skip
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
KEPT = {"items", "values", "keys", "tolist", "item", "copy", "splitlines"}  # calls whose absence only ends in a TypeError
SILENT = {"print", "log", "add_argument", "ArgumentParser", "progress"}  # what only speaks to a person
SETTINGS = {"SIZES", "seconds", "job_seconds", "share"}  # how much of everything: another number is no fault


@dataclass(frozen=True)
class Mutant:
    """start, end: bytes of the file that `text` takes the place of. line: number from 1; shown: the line as it stands."""

    file: str
    start: int
    end: int
    text: str
    change: str
    line: int
    shown: str

    def source(self, before: bytes) -> bytes:
        return before[: self.start] + self.text.encode() + before[self.end :]


# -- what can be broken ------------------------------------------------------------------------------------
def mutants(file: str, source: bytes) -> list[Mutant]:
    """All of a file, in its order. Those that do not parse, or that parse to the same, are left out."""
    found, tree = {}, ast.parse(source)
    begins = [0]
    for line in source.splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    lines = source.decode().splitlines()
    statements = []  # (begin, end, what it parses to) of each at the top: a mutant is held against its own, not the whole file
    for top in tree.body:
        first = min(node.lineno for node in (top, *getattr(top, "decorator_list", ())))
        begin, end = begins[first - 1], begins[top.end_lineno]
        statements.append((begin, end, ast.dump(ast.parse(source[begin:end]))))

    def span(node) -> tuple[int, int]:
        return begins[node.lineno - 1] + node.col_offset, begins[node.end_lineno - 1] + node.end_col_offset

    def text(node) -> str:
        start, end = span(node)
        return source[start:end].decode()

    for node, strings in _places(tree):
        for (start, end), new, change in _changes(node, strings, span, text, source):
            line = source.count(b"\n", 0, start) + 1
            begin, finish, whole = next(at for at in statements if at[0] <= start and end <= at[1])
            try:
                same = ast.dump(ast.parse(source[begin:start] + new.encode() + source[end:finish])) == whole
            except SyntaxError:
                continue
            if not same:
                found.setdefault((start, end, new), Mutant(file, start, end, new, change, line, lines[line - 1].strip()))
    return sorted(found.values(), key=lambda m: (m.start, m.end))


def _places(tree: ast.Module) -> Iterator[tuple[ast.AST, list[str]]]:
    """(node, strings of its function or statement) of all that may be broken: no words for people, types, sizes or imports."""
    def walk(node: ast.AST, strings: list[str]) -> Iterator[tuple[ast.AST, list[str]]]:
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Assert) or _silent(node):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            return
        yield node, strings
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    own = _strings(child) if isinstance(child, ast.FunctionDef) or isinstance(node, ast.Module) else strings
                    yield from walk(child, own)

    yield from walk(tree, [])


def _silent(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and _silent(node.value)
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", getattr(node.func, "attr", "")) in SILENT
    if isinstance(node, ast.Assign):
        return any(getattr(target, "id", "") in SETTINGS for target in node.targets)
    if isinstance(node, ast.FunctionDef):
        return node.name == "main"
    return isinstance(node, ast.keyword) and node.arg in SETTINGS or isinstance(node, ast.If) and "__name__" in ast.dump(node.test)


def _strings(node: ast.AST) -> list[str]:
    """Different strings below a node, docstrings and words for people left out, in their order."""
    spoken = {id(inner) for outer in ast.walk(node) if isinstance(outer, ast.Raise | ast.JoinedStr) or _silent(outer)
              for inner in ast.walk(outer)}
    spoken |= {id(outer.value) for outer in ast.walk(node) if isinstance(outer, ast.Expr)}
    return list(dict.fromkeys(n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                              and id(n) not in spoken))


def _changes(node, strings, span, text, source):
    """(place, new text, what it is) of one node."""
    def gap(left, right, op):  # the sign of an operation, between its two sides
        old, new = FLIPS[type(op)]
        start, end = span(left)[1], span(right)[0]
        at = re.search(rb"(?<![\w*/<>=!])" + rb"\s+".join(map(re.escape, old.encode().split())) + rb"(?![*/=])", source[start:end])
        if at:
            yield (start + at.start(), start + at.end()), new, f"{old} is {new}"

    if isinstance(node, ast.Compare):
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            yield from gap(left, right, op)
    elif isinstance(node, ast.BoolOp):
        for left, right in zip(node.values, node.values[1:]):
            yield from gap(left, right, node.op)
    elif isinstance(node, ast.BinOp):
        if type(node.op) in FLIPS:
            yield from gap(node.left, node.right, node.op)
        if isinstance(node.op, ast.Sub | ast.Div):
            yield span(node), f"({text(node.right)} {'-' if isinstance(node.op, ast.Sub) else '/'} {text(node.left)})", "sides exchanged"
        if isinstance(node.op, ast.BitOr):
            yield span(node), text(node.left), "what is joined is left out"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield span(node), text(node.operand), "sign dropped"
    elif isinstance(node, ast.IfExp):
        yield span(node.test), f"not ({text(node.test)})", "condition turned"
    elif isinstance(node, ast.If | ast.While):
        yield span(node.test), f"not ({text(node.test)})", "condition turned"
    elif isinstance(node, ast.comprehension):
        for condition in node.ifs:
            yield span(condition), "True", "condition dropped"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield span(node), "pass", "call dropped"
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        low, high = node.slice.lower, node.slice.upper
        if (low is None) != (high is None) and node.slice.step is None:
            yield span(node.slice), f":{text(low)}" if high is None else f"{text(high)}:", "the other part"
    elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Store) and len(node.elts) > 1:
        yield span(node), ", ".join(map(text, (*node.elts[1:], node.elts[0]))), "names exchanged"
    elif isinstance(node, ast.Constant):
        yield from _constants(node, strings, span)
    elif isinstance(node, ast.Call):
        yield from _calls(node, span, text, source)


def _constants(node, strings, span):
    value = node.value
    if isinstance(value, bool):
        yield span(node), str(not value), f"{not value}"
    elif isinstance(value, int):
        yield span(node), str(value + 1), f"{value} is {value + 1}"
    elif isinstance(value, float):
        new = 0.0 if value else 1.0
        yield span(node), str(new), f"{value} is {new}"
    elif isinstance(value, str):
        others = [s for s in strings if s != value]
        after = strings[strings.index(value) + 1 :] if value in strings else []
        for new in dict.fromkeys([*([SPLITS[value]] if value in SPLITS else []), *(after or others)[:1]]):
            yield span(node), json.dumps(new, ensure_ascii=False), f'"{value}" is "{new}"'


def _calls(node, span, text, source):
    name, args = getattr(node.func, "id", getattr(node.func, "attr", "")), node.args
    if isinstance(node.func, ast.Name) and name in TWINS:
        yield span(node.func), TWINS[name], f"{name} is {TWINS[name]}"
    if len(args) > 1 and not any(isinstance(a, ast.Starred) for a in args[:2]):
        yield (span(args[0])[0], span(args[1])[1]), f"{text(args[1])}, {text(args[0])}", "arguments exchanged"
    if not args and not node.keywords and isinstance(node.func, ast.Attribute) and name not in KEPT:
        yield span(node), text(node.func.value), f"{name}() dropped"
    for keyword in node.keywords:
        if keyword.arg and keyword.arg not in SETTINGS:
            start, end = span(keyword)
            behind = re.match(rb"\s*,\s*", source[end:])
            before = re.search(rb",\s*$", source[:start])
            start, end = (start, end + behind.end()) if behind else (before.start(), end) if before else (start, end)
            yield (start, end), "", f"{keyword.arg}= left out"


# -- all of it ---------------------------------------------------------------------------------------------
def targets(root: Path, paper: str) -> list[str]:
    """What is broken of a paper ("gpe") or is one file of it ("gpe/text"), relative to the root."""
    paper, _, stem = paper.partition("/")
    found = [path for pattern in FILES for path in sorted((root / "papers" / paper).glob(pattern)) if path.name != "__init__.py"]
    return [str(path.relative_to(root)) for path in found if stem in ("", path.stem)]


def arithmetic(file: str) -> bool:
    """Quantities, in however many files."""
    return Path(file).stem.startswith("quantities")


def tests_of(root: Path, paper: str) -> list[str]:
    """Test files that name what is broken. Quantities are arithmetic on results: what runs experiments is not asked about them."""
    names = {Path(file).stem for file in targets(root, paper)}
    found = sorted((root / "papers" / paper.partition("/")[0] / "tests").glob("test_*.py"))
    def of(name: str, path: Path) -> bool:
        if arithmetic(name) and path.stem in RUNNING:
            return False
        return bool(re.search(rf"import .*\b{name}\b", path.read_text()))

    return [str(path.relative_to(root)) for path in found if any(of(name, path) for name in names)]


def meeting(mutant: Mutant, known: dict) -> list[str]:
    """Tests that reach the mutant's line, the fastest first; of a line that runs at import (a table of arms) all that reach its file."""
    line = [test for test, (_, lines) in known.items() if mutant.line in lines.get(mutant.file, ())]
    some = line or [test for test, (_, lines) in known.items() if lines.get(mutant.file)]
    if arithmetic(mutant.file):
        some = [test for test in some if Path(test.partition("::")[0]).stem not in RUNNING]
    return sorted(some, key=lambda test: known[test][0])


class Memory:
    """What earlier runs came to, in a file: {mutant: [word, {file: hash} of what it rests on]}. A change of common is not noticed."""

    def __init__(self, root: Path, paper: str):
        folder, self.root = root / "papers" / paper, root
        self.path = Path(os.environ.get("NINEFOLD_CACHE") or root / ".cache" / "ninefold") / "mutants" / f"{paper}.json"
        self.known: dict = json.loads(self.path.read_text()) if self.path.is_file() and not os.environ.get("FRESH") else {}
        found = sorted(folder.rglob("*.py"))
        self.tests = {str(p.relative_to(root)): _hash(p.read_bytes()) for p in found if p.name.startswith("test_")}
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

    def key(self, mutant: Mutant) -> str:
        return f"{mutant.file} {_hash(mutant.source((self.root / mutant.file).read_bytes()))}"

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.known))


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def run(root: Path, paper: str, minutes: float, seed: int = 0) -> list[tuple[Mutant, str]]:
    """(mutant, "killed", "alive", "invalid" or "not tried"): as many as fit into the minutes, quantities before the rest."""
    memory = Memory(root, paper.partition("/")[0])
    end, outcome = time.monotonic() + 60 * minutes, {}
    made = [m for file in targets(root, paper) for m in mutants(file, (root / file).read_bytes())]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(PROCESSES) as pool:
        free = list(pool.map(lambda i: Worker(root, Path(folder).resolve() / str(i), tests_of(root, paper)), range(PROCESSES)))
        workers, known = tuple(free), free[0].reached(targets(root, paper))
        order = sorted(random.Random(seed).sample(made, len(made)), key=lambda mutant: not arithmetic(mutant.file))
        outcome |= {mutant: word for mutant in made if (word := memory.word(mutant, meeting(mutant, known)))}
        began, remembered = time.monotonic(), len(outcome)
        order = [mutant for mutant in order if mutant not in outcome]
        print(f"{paper}: {len(known)} tests, {len(made)} mutants, {remembered} of them remembered; {(end - began) / 60:.1f} minutes are "
              "left for the others", flush=True)

        kills: Counter[str] = Counter()

        def attempt(mutant: Mutant) -> None:
            tests = sorted(meeting(mutant, known), key=lambda test: -kills[test])  # what killed most, then the fastest
            if time.monotonic() > end:
                return
            worker = free.pop()
            try:
                seconds = 4 * sum(known[test][0] for test in tests) + SLACK
                outcome[mutant] = worker.try_out(mutant, tests, seconds) if tests else "alive"
                memory.keep(mutant, outcome[mutant], tests)
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


def reason_of(mutant: Mutant, reasons: list[dict]) -> str:
    """Entries name a file, a line as it stands, the change (or none: whatever is done to that line), and the reason."""
    return next((r["reason"] for r in reasons if r["file"] == mutant.file and r["line"] == mutant.shown
                 and r.get("change", mutant.change) == mutant.change), "")


def section(file: str, tried: list[tuple[Mutant, str]], reasons: list[dict]) -> str:
    """What the page says of a file."""
    count = {word: sum(w == word for _, w in tried) for word in ("killed", "alive", "invalid", "not tried")}
    alive = [(m, reason_of(m, reasons)) for m, word in tried if word == "alive"]
    rows = [f"## {file}", "", f"{len(tried)} mutants: {count['killed']} killed, {count['alive']} alive, {count['invalid']} invalid, "
            f"{count['not tried']} not tried.", ""]
    if alive:
        rows += ["| line | as it stands | change | reason |", "|---|---|---|---|"]
        rows += [f"| {m.line} | `{_cell(m.shown)}` | `{_cell(m.change)}` | {reason} |" for m, reason in alive] + [""]
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")[:100]


def write_page(root: Path, tried: list[tuple[Mutant, str]]) -> int:
    """Writes the page; files that were not asked for keep their part of it. Returns how many are alive without a reason."""
    page, reasons = root / PAGE, root / REASONS
    known = (yaml.safe_load(reasons.read_text()) if reasons.is_file() else None) or []
    old = page.read_text().split("\n## ")[1:] if page.is_file() else []
    parts = {part.split("\n", 1)[0]: "## " + part.rstrip() + "\n" for part in old}
    for file in dict.fromkeys(m.file for m, _ in tried):
        parts[file] = section(file, [(m, word) for m, word in tried if m.file == file], known)
    papers: dict[str, list[int]] = {path.parent.name: [0] * 5 for path in sorted((root / "papers").glob("*/quantities.py"))}
    for file, part in parts.items():
        counts = map(int, re.search(r"\d+ mutants: (\d+) killed, (\d+) alive, (\d+) invalid", part).groups())
        paper = file.split("/")[1]
        papers[paper] = [0, *(a + b for a, b in zip(papers[paper][1:], counts)), 0]
    for paper, counts in papers.items():  # of all its files as they are now, what the last runs left out too
        counts[0] = sum(len(mutants(file, (root / file).read_bytes())) for file in targets(root, paper))
        counts[4] = max(counts[0] - sum(counts[1:4]), 0)
    papers["all"] = [sum(counts) for counts in zip(*papers.values())]
    head = ["# Mutants", "", "Written by `make mutants` (tests/mutants.py): places in which experiments, quantities and selections were",
            "broken, and what the tests of their paper noticed. Reasons are those of docs/mutants.yaml. A part is as the last run of its",
            "file left it; \"mutants\" and \"not tried\" of the table are counted on all files as they are now.", "",
            "| paper | mutants | killed | alive | invalid | not tried |", "|---|---|---|---|---|---|",
            *(f"| {paper} | {' | '.join(map(str, counts))} |" for paper, counts in papers.items()), ""]
    page.write_text("\n".join([*head, *(parts[file] for file in sorted(parts))]).rstrip() + "\n")
    return sum(word == "alive" and not reason_of(m, known) for m, word in tried)


def main() -> int:
    papers = sorted(path.parent.name for path in (ROOT / "papers").glob("*/quantities.py"))
    asked = [name.strip() for name in (os.environ.get("ONLY") or ",".join(papers)).split(",")]
    if unknown := {name for name in asked if not targets(ROOT, name)}:
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
