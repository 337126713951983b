"""What each layer of the real DINOv2-S knows, alone and beside others, on easy and on hard scenes; nothing is trained by gradients.

Every kind of label is read off by a ridge regression from the place where it is: the four patches of a digit's or an object's cell,
or the mean over all patches for the count. Each seed draws pictures of its own. Controls: the layers that a set adds come from
another picture (which may tell nothing), all of them do, and one layer three times. Hard scenes are tested in another look, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data import hard_scenes, scenes
from common.progress import progress
from common.runs.jobs import Job
from common.seeds import asked
from common.vision import tower

from .. import probing
from ..probing import Grams, Ridge

BLOCKS, MAIN = 12, 11  # of DINOv2-S; LLaVA's layer, the one before the last
FIRST_SEED = 10  # 0 and 1 are the specification's own exploration
SETS: dict[str, tuple[int, ...]] = {
    "default": (11,), "single": (9,), "double": (2, 9), "triple": (2, 9, 11), "medoids": (4, 8, 11),
    "late region": (9, 10, 11), "last region": (10, 11, 12), "first region": (1, 2, 3), "middle region": (6, 7, 8),
    "former": (*range(1, 7), 11), "latter": tuple(range(7, 13)), "all": tuple(range(1, 13)), "default three times": (11, 11, 11)}
MEANS = {"former, means": ((1, 2, 3, 4, 5, 6), (11,)), "all, means": (tuple(range(1, 7)), tuple(range(7, 13)), (11,))}
PLACES = {"easy": {"number": ("digit",), "object": ("shade", "color", "shape", "dy"), "whole": ("count",)},
          "hard": {"number": ("tens", "digit"), "object": ("shade", "color", "shape", "dy"), "whole": ("count",)}}


@dataclass(frozen=True)
class Size:
    """easy, hard: how many seeds. train, test: pictures a seed, of each look."""

    easy: int
    hard: int
    train: int
    test: int


SIZES = {"smoke": Size(1, 1, 60, 30), "cpu": Size(max(5, len(asked())), len(asked()), 600, 300)}


def jobs(size: str = "cpu") -> list[Job]:
    s = SIZES[size]
    return [Job(f"probes/{look}/seed{FIRST_SEED + i}", f"{__name__}:probed", {"look": look, "seed": FIRST_SEED + i, "size": size},
                seconds=60) for look, count in (("easy", s.easy), ("hard", s.hard)) for i in range(count)]


# -- pictures and what is asked of them --------------------------------------------------------------------
def drawn(look: str, split: str, count: int, seed: int, shifted: bool = False) -> list[Any]:
    if look == "easy":
        return [scenes.scene(i, split, seed) for i in range(count)]
    return [hard_scenes.scene(i, split, seed, shifted) for i in range(count)]


def label(of: Any, kind: str) -> int:
    """The class that a probe is to name, of the scene or of its first thing."""
    thing = of.things[0]
    if kind == "digit":
        return of.digit if isinstance(of, scenes.Scene) else of.number[1]
    if kind == "dy":  # how far the thing was moved inside its cell: the first that is drawn by lot, in easy scenes and, in hard ones, too
        moved = np.random.default_rng(of.noise)
        if getattr(of, "shifted", False):
            hard_scenes._stripes(moved)
        return int(moved.integers(-1, 2, 2)[0]) + 1
    return {"tens": lambda: of.number[0], "shade": lambda: scenes.SHADES.index(thing.shade),
            "color": lambda: list(scenes.COLORS).index(thing.color), "shape": lambda: scenes.SHAPES.index(thing.shape),
            "count": lambda: len(of.things) - 2}[kind]()


def cell_of(of: Any, place: str) -> tuple[int, int]:
    if place == "object":
        return of.things[0].row, of.things[0].column
    return of.digit_cell if isinstance(of, scenes.Scene) else of.number_cell


def views(some: Sequence[Any], model: torch.nn.Module, batch: int = 20) -> dict[str, Tensor]:
    """{place: (layers, pictures, width)}: layers 1 to 12 at the four patches of a cell, or the mean over all patches."""
    found: dict[str, list[Tensor]] = {"number": [], "object": [], "whole": []}
    for start in progress(range(0, len(some), batch), "pictures, batches"):
        part = some[start : start + batch]
        with torch.no_grad():
            states = model(tower.pixels([s.image() for s in part], 112), output_hidden_states=True).hidden_states
        grid = torch.stack([state[:, 1:] for state in states[1:]]).unflatten(2, (8, 8))  # (layers, pictures, 8, 8, dv)
        found["whole"].append(grid.mean((2, 3)))
        for place in ("number", "object"):
            cells = [cell_of(s, place) for s in part]
            four = [grid[:, i, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].flatten(1) for i, (r, c) in enumerate(cells)]
            found[place].append(torch.stack(four, 1))
    return {place: torch.cat(parts, 1) for place, parts in found.items()}


# -- the job -----------------------------------------------------------------------------------------------
def probed(look: str, seed: int, size: str = "cpu") -> dict:
    """{"layers": {layer: {kind: share right}}, "sets", "controls": {name: {kind: ...}}, and, of hard scenes, "shifted": all of
    these in another look; "chance": {kind: share of the commonest class}; "counts": [train, test]}."""
    s, model = SIZES[size], tower.dinov2()
    given = {"train": drawn(look, "train", s.train, seed), "test": drawn(look, "test", s.test, seed)}
    if look == "hard":
        given["shifted"] = drawn(look, "test", s.test, seed, shifted=True)
    seen = {name: views(some, model) for name, some in given.items()}
    found: dict = {"layers": {}, "sets": {}, "controls": {}, "shifted": {}, "chance": {}, "counts": [s.train, s.test]}
    for place, kinds in PLACES[look].items():
        labels = {name: {kind: [label(of, kind) for of in some] for kind in kinds} for name, some in given.items()}
        for kind in kinds:
            classes = labels["test"][kind]
            found["chance"][kind] = max(classes.count(c) for c in set(classes)) / len(classes)
        for group, name, of in considered(seen, place, seed):
            ridge = Ridge(of)
            for kind in kinds:
                tests = {test: labels[test][kind] for test in given if test != "train"}
                shares = ridge.accuracies(labels["train"][kind], tests)
                found[group].setdefault(name, {})[kind] = round(shares["test"], 5)
                if "shifted" in shares:
                    found["shifted"].setdefault(name, {})[kind] = round(shares["shifted"], 5)
    return found


def considered(seen: dict[str, dict[str, Tensor]], place: str, seed: int):
    """(group, name, Gram matrices) of every layer alone, every set and every control."""
    train, tests = seen["train"][place], {name: of[place] for name, of in seen.items() if name != "train"}
    views_of = {k: probing.standardised(train[k - 1], {n: t[k - 1] for n, t in tests.items()}) for k in range(1, BLOCKS + 1)}
    layer = {k: probing.grams(*view) for k, view in views_of.items()}
    draw = torch.Generator().manual_seed(seed)
    orders = {name: torch.randperm(of[place].shape[1], generator=draw) for name, of in seen.items()}
    other = {k: probing.grams(own[orders["train"]], {n: t[orders[n]] for n, t in those.items()}) for k, (own, those) in views_of.items()}
    for k in range(1, BLOCKS + 1):
        yield "layers", str(k), layer[k]
    for name, layers in SETS.items():
        yield "sets", name, probing.total(layer[k] for k in layers)
    for name, parts in MEANS.items():
        yield "sets", name, probing.total(_mean(views_of, part) for part in parts)
    for name in ("triple", "medoids", "all"):
        yield "controls", f"{name}, added layers of another picture", probing.total(
            (layer if k == MAIN else other)[k] for k in SETS[name])
    yield "controls", "triple of another picture", probing.total(other[k] for k in SETS["triple"])


def _mean(views_of: dict[int, tuple[Tensor, dict[str, Tensor]]], part: Sequence[int]) -> Grams:
    own = torch.stack([views_of[k][0] for k in part]).mean(0)
    return probing.grams(*probing.standardised(own, {n: torch.stack([views_of[k][1][n] for k in part]).mean(0) for n in views_of[1][1]}))
