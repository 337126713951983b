"""Several layers of a vision tower in one language model: which layers, and where they go in.

f_k (M, N, dv) is the state behind block k of the tower, of M pictures of N patches, class token dropped. One layer, f_main, is what
a LLaVA reads; V = P(f_main) are its N visual tokens, P = linear, GELU, linear. A `LayerSet` names more of them, and a
`FusionConfig` where they go:

    external direct     V = P([f_a ; f_b ; ...]), side by side, or means of groups side by side     ExternalDirect     (3.3)
    external modular    V = P(MMFuser(f_main; f_a, f_b, ...)), deformable cross-attention           mmfuser.py         (3.4)
    internal direct     before block l_j of the decoder   h[picture] += P_j(f_j)                    internal.py        (3.5)
    internal modular    in block l_j   h += tanh(g) CA(norm h, P_j(f_j)), and a gated MLP           internal.py        (3.6)

`Fusion` holds what is new: it turns states into visual tokens and what the blocks get. The decoder stays a stock model, and hooks
bring the internal kinds into it (`internal.Internal`); `multimodal.Fused` does both on a stock multimodal model. Which layers stand
for the tower's stages follows from their similarity (`layer_similarity`, `find_stages`). Sections are the specification's.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

NAMES = ("single", "double", "triple", "former", "latter", "all")
Position = Literal["external", "internal"]
Pattern = Literal["direct", "modular"]
Operation = Literal["parts", "concat", "mean", "sum"]
Variant = Literal["pre", "post", "parallel"]


# -- which layers (3.2) ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LayerSet:
    """Layers of a tower with `blocks` blocks; k = 0 is its embeddings, k = blocks its last state. main: what a LLaVA reads.

    parts: what external direct puts side by side, each the mean of its layers. levels: what MMFuser's query looks at.
    extras: what goes into the decoder's blocks, and place: which ("depth": where the layer stands in its tower; "first", "last",
    "ends": the first, the last blocks, or half of them each). Raises ValueError for a layer that is not there.
    """

    name: str
    blocks: int
    main: int
    parts: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...]
    extras: tuple[int, ...]
    place: Literal["depth", "first", "last", "ends"] = "depth"

    def __post_init__(self) -> None:
        named = {self.main, *self.levels, *self.extras, *itertools.chain(*self.parts)}
        if absent := sorted(k for k in named if not 0 <= k <= self.blocks):
            raise ValueError(f"layer set {self.name!r}: layer {absent[0]} of a tower whose states are 0 to {self.blocks}")
        if not self.extras or not all(self.parts):
            raise ValueError(f"layer set {self.name!r} is empty")

    @property
    def layers(self) -> tuple[int, ...]:
        """All of them, in order, the main one included."""
        return tuple(sorted({self.main, *self.levels, *self.extras, *itertools.chain(*self.parts)}))


def few(name: str, layers: Sequence[int], blocks: int, main: int | None = None) -> LayerSet:
    """Layers one by one, as Single, Double and Triple are. The main layer is in the direct parts only where it is named."""
    main = blocks - 1 if main is None else main
    return LayerSet(name, blocks, main, tuple((k,) for k in layers), tuple(k for k in layers if k != main) or (main,), tuple(layers))


def by_depth(blocks: int) -> tuple[int, int, int]:
    """A layer of each stage by its depth: 3, 18, 23 of 24 blocks, 2, 9, 11 of 12; the last is LLaVA's, the one before the last."""
    return (int(blocks * 3 / 24 + 0.5), int(blocks * 18 / 24 + 0.5), blocks - 1)


def layer_set(name: str, blocks: int, chosen: Sequence[int] | None = None, main: int | None = None) -> LayerSet:
    """A set of the paper's: `single`, `double`, `triple` of the chosen layers (default `by_depth`), `former`, `latter`, `all`.

    Former, Latter and All stand beside the main layer, as means of a group each (3.3). Raises ValueError for another name.
    """
    first, middle, last = by_depth(blocks) if chosen is None else chosen
    main, half = blocks - 1 if main is None else main, blocks // 2
    if name in ("single", "double", "triple"):
        return few(name, {"single": (middle,), "double": (first, middle), "triple": (first, middle, last)}[name], blocks, main)
    former, latter = tuple(range(1, half + 1)), tuple(range(half + 1, blocks + 1))
    groups = {"former": (former,), "latter": (latter,), "all": (former, latter)}.get(name)
    if groups is None:
        raise ValueError(f"no layer set {name!r}; there is: {', '.join(NAMES)}")
    every = tuple(itertools.chain(*groups))
    place: Any = {"former": "first", "latter": "last", "all": "ends"}[name]
    return LayerSet(name, blocks, main, (*groups, (main,)), every, every, place)


def code_compat(name: str, blocks: int, position: Position = "external") -> LayerSet:
    """What the authors' code feeds for a set's name, where it differs from the set (3.2): the main layer is always there.

    blocks: 24 (CLIP-L), or 26 (SigLIP-so400m without its last block). Raises ValueError for what the code has no branch for.
    """
    if blocks == 26:
        if name not in ("triple", "latter"):
            raise ValueError(f"the code has no set {name!r} for a tower of 26 blocks; there is: triple, latter")
        if name == "triple":
            return few("triple", (3, 20, 25), 26)
        group = tuple(range(15, 27))
        return LayerSet("latter", 26, 25, (group, (25,)), group, group, "last")
    if blocks != 24:
        raise ValueError(f"the code knows towers of 24 and 26 blocks, not of {blocks}; layer_set has the sets for any")
    if name == "single":
        return LayerSet("single", 24, 23, ((18,), (23,)), (18,), (18,))
    if name == "double" and position == "external":
        raise ValueError("the code builds no projector for the external double set (its builder returns None)")
    return layer_set(name, 24)


def layer_similarity(states: Tensor) -> Tensor:
    """S (K, K): mean over pictures and patches of the cosine between f_i and f_j. states (K, M, N, dv)."""
    unit = nn.functional.normalize(states.double(), dim=-1)
    return torch.einsum("imnd,jmnd->ij", unit, unit) / (states.shape[1] * states.shape[2])


@dataclass(frozen=True)
class Stages:
    """ranges: (first, last) layer of each, counted from 1. medoids: in each the layer most similar to its own stage. score: mean
    similarity within stages less that between them."""

    ranges: tuple[tuple[int, int], ...]
    medoids: tuple[int, ...]
    score: float


def find_stages(similarity: Tensor, n: int = 3, least: int = 2) -> Stages:
    """The cuts into n runs of at least `least` layers with the highest score, by trying all. similarity (K, K) of layers 1 to K.

    Raises ValueError for fewer layers than n stages need.
    """
    cuts, contrasts = _all_cuts(len(similarity), n, least)
    scores = contrasts @ similarity.double().flatten()
    best = int(scores.argmax())
    ranges = tuple((a + 1, b) for a, b in zip(cuts[best], cuts[best][1:]))
    medoids = tuple(a + int(similarity[a - 1 : b, a - 1 : b].sum(1).argmax()) for a, b in ranges)
    return Stages(ranges, medoids, scores[best].item())


def stage_score(similarity: Tensor, edges: Sequence[int]) -> float:
    """Mean similarity of two layers within a stage less that of two in different ones. edges: 0, cuts, K."""
    return (_contrast(tuple(edges)) @ similarity.double().flatten()).item()


def permuted_scores(similarity: Tensor, count: int, seed: int, n: int = 3, least: int = 2) -> list[float]:
    """Scores of `find_stages` on layers in random order: what there is to find where depth means nothing."""
    draw = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(len(similarity), generator=draw) for _ in range(count)])
    shuffled = similarity.double()[orders[:, :, None], orders[:, None]]
    return (shuffled.flatten(1) @ _all_cuts(len(similarity), n, least)[1].T).amax(1).tolist()


def _contrast(edges: tuple[int, ...]) -> Tensor:
    """(K K,): what a score weighs each pair of layers with."""
    stage = torch.cat([torch.full((b - a,), i) for i, (a, b) in enumerate(zip(edges, edges[1:]))])
    same = stage[:, None] == stage
    within = same & ~torch.eye(len(stage), dtype=torch.bool)
    return (within.double() / within.sum() - (~same).double() / (~same).sum()).flatten()


@functools.cache
def _all_cuts(k: int, n: int, least: int) -> tuple[list[tuple[int, ...]], Tensor]:
    """([edges], (cuts, K K)): every way to cut k layers into n runs of at least `least`."""
    if n < 2 or least < 2 or k < n * least:
        raise ValueError(f"{n} stages of {least} layers and more (at least two of two) need {n * least} layers; these are {k}")
    ways = [(0, *cuts, k) for cuts in itertools.combinations(range(least, k), n - 1)]
    ways = [edges for edges in ways if min(b - a for a, b in zip(edges, edges[1:])) >= least]
    return ways, torch.stack([_contrast(edges) for edges in ways])


# -- where they go into the decoder (3.5) ------------------------------------------------------------------
def insertion_points(of: LayerSet, n: int) -> tuple[int, ...]:
    """The decoder's block, counted from 0 of n, for each of the set's extras: int(k n / blocks - 1) by depth.

    Raises ValueError where two layers fall on one block, or there are more layers than blocks.
    """
    m = len(of.extras)
    points = {"depth": tuple(max(0, k * n // of.blocks - 1) for k in of.extras), "first": tuple(range(m)), "last": tuple(range(n - m, n)),
              "ends": (*range(m // 2), *range(n - (m - m // 2), n))}[of.place]
    if len(set(points)) < m or min(points) < 0 or max(points) >= n:
        raise ValueError(f"layer set {of.name!r}: its {m} layers fall on blocks {list(points)} of a decoder with {n}; each needs a "
                         "block of its own. Take fewer layers, a deeper decoder, or give `points`")
    return points


# -- what is new in the model ------------------------------------------------------------------------------
@dataclass(frozen=True)
class FusionConfig:
    """op: of external direct. "parts" is the paper's: few layers side by side, many as means of groups. "concat": each for itself.
    variant, mlp: of internal modular, and whether its second, gated MLP is there. points: blocks in place of the paper's rule.
    neutral: the second layer of each internal direct projector starts at zero, so that the model starts as the plain one."""

    layers: LayerSet
    position: Position = "external"
    pattern: Pattern = "direct"
    op: Operation = "parts"
    variant: Variant = "pre"
    mlp: bool = True
    points: tuple[int, ...] | None = None
    neutral: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("position", self.position, ("external", "internal")), ("pattern", self.pattern, ("direct", "modular")),
                                   ("op", self.op, ("parts", "concat", "mean", "sum")),
                                   ("variant", self.variant, ("pre", "post", "parallel"))):
            if value not in known:
                raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
        if self.points is not None and len(self.points) != len(self.layers.extras):
            raise ValueError(f"{len(self.points)} points for {len(self.layers.extras)} layers of set {self.layers.name!r}")

    @property
    def kind(self) -> str:
        return f"{self.position} {self.pattern}"

    def blocks(self, n: int) -> tuple[int, ...]:
        """Blocks of a decoder with n that get something; none where fusion is external."""
        if self.position == "external":
            return ()
        points = insertion_points(self.layers, n) if self.points is None else self.points
        if not all(0 <= p < n for p in points) or len(set(points)) < len(points):
            raise ValueError(f"points {list(points)}: blocks of a decoder with {n} are 0 to {n - 1}, each at most once")
        return points


@dataclass(frozen=True)
class Sizes:
    """dv: width of the tower's states. d, f, heads, blocks: width, MLP width, attention heads and blocks of the decoder."""

    dv: int
    d: int
    f: int
    heads: int
    blocks: int

    @classmethod
    def of(cls, dv: int, config: Any) -> Sizes:
        """config: of a decoder, or of a model that has one."""
        config = config.get_text_config(decoder=True)
        return cls(dv, config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_hidden_layers)


class Projector(nn.Module):
    """P: linear, GELU, linear, by the names of transformers' LlavaMultiModalProjector, whose weights it takes. (..., width) -> (..., d)."""

    def __init__(self, width: int, d: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width, d), nn.Linear(d, d)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(features)))


def side_by_side(states: Mapping[int, Tensor], of: LayerSet, op: Operation = "parts") -> Tensor:
    """What external direct hands its projector: (M, N, width) from {layer: (M, N, dv)}."""
    if op == "parts":
        return torch.cat([torch.stack([states[k] for k in part]).mean(0) if len(part) > 1 else states[part[0]] for part in of.parts], -1)
    every = [states[k] for k in _direct(of)]
    return torch.cat(every, -1) if op == "concat" else torch.stack(every).mean(0) if op == "mean" else torch.stack(every).sum(0)


def _direct(of: LayerSet) -> tuple[int, ...]:
    """The layers of the direct parts one by one."""
    return tuple(itertools.chain(*of.parts))


def direct_width(of: LayerSet, op: Operation, dv: int) -> int:
    return dv * {"parts": len(of.parts), "concat": len(_direct(of))}.get(op, 1)


class Fusion(nn.Module):
    """Projector, and what a kind of fusion adds to it. Stock initialisation; gates, and what MMFuser adds, start at zero."""

    def __init__(self, config: FusionConfig, sizes: Sizes):
        from .internal import GatedCrossAttention
        from .mmfuser import MMFuser

        super().__init__()
        self.config, self.sizes = config, sizes
        direct = config.kind == "external direct"
        self.points = config.blocks(sizes.blocks)
        self.projector = Projector(direct_width(config.layers, config.op, sizes.dv) if direct else sizes.dv, sizes.d)
        self.fuser = MMFuser(sizes.dv, len(config.layers.levels)) if config.kind == "external modular" else None
        self.extra = nn.ModuleList(Projector(sizes.dv, sizes.d) for _ in self.points)
        modular = config.kind == "internal modular"
        self.cross = nn.ModuleList(GatedCrossAttention(sizes.d, sizes.f, sizes.heads, config.mlp) for _ in self.points if modular)
        if config.neutral:
            for projector in self.extra:
                nn.init.zeros_(projector.linear_2.weight)
                nn.init.zeros_(projector.linear_2.bias)

    @property
    def layers(self) -> tuple[int, ...]:
        """States that `forward` reads, in order."""
        of, kind = self.config.layers, self.config.kind
        read = _direct(of) if kind == "external direct" else (of.main, *(of.levels if kind == "external modular" else of.extras))
        return tuple(sorted(set(read)))

    def forward(self, states: Mapping[int, Tensor], grid: tuple[int, int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """(visual tokens (M, N, d), what each of `points` gets (M, N, d)) from {layer: (M, N, dv)}. grid: rows and columns of patches.

        Raises ValueError, in MMFuser, for patches that are no square and come without their grid.
        """
        of = self.config.layers
        if self.config.kind == "external direct":
            return self.projector(side_by_side(states, of, self.config.op)), []
        query = states[of.main]
        if self.fuser is not None:
            query = self.fuser(query, [states[k] for k in of.levels], grid)
        return self.projector(query), [projector(states[k]) for projector, k in zip(self.extra, of.extras)]


def apart(features: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """{layer: (M, N, dv)} of features that hold the layers side by side (M, N, len(layers) dv), as common/vision keeps them."""
    return dict(zip(layers, features.chunk(len(layers), -1)))
