"""What validates is not trained on, also where files or hub splits have copies of each other's rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from ..errors import SetupError

Row = TypeVar("Row")


def apart(train: Sequence[Row], held: Sequence[Row], asked: Callable[[Row], Hashable]) -> list[Row]:
    """The rows of `train` that ask what no row of `held` asks, in their order; prints how many are left out.

    asked: what a row gives a model to read, without what it is to answer: the same sentence with another translation tells as much.
    Raises SetupError where nothing is left to train on.
    """
    known = {asked(row) for row in held}
    kept = [row for row in train if asked(row) not in known]
    if train and not kept:
        raise SetupError(f"data: all {len(train)} rows of training ask what a row of validation asks: a loss on what was trained on tells "
                         "nothing; name two that share no row")
    if len(kept) < len(train):
        print(f"data: {len(train) - len(kept)} of {len(train)} rows of training ask what validation asks, and are not trained on",
              flush=True)
    return kept
