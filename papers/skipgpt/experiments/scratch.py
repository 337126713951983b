"""Tier A: the mechanism from scratch, where it is known which tokens are hard.

A six-layer Llama has learned a language of three kinds of token (`difficulty.py`): *cycle* tokens follow from the one before,
*recall* tokens need attention to the place where a key was bound, the rest is noise. Then routers are tuned on the
frozen model, and everything that the paper compares with is tuned or calibrated on the same sequences for the same
number of steps. `jobs` lists what is run, by functions that are one job each: arguments in, JSON out
(`common/runs/jobs.py`). `SIZES`: how much of each is measured, in the default run and in the smallest that walks through
all of it.

Three base models are committed (`standins/`, 0.6 MB each); with SEEDS= for more, a job trains each of the others first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.lora import LoraSpec, add_lora
from common.runs.jobs import Job
from common.seeds import asked

from .. import baselines
from ..baselines import JOINT_TARGETS, LORA_TARGETS
from ..difficulty import BASES, KINDS, base_model, batches, sequences
from ..method import RoutingState, SkipGPTConfig, apply_skipgpt, remove_skipgpt
from ..tuning import hold_budget, shift_budget, tune

BUDGET = 5 / 12  # compared at this module sparsity: what dropping 5 of 12 modules gives; T = 0.40 is tuned for


@dataclass(frozen=True)
class Size:
    """How much is trained and measured. Sequences have 64 tokens."""

    seeds: tuple[int, ...]
    batch: int
    tune_steps: int
    lora_steps: int
    test_sequences: int
    calibration_sequences: int  # in the default run the paper's, for static pruning
    sweep_sequences: int
    share: float  # of the seconds that a job takes in the default run


SIZES = {
    "cpu": Size(seeds=asked(), batch=32, tune_steps=160, lora_steps=60, test_sequences=256, calibration_sequences=100,
                sweep_sequences=128, share=1.0),
    "smoke": Size(seeds=(0,), batch=8, tune_steps=3, lora_steps=2, test_sequences=8, calibration_sequences=8,
                  sweep_sequences=8, share=0.03),
}
SWEPT = (0.2, 0.4, 0.5, 0.6, 0.8)  # module sparsities to which the one threshold is moved
# Learning rates: of each method the best on validation sequences (rates.py); of the adapters of stage 2 there
# was no sweep.
RATES = {"routers": 4e-2, "coupled": 4e-2, "token-blind": 4e-2, "joint": 1e-2, "MoD-D": 1e-2}
LORA_RATE = 5e-3


def _jobs(listed: list[tuple], size: str, seeds: tuple[int, ...]) -> list[Job]:
    """listed: (name, function, seconds on one core of a 2024 server, arguments). Seconds only order the work and estimate the rest."""
    share = SIZES[size].share
    trained = [seed for seed in seeds if not (BASES / f"seed{seed}").is_dir()]
    first = [Job(f"tier_a/base/seed{seed}", "papers.skipgpt.standins:base_of_run", {"seed": seed, "size": size}, seconds=120 * share)
             for seed in trained]
    return first + [
        Job(f"tier_a/{name}/seed{seed}", f"{__name__}:{function}", {"seed": seed, "size": size, **arguments}, seconds=seconds * share,
            after=(f"tier_a/base/seed{seed}",) if seed in trained else ())
        for name, function, seconds, arguments in listed for seed in seeds]


def jobs(size: str = "cpu") -> list[Job]:
    both = {"target": 0.40, "budget": BUDGET}
    return _jobs([
        ("static", "dense_and_static", 12, {}),
        ("routers at 0.40", "router_tuning", 50, both | {"stage_2": True}),
        ("coupled", "router_tuning", 18, both | {"coupled": True}),
        ("token-blind", "router_tuning", 18, both | {"token_blind": True}),
        ("joint", "joint", 28, {"target": 0.40}),
        ("MoD-D", "mixture_of_depths", 17, {"target": 0.40}),
    ], size, SIZES[size].seeds)


def extra_jobs(size: str = "cpu") -> list[Job]:
    """What no claim reads, on the first seed: another target, MoD-D with the LoRA that the paper gives it, D-LLM (one gate a layer,
    trained jointly), the paper's learning rate."""
    return _jobs([
        ("routers at 0.25", "router_tuning", 18, {"target": 0.25}),
        ("MoD-D with LoRA", "mixture_of_depths", 25, {"target": 0.40, "rank": 8}),
        ("D-LLM", "joint", 28, {"target": 0.40, "whole_layers": True}),
        ("paper's learning rate", "router_tuning", 18, {"target": 0.25, "learning_rate": 2e-3}),
    ], size, SIZES[size].seeds[:1])


# -- data --------------------------------------------------------------------------------------------------
def measured_on(seed: int, n: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Test sequences and their kinds, and the sequences on which budgets are held and plans calibrated."""
    return *sequences("test", seed, n.test_sequences), sequences("calibration", seed, n.calibration_sequences)[0]


def adamw(parameters, learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(list(parameters), lr=learning_rate, weight_decay=0.01)


# -- what is measured --------------------------------------------------------------------------------------
@torch.no_grad()
def measure(model: nn.Module, state: RoutingState | None, ids: Tensor, kinds: Tensor) -> dict:
    """Cross-entropy, accuracy by kind of target, realised rates, and execution rates by kind of target."""
    model.eval()
    if state is not None:
        state.start_recording()
    losses, correct, gates = [], [], []
    for rows in ids.split(64):
        logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits[:, :-1]
        losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"))
        correct.append(logits.argmax(-1) == rows[:, 1:])
        if state is not None and state.gates:
            gates.append(torch.stack([torch.stack(pair) for pair in state.gates])[..., :-1].mean(0))  # (2, B, S-1)
    correct, target = torch.cat(correct), kinds[:, 1:]
    of_kind = {name: target == k for name, k in KINDS.items() if (target == k).any()}
    result = {"ce": torch.cat(losses).mean().item(),
              "accuracy": {name: correct[here].float().mean().item() for name, here in of_kind.items()}}
    if gates:
        executed, stats = torch.cat(gates, 1), state.stats()
        result |= {"attn_skip": stats.attn_skip, "mlp_skip": stats.mlp_skip, "sparsity": stats.sparsity,
                   "per_layer": stats.per_layer.tolist(),
                   "executed_by_kind": {name: {"attn": executed[0][here].mean().item(), "mlp": executed[1][here].mean().item()}
                                        for name, here in of_kind.items()}}
    return result


def matched_random(model: nn.Module, state: RoutingState, routed: dict, ids: Tensor, kinds: Tensor, seed: int) -> dict:
    """The same rates, drawn per token: with the router's rate of each module, and with one rate for all."""
    results = {}
    for name, policy in (("matched", baselines.random_matched(torch.tensor(routed["per_layer"]), seed)),
                         ("uniform", baselines.random_uniform(routed["sparsity"], seed))):
        state.policy = policy
        results[name] = measure(model, state, ids, kinds)
    state.policy = None
    return results


# -- the jobs ----------------------------------------------------------------------------------------------
def dense_and_static(seed: int, size: str = "cpu") -> dict:
    """The dense model and every training-free baseline."""
    model = base_model(seed)
    ids, kinds, calibration = measured_on(seed, SIZES[size])
    result = {"dense": measure(model, None, ids, kinds)}
    greedy = baselines.greedy_drop(model, calibration, 5)
    plans = {
        "ShortGPT, 2 of 6 blocks": baselines.block_influence(model, calibration, 2),
        "Shortened-PPL, 2 of 6 blocks": baselines.shortened_ppl(model, calibration, 2, units="blocks"),
        "Shortened-Taylor, 2 of 6 blocks": baselines.shortened_taylor(model, calibration, 2),
        "module drop, 3 of 12": baselines.joint_layer_drop(model, calibration, 3),
        "module drop, 5 of 12": baselines.joint_layer_drop(model, calibration, 5),
        "greedy drop, 3 of 12": replace(greedy, dropped=greedy.dropped[:3]),  # as it was after three
        "greedy drop, 5 of 12": greedy,
        "attention drop, 5 of 6": baselines.attention_drop(model, calibration, 5),
        "MLP drop, 5 of 6": baselines.mlp_drop(model, calibration, 5),
    }
    for name, plan in plans.items():
        state = apply_skipgpt(model, SkipGPTConfig())
        state.policy = plan.policy()
        result[name] = measure(model, state, ids, kinds)
        remove_skipgpt(model)
    merged = baselines.laco(model, calibration, threshold=-1.0, group=3, blocks=2)
    sparsity = merged.module_sparsity(model.config.num_hidden_layers)
    result["LaCo, 2 of 6 layers merged"] = measure(merged.model, None, ids, kinds) | {
        "sparsity": sparsity, "attn_skip": sparsity, "mlp_skip": sparsity, "groups": [list(group) for group in merged.groups]}
    return result


def router_tuning(seed: int, target: float, budget: float | None = None, learning_rate: float | None = None, coupled: bool = False,
                  token_blind: bool = False, stage_2: bool = False, size: str = "cpu") -> dict:
    """Stage 1 on the frozen base; measured untrained, as trained, sampled, held to `budget`, and against random routing.

    coupled: one gate per layer (vertical ablation). token_blind: biases only (horizontal ablation). stage_2 adds LoRA
    with its controls.
    """
    model, n = base_model(seed), SIZES[size]
    ids, kinds, held_out = measured_on(seed, n)
    torch.manual_seed(seed)
    state = apply_skipgpt(model, SkipGPTConfig(target_sparsity=target, coupled=coupled))
    parameters = baselines.bias_only(state) if token_blind else state.parameters()
    ablated, result = coupled or token_blind, {}
    learning_rate = learning_rate or RATES["coupled" if coupled else "token-blind" if token_blind else "routers"]
    if not ablated:
        result["untrained"] = measure(model, state, ids, kinds)
        result["untrained random"] = matched_random(model, state, result["untrained"], ids, kinds, seed)
    curve = list(tune(model, batches("tune", seed, n.tune_steps, n.batch), adamw(parameters, learning_rate), n.tune_steps,
                      state=state, seed=seed))
    for parameter in state.parameters():
        parameter.requires_grad_(False)
    result |= {"curve": [[row["step"], round(row["ce"], 4), round(row["executed"], 4)] for row in curve[::20]],
               "trained": measure(model, state, ids, kinds)}
    if not ablated:
        result["sampled"] = sampled(model, state, ids, kinds, seed)
        result["trained random"] = matched_random(model, state, result["trained"], ids, kinds, seed)
    if budget is not None:
        shift = hold_budget(model, state, held_out, budget)
        result["held"] = measure(model, state, ids, kinds) | {"shift": shift}
        if not ablated:
            result["held random"] = matched_random(model, state, result["held"], ids, kinds, seed)
        shift_budget(state, -shift)
        if not ablated:
            result["sweep"] = sweep(model, state, seed, n)
    if stage_2:
        result["lora"] = lora(model, state, seed, n, target)
    return result


def sampled(model: nn.Module, state: RoutingState, ids: Tensor, kinds: Tensor, seed: int) -> dict:
    """The same with gates drawn in evaluation, as the official code does, instead of decided by argmax."""
    plain, state.config = state.config, SkipGPTConfig(**{**state.config.to_dict(), "eval_sampling": True})
    state.generator = torch.Generator().manual_seed(seed)
    result = measure(model, state, ids, kinds)
    state.config, state.generator = plain, None
    return result


def sweep(model: nn.Module, state: RoutingState, seed: int, n: Size) -> dict:
    """Cross-entropy against realised sparsity by moving the one threshold; no retraining (claim C13). The dense model's and random
    routing's at the same rates are of the same sequences; the threshold is set on others."""
    ids, kinds = sequences("test", seed, n.sweep_sequences)
    held_out, _ = sequences("calibration", seed, n.calibration_sequences)
    state.set_mode("dense")
    dense = measure(model, None, ids, kinds)["ce"]
    state.set_mode("mask")
    rows, applied = [], 0.0
    for sparsity in SWEPT:
        applied += hold_budget(model, state, held_out, sparsity, tolerance=0.01)
        routed = measure(model, state, ids, kinds)
        random = matched_random(model, state, routed, ids, kinds, seed)
        rows.append({"asked": sparsity} | {name: routed[name] for name in ("sparsity", "ce", "attn_skip", "mlp_skip")}
                    | {name: random[name]["ce"] for name in ("matched", "uniform")})
    shift_budget(state, -applied)
    return {"dense": dense, "rows": rows}


def lora(model: nn.Module, state: RoutingState, seed: int, n: Size, target: float) -> dict:
    """Stage 2 (section 3.6): routers frozen, LoRA r=8 on q, v, gate; as it is and held at the target. The controls: the same LoRA
    on the dense model, and LoRA on q and v alone, which is all that joint training has."""
    ids, kinds, held_out = measured_on(seed, n)
    result = {}
    for kind, mode, modules in (("routed", "mask", LORA_TARGETS), ("dense", "dense", LORA_TARGETS), ("q and v", "mask", JOINT_TARGETS)):
        torch.manual_seed(seed)
        wrapped = add_lora(model, LoraSpec(8, 16, 0.1, modules))
        state.set_mode(mode)
        adapters = [p for name, p in wrapped.named_parameters() if "lora_" in name]
        list(tune(wrapped, batches("recovery", seed, n.lora_steps, n.batch), adamw(adapters, LORA_RATE), n.lora_steps,
                  state=state, seed=seed))
        result[kind] = measure(wrapped, state if mode == "mask" else None, ids, kinds)
        if mode == "mask":
            shift = hold_budget(wrapped, state, held_out, target)
            result[f"{kind} held"] = measure(wrapped, state, ids, kinds)
            shift_budget(state, -shift)
        model = wrapped.unload()
    state.set_mode("mask")
    return result


def joint(seed: int, target: float, whole_layers: bool = False, size: str = "cpu") -> dict:
    """The ablation "SkipGPT-Joint": routers and LoRA r=8 on q and v together from step 0, with the full loss, for as many steps
    as both stages have together. whole_layers: D-LLM, one router a layer."""
    n, steps = SIZES[size], SIZES[size].tune_steps + SIZES[size].lora_steps
    ids, kinds, held_out = measured_on(seed, n)
    torch.manual_seed(seed)
    model, state, trained = _parts((baselines.d_llm if whole_layers else baselines.joint)(
        base_model(seed), SkipGPTConfig(target_sparsity=target), rank=8, alpha=16))
    list(tune(model, batches("tune", seed, steps, n.batch), adamw(trained, RATES["joint"]), steps, state=state, seed=seed))
    for parameter in state.parameters():
        parameter.requires_grad_(False)
    result = {"trained": measure(model, state, ids, kinds)}
    hold_budget(model, state, held_out, target)
    return result | {"held": measure(model, state, ids, kinds)}


def mixture_of_depths(seed: int, target: float, rank: int = 0, size: str = "cpu") -> dict:
    """MoD-D: its routers alone on the frozen base or, rank > 0, with LoRA on q and v as the paper trains it."""
    n = SIZES[size]
    ids, kinds = sequences("test", seed, n.test_sequences)
    torch.manual_seed(seed)
    model, state, trained = _parts(baselines.mod_d(base_model(seed), target, rank=rank, alpha=16))
    rate = RATES["joint" if rank else "MoD-D"]
    list(tune(model, batches("tune", seed, n.tune_steps, n.batch), adamw(trained, rate), n.tune_steps, seed=seed))
    return measure(model, state, ids, kinds)


def _parts(prepared: baselines.Prepared):
    return prepared.model, prepared.state, prepared.parameters
