"""From results of the five tasks to what their claims measure: {claim: measured}; claims.yaml decides. See quantities.py.

A mean is over tasks, each counted once, as the paper's is over its five benchmarks.
"""

from __future__ import annotations

from functools import partial
from statistics import fmean

from .quantities import RIVALS, Arms, claim, first

OTHERS = ("opsft", *RIVALS, "by lot", "base")  # all that an arm may be behind


class OfTask(Arms):
    """Results on one task; task None: their mean over tasks."""

    def __init__(self, results: dict, task: str | None = None):
        super().__init__(results, "five/")
        self.task = task

    def test(self, seed: int, arm: str) -> dict:
        by_task = self.run(seed, arm)["test"]["by_kind"]
        if self.task is not None:
            return by_task[self.task]
        tests = list(by_task.values())
        mean = {name: fmean(test[name] for test in tests) for name in ("avg", "tokens", "needed")}
        return mean | {"problems": sum(test["problems"] for test in tests), "samples": tests[0]["samples"]}


def tasks_of(results: dict) -> list[str]:
    """The tasks of the lowest seed's results, in the order of their names."""
    mean = OfTask(results)
    return sorted(mean.run(mean.seeds[0], "opsft")["test"]["by_kind"])


def five(results: dict, size: str = "cpu") -> dict[str, dict]:
    mean, each = OfTask(results), [OfTask(results, task) for task in tasks_of(results)]
    of = partial(claim, mean.seeds)
    item = max(mean.step(seed) for seed in mean.seeds)
    item_of_a_task = max(task.step(seed) for task in each for seed in mean.seeds)
    every = ("base", "opsft", *RIVALS, "by lot")
    tokens = {arm: (mean.tokens, arm) for arm in every} | {"needed": (lambda seed, arm: mean.test(seed, arm)["needed"], "base")}
    right = {arm: (mean.right, arm) for arm in every}

    def kept(seed: int, arm: str) -> float:
        return mean.gained(seed, arm) if arm == "opsft" else fmean(task.cut(seed) for task in each)

    def worst(seed: int, arm: str) -> float:
        return min(task.margin(seed, arm, OTHERS) for task in each)

    return {
        "C1f": of("C1f", mean.saved, "opsft", ("by lot",), beside=tokens),
        "C1g": of("C1g", kept, "opsft", ("base",), item, beside=right),
        "C4f": of("C4f", partial(mean.margin, rivals=OTHERS), "opsft", ("by lot",), item, beside=right),
        "C4g": of("C4g", worst, "opsft", ("by lot",), item_of_a_task),
        "C4h": of("C4h", lambda seed, arm: mean.gained(seed, arm, "grpo, length"), "opsft", ("best of n",), item, beside=right),
        "C8f": of("C8f", lambda seed, arm: mean.saved(seed, arm, "fixed data"), "opsft", ("by lot",), beside=tokens),
    }


def facts(results: dict) -> tuple[list, list]:
    """(models, datasets) of the experiment: what it starts from, and how many test problems of each task that one answered."""
    base = first(results, "five/base")
    return [base["model"]], [{"name": f"reasoning_gym {task}", "split": "test", "n": of["problems"]}
                             for task, of in base["test"]["by_kind"].items()]
