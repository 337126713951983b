r"""Answers that name different units, halves of the day or bases are different, whatever math-verify makes of the numbers.

    StrictVerifier()          MathVerifier's verdicts, but for the pairs that `decided` or `parts` know better
    decided(answer, gold)     True or False where a rule here decides, else None

measures.py knows a list of units, and drops a word behind a number that is none of them: 5 N would be 5 kN, and five people five
kilometres. Here both sides are held against each other: SI units with their prefixes are converted, and of other words behind a number
each side's must be the other's, or among them. Where one side names nothing, all is as before: it is dropped.

What a benchmark's score rests on is graded so. Rewards of a training, and the recorded experiments, are graded as they were.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from . import measures
from .answers import plain
from .numerals import number, worded
from .verifiers import MathVerifier, after_thinking, last_boxed, plain_gold

F = Fraction
PREFIXES = {"": F(1), "p": F(1, 10**12), "n": F(1, 10**9), "µ": F(1, 10**6), "m": F(1, 1000), "k": F(1000), "M": F(10**6), "G": F(10**9),
            "T": F(10**12)}
PREFIX_NAMES = {"": "", "pico": "p", "nano": "n", "micro": "µ", "milli": "m", "kilo": "k", "mega": "M", "giga": "G", "tera": "T"}
SYMBOLS = ("m", "g", "s", "L", "N", "Pa", "V", "A", "Ω", "Hz", "W", "J", "B", "cal", "K", "mol", "C", "F", "T", "eV")
NAMES = {"meter": "m", "metre": "m", "gram": "g", "second": "s", "liter": "L", "litre": "L", "newton": "N", "pascal": "Pa", "volt": "V",
         "ampere": "A", "amp": "A", "ohm": "Ω", "hertz": "Hz", "watt": "W", "joule": "J", "byte": "B", "calorie": "cal", "kelvin": "K",
         "mole": "mol", "coulomb": "C", "farad": "F", "tesla": "T", "electronvolt": "eV"}
# (gold, answer, what is found, what is right): pairs that a test holds.
UNMENDED: list[tuple[str, str, bool, bool]] = [
    (r"\{0.3333333333333333, 2\}", r"\{\frac{1}{3}, 2\}", True, False),  # long decimals within a set, whose order is free
    ("[-1,1]", r"x \ge -1, x \le 1", False, True),  # an interval by two inequalities
    (r"x \ne 2", r"ℝ\{2}", False, True),  # a set without a number, as typed
    ("(0,1)", "]0;1[", False, True),  # ends parted by a semicolon
    (r"5\text{ people}", r"5\text{ persons}", False, True),  # two words for one thing
]


class StrictVerifier(MathVerifier):
    """As MathVerifier."""

    def verify_many(self, pairs: Sequence[tuple[str, str]], opened: Sequence[bool] | None = None) -> list[bool]:
        required = [self.require_think_end] * len(pairs) if opened is None else list(opened)
        found: list[bool | None] = []
        asked: list[tuple[int, tuple[str, str], bool]] = []  # (which pair, what is compared, must the thought have ended)
        for i, ((response, gold), need) in enumerate(zip(pairs, required, strict=True)):
            text = after_thinking(response, need)
            answer, right = None if text is None else last_boxed(text), plain_gold(gold)
            verdict = decided(answer, right) if answer and answer != right else None
            found.append(verdict)
            if verdict is None:
                asked += [(i, pair, need) for pair in (parts(answer, right) if answer else None) or [(response, gold)]]
        verdicts = super().verify_many([pair for _, pair, _ in asked], [need and pair == pairs[i] for i, pair, need in asked])
        same = {i: True for i, _, _ in asked}
        for (i, _, _), verdict in zip(asked, verdicts):
            same[i] &= verdict
        return [same[i] if each is None else each for i, each in enumerate(found)]


def decided(answer: str, gold: str) -> bool | None:
    """What can be said before the values are compared; None where there is nothing to say."""
    try:
        ours, theirs = plain(answer), plain(gold)
        for rule in (_nothing, _halves_of_day, _measured):
            if (verdict := rule(ours, theirs)) is not None:
                return verdict
    except (ValueError, ArithmeticError, RecursionError):  # of a text that no rule was written for
        pass
    return None


def parts(answer: str, gold: str) -> list[tuple[str, str]] | None:
    """Pairs of which each must be equal, as responses and golds; None where the whole is compared. The coordinates of two points one by
    one, for a long decimal is no third there either; and of sums and lists of numberals their values."""
    if (numerals := (in_tens(answer), in_tens(gold))) != (None, None) and None not in numerals:
        return [(f"\\boxed{{{numerals[0]}}}", str(numerals[1]))]
    points = [re.fullmatch(r"\(((?:[^()\[\]=\\]|\\(?![{}]))*)\)", plain(text, commas=False).strip()) for text in (answer, gold)]
    if points[0] is None or points[1] is None:
        return None
    ours, theirs = (re.split(r",(?![^{]*\})", point.group(1)) for point in points if point is not None)
    if len(ours) != len(theirs) or len(ours) < 2 or not all(text.strip() for text in (*ours, *theirs)):
        return None
    return [(f"\\boxed{{{a.strip()}}}", g.strip()) for a, g in zip(ours, theirs)]


def in_tens(text: str) -> str | None:
    r"""101_2, 11_2 as 5, 3: a list or a sum of two numerals or more, each of which names its base. None for another text."""
    numeral = r"(?<![\w.}])(\d[0-9A-Za-z]*)\s*_\s*(?:\{\s*(\d+)\s*\}|(\d+))"
    text = worded(text.replace(r"\_", "_"))
    if len(re.findall(numeral, text)) < 2 or re.search(r"\w", re.sub(r"\\[a-z]+", "", re.sub(numeral, "", text))):
        return None
    try:
        return re.sub(numeral, lambda m: str(int(m.group(1), int(m.group(2) or m.group(3)))), text)
    except ValueError:  # a digit that the base has not
        return None


# -- rules -------------------------------------------------------------------------------------------------
def _nothing(ours: str, theirs: str) -> bool | None:
    """No real solution is the empty set, where one of them is said so; any other answer differs from it."""
    said = [bool(re.fullmatch(r"(?:there (?:are|is) )?no real (?:solution|root|value|number)s?(?: exists?| exist)?",
                              worded(text).lower().strip(" ."))) for text in (ours, theirs)]
    if not any(said):
        return None
    none = [of or measures.is_empty_set(text) for of, text in zip(said, (ours, theirs))]
    return all(none)


def _halves_of_day(ours: str, theirs: str) -> bool | None:
    """Times of which some are told by halves of the day, on both sides, and not as often by each: different."""
    halves = [sorted(re.findall(r"\d\s*([ap])\.?\s?m\b", worded(text).lower())) for text in (ours, theirs)]
    return False if all(halves) and halves[0] != halves[1] else None


def _measured(ours: str, theirs: str) -> bool | None:
    """Two numbers with a unit, or with another word, behind them."""
    if any(measures.clock(text) is not None or re.search(r"\d\s*[ap]\.?\s?m\b", worded(text).lower()) for text in (ours, theirs)):
        return None
    if measures.unit(ours) is not None and measures.unit(theirs) is not None and not _prefixed(ours, theirs):
        return None  # measures.py converts these
    first, second = _with_words(ours), _with_words(theirs)
    if first is None or second is None:
        return None
    (a, named), (g, other) = first, second
    mine, its = si(named), si(other)
    if mine is not None and its is not None:
        return mine[0] == its[0] and a * mine[1] == g * its[1]
    words = [{word.lower().removesuffix("s") for word in text.split()} for text in (named, other)]
    return None if words[0] <= words[1] or words[1] <= words[0] else False


def _prefixed(ours: str, theirs: str) -> bool:
    """Whether the units differ by case alone, which measures.py does not look at: mW and MW."""
    split = [_with_words(text) for text in (ours, theirs)]
    names = [each[1] for each in split if each is not None]
    return len(names) == 2 and names[0] != names[1] and names[0].lower() == names[1].lower()


def _with_words(text: str) -> tuple[Fraction, str] | None:
    """(value, what stands behind it) of "5\\text{ kN}", "12 red balls"; None without a number in front or a word behind."""
    text = re.sub(r"\\mu(?![a-zA-Z])\s*|[μ]", "µ", text)
    text = re.sub(r"\\(?:Omega|ohm)(?![a-zA-Z])", "Ω", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?\s*(?=[CFK]\b)", " degrees ", worded(text))
    found = re.fullmatch(r"(.*[\d}])\s*?(\s|(?<=[\d}]))([A-Za-zµΩ][A-Za-zµΩ .'-]*)", re.sub(r"µ\s+", "µ", text).strip())
    value = None if found is None else number(found.group(1).strip())
    if found is None or value is None:
        return None
    alone = len(found.group(3)) == 1 and not found.group(2).strip() and text.find(" ") < 0
    return None if alone and found.group(3) not in SYMBOLS else (value, found.group(3).strip(" ."))  # 3t is a term


def si(name: str) -> tuple[str, Fraction] | None:
    """(symbol, factor) of an SI unit, or of bytes and calories, with its prefix: kN, kilonewtons. The case of a symbol tells milli from
    mega."""
    for prefix, factor in PREFIXES.items():
        if name.startswith(prefix) and name[len(prefix):] in SYMBOLS:
            return name[len(prefix):], factor
    word = name.lower()
    for prefix, sign in PREFIX_NAMES.items():
        for each in (word, word.removesuffix("s")):
            if each.startswith(prefix) and each[len(prefix):] in NAMES:
                return NAMES[each[len(prefix):]], PREFIXES[sign]
    return None
