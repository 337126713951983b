"""easy-VQA's test pictures, asked in the words of the scenes: what a model that was trained on scenes alone can be asked about them.

Each shows one shape. The package's own questions have 13 words that no question about a scene has ("the", "present", five of the
answers), so that a decoder that starts from nothing can answer none of them but by chance. Of its colours and shapes the scenes have
four and two; pictures of these are asked for both, and whether such a shape is there, as scenes are:

    color of circle ?    shape of red ?    is there red circle ?    is there red triangle ?

Every second picture is asked the last question, whose answer is no, in place of the one before. A model that reads the text alone has
two answers for shape and four for color, if it knew which occur here; `scenes.blind` is the one that knows the training scenes alone.
"""

from __future__ import annotations

from common.data import easyvqa
from common.data.scenes import COLORS, SHAPES, Question

COLOURS_THERE = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES_THERE = ("circle", "rectangle", "triangle")


def shown(questions: list[Question]) -> tuple[str, str] | None:
    """(colour, shape) of the picture that the package's questions are about, or None where they do not tell."""
    there: set[str] = set()
    for q in questions:
        words = set(q.text.split())
        if q.kind == "open":
            there |= words | {q.answer}
        elif (q.answer == "yes") != bool(words & {"no", "not"}):
            there |= words
    colours, shapes = there & set(COLOURS_THERE), there & set(SHAPES_THERE)
    return (colours.pop(), shapes.pop()) if len(colours) == len(shapes) == 1 else None


def pictures(most: int, split: str = "test") -> list[tuple[int, list[Question]]]:
    """(number in the package, three questions) of the first `most` pictures that the scenes' words are enough for."""
    known = [shape for shape in SHAPES_THERE if shape in SHAPES]
    found: list[tuple[int, list[Question]]] = []
    for number in easyvqa.numbers(split):
        of = shown(easyvqa.questions(split, number))
        if of is None or of[0] not in COLORS or of[1] not in known or len(found) == most:
            continue
        colour, shape = of
        other = next(name for name in known if name != shape)
        there = Question("exists", f"is there {colour} {shape} ?", "yes")
        absent = Question("exists", f"is there {colour} {other} ?", "no")
        found.append((number, [Question("color", f"color of {shape} ?", colour), Question("shape", f"shape of {colour} ?", shape),
                               absent if len(found) % 2 else there]))
    return found
