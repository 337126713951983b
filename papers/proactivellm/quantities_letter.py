"""What claims about answers of one letter measure: exactly (shown.py), on PubMedQA's lengths, and by SmolLM2 on prose (realtext.py)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from common.claims.intervals import paired, point

from . import shown
from .method import Law
from .quantities import LOTS, Runs, claim

CHOICE_WORDS = 205  # of a story of choice questions (analytic.SHAPES)
SLACK, PLAIN, EVEN = Law("slack"), Law(), Law("dirichlet")


# -- exactly -----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    """C7c to C7e: a path over CHOICE_WORDS words and their end."""
    n = CHOICE_WORDS + 1

    def hidden(law: Law, units: int) -> float:
        return float(1 - shown.mean_of(shown.of_first(law, n, units)) / n)

    slack, even = ([float(p) for p in shown.quarters(law, CHOICE_WORDS, 2)] for law in (SLACK, EVEN))
    counted = {f"{units} units": hidden(PLAIN, units) for units in (1, 2)}
    return {
        "C7c": point(counted["2 units"] - counted["1 units"], baselines=counted),
        "C7d": point(slack[0], baselines={f"quarter {i}": p for i, p in enumerate(slack, 1)}),
        "C7e": point(min(even), baselines={f"quarter {i}": p for i, p in enumerate(even, 1)})}


# -- PubMedQA ----------------------------------------------------------------------------------------------
def early(found: dict, law: Law, units: int, of: str = "sentences") -> list[float]:
    """Of each abstract the chance that the letter is predicted behind its first sentence of results and before the last unit."""
    needed = "evidence" if of == "sentences" else "evidence words"
    return [float(shown.kinds(law, m, units, place).early) for m, place in zip(found[of], found[needed])]


def abstracts(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C7f to C7h. Abstracts are the items, each of its own: they share nothing."""
    found = results["letter/abstracts"]
    nothing = [0.0] * len(found["sentences"])
    slack, even, alone = early(found, SLACK, 2), early(found, EVEN, 2), early(found, PLAIN, 1)
    by_word, even_by_word = early(found, SLACK, 2, "words"), early(found, EVEN, 2, "words")
    shares = {"the plain law, letter alone": alone, "the plain law, end counted": early(found, PLAIN, 2), "slack": slack,
              "dirichlet": even}
    return {
        "C7f": paired(slack, nothing) | {"placebo": _same(alone), "baselines": {name: fmean(of) for name, of in shares.items()}},
        "C7g": paired(even, slack) | {"placebo": paired(alone, slack)},
        "C7h": paired(by_word, nothing) | {"placebo": paired(even_by_word, nothing)}}


def _same(values: list[float]) -> dict:
    """The mean of a placebo whose values may all be equal, which then have no interval: its point."""
    return paired(values, [0.0] * len(values))


# -- SmolLM2 on prose --------------------------------------------------------------------------------------
class Read(Runs):
    """Results of realtext.py. In an arm's place: LOTS, at the RCO of the full arm."""

    def kept(self, seed: int, arm: str, head: str = "entropy") -> float:
        """As of every task; nothing is kept of nothing."""
        return super().kept(seed, arm, head) if self.whole(seed, "full" if arm == LOTS else arm)["quality"] else 0.0

    def auroc(self, seed: int, arm: str) -> float:
        return self.run(seed, arm)["auroc"]

    def over_own_lots(self, seed: int, arm: str) -> float:
        """Points over lots of the very RCO of the arm's operating point, of the same model."""
        return self.quality(seed, arm) - self.run(seed, arm)["random"]["quality"]

    def elsewhere(self, seed: int, which: int) -> float:
        """AUROC of the full arm's head where the question is about another passage."""
        return self.run(seed, "full")["elsewhere"][which]

    def answer(self) -> float:
        """What one answer changes, in points."""
        return 100 / self.whole(self.seeds[0], "full")["n"]


def realtext(results: dict, size: str = "cpu") -> dict[str, dict]:
    read = Read(results, "realtext")
    answer = read.answer()

    def gap(other: str) -> Callable[[int, str], float]:
        return lambda seed, arm: read.auroc(seed, arm) - read.auroc(seed, other)

    def heard(seed: int, which: str) -> float:
        """own: its own question; other: another one, about a passage further on."""
        return (read.auroc(seed, "full") if which == "own" else read.elsewhere(seed, 1)) - read.elsewhere(seed, 0)

    def ahead(of: str) -> Callable[[int, str], float]:
        return lambda seed, arm: read.ahead(seed, arm, of)

    whole = {"batch quality": (lambda s, a: read.whole(s, a)["quality"], "full"), "RCO": (read.context, "full")}
    least = min(read.whole(seed, "full")["quality"] for seed in read.seeds)  # what is kept is in % of it
    share = 100 * answer / least if least else 100.0
    aurocs = {arm: (read.auroc, arm) for arm in ("start", "full", "plain law", "end counted", "batch only")}
    return {
        "C22a": claim(read.seeds, "C22a", read.kept, "full", "batch only", share, whole | {"lots of its RCO": (read.kept, LOTS)}),
        "C22b": claim(read.seeds, "C22b", gap("batch only"), "full", "start", 0.002, aurocs),
        "C22c": claim(read.seeds, "C22c", ahead("plain law"), "full", "batch only", answer, {
            arm: (read.quality, arm) for arm in ("full", "plain law", "end counted", "batch only")}),
        "C22d": claim(read.seeds, "C22d", read.over_own_lots, "full", "batch only", answer, {
            "guesses": (lambda s, a: read.run(s, a)["guesses"], "full")}),
        "C22e": claim(read.seeds, "C22e", heard, "own", "other", 0.002),
        "C22f": claim(read.seeds, "C22f", ahead("plain law"), "end counted", "batch only", answer)}


# -- facts for records -------------------------------------------------------------------------------------
def abstract_facts(results: dict) -> tuple[list, list]:
    return [], [{"name": "PubMedQA, labelled", "split": "all", "n": results["letter/abstracts"]["all"]}]


def realtext_facts(results: dict) -> tuple[list, list]:
    """SmolLM2 as it came, and what was read."""
    frozen = results["realtext/frozen"]
    return [frozen["model"]], frozen["prose"]
