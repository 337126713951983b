"""Every paper's look at a decoder, on a trained one, in each precision that users load: SmolLM2-135M, which a package carries.

Random models of width 32 (docs/families.md) do not have what training makes: a first token that draws nearly all attention, states a
thousand times as large as others, and rounding that thirty layers let grow. Four papers refused this model in bfloat16 or float16.
"""

from dataclasses import replace

import pytest

import papers.gpe.method as gpe
import papers.proactivellm.method as proactivellm
import papers.streamingthinker.method as streamingthinker
import papers.vica.method as vica
from common.models import SMOLLM2, load
from papers.layerfusion.checks import check as fuses
from papers.skipgpt.method import SkipGPTConfig, apply_skipgpt, remove_skipgpt
from papers.streamingthinker.probe import check_live
from papers.visipruner.session import check_model as prunes


@pytest.fixture(scope="module", params=["bfloat16", "float16", "float32"])
def decoder(request):
    return load(replace(SMOLLM2, dtype=request.param, attn_implementation="sdpa")).model


@pytest.mark.parametrize("fits", {
    "GPE": lambda model: gpe.check_model(model, gpe.arm("group")),
    "GPE, positions re-encoded": lambda model: gpe.check_model(model, gpe.arm("position_reencoding")),
    "StreamingThinker": lambda model: (streamingthinker.check_model(model, 32), check_live(model, streamingthinker)),
    "ProactiveLLM": proactivellm.check_model,
    "ViCA": vica.check_model,
    "VisiPruner": prunes,
    "layer fusion": lambda model: (fuses(model, [5, 10], True), fuses(model, [5, 10], False)),
}.items(), ids=lambda pair: pair[0])
def test_a_trained_decoder_fits(decoder, fits):
    fits[1](decoder)


def test_skipgpt_finds_attention_and_mlp_of_every_layer(decoder):
    state = apply_skipgpt(decoder, SkipGPTConfig())
    try:
        assert not state.no_skip and [(layer._anatomy.attn.modules, layer._anatomy.mlp.modules, layer._anatomy.series)
                                      for layer in state.layers] == [(("self_attn",), ("mlp",), True)] * 30
    finally:
        remove_skipgpt(decoder)
