"""SkipGPT (Zhao et al., ICML 2025): every token decides, before every module, whether to run it.

A small linear *router* sits in front of each attention and each MLP module of a frozen decoder. It reads a
token's residual state and answers execute (index 0) or skip (index 1). A skipped token takes the residual
path unchanged; its key and value are still computed, so that later tokens may attend to it. Notation, as in
the paper: L layers, x_l (B, S, d) enters layer l, gate g (B, S) with 1 = execute, s = 1 - mean(g):

    y_l     = x_l + g_attn * Attn_l(LN1(x_l))          g_attn = Gate(Router_attn,l(x_l))
    x_{l+1} = y_l + g_mlp  * MLP_l(LN2(y_l))           g_mlp  = Gate(Router_mlp,l(y_l))
    loss    = LM + alpha * |T - mean skipped fraction|     over modules and valid tokens, not per layer

This file is the method on unmodified `transformers` decoders: `apply_skipgpt(model, config)` swaps the class of each
decoder layer in place and returns a `RoutingState`, the one handle for modes, temperature and statistics. Modes:
"mask" runs the stock layer and multiplies what each module adds by its gate (training, and the reference); "skip"
computes only what is executed (inference); "dense" is the model as it was. Its parts, each a file beside it:

    gating.py      a layer with gates: modes "mask" (the reference) and "dense"
    layers.py      where in a layer of any family a module adds to the residual stream, found by numbers
    probe.py       a routed layer held against the stock one, once, before it is used
    skipping.py    mode "skip"                      projections.py   how a family makes its queries and keys, for it
    eviction.py    the ablation kv_policy="evict"   recording.py     realised rates, counted on the device
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

Mode = Literal["mask", "skip", "dense"]
Gates = list[tuple[Tensor, Tensor]]  # per layer: (g_attn, g_mlp), each (B, S), 1 = execute


@dataclass(frozen=True)
class SkipGPTConfig:
    """What a trained router file must remember. Defaults are the paper's where it gives them.

    target_sparsity: T, the fraction of (token, module) pairs to skip over the whole model (section 3.5).
    sparsity_unit: weigh attention and MLP equally ("module", the paper) or by parameters ("params").
    alpha: weight of the budget term; 8 in the paper, 20 in the released code.
    tau_start, tau_end: Gumbel temperature, linear over the optimiser steps.
    router_hidden: None for the paper's linear router; a width for the released code's bottleneck.
    router_norm: route on the RMS-normalised state, not on the raw residual (later work of the group; not the paper).
    mlp_router_input: "module_input" (paper) or "layer_input" (released code and released routers).
    init_execute_bias: initial logit in favour of executing; 0 in the paper (half of everything is skipped at step 0).
    kv_policy: "dense" keeps keys and values of skipped tokens; "evict" hides them from later tokens (ablation;
        it remembers whom to hide by row, so it knows neither beam search nor static caches).
    coupled: one gate for both modules of a layer (ablation of the decoupling).
    eval_sampling: sample in evaluation too, as the released code does; scores then need seeds.
    """

    target_sparsity: float = 0.25
    sparsity_unit: Literal["module", "params"] = "module"
    alpha: float = 8.0
    tau_start: float = 5.0
    tau_end: float = 1.0
    router_hidden: int | None = None
    router_norm: bool = False
    mlp_router_input: Literal["module_input", "layer_input"] = "module_input"
    init_execute_bias: float = 0.0
    kv_policy: Literal["dense", "evict"] = "dense"
    coupled: bool = False
    eval_sampling: bool = False

    def __post_init__(self):
        if not 0.0 <= self.target_sparsity < 1.0:
            raise ValueError(
                f"target_sparsity is {self.target_sparsity}; it is a fraction of modules in [0, 1), e.g. 0.25"
            )
        for name, allowed in (
            ("sparsity_unit", ("module", "params")),
            ("kv_policy", ("dense", "evict")),
            ("mlp_router_input", ("module_input", "layer_input")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}")
        if min(self.tau_start, self.tau_end) <= 0:
            raise ValueError(f"tau_start is {self.tau_start}, tau_end {self.tau_end}; temperatures must be above 0")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def tau(self, step: int, total_steps: int) -> float:
        """Temperature of optimiser step k of K: tau_0 - (tau_0 - tau_1) k / K, k = 0 … K-1 (section 3.4)."""
        return self.tau_start - (self.tau_start - self.tau_end) * min(step, total_steps) / max(total_steps, 1)


class TokenRouter(nn.Module):
    """x (B, S, d) -> logits (B, S, 2) in fp32, index 0 = execute, 1 = skip (section 3.3).

    Only the difference of the two logits matters. Routers stay in fp32 under any autocast: their logits end up
    large, and a decision must not change with the precision of the backbone.
    """

    def __init__(self, d: int, hidden: int | None = None, norm: bool = False, execute_bias: float = 0.0):
        super().__init__()
        self.norm = norm
        sizes = (d, 2) if hidden is None else (d, hidden, 2)
        linears = [nn.Linear(a, b, dtype=torch.float32) for a, b in zip(sizes, sizes[1:])]
        for linear in linears:
            if not linear.weight.is_meta:
                nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear" if linear is linears[-1] else "relu")
                nn.init.zeros_(linear.bias)
        if execute_bias and not linears[-1].weight.is_meta:
            linears[-1].bias.data.copy_(torch.tensor([execute_bias / 2, -execute_bias / 2]))
        self.layers = nn.Sequential(linears[0]) if hidden is None else nn.Sequential(linears[0], nn.ReLU(), linears[1])

    def _apply(self, fn, recurse=True):
        """`model.to(bfloat16)`, `half()` and the like move a router, but never round it."""

        def keep(t: Tensor) -> Tensor:
            moved = fn(t)
            return moved if moved.dtype == torch.float32 else t.to(moved.device)

        return super()._apply(keep, recurse)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.norm:
                x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
            return self.layers(x)


def gumbel_noise(shape: Sequence[int], generator: torch.Generator | None = None, device=None) -> Tensor:
    """G ~ Gumbel(0, 1), fp32, as -log of an exponential variable."""
    return -torch.empty(shape, dtype=torch.float32, device=device).exponential_(generator=generator).log()


def straight_through_gate(logits: Tensor, tau: float, noise: Tensor | None = None) -> Tensor:
    """Logits (B, S, 2) -> gate (B, S); 1.0 = execute, 0.0 = skip, exactly (section 3.4).

    With `noise` (B, S, 2): the hard Gumbel-max sample, P(execute) = sigmoid(l_0 - l_1) whatever tau is; its
    gradient is that of pi_0 = softmax((l + G) / tau)_0. Without noise: argmax, ties execute, no gradient.
    """
    if noise is None:
        return (logits[..., 0] >= logits[..., 1]).float()
    noisy = logits + noise
    soft = torch.softmax(noisy / tau, dim=-1)[..., 0]
    hard = (noisy[..., 0] >= noisy[..., 1]).float()
    return hard + (soft - soft.detach())  # the bracket is exactly 0.0, so the value stays exactly hard


def executed_fraction(gates: Gates, valid: Tensor, weights: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """r = (1/L) sum_l [w_a mean(g_attn) + w_m mean(g_mlp)] over valid tokens (section 3.5); valid is (B, S)."""
    v = valid.float()
    attn = torch.stack([(g * v).sum() for g, _ in gates])
    mlp = torch.stack([(g * v).sum() for _, g in gates])
    return (weights[0] * attn + weights[1] * mlp).mean() / v.sum().clamp(min=1)


def sparsity_loss(executed: Tensor, target: float, alpha: float) -> Tensor:
    """alpha * |T - (1 - r)|: all executed costs alpha T, all skipped costs alpha (1 - T)."""
    return alpha * (target - (1.0 - executed)).abs()


Policy = Callable[[int, str, Tensor, Tensor], Tensor | None]


@dataclass(eq=False)
class RoutingState:
    """The handle on a routed model. It is no nn.Module: the routers live in the layers and train as usual.

    policy(layer, "attn" | "mlp", x (B, S, d), valid (B, S)) may return gates (B, S) in place of the router's, or
    None to leave the choice to the router: random, static and forced routing are policies. noise, if set, is
    (2L, B, S, 2) Gumbel noise, row 2l for attention and 2l+1 for the MLP of layer l; else it is drawn here.
    """

    config: SkipGPTConfig
    layers: list[nn.Module]
    stack: nn.Module
    mode: Mode = "mask"
    temperature: float = 1.0
    policy: Policy | None = None
    noise: Tensor | None = None
    generator: torch.Generator | None = None
    gates: Gates = field(default_factory=list)
    valid: Tensor | None = None
    no_skip: str = ""  # why this model cannot run in mode "skip", if it cannot
    _recording: Any = None
    _eviction: Any = None
    _hook: Any = None

    def set_mode(self, mode: Mode) -> RoutingState:
        if mode not in ("mask", "skip", "dense"):
            raise ValueError(f"mode {mode!r}: use 'mask' (reference, training), 'skip' (fast inference) or 'dense'")
        if mode == "skip" and self.no_skip:
            from .layers import UnfitModel

            raise UnfitModel(f"{self.no_skip} Mode 'skip' cannot run it: use mode 'mask', which computes everything.")
        self.mode = mode
        return self

    def routers(self) -> dict[str, TokenRouter]:
        return {
            f"layers.{i}.{name}": getattr(layer, name)
            for i, layer in enumerate(self.layers)
            for name in ("router_attn", "router_mlp")
            if hasattr(layer, name)
        }

    def parameters(self) -> list[nn.Parameter]:
        return [p for router in self.routers().values() for p in router.parameters()]

    def weights(self) -> tuple[float, float]:
        """Weights of attention and MLP in the budget: equal, or by the backbone's parameters (adapters do not count)."""
        if self.config.sparsity_unit == "module":
            return 0.5, 0.5
        sizes = {tuple(_backbone_size(layer, modules) for modules in (layer._anatomy.attn.modules, layer._anatomy.mlp.modules))
                 for layer in self.layers}
        if len(sizes) > 1:
            raise ValueError("sparsity_unit 'params': this model's layers differ in size; use sparsity_unit 'module'")
        ((attn, mlp),) = sizes
        if not mlp:
            raise ValueError("sparsity_unit 'params': this model's layers have no single MLP; use sparsity_unit 'module'")
        return attn / (attn + mlp), mlp / (attn + mlp)

    # -- what happens during a forward pass ------------------------------------------------------------
    def begin(self, module, args, kwargs):
        """Pre-hook of the decoder stack: which of the new tokens are padding?"""
        from .recording import valid_tokens

        tokens = kwargs.get("input_ids", args[0] if args else None)
        tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
        batch, seq = tokens.shape[:2]
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.valid = valid_tokens(mask, batch, seq, kwargs.get("past_key_values"), tokens.device)
        awaited: list[Any] = [None] * len(self.layers)  # each layer puts in its own
        self.gates = [] if self.mode == "dense" else awaited

    def gate(self, index: int, name: str, router: TokenRouter, x: Tensor) -> Tensor:
        """The gate of one module: the policy's if it has an opinion, else the router's (sampled or argmax)."""
        if self.mode == "skip" and router.training:
            raise RuntimeError(
                "mode 'skip' cannot train: it computes no gradients, and a skipped token's module output "
                "carries the router's. Use mode 'mask' to train, or model.eval() to run."
            )
        if self.policy is not None and (gate := self.policy(index, name, x, self.valid)) is not None:
            return gate
        learning = router.training and any(p.requires_grad for p in router.parameters())
        if learning and self.generator and getattr(self.layers[index], "gradient_checkpointing", False):
            raise RuntimeError(
                "gradient checkpointing runs a layer twice, and RoutingState.generator would give it "
                "other noise the second time: leave it None and seed with torch.manual_seed"
            )
        noise = None
        if learning or self.config.eval_sampling:
            row = 2 * index + (name == "mlp")
            noise = (
                gumbel_noise((*x.shape[:2], 2), self.generator, x.device)
                if self.noise is None
                else self.noise[row].to(x.device)
            )
        return straight_through_gate(router(x), self.temperature, noise)

    def record(self, index: int, g_attn: Tensor, g_mlp: Tensor) -> None:
        self.gates[index] = (g_attn, g_mlp)
        if self._recording is not None and not (torch.is_grad_enabled() and self.stack.training):
            self._recording.add(index, g_attn, g_mlp, self.valid)

    # -- statistics ------------------------------------------------------------------------------------
    def start_recording(self) -> RoutingState:
        """Counts from now on, on the device, without host synchronisation. Evaluation passes only."""
        from .recording import Recording

        self._recording = Recording(len(self.layers))
        return self

    def stats(self):
        """`RoutingStats`: rates since `start_recording`. Raises RuntimeError if nothing ran since."""
        if self._recording is None:
            raise RuntimeError("no forward pass since start_recording(), or the mode was 'dense'")
        return self._recording.stats()

    def executed_fraction(self) -> Tensor:
        """r of the last forward pass, with its straight-through gradient."""
        return executed_fraction(self.gates, self.valid, self.weights())


def _backbone_size(layer: nn.Module, modules: tuple[str, ...]) -> int:
    named = [pair for name in modules for pair in layer.get_submodule(name).named_parameters()]
    return sum(p.numel() for name, p in named if "lora_" not in name)


def apply_skipgpt(model: nn.Module, config: SkipGPTConfig | None = None) -> RoutingState:
    """Adds routers to every decoder layer of a stock model, in place; parameters keep their names.

    The layer's class becomes a subclass of itself, so `generate`, gradient checkpointing, `output_hidden_states`
    and PEFT see the model as before. Raises UnfitModel (a TypeError) for a model that lacks what the method needs,
    measured on eight tokens; what only mode "skip" lacks is kept in `no_skip`.
    """
    from .eviction import Eviction
    from .gating import RoutedLayerMixin
    from .layers import anatomies, evaluating, find_stack, layer_list, passes
    from .probe import check

    config = config or SkipGPTConfig()
    stack = find_stack(model)
    layers = list(layer_list(stack)[1])
    if any(isinstance(layer, RoutedLayerMixin) for layer in layers):
        raise RuntimeError("this model is routed already: call remove_skipgpt(model) first")
    state = RoutingState(config, layers, stack)
    state._eviction = Eviction()
    with evaluating(stack):
        seen = passes(stack)
        found = anatomies(stack, seen)
        try:
            for index, (layer, anatomy, one) in enumerate(zip(layers, found, seen)):
                for name in ("router_attn",) if config.coupled else ("router_attn", "router_mlp"):
                    with torch.device(next(layer.parameters()).device):
                        router = TokenRouter(one.x.shape[-1], config.router_hidden, config.router_norm, config.init_execute_bias)
                    setattr(layer, name, router.eval())
                layer._routing, layer._routing_index, layer._anatomy, layer._projections = state, index, anatomy, None
                layer.__class__ = type("Routed" + type(layer).__name__, (RoutedLayerMixin, type(layer)), {})
            check(state, seen)
            state._hook = stack.register_forward_pre_hook(state.begin, with_kwargs=True)
        except BaseException:
            remove_skipgpt(model)
            raise
    for layer in layers:  # as the layer is: one in eval mode stays deterministic
        for name in ("router_attn", "router_mlp"):
            if hasattr(layer, name):
                getattr(layer, name).train(layer.training)
    return state


def remove_skipgpt(model: nn.Module) -> None:
    """Undoes `apply_skipgpt`: the stock layers, without routers."""
    from .gating import RoutedLayerMixin

    for layer in _layers(model):
        if isinstance(layer, RoutedLayerMixin):
            if layer._routing._hook is not None:
                layer._routing._hook.remove()
            layer.__class__ = type(layer).__bases__[1]
            for name in ("router_attn", "router_mlp", "_routing", "_routing_index", "_anatomy", "_projections"):
                if hasattr(layer, name):
                    delattr(layer, name)


def routing_of(model: nn.Module) -> RoutingState:
    """The state of a routed model, also through PEFT, DDP or Lightning wrappers."""
    from .gating import RoutedLayerMixin

    layer = _layers(model)[0]
    if not isinstance(layer, RoutedLayerMixin):
        raise RuntimeError("this model has no routers: call apply_skipgpt(model) or load_routers(model, path) first")
    return layer._routing


def _layers(model: nn.Module) -> list[nn.Module]:
    from .layers import find_stack, layer_list

    return list(layer_list(find_stack(model))[1])
