"""SkipGPT (Zhao et al., ICML 2025): every token decides, before every module, whether to run it.

A small linear *router* sits in front of each attention and each MLP module of a frozen decoder. It reads a
token's residual state and answers execute (index 0) or skip (index 1). A skipped token takes the residual
path unchanged; its key and value are still computed, so that later tokens may attend to it. Notation, as in
the paper: L layers, x_l (B, S, d) enters layer l, gate g (B, S) with 1 = execute, s = 1 - mean(g):

    y_l     = x_l + g_attn * Attn_l(LN1(x_l))          g_attn = Gate(Router_attn,l(x_l))
    x_{l+1} = y_l + g_mlp  * MLP_l(LN2(y_l))           g_mlp  = Gate(Router_mlp,l(y_l))
    loss    = LM + alpha * |T - mean skipped fraction|     over modules and valid tokens, not per layer

This file is the whole method, on unmodified `transformers` decoders: `apply_skipgpt(model, config)` swaps the
class of each decoder layer in place and returns a `RoutingState`, the one handle for modes, temperature and
statistics. Modes: "mask" computes everything and multiplies by the gate (training, and the reference); "skip"
computes only what is executed (inference; `skipping.py` beside this file); "dense" is the model as it was.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
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


@dataclass
class RoutingStats:
    """Realised rates over valid tokens. per_layer (L, 2) and by_position (S, 2): columns attention, MLP skip.

    A position is a place among the new tokens of a forward pass: left padding and cached decoding shift it.
    """

    attn_skip: float
    mlp_skip: float
    per_layer: Tensor
    by_position: Tensor
    n_tokens: int

    @property
    def sparsity(self) -> float:
        """Module sparsity, the quantity that target_sparsity speaks of."""
        return (self.attn_skip + self.mlp_skip) / 2


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
    _sums: dict[str, Tensor] | None = None
    _kept: dict[int, tuple[Callable, Tensor]] = field(default_factory=dict)
    _hook: Any = None

    def set_mode(self, mode: Mode) -> RoutingState:
        if mode not in ("mask", "skip", "dense"):
            raise ValueError(f"mode {mode!r}: use 'mask' (reference, training), 'skip' (fast inference) or 'dense'")
        if mode == "skip" and self.no_skip:
            raise TypeError(f"mode 'skip' does not know this model's layers ({self.no_skip}); use mode 'mask'")
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
        sizes = {
            tuple(sum(p.numel() for n, p in m.named_parameters() if "lora_" not in n) for m in (x.self_attn, x.mlp))
            for x in self.layers
        }
        if len(sizes) > 1:
            raise ValueError("sparsity_unit 'params': this model's layers differ in size; use sparsity_unit 'module'")
        ((attn, mlp),) = sizes
        return attn / (attn + mlp), mlp / (attn + mlp)

    # -- what happens during a forward pass ------------------------------------------------------------
    def begin(self, module, args, kwargs):
        """Pre-hook of the decoder stack: which of the new tokens are padding?"""
        tokens = kwargs.get("input_ids", args[0] if args else None)
        tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
        batch, seq = tokens.shape[:2]
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.valid = _valid_tokens(mask, batch, seq, kwargs.get("past_key_values"), tokens.device)
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
        if self._sums is None or torch.is_grad_enabled() and self.stack.training:
            return
        seq, v = g_attn.shape[1], self.valid
        assert v is not None  # `begin` comes first
        if "layer" not in self._sums or self._sums["position"].shape[0] < seq:
            old = self._sums.copy()
            self._sums["position"] = torch.zeros(seq, 3, dtype=torch.float64, device=v.device)
            if "layer" in old:
                self._sums["position"][: old["position"].shape[0]] = old["position"]
            else:
                self._sums["layer"] = torch.zeros(len(self.layers), 3, dtype=torch.float64, device=v.device)
        skipped = torch.stack([(g_attn == 0) & v, (g_mlp == 0) & v, v], -1).double()  # (B, S, 3)
        self._sums["layer"][index] += skipped.sum((0, 1))
        self._sums["position"][:seq] += skipped.sum(0)

    # -- statistics ------------------------------------------------------------------------------------
    def start_recording(self) -> RoutingState:
        """Counts from now on, on the device, without host synchronisation. Evaluation passes only."""
        self._sums = {}
        return self

    def stats(self) -> RoutingStats:
        """Rates since `start_recording`. Raises RuntimeError if nothing ran since."""
        if not self._sums:
            raise RuntimeError("no forward pass since start_recording(), or the mode was 'dense'")
        layer, position = self._sums["layer"].cpu(), self._sums["position"].cpu()
        total = layer.sum(0)
        return RoutingStats(
            (total[0] / total[2]).item(),
            (total[1] / total[2]).item(),
            layer[:, :2] / layer[:, 2:],
            position[:, :2] / position[:, 2:].clamp(min=1),
            int(layer[0, 2]),
        )

    def executed_fraction(self) -> Tensor:
        """r of the last forward pass, with its straight-through gradient."""
        return executed_fraction(self.gates, self.valid, self.weights())


class RoutedLayerMixin(nn.Module):
    """A decoder layer with gates. Submodule names are those that every pre-norm `transformers` decoder shares.

    Families with a second norm after each module (Gemma-2/3) gate after that norm: before it, the
    straight-through gradient would pass an RMSNorm at the zero vector and blow up by 1/sqrt(eps).
    """

    # What `apply_skipgpt` gives the layer; a coupled one has no router_mlp.
    _routing: RoutingState
    _routing_index: int
    router_attn: TokenRouter
    router_mlp: TokenRouter

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=False,
        position_embeddings=None,
        **kwargs,
    ) -> Tensor:
        state = self._routing
        if state.mode == "dense":
            return super().forward(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **kwargs,
            )
        index, config, x = self._routing_index, state.config, hidden_states
        g_attn = state.gate(index, "attn", self.router_attn, x)
        if config.kv_policy == "evict":
            attention_mask = _hide_skipped(state, index, g_attn, attention_mask, past_key_values, x)
        run_attn, run_mlp = attention_branch, mlp_branch
        if state.mode == "skip":
            from .skipping import skipping_attention as run_attn
            from .skipping import skipping_mlp as run_mlp
        y = run_attn(
            self,
            x,
            g_attn,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            past_key_values=past_key_values,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        if config.coupled:
            g_mlp = g_attn
        else:
            g_mlp = state.gate(index, "mlp", self.router_mlp, y if config.mlp_router_input == "module_input" else x)
        out = run_mlp(self, y, g_mlp)
        state.record(index, g_attn, g_mlp)
        return out

    def normed_mlp(self, y: Tensor) -> Tensor:
        """MLP(LN2(y)), with the second norm of families that have one."""
        if hasattr(self, "pre_feedforward_layernorm"):
            return self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(y)))
        return self.mlp(self.post_attention_layernorm(y))


def attention_branch(layer: nn.Module, x: Tensor, gate: Tensor, **kwargs) -> Tensor:
    """y = x + g * Attn(LN1(x)), everything computed: the reference. x (B, S, d), gate (B, S)."""
    out, _ = layer.self_attn(hidden_states=layer.input_layernorm(x), **kwargs)
    if hasattr(layer, "pre_feedforward_layernorm"):
        out = layer.post_attention_layernorm(out)
    return x + gate.unsqueeze(-1).to(out.dtype) * out


def mlp_branch(layer: nn.Module, y: Tensor, gate: Tensor) -> Tensor:
    """y + g * MLP(LN2(y)), everything computed: the reference."""
    return y + gate.unsqueeze(-1).to(y.dtype) * layer.normed_mlp(y)


def _valid_tokens(mask, batch: int, seq: int, cache, device) -> Tensor:
    """(B, S), False for padding. A 2-D mask is that already; in a 4-D one (`generate` makes it for static caches)
    padding does not see itself. Without a mask every token counts."""
    if isinstance(mask, dict):  # one for each attention type of the model
        mask = mask.get("full_attention", next(iter(mask.values())))
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return mask[:, -seq:].bool()
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        return torch.ones(batch, seq, dtype=torch.bool, device=device)
    past = torch.as_tensor(0 if cache is None else cache.get_seq_length(), device=device)
    own = torch.arange(seq, device=device) + past.clamp(max=mask.shape[-1] - seq)
    seen = mask[:, 0].gather(-1, own.expand(len(mask), seq)[..., None])[..., 0]
    visible = seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2
    return visible.expand(batch, seq)


def _hide_skipped(state, index, gate, mask, cache, x) -> Tensor:
    """kv_policy "evict": a skipped token's key is visible to itself only. Returns a boolean (B, 1, S, K) mask."""
    past = int(cache.get_seq_length(index)) if cache is not None else 0
    kept = gate.detach().bool()
    if past:
        filled, before = state._kept.get(index, (lambda: None, None))
        if filled() is not cache or before.shape[1] < past:
            raise RuntimeError("kv_policy 'evict' met a cache that it did not fill last: start from an empty cache")
        kept = torch.cat([before[:, :past], kept], 1)
    state._kept[index] = (weakref.ref(cache) if cache is not None else lambda: None, kept)
    own = torch.arange(x.shape[1], device=x.device)[:, None] + past == torch.arange(kept.shape[1], device=x.device)
    if mask is None:
        mask = (
            torch.arange(x.shape[1], device=x.device)[:, None] + past >= torch.arange(kept.shape[1], device=x.device)
        )[None, None]
    if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[-1] != kept.shape[1]:
        raise ValueError(
            "kv_policy 'evict' needs a 4-D mask as long as the cache: use sdpa or eager, a dynamic cache "
            "and full attention"
        )
    visible = kept[:, None, None, :] | own
    if mask.dtype == torch.bool:
        return mask & visible
    return mask.masked_fill(~visible, torch.finfo(mask.dtype).min)


def find_stack(model: nn.Module) -> nn.Module:
    """The submodule that owns the decoder layers. Raises TypeError naming the property that is missing."""
    needed = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
    for module in model.modules():
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList) and len(layers):
            for number, layer in enumerate(layers):
                missing = [n for n in needed if not isinstance(getattr(layer, n, None), nn.Module)]
                missing += [
                    f"self_attn.{n}"
                    for n in ("q_proj", "k_proj", "v_proj", "o_proj")
                    if "self_attn" not in missing and not hasattr(layer.self_attn, n)
                ]
                if missing:
                    raise TypeError(
                        f"{type(layer).__name__} (layer {number}) has no {', '.join(missing)}: SkipGPT needs decoder "
                        "layers with separate attention and MLP modules behind their own norms (Llama, Qwen, Mistral, "
                        "Gemma-2 …)"
                    )
            if not isinstance(getattr(module, "embed_tokens", None), nn.Module):
                raise TypeError(f"{type(module).__name__} has no `embed_tokens` beside its `layers`")
            return module
    raise TypeError(
        f"{type(model).__name__} has no `layers` list of decoder layers: SkipGPT needs a decoder-only transformer"
    )


def apply_skipgpt(model: nn.Module, config: SkipGPTConfig | None = None) -> RoutingState:
    """Adds routers to every decoder layer of a stock model, in place; parameters keep their names.

    The layer's class becomes a subclass of itself, so `generate`, gradient checkpointing, `output_hidden_states`
    and PEFT see the model as before. Raises TypeError for a model that lacks what the method needs and for one
    whose layers compute something else than the two residual branches above (checked by running it).
    """
    config = config or SkipGPTConfig()
    stack = find_stack(model)
    layers = list(stack.layers)
    if any(isinstance(layer, RoutedLayerMixin) for layer in layers):
        raise RuntimeError("this model is routed already: call remove_skipgpt(model) first")
    state = RoutingState(config, layers, stack)
    d = layers[0].self_attn.q_proj.in_features
    try:
        for index, layer in enumerate(layers):
            names = ("router_attn",) if config.coupled else ("router_attn", "router_mlp")
            device = layer.self_attn.q_proj.weight.device
            for name in names:
                with torch.device(device):
                    router = TokenRouter(d, config.router_hidden, config.router_norm, config.init_execute_bias)
                setattr(layer, name, router.train(layer.training))  # a model in eval mode stays deterministic
            layer._routing, layer._routing_index = state, index
            layer.__class__ = type("Routed" + type(layer).__name__, (RoutedLayerMixin, type(layer)), {})
        state._hook = stack.register_forward_pre_hook(state.begin, with_kwargs=True)
        _check_layers(state, stack)
    except Exception:
        remove_skipgpt(model)
        raise
    return state


def remove_skipgpt(model: nn.Module) -> None:
    """Undoes `apply_skipgpt`: the stock layers, without routers."""
    for layer in find_stack(model).layers:
        if isinstance(layer, RoutedLayerMixin):
            if layer._routing._hook is not None:
                layer._routing._hook.remove()
            layer.__class__ = type(layer).__bases__[1]
            for name in ("router_attn", "router_mlp", "_routing", "_routing_index"):
                if hasattr(layer, name):
                    delattr(layer, name)


def routing_of(model: nn.Module) -> RoutingState:
    """The state of a routed model, also through PEFT, DDP or Lightning wrappers."""
    layer = find_stack(model).layers[0]
    if not isinstance(layer, RoutedLayerMixin):
        raise RuntimeError("this model has no routers: call apply_skipgpt(model) or load_routers(model, path) first")
    return layer._routing


@torch.no_grad()
def _check_layers(state: RoutingState, stack: nn.Module) -> None:
    """Eight tokens through the stock layers and through ours, everything executed: equal bit for bit, or refused.

    Then every second token skipped, by the reference and by `skipping.py`, which calls the projections itself and so
    knows fewer attention modules (not those that norm after the rotation, or leave it out): `no_skip` remembers.
    """
    weight = stack.embed_tokens.weight
    if weight.is_meta:
        return
    tokens = torch.arange(8, device=weight.device)[None] % weight.shape[0]
    was_training, config = stack.training, state.config
    state.config = replace(config, kv_policy="dense")  # "evict" always has a mask, which may mean another kernel

    def run(mode: Mode, gates: Tensor) -> Tensor:
        state.mode, state.policy = mode, lambda i, name, x, valid: gates.to(x.device)
        return stack(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).last_hidden_state

    stack.eval()
    executed, half = torch.ones(1, 8), torch.arange(8)[None] % 2
    dense, mask, reference = run("dense", executed), run("mask", executed), run("mask", half)
    try:
        error = (run("skip", half) - reference).float().norm() / reference.float().norm()
        if not error <= (1e-2 if weight.dtype == torch.float32 else 5e-2):  # tf32, bf16 rounding
            state.no_skip = f"it differs from the reference by {error:.1e}"
    except Exception as reason:
        state.no_skip = f"{type(reason).__name__}: {reason}"
    stack.train(was_training)
    state.mode, state.policy, state.gates, state.config = "mask", None, [], config
    if not torch.equal(dense, mask):
        raise TypeError(
            f"{type(stack).__name__}: its decoder layers are not x + Attn(LN(x)), then y + MLP(LN(y)); with every "
            "module executed the routed layers differ from the stock ones. SkipGPT does not know this family."
        )
