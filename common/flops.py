"""What a computation costs: count first, exactly, without a machine; time second, against a limit.

Counting. `counted` runs a function and adds up the matrix products it really executed;
`count_forward_flops` does so for a decoder, also on the meta device, where a model of any size
costs nothing. `dense_forward_flops` is the closed form of the same number, from the config alone.
One convention throughout, that of `torch.utils.flop_counter`: a multiply-add is 2 FLOPs, only
matrix products count, and attention counts the full rectangle of queries × keys, masked or not.

Timing. `interleaved_timings` runs the candidates in turn, in an order shuffled anew each round, so
that whatever else the machine does falls on all of them; `peak_of` and `calibrate` say what the
machine could have done at most. A device that is not in the table has no peak, and then utilisation
is None: it is never guessed.
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn


# -- counting --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class FlopCount:
    """FLOPs executed: in all, and by operator name ("aten.mm", "aten.bmm", …)."""

    total: int
    by_operator: dict[str, int]


def _attention_flops(query, key, value, *args, out_shape=None, **kwargs) -> int:
    """4 B H Sq Sk dh for shapes (B, H, S, dh); grouped keys are read by every query head."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


# Torch's own table lacks the CPU kernel, so attention on real CPU tensors would count as nothing;
# for the others it may differ between versions when keys are grouped. One formula for all of them.
_KERNELS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
_ATTENTION = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{k}"): _attention_flops for k in _KERNELS
}


def counted(fn: Callable[[], Any]) -> FlopCount:
    """Runs fn() and counts the FLOPs of the matrix products it executed, backward too if it runs.

    Works for the eager and sdpa attention of `transformers`. Kernels outside torch (the flash-attn
    package, Triton) and compiled functions are invisible to it. The tables of rotary angles are
    left out: some versions of `transformers` make them by a matrix product and some do not.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        fn()
    counts = counter.get_flop_counts()
    by_operator = {str(op): n for op, n in counts.get("Global", {}).items()}
    for module, ops in counts.items():
        name = module.split(".")[-1]  # rotary_emb of a decoder; LlamaRotaryEmbedding if called by itself
        if name.startswith("rotary_emb") or name.endswith("RotaryEmbedding"):
            for op, n in ops.items():
                by_operator[str(op)] -= n
    by_operator = {op: n for op, n in by_operator.items() if n}
    return FlopCount(sum(by_operator.values()), by_operator)


def count_forward_flops(
    model: nn.Module, batch: int, seq: int, past: int = 0, logits_to_keep: int = 0
) -> FlopCount:
    """FLOPs of one forward pass of a decoder over (batch, seq) new tokens after `past` cached ones.

    model: a `transformers` causal LM with eager or sdpa attention, on any device; on "meta" nothing
    is computed. logits_to_keep: positions per row that pass the LM head, 0 for all (as in
    `transformers`). The cache is filled by an uncounted pass. Mask and positions are given, since
    on meta the model cannot look at values to make them. Raises ValueError for an attention
    implementation that the counter cannot see.
    """
    implementation = model.config.get_text_config()._attn_implementation
    if implementation not in ("eager", "sdpa"):
        raise ValueError(f"the model uses {implementation!r} attention, whose kernels are not "
                         "counted: load it with attn_implementation='sdpa' or 'eager'")
    device, dtype = model.device, model.dtype

    def step(start: int, length: int, cache=None, **kwargs):
        visible = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
        mask = visible.expand(batch, 1, -1, -1)
        if implementation == "eager":  # eager adds its mask to the scores
            hidden = torch.finfo(dtype).min
            mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, hidden)
        position = torch.arange(start, start + length, device=device).expand(batch, -1)
        return model(input_ids=torch.zeros_like(position), attention_mask=mask,
                     position_ids=position, past_key_values=cache, **kwargs)

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            cache = None
            if past:
                cache = step(0, past, use_cache=True, logits_to_keep=1).past_key_values
            return counted(lambda: step(past, seq, cache, use_cache=cache is not None,
                                        logits_to_keep=logits_to_keep))
    finally:
        for module, training in modes:
            module.training = training


def dense_forward_flops(config: Any, batch: int, seq: int, past: int = 0, logits_to_keep: int = 0,
                        mlp_matrices: int = 3) -> int:
    """`count_forward_flops` in closed form: 2 per weight and token, 4 Sq Sk H dh for attention.

    config: of a decoder whose layers are grouped-query attention and a dense MLP (Llama, Qwen2/3,
    Mistral, Gemma-2 …). mlp_matrices: 3 for a gated MLP (gate, up, down), 2 for a plain one; no
    config says which. Raises ValueError, naming the property, for layers of another kind.
    """
    config = config.get_text_config()
    kind = type(config).__name__
    for name in ("num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank",
                 "is_encoder_decoder"):
        if getattr(config, name, None):
            raise ValueError(f"{kind}.{name} is {getattr(config, name)}, but the closed form is "
                             "for dense grouped-query decoders: use count_forward_flops")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "vocab_size"):
        if not isinstance(getattr(config, name, None), int):
            raise ValueError(f"{kind} has no {name} common to all layers: use count_forward_flops")
    types = set(getattr(config, "layer_types", None) or ())
    if types - {"full_attention", "sliding_attention"}:
        raise ValueError(f"{kind}.layer_types has {sorted(types)}, but the closed form is for "
                         "softmax attention: use count_forward_flops")
    d, heads = config.hidden_size, config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    dh = getattr(config, "head_dim", None) or d // heads
    weights = 2 * d * (heads + kv_heads) * dh + mlp_matrices * d * config.intermediate_size
    attention = 4 * seq * (past + seq) * heads * dh
    logits = 2 * d * config.vocab_size * (min(logits_to_keep, seq) or seq)
    return batch * (config.num_hidden_layers * (2 * seq * weights + attention) + logits)


# -- limits ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Peak:
    """Data-sheet limits of one device: dense bf16 FLOP/s and memory bytes/s."""

    bf16_flops_per_s: float
    bytes_per_s: float


# Keyed by the full name that torch.cuda.get_device_name gives: a PCIe card or a MIG slice of the
# same chip has other limits and must not match. Source: NVIDIA data sheets, dense figures.
PEAKS = {
    "NVIDIA H100 80GB HBM3": Peak(989e12, 3.35e12),
    "NVIDIA H200": Peak(989e12, 4.8e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 2.04e12),
}


def peak_of(device: str | torch.device) -> Peak | None:
    """Limits of a device ("cpu", "cuda:0", …), or None if the table does not have it."""
    return PEAKS.get(device_name(device))


def device_name(device: str | torch.device) -> str:
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def roofline_seconds(flops: float, moved_bytes: float, peak: Peak | None) -> float | None:
    """The shortest time for this much arithmetic and traffic on the device; None if unknown."""
    if peak is None:
        return None
    return max(flops / peak.bf16_flops_per_s, moved_bytes / peak.bytes_per_s)


def utilisation(amount: float, seconds: float, limit_per_s: float | None) -> float | None:
    """Achieved share of a limit: MFU for FLOPs, MBU for bytes. None when the limit is not known."""
    return None if limit_per_s is None else amount / seconds / limit_per_s


def calibrate(
    device: str | torch.device = "cpu", seconds: float = 2.0, size: int | None = None
) -> dict[str, Any]:
    """What large square products and copies reach here, in about `seconds` in all (medians).

    Returns device, gemm_size, gemm_flops_per_s {"float32", "bfloat16"}, copy_bytes_per_s (read +
    written) and the float32_matmul_precision in force (TF32 changes the first figure). size: side
    of the product; default 8192 on CUDA, 1024 elsewhere.
    """
    device = torch.device(device)
    size = size or (8192 if device.type == "cuda" else 1024)
    measure, rates = _stopwatch(device), {}

    def median_seconds(fn) -> float:
        fn()
        times: list[float] = []
        while sum(times) < seconds / 3 and len(times) < 1000 or len(times) < 3:
            times.append(measure(fn))
        return statistics.median(times)

    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        taken = median_seconds(partial(torch.mm, a, b, out=out))
        rates[str(dtype).removeprefix("torch.")] = 2 * size**3 / taken
    source = torch.zeros(size * 2**16, dtype=torch.uint8, device=device)  # larger than the caches
    target = torch.empty_like(source)
    copy = 2 * source.numel() / median_seconds(lambda: target.copy_(source))
    return {"device": device_name(device), "gemm_size": size, "gemm_flops_per_s": rates,
            "copy_bytes_per_s": copy,
            "float32_matmul_precision": torch.get_float32_matmul_precision()}


# -- timing ----------------------------------------------------------------------------------------
def _stopwatch(
    device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> Callable[[Callable], float]:
    """A function that times one call in seconds, with the device idle before and after."""
    if device.type != "cuda":
        def on_host(fn):
            start = clock()
            fn()
            return clock() - start
        return on_host

    def on_cuda(fn):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        with torch.cuda.device(device):
            start.record()
            fn()
            end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    return on_cuda


def spread(values: list[float]) -> dict[str, float]:
    """{"median", "iqr"} of at least two values; quartiles by linear interpolation."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} value(s) have no spread: time at least 2 repeats")
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "iqr": high - low}


def interleaved_timings(
    fns: dict[str, Callable[[], Any]], warmup: int = 3, repeats: int = 10,
    device: str | torch.device = "cpu", seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Times every function once a round, `repeats` rounds, in an order shuffled anew each round.

    Returns {name: {"median", "iqr", "times", "load_average"}}: seconds, times[i] being round i, and
    the highest one-minute load average seen. CUDA devices are timed with events between
    synchronisations, others with `clock`. Warm-up rounds run in the given order, untimed.
    """
    measure = _stopwatch(torch.device(device), clock)
    for _ in range(warmup):
        for fn in fns.values():
            fn()
    shuffle, order = random.Random(seed), list(fns)
    times: dict[str, list[float]] = {name: [] for name in fns}
    loads = [os.getloadavg()[0]]
    for _ in range(repeats):
        shuffle.shuffle(order)
        for name in order:
            times[name].append(measure(fns[name]))
        loads.append(os.getloadavg()[0])
    return {name: {**spread(values), "times": values, "load_average": max(loads)}
            for name, values in times.items()}


def paired_ratio(timings: dict[str, dict[str, Any]], slow: str, fast: str) -> dict[str, Any]:
    """Speed-up of `fast` over `slow`, {"median", "iqr", "ratios"}, from the ratio of each round:
    whatever slowed a round slowed both."""
    rounds = zip(timings[slow]["times"], timings[fast]["times"], strict=True)
    ratios = [a / b for a, b in rounds]
    return {**spread(ratios), "ratios": ratios}


# -- memory ----------------------------------------------------------------------------------------
def peak_rss_bytes() -> int:
    """Resident high-water mark of the process. It never falls: one process per candidate."""
    high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return high if sys.platform == "darwin" else high * 1024


def peak_memory(fn: Callable[[], Any], device: str | torch.device = "cpu") -> dict[str, Any]:
    """Runs fn() and returns {"before_bytes", "peak_bytes", "kind"}.

    kind "cuda_allocated": bytes held by tensors, the peak during fn. kind "rss_high_water": of the
    whole process, before and after; if they are equal, fn stayed below an earlier peak and its own
    need is unknown.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        fn()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
        return {"before_bytes": before, "peak_bytes": peak, "kind": "cuda_allocated"}
    before = peak_rss_bytes()
    fn()
    return {"before_bytes": before, "peak_bytes": peak_rss_bytes(), "kind": "rss_high_water"}
