"""What a paper comes to: its required claims as one family of questions, and its headlines.

Asked twenty questions at 95 %, nature says yes by chance to one. So the required claims of a paper are one family, and Holm's
step-down decides which of their words stand in a headline: with p-values p_1 <= ... <= p_m, claim i keeps its word while
p_i <= alpha / (m - i + 1), and none after the first that misses. The words beside single claims stay those of their own
intervals. A headline has no measurement of its own; its word follows from the claims beneath it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .effects import p_values
from .rules import EFFECT, FAILS, HOLDS, rule_of

ALPHA = 0.025  # one-sided: an interval of 95 % leaves as much on the side of the rule
SIZES = ("paper-scale", "gpu-random-weights", "cpu-small", "analytic")  # the larger first


def family(records: Iterable[dict]) -> dict[str, float]:
    """{claim id: p-value} of the required claims whose effect rule was judged over a sample: of the word they have."""
    found = {}
    for record in records:
        entry = {**record["claim"], **record}
        rule = record["protocol"]["rule"]
        if not record["claim"].get("required") or rule is None or record["measured"]["value"] is None:
            continue
        if rule_of(rule)[0] in EFFECT and record["claim"]["rung"] != "analytic" and (p := p_values(entry, record["measured"])):
            found[record["claim"]["id"]] = p[1] if record["verdict"]["word"] in FAILS else p[0]
    return found


def holm(p_of: dict[str, float], alpha: float = ALPHA) -> dict[str, bool]:
    """{name: whether its word stands} by Holm (1979): the smallest p-value against alpha / m, the next against alpha / (m - 1)."""
    stands, going = {}, True
    for i, (name, p) in enumerate(sorted(p_of.items(), key=lambda item: item[1])):
        going = going and p <= alpha / (len(p_of) - i)
        stands[name] = going
    return stands


def first_miss(p_of: dict[str, float], alpha: float = ALPHA) -> float:
    """The level at which the step-down ended: a word that does not stand would stand with a p-value of at most this."""
    stands = sum(holm(p_of, alpha).values())
    return alpha / max(len(p_of) - stands, 1)


@dataclass(frozen=True)
class Headline:
    """A headline with what was obtained. word: of its largest size that decided; rung: that size, "" where nothing was run.

    words: {row: word}, after Holm for required claims. record: of the row whose numbers it shows, or None. here: what
    that row is, in words: model and quantity.
    """

    id: str
    statement: str
    short: str
    paper: str
    needs: str
    word: str
    rung: str
    words: dict[str, str]
    row: str
    record: dict | None
    here: str = ""


def headlines(claims, records: Sequence[dict]) -> list[Headline]:
    """Those of claims.yaml, judged from the paper's records (older or invalid ones left out by the caller)."""
    by_key = {(record["claim"]["id"], record["claim"]["rung"]): record for record in records}
    stands = holm(family(records))
    made = []
    for entry in claims.headlines:
        words, rungs, found = {}, {}, {}
        for name in entry["rows"]:
            claim = claims.find(name)
            record = found[name] = by_key.get((claim["id"], claim["rung"]))
            word = record["verdict"]["word"] if record else "not-checkable" if claim.get("status") else "not-run"
            if word in HOLDS + FAILS and not stands.get(claim["id"], True):
                word = "inconclusive"
            words[name], rungs[name] = word, claim["rung"]
        word, rung = _strongest(words, rungs)
        row = entry.get("shows", entry["rows"][0])
        made.append(Headline(entry["id"], entry["statement"], entry["short"], entry["paper"], entry["needs"], word, rung, words, row,
                             found.get(row) or by_key.get((claims.find(row)["id"], claims.find(row)["rung"])), entry.get("here", "")))
    return made


def _strongest(words: dict[str, str], rungs: dict[str, str]) -> tuple[str, str]:
    """The word of the largest size at which a row has one; where rows of that size disagree, a miss outweighs a hit, and
    what is open outweighs both hits and nothing."""
    for rung in SIZES:
        here = [words[name] for name in words if rungs[name] == rung and words[name] not in ("not-run", "not-checkable")]
        if not here:
            continue
        if missed := [word for word in here if word in FAILS]:
            return missed[0], rung
        return ("inconclusive" if "inconclusive" in here else here[0]), rung
    return ("not-run" if "not-run" in words.values() else "not-checkable"), ""
