"""What fusion costs and what the paper's averages come to, exactly and without a machine (spec 7).

dv: width of the tower. d, f, L: width, MLP width and blocks of the decoder. P(k) = k dv d + d + d^2 + d: a projector from k layers
side by side. Added to a LLaVA with P(1):

    external direct    P(k) - P(1)                                        k: parts side by side
    external modular   A(levels) + A(1) + 8 dv                            A: deformable attention; norms and two scales
    internal direct    m P(1)                                             m: layers
    internal modular   m (P(1) + 4 d^2 + 3 d f + 2)
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, stdev

from common.shapes import Shape

from . import reported
from .method import FusionConfig, code_compat, direct_width, layer_set
from .mmfuser import HEADS, POINTS

CLIP_WIDTH, CLIP_BLOCKS, N_VISUAL, TEXT = 1024, 24, 576, 64
MOBILELLAMA_1B4 = Shape(2048, 5632, 24, 16, 16, 128, 32000, name="MobileLLaMA-1.4B")
MOBILELLAMA_2B7 = Shape(2560, 6912, 32, 32, 32, 80, 32000, name="MobileLLaMA-2.7B")
KINDS = (("external", "direct"), ("external", "modular"), ("internal", "direct"), ("internal", "modular"))


# -- parameters --------------------------------------------------------------------------------------------
def projector(k: int, shape: Shape = MOBILELLAMA_1B4, dv: int = CLIP_WIDTH) -> int:
    """P(k)."""
    return k * dv * shape.d + shape.d + shape.d**2 + shape.d


def deformable(levels: int, dv: int = CLIP_WIDTH) -> int:
    """A(levels): offsets and weights, value and output."""
    return 3 * (dv * HEADS * levels * POINTS + HEADS * levels * POINTS) + 2 * (dv**2 + dv)


def added(config: FusionConfig, shape: Shape = MOBILELLAMA_1B4, dv: int = CLIP_WIDTH) -> int:
    """Parameters beside those of a LLaVA that reads one layer."""
    of, one = config.layers, projector(1, shape, dv)
    if config.position == "external":
        if config.pattern == "direct":
            return projector(direct_width(of, config.op, dv) // dv, shape, dv) - one
        return deformable(len(of.levels), dv) + deformable(1, dv) + 8 * dv
    cross = 4 * shape.d**2 + 1 + config.mlp * (3 * shape.d * shape.f + 1) if config.pattern == "modular" else 0
    return len(of.extras) * (one + cross)


def table(shape: Shape = MOBILELLAMA_1B4) -> dict[str, list[int]]:
    """{set by the code's lists: added parameters of the four kinds} (7.1)."""
    return {name: [added(FusionConfig(code_compat(name, CLIP_BLOCKS, position), position, pattern), shape)
                   for position, pattern in KINDS] for name in ("single", "triple", "former", "latter", "all")}


# -- multiply-adds -----------------------------------------------------------------------------------------
def prefill(shape: Shape, n: int) -> int:
    """L (4 n d^2 + 2 n^2 d + 3 n d f), the head left out."""
    return shape.L * (n * shape.linear + 2 * n * n * shape.d)


def projected(k: int, shape: Shape = MOBILELLAMA_1B4, dv: int = CLIP_WIDTH, n: int = N_VISUAL) -> int:
    """Multiply-adds of P(k) on n patches."""
    return n * (k * dv * shape.d + shape.d**2)


def added_work(config: FusionConfig, shape: Shape = MOBILELLAMA_1B4, dv: int = CLIP_WIDTH, n: int = N_VISUAL, text: int = TEXT) -> int:
    """Multiply-adds that fusion adds to a prefill of n visual and `text` other tokens; sums, norms and sampling left out."""
    of, width, s = config.layers, n + text, shape
    if config.kind == "external direct":
        return projected(direct_width(of, config.op, dv) // dv, s, dv, n) - projected(1, s, dv, n)
    if config.kind == "external modular":
        m = len(of.levels)
        return n * (2 * dv * dv + (m + 1) * dv * dv + 3 * (m + 1) * HEADS * POINTS * dv)
    each = projected(1, s, dv, n)
    if config.pattern == "modular":  # q, o of all tokens; k, v of the picture; who attends to whom; the MLP
        each += 2 * width * s.d**2 + 2 * n * s.d**2 + 2 * width * n * s.d + config.mlp * 3 * width * s.d * s.f
    return len(of.extras) * each


def share_of_prefill(config: FusionConfig, shape: Shape = MOBILELLAMA_1B4, dv: int = CLIP_WIDTH, n: int = N_VISUAL,
                     text: int = TEXT) -> float:
    """Percent that fusion adds to the decoder's prefill."""
    return 100 * added_work(config, shape, dv, n, text) / prefill(shape, n + text)


def triple(position: str, pattern: str, name: str = "triple", blocks: int = CLIP_BLOCKS) -> FusionConfig:
    return FusionConfig(layer_set(name, blocks), position, pattern)


# -- the paper's averages ----------------------------------------------------------------------------------
def mean_score(row: Iterable[float]) -> float:
    """Mean of the nine columns, each in % of what it could be."""
    return fmean(value / reported.PARTS.get(name, 1) for name, value in zip(reported.BENCHMARKS, row))


def averages() -> dict[str, tuple[float, float]]:
    """{row: (its nine columns' mean, as it is printed)} (7.4)."""
    return {name: (mean_score(row[:9]), row.printed) for name, row in reported.TABLE.items()}


def steadiness() -> dict[str, float]:
    """Standard deviation over the sets whose averages are known, of the kinds with two and more."""
    return {kind: stdev(of.values()) for kind, of in reported.AVERAGES.items() if len(of) > 1}


# -- what third parties measured ---------------------------------------------------------------------------
def ranges() -> dict[str, tuple[float, float]]:
    """{setting of two runs and more: (range of TextVQA, of GQA)}, whatever their batches."""
    found = {}
    for setting in dict.fromkeys(run.setting for run in reported.THIRD_PARTY):
        runs = [run for run in reported.THIRD_PARTY if run.setting == setting]
        if len(runs) > 1:
            text, gqa = [r.textvqa for r in runs], [r.gqa for r in runs]
            found[setting] = (max(text) - min(text), max(gqa) - min(gqa))
    return found


def equal_batch_range() -> float:
    """The largest range of GQA between runs that share setting and both batches, as far as these are known."""
    found: dict[tuple[str, str], list[float]] = {}
    for run in reported.THIRD_PARTY:
        if "?" not in run.batch:
            found.setdefault((run.setting, run.batch), []).append(run.gqa)
    return max(max(values) - min(values) for values in found.values())
