"""Real skipping: compute only what is executed (the inference twin of the reference in `gating.py`).

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

import inspect
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .layers import Branch, tensor_of


def skipping_layer(layer: nn.Module, x: Tensor, g_attn: Tensor, decide: Callable, kwargs: dict) -> tuple[Tensor, Tensor]:
    """A whole layer: x (B, S, d), g_attn (B, S) -> (its output, the MLP's gate, which `decide(x, y, g_attn)` gives)."""
    y = skipping_attention(layer, x, g_attn, **kwargs)
    series = layer._anatomy.series
    g_mlp = decide(x, y if series else x, g_attn)
    return skipping_mlp(layer, y, g_mlp, None if series else x), g_mlp


@torch.no_grad()
def skipping_attention(layer: nn.Module, x: Tensor, gate: Tensor, *, attention_mask=None, past_key_values=None,
                       position_embeddings=None, **kwargs) -> Tensor:
    """x (B, S, d) -> x + Attn on the executed tokens, a new tensor. gate (B, S) holds 0 and 1."""
    branch, projections, (batch, seq, width) = layer._anatomy.attn, layer._projections, x.shape
    attn = layer.get_submodule(branch.modules[0])
    h = _through(layer, branch.before, x)
    run, flat = _executed(layer, gate)
    if len(flat) == batch * seq:
        given = {"attention_mask": attention_mask, "past_key_values": past_key_values, "position_embeddings": position_embeddings}
        return x + _added(layer, branch, tensor_of(attn(h, **_accepted(attn, given | kwargs))))

    k, v = projections.keys_and_values(attn, h, position_embeddings)
    if past_key_values is not None:
        k, v = past_key_values.update(k, v, attn.layer_idx)
    if len(flat) == 0:
        return x.clone(memory_format=torch.contiguous_format)

    row, position = flat // seq, flat % seq
    angles = position_embeddings and tuple(part[row if len(part) > 1 else 0, position] for part in position_embeddings)
    q = projections.queries(attn, h.view(-1, width)[flat], angles)  # (N, H, dh)
    out = getattr(attn, projections.output)(_read(attn, q, k, v, attention_mask, run, flat))
    # A copy, the only one of the layer: the caller may still want x (output_hidden_states).
    rows = x.reshape(-1, width)
    return rows.index_copy(0, flat, rows[flat] + _added(layer, branch, out)).view(x.shape)


@torch.no_grad()
def skipping_mlp(layer: nn.Module, y: Tensor, gate: Tensor, x: Tensor | None = None) -> Tensor:
    """y (B, S, d) -> y + MLP on the executed tokens. y belongs to this layer and may be reused.

    x: what the MLP reads, where it stands beside attention and not behind it.
    """
    branch, read = layer._anatomy.mlp, y if x is None else x
    _, flat = _executed(layer, gate)
    if len(flat) == gate.numel():
        return y + _mlp(layer, branch, read)
    if len(flat):
        rows = y.view(-1, y.shape[-1])
        picked = rows[flat]
        out = _mlp(layer, branch, (picked if x is None else x.reshape(rows.shape)[flat])[None])[0]  # mixtures of experts want (B, S, d)
        rows.index_copy_(0, flat, picked + out)
    return y


def _mlp(layer: nn.Module, branch: Branch, states: Tensor) -> Tensor:
    return _added(layer, branch, _through(layer, branch.modules, _through(layer, branch.before, states)))


def _through(layer: nn.Module, names: tuple[str, ...], states: Tensor) -> Tensor:
    for name in names:
        states = tensor_of(layer.get_submodule(name)(states))
    return states


def _added(layer: nn.Module, branch: Branch, out: Tensor) -> Tensor:
    """What becomes of a module's output before it is added: the second norm of Gemma-2, the multiplier of Granite."""
    out = _through(layer, branch.after, out)
    return out if branch.scale == 1.0 else out * branch.scale


def _accepted(module: nn.Module, kwargs: dict) -> dict:
    """Of the layer's arguments those that the module takes."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return kwargs
    names = {p.name for p in parameters}
    return {name: value for name, value in kwargs.items() if name in names}


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
        if mask is None and getattr(attn, "is_causal", True):  # as the stock path would be: the new tokens are all tokens
            mask = (torch.arange(k.shape[2], device=q.device) <= position[..., None])[:, None]
        elif mask is not None:
            each = torch.arange(batch, device=q.device)[:, None]
            mask = mask.expand(batch, -1, -1, -1)[each, :, position].transpose(1, 2)
    if batch * length != total:
        q = q.new_zeros(batch * length, *q.shape[1:]).index_copy_(0, place, q)
    family, config = sys.modules[type(attn).__module__], attn.config
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, family.eager_attention_forward)
    extras = {"softcap": getattr(attn, "attn_logit_softcapping", None), "s_aux": getattr(attn, "sinks", None)}  # Gemma-2; gpt-oss
    extras = {name: value for name, value in extras.items() if value is not None}
    out, _ = attend(
        attn,
        q.reshape(batch, length, *q.shape[1:]).transpose(1, 2),
        k,
        v,
        mask,
        dropout=0.0,
        scaling=attn.scaling,
        sliding_window=getattr(attn, "sliding_window", None),
        **extras,
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
