"""The tables behind the claims, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import fmean, stdev

from common.claims.intervals import interval, summarize
from common.reasoning.answers import REMAINING
from common.reasoning.strict import UNMENDED
from common.seeds import seeds_of

from .experiments import chains as small
from .experiments import five as tasks
from .experiments import rates as sweep
from .experiments import sums as real

ARMS = {"base": "the stand-in", "opsft": "On-Policy SFT", "again": "On-Policy SFT, on other problems", "by lot": "as many kept by lot",
        "best of n": "shortest right one of each problem",
        "fixed data": "off-policy filtered SFT", "grpo": "GRPO, truncation, KL", "grpo, length": "GRPO, accuracy + length, KL",
        "T 0.6": "On-Policy SFT, sampled at 0.6", "T 1.5": "On-Policy SFT, sampled at 1.5", "seq": "On-Policy SFT, 1/|o| (uncorrected)",
        "G 4": "On-Policy SFT, 4 rollouts", "G 4, as many": "On-Policy SFT, 4 rollouts, as many", "L 24": "On-Policy SFT, limit 24"}


SUMS = {"base": "the model as it was"} | {arm: ARMS[arm] for arm in real.ARMS}
FIVE = {"base": "the model as it was"} | {arm: ARMS[arm] for arm in tasks.ARMS}


def spread(values: Iterable[float]) -> float:
    """The standard deviation over seeds; of one seed there is none, and 0 is shown."""
    values = list(values)
    return stdev(values) if len(values) > 1 else 0.0


def chains(results: dict, size: str = "cpu") -> Iterator[str]:
    how, seeds = small.SIZES[size], seeds_of(results, "opsft")
    n = how.samples
    yield ""
    yield (f"After {how.updates} updates, mean of {len(seeds)} seeds (spread); accuracy and tokens at the stand-in's cap, right and wrong "
           "responses")
    yield (f"{'':<36s}{f'Avg@{n}':>14s}{f'Pass@{n}':>8s}{'tokens':>14s}{'k=1':>6s}{'k=2':>6s}{'k=3':>6s}{'at cap':>8s}{'Eff':>7s}"
           f"{'std':>6s}{'nats':>7s}{'s':>6s}")
    for arm, name in ARMS.items():
        runs = [results[f"{arm}/seed{s}"] for s in seeds]
        tests = [run["test"] for run in runs]

        def mean(key: str, tests=tests) -> float:
            return fmean(t[key] for t in tests)

        kinds = [fmean(t["by_kind"][k]["tokens"] for t in tests) for k in sorted(tests[0]["by_kind"])]
        last = [loss for run in runs for loss in run.get("history", {}).get("loss per token", [])[-5:]]
        yield (f"{name:<36s}{100 * mean('avg'):8.1f} +-{100 * spread(t['avg'] for t in tests):3.1f}"
               f"{100 * fmean(t['pass_at'][str(n)] for t in tests):8.1f}{mean('tokens'):8.1f} +-{spread(t['tokens'] for t in tests):3.1f}" +
               "".join(f"{k:6.1f}" for k in kinds) + f"{100 * mean('at_cap'):8.1f}{mean('efficiency'):7.0f}"
               f"{mean('normalised_length_std'):6.2f}" + (f"{fmean(last):7.2f}" if last else f"{'':7s}") +
               (f"{fmean(run['seconds'] for run in runs):6.0f}" if "seconds" in runs[0] else ""))
    yield "Essential: 9, 16, 23 tokens for k = 1, 2, 3. nats: loss of a kept token in the last five updates. s: of training, one thread"
    yield ""
    yield f"Avg@{n} of responses cut at a budget, and over updates (accuracy / tokens on {how.probe} validation problems)"
    for arm in ("base", "opsft"):
        cuts = [results[f"{arm}/seed{s}"]["budgets"] for s in seeds]
        yield f"{ARMS[arm]:<24s}" + "  ".join(f"{int(b)}: {100 * fmean(c[i][1] for c in cuts):.0f}" for i, (b, _) in enumerate(cuts[0]))
    for arm in small.WATCHED:
        curves = [results[f"{arm}/seed{s}"]["curve"] for s in seeds]
        points = [(p[0], fmean(c[i][1] for c in curves), fmean(c[i][2] for c in curves)) for i, p in enumerate(curves[0])]
        yield f"{ARMS[arm]:<36s}" + "  ".join(f"{int(done)}: {100 * avg:.0f}/{tokens:.0f}" for done, avg, tokens in points)
    yield ""
    yield "Where the base and the brief model differ (nats, mean before each next token, seed 0): " + ", ".join(
        f"{w} {m:.2f}" for w, m, _ in results["opsft/seed0"]["divergence"]["by word"][:8])


def rates(results: dict, size: str = "cpu") -> Iterator[str]:
    """Each method at each rate, on validation problems; the best rate is starred."""
    yield ""
    start = results["rates/base/seed0"]
    yield (f"Rates, seed 0, validation: points gained + % of tokens saved (accuracy / tokens; the start: {100 * start['avg']:.1f} / "
           f"{start['tokens']:.1f})")
    yield f"{'':<36s}" + "".join(f"{lr:>26g}" for lr in sweep.RATES)
    for arm in sweep.SWEPT:
        cells = []
        for lr in sweep.RATES:
            found, star = results[f"rates/{arm}, {lr:g}/seed0"], "*" if lr == sweep.best(results, arm) else " "
            cells.append(f"{sweep.gain(results, arm, lr):.1f}{star} ({100 * found['avg']:.1f} / {found['tokens']:.1f})")
        yield f"{ARMS[arm]:<36s}" + "".join(f"{cell:>26s}" for cell in cells)


def sums(results: dict, size: str = "cpu") -> Iterator[str]:
    """The real model: scores, and a response before and after."""
    how, seeds = real.SIZES[size], seeds_of(results, "sums/opsft")
    yield ""
    yield (f"SmolLM2-135M on sums, {how.updates} updates of {how.prompts} x {how.rollouts} rollouts, mean of {len(seeds)} "
           f"seeds (spread); all responses, at the cap of {how.cap} tokens")
    yield f"{'':<36s}{'Avg':>14s}{'tokens':>14s}{'1 step':>8s}{'2 steps':>8s}{'at cap':>8s}{'std':>6s}{'s':>7s}"
    for arm in SUMS:
        runs = [results[f"sums/{arm}/seed{s}"] for s in seeds]
        tests = [run["test"] for run in runs]
        kinds = [fmean(t["by_kind"][k]["tokens"] for t in tests) for k in sorted(tests[0]["by_kind"])]
        yield (f"{SUMS[arm]:<36s}{100 * fmean(t['avg'] for t in tests):8.1f} "
               f"+-{100 * spread(t['avg'] for t in tests):3.1f}{fmean(t['tokens'] for t in tests):8.1f} "
               f"+-{spread(t['tokens'] for t in tests):3.1f}" + "".join(f"{k:8.1f}" for k in kinds) +
               f"{100 * fmean(t['at_cap'] for t in tests):8.1f}{fmean(t['normalised_length_std'] for t in tests):6.2f}" +
               (f"{fmean(run['seconds'] for run in runs):7.0f}" if "seconds" in runs[0] else ""))
    first, last = (results[f"sums/{arm}/seed{seeds[0]}"]["test"] for arm in ("base", "opsft"))
    yield f"Every step and the answer alone take {first['needed']:.1f} tokens. The same problem, seed {seeds[0]}, before and after:"
    yield f"  {first['said'][0]}"
    yield f"  {last['said'][0]}"
    yield f"Over updates (accuracy / tokens on {how.probe} validation problems)"
    for arm in real.WATCHED:
        curves = [results[f"sums/{arm}/seed{s}"]["curve"] for s in seeds]
        points = [(p[0], fmean(c[i][1] for c in curves), fmean(c[i][2] for c in curves)) for i, p in enumerate(curves[0])]
        yield f"{SUMS[arm]:<36s}" + "  ".join(f"{int(done)}: {100 * avg:.0f}/{tokens:.0f}" for done, avg, tokens in points)
    words = results[f"sums/opsft/seed{seeds[0]}"]["divergence"]["by token, five or more times"]
    yield "Where the two differ most (nats, mean before each next token): " + ", ".join(f"{w!r} {m:.2f}" for w, m, _ in words[:10])


def sums_gpu(results: dict, size: str = "gpu") -> Iterator[str]:
    """The same of the larger run on a GPU, if its packages were there."""
    if results["sums-gpu"]:
        yield from sums(results["sums-gpu"], "cuda")


def five(results: dict, size: str = "cpu") -> Iterator[str]:
    """Accuracy and tokens of each task, with intervals over trainings, and a response of each before and after."""
    how, seeds = tasks.SIZES[size], seeds_of(results, "five/opsft")
    first = results[f"five/base/seed{seeds[0]}"]["test"]
    names = sorted(first["by_kind"])
    yield ""
    yield (f"SmolLM2-135M on five tasks, {how.updates} updates of {how.prompts} x {how.rollouts} rollouts of at most {tasks.LIMIT} tokens, "
           f"{len(seeds)} seeds; Avg@{how.samples} in %, tokens at the cap of {how.cap}, [95 % interval]")
    for arm, name in FIVE.items():
        runs = [results[f"five/{arm}/seed{s}"] for s in seeds]
        seconds = f", {fmean(run['seconds'] for run in runs):.0f} s a training" if "seconds" in runs[0] else ""
        yield f"{name}{seconds}"
        for task in (*names, "mean"):
            rows = [[run["test"]["by_kind"][each] for each in (names if task == "mean" else [task])] for run in runs]
            right, tokens = (summarize([scale * fmean(of[key] for of in row) for row in rows])
                             for key, scale in (("avg", 100), ("tokens", 1)))
            yield f"  {task:<26s}{_with_interval(right):>26s}{_with_interval(tokens):>26s}"
    needed = ", ".join(f"{task} {first['by_kind'][task]['needed']:.1f}" for task in names)
    yield f"The shortest traces that write every step take, in tokens: {needed}. Seed {seeds[0]}, a problem of each task, before and after:"
    last = results[f"five/opsft/seed{seeds[0]}"]["test"]
    for task in names:
        yield from (f"  {test['said'][task]}" for test in (first, last))


def _with_interval(measured: dict) -> str:
    """One training has none, and nor have equal ones."""
    found = interval(measured)
    return f"{measured['value']:.1f}" + (f" [{found[0]:.1f}, {found[1]:.1f}]" if found else "")


def paper(results: dict, size: str = "paper") -> Iterator[str]:
    """Every model on the benchmarks together, and what the grader is still known to get wrong."""
    for model, means in results["paper"].items():
        yield ""
        yield f"R1-Distill-Qwen-{model}, mean of {', '.join(means['base']['benchmarks'])}"
        yield f"{'':<28s}{'Avg':>8s}{'tokens':>10s}{'Eff':>8s}{'at cap':>8s}"
        for arm, each in means.items():
            if arm != "curves":
                yield f"{arm:<28s}{100 * each['avg']:8.1f}{each['tokens']:10.1f}{each['efficiency']:8.2f}{100 * each['at_cap']:8.1f}"
    yield "The grader still errs on (gold, answer): " + "; ".join(
        f"{gold} and {answer} are {'equal' if found else 'not equal'} to it" for gold, answer, found, _ in (*REMAINING, *UNMENDED))
