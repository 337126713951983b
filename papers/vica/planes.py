"""ViCA's points on the vision family's plane: accuracy against visual FLOPs and the clock on the small LLaVAs; prefill times."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import fmean

from common.claims.intervals import point, summarize
from common.report.planes import Axis, Bench, Document, Recorded, clock_share, prefill_bench, share_by_round

from .analytic import Shape, visual_flops, visual_ratio

SMALL = Shape(96, 256, 8, 4, 4, 24, 66, name="the small LLaVA")
VISUAL, TEXT = 64, 11  # tokens of a picture; of a typical question, those before the picture included
FLOPS = Axis("visual FLOPs, % of dense", "less", scale="root", possible=(0.0, 100.0))
ACCURACY = Axis("questions answered right, %", "more", possible=(0.0, 100.0))
KEEP = 0.5  # PyramidDrop's mean share of visual tokens
TUNED = {"dense, tuned as long": ("dense", "dense"), "ViCA, two layers by greedy elimination": ("greedy", "ViCA"),
         "ViCA, two layers of the highest scores": ("top", "ViCA"), "ViCA, two layers drawn by lot": ("drawn", ""),
         "dense on three pooled tokens, tuned": ("few", ""), "the text alone, tuned": ("text", "")}
TIMED = {"dense": ("dense", "dense"), "ViCA, 8 of 30 layers look": ("vica", "ViCA"), "ViCA by masks, nothing left out": ("masked", ""),
         "the text alone": ("text only", ""), "dense on 32 visual tokens": ("dense 32", ""), "dense on 64 visual tokens": ("dense 64", "")}


def planes(recorded: Recorded) -> Iterator[Bench]:
    llava = recorded["llava"]
    yield accuracy(llava)
    yield by_clock(llava)
    yield dropped(llava)
    yield prefill(recorded["speed"])


def ratio(layers: float) -> float:
    return 100 * visual_ratio(SMALL, layers, VISUAL, TEXT)


def token_share(count: float) -> float:
    """Visual FLOPs of a dense model on fewer tokens, in % of all of them."""
    return 100 * visual_flops(SMALL, int(count), TEXT).total / visual_flops(SMALL, VISUAL, TEXT).total


def accuracy(of: Document) -> Bench:
    bench = Bench("vision", "vica-llava", "Small LLaVAs turned into ViCA, and what they have to beat",
                  "The small LLaVAs, a seed each (whose visual features fuse layers 2, 9 and 11 of the tower by the external direct "
                  "way of layer fusion), the same questions about 250 unseen scenes, 64 visual tokens each. What is tuned was "
                  "tuned for the same steps on the same rows; FLOPs are counted at the model's dimensions, with eleven text "
                  "tokens.", FLOPS, ACCURACY)

    def cost(arm: str) -> dict:
        seeds = of.seeds("all layers")
        if arm == "dense":
            return point(100.0)
        if arm == "few":
            return point(token_share(fmean(of.number(f"few/seed{seed}", "tokens") for seed in seeds)))
        return point(ratio(SMALL.L if arm == "all layers" else fmean(len(of.at(job_of(of, arm, seed), "layers")) for seed in seeds)))

    def untuned(way: str) -> dict:
        return of.over("untuned", way, "all", scale=100)

    def few() -> dict:
        return point(token_share(fmean(of.number(f"untuned/seed{seed}", "equivalent tokens") for seed in of.seeds("untuned"))))

    bench.add(of, "dense, as it is", lambda: point(100.0), partial(untuned, "whole"), stands_for="layer fusion")
    bench.add(of, "three tokens of the highest attention", few, partial(untuned, "attention"))
    bench.add(of, "three tokens drawn by lot", few, partial(untuned, "random"), stands_for="random")
    bench.add(of, "ViCA, all layers look", partial(cost, "all layers"), partial(right, of, "all layers"), stands_for="ViCA")
    for name, (arm, method) in TUNED.items():
        bench.add(of, name, partial(cost, arm), partial(right, of, arm), stands_for=method)
    return bench


def right(of: Document, arm: str) -> dict:
    return summarize([100 * of.number(job_of(of, arm, seed), *(("all layers",) if arm == "all layers" else ("test",)), "all")
                      for seed in of.seeds("all layers")])


def by_clock(of: Document) -> Bench:
    bench = Bench("vision", "vica-clock", "Small LLaVAs turned into ViCA, by the clock",
                  "Models and accuracies of the bench by visual FLOPs; timed are prefills of 64 of the test pictures with all their "
                  "questions, as accuracy was measured, on two threads, each in % of the stock decoder's in the same interleaved round, "
                  "a process a model. A prefill of these eight narrow layers is short: calls weigh more here than in the bench at "
                  "SmolLM2-135M's dimensions.",
                  Axis("time of the prefill, % of dense", "less"), ACCURACY)

    bench.add(of, "dense, tuned as long", lambda: point(100.0), partial(right, of, "dense"), stands_for="dense")
    bench.add(of, "dense, timed again", partial(clock_share, of, "dense again"), partial(right, of, "dense"))
    for name, arm, method in (("ViCA, all layers look", "all layers", "ViCA"), ("ViCA, two layers by greedy elimination", "greedy", "ViCA"),
                              ("dense on three pooled tokens, tuned", "few", ""), ("the text alone, tuned", "text", "")):
        bench.add(of, name, partial(clock_share, of, arm), partial(right, of, arm), stands_for=method)
    return bench


def job_of(of: Document, arm: str, seed: int) -> str:
    """Greedy elimination may end at the layers of the highest scores, and is then that training."""
    return f"top/seed{seed}" if arm == "greedy" and f"greedy/seed{seed}" not in of else f"{arm}/seed{seed}"


def dropped(of: Document) -> Bench:
    bench = Bench("vision", "vica-pyramid", "Tokens dropped on the way through ViCA",
                  "The small LLaVAs as ViCA with all layers, questions about every other of the 250 scenes, each a row of its own; "
                  "half of the visual tokens of all layers, by attention (PyramidDrop) or by lot, untrained for it.",
                  FLOPS, ACCURACY)
    for name, way, share, method in (
            ("ViCA, all layers look", "whole", 1.0, "ViCA"), ("ViCA, PyramidDrop", "ranked", KEEP, "PyramidDrop"),
            ("ViCA, dropped by lot", "random", KEEP, "random"), ("ViCA, dropped by another lot", "random again", KEEP, "random")):
        bench.add(of, name, partial(point, ratio(SMALL.L) * share),
                  partial(of.over, "all layers", f"PyramidDrop {KEEP}", way, "all", scale=100), stands_for=method)
    return bench


def prefill(of: Document) -> Bench:
    """A batch of one; of the ways that only one process times, that process."""
    def variants(run: dict) -> dict:
        return next(iter(run["cases"].values()))["variants"]

    def shares(run: dict, way: str) -> list[float]:
        timed = variants(run)
        return share_by_round(timed[way]["times"], timed["dense"]["times"]) if way in timed else []

    return prefill_bench(of, TIMED, shares, lambda run, way: 100 * variants(run)[way]["flops"] / variants(run)["dense"]["flops"])
