"""The pictures of a run: who sees whom, accuracy against visual FLOPs, what each layer is worth, pairs, time."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from statistics import fmean

import torch

from common.pictures import draw_all
from common.seeds import seeds_of
from common.vision.layout import split, visibility

from .analytic import Shape, visual_flops, visual_ratio
from .experiments import llava as small

BLUE, RED, GREY, GREEN, PURPLE, GOLD = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#d9a441"
SMALL = Shape(96, 256, 8, 4, 4, 24, 66, name="the small LLaVA")
TEXT = 11  # tokens before and behind the picture of a typical question
MARKS = {"greedy": ("ViCA, greedy 2", BLUE, "o"), "all layers": ("ViCA, all 8", BLUE, "D"), "top": ("ViCA, top 2 by score", PURPLE, "o"),
         "drawn": ("ViCA, drawn 2", GOLD, "v"), "few": ("dense, 3 pooled tokens", GREEN, "s"), "text": ("the text alone", GREY, "x"),
         "dense": ("dense", "#222222", "*")}


def llava(results: dict, size: str, folder: Path) -> list[Path]:
    """Writes the pictures of the experiment; returns the files. What `make reproduce-vica ONLY=scratch` has left in the folder is
    drawn, too. The same for those below."""
    scratch = folder / "measurements.scratch.json"
    if scratch.is_file():
        results = results | json.loads(scratch.read_text())["results"]
    seeds = seeds_of(results, "all layers")
    of_seeds = [functools.wraps(picture)(functools.partial(picture, seeds=seeds)) for picture in (trade_off, layers, pairs)]
    return draw_all((who_sees_whom, *of_seeds), results, folder)


def speed(results: dict, size: str, folder: Path) -> list[Path]:
    return draw_all((time,), results, folder)


def who_sees_whom(plt, results):
    """Dense against ViCA, per layer: rows look at columns. 3 tokens before a picture of 6, 4 behind it."""
    ids = torch.tensor([[1, 2, 3] + [0] * 6 + [4, 5, 6, 7]])
    layout = split(ids, 0)
    order = torch.cat([layout.positions, layout.visual_positions], 1)
    dense = visibility(torch.sort(order).values, torch.ones_like(order, dtype=torch.bool))[0]
    visual = ids[0] == 0
    looks, away = dense & ~visual[:, None], dense & ~visual[:, None] & ~visual[None, :]
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 3.5))
    shown = (("dense: every layer", dense), ("ViCA: a layer that looks", looks), ("ViCA: every other layer", away))
    for axis, (title, seen) in zip(axes, shown):
        kind = torch.where(visual[None, :] & seen, 2, seen.int())
        axis.imshow(kind, cmap=plt.matplotlib.colors.ListedColormap(["#f4f4f4", BLUE, GOLD]), vmin=0, vmax=2)
        axis.set_xticks(range(13), list("SSSvvvvvvQQQQ"), fontsize=7)
        axis.set_yticks(range(13), list("SSSvvvvvvQQQQ"), fontsize=7)
        axis.set_title(f"{title}\n{int(seen.sum())} pairs", fontsize=9)
        axis.set_xlabel("key: S before, v picture, Q question", fontsize=7)
        for i in range(14):
            axis.axhline(i - 0.5, color="white", lw=0.6)
            axis.axvline(i - 0.5, color="white", lw=0.6)
    axes[0].set_ylabel("query", fontsize=8)
    return figure


def visual_share(name: str, results: dict, seed: int) -> float:
    """Visual FLOPs of an arm in % of dense, at the small model's dimensions."""
    if name in ("dense", "few"):
        return 100.0 if name == "dense" else token_share(results[f"few/seed{seed}"]["tokens"])
    count = SMALL.L if name == "all layers" else len(small.result_of(results, name, seed)["layers"])
    return 100 * visual_ratio(SMALL, count, 64, TEXT)


def token_share(count: int) -> float:
    return 100 * visual_flops(SMALL, count, TEXT).total / visual_flops(SMALL, 64, TEXT).total


def trade_off(plt, results, seeds):
    """Accuracy against visual FLOPs, a small mark a seed, a large one their mean; training-free methods are hollow."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), sharex=True)
    for axis, name in zip(axes, ("all", "open")):
        for arm, (label, color, mark) in MARKS.items():
            answers = "all layers" if arm == "all layers" else "test"
            values = [100 * small.result_of(results, arm, s)[answers][name] for s in seeds]
            x = max(visual_share(arm, results, seeds[0]), 0.4)
            axis.scatter([x] * len(values), values, color=color, marker=mark, s=9, alpha=0.5)
            axis.scatter([x], [fmean(values)], color=color, marker=mark, s=60, label=label)
        for way, color, label in (("attention", RED, "dense, 3 tokens by attention"), ("random", GREEN, "dense, 3 random tokens")):
            mean = 100 * fmean(results[f"untuned/seed{s}"][way][name] for s in seeds)
            tokens = results[f"untuned/seed{seeds[0]}"]["equivalent tokens"]
            axis.scatter([token_share(tokens)], [mean], edgecolors=color, facecolors="white", marker="o", s=45, label=label)
        if f"scratch/seed{seeds[0]}" in results:
            values = [100 * results[f"scratch/seed{s}"]["test"][name] for s in seeds]
            share = 100 * visual_ratio(SMALL, len(results[f"scratch/seed{seeds[0]}"]["layers"]), 64, TEXT)
            axis.scatter([share], [fmean(values)], color=RED, marker="*", s=110, zorder=3, label="ViCA, 2 layers, from nothing")
        half = [100 * results[f"all layers/seed{s}"][f"PyramidDrop {small.KEEP}"]["ranked"][name] for s in seeds]
        axis.scatter([visual_share("all layers", results, seeds[0]) * small.KEEP], [fmean(half)], facecolors="white", edgecolors=BLUE,
                     marker="D", s=45, label="ViCA, all 8 + PyramidDrop")
        axis.axhline(100 * results["blind"][name], color=GREY, lw=0.8, ls=":")
        axis.set(xscale="log", xlabel="visual FLOPs, % of dense (the text alone: none)", title=f"{name} questions")
        axis.grid(lw=0.3)
    axes[0].set_ylabel("accuracy, %; dotted: best blind answers")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=7, ncols=4, loc="outside lower center")
    return figure


def layers(plt, results, seeds):
    """What a layer's look at the picture is worth."""
    figure, axis = plt.subplots(figsize=(6.4, 3.0))
    n = results[f"all layers/seed{seeds[0]}"]["layers"]
    width = 0.75 / len(seeds)
    for i, seed in enumerate(seeds):
        nats = results[f"all layers/seed{seed}"]["leave-one-out"]
        at = [k + width * (i - (len(seeds) - 1) / 2) for k in range(n)]
        axis.bar(at, [nats[str(k)] for k in range(n)], width=0.9 * width, label=f"seed {seed}",
                 color=(BLUE, GOLD, PURPLE)[i % 3])
    axis.set(xlabel="layer", ylabel="nats at the answer without its look")
    axis.set_xticks(range(n))
    axis.legend(frameon=False, fontsize=7)
    return figure


def pairs(plt, results, seeds):
    """Every pair of layers without training: sum of the two scores against accuracy."""
    figure, axis = plt.subplots(figsize=(5.2, 3.6))
    for i, seed in enumerate(seeds):
        of = results[f"all layers/seed{seed}"]
        nats = of["leave-one-out"]
        x = [sum(nats[k] for k in name.split("-")) for name in of["pairs"]]
        y = [100 * p["all"] for p in of["pairs"].values()]
        axis.scatter(x, y, s=14, color=(BLUE, GOLD, PURPLE)[i % 3], label=f"seed {seed}")
        kept = "-".join(map(str, sorted(of["greedy"]["kept"])))
        if kept in of["pairs"]:
            axis.scatter([sum(nats[k] for k in kept.split("-"))], [100 * of["pairs"][kept]["all"]], s=70, facecolors="none",
                         edgecolors=(BLUE, GOLD, PURPLE)[i % 3])
    axis.set(xlabel="sum of the two layers' leave-one-out nats", ylabel="accuracy without training, %", title="28 pairs; ringed: greedy")
    axis.grid(lw=0.3)
    axis.legend(frameon=False, fontsize=7)
    return figure


def time(plt, results):
    """Speed-ups that were measured, beside what FLOPs allow."""
    case = next(iter(results["speed/process0"]["cases"].values()))
    shown = [p for p in case["ratios"] if p.startswith("dense")]
    figure, axis = plt.subplots(figsize=(6.4, 0.4 * len(shown) + 1.2))
    for y, name in enumerate(reversed(shown)):
        ratio = case["ratios"][name]
        axis.barh(y, ratio["bound"], color="#e4e4e4", label="FLOPs allow" if not y else None)
        axis.barh(y, ratio["median"], color=BLUE, height=0.5, label="measured" if not y else None)
    axis.set_yticks(range(len(shown)), reversed(shown), fontsize=8)
    axis.set(xlabel="times faster than dense")
    axis.legend(frameon=False, fontsize=7)
    return figure
