"""The pictures of a run: BLEU against latency, the ladder, the offset, what a stream costs, and who sees whom."""

from __future__ import annotations

import functools
from pathlib import Path
from statistics import fmean

from common.masks import draw as draw_mask
from common.masks import visible_tokens, wait_k
from common.pictures import draw_all

from .experiments import speech as speech_experiment
from .experiments import text as text_experiment
from .experiments.multi30k import LANGUAGES
from .experiments.text import KS, PHIS
from .quantities_real import Pair
from .tables import LONG, SHORT, scores_of, speech_seeds, text_seeds

GPE, RED, GREY, GREEN, PURPLE, BLACK = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#222222"
SHOWN = {"group (GPE)": GPE, "interleaved": RED, "batch-streaming (frozen ids)": GREEN, "KV re-encoding, trained for it": PURPLE,
         "no positions": "#d9a441", "untuned, KV re-encoding": GREY}

CAPTIONS_SHOWN = {"group (GPE)": ("group", "stream"), "interleaved": ("interleaved", "stream"), "no positions": ("no_positions", "stream"),
                  "batch-streaming (frozen ids)": ("batch_streaming", "stream"), "untuned, KV re-encoding": ("untuned", "kv_reencoding")}


def text(results: dict, size: str, folder: Path) -> list[Path]:
    """Writes the pictures of the experiment; returns the files. The same for those below."""
    return [*_draw((bleu_latency, ladder, offset), results, size, folder), who_sees_whom(folder / "who_sees_whom.svg")]


def speed(results: dict, size: str, folder: Path) -> list[Path]:
    return _draw((stream_cost,), results, size, folder)


def speech(results: dict, size: str, folder: Path) -> list[Path]:
    return _draw((speech_latency,), results, size, folder)


def real(results: dict, size: str, folder: Path) -> list[Path]:
    return _draw((multi30k,), results, size, folder)


def _draw(pictures, results: dict, size: str, folder: Path) -> list[Path]:
    return draw_all([functools.wraps(picture)(functools.partial(picture, size=size)) for picture in pictures], results, folder)


def bleu_latency(plt, results, size):
    """BLEU against LAAL for the main arms, both budgets; a thin line a seed, a thick one their mean."""
    s = text_experiment.SIZES[size]
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.8), sharey=True)
    for axis, steps, rows in ((axes[0], s.short, SHORT), (axes[1], s.long, LONG)):
        for row, color in SHOWN.items():
            if row not in rows and not row.startswith("untuned"):
                continue
            curves = [[(scores[str(k)]["LAAL"], scores[str(k)]["bleu"]) for k in KS]
                      for scores in scores_of(results, row, steps, text_seeds(results))]
            for curve in curves:
                axis.plot(*zip(*curve), color=color, lw=0.5, alpha=0.5)
            mean = [tuple(map(fmean, zip(*points))) for points in zip(*curves)]
            axis.plot(*zip(*mean), color=color, marker=".", label=row)
        axis.set(xlabel="LAAL, words", title=f"{steps} steps of tuning")
        axis.grid(lw=0.3)
    axes[0].set_ylabel("BLEU")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def ladder(plt, results, size):
    """Every arm after the short tuning, mean of k = 3, 5, 7; one dot a seed."""
    s, seeds = text_experiment.SIZES[size], text_seeds(results)
    figure, axis = plt.subplots(figsize=(6.4, 0.24 * len(SHORT) + 1.0))
    for y, row in enumerate(reversed(SHORT)):
        values = [fmean(scores[str(k)]["bleu"] for k in KS[1:]) for scores in scores_of(results, row, s.short, seeds)]
        color = GPE if row.startswith("group") else RED if row.startswith("interleaved") else GREY
        axis.scatter(values, [y] * len(values), color=color, s=18, zorder=3)
        axis.plot([fmean(values)] * 2, [y - 0.3, y + 0.3], color=color, lw=2)
    axis.set_yticks(range(len(SHORT)), [row.rstrip() for row in reversed(SHORT)], fontsize=7.5)
    axis.grid(axis="y", lw=0.3)
    axis.set(xlabel=f"BLEU, mean of k = 3, 5, 7; {len(seeds)} seeds", title=f"All arms, {s.short} steps of tuning")
    return figure


def offset(plt, results, size):
    """BLEU at each k over the target's first position."""
    s, seeds = text_experiment.SIZES[size], text_seeds(results)
    rows = {phi: scores_of(results, f"group, phi = {phi}" if phi else "group (GPE)", s.short, seeds) for phi in PHIS}
    figure, axis = plt.subplots(figsize=(4.6, 3.0))
    for k, color in zip(KS, (GREY, GREEN, GPE, PURPLE)):
        for i, phi in enumerate(PHIS):
            axis.scatter([i] * len(seeds), [scores[str(k)]["bleu"] for scores in rows[phi]], color=color, s=10)
        means = [fmean(scores[str(k)]["bleu"] for scores in rows[phi]) for phi in PHIS]
        axis.plot(range(len(PHIS)), means, color=color, lw=1, label=f"k = {k}")
    axis.set_xticks(range(len(PHIS)), [f"{phi:g}" for phi in PHIS])
    axis.set(xlabel="phi, the target's first position", ylabel="BLEU", title=f"{s.short} steps of tuning")
    axis.legend(frameon=False, fontsize=7)
    return figure


def stream_cost(plt, results, size):
    """Time of each READ with its WRITE as the stream grows, longest sentence."""
    document = results["speed"]
    case = document["cases"][document["longest"]]
    figure, axis = plt.subplots(figsize=(5.4, 3.2))
    for mode, color in (("group", GPE), ("position", GREEN), ("kv", RED), ("interleaved", BLACK)):
        if mode not in case["modes"]:
            continue
        times = case["modes"][mode]["per_read"]
        axis.plot(range(1, len(times) + 1), [1e3 * t for t in times], color=color, lw=1, label=mode)
    axis.set(xlabel="words read", ylabel="ms for a READ and its WRITE", ylim=(0, None),
             title=f"{document['shape']}, {document['device']}, k = {document['k']}")
    axis.legend(frameon=False, fontsize=7)
    return figure


def speech_latency(plt, results, size):
    """WER against latency in ms, one line a phi."""
    figure, axis = plt.subplots(figsize=(4.6, 3.0))
    for phi, color in zip(speech_experiment.PHIS, (GPE, GREEN, PURPLE)):
        curves = [[(r["stream"][str(k)]["LAAL"], r["stream"][str(k)]["wer"]) for k in speech_experiment.KS]
                  for r in (results[f"speech/phi {phi}/seed{seed}"] for seed in speech_seeds(results))]
        for curve in curves:
            axis.plot(*zip(*curve), color=color, lw=0.5, alpha=0.5)
        axis.plot(*zip(*[tuple(map(fmean, zip(*points))) for points in zip(*curves)]), color=color, marker=".", label=f"phi = {phi}")
    axis.set(xlabel="LAAL, ms", ylabel="WER, %", ylim=(0, None), title="Spoken words, streamed")
    axis.legend(frameon=False, fontsize=7)
    return figure


def multi30k(plt, results, size):
    """BLEU against LAAL on real translations, one panel a pair of languages; a thin line a seed, a thick one their mean."""
    pairs = [pair for pair in (Pair(results, language) for language in LANGUAGES) if pair.seeds]
    figure, axes = plt.subplots(1, len(pairs), figsize=(4.3 * len(pairs), 3.6), squeeze=False)
    for axis, pair in zip(axes[0], pairs):
        for row, (name, way) in CAPTIONS_SHOWN.items():
            curves = [[(scores["LAAL"], scores["bleu"]) for scores in curve.values()] for curve in pair.all(name, way)]
            for curve in curves:
                axis.plot(*zip(*curve), color=SHOWN[row], lw=0.5, alpha=0.5)
            axis.plot(*zip(*[tuple(map(fmean, zip(*points))) for points in zip(*curves)]), color=SHOWN[row], marker=".", label=row)
        axis.axhline(fmean(pair.whole("untuned")), color=BLACK, lw=0.6, ls=":", label="whole captions, batch-trained")
        axis.set(xlabel="LAAL, words", ylabel="BLEU", title=f"Multi30k {pair.start.partition('/')[2]}, {len(pair.seeds)} seeds")
        axis.grid(lw=0.3)
    axes[0][0].legend(frameon=False, fontsize=7)
    return figure


def who_sees_whom(path: Path) -> Path:
    """The mask of four source and four target words at k = 2, two of them of two tokens."""
    from .method import Arm, Layout, attention_mask

    source, target = (1, 1, 2, 1, 1, 1), (1, 1, 2, 1, 1, 1)
    readable = 1 + wait_k(2, len(source) - 1, len(target) - 1)
    readable = [int(readable[0]), *readable.tolist()]
    seen = [visible_tokens(source, target, readable, shift)[None] for shift in (True, False)]
    import torch

    layout = Layout(*seen, torch.tensor([sum(source)]), torch.tensor([sum(target)]), sum(source))
    labels = [f"u{i}" for i, n in enumerate(source) for _ in range(n)] + [f"v{i}" for i, n in enumerate(target) for _ in range(n)]
    return draw_mask(attention_mask(Arm(), layout)[0, 0], sum(source), path, labels, "GPE, wait-2: who sees whom")
