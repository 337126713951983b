"""The harness around the method: every claim has somebody who measures it; jobs, tables, pictures, stand-ins; a run in the small."""

import importlib
import inspect
import json
import random

import pytest
import torch

from common.runs.experiment import every_job

from .. import baselines, heads, pictures, quantities, quantities_letter, quantities_whisper, standins, tables
from .. import eval as harness
from ..data import batch_of
from ..decoding import Streamed
from ..experiments import arms, exact, speech, text
from ..method import Law, forward, read_path
from ..scoring import auroc, earliest, operating, quality
from ..tasks import Task
from .made_up import CLAIMS, of_abstracts, of_realtext, of_speech, of_speed, of_text, of_whisper


def of(claim):
    return claim["id"].partition("/")[2]


def test_every_claim_is_measured_blocked_or_not_checkable():
    counted = quantities.exact({}, "analytic") | quantities_letter.exact({}, "analytic")
    run = quantities.text(of_text()) | quantities.speed(of_speed())
    asked = quantities.words(of_speech()) | quantities.spoken(of_speech()) | quantities_whisper.whisper(of_whisper())
    asked |= quantities_letter.abstracts(of_abstracts()) | quantities_letter.realtext(of_realtext())
    assert {*asked} == {claim for e in harness.EXPERIMENTS for claim in e.claims} and not {*run} & {*asked}
    for claim in CLAIMS:
        if claim.get("status") != "not-checkable":
            here = {"analytic": counted, "cpu-small": {*run, *asked}}.get(claim["rung"], ())
            assert of(claim) in here or claim.get("blocked_by"), claim["id"]
    assert {*counted, *run, *asked} <= {of(claim) for claim in CLAIMS}


@pytest.mark.numerics
def test_figures_that_arithmetic_does_not_give_are_named():
    from .made_up import verdict

    counted = quantities.exact({}, "analytic")
    words = {name: verdict(name, counted)[0] for name in counted}
    assert {name for name in words if words[name] == "does-not-add-up"} == {"C4a", "C5d", "C13b"}
    assert {name for name in words if words[name] == "opposes"} == {"C15a"}
    assert {name for name in words if words[name] == "supports"} == {"C7b", "C10a", "C13c", "C15"}
    impossible = CLAIMS.find("C5c")
    assert impossible["status"] == "not-checkable"
    assert "AIL_batch - AIL = mean M (1 - RCO)" in impossible["note"] and "6.74" in impossible["note"]


def test_required_claims_and_headlines_are_about_what_the_runs_measure():
    required = {of(claim) for claim in CLAIMS if claim.get("required")}
    assert 3 <= len(required) <= 6 and required <= {*quantities.text(of_text())}
    assert len(CLAIMS.headlines) == 4
    assert all(h["shows"] in {*quantities.text(of_text()), *quantities.spoken(of_speech())} for h in CLAIMS.headlines)


def test_the_papers_size_is_measured_by_runs_of_the_committed_configs():
    from ..experiments.paper import NAMES

    configs = {path.stem for path in (harness.HERE / "configs" / "cuda").glob("*.yaml")}
    assert configs - {"qwen25-3b_dialogsum"} == set(NAMES) - {"qwen2-audio-7b_spoken-squad"}
    everything = {of(c) for c in CLAIMS if c["rung"] == "paper-scale" and c.get("status") != "not-checkable"}
    ways = {way: {"bleu": 1.0, "f1": 2.0, "accuracy": 3.0} for way in ("batch", "wait-9", "entropy", "attention")}
    assert {*quantities.paper({"paper": dict.fromkeys(NAMES.values(), ways)})} == everything
    assert quantities.paper({"paper": {}}) == {} and quantities.paper({"paper": {"choice qa": ways}})["C7"]["value"] == 3


# -- tables and pictures, from made-up results --------------------------------------------------------------
def test_tables_and_pictures_show_every_arm(tmp_path):
    found = of_text()
    lines = "\n".join(tables.of_text(found, "smoke"))
    for name in ("start", *text.QA, *text.MT):
        assert tables.ARMS[name] in lines, name
    assert "attention head" in lines and "by lots" in lines and "re-encoding, wait-3" in lines and "overturned" in lines
    assert "39 of 39 models unchanged" not in lines and "models unchanged" in lines and "0 streams of 6 models differ" in lines
    assert {path.name for path in pictures.of_text(found, "smoke", tmp_path)} == {"fronts.svg", "plane.svg"}
    assert "trained for each k (GPE)" in (tmp_path / "plane.svg").read_text()
    spoken = of_speech()
    assert "stride of 2.00" in "\n".join([*tables.of_words(spoken), *tables.of_spoken(spoken)])
    assert [path.name for draw in (pictures.of_words, pictures.of_spoken) for path in draw(spoken, "smoke", tmp_path)] == [
        "words.svg", "spoken.svg"]
    assert "3 processes" in "\n".join(tables.of_speed(of_speed()))


def test_exact_figures_are_those_of_the_specification():
    found = exact.figures()
    assert round(100 * found["saved"]["choice qa"]["with probes"], 2) == -23.71 and found["unseen"] == {
        "multinomial": 0, "slack": pytest.approx(1 / 3)}


# -- jobs --------------------------------------------------------------------------------------------------
def test_every_job_names_a_function_with_these_arguments():
    for jobs, count in ((text.jobs(), 3 * (2 + len(text.QA) + 1 + len(text.MT))), (speech.jobs(), 1 + 3 * 3 + 2),
                        (speech.question_jobs(), 1 + 3 * 3 + 3)):
        for job in jobs:
            module, name = job.function.split(":")
            inspect.signature(getattr(importlib.import_module(module), name)).bind(**job.arguments)
        assert len({(job.function, json.dumps(job.arguments, sort_keys=True)) for job in jobs}) == len(jobs) == count


def test_a_job_depends_on_what_computes_and_on_nothing_that_shows():
    for job in {job.function: job for job in every_job(harness.EXPERIMENTS)}.values():
        names = {path.name for path in job.sources()}
        assert not names & {"eval.py", "quantities.py", "tables.py", "pictures.py", "analytic.py", "reported.py", "claims.yaml"}, job.name
        if not job.name.startswith(("speed/", "letter/")):
            assert {"method.py", "module.py", "heads.py", "decoding.py", "scoring.py", "tasks.py", "interaction.py"} <= names, job.name
            assert any(path.match("standins/qa/seed0/model.safetensors") for path in job.sources()), job.name


def test_smoke_walks_every_job_at_another_size():
    def kinds(jobs):
        return {(job.name.rpartition("/seed")[0], job.function) for job in jobs if "/made/" not in job.name}

    assert kinds(every_job(harness.EXPERIMENTS, "smoke")) == kinds(every_job(harness.EXPERIMENTS, "cpu"))


# -- arms --------------------------------------------------------------------------------------------------
def test_arms_are_what_they_are_called():
    def of(name):
        return tuple(vars(arms.ARMS[name]).values())

    assert of("full") == (1, 1, 0.1, None, 1, False) and of("no distillation") == (1, 1, 0, None, 1, False)
    assert of("no MSLM") == (1, 0, 0.1, None, 1, False) and of("batch only") == (1, 0, 0, None, 1, False)
    assert of("MSLM only") == (0, 1, 0, None, 1, False) and of("labelled") == (0, 1, 0, None, 1, True)
    assert of("plain law") == (1, 1, 0.1, "multinomial", 1, False)
    assert [of(f"wait-{k}") for k in (1, 3, 5)] == [(0, 1, 0, "waitk", k, False) for k in (1, 3, 5)]


@pytest.fixture(scope="module")
def run():
    torch.set_num_threads(1)
    return text.run("qa", 0, "full", "smoke")


def test_a_run_sweeps_heads_over_one_model_that_does_not_move(run):
    assert run["weights"][0] == run["weights"][1] and {*run["heads"]} == {"max-prob", "margin", "attention", "linear"}
    assert run["always read"]["differs"] == 0 and run["always read"]["probes"] > run["batch"]["probes"]
    assert run["batch"]["RCO"] == 1 and run["batch"]["AIL"] == pytest.approx(24 * 3 / 4, rel=0.2) and 0 < run["auroc"] <= 1
    assert len(run["entropy"]["test"]) == len(run["entropy"]["threshold"]) == 3 and run["entropy"]["threshold"][0] == 0.5
    assert {*run["lots"]} == {*run["heads"], "early"}
    for lots, of, point in ((run["random"], run["entropy"], "chosen"), (run["lots"]["early"], run["entropy"], "early"),
                            *((run["lots"][name], of, "chosen") for name, of in run["heads"].items())):
        assert lots["matched to"] == of["calibration"][of[point]]["RCO"]


def test_a_sweep_that_moves_a_weight_is_an_error():
    from common.errors import RecordError

    (loaded, _), how = standins.standin("qa", 0), text.how_of("qa", "smoke")

    def touches(streamer):
        with torch.no_grad():
            next(streamer.model.parameters()).add_(1e-3)
        return {}

    with pytest.raises(RecordError, match="changed the weights"):
        arms.measured(loaded.model, None, Task("qa"), how, 0, False, touches)


def test_thresholds_come_from_calibration_and_never_from_test(monkeypatch):
    (loaded, _), how = standins.standin("qa", 0), text.how_of("qa", "smoke")
    streamer = arms.Streamer(loaded.model, None, Task("qa"), how)
    sources = {split: {tuple(i.example.source.tolist()) for i in items} for split, items in (
        ("calibration", streamer.calibration), ("test", streamer.test))}
    assert not sources["calibration"] & sources["test"]
    first = arms.swept(streamer, heads.Entropy(), (0.5,))
    streamer.test = streamer.test[:1]
    assert arms.swept(streamer, heads.Entropy(), (0.5,))["threshold"] == first["threshold"]


@pytest.mark.parametrize("name", ["qa", "mt"])
def test_thresholds_are_of_answers_that_were_written_with_everything_read(name, double):
    """Every decision of batch processing once, and its score that of one pass over that answer under a mask that hides nothing: behind
    words that were guessed too soon a model is unsure whatever it reads, and such scores once let it write anywhere."""
    loaded, _ = standins.standin(name, 0)
    task, model = Task(name), loaded.model.double()
    streamer = arms.Streamer(model, None, task, text.how_of(name, "smoke"))
    streams, probe = streamer.whole
    scores = iter(heads.Entropy().score(probe).tolist())
    expected = []
    for item, out in zip(streamer.calibration, streams):
        assert not out.truncated and {*out.delays} == {item.example.n_units}
        example = arms.answered(item, out)
        batch, _ = batch_of([example], [[len(example.source_units) - 1] * (len(out.units) + 1)])
        with torch.no_grad():
            logits = forward(model, batch)[0]
        logits[:, list(task.boundary.banned)] = float("-inf")
        begin = torch.tensor(example.target_units[:-1]).cumsum(0)
        expected.extend(heads.Entropy().score(heads.Probe(logits[begin - 1], begin, begin)).tolist())
    assert sorted(scores) == pytest.approx(sorted(expected), rel=1e-6) and len(expected) == sum(len(s.units) + 1 for s in streams)


def test_linear_heads_learn_from_right_answers_at_any_prefix():
    """Its own answers, cut anywhere: what is read there, which unit, and whether that is what everything read gives."""
    (loaded, _), task = standins.standin("qa", 0), Task("qa")
    streamer = arms.Streamer(loaded.model, None, task, text.how_of("qa", "smoke"))
    found = arms.prefixes(streamer, 0)
    n, units = len(streamer.calibration), 3
    assert len(found.same) == arms.PATHS * n * units and found.hidden.shape[1] == 64
    assert found.unit.tolist() == list(range(units)) * (arms.PATHS * n) and {*found.stream.tolist()} == set(range(n))
    assert found.read.min() >= 1 and found.read.max() <= 25 and found.read.float().std() > 5
    whole = found.read == 25
    assert bool(found.same[whole].all()) and not bool(found.same[found.read < 4].all())
    assert torch.equal(arms.prefixes(streamer, 0).read, found.read) and not torch.equal(arms.prefixes(streamer, 1).read, found.read)


def test_short_answers_learn_their_end_before_the_source_has_ended():
    """What the plain law cannot: the last row of its paths, which is the end, has read everything always."""
    def ends(law):
        return [read_path(Law(law), 25, 3, random.Random(i))[-1] for i in range(50)]

    assert {*ends("multinomial")} == {25} and min(ends(text.how_of("qa", "cpu").law)) < 22
    assert text.how_of("mt", "cpu").law == "multinomial" and speech.how_of("spoken", "cpu").law == "slack"


def test_speech_without_any_answer_still_has_a_latency(monkeypatch):
    """A model that ends every answer at once: a row that a picture and a claim can read, 0 as in units."""
    (loaded, _), how = standins.standin("qa", 0), text.how_of("qa", "smoke")
    streamer = arms.Streamer(loaded.model, None, Task("qa"), how)
    monkeypatch.setattr(streamer, "streams", lambda items, policy: [Streamed(ended_at=1) for _ in items])
    assert "AIL s" not in streamer.row(streamer.test, baselines.WaitK(1))
    monkeypatch.setattr(Task, "spoken", property(lambda task: True))
    monkeypatch.setattr(Task, "_words", lambda task: [str(i) for i in range(task.vocabulary)])
    row = streamer.row(streamer.test, baselines.WaitK(1))
    assert row["AIL s"] == row["AIL"] == row["quality"] == 0 and row["no output"] == len(streamer.test)


# -- scoring -----------------------------------------------------------------------------------------------
def test_auroc_by_hand():
    assert auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auroc([1, 1, 1, 1], [True, False, True, False]) == 0.5 and auroc([2, 1], [True, False]) == 1
    with pytest.raises(ValueError, match="both kinds"):
        auroc([1, 2], [True, True])


def test_the_operating_point_is_the_best_that_reads_no_more():
    rows = [{"quality": 99, "RCO": 0.9}, {"quality": 95, "RCO": 0.7}, {"quality": 95, "RCO": 0.6}, {"quality": 50, "RCO": 0.2}]
    assert [operating(rows, most) for most in (1.0, 0.75, 0.5, 0.1)] == [0, 2, 3, 3]


def test_the_least_context_that_keeps_so_much_is_of_the_same_streams():
    rows = [{"quality": 100.0, "RCO": 0.9}, {"quality": 99.0, "RCO": 0.6}, {"quality": 99.5, "RCO": 0.7}, {"quality": 98.9, "RCO": 0.2}]
    assert earliest(rows, 100.0) == (1, True), "as much as .99 keeps it"
    assert earliest(rows, 100.1) == (2, True) and earliest(rows, 99.8) == (3, True)
    assert earliest(rows, 102.0) == (0, False), "none: the best"


def test_what_is_wrong_altogether_has_a_quality_of_0_however_long_it_is():
    """An error rate has no bound; a share that is kept, and points between two qualities, need one."""
    items = Task("qa").items(2, "test")
    gold = [[[t] for t in i.example.target[1:-1].tolist()] for i in items]
    runs_on = [Streamed(units=[[6]] * 30, delays=[1] * 30) for _ in items]
    wrong = quality(Task("qa"), runs_on, items)
    assert wrong["quality"] == 0 and wrong["error rate"] >= 1400 and wrong["exact"] == 0  # 28 of 30 words more than there are to write
    half = quality(Task("qa"), [Streamed(units=gold[0]), Streamed()], items)
    assert (half["quality"], half["error rate"], half["exact"], half["right"]) == (50, 50, 50, [1, 0])
    assert quality(Task("qa"), [Streamed(units=units) for units in gold], items)["quality"] == 100


def test_thresholds_are_quantiles():
    scores = [0.1 * i for i in range(11)]
    assert heads.threshold(scores, 0.9) == pytest.approx(0.1) and heads.threshold(scores, 0.9, "stream") == pytest.approx(0.9)
    for bad in (([], 0.5), (scores, 1.5)):
        with pytest.raises(ValueError, match="threshold"):
            heads.threshold(*bad)


def test_heads_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1.0, 1e-30, 1e-30]], dtype=torch.float64))
    probe = heads.Probe(logits, torch.tensor([1, 2]), torch.tensor(0))
    assert heads.MaxProb().score(probe).tolist() == pytest.approx([0.5, 1])
    assert heads.Margin().score(probe).tolist() == pytest.approx([0.25, 1])
    assert heads.Entropy().score(probe).tolist() == pytest.approx([1 - 1.5 * 0.6309297, 1], abs=1e-6)
    banned = probe._replace(logits=torch.tensor([[0.0, 0.0, float("-inf"), float("-inf")]]))
    assert heads.Entropy().score(banned).tolist() == pytest.approx([0.5])
    weights = torch.zeros(1, 2, 2, 4)
    weights[0, 1] = torch.tensor([[0.0, 0.5, 0.25, 0.0], [0.0, 0.1, 0.1, 0.1]])
    of = probe._replace(attention=weights)
    assert heads.Attention().score(of).tolist() == pytest.approx([(0.75 + 0.3) / 2])
    assert heads.Attention("largest").score(of).tolist() == pytest.approx([(0.5 + 0.1) / 2])
    assert heads.Attention(layers=(0, 1)).score(of).tolist() == pytest.approx([1.05 / 4])
    for bad in ((0, 1), (1, -1)):
        with pytest.raises(ValueError, match="wait-k"):
            baselines.WaitK(*bad)


def test_a_linear_head_learns_what_is_linear_and_moves_nothing_else():
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(200, 6, generator=draw, requires_grad=True)
    labels = hidden[:, 2] - 0.5 * hidden[:, 0] > 0.3
    head = heads.Linear(6)
    assert head.fit(hidden, labels) < 0.3 and hidden.grad is None
    scores = head.score(heads.Probe(torch.zeros(200, 3), torch.zeros(200), torch.zeros(200), hidden))
    assert auroc(scores.tolist(), labels.tolist()) > 0.99 and not scores.requires_grad
    with pytest.raises(ValueError, match="nothing to tell apart"):
        head.fit(hidden, torch.ones(200))


# -- time --------------------------------------------------------------------------------------------------
def test_timings_are_of_the_same_work(monkeypatch):
    """Every way once a round; probes leave nothing behind; the two streams are as long as they should be."""
    from ..experiments import speed

    lengths = []
    original = speed._probe
    monkeypatch.setattr(speed, "_probe", lambda streams, token: (original(streams, token), lengths.append(
        (streams.source_length, streams.target_length))))
    found = speed.timed(0, "smoke")
    of = speed.SIZES["smoke"]
    assert all(len(found[way]) == of.rounds for way in ("decode", "probe", "read late", "read early", "encode again", "encode early"))
    assert {target for _, target in lengths} == {0} and min(source for source, _ in lengths) >= of.late
    assert [job.name for job in speed.jobs("cpu")] == ["speed/process0", "speed/process1", "speed/process2"]
