"""The harness around the method: every claim has somebody who measures it, jobs and sizes, arms, tables, pictures, refusals."""

import dataclasses
import importlib
import inspect
import json

import pytest
import torch

from common.data import stories
from common.errors import DataError, ModelError, UserError
from common.models import load, tiny
from common.runs.experiment import every_job
from common.standins import stories as base_of

from .. import baselines, pictures, quantities, quantities_paper, quantities_real, standins, tables, worded
from .. import eval as harness
from ..experiments import arms as small
from ..experiments import clock as timed
from ..experiments import exact, gates
from ..experiments import realtext as realtexts
from ..experiments import variants as variants_of
from ..reasoner import Reasoner
from . import made_up
from .made_up import ARMS, CLAIMS, arms, clock, gate, gold, realtext, speed, variants, verdict


def of(claim):
    return claim["id"].partition("/")[2]


def test_every_claim_is_measured_blocked_or_not_checkable():
    counted = quantities.exact({}, "analytic")
    run = quantities.arms(arms()) | quantities.clock(clock()) | quantities.gold(gold()) | quantities.gate(gate())
    run |= quantities.speed(speed()) | quantities.realtext(realtext()) | quantities.variants(variants())
    run |= quantities.gated(made_up.gated()) | quantities.attention(made_up.attention()) | quantities.encoders(made_up.encoders())
    run |= quantities_real.aligned(made_up.aligned()) | quantities_real.symbolic(made_up.symbolic())
    run |= quantities_real.paced(made_up.paced())
    large = quantities_paper.paper(made_up.paper())
    for claim in CLAIMS:
        if claim.get("status") != "not-checkable":
            here = {"analytic": {*counted, *run}, "cpu-small": run, "paper-scale": large}[claim["rung"]]
            assert of(claim) in here or claim.get("blocked_by"), claim["id"]
            assert claim["rung"] == "paper-scale" or not (of(claim) in here and claim.get("blocked_by")), claim["id"]
    assert {*counted, *run, *large} <= {of(claim) for claim in CLAIMS}
    required = {of(claim) for claim in CLAIMS if claim.get("required")}
    assert 3 <= len(required) <= 6 and required <= {*run} and len(CLAIMS.headlines) == 4
    assert all(h["shows"] in {*run, *counted} for h in CLAIMS.headlines)


@pytest.mark.numerics
def test_what_arithmetic_gives():
    """PubMedQA is below 60 %; nothing else that the paper prints fails, and what is ours is as the specification found it."""
    counted = quantities.exact({}, "analytic")
    words = {name: verdict(name, counted)[0] for name in counted}
    assert {name for name in words if words[name] == "does-not-add-up"} == {"C3b"}
    assert {name for name in words if words[name] == "supports"} == {"C1b", "C1c", "C3c", "C3d", "C3e", "C7c", "C7d", "C14d"}
    assert set(words.values()) == {"adds-up", "does-not-add-up", "supports"}


def test_tables_and_pictures_show_every_arm(tmp_path):
    text = "\n".join(tables.arms(arms()))
    assert all(tables.NAMES[name] in text for name in ARMS) and "200 of 200" in text and "another story's units: D2 8.1 %" in text
    assert [path.name for path in pictures.arms(arms(), "cpu", tmp_path)] == ["depths.svg"]
    assert "interleaved" in (tmp_path / "depths.svg").read_text()
    assert "delay measured 50.0, predicted 49.0" in "\n".join(tables.clock(clock()))
    assert "places/streaming       D2 96.1 +-0.1" in "\n".join(tables.variants(variants()))
    assert "of the stock step views 1.000, concatenation 1.400" in "\n".join(tables.speed(speed()))
    assert "PubMedQA: 40 items of 11.0 sentences, tokens waited -92.0 %" in "\n".join(tables.realtext(realtext()))
    assert "trained on gated  1000 traces, 30.0 % of them faulty: D2 95.2 +-0.2" in "\n".join(tables.gated(made_up.gated()))
    assert "batch, positions from 0" in "\n".join(tables.attention(made_up.attention()))
    assert "with minilm: keeps 96.0 % of 500" in "\n".join(tables.gate(made_up.encoders(), of="encoders"))
    assert "60.0 % of 1500 questions align by rule (50 of 50 templates" in "\n".join(tables.aligned(made_up.aligned()))
    text = "\n".join(tables.symbolic(made_up.symbolic()))
    assert "other numbers: 95 questions, 3 trainings" in text and "  untuned     right 1.9, thoughts 1.0, skips 93.3, cut 10.0" in text
    assert "delay blocking 4.11 s, buffered 2.21 s" in text and "tokens waited -85.1 %" in text
    assert "delay measured 1.50, predicted 1.47, batch 4.20 s" in "\n".join(tables.paced(made_up.paced()))
    text = "\n".join(tables.paper(made_up.paper()))
    assert "first token after 6.23 s" in text and "100 items, views of both caches 4.0 ms, at most 7,990 MiB" in text
    assert "tokens waited -82.5 %" in "\n".join(tables.gold(gold())) and "keeps 96.0 % of 500" in "\n".join(tables.gate(gate()))
    text = "\n".join(tables.gate(gate(dropped={"ahead": [40, 50], "quoted": [0, 100]})))
    assert "ahead    recall  80.0 % of 50, precision  95.2 %" in text  # 80 of 100 faulty ones beside 4 of 100 clean ones
    assert "quoted   recall   0.0 % of 100, precision   0.0 %" in text and tables.precision(0, 9, 9, 9) == "-"


def test_results_that_are_older_than_an_arm_are_read():
    older = {name: row for name, row in arms().items() if not name.startswith("batch own/")}
    assert {*quantities.arms(older)} == {*quantities.arms(arms())} - {"C1r"} and quantities.attention(older) == {}
    assert tables.NAMES["batch own"] not in "\n".join(tables.arms(older))


# -- jobs --------------------------------------------------------------------------------------------------
def test_every_job_names_a_function_with_these_arguments():
    jobs = every_job(harness.EXPERIMENTS)
    for job in jobs:
        module, name = job.function.split(":")
        inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)
        names = {path.name for path in job.sources() if "papers" in path.parts}
        assert not names & {"eval.py", "quantities.py", "tables.py", "pictures.py", "analytic.py", "reported.py", "claims.yaml"}, job.name
    assert len({job.name for job in jobs}) == len(jobs)


def test_smoke_walks_every_job_at_another_size():
    def named(jobs):
        return {(job.name.partition("/")[0], job.function) for job in jobs}

    assert named(every_job(harness.EXPERIMENTS, "smoke")) == named(every_job(harness.EXPERIMENTS, "cpu"))
    for sizes in (small.SIZES, exact.SIZES, gates.SIZES):
        tiny, full = (vars(sizes[name]) for name in ("smoke", "cpu"))
        assert all(tiny[name] <= full[name] for name in full if isinstance(full[name], int) and name != "untrained")
    assert not small.SIZES["cpu"].untrained


def test_results_that_jobs_give_are_what_quantities_read():
    """Really run, with a model that has learnt nothing."""
    found = {f"start/seed{0}": small.start(0, "smoke"), "schedules/seed0": {"equal": 5, "placebo": 1, "of": 5}}
    found |= {f"{arm}/seed0": small.run(0, arm, "smoke") for arm in ("streaming", "batch", "interleaved")}
    found |= {"batch spe/seed0": found["batch/seed0"], "streaming far/seed0": found["streaming/seed0"],
              "batch own/seed0": found["batch/seed0"]}
    assert {*quantities.arms(found)} == {*quantities.arms(arms())} and list(tables.arms(found)) and json.dumps(found)
    assert found["streaming/seed0"]["unit"] < 0.2 and found["streaming/seed0"]["truncated"] > 0.5


@pytest.mark.parametrize("variant", variants_of.VARIANTS)
def test_variants_run_and_are_read(variant):
    found = variants_of.run(variant, "streaming", 0, "smoke")
    assert found["items"] == 2 and len(found["losses"]) == 1 and 0 <= found["unit"] < 0.5
    assert variants_of.run(variant, "untuned", 0, "smoke")["losses"] == []


def test_schedules_of_a_random_model_are_equal_and_its_placebo_is_not(monkeypatch):
    monkeypatch.setitem(small.SIZES, "smoke", dataclasses.replace(small.SIZES["smoke"], schedules=10))
    lively = load(tiny(vocab_size=len(stories.WORDS), num_hidden_layers=1, initializer_range=0.6)).model
    monkeypatch.setattr(small, "model_of", lambda seed, arm, how: (lively, {}))
    found = small.schedules(0, "smoke")
    assert found["equal"] == found["of"] == 10 > found["placebo"]


def test_the_clock_and_its_prediction_are_of_one_size():
    """No machine's speed is asserted: only that delay is counted from the last arrival, and that waiting for all costs the thinking."""
    model = base_of.build(0).eval()
    ours, waits = (kind(model, worded.of_stories(), unit_cap=3, rest_cap=3) for kind in (Reasoner, baselines.Batch))
    story = stories.totals(0)
    told = timed.ids_of(story)
    tau, p, tokens = timed.costs(ours, [told])
    assert tau > 0 and p > 0 and len(story.source) <= tokens <= 3 * len(story.source)
    pauses = [tau * n for n in story.words]
    streamed, thought = timed.timed(ours, told, pauses)
    waited, _ = timed.timed(waits, told, pauses)
    assert 0 < streamed < waited and len(thought.units) == len(story.source)


def test_gold_traces_by_hand():
    story = stories.totals(0)
    assert exact.deep_tokens(story, 1) == 3 and exact.written_tokens(story, 1) == sum(map(len, story.units)) + 4
    found = exact.gold("smoke")
    ways = found["reduction"]["150 words a minute"]
    assert ways["streaming"] == pytest.approx(ways["buffered"]) and max(ways["blocking"]) < 0 and all(w > 70 for w in found["waited"])


def test_real_questions_come_first():
    gsm = {"question": "Ann has 3 dogs. Bob has 2. How many in all?"}
    assert realtexts.of_gsm8k(gsm) == ["How many in all?", "Ann has 3 dogs.", "Bob has 2."]
    row = {"context": "Context: AIM. We ask. It is so.\nQuestion: Is it so?\nA. yes"}
    assert realtexts.of_pubmed(row) == ["Is it so?", "AIM.", "We ask.", "It is so."]
    with pytest.raises(DataError, match="without a line 'Question: '"):
        realtexts.of_pubmed({"context": "Context: nothing"})
    assert realtexts.reduced(lambda texts, **_: {"input_ids": [text.split() for text in texts]}, ["a b", "c d e", "f g h"]) == 75.0


# -- arms --------------------------------------------------------------------------------------------------
def test_arms_are_tuned_from_the_same_rows():
    how = standins.Tuning(steps=2, rows=3, rate=1e-3, warm=1)
    model = base_of.build(0)
    seen = {}

    def rows(step, seed, how):
        seen.setdefault(step, []).append(standins.rows_at(step, seed, how))
        return seen[step][-1]

    before = model.lm_head.weight.detach().clone()
    losses = [standins.tune(base_of.build(0), arm, 0, how, rows) for arm in standins.ARMS.values()]
    assert all(len(rows) == 6 and all(r == rows[0] for r in rows) for rows in seen.values()) and seen[0][0] != seen[1][0]
    assert all(len(found) == 2 for found in losses) and len({found[0] for found in losses}) >= 4  # batch spe is streaming at no step
    assert torch.equal(before, base_of.build(0).lm_head.weight)
    assert [how.at(step) for step in (0, 1)] == pytest.approx([1e-3, 1e-3])


def test_the_rival_s_rate_is_the_best_of_its_own_sweep():
    found = json.loads((standins.FOLDER / "sweep.json").read_text())
    rates = {float(rate): row for rate, row in found["rates"].items()}
    assert set(rates) == {0.0, standins.Tuning().rate, *standins.RATES} and found["steps"] == standins.Tuning().steps
    best = max(rates, key=lambda rate: (rates[rate][1], rates[rate][0]))
    assert best == found["chosen"] == standins.OWN == standins.ARMS["batch own"].rate
    assert {arm for arm, of in standins.ARMS.items() if of.rate} == {"batch own"}


def test_an_arm_s_own_rate_is_used(monkeypatch):
    rates, how = [], standins.Tuning(steps=2, rows=2, rate=1e-3, warm=1)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"]))
    for arm in ("batch", "batch own"):
        standins.tune(base_of.build(0), standins.ARMS[arm], 0, how)
    assert rates == pytest.approx([how.rate, how.rate, standins.OWN, standins.OWN])


def test_a_run_takes_the_seeds_that_are_there_and_never_fewer_than_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(base_of, "FOLDER", tmp_path)
    for name in ("seed0", "seed2", "seed11", "seed4", "seedling"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    (tmp_path / "seed3").mkdir()  # a training that has not ended
    assert standins.committed() == (0, 2, 4, 11)
    for n, taken in ((1, (0,)), (3, (0, 2, 4)), (4, (0, 2, 4, 11))):
        monkeypatch.setitem(small.SIZES, "cpu", dataclasses.replace(small.SIZES["cpu"], seeds=tuple(range(n))))
        assert small.seeds("cpu") == taken
        assert {job.arguments["seed"] for job in small.jobs("cpu")} == set(taken)
    monkeypatch.setitem(small.SIZES, "cpu", dataclasses.replace(small.SIZES["cpu"], seeds=tuple(range(5))))
    with pytest.raises(UserError, match=r"SEEDS=5: 4 story tellers are there, of seeds \[0, 2, 4, 11\].*--seeds 12"):
        small.jobs("cpu")


def test_a_base_below_its_bars_stops_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(base_of, "FOLDER", tmp_path)
    monkeypatch.setattr(standins, "FOLDER", tmp_path / "arms")
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    assert standins.committed() == () and small.seeds("cpu") == small.SIZES["cpu"].seeds[:1]
    with pytest.raises(ModelError, match="the stand-in of seed 0 is missing: run `python -m common.standins.stories"):
        standins.base(0)
    folder = tmp_path / "seed0"
    folder.mkdir()
    card = {"test": {"unit": 0.98, "D2": 0.85}}
    (folder / "training.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="has {'unit': 0.98, 'D2': 0.85} on unseen stories and needs {'unit': 0.97, 'D2': 0.9}"):
        small.start(0, "cpu")
    with pytest.raises(ModelError, match="nothing can be measured on it"):
        small.run(0, "streaming", "cpu")


def test_an_arm_that_is_not_committed_is_tuned_once(tmp_path, monkeypatch):
    monkeypatch.setattr(base_of, "FOLDER", tmp_path)
    monkeypatch.setattr(standins, "FOLDER", tmp_path / "arms")
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    base_of.build(0).half().save_pretrained(tmp_path / "seed0")
    stories.tokenizer().save_pretrained(tmp_path / "seed0")
    (tmp_path / "seed0" / "training.json").write_text(json.dumps({"test": {"unit": 1.0, "D2": 1.0}}))
    how = standins.Tuning(steps=1, rows=2)
    model, facts = standins.tuned(0, "streaming", how)
    again, same = standins.tuned(0, "streaming", how)
    assert torch.equal(model.lm_head.weight, again.lm_head.weight) and facts["weights_sha256"] == same["weights_sha256"]
    assert len(list((tmp_path / "cache" / "streamingthinker-arms").iterdir())) == 1
