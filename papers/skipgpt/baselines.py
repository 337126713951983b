"""What SkipGPT is compared with. Everything runs through the same gates: a baseline is a policy, or other routers.

no-op, random            `no_op`, `random_uniform`, `random_matched`: nothing is learned
static, training-free    `static_pruning.py` and `laco.py`, re-exported here
static, learned          `bias_only`: one learned decision per module, blind to the token
coupled                  SkipGPTConfig(coupled=True): one gate per layer
joint, D-LLM             `joint`, `d_llm`: routers and LoRA together from the first step
MoD-D, MoD               `mod_d`: top-k tokens per sequence, weighted by the router's score

`BASELINES` lists them as data, for tables. What trains is prepared here and trained by the harness: a `Prepared`
has the model and the list of what to give the optimiser; everything else in the model is frozen.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.lora import LoraSpec, add_lora

from .laco import MergedModel, laco  # noqa: F401  (part of this door)
from .layers import width_of
from .method import RoutingState, SkipGPTConfig, apply_skipgpt
from .mixture_of_depths import MixtureOfDepths
from .static_pruning import (  # noqa: F401  (part of this door)
    StaticPlan,
    attention_drop,
    block_influence,
    greedy_drop,
    joint_layer_drop,
    mlp_drop,
    read_plan,
    shortened_ppl,
    shortened_taylor,
    write_plan,
)

# What LoRA adapts: the official lora() of stage 2, and the official joint training.
LORA_TARGETS, JOINT_TARGETS = ("q_proj", "v_proj", "gate_proj"), ("q_proj", "v_proj")


# -- nothing is learned ------------------------------------------------------------------------------------
def no_op():
    """Everything is executed: the dense model through the routed code."""
    return lambda layer, name, x, valid: torch.ones(valid.shape, device=x.device)


def random_uniform(rate: float, seed: int):
    """Every module skips each token with probability `rate`, independently. ValueError unless 0 <= rate <= 1."""
    _check_rates(torch.tensor([rate]))
    return _random(lambda layer, name: rate, seed)


def random_matched(per_layer: Tensor, seed: int):
    """Every module keeps its own skip rate, per_layer (L, 2) [attention, MLP], but the tokens are drawn at random.

    The control that matters: whatever a router gains over it comes from *which tokens* skip. `RoutingStats.per_layer`
    is what to pass. A coupled model asks for the attention column only. ValueError for rates of another shape or range,
    and, when it runs, for a model with more layers.
    """
    if per_layer.dim() != 2 or per_layer.shape[1] != 2:
        raise ValueError(f"per_layer has shape {tuple(per_layer.shape)}; it must be (L, 2): attention and MLP skip")
    _check_rates(per_layer)
    rates = per_layer.tolist()

    def rate(layer: int, name: str) -> float:
        if layer >= len(rates):
            raise ValueError(f"random_matched has rates for {len(rates)} layers, and the model has layer {layer}")
        return rates[layer][int(name == "mlp")]

    return _random(rate, seed)


def _check_rates(rates: Tensor) -> None:
    if not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(f"a skip rate is outside [0, 1]: {rates.flatten().tolist()}")


def _random(rate, seed: int):
    """A draw is a hash of (seed, module, how often the module ran, row, place among the row's real tokens).

    So it depends neither on the device, nor on the other rows, nor on padding. It does depend on how the text is cut
    into forward passes: a batch more, or a token decoded, is another call. The same seed in a new policy gives the
    same gates again (in mode "mask" and "skip" alike); the same policy goes on drawing. Not under gradient
    checkpointing, which runs modules twice.
    """
    if not isinstance(seed, int):
        raise TypeError(f"seed is {seed!r}; random routing needs an integer seed")
    calls: Counter = Counter()

    def policy(layer: int, name: str, x: Tensor, valid: Tensor) -> Tensor:
        key = repr((seed, layer, name, calls[layer, name])).encode()
        calls[layer, name] += 1
        start = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big", signed=True)
        row = torch.arange(len(valid), device=valid.device)[:, None]
        draw = _mix(_mix(start + row * STEP) + valid.cumsum(1) * STEP)  # (B, S)
        return (_right(draw, 11) >= round(rate(layer, name) * 2**53)).float().to(x.device)

    return policy


STEP = 0x9E3779B97F4A7C15 - 2**64


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser: 64 well-mixed bits. The products overflow and wrap, as they must here."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64)):
        z = (z ^ _right(z, shift)) * factor
    return z ^ _right(z, 31)


def _right(z: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


# -- trained -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Prepared:
    """model: to be trained, perhaps wrapped by PEFT. parameters: all that trains in it, and nothing else does."""

    model: nn.Module
    state: RoutingState
    parameters: list[nn.Parameter]


def bias_only(state: RoutingState) -> list[nn.Parameter]:
    """Routers that see no token: weights zero and frozen. Returns the last biases, which are left to train.

    In evaluation each module then executes every token or none; while training, Gumbel noise still differs by token.
    """
    biases = []
    for router in state.routers().values():
        router.requires_grad_(False)
        for layer in router.layers:
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.weight)
        biases.append(router.layers[-1].bias.requires_grad_(True))
    return biases


def joint(
    model: nn.Module, config: SkipGPTConfig, rank: int = 16, alpha: int = 32, dropout: float = 0.1
) -> Prepared:
    """SkipGPT-Joint: fresh routers and LoRA on q, v of a stock model, trained together with the full loss."""
    state = apply_skipgpt(model, config)
    return _with_lora(model, state, state.parameters(), rank, alpha, dropout)


def d_llm(
    model: nn.Module,
    config: SkipGPTConfig,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.1,
    evict: bool = False,
) -> Prepared:
    """D-LLM as SkipGPT's authors re-implement it: one router per layer gates the whole block, LoRA on q, v, jointly.

    evict: hide the keys of skipped tokens, as the original D-LLM does and that re-implementation does not. Executed or
    skipped, a block gives what x + g (block(x) - x) gives; the straight-through gradient of a *skipped* block differs,
    as its MLP is then evaluated at x and not at x + Attn(x). The budget term is SkipGPT's.
    """
    config = replace(config, coupled=True, kv_policy="evict" if evict else "dense")
    return joint(model, config, rank, alpha, dropout)


def mod_d(
    model: nn.Module,
    skip: float,
    decoupled: bool = True,
    official_strict: bool = False,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.1,
) -> Prepared:
    """MoD-D (decoupled=False: MoD) on a stock model with LoRA on q, v, jointly; rank 0: the score routers alone.

    `skip` is the whole model's module sparsity. Mode "mask" only; no budget term: k fixes the rate. See MixtureOfDepths.
    """
    state = apply_skipgpt(model, SkipGPTConfig())
    mod = MixtureOfDepths(
        len(state.layers), width_of(state.stack), skip, decoupled, official_strict
    )
    state.policy = mod.policy(state)
    return _with_lora(model, state, list(mod.parameters()), rank, alpha, dropout)


def _with_lora(model, state, routers: list[nn.Parameter], rank: int, alpha: int, dropout: float) -> Prepared:
    """Freezes all, adds adapters (rank 0: none), then lets `routers` and the adapters train."""
    model.requires_grad_(False)
    if rank:
        model = add_lora(model, LoraSpec(rank, alpha, dropout, JOINT_TARGETS))
    adapters = [p for p in model.parameters() if p.requires_grad]
    for parameter in routers:
        parameter.requires_grad_(True)
    return Prepared(model, state, [*routers, *adapters])


# -- as data -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Baseline:
    """For tables. needs: what it learns or is calibrated from. function: in this file, or None where there is none."""

    name: str
    trained: bool
    needs: str
    source: str
    function: str | None = None


OURS = "control of this repository"
SPEC = "as re-implemented by SkipGPT's authors (LRM-Pruning)"
BASELINES = (
    Baseline("dense", False, "nothing", "the stock model", "no_op"),
    Baseline("random, one rate", False, "the realised mean rate", OURS, "random_uniform"),
    Baseline("random, matched rates", False, "the realised rate of each module", OURS, "random_matched"),
    Baseline("ShortGPT", False, "calibration, one forward pass", "arXiv 2403.03853", "block_influence"),
    Baseline("joint layer drop", False, "calibration, one forward pass", "arXiv 2406.15786", "joint_layer_drop"),
    Baseline("attention drop", False, "calibration, one forward pass", "arXiv 2406.15786", "attention_drop"),
    Baseline("MLP drop", False, "calibration, one forward pass", "arXiv 2406.15786", "mlp_drop"),
    Baseline("Shortened-PPL", False, "calibration, one pass per unit", "arXiv 2402.02834", "shortened_ppl"),
    Baseline("Shortened-Taylor", False, "calibration, one backward pass", "arXiv 2402.02834", "shortened_taylor"),
    Baseline("greedy drop", False, "calibration, one pass per unit and removal", OURS, "greedy_drop"),
    Baseline("LaCo", False, "calibration, one pass per merge; changes weights", "arXiv 2402.11187", "laco"),
    Baseline("static, learned", True, "router tuning of biases", OURS, "bias_only"),
    Baseline("coupled", True, "router tuning, SkipGPTConfig(coupled=True)", "ablation of the paper"),
    Baseline("SkipGPT-Joint", True, "routers and LoRA at once", "ablation of the paper", "joint"),
    Baseline("D-LLM", True, "one router per layer and LoRA at once", SPEC, "d_llm"),
    Baseline("MoD-D", True, "score routers and LoRA at once", f"arXiv 2404.02258, {SPEC}", "mod_d"),
    Baseline("MoD", True, "the same, one router per layer", "arXiv 2404.02258", "mod_d"),
    Baseline("dense + LoRA", True, "LoRA without routers (train.py)", "table of the paper"),
    Baseline("LLM-Pruner", False, "width pruning; reported only", "arXiv 2305.11627"),
    Baseline("SliceGPT", False, "width pruning; reported only", "arXiv 2401.15024"),
)
