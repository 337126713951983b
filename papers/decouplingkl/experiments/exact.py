"""The exact claims: figures of analytic.py, gathered. Nothing here samples, trains or needs weights."""

from __future__ import annotations

from .. import analytic, reported

LENGTHS, TEACHERS = (128, 1024, 4096), ("4B", "8B")
KS = (4, 5, 8, 10, 15, 16, 20)


def figures() -> dict:
    """{"gained": by teacher, "sibling": TFLOP, "cells": {(teacher, length) as text: TFLOP by prefix source}, "left out", "ks":
    {500, 5000 problems in the MATH column: {k: cells that rule it out}}, "passes": {500, 5000: Pass@k cells that no count gives}}."""
    sizes = (reported.PROBLEMS["MATH-500"], reported.MATH_TEST)
    passes = {n: analytic.impossible_passes({"MATH-500": n}) for n in sizes}
    return {"gained": {t: analytic.gained(t) for t in TEACHERS}, "sibling": analytic.sibling(),
            "cells": {f"{t}, {n}": analytic.cells(t, n) for t in TEACHERS for n in LENGTHS}, "left out": analytic.left_out(),
            "ks": {n: analytic.possible_ks(KS, {"MATH-500": n}) for n in sizes}, "passes": passes}
