"""ProactiveLLM's points on the streaming family's plane: wait-k, GPE, its own heads and re-encoding on one translator.

The translator starts from one committed model a seed; every arm continues from it for the same steps. An arm is a curve: over the k
of wait-k, or over the thresholds of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common.claims.intervals import summarize
from common.report.planes import Axis, Bench, Document, NotRecorded, Recorded

KS, REENCODED = ("1", "3", "5"), ("1", "3", "5")
HEADS = {"ProactiveLLM, entropy head": ("full", "ProactiveLLM"), "batch training, the same head": ("batch only", "")}
MEASURE = "100 - token error rate"


def planes(recorded: Recorded) -> Iterator[Bench]:
    yield translation(recorded["text"])
    yield questions(recorded["text"])
    yield captions(recorded["multi30k"])
    for experiment, task, title in (("speech", "words", "Spoken words, recognised while they are heard"),
                                    ("questions", "spoken", "Spoken questions, the evidence anywhere in the recording")):
        yield spoken(recorded[experiment], task, title)


def translation(of: Document) -> Bench:
    bench = Bench("streaming", "translator", "Every method of the family on one translator",
                  "The same small translator a seed, the same 48 test sentences, whose words stand in another order in the answer: "
                  "wait-k on the model of ProactiveLLM, GPE trained for each k, the starting model with all that was read encoded "
                  "again at every step, and heads that decide by the model's own states. Here all four methods meet.",
                  Axis("AIL, words behind the reader", "less", possible=(0.0, 100.0)), Axis(MEASURE, "more", shown=(20.0, 103.0)))
    bench.curve(of, "GPE, trained for each k", [
        (f"k = {k}", partial(of.over, f"mt/wait-{k}", "own", "AIL"), partial(of.over, f"mt/wait-{k}", "own", "quality"))
        for k in KS], "GPE")
    bench.curve(of, "the starting model, re-encoding", [
        (f"k = {k}", partial(of.over, "mt/start", "reencoded", k, "AIL"), partial(of.over, "mt/start", "reencoded", k, "quality"))
        for k in REENCODED], "re-encoding")
    _own(bench, of, "mt", "AIL")
    return bench


def questions(of: Document) -> Bench:
    bench = Bench("streaming", "questions", "Questions about a passage that is still being read",
                  "The same small reader a seed, the same test passages; the answer may be overturned by what has not been read yet.",
                  Axis("RCO, share of the passage that is read", "less", possible=(0.0, 1.0)),
                  Axis(MEASURE, "more", possible=(-100.0, 100.0)))
    _own(bench, of, "qa", "RCO")
    bench.curve(of, "labelled by the oracle", _swept(of, "qa/labelled", ("labelled",), "RCO"))
    return bench


def spoken(of: Document, task: str, title: str) -> Bench:
    bench = Bench("streaming", f"spoken-{task}", title, "The same small speech model a seed, the same recordings.",
                  Axis("AIL, seconds behind the speaker", "less"), Axis("100 - word error rate", "more"))
    _own(bench, of, f"speech/{task}", "AIL s")
    return bench


def captions(of: Document) -> Bench:
    bench = Bench("streaming", "proactive-multi30k", "Multi30k, English to German: heads beside wait-k",
                  "One small translator trained on Multi30k, 500 test captions; a single run, so that nothing says how far another "
                  "training would lie.", Axis("AIL, words behind the reader", "less"), Axis("BLEU", "more", possible=(0.0, 100.0)))

    def at(arm: str, way: str, what: str) -> dict:
        return {"value": of.number("multi30k/en-de", arm, way, what), "n_runs": 1}

    def line(name: str, places: list[tuple[str, str, str]], method: str = "") -> None:
        bench.curve(of, name, [(setting, partial(at, arm, way, "AIL"), partial(at, arm, way, "bleu")) for setting, arm, way in places],
                    method)

    ways = of.at("multi30k/en-de", "full") if "multi30k/en-de" in of else {}
    for name, arm, head, method in (("ProactiveLLM, entropy head", "full", "entropy", "ProactiveLLM"),
                                    ("ProactiveLLM, attention head", "full", "attention", "ProactiveLLM"),
                                    ("batch training, the same head", "batch only", "entropy", "")):
        quantiles = [way.partition(", ")[2] for way in ways if way.startswith(f"{head}, ")] or ["0.5"]
        line(name, [(f"quantile {q}", arm, f"{head}, {q}") for q in quantiles], method)
    ks = [way.removeprefix("wait-") for way in ways if way.startswith("wait-")] or ["1"]
    line("wait-k on ProactiveLLM's model", [(f"k = {k}", "full", f"wait-{k}") for k in ks], "wait-k")
    line("GPE, trained for each k", [(f"k = {k}", f"trained for wait-{k}", "own") for k in ks], "GPE")
    return bench


def _own(bench: Bench, of: Document, task: str, latency: str) -> None:
    """What every task of the paper has: heads over their thresholds, wait-k on the same model, lots, everything read."""
    for name, (arm, method) in HEADS.items():
        bench.curve(of, name, _swept(of, f"{task}/{arm}", ("entropy",), latency), method)
    bench.curve(of, "ProactiveLLM, attention head", _swept(of, f"{task}/full", ("heads", "attention"), latency), "ProactiveLLM")
    waits = _settings(of, f"{task}/full", "wait")
    bench.curve(of, "wait-k on ProactiveLLM's model", [
        (f"k = {k}", partial(of.over, f"{task}/full", "wait", k, latency), partial(of.over, f"{task}/full", "wait", k, "quality"))
        for k in waits], "wait-k")
    for name, field in (("when to write by lot", "random"), ("everything read first", "batch")):
        bench.add(of, name, partial(of.over, f"{task}/full", field, latency), partial(of.over, f"{task}/full", field, "quality"))


def _settings(of: Document, start: str, *fields: str) -> list[str]:
    try:
        return sorted(of.at(f"{start}/seed{of.seeds(start)[0]}", *fields), key=float)
    except NotRecorded:
        return ["1"]  # one row of the table of what is missing


def _swept(of: Document, start: str, fields: tuple[str, ...], latency: str) -> list[tuple]:
    """(setting, x, y) of each threshold of a head: the i-th of every seed's is the same, but for the last two, which each seed's
    own scores give (the latest that is allowed, and the .9 quantile)."""
    try:
        thresholds = of.at(f"{start}/seed{of.seeds(start)[0]}", *fields, "threshold")
    except NotRecorded:
        thresholds = [0]

    def mean(place: int, what: str) -> dict:
        return summarize([float(of.at(f"{start}/seed{seed}", *fields, "test")[place][what]) for seed in of.seeds(start)])

    names = [f"threshold {threshold:g}" for threshold in thresholds[:-2]] + ["latest allowed", ".9 quantile"][-len(thresholds):]
    return [(name, partial(mean, place, latency), partial(mean, place, "quality")) for place, name in enumerate(names)]
