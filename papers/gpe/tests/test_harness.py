"""The harness around the method: jobs in the small, verdicts, tables, pictures, the rungs' commands."""

import importlib
import inspect
import json
import re

import numpy as np
import pytest
import torch

from common.claims.records import load_claims, make_record, start_run
from common.runs import experiment, reproduce
from common.runs.jobs import Job, run_jobs
from common.runs.sources import closure

from .. import analytic, baselines, method, pictures, quantities, tables
from .. import eval as harness
from ..data import toy_examples
from ..experiments import exact as checks
from ..experiments import speech, speed, text
from ..scoring import text_scores
from ..toy import Language
from ..translators import translator

CLAIMS = load_claims(harness.HERE / "claims.yaml")


def test_every_claim_of_a_rung_is_measured_blocked_or_not_checkable():
    exact = quantities.exact({}, "analytic")
    facts = start_run("test") | {"seconds": 0.0}
    for claim in CLAIMS:
        name = claim["id"].partition("/")[2]
        if claim["rung"] == "analytic" and claim.get("status") != "not-checkable":
            record = make_record(claim, CLAIMS.sha256, exact[name], facts, seeds=[])
            assert record["verdict"]["word"] == "matches", (name, record["verdict"])
        elif claim["rung"] != "cpu-small":
            assert claim.get("blocked_by") or claim.get("status") == "not-checkable", name


# -- verdicts from results that we choose ------------------------------------------------------------------
def results(**changes):
    """Results as the jobs give them. changes {job name without seed: BLEU at every k}; default 90."""
    def scores(value):
        statistics = [[10, 10, 9, 8, 7, 6, 10, 9, 8, 7]] * 4
        return {k: {"bleu": value, "LAAL": float(k) if k.isdigit() else 9.0, "statistics": statistics}
                for k in ("1", "3", "5", "7", "batch")}

    found = {}
    for job in text.jobs():
        name, _, seed = job.name.removeprefix("text/").rpartition("/")
        value = changes.get(name, 90.0) + 0.01 * int(seed[-1])
        entry = {way: scores(value) for way in ("stream", "batch", "kv_reencoding", "contiguous ids", "frozen ids")}
        entry["diagonal"] = {"group": {"share": 0.5, "even": 0.4}, "batch-trained": {"share": 0.45}}
        if name == "untuned":
            entry |= {way: scores(value) for way in ("batch_streaming", "group")} | {"random": {"score": 3.0}}
        found[job.name] = entry
    return found


def word(name, found):
    claim = CLAIMS.find(name)
    measured = quantities.text(found)[name]
    return make_record(claim, CLAIMS.sha256, measured, start_run("test") | {"seconds": 0.0}, seeds=[0, 1, 2])["verdict"]["word"]


@pytest.mark.parametrize("claim, changes, expected", [
    ("C1a", {"interleaved, 60 steps": 60.0}, "supports"),
    ("C1a", {"interleaved, 60 steps": 85.0}, "contradicts"),
    ("C1b", {"interleaved, 300 steps": 85.0}, "supports"),
    ("C1b", {"interleaved, 300 steps": 95.0}, "contradicts"),
    ("C1c", {"finished_frozen, 60 steps": 85.0}, "supports"),
    ("C1e", {"interleaved_group, 60 steps": 60.0}, "supports"),
    ("C2a", {"position_reencoding, 60 steps": 91.0}, "supports"),
    ("C2a", {"position_reencoding, 60 steps": 95.0}, "contradicts"),
    ("C2a", {"position_reencoding, 60 steps": 85.0}, "contradicts"),
    ("C4a", {"kv_reencoding, 60 steps": 80.0}, "contradicts"),
    ("C5a", {"group, phi 256, 300 steps": 89.0}, "supports"),
    ("C5a", {"group, phi 256, 300 steps": 80.0}, "contradicts"),
    ("C6a", {"no_positions, 60 steps": 80.0}, "supports"),
    ("C6b", {}, "contradicts"),
    ("C6d", {"no_source_positions, 60 steps": 80.0}, "supports"),
    ("C9a", {"batch, 300 steps": 90.0}, "supports"),
    ("C9a", {"group, phi 0, 300 steps": 80.0}, "contradicts"),
    ("C12a", {}, "supports"),
])  # fmt: skip
def test_verdicts_follow_the_scores(claim, changes, expected):
    assert word(claim, results(**changes)) == expected


def test_tables_and_pictures_show_every_arm_and_budget(tmp_path):
    found = results(**{"interleaved, 60 steps": 50.0})
    shown = "\n".join(tables.text(found))
    for row in tables.ROWS:
        assert row.strip() in shown
    assert "50.0 at  3.0" in shown and "other sentences' references 3.0" in shown
    drawn = {path.name for path in pictures.text(found, "cpu", tmp_path)}
    assert drawn == {"bleu_latency.svg", "ladder.svg", "offset.svg", "who_sees_whom.svg"}
    assert "GPE" in (tmp_path / "who_sees_whom.svg").read_text()
    del found["text/no_positions, 60 steps/seed1"]
    for show in (lambda: list(tables.text(found)), lambda: pictures.text(found, "cpu", tmp_path)):
        with pytest.raises(KeyError, match="no_positions, 60 steps/seed1"):  # a row that is missing is no shorter table
            show()


# -- sizes -------------------------------------------------------------------------------------------------
def work(size):
    """[(function, arguments)] of all jobs, without what a size decides."""
    return [(job.function, {name: value for name, value in sorted(job.arguments.items()) if name not in ("seed", "size")})
            for job in experiment.every_job(harness.EXPERIMENTS, size)]


def test_the_smoke_run_does_what_the_default_run_does_and_shares_no_result():
    smoke, cpu = work("smoke"), work("cpu")
    assert {str(done) for done in smoke} == {str(done) for done in cpu} and len(smoke) == len({str(done) for done in cpu})
    both = [{(job.function, json.dumps(job.arguments, sort_keys=True)) for job in experiment.every_job(harness.EXPERIMENTS, size)}
            for size in ("smoke", "cpu")]
    assert not both[0] & both[1] and (len(both[0]), len(both[1])) == (28, 78)  # a job's key is a hash of these


def test_the_default_size_is_what_the_criteria_name():
    small, spoken, timed = text.SIZES["cpu"], speech.SIZES["cpu"], speed.SIZES["cpu"]
    claims = {claim["id"].partition("/")[2]: claim["protocol"] for claim in CLAIMS if claim["rung"] == "cpu-small"}
    steps = {int(n) for protocol in claims.values() for n in re.findall(r"(\d+) steps", protocol["metric"])}
    assert steps == {small.short, small.long}
    seeds = {tuple(protocol["seeds"]) for protocol in claims.values() if "seeds" in protocol}
    assert seeds == {small.seeds} == {spoken.seeds}
    words = [analytic.EXAMPLE.n * factor for factor in timed.factors]
    assert f"{words[1]} words minus that of one of {words[0]} words" in claims["C15a"]["metric"] and timed.rounds >= speed.FEWEST


def test_what_only_shows_or_judges_is_no_part_of_a_jobs_name():
    """Else another title of a picture would train everything again; nor does text wait for what speech is made of."""
    for module in {job.function.partition(":")[0] for job in experiment.every_job(harness.EXPERIMENTS)}:
        names = {path.name for path in closure(module) if path.parent == harness.HERE}
        assert not names & {"eval.py", "quantities.py", "tables.py", "pictures.py", "reported.py", "claims.yaml"}, module
    written, spoken = ({path.parent.parent.name for path in closure(module.__name__)} for module in (text, speech))
    assert "standins" in written - spoken and "standins-speech" in spoken - written


def test_digits_and_captions_are_jobs_where_the_data_is(tmp_path, monkeypatch):
    for name in ("speech/fsdd.zip", *(f"translation/multi30k.{split}.{side}.gz" for split in ("train", "val", "test_2016_flickr")
                                      for side in ("en", "de", "fr"))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    without = experiment.every_job(harness.EXPERIMENTS, "smoke")
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    more = experiment.every_job(harness.EXPERIMENTS, "smoke")[len(without) :]
    assert [job.name for job in more] == ["digits/phi 0/seed0", "multi30k/en-de", "multi30k/en-fr"]
    assert all(tmp_path in path.parents for job in more for path in job.sources()[-1:])


# -- the jobs, in the small --------------------------------------------------------------------------------
def test_a_job_trains_streams_and_gives_the_same_twice():
    first = text.tune(0, "group", 0.5, size="smoke")
    assert set(first["stream"]) == {"1", "3", "5", "7"}
    row = first["stream"]["3"]
    assert np.array(row["statistics"]).shape == (text.SIZES["smoke"].test, 10) and 3 <= row["LAAL"] <= 7
    again = text.tune(0, "group", 0.5, size="smoke")
    assert json.dumps(first) == json.dumps(again)  # the same sentences, the same start, the same steps


def test_every_job_names_a_function_with_these_arguments():
    for job in experiment.every_job(harness.EXPERIMENTS):
        module, name = job.function.split(":")
        inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)


def test_jobs_survive_a_kill_and_reuse_what_is_done(tmp_path):
    small = Job("small", "papers.gpe.experiments.exact:growth", {"mode": "group", "words": 8})
    said = []
    assert run_jobs([small], tmp_path, workers=1, log=said.append) == run_jobs([small], tmp_path, workers=1, log=said.append)
    assert any("reusing 1 of 1" in line for line in said)


def test_the_committed_translators_translate_and_the_batch_model_fails_in_streaming():
    model = translator(0).model
    whole = text_scores(model, method.arm("contiguous"), 0, 32, (None,))["batch"]
    early = text_scores(model, method.arm("batch_streaming"), 0, 32, (1,))["1"]
    assert whole["exact"] > 0.95 and early["bleu"] < 70


def test_references_of_other_sentences_keep_none_in_place():
    references = [e.reference for e in toy_examples(Language.draw(1), 50)]
    other = baselines.of_other_sentences(references, 3)
    assert sorted(other) == sorted(references) and all(a is not b for a, b in zip(other, references))
    with pytest.raises(ValueError, match="two sentences"):
        baselines.of_other_sentences(["one"])


def test_the_named_baselines_are_arms():
    assert {*baselines.LADDER, *baselines.ABLATIONS, *baselines.FACTORS, *baselines.COMPARED} <= set(method.ARMS)


# -- timings, rehearsed on a tiny model --------------------------------------------------------------------
def test_timings_count_the_same_work_in_every_mode():
    tiny = analytic.Shape(16, 32, 2, 2, 1, 8, 8, name="tiny")
    document = speed.measure(tiny, device="cpu", dtype="float32", factors=(1, 2), time_limit=1.0, log=lambda text: None)
    assert list(document["cases"]) == ["20 words", "40 words"] and document["longest"] == "40 words"
    case = document["cases"]["40 words"]
    assert len(case["modes"]["kv"]["seconds"]) >= speed.FEWEST
    assert case["modes"]["group"]["fed"] == analytic.cost(analytic.EXAMPLE.times(2), 3, "group").fed
    sentence = analytic.EXAMPLE.times(2)
    caches = {mode: m["cache_bytes"] for mode, m in case["modes"].items()}
    assert set(caches.values()) == {(sentence.S + sentence.T) * 2 * 2 * 1 * 8 * 4}  # every token once, in every mode
    measured = quantities.speed({"speed": document})
    assert set(measured) == {"C15a", "C15b"} and all("timing" in each for each in measured.values()) and measured["C15a"]["n_runs"] >= 3
    assert "C15" in quantities.gpu({"gpu": document})
    assert list(tables.speed({"speed": document})) and pictures.stream_cost(library(), {"speed": document}, "cpu").axes


def library():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


# -- commands ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("argv, said", [(["--rung", "gpu"], "CUDA"), (["--only", "multi30k"], "NINEFOLD_DATA")])
def test_what_the_machine_cannot_run_is_answered_in_a_line(argv, said, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("NINEFOLD_DATA", raising=False)
    assert experiment.main(harness.HERE, harness.EXPERIMENTS, argv) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_the_analytic_rung_ends_with_the_table_and_one_json_line(capsys, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    (tmp_path / "results").mkdir()
    assert experiment.main(tmp_path, harness.EXPERIMENTS, ["--rung", "analytic"]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["paper"] == "gpe" and last["rung"] == "analytic" and isinstance(last["dirty"], bool)
    assert last["counts"]["matches"] == 10 and last["counts"]["contradicts"] == 0  # whatever state the tree is in


def test_claims_of_another_command_keep_their_committed_records(capsys, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    claim = CLAIMS.find("C7b")
    measured = {"value": 3.0, "n_runs": 3, "per_seed": [2.9, 3.0, 3.1], "stderr": 0.06, "stderr_kind": "across-seeds", "ci95": [2.75, 3.25]}
    facts = start_run("make reproduce-gpe ONLY=speech") | {"seconds": 1.0, "dirty": False}
    record = make_record(claim, CLAIMS.sha256, measured, facts, seeds=[0, 1, 2])
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "C7b.cpu-small.json").write_text(json.dumps(record))

    def measure(rung, log):
        others = {c["id"].partition("/")[2]: "make reproduce-gpe ONLY=speech" for c in CLAIMS if c["rung"] == "cpu-small"}
        return reproduce.Outcome(measured=quantities.exact({}, rung), elsewhere=others)

    assert reproduce.main(tmp_path, measure, ["--rung", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "gpe/C7b: measured by `make reproduce-gpe ONLY=speech`" in printed
    assert json.loads(printed.strip().splitlines()[-1])["counts"]["supports"] == 1
    assert not (tmp_path / "results" / ".scratch" / "C7b.cpu-small.json").exists()


def test_counts_of_streams_are_those_of_the_formulas():
    for k in (1, 5, 9, None):
        for mode in ("group", "position", "kv"):
            assert checks.counted(analytic.EXAMPLE, k, mode)[:3] == analytic.cost(analytic.EXAMPLE, k, mode)[:3], (k, mode)
