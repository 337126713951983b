"""Units, halves of the day, bases and coordinates that differ are told apart; what is equal stays so."""

import pytest

from common.reasoning.answers import REMAINING
from common.reasoning.strict import UNMENDED, StrictVerifier, decided, in_tens, parts, si
from tests.reasoning.test_answers import TABLE

pytest.importorskip("math_verify")


@pytest.fixture(scope="module")
def verifier():
    with StrictVerifier(workers=1) as found:
        yield found


DIFFERENT = [
    (r"5\text{ N}", r"5\text{ kN}"), ("5 Pa", "5 kPa"), ("5 V", "5 mV"), ("5 GB", "5 MB"), ("5 cal", "5 kcal"), ("5 Hz", "5 MHz"),
    ("5 MHz", "5 GHz"), ("5 W", "5 MW"), ("5 mW", "5 MW"), (r"5\ \mu m", "5 mm"), ("5 µm", "5 mm"), (r"5^\circ C", "5 K"),
    (r"5\text{ people}", r"5\text{ km}"), (r"5\text{ red balls}", r"5\text{ blue balls}"), ("5 A", "5 mA"), ("5 kilowatts", "5 megawatts"),
    ("10 AM EST", "10 PM EST"), ("6 AM on Monday", "6 PM on Monday"), ("3 PM, 4 PM", "3 AM, 4 AM"),
    (r"6\text{ p.m. sharp}", "6 a.m. sharp"),
    ("101_2, 11_2", "101_3, 11_3"), ("101_2 + 1_2", "101_3 + 1_3"), (r"(\frac{1}{3}, 2)", "(0.3333333333333333, 2)"),
    (r"(\sqrt{2}, 1)", "(1.4142135623730951, 1)"), (r"\text{no real solutions}", "0"), ("(1, 2)", "(2, 1)"), ("(1, 2)", "(1, 2, 3)"),
    ("[1, 2]", "(1, 2)")]
SAME = [
    (r"5\text{ kN}", "5000 N"), ("5 kN", "5 kilonewtons"), ("5 GB", "5000 MB"), ("5 MHz", "5000 kHz"), ("2 kcal", "2000 calories"),
    ("0.5 mA", r"500\ \mu A"), ("5 km", "5000 m"), ("5 cm", r"5\text{ centimeters}"), ("5 people", "5 people."),
    ("5 apple", "5 apples"), ("6 PM", "6 p.m."), ("6 PM", "18:00"), ("noon", "12 PM"), ("3 PM, 4 PM", "3 PM, 4 PM"),
    ("101_2, 11_2", "5_{10}, 3_{10}"), ("101_2", "5_{10}"), (r"(\frac{1}{3}, 2)", r"(\frac{2}{6}, 2)"), (r"(0.5, 2)", r"(\frac{1}{2}, 2)"),
    (r"\emptyset", r"\text{no real solutions}"), (r"\text{no solution}", r"\text{There are no real solutions.}"), ("2x", "2x"),
    ("3t", "3t"), ("90^\\circ", "90"), ("x^2+1", "1+x^2"), (r"\frac{1}{2}", "0.5")]


@pytest.mark.parametrize("gold, answer", DIFFERENT)
def test_what_differs_is_told_apart_either_way_round(gold, answer, verifier):
    assert not verifier(rf"\boxed{{{answer}}}", gold) and not verifier(rf"\boxed{{{gold}}}", answer)


@pytest.mark.parametrize("gold, answer", SAME)
def test_what_is_equal_stays_so(gold, answer, verifier):
    assert verifier(rf"\boxed{{{answer}}}", gold) and verifier(rf"\boxed{{{gold}}}", answer)


def test_all_else_is_graded_as_it_was(verifier):
    asked = [(gold, answer, right) for gold, good, bad in TABLE for right, answers in ((True, good), (False, bad)) for answer in answers]
    found = verifier.verify_many([(rf"\boxed{{{answer}}}", gold) for gold, answer, _ in asked])
    assert [(g, a, f) for (g, a, right), f in zip(asked, found) if f is not right] == []


def test_what_is_still_wrong_is_listed_as_it_is(verifier):
    for gold, answer, found, right in [*UNMENDED, *REMAINING]:
        assert verifier(rf"\boxed{{{answer}}}", gold) is found is not right, (gold, answer)


def test_a_thought_that_must_end_still_must(verifier):
    pairs = [(r"\boxed{5 kN}", "5 N"), (r"</think>\boxed{(1,2)}", "(1,2)"), (r"\boxed{(1, 2)}", "(1,2)"), (r"\boxed{5}", "5"), ("5", "5"),
             (r"</think>\boxed{5000 N}", "5 kN"), (r"\boxed{5000 N}", "5 kN")]
    assert verifier.verify_many(pairs) == [False, True, True, True, False, True, True]
    assert verifier.verify_many(pairs, [True] * 7) == [False, True, False, False, False, True, False]
    assert verifier.verify_many([]) == []


def test_rules_by_hand():
    assert decided("5 N", "5 kN") is False and decided("5000 N", "5 kN") is True and decided("5", "5 kN") is None
    assert decided("1" * 5000 + " N", "5 kN") in (None, False)  # beyond Python's limit of digits: no error
    assert si("kN") == ("N", 1000) and si("mW")[1] * 10**9 == si("MW")[1] and si("people") is None and si("megahertz") == si("MHz")
    assert in_tens("101_2, 11_{2}") == "5, 3" and in_tens("101_2") is None and in_tens("a_1 + a_2") is None and in_tens("9_2, 1_2") is None
    assert parts("(1, 2)", "(1,2)") == [(r"\boxed{1}", "1"), (r"\boxed{2}", "2")] and parts("1, 2", "(1, 2)") is None
