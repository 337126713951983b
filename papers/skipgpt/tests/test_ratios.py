"""How near skipping comes to its bounds: what is timed, and the quantities by hand."""

from statistics import fmean, median

import pytest

from common.claims.records import load_claims, make_record, start_run
from common.errors import RecordError
from tests.numerics import drawn

from .. import eval as harness
from .. import quantities_ratios, tables
from ..experiments import ratios


def case(phase, process):
    row = {name: {"ratios": [drawn(phase, process, name, n, low=1.0, high=2.0) for n in range(5)],
                  "iqr": drawn(phase, process, name, "iqr")} for name in ("mask 0.50", "skip 0.40", "skip 0.50")}
    for name, entry in row.items():
        entry["speedup"] = median(entry["ratios"])
        if name != "mask 0.50":
            entry["bound"] = drawn(phase, process, name, "bound", low=2.0, high=3.0)
    variants = {name: {"median": drawn(phase, process, name, "s"), "flops": i} for i, name in enumerate(("dense", *row))}
    return {"phase": phase, "rounds": 5, "load_average": 0.5, "variants": variants, "speedups": row}


def documents():
    return {f"ratios/process{i}": {"not_run": [], "cases": {phase: case(phase, i) for phase in ("prefill", "decode")}} for i in range(3)}


@pytest.mark.parametrize("claim, phase, variant", [("C15f", "prefill", "skip 0.40"), ("C15g", "decode", "skip 0.50")])
def test_quantities_by_hand(claim, phase, variant):
    results = documents()
    cases = [results[f"ratios/process{i}"]["cases"][phase] for i in range(3)]
    measured = quantities_ratios.bounds_reached(results | {"speed/process0": {"not_run": [{"case": "x", "reason": "y"}]}})[claim]
    for of, name in ((measured, variant), (measured["placebo"], "mask 0.50")):
        assert of["per_seed"] == pytest.approx([each["speedups"][name]["speedup"] / each["speedups"][variant]["bound"] for each in cases])
    assert measured["timing"]["iqr_relative"] == max(
        (each["speedups"][variant]["iqr"], each["speedups"][variant]["iqr"] / each["speedups"][variant]["speedup"]) for each in cases)[1]
    assert measured["baselines"] == pytest.approx({f"{name}, times dense": fmean(each["speedups"][name]["speedup"] for each in cases)
                                                   for name in ("mask 0.50", variant)}
                                                  | {"bound": fmean(each["speedups"][variant]["bound"] for each in cases)})


def test_a_case_that_had_no_time_is_named_and_nothing_is_judged():
    results = documents()
    results["ratios/process1"]["not_run"] = [{"case": "prefill B=8 S=64", "reason": "needs about 90 s, 60 s of 60 s were left"}]
    with pytest.raises(RecordError, match="prefill B=8 S=64 was not timed: needs about 90 s"):
        quantities_ratios.bounds_reached(results)


def test_what_is_claimed_is_what_is_timed():
    names = {c.name for c in ratios.PLANS["cpu"].cases()}
    assert names == {"prefill B=8 S=64", "decode B=1 ctx=256"} and ratios.PLANS["cpu"].sparsities == (0.40, 0.50)
    assert (ratios.PREFILL, ratios.DECODING) == ("skip 0.40", "skip 0.50")
    assert [job.arguments["process"] for job in ratios.jobs()] == [0, 1, 2]


def test_the_job_and_its_table(capsys):
    job, *_ = ratios.jobs("smoke")
    results = {job.name: ratios.one_process(**job.arguments)}
    assert set(results[job.name]["cases"]) == {"prefill B=2 S=8", "decode B=1 ctx=16"} and not results[job.name]["not_run"]
    assert set(quantities_ratios.bounds_reached(results)) == {"C15f", "C15g"}
    assert len(list(tables.ratios(results))) == 2 + 2


@pytest.mark.parametrize("skip, mask, expected", [(0.9, 0.6, "supports"), (0.8, 0.6, "opposes"), (0.9, 0.89, "inconclusive")])
def test_words_follow_the_clock(skip, mask, expected):
    """Shares of the bound in three processes; mask mode that comes as near leaves it open."""
    results, claims = documents(), load_claims(harness.HERE / "claims.yaml")
    for number, document in enumerate(results.values()):
        for each in document["cases"].values():
            for name, row in each["speedups"].items():
                share = mask if name.startswith("mask") else skip
                row |= {"bound": 2.0, "ratios": [2 * share * (1 + 0.001 * number)] * 5, "speedup": 2 * share, "iqr": 0.01}
    for claim, measured in quantities_ratios.bounds_reached(results).items():
        timing = measured.pop("timing")
        record = make_record(claims.find(claim), claims.sha256, measured, start_run("test") | {"seconds": 0.0}, seeds=[], timing=timing)
        assert record["verdict"]["word"] == expected, (claim, record["verdict"])
