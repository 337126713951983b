"""From trainings to what claims measure: {claim: measured}. No number here judges a claim: rules stand in claims.yaml.

Points are percent of questions, one of every kind that a picture allows. Arms of a seed see the same pictures in the same order and are
asked the same questions, so they are compared answer by answer: a seed's value is the mean difference over its questions, the spread of
seeds is its error, and that is at least what the pictures leave open (the error of the mean over all seeds, clustered by picture).

A comparison of quality counts seeds in which all of its arms have *converged* (`Runs.converged`): equal steps alone may compare a
plateau with what comes behind it. Where that leaves fewer than three seeds, nothing is decided, and the mean over all of them stands
beside. A training's seed is its weights and its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from common.claims.intervals import paired, point, summarize
from common.seeds import seeds_of

SETS, FIRST = ("single", "triple", "latter", "all"), ("triple", "latter")
KINDS = ("external direct", "external modular", "internal direct", "internal modular")
FINE = ("tens", "digit", "shade")  # what the default layer is worst at, by the probes
PLAIN, AGAIN, DIRECT = "default", "default three times", "external direct, triple"
ANOTHER, EASY, LOOK = "another picture", "easy-VQA", "shifted"  # beside "test": where a model is asked
WIDTH = 50  # steps to a mean of the curves
OUT, FLAT = 1 / 2, 0.02  # of the loss of the best answer without a picture: see `exit` and `converged`
HOLDS = {"long": ("long",), "long-more": ("long", "long-more"), "variants": ("long", "variants"), "smollm2": ("smollm2",)}


@dataclass(frozen=True)
class Runs:
    """name: of the experiment. seeds: of its trainings."""

    results: dict
    name: str
    first: str = PLAIN  # an arm that all seeds have

    def run(self, seed: int, arm: str) -> dict:
        """Raises KeyError for a training that is not among the results."""
        keys = [f"{group}/{arm}/seed{seed}" for group in HOLDS[self.name]]
        return self.results[next((key for key in keys if key in self.results), keys[0])]

    @property
    def seeds(self) -> tuple[int, ...]:
        return next((found for group in HOLDS[self.name] if (found := seeds_of(self.results, f"{group}/{self.first}"))), ())

    def asked(self, where: str = "test") -> dict:
        """{"pictures", "kinds", "blind"} of the questions there; all but easy-VQA's are the test scenes'."""
        return self.results[f"{self.name}/features/dinov2"][EASY if where == EASY else "test"]

    # -- convergence -----------------------------------------------------------------------------------
    def exit(self, seed: int, arm: str) -> int | None:
        """The step among the questions at which the plateau ends: where the mean loss of questions that are looked up falls below half of
        that of the best answers without a picture. None: never."""
        curve, blind = self.run(seed, arm)["looked up"], self._nats("looked up")
        return next((WIDTH * i for i, loss in enumerate(curve) if loss < OUT * blind), None)

    def converged(self, seed: int, arm: str) -> bool:
        """It has left the plateau, and over the last tenth of the questions its loss falls by less than 2 % of the best blind answers'.

        The learning rate ends at zero, so that the second alone would say little."""
        curve = self.run(seed, arm)["all"]
        last = curve[-max(2, round(len(curve) / 10)):]
        half = len(last) // 2
        fall = fmean(last[:half]) - fmean(last[-half:])
        return self.exit(seed, arm) is not None and fall < FLAT * self._nats("all")

    def settled(self, *arms: str) -> tuple[int, ...]:
        """Seeds in which all of them have converged."""
        return tuple(seed for seed in self.seeds if all(self.converged(seed, arm) for arm in arms))

    def _nats(self, kinds: str) -> float:
        return self.results[f"{self.name}/features/dinov2"]["nats"][kinds]

    # -- answers ---------------------------------------------------------------------------------------
    def right(self, seed: int, arms: str | Sequence[str], where: str = "test", kinds: Sequence[str] = ()) -> list[float]:
        """Of each question 100 or 0, or the mean over several arms. kinds: all where none is named."""
        if not isinstance(arms, str):
            return [fmean(of) for of in zip(*(self.right(seed, arm, where, kinds) for arm in arms))]
        bits = self.run(seed, arms)["end"][where]
        return [100.0 * int(bit) for bit, kind in zip(bits, self.asked(where)["kinds"], strict=True) if not kinds or kind in kinds]

    def mean(self, arm: str, where: str = "test", kinds: Sequence[str] = ()) -> float:
        return fmean(fmean(self.right(seed, arm, where, kinds)) for seed in self.seeds)

    def paired(self, sides: Sequence[tuple[list[float], list[float]]], where: str = "test", kinds: Sequence[str] = ()) -> dict:
        """Over seeds: the mean of ours less theirs. sides: a pair of answers to the same questions for each seed."""
        asked = self.asked(where)
        pictures = [p for p, kind in zip(asked["pictures"], asked["kinds"], strict=True) if not kinds or kind in kinds]
        ours, theirs = ([value for side in sides for value in side[i]] for i in (0, 1))
        least = paired(ours, theirs, pictures * len(sides))["stderr"] or 100 / len(ours)
        return summarize([fmean(a) - fmean(b) for a, b in sides], least)

    def apart(self, ours: str, theirs: str, where: str = "test", kinds: Sequence[str] = (), seeds: Sequence[int] | None = None,
              ours_where: str | None = None) -> dict:
        """ours less theirs over the seeds. ours_where: where ours is asked, if elsewhere. No seed: the mean over all, without an error."""
        def sides(of: Sequence[int]) -> list[tuple[list[float], list[float]]]:
            return [(self.right(s, ours, ours_where or where, kinds), self.right(s, theirs, where, kinds)) for s in of]

        used = self.seeds if seeds is None else seeds
        return self.paired(sides(used), where, kinds) if used else point(fmean(fmean(a) - fmean(b) for a, b in sides(self.seeds)))

    def claim(self, ours: str, theirs: str, other: tuple[str, str], where: str = "test", kinds: Sequence[str] = (),
              control: str = "placebo", **shown: float) -> dict:
        """ours less theirs and, as its control, the same of two others, over the seeds in which all four have converged. Beside them,
        over all seeds, at equal steps."""
        seeds = self.settled(ours, theirs, *other)
        beside = {"all seeds": self.apart(ours, theirs, where, kinds)["value"], "converged seeds": float(len(seeds))}
        return self.apart(ours, theirs, where, kinds, seeds) | {
            control: self.apart(*other, where, kinds, seeds), "baselines": beside | shown}

    # -- over layer sets -------------------------------------------------------------------------------
    def ahead(self, kind: str, sets: Sequence[str]) -> dict:
        """Mean over the sets less the best other kind's, in seeds in which every kind has converged with every set: so all seeds compare
        the same sets. No seed: the mean over all, without an error."""
        seeds = self._all_settled(sets)
        if not seeds:
            return point(fmean(fmean(ours) - fmean(best) for ours, best in self._sides(kind, sets, self.seeds)))
        return self.paired(self._sides(kind, sets, seeds))

    def lead(self, kind: str, other: str, sets: Sequence[str]) -> dict:
        """kind ahead and, as its placebo, the other in its place. Beside them how many seeds count, the lead over all seeds at equal steps,
        and every arm's mean."""
        everywhere = fmean(fmean(ours) - fmean(best) for ours, best in self._sides(kind, sets, self.seeds))
        counts = {"all seeds": everywhere, "converged seeds": float(len(self._all_settled(sets))), "trained seeds": float(len(self.seeds))}
        means = {f"{k}, {name}": self.mean(f"{k}, {name}") for k in KINDS for name in sets}
        return self.ahead(kind, sets) | {"placebo": self.ahead(other, sets), "baselines": counts | means}

    def _all_settled(self, sets: Sequence[str]) -> tuple[int, ...]:
        return self.settled(*(f"{k}, {name}" for k in KINDS for name in sets))

    def _sides(self, kind: str, sets: Sequence[str], seeds: Sequence[int]) -> list[tuple[list[float], list[float]]]:
        """Of each seed the answers of a kind, and of the best other kind, as means over the sets."""
        rows = [{k: self.right(seed, [f"{k}, {name}" for name in sets]) for k in KINDS} for seed in seeds]
        return [(row[kind], max((row[k] for k in KINDS if k != kind), key=fmean)) for row in rows]

    def steadier(self, kind: str, sets: Sequence[str]) -> dict:
        """The least standard deviation over sets of another kind less this one's; at equal steps, since what has not converged is part of
        not being steady."""
        rows = [{k: stdev(fmean(self.right(seed, f"{k}, {name}")) for name in sets) for k in KINDS} for seed in self.seeds]
        return summarize([min(row[k] for k in KINDS if k != kind) - row[kind] for row in rows], 100 / len(self.asked()["kinds"]))

    def early(self, seed: int, arm: str) -> float:
        """Training loss after a quarter of the steps."""
        losses = self.run(seed, arm)["loss"]
        return losses[len(losses) // 4]

    def blind(self, where: str) -> float:
        """Who knows the training's questions and sees no picture, in points."""
        bits = self.asked(where)["blind"]
        return 100 * bits.count("1") / len(bits)


def long(results: dict, size: str = "cpu") -> dict[str, dict]:
    """The three findings: by external direct fusion and its controls, and each kind with three stages and with the latter half."""
    of = Runs(results, "long")
    none, gained = (AGAIN, PLAIN), (DIRECT, PLAIN)
    found = {
        "C1l": of.claim(*gained, none, kinds=FINE, **{"three times": of.mean(AGAIN, kinds=FINE), PLAIN: of.mean(PLAIN, kinds=FINE)}),
        "C1m": of.claim(*none, gained, kinds=FINE, control="sensitivity"),
        "C1g": of.claim(*gained, none, LOOK),
        "C1v": of.claim(*gained, none, EASY, blind=of.blind(EASY), **{PLAIN: of.mean(PLAIN, EASY)}),
        "C2l": of.claim("late region", DIRECT, gained),
        "C3n": of.lead("external direct", "internal modular", FIRST),
        "C3o": of.steadier("external direct", FIRST) | {"placebo": of.steadier("internal modular", FIRST)},
    }
    for claim, kind in (("C1k", "external modular"), ("C1i", "internal direct"), ("C1j", "internal modular")):
        arm = f"{kind}, triple"
        seeds = of.settled(arm, PLAIN)
        found[claim] = of.claim(arm, PLAIN, (arm, PLAIN), kinds=FINE) | {
            "placebo": of.apart(arm, PLAIN, kinds=FINE, seeds=seeds, ours_where=ANOTHER)}
    for claim, kind in zip(("C2e", "C2k", "C2i", "C2j"), KINDS):
        found[claim] = of.claim(f"{kind}, latter", f"{kind}, triple", (f"{kind}, triple", PLAIN))
    return found


def more(results: dict, size: str = "cpu") -> dict[str, dict]:
    """The same over all four sets."""
    of = Runs(results, "long-more")

    def worse(kind: str) -> dict:
        return summarize([of.early(s, f"{kind}, all") - of.early(s, f"{kind}, triple") for s in of.seeds], 1e-3)

    found = {"C3l": of.lead("external direct", "internal modular", SETS),
             "C3m": of.steadier("external direct", SETS) | {"placebo": of.steadier("internal modular", SETS)},
             "C10l": worse("internal modular") | {"placebo": worse("external direct")}}
    for claim, kind in zip(("C2u", "C2v", "C2w", "C2x"), KINDS):
        found[claim] = of.claim(f"{kind}, all", f"{kind}, triple", (f"{kind}, triple", PLAIN))
    return found


def variants(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Other towers and decoders, other places of the cross-attention, fewer pictures."""
    of = Runs(results, "variants", first="triple, Qwen3")
    one = 100 / len(of.asked()["kinds"])
    found = {claim: of.claim(f"triple, {what}", f"default, {what}", (f"default three times, {what}", f"default, {what}"))
             for claim, what in (("C13l", "random tower"), ("C13m", "Qwen3"))}

    def over(seeds: Sequence[int], values: list[float]) -> dict:
        return summarize(values, one) if seeds else point(fmean(values))

    def mean(seed: int, arm: str, where: str = "test") -> float:
        return fmean(of.right(seed, arm, where))

    pre = "internal modular, triple"
    three = (pre, "internal modular, post", "internal modular, parallel")
    seeds = of.settled(*three, DIRECT)
    widest = [max(mean(s, arm) for arm in three) - min(mean(s, arm) for arm in three) for s in seeds or of.seeds]
    found["C11l"] = over(seeds, widest) | {"sensitivity": of.apart(DIRECT, pre, seeds=seeds)}

    fewer = [f"{kind}, {end}" for kind in ("external direct", "internal direct") for end in ("triple", "1000 pictures")]
    seeds = of.settled(*fewer)
    used = seeds or of.seeds

    def gained(many: str, few: str, where: str = "test") -> list[float]:
        return [mean(s, many, where) - mean(s, few, where) for s in used]

    direct, inside, misled = gained(*fewer[:2]), gained(*fewer[2:]), gained(*fewer[2:], ANOTHER)
    found["C12l"] = over(seeds, [a - b for a, b in zip(inside, direct)]) | {
        "placebo": over(seeds, [a - b for a, b in zip(misled, direct)])}
    return found


def smollm2(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C23: a pretrained decoder."""
    of = Runs(results, "smollm2")
    none = (AGAIN, PLAIN)
    return {"C23r": of.claim(DIRECT, PLAIN, none, kinds=FINE), "C23g": of.claim(DIRECT, PLAIN, none, LOOK),
            "C23d": of.claim("internal direct, triple", PLAIN, none, kinds=FINE)}
