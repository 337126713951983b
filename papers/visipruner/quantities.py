"""From results of jobs to what claims measure: {claim: measured}, each in its own unit. No number here judges: rules stand in
claims.yaml, verdicts in common/claims. Beside an effect stands its placebo, or what must be told apart: the same quantity of
another arm.

A quantity of the small LLaVAs is a mean over open questions, in points. What is claimed of models (where they look, and how) has its
error over the three models; what is claimed of a pruning of these very models has it over pictures, clustered, for all three see the
same. Either way each model's own value stands beside, and the other interval among the baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from common.claims.intervals import paired, point, summarize, t_quantile
from common.seeds import seeds_of
from common.shapes import LLAVA_7B, LLAVA_13B

from . import analytic, reported


@dataclass(frozen=True)
class Depth:
    """inner: neither the first block nor the last. behind: the block behind which sixteen tokens are compared, half of the depth. deep,
    early: where the picture leaves, at three quarters of the depth, and where it must not."""

    inner: range
    behind: int
    deep: int
    early: int


EIGHT, THIRTY = Depth(range(1, 7), 3, 5, 2), Depth(range(1, 29), 14, 22, 8)


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    cases = {case.name: case.saved for case in analytic.pair_cases()}
    wrong, tera = reported.wrong(), 1e12
    honest = {"attention of the picture counted": analytic.whole_saved(LLAVA_7B, 15, 9, attention=True),
              "visual tokens, their attention counted up to the filter layer": analytic.saved(LLAVA_7B, 15, 9, among=True)}
    return {
        "C1": point(analytic.saved(LLAVA_7B, 15, 6), baselines={
            "9 layers with 10 tokens": analytic.saved(LLAVA_7B, 15, 9),
            "filter layer for 1.76 T": analytic.filter_layer_for(LLAVA_7B, 1.76 * tera),
            **{f"cache of the prompt, MB, {name}": size / 1e6 for name, size in analytic.kv_policies().items()}}),
        "C1a": point(analytic.dense(LLAVA_7B) / tera), "C1b": point(analytic.saved(LLAVA_7B, 12, 10)),
        "C1c": point(cases["9 layers with 10 tokens, nothing else"], baselines={"the released code": cases["the released code"]}),
        "C1w": point(analytic.whole_saved(LLAVA_7B, 15, 9), baselines=honest),
        "C2a": point(analytic.dense(LLAVA_13B) / tera, baselines={
            "MobileVLM-V2-3B": analytic.dense(analytic.MOBILEVLM_3B, analytic.MOBILE_VISUAL) / tera}),
        "C5a": point(len(reported.QUALITY) - len(wrong), baselines={name: computed for name, (_, computed) in wrong.items()}),
        "C7a": point(cases["192 retained in every layer"]), "C7b": point(cases["64 retained in every layer"]),
        "C7c": point(cases["FastV, K = 3, r = .75"], baselines={"K = 2": cases["FastV, K = 2, r = .75"]}),
        "C7d": point(cases["and text to picture in layers 7 to 15"], baselines={
            "with the merging layer": cases["and text to picture in layers 7 to 15 and the merging layer"]}),
        "C7e": point(sum(row.adds_up for row in reported.RIVALS)),
    }


# -- items -------------------------------------------------------------------------------------------------
Items = list[float]


def apart(ours: Items, theirs: Items, pictures: Sequence[int], /, **baselines: float) -> dict:
    """The mean of ours - theirs, clustered by picture. Its error is at least what one question makes of it: equal answers are equal
    to within one."""
    found, least = paired(ours, theirs, pictures), max(map(abs, (*ours, *theirs)), default=0.0) / len(ours)
    if (found["stderr"] or 0.0) < least:
        half = t_quantile(0.975, len(set(pictures)) - 1) * least if len(set(pictures)) > 1 else 0.0
        found |= {"stderr": least, "stderr_kind": "clustered", "ci95": [found["value"] - half, found["value"] + half]}
    return found | ({"baselines": baselines} if baselines else {})


def across(ours: Items, theirs: Items, models: int, /, **baselines: float) -> dict:
    """The mean of ours - theirs over models, whose items stand one after the other. Each model is known to within a question at best,
    and so their mean to within that by the root of their number."""
    each = len(ours) // models
    values = [fmean(ours[i : i + each]) - fmean(theirs[i : i + each]) for i in range(0, len(ours), each)]
    return summarize(values, max(map(abs, (*ours, *theirs)), default=0.0) / each / models**0.5) | {"baselines": baselines}


@dataclass(frozen=True)
class Small:
    """Answers of all models, one after the other, in points: 100 for a right one. fixed: what is claimed is claimed of these models
    alone, and every error is over pictures."""

    results: dict
    fixed: bool = False
    depth: Depth = EIGHT

    @property
    def seeds(self) -> tuple[int, ...]:
        return seeds_of(self.results, "knocked")

    def pictures(self, which: str = "looked") -> list[int]:
        return self.results["features/test"][which]["pictures"] * len(self.seeds)

    def at(self, job: str, *way: str) -> Items:
        return self.by_seed(job, [way] * len(self.seeds))

    def by_seed(self, job: str, ways: Sequence[Sequence[str]]) -> Items:
        """ways: of each seed its own."""
        found: Items = []
        for seed, way in zip(self.seeds, ways):
            of = self.results[f"{job}/seed{seed}"]
            for name in way:
                of = of[name]
            found += [100.0 * int(bit) for bit in of] if isinstance(of, str) else of
        return found

    def lost(self, *way: str, job: str = "knocked") -> dict:
        """Points lost by a way, on the pictures that were looked at."""
        return self.looked(self.at("knocked", "dense"), self.at(job, *way))

    def looked(self, ours: Items, theirs: Items) -> dict:
        """Of models."""
        beside, means = self.items(ours, theirs), {"ours": fmean(ours), "theirs": fmean(theirs)}
        if self.fixed:
            return beside
        low, high = beside.get("ci95", (None, None))
        return across(ours, theirs, len(self.seeds), **means, **(
            {} if low is None else {"over pictures of these models, from": low, "over pictures, to": high}))

    def items(self, ours: Items, theirs: Items, which: str = "looked", **baselines: float) -> dict:
        """Of these models, over pictures."""
        each = len(ours) // len(self.seeds)
        own = {f"seed {seed}": fmean(ours[i * each :][:each]) - fmean(theirs[i * each :][:each]) for i, seed in enumerate(self.seeds)}
        return apart(ours, theirs, self.pictures(which), ours=fmean(ours), theirs=fmean(theirs), **baselines, **own)

    def tested(self, ours: str, theirs: str) -> dict:
        """Of these models; the pairs that each of both leaves stand beside."""
        pairs = {f"pairs, {name}": 100 * fmean(self.results[f"pruned/seed{seed}"]["pairs"][name] for seed in self.seeds)
                 for name in (ours, theirs)}
        return self.items(self.at("pruned", "test", ours), self.at("pruned", "test", theirs), "test", **pairs)


def llava(results: dict, size: str = "cpu") -> dict[str, dict]:
    return of_small(Small(results))


def of_small(of: Small) -> dict[str, dict]:
    return sinks(of) | blocks(of) | middle(of) | pruned(of) | choices(of) | deep(of)


def sinks(of: Small) -> dict[str, dict]:
    """C8a-C12a: what shallow blocks do with the picture's attention, C19a: whether the most attended token has a small value."""
    hidden, last = of.lost("shallow", "before"), str(_last(of))

    def between(one: tuple[str, ...], other: tuple[str, ...]) -> dict:
        return of.looked(of.at("knocked", *one), of.at("knocked", *other))

    dense = of.at("knocked", "dense")

    def below_half(mode: str) -> dict:
        """Points lost in block 1 beyond half of those in block 0."""
        first, second = ([d - a for d, a in zip(dense, of.at("knocked", mode, block))] for block in ("0", "1"))
        return of.looked(second, [lost / 2 for lost in first])

    ratio = of.looked(of.at("looked", "sinks", "items"), [0.0] * len(dense))
    lot = of.looked(of.at("looked", "sinks", "by lot"), [0.0] * len(dense))
    merged = between(("shallow", "merge"), ("shallow", "before"))
    return {"C8a": of.lost("shallow", "highest") | {"sensitivity": hidden},
            "C9a": of.lost("shallow", "all but highest") | {"sensitivity": hidden},
            "C10a": between(("after", "0"), ("before", "0")) | {"placebo": between(("after", last), ("before", last))},
            "C10b": below_half("before") | {"placebo": below_half("after")}, "C11a": of.lost("shallow", "merge") | {"sensitivity": hidden},
            "C11b": merged | {"placebo": between(("merge", last), ("before", last))},
            "C12a": between(("onto", "0"), ("onto", "63")) | {"sensitivity": between(("onto", "0"), ("before", "0"))},
            "C19a": ratio | {"placebo": lot}}


def blocks(of: Small) -> dict[str, dict]:
    """C14: where the picture is needed. The block of C14a is chosen on validation pictures, model by model."""
    dense, gone = of.at("knocked", "dense"), of.lost("exit", "0", job="looked")

    def one(worst: bool) -> dict:
        ways = []
        for seed in of.seeds:
            share = of.results[f"knocked/seed{seed}"]["validation"]
            ordered = sorted((b for b in of.depth.inner if str(b) in share), key=lambda b: share[str(b)])
            ways.append(("after", str(ordered[0] if worst else ordered[-1])))
        found = of.looked(dense, of.by_seed("knocked", ways))
        return found | {"baselines": found["baselines"] | {f"seed {seed}, block": float(way[1]) for seed, way in zip(of.seeds, ways)}}

    last = str(_last(of))
    return {"C14a": one(worst=True) | {"placebo": one(worst=False)}, "C14f": of.lost("after", "0") | {"placebo": gone},
            "C14l": of.lost("after", last) | {"placebo": gone}, "C14u": of.lost("up to", "1") | {"placebo": of.lost("up to", last)}}


def middle(of: Small) -> dict[str, dict]:
    """C15: tenths of the tokens hidden in middle blocks, and merging there."""
    def over(which: str) -> dict:
        return of.looked(of.at("knocked", "middle", "lowest"), of.at("knocked", "middle", which))

    def hidden_over_merged(where: str) -> dict:
        return of.looked(of.at("knocked", where, "before"), of.at("knocked", where, "merge"))

    return {"C15a": over("highest") | {"placebo": over("random")},
            "C15b": hidden_over_merged("middle") | {"placebo": hidden_over_merged("shallow")}}


def pruned(of: Small) -> dict[str, dict]:
    """C16, C7: the calibrated rule on test pictures, what it saves, and its rivals."""
    saved, first = of.at("pruned", "saved"), of.lost("exit", "0", job="looked")

    def over(rival: str) -> dict:
        return of.tested("VisiPruner", rival) | {"placebo": of.tested("lot at its K", rival)}

    layers = _last(of) + 1
    rows = [of.results[f"pruned/seed{seed}"] for seed in of.seeds]
    means = {name: fmean(values) for name in ("kept", "filter", "exit") if (values := [v for row in rows if (v := row[name]) is not None])}
    bounds = {"bound, 15 of 32 layers see all": most_saved(15, 32)} | {
        f"seed {seed}, bound behind its boundary": most_saved(row["config"]["boundary"] + 2, layers) for seed, row in zip(of.seeds, rows)}
    without = summarize([100 * (1 - row["pairs"]["no boundary"]) for row in rows], 100 / len(rows[0]["saved"]))
    return {"C16a": of.items(saved, [0.0] * len(saved), "test", **means, **bounds) | {"placebo": without},
            "C16b": of.tested("dense", "VisiPruner") | {"placebo": of.tested("dense", "lot at its K")},
            "C16c": of.tested("VisiPruner", "no boundary") | {"placebo": of.tested("VisiPruner", "no exit")},
            "C16s": of.tested("VisiPruner", "paper's shallow stage") | {"placebo": first},
            "C7f": over("FastV"), "C7p": over("PyramidDrop"),
            "C17a": of.tested("no exit", "attention at its K") | {"placebo": of.tested("lot at its K", "attention at its K")},
            "C17l": of.tested("no exit", "lot at its K") | {"placebo": of.tested("another lot at its K", "lot at its K")}}


def most_saved(full: float, layers: int) -> float:
    """Percent of the picture's pairs that are saved where `full` layers see all of it, and no other layer any."""
    return 100 * (1 - full / layers)


def choices(of: Small) -> dict[str, dict]:
    """C17: sixteen tokens kept behind a block, by one score and by another."""
    half = of.depth.behind

    def over(block: int, ours: str, theirs: str, judged=of.looked) -> dict:
        return judged(of.at("looked", "kept", ours, str(block)), of.at("looked", "kept", theirs, str(block)))

    return {"C17v": over(half, "value", "attention", of.items) | {"placebo": over(half, "lot", "attention", of.items)},
            "C17s": over(0, "attention", "lot") | {"placebo": over(half, "attention", "lot")},
            "C17m": over(half, "attention", "lot") | {"placebo": over(half, "another lot", "lot")}}


def deep(of: Small) -> dict[str, dict]:
    """C18: the picture gone behind a block; C20a: the answer by the logit lens."""
    last, half = _last(of), of.depth.behind

    def skipped_over_gone(block: int) -> dict:
        return of.looked(of.at("knocked", "after", str(block + 1)), of.at("looked", "exit", str(block)))

    def late(which: str) -> dict:
        return of.looked(of.at("looked", "lens", which, str(last)), of.at("looked", "lens", which, str(half)))

    return {"C18a": of.lost("exit", str(of.depth.deep), job="looked") | {"placebo": of.lost("exit", str(of.depth.early), job="looked")},
            "C18b": skipped_over_gone(half) | {"placebo": skipped_over_gone(last - 1)},
            "C20a": late("right") | {"placebo": late("another")}}


def _last(of: Small) -> int:
    """The number of the last block."""
    return max(int(b) for b in of.results[f"knocked/seed{of.seeds[0]}"]["after"])


# -- time --------------------------------------------------------------------------------------------------
def speed(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C22: one value a process. Placebos: the definition by masks; the pruned prefill in the released code's place."""
    found = [results[name] for name in sorted(results) if name.startswith("speed/process")]

    def ratio(pair: str, bound: float = 1.0) -> dict:
        return over_processes([[r / bound for r in of["ratios"][pair]["ratios"]] for of in found])

    bound = found[0]["ratios"]["dense / pruned"]["bound"]
    others = {pair: fmean(of["ratios"][pair]["median"] for of in found) for pair in found[0]["ratios"]} | {"bound": bound}
    pruned, masked, official = ("dense / pruned", "dense / masked", "dense / official")
    return {"C22a": ratio(pruned) | {"placebo": ratio(masked), "baselines": others, "timing": _timing(found, pruned)},
            "C22b": ratio(pruned, bound) | {"placebo": ratio(masked, bound), "timing": _timing(found, pruned)},
            "C22c": ratio(official) | {"placebo": ratio(pruned), "timing": _timing(found, official)}}


def over_processes(rounds: list[list[float]]) -> dict:
    """The median of each process; their mean is no more exact than the rounds within each let one read it."""
    read = [stdev(of) / len(of) ** 0.5 if len(of) > 1 else 0.0 for of in rounds]
    return summarize([median(of) for of in rounds], sum(error**2 for error in read) ** 0.5 / len(rounds), over="processes")


def _timing(found: list[dict], pair: str) -> dict:
    """iqr_relative: of the process whose rounds spread most."""
    return {"rounds": sum(of["rounds"] for of in found), "processes": len(found), "estimator": "median of interleaved rounds",
            "iqr_relative": max(of["ratios"][pair]["iqr"] / of["ratios"][pair]["median"] for of in found),
            "load_average": max(of["load_average"] for of in found)}


# -- the guideline -----------------------------------------------------------------------------------------
def guideline(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C23: trainings with the picture in some blocks, against dense. Placebos: the last block alone; dense steps against dense steps."""
    seeds = seeds_of(results, "guideline/dense")

    def right(arm: str) -> list[float]:
        bits = [results[f"guideline/{arm}/seed{seed}"]["right"] for seed in seeds]
        return [100 * of.count("1") / len(of) for of in bits]

    def lost(arm: str) -> dict:
        item = 100 / len(results[f"guideline/dense/seed{seeds[0]}"]["right"])
        return summarize([a - b for a, b in zip(right("dense"), right(arm))], item) | {
            "baselines": {"dense": fmean(right("dense")), arm: fmean(right(arm))}}

    steps = [results[f"guideline/middle/seed{seed}"]["seconds"] for seed in seeds]
    faster = [[a / b for a, b in zip(of["dense"], of["staged"])] for of in steps]
    itself = [[a / b for a, b in zip(of["dense"][::2], of["dense"][1::2])] for of in steps]
    spreads = [sorted(of) for of in faster]
    iqr = max((of[-1 - len(of) // 4] - of[len(of) // 4]) / median(of) for of in spreads)
    return {"C23a": lost("middle") | {"placebo": lost("last")},
            "C23b": over_processes(faster) | {"placebo": over_processes(itself), "timing": {
                "rounds": sum(map(len, faster)), "processes": len(faster), "estimator": "median of interleaved steps",
                "iqr_relative": iqr}}}


# -- paper scale -------------------------------------------------------------------------------------------
def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """{model: {"dense", "pruned": scores}} -> points lost on the mean of the seven benchmarks; what is missing stays not-run."""
    found = {}
    for claim, model in (("C2", "LLaVA-1.5-7B"), ("C3", "LLaVA-1.5-13B")):
        scores = results["paper"].get(model, {})
        if all(name in scores.get(way, {}) for way in ("dense", "pruned") for name in reported.TABLE_5):
            means = {way: fmean(scores[way][name] / (20 if name == "MME-P" else 1) for name in reported.TABLE_5) for way in scores}
            found[claim] = point(means["dense"] - means["pruned"], baselines=means)
    return found
