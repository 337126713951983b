"""AIL, RCO, CW and StreamLAAL, by hand: the vectors of ProactiveLLM's specification (5.1, 7.1), identities, and what is refused."""

from fractions import Fraction as F

import pytest

from common.benchmarks.interaction import (
    Segment,
    average_interaction_lag,
    consecutive_wait,
    impossible_lag,
    interaction,
    lag_of,
    lag_saved,
    relative_context_observed,
    resegmented,
    stream_laal,
)
from common.benchmarks.translation import average_lagging, average_proportion, length_adaptive_average_lagging


def wait_k(k, m, length):
    return [F(min(k + t, m)) for t in range(length)]


def test_vectors():
    d = [F(2), F(3), F(5), F(6)]
    assert average_interaction_lag(d, F(6)) == F(7, 4) and relative_context_observed(d, F(6)) == F(2, 3)
    assert consecutive_wait(d) == F(3, 2)  # runs 2, 1, 2, 1
    d = [F(3), F(3), F(3), F(7), F(7)]
    assert average_interaction_lag(d, F(8)) == F(7, 5) and relative_context_observed(d, F(8)) == F(23, 40)
    assert consecutive_wait(d) == F(7, 2)  # runs 3, 4
    whole = average_interaction_lag([F(2), F(3), F(5)], 7)  # (0 + 10) / 3 - 7 (0 + 1 + 2) / 9, of a length that is an int
    assert whole == F(10, 3) - F(7, 3) and isinstance(whole, F)


@pytest.mark.parametrize("m, length, k, ail, rco", [
    (16, 16, 3, "2.8125", ".6445"), (16, 16, 5, "4.3750", ".7422"), (16, 16, 7, "5.6875", ".8242"), (16, 16, 9, "6.7500", ".8906"),
    (17, 17, 9, "6.8824", ".8754"), (17, 16, 9, "6.7812", ".8676"), (16, 16, 99, "8.5", "1"), (116, 3, 999, "77.3333", "1"),
    (205, 1, 999, "205", "1")])
def test_table_of_wait_k(m, length, k, ail, rco):
    d = wait_k(k, m, length)
    assert float(average_interaction_lag(d, F(m))) == pytest.approx(float(ail), abs=5.1e-5)
    assert float(relative_context_observed(d, F(m))) == pytest.approx(float(rco), abs=5.1e-5)


def test_it_is_al_without_the_cut_and_rco_is_ap():
    d, x = [F(1), F(2), F(5), F(7), F(7), F(7)], F(7)
    step = x / 6
    assert average_interaction_lag(d, x) == sum(di - i * step for i, di in enumerate(d)) / 6
    assert relative_context_observed(d, x) == average_proportion(d, x)
    early = [F(1), F(2), F(3), F(4)]  # the source has not ended: no cut
    assert average_interaction_lag(early, x) == average_lagging(early, x)
    assert average_interaction_lag(d, x) != average_lagging(d, x)


def test_the_two_are_one_number_and_a_length():
    for d, x in (([F(2), F(3), F(5), F(6)], F(6)), ([F(3), F(3), F(3), F(7), F(7)], F(8))):
        n, rco = len(d), relative_context_observed(d, x)
        assert average_interaction_lag(d, x) == lag_of(rco, x, n)
        assert average_interaction_lag([x] * n, x) - average_interaction_lag(d, x) == lag_saved(rco, x)
        assert average_interaction_lag([x] * n, x) == x * (n + 1) / (2 * n)


def test_a_reported_lag_that_cannot_go_with_its_context():
    """8.36 words behind at 88 % of the context, where reading everything first is 8.71 behind: sentences would have 2.9 words."""
    n = 2 * 8.71 - 1  # (n + 1) / 2 = 8.71
    assert 8.71 - lag_saved(0.88, n) == pytest.approx(6.74, abs=0.005)
    assert impossible_lag(8.71, 8.36, 0.88, n) and not impossible_lag(8.71, 6.74, 0.88, n) and not impossible_lag(8.71, 6.70, 0.88, n)


def test_a_set_of_streams():
    found = interaction([[2, 3, 5, 6], [], [3, 3, 3, 7, 7]], [6, 4, 8])
    assert found["AIL"] == pytest.approx((1.75 + 1.4) / 2) and found["CW"] == 2.5 and (found["n"], found["skipped"]) == (2, 1)
    assert found["streams"]["RCO"] == pytest.approx([2 / 3, None, 0.575])
    for bad, says in ((([[2, 1]], [3]), "stream 0"), (([[]], [3]), "none of 1"), (([[1]], [3, 4]), "2 sources"),
                      (([[1]], [0]), "positive")):
        with pytest.raises(ValueError, match=says):
            interaction(*bad)
    assert consecutive_wait([0, 0]) == 0


def test_words_of_a_long_stream_are_given_to_their_references():
    assert resegmented("a b c d".split(), ["a b".split(), "c d".split()]) == [(0, 2), (2, 4)]
    assert resegmented("a b c d".split(), [["a"], "b c d".split()]) == [(0, 1), (1, 4)]
    assert resegmented("a x c d".split(), ["a b".split(), "c d".split()]) == [(0, 2), (2, 4)]
    assert resegmented("c d".split(), ["a b".split(), "c d".split()]) == [(0, 0), (0, 2)]
    assert resegmented("a b".split(), ["a b".split(), "c d".split()]) == [(0, 2), (2, 2)]
    assert resegmented([], [["a"], ["b"]]) == [(0, 0), (0, 0)] and resegmented(["q"], [["a"]]) == [(0, 1)]
    assert resegmented("x a".split(), [[], ["a"]]) == [(0, 0), (0, 2)] and resegmented(["x"], [[], []]) == [(0, 0), (0, 1)]
    with pytest.raises(ValueError, match="no references"):
        resegmented(["a"], [])


def test_stream_laal_is_laal_from_each_segments_start():
    one, two = Segment("a b".split(), 0, 4), Segment("c d e".split(), 4, 10)
    words, delays = "a b c d e".split(), [2, 4, 6, 8, 10]
    found = stream_laal(words, delays, [one, two])
    own = [length_adaptive_average_lagging([2, 4], 4, 2), length_adaptive_average_lagging([2, 4, 6], 6, 3)]
    assert found["segments"] == own and found["StreamLAAL"] == sum(own) / 2 and found["skipped"] == 0
    single = stream_laal(words, delays, [Segment(words, 0, 10)])  # one segment: LAAL itself
    assert single["StreamLAAL"] == length_adaptive_average_lagging(delays, 10, 5)
    assert stream_laal(["c"], [5], [one, Segment(["c"], 4, 10)])["segments"] == [None, 1]
    assert stream_laal(["c"], [2], [Segment(["c"], 4, 10)])["segments"] == [0]  # written before it began: waited for nothing
    for bad, says in ((([], [], [one]), "no output"), ((["a"], [1, 2], [one]), "1 words and 2"), ((["a", "b"], [2, 1], [one]), "fall")):
        with pytest.raises(ValueError, match=says):
            stream_laal(*bad)
