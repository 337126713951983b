"""One timing: dense, mask mode and skip mode on the same work, with the cost that each should have.

Weights do not matter here, nor do decisions: a model of random weights takes as long as a trained
one, and routing is drawn beforehand (each module of each token skipped with probability s). The
routers run all the same; only their answer is overruled. Dense is the stock model without routers,
sdpa attention with its causal kernel; on CUDA, decoding is also replayed as one graph, which skip
mode cannot be (its sizes depend on the data). Decoding is given its tokens, and a cache allocated
beforehand, since the stock one is copied at every step; prefill computes all logits and fills the
stock cache. What ran is counted and compared with `analytic.executed_flops` to the last FLOP.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from common.flops import counted
from common.timing.clock import in_graph, paired_ratio, peak_memory, timings_within
from common.timing.decoding import Room, cache_bytes

from .. import analytic
from ..analytic import Shape
from ..method import RoutingState, apply_skipgpt, straight_through_gate

NOISY = 0.20  # interquartile range over median, beyond which a ratio decides nothing


@dataclass(frozen=True)
class Case:
    """Prefill of (batch, length) tokens, or `steps` decoding steps upon `length` cached tokens."""

    phase: str  # "prefill" or "decode"
    batch: int
    length: int
    steps: int = 1

    @property
    def name(self) -> str:
        length = "S" if self.phase == "prefill" else "ctx"
        return f"{self.phase} B={self.batch} {length}={self.length}"

    @property
    def tokens(self) -> int:
        """New tokens per row and step."""
        return self.length if self.phase == "prefill" else 1

    def keys(self, step: int) -> int:
        return self.length if self.phase == "prefill" else self.length + step + 1


# -- what is timed ---------------------------------------------------------------------------------
class DrawnRouting:
    """A policy (see RoutingState): the router answers, then the gate that was drawn is taken.

    gates (steps, 2L, B, T), 1 = execute, row 2l for attention and 2l+1 for the MLP of layer l; the
    same numbers are behind every s, so a module skipped at .25 is skipped at .50 too.
    """

    def __init__(self, state: RoutingState, case: Case, sparsity: float, seed: int):
        self.state, self.step = state, 0
        shape = case.steps, 2 * len(state.layers), case.batch, case.tokens
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        self.gates = (drawn >= sparsity).float()
        self.on_device = self.gates.to(next(state.layers[0].parameters()).device)

    def __call__(self, layer: int, name: str, x: Tensor, valid: Tensor) -> Tensor:
        straight_through_gate(getattr(self.state.layers[layer], f"router_{name}")(x), 1.0)
        return self.on_device[self.step, 2 * layer + (name == "mlp")]


def filled_cache(model: nn.Module, m: Shape, case: Case) -> Cache:
    """Random keys and values: only time is asked for, so no prefill is needed."""
    size = case.batch, m.KV, case.length + case.steps, m.dh
    draw = partial(torch.randn, size, dtype=model.dtype, device=model.device)
    return Cache(layers=[Room(draw(), draw(), case.length) for _ in range(m.L)])


def stock_and_routed(model: nn.Module, seed: int) -> tuple[nn.Module, nn.Module, RoutingState]:
    """The model untouched, and a routed twin that shares its weights."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return model, twin, apply_skipgpt(twin)


def prefill(model: nn.Module, ids: Tensor):
    """(B, S) tokens, all logits, a fresh cache as `transformers` makes it."""
    return model(input_ids=ids, use_cache=True)


def decode(model: nn.Module, ids: Tensor, cache: Cache, routing: DrawnRouting | None = None):
    """One step per column of ids (B, steps), each time from the cache as it was at first."""
    for layer in cache.layers:
        layer.rewind()
    for step in range(ids.shape[1]):
        if routing is not None:
            routing.step = step
        out = model(input_ids=ids[:, step : step + 1], past_key_values=cache, use_cache=True)
    return out


def variants(stock: nn.Module, routed: nn.Module, state: RoutingState, m: Shape, case: Case,
             sparsities: Sequence[float], seed: int):
    """{name: function} and {name: its gates, or None where everything is computed}."""
    draw = torch.Generator().manual_seed(seed)
    columns = case.length if case.phase == "prefill" else case.steps
    ids = torch.randint(m.V, (case.batch, columns), generator=draw).to(stock.device)
    cache = filled_cache(stock, m, case) if case.phase == "decode" else None
    state_of_router = torch.randn(case.batch, case.tokens, m.d, dtype=stock.dtype,
                                  device=stock.device)

    def run(model: nn.Module, mode: str = "dense", routing: DrawnRouting | None = None):
        state.set_mode(mode).policy = routing
        return prefill(model, ids) if cache is None else decode(model, ids, cache, routing)

    def routers_alone():
        for _ in range(case.steps):
            for router in state.routers().values():
                straight_through_gate(router(state_of_router), 1.0)

    fns: dict[str, Callable] = {"dense": partial(run, stock)}
    routings = {s: DrawnRouting(state, case, s, seed) for s in sparsities}
    fns[f"mask {max(sparsities):.2f}"] = partial(run, routed, "mask", routings[max(sparsities)])
    for s, routing in routings.items():
        fns[f"skip {s:.2f}"] = partial(run, routed, "skip", routing)
    fns["routers alone"] = routers_alone
    return fns, {f"skip {s:.2f}": routing.gates for s, routing in routings.items()}


# -- what it should cost ---------------------------------------------------------------------------
def expected_flops(m: Shape, case: Case, gates: Tensor | None, router: analytic.Router,
                   packed: bool) -> int:
    """Executed FLOPs in the counter's convention (full attention rectangle).

    router: None for the stock model, which has none. packed: whether prefill packs the executed
    queries (CPU) or reads all of them in place (CUDA), see `skipping._packs`.
    """
    B, T, total = case.batch, case.tokens, 0
    for step in range(case.steps):
        attn = mlp = read = [B * T] * m.L
        if gates is not None:
            attn, mlp = ([int(n) for n in gates[step, k::2].sum((1, 2))] for k in (0, 1))
            longest = gates[step, 0::2].sum(2).amax(1)
            read = [B * int(n) if packed and T > 1 else B * T * (n > 0) for n in longest.tolist()]
        total += analytic.executed_flops(m, B, T, case.keys(step), attn, mlp, read, B * T, router)
    return total


def bounds(m: Shape, case: Case, gates: Tensor) -> dict[str, Any]:
    """The largest possible speed-up at the rates that were really drawn.

    "bound": by FLOPs in prefill; by weight traffic in decoding, where a module's weights are saved
    only if every row skips it. "flop_bound": by FLOPs in both.
    """
    s_a, s_m = (1 - float(gates[:, k::2].mean()) for k in (0, 1))
    if case.phase == "prefill":
        most = analytic.prefill_speedup(m, case.length, s_a, s_m)
        return {"bound": most, "flop_bound": most, "attn_skip": s_a, "mlp_skip": s_m}
    idle = (float((gates[:, k::2].sum((2, 3)) == 0).float().mean()) for k in (0, 1))
    by_traffic = analytic.decode_speedup(m, case.batch, *(x ** (1 / case.batch) for x in idle))
    ctx = case.length + (case.steps + 1) / 2
    by_flops = (analytic.flops_per_token(m, ctx)
                / analytic.flops_per_token(m, ctx, s_a, s_m, router="linear"))
    return {"bound": by_traffic, "flop_bound": by_flops, "attn_skip": s_a, "mlp_skip": s_m}


def dense_seconds(m: Shape, case: Case, width: int, rates: dict[str, float]) -> float:
    """Roofline time of one dense run at calibrated rates; `width` bytes a value."""
    flops = expected_flops(m, case, None, None, True)
    moved = analytic.decode_weights(m, 1) * width * case.steps
    moved += analytic.kv_bytes_per_token(m, width) * case.batch * case.length * case.steps
    return max(flops / rates["flops_per_s"], moved / rates["bytes_per_s"])


# -- one case --------------------------------------------------------------------------------------
@torch.no_grad()
def run_case(models, m: Shape, case: Case, sparsities: Sequence[float], repeats: int, warmup: int,
             seed: int, seconds: float, clock: Callable[[], float]) -> dict[str, Any]:
    """Counts, then times; fewer than `repeats` rounds (but FEWEST) to stay within `seconds`.

    models: what `stock_and_routed` gives. The passes that count and that look at the time are the
    first two of `warmup`. Returns JSON values; times in seconds, of decoding per step.
    """
    device = models[0].device
    began = clock()
    fns, gates = variants(*models, m, case, sparsities, seed)
    rows, memory = {}, {}
    for name, fn in fns.items():
        router, outputs = None if name == "dense" else "linear", []
        expected = expected_flops(m, case, gates.get(name), router, device.type != "cuda")
        if name == "routers alone":
            new_tokens = case.steps * case.batch * case.tokens
            expected = new_tokens * m.L * analytic.router_flops(m, router)
        executed = counted(lambda fn=fn, outputs=outputs: outputs.append(fn())).total
        rows[name] = {"flops": executed, "expected_flops": expected}
        if outputs[0] is not None:
            rows[name]["kv_cache_bytes"] = cache_bytes(outputs.pop().past_key_values)
    no_graph = "" if case.phase == "decode" else "prefill is not bound by launches"
    if device.type == "cuda":
        if case.phase == "decode":
            try:
                fns["dense in a graph"] = in_graph(fns["dense"])
            except RuntimeError as error:
                no_graph = f"capture failed: {str(error).splitlines()[0]}"
        memory = {name: peak_memory(fn, device)["peak_bytes"] for name, fn in fns.items()}
    timings, rounds, a_round = timings_within(seconds - (clock() - began), fns, repeats, warmup, device, seed, clock)

    for name, timing in timings.items():
        rows.setdefault(name, {}).update(timing, median=timing["median"] / case.steps,
                                         iqr=timing["iqr"] / case.steps)
    dense = min((n for n in rows if n.startswith("dense")), key=lambda n: rows[n]["median"])
    speedups = {}
    for name in (n for n in rows if n.startswith(("mask", "skip"))):
        ratio = paired_ratio(timings, "dense", name)
        entry = {"speedup": ratio["median"], "iqr": ratio["iqr"], "ratios": ratio["ratios"],
                 "noisy": ratio["iqr"] > NOISY * ratio["median"],
                 "over_best_dense": paired_ratio(timings, dense, name)["median"],
                 "flop_ratio": rows["dense"]["flops"] / rows[name]["flops"]}
        if name in gates:
            entry |= bounds(m, case, gates[name])
            entry["share_of_bound"] = entry["speedup"] / entry["bound"]
        speedups[name] = entry
    return asdict(case) | {
        "rounds": rounds, "per": "step" if case.phase == "decode" else "pass", "variants": rows,
        "best_dense": dense, "no_graph": no_graph, "speedups": speedups, "peak_bytes": memory,
        "load_average": max(t["load_average"] for t in timings.values()),
        "router_share_of_dense": rows["routers alone"]["median"] / rows["dense"]["median"],
        "round_seconds": a_round, "seconds": clock() - began}
