"""The page's charts, a forest plot for every claim and a strip for every timing: each mark at its place, worked out by hand."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.claims import records
from common.claims.intervals import summarize
from common.claims.records import make_record
from common.report.charts import forest, strip
from common.report.rows import rows_of
from common.report.timings import timed_cases
from tests.report.read_back import Parsed
from tests.sample_records import RUN, UP, claim, one

# ---------------------------------------------------------------------------------- forest plot


def drawn(row):
    return Parsed(forest(row))


def row_of(a_claim, measured):
    made = make_record(a_claim, "0", measured, RUN, seeds=[0])
    return rows_of(records.Claims({"key": "demo"}, [a_claim], "0"), [made])[0]


def percent(attributes, name):
    return float(attributes[name].rstrip("%"))


def test_forest_positions_by_hand():
    rule = {"absolute": 10.0}  # band 90..110, ours 105 in [95, 115], pad 8 %
    measured = one(105.0, stderr=5.0, stderr_kind="bootstrap", n_items=9, ci95=[95.0, 115.0])
    got = drawn(row_of(claim(rule), {**measured, "baselines": {"random": 65.0}}))
    # the first axis from 90 - 2 to 115 + 2, 29 wide; the second from 65 - 3.2 to 105 + 3.2, 46.4
    ours, paper, random = (got.all("svg", name) for name in ("ours", "paper", "baseline"))
    assert [percent(a, "x") for a in ours] == pytest.approx([1700 / 29, 4320 / 46.4], abs=0.01)
    assert [percent(a, "x") for a in paper] == pytest.approx([1200 / 29, 3820 / 46.4], abs=0.01)
    assert [percent(a, "x") for a in random] == pytest.approx([320 / 46.4], abs=0.01)
    band = got.all("rect", "holds")[0]
    assert percent(band, "x") == pytest.approx(200 / 29, abs=0.01)
    assert percent(band, "width") == pytest.approx(2000 / 29, abs=0.02)
    line = got.all("line", "interval")[0]
    assert percent(line, "x1") == pytest.approx(700 / 29, abs=0.01)
    assert percent(line, "x2") == pytest.approx(2700 / 29, abs=0.01)
    assert "random 65" in got.text


def test_the_papers_own_baseline_is_drawn_beside_ours():
    measured = {**one(99.0), "baselines": {"random": 20.0}}
    got = drawn(row_of(claim(paper_more={"baseline": 60.0}), measured))  # second axis 20 - 6.4 to 100 + 6.4
    theirs = got.all("svg", "paper-baseline")
    assert [percent(a, "x") for a in theirs] == pytest.approx([4640 / 92.8], abs=0.01)
    assert len(got.all("svg", "paper")) == len(got.all("svg", "ours")) == 2
    assert "random 20 · the paper's own baseline 60" in got.text


def test_an_effect_has_a_threshold_seeds_and_no_diamond():
    got = drawn(row_of(claim("above", "cpu-small"), {**UP, "baselines": {"CE": 4.0}}))
    assert len(got.all("svg", "ours")) == 1 and len(got.all("svg", "baseline")) == 1
    assert len(got.all("circle", "seed")) == 3 and not got.all("svg", "paper")
    assert len(got.all("line", "edge")) == 1
    band = got.all("rect", "holds")[0]
    assert percent(band, "x") + percent(band, "width") == pytest.approx(100, abs=0.02)


def test_a_claim_that_was_not_run_shows_the_papers_value():
    row = rows_of(records.Claims({}, [claim(blocked_by=["gpu"])], "0"), [])[0]
    assert drawn(row).all("svg", "paper") and not drawn(row).all("svg", "ours")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["equals", "relative", "absolute", "above", "below", "within"]),
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=4),
    st.floats(-1e9, 1e9).filter(bool),
)
def test_marks_stay_on_the_axis(rule, values, paper):
    text = forest(row_of(claim(rule, "paper-scale", paper=paper), summarize(values)))
    places = [float(x) for x in re.findall(r'"(-?[\d.]+)%"', text)]
    assert places and all(0 <= x <= 100 for x in places) and "nan" not in text


# ------------------------------------------------------------------------------------- timings


def measurements(folder, name="cpu-small", **document):
    (folder / f"measurements.{name}.json").write_text(json.dumps({"run": {}, "results": {"speed": document}}))


def test_a_strip_has_rounds_their_median_and_what_the_arithmetic_takes(tmp_path):
    rows = {
        "dense": {"times": [2.0, 4.0, 8.0], "flops": 400},  # two steps a round: a median of 2 s, 200 FLOPs in each
        "half": {"times": [2.0, 3.0, 2.0], "flops": 100},  # a median of 1 s, 50 FLOPs: 0.5 s at the rate of dense
        "uncounted": {"seconds": [1.0, 1.0]},
        "broken": {"times": [1.0, -1.0]},
    }
    measurements(tmp_path, settings={"device": "cpu", "dtype": "float32"}, cases={"B=1": {"variants": rows, "steps": 2}})
    [case], problems = timed_cases(tmp_path)
    assert problems == [] and [v.name for v in case.variants] == ["dense", "half", "uncounted"]
    assert [v.median for v in case.variants] == [2.0, 1.0, 0.5]
    assert [case.limit(v) for v in case.variants] == [2.0, 0.5, None]
    got = Parsed(strip(case))
    assert [percent(a, "cx") for a in got.all("circle", "median")] == pytest.approx([50 / 1.04, 25 / 1.04, 12.5 / 1.04], abs=0.01)
    assert [percent(a, "x1") for a in got.all("line", "limit")] == pytest.approx([50 / 1.04, 12.5 / 1.04], abs=0.01)
    assert len(got.all("circle", "seed")) == 8 and "1 s, median of 3; 50 % of its limit, 500 ms" in got.text
    assert "any of these reached" in got.text


def test_a_known_gpu_is_held_against_its_data_sheet(tmp_path):
    rows = {"dense": {"times": [0.5, 0.5], "flops": 98.9e12}}
    for dtype in ("bfloat16", "float32"):  # the peak that we know is that of bf16
        measurements(tmp_path, f"gpu-{dtype}", device="NVIDIA H200", dtype=dtype, cases={"a": {"modes": rows}})
    (tmp_path / "measurements.torn.json").write_text("{")
    (tmp_path / "measurements.other.json").write_text('{"cases": {"a": 1, "b": {"variants": [1]}}, "device": "cpu"}')
    cases, problems = timed_cases(tmp_path)
    assert [case.limit(case.variants[0]) for case in cases] == pytest.approx([0.1, 0.5])
    assert "data-sheet peak of NVIDIA H200" in strip(cases[0])
    assert len(problems) == 1 and problems[0].startswith("measurements.torn.json: not valid JSON")
