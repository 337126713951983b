"""From results of jobs to what claims measure: {claim: measured}, each in its own unit. No number here judges: rules stand in
claims.yaml, verdicts in common/claims. Beside an effect stands its placebo: the same quantity of an arm that must not pass."""

from __future__ import annotations

import functools
import random
import warnings
from dataclasses import dataclass
from statistics import fmean

from common.claims.intervals import paired, point, summarize, t_quantile
from common.claims.processes import over_processes
from common.seeds import seed_of, seeds_of

from . import analytic, reported
from .analytic import LLAVA_3B, LLAVA_7B, LLAVA_13B, PAPER, visual_flops, visual_ratio
from .experiments.llava import result_of


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    dropped = 8 * 0.5  # the mean share of the schedule that fits, over eight layers
    pdrop = dropped * visual_flops(LLAVA_7B, cross_layers=1).total
    sizes = {shape.name: 100 * visual_ratio(shape, k) for shape, k in PAPER.items()}
    wrong, rows = reported.recomputed(), {row.name: row for row in reported.TABLE}
    return {
        "C2": point(visual_flops(LLAVA_7B, cross_layers=8).total / 1e12, baselines={"dense": visual_flops(LLAVA_7B).total / 1e12}),
        "C2a": point(100 * visual_ratio(LLAVA_7B, 8), baselines={
            "causal edges only": 100 * analytic.causal_flops(LLAVA_7B, 576, 35, 27, 8) / analytic.causal_flops(LLAVA_7B, 576, 35, 27),
            "as FastV counts": 100 * analytic.mac_flops_vica(LLAVA_7B, 8) / analytic.mac_flops(LLAVA_7B),
            "whole prefill": 100 / analytic.bound(LLAVA_7B, 8)}),
        "C2b": point(analytic.equivalent_tokens(visual_ratio(LLAVA_7B, 8)),
                     baselines={s.name: analytic.equivalent_tokens(visual_ratio(s, PAPER[s])) for s in (LLAVA_3B, LLAVA_13B)}),
        "C2c": point(100 * analytic.mean_ratio(), baselines=sizes),
        "C2d": point(100 * analytic.with_tower(LLAVA_7B, 8), baselines={"decoder alone": sizes[LLAVA_7B.name]}),
        "C3c": point(124.5 / 36),
        "C4a": point(analytic.bound(LLAVA_7B, 8), baselines={
            "frozen prefix": analytic.prefill_flops(LLAVA_7B, 576, 62) / analytic.prefill_flops(
                LLAVA_7B, 576, 62, 8, prefix=35, frozen=True),
            "no picture at all": analytic.text_bound(LLAVA_7B), "longest text for 10x": analytic.longest_text_for(10)}),
        "C6c": point(pdrop / 1e12),
        "C6d": point(analytic.equivalent_tokens(visual_ratio(LLAVA_7B, dropped))),
        "C7c": point(len(reported.TABLE) - len(wrong), baselines={name: computed for name, (_, computed) in wrong.items()}),
        "C7d": point(reported.relative_average(rows["ViCA"].scores), baselines={
            "ViCA+PDrop": reported.relative_average(rows["ViCA+PDrop"].scores),
            **{f"better, at {r.share} % of FLOPs: {r.name}": r.average for r in reported.better_than_vica()}}),
    }


# -- the small LLaVA ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Small:
    """Results of the jobs of experiments/llava.py, an accuracy at a time: a list of one value a seed."""

    results: dict

    @property
    def seeds(self) -> tuple[int, ...]:
        return seeds_of(self.results, "all layers")

    def all_layers(self) -> list[dict]:
        return [self.results[f"all layers/seed{seed}"] for seed in self.seeds]

    def tuned(self, arm: str) -> list[float]:
        if arm == "all layers":
            return self.at(arm, "all layers", "all")
        return [result_of(self.results, arm, seed)["test"]["all"] for seed in self.seeds]

    def at(self, job: str, *way: str) -> list[float]:
        return [functools.reduce(lambda inside, name: inside[name], way, self.results[f"{job}/seed{seed}"]) for seed in self.seeds]

    def blind(self) -> list[float]:
        """Of the best answers without the picture."""
        return [self.results["blind"]["all"]] * len(self.seeds)

    def item(self, what: str = "all") -> float:
        """What one question more or less makes of an accuracy."""
        return 1 / self.all_layers()[0]["items"][what]

    def rounding(self) -> float:
        """What a training of two layers owes to how a processor rounds: the same arm twice, its weights once moved by a rounding."""
        (seed,) = seeds_of(self.results, "again")
        once, again = self.tuned("greedy")[self.seeds.index(seed)], self.results[f"again/seed{seed}"]["test"]["all"]
        return max(abs(once - again), self.item())


def llava(results: dict, size: str = "cpu") -> dict[str, dict]:
    of = Small(results)
    return converted(of) | without_picture(of) | fewer_tokens(of) | on_top(of) | frozen(of) | few_layers(of)


def difference(ours: list[float], theirs: list[float], resolution: float) -> dict:
    return summarize([a - b for a, b in zip(ours, theirs)], resolution) | {"baselines": {"ours": fmean(ours), "theirs": fmean(theirs)}}


def kept(ours: list[float], whole: list[float], blind: list[float], step: float) -> dict:
    """Share of an accuracy that is kept, above what is answered blind. step: of an accuracy."""
    shares = [(a - b) / (w - b) for a, w, b in zip(ours, whole, blind)]
    return summarize(shares, step / (fmean(whole) - fmean(blind))) | {
        "baselines": {"ours": fmean(ours), "whole": fmean(whole), "blind": fmean(blind)}}


def converted(of: Small) -> dict[str, dict]:
    """C1s, C1g: two layers, tuned. Placebo: two drawn ones."""
    def share(arm: str) -> dict:
        return kept(of.tuned(arm), of.tuned("dense"), of.blind(), of.rounding())

    return {"C1s": share("top") | {"placebo": share("drawn")}, "C1g": share("greedy") | {"placebo": share("drawn")}}


def without_picture(of: Small) -> dict[str, dict]:
    """C1u: the text alone above blind answers. Placebo: two drawn layers that look."""
    def above(arm: str) -> dict:
        return difference(of.tuned(arm), of.blind(), of.item())

    return {"C1u": above("text") | {"placebo": above("drawn")}}


def fewer_tokens(of: Small) -> dict[str, dict]:
    """C7: ViCA against dense on as many tokens as cost the same. Placebos: that one tuned, and the text alone, in ViCA's place."""
    def over(arm: str, rival: list[float]) -> dict:
        return difference(of.tuned(arm), rival, of.rounding())

    attention, lot, few = of.at("untuned", "attention", "all"), of.at("untuned", "random", "all"), of.tuned("few")
    return {"C7a": over("top", attention) | {"placebo": over("few", attention)}, "C7b": over("top", lot) | {"placebo": over("few", lot)},
            "C7e": over("top", few) | {"placebo": over("text", few)}}


def on_top(of: Small) -> dict[str, dict]:
    """C6: PyramidDrop on ViCA. Placebos: by lot; a second lot."""
    def dropped(way: str) -> list[float]:
        return of.at("all layers", "PyramidDrop 0.5", way, "all")

    def share(way: str) -> dict:
        return kept(dropped(way), dropped("whole"), of.blind(), of.item("dropped, all"))

    def over_lot(way: str) -> dict:
        return difference(dropped(way), dropped("random"), of.item("dropped, all"))

    return {"C6a": share("ranked") | {"placebo": share("random")}, "C6b": over_lot("ranked") | {"placebo": over_lot("random again")}}


def frozen(of: Small) -> dict[str, dict]:
    """C8a: visual tokens frozen, retrained; C8b: without FFN, as it is. Placebos: as it is; retrained."""
    def untuned(what: str) -> dict:
        return kept(of.at("untuned", "frozen", what, "all"), of.at("untuned", "whole", "all"), of.blind(), of.item())

    retrained = kept(of.tuned("all layers"), of.tuned("dense"), of.blind(), of.item())
    return {"C8a": retrained | {"placebo": untuned("all")}, "C8b": untuned("ffn") | {"placebo": retrained}}


def few_layers(of: Small) -> dict[str, dict]:
    """C9: what the layers' scores foretell, untrained (placebo: dealt by lot), and greedy elimination after tuning (placebo: drawn)."""
    found = of.all_layers()
    own, lot = [one["leave-one-out"] for one in found], [dealt(one["leave-one-out"], seed) for one, seed in zip(found, of.seeds)]

    def top_over_bottom(scores: list[dict], which: str) -> dict:
        ours, theirs = ([pair(one["pairs"], nats, order)[which] for one, nats in zip(found, scores)] for order in ("top", "bottom"))
        return difference(ours, theirs, of.item(f"pairs, {which}"))

    def foretold(scores: list[dict]) -> dict:
        n = len(found[0]["pairs"])  # two neighbours that change places move the correlation by 12 / (n^3 - n)
        return summarize([correlation(one["pairs"], nats) for one, nats in zip(found, scores)], 12 / (n**3 - n))

    def over_top(arm: str) -> dict:
        return difference(of.tuned(arm), of.tuned("top"), of.rounding())

    return {"C9a": top_over_bottom(own, "all") | {"placebo": top_over_bottom(lot, "all")},
            "C9b": top_over_bottom(own, "open") | {"placebo": top_over_bottom(lot, "open")},
            "C9c": foretold(own) | {"placebo": foretold(lot)}, "C9e": over_top("greedy") | {"placebo": over_top("drawn")}}


def dealt(scores: dict[str, float], seed: int) -> dict[str, float]:
    """The same scores, each to a layer that it was not measured on, by lot."""
    values = list(scores.values())
    random.Random(seed_of("dealt", seed)).shuffle(values)
    return dict(zip(scores, values))


def pair(pairs: dict[str, dict], scores: dict[str, float], order: str) -> dict[str, float]:
    """Accuracies of the two layers of the highest ("top") or the lowest score."""
    layers = sorted(scores, key=lambda k: (-scores[k], int(k)))
    return pairs["-".join(sorted(layers[:2] if order == "top" else layers[-2:], key=int))]


def correlation(pairs: dict[str, dict], scores: dict[str, float]) -> float:
    """Spearman's over all pairs: sum of the two layers' scores, and accuracy. nan where one side is constant."""
    from scipy.stats import ConstantInputWarning, spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr([sum(scores[k] for k in name.split("-")) for name in pairs], [of["all"] for of in pairs.values()]).statistic)


# -- the longer runs ---------------------------------------------------------------------------------------
def scratch(results: dict, size: str = "cpu") -> dict[str, dict]:
    """From nothing, by the dense model's recipe. Placebo, and what must be told apart: the text alone."""
    seeds = seeds_of(results, "scratch")

    def at(arm: str, which: str = "test") -> list[float]:
        return [results[f"{arm}/seed{seed}"][which]["all"] for seed in seeds]

    item, ours, text, drawn = 1 / results[f"scratch/seed{seeds[0]}"]["items"], at("scratch"), at("scratch/text"), at("scratch/drawn")

    def share(arm: list[float]) -> dict:
        return kept(arm, at("scratch", "dense"), at("scratch", "blind"), item)

    def early(arm: str) -> dict:
        return kept(at(arm), at("scratch/short dense"), at("scratch", "blind"), item)

    return {"C1r": share(ours) | {"placebo": share(text)}, "C1q": early("scratch/short") | {"placebo": early("scratch/short text")},
            "C9f": difference(ours, drawn, item) | {"sensitivity": difference(ours, text, item),
                                                    "ceiling": {"values": [*ours, *drawn], "best": 1.0}}}


def draws(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C9g: the pair of the highest scores against the mean of three drawn pairs. Placebo: one of the drawn in its place."""
    found = [results[f"draws/seed{seed}"] for seed in seeds_of(results, "draws")]

    def at(arm: str) -> list[float]:
        return [of["arms"][arm]["test"]["all"] for of in found]

    def lot(of: dict) -> list[float]:
        return [arm["test"]["all"] for name, arm in of["arms"].items() if name.startswith("drawn")]

    drawn, item = [fmean(lot(of)) for of in found], 1 / found[0]["items"]
    return {"C9g": difference(at("top"), drawn, item) | {"placebo": difference(at("drawn 0"), drawn, item)}}


def patches(results: dict, size: str = "cpu") -> dict[str, dict]:
    """How far ViCA with all layers stays below dense where the encoder has not mixed its patches. Placebo: where it has."""
    seeds = seeds_of(results, "patches/dense")

    def gap(encoder: str) -> dict:
        dense, vica = ([results[f"patches/{encoder}{arm}/seed{seed}"]["test"]["all"] for seed in seeds] for arm in ("dense", "vica"))
        return difference(dense, vica, 1 / results[f"patches/dense/seed{seeds[0]}"]["items"])

    return {"C8c": gap("") | {"placebo": gap("mixed ")}}


def smollm2(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C13a to C13c: one model with a pretrained decoder, points of open questions, over pictures. Placebos: of what was not retuned the
    retuned, and the other way round; of scores, layers by lot."""
    of = Pretrained(results)
    dense, frozen = of.arm("dense"), of.arm("all layers")
    return {"C13a": of.over(of.was("whole"), of.was("ffn")) | {"placebo": of.over(dense, frozen)},
            "C13b": of.over(dense, frozen) | {"placebo": of.over(of.was("whole"), of.was("all"))},
            "C13c": of.over(of.restricted("top"), of.restricted("bottom")) | {"placebo": of.by_lot()}}


def few(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C13d: retuned with few layers. Placebo: with as many by lot."""
    of = Pretrained(results)
    return {"C13d": of.over(of.arm("dense"), of.arm("top")) | {"placebo": of.over(of.arm("dense"), of.arm("lot 0"))}}


@dataclass(frozen=True)
class Pretrained:
    """Results of experiments/smollm2.py, the open questions of all models one after the other."""

    results: dict

    def rows(self, job: str) -> list[dict]:
        return [self.results[f"smollm2/{job}/seed{seed}"] for seed in seeds_of(self.results, "smollm2/untuned")]

    def arm(self, name: str) -> str:
        return "".join(of["right"] for of in self.rows(name))

    def was(self, name: str) -> str:
        return "".join(of[name] for of in self.rows("untuned"))

    def restricted(self, name: str) -> str:
        return "".join(of["untrained"][name] for of in self.rows("all layers"))

    def over(self, ours: str, theirs: str) -> dict:
        a, b = points(ours), points(theirs)
        return over_pictures(a, b, self.pictures()) | {"baselines": {"ours": fmean(a), "theirs": fmean(b)}}

    def by_lot(self) -> dict:
        """Of each question the mean over pairs of sets."""
        first, second = ([points(self.restricted(name)) for name in self.rows("all layers")[0]["untrained"] if name.startswith(which)]
                         for which in ("lot ", "other lot "))
        return over_pictures([fmean(of) for of in zip(*first)], [fmean(of) for of in zip(*second)], self.pictures())

    def pictures(self) -> list[int]:
        return [picture for of in self.rows("untuned") for picture in of["pictures"]]


def points(bits: str) -> list[float]:
    return [100.0 * int(bit) for bit in bits]


def over_pictures(ours: list[float], theirs: list[float], pictures: list[int]) -> dict:
    """The mean of ours - theirs, clustered by picture; equal answers are equal to within one question."""
    found, least = paired(ours, theirs, pictures), 100.0 / len(ours)
    if (found["stderr"] or 0.0) < least:
        half = t_quantile(0.975, max(len(set(pictures)) - 1, 1)) * least
        found |= {"stderr": least, "stderr_kind": "clustered", "ci95": [found["value"] - half, found["value"] + half]}
    return found


# -- time --------------------------------------------------------------------------------------------------
def speed(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C3a, C3b: one value a process. Placebos: the definition by masks; the dense model against itself."""
    cases = [next(iter(results[name]["cases"].values())) for name in sorted(results) if name.startswith("speed/process")]
    bound = cases[0]["ratios"]["dense / vica"]["bound"]
    fast, masked = ([case["ratios"][pair]["ratios"] for case in cases] for pair in ("dense / vica", "masked / vica"))
    by_masks = [[a / b for a, b in zip(*rounds)] for rounds in zip(fast, masked)]
    itself = [[a / b for a, b in zip(times[::2], times[1::2])] for times in (case["variants"]["dense"]["times"] for case in cases)]

    def share(rounds: list[list[float]]) -> dict:
        return over_processes([[ratio / bound for ratio in of] for of in rounds])

    return {"C3a": share(fast) | {"placebo": share(by_masks), "baselines": _others(cases), "timing": _timing(cases, "dense / vica")},
            "C3b": over_processes(masked) | {"placebo": over_processes(itself), "timing": _timing(cases, "masked / vica")}}


def gpu(results: dict, size: str = "gpu") -> dict[str, dict]:
    """Of cases that were run; graphs where there are any, because a loop of launches hides what a GPU can do."""
    measured = {}
    for claim, batch, pairs in (("C3g", 1, ["dense / vica"]), ("C4g", 8, ["dense / vica", "dense / vica frozen"]),
                                ("C5g", 1, ["vica / text only"])):
        name = f"B={batch} P=35 Q=27"
        cases = [of["cases"][name] for of in results["gpu"]["processes"] if name in of["cases"]]
        if not cases:
            continue
        pairs = [p + ", graph" for p in pairs if p + ", graph" in cases[0]["ratios"]] or pairs
        best = max(pairs, key=lambda p: cases[0]["ratios"][p]["median"])
        measured[claim] = of_pair(cases, best) | {"baselines": _others(cases), "timing": _timing(cases, best)}
        if claim == "C5g":  # placebo: dense in ViCA's place
            measured[claim]["placebo"] = of_pair(cases, best.replace("vica", "dense"))
    return measured


def of_pair(cases: list[dict], pair: str) -> dict:
    return over_processes([case["ratios"][pair]["ratios"] for case in cases])


def _timing(cases: list[dict], pair: str) -> dict:
    """iqr_relative: of the process whose rounds spread most."""
    return {"rounds": sum(case["rounds"] for case in cases), "processes": len(cases), "estimator": "median of interleaved rounds",
            "iqr_relative": max(case["ratios"][pair]["iqr"] / case["ratios"][pair]["median"] for case in cases),
            "load_average": max(case["load_average"] for case in cases), "text": cases[0]["text"]}


def _others(cases: list[dict]) -> dict[str, float]:
    return {pair: fmean(case["ratios"][pair]["median"] for case in cases if pair in case["ratios"]) for pair in cases[0]["ratios"]} | {
        f"bound of {pair}": ratio["bound"] for pair, ratio in cases[0]["ratios"].items()}


# -- paper scale -------------------------------------------------------------------------------------------
def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """{run: {"decoder", "cross_layers", "relative"}} of finished trainings -> measured; what is missing stays not-run."""
    relative = {name: row["relative"] for name, row in results["paper"].items() if row.get("relative") is not None}

    def of(*parts: str) -> float | None:
        return next((value for name, value in relative.items() if all(p in name for p in parts) and
                     ("PyramidDrop" in name) == ("PyramidDrop" in parts)), None)

    sizes = [of(f"-{size}_vica") for size in ("3b", "7b", "13b")]
    values = {"C1": fmean(sizes) if None not in sizes else None, "C1a": of("7b_vica"), "C6": of("7b_vica", "PyramidDrop"),
              "C8": of("7b_frozen")}
    return {claim: point(value, baselines=relative) for claim, value in values.items() if value is not None}
