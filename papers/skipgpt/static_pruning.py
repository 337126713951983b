"""Static pruning: decide once, on calibration text, which modules nobody runs. Training-free.

All of these score units (blocks, attention modules, MLPs) and drop the cheapest; they differ in the score:
ShortGPT by how little a block turns the residual stream (block influence), joint layer drop by the same of each
module, Shortened-LLaMA by what removing the unit costs in calibration perplexity, or by first-order Taylor weight,
and greedy elimination (ours: the strongest that we know) by measuring again after every removal.

A `StaticPlan` is a routing policy like any other, so that it runs, and skips, through the same code as the router.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .method import SkipGPTConfig, apply_skipgpt, find_stack, remove_skipgpt

Unit = tuple[int, str]  # (layer, "attn" | "mlp")
MODULES = ("attn", "mlp")


@dataclass(frozen=True)
class StaticPlan:
    """Which modules are dropped for every token. scores: one per candidate unit, low = cheap to drop."""

    label: str
    dropped: tuple[Unit, ...]
    scores: dict[str, float] = field(default_factory=dict)
    calibration_tokens: int = 0
    trained: bool = False

    def policy(self):
        off = frozenset(self.dropped)
        return lambda layer, name, x, valid: torch.full(valid.shape, float((layer, name) not in off), device=x.device)

    def module_sparsity(self, layers: int) -> float:
        return len(self.dropped) / (2 * layers)


def block_influence(model: nn.Module, calibration: Tensor, blocks: int) -> StaticPlan:
    """ShortGPT: BI_l = 1 - E cos(x_l, x_{l+1}); the `blocks` lowest go. calibration: token ids (N, S)."""
    influence = _turns(model, calibration)["block"]
    return _blocks("ShortGPT", influence, blocks, calibration)


def joint_layer_drop(model: nn.Module, calibration: Tensor, modules: int) -> StaticPlan:
    """1 - E cos(x, x + f(LN x)) of each attention and MLP module, ranked together."""
    turns = _turns(model, calibration)
    scores = {(layer, name): turns[name][layer] for name in MODULES for layer in range(len(turns[name]))}
    return _modules("joint layer drop", scores, modules, calibration)


def attention_drop(model: nn.Module, calibration: Tensor, modules: int) -> StaticPlan:
    """Joint layer drop among attention modules only."""
    return _modules(
        "attention drop",
        {(i, "attn"): s for i, s in enumerate(_turns(model, calibration)["attn"])},
        modules,
        calibration,
    )


def mlp_drop(model: nn.Module, calibration: Tensor, modules: int) -> StaticPlan:
    """Joint layer drop among MLPs only."""
    return _modules(
        "MLP drop",
        {(i, "mlp"): s for i, s in enumerate(_turns(model, calibration)["mlp"])},
        modules,
        calibration,
    )


def shortened_ppl(
    model: nn.Module,
    calibration: Tensor,
    count: int,
    units: Literal["blocks", "modules"] = "blocks",
) -> StaticPlan:
    """Shortened-LLaMA, PPL: rise of calibration cross-entropy when one unit is left out; the cheapest go, one-shot."""
    layers = len(find_stack(model).layers)
    with _Trial(model, calibration) as loss:
        if units == "blocks":
            return _blocks(
                "Shortened-PPL",
                [loss({(i, "attn"), (i, "mlp")}) for i in range(layers)],
                count,
                calibration,
            )
        return _modules(
            "Shortened-PPL, modules",
            {(i, n): loss({(i, n)}) for i in range(layers) for n in MODULES},
            count,
            calibration,
        )


def shortened_taylor(model: nn.Module, calibration: Tensor, blocks: int) -> StaticPlan:
    """Shortened-LLaMA, Taylor: sum |w dL/dw| over a block's weights; first and last block are kept."""
    _check(calibration)
    grads = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(True)
    model.zero_grad()
    try:
        for rows in calibration.split(8):
            (_losses(model, rows).sum() / calibration.numel()).backward()
        layers = find_stack(model).layers
        scores = [
            sum((p * p.grad).abs().sum().item() for p in layer.parameters() if p.grad is not None) for layer in layers
        ]
    finally:
        model.zero_grad()
        for parameter, needed in zip(model.parameters(), grads):
            parameter.requires_grad_(needed)
    scores[0] = scores[-1] = float("inf")
    return _blocks("Shortened-Taylor", scores, blocks, calibration)


def greedy_drop(
    model: nn.Module,
    calibration: Tensor,
    modules: int,
    shortlist: int | None = None,
    say: Callable[[str], None] | None = None,
) -> StaticPlan:
    """Removes, one after the other, the module whose removal costs least *given what is gone already*.

    shortlist: after the first round only so many of the cheapest candidates are measured again in each round.
    """
    units = [(i, n) for i in range(len(find_stack(model).layers)) for n in MODULES]
    gone: list[Unit] = []
    with _Trial(model, calibration) as loss:
        last = {unit: loss({unit}) for unit in units}
        while len(gone) < modules:
            if gone:
                candidates = sorted((u for u in units if u not in gone), key=last.get)[:shortlist]
                last |= {unit: loss({*gone, unit}) for unit in candidates}
            else:
                candidates = units
            gone.append(min(candidates, key=last.get))
            if say:
                say(f"greedy: {len(gone)}/{modules} layer {gone[-1][0]} {gone[-1][1]}, loss {last[gone[-1]]:.3f}")
    return StaticPlan("greedy drop", tuple(gone), {f"{i} {n}": last[i, n] for i, n in gone}, calibration.numel())


def write_plan(plan: StaticPlan, path: Path, **facts) -> None:
    """A plan that took long to find, as JSON with what found it."""
    from common.jobs import write_json

    write_json(
        path,
        {
            "label": plan.label,
            "dropped": [list(u) for u in plan.dropped],
            "scores": plan.scores,
            "calibration_tokens": plan.calibration_tokens,
        }
        | facts,
    )


def read_plan(path: Path) -> StaticPlan:
    """Raises ValueError naming the file if it is not a plan."""
    try:
        data = json.loads(Path(path).read_text())
        dropped = tuple((int(layer), str(name)) for layer, name in data["dropped"])
        if any(name not in MODULES for _, name in dropped):
            raise ValueError("a module is neither attn nor mlp")
        return StaticPlan(data["label"], dropped, data["scores"], data["calibration_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{Path(path).name} is no static plan: {error}") from None


# -- how units are scored ----------------------------------------------------------------------------------
def _check(calibration: Tensor) -> None:
    if calibration.dim() != 2 or calibration.numel() == 0 or calibration.shape[1] < 2:
        raise ValueError(
            f"calibration text has shape {tuple(calibration.shape)}; it needs token windows (N, S), N >= 1, S >= 2"
        )


def _losses(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def _turns(model: nn.Module, calibration: Tensor) -> dict[str, list[float]]:
    """1 - mean cosine between what enters and what leaves each block, attention and MLP; one pass, by hooks."""
    _check(calibration)
    model.eval()
    layers = find_stack(model).layers
    sums = {kind: torch.zeros(len(layers), dtype=torch.float64) for kind in ("block", *MODULES)}
    hooks, entered = [], {}

    def block(index, layer):
        def enter(module, args, kwargs):
            entered[index] = args[0] if args else kwargs["hidden_states"]

        def attention(module, args, kwargs, output):
            out = output[0]
            if hasattr(layer, "pre_feedforward_layernorm"):
                out = layer.post_attention_layernorm(out)
            x = entered[index]
            entered["middle"] = x + out
            add("attn", index, x, entered["middle"])

        def leave(module, args, kwargs, output):
            add("mlp", index, entered.pop("middle"), output)
            add("block", index, entered.pop(index), output)

        return [
            layer.register_forward_pre_hook(enter, with_kwargs=True),
            layer.self_attn.register_forward_hook(attention, with_kwargs=True),
            layer.register_forward_hook(leave, with_kwargs=True),
        ]

    def add(kind, index, before, after):
        sums[kind][index] += (1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).sum().double().cpu()

    try:
        for index, layer in enumerate(layers):
            hooks += block(index, layer)
        for rows in calibration.split(16):
            model(
                input_ids=rows,
                attention_mask=torch.ones_like(rows),
                use_cache=False,
                logits_to_keep=1,
            )
    finally:
        for hook in hooks:
            hook.remove()
    return {kind: (total / calibration.numel()).tolist() for kind, total in sums.items()}


class _Trial:
    """Calibration loss with some modules left out, as a function of the set of them."""

    def __init__(self, model: nn.Module, calibration: Tensor):
        _check(calibration)
        self.model, self.calibration = model, calibration

    def __enter__(self) -> Callable[[set[Unit]], float]:
        state = apply_skipgpt(self.model.eval(), SkipGPTConfig()).set_mode("skip")

        @torch.no_grad()
        def loss(off: set[Unit]) -> float:
            state.policy = StaticPlan("trial", tuple(off)).policy()
            return (
                sum(_losses(self.model, rows).sum().item() for rows in self.calibration.split(8))
                / self.calibration[:, 1:].numel()
            )

        return loss

    def __exit__(self, *_) -> None:
        remove_skipgpt(self.model)


def _blocks(label: str, scores: Sequence[float], count: int, calibration: Tensor) -> StaticPlan:
    if not 0 <= count <= len(scores):
        raise ValueError(f"{label}: cannot drop {count} of {len(scores)} blocks")
    chosen = sorted(sorted(range(len(scores)), key=scores.__getitem__)[:count])
    return StaticPlan(
        label,
        tuple((i, name) for i in chosen for name in MODULES),
        {str(i): s for i, s in enumerate(scores)},
        calibration.numel(),
    )


def _modules(label: str, scores: dict[Unit, float], count: int, calibration: Tensor) -> StaticPlan:
    if not 0 <= count <= len(scores):
        raise ValueError(f"{label}: cannot drop {count} of {len(scores)} modules")
    chosen = tuple(sorted(sorted(scores, key=scores.get)[:count]))
    return StaticPlan(label, chosen, {f"{i} {name}": s for (i, name), s in scores.items()}, calibration.numel())
