"""Tier A: the mechanism from scratch, where it is known which tokens are hard.

A six-layer Llama learns a language of three kinds of token (`data.py`): *cycle* tokens follow from the one before,
*recall* tokens need attention to the place where a key was bound, the rest is noise. Then routers are tuned on the
frozen model, and everything that the paper compares with is tuned or calibrated on the same sequences for the same
number of steps. Every function here is one job of the run: arguments in, JSON out (`common/jobs.py`). `SIZES` says how
much of each is measured: the default run's, and the smallest that walks through all of it.

The three base models are committed (`standins/`, 0.6 MB each); `make standin-skipgpt` trains them again.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common.jobs import write_json
from common.progress import progress

from . import baselines
from .difficulty import KINDS, token_difficulty
from .method import RoutingState, SkipGPTConfig, apply_skipgpt, remove_skipgpt
from .tuning import evaluate, hold_budget, shift_budget, tune

STANDINS = Path(__file__).parent / "standins"
SEQUENCE, BASE_STEPS = 64, 900
BUDGET = 5 / 12  # compared at this module sparsity: what dropping 5 of 12 modules gives; T = 0.40 is tuned for


@dataclass(frozen=True)
class Size:
    """How much is trained and measured. Sequences have 64 tokens, those of the position curve `positions`."""

    seeds: tuple[int, ...]
    batch: int
    tune_steps: int
    lora_steps: int
    test_sequences: int
    calibration_sequences: int  # in the default run the paper's, for static pruning
    sweep_sequences: int
    position_samples: int
    positions: int


SIZES = {
    "cpu": Size(seeds=(0, 1, 2), batch=32, tune_steps=300, lora_steps=100, test_sequences=512, calibration_sequences=100,
                sweep_sequences=128, position_samples=50, positions=256),
    "smoke": Size(seeds=(0,), batch=8, tune_steps=3, lora_steps=2, test_sequences=8, calibration_sequences=8,
                  sweep_sequences=8, position_samples=2, positions=80),
}


# -- data and base models ----------------------------------------------------------------------------------
@functools.lru_cache(maxsize=4)
def sequences(split: str, seed: int, count: int, length: int = SEQUENCE) -> tuple[Tensor, Tensor]:
    """Token ids and kinds, each (count, length). Splits are disjoint ranges of the seed's endless stream."""
    first = {
        "base": 0,
        "tune": 1_000_000,
        "recovery": 2_000_000,
        "calibration": 3_000_000,
        "test": 4_000_000,
    }[split]
    return token_difficulty(count, length, seed=seed, first=first)


def batches(split: str, seed: int, steps: int, batch: int):
    ids, _ = sequences(split, seed, steps * batch)
    return lambda step: ids[step * batch : (step + 1) * batch]


def measured_on(seed: int, n: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Test sequences and their kinds, and the sequences on which budgets are held and plans calibrated."""
    return *sequences("test", seed, n.test_sequences), sequences("calibration", seed, n.calibration_sequences)[0]


def adamw(parameters, learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(list(parameters), lr=learning_rate, weight_decay=0.01)


def new_base(seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=37,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()


def train_base(seed: int, steps: int = BASE_STEPS, folder: str | None = None) -> dict:
    """Dense training: AdamW 2e-3, 100 steps of warm-up, linear decay, batch 32 of 64 tokens (spec 8)."""
    model, n = new_base(seed), SIZES["cpu"]
    training = tune(model, batches("base", seed, steps, n.batch), adamw(model.parameters(), 2e-3), steps, warmup=100, decay=1.0, seed=seed)
    curve = list(progress(training, f"seed {seed}: training, steps", total=steps))
    test, kinds = sequences("test", seed, n.test_sequences)
    result = {
        "seed": seed,
        "steps": steps,
        "test_ce": evaluate(model, test).mean().item(),
        "curve": [[row["step"], round(row["ce"], 4)] for row in curve[::25]],
    }
    folder = Path(folder) if folder else STANDINS / f"seed{seed}"
    # Half precision on disk: the file is 0.6 MB, and the rounding is far below what is measured.
    model.half().save_pretrained(folder)
    write_json(folder / "training.json", result)
    return result


def base_model(seed: int, folder: Path | None = None) -> nn.Module:
    from common.models import ModelSpec, load

    folder = (folder or STANDINS) / f"seed{seed}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.name} of standins/ is missing: restore it or run `make standin-skipgpt`")
    return load(ModelSpec(str(folder), attn_implementation="eager")).model


# -- what is measured --------------------------------------------------------------------------------------
@torch.no_grad()
def measure(model: nn.Module, state: RoutingState | None, ids: Tensor, kinds: Tensor) -> dict:
    """Cross-entropy, accuracy by kind of target, realised rates, and execution rates by kind of target."""
    model.eval()
    if state is not None:
        state.start_recording()
    losses, correct, gates = [], [], []
    for rows in ids.split(128):
        logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits[:, :-1]
        losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"))
        correct.append(logits.argmax(-1) == rows[:, 1:])
        if state is not None and state.gates:
            gates.append(torch.stack([torch.stack(pair) for pair in state.gates])[..., :-1].mean(0))  # (2, B, S-1)
    correct, target = torch.cat(correct), kinds[:, 1:]
    result = {
        "ce": torch.cat(losses).mean().item(),
        "accuracy": {
            name: correct[target == k].float().mean().item() for name, k in KINDS.items() if (target == k).any()
        },
    }
    if gates:
        executed, stats = torch.cat(gates, 1), state.stats()
        result |= {
            "attn_skip": stats.attn_skip,
            "mlp_skip": stats.mlp_skip,
            "sparsity": stats.sparsity,
            "per_layer": stats.per_layer.tolist(),
            "executed_by_kind": {
                name: {
                    "attn": executed[0][target == k].mean().item(),
                    "mlp": executed[1][target == k].mean().item(),
                }
                for name, k in KINDS.items()
                if (target == k).any()
            },
        }
    return result


def matched_random(model: nn.Module, state: RoutingState, routed: dict, ids: Tensor, kinds: Tensor, seed: int) -> dict:
    """The same rates, drawn per token: with the router's rate of each module, and with one rate for all."""
    results = {}
    for name, policy in (
        ("matched", baselines.random_matched(torch.tensor(routed["per_layer"]), seed)),
        ("uniform", baselines.random_uniform(routed["sparsity"], seed)),
    ):
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
    plans = {
        "ShortGPT, 2 of 6 blocks": baselines.block_influence(model, calibration, 2),
        "Shortened-PPL, 2 of 6 blocks": baselines.shortened_ppl(model, calibration, 2, units="blocks"),
        "module drop, 3 of 12": baselines.joint_layer_drop(model, calibration, 3),
        "module drop, 5 of 12": baselines.joint_layer_drop(model, calibration, 5),
        "greedy drop, 3 of 12": baselines.greedy_drop(model, calibration, 3),
        "greedy drop, 5 of 12": baselines.greedy_drop(model, calibration, 5),
        "attention drop, 5 of 6": baselines.attention_drop(model, calibration, 5),
        "MLP drop, 5 of 6": baselines.mlp_drop(model, calibration, 5),
    }
    for name, plan in plans.items():
        state = apply_skipgpt(model, SkipGPTConfig())
        state.policy = plan.policy()
        result[name] = measure(model, state, ids, kinds)
        remove_skipgpt(model)
    return result


def router_tuning(
    seed: int,
    target: float,
    budget: float | None = None,
    learning_rate: float = 2e-2,
    coupled: bool = False,
    token_blind: bool = False,
    stage_2: bool = False,
    size: str = "cpu",
) -> dict:
    """Stage 1 on the frozen base; measured as trained, sampled, held to `budget`, and against random routing.

    coupled: one gate per layer (vertical ablation). token_blind: biases only (horizontal ablation). stage_2 adds LoRA,
    and the same LoRA steps without routers as its control.
    """
    model, n = base_model(seed), SIZES[size]
    ids, kinds, held_out = measured_on(seed, n)
    torch.manual_seed(seed)
    state = apply_skipgpt(model, SkipGPTConfig(target_sparsity=target, coupled=coupled))
    parameters = baselines.bias_only(state) if token_blind else state.parameters()
    curve = list(
        tune(
            model,
            batches("tune", seed, n.tune_steps, n.batch),
            adamw(parameters, learning_rate),
            n.tune_steps,
            state=state,
            seed=seed,
        )
    )
    for parameter in state.parameters():
        parameter.requires_grad_(False)
    result = {
        "curve": [[row["step"], round(row["ce"], 4), round(row["executed"], 4)] for row in curve[::20]],
        "trained": measure(model, state, ids, kinds),
    }
    sampling = SkipGPTConfig(**{**state.config.to_dict(), "eval_sampling": True})
    state.config, plain, state.generator = (
        sampling,
        state.config,
        torch.Generator().manual_seed(seed),
    )
    result["sampled"] = measure(model, state, ids, kinds)
    state.config, state.generator = plain, None
    if not coupled and not token_blind:
        result["trained random"] = matched_random(model, state, result["trained"], ids, kinds, seed)
    if budget is not None:
        shift = hold_budget(model, state, held_out, budget)
        result["held"] = measure(model, state, ids, kinds) | {"shift": shift}
        if not coupled and not token_blind:
            result["held random"] = matched_random(model, state, result["held"], ids, kinds, seed)
        shift_budget(state, -shift)
    if not coupled and not token_blind and budget is not None:
        result["sweep"] = sweep(model, state, seed, n)
        result["position"] = position_curve(model, state, seed, n)
    if stage_2:
        result["lora"] = lora(model, state, seed, n)
    return result


def sweep(model: nn.Module, state: RoutingState, seed: int, n: Size) -> list[dict]:
    """Cross-entropy against realised sparsity by moving the one threshold; no retraining (claim C13)."""
    ids, kinds = sequences("test", seed, n.sweep_sequences)
    rows, applied = [], 0.0
    for sparsity in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8):
        applied += hold_budget(model, state, ids, sparsity, tolerance=0.01)
        routed = measure(model, state, ids, kinds)
        random = matched_random(model, state, routed, ids, kinds, seed)
        rows.append(
            {
                "sparsity": routed["sparsity"],
                "ce": routed["ce"],
                "attn_skip": routed["attn_skip"],
                "mlp_skip": routed["mlp_skip"],
                "matched": random["matched"]["ce"],
                "uniform": random["uniform"]["ce"],
            }
        )
    shift_budget(state, -applied)
    return rows


def position_curve(model: nn.Module, state: RoutingState, seed: int, n: Size) -> dict:
    """Execution rate along the sequence (claim C12). The base saw 64 positions; this looks beyond them."""
    ids, _ = sequences("test", seed, n.position_samples, n.positions)
    state.start_recording()
    evaluate(model, ids, 50)
    by_position = 1 - state.stats().by_position  # (S, 2)
    return {"attn": by_position[:, 0].tolist(), "mlp": by_position[:, 1].tolist()}


def lora(model: nn.Module, state: RoutingState, seed: int, n: Size) -> dict:
    """Stage 2 (section 3.6): routers frozen, LoRA r=8 on q, v, gate; and the control, the same LoRA on the dense model."""
    from peft import LoraConfig, get_peft_model

    ids, kinds = sequences("test", seed, n.test_sequences)
    result = {}
    for name, mode in (("routed", "mask"), ("dense", "dense")):
        torch.manual_seed(seed)
        wrapped = get_peft_model(
            model,
            LoraConfig(
                r=8,
                lora_alpha=16,
                lora_dropout=0.1,
                target_modules=["q_proj", "v_proj", "gate_proj"],
            ),
        )
        state.set_mode(mode)
        adapters = [p for n, p in wrapped.named_parameters() if "lora_" in n]
        list(
            tune(
                wrapped,
                batches("recovery", seed, n.lora_steps, n.batch),
                adamw(adapters, 5e-3),
                n.lora_steps,
                state=state,
                seed=seed,
            )
        )
        result[name] = measure(wrapped, state if mode == "mask" else None, ids, kinds)
        model = wrapped.unload()
    state.set_mode("mask")
    return result


def joint(seed: int, target: float, size: str = "cpu") -> dict:
    """The ablation "SkipGPT-Joint": routers and LoRA r=8 on q and v together from step 0, with the full loss."""
    n = SIZES[size]
    ids, kinds, held_out = measured_on(seed, n)
    torch.manual_seed(seed)
    model, state, trained = _parts(baselines.joint(base_model(seed), SkipGPTConfig(target_sparsity=target), rank=8, alpha=16))
    list(tune(model, batches("tune", seed, n.tune_steps, n.batch), adamw(trained, 5e-3), n.tune_steps, state=state, seed=seed))
    for parameter in state.parameters():
        parameter.requires_grad_(False)
    result = {"trained": measure(model, state, ids, kinds)}
    hold_budget(model, state, held_out, target)
    return result | {"held": measure(model, state, ids, kinds)}


def mixture_of_depths(seed: int, target: float, rank: int = 0, size: str = "cpu") -> dict:
    """MoD-D: its routers alone on the frozen base or, rank > 0, with LoRA on q and v as the paper's baseline trains it."""
    n = SIZES[size]
    ids, kinds = sequences("test", seed, n.test_sequences)
    torch.manual_seed(seed)
    model, state, trained = _parts(baselines.mod_d(base_model(seed), target, rank=rank, alpha=16))
    list(tune(model, batches("tune", seed, n.tune_steps, n.batch), adamw(trained, 5e-3), n.tune_steps, seed=seed))
    return measure(model, state, ids, kinds)


def _parts(prepared: baselines.Prepared):
    return prepared.model, prepared.state, prepared.parameters


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the Tier-A base models again (about 2 CPU-minutes each).")
    parser.add_argument("--train-bases", action="store_true", required=True)
    parser.parse_args()
    for seed in SIZES["cpu"].seeds:
        result = train_base(seed)
        print(json.dumps({k: result[k] for k in ("seed", "test_ce")}), flush=True)
        if not math.isfinite(result["test_ce"]):
            raise SystemExit(f"seed {seed} diverged")


if __name__ == "__main__":
    main()
