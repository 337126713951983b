"""Effects: where the whole interval of a claim's quantity lies, never the point alone, and what a word about it rests on.

    unit of evidence  protocol.evidence says what is counted: trainings, items or processes, and how few are too few; what
                      supports needs, opposes needs
    placebo           above, below: `measured.placebo` is the same quantity of an arm that must not pass. Where it passes, too,
                      the measure does not discriminate, and nothing is supported; nor where its interval holds the edge and the
                      claim's own arm is not shown to be ahead of it, run by run: a placebo that is noisy enough never passes
    sensitivity       within: `measured.sensitivity` is the same quantity of a pair that is known to differ. Where the rule does
                      not tell that apart, the measure is insensitive; so it is at a ceiling (`measured.ceiling`)
"""

from __future__ import annotations

import math
from statistics import NormalDist, fmean, stdev

from ..errors import RecordError
from .intervals import (
    MIN_ITEMS,
    MIN_RUNS,
    interval,
    n_needed,
    over_items,
    p_above,
    sample_size,
    share,
    summarize,
    t_quantile,
)
from .rules import edges, limits, number, pair, rule_of, rule_text, unit_of

OVER = {"trainings": "across-seeds", "processes": "across-processes"}
DULL, INSENSITIVE = "does not discriminate", "insensitive"  # in the sentence of a claim whose control failed


def effect(claim: dict, measured: dict) -> tuple[bool | None, str]:
    """above, below, within: (whether it holds, or None where nothing decides; the sentence).

    Raises RecordError where the protocol names a control and the measurement lacks it, whatever the word would be.
    """
    protocol = claim["protocol"]
    rule, exact = protocol["rule"], claim["rung"] == "analytic"
    for field in ("placebo", "sensitivity"):
        if protocol.get(field) and (measured.get(field) or {}).get("value") is None:
            raise RecordError(f"{claim['id']}: protocol.{field} names {protocol[field]!r}, and measured.{field} is missing")
    holds, where = placed(rule, measured, exact)
    text = f"{number(measured['value'])} {unit_of(claim)}".rstrip() + f"{where}, wanted {rule_text(rule)}"
    if exact:
        return holds, f"{text}."
    if holds is None:
        if interval(measured) is None:
            return None, f"{text}: there is no interval (n = {sample_size(measured)}); run {MIN_RUNS} seeds."
        edge = min(edges(rule), key=lambda e: abs(e - measured["value"]))
        low, high = limits(rule)
        if low < measured["value"] < high and (doubt := _doubt(claim, measured)) and DULL in doubt:  # where more runs would end
            return None, f"{text}: contains {number(edge)}; and {doubt}"
        return None, f"{text}: contains {number(edge)}; {wanted(measured, edge)}"
    if lack := lacking(protocol.get("evidence"), measured):
        return None, f"{text}, but {lack}"
    if not holds:
        return False, f"{text}: the whole interval lies outside."
    if doubt := _doubt(claim, measured):
        return None, f"{text}, but {doubt}"
    return True, f"{text}."


def placed(rule: dict, measured: dict, exact: bool = False) -> tuple[bool | None, str]:
    """(whether the whole interval holds the rule, fails it, or neither: None; the interval in words).

    exact: the point decides, always: a value on the edge is within it, and neither above nor below.
    """
    low, high = limits(rule)
    if exact:
        value = measured["value"]
        return (low <= value <= high if rule_of(rule)[0] == "within" else low < value < high), ""
    span = interval(measured)
    if span is None:
        return None, ""
    where = f", 95 % interval {pair(*span)}"
    if span[1] < low or span[0] > high:
        return False, where
    return (True if low < span[0] and span[1] < high else None), where


def lacking(evidence: str | None, measured: dict) -> str | None:
    """What a measurement lacks to carry a word in either direction, or None. evidence: protocol.evidence of the claim; where
    that says nothing, what the standard error is over."""
    n, kind = sample_size(measured), measured.get("stderr_kind")
    if evidence in OVER and kind != OVER[evidence]:
        return f"the claim is about {evidence}, and the standard error is {kind or 'not there'} (n_runs = {measured['n_runs']})."
    if evidence == "items" and not over_items(measured):
        return "the claim is about items, and the standard error is not over items."
    if over_items(measured):
        return None if n >= MIN_ITEMS else f"it rests on {n} clusters of items; {MIN_ITEMS} are needed."
    return None if n >= MIN_RUNS else f"it rests on {n} {evidence if evidence in OVER else 'runs'}; {MIN_RUNS} are needed."


def _doubt(claim: dict, measured: dict) -> str | None:
    """Why a rule that holds supports nothing: the placebo passes, too, or does not fail and is not behind; or a difference could not
    have been seen."""
    protocol = claim["protocol"]
    rule = protocol["rule"]
    if protocol.get("placebo"):
        control = measured["placebo"]
        passes, where = placed(rule, control, exact=interval(control) is None)  # without an interval its point decides
        if passes:
            return f"the placebo, {protocol['placebo']}, passes, too ({number(control['value'])}): the measure {DULL}."
        if passes is None and not ahead(rule, measured, control):
            lead = lead_of(rule, measured, control)
            more = wanted(lead, 0.0) if lead and lead["value"] > 0 else "it leads, or cannot be held against the arm run by run."
            its = f"{number(control['value'])}{where}"
            return f"the placebo, {protocol['placebo']}, neither fails ({its}) nor is shown to be behind: {more}"
    if protocol.get("sensitivity"):
        control = measured["sensitivity"]
        told_apart, where = placed(rule, control)
        if told_apart is not False:
            return (f"{INSENSITIVE}: {protocol['sensitivity']} differ by {number(control['value'])}{where} "
                    "and are not told apart by this rule.")
    if ceiling := measured.get("ceiling"):
        values, best = ceiling["values"], ceiling["best"]
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        room = abs(fmean(values) - best)
        if room <= 2 * error or room <= max(edges(rule)):  # no room to differ by what the rule allows
            return f"{INSENSITIVE}: the arms are at {number(fmean(values))}, and {number(best)} is all that is possible."
    return None


def ahead(rule: dict, measured: dict, control: dict) -> bool:
    """above, below: whether the arm is ahead of its placebo. Of as many runs of both the interval of their differences, run by run, lies
    on the arm's side; else the two intervals do not meet."""
    lead = lead_of(rule, measured, control)
    if lead and (span := interval(lead)):  # none where all are equal
        return span[0] > 0
    own, other = interval(measured), interval(control)
    return own is not None and other is not None and (own[0] > other[1] if math.isinf(limits(rule)[1]) else own[1] < other[0])


def lead_of(rule: dict, measured: dict, control: dict) -> dict | None:
    """What the arm is ahead of its placebo, run by run, as `summarize` gives it; None where there are not as many runs of both."""
    sign = 1.0 if math.isinf(limits(rule)[1]) else -1.0
    ours, theirs = measured.get("per_seed") or (), control.get("per_seed") or ()
    if not len(ours) == len(theirs) >= MIN_RUNS:
        return None
    least = max(each.get("resolution") or 0.0 for each in (measured, control))
    return summarize([sign * (a - b) for a, b in zip(ours, theirs)], least)


def p_values(claim: dict, measured: dict) -> tuple[float, float] | None:
    """One-sided p-values that the effect rule holds, and that it fails; None where there is no standard error.

    within: two one-sided tests, of which the larger counts. Each test is that whose acceptance is the interval beside it.
    """
    n, value = sample_size(measured), measured["value"]
    stderr = measured.get("stderr") or _spread_of(measured)
    if not stderr or n < 2:
        return None
    counted = share_again(measured)
    low, high = limits(claim["protocol"]["rule"])
    above = [_share_above(counted, edge) if counted else p_above(value, stderr, edge, n) for edge in (low, high) if math.isfinite(edge)]
    if math.isinf(high):
        return above[0], 1 - above[0]
    if math.isinf(low):
        return 1 - above[0], above[0]
    return max(above[0], 1 - above[1]), min(1 - above[0], above[1])


def _spread_of(measured: dict) -> float | None:
    """The standard error of an interval that has none beside it, as of a bootstrap: without one its claim would be nobody's question."""
    span, n = interval(measured), sample_size(measured)
    return None if span is None or n < 2 else (span[1] - span[0]) / 2 / t_quantile(0.975, n - 1)


def share_again(measured: dict) -> tuple[int, int, float] | None:
    """(hits, n, scale) of a measurement whose standard error is that of a share of n items, as it is or in per cent, whichever its
    standard error is nearer to; None of another one."""
    n, found = measured.get("n_items"), []
    if measured.get("stderr_kind") != "binomial" or not n:
        return None
    for scale in (1.0, 100.0):
        hits = measured["value"] / scale * n
        if 0 <= hits <= n and abs(hits - round(hits)) < 1e-6 * n:
            away = abs(share(round(hits), n, scale)["stderr"] - (measured.get("stderr") or 0.0))
            found.append((away, (round(hits), n, scale)))
    return min(found)[1] if found else None


def _share_above(of: tuple[int, int, float], edge: float) -> float:
    """The p-value of "the share lies above edge" by the score test, whose spread is that of the edge: Wilson's interval turned round. By
    its own spread 98 of 100 would be above 90 % with p = 2e-6, and are with 0.004."""
    hits, n, scale = of
    off, at = hits / n - edge / scale, min(max(edge / scale, 0.0), 1.0)
    spread = math.sqrt(at * (1 - at) / n)
    return NormalDist().cdf(-off / spread) if spread else 0.5 if not off else float(off < 0)


def wanted(measured: dict, edge: float) -> str:
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
