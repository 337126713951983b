"""How a family makes queries and keys of the normed state, for mode "skip": projections, norms, clipping, rotation.

Mode "skip" computes queries for executed tokens only, so it cannot call the stock attention module and has to know what happens in
it. Families differ in few ways, and which one a layer has is measured: the keys and values that the stock layer puts into a cache
are compared with each candidate. A layer for which none is right runs in mode "mask" only.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Anatomy, Passed, UnfitModel, same

Norm = Literal["none", "all heads", "each head", "heads apart", "after rotation"]
Rotation = Literal["none", "whole", "first dimensions"]
NAMES = {"q": ("q_norm", "q_layernorm", "query_layernorm"), "k": ("k_norm", "k_layernorm", "key_layernorm")}
OUTPUTS = ("o_proj", "out_proj", "dense")


@dataclass(frozen=True)
class Projections:
    """fused: name of the one projection of queries, keys and values, in this order; "" where they are apart. norm: over the width of all
    heads, over each head, over each head with weights of its own, or over each head behind the rotation. rotation: of all of a head's
    dimensions or of the first of them. clip: bound of all three."""

    fused: str
    output: str
    norm: Norm
    rotation: Rotation
    clip: float | None
    head: int  # width of a head

    def keys_and_values(self, attn: nn.Module, h: Tensor, angles) -> tuple[Tensor, Tensor]:
        """h (B, S, d) -> keys and values (B, KV, S, dh), as they enter the cache. angles: cos and sin, (B or 1, S, dh)."""
        return self._finished(attn, "k", self._projected(attn, "k", h), angles), self._heads(self._projected(attn, "v", h))

    def queries(self, attn: nn.Module, rows: Tensor, angles) -> Tensor:
        """rows (N, d), each at a position of its own -> queries (N, H, dh). angles: cos and sin of each row, (N, dh)."""
        angles = angles and tuple(part[None] for part in angles)
        return self._finished(attn, "q", self._projected(attn, "q", rows[None]), angles)[0].transpose(0, 1)

    def _projected(self, attn: nn.Module, name: str, h: Tensor) -> Tensor:
        if not self.fused:
            out = getattr(attn, f"{name}_proj")(h)
        else:
            joint = getattr(attn, self.fused)
            width, rest = (n * self.head for n in (attn.config.num_attention_heads, attn.config.num_key_value_heads))
            here = {"q": slice(width), "k": slice(width, width + rest), "v": slice(width + rest, width + 2 * rest)}[name]
            if type(joint) is nn.Linear:  # an adapter around it has a part in all of them
                out = F.linear(h, joint.weight[here], None if joint.bias is None else joint.bias[here])
            else:
                out = joint(h)[..., here]
        return out if self.clip is None else out.clamp(-self.clip, self.clip)

    def _heads(self, states: Tensor) -> Tensor:
        """(B, S, H dh) -> (B, H, S, dh)."""
        return states.view(*states.shape[:-1], -1, self.head).transpose(1, 2)

    def _finished(self, attn: nn.Module, name: str, states: Tensor, angles) -> Tensor:
        norm: Any = next((getattr(attn, n) for n in NAMES[name] if isinstance(getattr(attn, n, None), nn.Module)), None)
        if self.norm == "all heads":
            states = norm(states)
        if self.norm == "each head":
            states = norm(states.view(*states.shape[:-1], -1, self.head)).flatten(-2)
        states = self._heads(states)
        if self.norm == "heads apart":
            states = norm(states)
        states = self._rotated(attn, states, angles)
        return norm(states) if self.norm == "after rotation" else states

    def _rotated(self, attn: nn.Module, states: Tensor, angles) -> Tensor:
        if self.rotation == "none":
            return states
        rotate, (cos, sin) = _rotary(attn), angles
        part = states if self.rotation == "whole" else states[..., : cos.shape[-1]]
        turned = rotate(part, part[:, :0], cos, sin)[0]
        return turned if self.rotation == "whole" else torch.cat([turned, states[..., cos.shape[-1] :]], -1)


def _rotary(attn: nn.Module):
    """This architecture's own rotary function."""
    return getattr(sys.modules[type(attn).__module__], "apply_rotary_pos_emb", None)


class _Seen:
    """In the place of a cache: takes the keys and values that a layer hands over."""

    is_compileable = False
    keys: Tensor | None = None
    values: Tensor | None = None

    def update(self, keys, values, *args, **kwargs):
        self.keys, self.values = keys.clone(), values.clone()
        return keys, values

    def get_seq_length(self, *args) -> int:
        return 0


def measured(one: Passed, anatomy: Anatomy, where: str) -> Projections:
    """The projections of a stock layer. Raises UnfitModel naming what mode "skip" cannot do with it."""
    def refuse(what: str) -> UnfitModel:
        return UnfitModel(f"{what} {where} ({type(one.layer).__name__.removeprefix('Routed')}).")

    attn = one.layer.get_submodule(anatomy.attn.modules[0])
    fused = next((name for name in ("qkv_proj",) if hasattr(attn, name)), "")
    output = next((name for name in OUTPUTS if hasattr(attn, name)), "")
    apart = all(hasattr(attn, f"{name}_proj") for name in "qkv")
    if not output or not (fused or apart) or "past_key_values" not in one.kwargs:
        raise refuse("Its queries, keys and values do not come from projections that can be told apart.")
    seen: Any = _Seen()
    try:
        one.again(past_key_values=seen)
    except Exception as error:
        raise refuse(f"It does more with a cache than to append keys and values ({type(error).__name__}: {error}).") from error
    if seen.keys is None or seen.keys.dim() != 4:
        raise refuse("It keeps no keys and values of its own.")
    h = one.x
    for name in anatomy.attn.before:
        h = one.layer.get_submodule(name)(h)
    angles = one.kwargs.get("position_embeddings")
    rotations = ("whole", "first dimensions") if angles is not None and _rotary(attn) is not None else ()
    norms = ("each head", "all heads", "heads apart", "after rotation") if any(hasattr(attn, name) for name in NAMES["k"]) else ()
    clip = getattr(attn.config, "clip_qkv", None)
    for norm, rotation, bound in product((*norms, "none"), (*rotations, "none"), {None, clip}):
        tried = Projections(fused, output, norm, rotation, bound, seen.keys.shape[-1])
        try:
            k, v = tried.keys_and_values(attn, h, angles)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            continue  # shapes that do not fit: not this one
        if same(k, seen.keys) and same(v, seen.values):
            return tried
    raise refuse("Its keys are more than a projection, a norm and a rotation, or its values more than a projection.")
