"""Seeds by name, and how many of them a run takes."""

import hashlib
import os
import re
from collections.abc import Iterable

from .errors import UserError

MOST = 64  # more would be a slip of the finger: each is a training


def seed_of(*parts) -> int:
    """A generator seed from anything printable: 32 bits, all that torch's CPU generator keeps.

    What is drawn for one purpose then never depends on how much was drawn for another.
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")


def asked(default: int = 3) -> tuple[int, ...]:
    """Seeds 0 .. n - 1 of a default run: n is $SEEDS where that is a number from 1 to 64.

    Called where sizes are written down, which is when a module is imported: what is no such number is refused by
    `refuse_nonsense`, when a command begins, and never here.
    """
    return tuple(range(_number(os.environ.get("SEEDS", "")) or default))


def refuse_nonsense() -> None:
    """Raises UserError where $SEEDS is set and no number of seeds."""
    text = os.environ.get("SEEDS", "")
    if text and _number(text) is None:
        raise UserError(f"SEEDS={text}: give how many seeds to run, a number from 1 to {MOST}")


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) and 1 <= int(text) <= MOST else None


def seeds_of(results: Iterable[str], start: str) -> tuple[int, ...]:
    """The seeds of the results called `start`/seedN, in order: what there is decides, not what a run would do now."""
    found = (re.fullmatch(re.escape(start) + r"/seed([0-9]+)", name) for name in results)
    return tuple(sorted(int(match[1]) for match in found if match))
