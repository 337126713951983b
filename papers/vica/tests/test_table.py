"""The paper's main table, cell by cell, and what the counting convention does and does not explain."""

import itertools
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from common.claims.records import load_claims

from .. import analytic, reported
from ..analytic import LLAVA_3B, LLAVA_7B, LLAVA_13B, SMOLLM2_135M, Shape, prefill_flops, visual_flops, visual_ratio

CLAIMS = load_claims(Path(analytic.__file__).with_name("claims.yaml"))


def test_shares_of_a_layer():
    one = visual_flops(LLAVA_7B)
    shares = {"proj_kv": 16.16, "proj_qo": 16.16, "ffn": 65.16, "vv": 2.27, "tv": 0.24}
    assert {name: round(100 * getattr(one, name) / one.total, 2) for name in shares} == shares


def test_which_text_lengths_reproduce_the_table():
    """Spec 7.1: 36 .. 66 give every cell that the table's tokens should give, no other length does."""
    def fits(text: int) -> bool:
        whole = visual_flops(LLAVA_7B, 576, text).total
        vica = visual_flops(LLAVA_7B, 576, text, 8).total
        rows = [r for r in reported.TABLE if r.name not in ("YOPO", "ViCA", "ViCA+PDrop")]
        found = [visual_flops(LLAVA_7B, r.tokens, text).total for r in rows]
        return (round(whole / 1e12, 2), round(vica / 1e12, 2), round(100 * vica / whole, 1)) == (7.65, 0.31, 4.1) and all(
            (round(f / 1e12, 2), round(100 * f / whole, 1)) == (r.tflops, r.share) for f, r in zip(found, rows))

    assert [text for text in range(100) if fits(text)] == list(range(36, 67))


def test_own_rows_of_the_table():
    rows, drop = {r.name: r for r in reported.TABLE}, visual_flops(LLAVA_7B, cross_layers=1).total * 4
    vica = visual_flops(LLAVA_7B, cross_layers=8).total
    assert (round(vica / 1e12, 2), round(100 * visual_ratio(LLAVA_7B, 8), 1)) == (rows["ViCA"].tflops, rows["ViCA"].share)
    assert round(drop / 1e12, 2) == rows["ViCA+PDrop"].tflops and rows["ViCA"].tokens == 24 and rows["ViCA+PDrop"].tokens == 12
    # A mean keep of exactly a half prints 2.1 % at 62 text tokens, not the table's 2.0 %; 0.494 .. 0.499 and T <= 59 print 2.0.
    assert rows["ViCA+PDrop"].share == 2.0 and round(100 * visual_ratio(LLAVA_7B, 4), 1) == 2.1
    assert {round(100 * visual_ratio(LLAVA_7B, 8 * keep), 1) for keep in (0.494, 0.499)} == {2.0}
    assert [round(100 * visual_ratio(LLAVA_7B, 4, text=t), 1) for t in (59, 60)] == [2.0, 2.1]


def test_overheads_over_text_alone():
    over = [prefill_flops(LLAVA_7B, 576, t, 8) / prefill_flops(LLAVA_7B, 0, t) for t in (62, 30)]
    assert [round(o, 2) for o in over] == [1.39, 1.80]


def test_head_on_every_position():
    dense = prefill_flops(LLAVA_7B, 576, 62) + analytic.head_flops(LLAVA_7B, 638)
    vica = prefill_flops(LLAVA_7B, 576, 62, 8) + analytic.head_flops(LLAVA_7B, 62)
    assert round(dense / vica, 2) == 7.61 and round(8 * 638 * LLAVA_7B.V * 4 / 1e6) == 653


def test_visual_edges_of_text():
    """Pairs (text behind the image, visual key), by what one visual token more adds."""
    def edges(cross_layers: int | None) -> int:
        return analytic.attention_entries(LLAVA_7B, cross_layers) - analytic.attention_entries(LLAVA_7B, cross_layers, visual=0)

    assert edges(8) == 124_416
    rest = 32 * (576 * 577 // 2 + 35 * 576)  # what visual queries read, dense only
    assert edges(None) - rest == 497_664
    assert round(100 * (1 - 186_912 / 6_522_912), 1) == 97.1


def test_sizes_in_bytes():
    assert 576 * LLAVA_7B.d * 2 / 2**20 == 4.5
    weights = 2 * LLAVA_7B.parameters()
    assert (round(weights / 1e9, 2), round((weights - 2 * LLAVA_7B.V * LLAVA_7B.d) / 1e9, 1)) == (13.48, 13.2)


@pytest.mark.parametrize("heads, kv_heads, head", [(4, 2, 8), (4, 1, 8), (4, 4, 8), (4, 2, 16)])
def test_prefill_is_what_torch_counts(heads, kv_heads, head):
    """Dense and text only, eager, without the head: the difference is 0. A head size that is not d / heads as well."""
    config = LlamaConfig(hidden_size=32, intermediate_size=72, num_hidden_layers=3, num_attention_heads=heads, head_dim=head,
                         num_key_value_heads=kv_heads, vocab_size=50, attn_implementation="eager")
    model = LlamaForCausalLM(config).model.eval()
    for visual, text in ((24, 12), (0, 12)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(inputs_embeds=torch.randn(1, visual + text, 32), use_cache=False)
        rotary = 2 * (head // 2) * (visual + text)  # inverse frequencies times positions, a product that no formula of the spec counts
        assert counter.get_total_flops() - prefill_flops(Shape.of(config), visual, text) in (0, rotary)


def test_which_averages_follow_at_printed_precision():
    """Spec: 27 rows to 0.1. At the printed digit FastV also misses (58.547 against 58.6), within what its scores' rounding explains."""
    off = {r.name: abs(reported.relative_average(r.scores) - r.average) for r in reported.TABLE
           if round(reported.relative_average(r.scores), 1) != r.average}
    assert set(off) == {"FastV", "CDPruner", "DOP_CD"} and off["FastV"] < 0.06 and off["CDPruner"] == pytest.approx(0.193, abs=6e-4)


def test_the_table_has_26_methods():
    names = [r.name for r in reported.TABLE if not r.name.startswith("ViCA")]
    assert (len(names), len(set(names))) == (27, 26) and sum(not r.trained for r in reported.TABLE) == 17
    better = {r.name: round(r.tflops / 0.31, 1) for r in reported.better_than_vica()}
    assert better == {"PDrop": 11.4, "Dynamic-LLaVA": 4.8}


def test_figures_of_the_claims_are_those_of_the_table():
    rows = {r.name: r for r in reported.TABLE}
    expected = {"C1a": rows["ViCA"].average, "C2": rows["ViCA"].tflops, "C2a": rows["ViCA"].share, "C2b": rows["ViCA"].tokens,
                "C6": rows["ViCA+PDrop"].average, "C6c": rows["ViCA+PDrop"].tflops, "C6d": rows["ViCA+PDrop"].tokens,
                "C7c": len(reported.TABLE), "C7d": rows["ViCA"].average}
    assert {name: CLAIMS.find(name)["paper"]["value"] for name in expected} == expected


def test_small_claims_have_three_seeds_and_an_effect_rule():
    small = [c for c in CLAIMS if c["rung"] == "cpu-small"]
    assert {tuple(c["protocol"]["seeds"]) for c in small if c["protocol"]["evidence"] == "trainings"} == {(0, 1, 2)}
    assert all(c["protocol"]["rule"].keys() & {"above", "below", "within"} for c in small)
    assert {c["protocol"]["evidence"] for c in small if c["topic"] == "efficiency-measured"} == {"processes"}


def test_causal_edges_to_the_printed_digit():
    assert round(analytic.causal_flops(LLAVA_7B, 576, 35, 27) / 1e12, 4) == 7.5662


def test_monotone_in_layers():
    for shape, (few, many) in itertools.product((LLAVA_3B, LLAVA_7B, LLAVA_13B, SMOLLM2_135M), ((0, 1), (4, 8))):
        assert prefill_flops(shape, 576, 62, few) < prefill_flops(shape, 576, 62, many) < prefill_flops(shape, 576, 62)
        assert prefill_flops(shape, 576, 62, 0) == prefill_flops(shape, 0, 62)
