"""What ViCA costs by arithmetic: visual FLOPs, prefill, cache, attention entries, at the paper's sizes (spec 7).

Two FLOPs a multiply-add, decoder only, prefill. n visual tokens, T = P + Q text tokens (P before the image), S = n + T, K of
L layers look. Per layer:

    proj_kv = 4 n d dk    proj_qo = 4 n d dq    ffn = 6 n d f    vv = 4 n n dq    tv = 4 n T dq
    dense visual side = L (proj_kv + proj_qo + ffn + vv + tv)        ViCA's = K (proj_kv + tv)

This convention reproduces every TFLOPs and percent cell of the paper's table that it should (T = 62); two others stand
beside it, because a share of 4 % means little without saying of what. Nothing here needs weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from common import shapes
from common.shapes import LLAVA_3B, LLAVA_7B, LLAVA_13B, QWEN25_7B, Shape  # noqa: F401  (the paper's, and one with grouped keys)

N_VISUAL, TEXT, PREFIX, SUFFIX = 576, 62, 35, 27  # LLaVA-1.5 on TextVQA: 638 = 35 + 576 + 27


# Timed with a head of its own, as the paper's models have.
SMOLLM2_135M = replace(shapes.SMOLLM2_135M, tied=False)
PAPER = {LLAVA_3B: 9, LLAVA_7B: 8, LLAVA_13B: 8}  # cross layers


# -- the visual side ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class VisualFlops:
    """FLOPs that visual tokens cause, by kind, over all layers."""

    proj_kv: int
    proj_qo: int
    ffn: int
    vv: int
    tv: int

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))


def visual_flops(shape: Shape, visual: int = N_VISUAL, text: int = TEXT, cross_layers: int | None = None) -> VisualFlops:
    """cross_layers: how many layers look (ViCA); None: dense."""
    every = shape.L if cross_layers is None else 0
    looks = shape.L if cross_layers is None else cross_layers
    return VisualFlops(proj_kv=looks * 4 * visual * shape.d * shape.dk, proj_qo=every * 4 * visual * shape.d * shape.dq,
                       ffn=every * 6 * visual * shape.d * shape.f, vv=every * 4 * visual * visual * shape.dq,
                       tv=looks * 4 * visual * text * shape.dq)


def visual_ratio(shape: Shape, cross_layers: float, visual: int = N_VISUAL, text: int = TEXT) -> float:
    """ViCA's visual FLOPs of the dense model's. cross_layers may be a mean, e.g. 8 x the mean share of PyramidDrop."""
    return cross_layers * visual_flops(shape, visual, text, 1).total / visual_flops(shape, visual, text).total


def equivalent_tokens(ratio: float, visual: int = N_VISUAL) -> int:
    """The paper's column: as many dense visual tokens, rounded up."""
    return math.ceil(visual * ratio)


def pyramid_tokens(visual: int = N_VISUAL) -> float:
    """PyramidDrop's mean over four equal stages that keep 1, 1/2, 1/4, 1/8."""
    return visual * (1 + 0.5 + 0.25 + 0.125) / 4


def causal_flops(shape: Shape, visual: int, prefix: int, suffix: int, cross_layers: int | None = None) -> float:
    """Only causal edges: half of visual-to-visual, text behind the image reads it, it reads the prefix."""
    whole = visual_flops(shape, visual, suffix, cross_layers)
    if cross_layers is not None:
        return whole.total
    among = visual * (visual + 1) // 2
    return whole.total - whole.vv + shape.L * 4 * shape.dq * (among + visual * prefix)


def mac_flops(shape: Shape, visual: int = N_VISUAL) -> float:
    """As FastV counts: multiply-adds, an FFN of two matrices, no text: L (4 n d^2 + 2 n^2 d + 2 n d f)."""
    return shape.L * (4 * visual * shape.d**2 + 2 * visual**2 * shape.d + 2 * visual * shape.d * shape.f)


def mac_flops_vica(shape: Shape, cross_layers: int, visual: int = N_VISUAL) -> float:
    return cross_layers * 2 * visual * shape.d * shape.dk


def clip_tower_flops(layers: int = 24, tokens: int = 577, d: int = 1024, m: int = 4096, patch: int = 14) -> int:
    """CLIP ViT-L/14-336: projections, two-matrix FFN, attention, patch embedding."""
    return layers * (8 * tokens * d * d + 4 * tokens * d * m + 4 * tokens * tokens * d) + 2 * (tokens - 1) * 3 * patch**2 * d


def projector_flops(d: int, visual: int = N_VISUAL, tower: int = 1024) -> int:
    return 2 * visual * (tower * d + d * d)


def with_tower(shape: Shape, cross_layers: int) -> float:
    """The share of visual FLOPs left when tower and projector, which both pay, are counted on both sides."""
    shared = clip_tower_flops() + projector_flops(shape.d)
    return (visual_flops(shape, cross_layers=cross_layers).total + shared) / (visual_flops(shape).total + shared)


# -- the whole prefill -------------------------------------------------------------------------------------
def prefill_flops(shape: Shape, visual: int, text: int, cross_layers: int | None = None, *, prefix: int = 0, frozen: bool = False,
                  warm: bool = False, split: bool = False) -> int:
    """Layers' FLOPs of one prefill, head left out. cross_layers None: dense over visual + text (visual 0: text only).

    As in spec 7.2 all T queries are charged for the visual keys. split=True is what `method.forward` executes on rows of equal
    shape: the prefix asks for no visual keys. frozen: the prefix asks for nothing at all. warm: visual keys are at hand.
    """
    if cross_layers is None:
        tokens = visual + text
        return shape.L * (2 * tokens * shape.linear + 4 * tokens * tokens * shape.dq)
    queries = text - prefix if frozen else text
    if split and not frozen:
        looking = prefix * prefix + (text - prefix) * (text + visual)
    else:
        looking = queries * (text + visual)
    saved = 0  # the formula of a frozen prefix leaves out its queries' and outputs' projections; the layers still execute them
    if frozen and not split:
        saved = shape.L * 4 * prefix * shape.d * shape.dq
    attention = cross_layers * looking + (shape.L - cross_layers) * queries * text
    made = 0 if warm else cross_layers * 4 * visual * shape.d * shape.dk
    return shape.L * 2 * text * shape.linear + 4 * attention * shape.dq + made - saved


def head_flops(shape: Shape, positions: int = 1) -> int:
    return 2 * positions * shape.d * shape.V


def bound(shape: Shape, cross_layers: int, text: int = TEXT, visual: int = N_VISUAL) -> float:
    """The most that ViCA's prefill can be faster than dense where FLOPs are the limit."""
    return prefill_flops(shape, visual, text) / prefill_flops(shape, visual, text, cross_layers)


def text_bound(shape: Shape, text: int = TEXT, visual: int = N_VISUAL) -> float:
    """The most that any method which works on the visual side can save."""
    return prefill_flops(shape, visual, text) / prefill_flops(shape, 0, text)


def longest_text_for(speedup: float, shape: Shape = LLAVA_7B, cross_layers: int = 8) -> int:
    """The longest prompt at which FLOPs allow that speed-up."""
    return max(t for t in range(1, 4096) if bound(shape, cross_layers, t) >= speedup)


# -- memory ------------------------------------------------------------------------------------------------
def kv_bytes(shape: Shape, visual: int = N_VISUAL, layers: int | None = None, bytes_each: int = 2) -> int:
    return shape.kv_bytes(visual, bytes_each) * (shape.L if layers is None else layers) // shape.L


def attention_entries(shape: Shape, cross_layers: int | None = None, prefix: int = PREFIX, visual: int = N_VISUAL,
                      suffix: int = SUFFIX) -> int:
    """Causal (query, key) pairs over all layers."""
    def triangle(n: int) -> int:
        return n * (n + 1) // 2

    if cross_layers is None:
        return shape.L * triangle(prefix + visual + suffix)
    return shape.L * triangle(prefix + suffix) + cross_layers * suffix * visual


def projector_parameters(d: int, tower: int = 1024) -> int:
    return tower * d + d + d * d + d


def decode_bytes_ratio(shape: Shape, cross_layers: int, batch: int, text: int = TEXT) -> float:
    """Bytes that a step of decoding reads, dense over ViCA: weights (embedding left out) once, caches per row; bf16."""
    weights = 2 * (shape.parameters() - shape.V * shape.d)
    words = kv_bytes(shape, text)
    return (weights + batch * (words + kv_bytes(shape))) / (weights + batch * (words + kv_bytes(shape, layers=cross_layers)))


def roofline_ms(shape: Shape, flops: float, batch: int, peak: float, mfu: float, bandwidth: float) -> float:
    """max(FLOPs at a share of the peak, weights read once), in ms."""
    return 1e3 * max(batch * flops / (peak * mfu), 2 * shape.parameters() / bandwidth)


def mean_ratio(shapes: Iterable[tuple[Shape, int]] = tuple(PAPER.items())) -> float:
    values = [visual_ratio(shape, k) for shape, k in shapes]
    return sum(values) / len(values)
