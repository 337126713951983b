"""Exact figures, fixed beforehand (spec 7, papers-next 5.3), and modules on the meta device that have as many parameters."""

import pytest
import torch

from common.models import ModelSpec, load
from common.shapes import Shape

from .. import analytic, reported
from ..method import Fusion, FusionConfig, Sizes, code_compat, layer_set

TABLE = {"single": [2_097_152, 4_600_192, 6_295_552, 57_675_778], "triple": [4_194_304, 4_796_992, 18_886_656, 173_027_334],
         "former": [2_097_152, 6_764_992, 75_546_624, 692_109_336], "latter": [2_097_152, 6_764_992, 75_546_624, 692_109_336],
         "all": [4_194_304, 9_126_592, 151_093_248, 1_384_218_672]}


def test_parameters_are_those_of_the_table():
    assert analytic.table() == TABLE
    assert (analytic.MOBILELLAMA_1B4.parameters(), analytic.MOBILELLAMA_2B7.parameters()) == (1_364_297_728, 2_701_560_320)
    assert analytic.projector(1) == 6_295_552


@pytest.mark.parametrize("shape, parameters", [(analytic.MOBILELLAMA_1B4, 1_364_297_728), (analytic.MOBILELLAMA_2B7, 2_701_560_320)])
def test_the_decoders_have_them_on_the_meta_device(shape, parameters):
    """Built by transformers, head and embeddings apart, not by our formula."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(hidden_size=shape.d, intermediate_size=shape.f, num_hidden_layers=shape.L, vocab_size=32000,
                                             num_attention_heads=shape.H, tie_word_embeddings=False))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", list(TABLE))
def test_modules_have_them(name):
    sizes = Sizes(1024, 2048, 5632, 16, 24)
    for (position, pattern), expected in zip(analytic.KINDS, TABLE[name]):
        with torch.device("meta"):
            fusion = Fusion(FusionConfig(code_compat(name, 24, position), position, pattern), sizes)
        assert sum(p.numel() for p in fusion.parameters()) - 6_295_552 == expected


@pytest.mark.parametrize("config", [FusionConfig(layer_set("all", 6), op="concat"), FusionConfig(layer_set("all", 6), op="mean"),
                                    FusionConfig(layer_set("triple", 6, (1, 3, 5)), "internal", "modular", mlp=False),
                                    FusionConfig(layer_set("latter", 6), "external", "modular")])
def test_formulas_hold_for_other_sizes_too(config):
    shape = Shape(32, 48, 6, 4, 2, 8, 60)
    fusion = Fusion(config, Sizes(16, 32, 48, 4, 6))
    assert sum(p.numel() for p in fusion.parameters()) == analytic.projector(1, shape, 16) + analytic.added(config, shape, 16)


def test_multiply_adds():
    shape = analytic.MOBILELLAMA_1B4
    assert analytic.prefill(shape, 640) == 829_465_559_040
    assert [round(analytic.projected(k) / 1e9, 2) for k in (1, 2, 3)] == [3.62, 4.83, 6.04]
    assert analytic.added_work(analytic.triple("external", "direct")) == 576 * 2 * 1024 * 2048
    assert round(analytic.share_of_prefill(analytic.triple("external", "direct")), 2) == 0.29
    assert analytic.share_of_prefill(analytic.triple("internal", "modular", "all")) > 90


def test_multiply_adds_are_what_runs():
    """All four kinds at a small size, counted by the machine; half of a FLOP is a multiply-add."""
    from common.flops import counted

    from ..internal import Internal, Pictures

    shape, n, text, dv = Shape(32, 48, 6, 4, 4, 8, 60), 16, 5, 16
    model = load(ModelSpec("random", config=shape.config(), seed=0)).model.eval()
    states = {k: torch.randn(1, n, dv) for k in range(7)}
    where = torch.arange(n + text)[None] < n

    def run(config):
        fusion = Fusion(config, Sizes.of(dv, model.config)).eval()
        with torch.no_grad(), Internal(model, fusion) as internal:
            def prefill():
                tokens, extras = fusion(states)
                internal.pictures = Pictures.of(extras, where) if extras else None
                return model.model(inputs_embeds=torch.cat([tokens, tokens[:, :text]], 1), use_cache=False)

            return counted(prefill).total

    one = run(FusionConfig(layer_set("single", 6, (5, 5, 5))))
    for position, pattern in analytic.KINDS:
        if (position, pattern) == ("external", "modular"):
            continue  # a counter of matrix products does not see what grid_sample does
        config = FusionConfig(layer_set("triple", 6, (1, 3, 5)), position, pattern, points=(0, 2, 4) if position == "internal" else None)
        assert (run(config) - one) / 2 == pytest.approx(analytic.added_work(config, shape, dv, n, text), rel=1e-9)


def test_averages_and_the_one_that_does_not_add_up():
    found = analytic.averages()
    assert [round(mean, 3) for mean, _ in found.values()] == [48.506, 49.919, 48.743, 48.211, 49.78]
    assert [name for name, (mean, printed) in found.items() if abs(mean - printed) > 0.01] == ["external direct, all"]


def test_what_third_parties_scatter():
    assert {k: round(gqa, 1) for k, (_, gqa) in analytic.ranges().items()} == {
        "layer 22 alone": 0.0, "layer 20 alone": 7.0, "layer 25 alone": 2.0, "layer 26 alone": 5.7,
        "their own internal concat 3-20-25": 8.1}
    assert round(analytic.equal_batch_range(), 1) == 0.3
    assert {k: round(v, 2) for k, v in analytic.steadiness().items()} == {
        "external direct": 0.32, "internal direct": 0.23, "internal modular": 1.29}
    assert len(reported.THIRD_PARTY) == 14
