"""Router tuning of SmolLM2-135M-Instruct on two CPU cores: where the routers and the static plans of `routers/` come from.

    python -m papers.skipgpt.routers_smollm2              both committed routers, 25 % (800 steps) and 40 % (300): an hour
    python -m papers.skipgpt.routers_smollm2 --seed 1     another training of both, into routers/seed1/: the default run then takes it, too
    python -m papers.skipgpt.routers_smollm2 --plans      the static plans at the same budgets: ten minutes
    python -m papers.skipgpt.routers_smollm2 --recipes    the first steps of each recipe that was considered (README)

Stage 1 of the paper on a frozen pretrained model, with the four changes without which an hour of CPU teaches too
little (README, deviations D3 to D6): bfloat16 weights and windows of 128 tokens; routers read the RMS-normalised
state; they start at zero weights with biases set from what skipping each single module costs; and afterwards one
threshold for the whole model is shifted until the argmax rate equals the target. The loss is the paper's. The routers
(69,240 numbers) are saved with their learning curve; a run that was killed goes on at its last checkpoint. A seed decides the
order of the texts, what is held back of them, and all that is drawn. On a processor without units for bfloat16,
`--dtype float32` is three times as fast; `--device cuda` takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from common.claims.machine import git_state
from common.data.prose import docstrings, topics, windows
from common.files import cache_dir, replacing, write_json
from common.models import SMOLLM2, load

from . import static_pruning
from .experiments.smollm2 import LENGTH, TARGETS
from .method import RoutingState, SkipGPTConfig, apply_skipgpt
from .router_files import ROUTERS, committed, save_routers
from .tuning import Rate, evaluate, hold_budget, tune

BATCH, CALIBRATE, WATCHED = 8, 64, 16  # windows of a step; training windows held back for the threshold; validation windows of a curve
STEPS = {0.25: 800, 0.40: 300}  # of the committed routers
RECIPES = {  # what was tried; the first is the paper's, the last is used
    "paper: zero bias, raw state, lr 2e-3": dict(norm=False, init="paper", bias=0.0, lr=2e-3, bias_lr=2e-3),
    "execute bias 2, raw state, lr 5e-3": dict(norm=False, init="paper", bias=2.0, lr=5e-3, bias_lr=5e-3),
    "execute bias 2, normed state, zero weights": dict(norm=True, init="zero", bias=2.0, lr=5e-4, bias_lr=2e-2),
    "the same, distilled": dict(norm=True, init="zero", bias=2.0, lr=5e-4, bias_lr=2e-2, distill=True),
    "sensitivity biases, distilled": dict(norm=True, init="sensitivity", lr=5e-4, bias_lr=5e-3, distill=True),
    "sensitivity biases, lr 1e-3": dict(norm=True, init="sensitivity", lr=1e-3, bias_lr=1e-2),
    "sensitivity biases": dict(norm=True, init="sensitivity", lr=5e-4, bias_lr=5e-3),
}
CHOSEN = RECIPES["sensitivity biases"]


@dataclass(frozen=True, eq=False)
class Tuning:
    """A frozen model in bf16 whose routers are about to learn. sources: of model and texts. train, validation: windows (N, 128)."""

    recipe: dict[str, Any]
    model: nn.Module
    state: RoutingState
    optimiser: torch.optim.Optimizer
    sources: dict[str, Any]
    train: Tensor
    validation: Tensor

    def batch(self, step: int) -> Tensor:
        return self.train[torch.arange(step * BATCH, (step + 1) * BATCH) % (len(self.train) - CALIBRATE)]

    def steps(self, steps: int, start: int = 0, seed: int = 0) -> Iterator[dict]:
        """Trains; yields what `tune` yields."""
        return tune(self.model, self.batch, self.optimiser, steps, state=self.state, start=start, rate=Rate(warmup=10, decay=0.5),
                    distill=self.recipe.get("distill", False), seed=seed)

    def validation_ce(self, count: int) -> float:
        """Nats a token of the first validation windows, by argmax."""
        return evaluate(self.model, self.validation[:count], 8).mean().item()


# -- how routers start -------------------------------------------------------------------------------------
def corpora(tokenizer, seed: int = 0) -> tuple[Tensor, Tensor, dict]:
    """Training windows (N, 128) shuffled by the seed, validation windows, and the hashes of both texts."""
    prose, code = topics(), docstrings()
    train = torch.cat([windows(prose["train"], tokenizer, LENGTH), windows(code["train"], tokenizer, LENGTH)])
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train[order], windows(prose["validation"], tokenizer, LENGTH), {"topics": prose.source, "docstrings": code.source}


@torch.no_grad()
def module_costs(model: nn.Module, state: RoutingState, ids: Tensor) -> Tensor:
    """How much the mean cross-entropy on ids (N, S) rises when one module is skipped for every token: (L, 2), nats."""
    off: set = set()
    state.policy = lambda layer, name, x, valid: valid.new_full(valid.shape, (layer, name) not in off, dtype=torch.float32)
    base, costs = evaluate(model, ids).mean(), torch.zeros(len(state.layers), 2)
    for layer in range(len(state.layers)):
        for column, name in enumerate(("attn", "mlp")):
            off = {(layer, name)}
            costs[layer, column] = evaluate(model, ids).mean() - base
    state.policy = None
    return costs


def start_from_costs(state: RoutingState, costs: Tensor, slope: float = 3.0, low: float = -4.0, high: float = 8.0) -> None:
    """Biases so that the cheapest T of all modules tend to be skipped: logit = slope * log2(cost / threshold), clipped."""
    costs = costs.clamp(min=0.01)
    threshold = costs.flatten().kthvalue(max(1, round(costs.numel() * state.config.target_sparsity))).values
    logits = (slope * torch.log2(costs / threshold)).clamp(low, high)
    for layer, row in zip(state.layers, logits):
        for router, logit in zip((layer.router_attn, layer.router_mlp), row):
            router.layers[-1].bias.data.copy_(torch.stack([logit / 2, -logit / 2]))


def prepare(recipe: dict, target: float, seed: int, log=print, costs: Tensor | None = None, dtype: str = "bfloat16",
            device: str = "cpu") -> Tuning:
    """Model, routers as the recipe starts them, optimiser, texts. costs (L, 2): of skipping each module alone, if known already."""
    loaded = load(replace(SMOLLM2, dtype=dtype, device=device, attn_implementation="eager"))  # eager: 1.2x at 128 tokens on CPU
    train, validation, text = corpora(loaded.tokenizer, seed)
    train, validation = train.to(device), validation.to(device)
    torch.manual_seed(seed)
    state = apply_skipgpt(loaded.model, SkipGPTConfig(target_sparsity=target, router_norm=recipe["norm"],
                                                      init_execute_bias=recipe.get("bias", 0.0)))
    if recipe["init"] != "paper":
        for router in state.routers().values():
            nn.init.zeros_(router.layers[-1].weight)
    if recipe["init"] == "sensitivity":
        if costs is None:
            log("measuring what skipping each of the 60 modules costs")
            costs = module_costs(loaded.model, state, train[-8:])
        start_from_costs(state, costs)
    weights = [p for p in state.parameters() if p.dim() == 2]
    biases = [p for p in state.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW([{"params": weights, "lr": recipe["lr"]}, {"params": biases, "lr": recipe["bias_lr"]}],
                                  weight_decay=0.0, betas=(0.9, 0.98))
    return Tuning(recipe, loaded.model, state, optimiser, {"model": loaded.source, "text": text}, train, validation)


# -- training ----------------------------------------------------------------------------------------------
def train(target: float, steps: int, seed: int = 0, folder: Path | None = None, every: int = 50, log=print, dtype: str = "bfloat16",
          device: str = "cpu") -> Path:
    """Trains, holds the budget, saves to `folder`; resumes from its checkpoint in the cache. Returns the folder."""
    folder = committed(target, seed) if folder is None else folder / committed(target).name
    commit, dirty = git_state()  # of the code that trains, not of what the tree has become at the end
    tuning = prepare(CHOSEN, target, seed, log, dtype=dtype, device=device)
    state = tuning.state
    run = json.dumps([target, steps, seed, CHOSEN, tuning.sources, dtype, device], sort_keys=True, default=str)
    checkpoint = cache_dir() / f"skipgpt-smollm2-{hashlib.sha256(run.encode()).hexdigest()[:12]}.pt"
    start, curve, spent = _resume(tuning, checkpoint)
    if start:
        log(f"going on at step {start} of {steps}")
    began, recent = time.monotonic(), []
    for row in tuning.steps(steps, start, seed):
        recent.append(row)
        done, seconds = row["step"] + 1, time.monotonic() - began
        if done % 10 == 0:
            log(f"step {done:5d}/{steps}  sampled ce {sum(r['ce'] for r in recent[-10:]) / 10:.3f}  executed "
                f"{sum(r['executed'] for r in recent[-10:]) / 10:.3f}  {seconds:5.0f} s gone, "
                f"{seconds / (done - start) * (steps - done):5.0f} s left")
        if done % every == 0 or done == steps:
            curve.append(_point(tuning, done, recent))
            log(f"            validation ce {curve[-1]['validation_ce']:.3f} by argmax, skipping {curve[-1]['attn_skip']:.3f} of "
                f"attention, {curve[-1]['mlp_skip']:.3f} of MLPs")
            recent = []
            with replacing(checkpoint) as file:
                torch.save({"step": done, "curve": curve, "seconds": spent + time.monotonic() - began,
                            "routers": [r.state_dict() for r in state.routers().values()],
                            "optimiser": tuning.optimiser.state_dict()}, file)
    seconds = spent + time.monotonic() - began
    for parameter in state.parameters():
        parameter.requires_grad_(False)
    shift = hold_budget(tuning.model, state, tuning.train[-CALIBRATE:], target, batch_size=16)
    base = {key: tuning.sources["model"][key] for key in ("name", "revision", "weights_sha256") if key in tuning.sources["model"]}
    save_routers(tuning.model, folder, base=base, extra={
        "command": f"python -m papers.skipgpt.routers_smollm2 --target {target} --steps {steps} --seed {seed} --dtype {dtype} "
                   f"--device {device}",
        "seed": seed, "commit": commit, "dirty": dirty, "steps": steps, "tokens": steps * BATCH * LENGTH, "seconds": round(seconds),
        "machine": machine(device), "threshold_shift": shift,
        "recipe": CHOSEN, "text": tuning.sources["text"]})
    write_json(folder / "curve.json", curve)
    checkpoint.unlink(missing_ok=True)
    log(f"saved {folder.name} after {seconds:.0f} s of training; threshold shifted by {shift:+.2f} to skip {target:.0%}")
    return folder


def machine(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else (
        f"{os.cpu_count()} CPU cores, {torch.backends.cpu.get_cpu_capability()}")


def _resume(tuning: Tuning, checkpoint: Path) -> tuple[int, list[dict], float]:
    """(step to go on with, curve so far, seconds so far)."""
    if not checkpoint.exists():
        return 0, [], 0.0
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    for router, tensors in zip(tuning.state.routers().values(), saved["routers"]):
        router.load_state_dict(tensors)
    tuning.optimiser.load_state_dict(saved["optimiser"])
    return saved["step"], saved["curve"], saved["seconds"]


def _point(tuning: Tuning, done: int, recent: list[dict]) -> dict:
    """A point of the learning curve: as sampled in the steps since the last one, and by argmax on validation windows."""
    tuning.state.start_recording()
    ce, stats = tuning.validation_ce(WATCHED), tuning.state.stats()
    return {"step": done, "tokens": done * BATCH * LENGTH, "train_ce": fmean(row["ce"] for row in recent),
            "executed_sampled": fmean(row["executed"] for row in recent), "validation_ce": ce,
            "attn_skip": stats.attn_skip, "mlp_skip": stats.mlp_skip}


def compare_recipes(target: float, steps: int, log=print) -> None:
    """The first steps of every recipe: validation cross-entropy by argmax as it stands, and held at the target."""
    rows = []
    for name, recipe in RECIPES.items():
        tuning = prepare(recipe, target, 0, lambda text: None)
        began = time.monotonic()
        sampled = [row["ce"] for row in tuning.steps(steps)][-10:]
        seconds = time.monotonic() - began
        for parameter in tuning.state.parameters():
            parameter.requires_grad_(False)
        hold_budget(tuning.model, tuning.state, tuning.train[-16:], target, tolerance=0.005, batch_size=16)
        tuning.state.start_recording()
        held, stats = tuning.validation_ce(WATCHED), tuning.state.stats()
        rows.append({"recipe": name, "steps": steps, "sampled_ce_last_10": fmean(sampled), "held_ce": held,
                     "sparsity": stats.sparsity, "seconds": round(seconds, 1)})
        log(f"{name:48s} sampled ce {fmean(sampled):.3f}  held ce {held:.3f} at {stats.sparsity:.3f}  {seconds:.0f} s")
        write_json(ROUTERS / "recipes.json", rows)


# -- static plans ------------------------------------------------------------------------------------------
def cheapest(scores: dict[str, float], count: int) -> tuple[tuple[int, str], ...]:
    """The `count` units of lowest score, in layer order. scores: {"5 attn": nats}, as plans hold them."""
    names = sorted(scores, key=scores.get)[:count]
    return tuple(sorted((int(layer), module) for layer, module in map(str.split, names)))


def plans(targets: list[float], log=print) -> None:
    """The static baselines, for the default run to use, all calibrated on the same windows.

    Greedy elimination looks at a shortlist of 16 a step, on 8 windows; its plan for a smaller target is the beginning
    of that for the larger one. Blocks are as many as do not exceed the target.
    """
    loaded = load(replace(SMOLLM2, dtype="bfloat16", attn_implementation="sdpa"))
    model, calibration = loaded.model, windows(topics()["train"], loaded.tokenizer, LENGTH)[:24]
    commit, dirty = git_state()
    modules = {target: round(60 * target) for target in targets}
    most = max(modules.values())
    greedy = static_pruning.greedy_drop(model, calibration[:8], most, shortlist=16, log=log)
    single = static_pruning.shortened_ppl(model, calibration[:8], most, units="modules")
    for target, count in modules.items():
        by_name = {
            "shortgpt": static_pruning.block_influence(model, calibration, int(30 * target)),
            "joint-layer-drop": static_pruning.joint_layer_drop(model, calibration, count),
            "attention-drop": static_pruning.attention_drop(model, calibration, min(count, 30)),
            "shortened-ppl": replace(single, dropped=cheapest(single.scores, count)),
            "greedy-drop": replace(greedy, dropped=greedy.dropped[:count]),
        }
        for name, plan in by_name.items():
            log(f"{target:.0%}  {name}: {', '.join(f'{layer} {module}' for layer, module in plan.dropped)}")
            static_pruning.write_plan(plan, ROUTERS / f"static-t{round(100 * target)}" / f"{name}.json",
                                      command="python -m papers.skipgpt.routers_smollm2 --plans", commit=commit, dirty=dirty)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=float, nargs="+", default=list(TARGETS), help="module sparsity, one run each")
    parser.add_argument("--steps", type=int, help=f"optimiser steps of {BATCH} windows of {LENGTH} tokens; default: as the committed "
                        "routers, or 1000 at another target")
    parser.add_argument("--seed", type=int, default=0, help="0: routers/ itself; another: routers/seedN/")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the frozen model")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="folder to hold a folder for each target; default: routers/ of this paper")
    parser.add_argument("--recipes", action="store_true", help="compare the first --steps (40) of every recipe instead")
    parser.add_argument("--plans", action="store_true", help="calibrate the static baselines instead")
    options = parser.parse_args(argv)

    def log(text: str) -> None:
        print(text, flush=True)

    if options.plans:
        plans(options.target, log)
        return 0
    for target in options.target:
        if options.recipes:
            compare_recipes(target, options.steps or 40, log)
        else:
            train(target, options.steps or STEPS.get(target, 1000), options.seed, options.out, log=log, dtype=options.dtype,
                  device=options.device)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
