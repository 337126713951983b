"""`make families`: every method of every paper on every family, and docs/families.md, the table of what came out.

A paper says in papers/<paper>/families.py how its methods are used: METHODS, name -> function (model, ids). The function applies
the method as a user would and compares it with the stock model: it returns when both agree (`works`), lets the method's UserError
through (`refused`, with the property that the model lacks), and raises AssertionError where the method took the model and was
wrong. That last one, and any other exception, is a fault: it is listed, and the exit status is 1. A function may have an attribute
`applies`, (model) -> bool; where that is false, nothing is to be tried (`–`): it needs a picture, and the family reads none.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_atomic

ROOT = Path(__file__).absolute().parents[2]  # not resolved: a copy may share this folder by a link
TABLE = "docs/families.md"
WORKS, NOTHING, REFUSED = "works", "–", "refused: "
AT_ONCE = 2
Cells = dict[str, str]  # "paper: method" -> cell


def methods(root: Path = ROOT) -> dict[str, tuple[Callable[..., Any], Callable[..., bool]]]:
    """"paper: method" -> (the method's use, whether there is anything to try), for every paper that has a families.py."""
    found = {}
    for path in sorted((root / "papers").glob("*/families.py")):
        module = importlib.import_module(f"papers.{path.parent.name}.families")
        for name, use in module.METHODS.items():
            found[f"{path.parent.name}: {name}"] = (use, getattr(use, "applies", lambda model: True))
    return found


def reason_of(error: UserError) -> str:
    """The property that a refusal names: its message's first sentence, on one line, with measured numbers as "…"."""
    sentence = re.split(r";(?=\s)|\.(?=\s+[^a-z]|$)", " ".join(str(error).split()), maxsplit=1)[0]
    measured = re.sub(r"\d+\.\d+(e[+-]?\d+)?|\d+e[+-]\d+", "…", sentence)
    return measured.replace("|", "/") or "no reason given"


def cell(use: Callable[..., Any], applies: Callable[..., bool], family: str) -> str:
    """What becomes of one method on a new model of one family."""
    from .tiny import build, text_ids

    model, ids = build(family), text_ids()
    try:
        if not applies(model):
            return NOTHING
        use(model, ids)
        return WORKS
    except UserError as error:
        return REFUSED + reason_of(error)
    except AssertionError as error:
        return f"silent error: {' '.join(str(error).split())[:160] or 'taken, and wrong'}"
    except Exception as error:
        return f"crash: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def row(family: str, root: Path = ROOT) -> Cells:
    """All methods on one family."""
    import torch

    torch.set_num_threads(1)
    return {name: cell(use, applies, family) for name, (use, applies) in methods(root).items()}


def is_fault(text: str) -> bool:
    return text not in (WORKS, NOTHING) and not (text.startswith(REFUSED) and len(text) > len(REFUSED))


def _row_to(pipe, family: str) -> None:
    import warnings

    warnings.simplefilter("ignore")  # of stock models, about their own age
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    try:
        pipe.send(row(family))
    except Exception as error:  # no method's: a paper's file cannot be imported, a family cannot be built
        pipe.send(f"{type(error).__name__}: {error}")


def row_apart(family: str, context) -> Cells | str:
    """`row` in a process of its own, so that nothing that a method leaves behind reaches the next family; a text is a fault."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_row_to, args=(there, family))
    process.start()
    there.close()
    try:
        result = here.recv()
    except EOFError:
        process.join()
        return f"the process ended with status {process.exitcode}"
    process.join()
    return result


def table(rows: dict[str, Cells], names: list[str]) -> str:
    """The page: families as rows, methods as columns."""
    head = ["family", *names]
    lines = [f"| {' | '.join(cells)} |" for cells in (
        head, ["---"] * len(head), *([family, *(cells[name] for name in names)] for family, cells in rows.items()))]
    counts = [text for cells in rows.values() for text in cells.values()]
    works, refused = counts.count(WORKS), sum(text.startswith(REFUSED) for text in counts)
    return f"""# Which method works on which model

Written by `make families`: every method of every paper, on a tiny random model of every family, beside the stock model's own
passes. {len(rows)} families, {len(names)} methods: {works} times a method works, {refused} times it refuses the model and names the
property that it lacks, and nowhere does it take a model and come out wrong. `{NOTHING}`: the method needs a picture, and the family
reads none. With transformers {version("transformers")}; the families' configs stand in `common/families`.

""" + "\n".join(lines) + "\n"


def chosen(only: str, known: Iterable[str]) -> list[str]:
    """The families that ONLY names, apart by commas; all where it is empty. Raises UserError for one that is not there."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"ONLY={only}: there is no family {', '.join(unknown)}. Known: {', '.join(known)}")
    return names or list(known)


def main() -> int:
    """Exit status 0, 1 if a cell is a fault, 2 for a setting that is wrong."""
    from .tiny import FAMILIES

    try:
        families = chosen(os.environ.get("ONLY", ""), FAMILIES)
    except UserError as error:
        print(f"families: {error}", file=sys.stderr)
        return 2
    names = list(methods())
    if not names:
        print("families: no paper has a families.py that says how its methods are used", file=sys.stderr)
        return 1
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["common.families.tiny"])
    rows: dict[str, Cells] = {}
    faults, began = [], time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {pool.submit(row_apart, family, context): family for family in families}
        for done, future in enumerate(as_completed(waiting), 1):
            family, result = waiting[future], future.result()
            cells = rows[family] = result if isinstance(result, dict) else dict.fromkeys(names, f"crash: {result}")
            faults += [f"{family}, {name}: {text}" for name, text in cells.items() if is_fault(text)]
            gone = time.monotonic() - began
            texts = list(cells.values())
            print(f"families: [{done}/{len(families)}] {family}: {texts.count(WORKS)} work, "
                  f"{sum(text.startswith(REFUSED) for text in texts)} refused, {sum(map(is_fault, texts))} faults   "
                  f"({gone:.0f} s gone, about {gone / done * (len(families) - done):.0f} s left)", flush=True)
            if len(families) < len(FAMILIES):
                print(*(f"    {name}: {text}" for name, text in cells.items()), sep="\n")
    for fault in faults:
        print(f"families: FAULT {fault}")
    if len(families) == len(FAMILIES):
        write_atomic(ROOT / TABLE, table({family: rows[family] for family in FAMILIES}, names))
        print(f"families: {TABLE} is written; {len(faults)} faults")
    return 1 if faults else 0
