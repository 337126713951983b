"""Where learned routing begins to pay, in training tokens: `python -m papers.skipgpt.crossing` (ten minutes on two cores).

Routers of SmolLM2-135M are stopped every few steps, held at the target, and compared on validation windows with random
routing at their own rates (has the router learned *which tokens*?) and with every committed static plan (is it any use?).
What comes out is committed in routers/crossing-t25.json, and drawn beside the learning curves of the long runs.
"""

from __future__ import annotations

import argparse
import os

import torch
from torch import Tensor

from common.claims.machine import git_state
from common.files import write_json

from . import baselines
from .experiments.smollm2 import LENGTH, TARGETS, static_plans
from .router_files import ROUTERS
from .routers_smollm2 import BATCH, CHOSEN, prepare
from .tuning import hold_budget, shift_budget

WINDOWS = 32  # of the validation split; the long runs watched the first 16 of them


def crossing(target: float, steps: int, every: int, log=print) -> dict:
    """{"static": {plan: nats}, "curve": [{"step", "tokens", "held", "matched", "sparsity"}]}, all on the same windows."""
    commit, dirty = git_state()
    tuning = prepare(CHOSEN, target, 0, log, committed_costs())
    model, state = tuning.model, tuning.state

    def loss() -> float:
        return tuning.validation_ce(WINDOWS)

    state.set_mode("dense")
    result = {"target": target, "dense": loss(), "static": {}, "curve": []}
    state.set_mode("mask")
    for name, plan in static_plans(target).items():
        state.policy = plan.policy()
        result["static"][name] = loss()
    state.policy = None
    log(f"dense {result['dense']:.3f}; " + ", ".join(f"{name} {ce:.3f}" for name, ce in result["static"].items()))

    def stop_and_measure(step: int) -> None:
        shift = hold_budget(model, state, tuning.train[-16:], target, tolerance=0.004, batch_size=16)
        state.start_recording()
        held, stats = loss(), state.stats()
        state.policy = baselines.random_matched(stats.per_layer, 0)
        matched, state.policy = loss(), None
        shift_budget(state, -shift)
        result["curve"].append({"step": step, "tokens": step * BATCH * LENGTH, "held": held, "matched": matched,
                                "sparsity": stats.sparsity})
        log(f"step {step:4d}/{steps}: held at {stats.sparsity:.3f} {held:.3f}, its rates at random {matched:.3f}")

    stop_and_measure(0)
    for row in tuning.steps(steps):
        if (row["step"] + 1) % every == 0:
            stop_and_measure(row["step"] + 1)
    return result | {
        "command": f"python -m papers.skipgpt.crossing --target {target} --steps {steps} --every {every}",
        "seed": 0,
        "commit": commit,
        "dirty": dirty,
        "machine": f"{os.cpu_count()} CPU cores, {torch.backends.cpu.get_cpu_capability()}",
        "recipe": CHOSEN,
        "model": tuning.sources["model"]["name"],
        "windows": WINDOWS,
    }


def committed_costs() -> Tensor:
    """What skipping each module alone costs, (L, 2) in nats: the scores of the committed Shortened-PPL plan."""
    scores = static_plans(TARGETS[0])["shortened-ppl"].scores
    costs = torch.tensor([[scores[f"{layer} {name}"] for name in ("attn", "mlp")] for layer in range(len(scores) // 2)])
    return costs - costs.min()


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
    if not 0 < options.target < 1 or options.steps < 1 or options.every < 1:
        parser.error("--target is a share between 0 and 1, --steps and --every are numbers from 1 on")
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
