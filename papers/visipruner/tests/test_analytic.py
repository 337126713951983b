"""The exact figures of the paper's arithmetic (acceptance check 6), and its tables added up again."""

import pytest

from .. import analytic, reported
from ..analytic import LLAVA_7B, LLAVA_13B, MOBILEVLM_3B


def test_multiply_adds_of_dense_models_to_the_last_digit():
    assert analytic.dense(LLAVA_7B) == 3_817_152_184_320
    assert analytic.dense(LLAVA_13B) == 7_444_050_739_200
    assert analytic.dense(MOBILEVLM_3B, 144) == 368_805_150_720
    assert analytic.projections(LLAVA_7B, 576) == 116_568_096_768 and analytic.layer(LLAVA_7B, 10) == 2_024_570_880
    assert analytic.projections(LLAVA_13B, 576) == 182_703_882_240 and analytic.projections(MOBILEVLM_3B, 144) == 11_418_992_640


def test_both_abstracts_are_one_formula_at_two_filter_layers():
    assert analytic.saved(LLAVA_7B, 12, 10) == pytest.approx(62.82, abs=0.005)
    assert analytic.saved(LLAVA_7B, 15, 6) == pytest.approx(53.87, abs=0.005)
    assert analytic.saved(LLAVA_7B, 15, 9) == pytest.approx(53.72, abs=0.005)
    assert analytic.filter_layer_for(LLAVA_7B, 1.76e12) == pytest.approx(14.94, abs=0.005)
    assert analytic.pruned(LLAVA_13B, 18, 6) / 1e12 == pytest.approx(3.308, abs=0.0005)
    assert {analytic.visual_tokens_for(11.00e12, 32, 4096, 14336), analytic.visual_tokens_for(9.62e12, 28, 3584, 18944)} <= {
        *range(1345, 1356), *range(1295, 1306)}
    assert analytic.saved(LLAVA_7B, 15, 9, among=True) == pytest.approx(52.9, abs=0.35)


def test_of_the_whole_prefill_less_is_saved():
    assert analytic.whole(LLAVA_7B, 650) * 32 / 1e12 == pytest.approx(4.320, abs=0.0005)
    found = analytic.whole_saved(LLAVA_7B, 15, 9)
    assert found == pytest.approx(48.1, abs=0.15) and found < analytic.saved(LLAVA_7B, 15, 9)
    assert analytic.whole_saved(LLAVA_7B, 15, 9, attention=True) < found
    assert analytic.whole_saved(LLAVA_7B, 32, 0, attention=True) == 0.0


def test_attention_pairs():
    assert analytic.pairs(576) == 374_400
    by_name = {case.name: case for case in analytic.pair_cases()}
    for name, value in {"192 retained in every layer": 86.36, "64 retained in every layer": 97.64, "FastV, K = 3, r = .75": 83.03,
                        "FastV, K = 2, r = .75": 85.89, "and text to picture in the merging layer": 99.58,
                        "and text to picture in layers 7 to 15": 96.73,
                        "and text to picture in layers 7 to 15 and the merging layer": 96.38, "the released code": 57.6}.items():
        assert by_name[name].saved == pytest.approx(value, abs=0.05 if value == 57.6 else 0.005), name
    assert 99.92 <= by_name["9 layers with 10 tokens, nothing else"].saved <= 99.94
    assert abs(by_name["FastV, K = 3, r = .75"].saved - 87.3) > 1, "the paper's figure does not follow"
    assert analytic.pairs_saved([4, 4, 0, 0], n=4, text=3) == 50.0


def test_bytes_of_the_cache():
    of = analytic.kv_policies()
    assert [round(of[name] / 1e6, 1) for name in ("dense", "paper", "code")] == [340.8, 40.3, 181.8]


def test_token_layers_of_the_timing():
    assert analytic.token_layers(30, 576, 62, 14, 10, 21) == (19_140, 30 * 62 + 15 * 576 + 7 * 10)
    assert analytic.token_layers(3, 4, 2, 2, 1, 2) == (18, 18)


# -- the paper's tables ------------------------------------------------------------------------------------
def test_averages_that_follow_from_their_cells_and_those_that_do_not():
    assert not reported.wrong(reported.RIVALS)
    wrong = reported.wrong()
    assert {name.partition(",")[0] for name in wrong} == {"InternVL2.5-8B", "Qwen2-VL-7B", "MobileVLM-V2-3B"}
    assert not any(name.startswith("LLaVA") for name in wrong)
    assert wrong["Qwen2-VL-7B, pruned"] == (63.5, pytest.approx(77.9, abs=0.06))
    assert wrong["InternVL2.5-8B, pruned"][1] == pytest.approx(77.7, abs=0.06)


def test_another_method_is_better_in_the_papers_own_table():
    assert reported.better_than_visipruner() == ["PyramidDrop, 192", "SparseVLM, 192"]
    assert reported.kept_average("LLaVA-1.5-7B") == pytest.approx(63.754 - 61.902, abs=0.01)
