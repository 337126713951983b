"""What each job does, run small: which loss an arm calls on what it keeps, what its samples come from, what it is scored at, and that
no test problem is trained on. Updates are real, of a handful of responses of the committed reasoner."""

import dataclasses
import types

import pytest
import torch

from common.reasoning.rollouts import Rollout
from common.reasoning.sums import SPLITS, TASK

from .. import baselines, method, module
from ..data import Chains
from ..experiments import chains as small
from ..experiments import sums

SIZE = small.Size(seeds=(0,), problems=6, updates=2, prompts=2, rollouts=4, every=1, probe=2, test=3, samples=2, compared=2, job_seconds=1)
KIND = {"best of n": "shortest", "by lot": "lot", "grpo": "all", "grpo, length": "all"}  # of what is kept; else what is right


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def watched(monkeypatch):
    """What a run did, by name; a training of the reasoner at a size of a few responses."""
    seen = types.SimpleNamespace(asked=[], sft=[], grpo=[], kept=[], sampled=[], fits=[], trained_on=[], divergence=[])
    monkeypatch.setitem(small.SIZES, "small", SIZE)
    fit = small.fit

    def watched_fit(training, data, steps, **options):
        before = weights(training.given[0])
        update = training.update

        def one(problems, rollouts, correct):
            seen.trained_on += [tuple(p.prompt) for p in problems]
            return update(problems, rollouts, [i % 3 != 2 for i in range(len(correct))])  # some right, some wrong, in every group

        def rollout_model(of=training.rollout_model):
            seen.sampled.append(weights(of()))
            return of()

        training.update, training.rollout_model = one, rollout_model
        losses = fit(training, data, steps, **options)
        seen.fits.append(types.SimpleNamespace(training=training, data=data, options=options, before=before, after=weights(training.model)))
        return losses

    def spy(owner, name, record, into):
        real = getattr(owner, name)

        def call(*given, **options):
            result = real(*given, **options)
            into.append(record(result, *given, **options))
            return result

        monkeypatch.setattr(owner, name, call)

    def answers(model, data, problems, n, cap, seed, **options):
        seen.asked.append((model, [tuple(p.prompt) for p in problems], n, cap, seed))
        return [Rollout(i // n, (3, 4, 5)[: 1 + i % 3], True) for i in range(n * len(problems))]

    monkeypatch.setattr(small, "fit", watched_fit)
    monkeypatch.setattr(small, "answers", answers)
    monkeypatch.setattr(small, "evaluate", lambda model, data, problems, n, cap, seed: [
        {"kind": 1, "correct": [True, False], "lengths": [3, len(answers(model, data, problems, n, cap, seed))]}])
    spy(module.method, "sft_loss", lambda result, *given: given[3], seen.sft)
    spy(module, "grpo_loss", lambda result, *given: given[5].beta, seen.grpo)
    for owner, name, kind in ((module.method, "keep", "right"), (module.baselines, "keep_shortest", "shortest"),
                              (module.baselines, "keep_random", "lot")):
        spy(owner, name, lambda result, *given, kind=kind: kind, seen.kept)
    return seen


@pytest.mark.parametrize("arm", small.ARMS)
def test_an_arm_is_trained_as_it_is_called_and_scored_on_other_problems_at_the_starts_own_cap(arm, watched, monkeypatch):
    monkeypatch.setattr(small, "divergence", lambda *asked: watched.divergence.append(asked) or {})
    result = small.run(0, arm, "small")
    (fit,) = watched.fits
    config, training = fit.training.config, fit.training
    # what an update calls
    kinds = set(watched.kept) - ({"right"} if arm in ("best of n", "by lot") else set())  # both begin with what is right
    assert kinds == ({KIND[arm]} if KIND.get(arm) in ("shortest", "lot") else set() if arm in KIND else {"right"})
    assert bool(watched.grpo) == arm.startswith("grpo") and bool(watched.sft) != arm.startswith("grpo")
    assert set(watched.grpo) <= {0.04} and set(watched.sft) <= {"seq" if arm == "seq" else config.length_norm}
    moved = not same(fit.before, fit.after)
    assert moved, "weights that did not move"
    assert config.lr == small.settings("cpu", arm)["lr"] >= 1e-4 and training.done + training.skipped >= SIZE.updates
    # what its responses come from: the weights that learn, or for fixed data those of the start
    first, *_, last = watched.sampled
    from_start = same(first, fit.before), same(last, fit.before)
    assert from_start == (True, arm == "fixed data"), "sampled from other weights"
    if arm.startswith("grpo"):
        still = same(weights(training.reference[0]), fit.before)
        assert still, "the reference moved"
        assert training.reward == ("accuracy + length" if "length" in arm else "truncation")
    # settings that the name says
    usual = method.OnPolicySFTConfig(**small.settings("small"))
    differs = {name for name, value in vars(config).items() if value != getattr(usual, name)}
    assert differs == {"T 0.6": {"temperature"}, "T 1.5": {"temperature"}, "seq": {"length_norm"}, "L 24": {"max_new_tokens"},
                       "grpo, length": {"max_new_tokens"}, "G 4, as many": {"prompts_per_step"}, "best of n": {"lr"}}.get(arm, set())
    assert config.temperature == {"T 0.6": 0.6, "T 1.5": 1.5}.get(arm, 1.0)
    assert config.max_new_tokens == {"L 24": 24, "grpo, length": small.CAP}.get(arm, 40)
    # problems: training, probe and test have nothing in common; again's are others still
    data = Chains(SIZE.problems)
    test, probe, train = ([tuple(data.problem(i, split).prompt) for i in range(n)] for split, n in (("test", 3), ("val", 2), ("train", 6)))
    assert set(watched.trained_on) <= set(train) and not {*train} & {*test, *probe} and not {*test} & {*probe}
    assert fit.data.seed == training.seed == (1000 if arm == "again" else 0)
    asked = [(model is training.model, prompts, n, cap, seed) for model, prompts, n, cap, seed in watched.asked]
    probes = [(True, probe, 2, small.CAP, 0)] * 3 if arm in small.WATCHED else []
    assert asked == [*probes, (True, test, 2, small.CAP, 0)] and small.CAP == 170
    assert (result["test"]["cap"], result["test"]["problems"], result["test"]["samples"]) == (170, 3, 2)
    assert [at for at, *_ in result.get("curve", [])] == ([0, 1, 2] if arm in small.WATCHED else [])
    assert all(row[1] == 0.5 and row[2] == (3 + 4) / 2 for row in result.get("curve", []))
    # where it departs from the start, asked of the start's own weights
    assert bool(watched.divergence) == (arm in ("opsft", "by lot")) == ("divergence" in result)
    for start, trained, _, problems, seed in watched.divergence:
        as_it_was = same(weights(start), fit.before)
        assert as_it_was and trained is training.model and [p.prompt for p in problems] == test[:2] and seed == 0
    assert set(result["history"]) == {"loss per token", *(("kept", "kept length", "length") if arm == "opsft" else ())}


def test_four_rollouts_are_four(monkeypatch):
    for size in ("smoke", "cpu"):
        assert {arm: small.settings(size, arm)["rollouts_per_prompt"] for arm in ("G 4", "G 4, as many")} == {"G 4": 4, "G 4, as many": 4}
        how, many = small.SIZES[size], small.settings(size, "G 4, as many")
        assert many["prompts_per_step"] == 4 * how.prompts and small.settings(size)["rollouts_per_prompt"] == how.rollouts
    cpu = small.SIZES["cpu"]
    assert 4 * small.settings("cpu", "G 4, as many")["prompts_per_step"] == cpu.prompts * cpu.rollouts, "as many in all"


def test_the_base_is_asked_the_same_problems_and_cut_at_budgets(watched, monkeypatch):
    monkeypatch.setattr(small, "budgets", lambda data, problems, rollouts, samples: ["budgets", len(problems), len(rollouts), samples])
    result = small.base(0, "small")
    data = Chains(1)
    ((model, prompts, n, cap, seed),) = watched.asked
    assert (prompts, n, cap, seed) == ([data.problem(i, "test").prompt for i in range(3)], 2, small.CAP, 0) and not watched.fits
    unmoved = same(weights(model), weights(small.stand_in(0)[0]))
    assert unmoved and result["budgets"] == ["budgets", 3, 6, 2] and result["test"]["cap"] == 170


def test_no_test_or_validation_problem_of_the_default_run_is_a_training_problem():
    data, cpu = Chains(1), small.SIZES["cpu"]
    trained = {data.problem(i, "train").prompt for i in range(cpu.problems)}
    held = {"test": cpu.test, "val": cpu.probe}
    shared = {split: sum(p.prompt in trained for p in small.held_out(data, n, split)) for split, n in held.items()}
    assert shared == {"test": 0, "val": 0} and len(small.held_out(data, cpu.test)) == cpu.test
    assert sum(data.problem(i, "test").prompt in trained for i in range(cpu.test)) == 9  # which is why: chains of one step are few


def test_rates_are_chosen_on_validation_problems_alone(watched, monkeypatch):
    """Each method at each rate, from the first stand-in; what a rate gives is points gained and % of tokens saved, added up."""
    from ..experiments import rates

    found = rates.rate(0, "best of n", 3e-4, "small")
    data = Chains(1)
    held = [tuple(data.problem(i, "val").prompt) for i in range(SIZE.probe)]
    assert [(prompts, cap) for _, prompts, _, cap, _ in watched.asked] == [(held, small.CAP)] and watched.fits[0].training.config.lr == 3e-4
    assert (found["avg"], found["tokens"]) == (0.5, 3.5) and {"shortest"} <= set(watched.kept)
    start = rates.base(0, "small")
    assert watched.asked[-1][1] == held and len(watched.fits) == 1 and start == {"avg": 0.5, "tokens": 3.5}
    listed = rates.jobs("smoke")
    assert {(job.arguments["arm"], job.arguments["lr"]) for job in listed[1:]} == {(arm, lr) for arm in rates.SWEPT for lr in rates.RATES}
    results = {job.name: {"avg": 0.5 + 0.01 * i, "tokens": 30.0 + i} for i, job in enumerate(listed)}
    for arm in rates.SWEPT:
        gains = {lr: 100 * (of["avg"] - 0.5) + 100 * (30.0 - of["tokens"]) / 30.0
                 for lr in rates.RATES for of in [results[f"rates/{arm}, {lr:g}/seed0"]]}
        assert {lr: rates.gain(results, arm, lr) for lr in rates.RATES} == pytest.approx(gains)
        assert rates.best(results, arm) == max(gains, key=gains.get)


def test_budgets_by_hand(monkeypatch):
    """Right where everything but the last token may be cut: of two problems with two responses each."""
    monkeypatch.setattr(small, "BUDGETS", (1, 2, 3))
    problems = [types.SimpleNamespace(name=i) for i in range(2)]
    data = types.SimpleNamespace(grade=lambda some, rollouts: [rollouts[0].ids == (7 + some[0].name, 8)])
    rollouts = [Rollout(0, (7, 8), True), Rollout(0, (7, 8, 9), True), Rollout(1, (8, 8), True), Rollout(1, (7, 8), True)]
    assert small.budgets(data, problems, rollouts, 2) == [[1, 0.0], [2, 0.75], [3, 0.5]]


def test_shares_and_means_by_hand():
    rows = [{"kind": 1, "correct": [True, True, False], "lengths": [8, 9, 1]}, {"kind": 2, "correct": [True, False], "lengths": [15, 2]}]
    assert small.skipping(rows) == pytest.approx(2 / 3) and small.skipping([]) == 0.0  # 8 of 9 tokens, and 15 of 16
    assert small._short(rows) == (3 / 5, 35 / 5)
    history = [{"loss per token": 0.5, "kept": 1}, {"kept": 0}, {"loss per token": 0.25, "kept": 2}]
    assert small.columns(history, ("kept",)) == {"loss per token": [0.5, 0.25], "kept": [1, 0, 2]}


class Fixed(torch.nn.Module):
    """The same logits whatever was read: of token t, rows[t] after it."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, input_ids, **_):
        return types.SimpleNamespace(logits=self.rows[input_ids])


def test_divergence_is_of_the_first_from_the_trained_at_the_response_by_hand(monkeypatch):
    """W after 3 differs between the two models, ; after 4 does not: the area of W is 1, and KL(first || trained) is by hand."""
    data = Chains(1)
    w, semicolon, end = data.words.convert_tokens_to_ids(["W", ";", "<eos>"])
    vocabulary = len(data.words)
    one, two = torch.zeros(vocabulary, vocabulary), torch.zeros(vocabulary, vocabulary)
    three, four = data.words.convert_tokens_to_ids(["3", "4"])
    one[three, w], two[three, semicolon] = 5.0, 3.0  # not mirrored: the other direction of KL is another number
    asked = []
    monkeypatch.setattr(small, "answers", lambda model, of, problems, n, cap, seed: asked.append((model, n, cap, seed)) or [
        Rollout(0, (three, w, four, semicolon, end), True)])
    first, trained = Fixed(one), Fixed(two)
    problems = [types.SimpleNamespace(prompt=(1, 2))]
    found = small.divergence(first, trained, data, problems, 3)
    assert asked == [(first, 1, small.CAP, 3)], "responses of the trained model instead of the first one's"
    p, q = one[three].softmax(-1), two[three].softmax(-1)
    by_word = {word: (mean, count) for word, mean, count in found["by word"]}
    assert by_word["W"] == (pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5), 1)
    assert by_word[";"] == (pytest.approx(0.0, abs=1e-6), 1)
    assert found["AUC, wait or restart against the rest"] == found["AUC, wait or restart among separators"] == 1.0
    assert found["AUC, separator against the rest"] == pytest.approx((1 * 3 + 3 * 0.5) / 6)  # W above all, ; as the rest


# -- the real small model ----------------------------------------------------------------------------------
def test_problems_of_sums_come_from_four_ranges_that_do_not_meet():
    longest = max(sums.SIZES[size].updates * sums.SIZES[size].prompts for size in sums.SIZES)
    starts = sorted(SPLITS.values())
    assert {"train", "val", "test"} < set(SPLITS) and all(b - a > 10 * longest for a, b in zip(starts, starts[1:])) and TASK


@pytest.mark.parametrize("arm", sums.ARMS)
def test_sums_train_as_named_on_training_problems_and_answer_test_problems(arm, monkeypatch):
    """The model's loading and its training are only written down: 135 million weights are no test."""
    seen, models = [], []

    class Data:
        words = "words"

        def __init__(self, count=0, seed=None):
            self.count, self.seed = count, seed

        def use(self, tokenizer):
            return self

        def problems(self, split, count):
            return [(split, i) for i in range(count)]

    def start(size, dtype):
        models.append(torch.nn.Linear(1, 1))
        seen.append(("start", dtype))
        return models[-1], Data(), {"name": "taught"}

    monkeypatch.setattr(sums, "Sums", Data)
    monkeypatch.setattr(sums, "_start", start)
    monkeypatch.setattr(sums, "fit", lambda training, data, steps, **options: seen.append(("fit", training, data, options)))
    monkeypatch.setattr(sums, "_test", lambda model, data, size, seed: seen.append(
        ("test", model, model.weight.dtype, size, seed)) or "scores")
    monkeypatch.setattr(sums, "divergence", lambda *asked: seen.append(("divergence", *asked)) or "apart")
    how = dataclasses.replace(sums.SIZES["smoke"], prompts=3, updates=2, compared=2)
    monkeypatch.setitem(sums.SIZES, "smoke", how)
    result = sums.run(5, arm, "smoke")
    (_, dtype), (_, training, data, options), (_, model, precision, size, seed), *rest = seen
    kind = {"opsft": "OnPolicySFT", "fixed data": "FixedData", "best of n": "BestOfN", "grpo": "GRPO"}[arm.partition(",")[0]]
    assert type(training).__name__ == kind and dtype == "float32"
    assert training.config.lr == 1e-5 and training.seed == 5
    if kind == "GRPO":
        assert (training.beta, training.reward) == (0.04, "accuracy + length" if "length" in arm else "truncation")
    assert bool(options["callbacks"]) == (arm in sums.WATCHED)
    assert (data.count, data.seed, options["limit_train_batches"]) == (6, 5, 2)
    assert training.given == (models[0], "words", {"name": "taught"})
    assert (training.config.prompts_per_step, training.config.rollouts_per_prompt) == (3, how.rollouts)
    limit = sums.SIZES["cpu"].cap if arm == "grpo, length" else sums.LIMIT
    assert training.config.max_new_tokens == limit and training.cap == how.cap, "scored at the training's limit"
    assert (model is models[0], precision, size, seed, result["test"]) == (True, torch.bfloat16, "smoke", 5, "scores")
    if arm != "opsft":
        assert not rest and "divergence" not in result
    else:
        (_, dtype), (_, first, brief, _, problems, cap, seed) = rest
        assert (first is models[1], brief is models[0], problems, cap, seed) == (True, True, [("test", 0), ("test", 1)], how.cap, 5)
    del seen[:], models[:]
    assert sums.base(6, "smoke") == {"model": {"name": "taught"}, "test": "scores"}
    assert seen == [("start", "bfloat16"), ("test", models[0], torch.float32, "smoke", 6)]


def test_sums_are_scored_at_the_starting_models_cap(monkeypatch):
    asked = []
    data = types.SimpleNamespace(problems=lambda split, count: [(split, i) for i in range(count)], needed=lambda p: 10 + p[1],
                                 text=lambda r: f"text {r}")
    rows = [{"correct": [True], "lengths": [12], "finished": [True]}]
    monkeypatch.setattr(sums, "evaluate", lambda *given: asked.append(given) or rows)
    monkeypatch.setattr(sums, "answers", lambda *given: asked.append(given) or [1, 2])
    monkeypatch.setattr(sums, "scores", lambda rows, cap: {"rows": rows, "cap": cap})
    found = sums._test("model", data, "smoke", 7)
    how = sums.SIZES["smoke"]
    problems = [("test", i) for i in range(how.test)]
    assert asked == [("model", data, problems, how.samples, how.cap, 7), ("model", data, problems[:3], 1, how.cap, 7)]
    assert found == {"rows": rows, "cap": how.cap, "needed": 10 + (how.test - 1) / 2, "said": ["text 1", "text 2"],
                     "within": [[tokens, float(tokens >= 12)] for tokens in sums.BUDGETS]}


def test_a_random_baseline_is_random():
    """Right are 0, 2, 4: what is kept by lot is another draw for each seed, and in the long run every response."""
    rewards = [1.0, 0.0] * 3
    lots = {tuple(baselines.keep_random(rewards, seed)) for seed in range(40)}
    assert all(len(lot) == 3 for lot in lots) and len(lots) > 8 and {i for lot in lots for i in lot} == set(range(6))
