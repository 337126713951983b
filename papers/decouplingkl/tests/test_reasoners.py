"""The bench where both papers meet: On-Policy SFT's reasoners, problems and counts; arms that are what they are called; claims by hand."""

import itertools
import json

import pytest
import torch

from common.data import chains as words
from common.reasoning.problems import Chains
from common.reasoning.rollouts import Rollout
from common.standins import reasoner
from tests.golden import same
from tests.numerics import close

from .. import eval as harness
from .. import quantities, standins, tables
from ..experiments import chains as small
from ..experiments import reasoners
from .made_up import CLAIMS, copied, result, swapped, training, verdict

TINY = reasoners.Size((0,), problems=32, updates=5, prompts=2, rollouts=3, every=5, probe=2, probed=2, test=3, samples=2)
MADE = {  # accuracy, Pass@4, tokens, share at the cap, entropy
    "start": (0.8, 0.95, 66.0, 0.0, 0.14), "SF": (0.84, 0.95, 66.0, 0.0, 0.15), "SR": (0.85, 0.93, 60.0, 0.0, 0.10),
    "TF": (0.84, 0.95, 64.0, 0.0, 0.14), "TR": (0.84, 0.94, 58.0, 0.0, 0.12), "mix 0.25": (0.85, 0.95, 65.0, 0.0, 0.13),
    "mix 0.5": (0.85, 0.95, 64.0, 0.0, 0.12), "curriculum": (0.84, 0.94, 62.0, 0.0, 0.12), "SF again": (0.84, 0.95, 66.5, 0.0, 0.155),
    "SFT, brief": (0.96, 0.99, 16.6, 0.0, 0.02)}


def results(changes=None, seeds=3):
    found = {}
    for seed in range(seeds):
        for number, (arm, values) in enumerate((MADE | (changes or {})).items()):
            made = result(values, seed, number) | ({} if arm == "start" else training(arm, 40, 10))
            made["test"] |= {"samples": 4, "problems": 200, "pass_at": {"1": values[0], "4": values[1]}}
            found[f"reasoners/{arm}/seed{seed}"] = made | ({"model": {"name": "a"}, "teacher": {"name": "b"}} if arm == "start" else {})
    return found


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(reasoners.SIZES, "tiny", TINY)


# -- the same bench ----------------------------------------------------------------------------------------
def test_problems_are_those_of_on_policy_sft():
    """The first unseen ones of the test split, none of which a training asks; validation's are others."""
    data, how = Chains(count=1), reasoners.SIZES["cpu"]
    found = [p.prompt for p in reasoners.held_out(how.test, how.problems)]
    trained = {data.problem(i, "train").prompt for i in range(how.problems)}
    by_hand = itertools.islice((p for i in itertools.count() if (p := data.problem(i, "test").prompt) not in trained), 200)
    assert found == list(by_hand) and not trained & {*found}
    val = [p.prompt for p in reasoners.held_out(how.probe, how.problems, "val")]
    assert val != found[: len(val)] and not trained & {*val}
    assert (how.problems, how.updates, how.prompts, how.rollouts, how.test, how.samples) == (4096, 40, 16, 16, 200, 4)
    assert reasoners.RATE == 5e-4 and reasoners.CAP == 170 == reasoner.CAP


def test_another_reasoner_teaches_and_it_is_a_committed_one():
    assert [reasoners.teacher_of(seed) for seed in range(6)] == [1, 2, 0, 1, 2, 0]
    assert all(reasoners.teacher_of(seed) != seed and reasoners.teacher_of(seed) in reasoner.SEEDS for seed in range(64))


EXPECTED = {"SF": ("student", 0.0), "SR": ("student", 1.0), "TF": ("teacher", 0.0), "TR": ("teacher", 1.0), "mix 0.25": ("student", 0.25),
            "mix 0.5": ("student", 0.5), "curriculum": ("student", 1.0), "SF again": ("student", 0.0), "SFT, brief": ("dataset", 0.0)}


@pytest.mark.parametrize("name", reasoners.ARMS)
def test_the_arm_is_the_arm(name, tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(small, "learn", lambda training, data, updates, callbacks: seen.append((training, data, updates, callbacks)))
    monkeypatch.setattr(small, "columns", lambda history: {})
    monkeypatch.setattr(reasoners, "measured", lambda model, teacher, how, seed: {"teacher": teacher})
    found = reasoners.run(0, name, "tiny")
    (training, data, updates, callbacks), = seen
    config, brief = training.config, name == "SFT, brief"
    assert (config.prefix, config.lam) == EXPECTED[name] and config.max_new_tokens == 170 and config.estimator == "full"
    assert (config.prompts_per_step, config.rollouts_per_prompt, config.lr, config.warmup_steps) == (2, 1 if brief else 3, 5e-4, 0)
    assert (updates, data.count, data.seed, training.cap) == (5, 32, 1000 if name == "SF again" else 0, 170)
    assert isinstance(training, reasoners.Written) == isinstance(data, reasoners.Brief) == brief
    gates = [(c.gate.ladder, c.gate.h_min, c.stage_steps, c.prompts) for c in callbacks if hasattr(c, "gate")]
    assert gates == ([((12, 24, 48, 96, 170), 0.85, 1, 4)] if name == "curriculum" else [])
    ours, theirs = standins.teacher(0)[0], standins.teacher(1)[0]
    assert torch.equal(training.given[0].lm_head.weight, ours.lm_head.weight)
    assert torch.equal(training.given_teacher[0].lm_head.weight, theirs.lm_head.weight) and found["teacher"] is training.given_teacher[0]
    again = training.seed
    reasoners.run(0, "SF", "tiny")
    assert (seen[-1][0].seed == again) != (name == "SF again")


def test_brief_solutions_are_right_and_the_shortest():
    data = reasoners.Brief(8)
    for i in range(8):
        problem = data.problem(i, "test")
        ids = data.solution(problem)
        assert data.grade([problem], [Rollout(0, ids, True)]) == [True] and len(ids) == 7 * problem.gold.k + 2 == problem.gold.essential


def test_written_text_is_learnt_by_its_likelihood_and_no_teacher_is_asked(tiny):
    student = standins.teacher(0)
    found = reasoners.distilling(student, None, reasoners.WRITTEN, TINY, 0)
    found.model = student[0]
    data = reasoners.Brief(4)
    problems = [data.problem(i, "test") for i in range(3)]
    rows = [Rollout(i, data.solution(p), True) for i, p in enumerate(problems)]
    assert len({len(r.ids) for r in rows} | {len(p.prompt) for p in problems}) > 2, "rows are ragged"
    expected = 0.0
    for p, r in zip(problems, rows):
        with torch.no_grad():
            logits = student[0](torch.tensor([[*p.prompt, *r.ids]])).logits[0, len(p.prompt) - 1 : -1]
        expected -= float(logits.double().log_softmax(-1).gather(1, torch.tensor(r.ids)[:, None]).sum())
    close(found.loss_sum(problems, rows).double(), expected, 1e-5)
    blank = found.loss_sum(problems, [])
    assert blank == 0 and blank.requires_grad


@pytest.mark.parametrize("arm", ["TR", "curriculum", "SFT, brief"])
def test_a_job_from_problems_to_scores(arm, tiny):
    found = json.loads(json.dumps(reasoners.run(0, arm, "tiny")))
    assert [row[0] for row in found["curve"]] == [0, 5] and len(found["history"]["length"]) == 5 and len(found["curve"][0]) == 5
    assert (found["test"]["problems"], found["test"]["samples"], found["test"]["cap"]) == (3, 2, 170)
    assert len(found["decisions"]) == 0 if arm != "curriculum" else 1 <= len(found["decisions"]) <= 4
    assert all(value > 0 for both in found["kl"].values() for value in both)


def test_the_start_beside_its_teacher(tiny):
    found = reasoners.start(0, "tiny")
    assert found["model"] == standins.teacher(0)[2] and found["teacher"] == standins.teacher(1)[2] != found["model"]
    assert found["test"]["entropy"] > 0 and set(found["kl"]) == {"teacher", "student"}


def test_jobs_are_the_start_and_the_arms_of_every_seed():
    jobs = {job.name: job for job in reasoners.jobs()}
    assert set(jobs) == {f"reasoners/{name}/seed{s}" for name in ("start", *reasoners.ARMS) for s in reasoners.SIZES["cpu"].seeds}
    assert jobs["reasoners/SR/seed1"].arguments == {"seed": 1, "arm": "SR", "size": "cpu"}
    assert jobs["reasoners/start/seed0"].function.endswith(":start") and jobs["reasoners/SR/seed0"].function.endswith(":run")


# -- claims ------------------------------------------------------------------------------------------------
def test_claims_by_hand():
    found, per_seed = quantities.reasoners(results()), {}
    for arm in MADE:
        per_seed[arm] = [results()[f"reasoners/{arm}/seed{s}"]["test"] for s in range(3)]

    def tokens(arm):
        return [test["tokens"] for test in per_seed[arm]]

    def entropy(arm):
        return [test["entropy"] for test in per_seed[arm]]

    methods = ("SF", "SR", "TF", "TR", "mix 0.25", "mix 0.5", "curriculum")
    left = [min(tokens(arm)[s] for arm in methods) / tokens("start")[s] for s in range(3)]
    shown = ("start", *reasoners.CELLS, "SFT, brief")
    same(found["C18a"], left, placebo=[a / b for a, b in zip(tokens("SFT, brief"), tokens("start"))],
         shown={f"{arm}, tokens": tokens(arm) for arm in shown})
    same(found["C18b"], [a - b for a, b in zip(entropy("SF"), entropy("SR"))],
         placebo=[a - b for a, b in zip(entropy("SF"), entropy("SF again"))], shown={arm: entropy(arm) for arm in shown})
    assert set(found) == {"C18a", "C18b"} == set(next(e for e in harness.EXPERIMENTS if e.name == "reasoners").claims)


def test_words_follow_the_results():
    assert [verdict(c, quantities.reasoners(results()))[0] for c in ("C18a", "C18b")] == ["supports", "supports"]
    for arm in reasoners.CELLS:
        changed = results({arm: (0.8, 0.9, 30.0, 0.0, 0.1)})
        assert verdict("C18a", quantities.reasoners(changed))[0] == "opposes", arm
    assert verdict("C18b", quantities.reasoners(swapped(results(), "SF", "SR", "reasoners/")))[0] == "opposes"
    said = verdict("C18a", quantities.reasoners(copied(results(), "SR", "SFT, brief", "reasoners/")))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1]
    said = verdict("C18b", quantities.reasoners(copied(results(), "SR", "SF again", "reasoners/")))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1]
    assert verdict("C18a", quantities.reasoners(results(seeds=1)))[0] == "inconclusive"
    assert tuple(CLAIMS.find("C18a")["protocol"]["seeds"]) == reasoners.SIZES["cpu"].seeds


def test_the_table_shows_every_arm():
    text = "\n".join(tables.reasoners(results()))
    for arm in reasoners.ARMS:
        assert tables.ARMS[arm] in text, arm
    assert "the reasoner, untouched" in text and "MFLOP" not in text and "curriculum, seed 0: 8: 12" in text and "ladder, seed" not in text


# -- the plane ---------------------------------------------------------------------------------------------
def test_the_points_lie_on_on_policy_sfts_bench():
    planes = pytest.importorskip(f"{__package__.rpartition('.')[0]}.planes", reason="planes stay behind when a paper is copied")
    from common.report.planes import Document, Source, reasoners_bench

    source = Source("command", "price", "record")
    bench = planes.meeting(Document(results(), source))
    empty = reasoners_bench()
    assert (bench.family, bench.key, bench.title, bench.comparable, bench.x, bench.y) == (
        "reasoning", "chains", empty.title, empty.comparable, empty.x, empty.y)
    point = next(p for p in bench.points if p.method == "SR: student's prefixes, reverse KL, from another reasoner")
    assert point.x["value"] == pytest.approx(sum(results()[f"reasoners/SR/seed{s}"]["test"]["tokens"] for s in range(3)) / 3)
    assert point.y["value"] == pytest.approx(100 * sum(results()[f"reasoners/SR/seed{s}"]["test"]["avg"] for s in range(3)) / 3)
    assert {*bench.stands_for.values()} == {"four cells", "mixture", "curriculum"} and len(bench.points) == 9 and not bench.missing
    missing = planes.meeting(Document(None, source))
    assert not missing.points and len(missing.missing) == 9 and words.END not in missing.stands_for
