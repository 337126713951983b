"""Moments of the path laws against many draws, pairs and figures by hand (spec 7)."""

import random
from fractions import Fraction as F

import pytest

from .. import analytic
from ..method import Law, read_path

N = 20_000


def drawn(law, M, L, n=N):
    rng = random.Random(f"{law} {M} {L}")
    return [read_path(law, M, L, rng) for _ in range(n)]


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("law", [Law(), Law("polynomial", power=1), Law("polynomial", power=-2), Law("slack"), Law("dirichlet"),
                                 Law("dirichlet", alpha=3), Law("naive"), Law("sorted"), Law("multipath"), Law("waitk", k=3), Law("batch")],
                         ids=lambda law: f"{law.name} {law.power:g} {law.alpha:g}")
def test_moments_are_those_of_draws(law):
    M, L = 7, 4
    paths = drawn(law, M, L)
    for t, (m, v) in enumerate(zip(analytic.mean(law, M, L), analytic.variance(law, M, L))):
        values = [path[t] for path in paths]
        assert abs(mean(values) - m) <= 4 * (float(v) / N) ** 0.5 + 1e-12, t
        fourth = mean([(x - float(m)) ** 4 for x in values])
        assert abs(mean([(x - float(m)) ** 2 for x in values]) - v) <= 4 * (max(fourth - float(v) ** 2, 0) / N) ** 0.5 + 1e-9, t
    assert all(0 <= path[0] and path[-1] <= M and all(a <= b for a, b in zip(path, path[1:])) for path in paths)
    assert all(isinstance(x, int) for x in paths[0])


def test_uniform_multinomial_exactly():
    """E phi(t) = M (t + 1) / (L + 1), Var = M p (1 - p), Cov = M p_s (1 - p_t); the last step has read everything."""
    M, L = 9, 3
    assert analytic.mean(Law(), M, L) == [F(9, 2), F(27, 4), F(9)] and analytic.variance(Law(), M, L) == [F(9, 4), F(27, 16), F(0)]
    paths = drawn(Law(), M, L)
    assert all(path[-1] == M for path in paths) and analytic.covariance(Law(), M, L, 1, 2) == 9 * F(1, 2) * F(1, 4)
    a, b = ([path[t] for path in paths] for t in (0, 1))
    products = [(x - 4.5) * (y - 6.75) for x, y in zip(a, b)]
    spread = mean([p * p for p in products]) - mean(products) ** 2
    assert abs(mean(products) - 9 / 8) <= 4 * (spread / N) ** 0.5
    for (M, L), rco in {(16, 16): 0.558824, (24, 4): 0.7, (116, 3): 0.75, (205, 1): 1.0}.items():
        assert float(analytic.mean_rco(Law(), M, L)) == pytest.approx((L + 3) / (2 * (L + 1))) == pytest.approx(rco, abs=5e-7)
    assert read_path(Law(), 9, 1, random.Random(0)) == [9] and analytic.vacuous(Law(), 1) and not analytic.vacuous(Law("slack"), 1)
    assert (analytic.unseen(Law(), 1), analytic.unseen(Law("slack"), 1)) == (0, F(1, 3))


def test_powers_read_late_and_early():
    rco = [float(analytic.mean_rco(Law("polynomial", power=p), 16, 8)) for p in (-2, -1, 0, 1, 2)]
    assert rco == sorted(rco, reverse=True) and rco[2] == float(analytic.mean_rco(Law(), 16, 8))
    mixed = mean([mean(p) for p in drawn(Law("polynomial", random_power=True), 16, 8, 4000)]) / 16
    assert rco[4] < mixed < rco[2]


def test_spreads_of_controls():
    """Naive paths vary more wherever; sorted ones only where answers are short (C15)."""
    assert analytic.spread_ratio("naive", 116, 3) == pytest.approx(33.77 / 5.385, abs=0.002)
    assert analytic.spread_ratio("sorted", 116, 3) == pytest.approx(4.207, abs=0.001)
    assert analytic.spread_ratio("sorted", 16, 16) == pytest.approx(0.7018, abs=1e-4) and analytic.spread_ratio("naive", 16, 16) > 3.8
    assert [float(analytic.variance(Law(), m, n)[0]) ** 0.5 for m, n in ((16, 16), (24, 4), (116, 3), (205, 1))] == pytest.approx(
        [1.29, 2.40, 5.39, 0], abs=0.005)


def test_pairs_by_hand_and_those_of_the_table():
    assert analytic.pairs(2, [1, 3], header=1) == 5 * 6 // 2 + (3 + 5) + (2 + 3)
    assert analytic.probe_pairs(2, [1, 3], header=1) == ((2 + 1 + 1 + 2) + (2 + 2 + 1 + 2), 2)
    assert analytic.probe_pairs(2, [3, 3], header=1) == ((2 + 1 + 1 + 1) + (2 + 2 + 1 + 1), 2)
    of = analytic.PAIRS
    assert [(analytic.pairs(P, [M] * len(path)), analytic.pairs(P, path)) for M, path, P in of.values()] == [
        (35514, 22794), (12729, 10740), (1426, 1398)]
    assert [round(analytic.saving(name, P), 4) for name in of for P in (20, 40, 60, 80)] == [
        0.4132, 0.3838, 0.3582, 0.3357, 0.1775, 0.1563, 0.1395, 0.126, 0.0196, 0.0105, 0.0065, 0.0044]
    assert [round(analytic.saving(name, probes=1), 4) for name in of] == [-0.2371, -0.6090, -0.3366]
    assert [analytic.tokens(name, 1) for name in of] == [(367, 269), (251, 162), (70, 55)]
    assert [round(a / b, 2) for a, b in (analytic.tokens(name, 8) for name in of)] == [0.87, 1.0, 1.15]
    assert analytic.prompt_that_fits("choice qa", 34.82)[0] == 69 and analytic.prompt_that_fits("en-de", 2.27)[0] == 16


def test_what_the_printed_figures_imply():
    assert analytic.implied_lag() == pytest.approx(6.74, abs=0.001) and analytic.words_of(8.71) == pytest.approx(16.42)
    assert analytic.wait_9(16) == (6.75, 0.890625) and analytic.wait_9(16.42) == pytest.approx((6.8056, 0.8842), abs=1e-4)
    assert analytic.kept() == pytest.approx({"en-de, entropy": 86.39, "short qa, attention": 95.86, "choice qa, attention": 94.14,
                                             "spoken-squad, entropy": 98.57}, abs=0.005)
    assert abs(analytic.nearest_kept() - 97.16) > 1.3 and analytic.spoken_seconds() == pytest.approx(48.8)
    assert [float(x) for x in analytic.lag_and_context(analytic.wait_k(3, 16, 16), 16)] == [2.8125, 0.64453125]


def test_laws_without_bins_are_refused():
    for law in (Law("naive"), Law("polynomial", random_power=True)):
        with pytest.raises(ValueError, match="no bins"):
            analytic.shares(law, 3)
