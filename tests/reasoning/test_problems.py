"""Problems with a grader: files read by name and line, validation that is never trained on, chains graded by their own rule."""

import json
from types import SimpleNamespace

import pytest

from common.benchmarks.maths import _verify
from common.data import chains
from common.errors import SetupError
from common.reasoning.problems import TESTED, Chains, Maths, Problem, Rows, read_problems
from common.reasoning.rollouts import Rollout
from common.reasoning.verifiers import MathVerifier, response_text
from tests.small_tokenizers import byte_words


def test_the_grader_and_the_essential_length_agree():
    data = Chains(count=4)
    problem = data.problem(3, "test")
    words = chains.essential(problem.gold)
    ids = tuple(data.words.convert_tokens_to_ids(list(words)))
    assert data.grade([problem], [Rollout(0, ids, True), Rollout(0, ids[:-1], False)]) == [True, False]


@pytest.mark.parametrize("text, says", [("", "holds no problem"), ("{", "line 1: no JSON"), ('{"problem": "x"}', 'needs "problem"'),
                                        ('{"problem": 3, "answer": 1}', "line 1")])
def test_problem_files_are_refused_by_name_and_line(text, says, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(SetupError, match=says):
        read_problems(path)
    with pytest.raises(SetupError, match="no file nothing.jsonl"):
        read_problems(tmp_path / "nothing.jsonl")


def maths(path, per_step=1, words=None, **options):
    data = Maths(str(path), **options)
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(
        tokenizer=words or byte_words(), config=SimpleNamespace(prompts_per_step=per_step),
        model=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=1))))
    return data


def test_what_is_held_out_is_never_trained_on(tmp_path, capsys):
    """Disjoint or refused, with numbers: also for 40 and 65 problems, a problem that stands twice, and a file that is both."""
    path = tmp_path / "train.jsonl"

    def rows(count, twice=0, **options):
        numbers = [*range(count), *range(twice)]
        path.write_text("".join(json.dumps({"problem": f"{i} + 1", "answer": "2"}) + "\n" for i in numbers))
        return [[problem.prompt for problem in part.problems] for part in maths(path, **options).sequences()]

    train, held_out = rows(4, held_out=3)
    assert (len(train), len(held_out)) == (1, 3) and not set(train) & set(held_out)
    for count, left in ((40, 0), (65, 1), (95, 31)):
        with pytest.raises(SetupError, match=f"held_out 64: of train.jsonl, {left} problems .* beside {min(count, 64)} held out"):
            rows(count, per_step=32)
    train, held_out = rows(96, per_step=32)
    assert (len(train), len(held_out)) == (32, 64) and "32 problems to train on, 64 held out" in capsys.readouterr().out
    with pytest.raises(SetupError, match="held_out is 0"):
        rows(4, held_out=0)
    train, held_out = rows(6, twice=2, held_out=2)  # the last two are the first two again
    assert len(train) == 4 and not set(train) & set(held_out)
    assert "2 problems of train.jsonl are held out elsewhere" in capsys.readouterr().out
    train, held_out = rows(5, held_out=3, validation=str(path))
    assert len(train) == 2 and len(held_out) == 3 and not set(train) & set(held_out)
    with pytest.raises(SetupError, match="of train.jsonl, 0 problems"):
        rows(2, held_out=3, validation=str(path))


def test_chains_that_are_trained_on_are_none_that_are_asked_later():
    data = Chains(count=4096, held_out=96)
    train, held_out = ({p.prompt for p in part.problems} for part in data.sequences())
    later = {data.problem(i, split).prompt for split in ("val", "test") for i in range(TESTED)}
    assert not train & later and held_out <= later and len(held_out) > 80 and len(train) > 3000


# -- one text of a response --------------------------------------------------------------------------------
def special_thoughts():
    """A tokenizer in which the marks of a thought are special tokens, as R1's has it."""
    words = byte_words()
    words.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    return words


@pytest.mark.parametrize("text, right", [
    (r"<think>perhaps \boxed{5}</think>I do not know.", False), (r"<think>x</think>\boxed{5}", True), (r"<think>\boxed{5}", False),
    (r"<think>x</think>ok<think>\boxed{5}", False), (r"\boxed{5}", True), (r"x</think>\boxed{5}.", True)])
@pytest.mark.parametrize("special", [True, False])
def test_training_and_benchmark_read_one_text_and_a_thought_is_no_answer(text, right, special, tmp_path):
    words = special_thoughts() if special else byte_words()
    ids = tuple(words(text, add_special_tokens=False)["input_ids"]) + (1,)
    assert response_text(words, ids, (1,)) == text == response_text(words, (*ids, 1, 1), [1])
    data = maths(tmp_path, words=words)
    data.end = (1,)
    problem = Problem((5,), "5", "maths")
    assert data.grade([problem], [Rollout(0, ids, True)]) == [right]
    with MathVerifier(workers=1) as verifier:
        assert _verify(verifier, [(text, "5")], [False]) == [right]


def test_where_the_prompt_opens_the_thought_a_response_needs_its_end(tmp_path):
    """R1's template does; a switch decides for all."""
    words = byte_words()
    prompts = [tuple(words(text, add_special_tokens=False)["input_ids"]) for text in ("1 + 4?<think>\n", "1 + 4?<think></think>", "1 + 4?")]
    problems = [Problem(prompt, "5", "maths") for prompt in prompts]
    texts = [r"\boxed{5}", r"so</think>\boxed{5}"]
    asked = [Rollout(p, tuple(words(t, add_special_tokens=False)["input_ids"]) + (1,), True) for p in range(3) for t in texts]
    for switch, right in ((None, [False, True, True, True, True, True]), (True, [False, True] * 3), (False, [True] * 6)):
        data = maths(tmp_path, require_think_end=switch)
        data.end = (1,)
        assert data.grade(problems, asked) == right


def test_the_place_in_a_step_is_counted_from_its_beginning():
    rows = Rows([Problem((1,), "", 0)] * 8)
    assert rows.collate([rows[0]] * 2, [6, 7], {"problems": 4})["first"] == 2
