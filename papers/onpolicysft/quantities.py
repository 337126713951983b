"""From results of jobs to what claims measure: {claim: measured}. What decides is in claims.yaml; no number here judges.

Results are read as they are committed (measurements.<document>.json); what seeds there are decides how many are counted. A claim in
the small is a quantity of (seed, arm): of the arm that it is about, and of the arm that must not pass, its placebo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from common.claims.intervals import point, summarize
from common.errors import RecordError
from common.seeds import seeds_of

from . import analytic

BRIEF = 0.40  # of the starting length: where updates stop being counted (specification 8.3, T5)
RIVALS = ("grpo", "grpo, length", "fixed data", "best of n")
BRIEF_IN_ENGLISH = 0.60  # the same of the real model, which the claim about its length asks for
LESS = 0.02  # of accuracy that it may lose there, as its claim about accuracy allows
BREVITY = ("grpo, length", "best of n")  # they reward what is short, too, at the same updates and rollouts


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    better, twice = (analytic.advantages(rewards)[0] for rewards in ([1.0, 0.0], [2.0, 0.0]))
    return {
        "C1a": point(100 * analytic.reduction(10178, 2186)),
        "C2a": point(analytic.eff(59.9, 2186), baselines={"base": analytic.eff(59.0, 10178)}),
        "C2b": point(analytic.eff(57.8, 2270)),
        "C5a": point(100 * analytic.saved_by_no_reference(2), baselines={"in fp32": 100 * analytic.saved_by_no_reference(4)}),
        "C13": point(better, baselines={"(2, 0)": twice, "population std": analytic.advantages([1.0, 0.0], ddof=0)[0]}),
    }


# -- a quantity of one seed and one arm --------------------------------------------------------------------
class Arms:
    """Results of an experiment, by seed and arm. prefix: of its jobs' names."""

    def __init__(self, results: dict, prefix: str = ""):
        self.results, self.prefix = results, prefix
        self.seeds = seeds_of(results, f"{prefix}opsft")

    def run(self, seed: int, arm: str) -> dict:
        return self.results[f"{self.prefix}{arm}/seed{seed}"]

    def test(self, seed: int, arm: str) -> dict:
        return self.run(seed, arm)["test"]

    def right(self, seed: int, arm: str) -> float:
        """Avg@N in %."""
        return 100 * self.test(seed, arm)["avg"]

    def tokens(self, seed: int, arm: str) -> float:
        return self.test(seed, arm)["tokens"]

    def gained(self, seed: int, arm: str, over: str = "base") -> float:
        """Points of accuracy of the arm over another."""
        return self.right(seed, arm) - self.right(seed, over)

    def saved(self, seed: int, arm: str, over: str = "base") -> float:
        """Tokens that the arm is shorter than another, in % of the base's."""
        return 100 * (self.tokens(seed, over) - self.tokens(seed, arm)) / self.tokens(seed, "base")

    def lost(self, seed: int, arm: str) -> float:
        """Points of accuracy that the arm is below the method."""
        return -self.gained(seed, arm, "opsft")

    def lost_on_the_hardest(self, seed: int, arm: str) -> float:
        """The same of the problems with the most steps."""
        ours, theirs = (self.test(seed, each)["by_kind"] for each in ("opsft", arm))
        return 100 * (ours[max(ours)]["avg"] - theirs[max(theirs)]["avg"])

    def margin(self, seed: int, arm: str, rivals: Sequence[str]) -> float:
        """The least over the rivals, the method among them, of what the arm is ahead in points or in % of the base's tokens."""
        return min(max(self.gained(seed, arm, rival), self.saved(seed, arm, rival)) for rival in rivals if rival != arm)

    def steadier(self, seed: int, arm: str) -> float:
        return self.test(seed, "grpo")["normalised_length_std"] - self.test(seed, arm)["normalised_length_std"]

    def sooner(self, seed: int, arm: str, brief: float = BRIEF, less: float = 0.0) -> float:
        """Updates of GRPO - of the arm."""
        return updates_needed(self.run(seed, "grpo")["curve"], brief, less) - updates_needed(self.run(seed, arm)["curve"], brief, less)

    def cut(self, seed: int) -> float:
        """Points of accuracy that the base gains if a response ends at the method's mean length, rounded up to a measured budget."""
        budgets = self.test(seed, "base")["within"]
        share = next((share for tokens, share in budgets if tokens >= self.tokens(seed, "opsft")), budgets[-1][1])
        return 100 * share - self.right(seed, "base")

    def rise(self, seed: int, arm: str) -> float:
        """Nats a token, last five updates that kept something - first five."""
        losses = self.run(seed, arm)["history"]["loss per token"]
        return fmean(losses[-5:]) - fmean(losses[:5])

    def between_probes(self) -> int:
        """Updates from one probe to the next."""
        first, second, *_ = self.run(self.seeds[0], "opsft")["curve"]
        return second[0] - first[0]

    def step(self, seed: int) -> float:
        """What one response more or less changes of an accuracy, in points."""
        test = self.test(seed, "opsft")
        return 100 / (test["problems"] * test["samples"])


def updates_needed(curve: list, brief: float = BRIEF, less: float = 0.0) -> float:
    """The first probed update with a length of at most `brief` of the start's and an accuracy at most `less` below it; if none, the
    last one."""
    _, start, length = curve[0]
    return next((done for done, avg, tokens in curve if tokens <= brief * length and avg >= start - less), curve[-1][0])


def update_compute(history: dict) -> float:
    """FLOPs of the method's updates over those of GRPO with a reference on the same rollouts, over a training: response tokens that
    were kept and trained on, against all of them, trained on and read by the reference."""
    kept = sum(share * length for share, length in zip(history["kept"], history["kept length"]))
    return analytic.compute_ratio(kept / sum(history["length"]), old=False)


# -- small reasoners ---------------------------------------------------------------------------------------
def chains(results: dict, size: str = "cpu") -> dict[str, dict]:
    arms = Arms(results)
    of = partial(claim, arms.seeds)
    item = max((arms.step(seed) for seed in arms.seeds), default=0.0)
    hardest = item * _more_by_kind(arms)
    between = arms.between_probes()
    table = {f"{arm}, {name}": (get, arm) for arm in ("base", "opsft", *RIVALS, "by lot")
             for name, get in (("accuracy", arms.right), ("tokens", arms.tokens))}
    no_reference = analytic.compute_ratio(1.0, old=False)
    return {
        "C1s": of("C1s", arms.saved, "opsft", BREVITY, beside=table),
        "C1t": of("C1t", arms.gained, "opsft", BREVITY, item, beside=table),
        "C1u": of("C1u", lambda seed, arm: 100 * arms.run(seed, arm)["skips a step"], "opsft", ("best of n",), item, best=min),
        "C1v": of("C1v", lambda seed, arm: -arms.saved(seed, "by lot", arm), "opsft", ("base",)),
        "C1w": of("C1w", lambda seed, arm: arms.gained(seed, arm, "best of n"), "opsft", ("fixed data",), item),
        "C4a": of("C4a", partial(arms.margin, rivals=("opsft", *RIVALS, "base")), "opsft", ("grpo, length",), item, beside=table),
        "C4b": of("C4b", lambda seed, arm: arms.gained(seed, arm, "grpo, length"), "opsft", ("best of n",), item),
        "C5c": summarize([update_compute(arms.run(seed, "opsft")["history"]) for seed in arms.seeds])
        | {"placebo": summarize([no_reference] * len(arms.seeds))},
        "C6a": of("C6a", arms.sooner, "opsft", ("best of n",), between, beside={
            f"{arm}, updates": (lambda seed, arm: updates_needed(arms.run(seed, arm)["curve"]), arm) for arm in ("opsft", *RIVALS)}),
        "C7a": of("C7a", arms.steadier, "opsft", ("grpo, length",)),
        "C8a": of("C8a", lambda seed, arm: arms.saved(seed, arm, "fixed data"), "opsft", ("T 1.5",)),
        "C8b": of("C8b", lambda seed, arm: arms.gained(seed, arm, "fixed data"), "opsft", ("best of n",), item),
        "C9a": of("C9a", arms.rise, "T 1.5", ("opsft",)),
        "C9b": of("C9b", arms.lost, "T 1.5", ("T 0.6",), item),
        "C9c": of("C9c", arms.lost, "T 0.6", ("again",), item),
        "C10": of("C10", lambda seed, arm: arms.gained(seed, arm, "G 4"), "opsft", ("G 4, as many",), item),
        "C11": of("C11", arms.lost_on_the_hardest, "L 24", ("again",), hardest),
        "C12": of("C12", arms.lost, "seq", ("again",), item),
        "C14a": of("C14a", lambda seed, arm: arms.run(seed, arm)["divergence"]["AUC, wait or restart against the rest"], "opsft",
                   ("by lot",), beside={"separators": (
                       lambda seed, arm: arms.run(seed, arm)["divergence"]["AUC, separator against the rest"], "opsft")}),
    }


def _more_by_kind(arms: Arms) -> float:
    """How many times fewer problems the hardest kind has than all kinds together."""
    test = arms.test(arms.seeds[0], "opsft")
    return test["problems"] / test["by_kind"][max(test["by_kind"])]["problems"]


# -- SmolLM2 -----------------------------------------------------------------------------------------------
def sums(results: dict, size: str = "cpu") -> dict[str, dict]:
    arms = Arms(results, "sums/")
    of = partial(claim, arms.seeds)
    item = max((arms.step(seed) for seed in arms.seeds), default=0.0)
    every = ("base", "opsft", *RIVALS)
    tokens = {arm: (arms.tokens, arm) for arm in every} | {"needed": (lambda seed, arm: arms.test(seed, arm)["needed"], "base")}
    right = {arm: (arms.right, arm) for arm in every}

    def kept(seed: int, arm: str) -> float:
        return arms.gained(seed, arm) if arm == "opsft" else arms.cut(seed)

    def area(seed: int, sentences: str) -> float:
        return arms.run(seed, "opsft")["divergence"][f"AUC, {sentences} sentence against the rest"]

    return {
        "C1n": of("C1n", arms.saved, "opsft", ("fixed data",), beside=tokens),
        "C1m": of("C1m", kept, "opsft", ("base",), item, beside=right),
        "C4m": of("C4m", partial(arms.margin, rivals=("opsft", *RIVALS, "base")), "opsft", ("grpo, length",), item, beside=right),
        "C4n": of("C4n", lambda seed, arm: arms.gained(seed, arm, "grpo, length"), "opsft", ("best of n",), item, beside=right),
        "C6n": of("C6n", partial(arms.sooner, brief=BRIEF_IN_ENGLISH, less=LESS), "opsft", ("best of n",), arms.between_probes()),
        "C8n": of("C8n", lambda seed, arm: arms.saved(seed, arm, "fixed data"), "opsft", ("base",)),
        "C14n": of("C14n", area, "redundant", ("needed",)),
    }


# -- a GPU, and paper scale --------------------------------------------------------------------------------
def gpu(results: dict, size: str = "gpu") -> dict[str, dict]:
    """Peak memory of an update, each kind in a process of its own: a count, which repetitions do not change."""
    ours, theirs = (max(results["gpu"][kind]["peak_bytes"]) for kind in ("opsft", "grpo"))
    return {"C5": point(100 * (1 - ours / theirs), baselines={"opsft, GiB": ours / 2**30, "grpo, GiB": theirs / 2**30})}


RIVALS_OF_FIGURE_1 = 10  # baselines that the paper's frontier is drawn among
TEMPERATURES = ("T0.3", "T0.6", "T1.2", "T1.5")


def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """Of the models that are there; what is missing stays not-run."""
    measured = {}
    for model, means in results["paper"].items():
        before, after = means["base"], means["trained"]
        sides = {f"{which}, {key}": means[which][key] for which in ("base", "trained") for key in ("avg", "tokens")}
        shorter = point(100 * analytic.reduction(before["tokens"], after["tokens"]), baselines=sides)
        gained = point(100 * (after["avg"] - before["avg"]), baselines=sides)
        if model == "1.5b":
            measured |= {"C1": shorter, "C1b": gained, "C2": point(after["efficiency"], baselines={"base": before["efficiency"]})}
            measured |= _of_rivals(means)
        else:
            measured |= {"C3": shorter, "C3b": gained}
            if "fixed-data" in means and "math500" in after["by_benchmark"]:
                ours, theirs = (100 * means[arm]["by_benchmark"]["math500"] for arm in ("trained", "fixed-data"))
                measured["C8"] = point(ours - theirs, baselines={"on-policy": ours, "fixed data": theirs})
    return measured


def _of_rivals(means: dict) -> dict[str, dict]:
    """C4, C6, C7, C9 at 1.5B, as far as their trainings are there."""
    ours, measured = means["trained"], {}
    rivals = {name: each for name, each in means.items() if name.startswith("rival ")}
    if len(rivals) >= RIVALS_OF_FIGURE_1:
        better = [name for name, each in rivals.items() if each["tokens"] < ours["tokens"] and each["avg"] > ours["avg"]]
        measured["C4"] = point(float(len(better)), baselines={name: 100 * each["avg"] for name, each in rivals.items()})
    if "grpo" in means and None not in (means["grpo"]["normalised_length_std"], ours["normalised_length_std"]):
        spreads = {arm: means[arm]["normalised_length_std"] for arm in ("trained", "grpo")}
        measured["C7"] = point(spreads["grpo"] - spreads["trained"], baselines=spreads)
    if {"trained", "grpo"} <= means["curves"].keys():
        measured["C6"] = _steps_saved(means["curves"])
    if all(arm in means for arm in TEMPERATURES):
        others = {arm: 100 * means[arm]["avg"] for arm in TEMPERATURES}
        measured["C9"] = point(100 * ours["avg"] - max(others.values()), baselines=others | {"1": 100 * ours["avg"]})
    return measured


def _steps_saved(curves: dict[str, list]) -> dict:
    """Steps to the baseline's best validation, in % of its own: as accurate and as short, to the step where it is most accurate per
    token. Never reached: the last step, and no earlier than the baseline's, for a short training saves nothing by ending."""
    _, avg, tokens = best = max(curves["grpo"], key=lambda row: row[1] / row[2])
    never = max(curves["trained"][-1][0], best[0])
    ours = next((step for step, a, t in curves["trained"] if a >= avg and t <= tokens), never)
    return point(100 * (1 - ours / best[0]) if best[0] else 0.0, baselines={"ours": ours, "grpo": best[0]})


# -- all of these ------------------------------------------------------------------------------------------
def claim(seeds: Sequence[int], name: str, quantity: Callable[[int, str], float], arm: str, placebos: Sequence[str],
          resolution: float = 0.0, beside: dict[str, tuple] | None = None, best: Callable = max) -> dict:
    """The quantity of the arm, a value a training, and that of its placebo: of several, in each seed the one that comes closest to
    passing (`best`). beside: {what is shown: (value of seed and arm, arm)}. RecordError names the claim without a number."""
    try:
        measured = summarize([quantity(seed, arm) for seed in seeds], resolution)
        control = summarize([best(quantity(seed, each) for each in placebos) for seed in seeds], resolution)
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from error
    shown = {side: fmean(get(seed, of) for seed in seeds) for side, (get, of) in (beside or {}).items()}
    return measured | {"placebo": control} | ({"baselines": shown} if shown else {})


def first(results: dict, start: str) -> dict:
    """The result of the lowest seed."""
    return results[f"{start}/seed{seeds_of(results, start)[0]}"]


def facts(base: dict, problems: str) -> tuple[list, list]:
    """(models, datasets) of an experiment: the model that it starts from, and how many test problems that one answered."""
    return [base["model"]], [{"name": problems, "split": "test", "n": base["test"]["problems"]}]
