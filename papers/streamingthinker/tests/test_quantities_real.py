"""Quantities of real questions, of the clock and of the paper's own size, each worked out by hand from results in which no two numbers
are equal."""

from statistics import fmean

import pytest

from tests.golden import same
from tests.numerics import drawn

from .. import quantities_paper, quantities_real
from ..reported import KEYS

SEEDS = (0, 1, 2)
WAYS = {"batch": ("batch",), "interleaved": ("blocking", "buffered"), "streaming": ("streaming",)}


def scored(way, seed):
    """200 and 50 answers, thoughts of 400 and of 90, delays in the arm's own ways."""
    found = {}
    for told, n, of in (("new", 200, 400), ("known", 50, 90)):
        right, thoughts = round(n * drawn(way, seed, told, "right")), round(of * drawn(way, seed, told, "thoughts"))
        delay = {kind: 1 + drawn(way, seed, told, kind) for kind in WAYS.get(way, ("streaming",))}
        found[told] = {"correct": [int(i < right) for i in range(n)], "thoughts": [thoughts, of], "skips": [1, 7], "delay": delay}
    return found


RUNS = {"untuned": scored("untuned", 0)} | {f"{way}/seed{seed}": scored(way, seed) for way in WAYS for seed in SEEDS}
WAITED = [70 + 10 * drawn("waited", i) for i in range(60)]
HALF = [40 + 10 * drawn("half", i) for i in range(60)]
FOUND = {f"symbolic/{name}": run for name, run in RUNS.items()} | {
    "symbolic/asked": {"new": {"waited": WAITED, "half": HALF, "templates": [i % 31 for i in range(60)]},
                        "known": {"waited": [1.0], "half": [2.0], "templates": [1]}}}


def right(way, seed, told):
    run = RUNS["untuned"] if way == "untuned" else RUNS[f"{way}/seed{seed}"]
    return 100 * sum(run[told]["correct"]) / len(run[told]["correct"])


def thoughts(way, seed):
    hits, of = (RUNS["untuned"] if way == "untuned" else RUNS[f"{way}/seed{seed}"])["new"]["thoughts"]
    return 100 * hits / of


@pytest.mark.parametrize("claim, told, resolution", [("C18s", "new", 0.5), ("C18n", "known", 2.0)])
def test_answers_of_an_adapter_less_those_of_batch(claim, told, resolution):
    def over(way):
        return [right(way, seed, told) - right("batch", seed, told) for seed in SEEDS]

    same(quantities_real.symbolic(FOUND)[claim], over("streaming"), placebo=over("untuned"), resolution=resolution,
         shown={way: [right(way, seed, told) for seed in SEEDS] for way in ("untuned", *WAYS)})


def test_thoughts_of_an_adapter_less_those_of_batch():
    same(quantities_real.symbolic(FOUND)["C18u"], [thoughts("streaming", s) - thoughts("batch", s) for s in SEEDS], resolution=0.25,
         placebo=[thoughts("untuned", s) - thoughts("batch", s) for s in SEEDS],
         shown={way: [thoughts(way, s) for s in SEEDS] for way in ("untuned", *WAYS)})


def test_every_arm_is_timed_on_its_own_traces_and_in_its_own_way():
    def saved(way, kind):
        late = [RUNS[f"{way}/seed{s}"]["new"]["delay"][kind] for s in SEEDS]
        return [100 * (1 - a / RUNS[f"batch/seed{s}"]["new"]["delay"]["batch"]) for a, s in zip(late, SEEDS)]

    same(quantities_real.symbolic(FOUND)["C18d"], saved("streaming", "streaming"), placebo=saved("interleaved", "blocking"), resolution=0.1,
         shown={"streaming": saved("streaming", "streaming"), "interleaved, blocking": saved("interleaved", "blocking"),
                "interleaved, buffered": saved("interleaved", "buffered")})


def test_tokens_waited_are_of_questions_clustered_by_template():
    measured = quantities_real.symbolic(FOUND)["C18w"]
    assert measured["value"] == pytest.approx(fmean(WAITED)) and (measured["n_items"], measured["n_clusters"]) == (60, 31)
    control = measured["placebo"]
    assert control["value"] == pytest.approx(fmean(HALF)) and (control["n_items"], control["n_clusters"]) == (60, 31)


def test_the_clock_on_real_questions():
    rows = {f"paced/process{i}": {name: 1 + drawn(name, i) for name in ("streaming", "batch", "predicted")} for i in range(5)}
    measured = quantities_real.paced(rows | {"clock/process0": {}})
    rows = list(rows.values())
    shown = {f"{name}, s": [row[name] for row in rows] for name in ("streaming", "predicted", "batch")}
    same(measured["C18c"], [100 * (1 - row["streaming"] / row["batch"]) for row in rows], resolution=0.1,
         placebo=[100 * (1 - row["batch"] / max(other["batch"] for other in rows)) for row in rows], over="processes", shown=shown)
    same(measured["C18e"], [100 * (row["streaming"] / row["predicted"] - 1) for row in rows], resolution=0.1, over="processes",
         sensitivity=[100 * (row["batch"] / row["predicted"] - 1) for row in rows], shown=shown)


def test_the_paper_s_own_size():
    """Of the runs that are there: without one of its runs, or without a task, a claim is not measured."""
    def by(name, *entries):
        return {task: {entry: 1 + drawn(name, task, entry) for entry in entries} | {
            "delay": {way: 1 + drawn(name, task, way) for way in ("streaming", "batch", "blocking")}} for task in KEYS}

    runs = {f"qwen3-{name}": {"by": by(name, "right", "tokens", "waited", "heard")} for name in (
        "4b_original", "4b_batch_d1", "4b_batch_d2", "4b_batch_d3", "4b_batch-spe_d1", "4b_batch-spe_d2", "4b_batch-spe_d3",
        "4b_interleaved_d3", "4b_streaming_d1", "4b_streaming_d3", "4b_streaming-context_d1", "1.7b_batch_d1", "1.7b_batch_d2",
        "4b_batch-sft")}
    runs["qwen3-4b_streaming_d3"]["clock"] = {"first": 6.5, "delay": 9.5, "join": 0.0025, "peak": 7900.0}
    found = quantities_paper.paper({"paper": runs})
    measured = {name: of["value"] for name, of in found.items()}

    def of(name, task, entry="right"):
        return runs[f"qwen3-4b_{name}"]["by"][task][entry]

    def points(name, than):
        return [100 * (of(name, task) - of(than, task)) for task in KEYS]

    small = [runs[f"qwen3-1.7b_batch_{depth}"]["by"] for depth in ("d2", "d1")]
    gaps = {d: [abs(gap) for gap in points(f"batch-spe_d{d}", f"batch_d{d}")] for d in (1, 2, 3)}
    sooner = [100 * (1 - of("streaming_d3", task, "delay")["streaming"] / of("interleaved_d3", task, "delay")["blocking"]) for task in KEYS]
    tokens = 100 * of("streaming_d1", "hotpotqa", "tokens") / of("streaming-context_d1", "hotpotqa", "tokens")
    saved = [100 * (1 - of("streaming_d3", task, "waited") / of("streaming_d3", task, "heard")) for task in KEYS]
    assert measured["C1"] == pytest.approx(fmean(points("streaming_d3", "original"))) and measured["C2"] == pytest.approx(fmean(saved))
    assert measured["C1q"] == pytest.approx(fmean(points("streaming_d3", "batch_d3")))
    assert measured["C1t"] == pytest.approx(fmean(points("streaming_d3", "batch-sft")))
    assert measured["C4p"] == pytest.approx(fmean(points("batch_d2", "batch_d1"))) and measured["C5p"] == pytest.approx(max(gaps[2]))
    assert measured["C4q"] == pytest.approx(fmean(100 * (small[0][task]["right"] - small[1][task]["right"]) for task in KEYS))
    assert measured["C5q"] == pytest.approx(max(gaps[1] + gaps[3])) and max(gaps[1]) != max(gaps[3])
    assert found["C5q"]["baselines"] == pytest.approx(dict(zip(KEYS, max(gaps[1], gaps[3], key=max))))
    assert measured["C7q"] == pytest.approx(fmean(points("streaming_d3", "interleaved_d3")))
    assert measured["C7p"] == pytest.approx(fmean(sooner)) and measured["C11p"] == pytest.approx(tokens)
    assert (measured["C9"], measured["C10p"], measured["C10m"]) == (6.5, 2.5, 7900.0)
    known = {"C1", "C1q", "C1t", "C2", "C3", "C4p", "C4q", "C5p", "C5q", "C7p", "C7q", "C9", "C10m", "C10p", "C11p"}
    assert set(measured) == known  # C8: no original with the context first
    del runs["qwen3-4b_batch_d2"]["by"]["pubmedqa"], runs["qwen3-4b_streaming_d1"], runs["qwen3-4b_streaming_d3"]["clock"]["peak"]
    del runs["qwen3-4b_batch-spe_d1"], runs["qwen3-1.7b_batch_d1"]
    assert set(quantities_paper.paper({"paper": runs})) == {"C1", "C1q", "C1t", "C2", "C3", "C7p", "C7q", "C9", "C10p"}
