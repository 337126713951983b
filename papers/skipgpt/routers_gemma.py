"""What Gemma-3-270M learns here: routers, token-blind routers and adapters, trained by one loop that goes on where it was killed.

    python -m papers.skipgpt.routers_gemma --seed 0        the routers of one training, into routers-gemma/seed0/

The recipe is that of `routers_smollm2.py` (deviations D3 to D6, and D9): texts, their order by the seed, batches of 8 windows of 128
tokens, the start from what skipping each single module costs, learning rates, one threshold afterwards. Three things differ, since a
token costs 2.5 times as much here: fewer steps (`STEPS`), a loss in chunks (`chunked.py`), and half as many windows to hold the
budget on. Learned beside weights in bfloat16, held and measured in float32, as there; `--dtype float32` on a processor without units
for bfloat16.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from common.claims.machine import git_state
from common.errors import UserError
from common.files import cache_dir, file_sha256, replacing, write_json
from common.gemma import load_gemma, with_start
from common.lora import LoraSpec, add_lora
from common.models import Loaded
from common.runs.sources import closure

from . import baselines, chunked
from .baselines import LORA_TARGETS
from .chunked import token_losses
from .method import RoutingState, SkipGPTConfig, apply_skipgpt, sparsity_loss
from .router_files import save_routers
from .routers_smollm2 import BATCH, CHOSEN, corpora, machine, module_costs, start_from_costs
from .tuning import Rate, hold_budget

FOLDER = Path(__file__).parent / "routers-gemma"
TARGET, STEPS, LORA_STEPS = 0.25, 400, 100  # STEPS: of routers, token-blind ones too; an hour of one core each
CALIBRATE, WATCHED, EVERY = 32, 8, 25  # windows held back for the threshold; validation windows of a curve; steps between checkpoints
ADAPTER, LORA_RATE = LoraSpec(16, 32, 0.1, LORA_TARGETS), 5e-4  # the official lora(); the rate is not swept
ARMS = ("routers", "token-blind", "routed LoRA", "dense LoRA")


def folder_of(seed: int) -> Path:
    """Folder of the committed routers of one training."""
    return FOLDER / f"seed{seed}"


@dataclass(frozen=True, eq=False)
class Work:
    """What every arm starts from. opened(dtype): the stock model, checked for the chunked loss; train, validation: windows (N, S) that
    begin with the start token, train shuffled by the seed; source: hashes of the texts; calibrate: windows at the end of train that are
    never trained on."""

    opened: Callable[[str], Loaded]
    train: Tensor
    validation: Tensor
    source: dict
    seed: int
    batch: int = BATCH
    calibrate: int = CALIBRATE

    def rows(self, step: int) -> Tensor:
        """The windows of an optimiser step, round and round in the text that is not held back."""
        return self.train[torch.arange(step * self.batch, (step + 1) * self.batch) % (len(self.train) - self.calibrate)]

    @property
    def held_back(self) -> Tensor:
        return self.train[-self.calibrate :]


def real_model(dtype: str) -> Loaded:
    """Raises ModelError where it is not here."""
    loaded = load_gemma(dtype, attn_implementation="eager")  # as for SmolLM2: faster than SDPA at 128 tokens on CPU
    chunked.check(loaded.model)
    return loaded


def real_work(seed: int) -> Work:
    """The texts of SmolLM2's routers, in this model's words."""
    tokenizer = real_model("bfloat16").tokenizer
    train, validation, source = corpora(tokenizer, seed)
    return Work(real_model, with_start(train[:, :-1], tokenizer), with_start(validation[:, :-1], tokenizer), source, seed)


# -- one training ------------------------------------------------------------------------------------------
def learn(model: nn.Module, batch: Callable[[int], Tensor], optimiser: torch.optim.Optimizer, steps: int, state: RoutingState, *,
          start: int = 0, rate: Rate | None = None, seed: int = 0) -> Iterator[dict]:
    """`tuning.tune` with the loss in chunks: the same updates, a test holds. Yields {"step", "ce", "executed"} after each step."""
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    rates = [group.setdefault("initial_lr", group["lr"]) for group in optimiser.param_groups]
    routers_learn, rate = any(p.requires_grad for p in state.parameters()), rate or Rate()
    for step in range(start, steps):
        for group, full in zip(optimiser.param_groups, rates):
            group["lr"] = full * rate.at(step, steps)
        torch.manual_seed(seed * 1_000_003 + step)
        model.train()
        state.temperature = state.config.tau(step, steps)
        ce = token_losses(model, batch(step)).mean()
        loss, executed = ce, float("nan")
        if routers_learn:
            fraction = state.executed_fraction()
            loss, executed = ce + sparsity_loss(fraction, state.config.target_sparsity, state.config.alpha), fraction.item()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        yield {"step": step, "ce": ce.item(), "executed": executed}
    state.temperature = 1.0
    model.eval()


def arm_of(arm: str, work: Work, dtype: str, routers: Callable[[nn.Module], RoutingState] | None = None):
    """(model, state, optimiser, source of the model) as an arm begins. routers: puts the trained ones on, for the LoRA arms; the dense
    one has them, too, and does not ask them."""
    loaded = work.opened(dtype)
    model = loaded.model
    torch.manual_seed(work.seed)
    if "LoRA" in arm:
        state = routers(model)
        wrapped = add_lora(model, ADAPTER)
        state.set_mode("dense" if arm == "dense LoRA" else "mask")
        adapters = list(adapters_of(wrapped).values())
        return wrapped, state, torch.optim.AdamW(adapters, lr=LORA_RATE, weight_decay=0.01), loaded.source
    state = apply_skipgpt(model, SkipGPTConfig(target_sparsity=TARGET, router_norm=CHOSEN["norm"]))
    for router in state.routers().values():
        nn.init.zeros_(router.layers[-1].weight)
    start_from_costs(state, module_costs(model, state, work.train[-8:]))
    rates = {1: CHOSEN["bias_lr"], 2: CHOSEN["lr"]}
    learns = baselines.bias_only(state) if arm == "token-blind" else state.parameters()
    groups = [{"params": [p for p in learns if p.dim() == dim], "lr": rate} for dim, rate in rates.items()]
    groups = [group for group in groups if group["params"]]
    return model, state, torch.optim.AdamW(groups, weight_decay=0.0, betas=(0.9, 0.98)), loaded.source


def routers_of(state: RoutingState) -> dict[str, nn.Parameter]:
    return {f"{router}.{name}": p for router, module in state.routers().items() for name, p in module.named_parameters()}


def adapters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def learned(arm: str, work: Work, steps: int, dtype: str = "bfloat16", routers: Callable | None = None, log=lambda text: None,
            every: int = EVERY) -> dict:
    """One arm trained, going on at its checkpoint in the cache: {"tensors": what learned, by name, "curve", "seconds", "source"}.

    A finished arm leaves its checkpoint, and is then read from there, with the same arguments and the same code. Raises ValueError for an
    arm that there is not.
    """
    if arm not in ARMS:
        raise ValueError(f"arm {arm!r} is none of {', '.join(ARMS)}")
    model, state, optimiser, source = arm_of(arm, work, dtype, routers)
    named = adapters_of(model) if "LoRA" in arm else routers_of(state)
    under = _digest(state) if "LoRA" in arm else None  # other routers, another training
    run = json.dumps([arm, TARGET, steps, work.seed, work.batch, work.calibrate, CHOSEN, source, work.source, dtype, LORA_RATE, under,
                      _code()], sort_keys=True, default=str)
    checkpoint = cache_dir() / f"skipgpt-gemma-{hashlib.sha256(run.encode()).hexdigest()[:16]}.pt"
    start, curve, spent = _resume(named, optimiser, checkpoint)
    if start:
        log(f"{arm}: going on at step {start} of {steps}")
    began, recent = time.monotonic(), []
    for row in learn(model, work.rows, optimiser, steps, state, start=start, rate=Rate(warmup=10, decay=0.5), seed=work.seed):
        recent.append(row)
        done, seconds = row["step"] + 1, time.monotonic() - began
        if done % every == 0 or done == steps:
            curve.append(_point(arm, model, state, work, done, recent))
            with replacing(checkpoint) as file:
                torch.save({"step": done, "curve": curve, "seconds": spent + time.monotonic() - began,
                            "tensors": {name: p.detach() for name, p in named.items()}, "optimiser": optimiser.state_dict()}, file)
            log(f"{arm}, step {done:4d}/{steps}  ce {curve[-1]['train_ce']:.3f}  validation {curve[-1]['validation_ce']:.3f}, "
                f"{seconds:5.0f} s gone, {seconds / (done - start) * (steps - done):5.0f} s left")
            recent = []
    return {"tensors": {name: p.detach().clone() for name, p in named.items()}, "curve": curve, "source": source,
            "seconds": round(spent + time.monotonic() - began)}


def put(tensors: dict[str, Tensor], named: dict[str, nn.Parameter]) -> None:
    """Copies what was learned onto a model of the same kind. Raises ValueError where names or shapes differ."""
    if {n: t.shape for n, t in tensors.items()} != {n: p.shape for n, p in named.items()}:
        raise ValueError("these tensors were learned on another model: names or shapes differ")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[name])


def _code() -> str:
    """Hash of all that a training computes from but its arguments. Not of the committed routers, which are data beside this file: those
    of one seed, when they are done, would send another seed's training back to its start."""
    digest = hashlib.sha256()
    for path in closure(f"{__package__}.routers_gemma"):  # by name, since it may run as __main__
        if FOLDER not in path.parents:
            digest.update(path.name.encode() + b"\0" + file_sha256(path).encode())
    return digest.hexdigest()


def _digest(state: RoutingState) -> str:
    digest = hashlib.sha256()
    for parameter in state.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _resume(named: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, checkpoint: Path) -> tuple[int, list[dict], float]:
    """(step to go on with, curve so far, seconds so far)."""
    if not checkpoint.exists():
        return 0, [], 0.0
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    put(saved["tensors"], named)
    optimiser.load_state_dict(saved["optimiser"])
    return saved["step"], saved["curve"], saved["seconds"]


def _point(arm: str, model: nn.Module, state: RoutingState, work: Work, done: int, recent: list[dict]) -> dict:
    """A point of the learning curve: as in the steps since the last one, and by argmax on validation windows."""
    asked = arm != "dense LoRA"
    if asked:
        state.start_recording()
    point = {"step": done, "tokens": done * work.rows(0).numel(), "train_ce": fmean(row["ce"] for row in recent),
             "validation_ce": chunked.evaluate(model, work.validation[:WATCHED]).mean().item()}
    if not asked:
        return point
    stats = state.stats()
    return point | {"executed_sampled": fmean(row["executed"] for row in recent), "attn_skip": stats.attn_skip, "mlp_skip": stats.mlp_skip}


# -- the routers that are committed ------------------------------------------------------------------------
def make(seed: int, steps: int = STEPS, folder: Path | None = None, dtype: str = "bfloat16", log=print, work: Work | None = None) -> dict:
    """Trains routers, holds the budget in float32 and writes folder: routers.safetensors, its card, its curve. Returns the card's facts.

    work: in place of the real one, for a try.
    """
    folder = folder or folder_of(seed)
    commit, dirty = git_state()  # of the code that trains, not of what the tree has become at the end
    work = work or real_work(seed)
    made = learned("routers", work, steps, dtype, log=log)
    loaded, state = routed(work, made["tensors"])
    shift = hold_budget(loaded.model, state, work.held_back, TARGET, batch_size=4)
    facts = {"command": f"python -m papers.skipgpt.routers_gemma --seed {seed} --steps {steps} --dtype {dtype}", "seed": seed,
             "commit": commit, "dirty": dirty, "steps": steps, "tokens": steps * work.rows(0).numel(), "seconds": made["seconds"],
             "machine": machine("cpu"), "threads": int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()),
             "threshold_shift": shift, "recipe": CHOSEN, "text": work.source}
    base = {key: made["source"].get(key) for key in ("name", "revision", "weights_sha256")}
    save_routers(loaded.model, folder, base=base, extra=facts)
    write_json(folder / "curve.json", made["curve"])
    log(f"saved {folder.name} after {made['seconds']} s of training; threshold shifted by {shift:+.2f} to skip {TARGET:.0%}")
    return facts


def routed(work: Work, tensors: dict[str, Tensor]) -> tuple[Loaded, RoutingState]:
    """The stock model in float32, which these routers are put on; nothing learns."""
    loaded = work.opened("float32")
    state = apply_skipgpt(loaded.model, SkipGPTConfig(target_sparsity=TARGET, router_norm=CHOSEN["norm"]))
    put(tensors, routers_of(state))
    loaded.model.requires_grad_(False)
    return loaded, state


def main() -> int:
    parser = argparse.ArgumentParser(description="Train routers of Gemma-3-270M into routers-gemma/.")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    try:
        for seed in options.seed:
            make(seed, options.steps, options.folder / f"seed{seed}", options.dtype, lambda text: print(text, flush=True))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
