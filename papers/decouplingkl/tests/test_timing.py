"""The timing experiment: its job really run at a tiny size, each case in its place, and its claims on results worked out by hand."""

import json
import os

import pytest

from common.runs.jobs import WORKER_ENVIRONMENT
from common.shapes import QWEN3_0_6B

from .. import eval as harness
from .. import quantities, tables
from ..experiments import speed, timing
from .made_up import CLAIMS, verdict

PROCESSES = ({"whole": ([8.0, 9.0], [2.0, 1.6]), "chunked": ([1.0, 1.8], [0.8, 1.2]), "one chunk": ([4.5, 4.0], [1.1, 1.5]),
              "one token": ([0.5, 0.6], [0.4, 0.2])},
             {"whole": ([8.0, 10.0], [2.0, 2.0]), "chunked": ([1.0, 1.5], [1.0, 1.2]), "one chunk": ([5.0, 4.0], [2.0, 3.0]),
              "one token": ([0.5, 0.6], [0.4, 0.4])},
             {"whole": ([9.0, 9.0], [1.6, 1.5]), "chunked": ([1.3, 1.35], [0.7, 0.9]), "one chunk": ([3.6, 1.0], [0.9, 0.8]),
              "one token": ([0.5, 0.6], [0.5, 0.3])})
RATES = (([300.0, 250.0], [100.0, 100.0]), ([220.0, 220.0], [100.0, 110.0]), ([260.0, 240.0], [100.0, 96.0]))


def results(processes=PROCESSES, rates=RATES):
    found = {f"timing/loss/process{i}": {way: {"peak_bytes": [2**30 * x for x in peaks], "seconds": seconds, "loss": 1.0,
                                               "tokens": 32 if way == "one token" else 1024} for way, (peaks, seconds) in row.items()}
             for i, row in enumerate(processes)}
    return found | {f"timing/sampling/process{i}": {"sample": ours, "generate": theirs} for i, (ours, theirs) in enumerate(rates)}


def test_claims_by_hand():
    found = quantities.timing(results())
    assert found["C17m"]["per_seed"] == pytest.approx([1.8 / 9, 1.5 / 10, 1.35 / 9])
    assert found["C17m"]["placebo"]["per_seed"] == pytest.approx([4.5 / 9, 5 / 10, 3.6 / 9])
    assert found["C17t"]["per_seed"] == pytest.approx([0.8 / 1.6, 1.0 / 2.0, 0.7 / 1.5])
    assert found["C17t"]["placebo"]["per_seed"] == pytest.approx([32 * 0.2 / 1.6, 32 * 0.4 / 2.0, 32 * 0.3 / 1.5])  # 1,024 / 32 tokens
    assert found["C17g"]["per_seed"] == pytest.approx([2.75, 2.1, 2.55])
    assert found["C17g"]["placebo"]["per_seed"] == pytest.approx([1.0, 1.1, 0.96])
    assert found["C17m"]["baselines"] == pytest.approx({"whole, GiB": 28 / 3, "chunked, GiB": 4.65 / 3, "one chunk, GiB": 13.1 / 3})
    assert found["C17t"]["baselines"]["one token, ms a token"] == pytest.approx(1000 * 0.9 / 32 / 3)
    assert found["C17g"]["baselines"] == pytest.approx({"sample, tokens a second": (275 + 220 + 250) / 3,
                                                        "generate, tokens a second": (100 + 105 + 98) / 3})
    assert all(each["stderr_kind"] == "across-processes" and each["n_runs"] == 3 for each in found.values())
    text = "\n".join(tables.timing(results()))
    assert "C17m: 0.167 (placebo 0.467)" in text and "sample, tokens a second 248" in text


def changed(way, peaks=None, seconds=None):
    return results([row | {way: (peaks or row[way][0], seconds or row[way][1])} for row in PROCESSES])


def test_words_follow_the_results():
    assert {name: verdict(name, quantities.timing(results()))[0] for name in harness_claims()} == dict.fromkeys(
        harness_claims(), "supports") | {"C17g": "inconclusive", "C17h": "opposes"}  # 2.47 with an interval that holds 2
    for factor, word in ((1.0, "supports"), (0.5, "opposes")):
        rates = [([280 * factor, 282 * factor], [100.0, 100.0]), ([284 * factor, 280 * factor], [100.0, 101.0])] * 2
        assert verdict("C17g", quantities.timing(results(rates=rates)))[0] == word
        rates = [tuple([2 * rate for rate in sampled] if i == 0 else sampled for i, sampled in enumerate(row)) for row in rates]
        assert verdict("C17h", quantities.timing(results(rates=rates)))[0] == word  # twice as fast again
    assert verdict("C17m", quantities.timing(changed("chunked", peaks=[3.0, 3.1])))[0] == "opposes"
    assert verdict("C17t", quantities.timing(changed("chunked", seconds=[4.0, 4.1])))[0] == "opposes"


@pytest.mark.parametrize("claim, way, values", [("C17m", "one chunk", {"peaks": [1.0, 1.1]}),
                                                ("C17t", "one token", {"seconds": [0.01, 0.02]})])
def test_a_placebo_that_passes_takes_the_word_away(claim, way, values):
    said = verdict(claim, quantities.timing(changed(way, **values)))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1]


def harness_claims():
    return next(e for e in harness.EXPERIMENTS if e.name == "timing").claims


def test_the_experiment_is_alone_asked_for_and_of_three_processes():
    experiment = next(e for e in harness.EXPERIMENTS if e.name == "timing")
    assert experiment.alone and experiment.asked and experiment.document == "timing"
    assert {job.name for job in timing.jobs()} == {f"timing/{kind}/process{i}" for kind in ("loss", "sampling") for i in range(3)}
    how = timing.SIZES["cpu"]
    assert (how.case.tokens, how.case.V, how.case.chunk, how.fresh) == (1024, 151_936, 128, True)
    assert (how.case.student, how.case.teacher) == (128, 320) and QWEN3_0_6B.V == how.case.V
    for claim in harness_claims():
        protocol = CLAIMS.find(claim)["protocol"]
        assert protocol["evidence"] == "processes" and protocol["placebo"]
    of_time = CLAIMS.find("C17t")["protocol"]
    assert "chunks of 128 tokens" in of_time["metric"] and f"of {how.few} tokens" in of_time["placebo"]


def test_each_case_is_what_it_is_called(monkeypatch):
    """In processes of their own that keep no blocks; what is left is as it was."""
    seen = []

    def in_a_process(function, kind, case, device, repeats):
        assert function is speed.loss and not any(name.startswith("MALLOC_") for name in os.environ)
        seen.append((kind, case["tokens"], case["chunk"], device, repeats))
        return {"peak_bytes": [1], "seconds": [1.0], "loss": 0.0}

    monkeypatch.setattr(timing, "in_a_process", in_a_process)
    for name, value in WORKER_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    found = timing.loss(0)
    assert seen == [("whole", 1024, 128, "cpu", 2), ("chunked", 1024, 128, "cpu", 2), ("chunked", 1024, 1024, "cpu", 2),
                    ("chunked", 32, 1, "cpu", 2)]
    assert [row["tokens"] for row in found.values()] == [1024, 1024, 1024, 32]
    assert all(os.environ[name] == value for name, value in WORKER_ENVIRONMENT.items())
    monkeypatch.setattr(timing, "in_a_process", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        timing.loss(0)
    assert all(os.environ[name] == value for name, value in WORKER_ENVIRONMENT.items())


def test_the_jobs_really_run_and_the_losses_are_one():
    found = json.loads(json.dumps(timing.loss(0, "smoke")))
    assert list(found) == ["whole", "chunked", "one chunk", "one token"]
    assert found["chunked"]["loss"] == pytest.approx(found["whole"]["loss"], rel=1e-5) == found["one chunk"]["loss"]
    assert found["one token"]["loss"] != pytest.approx(found["whole"]["loss"]) and found["one token"]["tokens"] == 2
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] >= 0 for row in found.values())
    sampled = timing.sampling(0, "smoke")
    assert all(len(rates) == 2 and min(rates) > 0 for rates in sampled.values()) and set(sampled) == {"sample", "generate"}


def test_sizes_at_which_nothing_more_is_held_end_in_a_ratio():
    found = quantities.timing(changed("whole", peaks=[0.0, 0.0]))["C17m"]
    rows = [row["chunked"]["peak_bytes"] for name, row in results().items() if name.startswith("timing/loss/")]
    assert found["value"] == pytest.approx(sum(map(max, rows)) / len(rows))
