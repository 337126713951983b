"""The jobs in the small: which problems, which arm, who moves and who does not, caps and draws."""

import copy
import dataclasses
import json

import pytest
import torch

from common.data import chains as words
from common.reasoning.problems import Chains
from common.reasoning.rollouts import Rollout
from common.standins import reasoner

from .. import method, standins
from ..experiments import chains as small
from ..experiments import strong as better

TINY = small.Size(seeds=(0,), prompts=3, updates=5, every=5, probe=2, probed=2, test=3, samples=2, job_seconds=1)


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    monkeypatch.setitem(small.SIZES, "tiny", TINY)
    how = better.Size(dataclasses.replace(TINY, updates=4, every=2), updates=1, prompts=2, rollouts=4, switches=(2, 4))
    monkeypatch.setitem(better.SIZES, "tiny", how)


@pytest.fixture
def trainings(monkeypatch):
    """Every training of the test that did not run: (module, data, updates, callbacks)."""
    seen = []
    monkeypatch.setattr(small, "learn", lambda training, data, updates, callbacks: seen.append((training, data, updates, callbacks)))
    monkeypatch.setattr(small, "columns", lambda history: {})
    monkeypatch.setattr(small, "measured", lambda *_: {})
    return seen


# -- splits ------------------------------------------------------------------------------------------------
def test_no_problem_is_in_two_splits_by_number_and_no_draw_is_shared():
    """What trains, what the gate and the probes read, and what is scored are problems of three splits; each is drawn from its own."""
    data = Chains(8)
    by_split = {split: [data.problem(i, split) for i in range(96)] for split in ("train", "val", "test")}
    for i in range(96):
        drawn = {split: by_split[split][i].prompt for split in by_split}
        assert len(set(drawn.values())) > 1, i  # one number, three draws
    for split, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert [p.prompt for p in by_split[split]] != [p.prompt for p in by_split[other]]
    assert words.SPLITS == {"train": 0, "val": 1, "test": 2}


def test_scores_are_of_test_problems_and_curves_of_validation(monkeypatch):
    asked = []
    problem = Chains.problem
    monkeypatch.setattr(Chains, "problem", lambda self, number, split: asked.append((split, number)) or problem(self, number, split))
    model, teacher = standins.student(0, "weak")[0], standins.teacher(0)[0]
    small.measured(model, teacher, TINY, 0)
    assert set(asked) == {("test", i) for i in range(TINY.test)}
    asked.clear()
    small.probed(small.distilling(standins.student(0, "weak"), teacher, small.config(small.SR, TINY), 0) | Given(model), TINY, 0)
    assert set(asked) == {("val", i) for i in range(TINY.probe)}


class Given:
    """A training that has its model: `training | Given(model)`."""

    def __init__(self, model):
        self.model = model

    def __ror__(self, training):
        training.model = self.model
        return training


# -- an arm is what it is called ---------------------------------------------------------------------------
EXPECTED = {  # prefix, lambda, most tokens trained on, mix
    "SF": ("student", 0.0, 170, "linear"), "mix 0.25": ("student", 0.25, 170, "linear"), "mix 0.5": ("student", 0.5, 170, "linear"),
    "mix 0.75": ("student", 0.75, 170, "linear"), "SR": ("student", 1.0, 170, "linear"), "TF": ("teacher", 0.0, 170, "linear"),
    "TR": ("teacher", 1.0, 170, "linear"), "short SF": ("student", 0.0, 12, "linear"), "short SR": ("student", 1.0, 12, "linear"),
    "curriculum": ("student", 1.0, 170, "linear"), "ladder": ("student", 1.0, 170, "linear"),
    "by entropy": ("student", 1.0, 170, "by_entropy"), "SF again": ("student", 0.0, 170, "linear"),
    "shuffled": ("student", 0.0, 170, "linear")}


@pytest.mark.parametrize("name", small.ARMS)
def test_the_arm_is_the_arm(name, trainings):
    small.run(0, name, "tiny")
    (training, data, updates, callbacks), = trainings
    config = training.config
    assert (config.prefix, config.lam, config.max_new_tokens, config.mix) == EXPECTED[name]
    assert config.estimator == "full" and not config.truncated and config.prompts_per_step == 3 and config.rollouts_per_prompt == 1
    assert (updates, data.count, data.seed) == (5, 15, 1000 if name == "SF again" else 0) and training.trajectories is None
    gates = [callback.gate for callback in callbacks if hasattr(callback, "gate")]
    asked = {"curriculum": [0.85], "ladder": [0.0]}.get(name, [])
    assert [(g.ladder, g.h_min, g.relative, g.on_fail) for g in gates] == [((12, 24, 48, 96, 170), h, True, "rollback") for h in asked]
    ours, theirs = standins.student(0, "weak")[0], standins.teacher(0)[0]
    assert torch.equal(training.given[0].lm_head.weight, ours.lm_head.weight)
    assert torch.equal(training.given_teacher[0].lm_head.weight, theirs.lm_head.weight) != (name == "shuffled")
    again = training.seed
    small.run(0, "SF", "tiny")
    assert (trainings[-1][0].seed == again) != (name == "SF again"), "all arms of a seed draw alike, but the one that repeats"


def test_mixtures_are_the_ends_and_what_lies_between():
    assert [small.ARMS[name].lam for name in small.MIXED] == [0, 0.25, 0.5, 0.75, 1]
    assert len({dataclasses.replace(small.ARMS[name], lam=0) for name in small.MIXED}) == 1


def test_a_shuffled_teacher_is_as_sure_everywhere_and_of_other_words():
    teacher = standins.teacher(0)[0]
    other = small.teacher_of(small.ARMS["shuffled"], 0)
    ids = torch.randint(3, len(words.WORDS), (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = teacher(input_ids=ids).logits, other(input_ids=ids).logits
    assert torch.allclose(ours.sort(-1).values, theirs.sort(-1).values, rtol=1e-5, atol=1e-5)
    assert (ours.argmax(-1) != theirs.argmax(-1)).double().mean() > 0.8
    assert torch.equal(teacher.get_input_embeddings().weight, other.get_input_embeddings().weight)


# -- who moves ---------------------------------------------------------------------------------------------
def test_the_student_moves_the_teacher_does_not_and_a_job_repeats_itself(monkeypatch):
    """A short horizon trains on short responses, and is scored on whole ones."""
    teachers = []
    original = small.teacher_of
    monkeypatch.setattr(small, "teacher_of", lambda arm, seed: teachers.append(original(arm, seed)) or teachers[-1])
    found = small.run(0, "short SR", "tiny")
    assert found["moved"] > 1e-3 and len(found["history"]["length"]) == 5 and [row[0] for row in found["curve"]] == [0, 5]
    fresh = standins.teacher(0)[0].state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in teachers[0].state_dict().items())
    assert max(found["history"]["length"]) <= small.SHORT < found["test"]["tokens"]
    assert found["test"]["cap"] == small.CAP == 170 and found["test"]["problems"] == 3 and found["test"]["samples"] == 2
    again = small.run(0, "short SR", "tiny")
    assert json.dumps({**found, "seconds": 0}) == json.dumps({**again, "seconds": 0})


def test_the_curriculum_decides_after_every_stage_and_says_so():
    found = small.run(0, "ladder", "tiny")
    assert [row["step"] for row in found["decisions"]] == [1, 2, 3, 4] and all(row["action"] == "advance" for row in found["decisions"])
    assert [row["next_length"] for row in found["decisions"]] == [24, 48, 96, 170] and max(found["history"]["length"][:1]) <= 12


def test_the_student_as_its_own_teacher_learns_exactly_nothing():
    assert small.itself(0, "tiny") == {"loss": 0.0, "norm": 0.0, "moved": 0.0}


def test_kls_are_those_of_the_method_on_both_sides():
    """A model against itself has none; against its teacher both are positive, and they differ."""
    data, model, teacher = Chains(1), standins.student(0, "weak")[0], standins.teacher(0)[0]
    problems = [data.problem(i, "test") for i in range(3)]
    rollouts = [Rollout(i, tuple(data.words.convert_tokens_to_ids(list(words.essential(p.gold)))), True) for i, p in enumerate(problems)]
    assert small.divergences(model, model, problems, rollouts) == [0.0, 0.0]
    forward, reverse = small.divergences(model, teacher, problems, rollouts)
    assert forward > 0 and reverse > 0 and forward != reverse
    assert small.divergences(teacher, model, problems, rollouts) == pytest.approx([reverse, forward], rel=1e-6)


def untrained(seed, strength):
    return reasoner.build(seed, standins.DECODER), words.tokenizer(), {"name": "in memory"}


# -- the better student ------------------------------------------------------------------------------------
def test_rl_starts_from_the_weights_at_both_switches(monkeypatch):
    started = []

    def reinforced(model, how, seed):
        started.append(copy.deepcopy(model.state_dict()))
        return {}

    monkeypatch.setattr(better, "reinforced", reinforced)
    monkeypatch.setattr(standins, "student", untrained)
    found = better.run(0, "SF", "tiny")
    assert list(found["rl"]) == ["2", "4"] and len(started) == 2
    begun = reasoner.build(0, standins.DECODER).state_dict()
    moved = [max(float((state[name] - begun[name]).abs().max()) for name in begun) for state in started]
    assert 0 < moved[0] and moved[1] == pytest.approx(found["moved"]) and moved[0] != moved[1]


def test_grpo_scores_before_and_after_on_the_same_problems():
    model = standins.teacher(0)[0]
    before = copy.deepcopy(model.state_dict())
    found = better.reinforced(model, better.SIZES["tiny"], 0)
    assert found["before"].keys() == found["after"].keys() == {"avg", "pass_at", "tokens", "at_cap", "entropy"}
    changed = any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(found["right"]) == 1 and changed == (found["skipped"] == 0)


# -- two end tokens ----------------------------------------------------------------------------------------
def test_a_second_end_changes_a_teachers_last_word_and_nothing_else():
    teacher = standins.teacher(0)[0]
    end, second, never = words.WORDS.index("<eos>"), len(words.WORDS), words.WORDS.index("<pad>")
    other, same = better.widened(teacher, True), better.widened(teacher, False)
    ids = torch.randint(3, len(words.WORDS), (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs, kept = (m(input_ids=ids).logits for m in (teacher, other, same))
    rest = [i for i in range(len(words.WORDS)) if i != end]
    assert torch.equal(theirs[..., second], ours[..., end]) and torch.equal(theirs[..., end], ours[..., never])
    assert torch.equal(theirs[..., rest], ours[..., rest]) and torch.equal(kept[..., : second], ours)
    data = Chains(1)
    problems = [data.problem(i, "test") for i in range(8)]
    for model, stop in ((other, (second,)), (teacher, (end,))):
        rollouts = small.answers(model, data, problems, 1, small.CAP, 0, stop)
        texts = [r.ids[:-1] if r.finished else r.ids for r in rollouts]
        if model is other:
            expected, ended = texts, {r.ids[-1] for r in rollouts if r.finished}
    assert texts == expected and ended == {second}


def test_a_right_answer_is_right_by_whichever_end():
    end, second = words.WORDS.index("<eos>"), len(words.WORDS)
    data = better.TwoEnds(4, 0, (end, second))
    problem = data.problem(0, "test")
    ids = tuple(data.words.convert_tokens_to_ids(list(words.essential(problem.gold))))
    rollouts = [Rollout(0, ids, True), Rollout(0, (*ids[:-1], second), True), Rollout(0, (*ids[:-1], second), False)]
    assert data.grade([problem], rollouts) == [True, True, False] and data.end == (end, second)


@pytest.mark.parametrize("stops, expected", [("one end", (2,)), ("two ends", (2, 30))])
def test_the_audit_stops_where_it_says(stops, expected, monkeypatch):
    seen = []
    learn = small.learn
    monkeypatch.setattr(small, "learn", lambda training, *rest: seen.append(training) or learn(training, *rest))
    monkeypatch.setattr(standins, "student", untrained)
    found = better.ends(0, stops, "tiny")
    assert seen[0].ends == expected == seen[0].config.stop_token_ids and (seen[0].config.lam, seen[0].config.prefix) == (1, "student")
    assert sum(found["ended by"].values()) == pytest.approx(1 - found["test"]["at_cap"])
    assert found["ended by"]["eos2"] == 0 or stops == "two ends"


def test_a_config_of_the_method_is_what_an_arm_becomes():
    config = small.config(small.ARMS["by entropy"], TINY)
    assert isinstance(config, method.DistillConfig) and config.lr == small.RATE == 2e-3 and config.micro_batch_size == 3
