"""From results of jobs to what claims measure: {claim: measured}. What decides is in claims.yaml; no number here judges.

Results are read as they are committed (measurements.<document>.json); what seeds there are decides how many are counted. A claim in the
small is a quantity of (seed, arm): of the arm that it is about, and of the arm that must not pass, its placebo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

from common.claims.intervals import point, summarize
from common.errors import RecordError
from common.seeds import seeds_of

from . import analytic, reported
from .method import Law
from .scoring import KEPT

KS = (1, 3, 5)
LOTS, READ_ALL = "lots", "read all"  # in an arm's place


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    kept, low, high = analytic.kept(), reported.TABLE_2["low"], reported.TABLE_2["high"]
    ail, rco = analytic.wait_9(analytic.words_of(reported.TABLE_1["en-de"]["batch"].ail))
    choice = reported.TABLE_1["choice qa"]
    saved = {name: analytic.prompt_that_fits(name, reported.SAVED[name]) for name in analytic.PAIRS}
    probed = {name: 100 * analytic.saving(name, probes=1) for name in analytic.PAIRS}
    hidden = {law: float(analytic.unseen(Law(law), 1)) for law in ("multinomial", "slack")}
    return {
        "C4a": point(analytic.nearest_kept(), baselines=kept),
        "C5d": point(analytic.implied_lag()), "C5e": point(ail), "C5f": point(rco),
        "C7a": point(choice["attention"].ail / choice["batch"].ail),
        "C7b": point(hidden["slack"] - hidden["multinomial"], baselines=hidden),
        "C9a": point(low["ProactiveLLM"] - max(low["GPT-5.4"], low["Qwen3-32B"])),
        "C9b": point(high["ProactiveLLM"] - max(high["GPT-5.4"], high["Qwen3-32B"])),
        "C10a": point(analytic.spoken_seconds()),
        "C13": point(saved["choice qa"][1]), "C13a": point(saved["en-de"][1]), "C13b": point(saved["short qa"][1]),
        "C13c": point(max(probed.values()), baselines=probed),
        "C15": point(analytic.spread_ratio("naive", 116, 3)), "C15a": point(analytic.spread_ratio("sorted", 16, 16)),
    }


# -- a quantity of one seed and one arm --------------------------------------------------------------------
class Runs:
    """Results of a task, by seed and arm. prefix: of its jobs' names."""

    def __init__(self, results: dict, prefix: str):
        self.results, self.prefix = results, prefix
        self.seeds = seeds_of(results, f"{prefix}/full")

    def run(self, seed: int, arm: str) -> dict:
        return self.results[f"{self.prefix}/{arm}/seed{seed}"]

    def whole(self, seed: int, arm: str) -> dict:
        """Scores with everything read."""
        return self.run(seed, arm)["batch"]

    def at(self, seed: int, arm: str, head: str = "entropy") -> dict:
        """Test scores at the operating point of a head. In an arm's place: LOTS, at the RCO of that point of the full arm; READ_ALL."""
        if arm == LOTS:
            return self.run(seed, "full")["random"] if head == "entropy" else self.run(seed, "full")["lots"][head]
        if arm == READ_ALL:
            return self.whole(seed, "full")
        run = self.run(seed, arm)
        swept = run["entropy"] if head == "entropy" else run["labelled"] if head == "labelled" else run["heads"][head]
        return swept["test"][swept["chosen"]]

    def quality(self, seed: int, arm: str, head: str = "entropy") -> float:
        return self.at(seed, arm, head)["quality"]

    def kept(self, seed: int, arm: str, head: str = "entropy") -> float:
        """% of the arm's own batch quality at the operating point."""
        return 100 * self.quality(seed, arm, head) / self.whole(seed, "full" if arm == LOTS else arm)["quality"]

    def context(self, seed: int, arm: str) -> float:
        return self.at(seed, arm)["RCO"]

    def lost(self, seed: int, arm: str) -> float:
        return self.whole(seed, arm)["quality"] - self.quality(seed, arm)

    def endless(self, seed: int, arm: str) -> float:
        """% of the streams whose answer had not ended when decoding did."""
        row = self.at(seed, arm)
        return 100 * row["truncated"] / row["n"]

    def ahead(self, seed: int, arm: str, of: str) -> float:
        return self.quality(seed, arm) - self.quality(seed, of)

    def over_wait(self, seed: int, arm: str) -> float:
        """Points over the best wait-k of the full arm that reads no more; where none reads so little, over the one that reads least."""
        ours, rows = self.at(seed, arm), list(self.run(seed, "full")["wait"].values())
        able = [row["quality"] for row in rows if row["RCO"] <= ours["RCO"]] or [min(rows, key=lambda row: row["RCO"])["quality"]]
        return ours["quality"] - max(able)

    def worst_head(self, seed: int, arm: str) -> float:
        """Of the full arm, or of LOTS in each head's place, at its RCO."""
        return min(self.kept(seed, arm, head) for head in ("entropy", *self.run(seed, "full")["heads"]))

    def saved(self, seed: int, arm: str, probes: bool) -> float:
        """% of the pairs of reading everything first; of the full arm with the entropy head, or READ_ALL."""
        ours = self.at(seed, arm)
        return 100 * (1 - (ours["pairs"] - (0 if probes else ours["wasted"])) / self.whole(seed, "full")["pairs"])

    def item(self) -> float:
        """What one unit of an answer more or less changes of a quality, in points, at least."""
        return 100 / (3 * self.whole(self.seeds[0], "full")["n"])


class Translation(Runs):
    """A task whose answer follows its source: translation, recognition."""

    def early(self, seed: int, arm: str) -> dict:
        """Test scores at the least context at which calibration streams keep KEPT of their batch quality, where none does at the best of
        them; of LOTS: at the RCO of that point."""
        if arm == LOTS:
            return self.run(seed, "full")["lots"]["early"]
        if arm == READ_ALL:
            return self.at(seed, arm)
        swept = self.run(seed, arm)["entropy"]
        return swept["test"][swept["early"]]

    def early_kept(self, seed: int, arm: str) -> float:
        return 100 * self.early(seed, arm)["quality"] / self.whole(seed, "full")["quality"]

    def lag_ratio(self, seed: int, arm: str) -> float:
        """AIL over that of the earliest wait-k of the full arm that keeps KEPT. Where no threshold of the arm does, it has to read all."""
        whole = self.whole(seed, "full")
        lags = [row["AIL"] for row in self.run(seed, "full")["wait"].values() if row["quality"] >= KEPT * whole["quality"]]
        able = arm in (LOTS, READ_ALL) or self.run(seed, arm)["entropy"]["keeps"]
        return (self.early(seed, arm) if able else self.whole(seed, arm))["AIL"] / min([*lags, whole["AIL"]])

    def lag_at_its_quality(self, seed: int, arm: str) -> float:
        """AIL in seconds over that of the earliest wait-k of the full arm that is as right on the same test streams, or reading all."""
        ours, whole = self.early(seed, arm), self.whole(seed, "full")
        lags = [row["AIL s"] for row in self.run(seed, "full")["wait"].values() if row["quality"] >= ours["quality"]]
        return ours["AIL s"] / min([*lags, whole["AIL s"]])

    def behind_trained(self, seed: int, arm: str) -> float:
        """Points that the model trained for k is ahead, each by its k, the largest."""
        return max(self.run(seed, f"wait-{k}")["own"]["quality"] - self.run(seed, arm)["wait"][str(k)]["quality"] for k in KS)

    def ahead_of_trained(self, seed: int, arm: str) -> float:
        return self.run(seed, arm)["wait"]["1"]["quality"] - self.run(seed, "wait-1")["own"]["quality"]


def claim(seeds: Sequence[int], name: str, quantity: Callable[[int, Any], float], arm: Any, placebo: Any, resolution: float = 0.0,
          beside: dict[str, tuple] | None = None) -> dict:
    """The quantity of the arm, a value a training, and that of its placebo. beside: {what is shown: (value of seed and arm, arm)}.

    RecordError names the claim without a number.
    """
    try:
        measured = summarize([quantity(seed, arm) for seed in seeds], resolution)
        control = summarize([quantity(seed, placebo) for seed in seeds], resolution)
    except (RecordError, ZeroDivisionError) as error:
        raise RecordError(f"{name}: {error}") from error
    shown = {side: fmean(get(seed, of) for seed in seeds) for side, (get, of) in (beside or {}).items()}
    return measured | {"placebo": control} | ({"baselines": shown} if shown else {})


# -- text --------------------------------------------------------------------------------------------------
def text(results: dict, size: str = "cpu") -> dict[str, dict]:
    qa, mt, revised = Runs(results, "qa"), Translation(results, "mt"), Runs(results, "revised")
    of, item = partial(claim, qa.seeds), qa.item()

    def auroc(seed: int, arm: str) -> float:
        return qa.run(seed, arm)["auroc"] - qa.run(seed, "batch only")["auroc"]

    def against(other: str) -> Callable[[int, str], float]:
        return lambda seed, arm: qa.ahead(seed, arm, other)

    def labelled(seed: int, arm: str) -> float:
        return qa.quality(seed, arm) - qa.quality(seed, "labelled", "labelled")

    def attention(runs: Runs, sign: int) -> Callable[[int, str], float]:
        """head: that in the place of the one that the claim holds to be better."""
        def ahead(seed: int, head: str) -> float:
            better, other = ("attention", "entropy") if sign > 0 else ("entropy", "attention")
            ours = runs.quality(seed, LOTS if head == LOTS else "full", better)
            return ours - runs.quality(seed, "full", other)
        return ahead

    def repaired(seed: int, kind: str) -> float:
        found = revised.run(seed, "full")["revisions"][kind]
        return found["strict"]["quality"] - found["loose"]["quality"]

    def price(seed: int, which: str) -> float:
        found = revised.run(seed, "full")["revisions"]
        loose = found["overturned"]["loose"]["AIL"]
        return found["overturned"]["strict"]["AIL"] - loose if which == "strict" else loose - found["plain"]["loose"]["AIL"]

    full = "full"
    return {
        "C1s": of("C1s", auroc, full, "start", 0.002, {arm: (lambda s, a: qa.run(s, a)["auroc"], arm) for arm in (
            "start", full, "batch only")}),
        "C1t": of("C1t", qa.lost, "batch only", full, item),
        "C4s": of("C4s", qa.kept, full, "batch only", item, {"RCO": (qa.context, full), "batch quality": (
            lambda s, a: qa.whole(s, a)["quality"], full)}),
        "C4r": of("C4r", qa.context, full, READ_ALL, 0.005),
        "C7s": of("C7s", lambda s, other: qa.endless(s, other) - qa.endless(s, full), "plain law", "no distillation", 100 / qa.whole(
            qa.seeds[0], full)["n"], {arm: (qa.endless, arm) for arm in ("plain law", full)}),
        "C6s": of("C6s", qa.over_wait, full, LOTS, item),
        "C3s": of("C3s", qa.worst_head, full, LOTS, item, {head: (lambda s, a, h=head: qa.kept(s, a, h), full) for head in (
            "entropy", "max-prob", "margin", "attention", "linear")}),
        "C9s": of("C9s", labelled, full, "batch only", item, {"labelled": (lambda s, a: qa.quality(s, a, "labelled"), "labelled")}),
        "C13s": of("C13s", partial(qa.saved, probes=False), full, READ_ALL, 0.1),
        "C13t": claim(qa.seeds, "C13t", lambda s, probes: qa.saved(s, full, probes), True, False, 0.1),
        "C14s": of("C14s", lambda s, other: qa.ahead(s, full, other), "no MSLM", "no distillation", item),
        "C14t": of("C14t", against("no distillation"), full, "start", item),
        "C14u": of("C14u", against("MSLM only"), full, "start", item),
        "C16s": of("C16s", attention(qa, 1), "attention", LOTS, item),
        "C17s": claim(revised.seeds, "C17s", repaired, "overturned", "plain", item),
        "C17t": claim(revised.seeds, "C17t", price, "strict", "kind", 0.05),
        "C20a": of("C20a", lambda s, arm: qa.quality(s, arm) - qa.quality(s, LOTS), full, "batch only", item),
        "C2s": claim(mt.seeds, "C2s", mt.early_kept, full, LOTS, item, {"RCO": (lambda s, a: mt.early(s, a)["RCO"], full)}),
        "C2r": claim(mt.seeds, "C2r", mt.lag_ratio, full, READ_ALL, 0.01, {"AIL": (lambda s, a: mt.early(s, a)["AIL"], full)}),
        "C12s": claim(mt.seeds, "C12s", mt.behind_trained, full, "batch only", item),
        "C12t": claim(mt.seeds, "C12t", mt.ahead_of_trained, full, "batch only", item),
        "C16t": claim(mt.seeds, "C16t", attention(mt, -1), "entropy", LOTS, item),
    }


# -- speech ------------------------------------------------------------------------------------------------
def words(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Recognition."""
    words = Translation(results, "speech/words")

    def ahead_at_two(seed: int, arm: str) -> float:
        """Of the margins over the full arm's stride-aware wait-k points, at no later a threshold of the entropy head, the second largest;
        a point before the earliest threshold is lost by all of its quality."""
        ours, rows = words.run(seed, arm)["entropy"]["test"], words.run(seed, "full")["wait"].values()
        best = [max([o["quality"] for o in ours if o["AIL s"] <= row["AIL s"]], default=0.0) - row["quality"] for row in rows]
        return sorted(best)[-2] if len(best) > 1 else best[0]

    return {
        "C11s": claim(words.seeds, "C11s", ahead_at_two, "full", "batch only", words.item()),
        "C11t": claim(words.seeds, "C11t", words.lag_at_its_quality, "full", READ_ALL, 0.01, {
            "quality kept in %": (words.early_kept, "full"), "AIL in s": (lambda s, a: words.early(s, a)["AIL s"], "full")}),
    }


def spoken(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Spoken questions."""
    spoken = Runs(results, "speech/spoken")
    return {
        "C10s": claim(spoken.seeds, "C10s", spoken.kept, "full", "batch only", spoken.item(), {
            "RCO": (spoken.context, "full"), "batch quality": (lambda s, a: spoken.whole(s, a)["quality"], "full")}),
        "C10t": claim(spoken.seeds, "C10t", spoken.over_wait, "full", LOTS, spoken.item()),
    }


# -- time --------------------------------------------------------------------------------------------------
def speed(results: dict, size: str = "cpu") -> dict[str, dict]:
    processes = [results[name] for name in sorted(results) if name.startswith("speed/")]

    def ratio(of: str, under: str) -> list[float]:
        return [median(a / b for a, b in zip(found[of], found[under])) for found in processes]

    def timed(of: str, under: str, placebo: str, placebo_under: str) -> dict:
        return summarize(ratio(of, under), 0.005, "processes") | {"placebo": summarize(ratio(placebo, placebo_under), 0.005, "processes")}

    return {"C19a": timed("probe", "decode", "encode again", "decode"),
            "C19b": timed("read late", "read early", "encode again", "encode early")}


# -- the paper's own tables --------------------------------------------------------------------------------
ROWS = {"C5": ("en-de", "entropy", "bleu"), "C5b": ("en-de", "batch", "bleu"), "C6": ("short qa", "attention", "f1"),
        "C6b": ("short qa", "wait-9", "f1"), "C7": ("choice qa", "attention", "accuracy"), "C8": ("en-fr", "entropy", "bleu"),
        "C8b": ("en-fr", "wait-9", "bleu"), "C9": ("short qa, qwen3", "entropy", "f1"), "C10": ("spoken-squad", "entropy", "f1")}


def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """results["paper"]: {run: {way to stream: scores}} as experiments/paper.py gives them; what is missing is not claimed."""
    found, runs = {}, results["paper"]
    for name, (run, way, metric) in ROWS.items():
        if way in runs.get(run, {}):
            found[name] = point(runs[run][way][metric])
    if "short qa, qwen3" in runs and {"entropy", "batch"} <= set(runs["short qa, qwen3"]):
        ours = runs["short qa, qwen3"]
        found["C4"] = point(100 * ours["entropy"]["f1"] / ours["batch"]["f1"])
    return found
