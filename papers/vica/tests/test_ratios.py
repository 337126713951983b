"""A picture over the text alone: what is timed, and the quantities by hand."""

import pytest

from tests.numerics import drawn

from .. import quantities_ratios, tables
from ..experiments import ratios
from .test_words import verdict_of


def made(batches, ways, name):
    return {f"ratios/process{i}": {"prefill": {b: {way: [drawn(i, b, way, name, n, low=1.0, high=9.0) for n in range(3)] for way in ways[0]}
                                               for b in batches},
                                   "decoding": {b: {way: [drawn(i, b, way, n, low=1.0, high=9.0) for n in range(3)] for way in ways[1]}
                                                for b in batches[:2]}} for i in range(3)}


def test_quantities_by_hand():
    """Of each process the batch at which it costs most, by its median round; not the same batch in all."""
    results = made(("1", "4", "16"), (("vica", "text only", "dense 64"), ("dense", "vica", "text only")), "a")
    measured = quantities_ratios.over_text(results | {"speed/process0": {}})
    for claim, what, placebo in (("C5b", "prefill", "dense 64"), ("C5c", "decoding", "dense")):
        for of, way in ((measured[claim], "vica"), (measured[claim]["placebo"], placebo)):
            by = [{b: sorted(x / y for x, y in zip(row[way], row["text only"]))[1]
                   for b, row in results[f"ratios/process{i}"][what].items()} for i in range(3)]
            assert of["per_seed"] == pytest.approx([max(each.values()) for each in by], rel=1e-12), (claim, way)
            for batch in by[0]:
                assert measured[claim]["baselines"][f"{way} / text only, batch {batch}"] == pytest.approx(sum(e[batch] for e in by) / 3)
    assert len({max(row, key=lambda b, row=row: sorted(x / y for x, y in zip(row[b]["vica"], row[b]["text only"]))[1])
                for row in (results[f"ratios/process{i}"]["prefill"] for i in range(3))}) > 1, "one batch is the largest in every process"


def test_the_job_and_its_table():
    job, *_ = ratios.jobs("smoke")
    results = {job.name: ratios.one_process(**job.arguments)}
    found = results[job.name]
    assert {b: set(row) for b, row in found["prefill"].items()} == dict.fromkeys(("1", "2"), {"vica", "text only", "dense 64"})
    assert {b: set(row) for b, row in found["decoding"].items()} == {"1": {"dense", "vica", "text only"}}
    assert all(min(times) > 0 and len(times) == 2
               for part in ("prefill", "decoding") for row in found[part].values() for times in row.values())
    assert len(list(tables.ratios(results))) == 2 + 3
    assert set(quantities_ratios.over_text(results)) == {"C5b", "C5c"}


def test_what_is_claimed_is_what_is_timed():
    """The batches, the text and the layers of the statements."""
    size = ratios.SIZES["cpu"]
    assert size.batches == (1, 4, 16) and size.decoded == (1, 4) and size.case.text == 62 and size.case.visual == 576
    assert (size.shape.L, len(size.layers), size.case.decode, size.processes) == (30, 8, (16,), 3)
    assert [job.arguments["process"] for job in ratios.jobs()] == [0, 1, 2]


@pytest.mark.parametrize("ours, placebo, expected", [(1.05, 2.0, "supports"), (1.3, 2.0, "opposes"), (1.05, 1.04, "inconclusive")])
def test_words_follow_the_clock(ours, placebo, expected):
    """The larger of two batches, in three processes; a placebo that costs as little leaves it open."""
    def times(of):
        return {way: [x, x] for way, x in of.items()}

    results = {f"ratios/process{i}": {part: {"1": times({"vica": 1.0, "text only": 1.0, control: 1.0}), "4": times(
        {"vica": 2 * ours * (1 + 0.001 * i), "text only": 2.0, control: 2 * placebo * (1 + 0.001 * i)})}
        for part, control in (("prefill", "dense 64"), ("decoding", "dense"))} for i in range(3)}
    for claim, measured in quantities_ratios.over_text(results).items():
        assert verdict_of(claim, measured)["word"] == expected, claim
