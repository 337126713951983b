r"""Answers that are a number and something: a unit, a percentage, a time of day, a base of notation; and intervals, sets, words.

Each reader takes the plain form of an answer (answers.py) and gives what it reads, or None where the text is not of its kind; each
comparison gives True, False, or None where its kind is not what stands there. Used by answers.py alone.
"""

from __future__ import annotations

import re
from fractions import Fraction

from .numerals import number, spelt, worded

F = Fraction
# unit: (what is measured, how many of its smallest stand-in), the forms that name it behind a comma-less space.
UNITS: dict[str, tuple[str, Fraction]] = {}


def _units(kind: str, table: dict[str, Fraction | int | str]) -> None:
    for names, factor in table.items():
        for name in names.split():
            UNITS[name.replace("_", " ")] = (kind, Fraction(factor))


_units("length", {"nm nanometer nanometre": F(1, 10**9), "mm millimeter millimetre": F(1, 1000), "cm centimeter centimetre": F(1, 100),
                  "dm decimeter decimetre": F(1, 10), "m meter metre": 1, "km kilometer kilometre": 1000, "in inch inche": F("0.0254"),
                  "ft foot feet": F("0.3048"), "yd yard": F("0.9144"), "mi mile": F("1609.344")})
_units("mass", {"mg milligram": F(1, 10**6), "g gram": F(1, 1000), "kg kilogram": 1, "t tonne": 1000, "lb lbs pound": F("0.45359237"),
                "oz ounce": F("0.45359237") / 16})
_units("time", {"ms millisecond": F(1, 1000), "s sec second": 1, "min minute": 60, "h hr hour": 3600, "day": 86400, "week": 604800})
_units("years", {"month": F(1, 12), "yr year": 1, "decade": 10, "century centurie": 100})
_units("area", {"acre": F("4046.8564224"), "hectare ha": 10000})
_units("volume", {"ml mL milliliter millilitre": F(1, 10**6), "cl cL": F(1, 10**5), "dl dL": F(1, 10**4), "l L liter litre": F(1, 1000)})
_units("gallons", {"cup": F(1, 16), "pint": F(1, 8), "quart": F(1, 4), "gal gallon": 1})
_units("money", {"cent ¢": F(1, 100), "dollar $": 1})
_units("euros", {"euro €": 1, "eurocent": F(1, 100)})
_units("pounds sterling", {"£": 1})
_units("yen", {"¥ yen": 1})
_units("rupees", {"₹ rupee": 1})
_units("angle", {"° degree deg circ": 1})
_units("radians", {"radian rad": 1})
_units("celsius", {"celsius": 1})
_units("fahrenheit", {"fahrenheit": 1})
_units("speed", {"mph": F("1609.344") / 3600, "kph": F(1000, 3600)})
_units("energy", {"J joule": 1, "kJ kilojoule": 1000})
_units("power", {"W watt": 1, "kW kilowatt": 1000})
_units("frequency", {"Hz hertz": 1, "kHz": 1000})
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


# -- units -------------------------------------------------------------------------------------------------
def unit(text: str) -> tuple[str, str, Fraction] | None:
    """(the number's text, what is measured with its power, factor to its base unit) of "5\\text{ km}"; None without a known unit."""
    words = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", " degree ", worded(text)).strip()
    words = re.sub(r"\bdegrees? +(?:(C)|F)(?:elsius|ahrenheit)?$", lambda m: "celsius" if m.group(1) else "fahrenheit", words)
    words = re.sub(r"(\d +[a-zA-Z]+) (?:\\cdot )?([a-zA-Z]+) ?\^ ?\{?-1\}?$", r"\1/\2", words)  # m s^{-1}
    if before := re.fullmatch(r"(\\?\$|[€£¥₹])\s*(.+)", words):
        words = f"{before.group(2)} {before.group(1) if before.group(1) in '€£¥₹' else 'dollar'}"
    words = re.sub(r"\\cdot|\*", " ", words) if re.search(r"\d\s*(?:\\cdot|\*)\s*[a-zA-Z]+$", words) else words
    raised = r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
    found = re.fullmatch(rf"(.*?[\d}})\w\\])\s*?((?:\s|(?<=[\d}})]))(?:(?:square|cubic|sq|cu)\.?\s+)?[a-zA-Z°¢€£¥₹]+\.?{raised}"
                         rf"(?:\s*(?:/|per)\s*[a-zA-Z]+\.?{raised})?)", words)
    if not found or not (re.search(r"\d|\\pi", found.group(1)) or spelt(found.group(1)) is not None):
        return None
    above, _, below = re.sub(r"\s+per\s+", "/", found.group(2).strip()).partition("/")
    parts = [_measure(above)] + ([_measure(below)] if below else [])
    if any(p is None for p in parts):
        return None
    (kind, factor), *others = [p for p in parts if p is not None]
    for other, scale in others:
        kind, factor = f"{kind}/{other}", factor / scale
    if kind == "speed":
        kind = "length1/time1"
    return found.group(1).strip(), kind, factor


def _measure(text: str) -> tuple[str, Fraction] | None:
    """("length2", factor) of "cm^2", "square centimeters"."""
    text, power = text.strip(), 1
    if (raised := re.fullmatch(r"(.*?)\s*\^\s*\{?\s*(-?\d)\s*\}?", text)) is not None:
        text, power = raised.group(1), int(raised.group(2))
    first, _, rest = text.partition(" ")
    if first.rstrip(".").lower() in POWERS and rest:
        text, power = rest.strip(), POWERS[first.rstrip(".").lower()]
    text = text.rstrip(".")
    name = next((n for n in (text, text.lower(), text.lower().removesuffix("s")) if n in UNITS), None)
    if name is None or power < 1:
        return None
    kind, factor = UNITS[name]
    if kind == "volume" and power == 1:
        return "length3", factor
    if kind == "area" and power == 1:
        return "length2", factor
    if kind in ("speed", "money", "euros", "pounds sterling", "yen", "rupees", "angle", "radians", "celsius",
                "fahrenheit") and power == 1:
        return kind, factor
    return f"{kind}{power}", factor**power


TERM = re.compile(r"[\d})][a-zA-Z](?: ?\^ ?(?:\d|\{\d\}))?$")  # a letter right behind a number, which is no unit beside one without


def same_measure(answer: str, gold: str) -> bool | tuple[str, str] | None:
    """Of two with units: False where they measure different things; else the texts to compare in one unit. Where one has none, it is
    dropped from the other, but for a letter right behind a number: 3t is a term. None where neither has one that is known."""
    ours, theirs = (None if TERM.search(text) and (TERM.search(other) or unit(other) is None) else unit(text)
                    for text, other in ((answer, gold), (gold, answer)))
    if ours is None and theirs is None:
        return None
    if ours is None or theirs is None:
        bare = answer if ours is None else gold
        if percent(bare) is not None or re.search(r"[a-zA-Z]{2,}", re.sub(r"\\[a-zA-Z]+", "", worded(bare))) and spelt(bare) is None:
            return None  # another, unknown unit
        return answer if ours is None else ours[0], gold if theirs is None else theirs[0]
    if {ours[1], theirs[1]} == {"angle", "radians"}:
        degrees = [text if kind == "angle" else rf"\frac{{180}}{{\pi}} \cdot ({text})" for text, kind, _ in (ours, theirs)]
        return degrees[0], degrees[1]
    values = [number(text) if number(text) is not None else spelt(text) for text in (ours[0], theirs[0])]
    if {ours[1], theirs[1]} == {"celsius", "fahrenheit"}:
        celsius, fahrenheit = values if ours[1] == "celsius" else values[::-1]
        return celsius is not None and fahrenheit is not None and fahrenheit == F(9, 5) * celsius + 32
    if ours[1] != theirs[1]:
        return False
    if values[0] is not None and values[1] is not None:
        return values[0] * ours[2] == values[1] * theirs[2]
    if ours[2] == theirs[2]:
        return ours[0], theirs[0]
    scale = ours[2] / theirs[2]
    return rf"\frac{{{scale.numerator}}}{{{scale.denominator}}} \cdot ({ours[0]})", theirs[0]


def percent(text: str) -> str | None:
    """The number's text of a percentage."""
    found = re.fullmatch(r"(.*?)\s*(?:\\?%|\bper\s?cent|\bpercent)", worded(text))
    return found.group(1).strip() if found and found.group(1).strip() else None


def same_share(answer: str, gold: str) -> bool | tuple[str, str] | None:
    """Percentages. Beside a plain number p % is p, the unit being dropped, or p/100 of what is no whole number above 1."""
    ours, theirs = percent(answer), percent(gold)
    if ours is None and theirs is None:
        return None
    if ours is not None and theirs is not None:
        return ours, theirs
    share, bare = (ours, gold) if ours is not None else (theirs, answer)
    p, v = number(str(share)), number(bare)
    if p is None or v is None:
        return None
    if v == p / 100 and (abs(v) <= 1 or v.denominator > 1):
        return True
    return v == p and (theirs is not None or abs(v) > 1)


# -- bases -------------------------------------------------------------------------------------------------
DIGITS = r"-?[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?"


def in_base(text: str) -> tuple[str, int] | None:
    r"""("4210", 6) of 4210_6, 4210_{6}, 4210_{\text{six}}, 4210_{(6)}, 0b101; the digits, behind a sign, are those that the base has."""
    if short := re.fullmatch(r"(-?)0([bBoOxX])([0-9A-Fa-f]+)", worded(text)):
        text = f"{short.group(1)}{short.group(3)}_{ {'b': 2, 'o': 8, 'x': 16}[short.group(2).lower()] }"
    found = re.fullmatch(rf"\(?({DIGITS})\)?\s*_\s*(?:\{{\s*(.+?)\s*\}}|(\d+|[a-z]+))", worded(text.replace(r"\_", "_")))
    if not found:
        found = re.fullmatch(r"(-?[0-9A-Fa-f]+)\s+\(?(?:in\s+)?base[\s-]+([\w-]+)\)?", worded(text))
    if not found:
        return None
    named = (found.group(2) or (found.group(3) if found.re.groups > 2 else "") or "").strip("() ")
    named = re.sub(r"^base\s*", "", named)
    base = number(named) or spelt(named)
    if base is None or base.denominator > 1 or not 2 <= base <= 36:
        return None
    digits = re.sub(r"^(-?)0+(?=.)", r"\1", found.group(1)).upper()
    try:
        value_in(digits, int(base))
    except ValueError:
        return None
    return digits, int(base)


def value_in(digits: str, base: int) -> Fraction:
    """ValueError for a digit that the base does not have."""
    whole, _, part = digits.partition(".")
    return F(int(whole + part, base), base ** len(part))


def same_in_base(answer: str, gold: str) -> bool | None:
    """By digits in one base, by value in two; where one of them names no base, by digits."""
    ours, theirs = in_base(answer), in_base(gold)
    if ours is None and theirs is None:
        return None
    if ours is None or theirs is None:
        digits, bare = (ours or theirs or ("", 0))[0], answer if ours is None else gold
        alone = re.fullmatch(r"(-?)0*([0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)", worded(bare))
        return None if "_" in bare else alone is not None and (alone.group(1) + alone.group(2)).upper() == digits
    return value_in(*ours) == value_in(*theirs)


# -- the clock ---------------------------------------------------------------------------------------------
def clock(text: str) -> tuple[int, bool] | None:
    """(minutes of the day, does it name its half of the day) of "6 PM", "6:30 p.m.", "half past six in the evening", "18:00"; None for no
    time, or none with a colon."""
    words = _half_of_day(re.sub(r"\s+", " ", worded(text).replace("{", "").replace("}", "")).strip().lower())
    if words in ("noon", "midnight", "12 noon", "12:00 noon", "12 midnight"):
        return (720 if "noon" in words else 0), True
    found = re.fullmatch(r"(\d{1,2})(?:\s*[:.]\s*(\d\d))?(?:\s*:\s*00)?\s*(a|p)\.?\s?m\b\.?", words)
    if found and 1 <= int(found.group(1)) <= 12 and int(found.group(2) or 0) < 60:
        return int(found.group(1)) % 12 * 60 + int(found.group(2) or 0) + (720 if found.group(3) == "p" else 0), True
    found = re.fullmatch(r"(\d{1,2})\s*:\s*(\d\d)", words)
    if found and int(found.group(1)) < 24 and int(found.group(2)) < 60:
        hour = int(found.group(1))
        return hour * 60 + int(found.group(2)), hour > 12 or hour == 0
    return None


def _half_of_day(words: str) -> str:
    """Clock words as digits: "half past six in the evening" is "6:30 pm"."""
    words = re.sub(r",? in the morning$", " am", words)
    words = re.sub(r",? in the (?:afternoon|evening)$", " pm", words)
    part = {"half past": 30, "quarter past": 15, "a quarter past": 15, "quarter to": -15, "a quarter to": -15}
    found = re.fullmatch(rf"(?:({'|'.join(part)}) )?([a-z]+|\d{{1,2}})( o'clock)?( [ap]\.?m\.?| at night)?", words)
    hour = None if found is None else number(found.group(2)) or spelt(found.group(2))
    if found is None or hour is None or hour.denominator > 1 or not 1 <= hour <= 12 or not any(found.group(1, 3, 4)):
        return words
    half = found.group(4) or ""
    if half == " at night":
        half = " pm" if 6 <= hour < 12 else " am"
    minutes = (60 * int(hour) + part.get(found.group(1), 0)) % 720
    return f"{minutes // 60 or 12}:{minutes % 60:02d}{half}"


HALVES = r"[ap]\.?\s?m|noon|midnight|morning|evening|at night|o'clock|half past|quarter (?:past|to)"


def same_time(answer: str, gold: str) -> bool | None:
    """Where one of them is told as a time of day: minutes, of half a day unless both name theirs. A bare hour is one o'clock."""
    ours, theirs = clock(answer), clock(gold)
    if (ours is None and theirs is None) or not any(re.search(HALVES, worded(x).lower()) for x in (answer, gold)):
        return None
    if ours is None or theirs is None:
        bare, time = (gold, ours) if ours is not None else (answer, theirs)
        hour = number(bare)
        return None if hour is None or time is None else hour.denominator == 1 and (60 * hour) % 720 == time[0] % 720
    half = 1440 if ours[1] and theirs[1] else 720
    return ours[0] % half == theirs[0] % half


# -- intervals ---------------------------------------------------------------------------------------------
END = r"[^<>=,]+?"
SIDE = {"<": "(", r"\le": "[", ">": ")", r"\ge": "]"}


def interval(text: str) -> str | None:
    r"""The interval of an inequality in one letter: 0 < x \le 1 is (0,1], "x < 1 or x > 3" a union, x \ne 3 two rays."""
    text = worded(text)
    builder = r"\\\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||:|\\mid(?![a-zA-Z])|\\vert(?![a-zA-Z]))\s*(.*?)\s*\\\}"
    if found := re.fullmatch(builder, text):  # the set of all x with ...
        text = found.group(1)
    parts = re.split(r"\s*(?:\bor\b|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])|\\cup(?![a-zA-Z]))\s*", text)
    made = [_one_interval(part.strip()) for part in parts]
    if any(m is None for m in made) or len({m[0] for m in made if m}) != 1:
        return None
    return r"\cup ".join(m[1] for m in made if m)


def _one_interval(text: str) -> tuple[str, str] | None:
    """(letter, interval)."""
    text = re.sub(r"\\lt(?![a-zA-Z])", "<", re.sub(r"\\gt(?![a-zA-Z])", ">", text))
    sign = r"(<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z]))"
    letter = r"\s*([a-zA-Z]|\\[a-z]+)\s*"
    if m := re.fullmatch(rf"({END})\s*{sign}{letter}{sign}\s*({END})", text):
        low, first, name, second, high = m.groups()
        if first in ("<", r"\le") and second in ("<", r"\le"):
            return name, f"{'(' if first == '<' else '['}{low},{high.strip()}{')' if second == '<' else ']'}"
        if first in (">", r"\ge") and second in (">", r"\ge"):
            return name, f"{'(' if second == '>' else '['}{high.strip()},{low}{')' if first == '>' else ']'}"
        return None
    turned = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
    m = re.fullmatch(rf"{letter}{sign}\s*({END})", text)
    name, relation, end = m.groups() if m else ("", "", "")
    if not m and (m := re.fullmatch(rf"({END})\s*{sign}{letter}", text)):
        end, relation, name = m.groups()
        relation = turned[relation]
    if m and name not in (r"\infty", r"\pi"):
        end = end.strip()
        ray = {"<": rf"(-\infty,{end})", r"\le": rf"(-\infty,{end}]", ">": rf"({end},\infty)", r"\ge": rf"[{end},\infty)"}
        return name, ray[relation]
    if m := re.fullmatch(rf"{letter}\\ne\s*({END})", text):
        return m.group(1), rf"(-\infty,{m.group(2).strip()})\cup ({m.group(2).strip()},\infty)"
    return None


def is_interval(text: str) -> bool:
    one = r"[(\[][^()\[\]]+,[^()\[\]]+[)\]]"
    return bool(re.fullmatch(rf"{one}(?:\s*\\cup\s*{one})*", text.strip()))


def without_membership(text: str) -> str:
    r"""x \in [0,1] as [0,1]."""
    return re.sub(r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])\s*", "", text)


# -- sets and words ----------------------------------------------------------------------------------------
def is_empty_set(text: str) -> bool:
    words = re.sub(r"^\s*[a-zA-Z]\s*=", "", without_membership(worded(text))).lower().strip(" .")
    bare = re.sub(r"\s", "", words.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}"))
    return bare in (r"\{\}", r"\emptyset", r"\varnothing", r"\o", r"\empty", "{}") or bool(
        re.fullmatch(r"(?:the )?(?:empty|null) set|(?:there (?:are|is) )?no solutions?(?: exists?| exist)?", words))


def is_all_reals(text: str) -> bool:
    bare = re.sub(r"\s", "", without_membership(worded(text)).lower())
    return bare in (r"\mathbb{r}", r"(-\infty,\infty)", r"(-\infty,+\infty)", "allrealnumbers", "allreals", "therealnumbers", "allrealx")


def choice(text: str) -> str | None:
    """A letter of a multiple choice, in brackets or not; in brackets also with what it stands for."""
    found = re.fullmatch(r"\(?\s*([A-Z])\s*\)?\.?|\(([A-Z])\)\s+[^,]+", worded(text))
    return found and (found.group(1) or found.group(2))


def enclosed(text: str) -> str | None:
    """What a list of two or more stands in: "point", "set", or "" where it stands alone."""
    inside = re.sub(r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])", "", text).strip()
    for kind, opened, closed in (("point", r"\(", r"\)"), ("set", r"\\\{", r"\\\}")):
        if re.fullmatch(rf"{opened}[^(){{}}\[\]=]*,[^(){{}}\[\]=]*{closed}", inside):
            return kind
    return "" if re.fullmatch(r"[^(){}\[\]=]*,[^(){}\[\]=]*", inside) else None


def words(text: str) -> str | None:
    """A text with a word of three letters or more and nothing but words and numbers, in small letters."""
    text = worded(text)
    return text.lower() if re.search("[A-Za-z]{3}", text) and re.fullmatch(r"[\w' ,-]+", text) else None
