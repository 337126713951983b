"""Kinds of claim and rules: which words a kind can get, where a rule holds, what is wrong with one, and how it is written.

    kind        words                                  what it is
    measured    matches · contradicts                  the paper's quantity, at the paper's size
    small       supports · opposes                     a claim of the paper at a size that fits here
    ours        supports · opposes                     a question that the paper does not ask, or our reading of it
    arithmetic  adds-up · does-not-add-up              a figure that the paper prints, recomputed from others that it prints

and for each of them `inconclusive` (nothing decides; the sentence says what would), `not-run` (weights, data, gpu or time are
missing) and `not-checkable` (the paper does not define the quantity).

Two families of rules. *Comparing* rules (equals, relative, absolute, z, prediction-interval) hold our value against the
paper's. *Effect* rules (above, below, within) ask where the whole interval of the claim's quantity lies.
"""

from __future__ import annotations

import math

from ..errors import RecordError
from .intervals import binomial

WORDS_OF = {"measured": ("matches", "contradicts"), "small": ("supports", "opposes"), "ours": ("supports", "opposes"),
            "arithmetic": ("adds-up", "does-not-add-up")}  # kind: (the rule holds, it fails)
KINDS = tuple(WORDS_OF)
WORDS = ("matches", "supports", "adds-up", "contradicts", "opposes", "does-not-add-up", "inconclusive", "not-run", "not-checkable")
HOLDS, FAILS = (tuple(dict.fromkeys(words[i] for words in WORDS_OF.values())) for i in (0, 1))
COMPARING = ("equals", "relative", "absolute", "z", "prediction-interval")
EFFECT = ("above", "below", "within")
COUNTED = ("trainings", "processes", "items")  # what the evidence of an effect may count


def rule_of(rule: dict) -> tuple[str, float | bool]:
    """(name, number) of a rule: {"above": 0.4, ...} -> ("above", 0.4). Raises RecordError unless it is exactly one."""
    names = [name for name in (*EFFECT, *COMPARING) if name in rule]
    if len(names) != 1:
        raise RecordError(f"a rule is one of {', '.join((*EFFECT, *COMPARING))}; this one has {', '.join(names) or 'none'}")
    return names[0], rule[names[0]]


def limits(rule: dict) -> tuple[float, float]:
    """(low, high) between which an effect rule holds."""
    name, edge = rule_of(rule)
    return {"above": (edge, math.inf), "below": (-math.inf, edge), "within": (-edge, edge)}[name]


def edges(rule: dict) -> list[float]:
    return [edge for edge in limits(rule) if math.isfinite(edge)]


def band(rule: dict, paper: float | None) -> tuple[float, float] | None:
    """(low, high) where any rule holds, on the axis of the claim's quantity; None where that depends on more than the rule."""
    name, width = rule_of(rule)
    if name in EFFECT:
        return limits(rule)
    if paper is None or name in ("z", "prediction-interval"):
        return None
    width = {"equals": 0.0, "relative": width * abs(paper), "absolute": width}[name]
    return paper - width, paper + width


def rule_problem(claim: dict) -> tuple[str, str] | None:
    """(field, what is wrong) if the rule could never give a verdict for the claim's kind and rung."""
    protocol, paper, kind, rung = claim["protocol"], claim["paper"], claim["kind"], claim["rung"]
    rule, value, evidence = protocol.get("rule"), paper.get("value"), protocol.get("evidence")
    if rule is None:
        return "protocol.rule", "is missing; only status: not-checkable may do without"
    try:
        name, tolerance = rule_of(rule)
    except RecordError as error:
        return "protocol.rule", str(error)
    if kind == "arithmetic" and rung != "analytic":
        return "kind", f"is arithmetic, which needs no run, but the rung is {rung}"
    if kind == "measured" and rung not in ("paper-scale", "gpu-random-weights"):
        return "kind", f"is measured, which is the paper's quantity at the paper's size, but the rung is {rung}"
    if kind == "small" and rung in ("analytic", "paper-scale"):
        return "kind", f"is small, but the rung is {rung}"
    if name in COMPARING:
        if value is None:
            return "paper.value", f"is missing, and rule {name} compares with it"
        if kind in ("small", "ours"):
            return "protocol.rule", (f"is {name}, which compares with the paper's number, but a claim of kind {kind} does not obtain "
                                     "that quantity; use above, below or within")
        if name == "relative" and value == 0:
            return "protocol.rule", "is relative, but the paper's value is 0; use absolute"
        if name == "z" and paper.get("stderr") is None and binomial(value, paper) is None:
            return "paper.stderr", "is missing: rule z needs it, or n_items of a proportion"
    if name in ("relative", "absolute", "within") and not tolerance >= 0:
        return "protocol.rule", f"{name} must be given, not negative"
    if rung == "cpu-small" and name in EFFECT:
        if evidence not in COUNTED:
            return "protocol.evidence", "is missing: what the evidence counts, trainings, items or processes"
        needed = "sensitivity" if name == "within" else "placebo"
        if not protocol.get(needed):
            what = ("the pair that is known to differ and must be told apart" if name == "within"
                    else "the arm that must fail this rule on the same results")
            return f"protocol.{needed}", f"is missing: {what}"
    return None


# ------------------------------------------------------------------------------------ as text


def unit_of(claim: dict) -> str:
    """The unit of the claim's quantity: its protocol's, else the paper's."""
    unit = claim["protocol"].get("unit", claim["paper"]["unit"])
    return "" if unit == "-" else unit


def number(x: float | None) -> str:
    """A number for people: 524,416 and 0.00778202 and 1.5e-07; "-" for none."""
    if x is None:
        return "-"
    if x == int(x) and abs(x) < 1e15:
        return f"{int(x):,}"
    return f"{x:,.6g}" if abs(x) < 1e6 else f"{x:.6g}"


def pair(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"


def rule_text(rule: dict | None) -> str:
    """The rule in a table's cell."""
    if rule is None:
        return "-"
    name, edge = rule_of(rule)
    return {
        "equals": lambda: "equal",
        "relative": lambda: f"within {100 * edge:.4g} %",
        "absolute": lambda: f"within ±{number(edge)} of the paper",
        "z": lambda: "z test of the two standard errors",
        "prediction-interval": lambda: "inside our prediction interval",
        "above": lambda: f"above {number(edge)}",
        "below": lambda: f"below {number(edge)}",
        "within": lambda: f"within ±{number(edge)}",
    }[name]()
