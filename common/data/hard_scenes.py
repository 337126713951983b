"""Scenes that are not solved: photographs behind small objects, two-digit numbers in an eighth of the width, bars in front, faint shades.

scenes.py's questions about harder pictures of the same form: 64 x 64 pixels, 4 x 4 cells, 2 to 4 objects of own colours, and a number
of two of scikit-learn's real digits, each at its own 8 x 8 pixels, in a free cell. Backgrounds are cut from scikit-learn's two
photographs, of the left part of each for training and of the right part for the other splits. Half of the objects have a bar of
background in front of them; a dark shade has 70 % of its light one's strength. One more kind of question:

    tens        what left digit ?     the number's first digit; `digit` is the second

shifted=True gives the same scenes in another look, for what generalises: digits drawn by Pillow's own font in place of handwriting,
stripes in place of photographs. Everything is a function of (seed, split, number of the picture).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .scenes import (
    CELL,
    COLORS,
    DIGITS_FOR_TRAINING,
    SHADES,
    SHAPES,
    SIZE,
    SPLITS,
    Question,
    Scene,
    Thing,
    _digits,
    _outline,
)
from .scenes import KINDS as EASY_KINDS

KINDS = (*EASY_KINDS, "tens")
DARK, DIMMED = 0.7, 0.6  # strength of a dark object, and of the background
TRAINED_PART = 0.65  # of a photograph's width
PHOTOGRAPHS = ("china.jpg", "flower.jpg")


@dataclass(frozen=True)
class HardScene:
    """things, number and its cell as in `scenes.Scene`; samples: of the two digits, tens first. photo: (which, top, left) of the
    background; barred: whether each thing has a bar in front. noise: seed of what is drawn by lot."""

    things: tuple[Thing, ...]
    number: tuple[int, int]
    number_cell: tuple[int, int]
    samples: tuple[int, int]
    photo: tuple[int, int, int]
    barred: tuple[bool, ...]
    noise: int
    shifted: bool = False

    def image(self) -> np.ndarray:
        """(64, 64, 3) uint8."""
        from PIL import Image, ImageDraw

        draw = np.random.default_rng(self.noise)
        behind = (_stripes(draw) if self.shifted else _photograph(*self.photo)).astype(np.float32) * DIMMED
        canvas = Image.fromarray(behind.astype(np.uint8))
        pen = ImageDraw.Draw(canvas)
        for thing in self.things:
            dy, dx = draw.integers(-1, 2, 2)
            top, left = thing.row * CELL + 3 + dy, thing.column * CELL + 3 + dx
            strength = 1.0 if thing.shade == "light" else DARK
            red, green, blue = (int(c * strength) for c in COLORS[thing.color])
            _outline(pen, thing.shape, left, top, CELL - 7, (red, green, blue))
        picture = np.array(canvas, dtype=np.float32)
        for thing, bar in zip(self.things, self.barred):
            if bar:
                at = thing.row * CELL + int(draw.integers(5, 9))
                across = np.s_[at : at + 3, thing.column * CELL : (thing.column + 1) * CELL]
                picture[across] = behind[across]
        row, column = self.number_cell
        for place, (value, sample) in enumerate(zip(self.number, self.samples)):
            ink = _printed(value) if self.shifted else _digits()[0][sample] * 15
            top, left = row * CELL + 4, column * CELL + 8 * place
            cell = picture[top : top + 8, left : left + 8]
            np.maximum(cell, ink.astype(np.float32)[..., None], out=cell)
        picture += draw.normal(0, 6, picture.shape)
        return picture.clip(0, 255).astype(np.uint8)

    def as_easy(self) -> Scene:
        """The scene without what makes it hard: its things, its second digit."""
        return Scene(self.things, self.number[1], self.number_cell, self.samples[1], self.noise)

    def questions(self) -> list[Question]:
        """All that can be asked: scenes.py's, and the first digit."""
        return [*self.as_easy().questions(), Question("tens", "what left digit ?", str(self.number[0]))]

    def caption(self, draw: np.random.Generator) -> str:
        """As scenes.py's, with both digits where that has one."""
        plain = self.as_easy().caption(draw)
        return plain.replace(f"digit {self.number[1]}", f"digit {self.number[0]} {self.number[1]}")


def scene(number: int, split: str = "train", seed: int = 0, shifted: bool = False) -> HardScene:
    """Picture `number` of a split; deterministic, and the same scene whether shifted or not. Raises KeyError for another split."""
    draw = np.random.default_rng([seed, SPLITS[split], number, 64])
    count = int(draw.integers(2, 5))
    cells = draw.permutation(16)[: count + 1]
    colors = draw.permutation(len(COLORS))[:count]
    things = tuple(Thing(list(COLORS)[color], SHAPES[draw.integers(4)], SHADES[draw.integers(2)], int(cell) // 4, int(cell) % 4)
                   for color, cell in zip(colors, cells))
    span = (0, DIGITS_FOR_TRAINING) if split == "train" else (DIGITS_FOR_TRAINING, len(_digits()[0]))
    tens, ones = (int(sample) for sample in draw.integers(*span, size=2))
    which = int(draw.integers(len(PHOTOGRAPHS)))
    height, width = _whole(which).shape[:2]
    edge = int(width * TRAINED_PART)
    columns = (0, edge - SIZE) if split == "train" else (edge, width - SIZE)
    photo = (which, int(draw.integers(height - SIZE + 1)), int(draw.integers(columns[0], columns[1] + 1)))
    barred = tuple(bool(bar) for bar in draw.integers(2, size=count))
    labels = _digits()[1]
    return HardScene(things, (int(labels[tens]), int(labels[ones])), (int(cells[-1]) // 4, int(cells[-1]) % 4), (tens, ones), photo,
                     barred, int(draw.integers(2**31)), shifted)


def by_kind(of: HardScene) -> dict[str, list[Question]]:
    """{kind: what can be asked}, kinds that the scene allows."""
    asked = of.questions()
    return {kind: pool for kind in KINDS if (pool := [q for q in asked if q.kind == kind])}


def one_of_each_kind(of: HardScene, draw: np.random.Generator) -> list[Question]:
    """A question of every kind that the scene allows: what a picture is tested with."""
    return [pool[draw.integers(len(pool))] for pool in by_kind(of).values()]


def some(of: HardScene, draw: np.random.Generator, count: int) -> list[Question]:
    """`count` questions, kinds drawn evenly: what a picture is trained with."""
    pools: Sequence[list[Question]] = list(by_kind(of).values())
    chosen = [pools[i] for i in draw.integers(len(pools), size=count)]
    return [pool[draw.integers(len(pool))] for pool in chosen]


def _photograph(which: int, top: int, left: int) -> np.ndarray:
    return _whole(which)[top : top + SIZE, left : left + SIZE]


@functools.cache
def _whole(which: int) -> np.ndarray:
    """A photograph of scikit-learn, without sklearn, whose import takes seconds: (height, width, 3) uint8, at half its size."""
    from PIL import Image

    found = importlib.util.find_spec("sklearn")
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError("the photographs behind the scenes come with scikit-learn, which is not installed here")
    (package,) = found.submodule_search_locations
    image = Image.open(Path(package) / "datasets" / "images" / PHOTOGRAPHS[which]).convert("RGB")
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX))


@functools.cache
def _printed(digit: int) -> np.ndarray:
    """(8, 8): a digit in Pillow's own font."""
    from PIL import Image, ImageDraw, ImageFont

    cell = Image.new("L", (16, 16))
    ImageDraw.Draw(cell).text((8, 8), str(digit), fill=255, font=ImageFont.load_default(18), anchor="mm")
    return np.asarray(cell.resize((8, 8), Image.Resampling.BOX), dtype=np.float32)


def _stripes(draw: np.random.Generator) -> np.ndarray:
    """(64, 64, 3): two colours in slanted stripes."""
    one, other = draw.integers(0, 256, (2, 3))
    y, x = np.mgrid[:SIZE, :SIZE]
    slope, period = draw.uniform(-1, 1), draw.uniform(6, 16)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (x + slope * y) / period)
    return one + (other - one) * wave[..., None]
