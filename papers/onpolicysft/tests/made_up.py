"""Results as the jobs give them, made up so that every claim in the small supports: tests change one thing and look at the word."""

from common.claims.records import load_claims, make_record, start_run
from common.reasoning.five import TASKS

from .. import eval as harness
from ..experiments import chains as small
from ..experiments import five as tasks

CLAIMS = load_claims(harness.HERE / "claims.yaml")
ARMS = {  # accuracy, tokens, normalised std, share of right responses that skip a step
    "base": (0.85, 60.0, 0.5, 0.0), "opsft": (0.95, 18.0, 0.05, 0.001), "again": (0.95, 18.0, 0.05, 0.0), "by lot": (0.3, 58.0, 0.5, 0.0),
    "best of n": (0.78, 30.0, 0.3, 0.1), "fixed data": (0.78, 28.0, 0.4, 0.0), "grpo": (0.9, 24.0, 0.3, 0.0),
    "grpo, length": (0.8, 30.0, 0.4, 0.0), "T 0.6": (0.91, 17.0, 0.05, 0.0), "T 1.5": (0.1, 40.0, 0.6, 0.3), "seq": (0.85, 17.0, 0.05, 0.0),
    "G 4": (0.7, 25.0, 0.2, 0.0), "G 4, as many": (0.7, 25.0, 0.2, 0.0), "L 24": (0.9, 17.0, 0.05, 0.0)}
THERE = {"opsft": 5, "grpo": 40, "best of n": 40, "fixed data": 40, "grpo, length": 30}  # the update at which it is brief
SUMS = {"base": (0.45, 60.0), "opsft": (0.5, 20.0), "fixed data": (0.4, 45.0), "best of n": (0.42, 25.0), "grpo": (0.4, 30.0),
        "grpo, length": (0.45, 40.0)}
THERE_IN_SUMS = {"opsft": 2, "best of n": 20, "grpo": 18, "grpo, length": 20}


def scores(avg, tokens, std=0.1, problems=200):
    both = {"avg": avg, "tokens": tokens, "pass_at": {"1": avg, "4": 1.0}, "normalised_length_std": std, "at_cap": 0.0,
            "efficiency": 100 * avg / tokens, "problems": problems, "samples": 4}
    return both | {"by_kind": {k: dict(both) for k in ("1", "2", "3")}}


def chains(changes=None, seeds=3):
    """changes {arm: (accuracy, tokens), or a function of the seed that gives the entries of its result that are other ones}.
    Seeds differ a little, each arm in its own way: values that are equal have no interval."""
    found = {}
    for seed in range(seeds):
        for number, (arm, (avg, tokens, std, skips)) in enumerate(ARMS.items()):
            change = (changes or {}).get(arm, lambda seed: {})
            if isinstance(change, tuple):
                (avg, tokens), change = change, lambda seed: {}
            shift = 0.001 * seed
            tokens, std = tokens + shift * (number % 5), std + shift * (number % 4)
            found[f"{arm}/seed{seed}"] = {
                "arm": arm, "test": scores(avg + shift, tokens, std), "skips a step": skips, "seconds": 1.0,
                "budgets": [[12, 0.1], [170, avg]],
                "history": {"loss per token": [0.2 + (0.02 if arm == "T 1.5" else -0.01) * i + shift * i for i in range(10)],
                            "kept": [0.4, 0.8], "kept length": [20.0, 18.0 + seed], "length": [30.0, 18.0 + seed]},
                "curve": [[0, 0.85, 60.0], *([done, 0.9, 20.0 if done >= THERE.get(arm, 10) else 50.0] for done in range(5, 45, 5))],
                "divergence": {"AUC, wait or restart against the rest": (0.6 if arm == "by lot" else 0.95) + shift,
                               "AUC, separator against the rest": 0.99, "by word": [["W", 1.5, 9]]}} | change(seed)
    return found


def swapped(results, one, other, prefix=""):
    """The results with two arms in each other's place."""
    name = {one: other, other: one}
    split = {full: full.removeprefix(prefix).rpartition("/") for full in results}
    return {full: results[f"{prefix}{name.get(arm, arm)}/{seed}"] for full, (arm, _, seed) in split.items()}


def copied(results, one, other, prefix=""):
    """The results where `other` came out as `one` did."""
    return results | {f"{prefix}{other}/seed{s}": results[f"{prefix}{one}/seed{s}"] for s in range(3)}


def sums(changes=None):
    made = {}
    for seed in range(3):
        for number, (arm, (avg, tokens)) in enumerate((SUMS | (changes or {})).items()):
            test = scores(avg + 0.001 * seed, tokens + 0.01 * seed * number, 0.2, problems=96) | {"needed": 19.0, "said": ["long", "short"]}
            test["within"] = [[8, 0.01], [24, 0.2 * avg + 0.001 * seed], [160, avg]]
            last = THERE_IN_SUMS.get(arm, 20)
            made[f"sums/{arm}/seed{seed}"] = {
                "curve": [[0, 0.4, 60.0], *([done, 0.4 if done >= last else 0.3, 20.0] for done in range(2, 22, 2))],
                "test": test, "history": [{"length": 30.0}, {"length": 20.0}], "seconds": 1.0, "model": {"name": "x"},
                "divergence": {"AUC, redundant sentence against the rest": 0.95 + 0.001 * seed,
                               "AUC, needed sentence against the rest": 0.6 + 0.001 * seed,
                               "by token, five or more times": [[" Wait", 2.0, 9]]}}
    return made


FIVE = {"base": (0.6, 75.0), "opsft": (0.7, 35.0), "fixed data": (0.62, 45.0), "best of n": (0.55, 40.0), "grpo": (0.65, 40.0),
        "grpo, length": (0.58, 42.0), "by lot": (0.5, 90.0)}


def five(changes=None, by_task=None):
    """changes {arm: (accuracy, tokens)}; by_task {(arm, task): (accuracy, tokens)}, of one task alone. Tasks differ, and seeds a little."""
    made = {}
    for seed in (3, 4, 5):
        for number, (arm, both) in enumerate((FIVE | (changes or {})).items()):
            by_kind = {}
            for place, task in enumerate(TASKS):
                avg, tokens = (by_task or {}).get((arm, task), both)
                avg, tokens = avg + 0.001 * seed + 0.01 * place, tokens + place + 0.01 * seed * number
                by_kind[task] = {"avg": avg, "tokens": tokens, "problems": 96, "samples": 2, "needed": 30.0 + place,
                                 "within": [[8, 0.0], [48, 0.4 * avg], [160, avg]]}
            mean = {key: sum(of[key] for of in by_kind.values()) / 5 for key in ("avg", "tokens")}
            made[f"five/{arm}/seed{seed}"] = {
                "arm": arm, "seconds": 1.0, "model": {"name": "x"},
                "test": mean | {"problems": 480, "samples": 2, "by_kind": by_kind, "said": {task: f"{arm} {task}" for task in TASKS}}}
    return made


def verdict(name, measured):
    """(word, reason) of the record that a run with these measurements would leave."""
    facts = start_run("test") | {"seconds": 0.0}
    found = make_record(CLAIMS.find(name), CLAIMS.sha256, measured[name], facts, seeds=[0, 1, 2])["verdict"]
    return found["word"], found["reason"]


assert ARMS.keys() == {"base", *small.ARMS} and FIVE.keys() == {"base", *tasks.ARMS}
