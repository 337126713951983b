"""The tables behind the claims, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import fmean, stdev

from .experiments import chains as small
from .experiments import real as pair
from .experiments import reasoners as meeting
from .experiments import strong as better
from .quantities import Arms, Strong
from .quantities import timing as timed

ARMS = {"start": "the student, untouched", "SF": "SF: student's prefixes, forward KL", "mix 0.25": "mixture, lambda .25",
        "mix 0.5": "mixture, lambda .5", "mix 0.75": "mixture, lambda .75", "SR": "SR: student's prefixes, reverse KL",
        "TF": "TF: teacher's prefixes, forward KL", "TR": "TR: teacher's prefixes, reverse KL", "short SF": "SF, 12 tokens",
        "short SR": "SR, 12 tokens", "short TF": "TF, 12 tokens", "short TR": "TR, 12 tokens",
        "curriculum": "SR, entropy-gated curriculum", "ladder": "SR, the same ladder, no gate",
        "by entropy": "forward where the teacher doubts",
        "SF again": "SF once more, in another order", "shuffled": "SF, a shuffled teacher", "one end": "SR from <eos2>, stop at <eos>",
        "two ends": "SR from <eos2>, stop at both", "SFT, brief": "SFT on the shortest solutions"}
WIDTH = 36


def spread(values: Iterable[float]) -> float:
    """The standard deviation over seeds; of one seed there is none, and 0 is shown."""
    values = list(values)
    return stdev(values) if len(values) > 1 else 0.0


def weak(results: dict, size: str = "cpu") -> Iterator[str]:
    how, arms = small.SIZES[size], Arms(results)
    yield ""
    yield f"The weak student after {how.updates} updates of {how.prompts} responses"
    yield from cells(arms, ("start", *small.ARMS))
    yield ""
    yield f"Over updates (Avg@{how.probed} in %/tokens/% at the cap/nats, on {how.probe} validation problems)"
    yield from over_updates(arms, (*small.MIXED, "short SR", "curriculum", "ladder"))
    yield ""
    yield from decisions(arms)
    yield ""
    own = [results[f"itself/seed{seed}"] for seed in arms.seeds]
    yield ("The student as its own teacher (five arms, two updates each), the largest of all: " +
           ", ".join(f"{name} {max(found[key] for found in own):g}" for name, key in (("loss", "loss"), ("gradient's norm", "norm"),
                                                                                    ("change of a weight", "moved"))))


def cells(arms: Arms, names: Iterable[str], counted: bool = True) -> Iterator[str]:
    """A line an arm: means over seeds, and the spread of the first four. counted: with FLOPs, by the small models' shapes."""
    test = arms.test(arms.seeds[0], "start")
    n = test["samples"]
    yield (f"Mean of {len(arms.seeds)} seeds (spread), {test['problems']} unseen problems x {n} samples; se: of Avg@{n} within a seed, "
           "clustered by problem; KL: forward/reverse, nats a token, on the prefixes of each" +
           ("; MFLOP: a response's part of an update" if counted else ""))
    yield (f"{'':<{WIDTH}s}{f'Avg@{n}':>13s}{'se':>5s}{f'Pass@{n}':>8s}{'tokens':>14s}{'at cap':>12s}{'entropy':>14s}{'KL teacher':>12s}"
           f"{'KL student':>12s}" + (f"{'MFLOP':>7s}" if counted else ""))
    for name in names:
        tests = [arms.test(seed, name) for seed in arms.seeds]
        runs = [arms.run(seed, name) for seed in arms.seeds]

        def both(key: str, scale: float, digits: int, tests=tests) -> str:
            values = [scale * t[key] for t in tests]
            return f"{fmean(values):.{digits}f} +-{spread(values):.{digits}f}"

        kls = [f"{fmean(r['kl'][who][0] for r in runs):.2f}/{fmean(r['kl'][who][1] for r in runs):.2f}" if "kl" in runs[0] else ""
               for who in ("teacher", "student")]
        cost = fmean(arms.flops(seed, name) for seed in arms.seeds) / 1e6 if counted and "history" in runs[0] else None
        error = fmean(100 * t["avg stderr"] for t in tests) if "avg stderr" in tests[0] else None
        yield (f"{ARMS[name]:<{WIDTH}s}{both('avg', 100, 1):>13s}" + (f"{error:5.1f}" if error is not None else f"{'':5s}") +
               f"{fmean(arms.passed(seed, name) for seed in arms.seeds):8.1f}{both('tokens', 1, 1):>14s}{both('at_cap', 100, 1):>12s}"
               f"{both('entropy', 1, 3):>14s}{kls[0]:>12s}{kls[1]:>12s}" + (f"{cost:7.1f}" if cost is not None else ""))


def over_updates(arms: Arms, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        curves = [arms.run(seed, name)["curve"] for seed in arms.seeds]
        rows = [(row[0], *(fmean(curve[i][column] for curve in curves) for column in (1, 2, 3, 4))) for i, row in enumerate(curves[0])]
        yield f"{ARMS[name]:<{WIDTH}s}" + "  ".join(f"{int(done)}: {100 * avg:.0f}/{tokens:.0f}/{100 * cut:.0f}/{nats:.2f}"
                                                   for done, avg, tokens, cut, nats in rows)


def decisions(arms: Arms, names: Iterable[str] = ("curriculum", "ladder")) -> Iterator[str]:
    """What the curriculum's gate read and did."""
    yield "The curriculum's gate: after update, length, entropy against what it asks for, share at the cap -> what it did, next length"
    for name in names:
        for seed in arms.seeds:
            rows = arms.run(seed, name)["decisions"]
            yield f"{name}, seed {seed}: " + "; ".join(
                f"{row['step']}: {row['length']}, {row['entropy']:.3f} {'>=' if row['passed'] else '<'} {row['threshold']:.3f}, "
                f"{100 * row['at_cap']:.0f} % -> {row['action']}, {row['next_length']}" for row in rows)


def strong(results: dict, size: str = "cpu") -> Iterator[str]:
    how, arms = better.SIZES[size], Strong(results)
    yield ""
    yield f"The better student after {how.distilled.updates} updates of {how.distilled.prompts} responses"
    yield from cells(arms, ("start", *better.ARMS, *better.STOPS))
    yield ""
    yield f"Over updates (Avg@{how.distilled.probed} in %/tokens/% at the cap/nats, on {how.distilled.probe} validation problems)"
    yield from over_updates(arms, better.ARMS)
    yield ""
    yield (f"GRPO, {how.updates} updates of {how.prompts} problems x {how.rollouts}, from each: entropy, Avg in %, tokens before -> after "
           "(spread of the gain)")
    for name in ("start", *better.CELLS):
        for place, switch in enumerate(sorted(arms.run(arms.seeds[0], name)["rl"], key=int)):
            runs = [arms.run(seed, name)["rl"] for seed in arms.seeds]
            runs = [run[sorted(run, key=int)[place]] for run in runs]
            sides = [{key: fmean(run[when][key] for run in runs) for key in ("entropy", "avg", "tokens")} for when in ("before", "after")]
            gains = [100 * (run["after"]["avg"] - run["before"]["avg"]) for run in runs]
            yield (f"{ARMS[name]:<{WIDTH}s}after {switch:>2s}: {sides[0]['entropy']:.3f} -> {sides[1]['entropy']:.3f}   "
                   f"{100 * sides[0]['avg']:5.1f} -> {100 * sides[1]['avg']:5.1f} ({spread(gains):.1f})   "
                   f"{sides[0]['tokens']:5.1f} -> {sides[1]['tokens']:5.1f}")
    yield ""
    for name in better.STOPS:
        ended = [arms.run(seed, name)["ended by"] for seed in arms.seeds]
        yield (f"{ARMS[name]:<{WIDTH}s}ended by <eos> {100 * fmean(e['eos'] for e in ended):.1f} %, by <eos2> "
               f"{100 * fmean(e['eos2'] for e in ended):.1f} %, at the cap {fmean(arms.at_cap(s, name) for s in arms.seeds):.1f} %")


def real(results: dict, size: str = "cpu") -> Iterator[str]:
    """The real pair: scores, curves, the gate, and a response before and after."""
    how, arms = pair.SIZES[size], Arms(results, "real/")
    yield ""
    yield f"Half of SmolLM2-135M after {how.updates} updates of {how.prompts} responses; short is {pair.SHORT} tokens here, whole {how.cap}"
    yield from (line.replace("12 tokens", f"{pair.SHORT} tokens") for line in cells(arms, ("start", *pair.ARMS), counted=False))
    yield ""
    yield f"Over updates (Avg@1 in %/tokens/% at the cap/nats, on {how.probe} validation problems)"
    yield from (line.replace("12 tokens", f"{pair.SHORT} tokens") for line in over_updates(arms, pair.ARMS))
    yield ""
    yield from decisions(arms)
    yield ""
    for name in ("start", "SF", "SR"):
        yield f"{ARMS[name]}, seed {arms.seeds[0]}: {arms.test(arms.seeds[0], name)['said'][0]}"


def reasoners(results: dict, size: str = "cpu") -> Iterator[str]:
    how, arms = meeting.SIZES[size], Arms(results, "reasoners/")
    yield ""
    yield f"A reasoner of the family after {how.updates} updates of {how.prompts} x {how.rollouts} responses, distilled from another"
    yield from (line.replace("the student, untouched", "the reasoner, untouched") for line in cells(arms, ("start", *meeting.ARMS), False))
    yield ""
    yield f"Over updates (Avg@{how.probed} in %/tokens/% at the cap/nats, on {how.probe} validation problems)"
    yield from over_updates(arms, meeting.ARMS)
    yield ""
    yield from decisions(arms, ("curriculum",))


def timing(results: dict, size: str = "cpu") -> Iterator[str]:
    """What the claims' ratios are of, means over processes."""
    yield ""
    for name, measured in timed(results, size).items():
        yield (f"{name}: {measured['value']:.3f} (placebo {measured['placebo']['value']:.3f}); " +
               ", ".join(f"{side} {value:,.3g}" for side, value in measured["baselines"].items()))
