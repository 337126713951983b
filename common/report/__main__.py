"""The command line of the report.

    python -m common.report             writes report.html (--scratch: with the runs of this machine, marked)
    python -m common.report --readme    rewrites the blocks between <!-- ninefold:... --> markers, docs/open.md,
                                        docs/machines.md and docs/planes/
    python -m common.report --check     fails if a block or a page of docs/ differs from what the records give, or a record
                                        from what the committed results give (chain.py)
    python -m common.report --rejudge   writes records anew from the committed results, where a rule changed (rejudge.py)

Exit status: 1 for records that are invalid or not what the results give, 2 for what the user can mend.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..claims.machine import ROOT
from ..errors import UserError
from ..files import write_atomic
from ..progress import replace_unprintable
from . import chain, history, machines, open_questions, plane_pages
from .page import page
from .papers import read_papers
from .rejudge import rejudge
from .tables import blocks, check, update_block


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser("python -m common.report", description="Records to tables.")
    parser.add_argument("--out", type=Path, default=root / "report.html", help="report.html")
    parser.add_argument("--scratch", action="store_true", help="with records of results/.scratch/, marked as such")
    parser.add_argument("--readme", action="store_true", help="rewrite the README blocks instead")
    parser.add_argument("--check", action="store_true", help="compare the README blocks instead")
    parser.add_argument("--rejudge", action="store_true", help="write records anew from committed results, where a rule changed")
    options = parser.parse_args(argv)
    if options.scratch and (options.readme or options.check):
        parser.error("--scratch is for the page: tables in READMEs are made of committed records")
    replace_unprintable()
    began = time.monotonic()
    papers = read_papers(root, options.scratch)
    problems = [problem for paper in papers for problem in paper.problems]
    for problem in problems:
        print(f"invalid: {problem}", file=sys.stderr)
    try:
        if options.rejudge:
            for paper in papers:
                if paper.here:
                    for line in rejudge(paper.key, root):
                        print(line)
            return 0
        planes = plane_pages.of_tree(root)
        if options.check:
            different = check(root, papers)
            pages = plane_pages.stale_files(root, planes) if planes is not None else []
            if open_questions.is_stale(root, papers):
                pages = [root / open_questions.PAGE, *pages]
            if machines.is_stale(root):
                pages = [root / machines.PAGE, *pages]
            for path in different:
                print(f"{path.relative_to(root)}: its table is not what the records give; run "
                      "`python -m common.report --readme`", file=sys.stderr)  # fmt: skip
            for path in pages:
                print(f"{path.relative_to(root)}: is not what the committed results give; run `python -m common.report --readme`",
                      file=sys.stderr)
            broken = [problem for paper in papers if paper.here and (root / "papers" / paper.key / "eval.py").is_file()
                      for problem in chain.problems(paper.key, root)]
            for problem in broken:
                print(problem, file=sys.stderr)
            if not history.is_there(root):
                print("Left open: which commit each record is of. This is a copy or a shallow clone (git fetch --unshallow), or git "
                      "refuses to look into another user's folder.")
            return int(bool(different or pages or problems or broken))
        if options.readme:
            for path, name, text in blocks(root, papers):
                changed = update_block(path, name, text)
                print(f"{path.relative_to(root)}: {'rewritten' if changed else 'unchanged'}")
            print(f"{open_questions.PAGE}: {open_questions.update(root, papers)}")
            print(f"{machines.PAGE}: {machines.update(root)}")
            for path, done in (plane_pages.update_files(root, planes) if planes is not None else {}).items():
                print(f"{path.relative_to(root)}: {done}")
            return int(bool(problems))
        write_atomic(options.out, page(papers, planes))
        size, seconds = options.out.stat().st_size / 1000, time.monotonic() - began
        print(f"wrote {options.out.name} ({size:,.0f} kB, {seconds:.1f} s)")
        return int(bool(problems))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
