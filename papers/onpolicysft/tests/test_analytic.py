"""The paper's figures that arithmetic can reach, and those that it cannot."""

import pytest

from tests.numerics import close

from .. import analytic, reported
from ..analytic import R1_1P5B, R1_7B, advantages, eff
from .exact import f64


# -- efficiency --------------------------------------------------------------------------------------------
def test_accuracy_per_token_and_tokens_saved():
    assert eff(*reversed(reported.OURS)) == pytest.approx(2.74016, abs=5e-6)
    assert round(eff(59.9, 2186), 2) == reported.EFF["1.5B"]
    assert eff(59.0, 10178) == pytest.approx(0.57968, abs=5e-6)
    l1 = reported.FIGURE_1["L1"]
    assert eff(l1.accuracy, l1.tokens) == pytest.approx(2.546, abs=5e-4)
    assert round(eff(l1.accuracy, l1.tokens), 2) == reported.EFF["1.5B, best RL baseline"]
    saved = analytic.reduction(reported.BASE.tokens, reported.OURS.tokens)
    assert saved == pytest.approx(0.785223, abs=5e-7)
    assert abs(100 * saved - reported.SHORTER["1.5B, abstract"]) > 1  # "80 %" is rounded up


def test_no_baseline_of_the_figure_is_on_the_frontier():
    """Even if all points were read wrongly by as much as they may be; LASER's accuracy alone is within that."""
    figure = reported.FIGURE_1
    assert len(figure) == 10
    assert analytic.dominated(figure, "On-Policy SFT") == []
    for name in figure.keys() - {"On-Policy SFT"}:
        assert "On-Policy SFT" in analytic.dominated(figure, name), name
        assert "On-Policy SFT" in analytic.dominated(figure, name, reported.READING_ERROR), name
    best = {name: eff(p.accuracy, p.tokens) for name, p in figure.items()}
    assert sorted(best, key=best.get)[-2:] == ["L1", "On-Policy SFT"]
    assert figure["On-Policy SFT"].accuracy - figure["LASER"].accuracy < reported.READING_ERROR.accuracy


def test_the_figures_agree_with_the_table():
    for name, point in (("base", reported.BASE), ("On-Policy SFT", reported.OURS)):
        assert abs(reported.FIGURE_1[name].tokens - point.tokens) <= reported.READING_ERROR.tokens
        assert reported.FIGURE_1[name].accuracy == point.accuracy
    for curve in reported.FIGURE_2.values():
        assert list(curve.values()) == sorted(curve.values()) and list(curve) == sorted(curve)
    for key, base in reported.FIGURE_2_BASE_AT_9000.items():
        assert reported.FIGURE_2[key][9000] > base


# -- normalised rewards ------------------------------------------------------------------------------------
def test_two_compositions_one_advantage():
    for rewards in ([0.0, 1.0], [0.0, 2.0]):
        close(f64(advantages(rewards)), f64([-(0.5**0.5), 0.5**0.5]), rel=1e-12)
        close(f64(advantages(rewards, ddof=0)), f64([-1, 1]), rel=1e-12)
    assert round(advantages([0.0, 1.0])[1], 4) == reported.COLLAPSE
    one, two = (advantages(r, eps=1e-4)[1] for r in ([0.0, 1.0], [0.0, 2.0]))  # trl's
    assert (one, two) == pytest.approx((0.7070068, 0.7070568), abs=5e-8) and abs(one - two) == pytest.approx(5e-5, abs=1e-6)


def test_one_token_is_worth_as_much_as_right_and_wrong():
    rewards = [analytic.shortened_reward(n) for n in (3000, 2999)]
    assert rewards[1] - rewards[0] == pytest.approx(1.43e-4, abs=5e-7)
    assert advantages(rewards) == pytest.approx([-0.70711, 0.70711], abs=5e-6)


# -- sizes, memory, compute --------------------------------------------------------------------------------
@pytest.mark.parametrize("shape, count", [(R1_1P5B, 1_777_088_000), (R1_7B, 7_615_616_512)])
def test_parameters_by_formula_and_by_the_model(shape, count):
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    assert shape.parameters() == count
    config = Qwen2Config(hidden_size=shape.d, num_hidden_layers=shape.L, num_attention_heads=shape.H,
                         num_key_value_heads=shape.KV, intermediate_size=shape.f, vocab_size=shape.V,
                         tie_word_embeddings=False)
    with torch.device("meta"):
        assert sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters()) == count


def test_memory_saved_is_not_the_half_that_is_claimed():
    states = [analytic.state_bytes(s.parameters()) / 1e9 for s in (R1_1P5B, R1_7B)]
    assert states == pytest.approx([28.4, 121.8], abs=0.06)
    saved = {name: 100 * analytic.saved_by_no_reference(b) for name, b in analytic.REFERENCE_BYTES.items()}
    assert saved == pytest.approx({"bfloat16": 11.1, "float32": 20.0}, abs=0.02)
    assert max(saved.values()) < reported.MEMORY_SAVED / 2
    n = R1_7B.parameters()
    assert 1 - analytic.state_bytes(n) / analytic.state_bytes(n, 4) == pytest.approx(0.2)
    logits = [analytic.logits_bytes(t, R1_1P5B.V) / 1e9 for t in (3500, 8192)]
    assert logits == pytest.approx([8.51, 19.91], abs=0.005)


def test_update_compute():
    assert analytic.grpo_flops() == 10 and analytic.opsft_flops(1) == 6
    table = analytic.compute_table()
    assert [row["kept"] for row in table] == [0.3, 0.5, 0.7, 1.0]
    assert [row["grpo"] for row in table] == pytest.approx([0.18, 0.30, 0.42, 0.60])
    assert [row["no_reference"] for row in table] == pytest.approx([0.225, 0.375, 0.525, 0.75])
    assert [row["no_extra_pass"] for row in table] == pytest.approx([0.3, 0.5, 0.7, 1.0])
    assert analytic.kept_for(0.5) == pytest.approx(5 / 6) and analytic.compute_ratio(5 / 6) == pytest.approx(0.5)
