"""The learning rate of every method in the small, by a sweep of its own on validation problems.

    make reproduce-onpolicysft ONLY=rates

A method that is compared at a rate chosen for another has not had its chance. Each trains from the first stand-in at each of
RATES, as in chains.py, and answers validation problems, which no training draws and no test asks. What a rate gives is what the
claims count: points of accuracy gained over the start, and tokens saved in % of the start's, added up. chains.ARMS has the best
rate of each method; a test holds the two together.
"""

from __future__ import annotations

from common.runs.jobs import Job

from . import chains

RATES = (1e-4, 2e-4, 5e-4, 1e-3)
ASKED = 100  # validation problems
SWEPT = ("opsft", "best of n", "fixed data", "grpo", "grpo, length")


def jobs(size: str = "cpu") -> list[Job]:
    """Of the first seed alone, whatever SEEDS asks for: a rate is chosen once."""
    how = chains.SIZES[size]
    found = [Job("rates/base/seed0", f"{__name__}:base", {"seed": 0, "size": size}, seconds=min(3, how.job_seconds))]
    for lr in RATES:
        for arm in SWEPT:
            found.append(Job(f"rates/{arm}, {lr:g}/seed0", f"{__name__}:rate", {"seed": 0, "arm": arm, "lr": lr, "size": size},
                             seconds=min(chains.SLOW.get(arm, 20), how.job_seconds)))
    return found


def base(seed: int, size: str = "cpu") -> dict:
    """{"avg", "tokens"} of the stand-in as it is."""
    avg, tokens = chains.validated(chains.stand_in(seed)[0], chains.Chains(count=1), size, seed, _asked(size))
    return {"avg": avg, "tokens": tokens}


def rate(seed: int, arm: str, lr: float, size: str = "cpu") -> dict:
    """{"avg", "tokens", "skipped", "seconds"} of one method at one rate."""
    training, model, data, seconds = chains.train(seed, arm, size, lr)
    avg, tokens = chains.validated(model, data, size, seed, _asked(size))
    return {"avg": avg, "tokens": tokens, "skipped": training.skipped, "seconds": seconds}


def _asked(size: str) -> int:
    return min(ASKED, chains.SIZES[size].probe)


def gain(results: dict, arm: str, lr: float) -> float:
    """Points of accuracy over the start and % of its tokens saved."""
    start, found = results["rates/base/seed0"], results[f"rates/{arm}, {lr:g}/seed0"]
    return 100 * (found["avg"] - start["avg"]) + 100 * (1 - found["tokens"] / start["tokens"])


def best(results: dict, arm: str) -> float:
    return max(RATES, key=lambda lr: gain(results, arm, lr))
