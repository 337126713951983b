"""Which learning rate each method gets on the from-scratch models: a small sweep of its own for every rival, and for SkipGPT.

    make reproduce-skipgpt ONLY=rates

Each method is trained at each rate for as many steps as in the default run, and scored on *validation* sequences, of which no
other experiment sees any. `scratch.RATES` holds the best of each; a test holds that each is a rate of its grid.
"""

from __future__ import annotations

import torch

from common.runs.jobs import Job

from .. import baselines
from ..difficulty import base_model, batches, sequences
from ..method import SkipGPTConfig, apply_skipgpt
from ..tuning import evaluate, hold_budget, tune
from .scratch import BUDGET, SIZES, adamw

GRID = (5e-3, 1e-2, 2e-2, 4e-2)
# Joint training has adapters, too, whose usual rates are lower.
GRIDS = {"routers": GRID, "coupled": GRID, "token-blind": GRID, "MoD-D": GRID, "joint": (2.5e-3, 5e-3, 1e-2, 2e-2)}
TARGET = 0.40


def jobs(size: str = "cpu") -> list[Job]:
    n = SIZES[size]
    return [Job(f"rates/{method} at {rate:g}/seed{seed}", f"{__name__}:validated",
                {"method": method, "rate": rate, "seed": seed, "size": size}, seconds=15 * n.share)
            for method, grid in GRIDS.items() for rate in grid for seed in n.seeds[:1]]


def validated(method: str, rate: float, seed: int, size: str = "cpu") -> dict:
    """{"ce": nats on validation sequences, "sparsity"}: held at the budget of the claims about it, as MoD-D is by its k."""
    n, model = SIZES[size], base_model(seed)
    steps = n.tune_steps + (n.lora_steps if method == "joint" else 0)
    torch.manual_seed(seed)
    config = SkipGPTConfig(target_sparsity=TARGET, coupled=method == "coupled")
    if method in ("joint", "MoD-D"):
        prepared = (baselines.joint(model, config, rank=8, alpha=16) if method == "joint" else
                    baselines.mod_d(model, TARGET, rank=0))
        model, state, trained = prepared.model, prepared.state, prepared.parameters
    else:
        state = apply_skipgpt(model, config)
        trained = baselines.bias_only(state) if method == "token-blind" else state.parameters()
    list(tune(model, batches("tune", seed, steps, n.batch), adamw(trained, rate), steps,
              state=None if method == "MoD-D" else state, seed=seed))
    validation, _ = sequences("validation", seed, n.test_sequences)
    if method != "MoD-D":
        for parameter in state.parameters():
            parameter.requires_grad_(False)
        held_out, _ = sequences("calibration", seed, n.calibration_sequences)
        hold_budget(model, state, held_out, TARGET if method == "joint" else BUDGET)
    state.start_recording()
    ce = evaluate(model, validation).mean().item()
    return {"ce": ce, "sparsity": state.stats().sparsity}


def best(results: dict) -> dict[str, float]:
    """{method: the rate of least validation cross-entropy}, of the results of `jobs`."""
    scored = {method: {rate: results[f"rates/{method} at {rate:g}/seed0"]["ce"] for rate in grid} for method, grid in GRIDS.items()}
    return {method: min(of, key=of.__getitem__) for method, of in scored.items()}
