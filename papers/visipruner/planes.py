"""VisiPruner's points on the vision family's plane: open questions against attention pairs, visual FLOPs and the clock; prefill times."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common.claims.intervals import point, summarize
from common.errors import RecordError
from common.report.planes import Axis, Bench, Document, Recorded, clock_share, prefill_bench, share_by_round

from .quantities import apart

PAIRS = Axis("attention pairs of the picture that are left, %", "less", possible=(0.0, 100.0))
FLOPS = Axis("visual FLOPs, % of dense", "less", possible=(0.0, 100.0))
ACCURACY = Axis("open questions answered right, %", "more", possible=(0.0, 100.0))
TESTED = {"dense": "dense", "VisiPruner": "VisiPruner", "FastV": "FastV", "PyramidDrop": "PyramidDrop", "attention at its K": "",
          "lot at its K": "random", "no boundary": "", "paper's shallow stage": ""}
SHOWN = {"dense": "dense, as it is", "attention at its K": "VisiPruner, tokens by attention", "lot at its K": "VisiPruner, tokens by lot",
         "no boundary": "VisiPruner without its boundary", "paper's shallow stage": "VisiPruner, the paper's shallow stage"}
SWEPT = ("VisiPruner", "FastV", "PyramidDrop")
TIMED = {"VisiPruner, tokens leave": ("pruned", "VisiPruner"), "VisiPruner by masks, tokens stay": ("masked", ""),
         "VisiPruner as its released code runs": ("official", "")}


def planes(recorded: Recorded) -> Iterator[Bench]:
    llava = recorded["llava"]
    yield tested(llava)
    yield by_flops(llava)
    yield by_clock(llava)
    yield another(recorded["qwen3"])
    yield swept(llava)
    yield prefill(recorded["speed"])


def right(of: Document, arm: str, run: str = "") -> dict:
    """run: what the jobs' names begin with."""
    seeds = of.seeds(f"{run}pruned")
    pictures = of.at(f"{run}features/test", "test", "pictures")
    answers = [100.0 * int(bit) for seed in seeds for bit in bits(of, f"{run}pruned/seed{seed}", arm, len(pictures))]
    return apart(answers, [0.0] * len(answers), pictures * len(seeds))


def with_arms(bench: Bench, of: Document, cost: str, run: str = "") -> Bench:
    """The bench with a point of every arm. cost: "pairs" or "flops", a result's shares of what a dense model computes."""
    for arm, method in TESTED.items():
        left = (lambda: point(100.0)) if arm == "dense" else partial(of.over, f"{run}pruned", cost, arm, scale=100)
        bench.add(of, SHOWN.get(arm, arm), left, partial(right, of, arm, run), stands_for=method)
    return bench


def tested(of: Document) -> Bench:
    bench = Bench("vision", "visipruner-llava", "Small LLaVAs pruned without training, settings chosen on other pictures",
                  "The small LLaVAs, a seed each, as they are, the same open questions about 150 unseen scenes, one a row; every "
                  "method's setting is chosen on validation pictures, its rivals' at VisiPruner's own number of pairs. Accuracies "
                  "are clustered by picture; the interval of pairs is over the models. The test items are not those of "
                  "ViCA.", PAIRS, ACCURACY)
    return with_arms(bench, of, "pairs")


def by_flops(of: Document) -> Bench:
    bench = Bench("vision", "visipruner-flops", "The same prunings by visual FLOPs",
                  "Models, questions and settings of the bench by attention pairs; counted are the projections, the MLP and the attention "
                  "of every visual token that a layer had, at the model's dimensions (Shape.visual_flops). What a method computes to "
                  "decide is not in it.", FLOPS, ACCURACY)
    return with_arms(bench, of, "flops")


def another(of: Document) -> Bench:
    bench = Bench("vision", "visipruner-qwen3", "A small LLaVA with a Qwen3 decoder pruned without training",
                  "One model with a Qwen3 decoder (grouped queries, normed queries and keys), the open questions about the same 150 "
                  "unseen scenes; every method's setting is chosen on validation pictures, its rivals' at VisiPruner's own number of "
                  "pairs. Accuracies are clustered by picture.", PAIRS, ACCURACY)
    return with_arms(bench, of, "pairs", "qwen3/")


def by_clock(of: Document) -> Bench:
    bench = Bench("vision", "visipruner-clock", "The same prunings by the clock",
                  "Models and settings of the bench by attention pairs, and its accuracies; timed are the prefills of the questions "
                  "about ten of the pictures, as they were asked (64 rows at once, two threads), each in % of the stock decoder's in the "
                  "same interleaved round, a process a model. A prefill of these eight narrow layers is short: deciding what leaves "
                  "weighs more here than in the bench at SmolLM2-135M's dimensions.",
                  Axis("time of the prefill, % of dense", "less"), ACCURACY)

    bench.add(of, "dense, as it is", lambda: point(100.0), partial(right, of, "dense"), stands_for="dense")
    bench.add(of, "dense, timed again", partial(clock_share, of, "dense again"), partial(right, of, "dense"))
    for name in SWEPT:
        bench.add(of, name, partial(clock_share, of, name), partial(right, of, name), stands_for=name)
    return bench


def bits(of: Document, job: str, arm: str, count: int) -> str:
    found = of.at(job, "test", arm)
    if not isinstance(found, str) or set(found) - {"0", "1"} or len(found) != count:
        raise RecordError(f"{job}: test / {arm} is no text of {count} digits 0 and 1")
    return found


def swept(of: Document) -> Bench:
    bench = Bench("vision", "visipruner-swept", "Small LLaVAs pruned without training, by setting",
                  "The small LLaVAs, a seed each, as they are, the open questions about 40 of 150 unseen scenes; three thresholds "
                  "of VisiPruner, and of each rival the setting that did best on validation pictures at as many pairs.",
                  PAIRS, ACCURACY)

    def over(name: str, place: int, column: int) -> dict:
        return summarize([100 * float(of.at(f"pruned/seed{seed}", "curve", name)[place][column]) for seed in of.seeds("pruned")])

    for name in SWEPT:
        bench.curve(of, name, [(f"budget {place + 1}", partial(over, name, place, 0), partial(over, name, place, 1))
                               for place in range(3)], name)
    return bench


def prefill(of: Document) -> Bench:
    return prefill_bench(of, TIMED, lambda run, way: share_by_round(run["times"][way], run["times"]["dense"]),
                         lambda run, way: 100 * run["flops"][way] / run["flops"]["dense"])
