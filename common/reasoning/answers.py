r"""Two answers to a mathematical question in one form, before math-verify compares them, and decided where it is known to err.

    plain(text)             one form of what is written in several                    (table below)
    decide(answer, gold)    True or False where a rule decides; else the two texts that math-verify is to compare

| kind | what is done | what stays |
|---|---|---|
| full stop, semicolon at the end, `$`, `\(...\)` | taken off: `27.` = 27 | an ellipsis |
| fonts, colours, sizes: `\boldsymbol`, `\mathbf`, `\textcolor`, ... | taken off | `\mathbb`, `\mathcal` |
| thousands: `1\,000`, `1 000`, `1{,}000`, `1'000`, `1_000`, blanks | joined where every group but the first has three digits | `1.000` |
| ... by commas, `1,000`, `1,00,000`, or dots, `1.000.000` | joined where that is the whole and the other answer is no list | `(1,000)` |
| signs as characters: `√2`, `π`, `≤`, `∞`, `½`, `x²`, digits of any script | written in LaTeX | |
| repeating decimals: `0.\overline{3}`, `\bar`, `\dot`, `0.(3)` | the fraction | `0.333...` |
| plain numbers, fractions, mixed numbers | compared exactly: 0.3333333333 is not 1/3 | |
| number words: `twenty-seven`, `two thirds` | the number | `a few` |
| bases: `4210_6`, `4210_{\text{six}}`, `0b101` | by value; where one names no base, by digits | digits that the base has not |
| units: `5 cm`, `5\text{ km/h}`, `90^\circ` | converted; another kind is another answer; where one names none, dropped | unknown words |
| per cent | a unit; p/100 if that is no whole number above 1: 50 % = 0.5, 500 % is not 5 | |
| clock: `6 PM`, `6.30 p.m.`, `half past six`, `18:00` | minutes; the half of the day counts where both name it | `2:3`, a ratio |
| inequality and interval | the inequality as an interval, if the other is one; `]0,1[` as `(0,1)` | two inequalities |
| empty set: `\{\}`, `\varnothing`, `no solution` | one answer, and equal to no other | `none`, `\{\emptyset\}` |
| letters of choices, words | `\text{(A)}` = A; `\text{East}` = east | |

What is left of math-verify's errors is in REMAINING, which scores carry along (common/benchmarks/maths.py).
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from . import measures as of
from .numerals import number, spelt

# (gold, answer, what is found, what is right): pairs that a test holds.
REMAINING: list[tuple[str, str, bool, bool]] = [
    (r"\log 2", "0.301029995664", True, False),  # a decimal for a logarithm, which it does not know to be irrational
    (r"[2,\infty)", r"[2,\infty]", True, False),  # an end that is none
    ("2,3", "(2,3)", True, False),  # a point for two answers
    ("(1,000, 2)", "(1000, 2)", False, True),  # thousands within a list
    ("5,7", r"5\text{ cm}, 7\text{ cm}", False, True),  # units within a list
    (r"1\text{ hour }30\text{ minutes}", "90 minutes", False, True),  # two units in one quantity
    ("2.5", r"\text{two point five}", False, True),  # decimals in words
    (r"1+2+\cdots+10", "55", False, True),  # a sum with dots
    (r"5\text{ R }2", r"5\text{ remainder }2", False, True),
    ("2x=4", "x=2", False, True),  # equations that have the same solutions
]

# -- one form ----------------------------------------------------------------------------------------------
FONTS = ("boldsymbol|mathbf|mathrm|mathit|mathsf|mathtt|mathnormal|bm|pmb|bold|textbf|textit|textrm|textsf|texttt|textnormal|textup|"
         "emph|underline|fbox|framebox|mbox|hbox|ensuremath|mathord|displaylimits|symbf|symrm")
SWITCHES = (r"\\(?:displaystyle|textstyle|scriptstyle|bf|rm|it|sf|tt|bfseries|itshape|tiny|small|normalsize|large|Large|LARGE|huge|Huge|"
            r"limits|nolimits|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr|biggl|biggr|left|right|middle)(?![a-zA-Z])\.?")
SPACES = (r"(?<!\\)\\[,;:!> ]|~|"
          r"\\(?:quad|qquad|thinspace|medspace|thickspace|enspace|negthinspace|hspace\{[^{}]*\}|hfill|nobreak|space)(?![a-zA-Z])")
BLANK = "[ \u00a0\u2002-\u200a\u202f\u205f\u3000]"
SIGNS = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "％": "%",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∞": r"\infty ",
    "∅": r"\emptyset ", "⌀": r"\emptyset ", "Ø": r"\emptyset ", "ø": r"\emptyset ", "°": r"^\circ ", "π": r"\pi ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "φ": r"\phi ", "⟨": r"\langle ", "⟩": r"\rangle ", "ℝ": r"\mathbb{R}",
    "٬": ",", "٫": ".", "٪": "%", "、": ",", "ˈ": "'", "′": "'",
    "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "’": "'", "‘": "'", "“": '"', "”": '"',
}
HIGH, LOW = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n"), str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


def plain(text: str, commas: bool = True) -> str:
    """One form of an answer; what no rule knows stays as it is. commas: whether 1,000 is one number, or two in a list."""
    text = _in_latex(text)
    text = _without_fonts(text)
    text = re.sub(SWITCHES, "", text)
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\(?:geqslant|geq|geqq)(?![a-zA-Z])", r"\\ge", re.sub(r"\\(?:leqslant|leq|leqq)(?![a-zA-Z])", r"\\le", text))
    text = re.sub(r"\\(?:neq|not\s*=)(?![a-zA-Z])", r"\\ne", text)
    text = _ends(text)
    text = _joined(text, commas)
    text = re.sub(SPACES, " ", text)
    text = re.sub(r"(?<=\d) to (?=\d)", ":", _turned(_repeating(text)))
    return _ends(re.sub(r"\s+", " ", text))


def _in_latex(text: str) -> str:
    """Characters that LaTeX has a command for."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m.group().translate(HIGH) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(LOW) + "}", text)
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    text = re.sub("[¼½¾⅐-⅞]", lambda m: _fraction_sign(m.group()), text)
    text = "".join(unicodedata.normalize("NFKC", c) if "\uff01" <= c <= "\uff5e" else str(unicodedata.decimal(c, c)) for c in text)
    for root, opened in (("√", r"\sqrt{"), ("∛", r"\sqrt[3]{"), ("∜", r"\sqrt[4]{")):
        text = _rooted(text, root, opened)
    text = re.sub(r"(?<![a-zA-Z\\])sqrt(?=\s*[({])", "√", text)
    text = _rooted(text, "√", r"\sqrt{")
    text = re.sub(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi ", text)
    text = re.sub(r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty ", text)
    return text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")


def _fraction_sign(sign: str) -> str:
    value = Fraction(unicodedata.numeric(sign)).limit_denominator(10)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _rooted(text: str, root: str, opened: str) -> str:
    """root with what stands behind it, in brackets or a number or a letter, as LaTeX."""
    while (at := text.find(root)) >= 0:
        rest = text[at + 1 :].lstrip()
        if rest[:1] in ("(", "{") and (end := _closing(rest)) is not None:
            inside, rest = rest[1:end], rest[end + 1 :]
        elif found := re.match(r"\d+(?:\.\d+)?|[a-zA-Z]|\\pi", rest):
            inside, rest = found.group(), rest[found.end() :]
        else:
            return text
        text = f"{text[:at]}{opened}{inside}}}{rest}"
    return text


def _closing(text: str) -> int | None:
    """Where the bracket that text begins with is closed."""
    depth, opens, closes = 0, text[:1], ")" if text[:1] == "(" else "}"
    for i, c in enumerate(text):
        depth += (c == opens) - (c == closes)
        if not depth:
            return i
    return None


def _without_fonts(text: str) -> str:
    r"""\boldsymbol{27} and \textcolor{red}{27}: 27; of nested ones the innermost content."""
    text = re.sub(r"\\(?:color|textcolor|colorbox)\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}", r"\\ensuremath", text)
    text = re.sub(rf"(?<=[\d}})])(?=\\(?:{FONTS})\s*\{{\s*[a-zA-Z])", " ", text)  # 5\mathrm{m} is no 5m
    text = re.sub(rf"\\(?:{FONTS})\s+(?=[A-Za-z0-9])", "", text)
    for _ in range(8):
        found = re.search(rf"\\(?:{FONTS})\s*\{{", text)
        if not found or (end := _closing(text[found.end() - 1 :])) is None:
            break
        text = text[: found.start()] + text[found.end() : found.end() - 1 + end] + text[found.end() + end :]
    text = text.replace(r"\ensuremath", "")
    while found := re.fullmatch(r"\s*(\*\*|__)(.*)\1\s*", text):
        text = found.group(2)
    return text


def _ends(text: str) -> str:
    """Without what encloses the whole or closes the sentence."""
    before = None
    while text != before:
        before, text = text, text.strip()
        text = re.sub(r"(?<![.\\])(?:\.|\\text\{\s*\.\s*\})$", "", text) if not text.endswith((r"\ldots", r"\dots", "...")) else text
        text = re.sub(r"(?<!\\)[;,。．]$", "", text)
        text = re.sub(r"(?:(?<!\\)~|\\[,;:!> ]|(?<!\\)\\)$", "", text)
        if (found := re.fullmatch(r"\$+([^$]*?)\$+|\\\((.*)\\\)|\\\[(.*)\\\]", text, re.DOTALL)) and text[:2] != r"\$":
            text = next(g for g in found.groups() if g is not None)
        if text[:1] == "{" and _closing(text) == len(text) - 1:
            text = text[1:-1]
    return text


def _joined(text: str, commas: bool = True) -> str:
    """Digits in groups of three as one number; groups by commas or dots only where the whole is such a number."""
    gap = rf"(?:\\[,;:! ]|~|\{{,\}}|,\\!|\{{\\,\}}|'|{BLANK})"
    if re.fullmatch(r"[-+]?\d{1,3}(?:\\?_\d{3})+", text):  # no base has three digits
        return re.sub(r"\\?_", "", text)
    if re.fullmatch(r"[-+]?\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?", text):
        return text.replace(".", "").replace(",", ".")
    text = re.sub(rf"(?<![\d.,])\d{{1,3}}(?:{gap}\d{{3}})+(?![\d])", lambda m: re.sub(rf"{gap}|[^\d]", "", m.group()), text)
    text = re.sub(rf"(?<=\.)\d{{3}}(?:{gap}\d{{3}})*{gap}\d{{1,3}}(?!\d)", lambda m: re.sub(r"[^\d]", "", m.group()), text)
    whole = r"^([-+]?(?:\\\$)?)(\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d\d)+,\d{3})(?=(?:\.\d+)?(?:\s|\\|%|[a-zA-Z]|$))"
    return re.sub(whole, lambda m: m.group(1) + m.group(2).replace(",", "" if commas else ", "), text)


def _repeating(text: str) -> str:
    r"""0.1\overline{6} as \frac{1}{6}."""
    over = r"(?:\\(?:overline|bar|dot|overbar)\s*(?:\{(\d+)\}|(\d))|\((\d+)\))(?!\d)"

    def fraction(found: re.Match) -> str:
        whole, fixed, period = found.group(1) or "0", found.group(2), found.group(3) or found.group(4) or found.group(5)
        value = Fraction(int(whole + fixed + period) - int(whole + fixed), 10 ** len(fixed) * (10 ** len(period) - 1))
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}" if value.denominator > 1 else str(value.numerator)

    text = re.sub(r"(\d)\u0305", r"\\overline{\1}", text)
    text = re.sub(r"(\\overline\{\d+)\}\\overline\{", r"\1", text)
    return re.sub(rf"(?<![\d.])(\d*)\.(\d*){over}", fraction, text)


def _turned(text: str) -> str:
    """]a,b[ as (a,b): the other way to write an end that is not in it."""

    def one(found: re.Match) -> str:
        opens, inside, closes = found.groups()
        return f"{'(' if opens == ']' else opens}{inside}{')' if closes == '[' else closes}"

    return re.sub(r"([\[\](])([^\[\]()]+,[^\[\]()]+)([\[\])])", one, text)


# -- decided here ------------------------------------------------------------------------------------------
def decide(answer: str, gold: str) -> bool | tuple[str, str]:
    """True or False where a rule decides; else the two texts that math-verify is to compare. Neither may be empty."""
    ours, theirs = plain(answer), plain(gold)
    answer, gold = plain(answer, not _is_list(theirs)), plain(gold, not _is_list(ours))
    if answer == gold:
        return bool(answer)
    for compare in (_numbers, of.same_time, of.same_in_base, _empty, _reals, of.same_share, of.same_measure, _interval,
                    _enclosed, _choices):
        found = compare(answer, gold)
        if isinstance(found, tuple):
            exact = _numbers(*found)
            return found if exact is None else exact
        if found is not None:
            return found
    texts = [_unmixed(of.without_membership(text)) for text in (answer, gold)]
    texts = [re.sub(r"(?<=[\d})])([mgtshlLJWVNdwy])(?=(?: ?\^ ?(?:\d|\{\d\}))?$)", r"{\1}", text) for text in texts]
    return texts[0], texts[1]  # 3t is a term, of which math-verify would take the letter for a unit


def _unmixed(text: str) -> str:
    r"""Mixed numbers as fractions, which math-verify does not know: 1\frac{1}{2}\pi."""
    def one(found: re.Match) -> str:
        value = number(found.group())
        return found.group() if value is None else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"

    return re.sub(r"(?<![\d.^_}a-zA-Z])\d+(?: \d+/\d+(?!\d)| ?\\frac(?:\{\d+\}\{\d+\}|\d\d))", one, text)


def _enclosed(answer: str, gold: str) -> bool | None:
    """A point is no set, and two answers are no point."""
    ours, theirs = of.enclosed(answer), of.enclosed(gold)
    return False if {ours, theirs} == {"point", "set"} or (ours, theirs) == ("", "point") else None


def _numbers(answer: str, gold: str) -> bool | None:
    """Exactly; words are numbers, too."""
    values = [number(text) if (number(text) is not None) else spelt(text) for text in (answer, gold)]
    return None if values[0] is None or values[1] is None else values[0] == values[1]


def _empty(answer: str, gold: str) -> bool | None:
    empty = of.is_empty_set(answer), of.is_empty_set(gold)
    return all(empty) if any(empty) else None


def _is_list(text: str) -> bool:
    """Whether it holds a comma that parts; of a badly written 1, 000, 000 none does."""
    return "," in text and not re.search(r",\s*0\d", text)


def _reals(answer: str, gold: str) -> bool | None:
    return True if of.is_all_reals(answer) and of.is_all_reals(gold) else None


def _interval(answer: str, gold: str) -> tuple[str, str] | None:
    bare = [of.without_membership(text) for text in (answer, gold)]
    made = of.interval(answer), of.interval(gold)
    if made[0] and of.is_interval(bare[1]):
        return made[0], bare[1]
    return (bare[0], made[1]) if made[1] and of.is_interval(bare[0]) else None


def _choices(answer: str, gold: str) -> bool | None:
    for read in (of.choice, of.words):
        texts = read(answer), read(gold)
        if texts[0] and texts[0] == texts[1]:
            return True
    return None
