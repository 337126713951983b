"""What VisiPruner saves by arithmetic: the paper's visual multiply-adds, attention pairs, cache bytes (spec 7).

The paper counts multiply-adds of visual tokens alone ("FLOPs" in its tables), n of them in a layer of width d and FFN width m:

    dense           4 n d^2 + 2 n^2 d + 3 n d m      S = 4 n d^2 + 3 n d m: up to and with the filter layer, no attention
    F = L dense     F' = f S + (e - f) M             M = 4 k d^2 + 2 k^2 d + 3 k d m: k tokens from there to the exit e

f and e count layers, f up to and with the filter layer. The two abstracts print 53.9 % and 62.8 %: one formula, two mean filter
layers (f = 15 and 12). What the same run saves of the whole prefill stands beside it, because attention among visual tokens is
computed up to the filter layer in the released code, and text tokens are not free.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.shapes import LLAVA_7B, LLAVA_13B, Shape

N_VISUAL, TEXT = 576, 74  # of LLaVA-1.5 on the paper's prompt: 650 tokens
MOBILEVLM_3B = Shape(d=2560, f=6912, L=32, H=20, KV=20, dh=128, V=32000, name="MobileVLM-V2-3B")
MOBILE_VISUAL, KEPT, EXIT = 144, 10, 23.9
SIZES = {"LLaVA-1.5-7B": (LLAVA_7B, N_VISUAL), "LLaVA-1.5-13B": (LLAVA_13B, N_VISUAL), "MobileVLM-V2-3B": (MOBILEVLM_3B, MOBILE_VISUAL)}


# -- multiply-adds of visual tokens ------------------------------------------------------------------------
def projections(shape: Shape, n: int) -> int:
    """S: n tokens in a layer, without attention."""
    return 4 * n * shape.d**2 + 3 * n * shape.d * shape.f


def layer(shape: Shape, n: int) -> int:
    """n tokens in a layer, attention among them included."""
    return projections(shape, n) + 2 * n * n * shape.d


def dense(shape: Shape, n: int = N_VISUAL) -> int:
    return shape.L * layer(shape, n)


def pruned(shape: Shape, filter_layers: float, middle: float, n: int = N_VISUAL, kept: int = KEPT, among: bool = False) -> float:
    """F' = f S + middle M. middle: layers with k tokens. among: attention among visual tokens counts up to the filter layer."""
    return filter_layers * (layer(shape, n) if among else projections(shape, n)) + middle * layer(shape, kept)


def saved(shape: Shape, filter_layers: float, middle: float, n: int = N_VISUAL, kept: int = KEPT, among: bool = False) -> float:
    """Percent of the dense model's visual multiply-adds."""
    return 100 * (1 - pruned(shape, filter_layers, middle, n, kept, among) / dense(shape, n))


def filter_layer_for(shape: Shape, total: float, exit_layer: float = EXIT, kept: int = KEPT, n: int = N_VISUAL) -> float:
    """The mean number of layers up to the filter layer that gives a printed total: f S + (e - f) M = total."""
    s, m = projections(shape, n), layer(shape, kept)
    return (total - exit_layer * m) / (s - m)


def visual_tokens_for(total: float, L: int, d: int, m: int) -> int:
    """How many visual tokens a printed dense total stands for: the n whose L (4 n d^2 + 2 n^2 d + 3 n d m) is nearest to it."""
    a, b = 2 * L * d, L * (4 * d * d + 3 * d * m)
    return round((-b + (b * b + 4 * a * total) ** 0.5) / (2 * a))


def whole(shape: Shape, tokens: int) -> int:
    """Multiply-adds of a layer of the whole prefill, text included."""
    return layer(shape, tokens)


def whole_saved(shape: Shape, filter_layers: int, middle: int, n: int = N_VISUAL, text: int = TEXT, kept: int = KEPT,
                attention: bool = False) -> float:
    """Percent of all multiply-adds of a prefill (head left out). attention: that of the picture counts up to the filter layer."""
    full = shape.L * whole(shape, n + text)
    if not attention:
        return 100 * (1 - (pruned(shape, filter_layers, middle, n, kept) + shape.L * whole(shape, text)) / full)
    behind = shape.L - filter_layers - middle
    return 100 * (1 - (filter_layers * whole(shape, n + text) + middle * whole(shape, kept + text) + behind * whole(shape, text)) / full)


# -- attention pairs ---------------------------------------------------------------------------------------
def pairs(visual: int, text: int = TEXT) -> int:
    """(query, key) pairs of a picture in a layer, in the form that gives the baselines' figures: k^2 + k n_t."""
    return visual * visual + visual * text


def pairs_saved(visual_by_layer: list[int], n: int = N_VISUAL, text: int = TEXT) -> float:
    """Percent of the picture's pairs that a plan of visual tokens by layer does not compute."""
    return 100 * (1 - sum(pairs(k, text) for k in visual_by_layer) / (len(visual_by_layer) * pairs(n, text)))


@dataclass(frozen=True)
class PairCase:
    """name, saved percent, the paper's figure or None where it prints none."""

    name: str
    saved: float
    paper: float | None


def pair_cases(L: int = 32) -> list[PairCase]:
    full, one = L * pairs(N_VISUAL), pairs(N_VISUAL)

    def plan(*parts: tuple[int, int]) -> float:
        return pairs_saved([k for k, layers in parts for _ in range(layers)])

    middle = 9 * pairs(KEPT)
    cross = N_VISUAL * TEXT
    return [PairCase("192 retained in every layer", plan((192, L)), 86.4), PairCase("64 retained in every layer", plan((64, L)), 97.6),
            PairCase("FastV, K = 3, r = .75", plan((N_VISUAL, 3), (144, L - 3)), 87.3),
            PairCase("FastV, K = 2, r = .75", plan((N_VISUAL, 2), (144, L - 2)), 87.3),
            PairCase("9 layers with 10 tokens, nothing else", 100 * (1 - middle / full), 99.9),
            PairCase("and text to picture in the merging layer", 100 * (1 - (middle + cross) / full), 99.9),
            PairCase("and text to picture in layers 7 to 15", 100 * (1 - (middle + 9 * cross) / full), 98.3),
            PairCase("and text to picture in layers 7 to 15 and the merging layer", 100 * (1 - (middle + 10 * cross) / full), 98.3),
            PairCase("the released code", 100 * (1 - (cross + 5 * N_VISUAL**2 + 9 * one + middle) / full), None)]


# -- the cache ---------------------------------------------------------------------------------------------
def kv_bytes(shape: Shape, tokens_by_layer: list[int], bytes_each: int = 2) -> int:
    return sum(tokens_by_layer) * 2 * shape.dk * bytes_each


def kv_policies(shape: Shape = LLAVA_7B, filter_layers: int = 15, middle: int = 9, n: int = N_VISUAL, text: int = TEXT) -> dict[str, int]:
    """Bytes of the prompt's cache: dense; the paper's (visual keys between filter and exit alone); the code's (all up to the filter)."""
    deep = shape.L - filter_layers - middle
    return {"dense": kv_bytes(shape, [n + text] * shape.L),
            "paper": kv_bytes(shape, [text] * filter_layers + [KEPT + text] * middle + [text] * deep),
            "code": kv_bytes(shape, [n + text] * filter_layers + [KEPT + text] * middle + [text] * deep)}


# -- what a prefill costs where it is timed ----------------------------------------------------------------
def token_layers(layers: int, visual: int, text: int, filter_layer: int, kept: int, exit_layer: int) -> tuple[int, int]:
    """(dense, pruned) tokens times layers. filter_layer, exit_layer: the last layers, counted from 0, that see all, and `kept`."""
    full = layers * (visual + text)
    some = (filter_layer + 1) * visual + (exit_layer - filter_layer) * kept
    return full, layers * text + some
