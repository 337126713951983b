"""easy-VQA: real pictures (one shape each) and their questions, from the PyPI package `easy-vqa`.

4,000 / 1,000 pictures of 64 x 64, 38,575 / 9,673 questions, 13 answers. The package's test split is tested on; the last
500 training pictures are the validation split. A model that only reads the question reaches 0.670 of the test questions
and 0.233 of the open ones (not yes or no): always say both.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np

from ..errors import DataError
from .scenes import Question

VALIDATION = 500


def folder() -> Path:
    """Raises DataError when the package is absent."""
    found = importlib.util.find_spec("easy_vqa")
    if found is None or not found.submodule_search_locations:
        raise DataError("the pictures are in the package easy-vqa, which is not installed: pip install easy-vqa")
    return Path(found.submodule_search_locations[0]) / "data"


@functools.lru_cache(maxsize=4)
def _read(part: str) -> dict[int, list[Question]]:
    found: dict[int, list[Question]] = {}
    for text, answer, image in json.loads((folder() / part / "questions.json").read_text()):
        kind = "yes/no" if answer in ("yes", "no") else "open"
        found.setdefault(image, []).append(Question(kind, text.replace("?", " ?"), answer))
    return found


def numbers(split: str) -> list[int]:
    """The pictures of "train" (3,500), "val" (500) or "test" (1,000), by their numbers in the package."""
    if split == "test":
        return sorted(_read("test"))
    known = sorted(_read("train"))
    return {"train": known[:-VALIDATION], "val": known[-VALIDATION:]}[split]


def questions(split: str, number: int) -> list[Question]:
    """All questions of a picture. kind: "open" or "yes/no"."""
    return _read("test" if split == "test" else "train")[number]


def image(split: str, number: int) -> np.ndarray:
    """(64, 64, 3) uint8."""
    from PIL import Image

    path = folder() / ("test" if split == "test" else "train") / "images" / f"{number}.png"
    return np.asarray(Image.open(path).convert("RGB"))


def words() -> list[str]:
    """Every word of questions and answers."""
    said = {word for split in ("train", "test") for asked in _read(split).values() for q in asked for word in [*q.text.split(), q.answer]}
    return sorted(said)
