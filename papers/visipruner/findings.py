"""What the default run's arms say of findings that quantities.py leaves out: the picture's own attention gone beside merging (table 3), and
tenths of the tokens in the middle (section 4.1); and what table 5's totals come to.
"""

from __future__ import annotations

from common.claims.intervals import point
from common.shapes import LLAVA_13B

from . import analytic, quantities, reported
from .quantities import Small

# {model of table 5: the saving in per cent that is printed beside its totals} (abstract; specification 7.2)
SAVED = {"LLaVA-1.5-7B": 53.9, "LLaVA-1.5-13B": 55.5, "InternVL2.5-8B": 51.5, "Qwen2-VL-7B": 51.2, "MobileVLM-V2-3B": 32.4}
FILTER_13B, EXIT_13B = 18, 24  # layers up to and with these


def llava(results: dict, size: str = "cpu") -> dict[str, dict]:
    of = Small(results)
    return quantities.llava(results, size) | merged(of) | tenths(of)


def merged(of: Small) -> dict[str, dict]:
    """C11c, C11d: as C11a, C11b, with picture-to-picture attention gone as well."""
    last = str(quantities._last(of))

    def between(one: tuple[str, ...], other: tuple[str, ...]) -> dict:
        return of.looked(of.at("knocked", *one), of.at("knocked", *other))

    together, hidden = ("shallow", "merge, picture apart"), ("shallow", "before, picture apart")
    return {"C11c": of.lost(*together) | {"sensitivity": of.lost(*hidden)},
            "C11d": between(together, hidden) | {"placebo": between(("merge", last), ("before", last))}}


def tenths(of: Small) -> dict[str, dict]:
    """C15c, C15d: in middle blocks the lowest tenth is hidden; all but the highest tenth is."""
    everything = of.lost("middle", "before")
    return {"C15c": of.lost("middle", "lowest") | {"sensitivity": everything},
            "C15d": of.lost("middle", "all but highest") | {"placebo": everything}}


def totals(results: dict, size: str = "analytic") -> dict[str, dict]:
    """C3a: the 13B model's total. C5r: models whose printed saving is that of its printed totals."""
    saved = {model: 100 * (1 - tera[True] / tera[False]) for model in reported.MODELS
             for tera in [{row.pruned: row.tera for row in reported.QUALITY if row.model == model}]}
    return {"C3a": point(analytic.pruned(LLAVA_13B, FILTER_13B, EXIT_13B - FILTER_13B) / 1e12, baselines={
                "filter layer for 3.31 T": analytic.filter_layer_for(LLAVA_13B, 3.31e12)}),
            "C5r": point(sum(abs(round(saved[model], 1) - SAVED[model]) < 1e-9 for model in saved), baselines=saved)}
