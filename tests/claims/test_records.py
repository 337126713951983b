"""Claims and records as files: what is wrong is named by file and field, and nothing is half
written. Every way of being wrong that we could think of, and some that hypothesis did."""

import copy
import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import files
from common.claims import machine, records, shapes
from common.claims.intervals import paired, point, share, summarize
from common.claims.records import load_claims, make_record
from common.claims.verdict import verdict
from common.errors import FileError, RecordError
from tests.sample_records import RUN, claim, claims_yaml, headline, held, one, record

# ------------------------------------------------------------------------------------ claims.yaml


def test_claims_load_with_the_hash_of_the_file(tmp_path):
    path = claims_yaml(tmp_path, claim(), claim("above", "cpu-small"), claim(id="demo/C2"))
    claims = load_claims(path)
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]
    assert claims.sha256 == digest and len(claims) == 3 and claims.paper["key"] == "demo"
    assert claims.find("C1", "cpu-small")["protocol"]["rule"] == {"above": 0.1}
    assert claims.find("demo/C2")["id"] == "demo/C2" and claims.find("C9") is None


def broken(**changes):
    """A claim with fields replaced; a dotted name reaches inside, None removes."""
    made = copy.deepcopy(claim())
    for name, value in changes.items():
        inside, *path = made, *name.split("__")
        for part in path[:-1]:
            inside = inside[part]
        inside.pop(path[-1]) if value is None else inside.update({path[-1]: value})
    return made


@pytest.mark.parametrize(
    "change, field",
    [
        (dict(statement=None), "statement"),
        (dict(kind="speed"), "$.claims[0].kind"),
        (dict(kind="arithmetic"), "$.claims[0].kind"),  # which needs no run
        (dict(kind=None), "kind"),
        (dict(topic="mood"), "$.claims[0].topic"),
        (dict(rung="cpu"), "$.claims[0].rung"),
        (dict(id="C1"), "$.claims[0].id"),
        (dict(id="other/C1"), "$.claims[0].id"),
        (dict(blocked_by=["mood"]), "$.claims[0].blocked_by[0]"),
        (dict(status="done"), "$.claims[0].status"),
        (dict(paper__value="70"), "$.claims[0].paper.value"),
        (dict(paper__value=math.nan), "$.claims[0].paper.value"),
        (dict(paper__source="heard"), "$.claims[0].paper.source"),
        (dict(paper__unit=None), "unit"),
        (dict(paper__n_items=0), "$.claims[0].paper.n_items"),
        (dict(protocol__rule=None), "$.claims[0].protocol.rule"),
        (dict(protocol__rule={"vibes": 1}), "$.claims[0].protocol.rule"),
        (dict(protocol__rule={"type": "relative", "tolerance": 0.1}), "$.claims[0].protocol.rule"),
        (dict(protocol__rule={}), "this one has none"),
        (dict(protocol__rule={"above": 1, "below": 2}), "this one has above, below"),
        (dict(protocol__rule={"relative": "5 %"}), "$.claims[0].protocol.rule.relative"),
        (dict(protocol__rule={"relative": -0.1}), "$.claims[0].protocol.rule"),
        (dict(protocol__rule={"z": 0.05}), "$.claims[0].paper.stderr"),
        (dict(protocol__rule={"z": 2}), "$.claims[0].protocol.rule.z"),
        (dict(protocol__rule={"equals": False}), "protocol.rule.equals"),
        (dict(protocol__evidence="feelings"), "$.claims[0].protocol.evidence"),
        (dict(protocol__was=[{"rule": "above 1", "until": "yesterday"}]), "$.claims[0].protocol.was[0]"),
        (dict(rung="cpu-small"), "$.claims[0].kind"),
        (dict(rung="cpu-small", kind="small"), "$.claims[0].protocol.rule"),
        (dict(rung="cpu-small", kind="small", protocol__rule={"above": 1}), "$.claims[0].protocol.evidence"),
        (dict(rung="cpu-small", kind="small", protocol__rule={"above": 1}, protocol__evidence="items"), "$.claims[0].protocol.placebo"),
        (dict(rung="cpu-small", kind="small", protocol__rule={"within": 1}, protocol__evidence="items"),
         "$.claims[0].protocol.sensitivity"),
        (dict(colour="red"), "colour"),
    ],
)
def test_a_wrong_claim_is_named(tmp_path, change, field):
    path = claims_yaml(tmp_path, broken(**change))
    with pytest.raises(RecordError) as caught:
        load_claims(path)
    assert str(path) in str(caught.value) and field in str(caught.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("paper: [", "not valid YAML"),
        ("paper: {key: a, key: b}\nclaims: []", "'key' appears twice, line 1"),
        ("- a\n- b", "$"),
        ("", "$"),
        ("paper: {key: demo, title: x, arxiv: 2506.04179}\nclaims: [1]", "$.paper.arxiv"),
        ("paper: {key: demo, title: 2026-11-22}\nclaims: []", "date"),
        ("paper: &a {key: *a}", "nested too deeply"),
        ("1: 2", "must be text"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, said):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        load_claims(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


def test_a_small_tolerance_is_a_number(tmp_path):
    path = claims_yaml(tmp_path, claim("within", "cpu-small"))
    path.write_text(path.read_text().replace("within: 0.05", "within: 1e-5"))
    assert load_claims(path).claims[0]["protocol"]["rule"] == {"within": 1e-5}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecordError, match="claims.yaml: cannot be read"):
        load_claims(tmp_path / "claims.yaml")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    """Every place in a nested value."""
    yield path
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from places(inner, (*path, key))


def put(value, path, new):
    value = copy.deepcopy(value)
    if not path:
        return new
    inside = value
    for part in path[:-1]:
        inside = inside[part]
    inside[path[-1]] = new
    return value


fuzz = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzz
@given(st.data())
def test_fuzzed_claims_are_valid_or_name_file_and_field(tmp_path, data):
    good = {
        "paper": {"key": "demo", "title": "t"},
        "claims": [
            claim("above", "cpu-small", paper_more={"stderr": 1.0}),
            claim(id="demo/C2"),
        ],
        "headlines": [headline("C1", "C2", shows="C2")],
    }
    path = tmp_path / "claims.yaml"
    bad = put(good, data.draw(st.sampled_from(list(places(good)))), data.draw(json_values))
    path.write_text(json.dumps(bad), encoding="utf-8")
    try:
        claims = load_claims(path)
    except RecordError as error:
        assert str(path) in str(error) and ("$" in str(error) or "YAML" in str(error))
        return
    for a_claim in claims:
        verdict(a_claim, None, blocked_by=["time"])


@fuzz
@given(st.binary(max_size=60))
def test_noise_in_place_of_claims(tmp_path, noise):
    path = tmp_path / "claims.yaml"
    path.write_bytes(noise)
    with pytest.raises(RecordError, match="claims.yaml"):
        load_claims(path)


@fuzz
@given(st.data())
def test_fuzzed_records_are_valid_or_name_file_and_field(tmp_path, data):
    good = record(measured={**summarize([99.0, 100.0, 101.0]), "baselines": {"random": 3.0}})
    path = tmp_path / "C1.paper-scale.json"
    place = data.draw(st.sampled_from(list(places(good))))
    path.write_text(json.dumps(put(good, place, data.draw(json_values))), encoding="utf-8")
    try:
        got = records.read_record(path)
    except RecordError as error:
        assert str(path) in str(error) and ("$" in str(error) or "JSON" in str(error))
        return
    records.write_record(got, tmp_path / "again")


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


def test_bidirectional_characters_have_no_place_in_claims_either(tmp_path):
    path = claims_yaml(tmp_path, {**claim(), "statement": "It \u2066works"})
    with pytest.raises(RecordError, match=r"\$.claims\[0\].statement: holds the control character U\+2066"):
        load_claims(path)


@pytest.mark.parametrize(("changes", "said"), [
    (dict(rows=["C9"]), "demo/H1 names C9, which is no claim here"), (dict(rows=[]), "$.headlines[0].rows"),
    (dict(shows="C9"), "names C9"), (dict(id="other/H1"), "$.headlines[0].id"), (dict(id="demo/C1"), "$.headlines[0].id"),
    (dict(needs=""), "$.headlines[0].needs"),
])  # fmt: skip
def test_a_wrong_headline_is_named(tmp_path, changes, said):
    assert len(load_claims(claims_yaml(tmp_path, claim(), headlines=[headline("C1")])).headlines) == 1
    with pytest.raises(RecordError) as caught:
        load_claims(claims_yaml(tmp_path, claim(), headlines=[headline("C1") | changes]))
    assert said in str(caught.value)


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


# ---------------------------------------------------------------------------------------- machine


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.delenv("NINEFOLD_COMMIT", raising=False)
    for key, value in {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}.items():
        monkeypatch.setenv(key, value)

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    git("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "README.md").write_text(
        "# Hello\n<!-- ninefold:papers -->\nold\n<!-- /ninefold:papers -->\nBye.\n"
    )
    git("add", ".")
    git("commit", "-qm", "one")
    return tmp_path


def test_dirty_means_changed_code_not_written_results(repository):
    commit, dirty = machine.git_state(repository)
    assert len(commit) == 40 and not dirty
    for generated in ("papers/demo/results/C1.analytic.json", "report.html"):
        path = repository / generated
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    readme = repository / "README.md"
    readme.write_text(readme.read_text().replace("\nold\n", "\nnew\nlonger\n"))
    assert machine.git_state(repository) == (commit, False)
    readme.write_text(readme.read_text().replace("Bye", "So long"))
    assert machine.git_state(repository) == (commit, True)


@pytest.mark.parametrize("change", ["edit", "delete", "add"])
def test_dirty_sees_every_kind_of_change(repository, change):
    path = repository / ("new file.py" if change == "add" else "code.py")
    path.unlink() if change == "delete" else path.write_text("x = 2\n")
    assert machine.git_state(repository)[1]


def test_what_changed_is_named(repository, monkeypatch):
    """By its place under the root, also in a repository that holds more than that, whatever is in its name."""
    assert machine.changed_files(repository) == []
    names = ["new file.py", 'a "b"\tc\n.py', "\u00fc.py", "deep/er/x.yaml", os.fsdecode(b"\xff.py")]
    for name in names:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).touch()
    (repository / "code.py").unlink()
    (repository / "report.html").touch()
    assert sorted(machine.changed_files(repository)) == sorted([*names, "code.py"])
    assert machine.changed_files(repository / "deep") == ["er/x.yaml"]
    (repository / "deep" / "README.md").write_text("# Of its own\n<!-- ninefold:claims -->\n<!-- /ninefold:claims -->\n")
    subprocess.run(["git", "add", "deep"], cwd=repository, check=True)
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "two"], cwd=repository, check=True)
    (repository / "deep" / "README.md").write_text("# Of its own\n<!-- ninefold:claims -->\nx\n<!-- /ninefold:claims -->\n")
    assert machine.changed_files(repository / "deep") == [] and not machine.git_state(repository / "deep")[1]
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent.parent))
    with pytest.raises(subprocess.CalledProcessError):
        machine.changed_files(repository.parent)


@pytest.mark.parametrize(("count", "named"), [
    (0, ""), (1, " (a0.py)"), (5, " (a0.py, a1.py, a2.py, a3.py, a4.py)"), (8, " (a0.py, a1.py, a2.py, a3.py, a4.py and 3 more)"),
    (None, " (git knows of no commit here, and NINEFOLD_COMMIT names none)"),
])  # fmt: skip
def test_a_run_names_what_changed(tmp_path, monkeypatch, capsys, count, named):
    """Where it says that its records are not to be committed, and where it refuses to publish."""
    from common.runs import reproduce

    def changed():
        if count is None:
            raise FileNotFoundError("git")
        return [f"a{i}.py" for i in range(count)]

    here = tmp_path / "papers" / "demo"
    here.mkdir(parents=True)
    claims_yaml(here, claim("equals", "analytic", paper=3.0) | {"id": "demo/C1"})
    (here / "eval.py").touch()
    outcome = reproduce.Outcome({"C1": point(3.0)})
    states = iter([("a" * 40, False), ("a" * 40, True)])
    monkeypatch.setattr(reproduce, "changed_files", changed)
    monkeypatch.setattr(machine, "git_state", lambda root=None: ("a" * 40, True))
    monkeypatch.setattr(reproduce, "git_state", lambda root=None: ("a" * 40, True))
    assert reproduce.main(here, lambda rung, log: outcome, ["--rung", "analytic"]) == 0
    assert f"This tree has changes that no commit holds{named}, so the run names no commit" in capsys.readouterr().out
    assert reproduce.main(here, lambda rung, log: outcome, ["--rung", "analytic", "--publish"]) == 2
    assert f"--publish: the tree has uncommitted changes{named}, so" in capsys.readouterr().err
    monkeypatch.setattr(machine, "git_state", lambda root=None: next(states))
    monkeypatch.setattr(reproduce, "git_state", lambda root=None: next(states))  # changed meanwhile
    assert reproduce.main(here, lambda rung, log: outcome, ["--rung", "analytic", "--publish"]) == 2
    assert f"and is aaaaaaaaaaaa with uncommitted changes{named}), so its records" in capsys.readouterr().err


def test_results_above_the_root_are_no_reason_to_call_it_clean(repository):
    """A copy that lies in somebody's folder of results is still a tree with changes."""
    root = repository / "results" / "mine"
    root.mkdir(parents=True)
    (root / "code.py").touch()
    assert machine.changed_files(root) == ["code.py"]


@pytest.mark.parametrize("ignored", [True, False])
def test_what_a_killed_writer_leaves_is_no_change(repository, ignored):
    """With our .gitignore git does not list it; without, in a copy that lost it, it is known by its name."""
    if ignored:
        (repository / ".gitignore").write_bytes((machine.ROOT / ".gitignore").read_bytes())
        subprocess.run(["git", "add", ".gitignore"], cwd=repository, check=True)
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "two"], cwd=repository, check=True)
    with pytest.raises(SystemError), files.replacing(repository / "report.html") as file:
        file.write(b"half")
        (left,) = repository.glob(".report.html.*.tmp")
        for folder in ("", "papers/demo/configs", "common"):
            copy = repository / folder / left.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(b"half")
        raise SystemError("killed")
    with pytest.raises(SystemError), files.building(repository / "a folder") as folder:
        (folder / "inside.py").touch()
        os.rename(folder, repository / "common" / folder.name)  # out of reach of the writer, who would take it away
        raise SystemError("killed")
    assert len(list(repository.rglob("*.tmp"))) == 3
    assert machine.changed_files(repository) == []
    listed = subprocess.run(["git", "status", "--porcelain"], cwd=repository, capture_output=True, text=True, check=True).stdout
    assert bool(listed) != ignored
    for name in ("notes.tmp", ".x.tmp", "common/a.0123456.tmp", ".settings.0123456789.tmp"):
        (repository / name).touch()
        assert machine.changed_files(repository) == [name]
        (repository / name).unlink()


def test_outside_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("NINEFOLD_COMMIT", raising=False)
    assert machine.git_state(tmp_path) == ("unknown", True)
    monkeypatch.setenv("NINEFOLD_COMMIT", "abc")
    assert machine.git_state(tmp_path) == ("abc", False)
    monkeypatch.setenv("PATH", "")  # no git at all
    assert machine.git_state(tmp_path) == ("abc", False)


def test_environment_names_versions_and_nobody():
    got = machine.environment()
    assert got["versions"]["torch"] and got["cores"] >= 1 and got["memory_gb"] > 0
    assert set(got["versions"]) >= {"transformers", "lm-eval", "trl"}
    text = json.dumps(got)
    secrets = [os.uname().nodename, str(Path.home()), str(machine.ROOT), os.environ.get("USER")]
    assert not [s for s in secrets if s and len(s) > 4 and s in text]
    record(run={"environment": got})  # and is accepted as it is


def test_environment_imports_nothing_heavy():
    code = (
        "import sys, common.claims.records as r; r.environment(); "
        "print(sorted({'torch', 'jsonschema'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_start_run_begins_a_record(repository):
    run = machine.start_run("make reproduce-demo", repository) | {"seconds": 3.0}
    made = make_record(claim(), "c" * 64, one(101.0), run, seeds=[0])
    assert made["run"]["commit"] == machine.git_state(repository)[0]
    assert made["run"]["id"].startswith("demo/C1.paper-scale@20")
