"""Whose prefixes: the student's, sampled anew in each step, the teacher's, kept in a file, or written solutions.

Mathematics from files is here, too: how it is asked, graded and solved.
"""

import json
from types import SimpleNamespace

import pytest
import torch

from common.errors import SetupError
from common.reasoning.rollouts import Rollout, sample
from tests.numerics import close, far
from tests.small_tokenizers import byte_words, tokenizer
from tests.trainings import difference

from .. import module
from ..data import SolvedMaths
from ..trajectories import TrajectoryCache
from .runs import Coin, fit, ready, training, weights

pytestmark = pytest.mark.usefixtures("one_thread")


# -- prefixes ----------------------------------------------------------------------------------------------
def test_students_prefixes_are_sampled_anew_from_the_weights_that_are_updated(tmp_path, monkeypatch):
    seen = []

    def watched(of, *args, **kwargs):
        seen.append((float(sum(p.detach().double().sum() for p in of.parameters())), kwargs["temperature"], kwargs["end"]))
        return sample(of, *args, **kwargs)

    monkeypatch.setattr(module, "sample", watched)
    fit(training(), tmp_path / "student", steps=3)
    assert len(seen) == 3 and len({weight for weight, *_ in seen}) == 3 and {t for _, t, _ in seen} == {1.0}
    seen.clear()
    fit(training(config={"prefix": "teacher"}), tmp_path / "teacher", steps=3)
    assert len(seen) == 3 and len({weight for weight, *_ in seen}) == 1


class Engine:
    """What VllmSampler is to a training: it takes the weights, and samples by the law that it is told."""

    def load(self, model):
        self.model = model

    def sample(self, prompts, n, limit, **how):
        self.told = {name: how[name] for name in ("temperature", "top_p", "top_k")}
        return sample(self.model, prompts, n, limit, **how)


@pytest.mark.parametrize("prefix", ["student", "teacher"])
def test_another_law_is_off_policy_and_is_what_every_engine_samples(prefix, monkeypatch):
    law, whole = {"temperature": 0.7, "top_p": 0.9, "top_k": 3}, {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    for options in ({"top_p": 0.95}, {"top_k": 20}, {"temperature": 0.7}):
        with pytest.warns(UserWarning, match="off-policy"):
            training(config=options)
    seen = []
    monkeypatch.setattr(module, "sample", lambda *a, **how: seen.append({name: how[name] for name in law}) or sample(*a, **how))
    drawn = {}
    for name, config in (("law", law), ("whole", {})):
        found, problems = ready(training(config=config | {"prefix": prefix}))
        drawn[name] = found.rollouts(problems[:4], 0)
        found.sampler = Engine()
        assert found.rollouts(problems[:4], 0) == drawn[name]
        assert prefix == "teacher" or found.sampler.told == (law if config else whole)
    assert drawn["law"] != drawn["whole"] and seen == ([law, whole] if prefix == "student" else [law, law, whole, whole])


def test_trajectories_are_the_teachers_are_kept_and_are_cut_when_read(tmp_path):
    """A cache is read on, cut to the training length without changing what comes before, resumed after a torn line, and of one teacher."""
    path = tmp_path / "trajectories.jsonl"
    config = {"prefix": "teacher", "lam": 0.0}
    first = fit(training(config=config, trajectories=str(path)), tmp_path / "first", steps=4)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 1 + 2 * 16 and lines[0]["trajectories"]["teacher"] == "y"  # two to each of 16 problems, once
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    again = fit(training(config=config, trajectories=str(path)), tmp_path / "again", steps=4)
    assert len(path.read_bytes().splitlines()) == len(lines) + 1 and path.read_bytes().startswith(whole[: whole.rindex(b"\n", 0, -1)])
    assert difference(weights(again), weights(first)) < 0.2
    path.write_bytes(whole)
    same = fit(training(config=config, trajectories=str(path)), tmp_path / "same", steps=4)
    assert path.read_bytes() == whole and difference(weights(same), weights(first)) == 0
    found, problems = ready(training(config=config, trajectories=str(path)))
    found.cache = TrajectoryCache(path, found.trajectory_facts() | {"ends": [2]})
    long = found.rollouts(problems[:4], 0)
    found.length = 3
    short = found.rollouts(problems[:4], 0)
    assert [r.ids for r in short] == [r.ids[:3] for r in long] and any(len(r.ids) > 3 for r in long)
    assert [r.finished for r in short] == [r.finished and len(r.ids) <= 3 for r in long]
    with pytest.raises(SetupError, match="sampled with temperature = 1.0, and this run has 0.5"):
        with pytest.warns(UserWarning, match="off-policy"):
            fit(training(config=config | {"temperature": 0.5}, trajectories=str(path)), tmp_path / "other")
    path.write_bytes(whole.replace(b'"finished": true', b'"finished": 1', 1))
    with pytest.raises(SetupError, match=r"trajectories.jsonl, line \d+: no line of a trajectory cache"):
        TrajectoryCache(path, {})
    with pytest.raises(ValueError, match="prefix is student"):
        training(trajectories=str(path))


@pytest.mark.numerics
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_a_shorter_length_has_the_losses_of_the_same_first_tokens(lam):
    """Pitfall 7: a trajectory that is cut at T_m has, token by token, what the whole one has there; neither model looks ahead."""
    from ..method import mixed_kl
    from ..trajectories import shortened

    found, problems = ready(training(config={"prefix": "teacher", "lam": lam}))
    rows = [r for r in found.rollouts(problems[:4], 0) if len(r.ids) > 3]
    assert len(rows) > 2

    def losses(r):
        prompt = list(problems[r.prompt].prompt)
        with torch.no_grad():
            zq, zp = (m(torch.tensor([[*prompt, *r.ids]])).logits[0, len(prompt) - 1 : -1] for m in (found.model, found.teacher))
        return mixed_kl(zq, zp, lam)

    for r in rows:
        (cut,) = shortened([r], 3)
        whole, first = losses(r), losses(cut)
        close(first, whole[:3], 1e-12)
        close(found.loss_sum(problems, [cut]), whole[:3].sum(), 1e-10)
        far(found.loss_sum(problems, [r]), whole[:3].sum(), 1e-3)


def test_first_tokens_of_cached_trajectories_follow_the_teachers_softmax(tmp_path):
    """chi^2 of one prompt's first tokens, 4,000 of them, against its softmax and against the student's."""
    found, problems = ready(training(config={"prefix": "teacher", "rollouts_per_prompt": 4000, "max_new_tokens": 1}))
    found.cache = TrajectoryCache(tmp_path / "t.jsonl", {})
    drawn = torch.bincount(torch.tensor([r.ids[0] for r in found.cached(problems[:1], 0)]), minlength=found.model.config.vocab_size)
    with torch.no_grad():
        p, q = (m(torch.tensor([problems[0].prompt])).logits[0, -1].softmax(-1) for m in (found.teacher, found.model))
    enough = p > 5 / 4000

    def chi2(law):
        return float(((drawn - 4000 * law)[enough] ** 2 / (4000 * law)[enough]).sum())

    assert chi2(p) < 2.5 * int(enough.sum()) < chi2(q)


def test_data_prefixes_are_solutions_with_an_end_and_are_missed_in_a_line(tmp_path):
    found = fit(training(config={"prefix": "dataset", "max_new_tokens": 170, "prompts_per_step": 2}), tmp_path, steps=1)
    assert found.history[0]["cut"] == 0
    bare = Coin(count=16, held_out=4, seed=5)
    bare.solution = None
    with pytest.raises(SetupError, match="prefix is dataset, and Coin has no solutions"):
        fit(training(config={"prefix": "dataset"}), tmp_path / "none", data=bare)


def test_both_models_ends_end_a_response(tmp_path):
    """A student that ends with one token and a teacher that ends with another: both stop, or what the config names (spec 6.7)."""
    found = training()
    found.given_teacher[0].generation_config.eos_token_id = [7, 2]
    fit(found, tmp_path / "both", steps=1)
    assert found.ends == (2, 7)
    told = fit(training(config={"stop_token_ids": [5]}), tmp_path / "told", steps=1)
    assert told.ends == (5,)
    with pytest.raises(SetupError, match="stop_token_ids: 999 is no token"):
        fit(training(config={"stop_token_ids": [999]}), tmp_path / "odd", steps=1)


# -- mathematics from files --------------------------------------------------------------------------------
def test_mathematics_is_asked_graded_and_solved_as_the_file_says(tmp_path):
    """A response without </think> is an answer where no thought was opened, whatever the seed; solutions may hold any line mark."""
    path, words = tmp_path / "train.jsonl", byte_words()
    words.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}:{{ '' if enable_thinking else '<think></think>' }}"
    rows = [{"problem": "1+1", "answer": "2", "solution": "one and\u2028one \\boxed{2}"}, {"problem": "1+2", "answer": 3},
            {"problem": "2+2", "answer": "4"}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    graded = {}
    for name, options in (("as asked", {"seed": 7}), ("strictly", {"require_think_end": True})):
        data = SolvedMaths(str(path), held_out=1, **options)
        data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(
            tokenizer=words, config=SimpleNamespace(prompts_per_step=1), model=SimpleNamespace(
                generation_config=SimpleNamespace(eos_token_id=None))))
        problems = data.sequences()[0].problems
        texts = [(0, r"so \boxed{2}"), (0, r"<think>\boxed{2}"), (1, r"<think>or</think>\boxed{3}"), (1, r"\boxed{2}")]
        rollouts = [Rollout(i, tuple(words(text, add_special_tokens=False)["input_ids"]), True) for i, text in texts]
        graded[name] = data.grade(problems, rollouts)
    assert graded == {"as asked": [True, False, True, False], "strictly": [False, False, True, False]}
    assert (data.seed, SolvedMaths(str(path), seed=7).seed, SolvedMaths(str(path)).require_think_end) == (1, 7, None)
    path.write_text(path.read_text() + json.dumps({"problem": "3+3", "answer": 6, "solution": ["6"]}) + "\n")
    with pytest.raises(SetupError, match='train.jsonl, line 4: "solution" must be text'):
        data.sequences()
    assert [words.decode(p.prompt) for p in problems] == ["1+1:<think></think>", "1+2:<think></think>"]
    assert [words.decode(data.solution(p)[:-1]) for p in problems] == ["one and\u2028one \\boxed{2}", "3"]


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
def test_a_written_solution_is_tokenised_behind_its_prompt(family, tmp_path):
    """phi3's tokenizer marks the beginning of a text, which a response is not where roles are lines."""
    path, words = tmp_path / "train.jsonl", tokenizer(family)
    words.chat_template = "{% for m in messages %}user\n{{ m['content'] }}\n{% endfor %}assistant\n"
    path.write_text("".join(json.dumps({"problem": f"the {animal}", "answer": "a cat is small"}) + "\n" for animal in ("dog", "cat")))
    data = SolvedMaths(str(path), held_out=1)
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(tokenizer=words, config=SimpleNamespace(prompts_per_step=1),
                                                                    model=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))))
    (problem,) = data.sequences()[0].problems
    text = words.apply_chat_template(list(problem.turns), tokenize=False, add_generation_prompt=True)
    assert [*problem.prompt, *data.solution(problem)] == [*words(text + "a cat is small", add_special_tokens=False)["input_ids"],
                                                          words.eos_token_id]
    apart = words("a cat is small", add_special_tokens=False)["input_ids"]
    assert (list(data.solution(problem)[:-1]) == apart) is (family == "qwen2")
