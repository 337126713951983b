"""From results of jobs to what claims measure: {claim: measured}. The rules and verdicts are in claims.yaml and common/."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from common.claims.intervals import summarize
from common.errors import RecordError
from common.runs.reproduce import point

from . import analytic

SHORT_ENOUGH = 0.40  # of the base's length
RIVALS = ("grpo", "grpo, length", "fixed data", "best of n")


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


# -- small reasoners ---------------------------------------------------------------------------------------
def updates_needed(run: dict, updates: int) -> float:
    """The first probed update at which length is SHORT_ENOUGH and accuracy is not below the first probe's; all `updates` if none."""
    start = run["curve"][0]
    for done, avg, tokens in run["curve"]:
        if tokens <= SHORT_ENOUGH * start[2] and avg >= start[1]:
            return done
    return updates


def chains(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Effects are positive in the claim's direction, one value a seed."""
    from .experiments.chains import SIZES

    updates = SIZES[size].updates

    def of(seed: int, arm: str) -> dict:
        return results[f"{arm}/seed{seed}"]["test"]

    def effect(value, **sides) -> tuple:
        return value, sides or None

    def avg(arm: str):
        return lambda s: of(s, arm)["avg"]

    def tokens(arm: str):
        return lambda s: of(s, arm)["tokens"]

    def share(arm: str):
        return lambda s: of(s, arm)["tokens"] / of(s, "base")["tokens"]

    def run(seed: int, arm: str = "opsft") -> dict:
        return results[f"{arm}/seed{seed}"]

    def margin(seed: int) -> float:
        ours, before = of(seed, "opsft"), of(seed, "base")["tokens"]
        return min(max(ours["avg"] - of(seed, a)["avg"], (of(seed, a)["tokens"] - ours["tokens"]) / before) for a in (*RIVALS, "base"))

    def rise(seed: int) -> float:
        losses = [row["loss per token"] for row in run(seed, "T 1.5")["history"] if "loss per token" in row]
        return fmean(losses[-5:]) - fmean(losses[:5])

    def needed(arm: str):
        return lambda s: updates_needed(run(s, arm), updates)

    def hardest(seed: int, arm: str) -> float:
        kinds = of(seed, arm)["by_kind"]
        return kinds[max(kinds)]["avg"]

    return of_seeds(SIZES[size].seeds, {
        "C1s": effect(lambda s: SHORT_ENOUGH - share("opsft")(s), before=tokens("base"), after=tokens("opsft")),
        "C1t": effect(lambda s: avg("opsft")(s) - avg("base")(s) + 0.01, before=avg("base"), after=avg("opsft")),
        "C1u": effect(lambda s: 0.02 - run(s)["skips a step"]),
        "C1v": effect(lambda s: share("by lot")(s) - 0.80, length=tokens("by lot"), accuracy=avg("by lot")),
        "C4a": effect(margin, **{f"{a}, {what}": get(a) for a in (*RIVALS, "base", "opsft")
                                 for what, get in (("accuracy", avg), ("tokens", tokens))}),
        "C6a": effect(lambda s: needed("grpo")(s) - needed("opsft")(s), ours=needed("opsft"), grpo=needed("grpo"),
                      grpo_length=needed("grpo, length")),
        "C7a": effect(lambda s: of(s, "grpo")["normalised_length_std"] - of(s, "opsft")["normalised_length_std"],
                      base=lambda s: of(s, "base")["normalised_length_std"]),
        "C8a": effect(lambda s: share("fixed data")(s) - share("opsft")(s), on_policy=tokens("opsft"), fixed=tokens("fixed data")),
        "C8b": effect(lambda s: avg("opsft")(s) - avg("fixed data")(s), on_policy=avg("opsft"), fixed=avg("fixed data")),
        "C9a": effect(rise),
        "C9b": effect(lambda s: avg("opsft")(s) - avg("T 1.5")(s), at_1=avg("opsft"), at_1_5=avg("T 1.5")),
        "C9c": effect(lambda s: avg("opsft")(s) - avg("T 0.6")(s), at_1=avg("opsft"), at_0_6=avg("T 0.6")),
        "C10": effect(lambda s: avg("opsft")(s) - avg("G 4")(s), sixteen=avg("opsft"), four=avg("G 4")),
        "C11": effect(lambda s: hardest(s, "opsft") - hardest(s, "L 24")),
        "C12": effect(lambda s: avg("opsft")(s) - avg("seq")(s), corrected=avg("opsft"), uncorrected=avg("seq")),
        "C14a": effect(lambda s: run(s)["divergence"]["AUC, wait or restart against the rest"] - 0.8,
                       separators=lambda s: run(s)["divergence"]["AUC, separator against the rest"]),
    })


# -- SmolLM2 -----------------------------------------------------------------------------------------------
def sums(results: dict, size: str = "cpu") -> dict[str, dict]:
    from .experiments.sums import SIZES

    def of(seed: int, arm: str) -> dict:
        return results[f"sums/{arm}/seed{seed}"]["test"]

    def effect(value, **sides) -> tuple:
        return value, sides

    def of_all(key: str) -> dict:
        return {arm.replace(" ", "_"): lambda s, a=arm: of(s, a)[key] for arm in ("base", "opsft", "fixed data")}

    return of_seeds(SIZES[size].seeds, {
        "C1n": effect(lambda s: 0.60 - of(s, "opsft")["tokens"] / of(s, "base")["tokens"], **of_all("tokens"),
                      needed=lambda s: of(s, "base")["needed"]),
        "C1m": effect(lambda s: of(s, "opsft")["avg"] - of(s, "base")["avg"] + 0.02, **of_all("avg")),
        "C8n": effect(lambda s: (of(s, "fixed data")["tokens"] - of(s, "opsft")["tokens"]) / of(s, "base")["tokens"], **of_all("tokens")),
        "C14n": effect(lambda s: results[f"sums/opsft/seed{s}"]["divergence"]["AUC, redundant sentence against the rest"] - 0.8),
    })


# -- a GPU, and paper scale --------------------------------------------------------------------------------
def gpu(results: dict, size: str = "gpu") -> dict[str, dict]:
    """Peak memory of an update, one value a repetition."""
    ratios = [ours / theirs for ours, theirs in zip(results["gpu"]["opsft"]["peak_bytes"], results["gpu"]["grpo"]["peak_bytes"])]
    return {"C5": summarize([0.55 - r for r in ratios])}


def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """Of the models that are there; what is missing stays not-run."""
    measured = {}
    for model, means in results["paper"].items():
        before, after = means["base"], means["trained"]
        sides = {f"{which}, {key}": means[which][key] for which in ("base", "trained") for key in ("avg", "tokens")}
        shorter = point(100 * analytic.reduction(before["tokens"], after["tokens"]), baselines=sides)
        if model == "1.5b":
            measured |= {"C1": shorter, "C2": point(after["efficiency"], baselines={"base": before["efficiency"]})}
        else:
            measured["C3"] = shorter
    return measured


# -- all of these ------------------------------------------------------------------------------------------
def of_seeds(seeds: Sequence[int], claims: dict[str, tuple]) -> dict[str, dict]:
    """claims {name: (effect of a seed, {what is shown beside it: value of a seed})}. RecordError names the claim without a number."""
    measured = {}
    for name, (effect, sides) in claims.items():
        try:
            measured[name] = summarize([effect(seed) for seed in seeds])
        except RecordError as error:
            raise RecordError(f"{name}: {error}") from error
        if sides is not None:
            measured[name]["baselines"] = {side: fmean(get(seed) for seed in seeds) for side, get in sides.items()}
    return measured


def facts(base: dict, problems: str) -> tuple[list, list]:
    """(models, datasets) of an experiment: the model that it starts from, and how many test problems that one answered."""
    return [base["model"]], [{"name": problems, "split": "test", "n": base["test"]["problems"]}]
