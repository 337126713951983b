"""Decoupling KL's points on the reasoning family's plane: accuracy against tokens of a response, arm by arm."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common.report.planes import Axis, Bench, Document, Recorded, reasoners_bench

from .tables import ARMS

TOKENS = Axis("tokens of a response", "less")
CELLS = ("SF", "SR", "TF", "TR")
MIXED = ("mix 0.25", "mix 0.5", "mix 0.75")
FAMILY = dict.fromkeys(CELLS, "four cells") | dict.fromkeys(MIXED, "mixture") | {"curriculum": "curriculum"}
WEAK = ("start", *CELLS, *MIXED, "short SF", "short SR", "curriculum", "ladder", "by entropy", "SF again",
        "shuffled")
STRONG = ("start", *CELLS, "SF again", "short SF", "short SR", "short TF", "short TR")
MEETING = (*CELLS, "mix 0.25", "mix 0.5", "curriculum", "SF again", "SFT, brief")
REAL = ("start", *CELLS, "mix 0.25", "short SF", "short SR", "curriculum", "ladder", "SF again")


def planes(recorded: Recorded) -> Iterator[Bench]:
    yield meeting(recorded["reasoners"])
    yield bench_of(recorded["weak"], "weak", "A weak student distilled by every cell, mixture and length", "", WEAK,
                   "One small student a seed (27,744 parameters) and one teacher, every arm for the same updates, then 64 unseen "
                   "problems with eight samples each. Most answers are wrong at the start and stay so: differences of accuracy are "
                   "small here, those of length are not.")
    yield bench_of(recorded["strong"], "strong", "A better student distilled by every cell", "strong/", STRONG,
                   "One better student a seed and one teacher, every arm for the same updates, the same unseen problems.")
    yield bench_of(recorded["real"], "real", "Half of SmolLM2-135M distilled from the whole, on sums in English", "real/", REAL,
                   "One pair, every arm for the same updates from the same student, 128 unseen sums with four samples each.", samples=4)


def meeting(of: Document) -> Bench:
    """The bench of both papers. Its start is On-Policy SFT's point: the same reasoners, asked the same."""
    bench = reasoners_bench()
    for arm in MEETING:
        name = f"{ARMS[arm]}, from another reasoner" if arm in FAMILY or arm == "SF again" else ARMS[arm]
        start = f"reasoners/{arm}"
        bench.add(of, name, partial(of.over, start, "test", "tokens"), partial(right, of, start), stands_for=FAMILY.get(arm, ""))
    return bench


def bench_of(of: Document, key: str, title: str, prefix: str, arms: tuple[str, ...], comparable: str,
             samples: int = 8) -> Bench:
    right_answers = Axis(f"Avg@{samples}, % of samples that are right", "more", possible=(0.0, 100.0))
    bench = Bench("reasoning", key, title, comparable, TOKENS, right_answers)
    for arm in arms:
        start = prefix + arm
        bench.add(of, ARMS[arm], partial(of.over, start, "test", "tokens"), partial(right, of, start), stands_for=FAMILY.get(arm, ""))
    return bench


def right(of: Document, arm: str) -> dict:
    """Its least error is what one response more or less makes."""
    first = f"{arm}/seed{of.seeds(arm)[0]}"
    responses = of.number(first, "test", "problems") * of.number(first, "test", "samples")
    return of.over(arm, "test", "avg", scale=100, resolution=100 / responses)
