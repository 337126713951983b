"""Pictures whose questions need the picture: several objects, a real handwritten digit, and who-has-what.

64 x 64 pixels, a grid of 4 x 4 cells. 2 to 4 objects, each of its own colour (8), with a shape (4), a shade (light or
dark) and a cell; one digit of scikit-learn's real ones (train and test use different writers' samples) in a free cell;
noise. Questions, by kind:

    color     color of circle ?       asked where that shape is there once
    shape     shape of red ?
    shade     shade of red ?          light or dark
    count     how many shapes ?       2 to 4
    exists    is there red circle ?   half yes; each no has both words in the picture, on different objects
    relation  is red left of blue ?   left of or above; half yes
    row, column   row of red ?        1 to 4
    digit     what digit ?

Answers are one word. A model that only reads the question gets what `blind` gives. Everything is a function of
(seed, split, number of the picture).
"""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

COLORS = {"red": (230, 40, 40), "orange": (250, 140, 30), "yellow": (240, 230, 50), "green": (40, 200, 60),
          "cyan": (60, 220, 230), "blue": (60, 80, 240), "magenta": (230, 60, 220), "white": (245, 245, 245)}
SHAPES = ("circle", "square", "triangle", "cross")
SHADES = ("light", "dark")
KINDS = ("color", "shape", "shade", "count", "exists", "relation", "row", "column", "digit")
SIZE, CELL = 64, 16
DIGITS_FOR_TRAINING = 1200  # of 1797, by index
SPLITS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class Thing:
    color: str
    shape: str
    shade: str
    row: int  # 0 .. 3
    column: int


@dataclass(frozen=True)
class Question:
    kind: str
    text: str  # words between blanks, the last one "?"
    answer: str


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    digit: int
    digit_cell: tuple[int, int]
    digit_sample: int
    noise: int

    def image(self) -> np.ndarray:
        """(64, 64, 3) uint8."""
        from PIL import Image, ImageDraw

        draw = np.random.default_rng(self.noise)
        canvas = Image.new("RGB", (SIZE, SIZE), (26, 26, 30))
        pen = ImageDraw.Draw(canvas)
        for thing in self.things:
            dy, dx = draw.integers(-1, 2, 2)
            top, left = thing.row * CELL + 2 + dy, thing.column * CELL + 2 + dx
            strength = 1.0 if thing.shade == "light" else 0.5
            red, green, blue = (int(c * strength) for c in COLORS[thing.color])
            _outline(pen, thing.shape, left, top, CELL - 5, (red, green, blue))
        picture = np.asarray(canvas, dtype=np.float32)
        row, column = self.digit_cell
        ink = Image.fromarray((_digits()[0][self.digit_sample] * 15).astype(np.uint8)).resize((CELL, CELL), Image.Resampling.BICUBIC)
        cell = picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        np.maximum(cell, np.asarray(ink, dtype=np.float32)[..., None], out=cell)
        picture += draw.normal(0, 6, picture.shape)
        return picture.clip(0, 255).astype(np.uint8)

    def questions(self) -> list[Question]:
        """All that can be asked; exists and relation come as many with yes as with no."""
        shapes = Counter(t.shape for t in self.things)
        here = {(t.color, t.shape) for t in self.things}
        asked = [Question("count", "how many shapes ?", str(len(self.things))), Question("digit", "what digit ?", str(self.digit))]
        yes, no = [], []
        for t in self.things:
            if shapes[t.shape] == 1:
                asked.append(Question("color", f"color of {t.shape} ?", t.color))
            asked += [Question("shape", f"shape of {t.color} ?", t.shape), Question("shade", f"shade of {t.color} ?", t.shade),
                      Question("row", f"row of {t.color} ?", str(t.row + 1)),
                      Question("column", f"column of {t.color} ?", str(t.column + 1))]
            yes.append(Question("exists", f"is there {t.color} {t.shape} ?", "yes"))
            no += [Question("exists", f"is there {t.color} {s} ?", "no") for s in sorted(shapes) if (t.color, s) not in here]
        asked += _balanced(yes, no)
        yes, no = [], []
        for a in self.things:
            for b in self.things:
                for word, place in (("left", "column"), ("above", "row")):
                    difference = getattr(a, place) - getattr(b, place)
                    if difference:
                        (yes if difference < 0 else no).append(
                            Question("relation", f"is {a.color} {word} of {b.color} ?", "yes" if difference < 0 else "no"))
        return asked + _balanced(yes, no)

    def caption(self, draw: np.random.Generator) -> str:
        """Objects in random order, either word first: after the first word, the second must be looked up in the picture."""
        parts = [f"{t.shade} {t.color} {t.shape}" if draw.random() < 0.5 else f"{t.shape} {t.color} {t.shade}" for t in self.things]
        parts.append(f"digit {self.digit}")
        return " , ".join(parts[i] for i in draw.permutation(len(parts))) + " ."


def scene(number: int, split: str = "train", seed: int = 0) -> Scene:
    """Picture `number` of a split; deterministic. Raises KeyError for another split than train, val, test."""
    draw = np.random.default_rng([seed, SPLITS[split], number])
    count = int(draw.integers(2, 5))
    cells = draw.permutation(16)[: count + 1]
    colors = draw.permutation(len(COLORS))[:count]
    things = tuple(Thing(list(COLORS)[color], SHAPES[draw.integers(4)], SHADES[draw.integers(2)], int(cell) // 4, int(cell) % 4)
                   for color, cell in zip(colors, cells))
    total = len(_digits()[0])
    span = (0, DIGITS_FOR_TRAINING) if split == "train" else (DIGITS_FOR_TRAINING, total)
    sample = int(draw.integers(*span))
    return Scene(things, int(_digits()[1][sample]), (int(cells[-1]) // 4, int(cells[-1]) % 4), sample, int(draw.integers(2**31)))


def one_of_each_kind(of: Scene, draw: np.random.Generator) -> list[Question]:
    """A question of every kind that the scene allows: what a picture is tested with."""
    asked = of.questions()
    by_kind = {kind: [q for q in asked if q.kind == kind] for kind in KINDS}
    return [pool[draw.integers(len(pool))] for pool in by_kind.values() if pool]


def some(of: Scene, draw: np.random.Generator, count: int) -> list[Question]:
    """`count` questions, kinds drawn evenly: what a picture is trained with."""
    asked = of.questions()
    by_kind = [pool for kind in KINDS if (pool := [q for q in asked if q.kind == kind])]
    chosen = [by_kind[i] for i in draw.integers(len(by_kind), size=count)]
    return [pool[draw.integers(len(pool))] for pool in chosen]


def blind(train: Sequence[Question], test: Sequence[Question]) -> list[str]:
    """The best answers without the picture: the commonest in training for each question, else for its kind, else overall."""
    by_text: dict[str, Counter[str]] = {}
    by_kind: dict[str, Counter[str]] = {}
    for q in train:
        by_text.setdefault(q.text, Counter())[q.answer] += 1
        by_kind.setdefault(q.kind, Counter())[q.answer] += 1
    overall = Counter(q.answer for q in train)
    return [(by_text.get(q.text) or by_kind.get(q.kind) or overall).most_common(1)[0][0] for q in test]


def words() -> list[str]:
    """The vocabulary of questions, answers and captions."""
    said = "color of shape shade how many shapes is there left above row column what digit ? , ."
    return [*said.split(), *COLORS, *SHAPES, *SHADES, "yes", "no", *map(str, range(10))]


def _balanced(yes: list[Question], no: list[Question]) -> list[Question]:
    few = min(len(yes), len(no))
    return yes[:few] + no[:few]


def _outline(pen, shape: str, left: int, top: int, size: int, color: tuple[int, int, int]) -> None:
    right, bottom = left + size, top + size
    if shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=color)
    elif shape == "square":
        pen.rectangle((left + 1, top + 1, right - 1, bottom - 1), fill=color)
    elif shape == "triangle":
        pen.polygon([(left + size // 2, top), (left, bottom), (right, bottom)], fill=color)
    else:
        third = size // 3
        pen.rectangle((left + third, top, right - third, bottom), fill=color)
        pen.rectangle((left, top + third, right, bottom - third), fill=color)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    # sklearn's own file, without sklearn, whose import takes three seconds of every process.
    found = importlib.util.find_spec("sklearn")
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError("the handwritten digits of the pictures come with scikit-learn, which is not installed here")
    (package,) = found.submodule_search_locations
    rows = np.loadtxt(Path(package) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)
