"""From results of jobs to what claims measure: {claim: measured}. The rules and verdicts are in claims.yaml and common/."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from common.intervals import summarize
from common.records import load_claims
from common.standins import SEEDS

from .selection import rank_correlation


def names(rung: str) -> set[str]:
    """The claims of a rung, without the paper's name."""
    claims = load_claims(Path(__file__).with_name("claims.yaml"))
    return {claim["id"].partition("/")[2] for claim in claims if claim["rung"] == rung}


# -- the small LLaVA ---------------------------------------------------------------------------------------
def score(results: dict, arm: str, seed: int, name: str = "all") -> float:
    """Accuracy of an arm after tuning. "all": of questions about scenes; "open": not answered by yes or no."""
    found = results[f"{arm}/seed{seed}"]
    return (found["all layers"] if arm == "all layers" else found["test"])[name]


def pair(results: dict, seed: int, which: str, name: str) -> float:
    """Accuracy without training of the two layers of the highest or the lowest score."""
    found = results[f"all layers/seed{seed}"]
    order = sorted(found["leave-one-out"], key=lambda k: (-found["leave-one-out"][k], int(k)))
    chosen = order[:2] if which == "top" else order[-2:]
    return found["pairs"]["-".join(sorted(chosen, key=int))][name]


def kept_worth(results: dict, seed: int) -> float:
    """Spearman's correlation over all pairs: leave-one-out nats of the two layers, and accuracy without training."""
    found = results[f"all layers/seed{seed}"]
    worth = found["leave-one-out"]
    return rank_correlation([sum(worth[k] for k in name.split("-")) for name in found["pairs"]],
                            [p["all"] for p in found["pairs"].values()])


def small_claims(results: dict) -> dict[str, dict]:
    """Effects are positive in the claim's direction, one value a seed."""
    def effect(ours, theirs, share: float = 1.0, name: str = "all", plus: float = 0.0) -> dict:
        values = [ours(seed, name) - share * theirs(seed, name) + plus for seed in SEEDS]
        return summarize(values) | {"baselines": {"ours": fmean(ours(s, name) for s in SEEDS), "theirs": fmean(theirs(s, name) for s in SEEDS)}}

    def of(arm: str):
        return lambda seed, name: score(results, arm, seed, name)

    def blind(seed: int, name: str) -> float:
        return results[f"all layers/seed{seed}"]["blind"][name]

    def pruned(way: str):
        def get(seed: int, name: str) -> float:
            found = results[f"pruned/seed{seed}"]
            return found[str(found["equivalent tokens"])][way][name]
        return get

    def dropped(way: str):
        return lambda seed, name: results[f"wide/seed{seed}"]["PyramidDrop 0.5"][way][name]

    untrained = {which: (lambda seed, name, which=which: pair(results, seed, which, name)) for which in ("top", "bottom")}
    frozen = {what: fmean(results[f"dense/seed{s}"]["frozen"][what]["all"] / score(results, "dense", s) for s in SEEDS)
              for what in ("ffn", "attention", "all")}
    found = {
        "C1s": effect(of("top"), of("dense"), 0.97),
        "C1t": effect(of("top"), of("dense"), 0.95, "open"),
        "C1u": effect(blind, of("text"), plus=0.02),
        "C6a": effect(dropped("ranked"), of("wide"), 0.95),
        "C6b": effect(dropped("ranked"), dropped("random")),
        "C7a": effect(of("top"), pruned("attention")),
        "C7b": effect(of("top"), pruned("random")),
        "C8a": effect(of("all layers"), of("dense"), 0.97),
        "C8b": summarize([results[f"dense/seed{s}"]["frozen"]["ffn"]["all"] / score(results, "dense", s) for s in SEEDS])
        | {"baselines": {f"frozen: {what}": share for what, share in frozen.items()}},
        "C9a": effect(untrained["top"], untrained["bottom"]),
        "C9b": effect(untrained["top"], untrained["bottom"], name="open"),
        "C9c": summarize([kept_worth(results, seed) for seed in SEEDS]),
        "C9d": effect(of("top"), of("bottom")),
    }
    for arm in ("last", "drawn"):
        found["C9d"]["baselines"][arm] = fmean(score(results, arm, s) for s in SEEDS)
    return found


def patch_claims(results: dict) -> dict[str, dict]:
    """How far ViCA with all layers stays below dense where the encoder has not mixed its patches."""
    both = {arm: [results[f"patches/{arm}/seed{s}"]["test"]["all"] for s in SEEDS] for arm in ("dense", "vica")}
    return {"C8c": summarize([d - v for d, v in zip(both["dense"], both["vica"])]) |
            {"baselines": {arm: fmean(values) for arm, values in both.items()}}}
