"""Worked lines behind the sentences that make them known: by hand, and on the generator's own questions."""

import pytest

from common.errors import DataError
from tests.small_tokenizers import tokenizer

from .. import symbolic
from ..experiments import aligned as experiment
from ..symbolic import SKIP, Aligned, Lines, align

QUESTION = "Ann has 3 boxes of 20 stamps. She likes them. She finds half a dozen. How many stamps has she?"
WORKED = "She has 3*20=60 in boxes\nA half of 12 is 12/2=6\nIn all 60+6=66\n#### 66"


def test_lines_stand_behind_the_first_sentence_that_makes_them_known():
    found = align(QUESTION + symbolic.ASKED, WORKED, "66", 7)
    assert found == Aligned(("How many stamps has she?", "Ann has 3 boxes of 20 stamps.", "She likes them.", "She finds half a dozen."),
                            ("We need how many stamps has she.", "She has 3*20=60 in boxes", SKIP, "A half of 12 is 12/2=6"),
                            "In all 60+6=66", "66", 7)
    early = align("Ann has 3. Bob has 2. How many?", "3+0=3\n3+2=5", "5")
    assert early == "number"  # nobody told of 0
    late = align("Ann has 3. Bob has 2. How many?", "3+2=5\n3-2=1\n5+1=6", "6")
    assert late.units[1:] == (SKIP, "3+2=5 3-2=1")  # two lines of one sentence, in their order


@pytest.mark.parametrize("question, worked, why", [
    ("How many? Ann has 3. Bob has 2.", "3+2=5\n5=5", "question"), ("Ann has 3. How many?", "3+1=4\n4=4", "question"),
    ("Is Ann here? She has 2. How many?", "2+2=4\n4=4", "question"), ("Ms. Ann has 2. It is so. How many?", "2=2\n2=2", "question"),
    ("Ann has 3. Bob has 2. How many?", "3+9=12\n12=12", "number"), ("Ann has 3. Bob has 2. How many?", "3+2=5", "skipped")])
def test_what_cannot_be_aligned_says_why(question, worked, why):
    assert align(question, worked, "0") == why


def test_numbers_by_hand():
    assert symbolic.numbers("3 of $1,250.50, and 2,5") == [3, 1250.5, 2, 5]
    assert symbolic.told("twice 30% of it") == {1, 2, 30, 100, 0.3, 0.7, 70}
    assert symbolic._sides("4*2=8 and 8+1=9") == ({4, 2, 1}, {8, 9}) and symbolic._sides("Ann finds 6") == ({6}, set())


def test_real_questions_are_aligned_or_dropped():
    pytest.importorskip("reasoning_gym")
    found = symbolic.surveyed(120)
    kept = [one for _, one in found if isinstance(one, Aligned)]
    assert 30 < len(kept) < 110 and {one for _, one in found if isinstance(one, str)} <= set(symbolic.REASONS)
    for one in kept:
        assert len(one.units) == len(one.sentences) >= 3 and any(unit != SKIP for unit in one.units[1:])
        assert one.sentences[0].endswith("?") and one.answer.replace(".0", "") in one.deep.replace(",", "").replace(".0", "")
    found = experiment.aligned("smoke")
    assert sum(found["swapped"]) < 0.2 * sum(found["survives"]) and sum(found["reasons"].values()) == 60 - sum(found["survives"])


def words():
    of = tokenizer("qwen2")
    of.add_tokens([" ####"])
    return Lines.of(of)


def test_segments_in_tokens_end_with_a_line_and_open_no_structure():
    of, one = words(), align(QUESTION, WORKED, "66")
    sample, tokens = of.segments(one), of.tokens()
    end = tokens.boundary
    assert [s[-1] for s in sample.source[1:-1]] == [end] * 4 and [t[-1] for t in sample.target[1:-1]] == [end] * 4
    assert sample.source[0] == tokens.instruction and sample.source[-1] == tokens.closing and sample.target[0] == tokens.header
    assert sample.target[-1][: sample.forced] == tokens.cues[2] and sample.target[-1][-1] == tokens.stop
    assert of.answered(sample.target[-1]) == "66" and of.answered(of.plain("So nothing")) == "So nothing"
    with pytest.raises(DataError, match="cuts ' ####' into more than one token"):
        Lines.of(tokenizer("qwen2"))
