"""From results of jobs to what claims measure: {claim: measured}. What decides is in claims.yaml; no number here judges.

Results are read as they are committed (measurements.<document>.json); what seeds there are decides how many are counted. A claim in
the small is a quantity of (seed, arm): of the arm that it is about, and of the arm that must not pass, its placebo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from common.claims.intervals import point, summarize
from common.errors import RecordError
from common.seeds import seeds_of
from common.shapes import Shape

from . import analytic, reported
from .experiments.chains import ARMS, MIXED, SR
from .experiments.reasoners import CELLS as MEETING
from .experiments.strong import ARMS as STRONG_ARMS
from .experiments.strong import STOPS, SWITCHES

LONGER, AT_CAP = 1.5, 0.2  # what inflation is: responses so many times as long, or such a share of them at the cap (spec 8.4, D1)
SHARES = tuple(ARMS[name].lam for name in MIXED)
STUDENT = Shape(d=32, f=96, L=2, H=4, KV=4, dh=8, V=30, tied=True)
TEACHER = Shape(d=64, f=192, L=2, H=4, KV=4, dh=16, V=30, tied=True)
PROMPT = 10  # tokens of a problem, on average: 3 a step and 4
ANOTHER_ORDER = (0.25, 1.0, 0.5, 0.0, 0.75)  # of the same shares; its rank correlation with them is 0


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    gains = {teacher: analytic.gained(teacher) for teacher in reported.FIXED}
    lengths = {(teacher, tokens): analytic.cells(teacher, tokens) for teacher in ("4B", "8B") for tokens in (128, 1024, 4096)}
    ratios = {f"{teacher}, {tokens} tokens": row["student / cached"] for (teacher, tokens), row in lengths.items()}
    fresh = {f"{teacher}, {tokens} tokens": 100 * (1 - row["teacher, online"] / row["student"])
             for (teacher, tokens), row in lengths.items()}
    compute, passed = analytic.sibling(), reported.TABLE_1["reverse"]["MATH-500"].passed
    return {
        "C2a": point(analytic.left_out()),
        "C6a": point(min(ratios.values()), baselines=ratios),
        "C6b": point(max(fresh.values(), key=abs), baselines=fresh),
        "C10a": point(gains["4B"][0]), "C10b": point(gains["4B"][1]), "C10c": point(gains["4B"][2]),
        "C11a": point(gains["8B"][0]), "C11b": point(gains["8B"][1]), "C11c": point(gains["8B"][2]),
        "C13a": point(compute["teacher"]), "C13b": point(compute["student"]), "C13c": point(compute["sampled"]),
        "C13d": point(compute["full"]), "C13e": point(compute["saved %"]),
        "C13f": point(compute["exact teacher"], baselines={"student": compute["exact student"]}),
        "C14a": point(analytic.nearest_share(passed, reported.PROBLEMS["MATH-500"])),
        "C14b": point(analytic.nearest_share(passed, reported.MATH_TEST)),
    }


def update_of(arm: str, length: float, cached: str | None = None) -> float:
    """FLOPs of a response's part of an update of an arm here, at a length in tokens."""
    prefix = (ARMS | STRONG_ARMS | dict.fromkeys(STOPS, SR))[arm].prefix
    return analytic.update_flops(STUDENT, TEACHER, 1, PROMPT, length, prefix, cached)


# -- a quantity of one seed and one arm --------------------------------------------------------------------
class Arms:
    """Results of an experiment, by seed and arm. prefix: of its jobs' names."""

    def __init__(self, results: dict, prefix: str = ""):
        self.results, self.prefix = results, prefix
        self.seeds = seeds_of(results, f"{prefix}start")

    def run(self, seed: int, arm: str) -> dict:
        return self.results[f"{self.prefix}{arm}/seed{seed}"]

    def test(self, seed: int, arm: str) -> dict:
        return self.run(seed, arm)["test"]

    def right(self, seed: int, arm: str) -> float:
        """Avg@N in %."""
        return 100 * self.test(seed, arm)["avg"]

    def passed(self, seed: int, arm: str) -> float:
        """Pass@N in %, N all samples of a problem."""
        test = self.test(seed, arm)
        return 100 * test["pass_at"][str(test["samples"])]

    def entropy(self, seed: int, arm: str) -> float:
        return self.test(seed, arm)["entropy"]

    def tokens(self, seed: int, arm: str) -> float:
        return self.test(seed, arm)["tokens"]

    def kept(self, seed: int, arm: str) -> float:
        """Entropy as a share of the start's."""
        return self.entropy(seed, arm) / self.entropy(seed, "start")

    def at_cap(self, seed: int, arm: str) -> float:
        """Responses at the cap, in %."""
        return 100 * self.test(seed, arm)["at_cap"]

    def inflation(self, seed: int, arm: str) -> float:
        """Above 1 where responses are LONGER times as long as the start's, or AT_CAP of them at the cap."""
        test = self.test(seed, arm)
        return max(test["tokens"] / self.test(seed, "start")["tokens"] / LONGER, test["at_cap"] / AT_CAP)

    def sharper(self, seed: int, arm: str, than: str) -> float:
        """Nats of entropy that the arm has less than another."""
        return self.entropy(seed, than) - self.entropy(seed, arm)

    def gained(self, seed: int, arm: str, over: str = "start") -> float:
        """Points of accuracy of the arm over another."""
        return self.right(seed, arm) - self.right(seed, over)

    def shorter(self, seed: int, arm: str, than: str) -> float:
        """Tokens that the arm is shorter than another, in % of the start's."""
        tokens = [self.test(seed, name)["tokens"] for name in (than, arm, "start")]
        return 100 * (tokens[0] - tokens[1]) / tokens[2]

    def flops(self, seed: int, arm: str) -> float:
        """Of a response's part of an update, mean over a training, at every update's mean length, nothing cached."""
        return fmean(update_of(arm, length) for length in self.run(seed, arm)["history"]["length"])

    def sources(self, seed: int, ours: str) -> float:
        """Accuracy of the student's prefixes, or of another arm, less that of the teacher's, mean of both directions."""
        theirs = fmean(self.right(seed, name) for name in ("TF", "TR"))
        return (fmean(self.right(seed, name) for name in ("SF", "SR")) if ours == "student" else self.right(seed, ours)) - theirs

    def item(self) -> float:
        """What one response more or less changes of an accuracy, in points."""
        test = self.test(self.seeds[0], "start")
        return 100 / (test["problems"] * test["samples"])


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side does not vary."""
    a, b = ([fmean(i for i, y in enumerate(sorted(values)) if y == x) for x in values] for values in (xs, ys))
    middle = (len(a) - 1) / 2
    over = sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)
    return sum((x - middle) * (y - middle) for x, y in zip(a, b)) / over**0.5 if over else 0.0


def claim(seeds: Sequence[int], name: str, quantity: Callable[[int, Any], float], arm: Any, placebos: Sequence[Any],
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


# -- the weak student --------------------------------------------------------------------------------------
def weak(results: dict, size: str = "cpu") -> dict[str, dict]:
    arms = Arms(results)
    of, item = partial(claim, arms.seeds), arms.item()
    names = ("start", *MIXED, "curriculum", "ladder")
    entropies = {name: (arms.entropy, name) for name in names}
    lengths = {f"{name}, tokens": (arms.tokens, name) for name in ("start", "SF", "SR", "short SR")}

    def ranks(seed: int, order: Sequence[float], value: Callable[[int, str], float]) -> float:
        return spearman(order, [value(seed, name) for name in MIXED])

    def apart(seed: int, pair: tuple[str, str]) -> float:
        return arms.sharper(seed, pair[1], pair[0])

    return {
        "C3e": of("C3e", apart, ("SF", "SR"), [("SF", "SF again")], beside=entropies),
        "C3f": of("C3f", apart, ("TF", "TR"), [("SF", "SF again")], beside={arm: (arms.entropy, arm) for arm in ("start", "TF", "TR")}),
        "C8s": of("C8s", arms.kept, "SR", ["SF"], beside=entropies, best=min),
        "C8t": of("C8t", arms.inflation, "SR", ["SF", "short SR"], beside=lengths | {
            f"{name}, % at the cap": (arms.at_cap, name) for name in ("start", "SF", "SR", "short SR")}),
        "C8u": of("C8u", arms.kept, "SF", ["SR"]),
        "C8v": of("C8v", arms.at_cap, "SF", ["SR"], item, best=min),
        "C8w": of("C8w", arms.at_cap, "short SR", ["SR"], item, best=min),
        "C9s": of("C9s", partial(ranks, value=arms.entropy), SHARES, [ANOTHER_ORDER], 0.1, best=min,
                  beside={name: (arms.entropy, name) for name in MIXED}),
        "C9t": of("C9t", partial(ranks, value=arms.at_cap), SHARES, [ANOTHER_ORDER], 0.1,
                  beside={name: (arms.at_cap, name) for name in MIXED}),
        "C9a": of("C9a", partial(arms.gained, over="SR"), "mix 0.25", ["shuffled"], item),
        "C9b": of("C9b", arms.at_cap, "mix 0.25", ["SR"], item, best=min),
        "C9c": of("C9c", arms.inflation, "mix 0.5", ["SF"]),
        "C10s": of("C10s", partial(arms.shorter, than="SR"), "curriculum", ["ladder"], beside={
            f"{name}, tokens": (arms.tokens, name) for name in ("start", "SR", "curriculum", "ladder")}),
        "C10e": of("C10e", lambda seed, arm: arms.sharper(seed, "SR", arm), "curriculum", ["ladder"], beside=entropies),
        "C10q": of("C10q", partial(arms.gained, over="SR"), "curriculum", ["ladder"], item),
        "C10r": of("C10r", lambda seed, arm: arms.passed(seed, arm) - arms.passed(seed, "SR"), "curriculum", ["ladder"], 8 * item),
        "C15a": of("C15a", lambda seed, arm: arms.sharper(seed, "mix 0.75", arm), "by entropy", ["SR"]),
        "C16a": of("C16a", arms.gained, "SF", ["shuffled"], item, beside={arm: (arms.right, arm) for arm in ("start", "SF", "shuffled")}),
    }


# -- the better student ------------------------------------------------------------------------------------
class Strong(Arms):
    """With what GRPO made of it."""

    def __init__(self, results: dict):
        super().__init__(results, "strong/")

    def rl(self, seed: int, arm: str, switch: int) -> dict:
        found = self.run(seed, arm)["rl"]
        return found["0"] if arm == "start" else found[sorted(found, key=int)[SWITCHES.index(switch)]]

    def improved(self, seed: int, arm: str, switch: int) -> float:
        """Points of accuracy by GRPO."""
        found = self.rl(seed, arm, switch)
        return 100 * (found["after"]["avg"] - found["before"]["avg"])

    def per_flop(self, seed: int, arm: str) -> float:
        """Points on the probed problems that an arm is ahead of forward KL on student prefixes, at that one's last probe for which no
        more was computed than for the whole of TF on cached trajectories and logits."""
        own, other = self.run(seed, "SF"), self.run(seed, "TF")
        budget = sum(update_of("TF", length, "logits") for length in other["history"]["length"])
        spent, reached = 0.0, own["curve"][0]
        for done, length in enumerate(own["history"]["length"], 1):
            spent += update_of("SF", length)
            reached = next((row for row in own["curve"] if row[0] == done and spent <= budget), reached)
        return 100 * ((own["curve"][0] if arm == "start" else self.run(seed, arm)["curve"][-1])[1] - reached[1])


def strong(results: dict, size: str = "cpu") -> dict[str, dict]:
    arms = Strong(results)
    of, item = partial(claim, arms.seeds), arms.item()
    cells = ("start", "SF", "SR", "TF", "TR")
    accuracies = {name: (arms.right, name) for name in (*cells, "short SF", "short SR")}
    first, last = SWITCHES

    def starts(seed: int, reverse: tuple[str, str]) -> float:
        """Nats that RL starts from less by, on the prefix source where it is less."""
        return min(arms.rl(seed, forward, last)["before"]["entropy"] - (arms.rl(seed, other, last)["before"]["entropy"] if other in cells
                   else arms.entropy(seed, other)) for forward, other in zip(("SF", "TF"), reverse))

    def rl(switch: int) -> dict[str, tuple]:
        return {f"{name}, {when}": (lambda seed, arm, when=when: 100 * arms.rl(seed, arm, switch)[when]["avg"], name)
                for name in cells for when in ("before", "after")}

    def over_reverse(seed: int, arm: str, switch: int) -> float:
        return arms.improved(seed, arm, switch) - arms.improved(seed, "SR", switch)

    def by_length(seed: int, arm: str) -> float:
        return arms.gained(seed, arm, "short SF") - arms.gained(seed, "SR", "short SR")

    return {
        "C3g": of("C3g", lambda seed, arm: arms.sharper(seed, arm, "SF"), "SR", ["SF again"],
                  beside={name: (arms.entropy, name) for name in cells}),
        "C3h": of("C3h", partial(arms.gained, over="short SF"), "short SR", ["start"], item, beside=accuracies),
        "C3p": of("C3p", lambda seed, arm: arms.passed(seed, "SF") - arms.passed(seed, arm), "SR", ["SF again"], 8 * item,
                  beside={name: (arms.passed, name) for name in cells}),
        "C4e": of("C4e", starts, ("SR", "TR"), [("SF again", "SF again")]),
        "C4r": of("C4r", partial(over_reverse, switch=last), "SF", ["start"], item, beside=rl(last)),
        "C4s": of("C4s", partial(over_reverse, switch=first), "SF", ["start"], item, beside=rl(first)),
        "C5s": of("C5s", arms.sources, "student", ["start"], item, beside=accuracies),
        "C6s": of("C6s", arms.per_flop, "TF", ["start"], item),
        "C7s": of("C7s", partial(arms.gained, over="short SF"), "SF", ["start"], item, beside=accuracies),
        "C7t": of("C7t", partial(arms.gained, over="short SR"), "SR", ["start"], item, beside=accuracies),
        "C7u": of("C7u", by_length, "SF", ["start"], item, beside=accuracies),
        "C8x": of("C8x", arms.inflation, "SR", ["SF"]),
        "C8y": of("C8y", lambda seed, arm: arms.at_cap(seed, arm) - arms.at_cap(seed, "two ends"), "one end", ["SR"], item,
                  beside={name: (arms.at_cap, name) for name in ("start", "SR", "one end", "two ends")}),
    }


# -- a real pair -------------------------------------------------------------------------------------------
def real(results: dict, size: str = "cpu") -> dict[str, dict]:
    arms = Arms(results, "real/")
    of, item = partial(claim, arms.seeds), arms.item()
    names = ("start", "SF", "SR", "TF", "TR", "short SF", "short SR", "mix 0.25", "curriculum", "ladder")
    entropies, accuracies, cut = ({name: (value, name) for name in names} for value in (arms.entropy, arms.right, arms.at_cap))
    tokens = {f"{name}, tokens": (arms.tokens, name) for name in names}
    return {
        "C3i": of("C3i", lambda seed, arm: arms.sharper(seed, arm, "SF"), "SR", ["SF again"], beside=entropies),
        "C5i": of("C5i", arms.sources, "student", ["start"], item, beside=accuracies),
        "C7i": of("C7i", partial(arms.gained, over="short SF"), "SF", ["start"], item, beside=accuracies),
        "C8i": of("C8i", arms.kept, "SR", ["SF"], beside=entropies, best=min),
        "C8j": of("C8j", arms.inflation, "SR", ["SF", "short SR"], beside=tokens),
        "C8k": of("C8k", arms.at_cap, "short SR", ["SR"], item, beside=cut, best=min),
        "C9i": of("C9i", arms.at_cap, "mix 0.25", ["SR"], item, beside=cut, best=min),
        "C10i": of("C10i", partial(arms.shorter, than="SR"), "curriculum", ["ladder"], beside=tokens),
        "C10j": of("C10j", partial(arms.gained, over="SR"), "curriculum", ["ladder"], item, beside=accuracies),
    }


# -- where both papers of the family meet --------------------------------------------------------------------
def reasoners(results: dict, size: str = "cpu") -> dict[str, dict]:
    arms = Arms(results, "reasoners/")
    of, names = partial(claim, arms.seeds), ("start", *MEETING, "SFT, brief")

    def left(seed: int, which: Sequence[str]) -> float:
        """Tokens of the briefest of these arms, as a share of the start's."""
        return min(arms.tokens(seed, arm) for arm in which) / arms.tokens(seed, "start")

    return {
        "C18a": of("C18a", left, MEETING, [("SFT, brief",)], best=min, beside={f"{arm}, tokens": (arms.tokens, arm) for arm in names}),
        "C18b": of("C18b", lambda seed, arm: arms.sharper(seed, arm, "SF"), "SR", ["SF again"],
                   beside={arm: (arms.entropy, arm) for arm in names}),
    }


# -- memory and time -----------------------------------------------------------------------------------------
def timing(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Each job is a process; a loss's ratio is of its peak, or of the fastest repetition a token, to the whole loss's."""
    losses, samplings = ([results[name] for name in sorted(results) if name.startswith(f"timing/{kind}/")] for kind in ("loss", "sampling"))

    def over(row: dict, way: str, get: Callable[[dict], float]) -> float:
        return get(row[way]) / get(row["whole"])

    def peak(of: dict) -> float:
        return max(1, *of["peak_bytes"])  # a byte: at smoke's sizes nothing is held beyond what was there

    def a_token(of: dict) -> float:
        return min(of["seconds"]) / of["tokens"]

    def summed(values: Sequence[float], placebo: Sequence[float], beside: dict[str, float]) -> dict:
        ours, control = (summarize(each, 0.001, "processes") for each in (values, placebo))
        return ours | {"placebo": control, "baselines": beside}

    ways = ("whole", "chunked", "one chunk")
    sampled = summed([fmean(ours / theirs for ours, theirs in zip(row["sample"], row["generate"])) for row in samplings],
                     [row["generate"][1] / row["generate"][0] for row in samplings],
                     {f"{way}, tokens a second": fmean(fmean(row[way]) for row in samplings) for way in ("sample", "generate")})
    return {
        "C17m": summed([over(row, "chunked", peak) for row in losses], [over(row, "one chunk", peak) for row in losses],
                       {f"{way}, GiB": fmean(peak(row[way]) for row in losses) / 2**30 for way in ways}),
        "C17t": summed([over(row, "chunked", a_token) for row in losses], [over(row, "one token", a_token) for row in losses],
                       {f"{way}, ms a token": 1000 * fmean(a_token(row[way]) for row in losses) for way in (*ways, "one token")}),
        "C17g": sampled, "C17h": sampled,
    }


# -- the paper's size --------------------------------------------------------------------------------------
CELLS = ("sf", "sr", "tf", "tr")
LENGTHS = ("128", "4096")


def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """Of the runs that are there, called as their configs; a claim without one of its runs or benchmarks stays not-run. A quantity is a
    mean of differences between runs, of an entry of their means or of one benchmark's."""
    runs = results["paper"]

    def entry(run: str, name: str) -> float:
        benchmark, _, of = name.rpartition(" ")
        return runs[run]["by"][benchmark][of] if benchmark else runs[run][name]

    def has(run: str, name: str) -> bool:
        benchmark = name.rpartition(" ")[0]
        return run in runs and (not benchmark or benchmark in runs[run]["by"])

    def of_run(run: str, name: str) -> dict | None:
        return point(entry(run, name)) if has(run, name) else None

    def ratio(one: str, other: str) -> dict | None:
        return point(entry(one, "tokens") / entry(other, "tokens")) if {one, other} <= {*runs} else None

    def differences(pairs: Sequence[tuple[str, str]], name: str) -> dict | None:
        if not all(has(run, name) for pair in pairs for run in pair):
            return None
        return point(fmean(entry(one, name) - entry(other, name) for one, other in pairs),
                     baselines={run: entry(run, name) for pair in pairs for run in pair})

    def pairs(cells: Sequence[str], ours: Callable[[str, str], str], theirs: Callable[[str, str], str], lengths=LENGTHS) -> list:
        return [(f"4b-{ours(cell, n)}", f"4b-{theirs(cell, n)}") for cell in cells for n in lengths]

    def by_source(lengths: Sequence[str]) -> list:
        return pairs(("sf", "sr"), lambda cell, n: f"{cell}-{n}", lambda cell, n: f"t{cell[1]}-{n}", lengths)

    def by_length(cells: Sequence[str]) -> list:
        return pairs(cells, lambda cell, n: f"{cell}-4096", lambda cell, n: f"{cell}-128", ("4096",))

    found = {
        "C3": differences([("4b-sr-128", "4b-sf-128")], "math avg"), "C3b": differences([("4b-sf-128", "4b-sr-128")], "math passed"),
        "C4": differences([("4b-sf-4096-grpo", "4b-sf-4096")], "math avg"),
        "C4b": differences([("4b-sr-4096-grpo", "4b-sr-4096")], "math avg"),
        "C4c": differences([("8b-sf-128-grpo", "8b-sf-128")], "math avg"), "C4d": of_run("8b-sr-128-grpo", "math avg"),
        "C4f": differences([("8b-sr-128", "8b-sf-128")], "math avg"),
        "C5": differences(by_source(LENGTHS), "avg"), "C5b": differences(by_source(LENGTHS), "passed"),
        "C5c": differences(by_source(("4096",)), "avg"), "C5d": differences(by_source(("4096",)), "passed"),
        "C7": differences(by_length(CELLS), "avg"), "C7b": differences(by_length(CELLS), "passed"),
        "C7c": differences(by_length(("sf", "tf")), "avg"), "C7d": differences(by_length(("sr", "tr")), "avg"),
        "C10": differences([("4b-sr-curriculum", "4b-sr-4096")], "avg"),
        "C10p": differences([("4b-sr-curriculum", "4b-sr-4096")], "passed"),
        "C11": differences([("8b-sr-curriculum", "8b-sr-4096")], "avg"),
        "C11p": differences([("8b-sr-curriculum", "8b-sr-4096")], "passed"), "C11l": ratio("8b-sr-4096", "8b-sr-curriculum"),
        "C12": differences([("4b-sr-curriculum", "4b-sr-4096")], "math avg"),
        "C12b": differences([("8b-sr-curriculum", "8b-sr-4096")], "math avg"), "C12l": of_run("4b-sr-curriculum", "math tokens"),
        "C8": of_run("4b-sr-4096", "tokens"), "C8b": of_run("8b-sr-4096", "tokens"), "C10l": ratio("4b-sr-4096", "4b-sr-curriculum"),
        "C19l": differences([("4b-sf-128", "4b-sr-128")], "tokens"),
    }
    beside_math = [f"{benchmark} {of}" for benchmark in ("gsm8k", "amc23", "aime24") for of in ("avg", "passed")]  # table 1
    found |= {f"C19{letter}": differences([("4b-sr-128", "4b-sf-128")], name) for letter, name in zip("abcdef", beside_math)}
    return {name: measured for name, measured in found.items() if measured}


# -- models and data, for records --------------------------------------------------------------------------
def facts(start: dict, problems: str = "generated chains of arithmetic") -> tuple[list, list]:
    """(models, datasets) of an experiment: student and teacher, and how many test problems were answered."""
    models = [start[name] for name in ("model", "teacher") if name in start]
    return models, [{"name": problems, "split": "test", "n": start["test"]["problems"]}]
