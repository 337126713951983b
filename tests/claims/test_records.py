"""Records as files: what is wrong is named by file and field, numbers that do not follow from each other are refused, and nothing is
half written.
"""

import errno
import json
import math
import os
import sys

import pytest

from common.claims import records, shapes
from common.claims.intervals import paired, share, summarize
from common.claims.records import load_claims, make_record, seeds_counted
from common.errors import FileError, RecordError
from tests.sample_records import RUN, claim, claims_yaml, held, one, put, record


def test_a_record_names_the_seeds_that_were_run():
    """Was: 0 to n - 1, whatever they were called: stand-ins of seeds 1 and 3 had fallen short, and 0, 2, 4 and 5 were run."""
    four = summarize([1.0, 2.0, 3.0, 5.0])
    assert seeds_counted(four, [0, 2, 4], [f"arms/seed{s}" for s in (5, 0, 4, 2)] + ["clock/process0", "a/seed2/kept"]) == [0, 2, 4, 5]
    assert seeds_counted(four, [3, 4, 5, 6], ["base/seed3"]) == [3, 4, 5, 6], "results of a part of them: the claim says which"
    assert seeds_counted(four, [0, 1, 2], []) == [0, 1, 2, 3]
    assert seeds_counted(summarize([1.0, 2.0, 3.0], over="processes"), [7], ["speed/process0"]) == [7]


# ---------------------------------------------------------------------------------------- records


def test_a_record_round_trips_and_is_plain(tmp_path):
    made = record(measured=one(101.0, baselines={"random": 50.0}), models=[{"name": "./tiny"}])
    path = records.write_record(made, tmp_path / "results")
    text = path.read_text()
    assert path.name == "C1.paper-scale.json" and text.endswith("}\n") and '\n  "schema"' in text
    assert records.read_records(tmp_path / "results") == [made]
    assert records.read_records(tmp_path / "none") == []


def test_equal_runs_differ_only_in_run(tmp_path):
    later = {"started_at": "2026-11-23T10:00:00+00:00", "seconds": 9.0, "commit": "1" * 40}
    a = record(measured=one(101.0, baselines={"b": 1.0, "a": 2.0}))
    b = record(measured={"baselines": {"a": 2.0, "b": 1.0}, "n_runs": 1, "value": 101.0}, run=later)
    assert a != b and records.same_result(a, b)
    assert json.dumps({**a, "run": 0}) == json.dumps({**b, "run": 0})  # key order too
    assert not records.same_result(a, record(measured=one(102.0)))
    assert not records.same_result(a, record(run={"command": "make test"}))


def test_a_changed_claims_file_makes_records_stale(tmp_path):
    path = claims_yaml(tmp_path, claim())
    claims = load_claims(path)
    made = make_record(claims.find("C1"), claims.sha256, one(101.0), RUN, seeds=[0])
    assert not records.stale(made, claims)
    path.write_text(path.read_text() + "\n# one more thought\n")
    assert not records.stale(made, load_claims(path))  # what is said of the claim counts, not the file
    for change, named in (({"statement": "It works twice."}, "statement"), ({"kind": "ours", "rung": "paper-scale"}, "kind"),
                          ({"required": True}, "required"), ({"paper": made["paper"] | {"value": 99.0}}, "paper"),
                          ({"protocol": claim()["protocol"] | {"rule": {"relative": 0.5}}}, "rule"),
                          ({"protocol": claim()["protocol"] | {"evidence": "exact"}}, "evidence")):
        again = records.Claims(claims.paper, [claim() | change], "0")
        assert records.stale(made, again) == named


@pytest.mark.parametrize(
    "place, value, said",
    [
        (("measured", "value"), math.nan, "$.measured.value"),
        (
            ("measured", "value"),
            90.0,
            "$.verdict.word: is matches, but the numbers say contradicts",
        ),
        (("measured", "ci95"), [102.0, 100.0], "$.measured.ci95"),
        (("measured", "n_runs"), -1, "$.measured.n_runs"),
        (("verdict", "word"), "supports", "$.verdict.word"),
        (("verdict", "word"), "not-run", "$.verdict.word"),
        (("claim", "rung"), "cpu-small", "$.kind"),
        (("claim", "kind"), "small", "$.kind"),
        (("protocol", "rule"), {"above": 1.0}, "$.verdict.word"),
        (("protocol", "rule"), {"relative": 0.001}, "$.verdict.word"),
        (("protocol", "rule"), {"relative": 0.05, "above": 1}, "this one has above, relative"),
        (("claim", "paper_key"), "other", "$.claim.paper_key"),
        (("run", "started_at"), "yesterday", "$.run.started_at"),
        (("run", "command"), "/home/me/run.sh", "$.run.command"),
        (("run", "models"), [{"name": "~/llama"}], "$.run.models[0].name"),
        (("run", "seconds"), -1, "$.run.seconds"),
        (("schema",), "claim-record/1", "$.schema"),
        (("extra",), 1, "extra"),
    ],
)
def test_a_wrong_record_is_named(tmp_path, place, value, said):
    path = tmp_path / "C1.paper-scale.json"
    path.write_text(json.dumps(put(record(), place, value)))
    with pytest.raises(RecordError) as caught:
        records.read_records(tmp_path)
    assert str(path) in str(caught.value) and said in str(caught.value)


def test_a_record_in_the_wrong_file_is_refused(tmp_path):
    path = records.write_record(record(), tmp_path)
    path.rename(tmp_path / "C2.paper-scale.json")
    with pytest.raises(RecordError, match="C1.paper-scale.json"):
        records.read_records(tmp_path)


def test_other_files_in_results_are_no_records(tmp_path):
    (tmp_path / "curve.json").write_text("[1, 2")
    (tmp_path / ".C1.paper-scale.json.77.tmp").write_text("{")
    assert records.read_records(tmp_path) == []


@pytest.mark.parametrize(
    "command, private",
    [("make reproduce-demo RUNG=gpu", False), ("python -m papers.demo.eval --out=./x", False),
     ("curl https://example.org/a", False), ("python /opt/x.py", True), ("run --to=/tmp", True),
     ("C:\\python x.py", True), ("cat ~/.netrc", True), ("a/b and/or c", False)],
)  # fmt: skip
def test_commands_stay_relative(command, private):
    if private:
        with pytest.raises(RecordError, match=r"run.command"):
            record(run={"command": command})
    else:
        record(run={"command": command})


def test_records_are_written_where_jsonschema_is_not_installed(monkeypatch):
    """The GPU image has torch, transformers, lightning and peft, and that must do."""
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    shapes._validator.cache_clear()
    with pytest.warns(UserWarning, match="jsonschema is not installed"):
        assert record()["verdict"]["word"] == "matches"
    shapes._validator.cache_clear()


def test_strict_exit_status():
    missed = record({**claim(), "required": True}, one(50.0))
    assert records.exit_status([missed]) == 0 and records.exit_status([missed], strict=True) == 1
    assert records.exit_status([record(measured=one(50.0))], strict=True) == 0
    small = {**claim("above", "cpu-small"), "required": True}
    for measured, status in ((held([0.3, 0.31, 0.32]), 0), (held([-3.0, -3.1, -3.2]), 1), (held([0.3, 0.0, -0.3]), 0),
                             (held([0.3, 0.31, 0.32], placebo=one(5.0)), 1)):
        assert records.exit_status([record(small, measured)], strict=True) == status
    dull = {**claim("within", "cpu-small"), "required": True}
    assert records.exit_status([record(dull, held([0.0, 0.001, 0.002], sensitivity=one(0.0)))], strict=True) == 1
    good = record(small, held([0.3, 0.31, 0.32]))
    assert records.exit_status([good], strict=True, older=["demo/C1"]) == 1 and records.exit_status([good], older=["demo/C1"]) == 0


# -------------------------------------------------------------------------------------- forgeries

SEEDS, ITEMS = summarize([99.0, 100.0, 101.0]), paired([1.0 + 0.1 * (i % 4) for i in range(40)], [0.0] * 40)
CLUSTERED = paired([1.0 + 0.1 * (i % 4) for i in range(80)], [0.0] * 80, [i // 2 for i in range(80)])


@pytest.mark.parametrize(("measured", "change", "said"), [
    (SEEDS, {"value": 100.5}, "$.measured.value: is 100.5, but the mean of per_seed is 100.0"),
    (SEEDS, {"value": 105.0}, "$.measured.value: 105.0 lies outside its own interval"),
    (SEEDS, {"n_runs": 30}, "$.measured.n_runs: is 30, but per_seed has 3 values"),
    (SEEDS, {"per_seed": None}, "$.measured.per_seed: is missing, and the standard error is said to be over 3 runs"),
    (SEEDS, {"ci95": [99.9, 100.1]}, "$.measured.ci95: is [99.9, 100.1], which does not follow"),
    (SEEDS, {"ci95": [100.0, 100.0]}, "$.measured.ci95"),
    (SEEDS, {"ci95": None}, "$.measured.ci95: is None, which does not follow"),
    (SEEDS, {"stderr": 0.01}, "$.measured.stderr: is 0.01, which does not follow"),
    (SEEDS, {"stderr_kind": None}, "no standard error says what it is over"),
    (SEEDS, {"per_seed": [100.0, 100.0, 100.0]}, "$.measured.stderr"),
    (ITEMS, {"ci95": [1.1, 1.2]}, "$.measured.ci95"),
    (ITEMS, {"n_items": 4000}, "$.measured.ci95"),
    (CLUSTERED, {"n_clusters": 80}, "$.measured.ci95"),
    (share(60, 100), {"ci95": [0.59, 0.61]}, "$.measured.ci95"),
    (share(60, 100, 100), {"n_items": 1000}, "$.measured.stderr"),
    (one(100.0), {"ci95": [99.0, 101.0]}, "no standard error says what it is over"),
    (one(100.0), {"value": None, "ci95": [99.0, 101.0]}, "$.measured.value: is missing"),
])  # fmt: skip
def test_numbers_that_do_not_follow_from_each_other_are_refused(measured, change, said):
    made = record({**claim("absolute"), "paper": claim()["paper"] | {"value": measured["value"]}}, measured)
    records.validate_record(made)
    forged = {name: value for name, value in {**made["measured"], **change}.items() if name not in change or value is not None}
    if "value" in change and change["value"] is None:
        forged["value"] = None
    with pytest.raises(RecordError) as caught:
        records.validate_record({**made, "measured": forged})
    assert said in str(caught.value)


def test_controls_are_held_to_the_same(tmp_path):
    made = record(claim("above", "cpu-small"), held([0.3, 0.31, 0.32]))
    assert made["verdict"]["word"] == "supports"
    for place, value, said in ((("value",), 0.05, "$.measured.placebo.value"), (("n_runs",), 4, "$.measured.placebo.n_runs"),
                               (("ci95",), [-9.0, 9.0], "$.measured.placebo.ci95")):
        with pytest.raises(RecordError) as caught:
            records.validate_record(put(made, ("measured", "placebo", *place), value))
        assert said in str(caught.value)
    passing = put(made, ("measured", "placebo"), summarize([0.5, 0.51, 0.52]))
    with pytest.raises(RecordError, match="is supports, but the numbers say inconclusive"):
        records.validate_record(passing)
    del passing["measured"]["placebo"]
    with pytest.raises(RecordError, match="measured.placebo is missing"):
        records.validate_record(passing)


@pytest.mark.parametrize(("old", "new", "said"), [
    ('"value": 101.0', '"value": 90.0, "value": 101.0', "key 'value' appears twice"),
    ('"commit": ', '"commit": "another", "commit": ', "key 'commit' appears twice"),
    ("It works.", "It \u202eskrow\u202c.", "$.claim.statement: holds the control character U+202E"),
    ("It works.", "It works\u200f.", "U+200F"),
])  # fmt: skip
def test_text_that_a_reader_would_see_otherwise_is_refused(tmp_path, old, new, said):
    path = records.write_record(record(), tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    with pytest.raises(RecordError) as caught:
        records.read_record(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    "code, said",
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "no permission")],
)
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_record(tmp_path, monkeypatch, code, said, call):
    path = records.write_record(record(), tmp_path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FileError, match=said) as caught:
        records.write_record(record(measured=one(102.0)), tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_a_run_killed_while_writing_leaves_the_old_record(tmp_path, monkeypatch):
    path = records.write_record(record(), tmp_path)
    before = path.read_bytes()

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        records.write_record(record(measured=one(102.0)), tmp_path)
    assert path.read_bytes() == before


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        records.write_record(record(), tmp_path / "results")


def test_a_dirty_tree_writes_to_scratch_only(tmp_path):
    dirty = record(run={"dirty": True})
    assert records.results_dir(tmp_path, False) == tmp_path / "results"
    with pytest.raises(RecordError, match="uncommitted"):
        records.write_record(dirty, records.results_dir(tmp_path, False))
    path = records.write_record(dirty, records.results_dir(tmp_path, True))
    assert path.parent == tmp_path / "results" / ".scratch"
    assert records.read_records(tmp_path / "results") == []
