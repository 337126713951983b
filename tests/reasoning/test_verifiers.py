"""common/verifiers: fixtures by hand, answers that hang or cannot be read, processes that are killed."""

import threading

import pytest

from common.reasoning.verifiers import GymVerifier, MathVerifier, after_thinking, last_boxed, plain_gold, tagged_answer

HANGS = r"10^{10^{10}}"


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(workers=2) as found:
        yield found


def boxed(answer):
    return rf"<think>Well, \boxed{{0}}? No.</think>It is \boxed{{{answer}}}."


# --- where the answer is


def test_the_last_box_with_all_its_braces():
    assert last_boxed(r"\boxed{\frac{1}{2}} or \boxed{\frac{a}{\sqrt{2}}}.") == r"\frac{a}{\sqrt{2}}"
    assert last_boxed(r"\boxed{\boxed{5}}") == "{5}" and last_boxed(r"\boxed {\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed(r"\boxed{\left\{ 3 \right.}") == r"\left\{ 3 \right."  # an escaped brace closes nothing
    assert last_boxed(r"} {{ \boxed{3} }") == "3"
    assert last_boxed("no box") is None and last_boxed("") is None and last_boxed(r"\boxed{}") == ""
    assert last_boxed(r"\boxed{3}, that is \boxed{4") is None  # the last one counts, and it was cut
    assert last_boxed(r"\boxed{" * 50_000) is None  # in one pass
    assert last_boxed(r"\fbox{5}") == "5" and last_boxed(r"\boxed{5} km, \boxed{6} in all") == "6"  # what is behind it is not read


def test_a_box_without_braces_is_one_number_or_letter():
    assert [last_boxed(t) for t in (r"\boxed 6", r"is \boxed27.", r"$\boxed -3.5$", r"\boxed A", r"\boxed{5}, or rather \boxed 6")] == [
        "6", "27", "-3.5", "A", "6"]
    assert last_boxed(r"in \boxed form") is None and last_boxed(r"\boxed{1, \boxed 2}") == "1,  2"


def test_what_stands_before_the_end_of_thinking_is_no_answer():
    assert after_thinking("a</think>b</think>c") == "c" and after_thinking("a") == "a"
    assert after_thinking("a", required=True) is None and after_thinking("a</think>", required=True) == ""


def test_gold_is_plain_or_latex_or_boxed():
    assert [plain_gold(g) for g in ("5", " $5$ ", r"\$18", r"so $\boxed{\frac12}$", "$1$ and $2$")] == [
        "5", "5", r"\$18", r"\frac12", "$1$ and $2$"]  # fmt: skip


# --- math


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("1/2", "0.5", True),
        (r"\frac{1}{2}", r"\tfrac12", True),
        (r"\frac{14}{3}", "4.67", False),
        (r"50\%", "0.5", True),
        ("[0,1)", "[0, 1)", True),
        ("[0,1)", "[0,1]", False),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", True),
        ("(1,2)", "(2,1)", False),  # a point
        ("1, 2", "2, 1", True),  # several answers
        ("5", r"5\text{ cm}", True),
        ("18", r"\$18.00", True),
        ("1,000", "1000", True),
        (r"90^\circ", "90", True),
        ("025", "25", True),
        (r"\text{Evelyn}", "Evelyn", True),
        ("p - q", "-q + p", True),
        ("5", "x = 5", True),
        ("x", "y", False),
        ("42", "41 or 42", False),  # a guess is no answer
        ("2", "the answer is 2", False),
        ("4", "", False),
        ("5:00", "5:00", True),  # sympy: a division by zero
        (r"\boxed{7}", r"\boxed{7}", True),
        ("", "3", False),
        ("7", r"\frac{", False),
    ],
)
def test_math_by_hand(verifier, gold, answer, right):
    assert verifier(boxed(answer), gold) is right


def test_only_the_last_box_after_the_thinking_counts(verifier):
    strict = MathVerifier(require_think_end=True, workers=1)
    before = r"<think>\boxed{3}</think> I do not know."
    cases = [before, r"\boxed{3}", "3", "", r"\boxed{3} \boxed{4}", r"\boxed{4} \boxed{3}", r"</think>\boxed{3}"]
    assert [verifier(case, "3") for case in cases] == [False, True, False, False, False, True, True]
    assert strict.verify_many([(case, "3") for case in cases]) == [False] * 6 + [True]
    assert not strict._idle  # nothing was to be compared: equal texts, or no answer


def test_what_hangs_is_false_and_counted_and_the_next_is_answered():
    with MathVerifier(seconds=0.3, workers=2) as verifier:
        pairs = [(boxed(i), str(i % 3)) for i in range(6)]
        pairs[1:1] = [(boxed(HANGS), "7"), (boxed("7"), HANGS), (boxed(HANGS), "7")]
        found = verifier.verify_many(pairs)
        assert found == [True] + [False] * 3 + [True, True] + [False] * 3 and verifier.timeouts == 3
        assert verifier(boxed("0.5"), "1/2") and (verifier.timeouts, verifier.errors) == (3, 0)


def test_an_error_is_false_and_counted(verifier):
    before = verifier.errors
    assert not verifier(boxed("5:01"), "5:00") and verifier.errors == before + 1  # zoo is no number


def test_in_a_thread_and_from_several_at_once(verifier):
    found = {}

    def ask(i):
        found[i] = verifier.verify_many([(boxed(f"{i}/2"), str(i / 2)), (boxed(f"{i}/3"), str(i / 2))])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(1, 4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == {i: [True, False] for i in range(1, 4)}


def test_the_order_is_kept_and_equal_questions_are_compared_once(verifier, monkeypatch):
    asked = []
    monkeypatch.setattr(verifier, "_ask", lambda question: asked.append(question) or MathVerifier._ask(verifier, question))
    pairs = [(boxed(f"x + {i % 3}"), "1 + x") for i in range(9)]
    assert verifier.verify_many(pairs) == [False, True, False] * 3
    assert sorted(asked) == [("x + 0", "1 + x"), ("x + 1", "1 + x"), ("x + 2", "1 + x")]
    assert verifier.verify_many([]) == []


def test_a_killed_process_is_replaced():
    verifier = MathVerifier(workers=1)
    assert verifier(boxed("x + 1"), "1 + x")
    (server,) = verifier._idle
    server.kill()
    server.wait()
    assert verifier(boxed("1/2"), "0.5") and verifier.errors == 0
    (server,) = verifier._idle
    verifier.close()
    assert server.poll() is not None and not verifier._idle
    with pytest.raises(ValueError, match="0 seconds"):
        MathVerifier(seconds=0)


# --- reasoning_gym


class Sums:
    """A data set as reasoning_gym's: partial scores, and a scorer that raises on words."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"question": "?", "answer": str(10 * index)}

    def score_answer(self, answer, entry):
        return max(0.0, 1 - abs(float(answer) - float(entry["answer"])) / 100)


def test_a_part_of_the_score_is_not_right():
    verifier = GymVerifier(Sums())
    assert verifier("<answer>1</answer> no: <answer> 10 </answer>", "1") and not verifier("<answer>11</answer>", "1")
    assert verifier("I think.\nAnswer: 10", 1) and verifier("**Answer:** 3\nAnswer: **10**", {"answer": "10"})
    assert not verifier("10", "1") and not verifier("", "1") and not verifier("<answer>10</answer></think>", "1")
    assert verifier.errors == 0 and not verifier("Answer: ten", "1") and verifier.errors == 1
    assert not GymVerifier(Sums(), require_think_end=True)("Answer: 10", "1")
    with pytest.raises(IndexError, match="gold 2 names no entry"):
        verifier("Answer: 3", "2")


def test_with_the_real_generators():
    import reasoning_gym

    dataset = reasoning_gym.create_dataset("chain_sum", seed=3, size=4)
    verifier = GymVerifier(dataset)
    for i in range(4):
        answer = dataset[i]["answer"]
        assert verifier(f"<think>Answer: 5</think>The answer is\nAnswer: {answer}", str(i))
        assert not verifier(f"<answer>{answer} or more</answer>", str(i))  # reasoning_gym gives a part of the score
    assert tagged_answer("none") is None
