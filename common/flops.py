"""What a computation costs, counted exactly and without a machine, and the least time that a device needs for it.

`counted` runs a function and adds up the matrix products it really executed;
`count_forward_flops` does so for a decoder, also on the meta device, where a model of any size
costs nothing. `dense_forward_flops` is the closed form of the same number, from the config alone.
One convention throughout, that of `torch.utils.flop_counter`: a multiply-add is 2 FLOPs, only
matrix products count, and attention counts the full rectangle of queries × keys, masked or not.

`peak_of` gives the limits of a device. One that is not in the table has no peak, and then utilisation
is None: it is never guessed. What it takes here is measured by `timing/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
