"""Layer fusion's points on the vision family's plane: what fusing costs a prefill.

Its trained arms are stated, too; where they are not recorded, the page has their price."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common.claims.intervals import point, summarize
from common.report.planes import Axis, Bench, Document, Recorded, prefill_bench

from .quantities_trained import FIRST, KINDS, SETS

TIMED = {"layer fusion, external direct": ("external direct", "layer fusion"),
         "layer fusion, internal modular": ("internal modular", "layer fusion"), "one layer, timed again": ("one layer again", "")}
PLAIN, FIRSTS = ("default", "default three times"), [f"{kind}, {name}" for kind in KINDS for name in FIRST]
# Arms of the long run, and of what it leaves out: shown name -> (arm, the family's method that it is).
TRAINED = {"the default layer": ("default", "dense"), "the default layer three times": ("default three times", ""),
           **{f"{kind}, {name}": (f"{kind}, {name}", "layer fusion") for kind in KINDS for name in SETS}}


def planes(recorded: Recorded) -> Iterator[Bench]:
    yield prefill(recorded["speed"])
    yield trained(recorded["long"], recorded["long-more"])


def prefill(of: Document) -> Bench:
    """Its dense prefill is that of one layer's features, projector included."""
    return prefill_bench(of, TIMED, lambda run, way: [100 * ratio for ratio in run["ratios"][way]["ratios"]],
                         lambda run, way: 100 * run["ratios"][way]["bound"])


def trained(long: Document, more: Document) -> Bench:
    bench = Bench("vision", "layerfusion-hard", "Small LLaVAs trained on hard scenes, by kind and set of layers",
                  "One recipe, a training a seed, the same hard test scenes; visual FLOPs are those of the decoder, which no "
                  "external fusion changes.", Axis("visual FLOPs of the prefill, % of the default layer's", "less"),
                  Axis("questions answered right, %", "more", possible=(0.0, 100.0)))

    def right(of: Document, group: str, arm: str) -> dict:
        bits = [of.at(f"{group}/{arm}/seed{seed}", "end", "test") for seed in of.seeds(f"{group}/{arm}")]
        return summarize([100 * each.count("1") / len(each) for each in bits], 100 / len(bits[0]))

    for name, (arm, method) in TRAINED.items():
        of, group = (long, "long") if arm in (*PLAIN, *FIRSTS) else (more, "long-more")
        if arm.startswith("internal") and of.results is not None:
            bench.lacks(name, "the run does not count what its modules between the blocks cost", "a count, no run", method)
        else:
            bench.add(of, name, partial(point, 100.0), partial(right, of, group, arm), stands_for=method)
    return bench
