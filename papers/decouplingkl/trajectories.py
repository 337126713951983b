"""Where the responses come from that both models read: the student now, the teacher now or once, the data.

A source is called with a step's problems, the place of the first of them in the step, and a length; it gives a response or more to
each, in order, none longer. A cache holds the teacher's own samples as JSON lines, one a response,

    {"prompt": [ids], "ids": [ids], "finished": true}

behind a line of facts about who sampled and how; a cache of another teacher, or sampled otherwise, is refused. A line that a kill
cut short is dropped and sampled again. Trajectories are kept at full length and cut when read, so that a longer training length
later reads the same responses further.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from common.errors import ModelError, SetupError
from common.reasoning.rollouts import Rollout

from .method import cut


class TrajectorySource(Protocol):
    def __call__(self, problems: Sequence[Any], first: int, length: int) -> list[Rollout]: ...


def shortened(rollouts: Sequence[Rollout], length: int) -> list[Rollout]:
    """Each response's first `length` tokens; finished, if its end is among them."""
    return [Rollout(r.prompt, *cut(r.ids, r.finished, length)) for r in rollouts]


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Logits that are no numbers are something that the model's user can mend: ModelError in the sampler's words."""
    try:
        yield
    except FloatingPointError as error:
        raise ModelError("Responses are sampled from finite logits, and this model's are not; they are of prompts padded on the left "
                         f"({str(error).removeprefix('sample: ')}).") from error


# -- the cache ---------------------------------------------------------------------------------------------
class TrajectoryCache:
    """Responses by prompt, in a file that grows by whole lines. facts: of the teacher and of the sampling.

    Raises SetupError for a file of other facts, and for a line in its middle that is none of a cache.
    """

    def __init__(self, path: Path | str, facts: dict[str, Any]):
        self.path, self.facts = Path(path).expanduser(), json.loads(json.dumps(facts))
        self.found: dict[tuple[int, ...], list[tuple[tuple[int, ...], bool]]] = {}
        self.read()

    def read(self) -> None:
        self.found = {}
        if not self.path.is_file():
            return
        whole = self.path.read_bytes()
        *lines, torn = whole.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if number == 1:
                    self._check(row["trajectories"])
                    continue
                ids = tuple(map(int, row["ids"]))
                if not ids or type(row["finished"]) is not bool or min(ids) < 0:
                    raise ValueError("no tokens, or no word on their end")
                self.found.setdefault(tuple(map(int, row["prompt"])), []).append((ids, row["finished"]))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise SetupError(f"{self.path.name}, line {number}: no line of a trajectory cache ({type(error).__name__}: {error}); "
                                 "remove it from that line on, and it is sampled again") from error
        self.torn = len(torn)

    def _check(self, facts: dict[str, Any]) -> None:
        for name, value in self.facts.items():
            if facts.get(name) != value:
                raise SetupError(f"{self.path.name}: its trajectories were sampled with {name} = {facts.get(name)}, and this run has "
                                 f"{value}: name another file, or sample it again")

    def get(self, prompt: Sequence[int], count: int) -> list[tuple[tuple[int, ...], bool]] | None:
        """The first `count` responses to a prompt; None where there are fewer."""
        found = self.found.get(tuple(prompt), [])
        return found[:count] if len(found) >= count else None

    def add(self, rows: Sequence[tuple[Sequence[int], Sequence[int], bool]], write: bool = True) -> None:
        """(prompt, ids, finished) of new responses. write: this process keeps the file; one of all does."""
        for prompt, ids, finished in rows:
            self.found.setdefault(tuple(prompt), []).append((tuple(ids), bool(finished)))
        if not write or not rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mend()
        fresh = not self.path.is_file() or not self.path.stat().st_size
        text = [json.dumps({"trajectories": self.facts})] if fresh else []
        text += [json.dumps({"prompt": list(p), "ids": list(i), "finished": bool(f)}) for p, i, f in rows]
        with open(self.path, "ab") as file:
            file.write("".join(line + "\n" for line in text).encode())
            file.flush()
            os.fsync(file.fileno())

    def _mend(self) -> None:
        """Drops what a kill left of a last line."""
        if not self.path.is_file():
            return
        with open(self.path, "rb+") as file:
            whole = file.read()
            if whole and not whole.endswith(b"\n"):
                file.truncate(whole.rfind(b"\n") + 1)
