"""How far a loop is and how long the rest will take, for what takes longer than ten seconds.

    for step in progress(range(3600), "training"):

Before ten seconds are over nothing is said, so that what is quick is quiet. Then: on a terminal one line that is written
over, elsewhere (a file, a batch system's log) a new line, less and less often as the work turns out to be longer.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar, cast

Item = TypeVar("Item")
FIRST, SHARE = 10.0, 0.1  # seconds to the first line; then a line for every tenth of the time gone


def progress(items: Iterable[Item], what: str, total: int | None = None, stream=None,
             clock: Callable[[], float] = time.monotonic) -> Iterator[Item]:
    """Yields the items. total: how many, where `items` has no length. stream: where to, default stderr."""
    stream = stream or sys.stderr
    live = stream.isatty()
    total = len(cast(Sized, items)) if total is None else total
    began, said = clock(), None
    for done, item in enumerate(items):
        now = clock() - began
        if done and now >= FIRST and (said is None or now - said >= (1.0 if live else max(FIRST, SHARE * now))):
            line = f"  {what}: {done} of {total}, {now:.0f} s gone, about {now / done * (total - done):.0f} s left"
            print(f"\r{line}\x1b[K" if live else line, end="" if live else "\n", file=stream, flush=True)
            said = now
        yield item
    if live and said is not None:
        print("\r\x1b[K", end="", file=stream, flush=True)


def replace_unprintable() -> None:
    """From here on, a sign that the output's encoding lacks is printed as "?": no run ends for want of an ellipsis."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # and no output that is no text file, e.g. a notebook's
        sys.stdout.reconfigure(errors="replace")
