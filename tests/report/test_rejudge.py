"""Words from committed results, again: a changed rule changes the word and nothing of the run that measured."""

import json

import pytest

from common.claims.records import load_claims, make_record, read_record, record_path, write_record
from common.errors import RecordError
from common.report import rejudge
from tests.report.test_chain import CLAIMS, RUN, git, path_of, problems, root  # noqa: F401  (a fixture)
from tests.sample_records import claim, claims_yaml


@pytest.fixture
def measured(root):  # noqa: F811
    """The chain's paper, whose measurements say by which run they were made."""
    path = root / "papers/demo/results/measurements.cpu-small.json"
    content = json.loads(path.read_text())
    run = {key: value for key, value in RUN.items() if key != "sources"} | {"commit": git(root, "rev-parse", "HEAD"), "seconds": 7.5}
    path.write_text(json.dumps(content | {"run": run}))
    return root


def test_a_changed_rule_changes_the_word_and_keeps_the_run(measured):
    before = read_record(path_of(measured, "C2"))
    was = {"was": [{"rule": "above 0.1", "until": "2026-11-22", "why": "0.1 is what a rounding gains"}]}
    stricter = claim({"above": 0.5}, "cpu-small", id="demo/C2", required=True, protocol=was)
    claims_yaml(measured / "papers/demo", CLAIMS[0], stricter, *CLAIMS[2:])
    assert any("another rule" in problem for problem in problems(measured))
    assert list(rejudge.rejudge("demo", measured)) == ["demo/C2: supports -> opposes"]
    after = read_record(path_of(measured, "C2"))
    assert after["protocol"]["rule"] == {"above": 0.5} and after["measured"] == before["measured"]
    assert after["run"]["seconds"] == 7.5 and after["run"]["sources"] == before["run"]["sources"]
    assert not problems(measured)


def test_what_would_say_the_same_is_left_alone(measured):
    assert list(rejudge.rejudge("demo", measured)) == []  # nor does C1, which needs no results, get another record
    path = path_of(measured, "C2")
    kept = path.read_bytes()
    list(rejudge.rejudge("demo", measured))
    assert path.read_bytes() == kept


def test_a_record_whose_word_the_referee_no_longer_gives_keeps_what_it_says_of_its_run(measured):
    path = path_of(measured, "C2")
    made = json.loads(path.read_text())
    made["run"]["models"] = [{"name": "a model", "weights_sha256": "0" * 64}]
    made["verdict"]["word"] = "inconclusive"
    path.write_text(json.dumps(made))
    assert list(rejudge.rejudge("demo", measured)) == ["demo/C2: no valid record -> supports"]
    assert read_record(path)["run"]["models"] == made["run"]["models"]


def test_another_claims_text_renews_that_claims_record_alone(measured):
    """claims.yaml is another file then, and every record names its hash: what else would be written anew has not changed."""
    path = path_of(measured, "C2")
    kept = path.read_bytes()
    claims_yaml(measured / "papers/demo", CLAIMS[0] | {"statement": "It is as fast as the other."}, *CLAIMS[1:])
    assert list(rejudge.rejudge("demo", measured)) == [] and path.read_bytes() == kept


def test_a_record_that_is_gone_or_of_an_older_form_is_made(measured):
    path = path_of(measured, "C2")
    path.write_text(path.read_text().replace("claim-record/2", "claim-record/1"))
    assert list(rejudge.rejudge("demo", measured)) == ["demo/C2: no valid record -> supports"]
    path.unlink()
    assert list(rejudge.rejudge("demo", measured)) == ["demo/C2: no valid record -> supports"] and not problems(measured)


def test_results_of_another_form_are_named_and_nothing_is_written(measured):
    path, kept = measured / "papers/demo/results/measurements.cpu-small.json", path_of(measured, "C2").read_bytes()
    content = json.loads(path.read_text())
    del content["results"]["method/seed1"]
    path.write_text(json.dumps(content))
    (line,) = rejudge.rejudge("demo", measured)
    assert "experiment small: measurements.cpu-small.json is of another form, run it again" in line and "method/seed1" in line
    assert path_of(measured, "C2").read_bytes() == kept


def test_results_of_no_claim_are_named(measured):
    claims_yaml(measured / "papers/demo", CLAIMS[0], *CLAIMS[2:])
    assert load_claims(measured / "papers/demo/claims.yaml").find("C2") is None
    with pytest.raises(RecordError, match="experiment small measures C2, which is no claim"):
        list(rejudge.rejudge("demo", measured))


def test_what_waits_for_something_else_says_so_and_keeps_its_run(measured):
    """Nothing is measured: the record says what is missing, and that has changed."""
    waits = claim({"absolute": 0.5}, "paper-scale", id="demo/C9", kind="measured", blocked_by=["weights"])
    claims_yaml(measured / "papers/demo", *CLAIMS, waits)
    folder = measured / "papers/demo/results"
    run = {key: value for key, value in RUN.items() if key != "sources"} | {"commit": git(measured, "rev-parse", "HEAD")}
    write_record(make_record(waits, load_claims(measured / "papers/demo/claims.yaml").sha256, None, run, seeds=[]), folder)
    before = read_record(record_path(folder, "demo/C9", "paper-scale"))
    assert list(rejudge.rejudge("demo", measured)) == []
    claims_yaml(measured / "papers/demo", *CLAIMS, waits | {"blocked_by": ["code", "weights"]})
    assert list(rejudge.rejudge("demo", measured)) == ["demo/C9: not-run -> not-run"]
    after = read_record(record_path(folder, "demo/C9", "paper-scale"))
    assert after["verdict"]["blocked_by"] == ["code", "weights"] and "needs code, weights" in after["verdict"]["reason"]
    assert after["run"] == before["run"] and list(rejudge.rejudge("demo", measured)) == []
