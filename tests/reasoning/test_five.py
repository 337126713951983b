"""Five tasks in English: every trace ends right by the task's own scorer, what is redundant is known, splits share no text."""

import random
import re
import statistics

import pytest

from common.errors import SetupError
from common.reasoning import five
from common.reasoning.rollouts import Rollout
from common.reasoning.verifiers import GymVerifier
from tests.small_tokenizers import byte_words

pytest.importorskip("reasoning_gym")
PHRASES = (*five.OPENINGS, *five.CHECKS, *five.RESTARTS, *five.CLOSINGS)


@pytest.fixture
def data():
    return five.Five(count=7, held_out=5).use(byte_words())


# -- solutions by hand -------------------------------------------------------------------------------------
def equation(text):
    return {"metadata": {"equation": text}}


@pytest.mark.parametrize("asked, written", [
    ("3*x + 5 = 20", "3*x = 20 - 5 = 15. x = 15 / 3 = 5. Answer: 5"),
    ("4*b - 6 = -2", "4*b = -2 + 6 = 4. b = 4 / 4 = 1. Answer: 1"),
    ("9 - 2*k = 3", "2*k = 9 - 3 = 6. k = 6 / 2 = 3. Answer: 3"),
    ("5 - 3*x = -10", "3*x = 5 + 10 = 15. x = 15 / 3 = 5. Answer: 5"),
    ("x + 5 = 7", "x = 7 - 5 = 2. Answer: 2"), ("x - 5 = 2", "x = 2 + 5 = 7. Answer: 7"), ("8 - x = 8", "x = 8 - 8 = 0. Answer: 0")])
def test_an_equation_is_solved_by_one_step_or_two(asked, written):
    assert five.essential("simple_equations", equation(asked)) == written


@pytest.mark.parametrize("asked", ["3*x*5 = 15", "x = 5", "3*x + 5", "2*x + 3*x = 10", "3*X + 5 = 20"])
def test_another_equation_is_refused(asked):
    with pytest.raises(ValueError, match="one unknown, once"):
        five.essential("simple_equations", equation(asked))


@pytest.mark.parametrize("operation, kept", [("keep_larger", ["52"]), ("keep_smaller", ["14"]), ("remove_larger", ["14", "37"]),
                                             ("remove_smaller", ["52", "37"])])
def test_what_equals_the_bound_is_neither_larger_nor_smaller(operation, kept):
    entry = {"metadata": {"operation": operation, "filter_value": "37", "original_numbers": ["52", "14", "37"]}}
    steps, answer = five.number_filtering(entry)
    assert answer == str(kept)
    for step, number, how in zip(steps, ("52", "14", "37"), ("larger", "smaller", "equal")):
        assert step.right == f"{number} is {how}, {'keep' if number in kept else 'drop'}."
        assert step.right not in step.slips and all(slip.startswith(f"{number} is ") for slip in step.slips)


def test_legs_and_words_and_sums_by_hand():
    animals = {"metadata": {"animals": {"tiger": 3, "bee": 2, "snake": 1}}}
    assert five.essential("leg_counting", animals) == "3 * 4 = 12. 2 * 6 = 12. 12 + 12 = 24. 1 * 0 = 0. 24 + 0 = 24. Answer: 24"
    words = {"metadata": {"words": ["hundred", "acute", "go"]}}
    assert five.essential("word_sequence_reversal", words) == "Last is go. Before it acute. Before it hundred. Answer: go, acute, hundred"
    same = five.word_sequence_reversal({"metadata": {"words": ["a", "a"]}}).steps
    assert [step.slips for step in same] == [("Last is a.",), ("Before it a.",)], "nothing to be mistaken for"
    assert five.essential("chain_sum", {"metadata": {"expression": "5 - 9 + 1"}}) == "5 - 9 = -4. -4 + 1 = -3. Answer: -3"


# -- traces ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", list(five.TASKS))
def test_every_trace_ends_at_the_right_answer(task):
    """By reasoning_gym's scorer; and without what the list of phrases names and the slips, its steps are the solution's."""
    right, longer, slipped = GymVerifier(five.dataset(task, "train")), [], 0
    for i, entry in enumerate(five.entries(task, "traces", 120)):
        text = five.trace(task, entry, random.Random(i))
        assert text == five.trace(task, entry, random.Random(i))
        steps, answer = five.TASKS[task].solve(entry)
        assert answer == entry["answer"] and right(text, entry) and right(five.essential(task, entry), entry), text
        rest = text
        for phrase in PHRASES:
            rest = rest.replace(phrase, "|")
        said = [s.strip() for s in re.split(r"\.(?= |\||$)|\|", rest.rpartition("Answer:")[0]) if s.strip()]
        truths, slips = ({s[:-1] for s in some} for some in ((step.right for step in steps), (s for step in steps for s in step.slips)))
        assert truths <= set(said) <= truths | slips, text
        slipped += bool(set(said) - truths)
        longer.append(len(text) / len(five.essential(task, entry)))
    assert 1.8 < statistics.fmean(longer) < 4 and min(longer) == 1  # redundant on average, and sometimes not at all
    assert 0.03 < slipped / 120 < 0.5


def test_a_slip_is_always_seen_and_a_trace_has_its_bound(monkeypatch):
    monkeypatch.setattr(five, "WRONG", 1.0)
    [entry] = five.entries("chain_sum", "traces", 1)
    steps = five.TASKS["chain_sum"].solve(entry).steps
    for i in range(50):
        sentences = re.findall(r"[^.?]+[.?]", five.trace("chain_sum", entry, random.Random(i)).partition(" Answer")[0])
        said = [s.strip() for s in sentences]
        assert sum(s in five.CHECKS or s in five.RESTARTS for s in [*said, *map(", ".join, zip(said, said[1:]))]) <= five.LONGEST
        for j, s in enumerate(said):
            for step in steps:
                if s in step.slips:
                    assert said[j + 1] in five.CHECKS and said[j + 2] == step.right


def test_the_sentence_around_a_calculation_is_wrong_by_one_or_ten():
    step = five.calculation("7 + 5", 12)
    assert step.right == "7 + 5 = 12." and set(step.slips) == {"7 + 5 = 2.", "7 + 5 = 11.", "7 + 5 = 13.", "7 + 5 = 22."}


# -- problems ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", list(five.TASKS))
def test_no_text_of_validation_or_test_is_anywhere_else(task):
    texts = {split: [e["question"] for e in five.entries(task, split, five.HELD_OUT)] for split in five.SPLITS}
    assert all(len(found) == five.HELD_OUT for found in texts.values())
    for split in ("val", "test"):
        own = set(texts[split])
        assert len(own) == five.HELD_OUT, "no text twice"
        assert not any(own & set(found) for other, found in texts.items() if other != split)
    assert all(abs(a - b) >= 10_000_000 for a in five.SPLITS.values() for b in five.SPLITS.values() if a != b)


def test_short_sums_of_training_are_left_out_where_they_are_asked():
    """There are some two hundred of them, so that without it half of these would be the same."""
    asked = {e["question"] for each in five.held_out("chain_sum").values() for e in each}
    drawn = [five.dataset("chain_sum", "train")[i]["question"] for i in range(400)]
    assert asked & set(drawn) and not asked & {e["question"] for e in five.entries("chain_sum", "train", 400)}


def test_more_than_is_held_out_is_refused():
    with pytest.raises(ValueError, match="257 problems of chain_sum"):
        five.entries("chain_sum", "test", five.HELD_OUT + 1)


def test_tasks_take_turns_and_the_first_ones_of_a_larger_draw_are_those_of_a_smaller(data):
    seven = data.problems("test", 7)
    assert [p.kind for p in seven] == [*five.TASKS, *list(five.TASKS)[:2]]
    assert data.problems("test", 10)[:7] == seven
    train, validation = data.problems("train", 7), data.problems("val", 5)
    assert not {p.prompt for p in train} & {p.prompt for p in [*seven, *validation]}


def written(data, text):
    return Rollout(0, tuple(data.words(text, add_special_tokens=False)["input_ids"]) + data.end, True)


def test_each_problem_has_its_own_tasks_scorer(data):
    problems = data.problems("test", 5)
    for problem in problems:
        right = problem.gold["answer"]
        texts = [f"So. Answer: {right}", f"Answer: {right}, I think", "Answer: 1000", f"Answer: 7 Wait. Answer: {right}", right,
                 five.essential(problem.kind, problem.gold)]
        assert data.grade([problem], [written(data, t) for t in texts]) == [True, False, False, False, False, True]
        assert data.needed(problem) == len(five.essential(problem.kind, problem.gold)) + 1  # a byte a token, and the end
        assert data.words.decode(list(problem.prompt)).endswith("<s>")
    mixed = [Rollout(i, written(data, f"Answer: {problems[(i + 1) % 5].gold['answer']}").ids, True) for i in range(5)]
    assert data.grade(problems, mixed) == [False] * 5, "another task's answer"
    own = [Rollout(i, written(data, f"Answer: {problems[i].gold['answer']}").ids, True) for i in (3, 0)]
    assert data.grade(problems, own) == [True, True]


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(SetupError, match="data Five asks through a chat template"):
        five.Five().use(byte_words(template=None))


def test_no_task_is_scored_by_another_ones_scorer(data, monkeypatch):
    """All five compare texts today; a scorer that says whose it is tells them apart."""
    class Scorer:
        def __init__(self, task, split):
            self.task = task

        def score_answer(self, answer, entry):
            return float(entry["metadata"]["source_dataset"] == self.task)

    problems = data.problems("test", 5)
    monkeypatch.setattr(five, "dataset", Scorer)
    assert data.grade(problems, [Rollout(i, written(data, "Answer: 1").ids, True) for i in range(5)]) == [True] * 5
