"""What the jobs compute, without a training: which students, teachers, problems and draws, and what is kept of a run. What is dear is
replaced by what notes how it was called."""

from types import SimpleNamespace as Of

import pytest
import torch
from torch import nn

from common.reasoning.rollouts import Rollout
from common.seeds import seed_of

from .. import analytic, method, reported, standins
from ..experiments import chains, exact, speed, strong

HOW = chains.Size(seeds=(0, 9), prompts=3, updates=10, every=4, probe=2, probed=5, test=6, samples=8, job_seconds=11)


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    monkeypatch.setitem(chains.SIZES, "stub", HOW)
    monkeypatch.setitem(strong.SIZES, "stub", strong.Size(HOW, updates=7, prompts=4, rollouts=3, switches=(4, 8)))
    monkeypatch.setattr(standins, "student", lambda seed, strength: (f"{strength} {seed}", "words", {"name": f"{strength} {seed}"}))
    monkeypatch.setattr(standins, "teacher", lambda seed: (f"teacher {seed}", "words", {"name": f"teacher {seed}"}))


# -- jobs --------------------------------------------------------------------------------------------------
def jobs_of(found):
    assert max(job.seconds for job in found if "models" not in job.name) <= HOW.job_seconds
    return {job.name: (job.function.rpartition(":")[2], job.arguments, job.after) for job in found}


def test_jobs_of_a_seed_wait_for_its_models_where_they_are_not_committed():
    weak, expected = jobs_of(chains.jobs("stub")), {"models/seed9": ("made", {"seed": 9}, ())}
    for seed, after in ((0, ()), (9, ("models/seed9",))):
        expected |= {f"{name}/seed{seed}": (name, {"seed": seed, "size": "stub"}, after) for name in ("start", "itself")}
        expected |= {f"{arm}/seed{seed}": ("run", {"seed": seed, "arm": arm, "size": "stub"}, after) for arm in chains.ARMS}
    assert weak == expected
    better, expected = jobs_of(strong.jobs("stub")), {"models/seed9": ("made", {"seed": 9}, ())}
    for seed, after in ((0, ()), (9, ("models/seed9",))):
        expected[f"strong/start/seed{seed}"] = ("start", {"seed": seed, "size": "stub"}, after)
        expected |= {f"strong/{arm}/seed{seed}": ("run", {"seed": seed, "arm": arm, "size": "stub"}, after) for arm in strong.ARMS}
        expected |= {f"strong/{stops}/seed{seed}": ("ends", {"seed": seed, "stops": stops, "size": "stub"}, after)
                     for stops in ("one end", "two ends")}
    assert better == expected


def test_arms_of_the_better_student():
    def told(arm):
        return (arm.prefix, arm.lam, arm.horizon, arm.mix, arm.teacher, arm.again, arm.gate)

    whole, rest = chains.CAP, ("linear", "reasoner")
    assert {name: told(arm) for name, arm in strong.ARMS.items()} == {
        "SF": ("student", 0.0, whole, *rest, False, None), "SR": ("student", 1.0, whole, *rest, False, None),
        "TF": ("teacher", 0.0, whole, *rest, False, None), "TR": ("teacher", 1.0, whole, *rest, False, None),
        "SF again": ("student", 0.0, whole, *rest, True, None), "short SF": ("student", 0.0, 12, *rest, False, None),
        "short SR": ("student", 1.0, 12, *rest, False, None), "short TF": ("teacher", 0.0, 12, *rest, False, None),
        "short TR": ("teacher", 1.0, 12, *rest, False, None)}
    assert strong.SIZES["cpu"].switches == (20, 60) and {*strong.CELLS} == {"SF", "SR", "TF", "TR"}
    assert strong.STOPS == {"one end": False, "two ends": True}


# -- who is measured, by whom, on what -----------------------------------------------------------------------
def test_students_are_measured_beside_their_teacher_before_anything(monkeypatch):
    monkeypatch.setattr(chains, "measured", lambda *of: {"measured": of})
    monkeypatch.setattr(strong, "reinforced", lambda *of: ("reinforced", of))
    assert chains.start(4, "stub") == {"measured": ("weak 4", "teacher 4", HOW, 4), "model": {"name": "weak 4"},
                                       "teacher": {"name": "teacher 4"}}
    assert strong.start(4, "stub") == {"measured": ("strong 4", "teacher 4", HOW, 4), "model": {"name": "strong 4"}, "rl": {
        "0": ("reinforced", ("strong 4", strong.SIZES["stub"], 4))}}


def test_scores_are_of_test_problems_and_divergences_of_both_sources(monkeypatch):
    """Answers are called by who gave them; of the student's own eight a problem the first is read."""
    asked = []
    monkeypatch.setattr(chains, "answers", lambda model, data, problems, n, cap, seed: asked.append(
        (model, [p.prompt for p in problems], n, cap, seed)) or [Rollout(i // n, (model, i % n), True) for i in range(n * len(problems))])
    monkeypatch.setattr(chains, "entropies", lambda model, prompts, rollouts, batch: [float(len(prompts)) for _ in rollouts])
    monkeypatch.setattr(chains, "graded", lambda data, problems, rollouts: len(rollouts))
    monkeypatch.setattr(chains, "scores", lambda graded, cap: {
        "graded": graded, "cap": cap, "avg_by_problem": [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]})
    monkeypatch.setattr(chains, "divergences", lambda model, teacher, problems, rollouts: (
        model, teacher, len(problems), [(r.prompt, *r.ids) for r in rollouts]))
    found = chains.measured("student", "teacher", HOW, 4)
    data = chains.Chains(count=1)
    problems = [data.problem(i, "test").prompt for i in range(6)]
    assert asked == [("student", problems, 8, 170, 4), ("teacher", problems, 1, 170, 4)]
    assert found["test"] == {"graded": 48, "cap": 170, "entropy": 48 * 6 / 96, "avg stderr": pytest.approx((0.3 / 6) ** 0.5)}
    assert found["kl"] == {"teacher": ("student", "teacher", 6, [(i, "teacher", 0) for i in range(6)]),
                           "student": ("student", "teacher", 6, [(i, "student", 0) for i in range(6)])}


def test_probes_are_short_and_of_validation_problems(monkeypatch):
    row = {"avg": 1, "tokens": 2, "at_cap": 3, "entropy": 4, "more": 5}
    monkeypatch.setattr(chains, "scored", lambda *of: (row, asked.append(of)))
    asked = []
    assert chains.probed(Of(model="model"), HOW, 4) == (1, 2, 3, 4)
    (model, data, problems, n, seed), = asked
    assert (model, n, seed) == ("model", 5, 4) and [p.prompt for p in problems] == [data.problem(i, "val").prompt for i in range(2)]


def test_kl_is_forward_then_reverse_on_tokens_of_responses(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(1, 3, 5, generator=draw, dtype=torch.float64) for name in ("ours", "theirs")}
    mask = torch.tensor([[False, True, True]])
    monkeypatch.setattr(chains, "response_logits", lambda model, prompts, rollouts: (logits[model], None, mask))
    found = chains.divergences("ours", "theirs", [Of(prompt=[1])], ["rollouts"])
    q, p = (logits[name][mask].log_softmax(-1) for name in ("ours", "theirs"))
    assert found == pytest.approx([float((p.exp() * (p - q)).sum(-1).mean()), float((q.exp() * (q - p)).sum(-1).mean())])


def test_a_distilled_student_is_probed_kept_and_measured(monkeypatch):
    """The weights that moved furthest, the curve of probes, and what `keep` is called with."""
    student = nn.Linear(2, 2, bias=False)
    before = student.weight.detach().clone()
    monkeypatch.setattr(standins, "student", lambda seed, strength: (student, "words", strength))
    monkeypatch.setattr(chains, "teacher_of", lambda arm, seed: ("teacher", arm.lam, seed))
    monkeypatch.setattr(chains, "measured", lambda *of: {"measured": of[1:]})
    monkeypatch.setattr(chains, "probed", lambda training, how, seed: (training.seed, seed))
    seen = []

    def learn(training, data, updates, callbacks):
        assert (updates, data.count, data.seed) == (10, 30, 4) and training.given == (student, "words", "strong")
        training.model, training.history = student, [{"loss per token": 0.1, "norm": 0.2, "length": 0.3, "more": 9}]
        (probe,) = callbacks
        assert probe.every == 4
        probe.probe(0)
        with torch.no_grad():
            student.weight += torch.tensor([[0.0, -0.5], [0.25, 0.0]])
        probe.probe(4)

    monkeypatch.setattr(chains, "learn", learn)
    model, found = chains.distilled(4, "strong", chains.SR, HOW, lambda done, of: seen.append((done, of)))
    assert model is student and seen == [(0, student), (4, student)] and found["seconds"] >= 0
    drawn = seed_of("arm", 4, False)
    assert found["curve"] == [[0, drawn, 4], [4, drawn, 4]] and found["decisions"] == [] and found["moved"] == pytest.approx(0.5)
    assert found["history"] == {"loss per token": [0.1], "norm": [0.2], "length": [0.3]}
    assert found["measured"] == ("teacher 4", HOW, 4) and not torch.equal(before, student.weight)


def test_a_training_in_memory_has_its_recipe():
    config = chains.config(chains.ARMS["mix 0.25"], HOW)
    assert (config.prefix, config.lam, config.mix, config.max_new_tokens, config.prompts_per_step, config.micro_batch_size,
            config.token_chunk, config.lr, config.warmup_steps) == ("student", 0.25, "linear", 170, 3, 3, 1 << 16, 2e-3, 0)
    training = chains.distilling(("student", "words", {}), "teacher", config, 7)
    assert (training.given, training.given_teacher) == (("student", "words", {}), ("teacher", "words", {"name": "in memory"}))
    assert (training.cap, training.seed, training.config) == (170, 7, config)
    assert (training.betas, training.weight_decay) == ((0.9, 0.95), 0.0)


def test_the_gate_has_a_fifth_of_the_updates_a_stage_and_reads_held_out_problems():
    gate = chains.curriculum(chains.ARMS["curriculum"], HOW)
    assert (gate.stage_steps, gate.prompts, gate.cap, gate.gate.h_min, gate.gate.ladder) == (2, 8, 170, 0.85, (12, 24, 48, 96, 170))
    assert chains.curriculum(chains.SR, HOW) is None and chains.curriculum(chains.ARMS["ladder"], HOW).gate.h_min == 0.0


def test_batches_are_counted_and_the_model_is_left_in_eval_mode(monkeypatch):
    seen = []
    monkeypatch.setattr(chains, "fit", lambda *of, **options: seen.append((of, options)))
    training = Of(model=nn.Dropout().train())
    chains.learn(training, "data", 6, ["callback"])
    options = {"max_epochs": 1, "limit_train_batches": 6, "gradient_clip_val": None, "callbacks": ["callback"]}
    assert seen == [((training, "data", -1), options)]
    assert not training.model.training
    done = []
    probe = chains.Probe(done.append, 3)
    probe.on_train_start(None, Of(done=0))
    for n in range(1, 8):
        probe.on_train_batch_end(None, Of(done=n))
    assert done == [0, 3, 6]


# -- GRPO, and two ends --------------------------------------------------------------------------------------
def test_cells_alone_go_on_with_rl_from_their_switches(monkeypatch):
    monkeypatch.setattr(strong, "reinforced", lambda model, how, seed: (type(model), model.training, how is strong.SIZES["stub"], seed))

    def distilled(seed, strength, arm, how, keep):
        for done in (0, 4, 6, 8):
            keep(done, nn.Dropout().train())
        return "model", {"of": (seed, strength, arm, how)}

    monkeypatch.setattr(chains, "distilled", distilled)
    for name, arm in strong.ARMS.items():
        rl = {"rl": {str(done): (nn.Dropout, False, True, 4) for done in (4, 8)}} if name in ("SF", "SR", "TF", "TR") else {}
        assert strong.run(4, name, "stub") == {"of": (4, "strong", arm, HOW)} | rl


def test_grpo_has_its_own_draws_and_problems_and_is_scored_as_before(monkeypatch):
    model = nn.Linear(1, 1).requires_grad_(False)
    scored, learnt = [], []
    monkeypatch.setattr(chains, "scored", lambda model, data, problems, n, seed: scored.append(
        (model, [p.prompt for p in problems], n, seed)) or ({name: len(scored) for name in (
            "avg", "pass_at", "tokens", "at_cap", "entropy", "more")}, None))

    def learn(training, data, updates, callbacks):
        learnt.append((data.count, data.seed, updates, callbacks, all(p.requires_grad for p in model.parameters())))
        training.history, training.skipped, learnt[0:0] = [{"right": 0.5, "length": 9.0, "more": 1}], 3, [training]

    monkeypatch.setattr(chains, "learn", learn)
    found = strong.reinforced(model, strong.SIZES["stub"], 4)
    names = ("avg", "pass_at", "tokens", "at_cap", "entropy")
    assert found == {"before": dict.fromkeys(names, 1), "after": dict.fromkeys(names, 2), "skipped": 3, "right": [0.5], "length": [9.0]}
    data = chains.Chains(count=1)
    assert scored == [(model, [data.problem(i, "test").prompt for i in range(6)], 8, 4)] * 2
    training, (count, seed, updates, callbacks, free) = learnt
    assert (count, seed, updates, callbacks, free) == (28, 504, 7, [], True)
    config = training.config
    assert (config.max_new_tokens, config.prompts_per_step, config.rollouts_per_prompt, config.micro_batch_size, config.lr,
            config.warmup_steps) == (170, 4, 3, 12, 5e-4, 0)
    assert (training.seed, training.cap, training.given[0]) == (seed_of("rl", 4), 170, model)
    assert (training.betas, training.weight_decay) == ((0.9, 0.95), 0.0)


# -- what needs no model -------------------------------------------------------------------------------------
def test_exact_figures_are_gathered_from_where_they_are_worked_out():
    found = exact.figures()
    assert found["gained"] == {t: analytic.gained(t) for t in ("4B", "8B")} and found["sibling"] == analytic.sibling()
    assert found["cells"] == {f"{t}, {n}": analytic.cells(t, n) for t in ("4B", "8B") for n in (128, 1024, 4096)}
    assert found["ks"] == {n: analytic.possible_ks((4, 5, 8, 10, 15, 16, 20), {"MATH-500": n}) for n in (500, 5000)}
    assert found["passes"] == {n: analytic.impossible_passes({"MATH-500": n}) for n in (500, 5000)} and reported.MATH_TEST == 5000
    assert found["left out"] == analytic.left_out()


def test_both_losses_are_one_loss_and_what_is_counted_is_over_what_was_held(monkeypatch):
    of = dict(tokens=6, V=7, student=3, teacher=5, chunk=4, lam=0.25)
    peaks, ticks = iter([100, 130, 150]), iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(speed, "peak_rss_bytes", lambda: next(peaks))
    monkeypatch.setattr(speed.time, "process_time", lambda: next(ticks))
    chunked = []
    original = method.chunked_mixed_kl
    monkeypatch.setattr(method, "chunked_mixed_kl", lambda *of: chunked.append(of[4:]) or original(*of))
    whole = speed.loss("whole", of)
    assert whole["peak_bytes"] == [30, 50] and whole["seconds"] == [5.0, 8.0], "the first warms up"
    peaks, ticks = iter([0, 1, 2]), iter(range(9))
    other = speed.loss("chunked", of)
    assert other["loss"] == pytest.approx(whole["loss"], rel=1e-5) and whole["loss"] > 0 and chunked == [(0.25, None, 4)] * 3
    with pytest.raises(ValueError, match="none of whole, chunked"):
        speed.loss("half", of)


def test_chunked_is_held_against_whole(monkeypatch):
    cases = {"whole": {"peak_bytes": [8, 10], "seconds": [4.0, 2.0]}, "chunked": {"peak_bytes": [5, 4], "seconds": [3.0, 6.0]}}
    asked = []
    monkeypatch.setattr(speed, "in_a_process", lambda function, kind, case, device, repeats: asked.append(
        (function is speed.loss, case["tokens"], device, repeats)) or cases[kind])
    found = speed.measure(speed.Case(9), "cpu", 3, lambda line: None)
    assert (found["memory"], found["time"], found["whole"], found["chunked"]) == (0.5, 1.5, cases["whole"], cases["chunked"])
    assert asked == [(True, 9, "cpu", 3)] * 2 and found["settings"]["tokens"] == 9
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(speed, "measure", lambda case, device, repeats, log: (case.tokens, case.dtype, device, repeats))
    assert speed.measure_gpu() == {str(n): (n, "bfloat16", "cuda", 5) for n in (1024, 4096)}
