"""The referee: from a claim written beforehand and a measurement, one word and a sentence.

Which words a kind of claim can get, and which rules there are, says rules.py; what a word about an effect rests on, effects.py.
Here they meet, and here are the rules that hold our value against the paper's. Those have two sides: better than the paper
beyond the tolerance is no match either, as MLPerf's reference convergence points reject a run that is too good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from ..errors import RecordError
from .effects import effect, wanted
from .intervals import MIN_RUNS, binomial, interval, refuse_unusable, t_quantile
from .rules import EFFECT, WORDS_OF, number, pair, rule_of, rule_problem

TIMED = ("efficiency-measured", "training-cost")
MAX_IQR = 0.20  # interquartile range / median above which a timing decides nothing


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
                "it, or give blocked_by (code, weights, data, gpu, time, underspecified)"
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
    holds, reason = (effect if name in EFFECT else {"z": _z, "prediction-interval": _prediction}.get(name, _band))(claim, measured)
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
    return None, f"{sides}; the interval {pair(low, high)} crosses its edge; {wanted(measured, edge)}"


def _z(claim: dict, measured: dict) -> tuple[bool | None, str]:
    """z: |ours - paper| <= z * sqrt(SE_ours^2 + SE_paper^2)."""
    paper, value, sides = claim["paper"], measured["value"], _sides(claim, measured)
    errors: list[float] = []
    for of, at in ((measured, value), (paper, paper["value"])):
        given = of.get("stderr")
        counted = {"unit": paper["unit"], "n_items": of.get("n_items")}
        given = binomial(at, counted) if given is None else given
        if given is None:  # the paper's is there: rule_problem has seen to it
            return None, f"{sides}, but ours has no standard error; give stderr or n_items."
        errors.append(given)
    limit = NormalDist().inv_cdf(1 - rule_of(claim["protocol"]["rule"])[1] / 2) * math.hypot(*errors)
    away = abs(value - paper["value"])
    sides += f": {number(away)} apart, {number(limit)} allowed by the two standard errors"
    return (True, f"{sides}.") if away <= limit else (False, sides + _miss(claim, measured))


def _prediction(claim: dict, measured: dict) -> tuple[bool | None, str]:
    """Is the paper's value a plausible next run of ours? mean +- t s sqrt(1 + 1/n) (CORE-Bench)."""
    runs, paper = measured.get("per_seed", ()), claim["paper"]["value"]
    sides = _sides(claim, measured)
    if len(runs) < MIN_RUNS:
        return None, f"{sides}; {len(runs)} runs predict nothing, {MIN_RUNS} are needed."
    spread = max(stdev(runs), measured.get("resolution") or 0.0)
    if spread <= 1e-12 * abs(fmean(runs)):  # an interval of width zero would refuse every other number
        return None, f"{sides}; {len(runs)} equal runs predict nothing without the resolution of their measure."
    p = 1 - rule_of(claim["protocol"]["rule"])[1] / 2
    half = t_quantile(p, len(runs) - 1) * spread * math.sqrt(1 + 1 / len(runs))
    low, high = fmean(runs) - half, fmean(runs) + half
    sides += f": a next run of ours is expected in {pair(low, high)}"
    return (True, f"{sides}.") if low <= paper <= high else (False, sides + _miss(claim, measured))


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
