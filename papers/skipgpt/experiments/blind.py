"""The control that a router looks at tokens, on the real model: token-blind routers of SmolLM2, one learned decision per module.

    make reproduce-skipgpt ONLY=blind        hours on a CPU: as many steps as the committed routers had

Model, texts, start, loss and steps are those of `routers_smollm2.py`; only the biases of the routers learn, so that what is learned
is a static plan. It is held at the target by the same one threshold and scored on the same windows as everything else of tier B:
random routing at the router's rates says what its choice of tokens is worth, this says what training a choice of modules is worth.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from common.runs.jobs import Job

from .. import baselines
from ..method import remove_skipgpt
from ..routers_smollm2 import CALIBRATE, CHOSEN, STEPS, prepare
from ..tuning import hold_budget
from .smollm2 import SIZES, TARGETS, window_losses, windows_of


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"blind/token-blind at {target:.2f}/seed{seed}", f"{__name__}:token_blind", {"target": target, "seed": seed, "size": size},
                seconds=7 * STEPS[target] * SIZES[size].share) for target in TARGETS for seed in (0, 1, 2)]


def token_blind(target: float, seed: int, size: str = "cpu") -> dict:
    """Losses and rates of each window, held at the target as far as whole modules allow; and which modules nobody runs."""
    tuning = prepare(CHOSEN, target, seed, lambda text: None, dtype="float32")
    model, state = tuning.model, tuning.state
    biases = baselines.bias_only(state)
    tuning = replace(tuning, optimiser=torch.optim.AdamW(biases, lr=CHOSEN["bias_lr"], weight_decay=0.0, betas=(0.9, 0.98)))
    for _ in tuning.steps(STEPS[target] if size == "cpu" else 2, seed=seed):
        pass
    for parameter in state.parameters():
        parameter.requires_grad_(False)
    hold_budget(model, state, tuning.train[-CALIBRATE:] if size == "cpu" else tuning.train[-2:], target, batch_size=16)
    result = window_losses(model, state, windows_of("cpu" if size == "cpu" else size))
    dropped = [[layer, name] for layer, rates in enumerate(result["per_layer"]) for name, rate in zip(("attn", "mlp"), rates) if rate == 1]
    remove_skipgpt(model)
    return result | {"dropped": dropped}
