"""Static pruning: decide once, on calibration text, which modules nobody runs. Training-free.

All of these score units (blocks, attention modules, MLPs) and drop the cheapest; they differ in the score:
ShortGPT by how little a block turns the residual stream (block influence), joint layer drop by the same of each
module, Shortened-LLaMA by what removing the unit costs in calibration perplexity, or by first-order Taylor weight,
and greedy elimination (ours: the strongest that we know) by measuring again after every removal. (`laco.py` merges
neighbouring layers instead.)

A `StaticPlan` is a routing policy like any other, so that it runs, and skips, through the same code as the router.

Everywhere: model is a stock model (no routers), left as it was; calibration holds token ids (N, S) and
attention_mask (N, S), a tensor or None for all, marks those that are real. Padding counts nowhere. ValueError for text
without anything to predict, or for more units than there are; RuntimeError for a model that has routers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.files import write_json

from .analytic import Shape, block_param_skip
from .calibration import Text, loss_sum, untouched
from .layers import anatomies, find_stack, given_to, layer_list, tensor_of
from .method import SkipGPTConfig, apply_skipgpt, remove_skipgpt

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
        """Dropped share of the 2 * layers modules: the paper's T."""
        return len(self.dropped) / (2 * layers)

    def block_parameter_skip(self, shape: Shape) -> float:
        """Dropped share of the weights of attention and MLP."""
        attn = sum(name == "attn" for _, name in self.dropped)
        return block_param_skip(shape, attn / shape.L, (len(self.dropped) - attn) / shape.L)


def block_influence(model: nn.Module, calibration: Tensor, blocks: int, *, attention_mask=None) -> StaticPlan:
    """ShortGPT (arXiv 2403.03853): BI_l = 1 - E cos(x_l, x_{l+1}); the `blocks` lowest go, at once."""
    text = Text(calibration, attention_mask)
    return _blocks("ShortGPT", dict(enumerate(_turns(model, text)["block"])), blocks, text)


def joint_layer_drop(model: nn.Module, calibration: Tensor, modules: int, *, attention_mask=None) -> StaticPlan:
    """1 - E cos(x, x + f(LN x)) of each attention and MLP module, ranked together (arXiv 2406.15786)."""
    return _module_drop("joint layer drop", MODULES, model, calibration, modules, attention_mask)


def attention_drop(model: nn.Module, calibration: Tensor, modules: int, *, attention_mask=None) -> StaticPlan:
    """Joint layer drop among attention modules only."""
    return _module_drop("attention drop", ("attn",), model, calibration, modules, attention_mask)


def mlp_drop(model: nn.Module, calibration: Tensor, modules: int, *, attention_mask=None) -> StaticPlan:
    """Joint layer drop among MLPs only."""
    return _module_drop("MLP drop", ("mlp",), model, calibration, modules, attention_mask)


def shortened_ppl(model: nn.Module, calibration: Tensor, count: int, units: Literal["blocks", "modules"] = "blocks", *,
                  attention_mask=None) -> StaticPlan:
    """Shortened-LLaMA, PPL (arXiv 2402.02834): calibration cross-entropy without one unit; the cheapest go, at once.

    Scores are those cross-entropies in nats; perplexity is monotone in them.
    """
    if units not in ("blocks", "modules"):
        raise ValueError(f"units is {units!r}: use 'blocks' or 'modules'")
    text, layers = Text(calibration, attention_mask), range(_depth(model))
    with _trials(model, text) as loss:
        if units == "blocks":
            return _blocks("Shortened-PPL", {i: loss({(i, "attn"), (i, "mlp")}) for i in layers}, count, text)
        return _modules("Shortened-PPL, modules", {(i, n): loss({(i, n)}) for i in layers for n in MODULES}, count, text)


def shortened_taylor(model: nn.Module, calibration: Tensor, blocks: int, keep: tuple[int, int] = (1, 1), *,
                     attention_mask=None) -> StaticPlan:
    """Shortened-LLaMA, Taylor: sum |w dL/dw| over a block's weights, L the mean calibration cross-entropy.

    keep: so many first and last blocks are no candidates; (4, 2) is what its code calls the "+" heuristic.
    """
    text, layers = Text(calibration, attention_mask), layer_list(find_stack(model))[1]
    weights = [list(layer.parameters()) for layer in layers]
    flat = [w for block in weights for w in block]
    needed = [p.requires_grad for p in model.parameters()]
    total = [torch.zeros_like(w, dtype=torch.float32) for w in flat]
    try:
        with untouched(model), torch.enable_grad():
            model.requires_grad_(False)
            for w in flat:
                w.requires_grad_(True)
            for batch in text.batches(8, flat[0].device):
                for sum_, g in zip(total, torch.autograd.grad(loss_sum(model, batch), flat, allow_unused=True)):
                    if g is not None:
                        sum_ += g / text.targets
    finally:
        for parameter, was in zip(model.parameters(), needed):
            parameter.requires_grad_(was)
    grads = iter(total)
    scores = [sum((w.detach() * next(grads)).abs().sum().item() for w in block) for block in weights]
    return _blocks("Shortened-Taylor", dict(list(enumerate(scores))[keep[0] : len(layers) - keep[1]]), blocks, text)


def greedy_drop(model: nn.Module, calibration: Tensor, modules: int, shortlist: int | None = None,
                log: Callable[[str], None] | None = None, *, max_rise: float | None = None, attention_mask=None) -> StaticPlan:
    """Removes, one after the other, the module whose removal costs least *given what is gone already*.

    modules: at most so many. shortlist: after the first round only so many of the candidates that were cheapest
    when last measured are measured again. max_rise: stop before the cross-entropy is more than this above the
    dense model's, in nats. Scores: the cross-entropy after each removal; `dropped` is in order of removal.
    """
    units = [(i, n) for i in range(_depth(model)) for n in MODULES]
    if not 0 <= modules <= len(units):
        raise ValueError(f"greedy drop: cannot drop {modules} of {len(units)} modules")
    if shortlist is not None and shortlist < 1:
        raise ValueError(f"shortlist is {shortlist}; at least one candidate must be measured")
    text, gone, losses = Text(calibration, attention_mask), [], {}
    with _trials(model, text) as loss:
        limit = float("inf") if max_rise is None else loss(set()) + max_rise
        last = dict.fromkeys(units, 0.0)
        while len(gone) < modules:
            candidates = sorted((u for u in units if u not in gone), key=last.get)
            if gone:
                candidates = candidates[:shortlist]
            last |= {unit: loss({*gone, unit}) for unit in candidates}
            best = min(candidates, key=last.get)
            if last[best] > limit:
                break
            gone.append(best)
            losses[f"{best[0]} {best[1]}"] = last[best]
            if log:
                log(f"greedy: {len(gone)}/{modules} layer {best[0]} {best[1]}, loss {last[best]:.3f}")
    return StaticPlan("greedy drop", tuple(gone), losses, text.tokens)


# -- plans as files ----------------------------------------------------------------------------------------
def write_plan(plan: StaticPlan, path: Path, **facts) -> None:
    """A plan that took long to calibrate, as JSON with the command that did it."""
    write_json(path, {"label": plan.label, "dropped": [list(u) for u in plan.dropped], "scores": plan.scores,
                      "calibration_tokens": plan.calibration_tokens} | facts)


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
@contextmanager
def _trials(model: nn.Module, text: Text) -> Iterator[Callable[[set[Unit]], float]]:
    """Mean calibration cross-entropy (nats) as a function of the modules that are left out."""
    with untouched(model):
        state = apply_skipgpt(model, SkipGPTConfig())
        state.set_mode("mask" if state.no_skip else "skip")
        device = next(model.parameters()).device

        @torch.no_grad()
        def loss(off: set[Unit]) -> float:
            state.policy = StaticPlan("trial", tuple(off)).policy()
            return sum(loss_sum(model, batch).item() for batch in text.batches(8, device)) / text.targets

        try:
            yield loss
        finally:
            remove_skipgpt(model)


@torch.no_grad()
def _turns(model: nn.Module, text: Text) -> dict[str, list[float]]:
    """1 - mean cosine between what enters and what leaves each block, attention and MLP; one pass, by hooks."""
    stack = find_stack(model)
    layers = layer_list(stack)[1]
    with untouched(model):  # which refuses routed layers before they are measured as if they were stock
        found = anatomies(stack)
    sums = {kind: torch.zeros(len(layers), dtype=torch.float64) for kind in ("block", *MODULES)}
    seen: dict[str, Tensor] = {}

    def add(kind: str, index: int, before: Tensor, after: Tensor) -> None:
        turn = 1 - F.cosine_similarity(before.float(), after.float(), dim=-1)
        sums[kind][index] += (turn * seen["real"]).double().sum().cpu()

    def watch(index: int, layer: nn.Module) -> list:
        attn, series = found[index].attn, found[index].series

        def enter(module, args, kwargs):
            seen["x"] = given_to(args, kwargs)

        def attention(module, args, output):
            out = tensor_of(output).reshape(seen["x"].shape)
            seen["y"] = out if attn.scale is None else seen["x"] + (out if attn.scale == 1.0 else attn.scale * out)
            add("attn", index, seen["x"], seen["y"])

        def leave(module, args, output):
            out = tensor_of(output)
            add("mlp", index, *((seen["y"], out) if series else (seen["x"], seen["x"] + (out - seen["y"]))))
            add("block", index, seen["x"], out)

        return [
            layer.register_forward_pre_hook(enter, with_kwargs=True),
            layer.get_submodule(attn.last).register_forward_hook(attention),
            layer.register_forward_hook(leave),
        ]

    hooks = []
    with untouched(model):
        try:
            for index, layer in enumerate(layers):
                hooks += watch(index, layer)
            for batch in text.batches(16, next(model.parameters()).device):
                seen["real"] = batch["attention_mask"].float()
                stack(**batch, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
    return {kind: (total / text.tokens).tolist() for kind, total in sums.items()}


def _depth(model: nn.Module) -> int:
    return len(layer_list(find_stack(model))[1])


def _module_drop(label, names, model, calibration, count, attention_mask) -> StaticPlan:
    text = Text(calibration, attention_mask)
    turns = _turns(model, text)
    scores = {(i, name): turn for name in names for i, turn in enumerate(turns[name])}
    return _modules(label, scores, count, text)


def _cheapest(label: str, scores: dict, count: int, what: str) -> list:
    if not 0 <= count <= len(scores):
        raise ValueError(f"{label}: cannot drop {count} of {len(scores)} {what}")
    return sorted(sorted(scores, key=scores.get)[:count])


def _blocks(label: str, scores: dict[int, float], count: int, text: Text) -> StaticPlan:
    dropped = tuple((i, name) for i in _cheapest(label, scores, count, "blocks") for name in MODULES)
    return StaticPlan(label, dropped, {str(i): s for i, s in scores.items()}, text.tokens)


def _modules(label: str, scores: dict[Unit, float], count: int, text: Text) -> StaticPlan:
    dropped = tuple(_cheapest(label, scores, count, "modules"))
    return StaticPlan(label, dropped, {f"{i} {name}": s for (i, name), s in scores.items()}, text.tokens)
