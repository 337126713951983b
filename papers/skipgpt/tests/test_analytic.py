"""Every figure that we state about the paper's arithmetic, and every reported score, recomputed.

Integers must be equal; a ratio must round to the digits as stated.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from ..analytic import (
    LLAMA2_7B,
    LLAMA2_13B,
    LLAMA31_8B,
    PAPER,
    SMOLLM2_135M,
    Shape,
    block_param_skip,
    decode_speedup,
    executed_flops,
    flops_per_token,
    idle_param_skip,
    kv_bytes_per_token,
    lora_params,
    module_sparsity,
    prefill_flops,
    prefill_speedup,
    router_flops,
    router_params,
    skip_for_idle,
    skip_for_total,
    static_depth_speedup,
    static_drop_fraction,
    total_param_skip,
    training_cost,
)
from ..figures import tables
from ..reported import REPORTED, TASKS, dense_row, ratio_of_means, retain


def prints(value, text):
    """value, rounded as text is, reads as text."""
    decimals = len(text.partition(".")[2])
    return f"{value:.{decimals}f}" == text


# -- parameters ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("m", "p_a", "p_m", "p_total", "attention_share", "block_share"), [
    (LLAMA2_7B, 67_108_864, 135_266_304, 6_738_415_616, "0.331606", "0.961058"),
    (LLAMA2_13B, 104_857_600, 212_336_640, 13_015_864_320, "0.330579", "0.974793"),
    (LLAMA31_8B, 41_943_040, 176_160_768, 8_030_261_248, "0.192308", "0.869128"),
    (SMOLLM2_135M, 884_736, 2_654_208, 134_515_008, "0.25", "0.789267"),
])
def test_pitfall_13_parameters(m, p_a, p_m, p_total, attention_share, block_share):
    assert (m.P_a, m.P_m, m.P_total) == (p_a, p_m, p_total)
    assert prints(m.P_a / (m.P_a + m.P_m), attention_share)
    assert prints(m.L * (m.P_a + m.P_m) / m.P_total, block_share)


@pytest.mark.parametrize(("m", "linear", "percent", "bottleneck", "bottleneck_pct", "qvg", "qv"), [
    (LLAMA2_7B, 524_416, "0.007782", 268_632_192, "3.9866", 16_121_856, 8_388_608),
    (LLAMA2_13B, 819_360, "0.006295", 524_595_360, "4.0304", 25_231_360, 13_107_200),
    (LLAMA31_8B, 524_416, "0.006530", 268_632_192, "3.3452", 16_252_928, 6_815_744),
])
def test_pitfall_13_router_and_lora_parameters(m, linear, percent, bottleneck, bottleneck_pct, qvg, qv):
    assert (router_params(m), router_params(m, "bottleneck")) == (linear, bottleneck)
    assert prints(100 * linear / m.P_total, percent)
    assert prints(100 * bottleneck / m.P_total, bottleneck_pct)
    assert (lora_params(m), lora_params(m, modules=("q", "v"))) == (qvg, qv)


# -- what "25 %" means -----------------------------------------------------------------------------
@pytest.mark.parametrize(("m", "at25", "at40", "s25", "s40"), [
    (LLAMA2_7B, ("24.0264", "20.0428"), ("38.4423", "32.0684"), "0.2601", "0.4162"),
    (LLAMA2_13B, ("24.3698", "20.3417"), ("38.9917", "32.5468"), "0.2565", "0.4103"),
    (LLAMA31_8B, ("21.7282", "20.8925"), ("34.7651", "33.4280"), "0.2876", "0.4602"),
])
def test_pitfall_13_what_25_percent_means(m, at25, at40, s25, s40):
    for T, (rho, idle) in ((0.25, at25), (0.40, at40)):
        assert prints(100 * total_param_skip(m, T, T), rho)
        assert prints(100 * idle_param_skip(m, T, T), idle)
    assert prints(skip_for_total(m, 0.25), s25) and prints(skip_for_total(m, 0.40), s40)
    s = skip_for_total(m, 0.25)
    assert total_param_skip(m, s, s) == pytest.approx(0.25, rel=1e-12)
    s = skip_for_idle(m, 0.25)
    assert idle_param_skip(m, s, s) == pytest.approx(0.25, rel=1e-12)


def test_pitfall_13_the_papers_realised_pair_shows_that_its_target_is_module_sparsity():
    pair = (0.3319, 0.2633)
    assert prints(100 * module_sparsity(*pair), "29.76")
    for m, block, rho, idle in ((LLAMA2_7B, "28.60", "27.49", "22.20"),
                                (LLAMA31_8B, "27.65", "24.03", "22.92")):
        assert prints(100 * block_param_skip(m, *pair), block)
        assert prints(100 * total_param_skip(m, *pair), rho)
        assert prints(100 * idle_param_skip(m, *pair), idle)


@pytest.mark.parametrize(("m", "layers", "percent"), [
    (LLAMA2_7B, 8, "24.0274"), (LLAMA31_8B, 8, "21.7290"), (LLAMA2_13B, 10, "24.3706"),
    (LLAMA31_8B, 9, "24.4451"), (LLAMA31_8B, 15, "40.7419"),
])
def test_pitfall_13_static_depth(m, layers, percent):
    assert prints(100 * static_drop_fraction(m, layers), percent)


# -- prefill ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("m", "tflop_1024", "tflop_4096"), [
    (LLAMA2_7B, "13.806441", "58.524298"), (LLAMA2_13B, "26.750013", "112.154011"),
    (LLAMA31_8B, "15.644687", "65.877282"),
])
def test_pitfall_13_dense_prefill(m, tflop_1024, tflop_4096):
    assert prints(prefill_flops(m, 1024) / 1e12, tflop_1024)
    assert prints(prefill_flops(m, 4096) / 1e12, tflop_4096)


@pytest.mark.parametrize(("m", "linear", "bottleneck", "kv_skipped"), [
    (LLAMA2_7B, ("1.2582", "1.4891", "1.6965"), ("1.1983", "1.4058", "1.5893"), "1.9616"),
    (LLAMA2_13B, ("1.2605", "1.4941", "1.7047"), ("1.1999", "1.4096", "1.5956"), "1.9750"),
    (LLAMA31_8B, ("1.2886", "1.5585", "1.8115"), ("1.2328", "1.4777", "1.7033"), "1.8711"),
])
def test_pitfall_13_prefill_bounds_at_1024(m, linear, bottleneck, kv_skipped):
    for s, a, b in zip((0.25, 0.40, 0.50), linear, bottleneck, strict=True):
        assert prints(prefill_speedup(m, 1024, s, s), a)
        assert prints(prefill_speedup(m, 1024, s, s, router="bottleneck"), b)
    assert prints(prefill_speedup(m, 1024, 0.5, 0.5, kv_dense=False), kv_skipped)


@pytest.mark.parametrize(("m", "bounds"), [
    (LLAMA2_7B, ("1.2623", "1.4981", "1.7112")), (LLAMA31_8B, ("1.2908", "1.5636", "1.8201")),
])
def test_pitfall_13_prefill_bounds_at_4096(m, bounds):
    for s, text in zip((0.25, 0.40, 0.50), bounds, strict=True):
        assert prints(prefill_speedup(m, 4096, s, s), text)


def test_pitfall_13_static_depth_bound_and_the_share_that_others_measured():
    assert prints(static_depth_speedup(LLAMA31_8B, 1024, 16), "1.8713")
    assert prints(100 * 1.44 / prefill_speedup(LLAMA31_8B, 1024, 0.5, 0.5), "79")  # C15b


# -- decoding and training -------------------------------------------------------------------------
@pytest.mark.parametrize(("m", "s", "by_rows"), [
    (LLAMA31_8B, 0.5, {1: "1.8087", 2: "1.2879", 4: "1.0592", 8: "1.0035", 32: "1.0000"}),
    (LLAMA2_7B, 0.5, {1: "1.6915", 2: "1.2569", 4: "1.0539", 8: "1.0032"}),
    (LLAMA2_7B, 0.25, {1: "1.2569"}), (LLAMA31_8B, 0.25, {1: "1.2879"}),
])
def test_pitfall_13_decode_bounds(m, s, by_rows):
    for rows, text in by_rows.items():
        assert prints(decode_speedup(m, rows, s, s), text)


def test_pitfall_13_kv_cache():
    assert [kv_bytes_per_token(m) for m in PAPER.values()] == [524_288, 819_200, 131_072]


def test_pitfall_13_stated_training_cost_fits_3200_steps_and_not_10000():
    stated, small = training_cost(LLAMA2_7B, 10_000, 16), training_cost(LLAMA2_7B, 3200, 8)
    assert prints(stated.tokens / 160_000, "1176.5")
    assert prints(stated.tokens / 1e6, "188.2")
    assert prints((LLAMA2_7B.P_total - 32_000 * 4096) / 1e9, "6.607")
    assert prints(stated.flops / 1e18, "4.97")
    assert prints(100 * stated.share_of_peak, "111")
    assert prints(100 * small.share_of_peak, "17.7")


# -- reported scores -------------------------------------------------------------------------------
@pytest.mark.parametrize("row", [r for r in REPORTED if r.scores], ids=lambda r: str(r)[:40])
def test_pitfall_13_reported_rows_recompute(row):
    assert len(row.scores) == len(TASKS)
    assert sum(row.scores) / len(TASKS) == pytest.approx(row.average, abs=0.005 + 1e-9)
    assert retain(row.scores, dense_row(row.model).scores) == pytest.approx(row.retain, abs=0.01)


@pytest.mark.parametrize("row", [r for r in REPORTED if r.average], ids=lambda r: str(r)[:40])
def test_pitfall_13_reported_averages_are_near_their_retain(row):
    """Where no task scores are known, the ratio of means must be close: a guard against typos."""
    assert 100 * row.average / dense_row(row.model).average == pytest.approx(row.retain, abs=1.0)


def test_pitfall_13_the_two_definitions_of_retain_differ():
    row = next(r for r in REPORTED if (r.model, r.method) == ("7B", "SkipGPT-RT"))
    dense = dense_row("7B").scores
    assert prints(retain(row.scores, dense), "90.33")
    assert prints(ratio_of_means(row.scores, dense), "90.67")


# -- the formulas themselves -----------------------------------------------------------------------
def test_limits_of_the_formulas():
    m = LLAMA31_8B
    assert prefill_speedup(m, 64, 0, 0, router=None) == 1
    assert decode_speedup(m, 3, 0, 0) == 1
    assert (router_params(m, None), router_flops(m, None)) == (0, 0)
    everything = flops_per_token(m, 100, 1, 1, kv_dense=False)
    assert everything == 2 * m.d * m.V  # only the LM head remains
    assert flops_per_token(m, 100, 1, 1) - everything == 2 * m.L * m.P_kv
    with pytest.raises(ValueError, match="'linear', 'bottleneck' or None"):
        router_params(m, "conv")


def test_executed_flops_of_a_full_pass_is_the_dense_formula():
    m, B, S = SMOLLM2_135M, 2, 5
    full = [B * S] * m.L
    dense = executed_flops(m, B, S, S, full, full, full, B * S, router=None)
    assert dense == B * S * flops_per_token(m, S)
    routed = executed_flops(m, B, S, S, full, full, full, B * S)
    assert routed - dense == B * S * m.L * router_flops(m, "linear")
    with pytest.raises(ValueError, match="attn_rows"):
        executed_flops(m, B, S, S, full[1:], full, full, B * S)
    with pytest.raises(ValueError, match="mlp_rows"):
        executed_flops(m, B, S, S, full, [B * S + 1] * m.L, full, B * S)


def test_shape_from_config():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True)
    assert Shape.of(config) == SMOLLM2_135M
    with pytest.raises(ValueError, match="intermediate_size"):
        Shape.of(transformers.GPT2Config())


def test_parameter_count_is_the_models():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for tied in (False, True):
        config = transformers.LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=61, tie_word_embeddings=tied)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        assert Shape.of(config).P_total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("router", ("linear", "bottleneck", None))
@pytest.mark.parametrize("mode", ("mask", "skip"))
def test_executed_flops_equals_the_counter(mode, router):
    """Random gates, ragged rows, a layer where nobody executes, a prefill and a decode step."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from common.flops import counted

    from ..method import SkipGPTConfig, apply_skipgpt

    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, vocab_size=61)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    hidden = 8 if router == "bottleneck" else None
    state = apply_skipgpt(model, SkipGPTConfig(router_hidden=hidden)).set_mode(mode)
    m, B, cache = Shape.of(config), 3, None
    for S, past in ((6, 0), (1, 6)):
        gates = {(i, name): (torch.rand(B, S) < 0.6).float() * (i != 1)
                 for i in range(m.L) for name in ("attn", "mlp")}

        def forced(i, name, x, valid, gates=gates):
            if router:  # the routers run, and their answer is overruled
                (state.layers[i].router_attn if name == "attn" else state.layers[i].router_mlp)(x)
            return gates[i, name]

        state.policy = forced
        out = {}

        def forward(S=S, past=past, cache=cache, out=out):
            with torch.no_grad():
                out["cache"] = model(torch.ones(B, S, dtype=torch.long), past_key_values=cache,
                                     use_cache=True).past_key_values

        measured, cache = counted(forward).total, out["cache"]
        full = [B * S] * m.L
        attn = [int(gates[i, "attn"].sum()) for i in range(m.L)]
        mlp = [int(gates[i, "mlp"].sum()) for i in range(m.L)]
        padded = [B * int(gates[i, "attn"].sum(1).max()) for i in range(m.L)]
        rows = (attn, mlp, padded) if mode == "skip" else (full, full, full)
        assert measured == executed_flops(m, B, S, past + S, *rows, B * S, router)


# -- what the user types ---------------------------------------------------------------------------
def test_tables_are_rectangular():
    for title, header, rows in tables():
        assert rows and all(len(row) == len(header) for row in rows), title


def test_command_prints_the_tables_without_torch():
    module = f"{__package__.rpartition('.')[0]}.figures"
    code = ("import runpy, sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
            f"runpy.run_module({module!r}, run_name='__main__')")
    root = Path(__file__).resolve().parents[__package__.count(".") + 1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    assert "524,416" in done.stdout and "1.8115" in done.stdout and "90.33" in done.stdout
