"""The tables behind the claims, as text."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, stdev

from .experiments.arms import UNTUNED
from .quantities import Arms
from .quantities_real import WAYS, Adapters
from .standins import ARMS

NAMES = {"start": "the base, in batch (as trained)", "untuned": "the base in streaming, positions from 0",
         "untuned rope": "the base in streaming, contiguous positions", "batch": "batch, contiguous positions",
         "batch spe": "batch, positions from 0", "streaming": "streaming, positions from 0",
         "streaming far": "streaming, target from 256", "interleaved": "interleaved",
         "batch own": "batch, at the rate best for it"}
WIDTH = 46


def spread(values: list[float]) -> str:
    return f"{fmean(values):.1f}" + (f" +-{stdev(values):.1f}" if len(values) > 1 else "")


def arms(results: dict, size: str = "cpu") -> Iterator[str]:
    of = Arms(results)
    first = of.run(of.seeds[0], "start")
    yield ""
    yield (f"Greedy, {first['items']} unseen stories, {len(of.seeds)} seeds (mean, spread), in %; tokens of a trace at D2; delay saved "
           "against batch on the same trace at D1 / D2 / D3, event model, r .4 s, tau .033 s")
    yield f"{'':<{WIDTH}s}{'units':>12s}{'D1':>12s}{'D2':>12s}{'D3':>12s}{'tokens':>9s}{'delay saved':>20s}"
    for name in filter(of.has, (*UNTUNED, *ARMS)):
        rows = [of.run(seed, name) for seed in of.seeds]
        saved = " / ".join(f"{fmean(row['reduction']['streaming'][d] for row in rows):.1f}" for d in range(3))
        yield (f"{NAMES[name]:<{WIDTH}s}{spread([100 * row['unit'] for row in rows]):>12s}" +
               "".join(f"{spread([100 * row[d] for row in rows]):>12s}" for d in ("D1", "D2", "D3")) +
               f"{fmean(row['tokens'][1] for row in rows):9.1f}{saved:>20s}")
    yield ""
    kinds = sorted(first["kinds"])
    yield f"{'units right, by kind':<{WIDTH}s}" + "".join(f"{kind:>10s}" for kind in kinds)
    for name in filter(of.has, (*UNTUNED, *ARMS)):
        counts = [[of.run(seed, name)["kinds"][kind] for seed in of.seeds] for kind in kinds]
        shares = [100 * fmean(right / max(all_, 1) for right, all_ in rows) for rows in counts]
        yield f"{NAMES[name]:<{WIDTH}s}" + "".join(f"{value:10.1f}" for value in shares)
    yield ""
    others = fmean(of.run(seed, "streaming")["other units"] for seed in of.seeds)
    yield f"Streaming with another story's units: D2 {100 * others:.1f} % right"
    for seed in of.seeds:
        tried = results[f"schedules/seed{seed}"]
        yield (f"Schedules, seed {seed}: {tried['equal']} of {tried['of']} give the serial schedule's tokens; without the cursor "
               f"{tried['placebo']}")


def gold(results: dict, size: str = "cpu") -> Iterator[str]:
    found = results["gold"]
    yield ""
    yield f"Gold traces: tokens waited -{fmean(found['waited']):.1f} %; delay against batch on the same trace, D1 / D2 / D3 (event model):"
    for speed, ways in found["reduction"].items():
        for way, values in ways.items():
            yield f"  {speed:<22s}{way:<12s}" + " / ".join(f"{-value:.1f}" for value in values) + " %"
    yield f"Of twenty sentences two matter: tokens of D1 question first / context first {fmean(found['places']):.1f} %"


def clock(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    for name, row in results.items():
        if name.startswith("clock/"):
            ms = {key: 1000 * value for key, value in row["delay"].items()}
            yield (f"{name}, two threads: a token {1000 * row['tau']:.2f} ms, a segment {1000 * row['p']:.2f} ms, a word every "
                   f"{1000 * row['r']:.1f} ms; delay measured {ms['streaming']:.1f}, predicted {ms['predicted']:.1f}, batch "
                   f"{ms['batch']:.1f} ms")


def speed(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    for name, row in results.items():
        if name.startswith("step/"):
            yield (f"{name}, a decode step: " + ", ".join(f"{way} {ms:.2f} ms" for way, ms in row["ms"].items()) + "; of the stock step "
                   + ", ".join(f"{way} {ratio:.3f}" for way, ratio in row["ratio"].items()))


def variants(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    for name in sorted({job.rpartition("/")[0] for job, row in results.items() if "losses" in row and "kinds" in row}):
        rows = [row for job, row in results.items() if job.rpartition("/")[0] == name]
        shares = {kind: fmean(row["kinds"][kind][0] / row["kinds"][kind][1] for row in rows) for kind in rows[0]["kinds"]}
        kinds = ", ".join(f"{kind} {100 * share:.1f}" for kind, share in shares.items())
        yield f"{name:<22s} D2 {spread([100 * row['D2'] for row in rows])}, units {spread([100 * row['unit'] for row in rows])} ({kinds})"


def gated(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    for arm in ("all", "gated", "lot", "clean"):
        rows = [row for job, row in results.items() if job.startswith(f"gated/{arm}/")]
        first = rows[0]
        yield (f"trained on {arm:<6s} {first['trained on']} traces, {100 * first['faulty'] / first['trained on']:.1f} % of them faulty: D2 "
               f"{spread([100 * row['D2'] for row in rows])}, units {spread([100 * row['unit'] for row in rows])}")


def aligned(results: dict, size: str = "cpu") -> Iterator[str]:
    of = results["aligned"]
    survive = {template for template, ok in zip(of["templates"], of["survives"]) if ok}
    reasons = ", ".join(f"{why} {count}" for why, count in of["reasons"].items())
    yield ""
    yield (f"gsm_symbolic: {100 * fmean(of['survives']):.1f} % of {len(of['survives'])} questions align by rule ({len(survive)} of "
           f"{len(set(of['templates']))} templates; dropped: {reasons}); with another's lines {100 * fmean(of['swapped']):.1f} %; units "
           f"skipped {100 * of['skipped']:.1f} %")


def symbolic(results: dict, size: str = "cpu") -> Iterator[str]:
    of = Adapters(results)
    yield ""
    for told, name in (("new", "templates that no training has"), ("known", "trained templates, other numbers")):
        first = of.run(of.seeds[0], "batch", told)
        waited = fmean(results["symbolic/asked"][told]["waited"])
        yield (f"gsm_symbolic, {name}: {len(first['correct'])} questions, {len(of.seeds)} trainings (mean, spread), in %; tokens waited "
               f"-{waited:.1f} % but in batch; delay (event model, each arm in its own ways)")
        for way in ("untuned", *WAYS):
            rows = [of.run(seed, way, told) for seed in (of.seeds[:1] if way == "untuned" else of.seeds)]
            seconds = ", ".join(f"{kind} {fmean(row['delay'][kind] for row in rows):.2f} s" for kind in rows[0]["delay"])
            right = spread([100 * fmean(row["correct"]) for row in rows])
            thoughts, skips = (spread([100 * row[entry][0] / row[entry][1] for row in rows]) for entry in ("thoughts", "skips"))
            cut, tokens = (fmean(row[entry] for row in rows) for entry in ("truncated", "tokens"))
            yield (f"  {way:<12s}right {right}, thoughts {thoughts}, skips {skips}, cut {100 * cut:.1f}; {tokens:.1f} tokens; "
                   f"delay {seconds}")


def paced(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    for name, row in results.items():
        if name.startswith("paced/"):
            yield (f"{name}, two threads, .4 s a word, {row['items']} questions: a token {1000 * row['tau']:.0f} ms, a segment "
                   f"{1000 * row['p']:.0f} ms; delay measured {row['streaming']:.2f}, predicted {row['predicted']:.2f}, batch "
                   f"{row['batch']:.2f} s; thinking takes {100 * row['duty']:.0f} % of the reading, cut {row['cut']}")


def attention(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "Attention on the source, %: of a unit's rows on its own sentence and on the one before; of the answer's on the first half"
    for arm in ("batch", "batch spe", "streaming"):
        rows = [row for job, row in results.items() if job.startswith(f"attention/{arm}/")]
        spreads = (spread([100 * row[name] for row in rows]) for name in ("own", "before", "early"))
        yield f"{NAMES[arm]:<{WIDTH}s}" + "".join(f"{text:>12s}" for text in spreads)


def paper(results: dict, size: str = "paper") -> Iterator[str]:
    """Of every run: right, tokens, tokens waited, delays by the event model, and by the clock where it was asked."""
    yield ""
    for name, run in results["paper"].items():
        for task, row in run["by"].items():
            waited = f", waited {row['waited']:.1f} of {row['heard']:.1f} tokens" if "waited" in row else ""
            delays = ", ".join(f"{way} {seconds:.2f} s" for way, seconds in row["delay"].items())
            yield (f"{name:<34s}{task:<14s}right {100 * row['right']:.1f} % of {row['items']}, {row['tokens']:.1f} tokens{waited}; "
                   f"delay (event model) {delays}; cut {100 * row['truncated']:.1f} %")
        if clock := run.get("clock"):
            more = f", views of both caches {1000 * clock['join']:.1f} ms" if "join" in clock else ""
            more += f", at most {clock['peak']:,.0f} MiB" if clock.get("peak") else ""
            yield (f"{name:<34s}by the clock: first token after {clock['first']:.2f} s, delay {clock['delay']:.2f} s, {clock['items']} "
                   f"items{more}")


def realtext(results: dict, size: str = "cpu") -> Iterator[str]:
    found = results["realtext"]
    yield ""
    for name, n in found["sentences"].items():
        yield f"{name}: {len(found[name])} items of {n:.1f} sentences, tokens waited -{fmean(found[name]):.1f} %"


def gate(results: dict, size: str = "cpu", of: str = "gate") -> Iterator[str]:
    """of: "gate", or "encoders" for all of them."""
    found = results[of]
    yield ""
    for encoder, kept in found["kept"].items():
        yield f"The gate with {encoder}: keeps {100 * kept[0] / kept[1]:.1f} % of {kept[1]} clean traces; of as many faulty ones"
        for kind, (dropped, of) in found["dropped"][encoder].items():
            yield (f"  {kind:<9s}recall {100 * dropped / of:5.1f} % of {of}, precision {precision(dropped, of, *kept)}")


def precision(dropped: int, of: int, kept: int, clean: int) -> str:
    """Share of faulty ones among what is dropped of as many faulty traces as clean ones, in %; "-" where nothing is dropped."""
    hit, alarm = dropped / of, 1 - kept / clean
    return f"{100 * hit / (hit + alarm):5.1f} %" if hit + alarm else "-"
