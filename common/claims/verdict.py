"""The referee: from a claim written beforehand and a measurement, one of six words and a sentence.

    matches        the paper's own quantity was obtained, and lies inside the rule
    supports       in the small, the direction and minimum effect written beforehand hold
    contradicts    the falsifier fired, or the paper's own arithmetic disagrees with what it prints
    inconclusive   the interval contains the threshold; the sentence says what would decide
    not-run        something is missing: weights, data, gpu, time
    not-checkable  the paper does not define the quantity

Two families of rules. *Comparing* rules (exact, relative, absolute, z, prediction-interval) hold
our value against the paper's. They exist only where the paper's quantity can be had (`can_match`)
and have two sides: better than the paper beyond the tolerance is no match either, as MLPerf's
reference convergence points reject a run that is too good. *Effect* rules (direction, equivalence)
read `measured.value` as an effect, positive in the claim's direction, and ask where its interval
lies: above `threshold`, or within +- `tolerance`. What decides is the whole interval, never the
point alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from ..errors import RecordError
from .intervals import MIN_RUNS, interval, n_needed, over_items, refuse_unusable, sample_size, t_quantile

WORDS = ("matches", "supports", "contradicts", "inconclusive", "not-run", "not-checkable")
READS = {  # the numbers that each type of rule reads
    "exact": (),
    "relative": ("tolerance",),
    "absolute": ("tolerance",),
    "z": ("alpha",),
    "prediction-interval": ("alpha",),
    "direction": ("threshold",),
    "equivalence": ("tolerance",),
}
COMPARING = ("exact", "relative", "absolute", "z", "prediction-interval")
PAIRED = ("paired", "clustered", "bootstrap")  # standard errors over items that may stand in ...
MIN_ITEMS = 30  # ... for three seeds, from this many items on
TIMED = ("efficiency-measured", "training-cost")
MAX_IQR = 0.20  # interquartile range / median above which a timing decides nothing


def can_match(claim: dict) -> bool:
    """Whether the paper's own quantity can be had at the claim's rung.

    Exact arithmetic; the paper's scale; or a device quantity (time, memory) at real size, for which
    the values of the weights do not matter.
    """
    at_real_size = claim["rung"] == "gpu-random-weights" and claim["kind"] == "efficiency-measured"
    return claim["rung"] in ("analytic", "paper-scale") or at_real_size


def rule_problem(claim: dict) -> tuple[str, str] | None:
    """(field, what is wrong) if the rule could never give a verdict at the claim's rung."""
    protocol, paper = claim["protocol"], claim["paper"]
    rule, value = protocol.get("rule"), paper.get("value")
    if rule is None:
        return "protocol.rule", "is missing; only status: not-checkable may do without"
    kind, tolerance = rule["type"], rule.get("tolerance")
    for field in ("tolerance", "threshold", "alpha"):
        if field in rule and field not in READS[kind]:
            return f"protocol.rule.{field}", f"is given, but rule {kind} does not read it"
    if kind in COMPARING and value is None:
        return "paper.value", f"is missing, and rule {kind} compares with it"
    if kind in COMPARING and not can_match(claim):
        return "protocol.rule.type", (
            f"is {kind}, which compares with the paper's number, but rung {claim['rung']} cannot "
            "obtain that quantity; use direction or equivalence"
        )
    if kind in ("relative", "absolute", "equivalence") and (tolerance is None or tolerance < 0):
        return "protocol.rule.tolerance", f"must be given, not negative, for rule {kind}"
    if kind == "relative" and value == 0:
        return "protocol.rule.type", "is relative, but the paper's value is 0; use absolute"
    if kind == "direction" and rule.get("threshold") is None:
        return "protocol.rule.threshold", "is missing: the minimum effect, 0 if any will do"
    if kind == "z" and paper.get("stderr") is None and _binomial(value, paper) is None:
        return "paper.stderr", "is missing: rule z needs it, or n_items of a proportion"
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
    Raises RecordError for a number that is not finite, for a rule that cannot decide at this rung,
    and for a missing measurement that nothing explains.
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
    for field in ("value", "stderr", "ci95", "per_seed"):
        if (given := measured.get(field)) is not None:
            listed = given if isinstance(given, list | tuple) else [given]
            refuse_unusable(listed, f"{claim['id']}: measured.{field}")
    spread = (timing or {}).get("iqr_relative")
    if claim["kind"] in TIMED and spread is not None and not spread <= MAX_IQR:
        reason = (
            f"The timings spread too much: interquartile range {100 * spread:.3g} % of the median, "
            f"over {100 * MAX_IQR:.3g} %; repeat on a quieter machine."
        )
        return "inconclusive", reason, []
    judges = {"z": _z, "prediction-interval": _prediction}
    judges |= {"direction": _effect, "equivalence": _effect}
    word, reason = judges.get(claim["protocol"]["rule"]["type"], _band)(claim, measured)
    return word, reason, []


# ------------------------------------------------------------------------------ comparing rules


def _band(claim: dict, measured: dict) -> tuple[str, str]:
    """exact, relative, absolute: our interval (our point, if it has none) against a band."""
    rule, paper, value = claim["protocol"]["rule"], claim["paper"]["value"], measured["value"]
    away, said = abs(value - paper), _sides(claim, measured)
    if rule["type"] == "exact":
        if value == paper:
            return "matches", f"{said}: equal."
        return "contradicts", f"{said}: off by {number(away)}{_miss(claim, measured)}"
    tolerance = rule["tolerance"]
    if rule["type"] == "relative":
        off, allowed = f"{100 * away / abs(paper):.4g} %", f"{100 * tolerance:.4g} %"
        tolerance *= abs(paper)
    else:
        off, allowed = number(away), number(tolerance)
    # A hair's width for rounding: 0.33 is within 10 % of 0.3, though not in binary.
    tolerance += 1e-9 * max(abs(paper), abs(value))
    said += f": off by {off}, tolerance {allowed}"
    low, high = interval(measured) or (value, value)
    if paper - tolerance <= low and high <= paper + tolerance:
        return "matches", f"{said}."
    if high < paper - tolerance or low > paper + tolerance:
        return "contradicts", f"{said}{_miss(claim, measured)}"
    edge = min((paper - tolerance, paper + tolerance), key=lambda e: abs(e - value))
    said += f"; the interval {_pair(low, high)} crosses its edge"
    return "inconclusive", f"{said}; {_wanted(measured, edge)}"


def _z(claim: dict, measured: dict) -> tuple[str, str]:
    """z: |ours - paper| <= z * sqrt(SE_ours^2 + SE_paper^2)."""
    paper, value, said = claim["paper"], measured["value"], _sides(claim, measured)
    errors = []
    for of, at in ((measured, value), (paper, paper["value"])):
        given = of.get("stderr")
        counted = {"unit": paper["unit"], "n_items": of.get("n_items")}
        errors.append(given if given is not None else _binomial(at, counted))
    if errors[0] is None:
        return "inconclusive", f"{said}, but ours has no standard error; give stderr or n_items."
    p = 1 - claim["protocol"]["rule"].get("alpha", 0.05) / 2
    limit = NormalDist().inv_cdf(p) * math.hypot(*errors)
    away = abs(value - paper["value"])
    said += f": {number(away)} apart, {number(limit)} allowed by the two standard errors"
    inside = away <= limit
    return ("matches", f"{said}.") if inside else ("contradicts", said + _miss(claim, measured))


def _binomial(value: float | None, of: dict) -> float | None:
    """Standard error of a proportion, or of a percentage if the unit says so, over n_items."""
    scale = 100 if of.get("unit") == "%" else 1
    if value is None or not of.get("n_items") or not 0 <= value <= scale:
        return None
    p = value / scale
    return scale * math.sqrt(p * (1 - p) / of["n_items"])


def _prediction(claim: dict, measured: dict) -> tuple[str, str]:
    """Is the paper's value a plausible next run of ours? mean +- t s sqrt(1 + 1/n) (CORE-Bench)."""
    runs, paper = measured.get("per_seed", ()), claim["paper"]["value"]
    said = _sides(claim, measured)
    if len(runs) < MIN_RUNS:
        return "inconclusive", f"{said}; {len(runs)} runs predict nothing, {MIN_RUNS} are needed."
    p = 1 - claim["protocol"]["rule"].get("alpha", 0.05) / 2
    half = t_quantile(p, len(runs) - 1) * stdev(runs) * math.sqrt(1 + 1 / len(runs))
    low, high = fmean(runs) - half, fmean(runs) + half
    said += f": a next run of ours is expected in {_pair(low, high)}"
    inside = low <= paper <= high
    return ("matches", f"{said}.") if inside else ("contradicts", said + _miss(claim, measured))


# --------------------------------------------------------------------------------- effect rules


def _effect(claim: dict, measured: dict) -> tuple[str, str]:
    """direction: the interval above the threshold. equivalence: the interval in +- tolerance."""
    rule, value = claim["protocol"]["rule"], measured["value"]
    if rule["type"] == "direction":
        low, high, wanted = rule["threshold"], math.inf, f"above {number(rule['threshold'])}"
    else:
        low, high = -rule["tolerance"], rule["tolerance"]
        wanted = f"within +-{number(rule['tolerance'])}"
    span = interval(measured) or ((value, value) if claim["rung"] == "analytic" else None)
    runs = measured["n_runs"]
    if span is None:
        said = f"Effect {number(value)}, wanted {wanted}, has no interval (n_runs = {runs})"
        return "inconclusive", f"{said}; run {MIN_RUNS} seeds."
    said = f"Effect {number(value)}, 95 % interval {_pair(*span)}, wanted {wanted}"
    if span[1] < low or span[0] > high:
        return "contradicts", f"{said}: the whole interval lies outside."
    if not (low < span[0] and span[1] < high):
        edge = min((low, high), key=lambda e: abs(e - value))
        return "inconclusive", f"{said}: contains {number(edge)}; {_wanted(measured, edge)}"
    if claim["rung"] in ("analytic", "paper-scale"):
        return "matches", f"{said}."
    enough = measured.get("stderr_kind") in PAIRED and (measured.get("n_items") or 0) >= MIN_ITEMS
    if runs >= MIN_RUNS or enough:
        return "supports", f"{said}."
    return "inconclusive", f"{said}, but it rests on n_runs = {runs}; run {MIN_RUNS} seeds."


# ------------------------------------------------------------------------------------ sentences


def number(x: float | None) -> str:
    """A number for people: 524,416 and 0.00778202 and 1.5e-07; "-" for none."""
    if x is None:
        return "-"
    if x == int(x) and abs(x) < 1e15:
        return f"{int(x):,}"
    return f"{x:,.6g}" if abs(x) < 1e6 else f"{x:.6g}"


def rule_text(rule: dict | None) -> str:
    """The rule in a table's cell."""
    if rule is None:
        return "-"
    tolerance, threshold = rule.get("tolerance", 0), rule.get("threshold", 0)
    return {
        "exact": "equal",
        "relative": f"within {100 * tolerance:.4g} %",
        "absolute": f"within ±{number(tolerance)}",
        "z": "z test of the two standard errors",
        "prediction-interval": "inside our prediction interval",
        "direction": f"effect > {number(threshold)}",
        "equivalence": f"|effect| < {number(tolerance)}",
    }[rule["type"]]


def _pair(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"


def _sides(claim: dict, measured: dict) -> str:
    """ "Measured 105 against the paper's 100 tokens": how a comparing sentence starts."""
    verb = "Recomputed" if claim["rung"] == "analytic" else "Measured"
    ours, theirs = number(measured["value"]), number(claim["paper"]["value"])
    return f"{verb} {ours} against the paper's {theirs} {claim['paper']['unit']}".rstrip()


def _miss(claim: dict, measured: dict) -> str:
    """How a sentence about a miss ends; it says so when the miss is on the good side."""
    if claim["rung"] == "analytic":
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
