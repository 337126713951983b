"""Problems with a grader: files read by name and line, validation that is never trained on, chains graded by their own rule."""

import json
from types import SimpleNamespace

import pytest

from common.data import chains
from common.errors import SetupError
from common.reasoning.problems import Chains, Maths, Problem, Rows, read_problems
from common.reasoning.rollouts import Rollout
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


def test_what_is_held_out_is_never_trained_on(tmp_path):
    """With as many problems as are held out validation would be training: refused, as is no validation at all."""
    path, one = tmp_path / "train.jsonl", {"problem": "1 + 1", "answer": "2"}

    def rows(count, **options):
        path.write_text("".join(json.dumps(one | {"problem": f"{i} + 1"}) + "\n" for i in range(count)))
        data = Maths(str(path), **options)
        data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(
            tokenizer=byte_words(), model=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=1))))
        return [[problem.prompt for problem in part.problems] for part in data.sequences()]

    train, held_out = rows(4, held_out=3)
    assert (len(train), len(held_out)) == (1, 3) and not set(train) & set(held_out)
    for count in (1, 3):
        with pytest.raises(SetupError, match=f"held_out 3: train.jsonl has {count} problems"):
            rows(count, held_out=3)
    with pytest.raises(SetupError, match="held_out is 0"):
        rows(4, held_out=0)
    train, held_out = rows(2, held_out=3, validation=str(path))  # a file of its own, which the user chose
    assert len(train) == len(held_out) == 2


def test_the_place_in_a_step_is_counted_from_its_beginning():
    rows = Rows([Problem((1,), "", 0)] * 8)
    assert rows.collate([rows[0]] * 2, [6, 7], {"problems": 4})["first"] == 2
