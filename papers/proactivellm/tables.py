"""The tables behind the claims, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import fmean, median, stdev

from .experiments import arms as small
from .experiments import exact, speech, text, whisper
from .quantities import Runs, Translation

ARMS = {"start": "the stand-in: whole streams alone", "full": "full: L_batch + L_MSLM + .1 KL", "plain law": "full, the plain path law",
        "no distillation": "without distillation",
        "no MSLM": "without MSLM", "batch only": "batch training alone", "MSLM only": "MSLM alone", "labelled": "labelled by the oracle",
        "wait-1": "trained for wait-1", "wait-3": "trained for wait-3", "wait-5": "trained for wait-5"}
WIDTH = 34


def spread(values: Iterable[float]) -> float:
    """The standard deviation over seeds; of one seed there is none, and 0 is shown."""
    values = list(values)
    return stdev(values) if len(values) > 1 else 0.0


def figures(results: dict, size: str = "cpu") -> Iterator[str]:
    found = exact.figures()
    yield "Attention pairs saved (%), as the paper counts, with a probe after every unit, after every eighth"
    for name, row in found["saved"].items():
        yield f"  {name:<12s}" + "".join(f"{100 * row[way]:8.2f}" for way in ("paper-style", "with probes", "a probe every 8"))
    yield "SD of phi(1) over the uniform multinomial's: " + "; ".join(
        f"({shape}) " + ", ".join(f"{law} {ratio:.2f}" for law, ratio in row.items()) for shape, row in found["spreads"].items())


def of_text(results: dict, size: str = "cpu") -> Iterator[str]:
    yield from figures(results, size)
    qa, mt, revised = Runs(results, "qa"), Translation(results, "mt"), Runs(results, "revised")
    yield ""
    yield f"Questions, {text.SIZES[size].qa.steps} steps from the same stand-in"
    yield from cells(qa, ("start", *text.QA))
    yield from heads(qa)
    yield ""
    yield f"Translation with look-ahead, {text.SIZES[size].mt.steps} steps"
    trained = [name for name in text.MT if name.startswith("wait-")]
    yield from cells(mt, [name for name in ("start", *text.MT) if name not in trained])
    yield from heads(mt)
    for name in trained:
        yield from _line(f"{ARMS[name]}, by that", [mt.run(seed, name)["own"] for seed in mt.seeds])
    for k in text.REENCODED:
        rows = [mt.run(seed, "start")["reencoded"][str(k)] for seed in mt.seeds]
        yield from _line(f"the stand-in, re-encoding, wait-{k}", rows)
    yield ""
    yield "Questions with revisions: quality (AIL), loose -> strict threshold"
    for kind in ("overturned", "plain"):
        sides = [[revised.run(seed, "full")["revisions"][kind][which] for seed in revised.seeds] for which in ("loose", "strict")]
        yield f"  {kind:<12s}" + " -> ".join(f"{_of(rows, 'quality')} ({_of(rows, 'AIL', 1)}), premature {_of(rows, 'premature')} %"
                                             for rows in sides)
    yield from unmoved([qa, mt, revised])


def of_words(results: dict, size: str = "cpu") -> Iterator[str]:
    yield from _of_speech(Runs(results, "speech/words"), "Spoken words, written down")


def of_spoken(results: dict, size: str = "cpu") -> Iterator[str]:
    yield from _of_speech(Runs(results, "speech/spoken"), "Spoken questions")


def of_whisper(results: dict, size: str = "cpu") -> Iterator[str]:
    heard, standin = results["whisper/heard"], results["whisper/standin"]
    yield ""
    yield (f"Whisper tiny.en on {len(heard['words'])} utterances of recorded digits, its own decoder, before any training: % of the words "
           "wrong (words too many)")
    yield ", ".join(f"{way} {found['wer']:.1f} ({found['too many']})" for way, found in heard["ways"].items())
    yield f"The speech LLM, everything read, 100 - WER by task and way to count: {standin['quality']}"
    for task, what in (("words", "Recorded digits, written down"), ("spoken", "Questions about recorded digits")):
        runs = Runs(results, f"whisper/{task}")
        yield ""
        yield f"{what}; wait-k with a stride of {fmean(runs.run(s, 'full')['stride'] for s in runs.seeds):.2f} units of 480 ms"
        yield from cells(runs, whisper.NAMES)
        yield from heads(runs)
        yield from unmoved([runs])


def _of_speech(runs: Runs, what: str) -> Iterator[str]:
    yield ""
    yield f"{what}; wait-k with a stride of {fmean(runs.run(s, 'full')['stride'] for s in runs.seeds):.2f} units of 240 ms"
    yield from cells(runs, ("start", *speech.NAMES))
    yield from heads(runs)
    yield from unmoved([runs])


def cells(runs: Runs, names: Iterable[str]) -> Iterator[str]:
    """A line an arm: means over seeds, and the spread."""
    n = runs.whole(runs.seeds[0], "full")["n"]
    yield (f"Mean of {len(runs.seeds)} seeds (spread), {n} unseen streams; quality: 100 - token error rate, 0 at least; entropy head at "
           "the operating point; premature: units begun before their evidence")
    yield (f"{'':<{WIDTH}s}{'read all':>14s}{'AUROC':>14s}{'quality':>14s}{'RCO':>14s}{'AIL':>13s}{'CW':>12s}{'premature':>13s}"
           f"{'probes':>8s}")
    for name in names:
        rows = [runs.at(seed, name) for seed in runs.seeds]
        yield (f"{ARMS[name]:<{WIDTH}s}{_of([runs.whole(s, name) for s in runs.seeds], 'quality'):>14s}"
               f"{_of([runs.run(s, name) for s in runs.seeds], 'auroc', 3):>14s}{_of(rows, 'quality'):>14s}{_of(rows, 'RCO', 3):>14s}"
               f"{_of(rows, 'AIL', 2):>13s}{_of(rows, 'CW', 2):>12s}{_of(rows, 'premature'):>13s}"
               f"{fmean(r['probes'] / r['n'] for r in rows):8.1f}")


def heads(runs: Runs) -> Iterator[str]:
    """The full arm under every head, by lots, by wait-k; and the labelled rival's own head."""
    for head in runs.run(runs.seeds[0], "full")["heads"]:
        yield from _line(f"full, {head} head", [runs.at(seed, "full", head) for seed in runs.seeds])
    yield from _line("full, by lots of the same RCO", [runs.at(seed, "lots") for seed in runs.seeds])
    if f"{runs.prefix}/labelled/seed{runs.seeds[0]}" in runs.results:
        yield from _line("labelled, its own head", [runs.at(seed, "labelled", "labelled") for seed in runs.seeds])
    for k in runs.run(runs.seeds[0], "full")["wait"]:
        yield from _line(f"full, wait-{k}", [runs.run(seed, "full")["wait"][k] for seed in runs.seeds])
    rows = [runs.run(seed, "full")["entropy"] for seed in runs.seeds]
    for i, threshold in enumerate(rows[0]["threshold"]):
        own = {2: "full, entropy at the latest allowed", 1: "full, entropy at the .9 quantile"}.get(len(rows[0]["threshold"]) - i)
        yield from _line(own or f"full, entropy at threshold {threshold:g}",
                         [row["test"][i] for row in rows])


def _line(what: str, rows: list[dict]) -> Iterator[str]:
    saved = fmean(row["wasted"] / row["pairs"] for row in rows)
    yield (f"{what:<{WIDTH}s}{'':28s}{_of(rows, 'quality'):>14s}{_of(rows, 'RCO', 3):>14s}{_of(rows, 'AIL', 2):>13s}"
           f"{_of(rows, 'CW', 2):>12s}{_of(rows, 'premature'):>13s}{fmean(r['probes'] / r['n'] for r in rows):8.1f}"
           f"  ({100 * saved:.0f} % of its pairs in failed probes)")


def unmoved(tasks: list[Runs]) -> Iterator[str]:
    """What was the same before and after every sweep, and reading always against batch."""
    found = [run for runs in tasks for name, run in runs.results.items() if name.startswith(f"{runs.prefix}/") and "weights" in run]
    always = [run["always read"]["differs"] for run in found if "always read" in run]
    same = sum(before == after for before, after in (run["weights"] for run in found))
    yield f"Weights before and after every sweep: {same} of {len(found)} models unchanged"
    yield f"Reading always against batch: {sum(always)} streams of {len(always)} models differ"


def of_speed(results: dict, size: str = "cpu") -> Iterator[str]:
    processes = [results[name] for name in sorted(results) if name.startswith("speed/")]
    yield ""
    first = processes[0]
    yield f"Milliseconds, median of rounds, {len(processes)} processes ({first['shape']}; {first['late']} and {first['early']} tokens)"
    for name in ("decode", "probe", "read late", "read early", "encode again", "encode early"):
        yield f"  {name:<14s}" + "".join(f"{1000 * median(found[name]):10.3f}" for found in processes)


def _of(rows: list[dict], key: str, digits: int = 1) -> str:
    values = [row[key] for row in rows]
    return f"{fmean(values):.{digits}f} ({spread(values):.{digits}f})"


def digits(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "Recorded digits (Free Spoken Digit Dataset)"
    for name, found in sorted(results.items()):
        if name.startswith("digits/"):
            for way in ("batch-trained", "full"):
                of = found[way]
                at = of["entropy"]["test"][of["entropy"]["chosen"]]
                yield (f"  {name}, {way}: read all {of['batch']['quality']:.1f}; entropy {at['quality']:.1f} at RCO {at['RCO']:.3f}, AIL "
                       f"{at['AIL s']:.2f} s")


def multi30k(results: dict, size: str = "cpu") -> Iterator[str]:
    found = results["multi30k/en-de"]
    yield ""
    yield f"Multi30k en-de, {found['test captions']} captions, {found['parameters']:,} parameters, one seed: BLEU at AIL (RCO)"
    for arm, ways in found.items():
        if isinstance(ways, dict):
            yield f"  {arm}: " + "; ".join(f"{way} {row['bleu']:.1f} at {row['AIL']:.2f} ({row['RCO']:.3f})" for way, row in ways.items())


assert set(ARMS) == {"start", *small.ARMS}
