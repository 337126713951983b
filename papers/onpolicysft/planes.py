"""On-Policy SFT's points on the reasoning family's plane: accuracy against tokens of a response."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common.report.planes import Axis, Bench, Document, Recorded, reasoners_bench

from .tables import ARMS, FIVE, SUMS

TOKENS = Axis("tokens of a response", "less", scale="log")
FAMILY = {"opsft": "On-Policy SFT", "again": "On-Policy SFT", "grpo": "GRPO", "grpo, length": "GRPO", "fixed data": "off-policy SFT"}


def planes(recorded: Recorded) -> Iterator[Bench]:
    yield chains(recorded["chains"])
    yield sums(recorded["sums"])
    yield five(recorded["five"])


def chains(of: Document) -> Bench:
    bench = reasoners_bench()
    for arm, name in ARMS.items():
        bench.add(of, name, partial(of.over, arm, "test", "tokens"), partial(right, of, arm), stands_for=FAMILY.get(arm, ""))
    return bench


def sums(of: Document) -> Bench:
    bench = Bench("reasoning", "sums", "SmolLM2-135M that reasons about sums",
                  "SmolLM2-135M-Instruct with an adapter that reasons at length in English (common/standins/sums.py), every arm trained "
                  "for the same updates at one rate on rollouts of as many problems, then 256 unseen sums with two samples each.",
                  TOKENS, Axis("Avg@2, % of samples that are right", "more", possible=(0.0, 100.0)))
    for arm, name in SUMS.items():
        bench.add(of, name, partial(of.over, f"sums/{arm}", "test", "tokens"), partial(right, of, f"sums/{arm}"),
                  stands_for=FAMILY.get(arm, ""))
    return bench


def five(of: Document) -> Bench:
    """The mean of the five tasks, which have as many problems each; task by task: pictures.five_planes."""
    bench = Bench("reasoning", "five", "SmolLM2-135M that reasons about five tasks",
                  "SmolLM2-135M-Instruct with one adapter that reasons at length about five tasks of reasoning_gym "
                  "(common/standins/five.py), every arm trained for the same updates at one rate on rollouts of as many problems of all "
                  "tasks, then 96 unseen problems of each task with two samples each; means over the tasks.",
                  TOKENS, Axis("Avg@2, % of samples that are right, mean of five tasks", "more", possible=(0.0, 100.0)))
    for arm, name in FIVE.items():
        bench.add(of, name, partial(of.over, f"five/{arm}", "test", "tokens"), partial(right, of, f"five/{arm}"),
                  stands_for=FAMILY.get(arm, ""))
    return bench


def right(of: Document, arm: str) -> dict:
    """Its least error is what one response more or less makes."""
    first = f"{arm}/seed{of.seeds(arm)[0]}"
    responses = of.number(first, "test", "problems") * of.number(first, "test", "samples")
    return of.over(arm, "test", "avg", scale=100, resolution=100 / responses)
