"""The tables behind the claims, as text: every arm at every k, and GPE against each of them on the same sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, median

import numpy as np

from common.benchmarks.translation import paired_bootstrap
from common.seeds import seeds_of

from .experiments import multi30k as multi30k_experiment
from .experiments import speech as speech_experiment
from .experiments import text as text_experiment
from .experiments.text import KS, PHIS

PHIS_HEARD = speech_experiment.PHIS

# Shown name -> (job, how its weights are streamed). "stream" is the arm's own way.
ROWS = {
    "interleaved": ("interleaved, {s} steps", "stream"),
    "interleaved, group ids": ("interleaved_group, {s} steps", "stream"),
    "batch-streaming (frozen ids)": ("batch_streaming, {s} steps", "stream"),
    "  source sees finished target": ("finished_frozen, {s} steps", "stream"),
    "  + KV re-encoding at test": ("batch_streaming, {s} steps", "kv_reencoding"),
    "position re-encoding": ("position_reencoding, {s} steps", "stream"),
    "KV re-encoding, trained for it": ("kv_reencoding, {s} steps", "stream"),
    "group (GPE)": ("group, {s} steps", "stream"),
    "  source sees finished target ": ("finished_group, {s} steps", "stream"),
    "no source positions": ("no_source_positions, {s} steps", "stream"),
    "no target positions": ("no_target_positions, {s} steps", "stream"),
    "no positions": ("no_positions, {s} steps", "stream"),
    **{f"group, phi = {phi}": (f"group, phi {phi}, {{s}} steps", "stream") for phi in PHIS[1:]},
    "group with batch among its k": ("group with batch, {s} steps", "stream"),
    "untuned, KV re-encoding": ("untuned", "kv_reencoding"),
}
LONG = ("interleaved", "batch-streaming (frozen ids)", "group (GPE)", "group with batch among its k")  # also with the long budget, or only
SHORT = tuple(row for row in ROWS if row != LONG[-1])


def scores_of(results: dict, row: str, steps: int, seeds: Sequence[int]) -> list[dict]:
    """A row's scores by k, one a seed."""
    job, decoding = ROWS[row]
    return [results[f"text/{job.format(s=steps)}/seed{seed}"][decoding] for seed in seeds]


def text_seeds(results: dict) -> tuple[int, ...]:
    """The seeds that there are: SEEDS of another run may have asked for more than this one would."""
    return seeds_of(results, "text/untuned")


def speech_seeds(results: dict, kind: str = "speech") -> tuple[int, ...]:
    return seeds_of(results, f"{kind}/phi {PHIS_HEARD[0]}")


def text(results: dict, size: str = "cpu") -> Iterator[str]:
    s = text_experiment.SIZES[size]
    yield from text_table(results, SHORT, s.short, s.resamples)
    yield from text_table(results, LONG, s.long, s.resamples)
    yield from batch_table(results, s.long)


def speed(results: dict, size: str = "cpu") -> Iterator[str]:
    yield from speed_table(results["speed"])


def speech(results: dict, size: str = "cpu") -> Iterator[str]:
    yield from speech_table(results, "speech", PHIS_HEARD)


def digits(results: dict, size: str = "cpu") -> Iterator[str]:
    yield from speech_table(results, "digits", PHIS_HEARD[:1])


def text_table(results: dict, rows: Sequence[str], steps: int, resamples: int, gpe: str = "group (GPE)") -> Iterator[str]:
    """BLEU and LAAL at every k, and row `gpe` minus the row with the 95 % interval of a paired bootstrap over sentences."""
    seeds = text_seeds(results)
    ours = scores_of(results, gpe, steps, seeds)
    yield ""
    yield (f"Toy translation after {steps} steps of tuning: BLEU at LAAL, mean of {len(seeds)} seeds; in brackets GPE minus the "
           "row, 95 % of a paired bootstrap over sentences")
    yield f"{'arm':<34s}" + "".join(f"{'k = ' + str(k):>31s}" for k in KS)
    for row in rows:
        scores, cells = scores_of(results, row, steps, seeds), []
        for k in map(str, KS):
            both = (np.array([s[k]["statistics"] for s in side]) for side in (ours, scores))
            gap = paired_bootstrap(*both, resamples=resamples)
            text = f"{fmean(s[k]['bleu'] for s in scores):5.1f} at {fmean(s[k]['LAAL'] for s in scores):4.1f}"
            text += "" if row == gpe else f" [{gap['low']:+5.1f},{gap['high']:+6.1f}]"
            cells.append(f"{text:>31s}")
        yield f"{row.rstrip():<34s}" + "".join(cells)


def batch_table(results: dict, steps: int) -> Iterator[str]:
    """Whole sentences, after the long budget."""
    seeds = text_seeds(results)

    def mean(job: str, decoding: str = "batch") -> float:
        return fmean(results[f"text/{job}/seed{seed}"][decoding]["batch"]["bleu"] for seed in seeds)

    yield ""
    yield "Whole sentences (batch mode), BLEU: " + "; ".join([
        f"batch-trained model {mean('untuned'):.1f}", f"tuned on in batch mode {mean(f'batch, {steps} steps'):.1f}",
        f"GPE with its own ids {mean(f'group, {steps} steps'):.1f}",
        f"GPE with batch among its k {mean(f'group with batch, {steps} steps'):.1f}",
        f"interleaved {mean(f'interleaved, {steps} steps'):.1f}",
        f"the batch-trained model with GPE's ids {mean('untuned', 'wrong ids'):.1f}",
        f"other sentences' references {fmean(results[f'text/untuned/seed{seed}']['random']['score'] for seed in seeds):.1f}"])


CAPTION_ROWS = {  # shown name -> (job, how its weights are streamed)
    **{f"interleaved, rate {rate:g}": (f"interleaved, {rate:g}", "stream") for rate in multi30k_experiment.RATES},
    "interleaved, group ids": ("interleaved_group", "stream"), "batch-streaming (frozen ids)": ("batch_streaming", "stream"),
    "  source sees finished target": ("finished_frozen", "stream"), "  + KV re-encoding at test": ("batch_streaming", "kv_reencoding"),
    "group (GPE)": ("group", "stream"), **{f"group, phi = {phi}": (f"group, phi {phi}", "stream") for phi in multi30k_experiment.PHIS[1:]},
    "no source positions": ("no_source_positions", "stream"), "no target positions": ("no_target_positions", "stream"),
    "no positions": ("no_positions", "stream"), "untuned, KV re-encoding": ("untuned", "kv_reencoding")}


def multi30k(results: dict, size: str = "cpu", resamples: int = 1000) -> Iterator[str]:
    """Multi30k: BLEU at LAAL by k, and GPE minus the row, paired bootstrap over captions; whole captions."""
    for language in multi30k_experiment.LANGUAGES:
        start = f"multi30k/en-{language}"
        seeds = seeds_of(results, f"{start}/untuned")
        if not seeds:
            continue
        scores = {row: [results[f"{start}/{job}/seed{seed}"][way] for seed in seeds] for row, (job, way) in CAPTION_ROWS.items()}
        yield ""
        yield (f"Multi30k en-{language}, {results[f'{start}/untuned/seed{seeds[0]}']['test sentences']} captions: BLEU at LAAL, mean of "
               f"{len(seeds)} seeds; in brackets GPE minus the row, 95 % of a paired bootstrap over captions")
        yield f"{'arm':<34s}" + "".join(f"{'k = ' + str(k):>31s}" for k in multi30k_experiment.KS)
        for row, by_seed in scores.items():
            cells = []
            for k in map(str, multi30k_experiment.KS):
                text = f"{fmean(s[k]['bleu'] for s in by_seed):5.1f} at {fmean(s[k]['LAAL'] for s in by_seed):4.1f}"
                if row != "group (GPE)":
                    both = (np.array([s[k]["statistics"] for s in side]) for side in (scores["group (GPE)"], by_seed))
                    gap = paired_bootstrap(*both, resamples=resamples)
                    text += f" [{gap['low']:+5.1f},{gap['high']:+6.1f}]"
                cells.append(f"{text:>31s}")
            yield f"{row.rstrip():<34s}" + "".join(cells)
        whole = {name: fmean(results[f"{start}/{job}/seed{seed}"]["batch"]["batch"]["bleu"] for seed in seeds)
                 for name, job in (("batch-trained", "untuned"), ("tuned on in batch mode", "batch"), ("GPE with its own ids", "group"))}
        yield "whole captions: " + ", ".join(f"{name} {bleu:.1f}" for name, bleu in whole.items())


def speech_table(results: dict, kind: str, phis: Sequence[float]) -> Iterator[str]:
    seeds = speech_seeds(results, kind)
    names = [*(f"phi {phi}" for phi in phis), *(["interleaved"] if f"{kind}/interleaved/seed{seeds[0]}" in results else [])]
    yield ""
    yield f"Recognising spoken {'words' if kind == 'speech' else kind}: WER in % at LAAL in ms, mean of {len(seeds)} seeds"
    yield f"{'':<22s}" + "".join(f"{'k = ' + str(k):>20s}" for k in speech_experiment.KS) + f"{'batch':>10s}"
    for name in names:
        rows = [results[f"{kind}/{name}/seed{seed}"] for seed in seeds]
        means = [[fmean(r["stream"][str(k)][name] for r in rows) for name in ("wer", "LAAL")] for k in speech_experiment.KS]
        cells = "".join(f"{wer:9.1f} at {lag:6.0f}  " for wer, lag in means)
        yield f"{kind + ', ' + name:<22s}" + cells + f"{fmean(r['batch']['batch']['wer'] for r in rows):10.1f}"


def speed_table(document: dict) -> Iterator[str]:
    yield ""
    yield (f"Streaming one sentence, {document['shape']}, {document['device']}, k = {document['k']}, every token forced, "
           f"{document['processes']} processes: ms a READ with its WRITE, in the first and the last fifth of the stream, and time "
           "over GPE's")
    yield f"{'mode':<14s}" + "".join(f"{str(case['words']) + ' words':>34s}" for case in document["cases"].values())
    for mode in next(iter(document["cases"].values()))["modes"]:
        cells = []
        for case in document["cases"].values():
            m = case["modes"][mode]
            ratio = fmean(map(fmean, m["seconds"])) / fmean(map(fmean, case["modes"]["group"]["seconds"]))
            cells.append(f"{1e3 * m['first_fifth']:7.1f} -> {1e3 * m['last_fifth']:7.1f} ms, {ratio:5.2f}x")
        yield f"{'group again' if mode == 'again' else mode:<14s}" + "".join(f"{c:>34s}" for c in cells)


def ratios(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "A live session, ms, medians of each process: a plain step of the stock model, a READ and a WRITE of one token, what encodes anew"
    found = [results[name]["seconds"] for name in sorted(results) if name.startswith("ratios/process")]
    for length, ways in found[0].items():
        cells = (f"{way} " + " ".join(f"{1e3 * median(of[length][way]):.2f}" for of in found) for way in ways)
        yield f"{length + ' cached':<14s}" + "   ".join(cells)
