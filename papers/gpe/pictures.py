"""The pictures of a run: BLEU against latency, the ladder, the offset, what a stream costs, and who sees whom."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from common.masks import draw as draw_mask
from common.masks import visible_tokens, wait_k
from common.pictures import draw_all

from .tables import ROWS, found
from .text_experiment import KS, LONG, PHIS, SEEDS, SHORT

GPE, RED, GREY, GREEN, PURPLE, BLACK = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#222222"
SHOWN = {"group (GPE)": GPE, "interleaved": RED, "batch-streaming (frozen ids)": GREEN, "KV re-encoding, trained for it": PURPLE,
         "no positions": "#d9a441", "untuned, KV re-encoding": GREY, "untuned, frozen ids": BLACK}


def draw(results: dict, folder: Path) -> list[Path]:
    """Writes every picture whose jobs are there; returns the files."""
    files = draw_all((bleu_latency, ladder, offset, stream_cost, speech_latency, multi30k), results, folder)
    if "text/untuned/seed0" in results:
        files.append(who_sees_whom(folder / "who_sees_whom.svg"))
    return files


def bleu_latency(plt, results):
    """BLEU against LAAL for the main arms, both budgets; a thin line a seed, a thick one their mean."""
    if "text/untuned/seed0" not in results:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.8), sharey=True)
    for axis, steps in zip(axes, (SHORT, LONG)):
        for row, color in SHOWN.items():
            name = "group, phi = 0" if row == "group (GPE)" and steps == LONG else row
            if (scores := found(results, name, steps)) is None:
                continue
            curves = [[(s[str(k)]["LAAL"], s[str(k)]["bleu"]) for k in KS] for s in scores]
            for curve in curves:
                axis.plot(*zip(*curve), color=color, lw=0.5, alpha=0.5)
            mean = [tuple(map(fmean, zip(*points))) for points in zip(*curves)]
            axis.plot(*zip(*mean), color=color, marker=".", label=row)
        axis.set(xlabel="LAAL, words", title=f"{steps} steps of tuning")
        axis.grid(lw=0.3)
    axes[0].set_ylabel("BLEU")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def ladder(plt, results):
    """Every arm after the short tuning, mean of k = 3, 5, 7; one dot a seed."""
    rows = [(row, scores) for row in ROWS if not row.startswith("group, phi") and (scores := found(results, row, SHORT))]
    if not rows:
        return None
    figure, axis = plt.subplots(figsize=(6.4, 0.24 * len(rows) + 1.0))
    for y, (row, scores) in enumerate(reversed(rows)):
        values = [fmean(s[str(k)]["bleu"] for k in KS[1:]) for s in scores]
        color = GPE if row.startswith("group") else RED if row.startswith("interleaved") else GREY
        axis.scatter(values, [y] * len(values), color=color, s=18, zorder=3)
        axis.plot([fmean(values)] * 2, [y - 0.3, y + 0.3], color=color, lw=2)
    axis.set_yticks(range(len(rows)), [row.rstrip() for row, _ in reversed(rows)], fontsize=7.5)
    axis.grid(axis="y", lw=0.3)
    axis.set(xlabel=f"BLEU, mean of k = 3, 5, 7; {len(SEEDS)} seeds", title=f"All arms, {SHORT} steps of tuning")
    return figure


def offset(plt, results):
    """BLEU at each k over the target's first position."""
    rows = {phi: found(results, f"group, phi = {phi}", LONG) for phi in PHIS}
    if any(scores is None for scores in rows.values()):
        return None
    figure, axis = plt.subplots(figsize=(4.6, 3.0))
    for k, color in zip(KS, (GREY, GREEN, GPE, PURPLE)):
        for i, phi in enumerate(PHIS):
            axis.scatter([i] * len(SEEDS), [s[str(k)]["bleu"] for s in rows[phi]], color=color, s=10)
        axis.plot(range(len(PHIS)), [fmean(s[str(k)]["bleu"] for s in rows[phi]) for phi in PHIS], color=color, lw=1, label=f"k = {k}")
    axis.set_xticks(range(len(PHIS)), [f"{phi:g}" for phi in PHIS])
    axis.set(xlabel="phi, the target's first position", ylabel="BLEU", title=f"{LONG} steps of tuning")
    axis.legend(frameon=False, fontsize=7)
    return figure


def stream_cost(plt, results):
    """Time of each READ with its WRITE as the stream grows, longest sentence."""
    if (document := results.get("speed")) is None:
        return None
    case = document["cases"][document["longest"]]
    figure, axis = plt.subplots(figsize=(5.4, 3.2))
    for mode, color in zip(case["modes"], (GPE, GREEN, RED, BLACK)):
        times = case["modes"][mode]["per_read"]
        axis.plot(range(1, len(times) + 1), [1e3 * t for t in times], color=color, lw=1, label=mode)
    axis.set(xlabel="words read", ylabel="ms for a READ and its WRITE", ylim=(0, None),
             title=f"{document['shape']}, {document['device']}, k = {document['k']}")
    axis.legend(frameon=False, fontsize=7)
    return figure


def speech_latency(plt, results):
    """WER against latency in ms, one line a phi."""
    if not any(name.startswith("speech/") for name in results):
        return None
    from .speech_experiment import KS as CHUNKS
    from .speech_experiment import PHIS as OFFSETS
    from .speech_experiment import SEEDS as RUNS

    figure, axis = plt.subplots(figsize=(4.6, 3.0))
    for phi, color in zip(OFFSETS, (GPE, GREEN, PURPLE)):
        curves = [[(r["stream"][str(k)]["LAAL"], r["stream"][str(k)]["wer"]) for k in CHUNKS]
                  for r in (results[f"speech/phi {phi}/seed{seed}"] for seed in RUNS)]
        for curve in curves:
            axis.plot(*zip(*curve), color=color, lw=0.5, alpha=0.5)
        axis.plot(*zip(*[tuple(map(fmean, zip(*points))) for points in zip(*curves)]), color=color, marker=".", label=f"phi = {phi}")
    axis.set(xlabel="LAAL, ms", ylabel="WER, %", ylim=(0, None), title="Spoken words, streamed")
    axis.legend(frameon=False, fontsize=7)
    return figure


def multi30k(plt, results):
    """BLEU against LAAL on real translations, one panel a pair of languages."""
    pairs = {name: result for name, result in results.items() if name.startswith("multi30k/")}
    if not pairs:
        return None
    figure, axes = plt.subplots(1, len(pairs), figsize=(4.3 * len(pairs), 3.6), squeeze=False)
    for axis, (name, result) in zip(axes[0], pairs.items()):
        curves = {"group (GPE)": result["group"]["stream"], "interleaved": result["interleaved"]["stream"],
                  "batch-streaming (frozen ids)": result["batch_streaming"]["stream"],
                  "untuned, KV re-encoding": result["untuned"]["kv_reencoding"]}
        for row, scores in curves.items():
            axis.plot([s["LAAL"] for s in scores.values()], [s["bleu"] for s in scores.values()], color=SHOWN[row], marker=".", label=row)
        axis.axhline(result["untuned"]["batch"]["bleu"], color=BLACK, lw=0.6, ls=":", label="whole captions, batch-trained")
        axis.set(xlabel="LAAL, words", ylabel="BLEU", title=f"Multi30k {name.partition('/')[2]}")
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
