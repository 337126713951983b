"""Figures by hand, those of the specification and of the acceptance checks."""

from statistics import fmean

import pytest

from .. import analytic as a
from ..latency import Costs, reduction, simulate, waited
from ..reported import TABLE_1_17B


def test_the_event_model_s_table():
    rows = {(20, 0.4): (7.312, 7.465, 2.021, 2.021), (181, 0.4): (12.625, 12.778, 7.334, 7.334),
            (296, 0.4): (16.420, 16.573, 11.129, 11.129), (20, 0.088): (7.312, 7.465, 2.625, 2.461),
            (20, 0.01): (7.312, 7.465, 6.915, 6.751)}
    for (m, r), expected in rows.items():
        assert tuple(a.events(m, r).values()) == pytest.approx(expected, abs=1e-3)


def test_the_event_model_by_hand():
    """Two segments of 1 word a second, units of 2 and 3 tokens of a second each, reading takes a tenth."""
    c = Costs(r=1.0, tau=1.0, p=0.1, whole=0.5)
    found = simulate("streaming", (1, 1), (2, 3), 4, c)
    # read at 1.1; unit 1 until 3.1; the second segment was read at 2.1; unit 2 until 6.1; then 4 tokens, less the arrival at 2
    assert (found.delay, found.ready, found.first) == pytest.approx((8.1, 10.1, 2.1)) and (found.backlog, found.duty) == (1, 2.5)
    assert simulate("buffered", (1, 1), (2, 3), 4, c).delay == pytest.approx(8.2)  # reading has to wait for writing
    assert simulate("blocking", (1, 1), (2, 3), 4, c).delay == pytest.approx(9.2)
    assert simulate("batch", (1, 1), (2, 3), 4, c).delay == pytest.approx(9.5)
    assert reduction("streaming", (1, 1), (2, 3), 4, c) == pytest.approx(100 * 1.4 / 9.5)
    assert simulate("streaming", (1, 1, 1), (9, 1, 1), 1, c).backlog == 2
    assert waited([6, 4, 5]) == 6 and waited([6, 4, 5], "batch") == 15
    with pytest.raises(ValueError, match="2 segments and 1 units"):
        simulate("streaming", (1, 1), (1,), 1)
    with pytest.raises(ValueError, match="way 'parallel'"):
        simulate("parallel", (1,), (1,), 1)


def test_delays_are_tokens_times_a_constant():
    assert all(abs(tau - 0.033) < 1e-5 for tau in a.seconds_a_token())
    assert all(0.03248 < tau < 0.03252 for tau in a.seconds_a_token_context_first())
    assert [[round(x) for x in row] for row in a.charged()][0] == [171, 180, 172]


def test_headlines_of_the_abstract():
    rounded = [round(x, 1) for x in a.reductions(a.WAITED)]
    assert rounded == [78.1, 83.2, 91.2, 88.0, 98.4, 93.9]
    assert sum(rounded) / 6 == pytest.approx(88.8, abs=0.05) and a.over_math(a.reductions(a.WAITED)) == pytest.approx(80.6, abs=0.05)
    delays = a.reductions(a.DELAY)
    assert [round(x, 1) for x in delays] == [79.5, 71.8, 82.2, 60.7, 68.1, 55.8] and [x > 60 for x in delays] == [True] * 5 + [False]
    assert sum(delays) / 6 == pytest.approx(69.7, abs=0.05)
    means = [sum(a.reductions(a.DELAY, f"streaming D{d}")) / 6 for d in (1, 2)]
    assert means == pytest.approx([97.7, 80.7], abs=0.05)


def test_accuracies():
    assert sum(a.gaps("streaming D3", "batch")) / 6 == pytest.approx(0.069, abs=5e-4)
    assert [round(x, 3) for x in a.gaps("streaming D3", "SFT rope")] == [-0.034, -0.053, -0.05, -0.013, -0.005, -0.022]
    assert sum(a.gaps("streaming D3", "SFT rope")) / 6 == pytest.approx(-0.0295, abs=1e-4)
    assert [round(x, 3) for x in a.gaps("streaming D3", "D3 spe")] == [-0.018, -0.045, -0.048, -0.017, -0.018, -0.016]
    assert a.largest_position_gap(("D1", "D2", "D3")) == pytest.approx(0.015) and a.largest_position_gap(("SFT",)) == pytest.approx(0.008)
    gaps, delays = a.interleaved_gaps()
    assert [round(x, 3) for x in gaps] == [0.013, -0.003, 0.012, 0.007, 0.005, 0.007]
    assert [round(x) for x in delays] == [-37, -26, -51, -52, -55, -61]
    depth = a.by_depth()
    assert depth["D2"] - depth["D1"] > 3 * (depth["D3"] - depth["D2"]) > 0
    small = a.by_depth(TABLE_1_17B)
    assert [round(small[d], 4) for d in ("D1", "D2", "D3")] == [0.4405, 0.6022, 0.6763]
    assert a.largest_position_gap(("D1", "D2", "D3"), TABLE_1_17B) == pytest.approx(0.008)
    assert 100 * fmean(x[0] - y[0] for x, y in zip(TABLE_1_17B["D2 rope"], TABLE_1_17B["D1 rope"])) == pytest.approx(16.24, abs=5e-3)
    assert 100 * fmean(gaps) == pytest.approx(0.683, abs=5e-4) and 100 * fmean(a.gaps("streaming D3", "D3 rope")) == pytest.approx(
        -2.117, abs=5e-4)


def test_where_the_sixty_per_cent_come_from():
    shorter, overlap = a.same_trace()
    assert [round(x, 1) for x in shorter] == [65.9, 59.0, 61.9, 17.2, 24.5, -23.3]
    assert [round(x, 1) for x in overlap] == [40.0, 31.2, 53.2, 52.5, 57.7, 64.1]
    assert a.last_unit_delay() == pytest.approx(2.118, abs=1e-3)


def test_table_4_and_sizes():
    t = a.table_4()
    assert t["first_ratio"] == pytest.approx(4.494, abs=5e-4) and t["reads_mb"] == pytest.approx(29174.45)
    assert t["first_s"] == pytest.approx(6.204, abs=1e-3) and t["read_s"] == pytest.approx(27.944)
    assert a.parameters() == {"1.7B": 1_720_574_976, "4B": 4_022_468_096} and a.kv_bytes() == {"1.7B": 114_688, "4B": 147_456}
    assert (a.mask_pairs(), a.mask_pairs(shift=False)) == (626, 612) and a.diagonal_means() == pytest.approx([0.745, 0.7775])
    assert round(a.context_first_saving(), 1) == 21.9 and [round(x) for x in a.break_even()] == [707, 746, 874, 719, 8400, 1446]
