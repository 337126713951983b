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
from .method import find_stack


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
        types = getattr(stack.config, "layer_types", None)

        def final_states() -> Iterator[Tensor]:
            for batch in text.batches(8, device):
                x = stack(**batch, use_cache=False).last_hidden_state.float()
                yield (x * batch["attention_mask"][..., None]).flatten(1).cpu()

        def similarity() -> float:
            cosines = [F.cosine_similarity(a, b) for a, b in zip(original, final_states(), strict=True)]
            return torch.cat(cosines).mean().item()

        def put(layers: list[nn.Module], groups: list[tuple[int, ...]]) -> None:
            stack.layers = nn.ModuleList(layers)
            stack.config.num_hidden_layers = len(layers)
            if types is not None:
                stack.config.layer_types = [types[g[0]] for g in groups]
            for index, layer in enumerate(layers):
                layer.self_attn.layer_idx = index

        original = list(final_states())
        layers, groups, similar = list(stack.layers), [(i,) for i in range(len(stack.layers))], 1.0
        at, left = max(0, len(layers) - 1 - group), len(layers) if blocks is None else blocks
        while at >= 0 and left > 0:
            end = at + 1 + min(group - 1, left, len(layers) - 1 - at)
            trial = [*layers[:at], _take_in(layers[at], layers[at + 1 : end]), *layers[end:]]
            joined = [*groups[:at], sum(groups[at:end], ()), *groups[end:]]
            put(trial, joined)
            if merges := end > at + 1 and (now := similarity()) > threshold:
                left -= end - at - 1
                layers, groups, similar = trial, joined, now
            at -= interval if merges else 1
        put(layers, groups)
    return MergedModel(merged, tuple(groups), similar, calibration_tokens=text.tokens)


def _take_in(base: nn.Module, following: list[nn.Module]) -> nn.Module:
    """A new layer: base's norms, theta + sum (theta_k - theta) in attention and MLP."""
    new = copy.deepcopy(base)
    for name in ("self_attn", "mlp"):
        others = [dict(getattr(layer, name).named_parameters()) for layer in following]
        for key, weight in getattr(new, name).named_parameters():
            weight += sum(other[key] - weight for other in others)
    return new
