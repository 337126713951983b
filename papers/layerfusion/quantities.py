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
    """The mean of ours - theirs, clustered by picture; where all are equal, its error is what one item more or less (a question, a
    layer: 1) makes of it, never nothing."""
    found = paired(ours, theirs, list(pictures))
    least, groups = max(1.0, *map(abs, (*ours, *theirs))) / len(ours), len(set(pictures))
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


# -- trained -----------------------------------------------------------------------------------------------
SETS = ("single", "triple", "latter", "all")
KINDS = ("external direct", "external modular", "internal direct", "internal modular")
FINE = ("tens", "digit", "shade")  # what the default layer is worst at, by the probes


@dataclass(frozen=True)
class Trained:
    """Results of trainings by arm and seed. name: long or variants."""

    results: dict
    name: str
    when: str = "end"

    @property
    def seeds(self) -> tuple[int, ...]:
        return seeds_of(self.results, f"{self.name}/default" if self.name == "long" else f"{self.name}/triple, Qwen3")

    def run(self, seed: int, arm: str, name: str = "") -> dict:
        return self.results[f"{name or self.name}/{arm}/seed{seed}"]

    def right(self, seed: int, arm: str, where: str = "test", kinds: Sequence[str] = (), name: str = "") -> float:
        """Mean over kinds in points; all kinds where none is named."""
        of = self.run(seed, arm, name)[self.when][where]
        return 100 * (of if isinstance(of, float) else fmean(of[kind] for kind in (kinds or of)))

    def apart(self, ours: str, theirs: str, where: str = "test", kinds: Sequence[str] = ()) -> dict:
        return summarize([self.right(s, ours, where, kinds) - self.right(s, theirs, where, kinds) for s in self.seeds], 0.1)

    def over_sets(self, seed: int, kind: str) -> list[float]:
        return [self.right(seed, f"{kind}, {name}") for name in SETS]

    def ahead(self, kind: str) -> dict:
        """Mean over sets less the best other kind's."""
        rows = [{k: fmean(self.over_sets(seed, k)) for k in KINDS} for seed in self.seeds]
        return summarize([row[kind] - max(row[k] for k in KINDS if k != kind) for row in rows], 0.1)

    def steadier(self, kind: str) -> dict:
        """The least standard deviation over sets of another kind less this one's."""
        rows = [{k: stdev(self.over_sets(seed, k)) for k in KINDS} for seed in self.seeds]
        return summarize([min(row[k] for k in KINDS if k != kind) - row[kind] for row in rows], 0.1)

    def early(self, seed: int, arm: str) -> float:
        """Training loss after a quarter of the steps."""
        losses = self.run(seed, arm)["loss"]
        return losses[len(losses) // 4]


def long(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C1l to C10l."""
    of = Trained(results, "long")
    direct, three, again = "external direct, triple", "default", "default three times"

    def worse(kind: str) -> dict:
        return summarize([of.early(s, f"{kind}, all") - of.early(s, f"{kind}, triple") for s in of.seeds], 1e-3)

    means = {f"{kind}, {name}": fmean(of.right(s, f"{kind}, {name}") for s in of.seeds) for kind in KINDS for name in SETS}
    return {
        "C1l": of.apart(direct, three, kinds=FINE) | {"placebo": of.apart(again, three, kinds=FINE), "baselines": means},
        "C1m": of.apart(again, three, kinds=FINE) | {"sensitivity": of.apart(direct, three, kinds=FINE)},
        "C1g": of.apart(direct, three, "shifted") | {"placebo": of.apart(again, three, "shifted")},
        "C1v": of.apart(direct, three, "easy-VQA") | {"placebo": of.apart(again, three, "easy-VQA")},
        "C2l": of.apart("late region", direct) | {"placebo": of.apart(direct, three)},
        "C3l": of.ahead("external direct") | {"placebo": of.ahead("internal modular")},
        "C3m": of.steadier("external direct") | {"placebo": of.steadier("internal modular")},
        "C10l": worse("internal modular") | {"placebo": worse("external direct")},
    }


def variants(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C11l to C13m: some beside arms of the long run, where these are among the results."""
    of = Trained(results, "variants")
    found = {}
    for claim, what in (("C13l", "random tower"), ("C13m", "Qwen3")):
        found[claim] = of.apart(f"triple, {what}", f"default, {what}") | {
            "placebo": of.apart(f"default three times, {what}", f"default, {what}")}
    if f"long/internal modular, triple/seed{of.seeds[0]}" in results:
        three = [[of.right(s, "internal modular, triple", name="long"), of.right(s, "internal modular, post"),
                  of.right(s, "internal modular, parallel")] for s in of.seeds]
        other = [of.right(s, "external direct, triple", name="long") - values[0] for s, values in zip(of.seeds, three)]
        found["C11l"] = summarize([max(values) - min(values) for values in three], 0.1) | {"sensitivity": summarize(other, 0.1)}

        def gain(kind: str, seed: int) -> float:
            return of.right(seed, f"{kind}, triple", name="long") - of.right(seed, f"{kind}, 1000 pictures")

        direct = {s: gain("external direct", s) for s in of.seeds}
        turned = [direct[b] - direct[a] for a, b in zip(of.seeds, (*of.seeds[1:], of.seeds[0]))]
        found["C12l"] = summarize([gain("internal direct", s) - direct[s] for s in of.seeds], 0.1) | {"placebo": summarize(turned, 0.1)}
    return found


def smollm2(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C23r: a pretrained decoder."""
    seeds = seeds_of(results, "smollm2/default")

    def right(seed: int, arm: str) -> float:
        return 100 * fmean(results[f"smollm2/{arm}/seed{seed}"]["test"][kind] for kind in FINE)

    def gain(arm: str) -> dict:
        return summarize([right(s, arm) - right(s, "default") for s in seeds], 0.1)

    inside = gain("internal direct, triple")["value"]
    return {"C23r": gain("external direct, triple") | {"placebo": gain("default three times"), "baselines": {"internal direct": inside}}}


# -- paper scale -------------------------------------------------------------------------------------------
def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """{run: {seed: {benchmark: score}}} -> averages of those that have all nine; what is missing stays not-run."""
    found, means = {}, {}
    for run, seeds in results["paper"].items():
        whole = {seed: analytic.mean_score([of[name] for name in reported.BENCHMARKS]) for seed, of in seeds.items()
                 if all(name in of for name in reported.BENCHMARKS)}
        if whole:
            means[run] = whole

    def averaged(claim: str, run: str) -> None:
        if run in means:
            found[claim] = summarize(list(means[run].values()), 0.01)

    def differ(claim: str, ours: str, theirs: str) -> None:
        both = sorted(set(means.get(ours, {})) & set(means.get(theirs, {})))
        if both:
            found[claim] = summarize([means[ours][s] - means[theirs][s] for s in both], 0.01)

    differ("C1", "external-direct_triple", "external-direct_default")
    differ("C2", "internal-direct_triple", "internal-direct_latter")
    for claim, run in (("C4", "external-direct_default"), ("C5", "external-direct_all"), ("C6", "external-direct_triple"),
                       ("C7", "internal-modular_double"), ("C8", "internal-direct_triple"), ("C9", "external-modular_former")):
        averaged(claim, run)
    return found
