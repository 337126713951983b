"""Many questions at once, and what a paper comes to."""

import pytest

from common.claims.headlines import ALPHA, family, headlines, holm
from common.claims.intervals import summarize
from common.claims.records import Claims
from tests.sample_records import claim, headline, held, one, record


def test_holms_step_down_by_hand():
    """Five claims at alpha = .025: against .005, .00625, .00833, .0125, .025, and none after the first that misses."""
    assert ALPHA == 0.025
    stands = holm({"e": 0.02, "a": 0.001, "c": 0.012, "b": 0.004, "d": 0.013})
    assert stands == {"a": True, "b": True, "c": False, "d": False, "e": False}
    assert list(stands) == ["a", "b", "c", "d", "e"]  # e alone would stand: .02 < .025
    assert holm({"e": 0.02}) == {"e": True} and holm({}) == {}
    assert holm({"a": 0.005, "b": 0.00625, "c": 0.00833, "d": 0.0125, "e": 0.025}) == dict.fromkeys("abcde", True)


def required(number, **more):
    return claim("above", "cpu-small", id=f"demo/C{number}", required=True, **more)


def spread(mean, half):
    """Three runs whose 95 % interval is mean +- half."""
    step = half / 4.302653 * 3**0.5
    return held([mean - step, mean, mean + step])


def judged(*pairs, **more):
    """The headlines of a paper with these claims and measurements; `more` are of its only headline."""
    rows = more.pop("rows", [c["id"].partition("/")[2] for c, _ in pairs])
    claims = Claims({"key": "demo"}, [c for c, _ in pairs], "0", (headline(*rows, **more),))
    return headlines(claims, [record(c, m) for c, m in pairs if m])[0]


def test_the_family_is_the_required_effects_with_the_p_value_of_the_word_that_they_have():
    up, down = record(required(1), spread(0.3, 0.1)), record(required(2), spread(-0.3, 0.1))
    others = [record(claim("above", "cpu-small", id="demo/C3"), spread(0.3, 0.1)),  # not required, and no effect:
              record({**claim("equals", paper=1.0), "required": True}, one(1.0))]
    p_of = family([up, down, *others])
    assert set(p_of) == {"demo/C1", "demo/C2"} and p_of["demo/C1"] < 0.025 and p_of["demo/C2"] < 0.025  # it opposes, surely


def test_holm_turns_a_word_of_a_headline_and_not_of_its_claim():
    """One barely separated claim stands alone, and not as one of four questions."""
    alone = judged((required(1), spread(0.3, 0.19)))
    assert alone.words == {"C1": "supports"} and alone.word == "supports" and alone.rung == "cpu-small"
    open_ones = [(required(i), spread(0.1, 0.5)) for i in (2, 3, 4)]
    among = judged((required(1), spread(0.3, 0.19)), *open_ones, rows=["C1"])
    assert among.record["verdict"]["word"] == "supports" and among.words == {"C1": "inconclusive"} and among.word == "inconclusive"
    assert judged((required(1), spread(0.3, 0.05)), *open_ones, rows=["C1"]).word == "supports"  # clear enough for four
    loose = claim("above", "cpu-small")  # not required: of no family
    assert judged((loose, spread(0.3, 0.19)), *open_ones, rows=["C1"]).word == "supports"


@pytest.mark.parametrize(("values", "word"), [
    ((0.3, 0.3), "supports"), ((0.3, -0.3), "opposes"), ((-0.3, 0.3), "opposes"), ((0.3, 0.1), "inconclusive"), ((-0.3, 0.1), "opposes"),
    ((0.3, None), "supports"), ((None, None), "not-run"),
])  # fmt: skip
def test_a_miss_outweighs_hits_and_what_is_open_outweighs_both(values, word):
    pairs = [(claim("above", "cpu-small", id=f"demo/C{i + 1}"), None if v is None else spread(v, 0.05 if v != 0.1 else 0.5))
             for i, v in enumerate(values)]
    assert judged(*pairs).word == word


def test_the_strongest_word_is_of_the_largest_size_that_decided():
    large = (claim("absolute", id="demo/C1", blocked_by=["gpu"]), None)
    small = (claim("above", "cpu-small", id="demo/C2"), spread(0.3, 0.05))
    exact = (claim("equals", "analytic", id="demo/C3", paper=2.0), one(3.0))
    got = judged(large, small, exact, shows="C2")
    assert (got.word, got.rung, got.row) == ("supports", "cpu-small", "C2") and got.record["measured"]["value"] == pytest.approx(0.3)
    assert got.words == {"C1": "not-run", "C2": "supports", "C3": "does-not-add-up"}
    got = judged((large[0], one(100.0)), small, exact)
    assert (got.word, got.rung) == ("matches", "paper-scale")
    got = judged((large[0], one(50.0)), small, exact)
    assert (got.word, got.rung) == ("contradicts", "paper-scale")
    got = judged(large, exact)
    assert (got.word, got.rung) == ("does-not-add-up", "analytic")
    undefined = (claim(id="demo/C1", status="not-checkable", paper=None), None)
    assert (judged(undefined).word, judged(undefined).rung, judged(undefined).record) == ("not-checkable", "", None)


def test_a_claim_of_two_rungs_is_read_at_its_first():
    """A record of another rung is no record of this row."""
    small, large = claim("above", "cpu-small"), claim("above", "paper-scale")
    claims = Claims({"key": "demo"}, [small, large], "0", (headline("C1"),))
    got = headlines(claims, [record(small, spread(0.3, 0.05)), record(large, summarize([-0.3, -0.31, -0.32]))])[0]
    assert (got.word, got.rung) == ("supports", "cpu-small")
