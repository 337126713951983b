"""What SkipGPT can save at most, computed from the shape of the model alone.

Nothing here needs weights, a device or torch. Symbols: L layers of width d, MLP width f, H query
and KV key/value heads of size dh, vocabulary V; P_x counts the weights of x; s_a and s_m are the
skipped fractions of attention and MLP, over tokens and layers; ctx is the number of keys that a
query sees. Four results carry the argument:

- "25 %" is not one number: modules, block parameters, all parameters and idle parameters (keys and
  values are computed for every token, so their projections are never idle) give four values.
- Skipping half of the modules of an 8B model makes prefill at most 1.81 times as fast, since the
  LM head, keys and values remain; dropping half of the *layers* gives 1.87.
- Decoding reads weights, and a weight is saved only if no row of the batch needs it: with 8 rows
  nothing is left of the gain. The KV cache is as large as before.
- The training cost that the paper states is consistent with 3,200 steps, not with 10,000.

`python -m papers.skipgpt.figures` prints all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from common import shapes

Router = str | None  # "linear" (paper, d -> 2), "bottleneck" (released code, d -> d/4 -> 2), None


class Shape(shapes.Shape):
    """With the paper's counts of weights, P_x: of queries, keys and values, output, attention, MLP, a layer, everything."""

    @property
    def P_q(self) -> int:
        return self.d * self.dq

    @property
    def P_kv(self) -> int:
        return 2 * self.d * self.dk

    @property
    def P_o(self) -> int:
        return self.dq * self.d

    @property
    def P_a(self) -> int:
        return self.P_q + self.P_kv + self.P_o

    @property
    def P_m(self) -> int:
        return 3 * self.d * self.f

    @property
    def P_layer(self) -> int:
        return self.P_a + self.P_m + 2 * self.d

    @property
    def P_total(self) -> int:
        return self.parameters()


LLAMA2_7B, LLAMA2_13B, LLAMA31_8B, SMOLLM2_135M = (Shape(**vars(shape)) for shape in (
    shapes.LLAMA2_7B, shapes.LLAMA2_13B, shapes.LLAMA31_8B, shapes.SMOLLM2_135M))
PAPER = {"7B": LLAMA2_7B, "13B": LLAMA2_13B, "8B": LLAMA31_8B}


# -- parameters that the method adds ---------------------------------------------------------------
def router_params(m: Shape, router: Router = "linear") -> int:
    """Two routers a layer, with biases."""
    h = _hidden(m, router)
    if router is None:
        return 0
    return 2 * m.L * (2 * m.d + 2 if h is None else (m.d * h + h) + (2 * h + 2))


def lora_params(m: Shape, r: int = 16, modules: Sequence[str] = ("q", "v", "gate")) -> int:
    """r (fan_in + fan_out) for each adapted projection; the paper adapts q, v and gate."""
    fans = {"q": m.d + m.dq, "k": m.d + m.dk, "v": m.d + m.dk, "o": m.d + m.dq,
            "gate": m.d + m.f, "up": m.d + m.f, "down": m.d + m.f}
    return m.L * r * sum(fans[name] for name in modules)


def _hidden(m: Shape, router: Router) -> int | None:
    if router not in ("linear", "bottleneck", None):
        raise ValueError(f"router {router!r}: use 'linear', 'bottleneck' or None")
    return m.d // 4 if router == "bottleneck" else None


# -- what "25 %" means -----------------------------------------------------------------------------
def module_sparsity(s_a: float, s_m: float) -> float:
    """The paper's T: attention and MLP count alike."""
    return (s_a + s_m) / 2


def block_param_skip(m: Shape, s_a: float, s_m: float) -> float:
    """Skipped share of the weights of attention and MLP."""
    return (s_a * m.P_a + s_m * m.P_m) / (m.P_a + m.P_m)


def total_param_skip(m: Shape, s_a: float, s_m: float) -> float:
    """rho: the same weights as a share of the whole model, embeddings included."""
    return m.L * (s_a * m.P_a + s_m * m.P_m) / m.P_total


def idle_param_skip(m: Shape, s_a: float, s_m: float) -> float:
    """rho': what is really idle per token while keys and values are computed for every token."""
    return m.L * (s_a * (m.P_q + m.P_o) + s_m * m.P_m) / m.P_total


def skip_for_total(m: Shape, rho: float) -> float:
    """The uniform s = s_a = s_m at which total_param_skip is rho (the inverse)."""
    return rho / total_param_skip(m, 1, 1)


def skip_for_idle(m: Shape, rho: float) -> float:
    """The uniform s at which idle_param_skip is rho."""
    return rho / idle_param_skip(m, 1, 1)


def static_drop_fraction(m: Shape, layers: int) -> float:
    """Share of all parameters that disappears with whole layers, their norms included."""
    return layers * m.P_layer / m.P_total


# -- FLOPs -----------------------------------------------------------------------------------------
def router_flops(m: Shape, router: Router) -> int:
    """Per token and layer, both routers: 8 d, or 4 (d d/4 + 2 d/4)."""
    h = _hidden(m, router)
    if router is None:
        return 0
    return 8 * m.d if h is None else 4 * (m.d * h + 2 * h)


def flops_per_token(m: Shape, ctx: float, s_a: float = 0, s_m: float = 0, kv_dense: bool = True,
                    router: Router = None) -> float:
    """F(ctx), with the LM head; kv_dense False also skips keys and values (kappa = 1 - s_a)."""
    kappa = 1 if kv_dense else 1 - s_a
    attention = (2 * (m.P_q + m.P_o) + 4 * ctx * m.H * m.dh) * (1 - s_a) + 2 * m.P_kv * kappa
    layer = attention + 2 * m.P_m * (1 - s_m) + router_flops(m, router)
    return m.L * layer + 2 * m.d * m.V


def prefill_flops(m: Shape, S: int, s_a: float = 0, s_m: float = 0, kv_dense: bool = True,
                  router: Router = None) -> float:
    """S tokens under a causal mask: on average (S + 1)/2 visible keys. All logits are computed."""
    return S * flops_per_token(m, (S + 1) / 2, s_a, s_m, kv_dense, router)


def prefill_speedup(m: Shape, S: int, s_a: float, s_m: float, kv_dense: bool = True,
                    router: Router = "linear") -> float:
    """The bound: dense FLOPs over executed FLOPs, as if gathering tokens cost nothing."""
    return prefill_flops(m, S) / prefill_flops(m, S, s_a, s_m, kv_dense, router)


def static_depth_speedup(m: Shape, S: int, layers: int) -> float:
    """The bound for dropping whole layers, which also drops their keys and values."""
    return prefill_flops(m, S) / prefill_flops(replace(m, L=m.L - layers), S)


def executed_flops(m: Shape, B: int, S: int, kv_len: int, attn_rows: Sequence[int],
                   mlp_rows: Sequence[int], padded_query_rows: Sequence[int], lm_head_rows: int,
                   router: Router = "linear", routers_per_layer: int = 2) -> int:
    """What one forward pass executes, to the last FLOP, in the convention of torch's counter.

    That is: 2 per multiply-add, attention as the full rectangle of queries x keys (no causal
    discount). (B, S) new tokens, kv_len keys with the cache. Per layer: attn_rows, mlp_rows tokens
    that execute the module; padded_query_rows = B max_b n_b, since the attention read pads its
    queries to the longest row. Mask mode is attn_rows = mlp_rows = padded_query_rows = [B S] L.
    router None for gates that no router computed; routers_per_layer 1 for coupled gates.
    """
    for name, rows in (("attn_rows", attn_rows), ("mlp_rows", mlp_rows),
                       ("padded_query_rows", padded_query_rows)):
        if len(rows) != m.L or not all(0 <= n <= B * S for n in rows):
            raise ValueError(f"{name} = {list(rows)}: give {m.L} numbers from 0 to B S = {B * S}")
    every_layer = 2 * B * S * m.P_kv + B * S * router_flops(m, router) * routers_per_layer // 2
    attention = 2 * (m.P_q + m.P_o) * sum(attn_rows)
    read = 4 * m.H * m.dh * kv_len * sum(padded_query_rows)
    return (m.L * every_layer + attention + read + 2 * m.P_m * sum(mlp_rows)
            + 2 * m.d * m.V * lm_head_rows)


# -- decoding --------------------------------------------------------------------------------------
def decode_weights(m: Shape, B: int, s_a: float = 0, s_m: float = 0) -> float:
    """Weights read in one step of B rows. A module is read unless all rows skip it: 1 - s^B."""
    attention = m.P_kv + (m.P_q + m.P_o) * (1 - s_a**B)
    return m.L * (attention + m.P_m * (1 - s_m**B)) + m.V * m.d


def decode_speedup(m: Shape, B: int, s_a: float, s_m: float) -> float:
    """The bound by weight traffic for rows that skip independently; cache reads are left out."""
    return decode_weights(m, B) / decode_weights(m, B, s_a, s_m)


def kv_bytes_per_token(m: Shape, bytes_per_value: int = 2) -> int:
    """Size of the cache per token, in bf16 by default: skipping does not change it."""
    return m.kv_bytes(1, bytes_per_value)


# -- training --------------------------------------------------------------------------------------
SAMPLES, TOKENS, A800_BF16 = 850_000, 1e9, 312e12  # the paper's corpus; dense FLOP/s of its GPU


@dataclass(frozen=True)
class TrainingCost:
    tokens: float
    flops: float
    share_of_peak: float  # above 1: impossible in that time


def training_cost(m: Shape, steps: int, batch: int, hours: float = 4,
                  peak_flops_per_s: float = A800_BF16) -> TrainingCost:
    """Router tuning through a frozen backbone: forward 2 and backward 2 FLOPs per weight and token
    (no weight gradients), input embeddings not counted; samples of average length, unpadded."""
    tokens = steps * batch * TOKENS / SAMPLES
    flops = 4 * (m.P_total - m.V * m.d) * tokens
    return TrainingCost(tokens, flops, flops / (peak_flops_per_s * hours * 3600))
