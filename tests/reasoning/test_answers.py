"""Answers in one form: every kind of the table, right and wrong, by hand; what math-verify still errs on, held as it is."""

from fractions import Fraction

import pytest

from common.reasoning.answers import REMAINING, decide, plain
from common.reasoning.numerals import number, spelt
from common.reasoning.verifiers import MathVerifier, after_thinking, opens_thought

# (gold, answers that are right, answers that are wrong)
TABLE = [
    ("27", ["27.", "27;", r"\boldsymbol{27}", r"\mathbf{27}", r"\textbf{27}", r"{\bf 27}", r"\textcolor{red}{27}", r"\color{blue}{27}",
            "$27$", r"\(27\)", r"\displaystyle 27",
            "**27**", r"\bm{\mathrm{27}}", r"\text{twenty-seven}", "twenty seven", "27.0", "+27",
            r"\text{27}", "２７", r"27\text{.}", r"27\ "], ["27.5", "2.7", "-27", r"\boldsymbol{28}", "twenty-eight"]),
    ("1000", [r"1\,000", "1 000", "1{,}000", r"1\ 000", "1~000", "1,000", "1\u202f000", r"1{\,}000", "one thousand"],
     ["1.000", "1 00", "1, 000, 000", r"10\,000"]),
    ("1234567.5", [r"1\,234\,567.5", "1 234 567.5", "1,234,567.5"], ["1 234 567"]),
    (r"\sqrt{2}", ["√2", "√{2}", "√(2)", "sqrt(2)", r"\frac{2}{√2}", r"2^{1/2}"], ["2", "√3", "1.41421356", "1.4142135623730950488"]),
    (r"2\sqrt{3}", ["2√3", "√12", "2 √3"], ["√6", "2+√3"]),
    (r"\frac{1}{3}", [r"0.\overline{3}", r"0.\bar{3}", "0.(3)", r".\overline{3}", r"0.\dot{3}", "1/3", "one third", "⅓",
                      r"\dfrac13", r"0.\overline{33}"],
     ["0.3333333333", "0.33", "0.3", r"0.0\overline{3}", "0.333333333333333333"]),
    ("0.5", ["1/2", ".5", "0.50", r"50\%", "½", "one half"], [r"5\%", r"500\%", "0.500000001"]),
    (r"\frac{7}{2}", [r"3\frac{1}{2}", "3.5", r"3 \frac12", "3½", "three and a half"], [r"3 \cdot \frac{1}{2}", "3.49999999"]),
    ("4210_5", ["4210_{5}", r"4210_{\text{five}}", "4210_{(5)}", "4210", r"4210_{\text{base }5}", "4210 base 5", r"4210_\text{five}"],
     ["4210_6", "4210_{10}", "421_5", "4211"]),
    ("12_3", ["12_{3}", "12", "5_{10}", "101_2", r"12_{\mathrm{three}}"], ["12_4", "123", "21_3"]),
    ("6 PM", [r"6\text{ PM}", "6:00 p.m.", r"6:00\text{ PM}", "18:00", "6 pm", "6 p.m."], ["6 AM", "6:30 PM", "06:00 AM", "7 PM"]),
    ("5 m", [r"5\text{ m}", "5", r"5\,\mathrm{m}", "500 cm", "5 meters", "0.005 km", "five meters"],
     ["5 cm", "5 km", r"5\text{ kg}", "5 m^2", "5 seconds", "6 m"]),
    (r"12\text{ cm}^2", ["12", "12 cm^2", "12 square centimeters", r"12\,\mathrm{cm}^2", "12 cm²", "1200 mm^2"],
     ["12 cm", "12 m^2", "12 cm^3"]),
    (r"60\text{ km/h}", ["60 kilometers per hour", "60 km/h", "60"], ["60 mph", "60 km", "60 m/s"]),
    (r"90^\circ", ["90", "90°", "90 degrees", r"90^{\circ}"], [r"90\text{ radians}", "9°"]),
    ("5", [r"5\%", r"5\text{ cm}", r"\$5", "5 dollars", r"x = 5"], [r"500\%", r"50\%", "5^2"]),
    (r"50\%", ["0.5", "50", r"50\text{ percent}", "50%", r"\frac12"], ["5", r"0.5\%", r"500\%"]),
    (r"\$5", ["5 dollars", "500 cents", "5"], ["5 cents", "€5"]),
    ("(0,1]", [r"0 < x \le 1", r"1 \ge x > 0", r"x \in (0,1]", r"0 < t \leq 1", "0 < x ≤ 1", r"\left(0,1\right]"],
     ["0 < x < 1", r"0 \le x \le 1", "[0,1]", r"0 < x \le 2"]),
    (r"\left(3,4\right]", [r"\boldsymbol{(3,4]}", "(3,4]."], ["(3,4)"]),
    (r"(-\infty,1)\cup(3,\infty)", [r"x < 1 \text{ or } x > 3", r"x<1 \cup x>3", "x < 1 or 3 < x",
                                        r"\{x \mid x < 1 \text{ or } x > 3\}"],
     ["x < 1", r"x \le 1 \text{ or } x > 3"]),
    (r"[2,\infty)", [r"x \ge 2", "x >= 2", r"2 \le x"], ["x > 2", r"x \le 2"]),
    (r"x \ge 2", [r"[2,\infty)", r"x\geq 2"], [r"(2,\infty)"]),
    (r"\emptyset", [r"\varnothing", r"\{\}", r"\{ \}", "∅", r"\text{no solution}", "the empty set", r"\left\{\right\}", "No solutions.",
                    r"S = \varnothing", r"x \in \emptyset"],
     ["0", r"\{0\}", r"\{\emptyset\}", "none of these"]),
    ("21", ["twenty-one", r"\text{twenty one}", "Twenty-One"], ["twelve", "twenty one hundred", "twenty"]),
    ("305", ["three hundred five", "three hundred and five"], ["three hundred fifty"]),
    ("-2", ["minus two", "−2", "–2", "negative two"], ["two"]),
    (r"\text{(A)}", ["A", "(A)", r"\textbf{(A)}", r"\mathrm{A}"], ["B", "(B)"]),
    (r"\text{East}", ["east", r"\text{ east }"], ["west"]),
    (r"3\pi", ["3π", r"3 \pi", "3pi"], ["9.42477796", "3"]),
    # the same kinds in other dress
    ("1234567", ["1'234'567", "1’234’567", "1_234_567", "1.234.567", "12,34,567", "１，２３４，５６７", "١٬٢٣٤٬٥٦٧", "१२३४५६७",
                 "1\u2009234\u2009567"],
     ["123,4567", "1,234,568", "1.234567"]),
    ("100, 200", ["100,200", r"\{100,200\}", "200, 100"], ["100200", "100, 201"]),
    ("1,000", ["1000"], ["1, 000"]),
    (r"25\%", ["٢٥٪", "25％", r"\frac14"], [r"2.5\%", "0.025"]),
    ("1", [r"100\%"], [r"1\%"]),
    (r"25^\circ\text{C}", ["25", "25 degrees Celsius", r"77^\circ F"], [r"25^\circ\text{F}", "26°C"]),
    (r"180^\circ", [r"\pi\text{ radians}", r"\pi\text{ rad}", "180"], [r"2\pi\text{ radians}", r"\pi"]),
    ("72 km/h", [r"20\ \mathrm{m\,s^{-1}}", "20 m/s"], ["72 m/s", "20 km/h"]),
    (r"\$3.50", ["3.50 dollars", "350 cents", "3.5"], ["€3.50", "£3.50", "¥3.50"]),
    ("5 m", ["500 centimetres"], ["5t"]),
    ("3", [r"3\text{ t}"], ["3t", "3s^2", "3m"]),
    ("3t", ["t+2t"], ["3", "3s"]),
    ("5", [r"5\mathrm{m}", r"5\text{m}"], ["5m"]),
    (r"\frac{1}{2}m", [r"\frac{m}{2}"], [r"\frac{1}{2}"]),
    ("-12_3", ["-12_{3}", "-5_{10}", "-12"], ["-12_4", "12_3"]),
    ("12.1_3", ["12.1_{3}", "12.10_3"], ["12.1_4", "12_3"]),
    ("1011_2", ["0b1011", "0xB", "1011", "B_{16}"], ["0b1010", "1011_3"]),
    ("6:30 PM", ["6.30 p.m.", "half past six", "half past six in the evening", "18:30", "6:30 in the evening"],
     ["half past six in the morning", "6.30 a.m.", "quarter past six", "half past five"]),
    ("7 AM", ["7 in the morning", "seven o'clock in the morning", "7 o'clock"], ["7 o'clock in the evening", "7 in the evening", "19:00"]),
    ("10 PM", ["10 at night", "ten o'clock at night"], ["10 in the morning", "2 at night"]),
    ("11:45", ["quarter to twelve", "a quarter to 12"], ["quarter past twelve", "quarter to eleven"]),
    ("(1,2)", ["]1,2[", "1 < x < 2"], ["]1,2]", "[1,2[", r"\{1,2\}", "1,2"]),
    ("[1,2)", ["[1,2["], ["]1,2]", "]1,2["]),
    (r"\{1,2,3\}", [r"\{3,2,1\}", "1, 2, 3"], ["(1,2,3)", r"\{1,2\}"]),
    (r"\mathbb{R}", ["all real numbers", r"(-\infty,\infty)", r"x \in \mathbb{R}"], [r"(0,\infty)", r"\mathbb{Z}"]),
    (r"\frac{3\pi}{2}", [r"1\frac12\pi", r"1\frac{1}{2}\pi"], [r"\frac{1}{2}\pi"]),
    ("2-3/4", ["5/4"], ["2 3/4", r"2\frac34"]),
    ("3:4", ["3 to 4"], ["4 to 3"]),
    ("A", ["(A) 5", r"\text{(A) five}"], ["(B) 5", "(A), (B)"]),
]


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(workers=1) as found:
        yield found


def test_the_table(verifier):
    asked = [(gold, answer, right) for gold, good, bad in TABLE for right, answers in ((True, good), (False, bad)) for answer in answers]
    found = verifier.verify_many([(rf"\boxed{{{answer}}}", gold) for gold, answer, _ in asked])
    assert [(g, a, f) for (g, a, right), f in zip(asked, found) if f is not right] == []


@pytest.mark.parametrize("text", [g for g, *_ in TABLE] + [
    r"\left( 3, \frac{\pi}{2} \right)", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "x^2 + 1", "p - q"])
def test_a_full_stop_changes_no_answer_and_one_form_is_its_own(text):
    assert decide(f"{text}.", text) is True and decide(text, text) is True and plain(plain(text)) == plain(text)


def test_numbers_by_hand():
    assert [number(t) for t in ("1/3", r"\frac12", r"-1\frac{1}{2}", "3.", ".5", "1/0", r"\frac{x}{2}", "")] == [
        Fraction(1, 3), Fraction(1, 2), Fraction(-3, 2), 3, Fraction(1, 2), None, None, None]
    words = {"two million three hundred thousand and one": 2_300_001, "a hundred": 100, "two thirds": Fraction(2, 3), "zero": 0,
             "one and a half": Fraction(3, 2), "twenty forty": None, "a few": None, "hundred two hundred": None, "east": None,
             "third": None, "seventeen hundred": 1700, "2 million": 2_000_000, "1.5 thousand": 1500, "a dozen": 12, "half": Fraction(1, 2)}
    assert {w: spelt(w) for w in words} == words


def test_what_math_verify_still_errs_on_is_listed_as_it_is(verifier):
    """Whoever mends one takes it from the list."""
    assert REMAINING
    for gold, answer, found, right in REMAINING:
        assert verifier(rf"\boxed{{{answer}}}", gold) is found is not right, (gold, answer)


def test_a_thought_that_is_not_closed_holds_no_answer():
    assert after_thinking(r"<think>\boxed{5}") is None and after_thinking(r"<think>x</think>ok<think>\boxed{5}") is None
    assert after_thinking("<think>x</think>5") == "5" and after_thinking("5", required=True) is None
    assert opens_thought("<|Assistant|><think>\n") and not opens_thought("<think></think>") and not opens_thought("")
