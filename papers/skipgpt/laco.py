"""LaCo (Yang et al., arXiv 2402.11187): neighbouring layers merged into one. The one static pruning that changes weights.

Model and calibration are those of `static_pruning.py`; what comes back is a shallower stock model, not a plan.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .analytic import Shape
from .calibration import Text, untouched
from .layers import Anatomy, UnfitModel, anatomies, find_stack, layer_list


@dataclass(frozen=True, eq=False)
class MergedModel:
    """A shallower stock model. groups: the original layers in each of its layers; the first is the base.

    similarity: its mean cosine with the original on the calibration windows.
    """

    model: nn.Module
    groups: tuple[tuple[int, ...], ...]
    similarity: float
    label: str = "LaCo"
    calibration_tokens: int = 0
    trained: bool = False

    def module_sparsity(self, layers: int) -> float:
        return 1 - len(self.groups) / layers

    def block_parameter_skip(self, shape: Shape) -> float:
        return self.module_sparsity(shape.L)


@torch.no_grad()
def laco(model: nn.Module, calibration: Tensor, threshold: float, group: int = 4, interval: int = 1, blocks: int | None = None, *,
         attention_mask=None) -> MergedModel:
    """From the top down, layer l takes in the group - 1 layers that follow it,

        theta_l <- theta_l + sum_k (theta_{l+k} - theta_l)      attention and MLP weights; l keeps its norms

    and the merge stays if the mean cosine between the original's final state and the merged model's (each
    window one vector) is above threshold; then l moves down by `interval`, else by 1. blocks: at most so many
    layers vanish, to meet a budget. Returns a copy, with its own config; the model stays as it is.

    The released notebook adds theta_{l+k} - theta_l with a theta_l that it has just changed, so that its sum
    telescopes and only the last of the merged layers is left. This is the formula, not that.
    """
    if group < 2 or interval < 1:
        raise ValueError(f"group is {group}, interval {interval}; a group has at least 2 layers, a step at least 1")
    text = Text(calibration, attention_mask)
    with untouched(model):
        merged = copy.deepcopy(model).eval()
        stack, device = find_stack(merged), next(model.parameters()).device
        name, own = layer_list(stack)
        branches = anatomies(stack)
        _check_alike(own, branches)
        types = getattr(stack.config, "layer_types", None)

        def final_states() -> Iterator[Tensor]:
            for batch in text.batches(8, device):
                x = stack(**batch, use_cache=False).last_hidden_state.float()
                yield (x * batch["attention_mask"][..., None]).flatten(1).cpu()

        def similarity() -> float:
            cosines = [F.cosine_similarity(a, b) for a, b in zip(original, final_states(), strict=True)]
            return torch.cat(cosines).mean().item()

        def put(layers: list[nn.Module], groups: list[tuple[int, ...]]) -> None:
            setattr(stack, name, nn.ModuleList(layers))
            stack.config.num_hidden_layers = len(layers)
            if types is not None:
                stack.config.layer_types = [types[g[0]] for g in groups]
            for index, layer in enumerate(layers):  # its place in the cache
                for module in layer.modules():
                    if hasattr(module, "layer_idx"):
                        module.layer_idx = index

        original = list(final_states())
        layers, groups, similar = list(own), [(i,) for i in range(len(own))], 1.0
        at, left = max(0, len(layers) - 1 - group), len(layers) if blocks is None else blocks
        while at >= 0 and left > 0:
            end = at + 1 + min(group - 1, left, len(layers) - 1 - at)
            trial = [*layers[:at], _take_in(layers[at], layers[at + 1 : end], branches[0]), *layers[end:]]
            joined = [*groups[:at], sum(groups[at:end], ()), *groups[end:]]
            put(trial, joined)
            if merges := end > at + 1 and (now := similarity()) > threshold:
                left -= end - at - 1
                layers, groups, similar = trial, joined, now
            at -= interval if merges else 1
        put(layers, groups)
    return MergedModel(merged, tuple(groups), similar, calibration_tokens=text.tokens)


def _check_alike(layers: nn.ModuleList, branches: list[Anatomy]) -> None:
    """Raises UnfitModel unless attention and MLP of all layers have weights of the same names and shapes."""
    def weights(index: int) -> dict[str, torch.Size]:
        return {f"{name}.{key}": weight.shape for name in _merged(branches[index])
                for key, weight in layers[index].get_submodule(name).named_parameters()}

    if branches[0].whole or any(weights(index) != weights(0) for index in range(1, len(layers))):
        raise UnfitModel("Its layers differ in their weights' shapes, or have no attention and MLP of their own: LaCo adds the weights of "
                         f"one layer to those of another. {type(layers[0]).__name__}: use a static plan, which drops whole modules.")


def _merged(branches: Anatomy) -> tuple[str, ...]:
    return (*branches.attn.modules, *branches.mlp.modules)


def _take_in(base: nn.Module, following: list[nn.Module], branches: Anatomy) -> nn.Module:
    """A new layer: base's norms, theta + sum (theta_k - theta) in attention and MLP."""
    new = copy.deepcopy(base)
    for name in _merged(branches):
        others = [dict(layer.get_submodule(name).named_parameters()) for layer in following]
        for key, weight in new.get_submodule(name).named_parameters():
            weight += sum(other[key] - weight for other in others)
    return new
