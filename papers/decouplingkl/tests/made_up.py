"""Results as the jobs give them, made up so that every claim in the small supports: tests change one thing and look at the word."""

from common.claims.records import load_claims, make_record, start_run

from .. import eval as harness
from ..experiments import chains as small
from ..experiments import real as pair
from ..experiments import strong as better

CLAIMS = load_claims(harness.HERE / "claims.yaml")
WEAK = {  # accuracy, Pass@8, tokens, share at the cap, entropy
    "start": (0.06, 0.35, 47.0, 0.03, 0.63), "SF": (0.12, 0.55, 50.0, 0.02, 0.84), "mix 0.25": (0.10, 0.45, 60.0, 0.08, 0.70),
    "mix 0.5": (0.09, 0.44, 90.0, 0.30, 0.55), "mix 0.75": (0.08, 0.42, 100.0, 0.40, 0.40), "SR": (0.07, 0.37, 112.0, 0.50, 0.23),
    "TF": (0.11, 0.52, 48.0, 0.03, 0.55), "TR": (0.10, 0.50, 50.0, 0.04, 0.40), "short SF": (0.06, 0.36, 48.0, 0.03, 0.65),
    "short SR": (0.055, 0.27, 45.0, 0.03, 0.54),
    "curriculum": (0.10, 0.45, 52.0, 0.04, 0.60), "ladder": (0.07, 0.36, 113.0, 0.51, 0.22), "by entropy": (0.09, 0.45, 70.0, 0.10, 0.60),
    "SF again": (0.12, 0.55, 50.0, 0.02, 0.85), "shuffled": (0.01, 0.05, 90.0, 0.40, 0.50)}
STRONG = {
    "start": (0.27, 0.70, 60.0, 0.02, 0.34), "SF": (0.38, 0.85, 55.0, 0.02, 0.50), "SR": (0.36, 0.75, 100.0, 0.30, 0.25),
    "TF": (0.32, 0.80, 55.0, 0.02, 0.40), "TR": (0.31, 0.76, 56.0, 0.03, 0.26), "SF again": (0.38, 0.86, 55.0, 0.02, 0.51),
    "short SF": (0.28, 0.70, 60.0, 0.03, 0.45), "short SR": (0.30, 0.68, 62.0, 0.04, 0.28), "short TF": (0.28, 0.7, 60.0, 0.02, 0.4),
    "short TR": (0.28, 0.7, 60.0, 0.02, 0.3),
    "one end": (0.05, 0.20, 150.0, 0.80, 0.20), "two ends": (0.35, 0.75, 80.0, 0.25, 0.25)}
REAL = {
    "start": (0.18, 0.40, 60.0, 0.02, 0.50), "SF": (0.40, 0.70, 62.0, 0.02, 0.52), "SR": (0.36, 0.50, 120.0, 0.40, 0.20),
    "TF": (0.35, 0.65, 60.0, 0.02, 0.45), "TR": (0.33, 0.55, 61.0, 0.02, 0.35), "SF again": (0.40, 0.70, 62.0, 0.02, 0.53),
    "mix 0.25": (0.39, 0.68, 64.0, 0.04, 0.45), "short SF": (0.30, 0.60, 60.0, 0.02, 0.50), "short SR": (0.30, 0.55, 60.0, 0.03, 0.40),
    "curriculum": (0.40, 0.60, 62.0, 0.03, 0.42), "ladder": (0.36, 0.50, 121.0, 0.41, 0.20)}
AFTER_RL = {"start": 0.28, "SF": 0.50, "SR": 0.40, "TF": 0.44, "TR": 0.33}  # accuracy; the start gains a point
FACTS = start_run("test") | {"seconds": 0.0}
SHIFT = 0.001  # between seeds: values that are equal have no interval


def scores(avg, passed, tokens, at_cap, entropy, problems=64, samples=8):
    return {"avg": avg, "pass_at": {"1": avg, "8": passed}, "tokens": tokens, "at_cap": at_cap, "entropy": entropy, "problems": problems,
            "samples": samples, "avg stderr": 0.02, "cap": small.CAP}


def weak(changes=None, seeds=3):
    """changes {arm: (accuracy, Pass@8, tokens, share at the cap, entropy)}. Seeds differ a little, each arm in its own way."""
    found = {}
    for seed in range(seeds):
        for number, (arm, values) in enumerate((WEAK | (changes or {})).items()):
            found[f"{arm}/seed{seed}"] = result(values, seed, number) | (
                {"model": {"name": "student"}, "teacher": {"name": "teacher"}} if arm == "start" else training(arm))
        found[f"itself/seed{seed}"] = {"loss": 0.0, "norm": 0.0, "moved": 0.0}
    return found


def result(values, seed, number):
    avg, passed, tokens, at_cap, entropy = values
    own = SHIFT * seed * (5 * number % 17)  # another for every arm
    test = scores(avg + own / 10, passed + own / 10, tokens + own, at_cap + own / 10, entropy + own)
    return {"test": test, "kl": {"teacher": [0.5, 0.6], "student": [0.7, 0.4]}}


def training(arm, updates=30, every=10):
    row = {"step": 8, "stage": 0, "length": 12, "entropy": 0.6, "threshold": 0.5, "at_cap": 0.03, "passed": True, "action": "advance",
           "next_length": 24}
    refused = row | {"step": 16, "stage": 1, "length": 24, "entropy": 0.4, "passed": False, "action": "rollback", "next_length": 12}
    decisions = {"curriculum": [row, refused], "ladder": [row]}.get(arm, [])
    return {"history": {"loss per token": [0.5] * updates, "norm": [1.0] * updates, "length": [50.0] * updates}, "decisions": decisions,
            "moved": 0.1, "seconds": 1.0, "curve": [[done, 0.1, 50.0, 0.02, 0.5] for done in range(0, updates + 1, every)]}


def strong(changes=None, after=None, curves=None, seeds=3):
    """changes as of `weak`; after {arm: accuracy after GRPO}; curves {arm: its accuracies at the probes}."""
    found = {}
    values = STRONG | (changes or {})
    for seed in range(seeds):
        for number, arm in enumerate(values):
            made = result(values[arm], seed, number)
            if arm in better.STOPS:
                made |= {"ended by": {"eos": 0.1, "eos2": 0.1}, "history": training(arm, 60)["history"]}
                del made["kl"]
            elif arm != "start":
                made |= training(arm, 60, 20)
                at = (curves or {}).get(arm, [0.27, 0.28, 0.33, 0.38] if arm == "SF" else [0.27, 0.30, 0.34, 0.40])
                made["curve"] = [[20 * i, avg + SHIFT * seed * (number + 1), 50.0, 0.02, 0.4] for i, avg in enumerate(at)]
            if arm in AFTER_RL:
                before = made["test"]
                last = before | {"avg": (AFTER_RL | (after or {}))[arm] + SHIFT * seed * (number + 2)}
                rl = {"before": before, "after": last, "skipped": 0, "right": [0.4], "length": [50.0]}
                made["rl"] = {"0": rl} if arm == "start" else {"20": rl, "60": rl}
            found[f"strong/{arm}/seed{seed}"] = made | ({"model": {"name": "student"}} if arm == "start" else {})
    return found


def real(changes=None, seeds=3):
    """As `weak`, of the real pair."""
    found = {}
    for seed in range(seeds):
        for number, (arm, values) in enumerate((REAL | (changes or {})).items()):
            made = result(values, seed, number) | ({} if arm == "start" else training(arm, 39, 13))
            made["test"]["said"] = ["3 + 4 = 7. Answer: 7"]
            found[f"real/{arm}/seed{seed}"] = made | ({"model": {"name": "half"}, "teacher": {"name": "whole"}} if arm == "start" else {})
    return found


def swapped(results, one, other, prefix=""):
    """The results with two arms in each other's place."""
    name = {one: other, other: one}
    split = {full: full.removeprefix(prefix).rpartition("/") for full in results}
    return {full: results[f"{prefix}{name.get(arm, arm)}/{seed}"] for full, (arm, _, seed) in split.items()}


def copied(results, one, other, prefix=""):
    """The results where `other` came out as `one` did."""
    return results | {f"{prefix}{other}/seed{s}": results[f"{prefix}{one}/seed{s}"] for s in range(3)}


def verdict(name, measured):
    """(word, reason) of the record that a run with these measurements would leave."""
    found = make_record(CLAIMS.find(name), CLAIMS.sha256, measured[name], FACTS, seeds=[0, 1, 2])["verdict"]
    return found["word"], found["reason"]


assert WEAK.keys() == {"start", *small.ARMS} and STRONG.keys() == {"start", *better.ARMS, *better.STOPS}
assert REAL.keys() == {"start", *pair.ARMS}
