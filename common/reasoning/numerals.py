r"""Numbers as answers write them: digits, fractions, mixed numbers, words; all exactly, as fractions."""

from __future__ import annotations

import re
from fractions import Fraction

WORDED = (r"\\text(?:\s*\{([^{}]*)\})", r"\\operatorname\*?(?:\s*\{([^{}]*)\})")


def worded(text: str) -> str:
    r"""\text{...} as its content: for rules that read words."""
    for pattern in WORDED:
        text = re.sub(pattern, r" \1 ", text)
    return " ".join(text.replace("\\ ", " ").split())


# -- numbers -----------------------------------------------------------------------------------------------
NUMERAL = r"\d+(?:\.\d*)?|\.\d+"
UNITS_OF_COUNTING = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
                     "eighteen nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SMALL = {w: i for i, w in enumerate(UNITS_OF_COUNTING)} | {w: 10 * i for i, w in enumerate(TENS, 2)}
LARGE = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
         "tenth": 10, "eleventh": 11, "twelfth": 12, "hundredth": 100, "thousandth": 1000}


def number(text: str) -> Fraction | None:
    r"""An integer, a decimal, a fraction or a mixed number, exactly; None for anything else."""
    text = text.replace(r"\$", "").replace("{,}", "").strip()
    sign, text = (-1, text[1:].strip()) if text[:1] == "-" else (1, text[1:].strip() if text[:1] == "+" else text)
    if re.fullmatch(NUMERAL, text):
        return sign * Fraction(text if text[-1] != "." else text[:-1])
    if short := re.fullmatch(rf"({NUMERAL})[eE]([-+]?\d{{1,3}})", text):
        return sign * Fraction(short.group(1).rstrip(".")) * Fraction(10) ** int(short.group(2))
    slash = re.fullmatch(rf"({NUMERAL})\s*/\s*(-?)({NUMERAL})", text)
    over = re.fullmatch(r"(\d*)\s*\\frac\s*(?:\{\s*(-?[\d.]+)\s*\}|(\d))\s*(?:\{\s*(-?[\d.]+)\s*\}|(\d))", text)
    try:
        if slash:
            value = Fraction(slash.group(1)) / Fraction(slash.group(3))
            return sign * value * (-1 if slash.group(2) else 1)
        if over:
            whole, top, low = over.group(1), over.group(2) or over.group(3), over.group(4) or over.group(5)
            value = Fraction(top) / Fraction(low)
            return sign * (int(whole or 0) + value) if value >= 0 or not whole else None
    except (ValueError, ZeroDivisionError):
        return None
    if mixed := re.fullmatch(r"(\d+) (\d+)\s*/\s*(\d+)", text):
        return sign * (int(mixed.group(1)) + Fraction(int(mixed.group(2)), int(mixed.group(3)))) if int(mixed.group(3)) else None
    return None


def spelt(text: str) -> Fraction | None:
    """Number words as the number: "twenty-seven", "one hundred and five", "minus two thirds", "two and a half"."""
    words = re.sub(r"[-\u2010-\u2014]", " ", worded(text).lower().replace("$", "")).split()
    sign = -1 if words[:1] in (["minus"], ["negative"]) else 1
    words = words[sign < 0 :]
    scaled = LARGE | {"dozen": 12}
    if len(words) == 2 and words[1] in scaled and (amount := number(words[0])) is not None:  # 2 million, 1.5 thousand
        return sign * amount * scaled[words[1]]
    if words in (["half"], ["a", "dozen"], ["dozen"]):
        return sign * (Fraction(1, 2) if words == ["half"] else Fraction(12))
    if not words or not all(w.isalpha() for w in words):
        return None
    part = PARTS.get(words[-1].removesuffix("s")) or PARTS.get(words[-1])
    if part and len(words) > 1:
        head, whole = words[:-1], Fraction(0)
        if "and" in head and (front := _cardinal(head[: len(head) - 1 - head[::-1].index("and")])) is not None and head[-2:-1] == ["and"]:
            head, whole = head[-1:], Fraction(front)
        top = 1 if head in (["a"], ["an"], ["one"]) else _cardinal(head)
        return None if top is None else sign * (whole + Fraction(top, part))
    value = _cardinal(words)
    return None if value is None else Fraction(sign * value)


def _cardinal(words: list[str]) -> int | None:
    """English cardinals; None where the words are none, or are not in their order (twenty forty)."""
    words = [w for i, w in enumerate(words) if w != "and" or i == 0]
    total, group, last = 0, 0, 100
    if not words or (words == ["zero"]):
        return 0 if words else None
    for i, word in enumerate(words):
        if word in ("a", "an") and i == 0 and len(words) > 1 and words[1] in LARGE:
            group, last = 1, 1
        elif word in SMALL and SMALL[word] and (last >= 100 or (last >= 20 and last % 10 == 0 and SMALL[word] < 10)):
            group, last = group + SMALL[word], SMALL[word]
        elif word == "hundred" and (0 < group < 10 or (10 < group < 100 and group % 10 and not total)):  # seventeen hundred
            group, last = group * 100, 100
        elif word in LARGE and word != "hundred" and group and (not total or total % (1000 * LARGE[word]) == 0):
            total, group, last = total + group * LARGE[word], 0, 1000
        else:
            return None
    return total + group
