"""What can be broken: the files of a paper that turn methods into words, and every small change that is made to one.

A mutant is a change of one place: "train" for "test", an arm for its neighbour, + for -, a comparison turned, an index shifted,
arguments exchanged, a call dropped, a keyword left out. Imports, types, sizes and words for people are left alone. Some changes turn
an experiment into another that runs as well as it did (`turns`): these are the ones that nothing but a test would ever show.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

FILES = ("quantities*.py", "selection.py", "calibration.py", "experiments/*.py")  # of a paper
SPLITS = {"train": "test", "test": "train", "val": "test", "validation": "test", "calibration": "test", "tune": "test", "recovery": "test"}
FLIPS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
         ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"),
         ast.IsNot: ("is not", "is"), ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
         ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.And: ("and", "or"), ast.Or: ("or", "and")}  # fmt: skip
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
KEPT = {"items", "values", "keys", "tolist", "item", "copy", "splitlines"}  # calls whose absence only ends in a TypeError
SILENT = {"print", "log", "add_argument", "ArgumentParser", "progress"}  # what only speaks to a person
SETTINGS = {"SIZES", "seconds", "job_seconds", "share"}  # how much of everything: another number is no fault
# What says which experiment it is: keywords, and changes of a direction.
NAMED = re.compile(r"seed|split|step|rate|budget|arm|train|test|val|held|tun|calib|layers|config|state|policy|key")
TURNED = ("+ is -", "- is +", "min is max", "max is min", "sign dropped", "the other part", "condition turned")


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
    idle = {id(inner) for node in ast.walk(tree) for inner in _idle(node)}

    def walk(node: ast.AST, strings: list[str]) -> Iterator[tuple[ast.AST, list[str]]]:
        if id(node) in idle or isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Assert) or _silent(node):
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


def _idle(node: ast.AST) -> list[ast.AST]:
    """What no run takes: the size that a function has by default, for every job names its own (a paper's test_listed.py holds that);
    and the seconds that a job is expected to take, by which work is ordered: numbers after its name and function."""
    if isinstance(node, ast.FunctionDef):
        given = node.args.args
        return [default for arg, default in zip(given[len(given) - len(node.args.defaults) :], node.args.defaults) if arg.arg == "size"]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("job", "_job"):
        return [arg for arg in node.args[2:] if all(isinstance(of, ast.Constant) and isinstance(of.value, int | float) for of in (
            (arg.body, arg.orelse) if isinstance(arg, ast.IfExp) else (arg,)))]
    return []


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


def turns(mutant: Mutant) -> bool:
    """Whether it makes another experiment: a split, an arm or a metric for its neighbour, a sign or a direction turned, two things
    exchanged, a seed, rate or step count that is the default's. The others shift a number or an index, or drop a condition."""
    change = mutant.change
    if change.endswith("= left out"):
        return bool(NAMED.search(change.partition("=")[0]))
    return change[0] == '"' or change.endswith("exchanged") or change in TURNED


# -- where -------------------------------------------------------------------------------------------------
def targets(root: Path, asked: str) -> list[str]:
    """What is broken of a paper ("gpe"), of its experiments ("gpe/experiments"), or is a file ("gpe/text", "gpe/quantities*")."""
    paper, _, part = asked.partition("/")
    found = [path for pattern in FILES for path in sorted((root / "papers" / paper).glob(pattern)) if path.name != "__init__.py"]
    return [str(path.relative_to(root)) for path in found if not part or part == path.parent.name or fnmatch(path.stem, part)]


def arithmetic(file: str) -> bool:
    """Quantities, in however many files."""
    return Path(file).stem.startswith("quantities")
