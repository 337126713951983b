"""The referee: from a claim written beforehand and a measurement, one word and a sentence.

    kind        words                                  what it is
    measured    matches · contradicts                  the paper's quantity, at the paper's size
    small       supports · opposes                     a claim of the paper at a size that fits here
    ours        supports · opposes                     a question that the paper does not ask, or our reading of it
    arithmetic  adds-up · does-not-add-up              a figure that the paper prints, recomputed from others that it prints

and for each of them `inconclusive` (nothing decides; the sentence says what would), `not-run` (weights, data, gpu or time are
missing) and `not-checkable` (the paper does not define the quantity).

Two families of rules. *Comparing* rules (equals, relative, absolute, z, prediction-interval) hold our value against the
paper's. They have two sides: better than the paper beyond the tolerance is no match either, as MLPerf's reference convergence
points reject a run that is too good. *Effect* rules (above, below, within) ask where the whole interval of the claim's quantity
lies, never the point alone. A word of theirs rests on more than its interval:

    unit of evidence  protocol.evidence says what is counted: trainings, items or processes, and how few are too few; what
                      supports needs, opposes needs
    placebo           above, below: `measured.placebo` is the same quantity of an arm that must not pass. Where it passes, too,
                      the measure does not discriminate, and nothing is supported
    sensitivity       within: `measured.sensitivity` is the same quantity of a pair that is known to differ. Where the rule does
                      not tell that apart, the measure is insensitive; so it is at a ceiling (`measured.ceiling`)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from ..errors import RecordError
from .intervals import (
    MIN_ITEMS,
    MIN_RUNS,
    interval,
    n_needed,
    over_items,
    p_above,
    refuse_unusable,
    sample_size,
    t_quantile,
)

WORDS_OF = {"measured": ("matches", "contradicts"), "small": ("supports", "opposes"), "ours": ("supports", "opposes"),
            "arithmetic": ("adds-up", "does-not-add-up")}  # kind: (the rule holds, it fails)
WORDS = ("matches", "supports", "adds-up", "contradicts", "opposes", "does-not-add-up", "inconclusive", "not-run", "not-checkable")
HOLDS, FAILS = (tuple(dict.fromkeys(words[i] for words in WORDS_OF.values())) for i in (0, 1))
COMPARING = ("equals", "relative", "absolute", "z", "prediction-interval")
EFFECT = ("above", "below", "within")
EVIDENCE = {"trainings": "across-seeds", "processes": "across-processes", "items": None, "exact": None}
TIMED = ("efficiency-measured", "training-cost")
MAX_IQR = 0.20  # interquartile range / median above which a timing decides nothing
DULL = "does not discriminate"  # in the sentence of a claim whose placebo passes, too


def rule_of(rule: dict) -> tuple[str, float | bool]:
    """(name, number) of a rule: {"above": 0.4, ...} -> ("above", 0.4). Raises RecordError unless it is exactly one."""
    names = [name for name in (*EFFECT, *COMPARING) if name in rule]
    if len(names) != 1:
        raise RecordError(f"a rule is one of {', '.join((*EFFECT, *COMPARING))}; this one has {', '.join(names) or 'none'}")
    return names[0], rule[names[0]]


def rule_problem(claim: dict) -> tuple[str, str] | None:
    """(field, what is wrong) if the rule could never give a verdict for the claim's kind and rung."""
    protocol, paper, kind, rung = claim["protocol"], claim["paper"], claim["kind"], claim["rung"]
    rule, value, evidence = protocol.get("rule"), paper.get("value"), protocol.get("evidence")
    if rule is None:
        return "protocol.rule", "is missing; only status: not-checkable may do without"
    try:
        name, number_ = rule_of(rule)
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
        if name == "z" and paper.get("stderr") is None and _binomial(value, paper) is None:
            return "paper.stderr", "is missing: rule z needs it, or n_items of a proportion"
    if name in ("relative", "absolute", "within") and not number_ >= 0:
        return "protocol.rule", f"{name} must be given, not negative"
    if rung == "cpu-small" and name in EFFECT:
        if evidence not in ("trainings", "processes", "items"):
            return "protocol.evidence", "is missing: what the evidence counts, trainings, items or processes"
        needed = "sensitivity" if name == "within" else "placebo"
        if not protocol.get(needed):
            what = ("the pair that is known to differ and must be told apart" if name == "within"
                    else "the arm that must fail this rule on the same results")
            return f"protocol.{needed}", f"is missing: {what}"
    return None


def verdict(
    claim: dict,
    measured: dict | None,
    timing: dict | None = None,
    blocked_by: Sequence[str] = (),
) -> tuple[str, str, list[str]]:
    """(word, reason, blocked_by) for one claim of claims.yaml, at its rung.

    `measured` is None, or has value None, when nothing was measured; then the argument, or else the
    claim's own blocked_by, says why. A measurement stands above the claim's blocked_by, but not
    above `status: not-checkable`. `timing` is read for claims about time only (iqr_relative).
    Raises RecordError for a number that is not finite, for a rule that cannot decide at this rung, for a missing measurement
    that nothing explains, and for a placebo or sensitivity control that the claim names and the measurement lacks.
    """
    if claim.get("status") == "not-checkable":
        return "not-checkable", claim.get("note") or "The paper does not define this quantity.", []
    if measured is None or measured.get("value") is None:
        missing = list(blocked_by) or list(claim.get("blocked_by", ()))
        if not missing:
            raise RecordError(
                f"{claim['id']}: measured.value is missing and nothing blocks the claim; measure "
                "it, or give blocked_by (weights, data, gpu, time, underspecified)"
            )
        needs = f"Not run at rung {claim['rung']}: needs {', '.join(missing)}."
        return "not-run", claim.get("note") or needs, missing
    if problem := rule_problem(claim):
        raise RecordError(f"{claim['id']}: {problem[0]} {problem[1]}")
    for name, numbers in (("measured", measured), *((f"measured.{c}", measured.get(c) or {}) for c in ("placebo", "sensitivity"))):
        for field in ("value", "stderr", "ci95", "per_seed"):
            if (given := numbers.get(field)) is not None:
                listed = given if isinstance(given, list | tuple) else [given]
                refuse_unusable(listed, f"{claim['id']}: {name}.{field}")
    spread = (timing or {}).get("iqr_relative")
    if claim["topic"] in TIMED and spread is not None and not spread <= MAX_IQR:
        reason = (
            f"The timings spread too much: interquartile range {100 * spread:.3g} % of the median, "
            f"over {100 * MAX_IQR:.3g} %; repeat on a quieter machine."
        )
        return "inconclusive", reason, []
    name = rule_of(claim["protocol"]["rule"])[0]
    holds, reason = (_effect if name in EFFECT else {"z": _z, "prediction-interval": _prediction}.get(name, _band))(claim, measured)
    word = "inconclusive" if holds is None else WORDS_OF[claim["kind"]][0 if holds else 1]
    return word, reason, []


# ------------------------------------------------------------------------------ comparing rules


def _band(claim: dict, measured: dict) -> tuple[bool | None, str]:
    """equals, relative, absolute: our interval (our point, if it has none) against a band. None: nothing decides."""
    (name, tolerance), paper, value = rule_of(claim["protocol"]["rule"]), claim["paper"]["value"], measured["value"]
    away, sides = abs(value - paper), _sides(claim, measured)
    if name == "equals":
        return (True, f"{sides}: equal.") if value == paper else (False, f"{sides}: off by {number(away)}{_miss(claim, measured)}")
    if name == "relative":
        off, allowed = f"{100 * away / abs(paper):.4g} %", f"{100 * tolerance:.4g} %"
        tolerance *= abs(paper)
    else:
        off, allowed = number(away), number(tolerance)
    # A hair's width for rounding: 0.33 is within 10 % of 0.3, though not in binary.
    tolerance += 1e-9 * max(abs(paper), abs(value))
    sides += f": off by {off}, tolerance {allowed}"
    low, high = interval(measured) or (value, value)
    if paper - tolerance <= low and high <= paper + tolerance:
        return True, f"{sides}."
    if high < paper - tolerance or low > paper + tolerance:
        return False, f"{sides}{_miss(claim, measured)}"
    edge = min((paper - tolerance, paper + tolerance), key=lambda e: abs(e - value))
    return None, f"{sides}; the interval {_pair(low, high)} crosses its edge; {_wanted(measured, edge)}"


def _z(claim: dict, measured: dict) -> tuple[bool | None, str]:
    """z: |ours - paper| <= z * sqrt(SE_ours^2 + SE_paper^2)."""
    paper, value, sides = claim["paper"], measured["value"], _sides(claim, measured)
    errors = []
    for of, at in ((measured, value), (paper, paper["value"])):
        given = of.get("stderr")
        counted = {"unit": paper["unit"], "n_items": of.get("n_items")}
        errors.append(given if given is not None else _binomial(at, counted))
    if errors[0] is None:
        return None, f"{sides}, but ours has no standard error; give stderr or n_items."
    limit = NormalDist().inv_cdf(1 - rule_of(claim["protocol"]["rule"])[1] / 2) * math.hypot(*errors)
    away = abs(value - paper["value"])
    sides += f": {number(away)} apart, {number(limit)} allowed by the two standard errors"
    return (True, f"{sides}.") if away <= limit else (False, sides + _miss(claim, measured))


def _binomial(value: float | None, of: dict) -> float | None:
    """Standard error of a proportion, or of a percentage if the unit says so, over n_items."""
    scale = 100 if of.get("unit") == "%" else 1
    if value is None or not of.get("n_items") or not 0 <= value <= scale:
        return None
    p = value / scale
    return scale * math.sqrt(p * (1 - p) / of["n_items"])


def _prediction(claim: dict, measured: dict) -> tuple[bool | None, str]:
    """Is the paper's value a plausible next run of ours? mean +- t s sqrt(1 + 1/n) (CORE-Bench)."""
    runs, paper = measured.get("per_seed", ()), claim["paper"]["value"]
    sides = _sides(claim, measured)
    if len(runs) < MIN_RUNS:
        return None, f"{sides}; {len(runs)} runs predict nothing, {MIN_RUNS} are needed."
    p = 1 - rule_of(claim["protocol"]["rule"])[1] / 2
    half = t_quantile(p, len(runs) - 1) * stdev(runs) * math.sqrt(1 + 1 / len(runs))
    low, high = fmean(runs) - half, fmean(runs) + half
    sides += f": a next run of ours is expected in {_pair(low, high)}"
    return (True, f"{sides}.") if low <= paper <= high else (False, sides + _miss(claim, measured))


# --------------------------------------------------------------------------------- effect rules


def _effect(claim: dict, measured: dict) -> tuple[bool | None, str]:
    """above, below, within: where the whole interval lies, what it rests on, and whether the measure could have told."""
    protocol = claim["protocol"]
    rule, exact = protocol["rule"], claim["rung"] == "analytic"
    holds, where = placed(rule, measured, exact)
    text = f"{number(measured['value'])} {unit_of(claim)}".rstrip() + f"{where}, wanted {_text(rule)}"
    if holds is None:
        span = interval(measured)
        if span is None:
            return None, f"{text}: there is no interval (n = {sample_size(measured)}); run {MIN_RUNS} seeds."
        edge = min(_edges(rule), key=lambda e: abs(e - measured["value"]))
        return None, f"{text}: contains {number(edge)}; {_wanted(measured, edge)}"
    if lack := None if exact else lacking(protocol.get("evidence"), measured):
        return None, f"{text}, but {lack}"
    if not holds:
        return False, f"{text}: the whole interval lies outside." if not exact else f"{text}."
    if doubt := _doubt(claim, measured):
        return None, f"{text}, but {doubt}"
    return True, f"{text}."


def placed(rule: dict, measured: dict, exact: bool = False) -> tuple[bool | None, str]:
    """(whether the whole interval holds the rule, fails it, or neither: None; the interval in words). exact: the point decides."""
    low, high = _limits(rule)
    value = measured["value"]
    span = interval(measured) or ((value, value) if exact else None)
    if span is None:
        return None, ""
    where = "" if exact else f", 95 % interval {_pair(*span)}"
    if span[1] < low or span[0] > high:
        return False, where
    return (True if low < span[0] and span[1] < high else None), where


def lacking(evidence: str | None, measured: dict) -> str | None:
    """What a measurement lacks to carry a word in either direction, or None. evidence: protocol.evidence of the claim."""
    n, kind = sample_size(measured), measured.get("stderr_kind")
    if evidence in ("trainings", "processes"):
        if kind != EVIDENCE[evidence]:
            return f"the claim is about {evidence}, and the standard error is {kind or 'not there'} (n_runs = {measured['n_runs']})."
        return None if n >= MIN_RUNS else f"it rests on {n} {evidence}; {MIN_RUNS} are needed."
    if evidence == "items":
        if not over_items(measured):
            return "the claim is about items, and the standard error is not over items."
        return None if n >= MIN_ITEMS else f"it rests on {n} clusters of items; {MIN_ITEMS} are needed."
    return None


def _doubt(claim: dict, measured: dict) -> str | None:
    """Why a rule that holds supports nothing: the placebo passes, too, or a difference could not have been seen."""
    protocol = claim["protocol"]
    rule = protocol["rule"]
    for field in ("placebo", "sensitivity"):
        if protocol.get(field) and not measured.get(field):
            raise RecordError(f"{claim['id']}: protocol.{field} names {protocol[field]!r}, and measured.{field} is missing")
    if protocol.get("placebo"):
        control = measured["placebo"]
        if placed(rule, control)[0]:
            return f"so does the placebo, {protocol['placebo']} ({number(control['value'])}): the measure {DULL}."
    if protocol.get("sensitivity"):
        control = measured["sensitivity"]
        if placed(rule, control)[0] is not False:
            return (f"insensitive: {protocol['sensitivity']} differ{placed(rule, control)[1] or ' by ' + number(control['value'])} "
                    "and are not told apart by this rule.")
    if ceiling := measured.get("ceiling"):
        values, best = ceiling["values"], ceiling["best"]
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        if abs(fmean(values) - best) <= 2 * error or fmean(values) == best:
            return f"insensitive: the arms are at {number(fmean(values))}, where {number(best)} is the best possible."
    return None


def p_values(claim: dict, measured: dict) -> tuple[float, float] | None:
    """One-sided p-values that the effect rule holds, and that it fails; None where there is no standard error.

    within: two one-sided tests, of which the larger counts.
    """
    stderr, n, value = measured.get("stderr"), sample_size(measured), measured["value"]
    if not stderr or n < 2:
        return None
    low, high = _limits(claim["protocol"]["rule"])
    above = [p_above(value, stderr, edge, n) for edge in (low, high) if math.isfinite(edge)]
    if math.isinf(high):
        return above[0], 1 - above[0]
    if math.isinf(low):
        return 1 - above[0], above[0]
    return max(above[0], 1 - above[1]), min(1 - above[0], above[1])


def _limits(rule: dict) -> tuple[float, float]:
    name, edge = rule_of(rule)
    return {"above": (edge, math.inf), "below": (-math.inf, edge), "within": (-edge, edge)}[name]


def _edges(rule: dict) -> list[float]:
    return [edge for edge in _limits(rule) if math.isfinite(edge)]


# ------------------------------------------------------------------------------------ sentences


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


def rule_text(rule: dict | None) -> str:
    """The rule in a table's cell."""
    return "-" if rule is None else _text(rule)


def _text(rule: dict) -> str:
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


def _pair(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"


def _sides(claim: dict, measured: dict) -> str:
    """ "Measured 105 against the paper's 100 tokens": how a comparing sentence starts."""
    verb = "Recomputed" if claim["rung"] == "analytic" else "Measured"
    ours, theirs = number(measured["value"]), number(claim["paper"]["value"])
    return f"{verb} {ours} against the paper's {theirs} {claim['paper']['unit']}".rstrip()


def _miss(claim: dict, measured: dict) -> str:
    """How a sentence about a miss ends; it says so when the miss is on the good side."""
    if claim["kind"] == "arithmetic":
        return "; the paper's own arithmetic does not give the figure that it prints."
    above = measured["value"] > claim["paper"]["value"]
    better = above == claim["protocol"].get("higher_is_better")
    return "; better than the paper, which is no match until explained." if better else "."


def _wanted(measured: dict, edge: float) -> str:
    """What would decide: the n whose interval, around the same value, no longer reaches `edge`."""
    n, span, stderr = sample_size(measured), interval(measured), measured.get("stderr")
    if span is None or n < 2:
        return f"no standard error is recorded, so the n needed is unknown (n = {n})."
    stderr = (span[1] - span[0]) / 3.92 if stderr is None else stderr  # a bootstrap's, say
    what = "items" if over_items(measured) else "runs"
    size = n_needed(abs(measured["value"] - edge), stderr, n)
    if size is None:
        return f"no number of {what} below a million would decide (n = {n})."
    return f"about {max(size, n + 1):,} {what} would decide (n = {n})."
