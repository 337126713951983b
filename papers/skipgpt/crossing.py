"""Where learned routing begins to pay, in training tokens: `python -m papers.skipgpt.crossing` (ten minutes on two cores).

Routers of SmolLM2-135M are stopped every few steps, held at the target, and compared on validation windows with random
routing at their own rates (has the router learned *which tokens*?) and with every committed static plan (is it any use?).
What comes out is committed in routers/crossing-t25.json, and drawn beside the learning curves of the long runs.
"""

from __future__ import annotations

import argparse
import os

import torch

from common.jobs import write_json
from common.records import git_state

from . import baselines
from .tier_b import committed_costs, static_plans
from .train_smollm2 import BATCH, CHOSEN, LENGTH, ROUTERS, prepare
from .tuning import evaluate, hold_budget, shift_budget, tune

WINDOWS = 32  # of the validation split; the long runs watched the first 16 of them


def crossing(target: float, steps: int, every: int, say=print) -> dict:
    """{"static": {plan: nats}, "curve": [{"step", "tokens", "held", "matched", "sparsity"}]}, all on the same windows."""
    commit, dirty = git_state()
    model, state, optimiser, sources, train, validation = prepare(CHOSEN, target, 0, say, committed_costs())
    validation = validation[:WINDOWS]

    def loss() -> float:
        return evaluate(model, validation, 8).mean().item()

    state.set_mode("dense")
    result = {"target": target, "dense": loss(), "static": {}, "curve": []}
    state.set_mode("mask")
    for name, plan in static_plans(target).items():
        state.policy = plan.policy()
        result["static"][name] = loss()
    state.policy = None
    say(f"dense {result['dense']:.3f}; " + ", ".join(f"{name} {ce:.3f}" for name, ce in result["static"].items()))

    def stop_and_measure(step: int) -> None:
        shift = hold_budget(model, state, train[-16:], target, tolerance=0.004, batch_size=16)
        state.start_recording()
        held, stats = loss(), state.stats()
        state.policy = baselines.random_matched(stats.per_layer, 0)
        matched, state.policy = loss(), None
        shift_budget(state, -shift)
        row = {
            "step": step,
            "tokens": step * BATCH * LENGTH,
            "held": held,
            "matched": matched,
            "sparsity": stats.sparsity,
        }
        result["curve"].append(row)
        say(f"step {step:4d}/{steps}: held at {stats.sparsity:.3f} {held:.3f}, its rates at random {matched:.3f}")

    stop_and_measure(0)
    for row in tune(
        model,
        lambda step: train[step * BATCH : (step + 1) * BATCH],
        optimiser,
        steps,
        state=state,
        warmup=10,
        decay=0.5,
    ):
        if (row["step"] + 1) % every == 0:
            stop_and_measure(row["step"] + 1)
    return result | {
        "command": f"python -m papers.skipgpt.crossing --target {target} --steps {steps} --every {every}",
        "seed": 0,
        "commit": commit,
        "dirty": dirty,
        "machine": f"{os.cpu_count()} CPU cores, {torch.backends.cpu.get_cpu_capability()}",
        "recipe": CHOSEN,
        "model": sources["model"]["name"],
        "windows": WINDOWS,
    }


def crossed(curve: list[dict], other) -> int | None:
    """Tokens at the first stop from which on the routers stay below other(row); None if they do not."""
    below = None
    for row in curve:
        if row["held"] >= other(row):
            below = None
        elif below is None:
            below = row["tokens"]
    return below


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--every", type=int, default=20)
    options = parser.parse_args()
    result = crossing(options.target, options.steps, options.every, lambda text: print(text, flush=True))
    best = min(result["static"].values())
    result["crosses"] = {
        "matched random, tokens": crossed(result["curve"], lambda row: row["matched"]),
        "best static, tokens": crossed(result["curve"], lambda row: best),
    }
    write_json(ROUTERS / f"crossing-t{round(100 * options.target)}.json", result)
    print(f"below its rates at random, and below the best static plan, from so many tokens on: {result['crosses']}")


if __name__ == "__main__":
    main()
