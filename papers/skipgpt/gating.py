"""A decoder layer with gates: the reference of SkipGPT's forward pass, and the door to its modes.

    y = x + g_attn Attn(x)        x_next = y + g_mlp MLP(y)

`apply_skipgpt` makes each stock layer's class a subclass of itself and of `RoutedLayerMixin`. In mode "mask" the stock forward
pass runs as it is, every module for every token, and three hooks stand in it for its duration: behind the last thing that is
done to attention's output, in front of the first that is done to the MLP's input, where its router reads, and behind the MLP.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from . import skipping
from .layers import Anatomy, find_stack, layer_list


class RoutedLayerMixin(nn.Module):
    """A decoder layer with gates: the stock forward pass, in which what each branch adds is multiplied by its gate.

    The gate stands behind everything that a family does to a module's output before adding it (Gemma-2's second norm,
    Granite's multiplier): before a norm, the straight-through gradient would pass it at the zero vector and blow up by
    1/sqrt(eps).
    """

    # What `apply_skipgpt` gives the layer; a coupled one has no router_mlp. _projections: for mode "skip", where it is known.
    _routing: Any  # RoutingState
    _routing_index: int
    _anatomy: Anatomy
    _projections: Any
    router_attn: nn.Module
    router_mlp: nn.Module

    def forward(self, *args, **kwargs):
        state, index = self._routing, self._routing_index
        if state.mode == "dense":
            return super().forward(*args, **kwargs)
        x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        g_attn = state.gate(index, "attn", self.router_attn, x)
        if state.config.kv_policy == "evict":
            kwargs = state._eviction.hide(self, index, g_attn, x, kwargs)
        if state.mode == "skip":
            out, g_mlp = skipping.skipping_layer(self, x, g_attn, self.decide, kwargs)
        else:
            out, g_mlp = self.gated(x, g_attn, args, kwargs)
        if state.config.kv_policy == "evict":
            state._eviction.remember(self, index, kwargs)
        state.record(index, g_attn, g_mlp)
        return out

    def decide(self, x: Tensor, y: Tensor, g_attn: Tensor) -> Tensor:
        """g_mlp, from the state that the configuration names. x enters the layer, y its MLP; (B, S, d)."""
        config = self._routing.config
        if config.coupled:
            return g_attn
        read = y if config.mlp_router_input == "module_input" else x
        return self._routing.gate(self._routing_index, "mlp", self.router_mlp, read)

    def gated(self, x: Tensor, g_attn: Tensor, args: tuple, kwargs: dict) -> tuple[Any, Tensor]:
        """x + g_attn Attn(x), then + g_mlp MLP(y), by the layer's own forward pass: everything computed, the reference."""
        attn, mlp, series = self._anatomy.attn, self._anatomy.mlp, self._anatomy.series
        y: Tensor = x
        g_mlp: Tensor | None = None if series else self.decide(x, x, g_attn)

        def attends(module, given, output):
            return gate_output(output, g_attn, x if attn.scale is None else None)

        def enters(module, given, named):
            nonlocal y, g_mlp
            y = (given[0] if given else named["hidden_states"]).reshape(x.shape)
            g_mlp = self.decide(x, y, g_attn)

        def adds(module, given, output):
            assert g_mlp is not None  # `enters` comes first
            return gate_output(output, g_mlp, y if mlp.scale is None else None)

        with ExitStack() as hooks:
            hooks.callback(self.get_submodule(attn.last).register_forward_hook(attends).remove)
            if series:
                hooks.callback(self.get_submodule(mlp.first).register_forward_pre_hook(enters, with_kwargs=True).remove)
            if mlp.modules:
                hooks.callback(self.get_submodule(mlp.last).register_forward_hook(adds).remove)
            output = super().forward(*args, **kwargs)
        assert g_mlp is not None
        return (output if mlp.modules else adds(self, None, output)), g_mlp


def gate_output(output, gate: Tensor, residual: Tensor | None = None):
    """What a branch adds, times its gate. output (B, S, d), or a tuple with it in front; gate (B, S), 1 = execute.

    residual: where the branch gives the sum r + f instead of f, the state r that it has added to; then r + g f, exactly r where
    g = 0 and exactly the sum where g = 1.
    """
    value = output if isinstance(output, Tensor) else output[0]
    g = gate.reshape(value.shape[:-1]).unsqueeze(-1).to(value.dtype)
    if residual is None:
        gated = g * value
    else:
        residual = residual.reshape(value.shape)
        added = value - residual
        gated = torch.where(g == 0, residual + g * added, value + (g - 1) * added)
    return gated if isinstance(output, Tensor) else type(output)((gated, *output[1:]))


def is_routed(model: nn.Module) -> bool:
    """Whether the model has routers, through any wrapper. Raises UnfitModel for a model without decoder layers."""
    return isinstance(layer_list(find_stack(model))[1][0], RoutedLayerMixin)
