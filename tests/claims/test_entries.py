"""claims.yaml: what is wrong is named by file and field, whatever way of being wrong we could think of, and some that hypothesis did.
What hypothesis does to records is here, too.
"""

import copy
import json
import math
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.claims import records
from common.claims.intervals import summarize
from common.claims.records import load_claims
from common.claims.verdict import verdict
from common.errors import RecordError
from tests.sample_records import claim, claims_yaml, headline, put, record

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


def test_a_headline_shows_a_number_that_its_word_rests_on(tmp_path):
    more = [claim(id=f"demo/C{n}") for n in (1, 2, 3)]
    assert load_claims(claims_yaml(tmp_path, *more, headlines=[headline("C1", "C2", shows="C2")])).headlines
    with pytest.raises(RecordError, match=r"\$.headlines\[0\].shows: demo/H1 shows C3, which is none of its rows"):
        load_claims(claims_yaml(tmp_path, *more, headlines=[headline("C1", "C2", shows="C3")]))


# ------------------------------------------------------------------------------------------ noise

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
