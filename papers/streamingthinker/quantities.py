"""From results of jobs to what claims measure: {claim: measured}. What decides is in claims.yaml; no number here judges.

Results are read as they are committed; what seeds there are decides how many are counted. A claim in the small is a quantity of
(seed, arm): of the arm that it is about, and of the arm that must not pass, its placebo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from common.claims.intervals import paired, point, share, summarize
from common.seeds import seeds_of

from . import analytic, latency, reported

CHANCE = 10  # % of answers that a digit by lot gets right


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    waited, delays = (dict(zip(reported.TASKS, analytic.reductions(column))) for column in (analytic.WAITED, analytic.DELAY))
    shorter, overlap = analytic.same_trace()
    depth, smaller, excess = analytic.by_depth(), analytic.by_depth(reported.TABLE_1_17B), analytic.charged()
    gaps, faster = analytic.interleaved_gaps()
    four = analytic.table_4()

    def mean(values: Sequence[float], scale: float = 100.0) -> dict:
        return point(scale * fmean(values), baselines=dict(zip(reported.TASKS, (scale * value for value in values))))

    def first_step_less_second(of: dict[str, float]) -> dict:
        return point(100 * ((of["D2"] - of["D1"]) - (of["D3"] - of["D2"])), baselines=of)

    return {
        "C1a": mean(analytic.gaps("streaming D3", "batch")), "C1b": mean(analytic.gaps("streaming D3", "SFT rope")),
        "C1c": mean(analytic.gaps("streaming D3", "D3 spe")),
        "C2a": point(analytic.over_math(list(waited.values())), baselines=waited), "C2b": point(fmean(waited.values()), baselines=waited),
        "C3a": point(fmean(delays.values()), baselines=delays), "C3b": point(min(delays.values()), baselines=delays),
        "C3c": point(max(abs(tau - latency.Costs().tau) for tau in analytic.seconds_a_token())),
        "C3d": point(fmean(overlap), baselines={f"{task}, shorter trace": value for task, value in zip(reported.TASKS, shorter)}),
        "C3e": point(analytic.last_unit_delay() - reported.TABLE_2["streaming D1"][0][analytic.DELAY]),
        "C4": first_step_less_second(depth), "C4a": first_step_less_second(smaller),
        "C4r": point(100 * min(depth["D2"] - depth["D1"], depth["D3"] - depth["D2"]), baselines=depth),
        "C5a": point(100 * analytic.largest_position_gap(("D1", "D2", "D3"))), "C5b": point(100 * analytic.largest_position_gap(("SFT",))),
        "C5c": point(100 * analytic.largest_position_gap(("D1", "D2", "D3"), reported.TABLE_1_17B)),
        "C7a": point(-max(faster), baselines=dict(zip(reported.TASKS, (100 * gap for gap in gaps)))),
        "C7c": point(max(max(row) - min(row) for row in excess), baselines={t: fmean(row) for t, row in zip(reported.TASKS, excess)}),
        "C7d": point(max(abs(found["buffered"] - found["streaming"]) for found in map(analytic.events, (20, 181, 296)))),
        "C9a": point(four["first_ratio"]), "C10a": point(four["reads_mb"]), "C11a": point(analytic.context_first_saving()),
        "C14d": point(min(analytic.diagonal_means())),
    }


# -- a quantity of one seed and one arm --------------------------------------------------------------------
class Arms:
    """Results of the arms, by seed. The base's runs are called "start", "untuned" and "untuned rope"."""

    def __init__(self, results: dict):
        self.results, self.seeds = results, seeds_of(results, "start")

    def has(self, arm: str) -> bool:
        """Whether all seeds have it: results may be older than an arm."""
        return arm in self.results[f"start/seed{self.seeds[0]}"] or all(f"{arm}/seed{seed}" in self.results for seed in self.seeds)

    def run(self, seed: int, arm: str) -> dict:
        own = self.results[f"start/seed{seed}"]
        return own[arm] if arm in own else self.results[f"{arm}/seed{seed}"]

    def right(self, seed: int, arm: str, depth: str = "D2") -> float:
        """Right answers, in %."""
        return 100 * self.run(seed, arm)[depth]

    def over(self, seed: int, arm: str, than: str = "batch") -> float:
        """Points of D2 answers over another arm."""
        return self.right(seed, arm) - self.right(seed, than)

    def units(self, seed: int, arm: str) -> float:
        return 100 * self.run(seed, arm)["unit"]

    def saved(self, seed: int, arm_way: tuple[str, str], depth: int) -> float:
        """Reduction of delay, in %, of the traces that an arm wrote, under a way to work."""
        arm, way = arm_way
        return self.run(seed, arm)["reduction"][way][depth - 1]

    def by_depth(self, seed: int, arm_depths: tuple[str, str, str]) -> float:
        """Points between two depths of an arm."""
        arm, high, low = arm_depths
        return self.right(seed, arm, high) - self.right(seed, arm, low)

    def early(self, seed: int, arm: str) -> float:
        """Units right in the first half of the sentences less those in the second, in points; the question's is left out."""
        places = self.run(seed, arm)["places"][1:]
        halves = places[: len(places) // 2], places[len(places) // 2 :]
        first, second = (sum(right for right, _ in half) / max(sum(of for _, of in half), 1) for half in halves)
        return 100 * (first - second)

    def item(self) -> float:
        """What one answer more or less changes, in points."""
        return 100 / self.run(self.seeds[0], "start")["items"]


def percent(hits: int, of: int) -> dict:
    """A share in %, whose interval holds it: at 0 and at all, rounding leaves Wilson's bound a hair inside."""
    found = share(hits, of, 100.0)
    low, high = found["ci95"]
    return found | {"ci95": [min(low, found["value"]), max(high, found["value"])]}


def claim(seeds: Sequence[int], quantity: Callable, arm, placebo, resolution: float = 0.0, beside: dict[str, float] | None = None,
          control: str = "placebo") -> dict:
    """The quantity of the arm, a value a training, and of the arm that must not pass."""
    measured = summarize([quantity(seed, arm) for seed in seeds], resolution)
    measured[control] = summarize([quantity(seed, placebo) for seed in seeds], resolution)
    return measured | ({"baselines": beside} if beside else {})


def arms(results: dict, size: str = "cpu") -> dict[str, dict]:
    of = Arms(results)
    make, item = partial(claim, of.seeds), of.item()

    def mean(arm: str, depth: str = "D2") -> float:
        return fmean(of.right(seed, arm, depth) for seed in of.seeds)

    right = {name: mean(name) for name in ("start", "untuned", "batch", "batch own", "batch spe", "streaming", "streaming far",
                                           "interleaved") if of.has(name)}
    tried = [results[f"schedules/seed{seed}"] for seed in of.seeds]
    equal, hasty = (percent(sum(t[name] for t in tried), sum(t["of"] for t in tried)) for name in ("equal", "placebo"))

    def others(seed: int, arm: str) -> float:
        run = of.run(seed, "streaming")
        return 100 * run[arm] - CHANCE

    return {
        "C1s": make(of.over, "streaming", "untuned", item, right),
        **({"C1r": make(partial(of.over, than="batch own"), "streaming", "untuned", item, right)} if of.has("batch own") else {}),
        "C1d": make(of.over, "streaming far", "untuned", item, right),
        "C3s": make(partial(of.saved, depth=3), ("streaming", "streaming"), ("streaming", "blocking"), 0.1,
                    {f"D{d}, {way}": fmean(of.saved(seed, ("streaming", way), d) for seed in of.seeds)
                     for d in (1, 2, 3) for way in ("blocking", "buffered", "streaming")}),
        "C3t": make(partial(of.saved, depth=1), ("streaming", "streaming"), ("streaming", "blocking"), 0.1),
        "C4s": make(of.by_depth, ("streaming", "D2", "D1"), ("untuned", "D2", "D1"), item,
                    {f"{arm}, {d}": mean(arm, d) for arm in ("batch", "streaming") for d in ("D1", "D2", "D3")}),
        "C4t": make(of.by_depth, ("streaming", "D3", "D2"), ("streaming", "D1", "D2"), item),
        "C5s": make(of.over, "batch spe", "untuned", item, control="sensitivity"),
        "C7s": make(partial(of.over, than="interleaved"), "streaming", "untuned", item, right),
        "C10e": equal | {"placebo": hasty},
        "C12s": make(lambda seed, arm: of.right(seed, "start") - of.right(seed, arm), "untuned", "streaming", item, {
            name: mean(name) for name in ("start", "untuned", "untuned rope", "streaming")}),
        "C15s": make(lambda seed, pair: of.early(seed, pair[0]) - of.early(seed, pair[1]), ("streaming", "batch"), ("batch", "interleaved"),
                     item, {name: fmean(of.early(seed, name) for seed in of.seeds) for name in ("batch", "streaming", "interleaved")}),
        "C16s": make(others, "other units", "D2", item),
    }


# -- gold traces, and the gate -----------------------------------------------------------------------------
def gold(results: dict, size: str = "cpu") -> dict[str, dict]:
    found = results["gold"]
    none = [0.0] * len(found["waited"])
    saved = found["places"]
    return {"C2s": paired(found["waited"], none) | {"placebo": paired(none, none)},
            "C11s": paired(saved, [0.0] * len(saved)) | {"placebo": paired([100.0] * len(saved), [0.0] * len(saved))}}


def variants(results: dict, size: str = "cpu") -> dict[str, dict]:
    seeds = seeds_of(results, "context/untuned")

    def run(variant: str, arm: str, seed: int) -> dict:
        return results[f"{variant}/{arm}/seed{seed}"]

    def gap(seed: int, arm: str, variant: str) -> float:
        return 100 * (run(variant, arm, seed)["D2"] - run(variant, "batch", seed)["D2"])

    def smaller(seed: int, arm: str) -> float:
        return min(gap(seed, arm, variant) for variant in ("rules", "places"))

    def ahead(seed: int, arm: str) -> float:
        (own, of), (other, all_) = (run("ahead", name, seed)["kinds"].get("ahead", [0, 1]) for name in (arm, "batch spe"))
        return 100 * (own / of - other / all_)

    item = 100 / run("context", "batch", seeds[0])["items"]
    looking = 100 / run("ahead", "streaming", seeds[0])["kinds"].get("ahead", [0, 1])[1]

    def shown(variant: str, arms: Sequence[str]) -> dict[str, float]:
        return {f"{variant}, {arm}": 100 * fmean(run(variant, arm, seed)["D2"] for seed in seeds) for arm in arms}

    both = ("untuned", "batch", "streaming")
    return {"C8s": claim(seeds, partial(gap, variant="context"), "streaming", "untuned", item, shown("context", both)),
            "C17s": claim(seeds, smaller, "streaming", "untuned", item, shown("rules", both) | shown("places", both)),
            "C13s": claim(seeds, ahead, "streaming", "batch spe", looking, shown("ahead", ("batch spe", "streaming")))}


def gated(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Of the arms of noisy.py."""
    seeds = seeds_of(results, "gated/all")

    def over(seed: int, arm: str, entry: str = "D2") -> float:
        return 100 * (results[f"gated/{arm}/seed{seed}"][entry] - results[f"gated/all/seed{seed}"][entry])

    def shown(entry: str) -> dict[str, float]:
        return {arm: 100 * fmean(results[f"gated/{arm}/seed{seed}"][entry] for seed in seeds) for arm in ("all", "gated", "lot", "clean")}

    first = results[f"gated/all/seed{seeds[0]}"]
    units = sum(of for _, of in first["kinds"].values())
    return {"C14s": claim(seeds, over, "gated", "lot", 100 / first["items"], shown("D2")),
            "C14u": claim(seeds, partial(over, entry="unit"), "gated", "lot", 100 / units, shown("unit"))}


def attention(results: dict, size: str = "cpu") -> dict[str, dict]:
    seeds = seeds_of(results, "attention/batch")
    if not seeds:  # results that are older than the experiment
        return {}

    def run(seed: int, arm: str, entry: str) -> float:
        return 100 * results[f"attention/{arm}/seed{seed}"][entry]

    def shown(entry: str) -> dict[str, float]:
        return {arm: fmean(run(seed, arm, entry) for seed in seeds) for arm in ("batch", "batch spe", "streaming")}

    return {"C6s": claim(seeds, lambda seed, entry: run(seed, "batch spe", entry) - run(seed, "batch", entry), "own", "before", 0.01,
                         shown("own")),
            "C15e": claim(seeds, lambda seed, arm: run(seed, arm, "early") - run(seed, "batch", "early"), "streaming", "batch spe", 0.01,
                          shown("early"))}


def realtext(results: dict, size: str = "cpu") -> dict[str, dict]:
    found = results["realtext"]

    def saved(name: str) -> dict:
        none = [0.0] * len(found[name])
        return paired(found[name], none) | {"placebo": paired(none, none)}

    return {"C2r": saved("GSM8K"), "C2p": saved("PubMedQA")}


def gate(results: dict, size: str = "cpu") -> dict[str, dict]:
    found = results["gate"]
    kept, faults = found["kept"]["tf-idf"], found["dropped"]["tf-idf"]
    clean = percent(*kept)
    passed = percent(kept[1] - kept[0], kept[1])  # clean traces that are dropped

    def dropped(kinds: Sequence[str]) -> dict:
        return percent(sum(faults[kind][0] for kind in kinds), sum(faults[kind][1] for kind in kinds)) | {
            "placebo": passed, "baselines": {kind: 100 * faults[kind][0] / faults[kind][1] for kind in faults}}

    everything = [row for kind, row in faults.items()]
    not_dropped = sum(of - hit for hit, of in everything), sum(of for _, of in everything)
    return {"C14c": dropped(found["count faults"]), "C14o": dropped(found["order faults"]), "C14q": dropped(["quoted"]),
            "C14k": clean | {"placebo": percent(*not_dropped)}}


def encoders(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Faults of order by a sentence encoder; random vectors are the placebo."""
    found = results["encoders"]

    def dropped(encoder: str) -> dict:
        rows = [found["dropped"][encoder][kind] for kind in found["order faults"]]
        return percent(sum(hit for hit, _ in rows), sum(of for _, of in rows))

    return {"C14m": dropped("minilm") | {"placebo": dropped("random"), "baselines": {
        "tf-idf": dropped("tf-idf")["value"], **{f"clean kept, {name}": 100 * hit / of for name, (hit, of) in found["kept"].items()}}}}


def clock(results: dict, size: str = "cpu") -> dict[str, dict]:
    rows = [row for name, row in results.items() if name.startswith("clock/")]

    def beyond(name: str) -> dict:
        return summarize([100 * (row[name] - 1) for row in rows], 0.1, "processes")

    def sooner(name: str, than: Callable[[dict], float]) -> dict:
        return summarize([100 * (1 - row["delay"][name] / than(row)) for row in rows], 0.1, "processes")

    slowest = max(row["delay"]["batch"] for row in rows)  # of the same reasoning: what processes and their stories alone differ by
    shown = {f"{name}, ms": 1000 * fmean(row["delay"][name] for row in rows) for name in ("streaming", "predicted", "batch")}
    return {"C3w": beyond("streaming") | {"sensitivity": beyond("batch"), "baselines": shown},
            "C3k": sooner("streaming", lambda row: row["delay"]["batch"]) | {
                "placebo": sooner("batch", lambda row: slowest), "baselines": shown}}


def speed(results: dict, size: str = "cpu") -> dict[str, dict]:
    rows = [row for name, row in results.items() if name.startswith("step/")]
    views, joined = (summarize([row["ratio"][way] for row in rows], 0.001, "processes") for way in ("views", "concatenation"))
    return {"C10s": views | {"placebo": joined, "baselines": {
        f"{way}, ms": fmean(row["ms"][way] for row in rows) for way in ("stock", "views", "concatenation")}}}


# -- models, for records -----------------------------------------------------------------------------------
def facts(results: dict) -> tuple[list, list]:
    """(models, datasets) of the arms' run."""
    of = Arms(results)
    first = results[f"start/seed{of.seeds[0]}"]
    return [first["model"]], [{"name": "generated stories with running totals", "split": "test", "n": first["start"]["items"]}]
