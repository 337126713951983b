"""Chain arithmetic: what is essential, what is redundant, and that the corpus is the one that was specified."""

import numpy as np
import pytest

from common.data import chains
from common.data.chains import Problem

FIXED = Problem(4, ("c", "f", "a"), ("+", "*"), (7, 3))


def test_a_problem_by_hand():
    assert FIXED.prompt == tuple("<bos> c 4 f + 7 a * 3 ?".split())
    assert chains.essential(FIXED) == tuple("f 4 + 7 = 1 ; a 1 * 3 = 3 A 3 <eos>".split())
    assert (FIXED.k, FIXED.answer, FIXED.essential) == (2, 3, 16)
    assert chains.compute(3, "-", 8) == 5  # modulo 10, never negative


@pytest.mark.parametrize("words, right", [
    ("A 3 <eos>", True), ("f 4 + 7 = 1 ; a 1 * 3 = 3 A 3 <eos>", True), ("A 3", False), ("A 4 <eos>", False), ("3 <eos>", False),
    ("A 3 <eos> A 4 <eos>", False), ("", False), ("A 4 R A 3 <eos>", True)])
def test_what_is_right(words, right):
    assert chains.correct(words.split(), FIXED) == right
    assert not chains.correct(words.split(), FIXED, limit=2)


def test_the_corpus_is_the_specified_one():
    """Specification 8.1: mean 64, 42 % of at most 40 tokens, .96 right."""
    draw, found = np.random.default_rng(0), []
    for i in range(4000):
        problem = chains.problem(i)
        trace = chains.trace(problem, draw)
        found.append((len(trace), chains.correct(trace, problem), len(trace) >= problem.essential))
    lengths = np.array([n for n, _, _ in found])
    assert abs(lengths.mean() - 64) < 3 and abs((lengths <= 40).mean() - 0.42) < 0.03 and lengths.max() <= chains.LONGEST
    assert abs(np.mean([ok for _, ok, _ in found]) - 0.96) < 0.01 and all(enough for _, _, enough in found)


def test_traces_repeat_steps_and_chains_and_nothing_else():
    """Without W, R and what they repeat, every trace is its essential form, but for the wrong digits."""
    draw = np.random.default_rng(1)
    for i in range(200):
        problem = chains.problem(i)
        last = " ".join(chains.trace(problem, draw)[:-3]).split(" R ")[-1]
        steps = [part.split(" W ")[-1] for part in last.split(" ; ")]
        assert [step.split()[0] for step in steps] == list(problem.labels[1:])
        assert [step.split()[2:4] for step in steps] == [[op, str(d)] for op, d in zip(problem.operations, problem.digits)]
    assert chains.trace(FIXED, np.random.default_rng(3), verbosity=0.0)[-3] == "A"


def test_splits_and_numbers_make_other_problems_and_the_same_ones_again():
    assert chains.problem(5) == chains.problem(5) != chains.problem(6)
    assert chains.problem(5, "test") != chains.problem(5) and chains.problem(5, seed=1) != chains.problem(5)
    kinds = [chains.problem(i, "test").k for i in range(600)]
    assert set(kinds) == {1, 2, 3} and all(150 < kinds.count(k) < 250 for k in (1, 2, 3))


def test_the_tokenizer_has_thirty_words_and_goes_through_the_hub_format(tmp_path):
    from transformers import AutoTokenizer

    chains.tokenizer().save_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert len(words) == 30 and words.eos_token == "<eos>"
    assert words.decode(words(" ".join(FIXED.prompt)).input_ids) == " ".join(FIXED.prompt)
