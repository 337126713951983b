"""What ViCA costs by arithmetic: visual FLOPs, prefill, cache, attention entries, at the paper's sizes (spec 7).

Two FLOPs a multiply-add, decoder only, prefill. n visual tokens, T = P + Q text tokens (P before the image), S = n + T, K of
L layers look. Per layer:

    proj_kv = 4 n d dk    proj_qo = 4 n d dq    ffn = 6 n d m    vv = 4 n n dq    tv = 4 n T dq
    dense visual side = L (proj_kv + proj_qo + ffn + vv + tv)        ViCA's = K (proj_kv + tv)

This convention reproduces every TFLOPs and percent cell of the paper's table that it should (T = 62); two others stand
beside it, because a share of 4 % means little without saying of what. Nothing here needs weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

N_VISUAL, TEXT, PREFIX, SUFFIX = 576, 62, 35, 27  # LLaVA-1.5 on TextVQA: 638 = 35 + 576 + 27


@dataclass(frozen=True)
class Shape:
    """A decoder's dimensions: width d, FFN m, layers L, heads H, key heads Hk, head size hd, vocabulary."""

    name: str
    d: int
    m: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int = 32000

    @classmethod
    def of(cls, config) -> Shape:
        """Of a transformers config."""
        heads = config.num_attention_heads
        return cls(config.model_type, config.hidden_size, config.intermediate_size, config.num_hidden_layers, heads,
                   getattr(config, "num_key_value_heads", None) or heads,
                   getattr(config, "head_dim", None) or config.hidden_size // heads, config.vocab_size)

    @property
    def dq(self) -> int:
        return self.heads * self.head

    @property
    def dk(self) -> int:
        return self.kv_heads * self.head

    @property
    def linear(self) -> int:
        """Multiply-adds of a token's projections and FFN in a layer: 202,375,168 at 7B."""
        return 2 * self.d * self.dq + 2 * self.d * self.dk + 3 * self.d * self.m


LLAVA_3B = Shape("LLaVA-1.5-3B", 2560, 6912, 32, 32, 32, 80)
LLAVA_7B = Shape("LLaVA-1.5-7B", 4096, 11008, 32, 32, 32, 128)
LLAVA_13B = Shape("LLaVA-1.5-13B", 5120, 13824, 40, 40, 40, 128)
QWEN25_7B = Shape("Qwen2.5-7B", 3584, 18944, 28, 28, 4, 128, 152064)
SMOLLM2_135M = Shape("SmolLM2-135M", 576, 1536, 30, 9, 3, 64, 49152)
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
    every = shape.layers if cross_layers is None else 0
    looks = shape.layers if cross_layers is None else cross_layers
    return VisualFlops(proj_kv=looks * 4 * visual * shape.d * shape.dk, proj_qo=every * 4 * visual * shape.d * shape.dq,
                       ffn=every * 6 * visual * shape.d * shape.m, vv=every * 4 * visual * visual * shape.dq,
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
    return whole.total - whole.vv + shape.layers * 4 * shape.dq * (among + visual * prefix)


def mac_flops(shape: Shape, visual: int = N_VISUAL) -> float:
    """As FastV counts: multiply-adds, an FFN of two matrices, no text: L (4 n d^2 + 2 n^2 d + 2 n d m)."""
    return shape.layers * (4 * visual * shape.d**2 + 2 * visual**2 * shape.d + 2 * visual * shape.d * shape.m)


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
        return shape.layers * (2 * tokens * shape.linear + 4 * tokens * tokens * shape.dq)
    queries = text - prefix if frozen else text
    if split and not frozen:
        looking = prefix * prefix + (text - prefix) * (text + visual)
    else:
        looking = queries * (text + visual)
    saved = 0  # the formula of a frozen prefix leaves out its queries' and outputs' projections; the layers still execute them
    if frozen and not split:
        saved = shape.layers * 4 * prefix * shape.d * shape.dq
    attention = cross_layers * looking + (shape.layers - cross_layers) * queries * text
    made = 0 if warm else cross_layers * 4 * visual * shape.d * shape.dk
    return shape.layers * 2 * text * shape.linear + 4 * attention * shape.dq + made - saved


def head_flops(shape: Shape, positions: int = 1) -> int:
    return 2 * positions * shape.d * shape.vocabulary


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
    return (shape.layers if layers is None else layers) * 2 * visual * shape.dk * bytes_each


def attention_entries(shape: Shape, cross_layers: int | None = None, prefix: int = PREFIX, visual: int = N_VISUAL,
                      suffix: int = SUFFIX) -> int:
    """Causal (query, key) pairs over all layers."""
    def triangle(n: int) -> int:
        return n * (n + 1) // 2

    if cross_layers is None:
        return shape.layers * triangle(prefix + visual + suffix)
    return shape.layers * triangle(prefix + suffix) + cross_layers * suffix * visual


def parameters(shape: Shape) -> int:
    """Of the language model: layers with two norms, embedding, head, last norm."""
    return shape.layers * (shape.linear + 2 * shape.d) + 2 * shape.vocabulary * shape.d + shape.d


def projector_parameters(d: int, tower: int = 1024) -> int:
    return tower * d + d + d * d + d


def decode_bytes_ratio(shape: Shape, cross_layers: int, batch: int, text: int = TEXT) -> float:
    """Bytes that a step of decoding reads, dense over ViCA: weights (embedding left out) once, caches per row; bf16."""
    weights = 2 * (parameters(shape) - shape.vocabulary * shape.d)
    words = kv_bytes(shape, text)
    return (weights + batch * (words + kv_bytes(shape))) / (weights + batch * (words + kv_bytes(shape, layers=cross_layers)))


def roofline_ms(shape: Shape, flops: float, batch: int, peak: float, mfu: float, bandwidth: float) -> float:
    """max(FLOPs at a share of the peak, weights read once), in ms."""
    return 1e3 * max(batch * flops / (peak * mfu), 2 * parameters(shape) / bandwidth)


def mean_ratio(shapes: Iterable[tuple[Shape, int]] = tuple(PAPER.items())) -> float:
    values = [visual_ratio(shape, k) for shape, k in shapes]
    return sum(values) / len(values)
