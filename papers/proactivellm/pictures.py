"""The pictures of a run: quality against latency on each task, and the streaming family's plane on one translator."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common.pictures import draw_all
from common.streaming import planes

from .experiments.text import REENCODED
from .quantities import KS, Runs, Translation

BLUE, RED, GREY, GREEN, PURPLE, GOLD = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#d9a441"
MARKS = {"full": (BLUE, "o"), "batch only": (RED, "o"), "wait": (GREEN, "s"), "trained": (GOLD, "D"), "lots": (GREY, "x"),
         "read all": (GREY, "*"), "attention": (PURPLE, "^"), "reencoded": (RED, "v"), "labelled": (GOLD, "P")}
LABELS = {"full": "ProactiveLLM, entropy head", "batch only": "batch training, the same head", "wait": "wait-k on the same model",
          "trained": "trained for each k (GPE)", "lots": "lots", "read all": "everything read", "attention": "attention head",
          "reencoded": "stand-in, re-encoding", "labelled": "labelled by the oracle"}


def of_text(results: dict, size: str, folder: Path) -> list[Path]:
    """Writes the pictures of the experiment; returns the files."""
    return draw_all([_named("fronts", fronts), _named("plane", plane)], results, folder)


def of_words(results: dict, size: str, folder: Path) -> list[Path]:
    return draw_all([_named("words", partial(spoken, task="words"))], results, folder)


def of_spoken(results: dict, size: str, folder: Path) -> list[Path]:
    return draw_all([_named("spoken", partial(spoken, task="spoken"))], results, folder)


def _named(name: str, picture):
    found = partial(picture)
    found.__name__ = name
    return found


def swept(runs: Runs, arm: str, latency: str, head: str = "entropy") -> list[planes.Point]:
    def rows(seed: int) -> list[dict]:
        run = runs.run(seed, arm)
        return (run["entropy"] if head == "entropy" else run[head] if head == "labelled" else run["heads"][head])["test"]

    return planes.curve([rows(seed) for seed in runs.seeds], latency, "quality")


def curves(runs: Runs, latency: str) -> dict[str, list[planes.Point]]:
    found = {"full": swept(runs, "full", latency), "batch only": swept(runs, "batch only", latency),
             "attention": swept(runs, "full", latency, "attention"),
             "wait": planes.curve([list(runs.run(seed, "full")["wait"].values()) for seed in runs.seeds], latency, "quality"),
             "lots": planes.curve([[runs.at(seed, "lots")] for seed in runs.seeds], latency, "quality"),
             "read all": planes.curve([[runs.whole(seed, "full")] for seed in runs.seeds], latency, "quality")}
    if f"{runs.prefix}/labelled/seed{runs.seeds[0]}" in runs.results:
        found["labelled"] = swept(runs, "labelled", latency, "labelled")
    return found


def fronts(plt, results):
    """Quality against the share of the source that is read: questions and translation."""
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.8))
    for axis, runs, title in zip(axes, (Runs(results, "qa"), Translation(results, "mt")), ("questions", "translation")):
        planes.draw(axis, curves(runs, "RCO"), MARKS, "RCO, share of the source read", "100 - token error rate",
                    LABELS if title == "questions" else None)
        axis.set_title(title)
    figure.legend(frameon=False, fontsize=7, ncols=4, loc="outside lower center")
    return figure


def plane(plt, results):
    """The streaming family on one translator: wait-k trained per k with group positions (GPE), wait-k on one model, re-encoding, heads."""
    figure, axis = plt.subplots(figsize=(6.0, 4.2))
    runs = Translation(results, "mt")
    found = curves(runs, "AIL")
    found["trained"] = planes.curve([[runs.run(seed, f"wait-{k}")["own"] for k in KS] for seed in runs.seeds], "AIL", "quality")
    found["reencoded"] = planes.curve([[runs.run(seed, "start")["reencoded"][str(k)] for k in REENCODED] for seed in runs.seeds], "AIL",
                                      "quality")
    planes.draw(axis, found, MARKS, "AIL, words", "100 - token error rate", LABELS)
    figure.legend(frameon=False, fontsize=7, ncols=3, loc="outside lower center")
    return figure


def spoken(plt, results, task):
    """Speech: quality against seconds."""
    figure, axis = plt.subplots(figsize=(6.0, 4.2))
    planes.draw(axis, curves(Runs(results, f"speech/{task}"), "AIL s"), MARKS, "AIL, seconds", "100 - word error rate", LABELS)
    figure.legend(frameon=False, fontsize=7, ncols=3, loc="outside lower center")
    return figure
