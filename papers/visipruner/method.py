"""VisiPruner: when, where and through which tokens a picture enters a language model, and what may be left out (arXiv 2510.17205).

The paper finds three stages in a decoder that answers a question about a picture:

    shallow   up to the boundary: the last token takes nothing from the picture. Its text-to-picture attention is skipped
              (in the first layer merged into one visual token, because queries are used to a sink there).
    middle    the first layer behind the boundary in which leaving out a visual token turns the attention output is the
              filter layer f. Of all visual tokens only those stay that move the output of the last token far.
    deep      when two layers one after the other would answer the same without any of them, the rest is dropped, too.

All of it is decided by one row of attention a layer, that of the last prompt token. With weights w_{h,j}, values v_{h,j}
and the output O = concat_h sum_j w_{h,j} v_{h,j} in front of o_proj, the share of token j is c_j = concat_h w_{h,j} v_{h,j}:

    cos_j = cos(O, O - c_j)        L2_j = |c_j|                                        (paper Eq. 6, 7; `influence`)

`Rule` is the paper's algorithm on these numbers and nothing else: it holds no model. The session (session.py) runs it on an
unchanged model: tokens that are dropped leave the hidden states, the position ids and the cache of later layers. Kept tokens
keep the positions that they had.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class ShallowConfig:
    """What is left out in layers 0 to `layers` - 1 (spec 3.2), prefill alone.

    mode: "after" sets weights to zero behind the softmax, as the released code does, and nothing is saved; "before" hides the
        keys, as the paper's text says: what a kernel can skip.
    visual_self: visual tokens attend to visual tokens (the code from its second layer on; the paper: no).
    first: of the first layer: "merge" moves the weight that text gives to all visual tokens to number `onto`; "half" leaves text the
        second half of the visual tokens (the code for 13B); in both visual tokens do not attend to visual tokens, whatever
        `visual_self`. "skip" treats it as the others; "none" leaves it alone.
    """

    layers: int = 6
    mode: Literal["before", "after"] = "after"
    visual_self: bool = False
    first: Literal["merge", "half", "skip", "none"] = "merge"
    onto: int = 0

    def __post_init__(self) -> None:
        _one_of(self, mode=("before", "after"), first=("merge", "half", "skip", "none"))
        _whole(self, layers=0, onto=0)


@dataclass(frozen=True)
class VisiPrunerConfig:
    """Layers count from 0, as in the code.

    boundary: the first layer that is tested is boundary + 1 (strictly behind it). layer_threshold: the filter layer is the first
    with a cos_j below it. tokens_threshold: tokens with L2_j above it stay; relative: of L2_j / |O|, which transfers between models.
    exit_cos, exit_patience, exit_consecutive: vision ends behind so many layers in which every cos_j is at least exit_cos.
    shallow: None leaves the shallow stage as it is. kv: which layers keep keys of visual tokens for decoding: "all" what they
    have; "boundary" none up to it; "filter" none up to and with the filter layer (paper section 6).
    Raises ValueError for values that mean nothing.
    """

    boundary: int = 6
    layer_threshold: float = 0.995
    tokens_threshold: float = 0.2
    relative: bool = False
    exit_cos: float = 0.999
    exit_patience: int = 2
    exit_consecutive: bool = True
    shallow: ShallowConfig | None = field(default_factory=ShallowConfig)
    kv: Literal["all", "boundary", "filter"] = "filter"

    def __post_init__(self) -> None:
        _one_of(self, kv=("all", "boundary", "filter"))
        _whole(self, exit_patience=1, boundary=-1)  # the first tested layer is the one behind the boundary
        for name in ("layer_threshold", "exit_cos"):
            if not -1 <= getattr(self, name) <= 2:
                raise ValueError(f"{name} is {getattr(self, name)}, and cosines lie between -1 and 1 (2: every layer passes)")
        if not self.tokens_threshold >= 0:  # nan would drop every token
            raise ValueError(f"tokens_threshold is {self.tokens_threshold}; it is compared with a norm, so 0 is the least")

    def with_(self, **changes) -> VisiPrunerConfig:
        return replace(self, **changes)


def _one_of(config, **names: tuple[str, ...]) -> None:
    for name, words in names.items():
        if (value := getattr(config, name)) not in words:
            raise ValueError(f"{name} is {value!r}; it is one of {', '.join(words)}")


def _whole(config, **least: int) -> None:
    for name, low in least.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name} is {value!r}; it is a whole number from {low} on")


def paper(**changes) -> VisiPrunerConfig:
    """As the paper's text has it: skipped before the softmax, visual self-attention gone, no visual keys up to the filter layer."""
    shallow = ShallowConfig(mode="before", visual_self=False, first="merge")
    return VisiPrunerConfig(shallow=shallow, exit_consecutive=True, kv="filter").with_(**changes)


def code_compat(**changes) -> VisiPrunerConfig:
    """As the released code computes: zeroed behind the softmax, visual self-attention kept but in the first layer, all keys kept, a
    counter that is never reset."""
    shallow = ShallowConfig(mode="after", visual_self=True, first="merge")
    return VisiPrunerConfig(shallow=shallow, exit_consecutive=False, kv="all").with_(**changes)


def neutral() -> VisiPrunerConfig:
    """Nothing is left out: the model as it is."""
    return VisiPrunerConfig(shallow=None, layer_threshold=-1.0, kv="all")


# -- influence ---------------------------------------------------------------------------------------------
class Influence(NamedTuple):
    """cos, norm (B, K): of leaving out each key. output (B,): |O|. In fp32 or better."""

    cos: Tensor
    norm: Tensor
    output: Tensor


@torch.no_grad()
def influence(weights: Tensor, values: Tensor) -> Influence:
    """What leaving out each key would do to the output of one query (Eq. 6, 7), without leaving any out.

    weights (B, H, K), values (B, G, K, d) with H a multiple of G. O . c_j = sum_h w_hj (v_hj . O_h) and |c_j|^2 = sum_h w_hj^2 |v_hj|^2,
    so that no (H, K, d) is ever made. A key that turns the whole output to zero has cos 0.
    """
    wide = torch.promote_types(values.dtype, torch.float32)
    b, h, k = weights.shape
    w, v = weights.to(wide).view(b, values.shape[1], -1, k), values.to(wide)
    out = w @ v  # (B, G, H/G, d)
    along = ((out @ v.transpose(-1, -2)) * w).sum((1, 2))  # O . c_j
    own = (w.square() * v.square().sum(-1)[:, :, None]).sum((1, 2))  # |c_j|^2
    whole = out.square().sum((1, 2, 3))[:, None]
    rest = (whole - 2 * along + own).clamp(min=0).sqrt()
    cos = torch.where(rest > 0, (whole - along) / (whole.sqrt() * rest).clamp(min=torch.finfo(wide).tiny), torch.zeros_like(rest))
    return Influence(cos.clamp(max=1.0), own.sqrt(), whole[:, 0].sqrt())


# -- the rule ----------------------------------------------------------------------------------------------
@dataclass
class Rule:
    """The paper's algorithm on one row of a batch (spec 3.3, 3.4): fed with the influence of its visual tokens, layer by layer.

    filter_layer, exit_layer: where they were found, or None. kept: slots of the visual tokens that the filter layer kept.
    """

    config: VisiPrunerConfig
    filter_layer: int | None = None
    exit_layer: int | None = None
    kept: Tensor | None = None
    _quiet: int = 0

    def wants(self, layer: int) -> bool:
        """Whether this layer's influence can change anything."""
        return layer > self.config.boundary and self.exit_layer is None and (self.kept is None or len(self.kept) > 0)

    def step(self, layer: int, slots: Tensor, cos: Tensor, norm: Tensor, output: float) -> Tensor:
        """The slots that go on behind this layer. slots (n,): visual tokens present; cos, norm (n,): theirs; output: |O|."""
        if not self.wants(layer) or not len(slots):
            return slots
        if self.filter_layer is None:
            if cos.min() < self.config.layer_threshold:
                stay = norm / output > self.config.tokens_threshold if self.config.relative else norm > self.config.tokens_threshold
                self.filter_layer, self.kept = layer, slots[stay]
                return self.kept
            return slots
        if cos.min() >= self.config.exit_cos:
            self._quiet += 1
        elif self.config.exit_consecutive:
            self._quiet = 0
        if self._quiet < self.config.exit_patience:
            return slots
        self.exit_layer = layer
        return slots[:0]
