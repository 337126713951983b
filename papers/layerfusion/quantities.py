"""From results of jobs to what claims measure: {claim: measured}, each in its own unit. No number here judges: rules stand in
claims.yaml, verdicts in common/claims. Beside an effect stands its placebo, or what must be told apart: the same quantity of
another arm.

Points are percent of pictures (probes) or of questions (LLaVAs) that are answered right. A probe's seed draws pictures of its own to
fit and to test. What is trained here has a file of its own, quantities_trained.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from common.claims.intervals import paired, point, summarize, t_quantile
from common.seeds import seeds_of

from . import analytic, reported
from .experiments.exact import figures

OTHERS = "{}, added layers of another picture"
LATE, REGIONS = ("late region", "last region"), ("first region", "middle region", "late region", "last region")
CUTS = (6, 10)  # where the specification saw the stages of DINOv2-S end


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    of = figures()
    means, known, steady, parameters, work = (of[name] for name in ("means", "known", "spread", "parameters", "work"))
    external = known["external direct"]
    triples = {kind: sets["triple"] for kind, sets in known.items() if "triple" in sets}
    inside = max(value for kind, value in triples.items() if kind.startswith("internal"))
    others = min(value for kind, value in steady.items() if kind != "external direct")
    return {
        "C4a": point(means["layer 23 alone"]), "C5a": point(means["external direct, all"]),
        "C7a": point(means["internal modular, double"]), "C8a": point(means["internal direct, latter"]),
        "C9a": point(means["external modular, former"]),
        "C2a": point(round(external["triple"] - external["all"], 2)),
        "C3a": point(round(triples["external direct"] - inside, 2), baselines=triples),
        "C3b": point(others - steady["external direct"], baselines=steady),
        "C16a": point(parameters["external direct"], baselines=parameters), "C16b": point(work["external direct"], baselines=work),
        "C16c": point(of["all inside"]), "C18a": point(max(of["ranges"].values()), baselines=of["ranges"]),
        "C18b": point(of["equal batches"]),
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
    """C21a to C21d: answers of all models, one after the other; pictures, of which they see the same, are the clusters."""
    of = Swapped(results, "llava")
    found = {"C21a": of.wrong("test") | {"placebo": of.wrong("hard")}}
    return found | {claim: of.without(layer) for claim, layer in (("C21b", "2"), ("C21c", "9"), ("C21d", "11"))}


def committed(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C21e to C21g: the same of the LLaVA with SmolLM2's decoder."""
    of = Swapped(results, "committed")
    return {claim: of.without(layer) for claim, layer in (("C21e", "2"), ("C21f", "9"), ("C21g", "11"))}


def own(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C24: the four small LLaVAs of this paper, on hard scenes; differences are of the same questions, clustered by picture."""
    asked = results["own/features"]["test"]

    def right(name: str, kinds: Sequence[str] = (), layer: str = "") -> list[float]:
        of = results[f"own/{name}"]
        answers = of["another picture"][layer] if layer else of["test"]
        return [100.0 * int(bit) for bit, kind in zip(answers, asked["kinds"], strict=True) if not kinds or kind in kinds]

    def less(ours: list[float], theirs: list[float], kinds: Sequence[str] = ()) -> dict:
        return clustered(ours, theirs, [p for p, kind in zip(asked["pictures"], asked["kinds"]) if not kinds or kind in kinds])

    fine = ("tens", "digit", "shade")
    gained = less(right("triple"), right("default"))
    return {
        "C24a": less(right("triple", fine), right("default", fine), fine)
        | {"placebo": less(right("triple", fine, "2"), right("default", fine), fine)},
        "C24b": less(right("region"), right("triple")) | {"placebo": gained},
        "C24c": less(right("cross-attention"), right("triple")) | {"placebo": gained},
    }


@dataclass(frozen=True)
class Swapped:
    """Committed models of an experiment: what they answer as they are, and with a layer of other pictures."""

    results: dict
    name: str

    def right(self, *way: str) -> list[float]:
        found: list[float] = []
        for seed in seeds_of(self.results, self.name):
            of = self.results[f"{self.name}/seed{seed}"]
            for name in way:
                of = of[name]
            found += [100.0 * int(bit) for bit in of]
        return found

    def pictures(self, which: str = "test") -> list[int]:
        return self.results[f"{self.name}/features"][which]["pictures"] * len(seeds_of(self.results, self.name))

    def wrong(self, which: str) -> dict:
        ours = self.right(which)
        return clustered([100 - value for value in ours], [0.0] * len(ours), self.pictures(which))

    def without(self, layer: str) -> dict:
        """Points lost where the layer is of another picture; placebo: of the same scene, drawn again."""
        whole = self.right("test")
        lost, again = (clustered(whole, self.right(way, layer), self.pictures()) for way in ("another picture", "drawn again"))
        return lost | {"placebo": again}


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


# -- paper scale -------------------------------------------------------------------------------------------
PAPERS_SETS = ("single", "double", "triple", "former", "latter", "all")
EXTERNAL, INTERNAL = ("external-direct", "external-modular"), ("internal-direct", "internal-modular")
AVERAGED = {"C4": "external-direct_default", "C5": "external-direct_all", "C6": "external-direct_triple", "C7": "internal-modular_double",
            "C8": "internal-direct_triple", "C9": "external-modular_former", "C13": "siglip_27_external-direct_triple",
            "C14": "siglip_14_internal-modular_triple"}
LOSS = "training loss"  # of a run, beside its benchmarks


def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """{run: {seed: {benchmark: score, "training loss"}}} -> what follows from runs that have all nine; what is missing stays not-run."""
    found, means = {}, {}
    for run, seeds in results["paper"].items():
        whole = {seed: analytic.mean_score([of[name] for name in reported.BENCHMARKS]) for seed, of in seeds.items()
                 if all(name in of for name in reported.BENCHMARKS)}
        if whole:
            means[run] = whole

    def over(claim: str, runs: Sequence[str], value: Callable[[list[float]], float], of: dict[str, dict[str, float]]) -> None:
        """From the runs' numbers, seed by seed, over seeds that all of them have."""
        if both := sorted(set.intersection(*(set(of.get(run, {})) for run in runs))):
            found[claim] = summarize([value([of[run][seed] for run in runs]) for seed in both], 0.01)

    for claim, run in AVERAGED.items():
        over(claim, [run], lambda means: means[0], means)
    over("C1", ["external-direct_triple", "external-direct_default"], lambda means: means[0] - means[1], means)
    over("C2", ["internal-direct_triple", "internal-direct_latter"], lambda means: means[0] - means[1], means)
    over("C3", [f"{kind}_{name}" for kind in (*EXTERNAL, *INTERNAL) for name in PAPERS_SETS], _best_and_steadiest, means)
    losses = {run: {seed: of[LOSS] for seed, of in seeds.items() if LOSS in of} for run, seeds in results["paper"].items()}
    over("C10", ["internal-modular_all", "internal-modular_double"], lambda ends: ends[0] - ends[1], losses)
    over("C11", [f"internal-modular_triple{variant}" for variant in ("", "-post", "-parallel")],
         lambda means: max(means) - min(means), means)
    over("C12", [f"{data}_{kind}_triple" for kind in (*INTERNAL, *EXTERNAL) for data in ("737k", "332k")], _inside_gains_more, means)
    return found


def _best_and_steadiest(means: list[float]) -> float:
    """means: of external direct's sets, then the other kinds'. The lesser of its two advantages."""
    width = len(PAPERS_SETS)
    own, *others = (means[i : i + width] for i in range(0, len(means), width))
    return min(fmean(own) - max(map(fmean, others)), min(map(stdev, others)) - stdev(own))


def _inside_gains_more(means: list[float]) -> float:
    """means: with much and with little data, of both internal kinds, then of both external ones."""
    inside, inside_2, outside, outside_2 = (means[i] - means[i + 1] for i in range(0, len(means), 2))
    return (inside + inside_2) / 2 - (outside + outside_2) / 2
