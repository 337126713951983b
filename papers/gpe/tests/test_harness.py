"""The harness around the method: jobs in the small, verdicts, tables, pictures, the rungs' commands."""

import dataclasses
import functools
import importlib
import inspect
import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from common.claims.intervals import MIN_RUNS, summarize
from common.claims.records import load_claims, make_record, start_run
from common.runs import experiment, reproduce
from common.runs.jobs import Job, run_jobs
from common.runs.sources import closure
from tests import here

from .. import analytic, baselines, method, pictures, quantities, reported, tables, translators
from .. import eval as harness
from ..data import toy_examples
from ..experiments import exact as checks
from ..experiments import speech, speed, text
from ..scoring import text_scores
from ..toy import Language
from ..translators import translator

CLAIMS = load_claims(harness.HERE / "claims.yaml")


@pytest.fixture(scope="module", autouse=True)
def counted_once():
    """What a sentence costs is counted by running it; the tests of this file ask for the same sentences."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("counted", "flops_ratio"):
            patch.setattr(checks, name, functools.cache(getattr(checks, name)))
        yield


def test_every_claim_of_a_rung_is_measured_blocked_or_not_checkable():
    exact = quantities.exact({}, "analytic")
    facts = start_run("test") | {"seconds": 0.0}
    for claim in CLAIMS:
        name = claim["id"].partition("/")[2]
        if claim["rung"] == "analytic" and claim.get("status") != "not-checkable":
            record = make_record(claim, CLAIMS.sha256, exact[name], facts, seeds=[])
            expected = "adds-up" if claim["kind"] == "arithmetic" else "supports"
            assert record["verdict"]["word"] == expected, (name, record["verdict"])
        elif claim["rung"] != "cpu-small":
            assert claim.get("blocked_by") or claim.get("status") == "not-checkable", name


def test_the_papers_identities_hold():
    """True by construction, so they are no claims: no parameter is added, delays are the policy's, and what a READ feeds."""
    assert checks.added_entries() == 0
    assert checks.wrong_delays() == 0
    assert checks.counted(analytic.EXAMPLE, 1, "group").fed == 103 == analytic.EXAMPLE.S + analytic.EXAMPLE.T + 20  # one more a READ
    assert len(set(checks.growth("group"))) == 1  # whatever was read before
    again = checks.growth("kv")
    assert {b - a for a, b in pairwise(again)} == {1}  # a token a word: quadratic in total
    assert round(checks.flops_ratio(1), 3) == 4.652


def test_the_tables_of_the_paper_add_up_from_both_sides(monkeypatch):
    facts = start_run("test") | {"seconds": 0.0}
    monkeypatch.setitem(reported.LADDER["interleaved"]["en-fr"], 1, 31.5)
    exact = quantities.exact({}, "analytic")
    for name, expected in (("C1f", "does-not-add-up"), ("C3b", "adds-up"), ("C4", "does-not-add-up")):
        assert make_record(CLAIMS.find(name), CLAIMS.sha256, exact[name], facts, seeds=[])["verdict"]["word"] == expected


# -- tables and pictures of results that we choose ---------------------------------------------------------
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
        found[job.name] = {way: scores(value) for way in ("stream", "batch", "kv_reencoding", "wrong ids")} | {"random": {"score": 3.0}}
    return found


def test_tables_and_pictures_show_every_arm_and_budget(tmp_path, monkeypatch):
    monkeypatch.setitem(text.SIZES, "cpu", dataclasses.replace(text.SIZES["cpu"], resamples=20))
    found = results(**{"interleaved, 60 steps": 50.0})
    shown = "\n".join(tables.text(found))
    for row in tables.ROWS:
        assert row.strip() in shown
    assert "50.0 at  3.0" in shown and "other sentences' references 3.0" in shown and "mean of 3 seeds" in shown
    drawn = {path.name for path in pictures.text(found, "cpu", tmp_path)}
    assert drawn == {"bleu_latency.svg", "ladder.svg", "offset.svg", "who_sees_whom.svg"}
    assert "GPE" in (tmp_path / "who_sees_whom.svg").read_text()
    del found["text/no_positions, 60 steps/seed1"]
    for show in (lambda: list(tables.text(found)), lambda: pictures.text(found, "cpu", tmp_path)):
        with pytest.raises(KeyError, match="no_positions, 60 steps/seed1"):  # a row that is missing is no shorter table
            show()


def test_more_seeds_than_are_committed_train_their_start_first(monkeypatch):
    sizes = {"cpu": dataclasses.replace(text.SIZES["cpu"], seeds=(0, 3))}
    monkeypatch.setattr(text, "SIZES", sizes)
    jobs = text.jobs()
    assert [job.name for job in jobs if job.function.endswith(":standin")] == ["text/standin/seed3"]
    for job in jobs[1:]:
        assert job.after == (("text/standin/seed3",) if job.arguments["seed"] == 3 else ())
    monkeypatch.setattr(speech, "SIZES", {"cpu": dataclasses.replace(speech.SIZES["cpu"], seeds=(0, 3))})
    after = {job.name: job.after for job in speech.jobs()}
    assert after["speech/standin/seed3"] == ("speech/words",) == after["speech/phi 0/seed0"]
    assert after["speech/interleaved/seed3"] == ("speech/standin/seed3",)


def test_a_start_that_is_not_committed_is_trained_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    monkeypatch.setitem(translators.SIZES, "cpu", translators.SIZES["smoke"])
    said = text.standin(7)
    folder = translators.translator_folder(7)
    assert said["seed"] == 7 and folder.is_relative_to(tmp_path) and "seed7" in folder.name
    monkeypatch.setattr(translators, "train_translator", None)  # would be called again
    assert translators.translator(7).source["weights_sha256"] == translators.translator(7).source["weights_sha256"]
    with monkeypatch.context() as gone, pytest.raises(FileNotFoundError, match="make standins-gpe"):
        gone.setattr(translators, "TRANSLATORS", tmp_path)
        translators.translator(0)


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
    assert not both[0] & both[1] and (len(both[0]), len(both[1])) == (29, 77)  # a job's key is a hash of these


def test_the_default_size_is_what_the_criteria_name():
    small, spoken, timed = text.SIZES["cpu"], speech.SIZES["cpu"], speed.SIZES["cpu"]
    claims = {claim["id"].partition("/")[2]: claim["protocol"] for claim in CLAIMS if claim["rung"] == "cpu-small"}
    steps = {int(n) for protocol in claims.values() for n in re.findall(r"(\d+) steps", protocol["metric"])}
    assert steps == {small.short, small.long}
    assert {int(n) for name in ("C7a", "C7b") for n in re.findall(r"(\d+) updates", claims[name]["metric"])} == {spoken.steps}
    seeds = {tuple(protocol["seeds"]) for protocol in claims.values() if "seeds" in protocol}
    assert seeds == {small.seeds} == {spoken.seeds}
    words = [analytic.EXAMPLE.n * factor for factor in timed.factors]
    assert f"{words[1]} words minus that of one of {words[0]} words" in claims["C15a"]["metric"] and timed.processes >= MIN_RUNS


def test_what_only_shows_or_judges_is_no_part_of_a_jobs_name():
    """Else another title of a picture would train everything again; nor does text wait for what speech is made of."""
    for module in {job.function.partition(":")[0] for job in experiment.every_job(harness.EXPERIMENTS)}:
        names = {path.name for path in closure(module) if path.parent == harness.HERE}
        assert not names & {"eval.py", "quantities.py", "quantities_real.py", "tables.py", "pictures.py", "reported.py",
                            "claims.yaml"}, module
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
    assert [job.name for job in more if job.name.partition("/")[0] != "multi30k"] == ["digits/phi 0/seed0"]
    assert {job.name.rpartition("/group/")[0] for job in more if "/group/" in job.name} == {"multi30k/en-de", "multi30k/en-fr"}
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


def test_a_job_that_is_done_is_reused(tmp_path, monkeypatch):
    monkeypatch.setattr("common.runs.jobs.ProcessPoolExecutor", here.Pool)
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
    references = [e.reference for e in toy_examples(Language.draw(1), range(50))]
    other = baselines.of_other_sentences(references, 3)
    assert sorted(other) == sorted(references) and all(a is not b for a, b in zip(other, references))
    with pytest.raises(ValueError, match="two sentences"):
        baselines.of_other_sentences(["one"])


def test_the_named_baselines_are_arms():
    assert {*baselines.LADDER, *baselines.ABLATIONS, *baselines.FACTORS} <= set(method.ARMS)


# -- timings, rehearsed on a tiny model --------------------------------------------------------------------
def test_timings_count_the_same_work_in_every_mode():
    tiny = analytic.Shape(16, 32, 2, 2, 1, 8, 8, name="tiny")
    document = speed.measure(tiny, device="cpu", dtype="float32", factors=(1, 2), rounds=2, processes=1, log=lambda text: None)
    assert list(document["cases"]) == ["20 words", "40 words"] and document["longest"] == "40 words"
    case = document["cases"]["40 words"]
    assert list(case["modes"]) == list(speed.MODES) and [len(rounds) for rounds in case["modes"]["kv"]["seconds"]] == [2]
    assert case["modes"]["group"]["fed"] == case["modes"]["again"]["fed"] == analytic.cost(analytic.EXAMPLE.times(2), 3, "group").fed
    sentence = analytic.EXAMPLE.times(2)
    caches = {mode: m["cache_bytes"] for mode, m in case["modes"].items()}
    assert set(caches.values()) == {(sentence.S + sentence.T) * 2 * 2 * 1 * 8 * 4}  # every token once, in every mode
    measured = quantities.speed({"speed": document})
    assert set(measured) == {"C15a", "C15b", "C15c"} and all("timing" in each for each in measured.values())
    assert list(tables.speed({"speed": document})) and pictures.stream_cost(library(), {"speed": document}, "cpu").axes


def test_timings_are_of_processes_of_their_own_and_end_in_time(monkeypatch):
    ran = []
    monkeypatch.setattr(speed, "in_a_process", lambda *a, **more: ran.append(a) or here.in_this_process(*a, **more))
    tiny = analytic.Shape(16, 32, 1, 2, 1, 8, 8, name="tiny")
    how = dict(device="cpu", dtype="float32", factors=(1, 2), modes=("group", "kv", "again"), log=lambda text: None)
    document = speed.measure(tiny, processes=2, **how)
    assert [len(m["seconds"]) for m in document["cases"]["40 words"]["modes"].values()] == [2, 2, 2] and len(ran) == 2
    short = speed.measure(tiny, processes=1, rounds=3, time_limit=0.0, **how)
    assert len(ran) == 2, "a single process is this one"
    assert list(short["cases"]) == ["20 words"] and short["not_run"] == [{"words": 40, "reason": "no time left"}]
    assert [len(rounds) for rounds in short["cases"]["20 words"]["modes"]["kv"]["seconds"]] == [1]


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
    counts = last["counts"]  # whatever state the tree is in
    assert counts["adds-up"] == 4 and counts["supports"] == 1 and not counts["does-not-add-up"]


def test_claims_of_another_command_keep_their_committed_records(capsys, tmp_path):
    for name in ("claims.yaml", "eval.py"):
        (tmp_path / name).write_bytes((harness.HERE / name).read_bytes())
    claim = CLAIMS.find("C7b")
    measured = summarize([2.9, 3.0, 3.1]) | {"placebo": summarize([-0.1, 0.0, 0.1])}
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
    assert json.loads(printed.strip().splitlines()[-1])["counts"]["supports"] == 2  # with C14
    assert not (tmp_path / "results" / ".scratch" / "C7b.cpu-small.json").exists()


def test_counts_of_streams_are_those_of_the_formulas():
    for k in (1, 5, 9, None):
        for mode in ("group", "position", "kv"):
            assert checks.counted(analytic.EXAMPLE, k, mode)[:3] == analytic.cost(analytic.EXAMPLE, k, mode)[:3], (k, mode)
