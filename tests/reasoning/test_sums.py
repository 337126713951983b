"""Sums in English: traces whose redundancy is known, problems of disjoint splits, the task's own grades."""

import random
import re
import statistics

import pytest

from common.errors import SetupError
from common.reasoning import sums
from common.reasoning.rollouts import Rollout
from tests.small_tokenizers import byte_words


@pytest.fixture
def data():
    return sums.Sums(count=4, held_out=2).use(byte_words())


def test_steps_and_the_shortest_trace_by_hand():
    assert sums.steps("98 + 93 - 77") == [(98, "+", 93), (191, "-", 77)]
    assert sums.essential("98 + 93 - 77") == "98 + 93 = 191. 191 - 77 = 114. Answer: 114"
    assert sums.essential("5 - 9") == "5 - 9 = -4. Answer: -4"
    for wrong in ("98", "98 * 3", "1 +", "two + 2"):
        with pytest.raises(ValueError, match="no chain"):
            sums.steps(wrong)


def test_traces_are_the_essential_one_and_known_sentences_around_it(monkeypatch):
    """Without wrong computations, taking out what the list of phrases names leaves steps that are all true, and the answer."""
    monkeypatch.setattr(sums, "WRONG", 0.0)
    longer = []
    for i, entry in enumerate(sums.dataset("traces", 200)):
        expression = entry["metadata"]["expression"]
        text = sums.trace(expression, random.Random(i))
        assert text == sums.trace(expression, random.Random(i)) and text.endswith(f"Answer: {entry['answer']}")
        rest = text
        for phrase in (*sums.OPENINGS, *sums.CHECKS, *sums.RESTARTS):
            rest = rest.replace(phrase, "")
        rest = re.sub("|".join(re.escape(c).replace(r"\{\}", "-?[0-9]+") for c in sums.CLOSINGS), "", rest)
        steps = [s.strip() for s in rest.partition("Answer")[0].split(".") if s.strip()]
        assert set(steps) == {f"{s.left} {s.operation} {s.right} = {s.value}" for s in sums.steps(expression)}, text
        longer.append(len(text) / len(sums.essential(expression)))
    assert 3 < statistics.fmean(longer) < 7 and min(longer) == 1  # redundant on average, and sometimes not at all


def test_some_computations_are_wrong_and_checking_mends_most():
    truth = wrong = 0
    for i, entry in enumerate(sums.dataset("traces", 400)):
        text = sums.trace(entry["metadata"]["expression"], random.Random(i))
        wrong += any(eval(a) != int(b) for a, b in re.findall(r"(-?\d+ [+-] \d+) = (-?\d+)", text))
        truth += text.endswith(f"Answer: {entry['answer']}")
    assert 0.05 < wrong / 400 < 0.35 and truth / 400 > 0.9


def test_problems_of_the_splits_are_not_each_others(data):
    long = [{p.gold["metadata"]["expression"] for p in data.problems(split, 40) if p.kind == 2 and p.gold["metadata"]["num_digits"] == 2}
            for split in sums.SPLITS]
    assert all(len(found) > 3 for found in long) and len(set.union(*long)) == sum(map(len, long))  # of three million
    assert all(abs(a - b) >= 10_000_000 for a in sums.SPLITS.values() for b in sums.SPLITS.values() if a != b)


def test_grades_are_the_tasks_own_and_a_prompt_is_the_chat_templates(data):
    problem = data.problems("test", 1)[0]
    assert data.words.decode(list(problem.prompt)) == problem.gold["question"] + "<s>" and data.question(problem)[1]["role"] == "user"

    def written(text):
        return Rollout(0, tuple(data.words(text, add_special_tokens=False)["input_ids"]) + data.end, True)

    right = problem.gold["answer"]
    texts = [f"So. Answer: {right}", f"Answer: {int(right) + 1}", f"Answer: {int(right) + 1} Wait. Answer: {right}", right, ""]
    assert data.grade([problem], [written(t) for t in texts])[:2] == [True, False] and not data.grade([problem], [written("")])[0]
    assert data.grade([problem], [written(sums.essential(problem.gold["metadata"]["expression"]))]) == [True]
    assert data.needed(problem) == len(sums.essential(problem.gold["metadata"]["expression"])) + 1  # a byte a token, and the end
    with pytest.raises(SetupError, match="chat template"):
        sums.Sums().use(byte_words(template=None))
