"""From results of jobs to what claims measure: {claim: measured}, each in its own unit. No number here judges: rules stand in
claims.yaml, verdicts in common/claims. Beside an effect stands its placebo, or what must be told apart: the same quantity of
another arm.

Points are percent of pictures (probes) or of questions (LLaVAs) that are answered right. A probe's seed draws pictures of its own to
fit and to test; a training's seed is its weights and its order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from common.claims.intervals import paired, point, summarize, t_quantile
from common.seeds import seeds_of

from . import analytic, reported

OTHERS = "{}, added layers of another picture"
LATE, REGIONS = ("late region", "last region"), ("first region", "middle region", "late region", "last region")
CUTS = (6, 10)  # where the specification saw the stages of DINOv2-S end


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    means, known, steady = analytic.averages(), reported.AVERAGES, analytic.steadiness()
    external = known["external direct"]
    triples = {kind: of["triple"] for kind, of in known.items() if "triple" in of}
    inside = max(value for kind, value in triples.items() if kind.startswith("internal"))
    others = min(value for kind, value in steady.items() if kind != "external direct")
    all_of = {f"{position} {pattern}": analytic.triple(position, pattern) for position, pattern in analytic.KINDS}
    parameters = {kind: 100 * analytic.added(of) / analytic.MOBILELLAMA_1B4.parameters() for kind, of in all_of.items()}
    work = {kind: analytic.share_of_prefill(of) for kind, of in all_of.items()}
    return {
        "C4a": point(means["layer 23 alone"][0]), "C5a": point(means["external direct, all"][0]),
        "C7a": point(means["internal modular, double"][0]), "C8a": point(means["internal direct, latter"][0]),
        "C9a": point(means["external modular, former"][0]),
        "C2a": point(round(external["triple"] - external["all"], 2)),
        "C3a": point(round(triples["external direct"] - inside, 2), baselines=triples),
        "C3b": point(others - steady["external direct"], baselines=steady),
        "C16a": point(parameters["external direct"], baselines=parameters), "C16b": point(work["external direct"], baselines=work),
        "C16c": point(1 + analytic.share_of_prefill(analytic.triple("internal", "modular", "all")) / 100),
        "C18a": point(max(gqa for _, gqa in analytic.ranges().values()), baselines={k: gqa for k, (_, gqa) in analytic.ranges().items()}),
        "C18b": point(analytic.equal_batch_range()),
    }


# -- probes ------------------------------------------------------------------------------------------------
Share = Callable[[dict], float]  # of a probe's result, in points


def share(group: str, name: str, *kinds: str) -> Share:
    """Mean over kinds (all of them where none is named)."""
    return lambda of: 100 * fmean(of[group][name][kind] for kind in (kinds or of[group][name]))


@dataclass(frozen=True)
class Probes:
    """Results of probes on one look of the scenes."""

    results: dict
    look: str

    @property
    def rows(self) -> list[dict]:
        return [self.results[f"probes/{self.look}/seed{seed}"] for seed in seeds_of(self.results, f"probes/{self.look}")]

    def mean(self, *shares: Share, **baselines: Share) -> dict:
        """Over seeds: the first share less the second, or alone. Its error is at least what one picture makes of it."""
        values = [shares[0](row) - (shares[1](row) if len(shares) > 1 else 0) for row in self.rows]
        found = summarize(values, 100 / self.rows[0]["counts"][1])
        return found | ({"baselines": {name: fmean(of(row) for row in self.rows) for name, of in baselines.items()}} if baselines else {})


def best(group: str, names: Sequence[str] | None, *kinds: str) -> Share:
    """The best of several, chosen on what it is held against: a favour to it."""
    return lambda of: max(share(group, name, *kinds)(of) for name in (names or of[group]))


def behind(of: dict) -> float:
    """How far the most even single layer is behind the best one, on the kind where it is furthest behind."""
    layers = of["layers"]
    top = {kind: max(row[kind] for row in layers.values()) for kind in next(iter(layers.values()))}
    return 100 * min(max(top[kind] - row[kind] for kind in top) for row in layers.values())


def probes(results: dict, size: str = "cpu") -> dict[str, dict]:
    easy, hard, digit = Probes(results, "easy"), Probes(results, "hard"), "digit"

    def of(name: str, *kinds: str, group: str = "sets") -> Share:
        return share(group, name, *(kinds or (digit,)))

    default, triple, medoids = of("default"), of("triple"), of("medoids")
    fake = of(OTHERS.format("medoids"), group="controls")
    late, region, single = best("sets", LATE, digit), best("sets", REGIONS, digit), best("layers", None, digit)
    both = ("tens", "digit")
    nothing: Share = lambda row: 100 * row["chance"][digit]  # noqa: E731
    sets = {name: of(name) for name in easy.rows[0]["sets"]}
    kinds = tuple(hard.rows[0]["shifted"]["default"])
    return {
        "C1a": easy.mean(triple, default, **sets) | {"placebo": easy.mean(of(OTHERS.format("triple"), group="controls"), default)},
        "C1b": easy.mean(medoids, late) | {"placebo": easy.mean(fake, late)},
        "C1c": easy.mean(medoids, region) | {"placebo": easy.mean(fake, region)},
        "C1d": easy.mean(medoids, single, **{f"layer {k}": share("layers", k, digit) for k in easy.rows[0]["layers"]})
        | {"placebo": easy.mean(fake, single)},
        "C1e": easy.mean(of("triple of another picture", group="controls"), nothing) | {"placebo": easy.mean(triple, nothing)},
        "C2p": easy.mean(of("all"), medoids) | {"sensitivity": easy.mean(medoids, default)},
        "C2q": easy.mean(of("late region"), default) | {"placebo": easy.mean(medoids, default)},
        "C1h": hard.mean(of("triple", *both), of("default", *both), **{name: of(name, *both) for name in hard.rows[0]["sets"]})
        | {"placebo": hard.mean(of(OTHERS.format("triple"), *both, group="controls"), of("default", *both))},
        "C1s": hard.mean(of("triple", *kinds, group="shifted"), of("default", *kinds, group="shifted"))
        | {"placebo": hard.mean(of(OTHERS.format("triple"), *kinds, group="shifted"), of("default", *kinds, group="shifted"))},
        "C17a": hard.mean(behind) | {"placebo": easy.mean(behind)},
    }


# -- stages ------------------------------------------------------------------------------------------------
def stages(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C19: of each picture of the second half, so that pictures are the items."""
    real, random = results["stages/pretrained"], results["stages/random"]

    def over(of: dict, which: str) -> list[float]:
        return [a - b for a, b in zip(of[which], of["permuted"])]

    def away(of: dict) -> list[float]:
        return [float(max(abs(a - b) for a, b in zip(cuts, CUTS))) for cuts in of["cuts by picture"]]

    def items(values: Sequence[float], less: Sequence[float] | None = None) -> dict:
        return clustered(values, less or [0.0] * len(values), range(len(values)))

    scores = {"pretrained, all pictures": real["score"], "photographs": real["photographs"]["score"], "random weights": random["score"]}
    return {"C19a": items(over(real, "scores")) | {"placebo": items(over(real, "one order")), "baselines": scores},
            "C19b": items(away(real)) | {"placebo": items(away(random))},
            "C19c": items(over(real, "scores"), over(random, "scores"))
            | {"placebo": items(over(real, "one order"), over(random, "scores"))}}


def clustered(ours: Sequence[float], theirs: Sequence[float], pictures: Sequence[int]) -> dict:
    """The mean of ours - theirs, clustered by picture; where all are equal, its error is what one item makes of it."""
    found = paired(ours, theirs, list(pictures))
    least, groups = max(map(abs, (*ours, *theirs)), default=0.0) / len(ours), len(set(pictures))
    if not found["stderr"] and groups > 1:
        half = t_quantile(0.975, groups - 1) * least
        found |= {"stderr": least, "stderr_kind": "clustered", "ci95": [found["value"] - half, found["value"] + half]}
    return found


# -- the committed models ----------------------------------------------------------------------------------
def llava(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C21: answers of all models, one after the other; pictures, of which they see the same, are the clusters."""
    seeds = seeds_of(results, "llava")

    def right(*way: str) -> list[float]:
        found: list[float] = []
        for seed in seeds:
            of = results[f"llava/seed{seed}"]
            for name in way:
                of = of[name]
            found += [100.0 * int(bit) for bit in of]
        return found

    def pictures(which: str = "test") -> list[int]:
        return results["llava/features"][which]["pictures"] * len(seeds)

    def wrong(which: str) -> dict:
        ours = right(which)
        return clustered([100 - value for value in ours], [0.0] * len(ours), pictures(which))

    def lost(way: str, layer: str) -> dict:
        return clustered(right("test"), right(way, layer), pictures())

    found = {"C21a": wrong("test") | {"placebo": wrong("hard")}}
    for claim, layer in (("C21b", "2"), ("C21c", "9"), ("C21d", "11")):
        found[claim] = lost("another picture", layer) | {"placebo": lost("drawn again", layer)}
    return found


# -- time --------------------------------------------------------------------------------------------------
def speed(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C22: one value a process."""
    found = [results[name] for name in sorted(results) if name.startswith("speed/process")]

    def ratio(way: str) -> dict:
        rounds = [of["ratios"][way]["ratios"] for of in found]
        read = [stdev(of) / len(of) ** 0.5 if len(of) > 1 else 0.0 for of in rounds]
        return summarize([median(of) for of in rounds], sum(error**2 for error in read) ** 0.5 / len(rounds), over="processes")

    way = "external direct"
    spread = max(of["ratios"][way]["iqr"] / of["ratios"][way]["median"] for of in found)
    others = {name: fmean(of["ratios"][name]["median"] for of in found) for name in found[0]["ratios"]} | {
        "bound": found[0]["ratios"][way]["bound"]}
    return {"C22a": ratio(way) | {"placebo": ratio("internal modular"), "baselines": others, "timing": {
        "rounds": sum(of["rounds"] for of in found), "processes": len(found), "estimator": "median of interleaved rounds",
        "iqr_relative": spread, "load_average": max(of["load_average"] for of in found)}}}
