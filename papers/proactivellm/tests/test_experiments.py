"""Arms, thresholds and scores in the small, without a training: from which weights, on which items and paths, chosen where, scored
where. That it runs, too, is test_harness.py's; the jobs are test_jobs.py's."""

from dataclasses import replace
from types import SimpleNamespace as Of

import pytest
import torch
from torch import nn

from common.errors import ModelError

from .. import heads, standins
from ..experiments import arms
from ..tasks import FEATURES, Task
from .spies import HOW, Stub, bound, look


# -- an arm is what it is called, and starts where all do -------------------------------------------------------
@pytest.fixture
def tuned(monkeypatch):
    """{"module", "data", "steps"} of the trainings that did not run."""
    seen = []
    module, generated = arms.ProactiveTraining, arms.Generated

    def training(*args, **options):
        found = Of(model=nn.Linear(2, 2).train(), encoder=nn.Linear(3, 3).train(), loaded=None, configured=0)
        found.configure_model = lambda: setattr(found, "configured", found.loaded)
        seen.append({"module": bound(module, args, options), "made": found})
        return found

    def data(*args, **options):
        seen[-1]["data"] = bound(generated, args, options)

    def fit(module, data, steps):
        assert module is seen[-1]["made"]
        seen[-1]["steps"] = steps
        return [float(i) for i in range(20)]

    for name, fake in (("ProactiveTraining", training), ("Generated", data), ("fit", fit)):
        monkeypatch.setattr(arms, name, fake)
    return seen


LOSSES = {"full": (1, 1, 0.1), "plain law": (1, 1, 0.1),
          "no distillation": (1, 1, 0), "no MSLM": (1, 0, 0.1), "batch only": (1, 0, 0), "MSLM only": (0, 1, 0),
          "labelled": (0, 1, 0), "wait-1": (0, 1, 0), "wait-3": (0, 1, 0), "wait-5": (0, 1, 0)}


@pytest.mark.parametrize("name", LOSSES)
def test_an_arm_is_tuned_as_it_is_called_from_the_stand_in_of_its_task(name, tuned, monkeypatch):
    base, encoder = Of(), nn.Linear(3, 3)
    asked = []
    monkeypatch.setattr(arms, "standin", lambda *of: asked.append(of) or (base, encoder))
    model, ears, loss = arms.trained("words", 4, name, HOW)
    (found,) = tuned
    module, data = found["module"], found["data"]
    assert asked == [("words", 4)] and found["made"].configured is base and found["steps"] == 7 and {*arms.ARMS} == {*LOSSES}
    assert [module[k] for k in list(module)[1:4]] == list(LOSSES[name])
    recipe = {"learning_rate": 1e-3, "weight_decay": 0.01, "beta2": 0.98, "warmup_steps": 10, "schedule": "linear", "features": FEATURES,
              "seed": 4}
    assert {key: module[key] for key in recipe} == recipe
    law, k = ("waitk", int(name[5:])) if name.startswith("wait-") else ("multinomial" if name == "plain law" else "slack", 1)
    wanted = {"task": "words", "train_samples": 35, "first": 10**6, "law": law, "k": k, "oracle": name == "labelled", "language": 4,
              "batch_size": 5, "seed": 5, "bank": "espeak"}  # the number of an item, the task's draws, the order
    assert {key: data[key] for key in wanted} == wanted
    assert model is found["made"].model and not model.training and ears is found["made"].encoder and not ears.training
    assert torch.equal(ears.weight, encoder.weight) and loss == 14.5, "mean of the last ten steps"


def test_text_has_no_encoder(tuned, monkeypatch):
    monkeypatch.setattr(arms, "standin", lambda *of: (Of(), None))
    assert arms.trained("qa", 0, "full", HOW)[1] is None and tuned[0]["module"]["features"] is None


def test_stand_ins_of_other_seeds_are_made_and_say_so(monkeypatch):
    asked = []
    monkeypatch.setattr(arms, "standin", lambda *of: asked.append(of))
    assert arms.made("qa", 0) == {"task": "qa", "seed": 0, "committed": True}
    assert arms.made("qa", 77) == {"task": "qa", "seed": 77, "committed": False} and asked == [("qa", 0), ("qa", 77)]


def test_a_stand_in_of_a_new_seed_that_did_not_learn_its_task_is_an_error_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(standins, "folder_of", lambda task, seed: tmp_path / "made")
    monkeypatch.setattr(standins, "train", lambda task, seed, folder: {"quality": 96.9})
    with pytest.raises(ModelError, match="mt, seed 77, answers 96.9 of 100 right"):
        standins.standin("mt", 77)
    assert not (tmp_path / "made").exists()
    standins.learnt("mt", 77, {"quality": 97.0})


def test_a_hash_is_of_every_weight_of_every_module():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    first = arms.weights_hash(one, two)
    assert first == arms.weights_hash(one, two) != arms.weights_hash(one, None) == arms.weights_hash(one)
    with torch.no_grad():
        two.bias[1] += 1
    assert arms.weights_hash(one, two) != first


# -- streams: thresholds from calibration, scores from test ------------------------------------------------------
def test_probes_are_flat_and_of_the_last_slot_where_asked():
    step = look()
    assert arms.flat([step]).read.tolist() == [1, 2, 3, 1, 2]
    last = arms.flat([step, step], last=True)
    assert last.read.tolist() == [3, 2, 3, 2]
    assert torch.equal(last.hidden[0], step.probe.hidden[0, 2]) and torch.equal(last.logits[1], step.probe.logits[1, 1])


def test_a_sweep_chooses_on_calibration_streams_and_scores_both(monkeypatch):
    streamer = Stub()
    monkeypatch.setattr(arms, "quality", lambda task, streams, items: {"quality": 7.0 if (streams, items) == (
        streamer.whole[0], streamer.calibration) else None})
    found = arms.swept(streamer, heads.Entropy(), (0.0, 0.5))
    scores = sorted(heads.Entropy().score(arms.flat([look()])).tolist())
    # the last: nine tenths of the five answers' decisions score at least as much (here between the two least)
    quantile = 0.6 * scores[0] + 0.4 * scores[1]
    # the stub's RCO is its threshold, so that the latest is .75: four halvings between the largest that is earlier and 1
    low, high = max(0.5, quantile if quantile <= 0.75 else 0), 1.0
    for _ in range(4):
        low, high = ((low + high) / 2, high) if (low + high) / 2 <= 0.75 else (low, (low + high) / 2)
    assert found["threshold"] == pytest.approx([0.0, 0.5, low, quantile]) and 0.7 < low <= 0.75
    assert [row["of"] for row in found["calibration"]] == ["calibration"] * 4 and [row["of"] for row in found["test"]] == ["test"] * 4
    assert [row["RCO"] for row in found["test"]] == found["threshold"] and found["chosen"] == 2, "the best of those that may be"
    assert (found["early"], found["keeps"]) == (2, True), "of 10 times the threshold it takes 6.93"
    assert len({p.threshold for _, split, p, _ in streamer.asked if split == "calibration"}) == sum(
        split == "calibration" for _, split, _, _ in streamer.asked), "no row twice"
    monkeypatch.setattr(arms, "operating", lambda rows, most: (rows, most))
    monkeypatch.setattr(arms, "earliest", lambda rows, whole: ((rows, whole), False))
    again = arms.swept(streamer, heads.Entropy(), (0.0, 0.5))
    assert again["chosen"] == (found["calibration"], 0.75) and again["early"] == (found["calibration"], 7.0) and again["keeps"] is False


def test_a_heads_latest_threshold_is_its_own():
    """Of a head all of whose scores lie at .97 and more the sweep would leave the operating point at .01 of the context."""
    rco = lambda t: {"RCO": 0.01 if t < 0.97 else (t - 0.97) / 0.03}  # noqa: E731
    assert arms.latest(rco, (0.5, 0.9, 0.98), 0.75) == pytest.approx(0.98 + 0.02 * 10 / 16)  # .683; one step of .0417 more is too late
    assert arms.latest(lambda t: {"RCO": 0.9}, (0.5,), 0.75) == 0.0, "too late everywhere"
    assert arms.latest(lambda t: {"RCO": 0.2}, (0.5,), 0.75) == pytest.approx(1 - 0.5 / 16), "as strict as it gets"


def test_lots_have_the_rco_of_a_point_on_calibration_streams_and_others_on_test_streams(monkeypatch):
    streamer = Stub()
    rco = {"calibration": lambda p: 1 - p, "test": lambda p: 2 * p}
    monkeypatch.setattr(Stub, "row", lambda self, items, policy: self.asked.append(
        (self.split(items), policy.chance, policy.generator.initial_seed())) or {"RCO": rco[self.split(items)](policy.chance)})
    lots = arms.Lots(streamer, 4)
    found = lots.at(0.8)
    assert abs(found["calibration RCO"] - 0.8) <= 0.003 and found["chance"] == pytest.approx(0.2, abs=0.003)
    assert found["RCO"] == 2 * found["chance"] and found["matched to"] == 0.8
    assert {(split, seed) for split, _, seed in streamer.asked[:-1]} == {("calibration", 4)}
    assert streamer.asked[-1] == ("test", found["chance"], 5), "other lots, on test streams, once"
    tried = len(streamer.asked)
    assert lots.at(0.8) == found and len(streamer.asked) == tried + 1, "what was tried is known"
    assert 0.9 < lots.at(2.0)["calibration RCO"] < 1 and len(lots.tried) < 20, "as near as it comes, and it ends"


def test_lots_stand_for_the_points_that_are_judged():
    def sweep(number):
        return {"calibration": [{"RCO": number + i / 10} for i in range(4)], "test": [{"RCO": -1}] * 4, "chosen": 1, "early": 3}

    found = arms.lots_of({"entropy": sweep(0), "heads": {"margin": sweep(1), "linear": sweep(2)}}, Of(at=lambda rco: rco))
    assert found == {"random": 0.1, "lots": {"margin": 1.1, "linear": 2.1, "early": 0.3}}


def test_quantiles_are_of_calibration_streams_that_were_answered_with_everything_read():
    streamer = Stub()
    del streamer.__dict__["whole"]
    streams, probe = streamer.whole
    ((_, split, policy, _),) = streamer.asked
    assert split == "calibration" and policy.writes is False and policy.needs == {"hidden", "attention"}
    assert [out.tokens for out in streams] == [[1, 2], [4]] and probe.read.tolist() == [1, 2, 3, 1, 2]
    assert streamer.whole[1] is probe, "once"


def test_sufficiency_is_of_first_units_and_of_whether_the_evidence_is_read(monkeypatch):
    monkeypatch.setattr(arms, "auroc", lambda scores, labels: (scores, labels))
    streamer = Stub()
    scores, labels = arms.sufficiency(streamer, streamer.test[:2])
    assert labels == [True, True, True, False, True], "evidence of the first stream at 1, of the second at 2"
    step = look()
    assert scores == heads.Entropy().score(step.probe)[step.real].tolist()
    (_, split, policy, _), = streamer.asked
    assert split == ["t0", "t1"] and policy.chance == 0.0
    assert arms.sufficiency(streamer, streamer.test[:2], heads.MaxProb())[0] == heads.MaxProb().score(step.probe)[step.real].tolist()


def test_heads_that_learn_learn_from_calibration_prefixes_without_timing_and_the_rival_from_the_oracle(monkeypatch):
    taught, asked = [], []
    found = arms.Prefixes(torch.randn(5, 4), torch.tensor([True, False, True, True, False]), torch.tensor([1, 2, 2, 1, 2]),
                          torch.tensor([0, 1, 2, 0, 5]), torch.tensor([0, 0, 0, 1, 1]))
    monkeypatch.setattr(heads.Linear, "fit", lambda self, hidden, labels: taught.append((hidden, labels)))
    monkeypatch.setattr(arms, "prefixes", lambda *of: asked.append(of) or found)
    streamer = Stub()
    streamer.calibration = [Of(oracle=(1, 3)), Of(oracle=(2,))]  # units beyond the last ask for as much as it
    assert isinstance(arms.head_of("margin", streamer, 4), heads.Margin) and not taught and not asked
    assert isinstance(arms.head_of("linear", streamer, 4), heads.Linear)
    assert isinstance(arms.labelled_head(streamer, 4), heads.Linear) and asked == [(streamer, 4)] * 2
    (hidden, labels), (first, oracle) = taught
    assert hidden is found.hidden is first and labels is found.same
    assert oracle.tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("all_heads, others", [(True, ()), (False, None), (False, (3,)), (False, ())])
def test_all_that_is_asked_of_a_model(all_heads, others, monkeypatch):
    made, how = [], replace(HOW, other_ks=others)
    monkeypatch.setattr(arms, "Streamer", lambda *of: made.append(Stub(*of)) or made[-1])
    monkeypatch.setattr(arms, "scores", lambda task, streams, items: {"right": [1], "quality": len(items), "task": task})
    monkeypatch.setattr(arms, "sufficiency", lambda streamer, items, head=None: streamer.split(items))
    monkeypatch.setattr(arms, "swept", lambda streamer, head, thresholds: {
        "head": type(head).__name__, "of": thresholds, "chosen": 1, "test": [{"RCO": 0.3}, {"RCO": 0.04}]})
    monkeypatch.setattr(arms, "head_of", lambda name, streamer, seed: {"linear": heads.Linear(2)}.get(name) or heads.HEADS[name]())
    monkeypatch.setattr(arms, "Lots", lambda streamer, seed: (streamer is made[0], seed))
    monkeypatch.setattr(arms, "lots_of", lambda found, lots: {"random": ([*found["heads"]], found["entropy"]["chosen"], lots)})
    model = nn.Linear(2, 2)
    found = arms.measured(model, None, "a task", how, 4, all_heads, lambda streamer: {"more": streamer is made[0]})
    (streamer,) = made
    assert (streamer.model, streamer.task, streamer.how) == (model, "a task", how)
    assert found["batch"] == {"quality": 3, "task": "a task"} and found["auroc"] == "test" and found["more"] is True
    assert found["entropy"] == {"head": "Entropy", "of": HOW.thresholds, "chosen": 1, "test": [{"RCO": 0.3}, {"RCO": 0.04}]}
    ks = (1, 3) if all_heads or others is None else others
    assert found.get("wait", {}) == {str(k): {"quality": 5.0, "RCO": 0.5, "of": "test"} for k in ks}
    waits = [policy for what, _, policy, _ in streamer.asked if what == "row"]
    assert [(policy.k, policy.stride) for policy in waits] == [(k, 2.5) for k in ks]
    read = streamer.asked[0]
    assert (read[0], read[1], read[2].writes) == ("streams", "test", False)
    assert found["weights"] == [arms.weights_hash(model, None)] * 2
    if not all_heads:
        assert {*found} == {"batch", "auroc", "entropy", "more", "weights"} | ({"wait"} if ks else set())
        return
    assert {name: (of["head"], of["of"]) for name, of in found["heads"].items()} == {
        "max-prob": ("MaxProb", (0.7, 0.9)), "margin": ("Margin", (0.7, 0.9)), "attention": ("Attention", (0.7, 0.9)),
        "linear": ("Linear", (0.7, 0.9))}
    assert found["random"] == (["max-prob", "margin", "attention", "linear"], 1, (True, 4))
    assert found["always read"] == {"differs": 1, "probes": 11}
    assert streamer.asked[-1][1] == "test" and streamer.asked[-1][2].threshold == float("inf")


def test_a_task_says_which_heads_it_is_streamed_by(monkeypatch):
    monkeypatch.setattr(arms, "Streamer", Stub)
    monkeypatch.setattr(arms, "scores", lambda task, streams, items: {"right": [1]})
    monkeypatch.setattr(arms, "sufficiency", lambda streamer, items: 0.5)
    monkeypatch.setattr(arms, "swept", lambda streamer, head, thresholds: type(head).__name__)
    monkeypatch.setattr(arms, "lots_of", lambda found, lots: {})
    found = arms.measured(nn.Linear(2, 2), None, "a task", replace(HOW, heads=("entropy", "attention")), 4, True)
    assert (found["entropy"], found["heads"]) == ("Entropy", {"attention": "Attention"})


def test_a_streamer_has_items_of_two_splits_of_its_task(monkeypatch):
    task = Task("qa", 3)
    streamer = arms.Streamer("model", None, task, HOW)
    for split, items, n in (("calibration", streamer.calibration, 11), ("test", streamer.test, 13)):
        assert [i.oracle for i in items] == [task.item(number, split).oracle for number in range(n)]
    assert streamer.join is None and arms.Streamer("model", Of(join="frames"), task, HOW).join == "frames"
    seen = []
    monkeypatch.setattr(arms, "decode", lambda *of, **options: seen.append((of, options)) or "streams")
    assert streamer.streams(streamer.test[:1], "policy", record=[]) == "streams"
    assert seen == [(("model", [streamer.test[0].example], "policy", task.boundary, 4, None), {"record": []})]
    monkeypatch.setattr(arms, "scores", lambda *of: {"right": [1], "of": of})
    assert streamer.row(streamer.test[:1], "policy", reencode=True) == {"of": (task, "streams", streamer.test[:1])}
    assert seen[-1][1] == {"reencode": True}
