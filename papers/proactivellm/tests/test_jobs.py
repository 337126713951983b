"""The jobs of each experiment in the small, without a training: which task, which arm, which streams, in what order. What is trained
and streamed is replaced by what notes how it was called."""

from types import SimpleNamespace as Of

import pytest
import torch
from torch import nn

from .. import analytic, baselines, standins
from ..experiments import arms, exact, multi30k, speech, text
from ..tasks import FEATURES
from .spies import HOW, Stub, bound


# -- text --------------------------------------------------------------------------------------------------
@pytest.fixture
def asked(monkeypatch):
    """Calls of what trains and measures: (name, arguments)."""
    seen = []
    trained, measured = arms.trained, arms.measured
    monkeypatch.setattr(arms, "trained", lambda *of: seen.append(("trained", bound(trained, of, {}))) or ("model", "encoder", 0.5))
    monkeypatch.setattr(arms, "measured", lambda *of: seen.append(("measured", bound(measured, of, {}))) or {"measured": True})
    for module in (text, speech):
        monkeypatch.setattr(module, "standin", lambda *of: seen.append(("standin", of)) or (Of(model="base", source="source"), "ears"))
    return seen


@pytest.mark.parametrize("task", ["qa", "mt"])
def test_the_stand_in_is_measured_as_it_is(task, asked):
    assert text.start(task, 4, "smoke") == {"model": "source", "measured": True}
    (_, of), (_, how) = asked
    assert of == (task, 4) and (how["model"], how["encoder"], how["seed"], how["all_heads"]) == ("base", "ears", 4, False)
    assert (how["task"].name, how["task"].seed) == (task, 4) and how["how"] == text.how_of(task, "smoke")
    streamer = Stub()
    more = how["more"](streamer)
    assert {*more} == ({"reencoded"} if task == "mt" else set())
    if task == "mt":
        assert [*more["reencoded"]] == ["1", "3", "5"] and [(s, p.k, o) for _, s, p, o in streamer.asked] == [
            ("test", k, {"reencode": True}) for k in (1, 3, 5)]


@pytest.mark.parametrize("task, arm, all_heads, more", [
    ("qa", "full", True, set()), ("qa", "no MSLM", False, set()), ("qa", "labelled", False, {"labelled"}), ("mt", "full", True, set()),
    ("revised", "full", False, {"revisions"})])
def test_an_arm_is_measured_on_its_task_and_has_what_is_its_own(task, arm, all_heads, more, asked, monkeypatch):
    assert text.run(task, 4, arm, "smoke") == {"loss": 0.5, "measured": True}
    (_, training), (_, how) = asked
    assert training == {"task": task, "seed": 4, "name": arm, "how": text.how_of(task, "smoke")}
    assert (how["model"], how["encoder"], how["seed"], how["all_heads"], how["how"]) == ("model", "encoder", 4, all_heads, training["how"])
    assert (how["task"].name, how["task"].seed) == (task, 4)
    monkeypatch.setattr(arms, "labelled_head", lambda streamer, seed: ("rival", seed))
    monkeypatch.setattr(arms, "swept", lambda streamer, head, thresholds: (head, thresholds))
    monkeypatch.setattr(text, "revisions", lambda streamer: streamer)
    streamer = Stub()
    own = how["more"](streamer)
    assert {*own} == more
    if more == {"labelled"}:
        assert own["labelled"] == (("rival", 4), text.how_of(task, "smoke").fewer)
    if more == {"revisions"}:
        assert own["revisions"] is streamer


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_model_for_one_k_is_streamed_by_that_k(k, asked, monkeypatch):
    made = []
    monkeypatch.setattr(text, "Streamer", lambda *of: made.append(of) or Stub())
    monkeypatch.setattr(Stub, "row", lambda self, items, policy: (self.split(items), policy.k, policy.stride))
    assert text.run("mt", 4, f"wait-{k}", "smoke") == {"loss": 0.5, "own": ("test", k, 1.0)}
    assert made[0][:2] == ("model", "encoder") and (made[0][2].name, made[0][2].seed) == ("mt", 4)
    assert made[0][3] == text.how_of("mt", "smoke")


def test_revisions_are_streamed_loosely_and_strictly_and_told_apart(monkeypatch):
    monkeypatch.setattr(text, "overturned", lambda item: item.name in ("t0", "t2"))
    streamer = Stub()
    found = text.revisions(streamer)
    assert {kind: rows["loose"]["of"] for kind, rows in found.items()} == {"overturned": ["t0", "t2"], "plain": ["t1"]}
    for rows in found.values():
        assert rows["strict"]["RCO"] == 0.98 and rows["loose"]["RCO"] == 0.6, "the stricter asks for more"
    assert not [of for of in streamer.asked if of[1] == "calibration"]
    monkeypatch.setattr(text, "overturned", lambda item: True)
    assert {*text.revisions(Stub())} == {"overturned"}, "no stream of a kind, no row"


def jobs_of(found):
    return {job.name: (job.function.rpartition(":")[2], job.arguments, job.after) for job in found}


def test_jobs_of_text(monkeypatch):
    monkeypatch.setitem(text.SIZES, "two", text.Size((0, 9), HOW, HOW, 50))
    found = text.jobs("two")
    by_name, expected = jobs_of(found), {}
    for seed in (0, 9):
        for task, names in (("qa", ("full", "plain law", "no distillation", "no MSLM", "batch only", "MSLM only", "labelled")),
                            ("revised", ("full",)),
                            ("mt", ("full", "batch only", "wait-1", "wait-3", "wait-5"))):
            base = "qa" if task == "revised" else task
            after = (f"{base}/made/seed9",) if seed else ()
            if seed and task != "revised":
                expected[after[0]] = ("made", {"task": base, "seed": 9}, ())
            if task != "revised":
                expected[f"{task}/start/seed{seed}"] = ("start", {"task": task, "seed": seed, "size": "two"}, after)
            expected |= {f"{task}/{name}/seed{seed}": ("run", {"task": task, "seed": seed, "arm": name, "size": "two"}, after)
                         for name in names}
    assert by_name == expected and len(found) == len(expected) and max(job.seconds for job in found) == 50
    assert {job.function.partition(":")[0] for job in found} == {text.__name__}


# -- speech ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task, make", [("words", speech.jobs), ("spoken", speech.question_jobs)])
def test_jobs_of_speech(task, make, monkeypatch):
    monkeypatch.setitem(speech.SIZES, "two", speech.Size((0, 9), HOW, HOW, 1e9))
    found, bank = make("two"), f"speech/{task}/bank"
    expected = {bank: ("bank", {"task": task, "size": "two"}, ())}
    for seed in (0, 9):
        committed = task == "words" and not seed
        after = (bank,) if committed else (f"speech/{task}/made/seed{seed}",)
        if not committed:
            expected[after[0]] = ("made", {"task": task, "seed": seed}, (bank,))
        expected |= {f"speech/{task}/{arm}/seed{seed}": ("run", {"task": task, "seed": seed, "arm": arm, "size": "two"}, after)
                     for arm in ("start", "full", "batch only")}
    assert jobs_of(found) == expected


def test_how_much_of_words_and_of_questions():
    how = speech.SIZES["cpu"]
    assert speech.how_of("words", "cpu") == how.words != how.spoken == speech.how_of("spoken", "cpu")
    assert speech.how_of("words", "cpu", 2.5).stride == 2.5 and how.words.stride == 1.0
    assert text.how_of("mt", "cpu") == text.SIZES["cpu"].mt and text.how_of("revised", "cpu") == text.SIZES["cpu"].qa


@pytest.mark.parametrize("arm", ["start", "full", "batch only"])
def test_speech_is_measured_with_the_stride_of_its_task(arm, asked, monkeypatch):
    strides = []
    monkeypatch.setattr(speech, "units_of_a_word", lambda task: strides.append((task.name, task.seed)) or 2.5)
    found = speech.run("words", 4, arm, "smoke")
    assert found == {"loss": None if arm == "start" else 0.5, "stride": 2.5, "measured": True} and strides == [("words", 4)]
    (name, first), (_, how) = asked
    wanted = speech.how_of("words", "smoke", 2.5)
    assert name == ("standin" if arm == "start" else "trained")
    assert first == (("words", 4) if arm == "start" else {"task": "words", "seed": 4, "name": arm, "how": wanted})
    assert (how["model"], how["encoder"]) == (("base", "ears") if arm == "start" else ("model", "encoder"))
    assert (how["task"].name, how["task"].seed, how["how"], how["seed"], how["all_heads"]) == ("words", 4, wanted, 4, arm == "full")
    streamer = Stub()
    assert [*how["more"](streamer)["plain wait"]] == [f"{k:g}" for k in wanted.ks]
    assert [(split, policy.k, policy.stride) for _, split, policy, _ in streamer.asked] == [("test", 2 * k, 1.0) for k in wanted.ks]


def test_a_stride_is_measured_on_training_items():
    asked = []

    def items(count, split):
        asked.append((count, split))
        return [Of(example=Of(n_units=12), oracle=(0, 0, 0, 0)), Of(example=Of(n_units=10), oracle=(0, 0, 0))]

    assert speech.units_of_a_word(Of(name="words", items=items)) == 4.5 and asked == [(64, "train")]
    assert speech.units_of_a_word(Of(name="spoken", items=items)) == 1.0


def test_the_bank_is_of_training_voices(monkeypatch):
    monkeypatch.setattr(speech, "bank_of", lambda *of: Of(facts=lambda: of))
    assert speech.bank("words") == ("espeak", "train")


# -- recorded digits, captions: walked in full elsewhere -----------------------------------------------------
def test_recorded_digits_go_from_batch_training_to_the_full_arm(monkeypatch):
    from common.training import fit as fitting

    from .. import data, module

    seen, training, generated = [], module.ProactiveTraining, data.Generated

    def new(*args, **options):
        seen.append({"module": bound(training, args, options)})
        return Of(model=nn.Linear(1, 1), encoder=nn.Linear(1, 1), number=len(seen))

    monkeypatch.setattr(module, "ProactiveTraining", new)
    monkeypatch.setattr(data, "Generated", lambda *args, **options: bound(generated, args, options))
    monkeypatch.setattr(fitting, "fit", lambda of, rows, steps: seen[-1].update(data=rows, steps=steps, made=of))
    monkeypatch.setattr(arms, "measured", lambda *of: of)
    monkeypatch.setattr(speech, "units_of_a_word", lambda task: 2.5 if (task.name, task.seed, task.bank) == ("words", 4, "fsdd") else None)
    found = speech.digits(4, "smoke")
    how = speech.how_of("words", "smoke", 2.5)
    base, full = seen
    named = ("learning_rate", "weight_decay", "beta2", "warmup_steps", "features", "seed")
    assert [[*of["module"].values()][1:4] for of in seen] == [[1, 0, 0], [1.0, 1.0, 0.1]]
    assert [[of["module"][k] for k in named] for of in seen] == [[2e-3, 0.01, 0.98, 100, FEATURES, 4], [1e-3, 0.01, 0.98, 10, FEATURES, 4]]
    assert [of["steps"] for of in seen] == [how.steps, how.steps] and base["module"]["schedule"] == "cosine"
    wanted = ("task", "bank", "train_samples", "first", "law", "batch_size", "seed")
    assert [base["data"][k] for k in wanted] == ["words", "fsdd", 32 * how.steps, 0, "batch", how.batch, 4]
    assert [full["data"][k] for k in wanted] == ["words", "fsdd", how.steps * how.batch, 10**6, "multinomial", how.batch, 4]
    assert full["made"].model is base["made"].model and full["made"].encoder is base["made"].encoder
    assert [*found] == ["batch-trained", "full"]
    for of in found.values():
        assert of[:2] == (base["made"].model, base["made"].encoder) and of[2].bank == "fsdd" and of[3:] == (how, 4, False)
    speech.digits(4, "cpu")
    assert seen[-2]["steps"] == 700 and seen[-2]["data"]["train_samples"] == 32 * 700 and seen[-1]["steps"] == 250


def test_every_caption_arm_is_what_it_is_called_and_thresholds_are_of_validation_captions(monkeypatch, tmp_path):
    trained, streamed = [], []
    monkeypatch.setattr(multi30k, "pairs", lambda split: [(f"{split} {i}", f"{split} {i} d", "") for i in range(6)])
    monkeypatch.setattr(multi30k, "tokenizer", lambda texts, pieces: Words(texts, pieces))
    monkeypatch.setattr(multi30k, "cut", lambda words, asked, rows, most: [source for source, _, _ in rows])
    monkeypatch.setattr(multi30k, "Template", Of(of=lambda words, text: Of(stop="stop")))
    monkeypatch.setattr(multi30k, "Boundary", Of(of_tokenizer=lambda words, stop: stop))
    monkeypatch.setattr(multi30k, "load", lambda spec: Of(model=nn.Linear(1, 1), source="base"))
    monkeypatch.setattr(nn.Linear, "save_pretrained", lambda self, folder: None, raising=False)

    def training(*args, **options):
        trained.append({"module": bound(multi30k_training, args, options)})
        return Of(model=nn.Linear(1, 1), loaded=None)

    def fit(module, data, steps):
        trained[-1] |= {"start": module.loaded.model, "data": data, "steps": steps, "end": module.model}

    multi30k_training = multi30k.ProactiveTraining
    monkeypatch.setattr(multi30k, "ProactiveTraining", training)
    monkeypatch.setattr(multi30k, "fit", fit)
    monkeypatch.setattr(multi30k.paper, "full_view", lambda model, head, held, boundary: (held, torch.tensor([0.1, 0.9]))[1]
                        if held == [f"val {i}" for i in range(4)] else None)
    monkeypatch.setattr(multi30k.paper, "streamed", lambda model, test, policy, boundary: streamed.append((model, test, policy)) or policy)
    monkeypatch.setattr(multi30k.paper, "scores", lambda policy, test, words, metric: (
        type(policy).__name__, getattr(policy, "k", None), metric))
    found = multi30k.translate("smoke", 3)
    assert [[*of["module"].values()][1:4] for of in trained] == [[1, 0, 0], [1, 1, 0.1], [1, 0, 0], *[[0, 1, 0]] * 4]
    assert [of["module"]["learning_rate"] for of in trained] == [2e-3] + [1e-3] * 6 and {of["module"]["seed"] for of in trained} == {3}
    assert [(of["data"].law, of["data"].k) for of in trained] == [("multinomial", 1)] * 3 + [("waitk", k) for k in (1, 3, 5, 7)]
    assert all(of["data"].pair == ([f"train {i}" for i in range(6)], [f"val {i}" for i in range(4)]) for of in trained)
    assert {of["data"].seed for of in trained} == {4} and {of["data"].batch_size for of in trained} == {6}
    start = trained[0]["end"]
    assert all(torch.equal(of["start"].weight, start.weight) and of["start"] is not start for of in trained[1:])
    assert {tuple(test) for _, test, _ in streamed} == {tuple(f"test_2016_flickr {i}" for i in range(4))}
    ways = {"batch": ("Always", None, "bleu"), **{f"wait-{k}": ("WaitK", k, "bleu") for k in (1, 3, 5, 7)},
            "entropy, 0.9": ("Decide", None, "bleu"), "attention, 0.9": ("Decide", None, "bleu")}
    assert found["batch-trained"] == found["full"] == found["batch only"] == ways
    assert {k: found[f"trained for wait-{k}"] for k in (1, 3, 5, 7)} == {k: {"own": ("WaitK", k, "bleu")} for k in (1, 3, 5, 7)}
    assert {streamed[0][2].writes, found["lambda"], found["test captions"], found["parameters"]} == {False, 0.1, 4, 2}
    assert [of["steps"] for of in trained] == [multi30k.SIZES["smoke"].base] + [multi30k.SIZES["smoke"].tune] * 6
    by_model = [model for model, _, policy in streamed if type(policy).__name__ == "Always"]
    assert by_model == [of["end"] for of in trained[:3]]


class Words:
    """Of a tokenizer what is asked: learnt from training captions of both languages."""

    def __init__(self, texts, pieces):
        assert pieces == 400 and sorted(texts) == sorted(t for i in range(6) for t in (f"train {i}", f"train {i} d"))

    def __len__(self):
        return 400

    def save_pretrained(self, folder):
        pass


# -- what needs no model -----------------------------------------------------------------------------------
def test_exact_figures_are_gathered_from_where_they_are_worked_out():
    found = exact.figures()
    assert found["lags"] == {"implied": analytic.implied_lag(), "wait-9": analytic.wait_9(2 * 8.71 - 1)}
    assert found["kept"] == analytic.kept() and found["unseen"] == {"multinomial": 0.0, "slack": pytest.approx(1 / 3)}
    for name, row in found["saved"].items():
        assert row == {"paper-style": analytic.saving(name), "with probes": analytic.saving(name, probes=1),
                       "a probe every 8": analytic.saving(name, probes=8)} and len({*row.values()}) == 3
    assert {*found["spreads"]} == {"16, 16", "116, 3"}
    assert found["spreads"]["116, 3"] == {law: analytic.spread_ratio(law, 116, 3) for law in ("naive", "sorted", "dirichlet", "multipath")}
    assert found["spreads"]["16, 16"]["naive"] == analytic.spread_ratio("naive", 16, 16)


def test_stand_ins_and_tuning_never_see_the_same_items():
    """Stand-ins read the training items from 0 on; arms from a million on."""
    assert max(standins.STEPS.values()) * 32 < 10**6 and isinstance(baselines.Random(0.5, 3), baselines.Random)
