"""Real skipping: compute only what is executed (inference twin of the reference in `method.py`).

Keys and values are made for every token (others may need them); queries, the attention read, the
output projection and the MLP only for the tokens whose gate is 1. Executed tokens are gathered once
per module into dense rows, so that every matrix product stays dense, and are put back into the
residual stream. A module that all tokens execute runs as the stock one; of an attention module that
nobody executes, keys and values remain; of such an MLP, nothing.

A batch is ragged: row b executes n_b tokens. The projections run on the exact N = sum n_b rows;
only the attention read must be rectangular. It has two forms, and `_read` takes the cheaper one:
queries packed to Q = max n_b a row, with their own rows of the mask, or all S queries in their
places, zeros where nothing is asked. Positions are the original ones: a gathered query keeps its
rotary angle. Decoding is the case S = 1, nothing special.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@torch.no_grad()
def skipping_attention(layer: nn.Module, x: Tensor, gate: Tensor, *, attention_mask, past_key_values, position_embeddings,
                       **kwargs) -> Tensor:
    """x (B, S, d) -> x + Attn on the executed tokens, a new tensor. gate (B, S) holds 0 and 1."""
    attn, (batch, seq, width) = layer.self_attn, x.shape
    h = layer.input_layernorm(x)
    run, flat = _executed(layer, gate)
    if len(flat) == batch * seq:
        out, _ = attn(
            hidden_states=h,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        return x + _post_norm(layer, out)

    family = sys.modules[type(attn).__module__]  # this architecture's own rotary function
    cos, sin = position_embeddings
    k = _heads(attn, "k", attn.k_proj(h)).transpose(1, 2)
    v = attn.v_proj(h).view(batch, seq, -1, attn.head_dim).transpose(1, 2)
    k = family.apply_rotary_pos_emb(k, k[:, :0], cos, sin)[0]
    if past_key_values is not None:
        k, v = past_key_values.update(k, v, attn.layer_idx)
    if len(flat) == 0:
        return x.clone(memory_format=torch.contiguous_format)

    row, position = flat // seq, flat % seq
    q = _heads(attn, "q", attn.q_proj(h.view(-1, width)[flat]))  # (N, H, dh)
    cos, sin = (angles[row if len(angles) > 1 else 0, position] for angles in (cos, sin))
    q = family.apply_rotary_pos_emb(q, q[:, :0], cos, sin)[0]
    out = attn.o_proj(_read(attn, q, k, v, attention_mask, run, flat))
    # A copy, the only one of the layer: the caller may still want x (output_hidden_states).
    rows = x.reshape(-1, width)
    return rows.index_copy(0, flat, rows[flat] + _post_norm(layer, out)).view(x.shape)


@torch.no_grad()
def skipping_mlp(layer: nn.Module, y: Tensor, gate: Tensor) -> Tensor:
    """y (B, S, d) -> y + MLP on the executed tokens. y belongs to this layer and may be reused."""
    _, flat = _executed(layer, gate)
    if len(flat) == gate.numel():
        return y + layer.normed_mlp(y)
    if len(flat):
        rows = y.view(-1, y.shape[-1])
        picked = rows[flat]
        out = layer.normed_mlp(picked[None])[0]  # mixtures of experts want (B, S, d)
        rows.index_copy_(0, flat, picked + out)
    return y


def _executed(layer: nn.Module, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Who executes: (B, S) bool, and (N,) indices into B S, in order. Padding never does.

    The host needs N, so it waits for the device here, once per module: the price of computing less,
    and the reason why skip mode cannot be captured in a CUDA graph.
    """
    run = gate.bool() & layer._routing.valid
    return run, run.flatten().nonzero().squeeze(-1)


def _read(attn: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask, run: Tensor, flat: Tensor):
    """softmax(q k') v for N queries (N, H, dh) over k, v (B, KV, K, dh) -> (N, H dh)."""
    (batch, seq), total = run.shape, len(flat)
    place, length = flat, seq
    if _packs(q, seq, mask):
        row, position, counts = flat // seq, flat % seq, run.sum(1)
        length = total if batch == 1 else int(counts.max())
        place = torch.arange(total, device=q.device)
        if batch * length != total:
            place = row * length + place - (counts.cumsum(0) - counts)[row]
        position = position.new_zeros(batch * length).index_copy_(0, place, position)
        position = position.view(batch, length)
        if mask is None:  # the stock path would be causal: the new tokens are all tokens
            mask = (torch.arange(k.shape[2], device=q.device) <= position[..., None])[:, None]
        else:
            each = torch.arange(batch, device=q.device)[:, None]
            mask = mask.expand(batch, -1, -1, -1)[each, :, position].transpose(1, 2)
    if batch * length != total:
        q = q.new_zeros(batch * length, *q.shape[1:]).index_copy_(0, place, q)
    family, config = sys.modules[type(attn).__module__], attn.config
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, family.eager_attention_forward)
    softcap = getattr(attn, "attn_logit_softcapping", None)  # Gemma-2
    extra = {} if softcap is None else {"softcap": softcap}
    out, _ = attend(
        attn,
        q.view(batch, length, *q.shape[1:]).transpose(1, 2),
        k,
        v,
        mask,
        dropout=0.0,
        scaling=attn.scaling,
        sliding_window=getattr(attn, "sliding_window", None),
        **extra,
    )
    out = out.reshape(batch * length, -1)
    return out if batch * length == total else out[place]


def _packs(q: Tensor, seq: int, mask) -> bool:
    """Whether to pack the queries. The read then costs Q / S of the full one.

    In place is better with one query a row (nothing to pack), for masks that are no 4-D tensors,
    and on CUDA without a mask: the fused causal kernel takes no mask, computes only half of the
    rectangle, and needs no copies of grouped keys. On the CPU that kernel saves next to nothing.
    """
    if seq == 1 or mask is None:
        return seq > 1 and not q.is_cuda
    return isinstance(mask, Tensor) and mask.dim() == 4


def _heads(attn: nn.Module, name: str, states: Tensor) -> Tensor:
    """(..., H dh) -> (..., H, dh), through the per-head norm of families that have one (Qwen3)."""
    states = states.view(*states.shape[:-1], -1, attn.head_dim)
    norm = getattr(attn, f"{name}_norm", None)
    return states if norm is None else norm(states)


def _post_norm(layer: nn.Module, out: Tensor) -> Tensor:
    """The second norm of families that have one (Gemma-2/3)."""
    if hasattr(layer, "pre_feedforward_layernorm"):
        return layer.post_attention_layernorm(out)
    return out
