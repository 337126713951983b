"""Mixture-of-Depths (Raposo et al., arXiv 2404.02258) as SkipGPT's authors run it: MoD-D, decoupled.

A linear router in front of each attention and each MLP scores every token of the sequence. The k
best run the module, and the output is multiplied by the raw score, which is how the router learns:

    k = max(1, floor((1 - s) n))       n valid tokens of the sequence, s skipped by each inner layer
    y_t = x_t + [rank of r_t < k] r_t f(x)_t        r = w x + b, without a sigmoid

First and last layer stay dense. Two consequences, both tested. The choice ranks the whole sequence,
later tokens included: it is *not causal*, so a loss on full sequences sees some of the future. And
whoever decodes one token at a time ranks one token: everything runs, and nothing is saved.

A policy on the extension point of `method.py`. Its gates are real numbers, so mode "mask" only, and
`executed_fraction`, hence the budget term, means nothing for it: the rate is fixed by k.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .method import RoutingState


class ScoreRouter(nn.Linear):
    """x (B, S, d) -> raw score (B, S), fp32 whatever the backbone's precision or autocast."""

    def __init__(self, d: int):
        super().__init__(d, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight.float(), self.bias.float()).squeeze(-1)


class MixtureOfDepths(nn.Module):
    """Score routers for a model of `layers` layers of width d; `policy(state)` puts them to work.

    skip: fraction of the *whole model's* modules to skip, in [0, 1): the budget that every method is
        compared at. As two layers are dense, each of the others skips skip * layers / (layers - 2).
        With spread=False they skip `skip`, as in the released code, whose "25 %" of a 32-layer model
        is therefore 23.4 % of its modules.
    decoupled: one router per module (MoD-D). False: one per layer, read at the layer's input, whose
        score multiplies both outputs (MoD at the same budget).
    official_strict: compare strictly with the k-th score, as released: k - 1 tokens run when k > 1.
    The MLP's router reads what SkipGPTConfig.mlp_router_input names; the released one "layer_input".
    Raises ValueError for a rate that is no fraction, or that the inner layers cannot reach.
    """

    def __init__(self, layers: int, d: int, skip: float, decoupled: bool = True, official_strict: bool = False, spread: bool = True):
        super().__init__()
        if layers < 3:
            raise ValueError(f"{layers} layers: the first and the last stay dense, none would be routed")
        rate = skip * layers / (layers - 2) if spread else skip
        if not 0 <= rate < 1:
            raise ValueError(
                f"skip is {skip}, so the {layers - 2} inner layers of {layers} would have to skip {rate:.3f} "
                "of their tokens; it must be in [0, 1): ask for less"
            )
        self.layers, self.inner_skip = layers, rate
        self.decoupled, self.strict = decoupled, official_strict
        names = ("attn", "mlp") if decoupled else ("attn",)
        self.scores = nn.ModuleDict(
            {f"{i}_{name}": ScoreRouter(d) for i in range(1, layers - 1) for name in names}
        )
        self._joint: dict[int, Tensor] = {}  # the layer's gate, from its attention to its MLP

    def policy(self, state: RoutingState):
        """The policy for `state.policy`. Registers the routers on the layers, as router_mod_attn and
        router_mod_mlp, so that the model's parameters(), state_dict() and `.to()` know them.

        Raises ValueError if the model has another number of layers, or other routers of this kind.
        """
        if len(state.layers) != self.layers:
            raise ValueError(f"MoD for {self.layers} layers on a model of {len(state.layers)}")
        for key, router in self.scores.items():
            index, name = key.split("_")
            layer = state.layers[int(index)]
            if getattr(layer, f"router_mod_{name}", router) is not router:
                raise ValueError("the model has MoD routers already: call remove(state) of those first")
            setattr(layer, f"router_mod_{name}", router.to(next(layer.parameters()).device))

        return functools.partial(self._decide, state)  # unlike a closure, copied along with its model

    def _decide(self, state: RoutingState, layer: int, name: str, x: Tensor, valid: Tensor) -> Tensor:
        if state.mode == "skip":
            raise RuntimeError(
                "MoD multiplies by real-valued scores; mode 'skip' needs gates of 0 and 1: use mode 'mask'"
            )
        if not 0 < layer < self.layers - 1:
            return torch.ones(valid.shape, device=x.device)
        if name == "mlp" and not self.decoupled:
            return self._joint.pop(layer)
        gate = self.gate(self.scores[f"{layer}_{name}"](x), valid)
        if not self.decoupled and not state.config.coupled:
            self._joint[layer] = gate
        return gate

    def gate(self, score: Tensor, valid: Tensor) -> Tensor:
        """score * selected; all (B, S). Equal scores: the earlier token first, so that k is exact."""
        k = ((1 - self.inner_skip) * valid.sum(1, keepdim=True).double() + 1e-9).long().clamp(min=1)
        ranked = score.detach().masked_fill(~valid, float("-inf"))
        values, order = ranked.sort(dim=1, descending=True, stable=True)
        rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
        selected = torch.empty_like(order).scatter_(1, order, rank) < k
        if self.strict:
            selected &= (ranked > values.gather(1, k - 1)) | (k == 1)
        return score * (selected & valid)

    def remove(self, state: RoutingState) -> None:
        """Takes the routers off the layers and the policy off the state."""
        for key in self.scores:
            index, name = key.split("_")
            delattr(state.layers[int(index)], f"router_mod_{name}")
        state.policy = None
